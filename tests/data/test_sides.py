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


@pytest.mark.parametrize(("better", "worse"), [("winner", "loser"), ("chosen", "rejected")])
def test_a_pair_of_models_is_no_pair_of_texts(better, worse):
    row = LETTERS | {"model_a": "gpt 4", "model_b": "Qwen", better: "Qwen", worse: "gpt 4"}
    assert rewards(row) == {A: 0, B: 1}


def test_two_columns_that_name_different_winners_are_told():
    _, report = load([LETTERS | {"winner": "a", "verdict": "b"}])
    assert ("verdict", "column could be the reward too") in [
        (row["field"], row["reason"]) for row in report
    ]
    _, report = load([LETTERS | {"winner": "a", "verdict": "A>B"}])
    assert "column could be the reward too" not in told(report, "kept")


# ---- scores beside a winner ----------------------------------------------------------------------

PAIR = {"prompt": Q, "chosen": A, "rejected": B}
AGAINST = "scores go against the better one"
SCORED = {
    "pair": PAIR | {"chosen_score": 2.1, "rejected_score": 0.3},
    "sides": LETTERS | {"score_a": 2.1, "score_b": 0.3, "winner": "a"},
}


def turned(row):
    first, second = [key for key in row if "score" in key]
    return row | {first: row[second], second: row[first]}


def file_of(row, right, wrong):
    rows = [row] * right + [turned(row)] * wrong
    return [row | {"prompt": f"{Q} {i}"} for i, row in enumerate(rows)]


@pytest.mark.parametrize("kind", SCORED)
def test_scores_against_the_better_one_are_told(kind):
    _, report = load(file_of(SCORED[kind], 3, 0))
    assert AGAINST not in told(report, "kept")
    found, report = load(file_of(SCORED[kind], 3, 1))
    against = [(row["line"], row["field"]) for row in report if row["reason"] == AGAINST]
    assert against == [(4, ", ".join(key for key in SCORED[kind] if "score" in key))]
    assert sorted(found["reward"]) == [0.3] * 4 + [2.1] * 4


@pytest.mark.parametrize("kind", SCORED)
def test_scores_that_are_a_loss_are_refused_unless_they_are_named(kind):
    rows = file_of(SCORED[kind], 1, 3)
    message = refused(rows)
    assert "in 3 of 4 pairs" in message and "line 2" in message
    assert "data.reward={score:-1}" in message
    _, report = load(rows, reward="score")
    assert told(report, "kept")[AGAINST] == 3
    _, report = load(rows, reward={"score": -1})
    assert told(report, "kept")[AGAINST] == 1


def test_a_tie_and_a_hole_go_against_nothing():
    rows = [
        SCORED["sides"] | {"winner": "tie"},
        SCORED["sides"] | {"score_a": 0.3},
        SCORED["sides"] | {"winner": None},
        SCORED["pair"] | {"rejected_score": 2.1},
    ]
    rows = [row | {"prompt": f"{Q} {i}"} for i, row in enumerate(rows)]
    assert AGAINST not in told(load(rows)[1], "kept")


def test_a_winner_that_is_not_understood_beside_scores_is_told():
    _, report = load([SCORED["sides"] | {"winner": "the first"}])
    assert [row["field"] for row in report if "not used" in row["reason"]] == ["winner"]


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [("score", "vote", (0, 3)), ("rating", "feedback", ("Good", "Too long, all in all"))],
)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("texts", [("response_{}", "ab"), ("{}", ("chosen", "rejected"))])
def test_of_two_score_columns_the_first_known_name_counts(first, second, values, swap, texts):
    shape, sides = texts
    row = {shape.format(side): text for side, text in zip(sides, (A, B), strict=True)}
    known = {f"{first}_{side}": n for side, n in zip(sides, (9, 1), strict=True)}
    other = {f"{second}_{side}": n for side, n in zip(sides, values, strict=True)}
    row |= other | known if swap else known | other
    found, report = load([{"prompt": Q} | row])
    assert dict(zip(found["completion"], found["reward"], strict=True)) == {A: 9, B: 1}
    told = {row["field"] for row in report if row["reason"] == "column could be the reward too"}
    assert told == set(other)


def test_a_score_column_that_data_reward_names_is_the_one():
    row = LETTERS | {"score_a": 9, "score_b": 1, "vote_a": 0, "vote_b": 3}
    assert sorted(load([row], reward="vote")[0]["reward"]) == [0, 3]
    assert sorted(load([row], reward="score")[0]["reward"]) == [1, 9]


def test_a_score_of_one_side_alone_is_told():
    found, report = load([LETTERS | {"score_a": 9, "rating_a": 4, "rating_b": 2}])
    assert sorted(found["reward"]) == [2, 4]
    assert ("score_a", "column could be the reward too") in [
        (row["field"], row["reason"]) for row in report
    ]


def test_a_hole_in_the_first_score_column_is_filled_from_the_second():
    holes = {"score_a": None, "score_b": None, "vote_a": 3, "vote_b": 0}
    found, _ = load([LETTERS | holes])
    assert dict(zip(found["completion"], found["reward"], strict=True)) == {A: 3, B: 0}
