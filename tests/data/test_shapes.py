"""Shapes, raters, weights, aspects, what may be lost, and files however they are packed or
broken."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb.data import defects, forms, kinds, shapes
from rpo_nb.data.feedback import conversations
from rpo_nb.data.summary import summarise
from tests.data.shaped import BAD, GOOD, ROWS, Q, load, rewards, told

ROOT = Path(__file__).resolve().parents[2]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


# ---- docs/feedback.md ----------------------------------------------------------------------------


def documented():
    """{title: the rows of the snippet after it} of docs/feedback.md."""
    part = (ROOT / "docs" / "feedback.md").read_text(encoding="utf-8").split("-m rpo_nb")[0]
    return {
        title: [json.loads(line) for line in snippet.strip().splitlines()]
        for title, snippet in re.findall(r"\*\*(\w+)\*\*.*?```\n(.*?)```", part, re.DOTALL)
    }


@pytest.mark.parametrize(
    "title, expected",
    {
        "Scores": [7.5, 3, 7.5, 2, 8],
        "Labels": [1, 0, 1, 0],
        "Pairs": [1, 0] * 4,
        "Ratings": [4, 3, 4, 0],
        "Raters": [7.5, 2.5],
    }.items(),
)
def test_the_documented_snippets(title, expected, tmp_path):
    rows = documented()[title]
    assert len(rows) == 4
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = {"reward": "helpfulness"} if title == "Ratings" else {}
    if title == "Raters":  # weighted: Bl has 4 at half weight and 1
        expected = [7.5, 2.0]
    feedback, report = load(tmp_path / "mine.jsonl", **config)
    assert feedback["reward"][:] == expected and not told(report)


# ---- shapes that are no file of tests/cases ------------------------------------------------------

PAIR = [
    (
        "lmsys",
        {
            "conversation_a": [user(Q), assistant(GOOD)],
            "conversation_b": [user(Q), assistant(BAD)],
            "winner": "model_a",
        },
    ),
    (
        "helpsteer3",
        {"context": [user(Q)], "response1": GOOD, "response2": BAD, "overall_preference": -2},
    ),
    ("pku", {"prompt": Q, "response_0": BAD, "response_1": GOOD, "better_response_id": 1}),
    (
        "a model's name",
        {
            "prompt": Q,
            "model_a": "x",
            "model_b": "y",
            "response_a": GOOD,
            "response_b": BAD,
            "winner": "x",
        },
    ),
    (
        "ShareGPT",
        {
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
    ),
    ("capitals", {"Prompt": Q, "Chosen Response": GOOD, "Rejected-Response": BAD}),
    ("camel case", {"userPrompt": Q, "chosenResponse": GOOD, "rejectedResponse": BAD}),
    ("both orders", {"prompt": Q, "response_rejected": BAD, "response_chosen": GOOD}),
    ("TRL", {"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}),
    (
        "no prompt column",
        {"chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]},
    ),
]


@pytest.mark.parametrize("row", [row for _, row in PAIR], ids=[name for name, _ in PAIR])
def test_a_pair_in_every_dress(row):
    feedback, report = load([row])
    assert set(feedback["prompt"]) == {Q} and rewards(feedback) == {GOOD: 1.0, BAD: 0.0}
    assert "pair has no scores" in told(report, "kept") and kinds.is_labelled(feedback["reward"])


def test_a_pairs_scores_are_kept_and_a_tie_is_half():
    scored = {
        "prompt": Q,
        "chosen": GOOD,
        "rejected": BAD,
        "chosen-rating": 4.5,
        "rejected_rating": 2,
    }
    assert rewards(load([scored])[0]) == {GOOD: 4.5, BAD: 2}
    tie, report = load(
        [{"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "tie (bothbad)"}]
    )
    assert rewards(tie) == {GOOD: 0.5, BAD: 0.5} and "pair is a tie" in told(report, "kept")
    half = [scored | {"prompt": f"{i}"} for i in range(8)] + [scored | {"rejected_rating": None}]
    feedback, report = load(half)
    assert set(feedback["reward"]) == {4.5, 2.0} and told(report) == {"score is missing": 1}


def test_a_number_that_may_mean_either_side_is_refused():
    for winner in (0, "3", True, 1.00003):
        with pytest.raises(
            ValueError, match="winner is not understood.*its columns are .*output_1"
        ):
            load([{"prompt": Q, "output_1": GOOD, "output_2": BAD, "preference": winner}])


@pytest.mark.parametrize(
    "up, down",
    [
        (True, False),
        ("True", "False"),
        ("\U0001f44d\U0001f3fd", "\U0001f44e"),
        ("thumbs_up", "thumbs_down"),
        ("yes", "no"),
        (1, 0),
        ("1", "0"),
    ],
)
def test_labels_are_1_and_0(up, down):
    feedback, report = load(
        [
            {"prompt": Q, "completion": GOOD, "label": up},
            {"prompt": Q, "completion": BAD, "label": down},
        ]
    )
    assert rewards(feedback) == {GOOD: 1.0, BAD: 0.0}
    assert kinds.is_labelled(feedback["reward"]) and "rewards are labels" in told(report, "kept")


def test_a_word_among_scores_is_no_label():
    feedback, report = load(
        [
            {"prompt": Q, "completion": GOOD, "score": 7},
            {"prompt": Q, "completion": BAD, "score": "good"},
            {"prompt": Q, "completion": "C", "score": True},
            {"prompt": "Another.", "completion": "D", "score": 2},
        ]
    )
    assert rewards(feedback) == {GOOD: 7, "D": 2} and feedback["prompt_id"][:] == [0, 1]
    assert told(report) == {"score is not a number": 1, "score is a boolean": 1}


def test_context_belongs_to_the_prompt_and_what_is_not_used_is_named():
    rows = [
        {
            "context": "A text.",
            "question": "What?",
            "input": "x",
            "system": "",
            "answer": text,
            "score": score,
            "label": 1,
            "notes": "said by somebody in a hurry",
        }
        for text, score in ((GOOD, 5), (BAD, 2))
    ]
    feedback, report = load(rows)
    assert feedback["prompt"][0] == "A text.\n\nWhat?\n\nx"
    assert {(row["field"], row["reason"]) for row in report} == {
        ("label", "column could be the reward too"),
        ("notes", "column looks like content and is not used"),
    }
    turns, _ = load(
        [
            {
                "instruction": "Bye",
                "history": [["Hi", "Hello"]],
                "system": "S",
                "output": text,
                "score": score,
            }
            for text, score in ((GOOD, 5), (BAD, 2))
        ]
    )
    assert conversations(turns)[0] == [
        {"role": "system", "content": "S"},
        user("Hi"),
        assistant("Hello"),
        user("Bye"),
    ]


def test_a_null_does_not_win_over_a_value_also_in_a_frame():
    frame = pd.DataFrame(
        {
            "prompt": [Q, np.nan],
            "instruction": [np.nan, Q],
            "completion": [GOOD, None],
            "response": [None, BAD],
            "reward": [np.nan, 2.0],
            "score": [7.0, np.nan],
        }
    )
    for source in (frame, frame.to_dict("records")):
        assert rewards(load(source)[0]) == {GOOD: 7, BAD: 2}


# ---- the table of shapes, merged weights, what a reader reads ------------------------------------


def test_a_new_shape_is_a_reader_and_a_line_of_the_table(monkeypatch):
    def read_triple(row):
        field, texts = row.first(row.columns.keys(("triple",)))
        for i, text in enumerate(texts):
            yield forms.Entry(
                row.prompt,
                (f"{field}[{i}]", text),
                (f"{field}[{i}]", 3 - i),
                forms.NOTHING,
                row.values,
                row.columns,
            )

    def keys(columns):
        return columns.keys(("triple",))

    triple = shapes.Shape(
        "three, the best first",
        keys,
        lambda row: forms.has(row.values, keys(row.columns)),
        read_triple,
    )
    monkeypatch.setattr(shapes, "SHAPES", (triple, *shapes.SHAPES))
    feedback, report = load([{"prompt": Q, "triple": [GOOD, BAD, "C"]}])
    assert rewards(feedback) == {GOOD: 3, BAD: 2, "C": 1}
    assert {row["reason"] for row in report} <= {"text is over-long"}
    old = [{"prompt": Q, "completion": text, "reward": r} for text, r in ((GOOD, 3), (BAD, 1))]
    assert rewards(load(old)[0]) == {GOOD: 3, BAD: 1}
    with pytest.raises(ValueError, match="completions are missing"):  # a prompt alone
        load([{"prompt": Q}])
    with pytest.raises(ValueError, match="prompt: text is missing"):
        load([{"score": 3}])


@pytest.mark.parametrize("raters", [True, False])
def test_weights_of_one_are_as_no_weights_also_of_merged_ratings(raters):
    rows = [
        {"prompt": f"p{i % 8}", "completion": f"c{i % 4}", "reward": i % 7, "rater": f"r{i % 3}"}
        for i in range(60)
    ]
    rows = rows if raters else [{k: v for k, v in row.items() if k != "rater"} for row in rows]
    plain, _ = load(rows)
    weighted, _ = load([row | {"weight": 1} for row in rows])
    assert len(plain) < 60 and set(weighted["weight"]) == {1.0}
    assert weighted["reward"][:] == plain["reward"][:]


@pytest.mark.parametrize(("scores", "reward"), [((4, 1), 2.5), ((2, 2), 2)])
def test_a_merged_completion_has_the_mean_of_its_weights(scores, reward):
    rows = [
        {"prompt": Q, "completion": GOOD, "score": score, "weight": weight}
        for score, weight in zip(scores, (3, 3), strict=True)
    ]
    rows[1]["weight"] = 1 if scores == (2, 2) else 3
    feedback, _ = load([*rows, {"prompt": Q, "completion": BAD, "score": 0, "weight": 1}])
    assert rewards(feedback) == {GOOD: reward, BAD: 0}
    assert feedback["weight"][:] == [2.0 if scores == (2, 2) else 3.0, 1.0]


def test_the_reports_summary_names_the_columns():
    rows = [
        {
            "prompt": Q,
            "completion": text,
            "reward": r,
            "score": 1,
            "notes": "a text of more words than four",
            "remarks": "another text of more words than four",
        }
        for text, r in ((GOOD, 3), (BAD, 1))
    ]
    table = defects.summarise_report(load(rows)[1]).set_index("reason")["fields"]
    assert table["column looks like content and is not used"] == "notes, remarks"
    assert table["column could be the reward too"] == "score"


def test_a_missing_name_is_no_model_and_words_are_counted_without_lists():
    rows = [
        {"prompt": Q, "completion": "a\u3000b  c\n", "reward": 3},
        {"prompt": Q, "completion": BAD, "reward": 1, "model": "m"},
    ]
    summary = summarise(load(rows)[0]).set_index("quantity")["value"]
    assert summary["models"] == 1 and summary["words per completion, median"] == 2
    assert summarise(load(ROWS)[0]).set_index("quantity")["value"]["models"] == 0
