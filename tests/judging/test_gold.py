"""Gold pairs: read strictly, made by the pocket."""

from __future__ import annotations

import json

import pytest

from rpo_nb.config.loading import repository_root
from rpo_nb.judging import gold
from rpo_nb.pocket import checker
from rpo_nb.pocket.prompts import parse

ROW = {"prompt": "Say hello.", "output_a": "Hello.", "output_b": "Go away, please.", "better": "a"}


def write(folder, rows, name="gold.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_a_file_of_ones_own_needs_four_columns_and_may_have_three_more(tmp_path):
    rows = [ROW, ROW | {"better": "b", "id": "x", "set": "hard", "paraphrase": "Greet me."}]
    found = gold.read_gold(write(tmp_path, rows))
    assert list(found.columns) == gold.COLUMNS
    assert found["better"].tolist() == ["a", "b"] and found["id"].tolist() == ["1", "x"]
    assert found["set"].tolist() == ["all", "hard"]
    assert found["paraphrase"][1] == "Greet me."
    assert "Say hello." in found["paraphrase"][0] != found["prompt"][0]


def test_a_column_without_a_value_is_as_one_that_is_not_there(tmp_path):
    empty = {"id": None, "set": None, "paraphrase": None, "input": None}
    first, second = (gold.read_gold(write(tmp_path, [row, row])) for row in (ROW | empty, ROW))
    assert first.equals(second)


def test_what_stands_after_an_instruction_is_asked_too(tmp_path):
    row = {"instruction": "Say it in French.", "input": "Hello."} | ROW
    del row["prompt"]
    assert gold.read_gold(write(tmp_path, [row]))["prompt"].item() == "Say it in French.\n\nHello."


def test_llmbars_own_form_is_read(tmp_path):
    row = {"input": "Say hello.", "output_1": "Hello.", "output_2": "No.", "label": 2}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([row, row | {"label": 1}]), encoding="utf-8")
    assert gold.read_gold(path)["better"].tolist() == ["b", "a"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"better": "c"}, "better is 'c'"),
        ({"better": None}, "better is None"),
        ({"output_b": "Hello."}, "the same"),
        ({"prompt": " "}, "'prompt' is ' '"),
        ({"output_a": 3}, "'output_a' is 3"),
        ({"paraphrase": ["Greet me.", "Hello?"]}, "'paraphrase' is ['Greet me.', 'Hello?']"),
        ({"paraphrase": 7}, "'paraphrase' is 7"),
        ({"paraphrase": ROW["prompt"]}, "its paraphrase is the prompt; leave it out"),
        ({"system": "Be kind."}, "it has a 'system', which would not be read"),
    ],
)
def test_a_row_that_cannot_be_gold_is_named(tmp_path, change, told):
    with pytest.raises(ValueError, match="gold.jsonl, row 2") as error:
        gold.read_gold(write(tmp_path, [ROW, ROW | change]))
    assert told in str(error.value)


def test_an_id_twice_a_missing_column_no_object_and_no_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'7' stands twice"):
        gold.read_gold(write(tmp_path, [ROW | {"id": 7}, ROW | {"id": "7"}]))
    lacks = {key: value for key, value in ROW.items() if key != "output_a"}
    with pytest.raises(ValueError, match="row 1: it has no 'output_a'"):
        gold.read_gold(write(tmp_path, [lacks]))
    with pytest.raises(ValueError, match="row 2: it is a list"):
        gold.read_gold(write(tmp_path, [ROW, [1]]))
    with pytest.raises(ValueError, match="no file 'none.jsonl'"):
        gold.read_gold(tmp_path / "none.jsonl")


def test_the_pockets_gold_is_its_checkers_and_length_does_not_tell():
    found = gold.pocket_gold(41, seed=3)
    assert len(found) == 41 and found["id"].is_unique
    longer = 0
    for row in found.itertuples():
        scores = [checker.score(row.prompt, text) for text in (row.output_a, row.output_b)]
        assert (scores[0] > scores[1]) == (row.better == "a") and scores[0] != scores[1]
        longer += (len(row.output_a) > len(row.output_b)) == (row.better == "a")
        assert parse(row.paraphrase) == parse(row.prompt) and row.paraphrase != row.prompt
    assert longer == 21  # the half that is rounded up
    assert gold.pocket_gold(41, seed=3).equals(found)


def test_a_draw_keeps_the_order_and_is_the_same_again():
    found = gold.pocket_gold(30)
    some = gold.drawn(found, 10)
    places = [found["id"].tolist().index(name) for name in some["id"]]
    assert len(some) == 10 and places == sorted(places)
    assert gold.drawn(found, 10).equals(some) and gold.drawn(found, 99) is found
    with pytest.raises(ValueError, match="--pairs 1"):
        gold.drawn(found, 1)


def test_llmbar_has_its_419_pairs():
    root = repository_root()
    path = next((f / gold.LLMBAR for f in (root, *root.parents) if (f / gold.LLMBAR).is_file()), "")
    if not path:
        pytest.skip("../shared/data/llmbar.jsonl.gz is not on this machine")
    found = gold.read_gold(path)
    assert found["set"].value_counts().to_dict() == {"adversarial": 319, "natural": 100}
    adversarial = found[found["set"].eq("adversarial")]
    longer = adversarial["output_a"].str.len() - adversarial["output_b"].str.len()
    worse = longer.where(adversarial["better"].eq("b"), -longer).gt(0).sum()
    guide = (root / "docs" / "judges.md").read_text(encoding="utf-8")
    assert f"in {worse} of 319 it is the longer" in " ".join(guide.split())
