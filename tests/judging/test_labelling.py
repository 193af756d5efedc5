"""The labelling widget: clicked without a browser, stopped, started again, and compared with judges
by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from rpo_nb.judging import rates
from rpo_nb.judging.labelling import Labelling, blind_pairs
from tests.judging.pairs import pair_table, verdict_table


def many(count=30):
    return pair_table([(i, f"ours {i}", f"theirs {i}") for i in range(count)])


def parts(task):
    """(head, left, right, click) of the widget; click(name) presses a button."""
    head, texts, row = task.widget().children
    return (
        head,
        *texts.children,
        lambda name: next(b for b in row.children if b.description.startswith(name)).click(),
    )


def test_the_draw_is_blind_fixed_and_of_pairs_that_differ():
    pairs = pd.concat(
        [many(), pair_table([(90, "same", "same"), (91, " ", "text"), (92, None, "text")])],
        ignore_index=True,
    )
    drawn = blind_pairs(pairs, count=20)
    assert len(drawn) == 20 and drawn["prompt_id"].max() < 90 and drawn["prompt"].is_unique
    assert 3 < drawn["left"].eq("method").sum() < 17
    pd.testing.assert_frame_equal(drawn, blind_pairs(pairs.iloc[::-1], count=20))
    assert set(drawn["prompt_id"]) != set(blind_pairs(pairs, count=20, seed=1)["prompt_id"])
    assert len(blind_pairs(many(5), count=20)) == 5 and blind_pairs(many(5).iloc[:0]).empty


def test_a_prompt_comes_again_only_when_there_are_no_others():
    pairs = pd.concat(
        [many(3), many(3).assign(baseline="kto", baseline_completion="another")], ignore_index=True
    )
    assert (
        set(blind_pairs(pairs, count=3)["prompt_id"]) == {0, 1, 2}
        and len(blind_pairs(pairs, count=9)) == 6
    )


def test_clicks_are_stored_at_once_under_the_right_name(tmp_path):
    task = Labelling(many(), tmp_path / "labels" / "mine.jsonl", count=4)
    head, left, right, click = parts(task)
    for n, name in enumerate(("Left", "Right", "No difference")):
        row = task.questions.iloc[n]
        ours = left if row["left"] == "method" else right
        assert f"{n + 1} of 4" in head.value and row["method_completion"] in ours.value
        assert not any(
            word in head.value + left.value + right.value for word in ("rpo", "sft", "paper")
        )
        click(name)
        stored = [json.loads(line) for line in task.path.read_text().splitlines()]
        assert len(stored) == n + 1
    sides = task.questions["left"].tolist()
    other = {"method": "baseline", "baseline": "method"}
    assert task.labels()["verdict"].tolist() == [sides[0], other[sides[1]], "tie"]


def test_a_restart_goes_on_and_back_takes_back(tmp_path):
    path = tmp_path / "mine.jsonl"
    click = parts(Labelling(many(), path, count=3))[-1]
    click("Left")
    click("Left")
    head, _, _, click = parts(Labelling(many(), path, count=3))
    assert "3 of 3" in head.value
    click("Back")
    assert "2 of 3" in head.value and len(path.read_text().splitlines()) == 1
    click("Right")
    click("Right")
    assert "3 of 3 done" in head.value
    click("Left")  # disabled in a browser; nothing is left to choose here either
    assert len(path.read_text().splitlines()) == 3


def test_labels_do_not_outlive_their_texts(tmp_path):
    path = tmp_path / "mine.jsonl"
    parts(Labelling(many(), path, count=2))[-1]("Left")
    changed = many().assign(method_completion="new")
    assert (
        Labelling(changed, path, count=2).place == 0 and Labelling(many(), path, count=2).place == 1
    )


def test_texts_are_text(tmp_path):
    task = Labelling(pair_table([(0, "<script>x</script>", "a & b")]), tmp_path / "mine.jsonl")
    _, left, right, _ = parts(task)
    assert (
        "&lt;script&gt;" in left.value + right.value
        and "a &amp; b" in left.value + right.value
        and "<script" not in left.value + right.value
    )


def test_each_judge_is_compared_with_the_person(tmp_path):
    pairs = pair_table(
        [(0, "a b c", "d"), (1, "a", "d e"), (2, "a b", "d"), (3, "a b", "c d e"), (4, "u", "v w")]
    )
    task = Labelling(pairs, tmp_path / "mine.jsonl", count=4)
    person = {0: "method", 1: "method", 2: "tie", 3: "baseline", 4: "baseline"}
    for _, row in task.questions.iterrows():
        wanted = person[row["prompt_id"]]
        task.choose("tie" if wanted == "tie" else "left" if wanted == row["left"] else "right")
    verdicts = verdict_table(["method", "baseline", "method", "tie", "baseline"])
    table = task.agreement(verdicts).set_index("judge")
    labelled = task.questions["prompt_id"].tolist()
    judge = dict(enumerate(verdicts["verdict"]))
    points = [
        1.0 if judge[i] == person[i] else 0.5 if judge[i] == "tie" else 0.0
        for i in labelled
        if person[i] != "tie"
    ]
    assert list(table.index) == ["scripted", rates.RULE] and table.loc["scripted", "n"] == 4
    assert table.loc["scripted", "agreement"] == pytest.approx(np.mean(points))
    longer = {0: "method", 1: "baseline", 2: "method", 3: "baseline", 4: "baseline"}
    assert table.loc[rates.RULE, "same"] == pytest.approx(
        np.mean([longer[i] == person[i] for i in labelled])
    )


def test_before_the_first_choice_there_is_nothing_to_compare(tmp_path):
    task = Labelling(many(), tmp_path / "mine.jsonl")
    assert (
        task.agreement(verdict_table(["method"])).empty
        and task.labels().empty
        and not task.path.exists()
    )


@pytest.mark.parametrize("line", ["{", '{"texts": "x"}', '{"texts": "x", "choice": "both"}', "3"])
def test_a_file_that_is_no_labels_names_the_line(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"texts": "y", "choice": "tie"}\n' + line + "\n")
    with pytest.raises(ValueError, match="mine.jsonl, line 2"):
        Labelling(many(), path)
