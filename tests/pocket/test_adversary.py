"""A search for texts that score high and are no language: there are none.

Greedy edits of words against a score, from salads, echoes, broken and good texts. What may score
is decided by a grammar that shares nothing with the checker's.
"""

import re

import numpy as np

from rpo_nb import pocket
from rpo_nb.pocket import checker
from tests.pocket.second_grammar import derives

CAREFUL = tuple(pocket.System(style, style, care=1.0) for style in pocket.STYLES)
CARELESS = tuple(pocket.System(style, style, care=0.8, broken=1.0) for style in pocket.STYLES)
VOCABULARY = [token.lstrip("▁") for token in pocket.vocabulary()[3:]]


def slot_words(prompt):
    """The words that a bag of words would want."""
    wish = pocket.parse(prompt)
    tone = pocket.TONES[wish.tone]
    return [wish.colour, wish.object, *wish.place.split(), tone[0], tone[2], wish.mention]


def salad(prompt, rng):
    """Those words in any order, as many full stops as sentences are wanted."""
    words = list(rng.permutation(slot_words(prompt)))
    for at in range(pocket.parse(prompt).count):
        words[len(words) * (at + 1) // pocket.parse(prompt).count - 1] += "."
    return " ".join(words)


def edits(text, phrases, rng, n):
    """n neighbours of a text: two words swapped, one replaced, dropped or doubled, a word or a
    phrase of good texts put in, a full stop put in or taken out."""
    for _ in range(n):
        words = text.split(" ")
        i, j = rng.integers(len(words), size=2)
        kind = rng.integers(7)
        if kind == 0:
            words[i], words[j] = words[j], words[i]
        elif kind == 1:
            words[i] = str(rng.choice(VOCABULARY))
        elif kind == 2 and len(words) > 1:
            del words[i]
        elif kind == 3:
            words.insert(i, words[i])
        elif kind == 4:
            words.insert(i, str(rng.choice(VOCABULARY)))
        elif kind == 5:
            words[i:j] = [str(rng.choice(phrases))]
        else:
            words[i] = words[i].rstrip(".") if words[i].endswith(".") else f"{words[i]}."
        yield " ".join(words)


def climb(prompt, text, score, phrases, rng, *, steps=12, width=30):
    """The best neighbour again and again, a tie counts as a step; every text that was seen, with
    its score."""
    seen = {text: score(prompt, text)}
    for _ in range(steps):
        near = {new: score(prompt, new) for new in edits(text, phrases, rng, width)}
        seen |= near
        best = max(near, key=near.get)
        text = best if near[best] >= seen[text] else text
    return seen


def starts(prompt, rng):
    yield salad(prompt, rng)
    yield prompt
    for systems in (CAREFUL, CARELESS):
        yield pocket.write(systems[rng.integers(len(systems))], prompt, rng=rng)


def search(score, prompts=12, seed=0):
    """Every text that a search saw score above the cap."""
    rng = np.random.default_rng(seed)
    high = {}
    for prompt in pocket.make_prompts(prompts, rng=rng):
        good = [pocket.write(s, prompt, rng=rng).split(" ") for s in CAREFUL]
        phrases = [" ".join(w[i : i + 4]) for w in good for i in range(len(w) - 3)]
        for start in starts(prompt, rng):
            seen = climb(prompt, start, score, phrases, rng)
            high |= {text: value for text, value in seen.items() if value > checker.CAP}
    return high


def bag_of_words(prompt, text):
    """A checker that counts words, as this world's first was: what the search must get past."""
    words = set(re.findall("[a-z]+", text.lower()))
    wanted = slot_words(prompt)
    return 1 + 9 * sum(word in words for word in wanted) / len(wanted)


def test_salads_and_echoes_score_nothing():
    rng = np.random.default_rng(1)
    for prompt in pocket.make_prompts(200, rng=rng):
        heap = salad(prompt, rng)
        assert bag_of_words(prompt, heap) == 10 and pocket.score(prompt, heap) < 2
        assert pocket.score(prompt, prompt) < 3
        assert pocket.score(prompt, " ".join([heap] * 3)) < 2
        # a right answer, in any wording
        assert [pocket.score(prompt, pocket.write(s, prompt, rng=rng)) for s in CAREFUL] == [10] * 3


def test_no_text_that_no_grammar_derives_scores_above_the_cap():
    high = search(pocket.score)
    assert len(high) >= 24 and max(high.values()) == 10
    assert [text for text in high if not derives(text)] == []


def test_the_search_finds_what_a_bag_of_words_would_pay_for():
    high = search(bag_of_words, prompts=3)
    assert sum(not derives(text) for text in high) > 100


def test_every_slip_in_a_good_text_is_capped():
    rng = np.random.default_rng(2)
    slips = []
    for i, prompt in enumerate(pocket.make_prompts(24, rng=rng)):
        words = pocket.write(CAREFUL[i % 3], prompt, rng=rng).split(" ")
        for at in range(len(words)):
            slips.append((prompt, " ".join(words[:at] + words[at + 1 :])))
            slips.append((prompt, " ".join(words[: at + 1] + words[at:])))
            slips.append(
                (prompt, " ".join(words[:at] + words[at : at + 2][::-1] + words[at + 2 :]))
            )
    high = [(p, text) for p, text in slips if pocket.score(p, text) > checker.CAP]
    assert all(derives(text) for _, text in high)
    assert len(high) < len(slips) / 5  # most slips are no language
