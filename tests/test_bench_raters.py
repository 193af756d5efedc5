"""Raters' strictness: what is compared within one rater, and who is right."""

import json

import numpy as np
import pandas as pd

from benchmarks import raters


def row(prompt, completion, *ratings):
    return {
        "prompt_id": prompt,
        "prompt": f"p{prompt}",
        "completion": completion,
        "ratings": json.dumps(ratings),
    }


def test_only_what_one_rater_rated_unequally_is_compared():
    rows = pd.DataFrame(
        [
            row(0, "a", ["kind", 9.0]),
            row(0, "b", ["strict", 2.0], ["kind", 5.0]),
            row(0, "c", ["strict", 2.0]),
            row(1, "d", ["strict", 1.0]),
        ]
    )
    assert list(raters.within(rows)) == [(0, "p0", "a", "b")]


def test_accuracy_is_by_prompt_and_a_tie_is_half():
    class Longer:
        def score(self, prompts, texts):
            return np.array([float(len(text)) for text in texts])

    pairs = pd.DataFrame(
        [(0, "p", "long", "s"), (0, "p", "s", "long"), (1, "p", "a", "b")],
        columns=["prompt_id", "prompt", "better", "worse"],
    )
    assert raters.accuracy(Longer(), pairs).to_dict() == {0: 0.5, 1: 0.5}
