"""Losses of one's own on a user's feedback, as tables and a picture: what each policy gains, by the
judge, and which leads these seeds decide. `own_feedback` makes the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rpo_nb import intervals
from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.reporting import decisions, style
from rpo_nb.reporting.rendering import number
from rpo_nb.studies import own_tables
from rpo_nb.training.own import COLOUR

REFERENCE = METHOD_NAMES["reference"]


def wide_rewards(found: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """[seeds, prompts] of each policy; NaN where a seed was not asked a prompt."""
    prompts = sorted({int(p) for one in found for p in one["rewards"][names[0]]})
    return {
        name: np.array(
            [[one["rewards"][name].get(str(p), np.nan) for p in prompts] for one in found], float
        )
        for name in names
    }


def standing(rewards: dict[str, np.ndarray], added: Sequence[str]) -> pd.DataFrame:
    """One row a policy, the best first: policy, added (to the study), gain (mean reward over the
    reference's) with low and high, reward, seeds, prompts (of a seed)."""
    rows = []
    for name, mine in rewards.items():
        gain = intervals.seeds_and_prompts(mine - rewards[REFERENCE])
        rows.append(
            {
                "policy": name,
                "added": name in added,
                "gain": gain.value,
                "low": gain.low,
                "high": gain.high,
                "reward": np.nanmean(mine),
                "seeds": len(mine),
                "prompts": int(np.isfinite(mine).sum(1).max()),
            }
        )
    return pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)


def leads(rewards: dict[str, np.ndarray], added: Sequence[str]) -> pd.DataFrame:
    """Each added policy beside every other: policy, other, lead with low and high, p (Holm's, for
    the leads of all; two added policies are one lead, told from both sides), outcome (of
    `own_tables.OUTCOMES`), smallest (the lead that these seeds would have decided in 80 % of runs;
    NaN where decided)."""
    pairs = [(name, other) for name in added for other in rewards if other != name]
    once: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        once.setdefault(frozenset(pair), pair)
    found = [intervals.seeds_and_prompts(rewards[one] - rewards[two]) for one, two in once.values()]
    value, low, high, error, df = (np.array(column, float) for column in zip(*found, strict=True))
    same = (value == 0) & (error == 0)  # every text is worth the same: nothing to decide
    verdict = decisions.decide(value, np.where(same, np.nan, error), df)
    table = pd.DataFrame(once.values(), columns=["policy", "other"])
    table = table.assign(lead=value, low=low, high=high, p=verdict.p)
    table["outcome"] = [
        own_tables.SAME if one else own_tables.WORDS[word]
        for one, word in zip(same, verdict.verdict, strict=True)
    ]
    table["smallest"] = verdict.smallest
    turned = table.rename(columns={"policy": "other", "other": "policy"})
    turned[["lead", "low", "high"]] = -table[["lead", "high", "low"]].to_numpy()
    turned["outcome"] = table["outcome"].replace(own_tables.OTHER_SIDE)
    both = pd.concat([table, turned]).set_index(["policy", "other"])
    return both.loc[pairs].reset_index()


@style.styled
def figure(table: pd.DataFrame, note: str) -> Figure:
    """What each policy gained over the reference; what was added is a star."""
    rows = table[table["policy"].ne(REFERENCE)].reset_index(drop=True)
    drawn = Figure(figsize=(8, 1.8 + 0.32 * len(rows)), layout="constrained")
    axis = drawn.subplots()
    for place, row in rows.iterrows():
        axis.errorbar(
            [row["gain"]],
            [place],
            xerr=style.errors(rows.iloc[[place]], "gain", "low", "high"),
            marker="*" if row["added"] else "o",
            markersize=11 if row["added"] else 5,
            color=COLOUR if row["added"] else style.DARK,
            elinewidth=0.8,
            capsize=3,
        )
    axis.axvline(0, color=style.DARK, lw=1)
    axis.set_yticks(range(len(rows)), rows["policy"])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("gain over the reference, judge reward (right is better)")
    style.entitle(drawn, "Losses beside the study's policies", note, [])
    return drawn


def told(table: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """A sentence a loss: what it gains, and against whom that decides anything."""
    lines = []
    for name, mine in found.groupby("policy", sort=False):
        row = table.set_index("policy").loc[name]
        line = f"{name} gains {number(row['gain'], 2)}"
        if np.isfinite(row["low"]):
            line += f" [{number(row['low'], 2)}, {number(row['high'], 2)}]"
        groups = [
            f"{words} {', '.join(mine.loc[mine['outcome'].eq(words), 'other'])}"
            for words in own_tables.OUTCOMES
            if mine["outcome"].eq(words).any()
        ]
        smallest = mine["smallest"].dropna()
        if len(smallest):
            groups[-1] += (
                f" (80 % of such runs would have seen leads of {smallest.min():.2f} to "
                f"{smallest.max():.2f})"
            )
        elif mine["p"].isna().all() and not mine["outcome"].eq(own_tables.SAME).all():
            groups[-1] += " (one seed decides nothing)"
        lines.append(f"{line} over the reference; {'; '.join(groups)}")
    return lines
