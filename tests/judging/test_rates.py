"""Numbers."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb.intervals import bootstrap_prompts
from rpo_nb.judging.rates import quality, temperature_differences, win_rates
from tests.judging.pairs import pair_table, verdict_table

WINNERS = ("method", "baseline")

# ---- numbers -------------------------------------------------------------------------------------


def test_win_rate_std_and_counts_by_hand():
    rows = pd.concat(
        [
            verdict_table(
                ["method", "method", "baseline", "tie", None], seed=0
            ),  # 100·2.5/4 = 62.5
            verdict_table(["method", "baseline", "baseline", "tie", "tie"], seed=1),  # 100·2/5 = 40
        ]
    )
    got = win_rates(rows).iloc[0]
    assert got["win_rate"] == pytest.approx(51.25)
    assert got["std"] == pytest.approx(22.5 / math.sqrt(2))
    assert (got["n"], got["nulls"], got["ties"], got["flips"], got["seeds"]) == (9, 1, 3, 3, 2)
    assert got["ci_low"] == 0 and got["ci_high"] == 100  # two seeds, 22.5 apart
    assert got["error"] > 22.5 / 2 and got["df"] < 10


def test_one_seed_has_no_std_and_all_null_has_no_rate():
    got = win_rates(
        pd.concat(
            [verdict_table(["method", "baseline"]), verdict_table([None, None], baseline="kto")]
        )
    )
    got = got.set_index("baseline")
    assert math.isnan(got.loc["sft", "std"]) and got.loc["sft", "win_rate"] == 50
    assert got.loc["sft", ["ci_low", "ci_high", "error", "df"]].isna().all()
    assert (
        math.isnan(got.loc["kto", "win_rate"])
        and got.loc["kto", "n"] == 0
        and got.loc["kto", "nulls"] == 2
    )


def test_cells_are_kept_apart():
    cells = {("small", 0.1): "method", ("small", 1.0): "baseline", ("xl", 1.0): "tie"}
    rows = pd.concat(
        [verdict_table([verdict] * 3, size=size, tau=tau) for (size, tau), verdict in cells.items()]
    )
    got = win_rates(rows).set_index(["size", "tau"])["win_rate"]
    assert got.to_dict() == {("small", 0.1): 100, ("small", 1.0): 0, ("xl", 1.0): 50}


def test_interval_against_the_binomial_closed_form():
    # A bootstrap of n ones and zeros draws Binomial(n, p)/n exactly.
    won = np.r_[np.ones(120), np.zeros(80)]
    _, low, high = bootstrap_prompts(won[None], np.ones((1, 200)))
    exact = stats.binom(200, 0.6).ppf([0.025, 0.975]) / 200
    assert [low, high] == pytest.approx(exact, abs=0.0101)  # two steps of 1/200


def test_interval_draws_a_prompt_with_all_its_seeds():
    rng = np.random.default_rng(1)
    # the second seed says the same: nothing new
    points = np.repeat(rng.integers(0, 2, (1, 150)).astype(float), 2, axis=0)
    counts = np.ones_like(points)
    assert bootstrap_prompts(points, counts) == pytest.approx(
        bootstrap_prompts(points[:1], counts[:1]), abs=1e-12
    )
    independent = np.stack([points[0], rng.permutation(points[0])])
    draws = np.random.default_rng(2).integers(0, 150, (20_000, 150))
    own = np.percentile(independent[:, draws].mean((0, 2)), [2.5, 97.5])
    assert bootstrap_prompts(independent, counts)[1:] == pytest.approx(own, abs=0.012)


def test_interval_leaves_out_a_seed_that_a_draw_missed():
    points, counts = (
        np.array([[1.0, 0, 0, 0], [1.0, 0, 1, 0]]),
        np.array([[1.0, 0, 0, 0], [1.0, 1, 1, 1]]),
    )
    # three draws in ten do not hold the only prompt of the first seed
    _, low, high = bootstrap_prompts(points, counts)
    assert (low, high) == (0.0, 1.0)


def test_interval_of_unanimous_verdicts_is_a_point_and_of_one_prompt_unknown():
    assert bootstrap_prompts(np.ones((2, 9)), np.ones((2, 9))) == (1.0, 1.0, 1.0)
    assert np.isnan(bootstrap_prompts(np.ones((1, 1)), np.ones((1, 1)))[1:]).all()


def test_a_rates_interval_covers_its_truth_whatever_the_seeds_do():
    """Policies whose true win rates differ by seed, on prompts of their own: 95 of 100 intervals
    hold the mean of such policies."""
    for spread in (0.0, 0.1):
        hits = []
        for trial in range(100):
            rng = np.random.default_rng([7, trial])
            rows = pd.concat(
                [
                    verdict_table(
                        list(np.where(rng.random(60) < 0.6 + rng.normal() * spread, *WINNERS)),
                        seed=seed,
                    ).assign(prompt_id=range(60 * seed, 60 * seed + 60))
                    for seed in range(4)
                ]
            )
            got = win_rates(rows).iloc[0]
            hits.append(got["ci_low"] <= 60 <= got["ci_high"])
        assert 0.9 < np.mean(hits) < 0.99


def test_differences_between_temperatures_are_paired_by_seed_and_prompt():
    """All that moves is one prompt of ten, in every seed; its noise is the prompts' alone."""
    rng, parts = np.random.default_rng(0), []
    for seed in range(3):
        base = rng.choice(["method", "baseline"], 10)
        moved = np.where(np.arange(10) == seed, "method", base)
        parts += [
            verdict_table(list(verdicts), seed=seed, tau=tau)
            for tau, verdicts in ((0.1, base), (1.0, moved), (5.0, base))
        ]
    rows = pd.concat(parts)
    moves = temperature_differences(rows)
    assert moves[["tau_low", "tau_high"]].to_numpy().tolist() == [[0.1, 1], [0.1, 5], [1, 5]]
    rates = win_rates(rows).set_index("tau")["win_rate"]
    expected = [rates[1] - rates[0.1], 0, rates[5] - rates[1]]
    assert moves["difference"].tolist() == pytest.approx(expected)
    assert (moves["error"] < win_rates(rows)["error"].min()).all() and (moves["n"] == 30).all()


def test_a_hundred_cells_take_seconds():
    rng = np.random.default_rng(0)
    rows = pd.concat(
        [
            verdict_table(
                list(rng.choice(["method", "baseline", "tie"], 200)), seed=seed, size=f"{cell}"
            )
            for cell in range(100)
            for seed in (0, 1)
        ]
    )
    start = time.process_time()
    first = win_rates(rows)
    assert time.process_time() - start < 20 and len(first) == 100  # 2.5 s alone on a core
    pd.testing.assert_frame_equal(
        first.head(3), win_rates(rows[rows["size"].isin(["0", "1", "10"])])
    )


def test_quality_by_hand():
    pairs = pair_table(
        [(0, "a b c", "a"), (1, "a", "a b"), (2, "a b", "a"), (3, "a b", "c d"), (4, "a b", "c")]
    )
    truth = verdict_table(["method", "method", "tie", "baseline", "method"], judge="checker")
    mine = verdict_table(["method", "baseline", "method", "tie", None])
    got = quality(pd.concat([truth, mine]), pairs).set_index("judge").loc["scripted"]
    assert (got["verdicts"], got["nulls"]) == (5, 1)
    assert got["flips"] == got["ties"] == pytest.approx(1 / 4)
    assert got["identical"] == 0 and got["flips_differing"] == got["flips"]
    # of prompts 0 to 2 one answer each, of 3 method then baseline; 4 has one answer
    assert got["first"] == pytest.approx(5 / 9)
    # prompts 0, 1 and 2 decided, each for the longer text
    assert got["longer"] == pytest.approx(1.0)
    # prompts 0, 1, 3: the truth ties on 2, the verdict lacks on 4
    assert got["agreement"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert math.isnan(got["held_out"])
