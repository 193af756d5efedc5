"""The figures of notebook 02: the frontier of π*, the estimators' errors, the targets and what they
are about, and Table I's steadiness; drawn in the kit's style, with titles counted from the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.reporting.style import (
    COLOURS,
    DARK,
    LIGHT,
    MIDDLE,
    entitle,
    method_look,
    panel_grid,
    styled,
)
from rpo_nb.studies.partition_figures import SHORT, estimator_look

SHARE = "gradient change without the reward"
NOISE = "gradient change under reward noise"
VARIANCE = "gradient variance"
FILLS = {"paper": "none", "released": "bottom", "fixed": "full"}  # preset -> how full its mark is


@styled
def frontier(
    ref: Tensor, reward: Tensor, others: Tensor, optimum: Callable, look: Callable
) -> Figure:
    """KL and expected reward of π* and of other policies; and π* itself by τ.

    ref, reward: [texts]; others: log-probabilities, [policies, texts]; optimum: log π* of a τ;
    look: KL to the reference and expected reward of log-probabilities.
    """
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    kl, mean = look(others)
    left.scatter(
        kl, mean, s=4, color="#b9c4cf", alpha=0.5, linewidths=0, label=f"{len(kl):,} other policies"
    )
    curve = [look(optimum(t)) for t in np.geomspace(0.03, 30, 200)]
    left.plot(*zip(*curve, strict=True), color=DARK, lw=2, label="π* for every τ")
    for tau in (0.1, 0.5, 1.0, 5.0):
        k, m = look(optimum(tau))
        left.plot(k, m, "o", color=DARK, mec="white", ms=8)
        left.annotate(
            f"τ = {tau:g}", (k, m), xytext=(7, -12), textcoords="offset points", fontsize=9
        )
    left.set(
        xlim=(-0.1, 4.2),
        xlabel="KL(π ‖ πref), nats",
        ylabel="expected reward (up is better)",
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
    right.set(xlabel=f"the {len(order)} texts, best reward first", ylabel="τ")
    right.set_title("π* moves from the best text to the reference as τ grows", loc="left")
    right.tick_params(axis="y", rotation=0)
    xs, ys = np.array(sorted((float(k), float(m)) for k, m in curve)).T
    above = int((mean.numpy() > np.interp(kl.numpy(), xs, ys) + 1e-9).sum())
    title = f"{above} of {len(kl):,} other policies lie above the tilted references"
    entitle(figure, title, "A language of three token types, summed exactly.")
    return figure


@styled
def estimators(errors: pd.DataFrame) -> Figure:
    """log Ẑ − log Z of each estimator by K, a panel a writer; columns error, estimator, K,
    writer."""
    names, writers = (list(dict.fromkeys(errors[c])) for c in ("estimator", "writer"))
    ks = sorted(errors["K"].unique())
    figure, axes = panel_grid(1, len(writers), 5.8, 4.6, sharey=True)
    for axis, writer in zip(axes[0], writers, strict=True):
        cells = errors[errors["writer"].eq(writer)]
        for i, name in enumerate(names):
            found = cells[cells["estimator"].eq(name)].groupby("K")["error"]
            mean, low, high = found.mean(), found.quantile(0.1), found.quantile(0.9)
            x = np.arange(len(ks)) + 0.13 * (i - (len(names) - 1) / 2)
            mark = estimator_look(name) | {"linestyle": "none", "label": _named(name)}
            axis.errorbar(x, mean, yerr=[mean - low, high - mean], ms=6, elinewidth=1.8, **mark)
        axis.axhline(0, color="black", lw=1)
        axis.set_xticks(range(len(ks)), ks)
        axis.set(title=writer, xlabel="completions a prompt, K")
        axis.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("log Ẑ − log Z, nats")
    marks = [
        Line2D([], [], label=_named(name), **estimator_look(name) | {"linestyle": "none"})
        for name in names
    ]
    note = "0 is no error. Mark: mean; line: 80 % of the prompts (no interval of the mean). "
    entitle(
        figure, _least(errors), note + "Light purple weighs by πref, dark indigo does not.", marks
    )
    return figure


def _named(estimator: str) -> str:
    return estimator.replace("_", "-") + (" (eq. 19)" if estimator == "empirical" else "")


def _least(errors: pd.DataFrame) -> str:
    """The mean error of eq. 19, and the smallest, with the most completions, by writer."""
    rows = errors[errors["K"].eq(errors["K"].max())]
    means = rows.groupby(["writer", "estimator"], sort=False)["error"].mean()
    parts = []
    for writer in rows["writer"].unique():
        mine = means[writer]
        best = mine.abs().idxmin()
        parts.append(f"{mine['empirical']:+.1f} nats, best {SHORT[best]} {mine[best]:+.1f}")
        parts[-1] += f" ({writer})"
    return f"Eq. 19 is off by {'; '.join(parts)} at K = {errors['K'].max()}"


def _draw_target(axis: Axes, frame: pd.DataFrame, low: float, high: float):
    axis.axhspan(0, max(frame["target"].max() * 1.08, 0.05), color=LIGHT, alpha=0.35, lw=0)
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
    axis.margins(y=0.05)
    return dots


@styled
def targets(
    rows: pd.DataFrame, targets: pd.DataFrame, readings: dict[str, tuple], shares: pd.DataFrame
) -> Figure:
    """Target against reward, a panel a reading, and the parts of the first step's loss.

    rows: standardised reward r and summed log πref; targets: the same rows in each reading;
    readings: (reduce, estimator, τ); shares: each part's share in %, readings down.
    """
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, len(readings), height_ratios=(1.55, 1))
    low, high = rows["sum"].quantile([0.02, 0.98])
    top = [figure.add_subplot(grid[0, i]) for i in range(len(readings))]
    for axis, (name, frame) in zip(top, targets.groupby("reading", sort=False), strict=True):
        reduce, estimator, tau = readings[name]
        dots = _draw_target(axis, frame, low, high)
        axis.set_title(f"{name}\n{reduce}, {estimator.replace('_', '-')}, τ = {tau:g}", fontsize=10)
        axis.set_xlabel("standardised reward")
    top[0].set_ylabel("target t = weight at the first step")
    figure.colorbar(dots, ax=top, label="log πref(y|x), sum", pad=0.01)
    axis = figure.add_subplot(grid[1, :])
    colours = (LIGHT, "#8fa3b8", COLOURS["rpo"])
    shares[::-1].plot.barh(stacked=True, ax=axis, color=colours, width=0.7, edgecolor="white")
    for place, value in enumerate(shares["within a prompt"][::-1]):
        inside = value > 12
        axis.text(
            100 - value / 2 if inside else 100.5,
            place,
            f"{value:.1f} %" if value < 2 else f"{value:.0f} %",
            ha="center" if inside else "left",
            va="center",
            fontweight="bold",
            color="white" if inside else COLOURS["rpo"],
        )
    axis.set(xlim=(0, 100), xlabel="share of the first step's loss, %", ylabel="")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3)
    told = shares["within a prompt"]
    said = ", ".join(f"{told[n]:.1f} % ({n})" for n in told.index)
    title = (
        f"The part of the first loss that tells a prompt's good completions from bad ones: {said}"
    )
    note = "Above: a dot a row; in the grey band (t > 0) a row is pushed up, below it down. "
    entitle(figure, title, note + "Below: the last part is within a prompt.")
    return figure


@styled
def steadiness(start: pd.DataFrame, presets: list[str]) -> Figure:
    """How the first gradient changes under reward noise, against what it owes the reward and
    against its variance. start: value, ci_low, ci_high by kind; methods and presets down."""
    height, low, high = start["value"], start["ci_low"], start["ci_high"]
    figure, axes = panel_grid(1, 2, 5.6, 4.8, sharey=True)
    for axis, x in zip(axes[0], (SHARE, VARIANCE), strict=True):
        for method, name in start.index:
            middle, down, up = (
                f.loc[(method, name), [x, NOISE]].astype(float) for f in (height, low, high)
            )
            # [below and above, x and y, 1]
            bars = np.array([middle - down, up - middle])[:, :, None]
            mark = _mark(method, name) | {"ms": 8.5, "capsize": 2, "elinewidth": 1.1}
            axis.errorbar(middle[x], middle[NOISE], xerr=bars[:, 0], yerr=bars[:, 1], **mark)
    left, right = axes[0]
    slope = (height[NOISE] / height[SHARE]).mean()
    left.plot([0, 1.05], [0, 1.05 * slope], ls="--", color=MIDDLE, zorder=0)
    left.set(xlabel=f"{SHARE}, share of its norm", ylabel=f"{NOISE}, share of its norm")
    left.set(xlim=(0, None), title="Robust, or deaf?")
    right.set(xlabel=VARIANCE + " / squared mean (lower is better)", title="Noise of the batch")
    right.set(xlim=(0, None), ylim=(0, None))
    marks = [
        Line2D([], [], label=f"{METHOD_NAMES.get(method, method)}, {name}", **_mark(method, name))
        for method, name in start.index
    ]
    dashes = Line2D([], [], ls="--", color=MIDDLE, label="as robust as the reward it hears")
    first = presets[0]
    heard = height[SHARE].xs(first, level="preset")
    said = ", ".join(f"{100 * v:.0f} % ({METHOD_NAMES.get(m, m)})" for m, v in heard.items())
    title = f"Without the reward the first gradient of preset {first} changes by {said}"
    entitle(figure, title, "Bars: 95 % interval over mini-batches, one seed.", [*marks, dashes])
    return figure


def _mark(method: str, preset: str) -> dict:
    look = method_look(method) | {"linestyle": "none", "fillstyle": FILLS.get(preset, "full")}
    return look | {"markerfacecoloralt": "white", "markeredgecolor": look["color"]}
