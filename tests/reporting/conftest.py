"""Fixtures that the tests of this room share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.reporting.results import PROFILE


@pytest.fixture(scope="module")
def metrics():
    """The rows of metrics.csv for every preset, method, size and seed; RPO also off its main
    temperature; METEOR is missing."""
    rng, rows = np.random.default_rng(0), []
    for preset, settings in PROFILE.presets.items():
        for method in PROFILE.methods:
            taus = {
                "rpo": sorted({settings.rpo_tau, *PROFILE.taus}),
                "dro": [settings.dro_tau],
            }.get(method, [np.nan])
            for tau in taus:
                for size in PROFILE.sizes:
                    for seed in PROFILE.seeds:
                        for metric in ("bertscore_f1", "rouge_l", "meteor", "toxicity", "reward"):
                            value = np.nan if metric == "meteor" else rng.uniform(0, 1)
                            rows.append(
                                {
                                    "preset": preset,
                                    "method": method,
                                    "size": size,
                                    "tau": tau,
                                    "seed": seed,
                                    "metric": metric,
                                    "value": value,
                                    "ci_low": value - 0.05,
                                    "ci_high": value + 0.05,
                                    "shared": 0.0,
                                    "n": 200,
                                    "reason": "WordNet is not installed"
                                    if metric == "meteor"
                                    else "",
                                }
                            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def rates():
    """Rows as judging.win_rates gives them, every preset at every temperature."""
    rng, rows = np.random.default_rng(1), []
    for preset, settings in PROFILE.presets.items():
        for judge in PROFILE.evaluation.judges:
            for size in PROFILE.sizes:
                for baseline in ("reference", "sft", "best_of_k", "kto", "dro"):
                    for tau in sorted({settings.rpo_tau, *PROFILE.taus}):
                        rate = rng.uniform(20, 80)
                        rows.append(
                            {
                                "preset": preset,
                                "judge": judge,
                                "size": size,
                                "baseline": baseline,
                                "tau": tau,
                                "win_rate": rate,
                                "std": 1.5,
                                "ci_low": rate - 4,
                                "ci_high": rate + 4,
                                "error": 1.0,
                                "df": 4.0,
                                "n": 400,
                                "seeds": 2,
                                "ties": 9,
                                "flips": 9,
                                "nulls": 0,
                            }
                        )
    return pd.DataFrame(rows)
