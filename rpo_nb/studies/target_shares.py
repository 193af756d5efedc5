"""What RPO's first step is about: which share of its loss tells a good completion of a prompt from
a bad one.

At the first step the policy is the reference, the log-ratio is 0 and the loss ½ mean t², t the
targets r/τ − log Ẑ (paper A, eq. 19). The mean of t² is the sum of three parts: the squared mean of
all targets, which says the same to every row; the variance of the prompts' means; and the mean
variance within a prompt, which alone tells its completions apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rpo_nb import partition
from rpo_nb.config.objective import Preset
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.studies import lab

PARTS = ("same", "between", "within")


def shares(targets: np.ndarray, prompt_ids: np.ndarray) -> dict[str, float]:
    """The three parts of the mean of t² in %, which sum to 100: same for every row, between
    prompts, within a prompt. targets, prompt_ids: [rows]. Raises ValueError where all are 0."""
    t = pd.Series(np.asarray(targets, float))
    by_prompt = t.groupby(np.asarray(prompt_ids)).transform("mean")
    parts = np.array([t.mean() ** 2, by_prompt.var(ddof=0), ((t - by_prompt) ** 2).mean()])
    if not parts.sum() > 0:
        raise ValueError("all targets are 0: the loss has no parts; are the rewards all equal?")
    return dict(zip(PARTS, 100 * parts / parts.sum(), strict=True))


def of_presets(
    presets: Mapping[str, Preset],
    ref_logps: Mapping[str, np.ndarray],
    rewards: np.ndarray,
    prompt_ids: np.ndarray,
) -> pd.DataFrame:
    """A row a preset: preset, reduce, estimator, tau of its RPO, same, between, within (%, see
    `shares`), rows, prompts.

    ref_logps: the reference's log-probabilities [rows] by "sum" and "mean"; rewards: standardised,
    [rows].
    """
    found = []
    for name, preset in presets.items():
        how = {"tau": preset.rpo_tau, "estimator": preset.partition}
        targets = partition.target(ref_logps[preset.reduce], rewards, prompt_ids, **how)
        row = {"preset": name, "reduce": preset.reduce, **how}
        row |= shares(targets.numpy(), prompt_ids)
        found.append(row | {"rows": len(rewards), "prompts": len(set(prompt_ids.tolist()))})
    return pd.DataFrame(found)


def of_regimes(held: Mapping[tuple[str, int], Prepared]) -> pd.DataFrame:
    """regime_shares.csv: `of_presets` of each regime and seed (columns regime, seed first), with
    the three readings of the paper as presets.yaml has them. held: `lab_runs.prepared`."""
    found = []
    for (regime, seed), prepared in held.items():
        ids = np.asarray(prepared.splits.train["prompt_id"])
        table = of_presets(lab.presets(), prepared.ref_logps, prepared.rewards, ids)
        table.insert(0, "regime", regime)
        table.insert(1, "seed", seed)
        found.append(table)
    return pd.concat(found, ignore_index=True)
