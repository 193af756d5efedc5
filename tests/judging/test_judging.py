"""Judges, verdicts and win rates: arithmetic by hand, intervals against independent code, a learnt
judge on a toy world."""

from __future__ import annotations

import copy
import gzip
import hashlib
import itertools
import json
import math
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from scipy import stats
from transformers import TrainerCallback

from rpo_nb import pocket
from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import DataConfig, EvaluationConfig
from rpo_nb.experiment import inputs
from rpo_nb.intervals import bootstrap_prompts
from rpo_nb.judging import language_models, reward_model
from rpo_nb.judging import verdicts as judging_verdicts
from rpo_nb.judging.judges import Checker
from rpo_nb.judging.rates import (
    RULE,
    accuracy_by_gap,
    averaged,
    distrust,
    held_out_comparisons,
    judge_agreement,
    quality,
    win_rates,
)
from rpo_nb.judging.reward_model import (
    RewardModel,
    RewardNet,
    bradley_terry,
    comparisons,
    train_reward_model,
)
from rpo_nb.judging.verdicts import (
    AVERAGE,
    COLUMNS,
    KEYS,
    ask,
    judge_pairs,
    judges_for,
    load_verdicts,
    make_pairs,
)
from rpo_nb.policy.encoding import encode
from rpo_nb.policy.load import load_policy
from rpo_nb.policy.logps import collate
from rpo_nb.reporting import rendering, tables

CELL = {
    "preset": "paper",
    "size": "small",
    "tau": 1.0,
    "seed": 0,
    "method": "rpo",
    "baseline": "sft",
}
DATA = DataConfig(max_prompt_tokens=16, max_completion_tokens=16)


class Scripted:
    """A judge that answers by a function of (prompt, first, second)."""

    def __init__(self, answer, name="scripted", identity="1"):
        self.answer, self.name, self.identity = answer, name, identity

    def compare(self, prompts, first, second):
        return [self.answer(p, a, b) for p, a, b in zip(prompts, first, second, strict=True)]


def pair_table(rows, **cell):
    """rows: (prompt_id, method completion, baseline completion)."""
    frame = pd.DataFrame(
        [
            {
                **CELL,
                **cell,
                "prompt_id": i,
                "prompt": f"prompt {i}",
                "method_completion": a,
                "baseline_completion": b,
            }
            for i, a, b in rows
        ]
    )
    return frame[[*KEYS, "prompt", "method_completion", "baseline_completion"]]


def verdict_table(verdicts, **cell):
    """One verdict a prompt: method, baseline, tie or None."""
    orders = {v: (v, v) for v in ("method", "baseline")} | {
        "tie": ("method", "baseline"),
        None: (None, "method"),
    }
    return pd.DataFrame(
        [
            {
                "judge": "scripted",
                **CELL,
                **cell,
                "prompt_id": i,
                "first_order": orders[v][0],
                "second_order": orders[v][1],
                "verdict": v,
            }
            for i, v in enumerate(verdicts)
        ]
    )[COLUMNS]


def by_length(prompt, completion):
    return float(len(completion))


# ---- asking --------------------------------------------------------------------------------------


def test_answers_are_named_by_method_whatever_the_order():
    pairs = pair_table([(0, "longer text", "short"), (1, "short", "longer text")])
    rows = judge_pairs(Checker(by_length), pairs)
    assert list(rows.columns) == COLUMNS
    assert rows[["first_order", "second_order", "verdict"]].values.tolist() == [
        ["method"] * 3,
        ["baseline"] * 3,
    ]


def test_an_exact_tie_of_scores_flips_and_is_a_tie():
    rows = judge_pairs(Checker(by_length), pair_table([(0, "abc", "xyz"), (1, "same", "same")]))
    assert (
        rows[["first_order", "second_order", "verdict"]].values.tolist()
        == [["method", "baseline", "tie"]] * 2
    )


@pytest.mark.parametrize("place", ["first", "second"])
def test_pure_position_bias_is_all_flips_and_fifty_percent(place):
    pairs = pair_table([(i, "a" * (i + 1), "b") for i in range(8)])
    rows = judge_pairs(Scripted(lambda p, a, b: place), pairs)
    rates = win_rates(rows).iloc[0]
    assert (rates["flips"], rates["ties"], rates["n"], rates["win_rate"]) == (8, 8, 8, 50.0)
    trust = quality(rows, pairs).iloc[0]
    assert (trust["flips"], trust["flips_to_first"]) == (1.0, 1.0 if place == "first" else 0.0)


def test_no_answer_is_null_in_either_order_and_counted():
    # four pairs in one order, then in the other
    answers = iter(["first", None, "first", None, "second", "second", None, None])
    rows = judge_pairs(
        Scripted(lambda *_: next(answers)), pair_table([(i, "a", "b") for i in range(4)])
    )
    assert rows["verdict"].tolist() == ["method", None, None, None]
    assert rows["first_order"].tolist() == ["method", None, "method", None]
    rates = win_rates(rows).iloc[0]
    assert (rates["n"], rates["nulls"], rates["win_rate"]) == (1, 3, 100.0)


@pytest.mark.parametrize("empty", ["", "  \n", None])
def test_an_empty_completion_is_null_and_the_judge_is_not_asked(empty):
    asked = []
    judge = Scripted(lambda p, a, b: asked.append(p) or "first")
    rows = judge_pairs(
        judge, pair_table([(0, empty, "text"), (1, "text", empty), (2, "text", "text")])
    )
    assert rows["verdict"].tolist() == [None, None, "tie"] and asked == ["prompt 2"] * 2


def test_checker_is_the_ground_truth():
    prompt = "Write one sentence about a red kettle in the garden. Keep a calm tone, mention rain and avoid very."
    good = "The red kettle gently stands in the garden with rain."
    assert pocket.score(prompt, good) > pocket.score(prompt, "You stupid idiot.")
    judge = Checker(pocket.score)
    assert judge.compare(
        [prompt] * 2, [good, "You stupid idiot."], ["You stupid idiot.", good]
    ) == ["first", "second"]
    assert judge.identity == Checker(pocket.score).identity != Checker(by_length).identity


def test_scores_are_asked_once_per_distinct_text():
    calls = []
    judge = Checker(lambda p, c: calls.append((p, c)) or len(c))
    judge.compare(["p", "p", "q"], ["a", "b", "a"], ["b", "a", "a"])
    judge.score(["q", "p", "p"], ["a", "b", "a"])  # the same texts: kept
    assert sorted(calls) == [("p", "a"), ("p", "b"), ("q", "a")]


def test_a_score_that_is_not_finite_names_the_prompt():
    with pytest.raises(ValueError, match="checker.*nan.*the second prompt"):
        Checker(lambda p, c: math.nan if "second" in p else 1.0).score(
            ["the first prompt", "the second prompt"], ["a", "b"]
        )


# ---- pairs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def profile():
    own = {
        "presets.paper.rpo_tau": 1.0,
        "presets.released.rpo_tau": 5.0,
        "presets.fixed.rpo_tau": 0.1,
    }
    return load_profile("smoke", sizes="small", seeds="0,1", taus="0.1,1.0", **own)


def generation_table(profile, prompts=(3, 5)):
    rows = []
    for preset, settings in profile.presets.items():
        swept = (
            sorted({settings.rpo_tau, *profile.taus})
            if preset in profile.table4_presets
            else [settings.rpo_tau]
        )
        cells = [
            (m, settings.dro_tau if m == "dro" else math.nan) for m in profile.methods if m != "rpo"
        ]
        for method, tau in cells + [("rpo", tau) for tau in swept]:
            rows += [
                {
                    "preset": preset,
                    "method": method,
                    "size": "small",
                    "tau": tau,
                    "seed": seed,
                    "prompt_id": i,
                    "prompt": f"prompt {i}",
                    "reference": "r",
                    "completion": f"{preset} {method} {tau} {seed} {i}",
                }
                for seed in profile.seeds
                for i in prompts
            ]
    return pd.DataFrame(rows)


def test_table3_pairs_rpo_at_its_own_tau_with_every_baseline(profile):
    pairs = make_pairs(generation_table(profile), profile, table="table3")
    assert len(pairs) == 3 * 2 * 2 * 5  # presets, seeds, prompts, baselines
    assert dict(pairs.groupby("preset")["tau"].unique().map(list)) == {
        "fixed": [0.1],
        "paper": [1.0],
        "released": [5.0],
    }
    assert set(pairs["baseline"]) == {"reference", "sft", "best_of_k", "kto", "dro"}
    row = pairs.query(
        "preset == 'paper' and baseline == 'dro' and seed == 1 and prompt_id == 5"
    ).iloc[0]
    assert (row["method_completion"], row["baseline_completion"]) == (
        "paper rpo 1.0 1 5",
        "paper dro 1.0 1 5",
    )


def test_table4_pairs_every_tau_of_its_presets(profile):
    pairs = make_pairs(generation_table(profile), profile, table="table4")
    assert len(pairs) == 2 * 2 * 2 * 3 * 2  # presets, seeds, prompts, baselines, temperatures
    assert set(pairs["preset"]) == {"paper", "fixed"} and set(pairs["tau"]) == {0.1, 1.0}
    assert (
        pairs["method_completion"].str.contains("rpo").all()
        and not pairs["baseline_completion"].str.contains("rpo").any()
    )


def test_table4_has_the_presets_own_tau_beside_the_grid(profile):
    off_grid = load_profile(
        "smoke", sizes="small", seeds="0,1", taus="0.1,1.0", **{"presets.fixed.rpo_tau": 0.3}
    )
    pairs = make_pairs(generation_table(off_grid), off_grid, table="table4")
    assert {preset: set(rows["tau"]) for preset, rows in pairs.groupby("preset")} == {
        "paper": {0.1, 1.0},
        "fixed": {0.1, 0.3, 1.0},
    }


def test_pairs_follow_the_profile_and_skip_what_was_not_run(profile):
    own = {"presets.fixed.rpo_tau": 0.1}
    narrow = load_profile(
        "smoke", sizes="small", seeds="1", preset="fixed", methods="rpo,sft,kto", **own
    )
    pairs = make_pairs(generation_table(profile).query("method != 'kto'"), narrow, table="table3")
    assert (
        set(pairs["seed"]) == {1}
        and set(pairs["preset"]) == {"fixed"}
        and set(pairs["baseline"]) == {"sft"}
    )


def test_nothing_to_judge_is_an_empty_table(profile, tmp_path):
    # not a preset of Table IV
    narrow = load_profile("smoke", sizes="small", seeds="0", preset="released")
    pairs = make_pairs(generation_table(profile), narrow, table="table4")
    rows = ask({0: [Checker(by_length)]}, pairs, tmp_path, "table4")
    assert list(rows.columns) == COLUMNS and rows.empty and load_verdicts(tmp_path, "table4").empty
    assert win_rates(rows).empty and quality(rows, pairs).empty


def test_pairs_refuse_answers_to_other_prompts(profile):
    generations = generation_table(profile)
    cut = generations.query("not (method == 'kto' and preset == 'paper' and prompt_id == 5)")
    with pytest.raises(ValueError, match="paper small 0: kto has no row for prompt 5"):
        make_pairs(cut, profile, table="table3")
    with pytest.raises(ValueError, match="table is 'table5'"):
        make_pairs(generations, profile, table="table5")


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
    assert got["ci_low"] < 51.25 < got["ci_high"]


def test_one_seed_has_no_std_and_all_null_has_no_rate():
    got = win_rates(
        pd.concat(
            [verdict_table(["method", "baseline"]), verdict_table([None, None], baseline="kto")]
        )
    )
    got = got.set_index("baseline")
    assert math.isnan(got.loc["sft", "std"]) and got.loc["sft", "win_rate"] == 50
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


# ---- judges by log-odds --------------------------------------------------------------------------


class ByOdds:
    """A language model whose log-odds for the text shown first are a function of (first, second);
    None: no answer."""

    again = (language_models.FAILED,)

    def __init__(self, odds, name="model", identity="1", failed=0):
        self.odds, self.name, self.identity, self.notes = (
            odds,
            name,
            identity,
            Counter({language_models.FAILED: failed}),
        )

    def replies(self, prompts, first, second):
        odds = [self.odds(a, b) for a, b in zip(first, second, strict=True)]
        return [
            language_models.Reply(None) if x is None else language_models.reply_to(x) for x in odds
        ]

    def remarks(self):
        return []


LEANS = {"good": 1.0, "fair": 0.25, "bad": -1.0, "poor": -0.25}


def leaning(first, second):
    """Prefers by LEANS, with a leaning of 0.5 to the first."""
    return None if "none" in (first, second) else 0.5 + LEANS[first] - LEANS[second]


def test_log_odds_average_over_the_orders_by_hand():
    pairs = pair_table(
        [
            (0, "good", "bad"),
            (1, "poor", "fair"),
            (2, "bad", "good"),
            (3, "fair", "fair"),
            (4, "none", "bad"),
            (5, " ", "bad"),
        ]
    )
    rows = judge_pairs(ByOdds(leaning), pairs)
    assert list(rows.columns) == [*COLUMNS, *AVERAGE]
    # 0: 2.5 and -1.5 for RPO, so twice RPO; 1: 0 and -1, of which exactly 0 counts for the first
    assert rows["log_odds"].tolist()[:4] == pytest.approx([2.0, -0.5, -2.0, 0.0])
    assert rows["verdict"].tolist() == ["method", "tie", "baseline", "tie", None, None]
    assert rows["verdict_average"].tolist() == ["method", "baseline", "baseline", "tie", None, None]
    assert rows["log_odds"].isna().tolist() == [False] * 4 + [True] * 2


def test_files_of_both_kinds_of_judges_stand_side_by_side(tmp_path):
    pairs = pair_table([(0, "good", "bad"), (1, "poor", "fair")])
    rows = ask({0: [Checker(by_length), ByOdds(leaning)]}, pairs, tmp_path, "table3")
    pd.testing.assert_frame_equal(load_verdicts(tmp_path, "table3"), rows, check_dtype=False)
    with gzip.open(tmp_path / "verdicts" / "table3-checker.jsonl.gz", "rt") as lines:
        # the bytes of the pocket's files stay
        assert all(list(json.loads(line)) == COLUMNS for line in lines)
    again = ask({0: [Checker(by_length), ByOdds(leaning)]}, pairs, tmp_path, "table3")
    pd.testing.assert_frame_equal(again, rows, check_dtype=False)
    average = averaged(rows)
    assert average["judge"].unique().tolist() == ["model"] and average["verdict"].tolist() == [
        "method",
        "baseline",
    ]
    assert averaged(rows[rows["judge"].eq("checker")]).empty
    rates = [
        win_rates(table).set_index("judge").loc["model", "win_rate"] for table in (rows, average)
    ]
    assert rates == [75, 50]


def test_a_judge_that_could_not_be_reached_is_asked_again_and_one_that_cannot_decide_is_not(
    tmp_path, capsys
):
    pairs = pair_table([(0, "good", "none")])
    for failed, up_to_date in ((1, False), (0, False), (0, True)):
        ask({0: [ByOdds(leaning, failed=failed)]}, pairs, tmp_path, "table3")
        assert ("up to date" in capsys.readouterr().out) is up_to_date


def test_table3_of_the_averages_is_a_table_of_its_own(profile, tmp_path):
    rows = judge_pairs(
        ByOdds(leaning), pair_table([(0, "good", "bad"), (1, "poor", "fair"), (2, "fair", "fair")])
    )
    table = tables.table3(win_rates(averaged(rows)), profile)
    rendering.write_table(table, tmp_path, "table3_average")
    written = rendering.read_table(tmp_path / "tables" / "table3_average.csv")
    assert list(written.columns) == rendering.COLUMNS["table3"] and written[
        "win_rate"
    ].tolist() == [50]
    assert "judge model" in (tmp_path / "tables" / "table3_average.md").read_text()
    long = tables.long_format({"table3": table, "table3_average": table}, profile).drop(
        columns="table"
    )
    assert long.iloc[0].equals(long.iloc[1]) and long["metric"].tolist() == ["win_rate/model"] * 2
    # of a later run, whose judges give no log-odds
    rendering.write_table(table, tmp_path, "table3")
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"table3"}


def test_agreement_between_judges_by_hand():
    pairs = pair_table(
        [(0, "a b c", "a"), (1, "a", "a b"), (2, "a b", "a"), (3, "a b", "c d"), (4, "a b", "c")]
    )
    rows = pd.concat(
        [
            verdict_table(["method", "method", "tie", "baseline", "method"], judge="checker"),
            verdict_table(["method", "baseline", "method", "tie", None]),
        ]
    )
    table = judge_agreement(rows, pairs).set_index(["judge", "other"])
    got = table.loc["scripted", "checker"]
    assert (got["n"], got["same"], got["agreement"]) == (
        4,
        pytest.approx(1 / 4),
        pytest.approx((1 + 0 + 0.5) / 3),
    )
    chance = (2 * 2 + 1 * 1 + 1 * 1) / 16  # of method, baseline and tie
    assert (
        got["kappa"]
        == pytest.approx((1 / 4 - chance) / (1 - chance))
        == table.loc["checker", "scripted"]["kappa"]
    )
    # the longer: method, baseline, method, tie, method, beside the checker's method, method, tie,
    # baseline, method
    rule = table.loc[RULE, "checker"]
    assert (rule["n"], rule["agreement"]) == (5, pytest.approx((1 + 0 + 0.5 + 1) / 4))
    assert len(table) == 6


def test_an_averaged_judge_stands_beside_its_strict_self():
    pairs = pair_table([(0, "good", "bad"), (1, "poor", "fair"), (2, "bad", "good")])
    table = judge_agreement(judge_pairs(ByOdds(leaning), pairs), pairs).set_index(
        ["judge", "other"]
    )
    got = table.loc["model", "model, average"]
    assert (got["n"], got["agreement"]) == (3, pytest.approx((1 + 0.5 + 1) / 3))


def test_kappa_is_unknown_where_both_always_say_one_thing():
    pairs = pair_table([(0, "a", "b"), (1, "c", "d")])
    rows = pd.concat(
        [verdict_table(["method"] * 2, judge="checker"), verdict_table(["method"] * 2)]
    )
    assert (
        judge_agreement(rows, pairs)
        .set_index(["judge", "other"])
        .loc[("scripted", "checker"), "kappa"]
        != 0
    )
    assert judge_agreement(rows, pairs)["kappa"].isna().sum() == 2


def trusted(judge, texts, truth=by_length):
    """What is said against a judge beside the checker, on pairs of texts."""
    pairs = pair_table([(i, a, b) for i, (a, b) in enumerate(texts)])
    rows = pd.concat([judge_pairs(j, pairs) for j in (Checker(truth), judge)])
    return distrust(quality(rows, pairs), judge_agreement(rows, pairs))


WORDS_APART = [("a " * (1 + i % 5) + "end", "b " * (1 + (i + 2) % 5) + "end") for i in range(40)]


def test_a_judge_that_only_flips_is_named_and_one_that_agrees_is_not():
    assert (
        trusted(
            Scripted(lambda p, a, b: "first" if len(a) > len(b) else "second"),
            WORDS_APART,
            truth=by_first_letter,
        )
        != []
    )
    said = trusted(ByOdds(lambda a, b: 1.5), WORDS_APART)
    assert len(said) == 1 and said[0].startswith(
        "Judge model changes its answer with the order on 100% of the pairs"
    )
    assert (
        "answers with the completion shown first in 100%" in said[0]
        and "agrees with checker in 50% [50%, 50%]" in said[0]
    )
    assert said[0].endswith("its verdicts prove the path, not quality.")
    assert (
        trusted(
            Scripted(lambda p, a, b: "first" if a[0] < b[0] else "second"),
            WORDS_APART,
            truth=by_first_letter,
        )
        == []
    )


def by_first_letter(prompt, completion):
    return -float(ord(completion[0]))


def test_a_ruler_of_length_is_no_judge():
    said = trusted(
        Scripted(lambda p, a, b: "first" if len(a) > len(b) else "second"),
        WORDS_APART,
        truth=lambda p, c: len(c) + 5.0 * (c == "a end"),
    )  # in 8 of 10 the longer
    assert "prefers the longer completion in 100% of its decided verdicts" in said[0]
    assert 'no more than "longer wins" does' in said[0]


def test_a_judge_without_answers_is_named():
    said = trusted(ByOdds(lambda a, b: None), WORDS_APART)
    assert said == [
        "Judge model gives no verdict on 100% of the pairs: its verdicts prove the "
        "path, not quality."
    ]


def test_a_learnt_judge_is_measured_on_its_held_out_comparisons():
    pairs = pair_table([(i, a, b) for i, (a, b) in enumerate(WORDS_APART)])
    judge = Scripted(lambda p, a, b: "first" if a < b else "second", name="reward_model")
    for correct, sentences in ((1.0, 0), (0.0, 1)):
        judge.held_out = pd.DataFrame(
            {"seed": 0, "prompt_id": range(20), "gap": 1.0, "correct": correct}
        )
        rows = judge_pairs(judge, pairs)
        said = distrust(quality(rows, pairs, {0: [judge]}), judge_agreement(rows, pairs))
        assert len(said) == sentences and all(
            "is right in 0% of 20 held-out comparisons" in sentence for sentence in said
        )


# ---- files ---------------------------------------------------------------------------------------


def test_verdict_files_are_reused_and_rewritten_byte_for_byte(tmp_path, capsys):
    pairs = pd.concat(
        [pair_table([(9, "abc", "d"), (2, "a", "b")], seed=s) for s in (1, 0)], ignore_index=True
    )
    calls = []
    bench = {
        s: [Scripted(lambda p, a, b: calls.append(p) or ("first" if len(a) > len(b) else None))]
        for s in (0, 1)
    }
    rows = ask(bench, pairs, tmp_path, "table3")
    path = tmp_path / "verdicts" / "table3-scripted.jsonl.gz"
    before, asked = hashlib.sha256(path.read_bytes()).hexdigest(), len(calls)
    assert asked == 8 and rows[["seed", "prompt_id"]].values.tolist() == [
        [0, 2],
        [0, 9],
        [1, 2],
        [1, 9],
    ]

    again = ask(bench, pairs, tmp_path, "table3")
    assert len(calls) == asked and "up to date" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again, rows, check_dtype=False)
    pd.testing.assert_frame_equal(load_verdicts(tmp_path, "table3"), again)

    path.unlink()
    ask(bench, pairs.iloc[::-1], tmp_path, "table3")
    assert len(calls) == 2 * asked and hashlib.sha256(path.read_bytes()).hexdigest() == before
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert json.loads(lines[0])["verdict"] is None and str(tmp_path) not in "".join(lines)


@pytest.mark.parametrize("change", ["pairs", "judge", "file"])
def test_changed_inputs_are_judged_again(tmp_path, change):
    pairs, calls = pair_table([(0, "abc", "d")]), []

    def bench(identity):
        return {0: [Scripted(lambda p, a, b: calls.append(p) or "first", identity=identity)]}

    ask(bench("1"), pairs, tmp_path, "table3")
    if change == "file":
        (tmp_path / "verdicts" / "table3-scripted.jsonl.gz").write_bytes(gzip.compress(b""))
    pairs = pairs.replace("abc", "abcd") if change == "pairs" else pairs
    ask(bench("2" if change == "judge" else "1"), pairs, tmp_path, "table3")
    assert len(calls) == 4


def test_missing_verdicts_and_missing_judges_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no verdicts of table4"):
        load_verdicts(tmp_path, "table4")
    with pytest.raises(ValueError, match="seed 1, which has no judges"):
        ask({0: [Checker(by_length)]}, pair_table([(0, "a", "b")], seed=1), tmp_path, "table3")


def test_the_checker_is_refused_where_it_knows_nothing(profile, tmp_path):
    own = profile.model_copy(
        update={"data": profile.data.model_copy(update={"source": "mine.jsonl"})}
    )
    with pytest.raises(ValueError, match="checker.*pocket world.*mine.jsonl"):
        judges_for(own, tmp_path, 0)


# ---- the learnt judge ----------------------------------------------------------------------------


def test_bradley_terry_closed_form():
    margin = torch.tensor([-30.0, -1.0, 0.0, 2.5], dtype=torch.float64)
    assert torch.allclose(bradley_terry(margin), torch.log1p(torch.exp(-margin)))
    assert bradley_terry(torch.tensor(0.0)).item() == pytest.approx(math.log(2))
    assert torch.isfinite(bradley_terry(torch.tensor([-1e4, 1e4]))).all()


def test_comparisons_are_within_a_prompt_and_by_reward():
    rows = pd.DataFrame(
        [(i, f"p{i}", c, r) for i in range(20) for c, r in (("a", 1.0), ("b", 3.0), ("c", 3.0))],
        columns=["prompt_id", "prompt", "completion", "reward"],
    )
    train, report = comparisons(rows, most=1000, seed=0)
    # 15 % of 20 prompts; b and c are equal: two comparisons a prompt
    assert len(report) == 3 * 2 and len(train) == 17 * 2
    assert not set(train["prompt_id"]) & set(report["prompt_id"])
    assert set(zip(train["better"], train["worse"], train["gap"], strict=True)) == {
        ("b", "a", 2.0),
        ("c", "a", 2.0),
    }
    few, _ = comparisons(rows, most=5, seed=0)
    assert len(few) == 5 and not few.equals(comparisons(rows, most=5, seed=1)[0])
    with pytest.raises(ValueError, match="held_out has 1 prompts"):
        comparisons(rows[rows["prompt_id"].eq(0)], most=10, seed=0)


@pytest.fixture(scope="module")
def toy():
    """Completions whose reward is whether they are kind."""
    rng = np.random.default_rng(0)
    things, places = "lamp rope chair boat book".split(), "garden kitchen harbour".split()
    rows = []
    for i in range(60):
        thing, place = rng.choice(things), rng.choice(places)
        for reward, end in ((8.0, "thank you"), (2.0, "you fool")):
            prompt = f"please write about the {thing} in the {place} {i % 7 * 'very '}"
            rows.append(
                {
                    "prompt_id": i,
                    "prompt": prompt,
                    "completion": f"the {rng.choice(things)} stands in the {place} {end}",
                    "reward": reward,
                    "model": "",
                }
            )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module", params=["tiny_t5", "tiny_llama"])
def reference(request, tmp_path_factory):
    model, tokenizer = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    # the fixture's weights are drawn large, and learning from there is slow
    if request.param == "tiny_t5":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = type(model)(
                type(model.config)(**model.config.to_dict() | {"initializer_factor": 1.0})
            )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(reference, toy):
    return train_reward_model(
        reference, toy, config=EvaluationConfig(judge_epochs=8), data=DATA, seed=0, threads=1
    )


def test_reward_model_learns_what_can_be_learnt(trained, toy):
    assert len(trained.held_out) == 9 and trained.held_out["correct"].mean() == 1.0
    kind, rude = toy["completion"][0], toy["completion"][1]
    assert trained.compare([toy["prompt"][0]] * 2, [kind, rude], [rude, kind]) == [
        "first",
        "second",
    ]
    bench = {0: [trained]}
    table = accuracy_by_gap(held_out_comparisons(bench))
    assert table[["gap", "accuracy", "n"]].values.tolist() == [["above 3", 1.0, 9]]


def test_saved_and_loaded_scores_are_the_same(trained, toy, tmp_path):
    prompts, completions = toy["prompt"][:20], toy["completion"][:20]
    trained.save(tmp_path / "judge")
    trained.save(tmp_path / "judge")  # again, over the first
    loaded = RewardModel.load(tmp_path / "judge")
    # without scores kept from other batches
    fresh = RewardModel(trained.net, trained.tokenizer, trained.settings)
    assert np.array_equal(loaded.score(prompts, completions), fresh.score(prompts, completions))
    assert loaded.identity == trained.identity
    pd.testing.assert_frame_equal(loaded.held_out, trained.held_out)
    assert [p.name for p in tmp_path.iterdir()] == ["judge"]
    for path in (tmp_path / "judge").glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="holds no reward model"):
        RewardModel.load(tmp_path)


def test_training_is_determined_by_the_seed(reference, toy):
    state, config = torch.get_rng_state(), EvaluationConfig(judge_epochs=1, judge_comparisons=20)
    first, again, other = (
        train_reward_model(reference, toy, config=config, data=DATA, seed=s, threads=1)
        for s in (0, 0, 1)
    )
    assert first.identity == again.identity != other.identity
    assert torch.equal(state, torch.get_rng_state())  # and the caller's draws are left alone


@pytest.mark.parametrize("loss", ["bradley_terry", "regression"])
def test_passes_change_the_memory_of_a_step_and_not_its_gradient(
    reference, loss, monkeypatch, tmp_path
):
    """One pass, four, or one a prompt with its layers computed twice: the first step's gradient and
    the number of steps."""
    policy, tokenizer = load_policy(reference)
    names = ["a boat", "a lamp", "a chair in the garden", "a rope and a book"]
    table = pd.DataFrame(
        [
            (f"write {i % 7 * 'very '} about {i}", names[a], names[b])
            for i in range(12)
            for a, b in itertools.combinations(range(2 + i % 3), 2)
        ],
        columns=["prompt", "better", "worse"],
    )
    settings = {
        "max_prompt_tokens": DATA.max_prompt_tokens,
        "max_completion_tokens": DATA.max_completion_tokens,
    }
    regression = loss == "regression"
    rewards = {
        (prompt, name): i % 5 - 2.0
        for i, (prompt, name) in enumerate(itertools.product(table["prompt"].unique(), names))
    }
    examples = reward_model._examples(table, tokenizer, settings, rewards if regression else None)
    terms = {len(example["rewards" if regression else "pairs"]) for example in examples}
    # a mean of the passes' means would be another gradient
    assert terms == ({2, 3, 4} if regression else {1, 3, 6})
    longest = max(sum(len(p) + len(c) for p, c in example["rows"]) for example in examples)

    class Gradients(TrainerCallback):
        def __init__(self):
            self.first = None

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            self.first = self.first or {
                name: weight.grad.clone()
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }

    def first_step(budget):
        monkeypatch.setattr(reward_model, "TOKENS_A_PASS", budget)
        torch.manual_seed(0)
        net, seen, passes = RewardNet(copy.deepcopy(policy), intercept=regression), Gradients(), []
        net.register_forward_hook(lambda *_: passes.append(1))
        trainer = reward_model._trainer(
            net,
            examples,
            tokenizer.pad_token_id,
            output_dir=str(tmp_path),
            seed=3,
            epochs=1,
            bf16=False,
        )
        trainer.add_callback(seen)
        trainer.train()
        return (
            seen.first,
            len(passes),
            trainer.state.global_step,
            any(getattr(part, "gradient_checkpointing", False) for part in net.modules()),
        )

    whole, *counts = first_step(8 * longest)
    assert counts == [2, 2, False]
    for budget, expected in ((2 * longest, [6, 2, False]), (longest - 1, [12, 2, True])):
        parts, *counts = first_step(budget)
        assert counts == expected and parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_regression_estimates_the_standardised_reward(reference, toy, gated, tmp_path):
    config = EvaluationConfig(judge_epochs=8, judge_loss="regression")
    judge = train_reward_model(
        reference, toy, config=config, data=DATA, seed=0, threads=1, gated=gated
    )
    rewards = np.array(toy["reward"])
    error = (
        judge.score(toy["prompt"], toy["completion"]) - (rewards - rewards.mean()) / rewards.std()
    )
    assert (
        np.sqrt((error**2).mean()) < 0.3
        and len(judge.held_out) == 9
        and judge.held_out["correct"].mean() == 1
    )
    judge.save(tmp_path / "judge")
    loaded, fresh = (
        RewardModel.load(tmp_path / "judge"),
        RewardModel(judge.net, judge.tokenizer, judge.settings),
    )
    assert loaded.identity == judge.identity and np.array_equal(
        *(j.score(toy["prompt"], toy["completion"]) for j in (loaded, fresh))
    )


def test_regression_learns_from_the_completions_that_are_compared_and_no_others():
    rows = pd.DataFrame(
        {
            "prompt_id": [0, 0, 0, 0, 1],
            "prompt": ["a"] * 4 + ["b"],
            "completion": ["x", "y", "z", "x", "x"],
            "reward": [9.0, 4.0, 1.0, 7.0, 5.0],
        }
    )
    train = pd.DataFrame({"prompt": ["a", "a"], "better": ["x", "x"], "worse": ["y", "y"]})
    # of 8, twice scored, and 4
    assert reward_model._standardised(Dataset.from_pandas(rows), train) == {
        ("a", "x"): 1.0,
        ("a", "y"): -1.0,
    }


@pytest.mark.parametrize("bf16", [False, True])
def test_an_adapter_learns_alone_and_its_scores_survive_its_folder(reference, toy, bf16, tmp_path):
    config, more = (
        EvaluationConfig(judge_epochs=1, judge_comparisons=20, judge_lora_rank=4),
        {"threads": 1, "bf16": bf16},
    )
    judge = train_reward_model(reference, toy, config=config, data=DATA, seed=0, **more)
    own = load_policy(reference, bf16=bf16)[0].state_dict()
    inside = {
        name.replace("base_layer.", ""): weight
        for name, weight in judge.net.policy.get_base_model().state_dict().items()
    }
    assert all(torch.equal(inside[name], weight) for name, weight in own.items())
    adapter = [weight for name, weight in inside.items() if "lora_B" in name]
    assert adapter and all(
        weight.abs().max() > 0 and weight.dtype == torch.float32
        for weight in (*adapter, *judge.net.heads.parameters())
    )
    assert (
        train_reward_model(reference, toy, config=config, data=DATA, seed=0, **more).identity
        == judge.identity
    )
    fresh = RewardModel(judge.net, judge.tokenizer, judge.settings).score(
        toy["prompt"], toy["completion"]
    )
    for base in ("", "someone/policy"):
        judge.save(tmp_path / "judge", base=base)
        assert not (tmp_path / "judge" / "model.safetensors").exists()
        assert json.loads((tmp_path / "judge" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ] == (base or str(reference))
        loaded = RewardModel.load(tmp_path / "judge", base=str(reference) if base else "")
        assert loaded.identity == judge.identity and np.array_equal(
            loaded.score(toy["prompt"], toy["completion"]), fresh
        )
        assert next(loaded.net.policy.parameters()).dtype == (
            torch.bfloat16 if bf16 else torch.float32
        )


def test_a_reward_model_of_another_loss_or_rank_is_another_file(tmp_path, monkeypatch, toy):
    names = []
    monkeypatch.setattr(inputs, "reference_path", lambda *_: "some/policy")
    monkeypatch.setattr(inputs, "splits", lambda *_: SimpleNamespace(held_out=toy))
    monkeypatch.setattr(judging_verdicts, "cached", lambda folder, make: names.append(folder.name))
    monkeypatch.setattr(reward_model.RewardModel, "load", lambda folder, base: None)
    for overrides in (
        {},
        {"judge_loss": "bradley_terry", "judge_lora_rank": 0},
        {"judge_loss": "regression"},
        {"judge_lora_rank": 8},
    ):
        judging_verdicts.reward_model(
            load_profile(
                "smoke", **{f"evaluation.{name}": value for name, value in overrides.items()}
            ),
            tmp_path,
            0,
        )
    assert names[0] == names[1] and len(set(names)) == 3


def test_scores_do_not_depend_on_the_batch(trained, toy):
    prompts, completions = (
        toy["prompt"][:40],
        [" ".join(c.split()[: 3 + i % 6]) for i, c in enumerate(toy["completion"][:40])],
    )
    order = np.random.default_rng(0).permutation(40)

    def fresh():
        return RewardModel(trained.net, trained.tokenizer, trained.settings)

    together = fresh().score(prompts, completions)
    assert np.array_equal(
        fresh().score([prompts[i] for i in order], [completions[i] for i in order]), together[order]
    )
    interrupted = fresh()  # as a run that goes on has scored before what it asks about now
    interrupted.score(prompts[::3], completions[::3])
    assert np.array_equal(interrupted.score(prompts, completions), together)
    single = fresh()
    alone = [float(single.score([p], [c])[0]) for p, c in zip(prompts, completions, strict=True)]
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-4)


def test_score_is_the_gated_sum_and_the_head(tiny_t5):
    """The formula of RewardNet's docstring, one row at a time and without padding."""
    model, tokenizer = tiny_t5
    torch.manual_seed(0)
    net = RewardNet(model)
    rows = encode(
        tokenizer,
        ["write about the boat", "write"],
        ["the boat lies in the harbour", "the cat"],
        max_prompt_tokens=9,
        max_completion_tokens=9,
    )
    with torch.no_grad():
        got = net(**collate(rows, pad_id=0))["scores"]
        for score, (prompt, completion) in zip(got, rows, strict=True):
            out = model(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[0, *completion]]),
                output_hidden_states=True,
            )
            hidden, logps = out.decoder_hidden_states[-1][0], out.logits[0].log_softmax(-1)
            total = net.heads["linear"](torch.cat([hidden[-1], hidden[1:].mean(0)]))
            for t, token in enumerate(completion):
                gate = torch.log1p(net.heads["gate"](torch.cat([hidden[t], hidden[t + 1]])).exp())
                total = total + gate * logps[t, token]
            assert score.item() == pytest.approx(total.item(), rel=1e-5)
