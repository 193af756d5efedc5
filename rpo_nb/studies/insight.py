"""What the runs tell: learning curves, timings, and reward against KL with the exactly tilted
reference as the frontier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from rpo_nb import intervals, pocket
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import generations, grid, inputs
from rpo_nb.store import read_json, read_sealed, sealed

# in units of the pocket's reward, 1 to 10
FRONTIER_TAUS = (100.0, 3.0, 1.5, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
FRONTIER_PROMPTS, FRONTIER_SAMPLES = 50, 64


def timings(profile: Profile, out: Path) -> pd.DataFrame:
    """preset, method, size, tau, seed, seconds, steps, rows, parameters of every finished run of
    the profile."""
    fields = ("seconds", "steps", "rows", "parameters")
    return _of_runs(
        profile,
        out,
        lambda folder: pd.DataFrame([{k: read_json(folder / "done.json")[k] for k in fields}]),
    )


def histories(profile: Profile, out: Path) -> pd.DataFrame:
    """The learning curve of every finished run: preset, method, size, tau, seed, step, loss,
    log_ratio_desirable, …"""
    return _of_runs(profile, out, lambda folder: pd.read_csv(folder / "history.csv"))


def _of_runs(profile: Profile, out: Path, read) -> pd.DataFrame:
    frames = [
        read(run.folder(out)).assign(**{name: run.columns[name] for name in grid.KEYS})
        for run in grid.cells(profile)
        if run.trained and sealed(run.folder(out), quick=True) is not None
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def rewards_and_kl(profile: Profile, out: Path) -> pd.DataFrame:
    """Mean ground-truth reward and KL(policy ‖ reference), in nats a completion, of every policy of
    the pocket world.

    KL is the mean log-ratio of the policy's own samples, so only cells that sample at temperature 1
    have one. It is heavy-tailed: kl_low and kl_high are a seeded 95 % bootstrap interval over the
    completions of all seeds.
    Columns: preset, method, size, tau, reward, kl, kl_low, kl_high, n.
    """
    plain = {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
    }
    pools: dict[tuple, list[pd.DataFrame]] = {}
    for run in grid.cells(profile):
        stored = read_sealed(generations.completions_file(profile, run, out))
        made_now = stored is not None and stored["world"] == grid.cell_world(profile, run)
        if not made_now or any(getattr(run.decoding, k) != v for k, v in plain.items()):
            continue
        prompts = inputs.splits(profile, run.seed, run.size).validation["prompt"]
        pools.setdefault((run.preset, run.method, run.size, run.tau), []).append(
            pd.DataFrame(
                {
                    "reward": [
                        pocket.score(p, t)
                        for p, t in zip(prompts, stored["completions"], strict=True)
                    ],
                    "log_ratio": np.subtract(stored["policy_logps"], stored["ref_logps"]),
                }
            )
        )
    rows = []
    for (preset, method, size, tau), frames in pools.items():
        pool = pd.concat(frames)
        kl, low, high = intervals.bootstrap(pool["log_ratio"])
        if method == "reference":  # its distance from itself is known
            low = high = 0.0
        rows.append(
            {
                "preset": preset,
                "method": method,
                "size": size,
                "tau": tau,
                "reward": pool["reward"].mean(),
                "kl": kl,
                "kl_low": low,
                "kl_high": high,
                "n": len(pool),
            }
        )
    return pd.DataFrame(
        rows, columns=["preset", "method", "size", "tau", "reward", "kl", "kl_low", "kl_high", "n"]
    ).astype({"tau": float})


def frontier(profile: Profile, size: str, seed: int) -> pd.DataFrame:
    """The best reward that any policy can have at a KL: the reference tilted by exp(r/τ), by
    reweighting its own samples.

    For each prompt the weights are w = exp(r/τ)/mean exp(r/τ) over many samples; reward = E[w·r],
    KL = E[w·log w]. With m samples KL cannot exceed log m, so the curve ends there. Columns: tau,
    reward, kl. The samples are cached.
    """
    prompts = list(inputs.splits(profile, seed, size).validation["prompt"])[:FRONTIER_PROMPTS]
    samples = inputs.reference_samples(
        profile, inputs.reference_path(profile, size, seed), prompts, FRONTIER_SAMPLES, seed
    )
    return tilt(
        np.array(
            [
                [pocket.score(prompt, text) for text in row]
                for prompt, row in zip(prompts, samples, strict=True)
            ]
        )
    )


def tilt(rewards: np.ndarray, taus: tuple[float, ...] = FRONTIER_TAUS) -> pd.DataFrame:
    """Reward and KL of the tilted reference for samples' rewards [prompts, samples]; see
    `frontier`."""
    rows = []
    for tau in taus:
        scaled = rewards / tau
        log_w = scaled - (logsumexp(scaled, axis=1, keepdims=True) - np.log(rewards.shape[1]))
        w = np.exp(log_w)
        rows.append(
            {"tau": tau, "reward": float((w * rewards).mean()), "kl": float((w * log_w).mean())}
        )
    return pd.DataFrame(rows)
