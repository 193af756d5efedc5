"""Reading, repairing, reporting, splitting and standardising feedback."""

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import reading
from rpo_nb.data.feedback import load_feedback
from tests.data.rows import (
    EXPECTED,
    FLAT,
    GOOD,
    NESTED,
    ROWS,
    lines,
    load,
    reasons,
    triples,
    ultrafeedback,
)

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
