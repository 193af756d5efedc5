"""Texts told apart by a letter or a number: the winner is read right, or the row is refused."""

import pytest

from rpo_nb.data.feedback import load_feedback
from tests.data.shaped import load, told

Q = "Name a colour."
A, B = "Red it is.", "Bl, I think."
LETTERS = {"prompt": Q, "response_a": A, "response_b": B}
NUMBERS = {"prompt": Q, "response_1": A, "response_2": B}


def rewards(row):
    found = load_feedback([row])
    return dict(zip(found["completion"], found["reward"], strict=True))


def refused(source, **config):
    with pytest.raises(ValueError, match="^[^\n]+$") as error:
        load(source, **config)
    return str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        LETTERS | {"verdict": "A>B"},
        LETTERS | {"winner": "[[A>>B]]"},
        LETTERS | {"winner": "B<A"},
        LETTERS | {"winner": "response_a > response_b"},
        LETTERS | {"winner": "[[A]]"},
        LETTERS | {"winner": "Assistant A"},
        LETTERS | {"model_a": "x", "model_b": "y", "winner": "x>y"},
        LETTERS | {"model_a": "m-b", "model_b": "m-a", "winner": "m-b"},
        NUMBERS | {"model_1": "gpt-4.2", "model_2": "claude-1", "winner": "gpt-4.2"},
        NUMBERS | {"winner": "Response #1"},
        NUMBERS | {"winner": "model1"},
        {"prompt": Q, "response_1": B, "response_2": A, "preferred_response": A},
    ],
)
def test_the_better_one_however_it_is_named(row):
    assert rewards(row) == {A: 1, B: 0}


@pytest.mark.parametrize(
    "row",
    [
        LETTERS | {"winner": "B>A"},
        LETTERS | {"winner": "[[B>>A]]"},
        LETTERS | {"winner": "A<B"},
        LETTERS | {"model_a": "m-b", "model_b": "m-a", "winner": "m-a"},
        NUMBERS | {"model_1": "claude-2", "model_2": "gpt-4.1", "winner": "gpt-4.1"},
    ],
)
def test_the_second_is_better(row):
    assert rewards(row) == {A: 0, B: 1}


@pytest.mark.parametrize("winner", ["A=B", "[[A=B]]", "A == B", "Tie"])
def test_neither_is_better(winner):
    assert rewards(LETTERS | {"winner": winner}) == {A: 0.5, B: 0.5}


def test_a_text_that_ends_in_a_number_is_a_text():
    row = {"prompt": Q, "response_1": "It is 42", "response_2": "It is 41"}
    assert rewards(row | {"preferred_response": "It is 42"}) == {"It is 42": 1, "It is 41": 0}
    assert rewards(row | {"preferred_response": "It is 41"}) == {"It is 42": 0, "It is 41": 1}
    assert rewards(
        {"prompt": Q, "answer_1": "42", "answer_2": "41", "preferred_response": "41"}
    ) == {"42": 0, "41": 1}


@pytest.mark.parametrize("best", [1, 2, 10, 12])
def test_the_best_of_twelve(best):
    row = {"prompt": Q} | {f"output_{i}": f"text {i}" for i in range(1, 13)}
    found = rewards(row | {"best": f"output_{best}"})
    assert [text for text, reward in found.items() if reward] == [f"text {best}"]


@pytest.mark.parametrize(
    "row",
    [
        LETTERS | {"preference": "A is better than B"},
        LETTERS | {"winner": "not A"},
        LETTERS | {"winner": "!A"},
        LETTERS | {"winner": "No B"},
        LETTERS | {"winner": "A>A"},
        LETTERS | {"winner": "A>C"},
        LETTERS | {"winner": "A>=B"},
        LETTERS | {"response_c": "Grey.", "winner": "A>B"},
        LETTERS | {"winner": ["a"]},
        LETTERS | {"winner": {"name": "a"}},
        LETTERS | {"llm_a": "Llama-2-7B", "llm_b": "gpt-4", "winner": "Llama-2-7B"},
        LETTERS | {"model_a": "x", "model_b": "x", "winner": "x"},
        LETTERS | {"model_a": "b", "model_b": "a", "winner": "a"},
        NUMBERS | {"winner": "response_12"},
        NUMBERS | {"winner": "Version 2.1"},
        NUMBERS | {"response_3": "Grey.", "preference_strength": 2},
        {"prompt": Q, "answer_1": "2", "answer_2": "1", "winner": "1"},
        LETTERS | {"chosen": "A", "rejected": "A"},
    ],
)
def test_what_may_mean_another_side_is_refused(row):
    assert "winner is not understood" in refused([row])


def test_a_pairs_own_texts_stay_and_others_beside_them_are_told():
    row = {"prompt": Q, "response_1": "zz", "response_2": "yy"}
    found, report = load([row | {"chosen": "Option 1", "rejected": "Option 2"}])
    assert set(found["completion"]) == {"Option 1", "Option 2"}
    unused = [row["field"] for row in report if "not used" in row["reason"]]
    assert unused == ["response_1", "response_2"]
    _, report = load([row | {"chosen": "yy", "rejected": "zz"}])
    assert not any("not used" in row["reason"] for row in report)


def test_two_columns_that_name_different_winners_are_told():
    _, report = load([LETTERS | {"winner": "a", "verdict": "b"}])
    assert ("verdict", "column could be the reward too") in [
        (row["field"], row["reason"]) for row in report
    ]
    _, report = load([LETTERS | {"winner": "a", "verdict": "A>B"}])
    assert "column could be the reward too" not in told(report, "kept")
