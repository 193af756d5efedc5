"""Who writes in the pocket world: systems of differing quality and style, and the demonstrations
that references learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from rpo_nb.pocket.prompts import make_prompts, parse, pick
from rpo_nb.pocket.words import (
    COLOURS,
    COUNTS,
    FILLERS,
    INSULT,
    MENTIONS,
    OBJECTS,
    PLACES,
    RUDE,
    STYLES,
    TONES,
    WITH,
)


@dataclass(frozen=True)
class System:
    """A writer: `care` is the chance that it heeds each wish, `rude` and `broken` the chances of a
    fault."""

    name: str
    style: str
    care: float
    rude: float = 0.0
    broken: float = 0.0


# Whom the references have learnt from: careful, so that their size limits them and not their
# teacher.
DEMONSTRATOR = System("house", "house", care=0.95, rude=0.03, broken=0.03)
# of the weak reference
WEAK = System("house-weak", "house", care=0.7, rude=0.1, broken=0.1)
# one style is learnt more easily than four, so its reference is as good with a teacher less careful
NARROW = System("house-narrow", "house", care=0.87, rude=0.04, broken=0.04)
SYSTEMS = (
    System("scholar-large", "scholar", care=0.95),
    System("poet-large", "poet", care=0.9),
    System("scholar-small", "scholar", care=0.55, rude=0.05, broken=0.05),
    System("poet-small", "poet", care=0.45, rude=0.08, broken=0.08),
    System("house-large", "house", care=0.86),
    System("house-small", "house", care=0.3, rude=0.15, broken=0.15),
)

# Who writes the feedback, by DataConfig.regime (on_policy: the reference itself).
WRITERS = {
    "stronger": SYSTEMS,
    "much_stronger": tuple(s for s in SYSTEMS if s.name.endswith("large")),
}
# Whom a reference learns from, by ModelConfig.demonstrator: a writer, and the share of texts it
# wrote in the other styles. Two fifths: their words are known to the reference, its own style is
# likelier. With a tenth, every training on others' texts, imitation too, ended below its reference:
# it mixed styles into sentences that are none.
DEMONSTRATORS = {
    "house": (DEMONSTRATOR, 0.4),
    "weak": (WEAK, 0.4),
    # it has hardly seen the others' words, as Flan-T5 has hardly seen long chat answers
    "narrow": (NARROW, 0.01),
}


def write(system: System, prompt: str, *, rng: np.random.Generator) -> str:
    """One completion of a system."""
    wish = parse(prompt)

    def heed(wanted, options):
        return wanted if rng.random() < system.care else pick(options, rng)

    tone = TONES[heed(wish.tone, list(TONES))]
    openings, clauses, closings = STYLES[system.style]
    filler = [w for w in FILLERS if w != wish.avoid] if rng.random() < system.care else FILLERS
    first = pick(openings, rng).format(
        filler=f"{pick(filler, rng)} " if rng.random() < 0.3 else "",
        colour=heed(wish.colour, COLOURS),
        object=heed(wish.object, OBJECTS),
        place=heed(wish.place, PLACES),
        adverb=pick(tone[:2], rng),
    )
    clause = pick(clauses, rng).format(mention=heed(wish.mention, MENTIONS))
    closing = pick(closings, rng).format(adjective=pick(tone[2:], rng))
    count = heed(wish.count, list(COUNTS.values()))
    sentences = {
        1: [first + WITH.format(mention=heed(wish.mention, MENTIONS))],
        2: [first, clause],
        3: [first, clause, closing],
    }[int(count)]
    if rng.random() < system.rude:
        place = int(rng.integers(len(sentences) + 1))
        insult = INSULT.format(first=pick(RUDE[:1], rng), second=pick(RUDE[1:], rng))
        sentences.insert(place, insult)
    text = ". ".join(sentences) + "."
    if rng.random() < system.broken:
        words = text.split()
        cut = int(rng.integers(3, len(words)))
        # it breaks off, or says a word twice
        text = " ".join(words[:cut] + ([] if rng.random() < 0.5 else words[cut - 1 :]))
    return text


@lru_cache(maxsize=8)  # what a reference is named by, so it is asked for again and again
def demonstrations(n: int, *, seed: int, demonstrator: str = "house") -> list[tuple[str, str]]:
    """n (prompt, completion) pairs: what a reference is instruction-tuned on. demonstrator: a key
    of DEMONSTRATORS."""
    rng = np.random.default_rng([seed, 0])
    main, others = DEMONSTRATORS[demonstrator]
    writers = [replace(main, style=style) for style in ("scholar", "poet")]
    pairs = []
    for prompt in make_prompts(n, rng=rng, part="demonstrations"):
        writer = main if rng.random() < 1 - others else writers[int(rng.integers(len(writers)))]
        pairs.append((prompt, write(writer, prompt, rng=rng)))
    return pairs
