"""Every interval of the kit. All are 95 %: a value, low and high.

A result is about other seeds and other prompts: `seeds_and_prompts` where every prompt's part is
known, `over_seeds` where only each seed's number is. Both give an `Estimate`, whose error and
degrees of freedom serve `reporting.decisions` too. What is no result of training has the interval
of what could have been otherwise in it: `student` other measurements, few and roughly normal;
`bootstrap` other items (prompts, completions), for any statistic of them; `bootstrap_sums` the same
for a statistic of their sums, as corpus BLEU is; `bootstrap_prompts` other prompts, for judges that
are as they are; `jackknife` other items, for a positive ratio without a simple variance. Where
there is too little to tell, low and high are NaN. Seeds are fixed: the same numbers give the same
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

LEVEL, TAILS = 0.95, (2.5, 97.5)
RESAMPLES = 2000
BATCH = 250  # resamples in memory at a time


class Interval(NamedTuple):
    """A value and where it lies with 95 % confidence; floats, or arrays of them, one a row."""

    value: Any
    low: Any
    high: Any


class Estimate(NamedTuple):
    """A mean over seeds with its interval, standard error and the error's degrees of freedom;
    floats, or arrays of them. All but the value are NaN where fewer than two seeds were seen."""

    value: Any
    low: Any
    high: Any
    error: Any
    df: Any


def over_seeds(
    values: np.ndarray | Sequence[float],
    *,
    prompts: np.ndarray | Sequence[float] | float = np.nan,
    shared: Any = 0.0,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The mean of the seeds' values and its interval over other seeds and other prompts.

    values: [..., seeds]. prompts: the standard error that each value has from its prompts alone
    (NaN: unknown). shared: [...], the mean covariance that two seeds' values have because they were
    asked the same prompts; 0 where every seed draws its own. bounds: what no value can exceed.

    The mean's variance is s²/S + max(shared, 0), s² the seeds' sample variance: s² holds the seeds'
    own spread and the prompts' that are not shared. Its quantile lies between those of t with S − 1
    degrees of freedom and the normal's, by the shares of the two parts (Cochran 1964, Approximate
    significance levels of the Behrens-Fisher test); with no prompt shared it is Student's t. The
    interval is never narrower than one standard error of the prompts to either side: two seeds that
    happen to agree are not taken for certain, and one interval in twenty still misses.

    Why this one (measured, tests/test_intervals.py): it covers the truth in 94 to 97 % of runs with
    3 to 10 seeds, whether the seeds' spread is 0, 1 or 3 times the prompts' error and whether seeds
    share their prompts or not, and in 94 to 98 % with 2. The percentiles of a two-level bootstrap
    cover 78 to 84 % with 3 seeds and a spread of 3: they take two degrees of freedom for the truth.
    Student's t alone covers half where all seeds answer the same prompts. Satterthwaite's degrees
    of freedom cover 87 % with 2 seeds that share prompts, and so does taking the prompts' variance
    for the seeds' where that is larger, as REML does.
    """
    values = np.asarray(values, float)
    if values.ndim == 0:
        raise ValueError("values is a single number; give one value a seed, [..., seeds]")
    n = values.shape[-1]
    value = values.mean(-1) if n else np.full(values.shape[:-1], np.nan)
    if n < 2:
        return _estimate(value, *[np.full_like(value, np.nan)] * 4)
    own, common = values.var(-1, ddof=1) / n, np.maximum(shared, 0.0)
    few = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    many = stats.norm.ppf((1 + LEVEL) / 2)
    variance = own + common
    part = np.divide(own, variance, out=np.ones_like(variance), where=common > 0)
    quantile = part * few + (1 - part) * many
    df = np.where(part < 1, special.stdtridf((1 + LEVEL) / 2, quantile), float(n - 1))
    least = np.nan_to_num(np.square(prompts)) * np.ones_like(values)
    least = np.sqrt(least.mean(-1) / n)
    error = np.maximum(np.sqrt(variance), least / quantile)
    low, high = value - quantile * error, value + quantile * error
    if bounds is not None:
        low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    return _estimate(value, low, high, error, df)


def seeds_and_prompts(
    points: np.ndarray,
    counts: np.ndarray | None = None,
    *,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """The mean over seeds of each seed's mean over prompts, and its interval: see `over_seeds`.

    points: [..., seeds, prompts], a prompt's part in each seed, summed where it has several; NaN
    where the seed was not asked it. A column is one prompt: what two seeds share is read from the
    columns that both have. counts: of how many each part is the sum, 0 for none; by default 1 where
    points is a number. A seed's value is Σ points / Σ counts. bounds: of one point, as (0, 100) of
    a win in %; then a seed whose prompts all say the same is not taken to be certain: its error is
    that of its prompts with one at either bound (after Agresti and Coull 1998). Seeds without any
    prompt raise ValueError.
    """
    points = np.asarray(points, float)
    counts = np.isfinite(points) * 1.0 if counts is None else np.asarray(counts, float)
    points = np.where(counts > 0, points, 0.0)
    totals = counts.sum(-1)
    if not points.size or not totals.all():
        raise ValueError("a seed has no prompt; leave its row out of points")
    values = points.sum(-1) / totals
    # what each prompt adds to its seed's deviation (the linearised ratio)
    parts = (points - values[..., None] * counts) / totals[..., None]
    asked = (counts > 0).sum(-1)
    squares = (parts**2).sum(-1)
    if bounds is not None:
        ends = sum((end - values) ** 2 for end in bounds)
        squares = squares + ends / totals**2
    seeds, common = points.shape[-2], ((counts > 0).sum(-2) > 1).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        prompts = np.sqrt(squares * asked / (asked - 1))
        products = (parts.sum(-2) ** 2).sum(-1) - (parts**2).sum((-2, -1))
        shared = products / (seeds * (seeds - 1)) * common / (common - 1)
    shared = np.where(common > 1, shared, 0.0)
    return over_seeds(
        values, prompts=np.where(asked > 1, prompts, np.nan), shared=shared, bounds=bounds
    )


class Share(NamedTuple):
    """A share from 0 to 1 with its interval, and of how many independent yes or no answers it is
    as good as."""

    value: float
    low: float
    high: float
    size: float


def share_over_seeds(shares: Sequence[float], answers: int) -> Share:
    """The mean of the seeds' shares and its interval over other seeds, as a probability has it.

    shares: [seeds], each of many yes or no answers that may hang together (as metrics of the same
    texts do). answers: how many in all. By Korn and Graubard 1998 (Confidence Intervals for
    Proportions with Small Expected Number of Positive Counts Estimated from Survey Data): Clopper
    and Pearson's interval of as many independent answers as have this spread over seeds, less for
    few seeds, and never more than there are. It cannot leave 0 to 1, and seeds that all say the
    same are no certainty. NaNs around a single seed.
    """
    shares = np.asarray(shares, float)
    n, value = len(shares), float(shares.mean()) if len(shares) else np.nan
    if n < 2:
        return Share(value, np.nan, np.nan, np.nan)
    variance = shares.var(ddof=1) / n
    if value in (0.0, 1.0):  # no spread is seen: as good as one answer a seed
        size = float(n)
    else:
        size = min(value * (1 - value) / variance, answers) if variance else answers
        size = size * float(stats.norm.ppf(0.975) / stats.t.ppf(0.975, n - 1)) ** 2
    yes = value * size
    return Share(
        value,
        float(stats.beta.ppf(0.025, yes, size - yes + 1)) if yes else 0.0,
        float(stats.beta.ppf(0.975, yes + 1, size - yes)) if yes < size else 1.0,
        size,
    )


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


def _estimate(*fields: Any) -> Estimate:
    return Estimate(*(float(one) if np.ndim(one) == 0 else one for one in fields))
