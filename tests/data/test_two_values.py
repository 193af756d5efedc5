"""Two values of one thing: one is chosen, and that is told."""

import pytest

from rpo_nb.data.feedback import conversations, load_feedback

GOOD, BAD = "Good.", "Bad."
PROMPTS = [f"Name thing {i}." for i in range(3)]
ELSE = "prompt is not the completion's conversation"


def read(source):
    """(the feedback, [(reason, field)])."""
    found, report = load_feedback(source, return_report=True)
    return found, [(row["reason"], row["field"]) for row in report]


def turns(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


# ---- scores --------------------------------------------------------------------------------------


def test_a_label_beside_a_score_within_a_row_is_told():
    rows = [
        {
            "prompt": prompt,
            "responses": [
                {"text": GOOD, "label": "POSITIVE", "score": 0.9},
                {"text": BAD, "label": "NEGATIVE", "score": 0.99},
            ],
        }
        for prompt in PROMPTS
    ]
    assert read(rows)[1].count(("column could be the reward too", "responses[0].label")) == 1


@pytest.mark.parametrize(
    "row",
    [
        {"responses": [{"text": GOOD, "rating": 9}, {"text": BAD, "score": 55.0}]},
        {"responses": [{"text": GOOD, "score": 9, "x": 1}, {"text": BAD, "rating": 55.0}]},
    ],
)
def test_scores_of_two_columns_within_a_row_are_told(row):
    _, told = read([{"prompt": prompt} | row for prompt in PROMPTS])
    assert "rewards are of several columns" in {reason for reason, _ in told}


def test_lists_of_two_names_are_told_and_one_name_is_not():
    rows = [
        {"prompt": prompt, "responses": [GOOD, BAD], ("scores", "ratings")[i % 2]: [9, 1]}
        for i, prompt in enumerate(PROMPTS)
    ]
    assert "rewards are of several columns" in {reason for reason, _ in read(rows)[1]}
    for row in (
        {"responses": [GOOD, BAD], "scores": [9, 1]},
        {"responses": [{"text": GOOD, "score": 9}, {"text": BAD, "score": 1}]},
        {"chosen": GOOD, "rejected": BAD, "chosen_score": 9, "rejected_score": 1},
    ):
        assert not read([{"prompt": prompt} | row for prompt in PROMPTS])[1]


# ---- prompts -------------------------------------------------------------------------------------


def pair(prompt, *before, system=()):
    chosen, rejected = ([*system, *turns(*before, text)] for text in (GOOD, BAD))
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


SYSTEM = {"role": "system", "content": "Answer in French."}


@pytest.mark.parametrize(
    "prompt",
    [turns("A?"), turns("A?", "R", "C?"), turns("A?")[0], {"messages": turns("A?")}, ["A?"]],
)
def test_a_prompt_that_is_not_the_conversations_is_told(prompt):
    found, told = read(pair(prompt, "B?"))
    assert (ELSE, "prompt") in told and set(found["prompt"]) == {"B?"}


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (turns("Q1"), turns("Q1", "R1", "Q2")),
        (turns("Q1", "R1", "Q2"), turns("Q1", "R1", "Q2")),
        ([SYSTEM, *turns("Q1")], [SYSTEM, *turns("Q1", "R1", "Q2")]),
        ([SYSTEM, *turns("Q1", "R1", "Q2")], [SYSTEM, *turns("Q1", "R1", "Q2")]),
        ([SYSTEM], [SYSTEM, *turns("Q1", "R1", "Q2")]),
    ],
)
def test_a_prompts_system_turn_is_not_lost(given, asked):
    found, told = read(pair(given, "Q1", "R1", "Q2"))
    assert conversations(found)[0] == asked and ELSE not in {reason for reason, _ in told}


def test_tools_of_a_prompt_beside_its_conversation_are_not_lost():
    with pytest.raises(ValueError, match="tools beside the text"):
        load_feedback(pair({"messages": turns("Q1"), "tools": [{"type": "function"}]}, "Q1"))


def test_two_system_messages_are_told():
    other = {"role": "system", "content": "You are X."}
    found, told = read(pair([SYSTEM, *turns("Q1")], "Q1", system=[other]))
    assert conversations(found)[0] == [other, *turns("Q1")] and (ELSE, "prompt") in told
    for content, said in ((other["content"], False), (SYSTEM["content"], True)):
        rows = pair([other, *turns("Q1")], "Q1", system=[other])
        found, told = read([row | {"system": content} for row in rows])
        assert conversations(found)[0] == [other, *turns("Q1")]
        assert (("column looks like content and is not used", "system") in told) == said


# ---- tables --------------------------------------------------------------------------------------

QUOTED = '"Say \\"{0}\\", please","{1}",{0}\n'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\frac{1}{2} in C:\new", r"\frac{1}{2} in C:\new"),
        (r"\alpha \\ \beta", r"\alpha \\ \beta"),
        (r"C:\\new, a \"b\"", r'C:\new, a "b"'),
        (r"\\frac{1}{2}\\", "\\frac{1}{2}\\"),
    ],
)
def test_only_the_backslash_of_a_quote_goes(tmp_path, written, meant):
    path = tmp_path / "x.csv"
    path.write_text(
        "prompt,completion,score\n" + "".join(QUOTED.format(i, written) for i in range(1, 4))
    )
    found, _ = read(path)
    assert set(found["completion"]) == {meant} and found["prompt"][0] == 'Say "1", please'


def test_points_of_thousands_beside_decimal_commas(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt;completion;score\nQ;a;8,5\nQ;b;1.000\nQ;c;-2.500,25\nQ;d;0.500\n")
    found, told = read(path)
    assert found["reward"][:] == [8.5, 1000, -2500.25, 0.5]
    assert told.count(("points of thousands", "score")) == 1
    path.write_text("prompt;completion;score\nQ;a;8.5\nQ;b;1.000\n")
    assert read(path)[0]["reward"][:] == [8.5, 1]
