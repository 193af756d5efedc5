"""Generations to metrics.csv: Table II's metrics of every cell, one row a (preset, method, size,
tau, seed, metric)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from rpo_nb import intervals, pocket
from rpo_nb.config.schema import Profile
from rpo_nb.evaluation.suite import MetricSuite, MetricValue
from rpo_nb.experiment import grid
from rpo_nb.experiment.grid import KEYS

RESAMPLES = 1000  # of corpus BLEU


def measure(generations: pd.DataFrame, suite: MetricSuite, profile: Profile) -> pd.DataFrame:
    """Every metric of every cell of `generations` (columns of design.md) that the profile asks for,
    in the order of KEYS.

    Returns preset, method, size, tau, seed, metric, value, ci_low, ci_high (95 %, bootstrap over
    items: other prompts, this policy), shared (the covariance that two seeds' values of this cell
    have because they were asked the same prompts; 0 where they were not), n (texts), reason (why
    there is no value). In the pocket world the ground-truth reward is among the metrics.
    """
    wanted = {run.cell for run in grid.cells(profile)}
    groups = [
        (key, rows)
        for key, rows in generations.groupby(KEYS, dropna=False, sort=True)
        if grid.cell_of(key) in wanted
    ]
    cells = [_texts(rows, profile) for _, rows in groups]
    out, measured = [], suite.score_many(cells)
    shared = _shared([grid.cell_of(key)[:-1] for key, _ in groups], cells, measured)
    for (key, rows), cell, values in zip(groups, cells, measured, strict=True):
        bleus = bleu_intervals(cell["completions"], cell["references"])
        bleus = dict(zip(("bleu", "sacrebleu"), bleus, strict=True))
        for metric, found in values.items():
            low, high = found.ci or bleus.get(metric, (np.nan, np.nan))
            value = np.nan if found.value is None else found.value
            out.append(
                dict(zip(KEYS, key, strict=True))
                | {
                    "metric": metric,
                    "value": value,
                    "ci_low": low,
                    "ci_high": high,
                    "shared": shared.get((*grid.cell_of(key)[:-1], metric), 0.0),
                    "n": len(rows),
                    "reason": found.reason,
                }
            )
    return pd.DataFrame(out)


def _shared(
    names: Sequence[tuple], cells: Sequence[dict], measured: Sequence[dict[str, MetricValue]]
) -> dict[tuple, float]:
    """(*name, metric) -> mean over pairs of seeds of the covariance of their values through prompts
    that both were asked. names: of each cell without its seed. Of distinct-n and self-BLEU, which
    are no sum over items, there is none."""
    out = {}
    for name in dict.fromkeys(names):
        seeds = [i for i, other in enumerate(names) if other == name]
        asked = [set(cells[i]["prompts"]) for i in seeds]
        if not any(a & b for a, b in combinations(asked, 2)):
            continue
        parts = [
            pd.DataFrame(_parts(cells[i], measured[i]), index=cells[i]["prompts"])
            .groupby(level=0)
            .sum()
            for i in seeds
        ]
        pairs = [a.mul(b).sum() for a, b in combinations(parts, 2)]
        out |= {(*name, metric): value for metric, value in (sum(pairs) / len(pairs)).items()}
    return out


def _parts(cell: dict[str, list], values: dict[str, MetricValue]) -> dict[str, np.ndarray]:
    """What each item adds to the deviation of a metric's value, [n]: of a mean its own deviation by
    n, of corpus BLEU its jackknife influence."""
    n = len(cell["prompts"])
    out = {
        name: (found.per_item - found.value) / n
        for name, found in values.items()
        if found.ci is not None
    }
    counts = _bleu_counts(cell["completions"], cell["references"])
    without = np.array([_bleu(row) for row in counts.sum(0) - counts])
    influence = (n - 1) / n * (without.mean(0) - without)
    return out | {"bleu": influence[:, 0], "sacrebleu": influence[:, 1]}


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
    counts = _bleu_counts(completions, references)
    _, low, high = intervals.bootstrap_sums(counts, _bleu, resamples=RESAMPLES)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _bleu_counts(completions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """[n, 10]: each item's matched and all n-grams of 1 to 4 words, its length, its reference's."""
    scorer = BLEU()
    scores = [
        scorer.corpus_score([text], [[reference]])
        for text, reference in zip(completions, references, strict=True)
    ]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])


def _bleu(row: np.ndarray) -> tuple[float, float]:
    """Corpus BLEU (0..1, unsmoothed) and SacreBLEU (0..100) of a sum of counts."""
    *_, hypothesis, reference = row = row.tolist()
    counted = (row[:4], row[4:8], hypothesis, reference)
    unsmoothed = BLEU.compute_bleu(*counted, smooth_method="none")
    return unsmoothed.score / 100, BLEU.compute_bleu(*counted).score
