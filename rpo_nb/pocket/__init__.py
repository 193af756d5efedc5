"""The pocket world: instruction following in readable English whose ground truth is known.

A prompt asks for a short text about a coloured object in a place, in a tone, of a number of
sentences, that mentions one thing and avoids one word. `score` checks any text against any prompt,
from 1 to 10, so a claim about rewards can be checked against the truth. Completions are written by
systems of differing quality and style (`SYSTEMS`), or sampled from a reference policy. No download,
no model: a few hundred word types, millions of prompts.

words (what can be said) → prompts · grammar (what is a sentence) → checker · writers → feedback ·
tokenizer.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "checker",
        "feedback",
        "grammar",
        "prompts",
        "tokenizer",
        "words",
        "writers",
    ],
    submod_attrs={
        "checker": ["ASPECTS", "broken", "parts", "ratings", "score"],
        "feedback": ["feedback_row", "make_feedback"],
        "grammar": ["derivable", "fluency", "read"],
        "prompts": ["PARTS", "Request", "make_prompts", "parse", "part_of"],
        "tokenizer": ["make_tokenizer", "vocabulary"],
        "words": [
            "COLOURS",
            "COUNTS",
            "FILLERS",
            "MENTIONS",
            "OBJECTS",
            "PLACES",
            "RUDE",
            "STYLES",
            "TONES",
        ],
        "writers": [
            "DEMONSTRATOR",
            "DEMONSTRATORS",
            "SYSTEMS",
            "System",
            "WRITERS",
            "demonstrations",
            "write",
        ],
    },
)
