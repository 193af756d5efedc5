"""The papers' own numbers."""

from __future__ import annotations

from functools import cache

import numpy as np
import yaml

from rpo_nb.config.metrics import metric as row_of
from rpo_nb.config.settings import PROFILE_DIR

PAPER_SIZES = {"small": "Small", "large": "Large", "xl": "XL"}
# the paper's SFT is one of our two
PAPER_BASELINES = {"reference": "SFT", "sft": "SFT", "kto": "KTO", "dro": "DRO"}


# ---- the paper's numbers -------------------------------------------------------------------------


@cache
def published_numbers() -> dict:
    """``published.yaml`` with every number a string as printed (0.2480, 84.20)."""
    return yaml.load(
        (PROFILE_DIR / "published.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader
    )


def published_metric(metric: str, method: str, size: str) -> str | float:
    """Table II's number as printed, NaN where the paper has none."""
    table = published_numbers()["paper_a"]["table2"]
    return (
        table.get(row_of(metric).published, {})
        .get(method.removesuffix("_authors").upper(), {})
        .get(PAPER_SIZES.get(size), np.nan)
    )


def published_win_rate(
    judge: str | None, size: str, *, baseline: str | None = None, tau: float | None = None
) -> tuple:
    """(mean, std) as printed: of Table III when `baseline` is given, of Table IV (over SFT) when
    `tau` is; NaNs where absent.

    judge: the paper's name for it (Mistral, LLaMA).
    """
    cells = (
        published_numbers()["paper_a"]["table3" if tau is None else "table4"]
        .get(judge, {})
        .get(PAPER_SIZES.get(size), {})
    )
    if tau is None:
        found = cells.get(PAPER_BASELINES.get(baseline))
    else:
        found = next((cell for key, cell in cells.items() if np.isclose(float(key), tau)), None)
    return tuple(found) if found else (np.nan, np.nan)


# ---- version 4 of paper A ------------------------------------------------------------------------


def version4_note() -> str:
    """The sentences for a report: that version 4 exists, what is known of it, what is not."""
    known = published_numbers()["paper_a_v4"]
    numbers = ", ".join(
        f"{row['benchmark']} {row['metric']} {row['value']}" for row in known["numbers"]
    )
    readme = known["authors_readme"]
    return (
        f"Version 4 of paper A exists ({known['date']}, renamed {known['name']}); its tables were "
        f"not to be had. An aggregator page gives {numbers}, and names no model, judge or "
        f"baseline, so no number here is compared with them. The authors' README: "
        f"{readme['hardware']}; it links the data {readme['data_linked']}, but "
        f"{readme['data_note']}."
    )
