"""Which columns are the question: no user's id, and no text twice."""

import pytest

from tests.data.shaped import load, told

Q = "Name a bird."
TWO = (("u17", "Wren.", 5), ("u18", "Cow.", 1))


def prompts(rows, **config):
    return set(load(rows, **config)[0]["prompt"])


@pytest.mark.parametrize("name", ["user", "request"])
@pytest.mark.parametrize("asked", ["input", "context", "history", "post", "problem"])
def test_a_users_id_is_no_question(name, asked):
    rows = [{name: user, asked: Q, "output": text, "rating": n} for user, text, n in TWO]
    found, report = load(rows)
    assert set(found["prompt"]) == {Q} and len(found) == 2
    assert [row["field"] for row in report if "not used" in row["reason"]] == [name]


def test_a_users_number_is_no_question_and_not_told():
    rows = [
        {"user": i, "input": Q, "output": text, "rating": n} for i, (_, text, n) in enumerate(TWO)
    ]
    found, report = load(rows)
    assert set(found["prompt"]) == {Q} and "text is not a string" not in told(report)


def test_a_users_id_beside_a_conversation_is_no_question():
    for name in ("messages", "conversation"):
        rows = [
            {"user": user, name: [{"role": "user", "content": Q}], "output": text, "rating": n}
            for user, text, n in TWO
        ]
        assert prompts(rows) == {Q}


def test_a_users_id_beside_texts_told_apart_and_pairs_is_no_question():
    row = {"user": "u17", "input": Q}
    assert prompts([row | {"response_a": "Wren.", "response_b": "Cow.", "winner": "a"}]) == {Q}
    assert prompts([row | {"chosen": "Wren.", "rejected": "Cow."}]) == {Q}
    responses = [{"text": text, "reward": n} for _, text, n in TWO]
    assert prompts([row | {"responses": responses}]) == {Q}


def test_what_a_user_asks_is_the_question():
    rows = [{"output": text, "rating": n} for _, text, n in TWO]
    assert prompts([{"user": Q} | row for row in rows]) == {Q}
    assert prompts([{"user": "Bird?"} | row for row in rows]) == {"Bird?"}
    assert prompts([{"user": "u17"} | row for row in rows]) == {"u17"}
    assert prompts([{"user": Q, "context": "Be brief."} | row for row in rows]) == {
        f"Be brief.\n\n{Q}"
    }
    turns = [{"role": "user", "content": Q}]
    assert prompts([{"user": turns, "context": "Be brief."} | row for row in rows]) == {
        f"Be brief.\n\n{Q}"
    }
    assert prompts([{"user": "u17", "prompt": Q} | row for row in rows]) == {Q}


@pytest.mark.parametrize("beside", ["input", "context"])
def test_what_may_be_a_users_name_and_is_read_as_asked_is_told(beside):
    rows = [{"user": "John Smith", beside: Q, "output": text, "rating": n} for _, text, n in TWO]
    both = [row["field"] for row in load(rows)[1] if "together" in row["reason"]]
    assert both == [f"user, {beside}"]
    known = [{"instruction": "Answer in a word.", "user": "John Smith"} | row for row in rows]
    assert not [row for row in load(known)[1] if "together" in row["reason"]]


@pytest.mark.parametrize("twice", ["input", "context", "history"])
def test_a_text_that_stands_in_two_columns_is_asked_once(twice):
    rows = [{"prompt": Q, twice: f" {Q}\n", "output": text, "rating": n} for _, text, n in TWO]
    found, report = load(rows)
    assert set(found["prompt"]) == {Q}
    assert [(row["line"], row["field"]) for row in report if "twice" in row["reason"]] == [
        (1, twice)
    ]
    assert rows[0][twice] == f" {Q}\n"  # the source stays as it is
    other = [row | {twice: "Of the sea."} for row in rows]
    assert len(prompts(other)) == 1 and "Of the sea." in prompts(other).pop()


def test_two_columns_around_the_question_that_are_equal_are_read_once():
    rows = [
        {"prompt": "Answer.", "context": Q, "input": Q, "output": text, "rating": n}
        for _, text, n in TWO
    ]
    assert prompts(rows) == {f"Answer.\n\n{Q}"}
    rows = [{key: value for key, value in row.items() if key != "prompt"} for row in rows]
    assert prompts(rows) == {Q}
