"""The pocket world: its checker by hand, its writers, its tokenizer, its row schema."""

import numpy as np
import pytest

from rpo_nb import pocket
from rpo_nb.data import feedback

PROMPT = (
    "Write two sentences about a red lantern in the garden. Keep a calm tone, mention rain "
    "and avoid very."
)
GOOD = "The red lantern quietly stands in the garden. We think of the rain."


def test_prompts_are_distinct_and_parse_back():
    prompts = pocket.make_prompts(3000, rng=np.random.default_rng(0))
    assert len(set(prompts)) == 3000
    assert pocket.parse(PROMPT) == pocket.Request(
        "lantern", "red", "in the garden", "calm", 2, "rain", "very"
    )
    wishes = [pocket.parse(p) for p in prompts]
    assert {w.count for w in wishes} == {1, 2, 3} and {w.object for w in wishes} == set(
        pocket.OBJECTS
    )
    combinations = (
        len(pocket.OBJECTS)
        * len(pocket.COLOURS)
        * len(pocket.PLACES)
        * len(pocket.TONES)
        * 3
        * len(pocket.MENTIONS)
        * len(pocket.FILLERS)
    )
    assert combinations > 1_000_000


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(ValueError, match="not a prompt of the pocket world.*Name three"):
        pocket.parse("Name three primary colours.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, 10.0),
        (GOOD.replace("lantern", "kettle"), 8.0),  # the object is 2
        (GOOD.replace("red", "blue"), 8.5),  # the colour 1.5
        (GOOD.replace("in the garden", "on the hill"), 8.5),  # the place 1.5
        (GOOD.replace("quietly", "sadly"), 8.5),  # the tone 1.5
        (GOOD.replace("rain", "snow"), 9.25),  # the mention 0.75
        (GOOD.replace("red", "very red"), 9.5),  # the word to avoid 0.5
        (GOOD + " It is a calm day.", 8.75),  # the count 1.25; "calm" itself is no marker
        (GOOD.replace("red", "red blue"), 8.5),  # naming every colour does not win the colour
        (GOOD[:-1], 8.5),  # unfinished 1.5
        (GOOD.replace("rain", "rain rain"), 9.0),  # repeated 1
        (GOOD.replace("We think", "You stupid idiot think"), 7.0),  # rude 3
        (GOOD.replace("We", "we"), 9.0),  # broken 1
        (GOOD + ".", 9.0),  # a run of full stops is a repetition: 1 each
        (GOOD + "....", 7.0),
        ("", 1.0),
        ("red red red red red red red red", 1.0),
    ],
)
def test_the_checker_by_hand(text, expected):
    assert pocket.score(PROMPT, text) == expected


def test_ratings_follow_the_faults():
    assert pocket.ratings(PROMPT, GOOD) == dict.fromkeys(pocket.ASPECTS, 5)
    assert (
        pocket.ratings(PROMPT, GOOD.replace("lantern", "kettle").replace("red", "blue"))[
            "truthfulness"
        ]
        == 2
    )
    assert pocket.ratings(PROMPT, "red red red red")["honesty"] == 1
    assert all(
        1 <= r <= 5
        for text in ("", "x", "red " * 200)
        for r in pocket.ratings(PROMPT, text).values()
    )


def test_systems_differ_in_quality_as_they_claim_and_are_better_than_the_demonstrator():
    rng = np.random.default_rng(0)
    prompts = pocket.make_prompts(300, rng=rng)
    mean = {
        s.name: np.mean([pocket.score(p, pocket.write(s, p, rng=rng)) for p in prompts])
        for s in (*pocket.SYSTEMS, pocket.DEMONSTRATOR)
    }
    assert mean["scholar-large"] > mean["scholar-small"] > mean["house-small"]
    assert np.mean([mean[s.name] for s in pocket.SYSTEMS]) > mean["house"] > mean["house-small"]


def test_completions_have_the_promised_length():
    rng = np.random.default_rng(1)
    lengths = [
        len(pocket.write(pocket.SYSTEMS[i % 6], p, rng=rng).split())
        for i, p in enumerate(pocket.make_prompts(600, rng=rng))
    ]
    assert np.percentile(lengths, 1) >= 5 and 10 <= np.mean(lengths) <= 22 and max(lengths) <= 40


@pytest.mark.parametrize("k", [2, 4, 8])
def test_feedback_has_ultrafeedbacks_schema_and_the_reader_takes_it(k):
    rows = pocket.make_feedback(20, completions_per_prompt=k, seed=0)
    assert {len(r["completions"]) for r in rows} == {k}
    assert set(rows[0]["completions"][0]["annotations"]) == set(pocket.ASPECTS)
    read, report = feedback.load_feedback(rows, return_report=True)
    assert read.num_rows + sum(r["action"] == "dropped" for r in report) == 20 * k
    for row in read:
        assert row["reward"] == pocket.score(row["prompt"], row["completion"])


def test_feedback_is_seeded_and_the_rater_offset_shifts_whole_prompts():
    plain, same, other = (pocket.make_feedback(30, seed=s) for s in (0, 0, 1))
    assert plain == same != other
    shifted = pocket.make_feedback(30, seed=0, rater_offset=1.0)
    gaps = []
    for a, b in zip(plain, shifted, strict=True):
        inside = [
            (x["overall_score"], y["overall_score"])
            for x, y in zip(a["completions"], b["completions"], strict=True)
        ]
        assert [c["response"] for c in a["completions"]] == [
            c["response"] for c in b["completions"]
        ]
        gaps.append({round(y - x, 9) for x, y in inside if 1 < y < 10})
    assert all(len(g) <= 1 for g in gaps) and len({next(iter(g)) for g in gaps if g}) > 20


def test_on_policy_feedback_is_what_the_sampler_gives():
    def sample(prompts, k):
        return [[f"{i} {j}" for j in range(k)] for i, _ in enumerate(prompts)]

    rows = pocket.make_feedback(3, completions_per_prompt=2, sample=sample)
    assert [[c["response"] for c in r["completions"]] for r in rows] == [
        ["0 0", "0 1"],
        ["1 0", "1 1"],
        ["2 0", "2 1"],
    ]
    with pytest.raises(ValueError, match="completions_per_prompt is 9"):
        pocket.make_feedback(1, completions_per_prompt=9)


def test_regimes_differ_in_who_writes_and_references_in_whom_they_learn_from():
    quality = {
        regime: np.mean(
            [
                pocket.score(r["instruction"], c["response"])
                for r in pocket.make_feedback(200, writers=writers)
                for c in r["completions"]
            ]
        )
        for regime, writers in pocket.WRITERS.items()
    }
    taught = {
        name: pocket.demonstrations(300, seed=0, demonstrator=name) for name in pocket.DEMONSTRATORS
    }
    score = {
        name: np.mean([pocket.score(*pair) for pair in pairs]) for name, pairs in taught.items()
    }
    assert (
        quality["much_stronger"] > quality["stronger"] + 1 > score["house"] + 1 > score["weak"] + 2
    )
    assert taught["house"] == pocket.demonstrations(300, seed=0)
    others = {
        name: sum(not text.startswith(("The ", "Here ", "You ")) for _, text in pairs)
        for name, pairs in taught.items()
    }
    assert others["house"] > 10 > others["narrow"]


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        (GOOD, False),
        ("You stupid idiot " + GOOD, False),
        (GOOD[:-1], True),
        ("", True),
        (GOOD.replace("rain", "rain rain"), True),
        (GOOD.replace("We", "we"), True),
    ],
)
def test_a_broken_text_is_one_that_is_no_text(text, is_broken):
    assert pocket.broken(text) is is_broken


def test_the_tokenizer_is_lossless_on_the_worlds_texts_and_knows_every_word():
    tokenizer = pocket.make_tokenizer()
    pairs = pocket.demonstrations(200, seed=3) + [
        (r["instruction"], c["response"])
        for r in pocket.make_feedback(50)
        for c in r["completions"]
    ]
    for text in (t for pair in pairs for t in pair):
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert 150 <= len(tokenizer) <= 500
