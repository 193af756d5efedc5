"""What the tests of provenance are made of."""

from __future__ import annotations

from pathlib import Path

from rpo_nb.config import loading, schema
from rpo_nb.experiment import grid

ROOT = Path(__file__).parents[2]


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if value is None:
        return 7
    return (*value, *value[:1], 3) if isinstance(value, tuple) else f"{value}x"


def run_key(profile: schema.Profile, method: str = "rpo") -> str:
    return grid.recipe(
        profile,
        profile.presets["paper"],
        method,
        "small",
        1.0 if method in ("rpo", "dro") else None,
        0,
    ).key


PROFILE = loading.load_profile("smoke")


def model_folder(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder
