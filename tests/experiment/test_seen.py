"""What a model sees of a prompt that is too long, and what is told of it."""

import copy
import json
from functools import partial

import datasets
import pytest

from rpo_nb.config import loading
from rpo_nb.data.splits import Splits
from rpo_nb.experiment import seen
from rpo_nb.policy import encoding
from rpo_nb.policy.fitting import cut_in_the_middle, newest_turns

TEMPLATE = (
    "{% for m in messages %}very {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}it is{% endif %}"
)
U, A, S = ({"role": role, "content": f"{role} words"} for role in ("user", "assistant", "system"))


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (9, list(range(9))),
        (20, list(range(9))),
        (4, [0, 1, 7, 8]),
        (5, [0, 1, 6, 7, 8]),
        (1, [8]),
        (0, []),
    ],
)
def test_the_middle_is_what_goes(room, kept):
    assert cut_in_the_middle(list(range(9)), room) == kept


@pytest.mark.parametrize(
    ("messages", "most", "kept"),
    [
        ([U, A, U, A, U], 5, [U, A, U, A, U]),
        ([U, A, U, A, U], 4, [U, A, U]),
        ([U, A, U, A, U], 1, [U]),
        ([U, A, U], 0, [U]),
        ([S, U, A, U], 3, [S, U]),
        ([S, U, A, U], 1, [U]),
        ([A, U, A, U], 3, [U, A, U]),
        ([S, U], 0, [U]),
    ],
)
def test_a_conversation_loses_its_oldest_turns_whole(messages, most, kept):
    assert newest_turns(messages, lambda some: len(some) <= most) == kept


def words(tokenizer, ids):
    return tokenizer.decode([i for i in ids if i != tokenizer.eos_token_id]).split()


@pytest.fixture
def long():
    return "please write about " + "the red lamp stands " * 20 + "in the kitchen garden"


@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_llama"])
def test_a_text_keeps_its_end_where_the_question_is(kind, request, long):
    tokenizer = request.getfixturevalue(kind)[1]
    ((ids, _),) = encoding.encode(
        tokenizer, [long], ["a chair"], max_prompt_tokens=9, max_completion_tokens=4
    )
    assert len(ids) == 9 and (ids[-1] == tokenizer.eos_token_id) == (kind == "tiny_t5")
    assert words(tokenizer, ids)[:3] == ["please", "write", "about"] and words(tokenizer, ids)[
        -3:
    ] == ["the", "kitchen", "garden"]
    ((same, _),) = encoding.encode(
        tokenizer, ["a kind book"], ["a chair"], max_prompt_tokens=9, max_completion_tokens=4
    )
    assert words(tokenizer, same) == ["a", "kind", "book"]


def talk(*contents):
    return [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)
    ]


def test_a_conversation_without_a_template_keeps_its_newest_turns(tiny_t5, long):
    encode = partial(
        encoding.encode,
        tiny_t5[1],
        completions=["a chair"],
        max_prompt_tokens=9,
        max_completion_tokens=4,
    )
    whole = talk(long, "a lamp", "the old boat")
    ((ids, _),) = encode([whole])
    assert words(tiny_t5[1], ids) == ["the", "old", "boat"]
    ((ids, _),) = encode([talk("a", "b", long)])
    assert words(tiny_t5[1], ids)[-2:] == ["kitchen", "garden"]


def test_a_template_stays_around_what_is_cut(tiny_llama, long):
    tokenizer = copy.deepcopy(tiny_llama[1])
    tokenizer.chat_template = TEMPLATE
    encode = partial(encoding.encode, tokenizer, completions=["a chair"], max_completion_tokens=4)
    ((empty, _),) = encode([[{"role": "user", "content": "boat"}]], max_prompt_tokens=100)
    ((ids, _),) = encode([long], max_prompt_tokens=24)
    start = empty.index(tokenizer.convert_tokens_to_ids("▁boat"))
    assert (
        len(ids) == 24
        and ids[:start] == empty[:start]
        and ids[start + 24 - len(empty) + 1 :] == empty[start + 1 :]
    )
    assert words(tokenizer, ids)[:2] == ["very", "please"] and words(tokenizer, ids)[-2:] == [
        "it",
        "is",
    ]
    assert "kitchen" in words(tokenizer, ids)
    ((newest, _),) = encode([talk(long, "a lamp", "the boat")], max_prompt_tokens=24)
    ((alone, _),) = encode(["the boat"], max_prompt_tokens=24)
    assert newest == alone
    with pytest.raises(ValueError, match="max_prompt_tokens is 4.*raise it"):
        encode([long], max_prompt_tokens=4)


def rows(prompts, completions):
    return datasets.Dataset.from_dict(
        {
            "prompt_id": list(range(len(prompts))),
            "prompt": prompts,
            "completion": completions,
            "reward": [1.0] * len(prompts),
        }
    )


def test_lengths_are_in_the_models_tokens_and_twins_are_told(tiny_t5, long):
    part = rows(
        ["a red yak", long, "a red zebra", "the boat"], ["a chair", "a chair", long, "it is bad"]
    )
    table = seen.lengths(
        tiny_t5[1], part, {"max_prompt_tokens": 9, "max_completion_tokens": 6}
    ).set_index("texts")
    assert table.loc["prompts", ["number", "cut", "most", "twins", "first"]].tolist() == [
        4,
        1,
        88,
        1,
        "1",
    ]
    assert table.loc["completions", ["number", "cut", "lost", "twins", "first"]].tolist() == [
        4,
        1,
        82,
        0,
        "2",
    ]
    told = " ".join(seen.sentences(table.reset_index()))
    assert (
        "1 is cut in the middle" in told and "1 is cut at the end" in told and "same tokens" in told
    )


def test_that_conversations_lose_turns_is_told(tiny_t5):
    part = rows(["the boat", "User: a"], ["a chair", "a lamp"]).add_column(
        "messages", ["", json.dumps(talk("the lamp", "red", "the boat"))]
    )
    table = seen.lengths(
        tiny_t5[1], part, {"max_prompt_tokens": 4, "max_completion_tokens": 6}
    ).set_index("texts")
    assert (
        table.loc["prompts", "cut"] == 1
        and "oldest turns" in table.loc["prompts", "where"]
        and table.loc["completions", "where"] == ""
    )


def test_a_profiles_sizes_with_other_limits_are_measured_apart(tiny_t5):
    profile = loading.load_profile("smoke", **{"sizes.large.max_tokens": 3})
    part = rows(["a red lamp stands", "the boat"], ["a chair", "it is bad"])
    splits = Splits(part, part.select([0]), part.select([]), 0.0, 1.0, [])
    table = seen.of_profile(
        profile, splits, {"small, large (word-level)": tiny_t5[1], "xl": "cannot be had"}
    )
    assert table.groupby("sizes")["cut"].sum().to_dict() == {"small": 0, "large": 3}
    assert len(seen.told(table)) == 8
