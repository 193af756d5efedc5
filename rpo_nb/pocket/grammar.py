"""What is a sentence of the pocket world, and what its slots say.

The grammar has every sentence that a writer can write, of any style, with any words in its slots;
a text is a row of them, in any order, each with its full stop and one space between two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from rpo_nb.pocket.words import (
    COLOURS,
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

# what stands in a sentence for a slot, and what may stand there
SLOTS = {
    "object": OBJECTS,
    "colour": COLOURS,
    "place": PLACES,
    "mention": MENTIONS,
    "adverb": [word for tone in TONES.values() for word in tone[:2]],
    "adjective": [word for tone in TONES.values() for word in tone[2:]],
    "first": RUDE[:1],
    "second": RUDE[1:],
}
TONE_OF = {word: tone for tone, words in TONES.items() for word in words}


def _pattern(template: str) -> re.Pattern:
    """The sentences of a template, one group a slot."""
    groups = {slot: f"(?P<{slot}>{'|'.join(words)})" for slot, words in SLOTS.items()}
    return re.compile(template.format(filler=f"(?:(?:{'|'.join(FILLERS)}) )?", **groups))


def _templates() -> Iterable[str]:
    for openings, clauses, closings in STYLES.values():
        yield from (f"{opening}(?:{WITH})?" for opening in openings)
        yield from (*clauses, *closings)
    yield INSULT


SENTENCES = tuple(map(_pattern, _templates()))


@lru_cache(maxsize=100_000)
def slots_of(sentence: str) -> dict[str, str] | None:
    """The words in the slots of a sentence (without its full stop), keys of SLOTS; None where the
    grammar does not derive it. Not to be changed: it is kept."""
    found = next(filter(None, (pattern.fullmatch(sentence) for pattern in SENTENCES)), None)
    return found and {slot: word for slot, word in found.groupdict().items() if word}


def derivable(sentence: str) -> bool:
    """Whether the grammar derives a sentence; its full stop may be there or not."""
    return slots_of(sentence.removesuffix(".")) is not None


def split(text: str) -> list[str]:
    """The sentences of a text without their full stops. What is no sentence by its stop or its
    spaces (the text breaks off, two stops in a row, two spaces) keeps a mark of it that no grammar
    derives."""
    if not text.strip():
        return []
    *whole, rest = text.strip().split(".")
    first, *others = whole or [""]
    after = [s.removeprefix(" ") if s.startswith(" ") else f".{s}" for s in others]
    pieces = [first, *after] if whole else []
    return [*pieces, f"{rest.strip()} …"] if rest else pieces


def read(text: str) -> dict[str, list[str]]:
    """What the sentences of a text that the grammar derives say: object, colour, place, tone and
    mention, each with its different values in the order of the text. Words elsewhere do not
    count."""
    said: dict[str, dict[str, None]] = {
        slot: {} for slot in ("object", "colour", "place", "tone", "mention")
    }
    for sentence in split(text):
        for slot, word in (slots_of(sentence) or {}).items():
            if word in TONE_OF:
                said["tone"][TONE_OF[word]] = None
            elif slot in said:
                said[slot][word] = None
    return {slot: list(values) for slot, values in said.items()}


def fluency(text: str) -> float:
    """The share of a text's sentences that the grammar derives, 0 to 1; 0 of an empty text."""
    sentences = split(text)
    return sum(slots_of(s) is not None for s in sentences) / len(sentences) if sentences else 0.0
