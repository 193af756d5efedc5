"""When does it work? What the partition lab (notebook 07) says of it, regime by regime: frames to
sentences and a table of the page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.reporting.answers import span
from rpo_nb.reporting.claims import ALONE
from rpo_nb.reporting.decisions import OPEN
from rpo_nb.reporting.layout import plain
from rpo_nb.reporting.rendering import number, with_interval

Tables = Mapping[str, pd.DataFrame]
COMPARED = ("sft", "kto", "dro", "rpo", "qrpo")
LAB = "Not measured here: notebook 07_partition_lab does, in the pocket world."


def _gain(row: pd.Series, name: str = "gain") -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 2, sign=True)


def best_of(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """The line with the best value of each method, in the order of METHODS."""
    known = table.dropna(subset=[value])
    found = known.loc[known.groupby("method", sort=False)[value].idxmax()]
    return found.sort_values("method", key=lambda c: c.map(METHODS.index), kind="stable")


def regimes(tables: Tables) -> dict | None:
    """A table of the page, a column a regime: what it is, as measured, the policy that gains most,
    and the best of RPO and of others; None where the lab has not been run."""
    table, rows = tables.get("regime_map", pd.DataFrame()), {}
    if table.empty:
        return None
    for name, mine in table.groupby("regime", sort=False):
        trained = mine[mine["method"].ne("reference")]
        top, about = trained.loc[trained["gain"].idxmax()], mine.iloc[0]
        best = best_of(trained[trained["method"].isin(COMPARED)], "gain")
        row = {
            title: number(about.get(column, np.nan), digits)
            for title, column, digits in (
                ("data beat the reference's own texts, %", "data_wins", 0),
                ("lead of the data in mean score, points", "gap", 1),
                ("log-probability a token: the data", "logp", 2),
                ("log-probability a token: the reference's own texts", "own_logp", 2),
            )
        }
        row["gains most"] = f"{top['policy']} {_gain(top)}"
        row |= {
            f"best {METHOD_NAMES[one['method']]}": f"{one['policy']} {_gain(one)}"
            for _, one in best.iterrows()
        }
        rows[name.replace("_", " ")] = row
    frame = pd.DataFrame(rows).fillna("").rename_axis("").reset_index()
    return plain(frame) | {"kinds": ["text"] * frame.shape[1]}


def _over_all(tables: Tables) -> list[str]:
    """The policies over all regimes: where every method was tuned alike each of them, else the best
    of each method."""
    tuned = "lab_tuned" in tables and len(tables["lab_tuned"]) > 0
    table = tables["lab_tuned"] if tuned else tables.get("lab_summary", pd.DataFrame())
    if table.empty:
        return []
    compared = table[table["method"].isin(COMPARED)]
    told = table.dropna(subset=["iqm"]) if tuned else best_of(compared, "iqm")
    told = told.sort_values("iqm", ascending=False, kind="stable")
    parts = [f"{row['policy']} {_gain(row, 'iqm')}" for _, row in told.iterrows()]
    how = (
        "every method tuned alike, on seeds that are not shown"
        if tuned
        else "of each method the temperature that did best on these very numbers"
    )
    count = int(table["regimes"].max())
    return [
        f"Gain over the reference in points, interquartile mean over {count} "
        f"regime{'s' if count > 1 else ''} ({how}): {', '.join(parts)}."
    ]


def _tops(table: pd.DataFrame) -> list[str]:
    """In how many regimes an RPO has the highest mean, out of how many policies, and who has it in
    each. A mean alone decides nothing: an interval stands with the name."""
    trained = table[table["method"].ne("reference")]
    tops = trained.loc[trained.groupby("regime", sort=False)["gain"].idxmax()]
    parts = [
        f"in {row['regime'].replace('_', ' ')} {row['policy']} {_gain(row)}"
        for _, row in tops.iterrows()
    ]
    none = [name.replace("_", " ") for name in tops.loc[tops["gain"].le(0), "regime"]]
    nobody = f" In {', '.join(none)} no policy's mean is above the reference's." if none else ""
    mine, policies = (
        int(tops["method"].eq("rpo").sum()),
        trained.drop_duplicates(["method", "policy"])["method"].eq("rpo"),
    )
    return [
        f"By its mean alone, the policy that gains most is an RPO in {mine} of {len(tops)} "
        f"regimes; of the {len(policies)} policies {policies.sum()} are RPO, in one setting or "
        f"another.{nobody}",
        f"Who gains most, in points: {'; '.join(parts)}.",
    ]


def _duels(tables: Tables) -> list[str]:
    """How RPO's duels with its rivals in the same reading ended."""
    table = tables.get("regime_duels", pd.DataFrame())
    if table.empty:
        return []
    parts = []
    for reading, rows in table.groupby("reading", sort=False):
        ahead, behind, left = (
            int(rows["outcome"].eq(one).sum()) for one in ("first", "second", OPEN)
        )
        parts.append(f"{reading}: {ahead} ahead, {behind} behind, {left} not decided")
    out = [
        f"RPO's duels with its rivals in the same reading ({len(table)} in all): "
        f"{'; '.join(parts)}."
    ]
    left = table.loc[table["outcome"].eq(OPEN), "smallest"].dropna()
    if len(left):
        out.append(f"A duel that is not decided could have seen {span(left, 1)} points.")
    return out


def _tuned(tables: Tables) -> list[str]:
    """In how many regimes each RPO is surely ahead of each other method, or behind it, where every
    method was tuned alike."""
    table, out = tables.get("lab_tuned_duels", pd.DataFrame()), []
    for rpo, mine in table.groupby("reading", sort=False) if len(table) else ():
        parts = []
        for rival, rows in mine.groupby("second", sort=False):
            ahead, behind = (rows["outcome"].eq(who) for who in ("first", "second"))
            names = ", ".join(name.replace("_", " ") for name in rows.loc[behind, "study"])
            told = [
                f"ahead in {ahead.sum()}" if ahead.any() else "",
                f"behind in {behind.sum()} ({names})" if behind.any() else "",
                f"{(~ahead & ~behind).sum()} not decided" if not (ahead | behind).all() else "",
            ]
            parts.append(f"{rival}: {', '.join(filter(None, told))}")
        count = mine["study"].nunique()
        out.append(
            f"{rpo} against each method, tuned alike, in {count} regimes: {'; '.join(parts)}."
        )
    return out


def short(tables: Tables) -> list[str]:
    """The answer for a reader of a page. Where every method was tuned alike that comes first: over
    all regimes, and the paper's RPO against each method; else who leads by the mean."""
    table = tables.get("regime_map", pd.DataFrame())
    if table.empty:
        return [LAB]
    alone = [ALONE.strip()] if table["seeds"].max() == 1 else []
    tuned, lead = _tuned(tables)[:1], _tops(table)[0]
    over_all = _over_all(tables)
    return [*over_all, *tuned, lead, *alone] if tuned else [lead, *alone, *over_all]


def answer(tables: Tables) -> list[str]:
    """When does it work?"""
    table = tables.get("regime_map", pd.DataFrame())
    if table.empty:
        return [LAB]
    return [*short(tables), *_tuned(tables)[1:], *_duels(tables), _tops(table)[1]]
