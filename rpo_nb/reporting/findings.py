"""What the titles of figures say: counted from the numbers that a figure shows, and no surer than
they are. Who leads is decided only where the leader's difference to every other is, after Holm's
correction for all groups of the figure (`reporting.decisions`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from rpo_nb import intervals
from rpo_nb.reporting.decisions import FAILS, HOLDS, LEVEL, OPEN, holm, p_value

ALONE = "one seed decides nothing"
UNTOUCHED = "reference"


def errors_of(low: pd.Series, high: pd.Series, seeds: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Standard error and degrees of freedom of means with Student's 95 % interval over seeds; NaN
    where there is none."""
    df = (seeds - 1.0).where(low.notna() & (seeds > 1))
    return (high - low) / 2 / stats.t.ppf((1 + intervals.LEVEL) / 2, df), df


def lead(cells: pd.DataFrame, groups: Sequence[str], name: str, value: str) -> pd.DataFrame:
    """Who has the highest value in each group: the groups' columns, first, value, decided.

    cells: groups, name, value, error, df, one row each. The leader is compared with every other of
    its group by Welch's t, as if their errors were independent (seeds that they share make the
    truth surer); its least sure comparison counts.
    """
    rows, p = [], []
    for key, mine in cells.dropna(subset=[value]).groupby(list(groups), sort=False):
        best = mine.loc[mine[value].idxmax()]
        rest = mine.drop(index=best.name)
        error = np.sqrt(rest["error"] ** 2 + best["error"] ** 2)
        df = np.fmin(rest["df"], best["df"])
        found = p_value(best[value] - rest[value], error, df)
        p.append(found.max() if len(rest) else np.nan)
        rows.append([*key, best[name], best[value]])
    return _decided(pd.DataFrame(rows, columns=[*groups, "first", "value"]), p)


def lead_over_seeds(by_seed: pd.DataFrame, group: str, value: str = "gain") -> pd.DataFrame:
    """Who has the highest mean over seeds in each group: group, first, value, decided.

    by_seed: group, name, policy, seed and value; a name with several policies stands by its best.
    The leader is compared with the best policy of every other name by a t test of the seeds'
    differences, since policies of a seed share its prompts.
    """
    rows, p = [], []
    for key, mine in by_seed.groupby(group, sort=False):
        means = mine.groupby(["name", "policy"], sort=False)[value].mean()
        best = means.groupby("name", sort=False).idxmax().tolist()
        wide = mine.pivot_table(index="seed", columns="policy", values=value)
        (first, policy), *others = sorted(best, key=lambda one: -means[one])
        against = [wide[policy] - wide[other] for _, other in others]
        p.append(max((_paired(one) for one in against), default=np.nan))
        rows.append([key, first, means[first, policy]])
    return _decided(pd.DataFrame(rows, columns=[group, "first", "value"]), p)


def _paired(differences: pd.Series) -> float:
    found = intervals.over_seeds(differences.dropna().to_numpy())
    if found.error == 0:  # seeds that agree to the last digit
        return 0.0 if found.value else 1.0
    return float(p_value(found.value, found.error, found.df))


def _decided(found: pd.DataFrame, p: Sequence[float]) -> pd.DataFrame:
    return found.assign(decided=holm(np.array(p, float)) < LEVEL)


def leaders(found: pd.DataFrame, verb: str, unit: str, seeds: float) -> str:
    """ "KTO leads in 2 of 3 regimes, DRO in 1; 2 of 3 are decided". found: of `lead`."""
    counts = found["first"].value_counts(sort=False).sort_values(ascending=False, kind="stable")
    names = counts.index.to_series().replace(UNTOUCHED, "the untouched reference")
    parts = [
        f"{name} {verb} in {n} of {len(found)} {unit}" if not i else f"{name} in {n}"
        for i, (name, n) in enumerate(zip(names, counts, strict=True))
    ]
    text = ", ".join(parts[:4])
    if len(parts) > 4:
        text += f", others in {counts.iloc[4:].sum()}"
    return f"{text[0].upper()}{text[1:]}; {sure(found['decided'], seeds)}"


def sure(decided: pd.Series, seeds: float) -> str:
    if not seeds > 1:
        return ALONE
    if not decided.any():
        return "none of it is decided"
    if decided.all():
        return "decided in all"
    return f"decided in {decided.sum()}, not in {(~decided).sum()}"


def in_a_title(verdicts: Sequence[str], more: str, less: str, unit: str, ahead: int, seeds: float):
    """ "RPO wins in 3 of 9 cells, loses in 1; 5 not decided"; of one seed in how many its value
    points that way (ahead), and that this decides nothing."""
    verdicts, n = list(verdicts), len(verdicts)
    hold, fail, left = (verdicts.count(one) for one in (HOLDS, FAILS, OPEN))
    if not seeds > 1:
        return f"{more} in {ahead} of {n} {unit}, but {ALONE}"
    return f"{more} in {hold} of {n} {unit}, {less} in {fail}; {left} not decided"
