"""Every interval against scipy, or against how often it covers a truth that is known."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU
from scipy import stats

from rpo_nb import intervals

VALUES = np.random.default_rng(3).gamma(2.0, 1.0, 40)


def covered(intervals_of, truth, trials=300):
    """How often an interval of a trial's generator holds the truth."""
    found = [intervals_of(np.random.default_rng(trial)) for trial in range(trials)]
    return np.mean([low <= truth <= high for _, low, high in found])


def simulated(seeds, ratio, common, runs=3000, prompts=40):
    """Points [runs, seeds, prompts] of mean 0. common: share of a prompt's variance that it has in
    every seed. ratio: the seeds' part of the mean's standard error, in the prompts' part of it."""
    rng = np.random.default_rng([seeds, ratio, int(10 * common)])
    own = rng.normal(size=(runs, seeds, prompts)) * np.sqrt(1 - common)
    same = rng.normal(size=(runs, 1, prompts)) * np.sqrt(common)
    error = np.sqrt((common + (1 - common) / seeds) / prompts)
    return own + same + rng.normal(size=(runs, seeds, 1)) * ratio * error * np.sqrt(seeds)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("common", [0, 0.5, 0.9])
def test_seeds_and_prompts_cover_the_truth_as_often_as_they_say(seeds, ratio, common):
    points = simulated(seeds, ratio, common)
    if not common:  # every seed has prompts of its own: no two share a column
        runs, _, prompts = points.shape
        wide = np.full((runs, seeds, seeds * prompts), np.nan)
        for seed in range(seeds):
            wide[:, seed, seed * prompts : (seed + 1) * prompts] = points[:, seed]
        points = wide
    found = intervals.seeds_and_prompts(points)
    assert 0.93 < np.mean((found.low <= 0) & (found.high >= 0)) < 0.97


@pytest.mark.parametrize("ratio", [0, 1, 3])
def test_two_seeds_cover_at_least_as_often_as_they_say(ratio):
    found = intervals.seeds_and_prompts(simulated(2, ratio, 0.5))
    assert np.mean((found.low <= 0) & (found.high >= 0)) > 0.93


def test_a_two_level_bootstrap_would_not():
    """Why `over_seeds` is none: its percentiles of three seeds."""
    rng, hits = np.random.default_rng(0), []
    for points in simulated(3, 3, 0.5, runs=300):
        drawn = rng.integers(0, 3, (300, 3)), rng.integers(0, 40, (300, 40))
        means = points[drawn[0][:, :, None], drawn[1][:, None, :]].mean((1, 2))
        low, high = np.percentile(means, [2.5, 97.5])
        hits.append(low <= 0 <= high)
    assert np.mean(hits) < 0.88


def test_seeds_with_prompts_of_their_own_have_students_interval():
    points = np.full((4, 40), np.nan)
    for seed in range(4):
        points[seed, 10 * seed : 10 * seed + 10] = VALUES[10 * seed : 10 * seed + 10] + seed
    found, means = intervals.seeds_and_prompts(points), np.nanmean(points, 1)
    known = stats.ttest_1samp(means, 0)
    assert found.value == pytest.approx(means.mean()) and found.df == 3
    assert found.error == pytest.approx(stats.sem(means))
    interval = known.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_the_variance_of_shared_prompts_is_that_of_the_two_way_analysis():
    """Balanced seeds × prompts: (MS seeds + MS prompts − MS rest) / (S·P), from sums of squares."""
    points = np.random.default_rng(1).normal(size=(4, 30)) + 2 * np.random.default_rng(2).normal(
        size=(1, 30)
    )
    mean, seeds, prompts = points.mean(), points.mean(1), points.mean(0)
    rest = points - seeds[:, None] - prompts + mean
    squares = (
        30 * ((seeds - mean) ** 2).sum() / 3,
        4 * ((prompts - mean) ** 2).sum() / 29,
        (rest**2).sum() / 87,
    )
    found = intervals.seeds_and_prompts(points)
    known = (squares[0] + squares[1] - squares[2]) / 120
    assert found.error**2 == pytest.approx(known)
    assert 3 < found.df < np.inf


def test_seeds_that_happen_to_agree_do_not_make_a_number_certain():
    points = np.array([[0.0, 100.0] * 50, [100.0, 0.0] * 50])  # both 50, by other prompts
    found = intervals.seeds_and_prompts(points, bounds=(0, 100))
    prompts = np.sqrt(points.var(1, ddof=1).mean() / 100 / 2)
    assert found.value == 50 and (found.high - found.low) / 2 == pytest.approx(prompts, rel=0.03)
    assert intervals.over_seeds([50.0, 50.0]).error == 0  # nothing is known of the prompts


def test_unanimous_verdicts_are_less_certain_the_fewer_they_are():
    few, many = (
        intervals.seeds_and_prompts(np.full((3, n), 100.0), bounds=(0, 100)) for n in (2, 200)
    )
    assert few.low < many.low < 100 == few.high == many.high


def test_a_prompt_with_several_parts_weighs_as_many():
    points = np.array([[3.0, 0.0], [1.0, 1.0]])
    found = intervals.seeds_and_prompts(points, np.array([[3.0, 1.0], [2.0, 2.0]]))
    assert found.value == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_a_seed_without_a_prompt_and_a_lone_number_are_refused():
    with pytest.raises(ValueError, match="a seed has no prompt"):
        intervals.seeds_and_prompts(np.array([[1.0, 2.0], [np.nan, np.nan]]))
    with pytest.raises(ValueError, match="one value a seed"):
        intervals.over_seeds(np.float64(3.0))


def test_student_is_scipys_interval_of_a_mean():
    found = intervals.student(VALUES)
    known = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert found.value == VALUES.mean()
    assert found[1:] == pytest.approx((known.low, known.high))


@pytest.mark.parametrize("statistic", [np.mean, np.median, np.std])
def test_bootstrap_is_scipys_with_its_seed(statistic):
    found = intervals.bootstrap(VALUES, statistic, resamples=999, seed=4)
    known = stats.bootstrap(
        (VALUES,), statistic, n_resamples=999, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert found == (statistic(VALUES), known.low, known.high)
    assert found == intervals.bootstrap(VALUES, statistic, resamples=999, seed=4)


def test_bootstrap_resamples_all_rows_alike():
    table = np.stack([VALUES, 2 * VALUES + 1])
    value, low, high = intervals.bootstrap(table)
    assert value == pytest.approx(table.mean(1)) and low[0] < value[0] < high[0]
    assert (low[1], high[1]) == pytest.approx((2 * low[0] + 1, 2 * high[0] + 1))


def test_bootstrap_covers_a_mean_as_often_as_it_says():
    draw = lambda rng: intervals.bootstrap(rng.normal(5, 2, 60), resamples=400)  # noqa: E731
    assert 0.90 < covered(draw, 5.0) < 0.98


def test_sums_of_items_give_the_interval_of_a_ratio():
    """Of n equal denominators the ratio of sums is a mean: the bootstrap of that mean."""
    parts = np.stack([VALUES, np.ones(40)], axis=1)
    ratio = lambda row: row[0] / row[1]  # noqa: E731
    found = intervals.bootstrap_sums(parts, ratio, resamples=4000)
    known = intervals.bootstrap(VALUES, resamples=4000)
    assert found.value == pytest.approx(known.value)
    assert found[1:] == pytest.approx(known[1:], abs=0.05)


def test_sums_of_n_gram_counts_score_as_sacrebleu_does():
    texts, references = ["a b c d e f", "a b x d e"], ["a b c d e g", "a b c d e"]
    scores = [BLEU().corpus_score([a], [[b]]) for a, b in zip(texts, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])
    score = lambda r: BLEU.compute_bleu(list(r[:4]), list(r[4:8]), r[8], r[9]).score  # noqa: E731
    whole = BLEU().corpus_score(texts, [references]).score
    assert intervals.bootstrap_sums(counts, score, resamples=5).value == pytest.approx(whole)


def test_prompts_are_drawn_with_all_their_seeds():
    """Two seeds with the same verdicts say no more than one: the interval is not narrower."""
    points = np.random.default_rng(0).integers(0, 2, (1, 50)).astype(float)
    one = intervals.bootstrap_prompts(points, np.ones((1, 50)))
    both = intervals.bootstrap_prompts(np.tile(points, (2, 1)), np.ones((2, 50)))
    known = stats.bootstrap(
        (points[0],), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert one == pytest.approx(both)
    assert one == pytest.approx((points.mean(), known.low, known.high))


def test_prompts_with_unequal_parts_weigh_what_they_hold():
    found = intervals.bootstrap_prompts(np.array([[3.0, 0.0]]), np.array([[3.0, 1.0]]))
    assert found == (0.75, 0.0, 1.0)


def test_the_jackknife_of_a_mean_is_students_on_a_log_scale():
    """The jackknife's error of a mean is its standard error; of its logarithm, about that over the
    mean."""
    found = intervals.jackknife(lambda keep: VALUES[keep].mean(), 40, fewest=2)
    half = stats.t.ppf(0.975, 39) * stats.sem(VALUES) / VALUES.mean()
    assert found.value == pytest.approx(VALUES.mean())
    assert np.log(found.high / found.low) / 2 == pytest.approx(half, rel=0.02)


@pytest.mark.parametrize(
    "found",
    [
        intervals.student([2.0]),
        intervals.over_seeds([2.0]),
        intervals.seeds_and_prompts(np.array([[1.0, 3.0]])),
        intervals.bootstrap([2.0]),
        intervals.bootstrap([2.0, 2.0], fewest=8),
        intervals.bootstrap_prompts(np.array([[2.0]]), np.array([[1.0]])),
        intervals.jackknife(lambda keep: 2.0, 3, fewest=8),
    ],
)
def test_too_little_to_tell_has_a_value_and_no_bounds(found):
    assert found.value == 2.0 and np.isnan(found[1:]).all()


def test_nothing_at_all_has_not_even_a_value():
    none = np.zeros((1, 0))
    for found in (
        intervals.student([]),
        intervals.bootstrap([]),
        intervals.bootstrap_prompts(none, none),
    ):
        assert np.isnan(found).all()


def test_equal_values_are_their_own_bounds():
    assert intervals.bootstrap([0.1] * 7) == (np.mean([0.1] * 7),) * 3
