"""What intervals decide: a claim of several cells holds, does not hold, or is not decided.

A cell is an estimate with its standard error and degrees of freedom (`intervals.Estimate`). Its
p-value is that of the t statistic its interval is made of, so at one cell "decided" and "the 95 %
interval leaves the value out" are the same. Several cells of one claim are corrected by Holm's
method: with 95 % confidence no cell of the claim is decided wrongly, whatever the cells share
(seeds, prompts, baselines).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from rpo_nb.intervals import Share

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
LEVEL, POWER = 0.05, 0.8
Numbers = np.ndarray | Sequence[float]


class Decisions(NamedTuple):
    """Arrays [cells]: HOLDS, FAILS or OPEN; p after the correction (NaN: no error is known); and
    what this run could have seen, in the estimates' unit (NaN for decided cells)."""

    verdict: np.ndarray
    p: np.ndarray
    smallest: np.ndarray


def p_value(value: Numbers, error: Numbers, df: Numbers, null: float = 0.0) -> np.ndarray:
    """Two-sided p of a t test that the true value is `null`; NaN where error or df is."""
    value, error, df = (np.asarray(one, float) for one in (value, error, df))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 2 * stats.t.sf(np.abs(value - null) / error, df)


def holm(p: Numbers) -> np.ndarray:
    """p-values after Holm's correction (1979, A Simple Sequentially Rejective Multiple Test
    Procedure): below 0.05 are those that can all be rejected with an error of 0.05 in all. NaNs
    stay and are not counted."""
    p = np.asarray(p, float)
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    out[order] = np.minimum(1, np.maximum.accumulate(p[order] * steps))
    return out


def smallest_effect(error: Numbers, df: Numbers, level: float = LEVEL) -> np.ndarray:
    """The smallest true effect that a two-sided t test at `level` finds in 80 % of runs like this
    one, in the error's unit (noncentral t)."""
    error, df = np.asarray(error, float), np.asarray(df, float)
    return error * special.nctdtrinc(df, 1 - POWER, stats.t.isf(level / 2, df))


def decide(values: Numbers, errors: Numbers, dfs: Numbers, *, null: float = 0.0) -> Decisions:
    """Whether each value lies above `null` (holds), below (does not hold), or neither is sure.

    smallest: of an undecided cell, `smallest_effect` at the level that it had to pass.
    """
    values, errors, dfs = (np.asarray(one, float) for one in (values, errors, dfs))
    p = holm(p_value(values, errors, dfs, null))
    verdict = np.where(p < LEVEL, np.where(values > null, HOLDS, FAILS), OPEN)
    smallest = smallest_effect(errors, dfs, _level(p))
    return Decisions(verdict, p, np.where(p < LEVEL, np.nan, smallest))


def decide_equal(
    values: Numbers, errors: Numbers, dfs: Numbers, *, margin: float, groups: Sequence | None = None
) -> Decisions:
    """Whether each value is 0 but for less than `margin`: it holds where the whole interval lies
    within ±margin (two one-sided tests, Schuirmann 1987), does not where it lies outside.

    groups: cells of several values, one label a value; a cell holds when all its values do, and
    does not when one does not. The arrays are one a cell then, in the order of their first values.
    smallest: of an undecided cell, the margin within which this run would have called it equal.
    """
    values, errors, dfs = (np.asarray(one, float) for one in (values, errors, dfs))
    if not margin > 0:
        raise ValueError(f"margin is {margin}; it must be above 0")
    labels = list(range(len(values))) if groups is None else list(groups)
    cells = list(dict.fromkeys(labels))
    places = [[i for i, label in enumerate(labels) if label == cell] for cell in cells]
    size = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.minimum(1, 2 * stats.t.cdf((size - margin) / errors, dfs))
        outside = np.minimum(1, 2 * stats.t.sf((size - margin) / errors, dfs))
    # within: the least sure of all; outside: the surest, which is one of as many as there are
    within = holm([inside[i].max() for i in places])
    beyond = holm([min(1, outside[i].min() * len(i)) for i in places])
    verdict = np.where(within < LEVEL, HOLDS, np.where(beyond < LEVEL, FAILS, OPEN))
    reach = size + errors * stats.t.isf(_level(within) / 2, dfs)
    smallest = np.array([reach[i].max() for i in places])
    return Decisions(verdict, np.fmin(within, beyond), np.where(verdict == OPEN, smallest, np.nan))


def decide_shares(shares: Sequence[Share], *, more: float, less: float) -> Decisions:
    """Whether each probability lies above `more` (holds) or below `less` (does not hold); `less` is
    at most `more`. smallest: of an undecided one, the probability that 80 % of runs of its size
    would have found to lie above `more` (1: none would)."""
    yes, size = (np.array([one[i] for one in shares], float) for i in (0, 3))
    yes = yes * size
    with np.errstate(invalid="ignore"):  # Clopper and Pearson's tails; a beta of nothing is NaN
        above = np.where(yes > 0, stats.beta.cdf(more, yes, size - yes + 1), 1.0)
        below = np.where(yes < size, stats.beta.sf(less, yes + 1, size - yes), 1.0)
    raw = np.where(np.isfinite(size), np.minimum(1, 2 * np.minimum(above, below)), np.nan)
    p = holm(raw)
    verdict = np.where(p < LEVEL, np.where(above < below, HOLDS, FAILS), OPEN)
    reach = stats.norm.isf(_level(p) / 2) + stats.norm.ppf(POWER)
    smallest = np.minimum(1.0, more + reach * np.sqrt(more * (1 - more) / size))
    return Decisions(verdict, p, np.where(p < LEVEL, np.nan, smallest))


def _level(p: np.ndarray) -> float:
    """The level of the step at which Holm's method stopped: 0.05 by the cells that were left."""
    return LEVEL / max(1, int((p >= LEVEL).sum()))
