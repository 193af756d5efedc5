"""What a file could lose or change without a word: it is read whole, told, or refused by cause."""

import json
from collections import Counter

import pytest

from rpo_nb.config.arguments import settings
from rpo_nb.config.schema import DataConfig
from rpo_nb.data import feedback

Q, GOOD, BAD = "Name a colour.", "Red it is.", "Bl, I think."
ROWS = [{"prompt": Q, "response": GOOD, "reward": 3}, {"prompt": Q, "response": BAD, "reward": 1}]
OTHER = [row | {"prompt": "Name a bird."} for row in ROWS]


def turns(*texts, last=GOOD):
    return [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate((*texts, last))
    ]


def rewards(source, **options):
    return Counter(feedback.load_feedback(source, **options)["reward"])


def refused(source):
    with pytest.raises(ValueError, match="^[^\n]+$") as error:
        feedback.load_feedback(source)
    return str(error.value)


@pytest.mark.parametrize("indent", [None, 1])
def test_arrays_joined_end_to_end_are_read_to_the_last(tmp_path, indent):
    path = tmp_path / "x.json"
    path.write_text("\n".join(json.dumps(rows, indent=indent) for rows in (ROWS, OTHER)))
    assert rewards(path) == {3: 2, 1: 2}


@pytest.mark.parametrize("before", [{}, {"version": 1}])
def test_an_object_of_two_lists_of_rows_does_not_lose_the_second(tmp_path, before):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(before | {"train": ROWS, "test": OTHER}))
    assert "several lists of rows (train, test)" in refused(path)
    path.write_text(json.dumps(before | {"data": ROWS, "authors": [{"name": "A"}], "n": 2}))
    assert rewards(path) == {3: 1, 1: 1}


def test_what_follows_an_array_is_not_left_out_in_silence(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(ROWS, indent=1) + "\nand so on and so forth")
    assert "after 2 rows it is not JSON" in refused(path)


@pytest.mark.parametrize(
    ("better", "worse"), [("A", "B"), ("response_a", "response_b"), ("Response A", "Response B")]
)
def test_names_of_sides_are_no_texts(better, worse):
    row = {"prompt": Q, "response_a": GOOD, "response_b": BAD}
    row |= {"chosen": better, "rejected": worse}
    found = feedback.load_feedback([row])
    assert dict(zip(found["completion"], found["reward"], strict=True)) == {GOOD: 1, BAD: 0}
    swapped = feedback.load_feedback([row | {"chosen": worse, "rejected": better}])
    assert dict(zip(swapped["completion"], swapped["reward"], strict=True)) == {GOOD: 0, BAD: 1}
    texts = feedback.load_feedback([row | {"chosen": GOOD, "rejected": BAD}])
    assert set(texts["completion"]) == {GOOD, BAD}


def test_pairs_of_several_judges_keep_1_and_0_and_a_half():
    rows = [
        {
            "prompt": f"Question {i}?",
            "response_a": GOOD,
            "response_b": BAD,
            "judge": f"j{i % 2}",
            "winner": ("a", "b", "tie")[i % 3] if i % 2 else "a",
        }
        for i in range(60)
    ]
    assert rewards(rows) == {1: 50, 0: 50, 0.5: 20}


@pytest.mark.parametrize("score", ["response_{}_score", "response_{}_rating", "score_{}"])
def test_scores_of_numbered_texts_however_they_are_named(score):
    rows = [
        {"prompt": Q, "response_0": GOOD, "response_1": BAD}
        | {score.format(0): 3, score.format(1): 1}
    ]
    assert rewards(rows) == {3: 1, 1: 1}


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"PK\x03\x04" + b"\0" * 600, "Excel"),
        (b"ARROW1" + b"\0" * 600, "Arrow"),
        (b"\xff" * 4 + b"\0" * 600, "Arrow"),
        (b"SQLite format 3" + b"\0" * 600, "SQLite"),
        (('{"a": "b"}' * 30).encode("utf-16-le"), "UTF-16"),
        (('{"a": "b"}' * 30).encode("utf-32"), "UTF-32"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(tmp_path, head, told):
    path = tmp_path / "x.jsonl"
    path.write_bytes(head)
    assert told in refused(path)


def test_one_class_is_no_feedback_however_short_the_file():
    rows = [
        {"prompt": Q, "response": f"{word} {i}", "label": word}
        for i in range(3)
        for word in ("yes", "maybe")
    ]
    assert "one class of labels" in refused(rows) and "'maybe'" in refused(rows)


def test_an_aspect_of_which_more_is_no_better_is_no_reward_unasked():
    rows = [{"prompt": Q, "response": text, "toxicity": n} for n, text in enumerate((GOOD, BAD))]
    assert "toxicity" in refused(rows) and "data.reward" in refused(rows)
    rows = [{"prompt": Q, "response": text, "humor": n} for n, text in enumerate((BAD, GOOD))]
    assert rewards(rows) == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        (turns(Q, GOOD, last="Thanks!"), "does not end with an answer"),
        (turns(Q) + [{"role": "tool", "content": "4"}], "a tool's turn"),
        (turns(Q) + [{"role": "narrator", "content": "4"}], "role is unknown"),
    ],
)
def test_a_conversation_without_its_answer_is_refused_by_that(messages, told):
    assert told in refused([{"messages": messages, "reward": n} for n in (1, 2)])


def test_a_table_below_a_preamble_and_excels_own_first_line(tmp_path):
    path = tmp_path / "x.csv"
    body = "".join(f"{row['prompt']};{row['response']};{row['reward']}\n" for row in ROWS)
    path.write_text("Export of May\n\nprompt;response;reward\n" + body)
    assert "header stands on line 3" in refused(path)
    path.write_text("sep=;\nprompt;response;reward\n" + body)
    assert rewards(path) == {3: 1, 1: 1}


def test_a_shard_that_cannot_be_read_is_not_left_out_in_silence(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert rewards(tmp_path) == {3: 1, 1: 1}
    (tmp_path / "b.arrow").write_bytes(b"ARROW1")
    assert "b.arrow" in refused(tmp_path)


def test_an_image_beside_the_text_is_told():
    _, report = feedback.load_feedback(
        [row | {"image": "a.png"} for row in ROWS], return_report=True
    )
    assert [row["field"] for row in report if "not used" in row["reason"]] == ["image"]


def test_settings_in_braces_may_hold_spaces():
    assert settings(["data.reward={helpfulness: 0.65, verbosity: -0.4} seeds=[0, 1]"]) == {
        "data.reward": {"helpfulness": 0.65, "verbosity": -0.4},
        "seeds": [0, 1],
    }


def test_ranks_and_scores_are_not_one_scale():
    rows = [
        {"prompt": f"{Q} {i}", "response": text, "rank": rank, "score": score}
        for i in range(5)
        for text, rank, score in ((GOOD, 1, None), (BAD, 2, 3.0))
    ]
    more = [row | {"prompt": f"{row['prompt']} {row['rank']}"} for row in rows]
    assert "rank among scores" in refused(rows + more)
    assert rewards([row | {"score": None} for row in rows]) == {-1: 5, -2: 5}


def test_rewards_of_two_columns_are_told():
    rows = [ROWS[0] | {"score": None}, ROWS[1] | {"reward": None, "score": 80}]
    found, report = feedback.load_feedback(rows, return_report=True)
    assert Counter(found["reward"]) == {3: 1, 80: 1}
    told = [(row["line"], row["field"]) for row in report if "several columns" in row["reason"]]
    assert told == [(2, "score")]
    rows = [row | {"helpfulness": n} for n, row in enumerate(rows)]
    config = DataConfig(reward="helpfulness")
    _, report = feedback.load_feedback(rows, config=config, return_report=True)
    assert not any("several columns" in row["reason"] for row in report)


@pytest.mark.parametrize("name", ["ratings", "scores", "rewards"])
def test_a_list_of_ratings_of_one_completion_is_averaged(name):
    rows = [
        {"prompt": Q, "response": text, name: given}
        for text, given in ((GOOD, [3, None, 4]), (BAD, [1, 2]))
    ]
    assert rewards(rows) == {3.5: 1, 1.5: 1}
