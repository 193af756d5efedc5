"""How much may be lost, files."""

import bz2
import gzip
import json
import lzma

import pandas as pd
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import defects
from rpo_nb.data import files as data_files
from rpo_nb.data.splits import split_feedback
from tests.data.shaped import BAD, GOOD, ROWS, Q, load, rewards, told

# ---- how much may be lost ------------------------------------------------------------------------


def test_the_run_stops_where_a_twentieth_would_be_lost():
    rows = [
        {"prompt": f"p{i}", "completion": f"c{j}", "reward": j} for i in range(50) for j in range(2)
    ]
    broken = [row | {"reward": "?"} if i < 6 else row for i, row in enumerate(rows)]
    with pytest.raises(
        ValueError,
        match="6 of 100 entries.*line 1, reward: score is not a number.*data.max_dropped=0.06",
    ):
        load(broken)
    assert len(load(broken, max_dropped=0.06)[0]) == 94 and len(load(broken[1:])[0]) == 94
    assert (
        min(load([row | {"reward": row["reward"] * 100 - 50} for row in rows])[0]["reward"]) == -50
    )
    with pytest.raises(ValueError, match="one class of labels.*data.max_dropped=1"):
        load(rows, reward_min=1)
    assert len(load(rows, reward_min=1, max_dropped=1)[0]) == 50


def test_of_a_reason_the_first_thousand_are_listed_and_all_are_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        "\n" * 2500
        + "\n".join(
            json.dumps({"prompt": Q, "completion": c, "reward": r})
            for c, r in ((GOOD, 3), (BAD, 1))
        )
    )
    _, report = load(path)
    assert len(report) == defects.LISTED + 1 and "and 1,500 more" in report[-1]["field"]
    summary = defects.summarise_report(report)
    assert summary["count"].tolist() == [2500] and summary["fields"].tolist() == [""]


def test_a_line_longer_than_the_limit_costs_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "LIMIT", 500)
    rows = [
        {"prompt": Q, "completion": c, "reward": r}
        for c, r in ((GOOD, 3), ("x" * 5000, 2), (BAD, 1))
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    feedback, report = load(tmp_path / "x.jsonl")
    assert rewards(feedback) == {GOOD: 3, BAD: 1} and [
        (r["line"], r["reason"]) for r in report
    ] == [(2, "line is longer than 64 MB")]


@pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json", "x.csv", "x.tsv"])
@pytest.mark.parametrize(
    "pack",
    [lambda raw: raw, gzip.compress, bz2.compress, lzma.compress],
    ids=["plain", "gzip", "bzip2", "xz"],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_format_packed_by_its_bytes(name, pack, ending, tmp_path):
    frame = pd.DataFrame(ROWS)
    text = {
        "x.json": json.dumps(ROWS, indent=1),
        "x.csv": frame.to_csv(index=False),
        "x.tsv": frame.to_csv(index=False, sep="\t"),
    }.get(name, "\n".join(map(json.dumps, ROWS)))
    (tmp_path / (name + ending)).write_bytes(pack(text.encode()))
    feedback, report = load(tmp_path / (name + ending))
    assert rewards(feedback) == {row["completion"]: row["reward"] for row in ROWS} and report == []


@pytest.mark.parametrize("mark", [";", "|", "\t", "^"])
def test_any_delimiter_and_decimal_commas(mark, tmp_path):
    text = pd.DataFrame(ROWS).to_csv(index=False, sep=mark, decimal=",")
    (tmp_path / "x.csv").write_text(text)
    feedback, report = load(tmp_path / "x.csv")
    assert rewards(feedback) == {
        row["completion"]: row["reward"] for row in ROWS
    } and "decimal commas" in told(report, "repaired")


def test_a_broken_quote_makes_no_row_of_pieces(tmp_path):
    text = (
        'prompt,completion,reward\np1,a,1\np2,"first ""line"" "broken" here,\nx,y,5\nlast",7\n'
        'p3,c,3\np4,"never closed,4\np5,"e, f",5\n'
    )
    (tmp_path / "x.csv").write_text(text)
    feedback, report = load(tmp_path / "x.csv")
    assert rewards(feedback) == {"a": 1, "c": 3, "e, f": 5}
    assert [row["line"] for row in report if row["action"] == "dropped"] == [3, 4, 5, 7]


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"PK\x03\x04....", "Excel"),
        (b"PAR1....", "Parquet"),
        (b"SQLite format 3\x00", "SQLite"),
        ("prompt,completion".encode("utf-16-le") * 3, "UTF-16"),
    ],
)
def test_a_file_that_is_no_text_is_called_what_it_is(raw, words, tmp_path):
    for name in ("x.jsonl", "x.csv", "x.xlsx"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(ValueError, match=words):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "name, raw, words",
    [
        ("x.jsonl", b"prompt,completion,reward\na,b,1\n", "is CSV"),
        ("x.csv", b'{"prompt": "a"}\n', "is JSON"),
        ("x.jsonl.gz", b"\x1f\x8b\x08\x00bad", "damaged from its first byte"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_so(name, raw, words, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=words):
        load(tmp_path / name)


def test_a_json_file_cut_off_keeps_what_came_before_and_a_broken_one_says_where(tmp_path):
    text = json.dumps([ROWS[0], ROWS[1], ROWS[0]])
    (tmp_path / "x.json").write_text(text[:-10])
    feedback, report = load(tmp_path / "x.json")
    assert len(feedback) == 2 and [(r["line"], r["reason"]) for r in report] == [
        (3, "file is damaged from here on")
    ]
    (tmp_path / "x.json").write_text(text.replace("}, {", "} {", 1))
    with pytest.raises(ValueError, match="after 1 rows it is not JSON.*delimiter"):
        load(tmp_path / "x.json")


def test_folders_whose_files_names_tell_splits_or_do_not(tmp_path):
    def folder(name, *files):
        for i, file in enumerate(files):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(
                "\n".join(json.dumps(row | {"prompt": f"{file}{i}"}) for row in ROWS)
            )
        return tmp_path / name

    assert len(load(folder("a", "my_train.jsonl", "my_test.jsonl"))[0]) == 2
    assert len(load(folder("b", "train_jan.jsonl", "feb.jsonl"))[0]) == 4
    assert len(load(folder("c", "train/x.jsonl", "test/x.jsonl"))[0]) == 2
    with pytest.raises(ValueError, match="several folders \\(x, y\\)"):
        load(folder("d", "x/1.jsonl", "y/1.jsonl"))
    with pytest.raises(ValueError, match="train.jsonl is named like a split and more.jsonl is not"):
        load(folder("e", "train.jsonl", "more.jsonl"))


def test_twins_stand_on_one_side_and_are_told():
    twins = ["caf\u00e9", "cafe\u0301", "caf\u00e9\u200b", " caf\u00e9 "]
    rows = [
        {"prompt": p, "completion": c, "reward": r}
        for p in [*twins, "a", "b", "c"]
        for c, r in ((GOOD, 9), (BAD, 2))
    ]
    feedback, report = load(rows)
    assert (
        len(set(feedback["prompt_id"])) == 7
        and told(report, "kept")["prompt is another's twin"] == 3
    )
    for seed in range(5):
        splits = split_feedback(feedback, config=DataConfig(validation=1, held_out=1), seed=seed)
        assert (
            sum(
                bool(set(twins) & set(part["prompt"]))
                for part in (splits.train, splits.validation, splits.held_out)
            )
            == 1
        )
