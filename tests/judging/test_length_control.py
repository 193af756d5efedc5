"""Length-controlled win rates: beside statsmodels and sklearn, and in worlds whose truth is
known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit

from rpo_nb.judging.length_control import COLUMNS, fit, length_controlled, length_notes, scaled
from tests.judging.pairs import pair_table, verdict_table


def world(theta, phi, *, prompts=120, seeds=2, lean=60.0, baselines=("sft", "kto"), seed=0):
    """(verdicts, pairs) of a judge whose odds for the method are θ + φ·tanh(Δ/sd) + γ, γ the
    prompt's own and standard normal; the method writes `lean` characters more."""
    rng, verdicts, pairs = np.random.default_rng(seed), [], []
    for s in range(seeds):
        hard = rng.normal(0, 1, prompts)
        for baseline in baselines:
            more = np.round(rng.normal(lean, 60, prompts)).astype(int)
            odds = theta + phi * np.tanh(more / more.std(ddof=1)) + hard
            wins = rng.random(prompts) < expit(odds)
            cell = {"seed": s, "baseline": baseline}
            said = ["method" if won else "baseline" for won in wins]
            texts = [(i, "x" * (400 + more[i]), "y" * 400) for i in range(prompts)]
            for frame, rows in (
                (verdicts, verdict_table(said, **cell)),
                (pairs, pair_table(texts, **cell)),
            ):
                frame.append(rows.assign(prompt_id=rows["prompt_id"] + 10_000 * s))
    return pd.concat(verdicts, ignore_index=True), pd.concat(pairs, ignore_index=True)


def truth(theta):
    """100·mean σ(θ + γ) over standard normal γ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return 100 * (expit(theta + nodes) * weights).sum() / weights.sum()


# ---- the regression ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    lengths, hard = np.tanh(rng.normal(0.5, 1, 200)), rng.normal(0, 1, 200)
    return rng.choice([0.0, 0.5, 1.0], 200, p=[0.3, 0.1, 0.6]), lengths, hard


def test_without_a_prior_it_is_a_binomial_glm(sample):
    wins, lengths, hard = sample
    design = np.column_stack([np.ones(200), lengths, hard])
    theirs = sm.GLM(wins, design, family=sm.families.Binomial()).fit()
    found = fit(*sample, ridge=1e-9)
    assert found.length_effect == pytest.approx(theirs.params[1], abs=1e-4)
    at_zero = expit(design @ (theirs.params * [1, 0, 1]))
    assert found.rate == pytest.approx(at_zero.mean(), abs=1e-5)
    assert found.fitted == pytest.approx(theirs.fittedvalues, abs=1e-4)


def test_the_shares_have_the_error_of_the_delta_method(sample):
    """The sandwich covariance of the GLM, put through the rate's gradient."""
    wins, lengths, hard = sample
    design = np.column_stack([np.ones(200), lengths, hard])
    theirs = sm.GLM(wins, design, family=sm.families.Binomial()).fit(cov_type="HC0")
    at_zero = expit(design @ (theirs.params * [1, 0, 1]))
    gradient = (at_zero * (1 - at_zero)) @ (design * [1, 0, 1]) / 200
    error = np.sqrt(gradient @ theirs.cov_params() @ gradient)
    found = fit(*sample, ridge=1e-9)
    assert found.points.mean() == pytest.approx(found.rate)
    assert (found.points - at_zero).std() / np.sqrt(200) == pytest.approx(error, rel=1e-3)


def test_without_a_difference_of_length_the_rate_is_the_raw_one(sample):
    wins, _, hard = sample
    assert fit(wins, np.zeros(200), np.zeros(200)).rate == pytest.approx(wins.mean(), abs=1e-6)
    assert scaled(np.full(5, 7.0)).tolist() == [0] * 5 and scaled(np.array([3.0])).tolist() == [0]


@pytest.mark.parametrize("won", [0.0, 1.0])
def test_verdicts_that_are_all_the_same_say_nothing_of_length(won):
    found = fit(np.full(9, won), np.linspace(-1, 1, 9), np.zeros(9))
    assert found.rate == won and np.isnan(found.length_effect)


# ---- the table -----------------------------------------------------------------------------------


def test_where_only_length_differs_the_rate_at_equal_length_is_50():
    table = length_controlled(*world(0.0, 1.5, prompts=400))
    assert list(table.columns) == COLUMNS
    assert (table["win_rate"] > 60).all()
    assert table["lc_win_rate"].tolist() == pytest.approx([50, 50], abs=6)
    assert (table["lc_low"].lt(50) & table["lc_high"].gt(50)).all()
    assert table["length_effect"].tolist() == pytest.approx([1.35, 1.35], abs=0.4)
    assert (table["longer"] > 0.75).all()


def test_where_quality_differs_the_rate_keeps_it_whatever_the_length():
    shorter = length_controlled(*world(1.0, 1.5, prompts=400, lean=-60.0))
    assert (shorter["win_rate"] < 60).all()
    assert shorter["lc_win_rate"].tolist() == pytest.approx([truth(1.0)] * 2, abs=6)
    blind = length_controlled(*world(1.0, 0.0, prompts=400))
    assert blind["lc_win_rate"].tolist() == pytest.approx([truth(1.0)] * 2, abs=6)
    assert blind["lc_win_rate"].tolist() == pytest.approx(blind["win_rate"].tolist(), abs=6)


def test_the_interval_holds_50_in_about_95_of_100_worlds():
    """25 worlds of two cells with three seeds: at least 44 of 50 (99 % of the binomial)."""
    hits = 0
    for seed in range(25):
        table = length_controlled(*world(0.0, 1.0, prompts=80, seeds=3, seed=seed))
        hits += int((table["lc_low"].le(50) & table["lc_high"].ge(50)).sum())
    assert hits >= 44


def test_difficulty_is_what_the_other_comparisons_say_and_never_the_cells_own():
    """With one baseline nothing is known of a prompt; its own verdicts would tell all."""
    alone = length_controlled(*world(0.5, 0.0, baselines=("sft",), lean=0.0))
    assert alone["lc_win_rate"][0] == pytest.approx(alone["win_rate"][0], abs=1.5)
    verdicts, pairs = world(0.0, 1.5)
    both = length_controlled(verdicts, pairs).set_index("baseline")
    turned = verdicts["baseline"].eq("kto")
    other = verdicts.assign(verdict=verdicts["verdict"].mask(turned, "tie"))
    changed = length_controlled(other, pairs).set_index("baseline")
    assert changed.loc["sft", "lc_win_rate"] != both.loc["sft", "lc_win_rate"]
    assert changed.loc["sft", "win_rate"] == both.loc["sft", "win_rate"]


def test_nulls_are_left_out_and_one_seed_has_no_interval():
    verdicts = verdict_table(["method", "baseline", "tie", None, "method", "baseline"])
    pairs = pair_table([(i, "long text " * (i + 1), "a text") for i in range(6)])
    table = length_controlled(verdicts, pairs)
    assert table.loc[0, "n"] == 5 and np.isnan(table.loc[0, "lc_low"])
    assert 0 < table.loc[0, "lc_win_rate"] < 100 and table.loc[0, "longer"] == 1
    assert any("extrapolates" in note for note in length_notes(table))
    far = table.assign(lc_win_rate=table["win_rate"] - 11)
    assert any("more than 10 points" in note for note in length_notes(far))
    assert not any(
        "more than 10 points" in note
        for note in length_notes(table.assign(lc_win_rate=table["win_rate"]))
    )
    lost = length_controlled(verdict_table([None] * 6), pairs)
    assert np.isnan(lost.loc[0, "lc_win_rate"]) and np.isnan(lost.loc[0, "win_rate"])
