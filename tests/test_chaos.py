"""The short version of `make chaos`: faults to what trains and asks the policies; after the same
command nothing is lost, stale or different. The long one kills the whole workflow, too.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import chaos, chaos_damage, chaos_grid, chaos_world

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(feedback, folder) of the grid, made once and undisturbed."""
    chaos_grid.loaded()
    folder = tmp_path_factory.mktemp("chaos")
    feedback, whole = chaos_world.write_feedback(folder / "feedback.jsonl"), folder / "whole"
    (whole / "out").mkdir(parents=True)
    status, said = chaos_grid.grid_again(feedback, whole)
    assert status == 0, said
    return feedback, whole


def nothing_wrong(rows) -> list[dict]:
    rows = list(rows)
    assert rows and [row for row in rows if any(row.get(name) for name in chaos_world.BAD)] == []
    return rows


def test_the_world_is_one_in_which_a_mistake_would_show(whole):
    digests = chaos_world.results(whole[1] / "out")
    weights = [digest for name, digest in digests.items() if name.endswith("safetensors")]
    answers = [digest for name, digest in digests.items() if "completions" in name]
    assert len(set(weights)) == len(weights) == 3 and len(set(answers)) == len(answers) == 4


def test_what_is_compared_shows_what_is_lost_stale_and_different(whole, tmp_path):
    right = {"a": "1", "b": "2", "profile.yaml": "3"}
    (tmp_path / "profile.yaml").write_text("x")
    broken = chaos_world.results(tmp_path)
    row = chaos_world.compared("damage", "case", tmp_path, right, broken)
    assert (row["lost"], row["stale"], row["different"]) == (2, 1, 1)


def test_damaged_files_are_made_again(whole):
    rows = nothing_wrong(
        chaos_grid.damaged_grid(*whole, random.Random(0).sample(chaos_damage.GRID, 8))
    )
    silent = [
        row["case"]
        for row in rows
        if "made again" not in row["said"] and not row["case"].endswith("missing")
    ]
    assert not silent, "nothing was said of them: were they looked at?"


def test_a_grid_that_is_killed_ends_with_the_same_bytes(whole):
    nothing_wrong(chaos_grid.killed_grid(*whole, 3, random.Random(0)))


def test_a_full_disk_loses_nothing(whole):
    rows = list(chaos_grid.full_disk(*whole, [0.2]))
    if not rows:
        pytest.skip("a small disk cannot be mounted here")
    nothing_wrong(rows)


def test_the_figures_that_the_docs_quote_are_those_measured():
    with (ROOT / "benchmarks" / "reliability.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = [row["kind"] for row in rows]
    table = pd.read_csv(ROOT / "benchmarks" / "reliability.csv")
    assert chaos.summary(table) in " ".join(
        (ROOT / "docs" / "speed.md").read_text(encoding="utf-8").split()
    )
    assert [kinds.count(kind) for kind in ("SIGKILL", "SIGINT", "SIGTERM")] == [20, 5, 5]
    assert kinds.count("damage") >= 30 and kinds.count("disk full") >= 1
    assert all(row[name] in ("", "0") for row in rows for name in chaos_world.BAD)
