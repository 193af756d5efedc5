"""The figures of Tables II to IV, in one style: frames in, matplotlib figures out. Those of the
runs' own records are in `run_figures`, the first picture in `headline`.

Titles say the result, counted from the numbers that are drawn, and whether it is decided. A filled
mark is decided, a hollow one is not; a hollow diamond is always the paper's number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.config.metrics import METRICS
from rpo_nb.config.metrics import metric as metric_row
from rpo_nb.config.objective import PRESETS
from rpo_nb.reporting import decisions, findings
from rpo_nb.reporting.agreement import MARGIN
from rpo_nb.reporting.headline import headline
from rpo_nb.reporting.published import PAPER_BASELINES
from rpo_nb.reporting.run_figures import figure1, learning_curves, reward_kl
from rpo_nb.reporting.style import (
    PAPER,
    dots,
    entitle,
    errors,
    face,
    interval_note,
    judge_title,
    method_order,
    panel_grid,
    preset_handles,
    size_handles,
    size_lines,
    size_style,
    styled,
)

__all__ = [
    "figure1",
    "headline",
    "learning_curves",
    "metric_panels",
    "overview",
    "reward_kl",
    "temperature",
    "win_rates",
]
# which way a metric is good, where its row does not say it
DIRECTIONS = {
    "self_bleu": "lower is more diverse",
    "distinct_1": "higher is more diverse",
    "distinct_2": "higher is more diverse",
    "length_ratio": "1 is the target text's length",
}
THREE = ("kto", "dro", "rpo")  # the methods that the paper's Table II compares


def _seeds(table: pd.DataFrame) -> float:
    return table["seeds"].max() if len(table) and "seeds" in table else np.nan


def direction(metric: str) -> str:
    """In words, which values of a metric are good."""
    lower = "lower is better" if metric_row(metric).lower else "higher is better"
    return DIRECTIONS.get(metric, lower)


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
    cells = (table[name] for name in ("win_rate", "error", "df"))
    table = table.assign(verdict=decisions.decide(*cells, null=50).verdict)
    figure, axes = panel_grid(
        len(judges), len(presets), 3.5, 0.9 + 0.52 * len(baselines), sharex=True, sharey=True
    )
    offsets = dict(zip(sizes, _apart(len(sizes), 0.27), strict=True))
    for (i, judge), (j, preset) in ((a, b) for a in enumerate(judges) for b in enumerate(presets)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axvline(50, color="#444444", lw=1)
        for size, style in size_style(sizes).items():
            rows = cells[cells["size"].eq(size)]
            y = rows["baseline"].map({b: k for k, b in enumerate(baselines)}) + offsets[size]
            _rates(axis, rows, y, style)
        axis.set(
            title=f"{preset} · {judge_title(judge)}", xlim=(0, 100), yticks=range(len(baselines))
        )
        axis.set_yticklabels(["over " + METHOD_NAMES.get(b, b) for b in baselines])
        axis.grid(axis="y", visible=False)
        if i == len(judges) - 1:
            axis.set_xlabel("win rate of RPO, %")
    axes[0, 0].set_ylim(len(baselines) - 0.5, -0.5)
    known = table.dropna(subset=["win_rate"])
    title = findings.in_a_title(
        known["verdict"],
        "RPO wins more often than it loses",
        "less often",
        "comparisons",
        int((known["win_rate"] > 50).sum()),
        _seeds(table),
    )
    note = "Right of 50: judges prefer RPO. Filled: decided, corrected for all; hollow: not. "
    entitle(figure, title, note + interval_note(_seeds(table)), size_handles(sizes))
    return figure


def _apart(n: int, most: float) -> np.ndarray:
    """n places around 0, the outer ones `most` away."""
    return np.linspace(-most, most, n) if n > 1 else np.zeros(n)


def _rates(axis: Axes, rows: pd.DataFrame, y: pd.Series, look: dict) -> None:
    """Win rates with intervals, filled where decided, and the paper's."""
    spread = errors(rows, "win_rate")
    for k, row in enumerate(rows.itertuples()):
        sure = row.verdict != decisions.OPEN
        axis.errorbar(
            [row.win_rate],
            [y.iloc[k]],
            xerr=spread[:, [k]],
            ls="none",
            elinewidth=1.4,
            **look | face(look["color"], sure),
        )
    paper = PAPER | {"markeredgecolor": look["color"]}
    axis.plot(pd.to_numeric(rows["published"]), y, **paper)


@styled
def temperature(
    table: pd.DataFrame, over: str = "SFT", moves: pd.DataFrame | None = None
) -> Figure:
    """Table IV: win rate (%) of RPO over one baseline against τ with its interval, diamonds the
    paper. moves: rows of `rates.temperature_differences` over the same baseline, for the
    title."""
    judges, presets, sizes = (
        method_order(table["judge"]),
        method_order(table["preset"], PRESETS),
        method_order(table["size"]),
    )
    figure, axes = panel_grid(len(presets), len(judges), 4.4, 2.9, sharex=True, sharey=True)
    taus, lines = sorted(table["tau"].unique()), size_lines(sizes)
    for (i, preset), (j, judge) in ((a, b) for a in enumerate(presets) for b in enumerate(judges)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axhline(50, color="#444444", lw=1)
        for k, (size, style) in enumerate(size_style(sizes).items()):
            rows = cells[cells["size"].eq(size)].sort_values("tau")
            # side by side, so that intervals do not hide each other
            x = rows["tau"] * 1.06 ** (k - (len(sizes) - 1) / 2)
            spread = errors(rows, "win_rate")
            look = style | lines[size]
            axis.errorbar(x, rows["win_rate"], yerr=spread, lw=1.6, elinewidth=1.2, **look)
            edge = {"markeredgecolor": style["color"]}
            axis.plot(x, pd.to_numeric(rows["published"]), **PAPER | edge)
        axis.set(title=f"{preset} · {judge_title(judge)}", xscale="log", ylim=(0, 100), xticks=taus)
        axis.set_xticklabels([f"{t:g}" for t in taus])
        axis.minorticks_off()
        if j == 0:
            axis.set_ylabel(f"win rate over {over}, %")
        if i == len(presets) - 1:
            axis.set_xlabel("temperature τ, reward per nat (log scale)")
    note = f"Above 50: judges prefer RPO to {over}. {interval_note(_seeds(table))}"
    entitle(figure, _moved(table, moves, over), note, size_handles(sizes))
    return figure


def _moved(table: pd.DataFrame, moves: pd.DataFrame | None, over: str) -> str:
    """How far the win rate moves with τ, and where that is decided."""
    keys = ["preset", "judge", "size"]
    wide = table.groupby(keys)["win_rate"].agg(np.ptp).dropna()
    text = f"With τ RPO's win rate over {over} moves by {wide.min():.0f} to {wide.max():.0f} points"
    if not _seeds(table) > 1:
        return f"{text}; {findings.ALONE}"
    if moves is None or moves["error"].isna().all():
        return text
    names = list(zip(*(moves[key] for key in keys), strict=True))
    columns = (moves[name] for name in ("difference", "error", "df"))
    found = decisions.decide_equal(*columns, margin=MARGIN, groups=names).verdict.tolist()
    robust, not_so = found.count(decisions.HOLDS), found.count(decisions.FAILS)
    return (
        f"{text}: surely by less than {MARGIN:g} in {robust} of {len(found)} settings, by more in "
        f"{not_so}; {len(found) - robust - not_so} not decided"
    )


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
    figure, axes = panel_grid(-(-len(metrics) // columns), columns, 3.5, 2.6)
    for axis in axes.flat[len(metrics) :]:
        axis.remove()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        rows = cells[cells["metric"].eq(metric)]
        dots(axis, rows, "method", methods, "value", presets)
        paper = pd.to_numeric(rows["published"]).groupby(rows["method"]).mean().reindex(methods)
        axis.plot(range(len(methods)), paper, **PAPER | {"markerfacecolor": "white"})
        axis.set_title(metric_row(metric).title.split(" (")[0].removesuffix(", mean"), loc="left")
        axis.set_title(direction(metric), loc="right", fontsize=8, fontweight="normal")
        axis.set_xticks(range(len(methods)), _short(methods, ""), fontsize=8)
        axis.grid(axis="x", visible=False)
    note = f"Bars: mean over sizes. {interval_note(_seeds(cells), 'lines on the dots')}"
    paper = pd.to_numeric(cells["published"]).notna().any()
    entitle(figure, _best_metrics(cells), note, preset_handles(presets, paper))
    return figure


def _short(methods: Sequence[str], before: str) -> list[str]:
    names = (METHOD_NAMES.get(m, m) for m in methods)
    return [before + ("ref." if n == "reference" else n.replace(" SFT", "\nSFT")) for n in names]


def _best_metrics(cells: pd.DataFrame) -> str:
    """Which of the paper's three methods has the best values, over the paper's metrics; of cells
    that have all three."""
    known = [name for name in cells["metric"].unique() if metric_row(name).published]
    rows = cells[cells["metric"].isin(known) & cells["method"].isin(THREE)]
    groups, who = ["preset", "metric", "size"], ", ".join(METHOD_NAMES[name] for name in THREE)
    # who is best of three is told only where there are three
    rows = rows[rows.groupby(groups)["method"].transform("nunique").eq(len(THREE))]
    if rows.empty:
        return f"Table II: in no cell were all of {who} measured by the paper's metrics"
    sign = rows["metric"].map(lambda name: -1 if metric_row(name).lower else 1)
    rows = rows.assign(value=rows["value"] * sign, method=rows["method"].map(METHOD_NAMES))
    found = findings.lead(rows, groups, "method", "value")
    return f"Of {who}, by the paper's metrics: " + findings.leaders(
        found, "is best", "cells", _seeds(cells)
    )


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
    cells, judge = cells[cells["metric"].eq(metric)], method_order(table["judge"])[0]
    drawn = table["judge"].eq(judge) & table["baseline"].isin(list(PAPER_BASELINES))
    table = table[drawn].dropna(subset=["win_rate"])
    presets, methods = (
        method_order(cells["preset"], PRESETS),
        method_order(cells["method"], METHODS),
    )
    baselines = method_order(table["baseline"], METHODS)
    figure, axes = panel_grid(1, 2, 5.6, 4.1)
    left, right = axes[0]
    dots(left, cells, "method", methods, "value", presets)
    names = {"reward": "mean true score, 1 to 10"}
    left.set_title(f"What each method reaches ({direction(metric)})", loc="left")
    left.set_ylabel(names.get(metric, METRICS[metric].title))
    left.set_xticks(range(len(methods)), _short(methods, ""))
    dots(right, table, "baseline", baselines, "win_rate", presets)
    paper = pd.to_numeric(table["published"]).groupby(table["baseline"]).mean().reindex(baselines)
    diamonds = PAPER | {"markersize": 8, "markerfacecolor": "white"}
    right.plot(range(len(baselines)), paper, **diamonds)
    right.axhline(50, color="#444444", lw=1)
    right.set_title(f"How often RPO is preferred, {judge_title(judge)}", loc="left")
    right.set(ylim=(0, 100), ylabel="win rate of RPO, %")
    right.set_xticks(range(len(baselines)), _short(baselines, "over\n"))
    for axis in (left, right):
        axis.grid(axis="x", visible=False)
    found = decisions.decide(table["win_rate"], table["error"], table["df"], null=50).verdict
    title = findings.in_a_title(
        found,
        "RPO wins more often than it loses",
        "less often",
        "comparisons",
        int((table["win_rate"] > 50).sum()),
        _seeds(table),
    )
    above = pd.to_numeric(table["published"]).dropna()
    if len(above):
        title += f"; in the paper in {(above > 50).sum()} of {len(above)}"
    note = f"Bars: mean over sizes. {interval_note(_seeds(table), 'lines on the dots')}"
    entitle(figure, title, note, preset_handles(presets, bool(len(above))))
    return figure
