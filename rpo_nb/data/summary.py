"""What there is in feedback that was read: counts, spread, sparsity."""

from __future__ import annotations

import itertools
import math

import datasets
import numpy as np
import pandas as pd

from rpo_nb.data.kinds import aspects

SPARSE = 3  # completions; with fewer, an estimate over the prompt's own completions is mostly noise


def prompt_table(feedback: datasets.Dataset) -> pd.DataFrame:
    """One row a prompt: prompt_id, completions (how many), best and spread (largest minus smallest
    reward)."""
    rewards = (
        feedback.select_columns(["prompt_id", "reward"]).to_pandas().groupby("prompt_id")["reward"]
    )
    spread = rewards.max() - rewards.min()
    return pd.DataFrame(
        {"completions": rewards.size(), "best": rewards.max(), "spread": spread}
    ).reset_index()


def sparsity(feedback: datasets.Dataset, *, fewer_than: int = SPARSE) -> float:
    """Share of prompts with fewer than this many completions, 0 to 1."""
    return float((prompt_table(feedback)["completions"] < fewer_than).mean())


def sparsity_warning(feedback: datasets.Dataset) -> str:
    """One sentence if any prompt has fewer than 3 completions, else ""."""
    share = sparsity(feedback)
    if not share:
        return ""
    return (
        f"{share:.1%} of the prompts have fewer than {SPARSE} completions: their log-partition is "
        "estimated from next to "
        "nothing (consider the pooled estimator, or drop them)."
    )


def rank_correlation(words: pd.Series, rewards: pd.Series) -> float:
    """Spearman's correlation of two columns; NaN where one of them is constant."""
    return (
        words.corr(rewards, method="spearman")
        if min(words.nunique(), rewards.nunique()) > 1
        else math.nan
    )


def word_counts(feedback: datasets.Dataset) -> pd.Series:
    """Words of each completion, counted text by text: a million have no room as lists of words."""
    batches = feedback.select_columns(["completion"]).with_format(None).iter(1024)
    counts = (len(text.split()) for batch in batches for text in batch["completion"])
    return pd.Series(np.fromiter(counts, np.int64, len(feedback)))


def histogram(feedback: datasets.Dataset, *, bins: int = 10) -> pd.DataFrame:
    """How many completions have which reward: columns reward (a value, or "from to" where there are
    more than `bins` values), completions, share."""
    rewards = feedback.select_columns(["reward"]).to_pandas()["reward"]
    counts = rewards.value_counts().sort_index()
    names = [f"{value:g}" for value in counts.index]
    if len(counts) > bins:
        numbers, edges = np.histogram(rewards, bins)
        counts, names = (
            pd.Series(numbers),
            [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges)],
        )
    return pd.DataFrame(
        {
            "reward": names,
            "completions": counts.to_numpy(),
            "share": counts.to_numpy() / len(rewards),
        }
    )


def aspect_table(feedback: datasets.Dataset) -> pd.DataFrame:
    """A row an aspect: completions that have it, mean, spread (ddof 0), least, most, with reward
    (Spearman's correlation)."""
    frame = feedback.select_columns([*aspects(feedback), "reward"]).to_pandas()
    rows = [
        {
            "aspect": name,
            "completions": int(frame[name].notna().sum()),
            "mean": frame[name].mean(),
            "spread": frame[name].std(ddof=0),
            "least": frame[name].min(),
            "most": frame[name].max(),
            "with reward": rank_correlation(frame[name], frame["reward"]),
        }
        for name in aspects(feedback)
    ]
    return pd.DataFrame(
        rows, columns=["aspect", "completions", "mean", "spread", "least", "most", "with reward"]
    )


def summarise(feedback: datasets.Dataset) -> pd.DataFrame:
    """What there is, as rows (quantity, value)."""
    prompts, words = prompt_table(feedback), word_counts(feedback)
    rewards = feedback.select_columns(["reward"]).to_pandas()["reward"]
    quantities = {
        "prompts": len(prompts),
        "completions": len(rewards),
        "models": sum(map(bool, feedback.unique("model"))),
        "completions per prompt, least": prompts["completions"].min(),
        "completions per prompt, most": prompts["completions"].max(),
        "share of prompts with fewer than 3 completions": sparsity(feedback),
        "share of prompts whose rewards are all equal": (prompts["spread"] == 0).mean(),
        "reward, mean": rewards.mean(),
        "reward, standard deviation": rewards.std(ddof=0),
        "reward, least": rewards.min(),
        "reward, most": rewards.max(),
        "share of prompts that reach the top reward": (
            prompts["best"] == prompts["best"].max()
        ).mean(),
        "words per completion, median": words.median(),
        "words per completion, 90th percentile": words.quantile(0.9),
        "rank correlation of length and reward": rank_correlation(words, rewards),
    }
    return pd.DataFrame(
        {"quantity": quantities.keys(), "value": [float(value) for value in quantities.values()]}
    )
