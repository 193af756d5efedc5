"""Judges, verdicts and win rates: arithmetic by hand, intervals against independent code, a learnt
judge on a toy world."""

from __future__ import annotations

import gzip
import hashlib
import json
import math

import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config.loading import load_profile
from rpo_nb.judging.judges import Checker
from rpo_nb.judging.rates import quality, win_rates
from rpo_nb.judging.verdicts import COLUMNS, ask, judge_pairs, judges_for, load_verdicts, make_pairs
from tests.judging.pairs import Scripted, by_length, pair_table

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
    prompt = (
        "Write one sentence about a red kettle in the garden. Keep a calm tone, mention rain "
        "and avoid very."
    )
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


def test_a_checker_whose_rule_lies_in_no_file_is_refused():
    typed: dict = {"__name__": "__main__"}
    exec("def rule(prompt, completion):\n    return 1.0", typed)
    rule = typed["rule"]
    rule.__module__ = "nowhere"
    with pytest.raises(ValueError, match="'rule' lies in no file.*put it into a module"):
        _ = Checker(rule).identity
