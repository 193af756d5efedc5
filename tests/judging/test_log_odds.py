"""Judges by log-odds."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pandas as pd
import pytest

from rpo_nb.judging import language_models
from rpo_nb.judging.judges import Checker, Judge
from rpo_nb.judging.rates import RULE, averaged, distrust, judge_agreement, quality, win_rates
from rpo_nb.judging.verdicts import AVERAGE, COLUMNS, ask, judge_pairs, load_verdicts
from rpo_nb.reporting import rendering, tables
from tests.judging.pairs import Scripted, by_length, pair_table, verdict_table

# ---- judges by log-odds --------------------------------------------------------------------------


class ByOdds(Judge):
    """A language model whose log-odds for the text shown first are a function of (first, second);
    None: no answer."""

    by_log_odds = True

    def __init__(self, odds, name="model", identity="1", failed=0):
        self.odds, self.name, self.identity, self.notes = (
            odds,
            name,
            identity,
            Counter({language_models.FAILED: failed}),
        )

    def compare(self, prompts, first, second):
        return [reply.choice for reply in self.replies(prompts, first, second)]

    def failed(self):
        return self.notes[language_models.FAILED]

    def replies(self, prompts, first, second):
        odds = [self.odds(a, b) for a, b in zip(first, second, strict=True)]
        return [
            language_models.Reply(None) if x is None else language_models.reply_to(x) for x in odds
        ]


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
