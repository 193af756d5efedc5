"""Conversations: TRL's shape."""

import json

import datasets
import pandas as pd
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import reading
from rpo_nb.data.defects import DEFECTS
from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.prompts import render
from rpo_nb.data.splits import split_feedback
from tests.data.rows import (
    EXPECTED,
    FLAT,
    lines,
    load,
    reasons,
    triples,
)

# ---- conversations: TRL's shape ------------------------------------------------------------------


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return [{"role": "assistant", "content": text}]


TURNS = [
    {"role": "system", "content": "Be brief."},
    user("Name a colour."),
    *assistant("Red."),
    user("Another?"),
]
RENDERED = "System: Be brief.\n\nUser: Name a colour.\n\nAssistant: Red.\n\nUser: Another?"
CONVERSATIONS = {
    "ultrafeedback": [
        {
            "instruction": TURNS,
            "completions": [
                {"response": "Blue.", "overall_score": 9},
                {"response": assistant("No."), "overall_score": 2},
            ],
        }
    ],
    "nested": [
        {
            "prompt": TURNS,
            "responses": [{"text": assistant("Blue."), "reward": 9}, {"text": "No.", "reward": 2}],
        }
    ],
    "flat": [
        {"prompt": TURNS, "completion": assistant("Blue."), "reward": 9},
        {"prompt": TURNS, "completion": assistant("No."), "reward": 2},
    ],
    "flat-instruction-response": [
        {"instruction": TURNS, "response": "Blue.", "reward": 9},
        {"instruction": TURNS, "response": "No.", "reward": 2},
    ],
}


@pytest.mark.parametrize("rows", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_in_every_shape_is_rendered_and_keeps_its_messages(rows):
    feedback, report = load([*rows, {"prompt": "Plain.", "completion": "Yes.", "reward": 3}])
    assert triples(feedback) == [
        (RENDERED, "Blue.", 9),
        (RENDERED, "No.", 2),
        ("Plain.", "Yes.", 3),
    ]
    assert feedback["prompt_id"][:] == [0, 0, 1] and render(TURNS) == RENDERED
    assert conversations(feedback) == [TURNS, TURNS, "Plain."] and feedback["messages"][2] == ""
    assert list(feedback.features) == [*reading.FEATURES, "messages"]
    assert reasons(report) == [(len(rows) + 1, "prompt", "prompt has one completion", "kept")]


@pytest.mark.parametrize("kind", ["dataset", "saved", "jsonl", "parquet"])
def test_a_conversation_comes_through_arrow_and_files(kind, tmp_path):
    rows, path = CONVERSATIONS["flat"], tmp_path / f"x.{kind}"
    table = datasets.Dataset.from_list(rows)
    if kind == "jsonl":
        lines(path, *rows)
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "saved":
        table.save_to_disk(path)
    feedback, report = load(table if kind == "dataset" else path)
    assert triples(feedback) == [(RENDERED, "Blue.", 9), (RENDERED, "No.", 2)] and report == []
    assert conversations(feedback) == [TURNS, TURNS]


def test_a_single_user_message_is_a_plain_prompt():
    feedback, _ = load(
        [
            {"prompt": [user("Name a colour.")], "completion": assistant("Red."), "reward": 9},
            {"prompt": "Name a colour.", "completion": "Blue, perhaps.", "reward": 4.5},
            *FLAT[2:],
        ]
    )
    assert triples(feedback) == EXPECTED and feedback["prompt_id"][:] == [0, 0, 1, 1]
    assert (
        feedback.features == reading.FEATURES and conversations(feedback) == feedback["prompt"][:]
    )


def test_a_conversation_and_a_text_that_reads_like_it_are_two_prompts_on_one_side_of_the_split():
    rows = [
        {"prompt": prompt, "completion": text, "reward": reward}
        for prompt in (TURNS, RENDERED, "b", "c", "d")
        for text, reward in (("x", 9), ("y", 3))
    ]
    feedback = load_feedback(rows)
    assert feedback["prompt_id"][:4] == [0, 0, 1, 1]
    for seed in range(6):
        splits = split_feedback(feedback, config=DataConfig(validation=1, held_out=1), seed=seed)
        parts = [splits.train, splits.validation, splits.held_out]
        assert sum(RENDERED in part["prompt"][:] for part in parts) == 1
        assert all(part.column_names == feedback.column_names for part in parts)
        assert {repr(c) for part in parts for c in conversations(part)} <= {
            repr(c) for c in (TURNS, RENDERED, "b", "c", "d")
        }


@pytest.mark.parametrize("write", [json.dumps, repr], ids=["JSON", "Python"])
def test_a_conversation_in_a_cell_is_read_and_other_brackets_stay_text(write, tmp_path):
    frame = pd.DataFrame(
        [
            {"prompt": write(TURNS), "completion": "a", "reward": 3},
            {"prompt": "[]", "completion": '["b"]', "reward": 4},
            {"prompt": '[{"a": 1}]', "completion": '{"content": "b"}', "reward": 4},
        ]
    )
    frame.to_csv(tmp_path / "x.csv", index=False)
    feedback, report = load(tmp_path / "x.csv")
    assert feedback["prompt"][:] == [RENDERED, "[]", '[{"a": 1}]'] and feedback["completion"][
        :
    ] == ["a", '["b"]', '{"content": "b"}']
    assert conversations(feedback)[0] == TURNS
    assert [r for r in reasons(report) if r[3] == "repaired"] == [
        (2, "prompt", "conversation in a string", "repaired")
    ]


@pytest.mark.parametrize(
    "prompt, field, reason",
    [
        ([], "prompt", "conversation has no message"),
        ([user("a"), "b"], "prompt[1]", "message is not an object"),
        ([{"role": "narrator", "content": "a"}], "prompt[0].role", "role is unknown"),
        ([user("a"), {"role": "tool", "content": "b"}], "prompt[1]", "a tool's turn"),
        ('[{"role": "user", "content": "a"', "prompt", "conversation in a string cannot be read"),
        ([{"role": ["user"], "content": "a"}], "prompt[0].role", "role is unknown"),
        ([{"role": "user"}], "prompt[0].content", "text is missing"),
        ([{"role": "user", "content": None}], "prompt[0].content", "text is missing"),
        ([user(" \n")], "prompt[0].content", "text is empty"),
        ([user(7)], "prompt[0].content", "text is not a string"),
        (
            [user([{"type": "text", "text": "a"}, {"type": "image"}])],
            "prompt[0].content",
            "content is a list of parts",
        ),
        ([user("a"), *assistant("b")], "prompt[1].role", "last message is not the user's"),
        (TURNS[:1], "prompt[0].role", "last message is not the user's"),
    ],
)
def test_a_bad_conversation_is_set_aside_and_the_rest_goes_on(prompt, field, reason):
    bad = {"prompt": prompt, "completion": "x", "reward": 3}
    feedback, report = load([*FLAT[:2], bad, *FLAT[2:]])
    assert triples(feedback) == EXPECTED and reasons(report) == [(3, field, reason, "dropped")]
    assert report[0]["remedy"] == DEFECTS[reason][1]
    with pytest.raises(ValueError, match=f"feedback, line 3, .*{reason}"):
        load([*FLAT, bad][2:], strict=True)


@pytest.mark.parametrize("completion", [[], [user("x")], [*assistant("a"), *assistant("b")]])
def test_a_completion_of_other_messages_is_set_aside(completion):
    rows = [*FLAT, {"prompt": "p", "completion": completion, "reward": 3}]
    assert reasons(load(rows)[1]) == [
        (5, "completion", "completion is not one message of the assistant", "dropped")
    ]


def test_what_is_odd_in_a_conversation_is_said():
    twice = [user("a"), user("\ud800b"), {"role": "user", "content": "c" * 200, "name": "left out"}]
    feedback, report = load(
        [{"prompt": twice, "completion": t, "reward": r} for t, r in (("x", 1), ("y", 2))],
        max_prompt_tokens=20,
    )
    assert conversations(feedback)[0] == [user("a"), user("\ufffdb"), user("c" * 200)]
    assert reasons(report)[:3] == [
        (1, "prompt[1].content", "text is not valid Unicode", "repaired"),
        (1, "prompt", "roles do not alternate", "kept"),
        (1, "prompt", "text is over-long", "kept"),
    ]
