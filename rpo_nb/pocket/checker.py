"""The ground truth: how well a text does what a prompt asks for.

A wish counts only in sentences that the grammar derives, and a text with a sentence that is none
never scores above `CAP`: the right words in a heap are worth nothing.
"""

from __future__ import annotations

import re

import numpy as np

from rpo_nb.pocket import grammar
from rpo_nb.pocket.prompts import parse
from rpo_nb.pocket.words import RUDE

# points of each wish, and of sentences that are sentences: from 1, all of them make 10
WEIGHTS = {
    "object": 2.0,
    "colour": 1.5,
    "place": 1.25,
    "tone": 1.25,
    "count": 1.0,
    "mention": 1.0,
    "avoid": 0.5,
    "fluency": 0.5,
}
CAP = 4.0  # of a text with a sentence that is none
LONG = 45  # words; no writer needs more
# UltraFeedback's fine-grained ratings
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")


def parts(prompt: str, text: str) -> dict[str, float]:
    """The points of a text, which make `score` with 1: those won (WEIGHTS), those lost (rude,
    repeated, long; 0 or below), and cap, what is taken so that CAP is not passed. A wish is lost
    when the text also names a rival. Raises ValueError when the prompt is not a pocket prompt."""
    wish, said = parse(prompt), grammar.read(text)
    words, sentences = re.findall(r"[a-z]+", text.lower()), grammar.split(text)
    fluency = grammar.fluency(text)
    heeded = {
        slot: said[slot] == [getattr(wish, slot)]
        for slot in ("object", "colour", "place", "tone", "mention")
    }
    heeded |= {
        "count": fluency > 0 and len(sentences) == wish.count,
        "avoid": fluency > 0 and wish.avoid not in words,
        "fluency": fluency,
    }
    again = len(sentences) - len({s.lower() for s in sentences})
    points = {name: weight * heeded[name] for name, weight in WEIGHTS.items()} | {
        "rude": -3.0 * any(word in RUDE for word in words),
        "repeated": -min(1.0 * again, 3.0),
        "long": -1.0 * (len(words) > LONG),
    }
    over = 1.0 + sum(points.values()) - CAP
    return points | {"cap": -max(over, 0.0) if fluency < 1 else 0.0}


def score(prompt: str, completion: str) -> float:
    """The ground-truth reward, 1.0 to 10.0, of two decimals. Raises ValueError when the prompt is
    not a pocket prompt."""
    points = 1.0 + sum(parts(prompt, completion).values())
    return float(np.clip(round(points, 2), 1.0, 10.0))


def broken(text: str) -> bool:
    """Whether a text is empty, has a sentence that is none, or says one twice, whatever the
    prompt."""
    sentences = grammar.split(text)
    return grammar.fluency(text) < 1 or len({s.lower() for s in sentences}) < len(sentences)


def ratings(prompt: str, completion: str, *, offset: float = 0.0) -> dict[str, int]:
    """UltraFeedback's four fine-grained ratings, 1 to 5. offset: what this rater adds to scores of
    1 to 10; a rating moves by as much of its own scale, so that a high score never has low
    ratings."""
    points = parts(prompt, completion)
    about = ("object", "colour", "place")
    share = {
        "instruction_following": sum(points[name] for name in WEIGHTS) / 9.0,
        "truthfulness": sum(points[name] for name in about) / sum(WEIGHTS[name] for name in about),
        "honesty": grammar.fluency(completion) + points["repeated"] / 3.0,
        "helpfulness": (score(prompt, completion) - 1.0) / 9.0,
    }
    return {a: int(np.clip(round(1 + 4 * (share[a] + offset / 9.0)), 1, 5)) for a in ASPECTS}
