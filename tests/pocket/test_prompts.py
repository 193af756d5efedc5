"""Prompts, whom they are for, and their words as tokens."""

import numpy as np
import pytest

from rpo_nb import pocket

PROMPT = (
    "Write two sentences about a red lantern in the garden. Keep a calm tone, mention rain "
    "and avoid very."
)


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


def test_nobody_is_asked_what_anybody_was_taught():
    """Whatever the seeds: the parts are told apart by the prompt itself."""
    taught, fed, asked = (set(), set(), set())
    for seed in range(3):
        taught |= {p for p, _ in pocket.demonstrations(1000, seed=seed, demonstrator="weak")}
        fed |= {row["instruction"] for row in pocket.make_feedback(300, seed=seed)}
        asked |= set(pocket.make_prompts(300, rng=np.random.default_rng([seed, 9])))
    for part, prompts in zip(pocket.PARTS, (taught, fed, asked), strict=True):
        assert {pocket.part_of(p) for p in prompts} == {part}
    assert not taught & fed and not fed & asked and not taught & asked
    with pytest.raises(ValueError, match="part is 'tests'.*demonstrations, feedback, questions"):
        pocket.make_prompts(1, rng=np.random.default_rng(0), part="tests")


@pytest.mark.parametrize("part", pocket.PARTS)
def test_every_part_has_every_wish_alike(part):
    wishes = [
        pocket.parse(p) for p in pocket.make_prompts(3000, rng=np.random.default_rng(1), part=part)
    ]
    for slot, options in {
        "object": pocket.OBJECTS,
        "colour": pocket.COLOURS,
        "place": pocket.PLACES,
        "tone": list(pocket.TONES),
        "count": list(pocket.COUNTS.values()),
        "mention": pocket.MENTIONS,
        "avoid": pocket.FILLERS,
    }.items():
        counts = np.array([sum(getattr(w, slot) == o for w in wishes) for o in options])
        # four standard deviations of a uniform draw
        assert abs(counts - 3000 / len(options)).max() < 4 * np.sqrt(3000 / len(options))


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(ValueError, match="not a prompt of the pocket world.*Name three"):
        pocket.parse("Name three primary colours.")


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
