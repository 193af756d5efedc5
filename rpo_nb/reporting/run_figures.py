"""Figures of what the runs tell of themselves: learning curves, training times (Figure 1), reward
against KL. Drawn from `studies.insight`'s frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator

from rpo_nb.config.methods import METHOD_NAMES, METHODS, ROWS
from rpo_nb.config.objective import PRESETS
from rpo_nb.reporting.style import (
    COLOURS,
    DARK,
    entitle,
    errors,
    method_handles,
    method_look,
    method_order,
    name_lines,
    panel_grid,
    size_lines,
    styled,
)

NEAR = 1.0  # nats of KL around 0 where its axis is linear
COLUMNS = 4  # of small panels side by side


def _panels(history: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(title, rows) of every method, preset and temperature that was trained. What is the same
    policy under every preset (SFT) stands once."""
    out = []
    for method in method_order(history["method"], METHODS):
        mine = history[history["method"].eq(method)]
        read = method not in ROWS or ROWS[method].presets
        for preset in method_order(mine["preset"], PRESETS)[: None if read else 1]:
            rows = mine[mine["preset"].eq(preset)]
            several = rows["tau"].nunique() > 1
            for tau, line in rows.groupby("tau", dropna=False):
                title = METHOD_NAMES.get(method, method) + (f" · {preset}" if read else "")
                out.append((title + (f" · τ {tau:g}" if several else ""), line))
    return out


@styled
def learning_curves(history: pd.DataFrame, y: str = "loss", label: str = "training loss") -> Figure:
    """What the runs logged: a panel a method, preset and temperature, a line a size (mean of the
    seeds, a band from least to most).

    history: preset, method, size, tau, seed, step and the column `y`.
    """
    history = history.dropna(subset=[y])
    panels, sizes = _panels(history), method_order(history["size"])
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = panel_grid(lines, columns, 3.0, 1.75)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for place, (axis, (title, runs)) in enumerate(zip(axes.flat, panels, strict=False)):
        for size, style in size_lines(sizes).items():
            steps = runs[runs["size"].eq(size)].groupby("step")[y].agg(["mean", "min", "max"])
            marker = "o" if len(steps) == 1 else None
            axis.plot(steps.index, steps["mean"], lw=1.5, marker=marker, **style)
            band = (steps.index, steps["min"], steps["max"])
            axis.fill_between(*band, color=style["color"], alpha=0.25, lw=0)
        axis.set_title(title, loc="left", fontsize=9.5)
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if place >= len(panels) - columns:
            axis.set_xlabel("optimiser step")
    figure.supylabel(label, fontsize=10)
    seeds = history["seed"].nunique()
    handles = [
        Line2D([], [], lw=2, label=f"size {s}", **style) for s, style in size_lines(sizes).items()
    ]
    band = f"Mean of {seeds} seeds; band: least to most. " if seeds > 1 else "One seed. "
    note = f"{band}Losses of different methods have different units: look at the shape."
    entitle(figure, _fallen(history, y, label), note, handles)
    return figure


def _fallen(history: pd.DataFrame, y: str, label: str) -> str:
    keys = ["preset", "method", "size", "tau", "seed"]
    runs = history.sort_values("step").groupby(keys, dropna=False)[y]
    ends = runs.agg(["first", "last", "count"]).query("count > 1")
    fallen = int((ends["last"] < ends["first"]).sum())
    return f"The {label} ends below where it began in {fallen} of {len(ends)} trainings"


@styled
def figure1(timings: pd.DataFrame, methods: Sequence[str] = ("kto", "dro", "rpo")) -> Figure:
    """Figure 1: training time by method and size; bars are means over presets and seeds, whiskers
    run from least to most.

    timings: method, size, seconds. Wall-clock, so it differs from run to run.
    """
    rows = timings[timings["method"].isin(methods)]
    mean = rows["seconds"].mean()
    unit, scale = (
        ("hours", 3600) if mean >= 7200 else ("minutes", 60) if mean >= 120 else ("seconds", 1)
    )
    methods, sizes = method_order(rows["method"], methods), method_order(rows["size"])
    times = rows.assign(time=rows["seconds"] / scale).groupby(["size", "method"])["time"]
    table = times.agg(["mean", "min", "max", "count"])
    width = 0.8 / max(1, len(methods))
    figure, axes = panel_grid(1, 1, max(5.6, 2.4 * len(sizes)), 3.8)
    axis = axes[0, 0]
    for (i, size), (j, method) in ((a, b) for a in enumerate(sizes) for b in enumerate(methods)):
        if (size, method) not in table.index:
            continue
        row = table.loc[(size, method)]
        x = i + (j - (len(methods) - 1) / 2) * width
        bar = axis.bar(x, row["mean"], 0.92 * width, color=COLOURS.get(method, DARK))
        text = f"{METHOD_NAMES.get(method, method)}\n{row['mean']:.1f}"
        dark = method in ("rpo", "dro", "qrpo")
        axis.bar_label(
            bar,
            [text],
            label_type="center",
            fontsize=8.5,
            fontweight="bold",
            color="white" if dark else "black",
        )
        if row["count"] > 1:
            ends = [[row["mean"] - row["min"]], [row["max"] - row["mean"]]]
            axis.errorbar(x, row["mean"], yerr=ends, color="#333333", lw=1.2, capsize=3)
    axis.set_xticks(range(len(sizes)), sizes)
    axis.set(xlabel="policy size", ylabel=f"training time, {unit}")
    axis.grid(axis="x", visible=False)
    note = "Lower is faster. Bars: mean over presets and seeds; whiskers: least to most of these "
    note += "runs. Wall-clock of one machine, not the same again."
    entitle(figure, _fastest(table), note)
    return figure


def _fastest(table: pd.DataFrame) -> str:
    """Who took least time at how many sizes, and at how many the ranges overlap."""
    sizes = list(table.index.get_level_values("size").unique())
    first = [table.loc[size]["mean"].idxmin() for size in sizes]
    clear = 0
    for size, method in zip(sizes, first, strict=True):
        others = table.loc[size].drop(index=method)["min"]
        clear += bool((table.loc[(size, method), "max"] < others).all())
    counts = pd.Series(first).map(METHOD_NAMES).value_counts(sort=False)
    who = ", ".join(f"{name} at {n} of {len(sizes)} sizes" for name, n in counts.items())
    overlap = len(sizes) - clear
    return f"Least time on average: {who}" + (
        f"; its range overlaps another's at {overlap}" if overlap else ""
    )


@styled
def reward_kl(
    points: pd.DataFrame,
    frontier: pd.DataFrame | None = None,
    label: str = "mean true score, 1 to 10",
) -> Figure:
    """Mean reward against KL(policy ‖ reference), a panel a preset and size; the line is the
    reference tilted by exp(r/β), which no policy can lie above at its KL.

    points: preset, method, size, tau, seed, reward, kl, kl_low, kl_high (nats a completion).
    frontier: beta, reward, kl and, where there are several, size.
    """
    presets, methods, sizes = (
        method_order(points["preset"], PRESETS),
        method_order(points["method"], METHODS),
        method_order(points["size"]),
    )
    figure, axes = panel_grid(len(presets), len(sizes), 3.9, 3.2, sharex=True, sharey=True)
    far = points["kl"].max() > 3
    for (i, preset), (j, size) in ((a, b) for a in enumerate(presets) for b in enumerate(sizes)):
        axis = axes[i, j]
        if far:  # then the policies near the reference and those far from it are both to be seen
            _bent(axis, min(-0.2, 1.2 * points["kl"].min()), 1.3 * points["kl"].max())
        line = _line_of(frontier, size)
        if line is not None:
            axis.plot(line["kl"], line["reward"], color="black", lw=1.3, zorder=1)
        cell = points[points["preset"].eq(preset) & points["size"].eq(size)]
        for method, rows in cell.groupby("method", sort=False):
            axis.errorbar(
                rows["kl"],
                rows["reward"],
                xerr=errors(rows, "kl", "kl_low", "kl_high"),
                elinewidth=0.9,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.5,
                **method_look(method) | {"linestyle": "none"},
            )
        if i == len(presets) - 1:
            axis.set_xlabel(f"KL(policy ‖ reference), nats{' (bent scale)' if far else ''}")
        axis.set_title(f"{preset} · size {size}")
    axes[0, 0].set_ylim(points["reward"].min() - 0.5, _highest(points, frontier) + 0.3)
    for (i, preset), (j, size) in ((a, b) for a in enumerate(presets) for b in enumerate(sizes)):
        cell = points[points["preset"].eq(preset) & points["size"].eq(size)]
        _name_temperatures(axes[i, j], cell)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    note = "Up is better. Bars: 95 % interval of KL over the policy's completions (bootstrap), not "
    note += "over seeds."
    if far:
        note += f" KL is linear up to {NEAR:g} (grey line), logarithmic beyond (symlog)."
    marks = method_handles(methods)
    if frontier is not None:
        marks.append(Line2D([], [], color="black", lw=1.3, label="best possible at this KL"))
    entitle(figure, _reached(points, frontier), note, marks)
    return figure


def _bent(axis: Axes, low: float, high: float) -> None:
    axis.set_xscale("symlog", linthresh=NEAR)
    axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=NEAR, subs=(1, 3)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(low, high)
    axis.axvline(NEAR, color="#bbbbbb", lw=1, ls=":")


def _line_of(frontier: pd.DataFrame | None, size: str) -> pd.DataFrame | None:
    if frontier is None:
        return None
    line = frontier[frontier["size"].eq(size)] if "size" in frontier else frontier
    return line.sort_values("kl")


def _highest(points: pd.DataFrame, frontier: pd.DataFrame | None) -> float:
    tops = [points["reward"].max()] + ([] if frontier is None else [frontier["reward"].max()])
    return max(tops)


def _name_temperatures(axis: Axes, rows: pd.DataFrame) -> None:
    """τ beside the panel, of methods that were trained at several."""
    swept = rows.groupby("method")["tau"].transform("nunique") > 1
    name_lines(
        axis,
        [
            (row.kl, row.reward, f"τ {row.tau:g}", COLOURS.get(row.method, DARK))
            for row in rows[swept].itertuples()
        ],
    )


def _reached(points: pd.DataFrame, frontier: pd.DataFrame | None) -> str:
    """What the policy with the highest reward has of what could be had at its KL."""
    trained = points[points["method"].ne("reference")]
    if trained.empty:
        return "Reward against KL"
    best = trained.loc[trained["reward"].idxmax()]
    tau = f" τ {best['tau']:g}" if np.isfinite(best["tau"]) else ""
    name = METHOD_NAMES.get(best["method"], best["method"])
    text = f"The highest score, {best['reward']:.1f}, is {name}{tau}'s ({best['preset']}, "
    text += f"size {best['size']})"
    line = _line_of(frontier, best["size"])
    if line is None or not line["kl"].min() <= best["kl"] <= line["kl"].max():
        return text
    possible = np.interp(best["kl"], line["kl"], line["reward"])
    return f"{text}; at its KL {possible:.1f} could be had"
