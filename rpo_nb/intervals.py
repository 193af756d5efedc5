"""Every interval of the kit. All are 95 %, all are `Interval`s: a value, low and high.

Which one a number has depends on what could have been otherwise:
`student` other seeds, few and roughly normal; `bootstrap` other items (prompts, completions) than
those drawn, for any statistic of them; `bootstrap_sums` the same for a statistic of their sums, as
corpus BLEU is; `bootstrap_prompts` other prompts, each with all its seeds; `jackknife` other items,
for a positive ratio without a simple variance. Where there is too little to tell, low and high are
NaN. Seeds are fixed: the same numbers give the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

LEVEL, TAILS = 0.95, (2.5, 97.5)
RESAMPLES = 2000
BATCH = 250  # resamples in memory at a time


class Interval(NamedTuple):
    """A value and where it lies with 95 % confidence; floats, or arrays of them, one a row."""

    value: Any
    low: Any
    high: Any


def student(values: Sequence[float]) -> Interval:
    """The mean of the values and its interval by Student's t, with n − 1 degrees of freedom. NaNs
    around a single value."""
    values = np.asarray(values, float)
    mean, n = (float(values.mean()) if len(values) else np.nan), len(values)
    if n < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def bootstrap(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[..., Any] = np.mean,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    fewest: int = 2,
) -> Interval:
    """A statistic of the values and its percentile bootstrap interval over them (Efron 1979; by
    scipy).

    values: [n], or [rows, n], every row resampled alike; the fields are arrays [rows] then.
    statistic: takes axis, as np.mean and np.median do. fewest: NaNs around the statistic of fewer
    values. Of equal values it is those bounds themselves: nothing in them says otherwise.
    """
    values = np.asarray(values, float)
    value = statistic(values, axis=-1) if values.size else np.full(values.shape[:-1], np.nan)
    if values.shape[-1] < fewest:
        return _interval(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    drawn = stats.bootstrap(
        (values,),
        statistic,
        axis=-1,
        method="percentile",
        n_resamples=resamples,
        confidence_level=LEVEL,
        batch=BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return _interval(value, drawn.low, drawn.high)


def bootstrap_sums(
    parts: np.ndarray, statistic: Callable[[np.ndarray], float], *, resamples: int, seed: int = 0
) -> Interval:
    """A statistic of the sum over items and its percentile bootstrap interval over them.

    parts: [n, m], what each item adds. statistic: of one sum [m]; a tuple of numbers gives arrays.
    A corpus score is no mean of items: the drawn items' counts are added up and scored anew
    (Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation).
    """
    n = len(parts)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    found = np.array([statistic(row) for row in draws @ parts])
    low, high = np.percentile(found, TAILS, axis=0)
    return _interval(np.asarray(statistic(parts.sum(0))), low, high)


def bootstrap_prompts(points: np.ndarray, counts: np.ndarray) -> Interval:
    """The mean over seeds of Σ points / Σ counts and its percentile bootstrap interval over
    prompts: a cluster bootstrap, since a prompt's verdicts of several seeds are not independent.

    points, counts: [seeds, prompts], a prompt's part in each seed (0 where it has none). A prompt
    is drawn with all its seeds, so the interval is about other prompts for these policies; std over
    seeds is about other policies. NaNs for fewer than 2 prompts, or a seed without any.
    """

    def statistic(*arrays, axis=-1):
        sums = np.stack([array.sum(axis) for array in arrays])
        totals, drawn = sums[: len(points)], sums[len(points) :]
        # a seed none of whose verdicts was drawn stays out of that draw's mean
        with np.errstate(invalid="ignore"):
            return np.where(drawn > 0, totals / drawn, 0.0).sum(0) / (drawn > 0).sum(0)

    if not counts.size or not counts.any(1).all():
        return Interval(np.nan, np.nan, np.nan)
    value = float((points.sum(1) / counts.sum(1)).mean())
    if points.shape[1] < 2:
        return Interval(value, np.nan, np.nan)
    drawn = stats.bootstrap(
        (*points, *counts),
        statistic,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return _interval(value, drawn.low, drawn.high)


def jackknife(statistic: Callable[[np.ndarray], float], n: int, *, fewest: int) -> Interval:
    """A positive statistic of n items and its jackknife interval, by Student's t of its logarithm
    (Tukey 1958).

    statistic: of the places of the items that are kept. NaNs for fewer items than `fewest`.
    """
    every = np.arange(n)
    if n < fewest:
        return Interval(statistic(every) if n > 1 else np.nan, np.nan, np.nan)
    value = statistic(every)
    left_out = np.log([statistic(np.delete(every, i)) for i in every])
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    error = error * stats.t.ppf((1 + LEVEL) / 2, n - 1)
    return Interval(value, value * float(np.exp(-error)), value * float(np.exp(error)))


def _interval(value: Any, low: Any, high: Any) -> Interval:
    """Plain floats for a single number."""
    return Interval(*(float(one) if np.ndim(one) == 0 else one for one in (value, low, high)))
