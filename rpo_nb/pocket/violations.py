"""What a text of the pocket world lost points for, in words that fit a label."""

from __future__ import annotations

from rpo_nb.pocket import checker

# a key of `checker.parts` -> what is told of a text that lost its points
WORDS = {
    "object": "object",
    "colour": "colour",
    "place": "place",
    "tone": "tone",
    "count": "number of sentences",
    "mention": "mention",
    "avoid": "word to avoid",
    "fluency": "not all sentences",
    "rude": "rude",
    "repeated": "repeats itself",
    "long": "too long",
    "cap": f"at most {checker.CAP:g}",
}


def lost(prompt: str, completion: str) -> list[str]:
    """Keys of WORDS: the wishes that a completion did not heed and the faults that it has, none
    where it has full marks. Raises ValueError when the prompt is not a pocket prompt."""
    points = checker.parts(prompt, completion)
    return [name for name in WORDS if points[name] < checker.WEIGHTS.get(name, 0.0)]
