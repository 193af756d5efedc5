"""What the tests of alignment are made of."""

import numpy as np

from rpo_nb.config.studies import Schedule

PROMPTS = [
    "write about a red lamp",
    "please write about the boat",
    "two chair in the garden",
    "a kind book",
    "the small cat",
    "old rope",
]
SCHEDULE = Schedule(steps=4, prompts_a_step=3, learning_rate=1e-3, evaluate_every=2)


def length(prompts, completions):
    """A reward that needs no world: words of the completion."""
    return np.array([len(text.split()) for text in completions], float)
