"""Decisions against closed testing, noncentral t, scipy's t tests and simulated runs."""

from itertools import chain, combinations

import numpy as np
import pytest
from scipy import stats

from rpo_nb import intervals
from rpo_nb.reporting import decisions
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN


def test_p_is_scipys():
    values = np.random.default_rng(0).normal(0.5, 1, 6)
    one = intervals.over_seeds(values)
    assert decisions.p_value(one.value, one.error, one.df, 0.2) == pytest.approx(
        stats.ttest_1samp(values, 0.2).pvalue
    )


def test_holm_is_the_closure_of_bonferroni():
    """A hypothesis is rejected when every set it belongs to is, each by Bonferroni's test; the
    adjusted p is the largest of these (Marcus, Peritz and Gabriel 1976)."""
    rng = np.random.default_rng(0)
    for p in [rng.beta(0.4, 2, 5) for _ in range(20)] + [np.array([0.01, 0.01, 0.03, 0.2])]:
        n = len(p)
        sets = list(chain.from_iterable(combinations(range(n), k) for k in range(1, n + 1)))
        known = [
            max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(n)
        ]
        assert decisions.holm(p) == pytest.approx(known)


def test_holm_leaves_out_what_has_no_p():
    assert decisions.holm([0.02, np.nan, 0.03]) == pytest.approx([0.04, np.nan, 0.04], nan_ok=True)
    assert np.isnan(decisions.holm([np.nan])).all() and len(decisions.holm([])) == 0


@pytest.mark.parametrize("df", [1, 2, 9])
@pytest.mark.parametrize("level", [0.05, 0.05 / 18])
def test_the_smallest_effect_is_found_in_four_of_five_runs(df, level):
    effect = float(decisions.smallest_effect(2.0, df, level))
    rng = np.random.default_rng(1)
    found = (rng.normal(size=100_000) * 2 + effect) / (2 * np.sqrt(rng.chisquare(df, 100_000) / df))
    assert np.mean(found > stats.t.isf(level / 2, df)) == pytest.approx(0.8, abs=0.01)


def test_cells_are_decided_where_their_interval_says_so_and_never_without_one():
    found = decisions.decide([60, 40, 50.5, 80], [1, 1, 1, np.nan], [9, 9, 9, np.nan], null=50)
    assert found.verdict.tolist() == [HOLDS, FAILS, OPEN, OPEN]
    assert np.isnan(found.smallest[[0, 1, 3]]).all() and np.isnan(found.p[3])
    # one cell was left at the step where the correction stopped
    assert found.smallest[2] == pytest.approx(float(decisions.smallest_effect(1.0, 9)))
    one = intervals.over_seeds([51.0, 53.0, 52.0, 57.0])
    alone = decisions.decide([one.value], [one.error], [one.df], null=50)
    assert (alone.verdict[0] == HOLDS) == (one.low > 50)


def test_of_eighteen_cells_of_noise_none_is_decided_in_95_of_100_claims():
    wrong = 0
    for trial in range(400):
        points = np.random.default_rng(trial).normal(50, 5, (18, 3))
        one = intervals.over_seeds(points)
        wrong += (decisions.decide(one.value, one.error, one.df, null=50).verdict != OPEN).any()
    assert wrong <= 400 * 0.05 + 9  # two standard errors


def test_equal_is_two_one_sided_tests_and_unequal_an_interval_outside_the_margin():
    values = np.random.default_rng(2).normal(0.3, 1, 12)
    one = intervals.over_seeds(values)
    for margin in (0.5, 1.0, 2.0):
        lower = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
        upper = stats.ttest_1samp(values, margin, alternative="less").pvalue
        found = decisions.decide_equal([one.value], [one.error], [one.df], margin=margin)
        assert (found.verdict[0] == HOLDS) == (max(lower, upper) < 0.025)
        assert (found.verdict[0] == HOLDS) == (-margin < one.low and one.high < margin)
        if found.verdict[0] == OPEN:
            assert found.smallest[0] == pytest.approx(max(abs(one.low), abs(one.high)))
    far = decisions.decide_equal([9.0, -9.0], [0.5, 0.5], [9, 9], margin=5)
    assert far.verdict.tolist() == [FAILS, FAILS] and np.isnan(far.smallest).all()


def test_a_cell_of_several_differences_is_equal_when_all_are():
    found = decisions.decide_equal(
        [0.1, 0.2, 0.1, 9.0, 0.1, 4.0],
        [0.5] * 6,
        [9] * 6,
        margin=5,
        groups=["a", "a", "b", "b", "c", "c"],
    )
    assert found.verdict.tolist() == [HOLDS, FAILS, OPEN]


def test_differences_at_the_margin_are_seldom_decided():
    wrong = 0
    for trial in range(400):
        points = np.random.default_rng(trial).normal(5, 2, (6, 4))
        one = intervals.over_seeds(points)
        found = decisions.decide_equal(one.value, one.error, one.df, margin=5)
        wrong += (found.verdict != OPEN).any()
    assert wrong <= 400 * 0.05 + 9


def test_a_margin_of_nothing_is_refused():
    with pytest.raises(ValueError, match="margin is 0"):
        decisions.decide_equal([1.0], [1.0], [3], margin=0)
