"""The figures of notebook 02: the frontier of π*, the estimators' errors, the targets and what they
are about, and Table I's steadiness; drawn in the kit's style."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from rpo_nb.reporting import style
from rpo_nb.reporting.style import styled

SHARE = "gradient change without the reward"
NOISE = "gradient change under reward noise"
VARIANCE = "gradient variance"


@styled
def frontier(
    ref: Tensor, reward: Tensor, others: Tensor, optimum: Callable, look: Callable
) -> Figure:
    """KL and expected reward of π* and of other policies; and π* itself by τ.

    ref, reward: [texts]; others: log-probabilities, [policies, texts]; optimum: log π* of a τ;
    look: KL to the reference and expected reward of log-probabilities.
    """
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(12, 4.2), layout="constrained", width_ratios=(1, 1.25)
    )
    kl, mean = look(others)
    left.scatter(
        kl, mean, s=4, color="#b9c4cf", alpha=0.5, linewidths=0, label="4,000 other policies"
    )
    curve = [look(optimum(t)) for t in np.geomspace(0.03, 30, 200)]
    left.plot(*zip(*curve, strict=True), color="#D55E00", lw=2, label="π* for every τ")
    for tau in (0.1, 0.5, 1.0, 5.0):
        k, m = look(optimum(tau))
        left.plot(k, m, "o", color="#D55E00", mec="white", ms=8)
        left.annotate(
            f"τ = {tau:g}", (k, m), xytext=(7, -12), textcoords="offset points", fontsize=9
        )
    left.set(
        xlim=(-0.1, 4.2),
        xlabel="KL(π ‖ πref), nats",
        ylabel="expected reward",
        title="Nothing crosses the tilted references",
    )
    left.legend(loc="lower right", markerscale=4)
    order = reward.argsort(descending=True)
    bands = {f"{t:g}": optimum(t) for t in (0.1, 0.2, 0.5, 1, 2, 5)} | {"πref": ref}
    grid = pd.DataFrame({name: logp.exp()[order] for name, logp in bands.items()}).T
    sns.heatmap(
        grid,
        ax=right,
        cmap="rocket_r",
        vmin=0,
        vmax=0.4,
        xticklabels=False,
        cbar_kws={"label": "probability"},
    )
    right.set(
        xlabel="the 40 texts, best reward first",
        ylabel="τ",
        title="π* moves from the best text back to the reference",
    )
    right.tick_params(axis="y", rotation=0)
    return fig


@styled
def estimators(errors: pd.DataFrame) -> Figure:
    """log Ẑ − log Z of each estimator by K, a panel a writer; columns error, estimator, K,
    writer."""
    colours = ("#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73")
    names = list(dict.fromkeys(errors["estimator"]))
    palette = dict(zip(names, colours, strict=True))
    grid = sns.catplot(
        errors,
        x="K",
        y="error",
        hue="estimator",
        col="writer",
        kind="point",
        palette=palette,
        height=4.2,
        aspect=1.3,
        errorbar=("pi", 80),
        dodge=0.5,
        linestyle="none",
        markersize=6,
        err_kws={"linewidth": 2},
    )
    for axis in grid.axes.flat:
        axis.axhline(0, color="black", lw=1)
    grid.set_titles("{col_name}", fontweight="bold")
    grid.set_axis_labels("completions a prompt, K", "log Ẑ − log Z: mean and 80 % of prompts")
    sns.move_legend(grid, "lower center", ncol=5, bbox_to_anchor=(0.45, -0.07), title=None)
    fig = grid.figure
    return fig


@styled
def targets(
    rows: pd.DataFrame, targets: pd.DataFrame, readings: dict[str, tuple], shares: pd.DataFrame
) -> Figure:
    """Target against reward, a panel a reading, and the parts of the first step's loss.

    rows: standardised reward r and summed log πref; targets: the same rows in each reading;
    readings: (reduce, estimator, τ); shares: each part's share in %, readings down.
    """
    fig = plt.figure(figsize=(14, 7.2), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.55, 1))
    low, high = rows["sum"].quantile([0.02, 0.98])
    for axis, (name, frame) in zip(
        top.subplots(1, len(readings), squeeze=False)[0],
        targets.groupby("reading", sort=False),
        strict=True,
    ):
        reduce, estimator, tau = readings[name]
        axis.axhspan(0, max(frame["target"].max() * 1.08, 0.05), color="#009E73", alpha=0.07, lw=0)
        axis.axhline(0, color="black", lw=1)
        dots = axis.scatter(
            frame["r"],
            frame["target"],
            c=frame["sum"],
            cmap="mako",
            s=9,
            alpha=0.75,
            linewidths=0,
            vmin=low,
            vmax=high,
            rasterized=True,
        )
        axis.set(
            title=f"{name}\n{reduce}, {estimator.replace('_', '-')}, τ = {tau:g}",
            xlabel="standardised reward",
        )
        axis.margins(y=0.05)
    top.axes[0].set_ylabel("target t = weight at the first step")
    top.colorbar(dots, ax=top.axes, label="log πref(y|x), sum", pad=0.01)
    axis = bottom.subplots()
    shares[::-1].plot.barh(
        stacked=True, ax=axis, color=["#c9ced6", "#8fa3b8", "#D55E00"], width=0.7
    )
    axis.set(
        xlim=(0, 100),
        xlabel="share of the first step's loss, %",
        ylabel="",
        title="What the targets are about: only the orange part tells good from bad",
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncol=3)
    return fig


@styled
def steadiness(start: pd.DataFrame, presets: list[str]) -> Figure:
    """How the first gradient changes under reward noise, against what it owes the reward and
    against its variance. start: value, ci_low, ci_high by kind; methods and presets down."""
    height, low, high = start["value"], start["ci_low"], start["ci_high"]
    marks = dict(zip(presets, "so^", strict=False))
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for axis, x in zip(axes, (SHARE, VARIANCE), strict=True):
        for key in start.index:
            method, name = key
            middle, down, up = (f.loc[key, [x, NOISE]].astype(float) for f in (height, low, high))
            # [below and above, x and y, 1]
            bars = np.nan_to_num([middle - down, up - middle])[:, :, None]
            axis.errorbar(
                middle[x],
                middle[NOISE],
                xerr=bars[:, 0],
                yerr=bars[:, 1],
                fmt=marks[name],
                ms=9,
                capsize=3,
                mec="white",
                color=style.COLOURS[method],
                label=f"{method.upper()}, preset {name}",
            )
    slope = (height[NOISE] / height[SHARE]).mean()
    axes[0].plot(
        [0, 1.05],
        [0, 1.05 * slope],
        ls="--",
        color="#8a8a8a",
        zorder=0,
        label="equally robust for the reward it hears",
    )
    axes[0].set(xlabel=SHARE, ylabel=NOISE, title="Robust, or deaf?", xlim=(0, None))
    axes[1].set(
        xlabel=VARIANCE + ", relative to its squared mean",
        title="Noise of the mini-batch",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes[0].legend(loc="upper left")
    return fig
