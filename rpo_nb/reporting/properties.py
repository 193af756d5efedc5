"""Table I property by property: what RPO has less of than DRO, as measured."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rpo_nb.reporting.agreement import AGREES, DIFFERS, NO_NUMBER, NOT_MEASURED
from rpo_nb.reporting.decisions import OPEN
from rpo_nb.reporting.rendering import readable


def properties(table1: pd.DataFrame) -> pd.DataFrame:
    """Table I property by property: property, paper_dro, paper_rpo (its words), dro, rpo (value and
    interval), agreement, why.

    In every property the paper's words say that RPO has less of it than DRO: networks, coupling,
    work, variance, sensitivity to errors. So one agrees when RPO's value is lower, and differs when
    it is not; where intervals overlap, or a gradient has none, it is not decided. How much of the
    gradient is the reward's at all is measured too, but nothing the paper speaks of.
    """
    out = []
    for name, rows in table1.groupby("property", sort=False):
        both = rows.set_index("method")
        if {"dro", "rpo"} <= set(both.index):
            dro, rpo = both.loc["dro"], both.loc["rpo"]
            found, why = (
                (NO_NUMBER, "the paper says nothing of it")
                if "without the reward" in name
                else _less(rpo, dro, drawn=name.startswith("gradient"))
            )
            note = next(
                (str(n) for n in (rpo.get("note"), dro.get("note")) if pd.notna(n) and n), ""
            )
            out.append(
                {
                    "property": name,
                    "paper_dro": dro["published"],
                    "paper_rpo": rpo["published"],
                    "dro": _measured(dro),
                    "rpo": _measured(rpo),
                    "agreement": found,
                    "why": why + (f" ({note})" if note else ""),
                }
            )
    found = pd.DataFrame(out)
    words = list(dict.fromkeys(found["paper_dro"])) if out else []
    return (
        found.sort_values(
            "paper_dro", key=lambda c: c.map(words.index), kind="stable", ignore_index=True
        )
        if out
        else found
    )


def _less(rpo: pd.Series, dro: pd.Series, *, drawn: bool) -> tuple[str, str]:
    """Whether RPO's value is lower than DRO's, beyond both intervals. drawn: the values are of
    mini-batches, not counted, so one without an interval decides nothing; but 0 is by definition:
    nothing flows through a V that is a constant."""
    ours, theirs = rpo["value"], dro["value"]
    if np.isnan(ours) or np.isnan(theirs):
        return NOT_MEASURED, f"{'RPO' if np.isnan(ours) else 'DRO'} has no value"
    ratio = f"{ours / theirs:.3g} times DRO's" if theirs else f"{ours:.3g}, DRO's is 0"
    bare = [
        who
        for who, row in (("RPO", rpo), ("DRO", dro))
        if drawn and row["value"] and row[["ci_low", "ci_high"]].isna().any()
    ]
    if bare:
        who = f"{bare[0]} has" if len(bare) == 1 else "RPO and DRO have"
        return OPEN, f"{who} no interval; RPO's is {ratio}"
    if ours == theirs:
        return DIFFERS, "RPO and DRO are equal"
    spans = [row[["value", "ci_low", "ci_high"]].astype(float) for row in (rpo, dro)]
    if max(span.min() for span in spans) <= min(span.max() for span in spans):
        return OPEN, f"the intervals overlap; RPO's is {ratio}"
    return (
        AGREES if ours < theirs else DIFFERS
    ), f"RPO's is {'lower' if ours < theirs else 'higher'}: {ratio}"


def _measured(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return NOT_MEASURED
    low, high = row["ci_low"], row["ci_high"]
    interval = "" if pd.isna(low) else f" [{readable(low)}, {readable(high)}]"
    return readable(row["value"]) + interval
