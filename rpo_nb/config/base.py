"""What every section of a profile is: typed, frozen, without unknown keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from rpo_nb.config.keys import content_key

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy and torch take
Positive = Annotated[float, Field(gt=0)]


class Config(BaseModel):
    """Frozen; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def key(self) -> str:
        """A 16-digit hash of the content: what a cached artefact is named by."""
        return content_key(self.model_dump(mode="json"))
