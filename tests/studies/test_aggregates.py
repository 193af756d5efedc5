"""Interquartile mean, probability of improvement and profiles: against scipy, by hand, and by
simulated experiments."""

import numpy as np
import pytest
from scipy import stats

from rpo_nb.studies import aggregates


def scores(seed, regimes=4, seeds=5):
    return np.random.default_rng(seed).normal(size=(regimes, seeds))


def test_values_are_those_of_the_paper_by_hand_and_by_scipy():
    assert aggregates.iqm(np.arange(1.0, 9).reshape(2, 4)) == 4.5  # of 3, 4, 5, 6
    # an outer quarter may be anything
    assert aggregates.iqm(np.array([[-1e9, 2.0], [4.0, 1e9]])) == 3.0
    first, second = scores(0).round(1), scores(1).round(1)
    by_regime = [
        stats.mannwhitneyu(a, b).statistic / (len(a) * len(b))
        for a, b in zip(first, second, strict=True)
    ]
    found = aggregates.improvement(first, second)
    assert found == pytest.approx(np.mean(by_regime)) == 1 - aggregates.improvement(second, first)
    assert aggregates.improvement(first, first) == 0.5
    survival = stats.ecdf(first.ravel()).sf
    for at in (-0.5, 0.0, first[0, 0]):
        assert aggregates.profile(first, at) == pytest.approx(float(survival.evaluate(at)))


def test_the_interval_of_a_mean_is_students_t_of_the_seeds_means():
    values = scores(2)
    found = aggregates.over_seeds(np.mean, values)
    known = stats.ttest_1samp(values.mean(0), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert found.value == pytest.approx(values.mean()) and found.df == 4
    # a seed's own prompts are part of it, whatever the seeds say
    wider = aggregates.over_seeds(np.mean, values, prompts=np.full(5, 10.0))
    assert wider.high - wider.value >= 10 / np.sqrt(5)


def test_few_runs_that_agree_are_not_sure():
    ahead, behind = np.ones((6, 10)), np.zeros((6, 10))
    for seeds in (2, 10):
        found = aggregates.share_over_seeds(
            aggregates.improvement, ahead[:, :seeds], behind[:, :seeds]
        )
        known = stats.binomtest(seeds, seeds).proportion_ci(0.95, method="exact")
        assert found.value == found.high == 1 and found.low == pytest.approx(known.low)
    one = aggregates.share_over_seeds(aggregates.improvement, ahead[:, :1], behind[:, :1])
    assert one.value == 1 and np.isnan(one[1:]).all()
    with pytest.raises(ValueError, match="scores differ in shape"):
        aggregates.share_over_seeds(aggregates.improvement, ahead, behind[:, :3])


@pytest.mark.parametrize("seeds", [3, 10])
def test_a_probability_of_improvement_covers_the_true_one(seeds):
    """First over second with a lead of one standard deviation of a run, seeds shared by regimes."""
    rng, lead = np.random.default_rng(0), 1.0
    # a run's score varies by its own noise and its seed's, with variance 1 each
    truth = stats.norm.cdf(lead / np.sqrt(4))
    covered = []
    for _ in range(300):
        both = rng.normal(size=(2, 6, seeds)) + rng.normal(size=(2, 1, seeds))
        found = aggregates.share_over_seeds(aggregates.improvement, both[0] + lead, both[1])
        covered.append(found.low <= truth <= found.high)
    assert np.mean(covered) >= 0.92, np.mean(covered)


def drawn_anew(values, rng, draws=200):
    """The interval of the paper: the seeds of each regime are drawn anew, 95 %."""
    places = rng.integers(values.shape[1], size=(draws, *values.shape))
    again = np.take_along_axis(np.broadcast_to(values, places.shape), places, -1)
    return np.percentile([aggregates.iqm(one) for one in again], [2.5, 97.5])


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("common", [0.0, 1.0])  # of a seed in all regimes, beside 1 of a run
def test_intervals_cover_whether_or_not_regimes_share_their_seeds(seeds, common):
    rng, level = np.random.default_rng(0), np.arange(6.0)[:, None] / 2 - 1.25
    covered, of_the_paper = [], []
    for i in range(400):
        own = rng.normal(size=(6, seeds)) + common * rng.normal(size=seeds)
        found = aggregates.over_seeds(aggregates.iqm, level + own)
        covered.append(found.low <= 0 <= found.high)
        if i < 100:
            low, high = drawn_anew(level + own, rng)
            of_the_paper.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.985, np.mean(covered)
    if common:
        assert np.mean(of_the_paper) < 0.8, np.mean(of_the_paper)
