"""Reading, repairing, reporting, splitting and standardising feedback."""

import csv
import gzip
import json
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config.schema import DataConfig
from rpo_nb.data import defects, reading
from rpo_nb.data.defects import COLUMNS, DEFECTS
from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.prompts import render
from rpo_nb.data.splits import Splits, group_key, split_feedback, standardise
from rpo_nb.data.summary import sparsity, sparsity_warning, summarise

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
EXPECTED = [
    ("Name a colour.", "Red.", 9.0),
    ("Name a colour.", "Blue, perhaps.", 4.5),
    ("Name a town.", "Oslo.", 8.0),
    ("Name a town.", "Fog.", 1.0),
]


def ultrafeedback(
    prompt="Name a colour.", answers=(("Red.", 9.0), ("Blue, perhaps.", 4.5)), **more
):
    return {
        "source": "here",
        "instruction": prompt,
        "models": [],
        **more,
        "completions": [
            {
                "model": f"m{i}",
                "response": text,
                "annotations": {"honesty": {"Rating": "5"}},
                "overall_score": score,
            }
            for i, (text, score) in enumerate(answers)
        ],
    }


GOOD = ultrafeedback()
ROWS = [GOOD, ultrafeedback("Name a town.", (("Oslo.", 8.0), ("Fog.", 1.0)))]
NESTED = [
    {
        "prompt": prompt,
        "responses": [
            {"text": text, "reward": reward} for p, text, reward in EXPECTED if p == prompt
        ],
    }
    for prompt in ("Name a colour.", "Name a town.")
]
FLAT = [{"prompt": p, "completion": t, "reward": r} for p, t, r in EXPECTED]


def lines(path, *rows, end="\n"):
    """Rows (dicts, or raw lines as str or bytes) as a JSON-lines file."""
    raw = [
        row
        if isinstance(row, bytes)
        else (row if isinstance(row, str) else json.dumps(row)).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + end.encode() for line in raw))
    return path


def load(source, **config):
    return load_feedback(source, config=DataConfig(**config), return_report=True)


def triples(feedback):
    return list(zip(feedback["prompt"], feedback["completion"], feedback["reward"], strict=True))


def reasons(report):
    return [(row["line"], row["field"], row["reason"], row["action"]) for row in report]


# ---- every source and every shape ----------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        NESTED,
        FLAT,
        [{"prompt": p, "response": t, "score": r} for p, t, r in EXPECTED],
        [{"prompt": p, "response": t, "label": r} for p, t, r in EXPECTED],
    ],
    ids=["ultrafeedback", "nested", "flat", "response-score", "response-label"],
)
@pytest.mark.parametrize(
    "kind", ["list", "dataset", "saved", "saved-dict", "json", "jsonl", "jsonl.gz", "parquet"]
)
def test_every_shape_from_every_source(rows, kind, tmp_path):
    path = tmp_path / f"feedback.{kind}"
    if kind == "list":
        path = rows
    elif kind == "dataset":
        path = datasets.Dataset.from_list(rows)
    elif kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif kind == "saved-dict":
        table = datasets.Dataset.from_list(rows)
        datasets.DatasetDict(other=table.select([0]), wanted=table).save_to_disk(path)
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif kind == "jsonl":
        lines(path, *rows)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0))
    else:
        pd.DataFrame(rows).to_parquet(path)
    feedback, report = load(path, split="wanted")
    assert triples(feedback) == EXPECTED
    assert feedback["prompt_id"][:] == [0, 0, 1, 1]
    assert feedback.features == reading.FEATURES
    assert report == []
    if isinstance(path, Path):
        assert triples(load_feedback(str(path), config=DataConfig(split="wanted"))) == EXPECTED


def test_flat_rows_are_grouped_by_prompt_wherever_they_stand():
    feedback, report = load([FLAT[2], FLAT[0], FLAT[3], FLAT[1]])
    assert (
        triples(feedback) == EXPECTED[2:] + EXPECTED[:2]
        and feedback["prompt_id"][:] == [0, 0, 1, 1]
        and report == []
    )


def test_csv_with_commas_quotes_line_ends_bom_and_broken_rows(tmp_path):
    path = tmp_path / "feedback.csv"
    path.write_bytes(
        '\ufeffprompt,completion,reward,model\r\n"Name, please","a '
        '""b""\nc",3,x\r\n"Name, please",d,\r\n'
        '"Name, please",e,f,g,h\r\n\r\n"Name, please",i,7.5,\r\nq,"never '
        "closed,1,x\r\n".encode()
    )
    feedback, report = load(path)
    assert triples(feedback) == [("Name, please", 'a "b"\nc', 3.0), ("Name, please", "i", 7.5)]
    assert feedback["model"][:] == ["x", ""]
    assert reasons(report) == [
        (1, "", "byte-order mark", "repaired"),
        (4, "", "CSV row is malformed", "dropped"),
        (5, "", "CSV row is malformed", "dropped"),
        (6, "", "line is blank", "dropped"),
        (8, "", "CSV row is malformed", "dropped"),
    ]


def test_csv_scores_are_numbers_and_an_empty_one_is_missing(tmp_path):
    path = tmp_path / "feedback.csv"
    path.write_text(
        "prompt,response,score\np,a,7\np,b,\np,c,good\n" + f"p,{'d' * 200_000},2\n",
        encoding="utf-8",
    )
    feedback, report = load(path)
    assert feedback["reward"][:] == [7.0, 2.0]
    assert reasons(report) == [
        (3, "score", "score is missing", "dropped"),
        (4, "score", "score is not a number", "dropped"),
        (5, "response", "text is over-long", "kept"),
    ]


def test_hub_id_goes_through_load_dataset_with_the_split(monkeypatch):
    hub = {("openbmb/UltraFeedback", "some"): datasets.Dataset.from_list(ROWS)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, **_: hub[name, split])
    assert (
        triples(load_feedback("openbmb/UltraFeedback", config=DataConfig(split="some"))) == EXPECTED
    )


# ---- sources that cannot be read -----------------------------------------------------------------


@pytest.mark.parametrize(
    "source, words",
    [
        ("nowhere.jsonl", "'nowhere.jsonl' is no file, no folder and no hub id"),
        (Path("no/where"), "no file, no folder"),
        ("", "neither a name"),
        (3, "neither a name"),
        ([], "not one row"),
        (
            [{"chosen": "a", "rejected": "b"}],
            "line 1, chosen: prompt is missing.*its columns are chosen, rejected",
        ),
        ([{"left": "a", "right": "b"}], "the columns left, right are not feedback; name them"),
        (
            [{"promt": "a", "completion": "b", "reward": 1}],
            r"its columns are promt \(did you mean prompt\?\), completion, reward",
        ),
        (
            [ultrafeedback(answers=[("a", 70)])],
            r"line 1, completions\[0\].overall_score: score is out of range \(70\); correct it",
        ),
    ],
)
def test_one_sentence_says_why_nothing_can_be_read(source, words):
    with pytest.raises(ValueError, match=words) as error:
        load_feedback(source)
    assert "\n" not in str(error.value)


def test_unknown_hub_id_unknown_ending_and_foreign_folder(tmp_path, monkeypatch):
    def absent(name, split, **_):
        raise datasets.exceptions.DatasetNotFoundError(
            f"Dataset '{name}' doesn't exist on the Hub or cannot be accessed.\nmore"
        )

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(
        ValueError,
        match="'no/such' is no file .* the hub did not give its split 'train' .*; check the name",
    ):
        load_feedback("no/such")
    with pytest.raises(
        ValueError,
        match=r"x.txt: the ending is not one of .json, .jsonl, .ndjson, .parquet, .csv, .tsv",
    ):
        load_feedback(lines(tmp_path / "x.txt", GOOD))
    with pytest.raises(ValueError, match="save_to_disk"):
        load_feedback(tmp_path)
    with pytest.raises(ValueError, match="Parquet"):
        load_feedback(lines(tmp_path / "x.parquet", "PAR0"))
    with pytest.raises(ValueError, match="UTF-16"):
        (tmp_path / "u.jsonl").write_text(json.dumps(GOOD), encoding="utf-16")
        load_feedback(tmp_path / "u.jsonl")
    with pytest.raises(ValueError, match="no split 'train'; set data.split to one of test"):
        load_feedback(datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)))


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


# ---- splits and rewards --------------------------------------------------------------------------


def graded(prompts, *, top=0, k=4, seed=0):
    """Feedback whose first `top` prompts have two completions of the top score 10; the others have
    1 to 9 at random."""
    rng = np.random.default_rng(seed)
    return load_feedback(
        [
            {
                "prompt": f"Prompt {i}",
                "completion": f"{i}-{j}",
                "reward": 10.0 if i < top and j < 2 else float(rng.integers(1, 10)),
            }
            for i in range(prompts)
            for j in range(k)
        ]
    )


def keys(part):
    return {group_key(prompt) for prompt in part["prompt"]}


def test_split_follows_the_papers_rule():
    config = DataConfig(prompts=50, completions_per_prompt=3, validation=20, held_out=30)
    splits = split_feedback(graded(200, top=40), config=config, seed=0)
    assert (
        set(splits.validation["reward"]) == {10.0}
        and len(splits.validation) == len(keys(splits.validation)) == 20
    )
    assert len(keys(splits.train)) == 50 and set(Counter(splits.train["prompt_id"]).values()) == {3}
    assert len(keys(splits.held_out)) == 30 and len(splits.held_out) == 120
    assert not (
        keys(splits.train) & keys(splits.validation)
        or keys(splits.train) & keys(splits.held_out)
        or keys(splits.validation) & keys(splits.held_out)
    )
    assert (splits.reward_mean, splits.reward_std) == (
        np.mean(splits.train["reward"]),
        np.std(splits.train["reward"]),
    )
    assert splits.notes == [
        "Train: 50 prompts, 150 completions. Validation: 20 prompts. Held out: 30 prompts."
    ]
    assert splits.train.features == reading.FEATURES


def test_split_is_drawn_by_the_seed_alone():
    feedback, config = (
        graded(80, top=30),
        DataConfig(prompts=30, completions_per_prompt=2, validation=10, held_out=10),
    )
    first, again, other = (split_feedback(feedback, config=config, seed=seed) for seed in (3, 3, 4))
    assert all(
        getattr(first, part).to_dict() == getattr(again, part).to_dict()
        for part in ("train", "validation", "held_out")
    )
    assert all(
        getattr(first, part).to_dict() != getattr(other, part).to_dict()
        for part in ("train", "validation", "held_out")
    )


def test_which_top_row_validates_and_which_completions_train_is_drawn():
    feedback, config = (
        graded(40, top=20),
        DataConfig(prompts=10, completions_per_prompt=1, validation=10),
    )
    splits = [split_feedback(feedback, config=config, seed=seed) for seed in range(30)]
    assert {text.split("-")[1] for s in splits for text in s.validation["completion"]} == {"0", "1"}
    assert {text.split("-")[1] for s in splits for text in s.train["completion"]} == {
        "0",
        "1",
        "2",
        "3",
    }


@pytest.mark.parametrize("seed", range(5))
def test_prompts_that_differ_in_white_space_or_case_never_stand_on_two_sides(seed):
    base = [f"Say {i} now" for i in range(30)]
    twins = [prompt.replace(" ", "  ") + "\n" for prompt in base[:20]] + [
        prompt.upper() for prompt in base[10:30]
    ]
    rng = np.random.default_rng(seed)
    rows = [
        {
            "prompt": prompt,
            "responses": [
                {"text": f"{i} {j}", "reward": float(rng.integers(8, 11))} for j in range(3)
            ],
        }
        for i, prompt in enumerate(base + twins)
    ]
    splits = split_feedback(
        load_feedback(rows), config=DataConfig(validation=8, held_out=8), seed=seed
    )
    parts = [keys(part) for part in (splits.train, splits.validation, splits.held_out)]
    assert all(parts) and len(set.union(*parts)) == sum(map(len, parts))
    assert len(splits.validation) == len(parts[1])
    assert any(
        "40 prompts repeat another but for white space or case" in note for note in splits.notes
    )


def test_fewer_top_rows_than_asked_for_are_said_and_not_filled():
    splits = split_feedback(graded(100, top=12), config=DataConfig(validation=20), seed=0)
    assert len(splits.validation) == 12 and set(splits.validation["reward"]) == {10.0}
    assert (
        splits.notes[0] == "12 prompts reach the top score 10: validation has these instead of 20."
    )


def test_continuous_rewards_validate_on_the_best_prompts():
    rows = [
        {"prompt": f"p{i}", "completion": text, "reward": 1 + i / scale}
        for i in range(100)
        for text, scale in (("a", 30), ("b", 60))
    ]
    splits = split_feedback(load_feedback(rows), config=DataConfig(validation=20), seed=0)
    assert set(splits.validation["prompt"]) == {f"p{i}" for i in range(80, 100)} and set(
        splits.validation["completion"]
    ) == {"a"}
    assert "Only 1 of the prompts reach the top score 4.3" in splits.notes[0]


def test_too_few_prompts_shrink_in_proportion():
    config = DataConfig(prompts=500, validation=200, held_out=500)
    splits = split_feedback(graded(120, top=60), config=config, seed=0)
    sizes = [len(keys(part)) for part in (splits.train, splits.validation, splits.held_out)]
    assert sizes == [50, 20, 50] and "fewer than the 1200 asked for" in splits.notes[0]


def test_two_prompts_are_enough_and_one_is_not():
    splits = split_feedback(graded(2, top=1), config=DataConfig(), seed=0)
    assert len(keys(splits.train)) == len(splits.validation) == 1 and len(splits.held_out) == 0
    with pytest.raises(ValueError, match="fewer than 2 different prompts"):
        split_feedback(graded(1), config=DataConfig(), seed=0)
    rows = [
        {"prompt": f"p{i}", "responses": [{"text": "a", "reward": 5}, {"text": "b", "reward": 5}]}
        for i in range(20)
    ]
    with pytest.raises(ValueError, match="training rewards are all equal"):
        split_feedback(load_feedback(rows), config=DataConfig(), seed=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardise_is_the_population_z_score(dtype):
    splits = Splits(None, None, None, reward_mean=5.0, reward_std=2.0, notes=[])
    out = standardise(np.array([1, 5, 10], dtype), splits)
    assert out.dtype == dtype
    np.testing.assert_allclose(
        out, np.array([-4, 0, 5]) / (2 + 1e-8), rtol=1e-6 if dtype == np.float32 else 1e-15
    )


def test_standardised_training_rewards_have_mean_0_and_variance_1():
    splits = split_feedback(graded(60, top=10), config=DataConfig(validation=5), seed=0)
    out = standardise(splits.train["reward"][:], splits)
    assert out.dtype == np.float64 and abs(out.mean()) < 1e-12 and abs(out.var() - 1) < 1e-6
    with pytest.raises(ValueError, match="reward 1 is not finite"):
        standardise([1.0, float("nan")], splits)


def test_sparsity_and_summary():
    rows = [
        {
            "prompt": f"p{n}",
            "responses": [{"text": "word " * j, "reward": j} for j in range(1, n + 1)],
        }
        for n in (1, 2, 3, 5)
    ]
    feedback = load_feedback(rows)
    assert sparsity(feedback) == 0.5 and sparsity(feedback, fewer_than=2) == 0.25
    assert sparsity_warning(feedback).startswith(
        "50.0% of the prompts have fewer than 3 completions"
    )
    assert sparsity_warning(load_feedback(rows[2:])) == ""
    summary = summarise(feedback).set_index("quantity")["value"]
    rewards = [1, 1, 2, 1, 2, 3, 1, 2, 3, 4, 5]
    assert (
        summary["prompts"],
        summary["completions"],
        summary["completions per prompt, most"],
    ) == (4, 11, 5)
    assert summary["reward, mean"] == pytest.approx(np.mean(rewards))
    assert summary["reward, standard deviation"] == pytest.approx(np.std(rewards))
    assert summary["rank correlation of length and reward"] == pytest.approx(1)
    assert summary["words per completion, median"] == 2
    assert summary["share of prompts whose rewards are all equal"] == 0.25
    assert summary["share of prompts that reach the top reward"] == 0.25


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


# ---- conversations: TRL's shape ------------------------------------------------------------------


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return [{"role": "assistant", "content": text}]


TURNS = [
    {"role": "system", "content": "Be brief."},
    user("Name a colour."),
    *assistant("Red."),
    user("Another?"),
]
RENDERED = "System: Be brief.\n\nUser: Name a colour.\n\nAssistant: Red.\n\nUser: Another?"
CONVERSATIONS = {
    "ultrafeedback": [
        {
            "instruction": TURNS,
            "completions": [
                {"response": "Blue.", "overall_score": 9},
                {"response": assistant("No."), "overall_score": 2},
            ],
        }
    ],
    "nested": [
        {
            "prompt": TURNS,
            "responses": [{"text": assistant("Blue."), "reward": 9}, {"text": "No.", "reward": 2}],
        }
    ],
    "flat": [
        {"prompt": TURNS, "completion": assistant("Blue."), "reward": 9},
        {"prompt": TURNS, "completion": assistant("No."), "reward": 2},
    ],
    "flat-instruction-response": [
        {"instruction": TURNS, "response": "Blue.", "reward": 9},
        {"instruction": TURNS, "response": "No.", "reward": 2},
    ],
}


@pytest.mark.parametrize("rows", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_in_every_shape_is_rendered_and_keeps_its_messages(rows):
    feedback, report = load([*rows, {"prompt": "Plain.", "completion": "Yes.", "reward": 3}])
    assert triples(feedback) == [
        (RENDERED, "Blue.", 9),
        (RENDERED, "No.", 2),
        ("Plain.", "Yes.", 3),
    ]
    assert feedback["prompt_id"][:] == [0, 0, 1] and render(TURNS) == RENDERED
    assert conversations(feedback) == [TURNS, TURNS, "Plain."] and feedback["messages"][2] == ""
    assert list(feedback.features) == [*reading.FEATURES, "messages"]
    assert reasons(report) == [(len(rows) + 1, "prompt", "prompt has one completion", "kept")]


@pytest.mark.parametrize("kind", ["dataset", "saved", "jsonl", "parquet"])
def test_a_conversation_comes_through_arrow_and_files(kind, tmp_path):
    rows, path = CONVERSATIONS["flat"], tmp_path / f"x.{kind}"
    table = datasets.Dataset.from_list(rows)
    if kind == "jsonl":
        lines(path, *rows)
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "saved":
        table.save_to_disk(path)
    feedback, report = load(table if kind == "dataset" else path)
    assert triples(feedback) == [(RENDERED, "Blue.", 9), (RENDERED, "No.", 2)] and report == []
    assert conversations(feedback) == [TURNS, TURNS]


def test_a_single_user_message_is_a_plain_prompt():
    feedback, _ = load(
        [
            {"prompt": [user("Name a colour.")], "completion": assistant("Red."), "reward": 9},
            {"prompt": "Name a colour.", "completion": "Blue, perhaps.", "reward": 4.5},
            *FLAT[2:],
        ]
    )
    assert triples(feedback) == EXPECTED and feedback["prompt_id"][:] == [0, 0, 1, 1]
    assert (
        feedback.features == reading.FEATURES and conversations(feedback) == feedback["prompt"][:]
    )


def test_a_conversation_and_a_text_that_reads_like_it_are_two_prompts_on_one_side_of_the_split():
    rows = [
        {"prompt": prompt, "completion": text, "reward": reward}
        for prompt in (TURNS, RENDERED, "b", "c", "d")
        for text, reward in (("x", 9), ("y", 3))
    ]
    feedback = load_feedback(rows)
    assert feedback["prompt_id"][:4] == [0, 0, 1, 1]
    for seed in range(6):
        splits = split_feedback(feedback, config=DataConfig(validation=1, held_out=1), seed=seed)
        parts = [splits.train, splits.validation, splits.held_out]
        assert sum(RENDERED in part["prompt"][:] for part in parts) == 1
        assert all(part.column_names == feedback.column_names for part in parts)
        assert {repr(c) for part in parts for c in conversations(part)} <= {
            repr(c) for c in (TURNS, RENDERED, "b", "c", "d")
        }


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["JSON", "Python"])
def test_a_conversation_in_a_cell_is_read_and_other_brackets_stay_text(write, tmp_path):
    frame = pd.DataFrame(
        [
            {"prompt": write(TURNS), "completion": "a", "reward": 3},
            {"prompt": "[]", "completion": '["b"]', "reward": 4},
            {"prompt": '[{"a": 1}]', "completion": '{"content": "b"}', "reward": 4},
        ]
    )
    frame.to_csv(tmp_path / "x.csv", index=False)
    feedback, report = load(tmp_path / "x.csv")
    assert feedback["prompt"][:] == [RENDERED, "[]", '[{"a": 1}]'] and feedback["completion"][
        :
    ] == ["a", '["b"]', '{"content": "b"}']
    assert conversations(feedback)[0] == TURNS
    assert [r for r in reasons(report) if r[3] == "repaired"] == [
        (2, "prompt", "conversation in a string", "repaired")
    ]


@pytest.mark.parametrize(
    "prompt, field, reason",
    [
        ([], "prompt", "conversation has no message"),
        ([user("a"), "b"], "prompt[1]", "message is not an object"),
        ([{"role": "narrator", "content": "a"}], "prompt[0].role", "role is unknown"),
        ([user("a"), {"role": "tool", "content": "b"}], "prompt[1]", "a tool's turn"),
        ('[{"role": "user", "content": "a"', "prompt", "conversation in a string cannot be read"),
        ([{"role": ["user"], "content": "a"}], "prompt[0].role", "role is unknown"),
        ([{"role": "user"}], "prompt[0].content", "text is missing"),
        ([{"role": "user", "content": None}], "prompt[0].content", "text is missing"),
        ([user(" \n")], "prompt[0].content", "text is empty"),
        ([user(7)], "prompt[0].content", "text is not a string"),
        (
            [user([{"type": "text", "text": "a"}, {"type": "image"}])],
            "prompt[0].content",
            "content is a list of parts",
        ),
        ([user("a"), *assistant("b")], "prompt[1].role", "last message is not the user's"),
        (TURNS[:1], "prompt[0].role", "last message is not the user's"),
    ],
)
def test_a_bad_conversation_is_set_aside_and_the_rest_goes_on(prompt, field, reason):
    bad = {"prompt": prompt, "completion": "x", "reward": 3}
    feedback, report = load([*FLAT[:2], bad, *FLAT[2:]])
    assert triples(feedback) == EXPECTED and reasons(report) == [(3, field, reason, "dropped")]
    assert report[0]["remedy"] == DEFECTS[reason][1]
    with pytest.raises(ValueError, match=f"feedback, line 3, .*{reason}"):
        load([*FLAT, bad][2:], strict=True)


@pytest.mark.parametrize("completion", [[], [user("x")], [*assistant("a"), *assistant("b")]])
def test_a_completion_of_other_messages_is_set_aside(completion):
    rows = [*FLAT, {"prompt": "p", "completion": completion, "reward": 3}]
    assert reasons(load(rows)[1]) == [
        (5, "completion", "completion is not one message of the assistant", "dropped")
    ]


def test_what_is_odd_in_a_conversation_is_said():
    twice = [user("a"), user("\ud800b"), {"role": "user", "content": "c" * 200, "name": "left out"}]
    feedback, report = load(
        [{"prompt": twice, "completion": t, "reward": r} for t, r in (("x", 1), ("y", 2))],
        max_prompt_tokens=20,
    )
    assert conversations(feedback)[0] == [user("a"), user("\ufffdb"), user("c" * 200)]
    assert reasons(report)[:3] == [
        (1, "prompt[1].content", "text is not valid Unicode", "repaired"),
        (1, "prompt", "roles do not alternate", "kept"),
        (1, "prompt", "text is over-long", "kept"),
    ]


# ---- the source's own validation split -----------------------------------------------------------


def two_splits():
    train = [
        {"instruction": f"Prompt {i}", "response": f"{i}-{j}", "reward": 2.0 + j}
        for i in range(20)
        for j in range(3)
    ]
    test = [
        {"instruction": f"prompt  {i}", "response": f"test {i}-{j}", "reward": 5.0 + j}
        for i in range(17, 25)
        for j in range(2)
    ]
    return datasets.DatasetDict(
        train=datasets.Dataset.from_list(train), test=datasets.Dataset.from_list(test)
    )


@pytest.mark.parametrize("kind", ["memory", "saved", "folder", "hub"])
def test_the_sources_own_split_validates_and_its_prompts_do_not_train(kind, tmp_path, monkeypatch):
    source, parts = two_splits(), two_splits()
    if kind == "saved":
        source.save_to_disk(tmp_path / "x")
    elif kind == "folder":
        (tmp_path / "x").mkdir()
        for name, part in source.items():
            lines(tmp_path / "x" / f"{name}.jsonl", *part)
    elif kind == "hub":
        monkeypatch.setattr(datasets, "load_dataset", lambda name, split, **_: parts[split])
    config = DataConfig(validation_split="test", validation=6, held_out=4)
    source = {"memory": source, "hub": "bilalfaye/ultrafeedback-rpo-split"}.get(
        kind, tmp_path / "x"
    )
    feedback, report = load_feedback(source, config=config, return_report=True)
    assert (
        report == []
        and feedback.column_names == [*reading.FEATURES, "split"]
        and Counter(feedback["split"]) == {"train": 60, "test": 16}
    )
    splits = split_feedback(feedback, config=config, seed=0)
    assert splits.train.features == reading.FEATURES and set(splits.validation["reward"]) == {6.0}
    assert len(splits.validation) == len(keys(splits.validation)) == 6 and keys(
        splits.validation
    ) < {f"prompt {i}" for i in range(17, 25)}
    assert (
        keys(splits.train) | keys(splits.held_out) == {f"prompt {i}" for i in range(17)}
        and len(keys(splits.held_out)) == 4
    )
    assert splits.notes[1:3] == [
        "The split 'test' has 8 prompts: 6 of them, drawn by seed, validate.",
        "3 prompts of the training split also stand in the split 'test': taken out of training.",
    ]
    others = [
        split_feedback(feedback, config=config, seed=seed).validation["prompt"][:]
        for seed in range(5)
    ]
    assert len(set(map(tuple, others))) > 1


def test_a_source_without_that_split_says_so(tmp_path):
    config = DataConfig(validation_split="test")
    two_splits()["train"].save_to_disk(tmp_path / "saved")
    for source in (FLAT, lines(tmp_path / "x.jsonl", *FLAT), tmp_path / "saved"):
        with pytest.raises(
            ValueError, match="has no splits, so data.validation_split 'test' is not in it"
        ):
            load_feedback(source, config=config)
    with pytest.raises(ValueError, match="there is no split 'test'; set .* to one of train"):
        load_feedback(datasets.DatasetDict(train=datasets.Dataset.from_list(FLAT)), config=config)
    with pytest.raises(ValueError, match="was read without it"):
        split_feedback(load_feedback(FLAT), config=config, seed=0)
    same = datasets.DatasetDict(
        train=datasets.Dataset.from_list(FLAT), test=datasets.Dataset.from_list(FLAT)
    )
    with pytest.raises(ValueError, match="none is left to train on"):
        split_feedback(load_feedback(same, config=config), config=config, seed=0)


def test_defects_of_two_splits_name_the_split():
    parts = two_splits()
    parts["test"] = datasets.Dataset.from_list(
        [*parts["test"], {"instruction": "p", "response": "", "reward": 3.0}]
    )
    _, report = load_feedback(parts, config=DataConfig(validation_split="test"), return_report=True)
    assert reasons(report) == [(17, "test: response", "text is empty", "dropped")]


# ---- a folder in the hub's layout ----------------------------------------------------------------


def openbmb(instruction, source):
    """A row as openbmb/UltraFeedback has it."""
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "source": source,
        "instruction": instruction,
        "models": ["alpaca-7b", "gpt-4"],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": [
            {
                "annotations": {
                    a: {"Rating": str(rating), "Rationale": "Because."} for a in aspects
                },
                "critique": "Fine.",
                "custom_system_prompt": "Be honest.",
                "fine-grained_score": float(rating),
                "model": model,
                "overall_score": score,
                "principle": "honesty",
                "response": f"{model} on {instruction}",
            }
            for model, score, rating in (("alpaca-7b", 10.0, 1), ("gpt-4", 8.5, 5))
        ],
    }


def test_a_folder_in_the_hubs_layout_is_a_source(tmp_path):
    lines(
        tmp_path / "evol_instruct.jsonl",
        openbmb("A?", "evol_instruct"),
        "not json",
        openbmb("B?", "evol_instruct"),
    )
    lines(
        tmp_path / "flan.jsonl",
        openbmb("C?", "flan"),
        {**openbmb("D?", "flan"), "instruction": None},
    )
    (tmp_path / "README.md").write_text(
        "---\nlicense: mit\n---\n# UltraFeedback\n", encoding="utf-8"
    )
    feedback, report = load(tmp_path)
    assert triples(feedback) == [
        (p, f"{m} on {p}", s)
        for p in ("A?", "B?", "C?")
        for m, s in (("alpaca-7b", 1.0), ("gpt-4", 8.5))
    ]
    assert [r for r in reasons(report) if r[3] == "dropped"] == [
        (2, "evol_instruct.jsonl", "line is not JSON", "dropped"),
        (2, "flan.jsonl: instruction", "text is missing", "dropped"),
    ]
    assert (
        1,
        "flan.jsonl: completions[0].overall_score",
        "overall_score 10 with ratings of 2 or less",
        "repaired",
    ) in reasons(report)


def test_a_folder_with_data_parquet_has_its_splits(tmp_path):
    (tmp_path / "data").mkdir()
    for name, part in (
        ("train-00000-of-00002", ROWS[:1]),
        ("train-00001-of-00002", ROWS[1:]),
        ("test-00000-of-00001", NESTED[:1]),
    ):
        pd.DataFrame(part).to_parquet(tmp_path / "data" / f"{name}.parquet")
    assert triples(load(str(tmp_path))[0]) == EXPECTED
    assert triples(load(tmp_path, split="test")[0]) == EXPECTED[:2]
    with pytest.raises(
        ValueError, match="there is no split 'dev'; set data.split .* to one of train, test"
    ):
        load(tmp_path, split="dev")


# ---- what the hub refuses ------------------------------------------------------------------------


def hub_errors():
    """The errors that huggingface_hub and datasets really raise, made by the library from an HTTP
    response."""
    from huggingface_hub import errors
    from huggingface_hub.utils import hf_raise_for_status

    from tests.conftest import hub_http

    def refused(status, code="", message=""):
        request = hub_http().Request("GET", "https://huggingface.co/api/datasets/some/data")
        try:
            hf_raise_for_status(
                hub_http().Response(
                    status,
                    headers={"X-Error-Code": code, "X-Error-Message": message},
                    request=request,
                )
            )
        except errors.HfHubHTTPError as error:
            return error

    told = datasets.exceptions.DatasetNotFoundError
    gated = "Dataset 'some/data' is a gated dataset on the Hub."
    return {
        "unknown": (
            refused(404, "RepoNotFound"),
            errors.RepositoryNotFoundError,
            "has no such dataset, or it is private.*; check the name",
        ),
        "unknown, as datasets tells it": (
            told("Dataset 'some/data' doesn't exist on the Hub or cannot be accessed."),
            told,
            "; check the name",
        ),
        "gated, no token": (
            refused(401, "GatedRepo"),
            errors.GatedRepoError,
            "gated and you are not logged in.*accept its terms at .*then log in",
        ),
        "gated, as datasets tells it": (
            told(f"{gated} You must be authenticated to access it."),
            told,
            "gated and you are not logged in",
        ),
        "gated, not accepted": (
            refused(403, "GatedRepo"),
            errors.GatedRepoError,
            "your account has no access.*; accept its terms at https",
        ),
        "wrong token": (
            refused(401, message="Invalid credentials in Authorization header"),
            errors.HfHubHTTPError,
            "refuses the token",
        ),
        "offline": (
            errors.OfflineModeIsEnabled(
                "Cannot reach https://huggingface.co: offline mode is enabled."
            ),
            None,
            "cannot be reached.*; check the network",
        ),
        "not in the cache": (
            errors.LocalEntryNotFoundError("Cannot find the requested files in the disk cache"),
            None,
            "cannot be reached",
        ),
        "no connection": (
            ConnectionError("Couldn't reach 'some/data' on the Hub (ConnectError)"),
            None,
            "cannot be reached.*local folder",
        ),
        "server down": (refused(503), errors.HfHubHTTPError, "503"),
    }


@pytest.mark.parametrize("case", hub_errors())
def test_the_hubs_refusals_are_one_sentence_with_the_remedy(case, monkeypatch):
    error, kind, words = hub_errors()[case]
    assert kind is None or type(error) is kind

    def refuse(name, split, **_):
        raise error

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        ValueError,
        match="'some/data' is no file or folder here, and the hub did "
        f"not give its split 'train' .*{words}",
    ) as told:
        load_feedback("some/data")
    assert "\n" not in str(told.value)


def test_a_wrapped_refusal_is_found_in_its_cause(monkeypatch):
    def refuse(name, split, **_):
        try:
            raise hub_errors()["gated, not accepted"][0]
        except OSError as error:
            raise RuntimeError("something went wrong") from error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ValueError, match="gated and your account has no access"):
        load_feedback("some/data")


def test_maps_are_dicts_under_every_pyarrow():
    """Written out by hand: before release 19 pyarrow gives maps as lists of pairs, also within
    lists and structs."""
    import pyarrow as pa

    from rpo_nb.data.arrow import to_rows, with_dicts

    inner = pa.map_(pa.string(), pa.int64())
    kind = pa.struct({"a": inner, "b": pa.list_(inner), "c": pa.string()})
    assert with_dicts({"a": [("x", 1)], "b": [[("y", 2)], None], "c": "[]"}, kind) == {
        "a": {"x": 1},
        "b": [{"y": 2}, None],
        "c": "[]",
    }
    table = pa.table({"m": pa.array([[("x", 1)], None], inner), "n": [1, 2]})
    assert to_rows(table) == [{"m": {"x": 1}, "n": 1}, {"m": None, "n": 2}]
