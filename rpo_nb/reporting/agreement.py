"""Our cells beside the paper's: which agree, which differ, which are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb.config.metrics import metric
from rpo_nb.config.schema import Profile
from rpo_nb.reporting.decisions import OPEN
from rpo_nb.reporting.published import published_numbers
from rpo_nb.reporting.rendering import number

AGREES, DIFFERS, NOT_MEASURED, NO_NUMBER = "agrees", "differs", "not measured", "no published value"
NOTABLE = 0.05  # a smaller saving of work is no saving
# Points of win rate that are no difference: three of the standard deviations that the paper prints
# beside its own (half of them are below 1.8).
MARGIN = 5.0
# Of the paper's number in Table II, where RPO leads the next method by 13 % (median of 18 cells).
TENTH = 0.1


# ---- one cell ------------------------------------------------------------------------------------


def agreement(
    row: Mapping, table: pd.DataFrame | None = None, profile: Profile | None = None
) -> tuple[str, str]:
    """("agrees" | "differs" | "not decided" | "not measured" | "no published value", why) for one
    cell.

    Agrees in value: the published number lies within the cell's 95 % interval, and that reaches no
    farther than MARGIN points (a TENTH of the number in Table II) to either side. Agrees in
    direction (win rates only): both are on the same side of 50 and the interval excludes 50. Else
    it differs where the number lies outside the interval, and is not decided where the interval is
    too wide to tell or there is none (one seed). table: the cells
    around it, so that the sentence can say what moves the cell (preset, judge); profile: says what
    stands in for the paper's model, judge or metric model.
    """
    rate = "win_rate" in row
    value, low, high = (
        float(row[k]) for k in (("win_rate" if rate else "value"), "ci_low", "ci_high")
    )
    digits = 1 if rate else metric(row["metric"]).digits
    if np.isnan(value):
        return NOT_MEASURED, str(row.get("reason") or "") or (
            "every verdict is missing" if rate else "no reason was recorded"
        )
    if pd.isna(row["published"]):
        return NO_NUMBER, "the paper has no number for this cell"
    if np.isnan(low) or np.isnan(high):
        return (
            OPEN,
            f"{number(value, digits)} has no interval (one seed), so nothing can be said of "
            f"{row['published']}",
        )
    paper = float(row["published"])
    interval = f"[{number(low, digits)}, {number(high, digits)}]"
    within, half = low <= paper <= high, (high - low) / 2
    if within and half <= (MARGIN if rate else TENTH * abs(paper)):
        return AGREES, f"the paper's {row['published']} lies within {interval}"
    gap = abs(value - paper)
    direction = "below" if value < paper else "above"
    distance = (
        f"{number(gap, digits)} {'points ' if rate else ''}{direction} the paper's "
        f"{row['published']}"
    )
    if rate and (value - 50) * (paper - 50) > 0 and not low <= 50 <= high:
        return (
            AGREES,
            f"in direction only: both are {'above' if paper > 50 else 'below'} 50; the kit is "
            f"{distance}",
        )
    if within:
        return (
            OPEN,
            f"{interval} holds the paper's {row['published']} and too much else to agree with it",
        )
    sides = ""
    if rate:
        here = (
            f"{interval} includes 50"
            if low <= 50 <= high
            else f"{interval} lies {'above' if low > 50 else 'below'} 50"
        )
        sides = f"{here}, the paper's number lies {'above' if paper > 50 else 'below'} it; "
    else:
        sides = f"{number(gap / half, 1)} times the interval's half-width; " if half > 0 else ""
    reasons = [
        f"the kit is {distance}",
        *_neighbours(row, table, value, paper, digits),
        *_stand_ins(row, profile),
    ]
    return DIFFERS, (
        f"{sides}{'; '.join(reasons)}" if rate else f"{reasons[0]}, {sides}{'; '.join(reasons[1:])}"
    ).strip("; ")


def _neighbours(
    row: Mapping, table: pd.DataFrame | None, value: float, paper: float, digits: int
) -> list[str]:
    """What moves this cell: the preset that comes nearest to the paper, and the other judge."""
    if table is None:
        return []
    name = "win_rate" if "win_rate" in row else "value"
    keys = [k for k in ("judge", "size", "baseline", "tau", "metric", "method") if k in table]
    same = {k: table[k].eq(row[k]) for k in keys}
    out = []
    presets = table[
        np.logical_and.reduce(list(same.values())) & table["preset"].ne(row["preset"])
    ].dropna(subset=[name])
    if len(presets):
        nearest = presets.loc[(presets[name] - paper).abs().idxmin()]
        closer = abs(nearest[name] - paper) < abs(value - paper)
        there = f"with preset {nearest['preset']} it is {number(nearest[name], digits)}"
        out.append(there if closer else "no other preset comes nearer")
    if "judge" in same:
        others = table[
            np.logical_and.reduce([m for k, m in same.items() if k != "judge"])
            & table["preset"].eq(row["preset"])
            & table["judge"].ne(row["judge"])
        ].dropna(subset=[name])
        out += [f"judge {o['judge']} gives {number(o[name], digits)}" for _, o in others.iterrows()]
    return out


def _stand_ins(row: Mapping, profile: Profile | None) -> list[str]:
    """What of this very cell is not the paper's: the metric's model. (What no cell shares with the
    paper: ``differences``.)"""
    if profile is None:
        return []
    packaged = {
        "bertscore_f1": profile.evaluation.bertscore,
        "toxicity": profile.evaluation.toxicity,
    }.get(row.get("metric"))
    return (
        []
        if packaged in (None, "default", "hub")
        else ["scored by another model than the paper's, so only methods compare"]
    )


def with_agreement(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The table with the columns agreement and why."""
    found = [agreement(row, table, profile) for _, row in table.iterrows()]
    return table.assign(agreement=[f[0] for f in found], why=[f[1] for f in found])


def differences(profile: Profile) -> list[str]:
    """What every cell of this profile does otherwise than the paper, read from the profile."""
    setup = published_numbers()["paper_a"]["setup"]
    parameters = setup["model_parameters"]
    out = []
    models = {size: model.id for size, model in profile.sizes.items()}
    if any("flan-t5" not in model for model in models.values()):
        named = {
            s: "trained from nothing" if m == "pocket" else Path(m).name for s, m in models.items()
        }
        ours, theirs = (
            ", ".join(f"{size} ({what})" for size, what in kind.items())
            for kind in (named, parameters)
        )
        out.append(f"Models: {ours}; the paper has Flan-T5 {theirs}.")
    if "ultrafeedback" not in profile.data.source.lower():
        source = "the pocket world" if profile.pocket_world else Path(profile.data.source).name
        prompts = (
            f"{profile.data.prompts} training prompts"
            if profile.data.prompts
            else "all training prompts"
        )
        out.append(f"Data: {source}, {prompts}; the paper has {setup['dataset']}.")
    if profile.data.validation != int(setup["validation"]["examples"]):
        theirs = setup["validation"]["examples"]
        out.append(
            f"Validation: up to {profile.data.validation} rows of the top score; the paper "
            f"has {theirs}."
        )
    judges = {j: profile.evaluation.published_judges.get(j) for j in profile.evaluation.judges}
    beside = ", ".join(
        f"{ours} stands beside {theirs}" for ours, theirs in judges.items() if theirs
    )
    if beside:
        out.append(
            f"Judges: {beside}; both orders are asked and a flip counts as a tie, which the "
            "paper does not state."
        )
    training = profile.training
    if training.warmup_steps != int(setup["warmup_steps"]) or training.learning_rate != float(
        setup["learning_rate"]
    ):
        out.append(
            f"Schedule: learning rate {training.learning_rate:g}, {training.warmup_steps} "
            "warm-up steps; "
            f"the paper has {float(setup['learning_rate']):g} and {setup['warmup_steps']}."
        )
    return out
