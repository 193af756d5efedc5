"""Truth."""

import math

import numpy as np
import pytest
from scipy.special import logsumexp

from rpo_nb import partition
from rpo_nb.studies import truth

# Truth --------------------------------------------------------------------------------------------


def test_an_enumerated_language_is_a_distribution_and_its_v_star_is_the_exact_sum():
    pool = truth.enumerated(None, prompts=3, completions=200, longest=4)
    assert pool.rewards.shape == pool.sums.shape == pool.lengths.shape == (3, 200)
    assert pool.rewards.mean() == pytest.approx(
        0, abs=1e-9
    ) and pool.rewards.std() == pytest.approx(1)
    # 13 texts: all of them are drawn
    everything = truth.enumerated(None, prompts=1, completions=20_000, longest=2)
    first = np.unique(
        everything.sums.round(9) + 1e3 * everything.rewards.round(9), return_index=True
    )[1]
    sums, rewards = everything.sums[0, first], everything.rewards[0, first]
    assert len(first) == 13 and logsumexp(sums) == pytest.approx(0, abs=1e-9)
    for tau in (0.1, 1.0, 5.0):
        found = tau * partition.log_partition(sums, rewards, np.zeros(13, int), tau=tau)
        np.testing.assert_allclose(found, everything.truth(tau)[0], rtol=1e-9)


def test_v_star_of_samples_lies_between_their_mean_and_their_best():
    rewards = np.random.default_rng(0).normal(size=(5, 100))
    small, large = truth.v_star(rewards, 0.01), truth.v_star(rewards, 1e4)
    np.testing.assert_allclose(small, rewards.max(1) - 0.01 * math.log(100), atol=0.01)
    np.testing.assert_allclose(large, rewards.mean(1), atol=1e-3)
    table = truth.truth_table(rewards, "x", (0.01, 10.0))
    assert (
        table["largest_share"].iloc[0] > 0.5 > 0.05 > table["largest_share"].iloc[1]
        and (table["error"] > 0).all()
    )


def test_errors_hold_their_identities_and_know_who_is_consistent():
    pool = truth.enumerated(None, prompts=8, completions=400, longest=4)
    table = truth.errors(pool, "enumerated_on_policy", ks=(4, 64), taus=(0.5, 2.0), draws=6)
    assert (
        list(table.columns) == truth.BIAS_COLUMNS
        and len(table) == len(truth.ESTIMATORS) * 2 * 2 * 2
    )
    np.testing.assert_allclose(table["mse"], table["bias"] ** 2 + table["std"] ** 2, rtol=1e-9)
    assert ((table["ci_low"] <= table["bias"]) & (table["bias"] <= table["ci_high"])).all() and set(
        table["n"]
    ) == {48}
    cell = table.set_index(["estimator", "reduce", "tau", "k"])["mse"]
    for name in ("monte_carlo", "leave_one_out", "pooled"):
        assert cell[name, "sum", 2.0, 64] < cell[name, "sum", 2.0, 4] / 4
        assert cell[name, "sum", 2.0, 64] == cell[name, "mean", 2.0, 64]
    # it grows by log K
    assert cell["empirical", "mean", 2.0, 64] > cell["empirical", "mean", 2.0, 4]
    stronger = truth.errors(
        truth.enumerated(0.5, prompts=8, completions=400, longest=4),
        "x",
        ks=(64,),
        taus=(2.0,),
        draws=6,
    )
    # a stronger writer: too high
    assert (
        stronger.set_index("estimator").loc[["monte_carlo", "leave_one_out", "pooled"], "ci_low"]
        > 0
    ).all()
