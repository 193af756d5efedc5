"""Defects of the file, defects of a row."""

import gzip
import json
from decimal import Decimal

import pytest

from rpo_nb.data.defects import COLUMNS, DEFECTS
from tests.data.rows import (
    EXPECTED,
    GOOD,
    ROWS,
    lines,
    load,
    reasons,
    triples,
    ultrafeedback,
)

# ---- defects of the file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, reason, action, completions",
    [
        ("", "line is blank", "dropped", 0),
        ("plain words", "line is not JSON", "dropped", 0),
        (json.dumps(ROWS[1])[:150], "line is not JSON", "dropped", 0),
        ("[" * 100_000, "line is not JSON", "dropped", 0),
        (
            "9" * 5000,
            "line is not JSON",
            "dropped",
            0,
        ),  # beyond the interpreter's limit for integers
        ("7", "row is not an object", "dropped", 0),
        ("[]", "row is not an object", "dropped", 0),
        ("null", "row is not an object", "dropped", 0),
        ('{"some": "thing"}', "row has no known keys", "dropped", 0),
        (f"[{json.dumps(ROWS[1])}]", "array of objects on one line", "repaired", 2),
        (
            f"{json.dumps(ROWS[1])} {json.dumps(ultrafeedback('Third.'))}",
            "several objects on one line",
            "repaired",
            4,
        ),
        (
            json.dumps(ROWS[1]).replace("Fog.", "Fo\tg."),
            "raw control characters in JSON",
            "repaired",
            2,
        ),
        (json.dumps(ROWS[1]) + "\r", "line ends in CR LF", "repaired", 2),
        (
            json.dumps(ROWS[1]).replace('"response"', '"model": "m9", "response"', 1),
            "key is given twice",
            "kept",
            2,
        ),
        (
            json.dumps(ROWS[1]).encode().replace(b"Fog", b"F\xffg"),
            "text is not valid Unicode",
            "repaired",
            2,
        ),
    ],
    ids=range(15),
)
def test_a_line_between_two_good_ones(line, reason, action, completions, tmp_path):
    last = ultrafeedback("The last.")
    feedback, report = load(lines(tmp_path / "x.jsonl", GOOD, line, last))
    assert [(row["line"], row["reason"], row["action"]) for row in report] == [(2, reason, action)]
    assert len(feedback) == 4 + completions
    assert triples(feedback)[:2] == EXPECTED[:2] and feedback["prompt"][-1] == "The last."


def test_what_repairs_read():
    pass_through = "One.\u2028Two.\u2029Three.\x85Four."
    feedback, _ = load([ultrafeedback(answers=[("a\ud800b", 3), (pass_through, 4)])])
    assert feedback["completion"][:] == ["a\ufffdb", pass_through]


def test_duplicate_key_takes_the_last_value_and_names_the_field(tmp_path):
    text = json.dumps(GOOD).replace(
        '"overall_score": 9.0', '"overall_score": 9.0, "overall_score": 2.0'
    )
    feedback, report = load(lines(tmp_path / "x.jsonl", text))
    assert feedback["reward"][:] == [2.0, 4.5]
    assert reasons(report) == [(1, "completions[0].overall_score", "key is given twice", "kept")]


def test_bom_crlf_and_line_separators(tmp_path):
    text = json.dumps(ultrafeedback(answers=[("One.\u2028Two.", 3), ("b", 4)]), ensure_ascii=False)
    path = lines(tmp_path / "x.jsonl", "\ufeff" + text, ROWS[1], end="\r\n")
    feedback, report = load(path)
    assert len(feedback) == 4 and feedback["completion"][0] == "One.\u2028Two."
    assert reasons(report) == [
        (1, "", "byte-order mark", "repaired"),
        (1, "completions[0].response", "text has control characters", "kept"),
        (1, "", "line ends in CR LF", "repaired"),
    ]


def test_json_file_may_be_lines_or_have_a_bom(tmp_path):
    assert triples(load(lines(tmp_path / "x.json", *ROWS))[0]) == EXPECTED
    (tmp_path / "y.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode())
    feedback, report = load(tmp_path / "y.json")
    assert triples(feedback) == EXPECTED and [row["reason"] for row in report] == [
        "byte-order mark"
    ]


def test_cut_gzip_keeps_what_came_before(tmp_path):
    rows = [ultrafeedback(f"Prompt {i}") for i in range(400)]
    whole = gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0)
    (tmp_path / "x.jsonl.gz").write_bytes(whole[:-200])
    feedback, report = load(tmp_path / "x.jsonl.gz")
    read = len(set(feedback["prompt"]))
    assert 0 < read < 400
    assert report[-1]["reason"] == "file is damaged from here on" and report[-1]["line"] == read + 1


# ---- defects of a row ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, field, reason",
    [
        (lambda row: row.pop("instruction"), "instruction", "text is missing"),
        (lambda row: row.update(instruction=None), "instruction", "text is missing"),
        (lambda row: row.update(instruction=""), "instruction", "text is empty"),
        (lambda row: row.update(instruction=" \t\n\u00a0"), "instruction", "text is empty"),
        (lambda row: row.update(instruction=["a"]), "instruction", "text is not a string"),
        (lambda row: row.pop("completions"), "completions", "completions are missing"),
        (lambda row: row.update(completions=None), "completions", "completions are missing"),
        (
            lambda row: row.update(completions={"0": {}}),
            "completions",
            "completions are not a list",
        ),
        (lambda row: row.update(completions=[]), "completions", "completions are an empty list"),
    ],
)
def test_a_row_that_cannot_be_used_is_set_aside(change, field, reason):
    bad = ultrafeedback("Bad.")
    change(bad)
    feedback, report = load([GOOD, bad, ROWS[1]])
    assert triples(feedback) == EXPECTED
    assert reasons(report) == [(2, field, reason, "dropped")]


@pytest.mark.parametrize(
    "change, field, reason",
    [
        (lambda c: "a bare string", "", "completion is not an object"),
        (lambda c: {k: v for k, v in c.items() if k != "response"}, ".response", "text is missing"),
        (lambda c: c | {"response": None}, ".response", "text is missing"),
        (lambda c: c | {"response": 5}, ".response", "text is not a string"),
        (lambda c: c | {"response": ""}, ".response", "text is empty"),
        (lambda c: c | {"response": " \u00a0 "}, ".response", "text is empty"),
        (
            lambda c: {k: v for k, v in c.items() if k != "overall_score"},
            ".overall_score",
            "score is missing",
        ),
        *(
            (lambda c, score=score: c | {"overall_score": score}, ".overall_score", reason)
            for score, reason in [
                (None, "score is missing"),
                (True, "score is a boolean"),
                ("N/A", "score is not a number"),
                ([7], "score is not a number"),
                ("1_0", "score is not a number"),
                ("nan", "score is not a number"),
                (float("nan"), "score is not finite"),
                (float("inf"), "score is not finite"),
                (10**400, "score is not finite"),
                (11, "score is out of range"),
                (-3, "score is out of range"),
                ("11", "score is out of range"),
            ]
        ),
    ],
)
def test_one_bad_completion_costs_only_itself(change, field, reason, tmp_path):
    row = ultrafeedback(answers=[("Red.", 9.0), ("bad", 5.0), ("Blue, perhaps.", 4.5)])
    row["completions"][1] = change(row["completions"][1])
    feedback, report = load(lines(tmp_path / "x.jsonl", row))
    assert triples(feedback) == EXPECTED[:2] and feedback["model"][:] == ["m0", "m2"]
    assert reasons(report) == [(1, f"completions[1]{field}", reason, "dropped")]
    assert set(report[0]) == set(COLUMNS) and report[0]["remedy"] == DEFECTS[reason][1]


def test_scores_in_quotes_and_decimals_are_numbers():
    feedback, report = load(
        [ultrafeedback(answers=[("a", " 7.50 "), ("b", Decimal("2.5")), ("c", 1)])]
    )
    assert feedback["reward"][:] == [7.5, 2.5, 1.0]
    assert reasons(report) == [
        (1, "completions[0].overall_score", "score is a number in quotes", "repaired")
    ]


def test_another_scale_and_no_upper_bound():
    rows = [
        {"prompt": "p", "completion": "a", "reward": -4.25},
        {"prompt": "p", "completion": "b", "reward": 0},
    ]
    feedback, report = load(rows, reward_min=-100, reward_max=100)
    assert feedback["reward"][:] == [-4.25, 0.0] and report == []


@pytest.mark.parametrize(
    "ratings, repair, score, reasons_given",
    [
        (
            ["1", "2", "1", "2"],
            True,
            1.0,
            [("overall_score 10 with ratings of 2 or less", "repaired")],
        ),
        (
            ["1", "2", "1", "2"],
            False,
            10.0,
            [("overall_score 10 with ratings of 2 or less", "kept")],
        ),
        (
            ["2", "N/A", "N/A", "N/A"],
            True,
            1.0,
            [("overall_score 10 with ratings of 2 or less", "repaired")],
        ),
        (["3", "4", "3", "3"], True, 10.0, [("overall_score 10 with ratings of 2 to 4", "kept")]),
        (["4", "4", "4", "4"], True, 10.0, [("overall_score 10 with ratings of 2 to 4", "kept")]),
        (["5", "5", "5", "4"], True, 10.0, []),
        (["N/A"] * 4, True, 10.0, [("overall_score 10 without any rating", "kept")]),
        ([], True, 10.0, []),
    ],
)
def test_score_10_fault(ratings, repair, score, reasons_given):
    row = ultrafeedback(answers=[("a", 10.0), ("b", 3.0)])
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    row["completions"][0]["annotations"] = {
        aspect: {"Rating": r} for aspect, r in zip(aspects, ratings, strict=False)
    }
    feedback, report = load([row], repair_overall_score=repair)
    assert feedback["reward"][:] == [score, 3.0]
    assert [(r["reason"], r["action"]) for r in report] == reasons_given


def test_score_below_10_is_never_touched_by_the_ratings():
    row = ultrafeedback(answers=[("a", 9.5), ("b", 3.0)])
    row["completions"][0]["annotations"] = {"honesty": {"Rating": "1"}}
    assert load([row])[1] == []


def test_odd_but_sound_texts_come_through_unchanged():
    odd = [
        ("  spaces stay  ", 1),
        ("شكرا \u202btest\u202c", 2),
        ("👨‍👩‍👧 e\u0301 é", 3),
        ("<script>alert(1)</script>", 4),
        ("Answer A. {response_a}", 5),
        ("\r\n\ttab", 6),
        ("bell \x07", 7),
        ("x" * 50_000, 8),
    ]
    feedback, report = load([ultrafeedback(answers=odd)], max_completion_tokens=512)
    assert [(t, r) for _, t, r in triples(feedback)] == odd
    assert reasons(report) == [
        (1, "completions[1].response", "text has control characters", "kept"),
        (1, "completions[6].response", "text has control characters", "kept"),
        (1, "completions[7].response", "text is over-long", "kept"),
    ]


@pytest.mark.parametrize("length, reported", [(8 * 20, False), (8 * 20 + 1, True)])
def test_over_long_means_more_than_8_characters_a_token(length, reported):
    _, report = load(
        [ultrafeedback(answers=[("a" * length, 3), ("b", 4)])], max_completion_tokens=20
    )
    assert bool(report) == reported
