"""Defects of a prompt over its rows, strict, report, determinism, the catalogue."""

import csv
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from rpo_nb import pocket
from rpo_nb.data import defects
from rpo_nb.data.defects import COLUMNS
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

SHARED = next(
    (
        folder / "shared" / "data"
        for folder in Path(__file__).resolve().parents[3:5]
        if (folder / "shared" / "data").is_dir()
    ),
    Path("nowhere"),
)
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the messy catalogue, ../shared/data, is not here"
)


# ---- defects of a prompt over its rows -----------------------------------------------------------


@pytest.mark.parametrize(
    "scores, mean", [((9, 2), 5.5), ((2, 9), 5.5), ((9, 2, 4), 5), ((9, 2, 2, 7), 5), ((4, 4), 4)]
)
def test_of_copies_the_mean_of_all_scores_stays(scores, mean):
    feedback, report = load([ultrafeedback(answers=[*(("same", s) for s in scores), ("other", 8)])])
    assert triples(feedback) == [("Name a colour.", "same", mean), ("Name a colour.", "other", 8)]
    told = (
        ("same completion, same score", "dropped")
        if len(set(scores)) == 1
        else ("same completion, several ratings", "repaired")
    )
    assert [(r["reason"], r["action"]) for r in report] == [told] * (len(scores) - 1)
    assert report[0]["field"] == "completions[1].response"


def test_a_prompt_over_several_rows_merges_and_a_repeated_row_counts_once():
    rows = [ultrafeedback("p", [("a", 3), ("b", 4)]), GOOD, ultrafeedback("p", [("c", 5)]), GOOD]
    feedback, report = load(rows)
    assert triples(feedback) == [("p", "a", 3), ("p", "b", 4), ("p", "c", 5), *EXPECTED[:2]]
    assert feedback["prompt_id"][:] == [0, 0, 0, 1, 1]
    spread, copy = "prompt is spread over rows", "same completion, same score"
    assert reasons(report) == [
        (1, "prompt", spread, "kept"),
        (2, "prompt", spread, "kept"),
        (3, "prompt", spread, "kept"),
        (4, "completions[0].response", copy, "dropped"),
        (4, "completions[1].response", copy, "dropped"),
        (4, "prompt", spread, "kept"),
    ]


def test_one_completion_and_equal_rewards_are_kept_and_said():
    feedback, report = load(
        [ultrafeedback("p", [("a", 3)]), ultrafeedback("q", [("a", 7), ("b", 7)])]
    )
    assert len(feedback) == 3
    assert reasons(report) == [
        (1, "prompt", "prompt has one completion", "kept"),
        (2, "prompt", "all rewards of the prompt are equal", "kept"),
    ]


# ---- strict, report, determinism -----------------------------------------------------------------


@pytest.mark.parametrize(
    "bad, words",
    [
        (
            ultrafeedback("q", [("a", 3), ("b", True)]),
            r"x.jsonl, line 2, completions\[1\].overall_score: score is a boolean \(True\); write",
        ),
        ("not json", r"x.jsonl, line 2: line is not JSON \('not json'\); write"),
        (GOOD, r"x.jsonl, line 2, completions\[0\].response: same completion, same score"),
    ],
)
def test_strict_stops_and_names_file_line_field_value_remedy(bad, words, tmp_path):
    path = lines(tmp_path / "x.jsonl", GOOD, bad, ROWS[1])
    assert len(load(path)[0]) >= 4
    with pytest.raises(ValueError, match=words):
        load(path, strict=True)


def test_strict_lets_repairs_and_notes_pass():
    feedback, report = load([ultrafeedback(answers=[("a", "7"), ("b\x07", 3)])], strict=True)
    assert len(feedback) == 2 and [r["action"] for r in report] == ["repaired", "kept"]


def test_report_file_and_its_summary(tmp_path):
    _, report = load(
        [
            GOOD,
            ultrafeedback("p", [("a", None), ("b", None), ("c", "2")]),
            ultrafeedback("q", [("a", 50), ("b", 3), ("c", 3)]),
        ]
    )
    defects.write_report(report, tmp_path / "data" / "report.csv")
    with (tmp_path / "data" / "report.csv").open(encoding="utf-8", newline="") as file:
        assert [row | {"line": int(row["line"])} for row in csv.DictReader(file)] == report
    assert b"\r" not in (tmp_path / "data" / "report.csv").read_bytes()
    counts = defects.summarise_report(report)
    score = "completions[{}].overall_score".format
    assert counts.values.tolist()[:3] == [
        ["dropped", "score is missing", 2, 2, f"{score(0)}, {score(1)}"],
        ["dropped", "score is out of range", 1, 3, score(0)],
        ["repaired", "score is a number in quotes", 1, 2, score(2)],
    ]
    defects.write_report([], tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == ",".join(
        COLUMNS
    ) + "\n" and defects.summarise_report([]).empty


def test_same_source_same_rows_and_report(tmp_path):
    path = lines(tmp_path / "x.jsonl", *pocket.make_feedback(30, seed=1), "bad", "7")
    (first, report), (again, same) = load(path), load(path)
    assert first.to_dict() == again.to_dict() and report == same


def test_the_pocket_world_reads_without_a_loss_but_its_own_copies():
    rows = pocket.make_feedback(300, seed=0)
    feedback, report = load(rows)
    copies = sum(
        len(row["completions"]) - len({c["response"] for c in row["completions"]}) for row in rows
    )
    assert len(feedback) == 1200 - copies
    assert {row["reason"] for row in report if row["action"] == "dropped"} <= {
        "same completion, same score"
    }


# ---- the catalogue -------------------------------------------------------------------------------

ODD_BUT_SOUND = {
    "emoji_text",
    "html_script",
    "prompt_injection",
    "template_braces",
    "overall_10_fine_grained_high",
    "no_newline_at_end_of_file",
}
OTHERWISE = {
    "score_numeric_string": 3,  # repaired
    # one copy stays
    "duplicate_response_conflicting_scores": 2,
    "duplicate_response_same_score": 2,
    "missing_instruction": 0,
    "null_instruction": 0,
    "empty_instruction": 0,
    "whitespace_instruction": 0,
    "instruction_not_a_string": 0,
}  # completions of no prompt


@needs_shared
def test_the_messy_catalogue_line_by_line():
    feedback, report = load(SHARED / "messy_feedback.jsonl")
    survivors, said = Counter(feedback["prompt"]), defaultdict(list)
    for row in report:
        said[row["line"]].append(row)
    raw = (SHARED / "messy_feedback.jsonl").read_bytes().split(b"\n")
    with (SHARED / "messy_feedback.lines.tsv").open(encoding="utf-8", newline="") as file:
        catalogue = list(csv.DictReader(file, delimiter="\t"))
    per_prompt = Counter()
    for entry in catalogue:
        line, defect = int(entry["line"]), entry["defect"]
        assert bool(said[line]) == (defect != "none" and defect not in ODD_BUT_SOUND), entry
        if entry["sound_completions"] and defect != "repeated_row":
            expected = OTHERWISE.get(defect, int(entry["sound_completions"]))
            prompt = json.loads(raw[line - 1]).get("instruction")
            if expected:
                per_prompt[prompt] += expected
            else:
                assert not isinstance(prompt, str) or prompt not in survivors, entry
    assert all(survivors[prompt] == n for prompt, n in per_prompt.items())
    assert survivors[json.loads(raw[30])["instruction"]] == 3  # the repeated row counts once
    extra = {prompt: n for prompt, n in survivors.items() if prompt not in per_prompt}
    # repeated row; raw control characters; the array; two objects on a line
    assert sorted(extra.values()) == [3, 3, 3, 3, 3]


@needs_shared
def test_bom_crlf_and_real_feedback():
    assert [len(load(SHARED / name)[0]) for name in ("messy_bom.jsonl", "messy_crlf.jsonl")] == [
        6,
        9,
    ]
    feedback, report = load(SHARED / "alpaca_feedback.jsonl.gz")
    # three answers are one zero-width space
    assert len(feedback) == 4797 and len(set(feedback["prompt_id"])) == 600
    assert np.mean(feedback["reward"]) == pytest.approx(2.256, abs=5e-4)
    assert np.std(feedback["reward"]) == pytest.approx(2.556, abs=5e-4)
    assert Counter(row["reason"] for row in report if row["action"] == "dropped") == {
        "text is invisible": 3
    }
    assert {row["reason"] for row in report if row["action"] != "dropped"} == {"text is over-long"}
