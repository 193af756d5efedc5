"""Prompts of the pocket world, and what each asks for."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rpo_nb.pocket.words import COLOURS, COUNTS, FILLERS, MENTIONS, OBJECTS, PLACES, PROMPTS, TONES

# Whom a prompt is for: demonstrations that a reference learns from, feedback (its training,
# validation and held-out rows), or questions to policies. Decided by the prompt's own bytes, so
# that no question was ever taught, whatever the seeds.
PARTS = ("demonstrations", "feedback", "questions")


@dataclass(frozen=True)
class Request:
    """What a prompt asks for."""

    object: str
    colour: str
    place: str
    tone: str
    count: int
    mention: str
    avoid: str


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
    """One of the options, each as likely; rng.choice takes twenty times as long."""
    return options[rng.integers(len(options))]


def part_of(prompt: str) -> str:
    """Whom a prompt is for, one of PARTS."""
    return PARTS[zlib.crc32(prompt.encode()) % len(PARTS)]


def make_prompts(n: int, *, rng: np.random.Generator, part: str = "questions") -> list[str]:
    """n distinct prompts of one of PARTS, which share none. Raises ValueError for another part."""
    if part not in PARTS:
        raise ValueError(f"part is {part!r}; the pocket's prompts are for {', '.join(PARTS)}")
    counts, tones = list(COUNTS), list(TONES)
    prompts: dict[str, None] = {}
    while len(prompts) < n:
        count = pick(counts, rng)
        prompt = pick(PROMPTS, rng).format(
            count=count,
            sentences="sentence" if count == "one" else "sentences",
            colour=pick(COLOURS, rng),
            object=pick(OBJECTS, rng),
            place=pick(PLACES, rng),
            tone=pick(tones, rng),
            mention=pick(MENTIONS, rng),
            avoid=pick(FILLERS, rng),
        )
        if part_of(prompt) == part:
            prompts[prompt] = None
    return list(prompts)


@lru_cache(maxsize=100_000)
def parse(prompt: str) -> Request:
    """The wishes of a pocket prompt. Raises ValueError when it is not one."""
    words = re.findall(r"[a-z]+", prompt.lower())

    def one_of(options):
        found = [w for w in words if w in options]
        return found[0] if found else None

    place = next((p for p in PLACES if p in prompt), None)
    mention = re.search(r"[Mm]ention (\w+)", prompt)
    avoid = re.search(r"[Aa]void (\w+)", prompt)
    count = one_of(COUNTS)
    slots = (one_of(OBJECTS), one_of(COLOURS), place, one_of(TONES), count, mention, avoid)
    if any(s is None for s in slots):
        raise ValueError(
            f"not a prompt of the pocket world, so its checker cannot score it: {prompt[:80]!r}"
        )
    return Request(
        slots[0], slots[1], place, slots[3], COUNTS[count], mention.group(1), avoid.group(1)
    )
