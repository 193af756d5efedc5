"""What the tests of judging are made of."""

from __future__ import annotations

import pandas as pd

from rpo_nb.judging.judges import Judge
from rpo_nb.judging.verdicts import COLUMNS, KEYS

CELL = {
    "preset": "paper",
    "size": "small",
    "tau": 1.0,
    "seed": 0,
    "method": "rpo",
    "baseline": "sft",
}


class Scripted(Judge):
    """A judge that answers by a function of (prompt, first, second)."""

    def __init__(self, answer, name="scripted", identity="1"):
        self.answer, self.name, self.identity = answer, name, identity

    def compare(self, prompts, first, second):
        return [self.answer(p, a, b) for p, a, b in zip(prompts, first, second, strict=True)]


def pair_table(rows, **cell):
    """rows: (prompt_id, method completion, baseline completion)."""
    frame = pd.DataFrame(
        [
            {
                **CELL,
                **cell,
                "prompt_id": i,
                "prompt": f"prompt {i}",
                "method_completion": a,
                "baseline_completion": b,
            }
            for i, a, b in rows
        ]
    )
    return frame[[*KEYS, "prompt", "method_completion", "baseline_completion"]]


def verdict_table(verdicts, **cell):
    """One verdict a prompt: method, baseline, tie or None."""
    orders = {v: (v, v) for v in ("method", "baseline")} | {
        "tie": ("method", "baseline"),
        None: (None, "method"),
    }
    return pd.DataFrame(
        [
            {
                "judge": "scripted",
                **CELL,
                **cell,
                "prompt_id": i,
                "first_order": orders[v][0],
                "second_order": orders[v][1],
                "verdict": v,
            }
            for i, v in enumerate(verdicts)
        ]
    )[COLUMNS]


def by_length(prompt, completion):
    return float(len(completion))
