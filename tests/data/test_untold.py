"""What feedback says and a reader could overlook without a word: it is read, told, or refused."""

import datasets
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data.feedback import load_feedback

GOOD, BAD = "Good.", "Bad."
PROMPTS = [f"Name thing {i}." for i in range(3)]


def read(source, **settings):
    """({completion: reward}, [(reason, field)]) of a source."""
    found, report = load_feedback(source, config=DataConfig(**settings), return_report=True)
    told = [(row["reason"], row["field"]) for row in report]
    return dict(zip(found["completion"], found["reward"], strict=True)), told


# ---- the names of classes ------------------------------------------------------------------------


def labelled(good, bad):
    return datasets.Dataset.from_list(
        [
            {"prompt": prompt, "completion": text, "label": word}
            for prompt in PROMPTS
            for text, word in ((GOOD, good), (BAD, bad))
        ]
    )


@pytest.mark.parametrize("kind", ["dataset", "parquet", "saved"])
@pytest.mark.parametrize("words", [("accept", "reject"), ("positive", "negative"), ("yes", "no")])
def test_classes_are_their_names_and_not_their_numbers(kind, words, tmp_path):
    table = labelled(*words).class_encode_column("label")
    source = table if kind == "dataset" else tmp_path / f"feedback.{kind}"
    if kind == "parquet":
        table.to_parquet(source)
    elif kind == "saved":
        table.save_to_disk(source)
    assert read(source)[0] == {GOOD: 1, BAD: 0}


def test_classes_whose_names_are_numbers_are_these_numbers():
    names = datasets.ClassLabel(names=["7", "2.5"])
    found, told = read(labelled("7", "2.5").cast_column("label", names))
    assert found == {GOOD: 7, BAD: 2.5} and not any("quotes" in reason for reason, _ in told)


def test_a_class_without_a_number_is_missing_and_one_without_meaning_refused():
    names = datasets.ClassLabel(names=["bad", "good"])
    table = labelled(1, -1).cast_column("label", names)
    found, told = read(table)
    assert found == {GOOD: 1} and told.count(("score is missing", "label")) == 3
    with pytest.raises(ValueError, match="not a number .'sure'"):
        load_feedback(labelled("sure", "maybe").class_encode_column("label"))


@pytest.mark.parametrize("kind", ["dataset", "parquet"])
@pytest.mark.parametrize("shape", ["objects", "lists"])
def test_classes_within_a_row_are_their_names_too(kind, shape, tmp_path):
    names, text = datasets.ClassLabel(names=["accept", "reject"]), datasets.Value("string")
    if shape == "objects":
        rows = [{"text": GOOD, "label": 0}, {"text": BAD, "label": 1}]
        row, features = {"responses": rows}, {"responses": [{"text": text, "label": names}]}
    else:
        row = {"responses": [GOOD, BAD], "labels": [0, 1]}
        features = {"responses": [text], "labels": [names]}
    table = datasets.Dataset.from_list(
        [{"prompt": prompt} | row for prompt in PROMPTS],
        features=datasets.Features({"prompt": text} | features),
    )
    source = table if kind == "dataset" else tmp_path / "feedback.parquet"
    if kind == "parquet":
        table.to_parquet(source)
    assert read(source)[0] == {GOOD: 1, BAD: 0}


# ---- the weights of data.reward ------------------------------------------------------------------

SCORED = {
    "lists": {"responses": [GOOD, BAD], "scores": [1, 2]},
    "pair": {"chosen": GOOD, "rejected": BAD, "chosen_score": 1, "rejected_score": 2},
    "sides": {"response_a": GOOD, "response_b": BAD, "score_a": 1, "score_b": 2},
    "objects": {"responses": [{"text": GOOD, "score": 1}, {"text": BAD, "score": 2}]},
}


@pytest.mark.parametrize("shape", SCORED)
def test_a_weight_of_data_reward_counts_in_every_shape(shape):
    rows = [{"prompt": prompt} | SCORED[shape] for prompt in PROMPTS]
    assert read(rows, reward={"score": -1})[0] == {GOOD: -1, BAD: -2}
    assert read(rows, reward={"score": 0.5})[0] == {GOOD: 0.5, BAD: 1}
    assert read(rows, reward="score")[0] == {GOOD: 1, BAD: 2}


RANKED = {
    "flat": [{"response": GOOD, "rank": 1}, {"response": BAD, "rank": 2}],
    "objects": [{"answers": [{"answer": GOOD, "rank": 1}, {"answer": BAD, "rank": 2}]}],
    "lists": [{"responses": [GOOD, BAD], "ranks": [1, 2]}],
}


@pytest.mark.parametrize("shape", RANKED)
@pytest.mark.parametrize("reward", ["", "rank", {"rank": -1}])
def test_the_first_rank_is_the_best_however_it_is_named(shape, reward):
    rows = [{"prompt": prompt} | row for prompt in PROMPTS for row in RANKED[shape]]
    found, told = read(rows, reward=reward)
    assert found == {GOOD: -1, BAD: -2}
    said = any(reason == "rank was read as minus the rank" for reason, _ in told)
    assert said == (reward != {"rank": -1})


# ---- columns that belong to the prompt -----------------------------------------------------------

UNUSED = "column looks like content and is not used"


@pytest.mark.parametrize("name", ["choices", "candidates", "contexts", "options"])
def test_lists_of_texts_beside_one_completion_are_told(name):
    texts = ["Mars is a planet", "Mars is a moon"]
    rows = [
        {"question": "Which is right?", name: given, "completion": "A", "reward": reward}
        for given, reward in ((texts, 1), (texts[::-1], 0))
    ]
    assert (UNUSED, name) in read(rows)[1]


def test_the_list_that_is_read_is_not_told():
    rows = [{"prompt": prompt, "candidates": [GOOD, BAD], "scores": [2, 1]} for prompt in PROMPTS]
    found, told = read(rows)
    assert found == {GOOD: 2, BAD: 1} and not any(reason == UNUSED for reason, _ in told)
    rows = [row | {"choices": ["Mars", "Venus"]} for row in rows]
    assert (UNUSED, "choices") in read(rows)[1]


@pytest.mark.parametrize("name", ["images", "image_url"])
def test_a_column_that_is_filled_late_is_told(name):
    rows = [
        {"prompt": prompt, "completion": GOOD, "score": i, name: "x.png" if i > 50 else None}
        for i, prompt in enumerate(f"What is in it, {i}?" for i in range(80))
    ]
    assert (UNUSED, name) in read(rows)[1]


def test_an_image_beside_a_completion_within_a_row_is_told():
    rows = [
        {
            "prompt": prompt,
            "responses": [
                {"text": GOOD, "score": 2, "image": "a.png"},
                {"text": BAD, "score": 1, "image": "b.png"},
            ],
        }
        for prompt in PROMPTS
    ]
    assert read(rows)[1].count((UNUSED, "responses[0].image")) == 1


# ---- what is no text beside the text -------------------------------------------------------------

BESIDE = "an image, audio, video or tools beside the text"
TURN = {"role": "user", "content": "What is this?"}
TEXT = {"text": "What is this?"}


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (TEXT | {"image": "cat.png"}, "prompt"),
        (TEXT | {"imageUrl": "cat.png"}, "prompt"),
        ([TURN | {"content": TEXT | {"image_url": "cat.png"}}], "prompt[0].content"),
        ([TURN | {"images": ["cat.png"]}], "prompt[0]"),
        (TURN | {"audio": "cat.wav"}, "prompt"),
        ([TURN | {"content": [TEXT | {"type": "text", "image": "cat.png"}]}], "prompt[0].content"),
        ({"messages": [TURN], "tools": [{"type": "function"}]}, "prompt"),
        ({"role": ["user"], "content": ["What is this?"], "images": ["cat.png"]}, "prompt"),
    ],
)
def test_what_is_no_text_beside_a_prompt_is_refused(prompt, field):
    rows = [{"prompt": prompt, "completion": GOOD, "score": 5}]
    rows += [{"prompt": PROMPTS[0], "completion": BAD, "score": n} for n in (1, 2)]
    found, told = read(rows)
    assert found == {BAD: 1.5}
    assert {(BESIDE, field), ("content is a list of parts", field)} & set(told)


@pytest.mark.parametrize("name", ["images", "tools", "tool_calls"])
@pytest.mark.parametrize("empty", [None, [], "", {}])
def test_an_empty_image_beside_a_text_is_none(name, empty):
    prompts = ([TURN | {name: empty}], {"messages": [TURN], name: empty}, TEXT | {name: empty})
    rows = [{"prompt": p, "completion": GOOD, "score": n} for n, p in enumerate(prompts)]
    assert read(rows)[0] == {GOOD: 1}


def test_tools_of_openais_pairs_and_images_beside_completions_are_refused():
    answers = [{"role": "assistant", "content": text} for text in (GOOD, BAD)]
    row = {"preferred_output": answers[:1], "non_preferred_output": answers[1:]}
    prompt = {"messages": [TURN], "tools": [{"type": "function"}]}
    with pytest.raises(ValueError, match=BESIDE):
        load_feedback([row | {"input": prompt}])
    whole = {"messages": [TURN, answers[0]], "images": ["cat.png"]}
    with pytest.raises(ValueError, match=BESIDE):
        load_feedback([{"messages": whole, "score": n} for n in (1, 2)])
    with pytest.raises(ValueError, match=BESIDE):
        load_feedback([{"prompt": "Draw.", "completion": TEXT | {"image": "x"}, "score": 1}])


def test_a_text_beside_the_text_of_an_object_or_a_message_is_told():
    more = "A long text that says that red is best."
    rows = [
        {
            "prompt": TEXT | {"context": more},
            "completion": {"role": "assistant", "content": text, "thinking": more, "name": "x"},
            "score": n,
        }
        for n, text in enumerate((BAD, GOOD))
    ]
    found, told = read(rows)
    assert found == {BAD: 0, GOOD: 1}
    assert [field for reason, field in told if reason == UNUSED] == [
        "prompt.context",
        "completion[0].thinking",
    ]
