"""Pictures of feedback before anything is trained on it: a Dataset of `data.load_feedback` in, a
matplotlib Figure out."""

from __future__ import annotations

import datasets
import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter

from rpo_nb.data.summary import SPARSE, prompt_table, rank_correlation, sparsity, word_counts
from rpo_nb.reporting.style import STYLE

BARS, MARKED = "#8A9BB0", "#1F2A37"  # of no method
LENGTH_BINS = 8  # equally full, so that every median rests on the same number of completions


def _axis(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 3.5), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, loc="left")
    axis.set(xlabel=x, ylabel=y)
    axis.grid(axis="x", visible=False)
    return figure, axis


def _rewards(feedback: datasets.Dataset) -> pd.Series:
    return feedback.select_columns(["reward"]).to_pandas()["reward"]


def _bins(rewards: pd.Series) -> np.ndarray:
    """Edges with one score in the middle of each bin if scores lie on a grid (as 1, 1.5, 2 …), else
    30 equal bins."""
    scores = np.unique(rewards)
    step = np.diff(scores).min() if len(scores) > 1 else 1.0
    steps = (scores - scores[0]) / step
    if steps[-1] <= 60 and np.allclose(steps, steps.round(), atol=1e-6):
        return scores[0] + step * (np.arange(round(steps[-1]) + 2) - 0.5)
    return np.linspace(scores[0], scores[-1], 31)


@matplotlib.rc_context(STYLE)
def reward_histogram(feedback: datasets.Dataset) -> Figure:
    """How many completions have which raw reward, with mean and standard deviation (ddof 0)
    marked."""
    rewards = _rewards(feedback)
    mean, std = rewards.mean(), rewards.std(ddof=0)
    figure, axis = _axis(
        f"Rewards: mean {mean:.2f}, standard deviation {std:.2f}", "reward", "completions"
    )
    bins = _bins(rewards)
    sns.histplot(
        x=rewards, bins=bins, color=BARS, edgecolor="white", linewidth=0.6, alpha=1, ax=axis
    )
    axis.axvspan(mean - std, mean + std, color=MARKED, alpha=0.10, lw=0, zorder=0)
    axis.axvline(mean, color=MARKED, lw=1.8)
    axis.set(
        xlabel="reward as rated, higher is better (line, band: mean ± standard deviation)",
        xlim=(bins[0], bins[-1]),
    )
    return figure


@matplotlib.rc_context(STYLE)
def completions_per_prompt(feedback: datasets.Dataset) -> Figure:
    """How many prompts have how many completions."""
    counts = prompt_table(feedback)["completions"]
    figure, axis = _axis(
        f"Completions: {counts.sum():,} for {len(counts):,} prompts",
        "completions of a prompt",
        "prompts",
    )
    sns.histplot(
        x=counts,
        bins=np.arange(0.5, counts.max() + 1),
        color=BARS,
        edgecolor="white",
        alpha=1,
        ax=axis,
    )
    if len(axis.patches) <= 16:
        labels = [f"{bar.get_height():,.0f}" if bar.get_height() else "" for bar in axis.patches]
        axis.bar_label(axis.containers[0], labels=labels, fontsize=9, padding=2)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(y=0.12)
    return figure


@matplotlib.rc_context(STYLE)
def length_against_reward(feedback: datasets.Dataset) -> Figure:
    """Words of a completion (logarithmic) against its reward: points shaken a little, medians and
    quartiles of bins."""
    frame = feedback.select_columns(["reward"]).to_pandas().assign(words=word_counts(feedback))
    words = frame["words"]
    correlation = rank_correlation(words, frame["reward"])
    title = f"Length and reward: rank correlation {correlation:+.2f}"
    figure, axis = _axis(
        title, "words, log scale (line and band: median and quartiles)", "reward, higher is better"
    )
    noise = np.random.default_rng(0)
    shift = 0.25 * np.diff(_bins(frame["reward"])[:2])[0]
    x = words * np.exp(noise.uniform(-0.02, 0.02, len(words)))
    y = frame["reward"] + noise.uniform(-shift, shift, len(words))
    axis.scatter(
        x, y, s=8, color=BARS, alpha=0.22 if len(words) > 1000 else 0.6, lw=0, rasterized=True
    )
    edges = np.quantile(words, np.arange(1, LENGTH_BINS) / LENGTH_BINS)
    groups = frame.groupby(np.searchsorted(edges, words))
    quartiles = groups["reward"].quantile([0.25, 0.5, 0.75]).unstack()
    centre = groups["words"].median()
    axis.fill_between(centre, quartiles[0.25], quartiles[0.75], color=MARKED, alpha=0.2, lw=0)
    axis.plot(centre, quartiles[0.5], color=MARKED, lw=1.8, marker="o", markersize=4)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    return figure


@matplotlib.rc_context(STYLE)
def sparsity_curve(feedback: datasets.Dataset) -> Figure:
    """Share of prompts with fewer than k completions, for k from 2; the bar at 3 is the share that
    is warned of."""
    counts = prompt_table(feedback)["completions"]
    k = np.arange(2, max(SPARSE + 2, min(counts.max() + 2, 13)))
    share = np.array([(counts < n).mean() for n in k])
    few = sparsity(feedback)
    title = f"Sparsity: {few:.1%} of prompts have fewer than {SPARSE}"
    figure, axis = _axis(title, "k", "share of prompts with fewer than k")
    bars = axis.bar(k, share, width=0.75, color=[MARKED if n == SPARSE else BARS for n in k])
    axis.bar_label(bars, labels=[f"{value:.1%}" for value in share], fontsize=9, padding=2)
    axis.set(xticks=k, ylim=(0, 1.12))
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure
