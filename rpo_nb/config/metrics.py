"""The metrics, one row each: how one is called, what the paper calls it, and how it is read.

How each is computed is its row of `evaluation.suite.MEASURES`: a new metric is a row there and one
here.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

UNBOUNDED = (-inf, inf)


class Metric(NamedTuple):
    """title: to print. published: the paper's key, None where it has no such number. digits:
    decimals shown. lower: whether less is better. bounds: what no value can exceed."""

    title: str
    published: str | None = None
    digits: int = 4
    lower: bool = False
    bounds: tuple[float, float] = (0.0, 1.0)


METRICS = {
    "bertscore_f1": Metric("BERTScore F1", "BERTScoreF1", bounds=(-1.0, 1.0)),
    "rouge_l": Metric("ROUGE-L", "ROUGE-L"),
    "bleu": Metric("BLEU", "BLEU"),
    "sacrebleu": Metric("SacreBLEU", "SacreBLEU", digits=2, bounds=(0.0, 100.0)),
    "meteor": Metric("METEOR", "METEOR"),
    "toxicity": Metric("Toxicity, mean (lower is better)", "Toxicity_avg", lower=True),
    "reward": Metric("Ground-truth reward", digits=2, bounds=UNBOUNDED),
    "fluency": Metric("Fluency (share of sentences the pocket's grammar derives)", digits=3),
    "distinct_1": Metric("Distinct-1"),
    "distinct_2": Metric("Distinct-2"),
    "self_bleu": Metric("Self-BLEU (lower is more diverse)", lower=True),
    "length_ratio": Metric("Length ratio", digits=2, bounds=(0.0, inf)),
}


def metric(name: str) -> Metric:
    """The row of a metric; one by its own name for what is not in the table."""
    return METRICS.get(name, Metric(name, bounds=UNBOUNDED))
