"""Generations to metrics.csv: Table II's metrics of every cell, one row a (preset, method, size,
tau, seed, metric)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from rpo_nb import intervals, pocket
from rpo_nb.config.schema import Profile
from rpo_nb.evaluation.suite import MetricSuite
from rpo_nb.experiment import grid
from rpo_nb.experiment.grid import KEYS

RESAMPLES = 1000  # of corpus BLEU


def measure(generations: pd.DataFrame, suite: MetricSuite, profile: Profile) -> pd.DataFrame:
    """Every metric of every cell of `generations` (columns of design.md) that the profile asks for,
    in the order of KEYS.

    Returns preset, method, size, tau, seed, metric, value, ci_low, ci_high (95 %, bootstrap over
    items), n (texts), reason (why there is no value). In the pocket world the ground-truth reward
    is among the metrics.
    """
    wanted = {run.cell for run in grid.cells(profile)}
    groups = [
        (key, rows)
        for key, rows in generations.groupby(KEYS, dropna=False, sort=True)
        if grid.cell_of(key) in wanted
    ]
    cells = [_texts(rows, profile) for _, rows in groups]
    out = []
    for (key, rows), cell, values in zip(groups, cells, suite.score_many(cells), strict=True):
        intervals = dict(
            zip(
                ("bleu", "sacrebleu"),
                bleu_intervals(cell["completions"], cell["references"]),
                strict=True,
            )
        )
        for metric, found in values.items():
            low, high = found.ci or intervals.get(metric, (np.nan, np.nan))
            value = np.nan if found.value is None else found.value
            out.append(
                dict(zip(KEYS, key, strict=True))
                | {
                    "metric": metric,
                    "value": value,
                    "ci_low": low,
                    "ci_high": high,
                    "n": len(rows),
                    "reason": found.reason,
                }
            )
    return pd.DataFrame(out)


def _texts(rows: pd.DataFrame, profile: Profile) -> dict[str, list]:
    prompts, completions = rows["prompt"].tolist(), rows["completion"].tolist()
    cell = {
        "prompts": prompts,
        "completions": completions,
        "references": rows["reference"].tolist(),
    }
    if profile.pocket_world:
        cell["rewards"] = [
            pocket.score(prompt, text) for prompt, text in zip(prompts, completions, strict=True)
        ]
    return cell


def bleu_intervals(
    completions: Sequence[str], references: Sequence[str]
) -> list[tuple[float, float]]:
    """95 % percentile bootstrap intervals over items of corpus BLEU (0..1, unsmoothed) and
    SacreBLEU (0..100).

    A corpus score is no mean of items: n-gram counts of the drawn items are added up and scored
    anew (Koehn 2004).
    """
    scorer = BLEU()
    scores = [
        scorer.corpus_score([text], [[reference]])
        for text, reference in zip(completions, references, strict=True)
    ]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])

    def bleu(row: np.ndarray) -> tuple[float, float]:
        *_, hypothesis, reference = row = row.tolist()
        counted = (row[:4], row[4:8], hypothesis, reference)
        unsmoothed = BLEU.compute_bleu(*counted, smooth_method="none")
        return unsmoothed.score / 100, BLEU.compute_bleu(*counted).score

    _, low, high = intervals.bootstrap_sums(counts, bleu, resamples=RESAMPLES)
    return list(zip(low.tolist(), high.tolist(), strict=True))
