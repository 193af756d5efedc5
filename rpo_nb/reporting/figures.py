"""The figures, in one style: frames in, matplotlib figures out; ``save`` writes svg and png whose
bytes depend on the frame only.

Colour says method (Okabe-Ito, safe for colour-blind readers), marker says size, a hollow diamond is
always the paper's number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import SymmetricalLogLocator

from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.config.metrics import METRICS
from rpo_nb.config.metrics import metric as metric_row
from rpo_nb.config.objective import PRESETS
from rpo_nb.reporting.published import PAPER_BASELINES
from rpo_nb.reporting.style import (
    COLOURS,
    PAPER,
    add_legend,
    dots,
    errors,
    method_handles,
    method_order,
    panel_grid,
    preset_handles,
    size_handles,
    size_style,
    styled,
)


@styled
def win_rates(table: pd.DataFrame) -> Figure:
    """Table III: win rate (%) of RPO with its 95 % interval over seeds and prompts; a panel a
    judge and preset."""
    judges, presets, sizes = (
        method_order(table["judge"]),
        method_order(table["preset"], PRESETS),
        method_order(table["size"]),
    )
    baselines = method_order(table["baseline"], METHODS)
    figure, axes = panel_grid(
        len(judges), len(presets), 3.5, 0.6 + 0.52 * len(baselines), sharex=True, sharey=True
    )
    offsets = dict(
        zip(sizes, np.linspace(-0.27, 0.27, len(sizes)) if len(sizes) > 1 else [0.0], strict=True)
    )
    for (i, judge), (j, preset) in ((a, b) for a in enumerate(judges) for b in enumerate(presets)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axvline(50, color="#444444", lw=1)
        for size, style in size_style(sizes).items():
            rows = cells[cells["size"].eq(size)]
            y = rows["baseline"].map({b: k for k, b in enumerate(baselines)}) + offsets[size]
            axis.errorbar(
                rows["win_rate"],
                y,
                xerr=errors(rows, "win_rate"),
                ls="none",
                markersize=5.5,
                elinewidth=1.4,
                **style,
            )
            axis.plot(
                pd.to_numeric(rows["published"]), y, **PAPER | {"markeredgecolor": style["color"]}
            )
        axis.set(title=f"{preset} · {judge}", xlim=(0, 100), yticks=range(len(baselines)))
        axis.set_yticklabels(["over " + METHOD_NAMES.get(b, b) for b in baselines])
        axis.grid(axis="y", visible=False)
        if i == len(judges) - 1:
            axis.set_xlabel("win rate of RPO, %")
    axes[0, 0].set_ylim(len(baselines) - 0.5, -0.5)
    add_legend(figure, size_handles(sizes))
    return figure


@styled
def temperature(table: pd.DataFrame, over: str = "SFT") -> Figure:
    """Table IV: win rate (%) of RPO over one baseline against τ, solid the kit with its interval,
    dashed the paper."""
    judges, presets, sizes = (
        method_order(table["judge"]),
        method_order(table["preset"], PRESETS),
        method_order(table["size"]),
    )
    figure, axes = panel_grid(len(presets), len(judges), 4.2, 2.9, sharex=True, sharey=True)
    taus = sorted(table["tau"].unique())
    for (i, preset), (j, judge) in ((a, b) for a in enumerate(presets) for b in enumerate(judges)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axhline(50, color="#444444", lw=1)
        for k, (size, style) in enumerate(size_style(sizes).items()):
            rows = cells[cells["size"].eq(size)].sort_values("tau")
            # side by side, so that intervals do not hide each other
            x = rows["tau"] * 1.06 ** (k - (len(sizes) - 1) / 2)
            axis.errorbar(
                x,
                rows["win_rate"],
                yerr=errors(rows, "win_rate"),
                lw=1.6,
                markersize=5.5,
                elinewidth=1.2,
                **style,
            )
            axis.plot(
                x,
                pd.to_numeric(rows["published"]),
                **PAPER
                | {
                    "markeredgecolor": style["color"],
                    "linestyle": "--",
                    "color": style["color"],
                    "lw": 0.9,
                },
            )
        axis.set(
            title=f"{preset} · {judge}",
            xscale="log",
            ylim=(0, 100),
            xticks=taus,
            xticklabels=[f"{t:g}" for t in taus],
        )
        axis.minorticks_off()
        if j == 0:
            axis.set_ylabel(f"win rate over {over}, %")
        if i == len(presets) - 1:
            axis.set_xlabel("temperature τ")
    add_legend(figure, size_handles(sizes))
    return figure


@styled
def learning_curves(history: pd.DataFrame, y: str = "loss", label: str = "training loss") -> Figure:
    """What the runs logged: a panel a method and preset, a line a size (mean of the seeds, a band
    from least to most).

    history: preset, method, size, tau, seed, step and the column `y`. A method with several
    temperatures under a preset has a row for each.
    """
    history = history.dropna(subset=[y])
    presets, sizes = method_order(history["preset"], PRESETS), method_order(history["size"])
    several = history.groupby(["method", "preset"])["tau"].nunique().groupby("method").max() > 1
    taus = {
        m: sorted(history.loc[history["method"].eq(m), "tau"].unique()) if several[m] else [None]
        for m in several.index
    }
    lines = [
        (method, tau) for method in method_order(history["method"], METHODS) for tau in taus[method]
    ]
    figure, axes = panel_grid(len(lines), len(presets), 3.3, 1.75, sharex="col")
    for (i, (method, tau)), (j, preset) in (
        (a, b) for a in enumerate(lines) for b in enumerate(presets)
    ):
        axis, runs = (
            axes[i, j],
            history[history["method"].eq(method) & history["preset"].eq(preset)],
        )
        runs = runs if tau is None else runs[runs["tau"].eq(tau)]
        if runs.empty:
            axis.set_yticks([])
        for size, style in size_style(sizes).items():
            steps = runs[runs["size"].eq(size)].groupby("step")[y].agg(["mean", "min", "max"])
            axis.plot(
                steps.index,
                steps["mean"],
                color=style["color"],
                lw=1.5,
                marker="o" if len(steps) == 1 else None,
            )
            axis.fill_between(
                steps.index, steps["min"], steps["max"], color=style["color"], alpha=0.25, lw=0
            )
        if i == 0:
            axis.set_title(preset)
        if j == 0:
            name = METHOD_NAMES.get(method, method) + ("" if tau is None else f"\nτ = {tau:g}")
            axis.set_ylabel(name, fontweight="bold", color=COLOURS.get(method, "black"))
        if i == len(lines) - 1:
            axis.set_xlabel("optimiser step")
    figure.supylabel(label, fontsize=10)
    add_legend(
        figure,
        [
            Line2D([], [], color=s["color"], lw=2.5, label=size)
            for size, s in size_style(sizes).items()
        ],
    )
    return figure


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
    figure, axes = panel_grid(1, 1, 6.4, 3.6)
    axis = axes[0, 0]
    sns.barplot(
        rows.assign(time=rows["seconds"] / scale),
        x="size",
        y="time",
        hue="method",
        order=sizes,
        hue_order=methods,
        palette=COLOURS,
        saturation=1,
        errorbar=lambda t: (t.min(), t.max()),
        capsize=0.15,
        width=0.75,
        legend=False,
        err_kws={"linewidth": 1.2, "color": "#333333"},
        ax=axis,
    )
    for bars in axis.containers:
        if hasattr(bars, "datavalues"):
            axis.bar_label(bars, fmt="%.1f", label_type="center", fontsize=8.5, fontweight="bold")
    axis.set(xlabel="policy size", ylabel=f"training time, {unit}")
    axis.grid(axis="x", visible=False)
    add_legend(figure, method_handles(methods))
    return figure


@styled
def reward_kl(
    points: pd.DataFrame,
    frontier: pd.DataFrame | None = None,
    label: str = "mean ground-truth reward",
) -> Figure:
    """Mean reward against KL(policy ‖ reference), a panel a preset; the line is the reference
    tilted by exp(r/β), which no policy can lie above at its KL.

    points: preset, method, size, tau, seed, reward, kl, kl_low, kl_high (nats a completion).
    frontier: beta, reward, kl and, where there are several, size.
    """
    presets, methods, sizes = (
        method_order(points["preset"], PRESETS),
        method_order(points["method"], METHODS),
        method_order(points["size"]),
    )
    figure, axes = panel_grid(1, len(presets), 3.7, 3.7, sharex=True, sharey=True)
    styles = size_style(sizes)
    for axis, preset in zip(axes[0], presets, strict=True):
        if frontier is not None:
            lines = (
                [line for _, line in frontier.groupby("size", sort=False)]
                if "size" in frontier
                else [frontier]
            )
            for line, dashes in zip(lines, ("-", "--", ":", "-."), strict=False):
                axis.plot(
                    *line.sort_values("kl")[["kl", "reward"]].to_numpy().T,
                    color="black",
                    lw=1.3,
                    ls=dashes,
                    zorder=1,
                )
        for (method, size), rows in points[points["preset"].eq(preset)].groupby(
            ["method", "size"], sort=False
        ):
            axis.errorbar(
                rows["kl"],
                rows["reward"],
                xerr=errors(rows, "kl", "kl_low", "kl_high"),
                ls="none",
                elinewidth=0.8,
                color=COLOURS.get(method, "black"),
                marker=styles[size]["marker"],
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
                alpha=0.9,
            )
            for row in rows.itertuples() if rows["tau"].nunique() > 1 else ():
                axis.annotate(
                    f"τ {row.tau:g}",
                    (row.kl, row.reward),
                    (3, 4),
                    textcoords="offset points",
                    fontsize=6.5,
                )
        axis.set(title=preset, xlabel="KL(policy ‖ reference), nats")
        # then the policies near the reference and those far from it are both to be seen
        if points["kl"].max() > 3:
            axis.set_xscale("symlog", linthresh=1)
            axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 3)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlim(left=min(-0.2, 1.2 * points["kl"].min()))
    axes[0, 0].set_ylabel(label)
    marks = [
        Line2D([], [], linestyle="none", color="#555555", marker=styles[s]["marker"], label=s)
        for s in sizes
    ]
    line = (
        []
        if frontier is None
        else [Line2D([], [], color="black", lw=1.3, label="reference, exactly tilted")]
    )
    add_legend(figure, [*method_handles(methods), *marks, *line])
    return figure


@styled
def metric_panels(cells: pd.DataFrame, columns: int = 4) -> Figure:
    """Table II: a panel a metric that was measured, bars by preset (means over sizes), diamonds the
    paper's mean over sizes."""
    cells = cells.dropna(subset=["value"])
    metrics, presets = (
        method_order(cells["metric"], METRICS),
        method_order(cells["preset"], PRESETS),
    )
    methods = method_order(cells["method"], METHODS)
    figure, axes = panel_grid(-(-len(metrics) // columns), columns, 3.5, 2.5)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        rows = cells[cells["metric"].eq(metric)]
        dots(axis, rows, "method", methods, "value", presets)
        paper = pd.to_numeric(rows["published"]).groupby(rows["method"]).mean().reindex(methods)
        axis.plot(range(len(methods)), paper, **PAPER | {"markerfacecolor": "white"})
        axis.set(title=metric_row(metric).title.split(" (")[0], xticks=range(len(methods)))
        axis.set_xticklabels(
            [METHOD_NAMES.get(m, m).removesuffix(" SFT") for m in methods],
            fontsize=8,
            rotation=30,
            ha="right",
            rotation_mode="anchor",
        )
        axis.grid(axis="x", visible=False)
    add_legend(figure, preset_handles(presets))
    return figure


@styled
def overview(cells: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """The result in one picture: left what each method reaches, right RPO's win rate beside the
    paper's.

    cells: rows of ``tables.metric_cells`` (the ground-truth reward when it is there, else ROUGE-L).
    table: Table III. Bars are means over sizes, dots the sizes with their intervals; on the right
    the first judge.
    """
    measured = cells[cells["metric"].eq("reward") & cells["value"].notna()]
    metric = "reward" if len(measured) else "rouge_l"
    cells, table = (
        cells[cells["metric"].eq(metric)],
        table[table["judge"].eq(method_order(table["judge"])[0])],
    )
    presets, methods = (
        method_order(cells["preset"], PRESETS),
        method_order(cells["method"], METHODS),
    )
    baselines = [b for b in method_order(table["baseline"], METHODS) if b in PAPER_BASELINES]
    figure, axes = panel_grid(1, 2, 5.6, 3.7)
    left, right = axes[0]
    dots(left, cells, "method", methods, "value", presets)
    left.set(
        title=f"Mean {'ground-truth reward' if metric == 'reward' else METRICS[metric].title}",
        xticks=range(len(methods)),
    )
    left.set_xticklabels([METHOD_NAMES.get(m, m).replace(" ", "\n") for m in methods])
    dots(right, table, "baseline", baselines, "win_rate", presets)
    paper = pd.to_numeric(table["published"]).groupby(table["baseline"]).mean().reindex(baselines)
    right.plot(
        range(len(baselines)), paper, **PAPER | {"markersize": 8, "markerfacecolor": "white"}
    )
    right.axhline(50, color="#444444", lw=1)
    right.set(
        title=f"Win rate of RPO in %, judge {table['judge'].iloc[0]}",
        xticks=range(len(baselines)),
        ylim=(0, 100),
    )
    right.set_xticklabels(["over\n" + METHOD_NAMES[b] for b in baselines])
    for axis in (left, right):
        axis.grid(axis="x", visible=False)
    add_legend(figure, preset_handles(presets))
    return figure
