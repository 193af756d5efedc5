"""Where a number comes from: every cell of the committed tables is the mean of what it is traced
to, and the rows it names are there."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb import __main__ as command_line
from rpo_nb.reporting.rendering import read_table
from rpo_nb.studies.browse import cells, page, stored, trace
from tests.studies import said

POCKET = Path(__file__).parents[2] / "results" / "pocket"
HERE = sorted(name for name in cells.TABLES if (POCKET / "tables" / f"{name}.csv").is_file())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return said.folder(tmp_path_factory.mktemp("said") / "mine")


@pytest.mark.parametrize("table", HERE)
def test_every_cell_of_the_committed_tables_is_the_mean_of_its_seeds(table):
    profile = stored.profile_of(POCKET)
    found = trace.origins(POCKET, profile, table)
    keys = list(cells.TABLES[table].keys)
    by_seed = found.drop_duplicates([*keys, "seed"])
    means = by_seed.groupby(keys, dropna=False).agg(
        value=("value", "first"), mean=("of_seed", "mean")
    )
    np.testing.assert_allclose(means["mean"], means["value"], rtol=1e-4, atol=5e-5)
    rows = len(read_table(POCKET / "tables" / f"{table}.csv"))
    assert len(means) == rows * (len(cells.MAP) if table == "regime_map" else 1)


def test_the_rows_that_a_cell_names_are_the_texts_of_its_policies(out):
    found = trace.trace(out, "table3", preset="fixed", judge="checker")
    assert found[["seed", "role", "who"]].values.tolist() == [
        [0, "policy", "RPO τ 0.3"],
        [0, "against", "SFT"],
        [1, "policy", "RPO τ 0.3"],
        [1, "against", "SFT"],
    ]
    assert set(found["of_seed"]) == {62.5} and set(found["how"]) == {"2 won, 1 even, 1 lost"}
    for row in found.itertuples():
        with gzip.open(out / row.generations, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines][row.first - 1 : row.last]
        assert {(r["method"], r["seed"]) for r in rows} == {
            ("rpo" if row.role == "policy" else "sft", row.seed)
        }
        assert [r["prompt_id"] for r in rows] == said.PROMPTS


def test_runs_are_named_by_the_stamps_and_where_there_are_none_by_what_the_page_left(tmp_path):
    out = said.folder(tmp_path / "mine", seeds=(0,))
    stamp = out / "runs" / "generations" / "fixed-small-seed0.jsonl.gz.json"
    stamp.parent.mkdir(parents=True)
    notes = {
        "rpo 0.3": "runs/rpo-small-seed0-abc/completions-1.json",
        "sft None": "runs/sft-small-seed0-def/completions-1.json",
        "generations": "hash",
    }
    expected = {"RPO τ 0.3": "rpo-small-seed0-abc", "SFT": "sft-small-seed0-def"}
    stamp.write_text(json.dumps(notes))

    def runs() -> dict[str, str]:
        found = trace.trace(out, "table3", preset="fixed", judge="checker")
        return dict(zip(found["who"], found["run"], strict=True))

    assert runs() == expected
    page.write(out)
    stamp.unlink()  # a clone has no runs
    assert runs() == expected


def paper_b_runs(out: Path) -> dict[int, list[str]]:
    """The runs that are named of each seed of paper B."""
    shelves = stored.shelves(out, stored.profile_of(out))
    return {
        shelf.seed: stored.rows(out, shelf)["run"].dropna().unique().tolist()
        for shelf in shelves
        if shelf.study == stored.B
    }


def test_the_run_of_paper_b_is_the_one_that_said_these_texts(tmp_path):
    """Whichever was trained last: settings may be changed and changed back."""
    out = said.folder(tmp_path / "mine")
    first = said.paper_b(out, 0, "aaaa", "first", write=True)
    second = said.paper_b(out, 1, "cccc", "first", write=True)
    said.paper_b(out, 0, "bbbb", "second", write=False)
    assert paper_b_runs(out) == {0: [first], 1: [second]}
    page.write(out)
    shutil.rmtree(out / "runs" / second)  # of this seed nothing is here
    assert paper_b_runs(out) == {0: [first], 1: [second]}
    page.write(out)
    assert paper_b_runs(out) == {0: [first], 1: [second]}
    # what the page once wrote is not believed against the run that is here
    third = said.paper_b(out, 0, "dddd", "third", write=True)
    shutil.rmtree(out / "runs" / third)
    assert paper_b_runs(out) == {0: [], 1: [second]}
    shutil.rmtree(out / "runs")  # as in a clone
    assert paper_b_runs(out)[1] == [second]


@pytest.mark.parametrize(
    ("table", "where", "told"),
    [
        ("table9", {}, "table2, table3"),
        ("table3", {"colour": "red"}, "preset, judge, size, baseline"),
        ("table3", {"size": "huge"}, "there is small"),
        ("table4", {}, "mine/tables/table4.csv"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(out, table, where, told):
    with pytest.raises(ValueError, match=told):
        trace.trace(out, table, **where)


def test_a_folder_without_texts_is_traced_to_its_seeds_and_verdicts(tmp_path):
    out = said.folder(tmp_path / "bare", texts=False)
    found = trace.trace(out, "table3", preset="paper", judge="reward_model")
    assert set(found["seed"]) == {0, 1} and found["generations"].isna().all()
    assert set(found["evidence"]) == {"verdicts/table3-reward_model.jsonl.gz"}


def test_the_command_prints_seeds_files_and_the_address_of_a_cell(out, capsys):
    words = ["trace", str(out), "table3", "preset=paper", "judge=checker"]
    assert command_line.main(words) == 0
    printed = capsys.readouterr().out
    assert "seed 1: 62.5, 2 won, 1 even, 1 lost, in verdicts/table3-checker.jsonl.gz" in printed
    assert "over SFT: generations/paper-small-seed1.jsonl.gz, rows 5 to 8" in printed
    assert (
        "generations.html#table=table3&preset=paper&judge=checker&size=small&baseline=sft"
        in printed
    )
    assert command_line.main(["trace", str(out), "table3", "paper"]) == 2
    assert "column=value" in capsys.readouterr().err


def test_a_verdict_that_no_judge_gives_is_refused(tmp_path):
    out = said.folder(tmp_path / "mine", seeds=(0,))
    file = out / "verdicts" / "table3-checker.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    rows.loc[0, "verdict"] = "first"
    file.write_bytes(gzip.compress(rows.to_json(orient="records", lines=True).encode()))
    with pytest.raises(ValueError, match="verdicts/table3-checker.jsonl.gz"):
        stored.verdicts(out)
