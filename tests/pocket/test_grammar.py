"""What is a sentence: against a grammar written a second time, and by hand."""

import numpy as np
import pytest

from rpo_nb import pocket
from rpo_nb.pocket import grammar
from tests.pocket.second_grammar import derives

WHOLE = tuple(
    pocket.System(style, style, care=0.5, rude=0.3, broken=0.0) for style in pocket.STYLES
)


def texts(systems, n, seed=0):
    rng = np.random.default_rng(seed)
    prompts = pocket.make_prompts(n, rng=rng)
    return [pocket.write(systems[i % len(systems)], p, rng=rng) for i, p in enumerate(prompts)]


def test_every_sentence_of_every_writer_is_derivable_in_any_order():
    found = texts(WHOLE, 600)
    assert all(pocket.fluency(text) == 1 and derives(text) for text in found)
    sentences = list({s for text in found for s in grammar.split(text)})
    # all twelve kinds of each style, and the insult, were looked at
    used = {p for p in grammar.SENTENCES for s in sentences if p.fullmatch(s)}
    assert used == set(grammar.SENTENCES)
    rng = np.random.default_rng(1)
    for _ in range(100):
        mixed = ". ".join(rng.permutation(sentences)[: rng.integers(1, 5)]) + "."
        assert pocket.fluency(mixed) == 1 and derives(mixed)


def test_two_grammars_agree_on_broken_texts():
    broken = tuple(pocket.System(s, s, care=0.5, rude=0.3, broken=1.0) for s in pocket.STYLES)
    found = texts(broken, 300)
    agreed = [(pocket.fluency(text) == 1) == derives(text) for text in found]
    assert all(agreed) and not all(map(derives, found))


@pytest.mark.parametrize(
    ("text", "sentences", "fluency"),
    [
        ("", [], 0.0),
        ("  ", [], 0.0),
        ("It smells of rain.", ["It smells of rain"], 1.0),
        (" It smells of rain.\n", ["It smells of rain"], 1.0),
        ("It smells of rain", ["It smells of rain …"], 0.0),
        ("It smells of rain. What a silly", ["It smells of rain", "What a silly …"], 0.5),
        ("It smells of rain.. What a silly sight.", None, 2 / 3),
        ("It smells of rain.What a silly sight.", None, 0.5),
        ("It smells of rain.  What a silly sight.", None, 0.5),
        ("It smells of  rain.", None, 0.0),
        ("it smells of rain.", None, 0.0),
        (". It smells of rain.", None, 0.5),
        ("It smells of rain .", None, 0.0),
        ("It smells of rain!", None, 0.0),
    ],
)
def test_sentences_and_fluency_by_hand(text, sentences, fluency):
    assert sentences is None or grammar.split(text) == sentences
    assert pocket.fluency(text) == pytest.approx(fluency)
    assert derives(text.strip()) == (fluency == 1)


def test_reading_takes_slots_from_sentences_only():
    text = (
        "Look, on the roof the old red drum sadly dreams with snow. Blue kettle by the river. "
        "Such a gloomy scene deserves our attention."
    )
    assert pocket.read(text) == {
        "object": ["drum"],
        "colour": ["red"],
        "place": ["on the roof"],
        "tone": ["sad"],
        "mention": ["snow"],
    }
    assert pocket.derivable("It smells of honey") and pocket.derivable("It smells of honey.")
    assert not pocket.derivable("It smells of drum") and not pocket.derivable("")
    rivals = pocket.read("It smells of honey. It smells of rain. What a silly sight.")
    assert rivals["mention"] == ["honey", "rain"] and rivals["tone"] == ["playful"]
