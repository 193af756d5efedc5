"""The figures, in one style: frames in, matplotlib figures out; ``save`` writes svg and png whose bytes depend on the frame only.

Colour says method (Okabe-Ito, safe for colour-blind readers), marker says size, a hollow diamond is always the paper's number.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import SymmetricalLogLocator

from rpo_nb.config import METHODS, PRESETS
from rpo_nb.reporting import METHOD_NAMES, METRICS, PAPER_BASELINES
from rpo_nb.store import atomic_write

COLOURS = {"reference": "#6b6b6b", "sft": "#56B4E9", "best_of_k": "#CC79A7", "kto": "#E69F00", "dro": "#009E73", "rpo": "#D55E00",
           "qrpo": "#0072B2"}
SIZE_COLOURS = ("#86B6D9", "#2F7FB5", "#0B3C5D")  # light to dark: small to large
PRESET_COLOURS = ("#CDBFE0", "#9472B8", "#43206B")  # where the bars are presets
MARKERS = ("o", "s", "^", "D", "v")
PAPER = {"marker": "D", "markerfacecolor": "none", "markeredgecolor": "black", "markersize": 5.5, "linestyle": "none"}
STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "axes.edgecolor": "#444444", "axes.grid": True,
    "grid.color": "#e6e6e6", "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.titlesize": 11, "axes.titleweight": "bold",
    "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.frameon": False, "legend.fontsize": 9,
    "font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "rpo_nb", "path.simplify": False,
}


def save(figure: Figure, out: Path | str, name: str) -> Path:
    """Write ``<out>/figures/<name>.svg`` and ``.png`` (150 dpi), no date or version in them; return the svg's path."""
    folder = Path(out) / "figures"
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.1)
        figure.set_layout_engine("none")  # found once, it stands: to find it costs as much as to draw
        path = atomic_write(folder / f"{name}.{kind}", buffer.getvalue())
    return path


def _grid(rows: int, columns: int, width: float, height: float, **kwargs: object) -> tuple[Figure, np.ndarray]:
    """A figure with `rows` x `columns` axes of the given size in inches; pyplot does not hold it, so nothing has to be closed."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def _styled(draw):
    """Run a drawing function under STYLE."""
    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)
    return wrapper


def _order(values: pd.Series, known: Sequence[str] = ()) -> list:
    """Distinct values: known ones in their order, the others as they come."""
    found = list(dict.fromkeys(values))
    return [v for v in known if v in found] + [v for v in found if v not in known]


def _size_style(sizes: Sequence[str]) -> dict[str, dict]:
    return {size: {"color": SIZE_COLOURS[i % len(SIZE_COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            for i, size in enumerate(sizes)}


def _errors(rows: pd.DataFrame, value: str, low: str = "ci_low", high: str = "ci_high") -> np.ndarray:
    """Distances to the interval's ends, shape (2, rows); 0 where there is no interval."""
    return np.nan_to_num(np.maximum(np.stack([rows[value] - rows[low], rows[high] - rows[value]]).astype(float), 0.0))


def _legend(figure: Figure, handles: list, **kwargs: object) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), **kwargs)


def _size_handles(sizes: Sequence[str], paper: bool = True) -> list[Line2D]:
    handles = [Line2D([], [], linestyle="none", markersize=6.5, label=size, **style)
               for size, style in _size_style(sizes).items()]
    return handles + ([Line2D([], [], label="the paper, same size", **PAPER)] if paper else [])


def _method_handles(methods: Sequence[str]) -> list[Line2D]:
    return [Line2D([], [], color=COLOURS.get(m, "black"), lw=3, label=METHOD_NAMES.get(m, m)) for m in methods]


@_styled
def win_rates(table: pd.DataFrame) -> Figure:
    """Table III: win rate (%) of RPO with its 95 % interval over prompts; a panel a judge and preset."""
    judges, presets, sizes = _order(table["judge"]), _order(table["preset"], PRESETS), _order(table["size"])
    baselines = _order(table["baseline"], METHODS)
    figure, axes = _grid(len(judges), len(presets), 3.5, 0.6 + 0.52 * len(baselines), sharex=True, sharey=True)
    offsets = dict(zip(sizes, np.linspace(-0.27, 0.27, len(sizes)) if len(sizes) > 1 else [0.0], strict=True))
    for (i, judge), (j, preset) in ((a, b) for a in enumerate(judges) for b in enumerate(presets)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axvline(50, color="#444444", lw=1)
        for size, style in _size_style(sizes).items():
            rows = cells[cells["size"].eq(size)]
            y = rows["baseline"].map({b: k for k, b in enumerate(baselines)}) + offsets[size]
            axis.errorbar(rows["win_rate"], y, xerr=_errors(rows, "win_rate"), ls="none", markersize=5.5, elinewidth=1.4, **style)
            axis.plot(pd.to_numeric(rows["published"]), y, **PAPER | {"markeredgecolor": style["color"]})
        axis.set(title=f"{preset} · {judge}", xlim=(0, 100), yticks=range(len(baselines)))
        axis.set_yticklabels(["over " + METHOD_NAMES.get(b, b) for b in baselines])
        axis.grid(axis="y", visible=False)
        if i == len(judges) - 1:
            axis.set_xlabel("win rate of RPO, %")
    axes[0, 0].set_ylim(len(baselines) - 0.5, -0.5)
    _legend(figure, _size_handles(sizes))
    return figure


@_styled
def temperature(table: pd.DataFrame, over: str = "SFT") -> Figure:
    """Table IV: win rate (%) of RPO over one baseline against τ, solid the kit with its interval, dashed the paper."""
    judges, presets, sizes = _order(table["judge"]), _order(table["preset"], PRESETS), _order(table["size"])
    figure, axes = _grid(len(presets), len(judges), 4.2, 2.9, sharex=True, sharey=True)
    taus = sorted(table["tau"].unique())
    for (i, preset), (j, judge) in ((a, b) for a in enumerate(presets) for b in enumerate(judges)):
        axis, cells = axes[i, j], table[table["judge"].eq(judge) & table["preset"].eq(preset)]
        axis.axhline(50, color="#444444", lw=1)
        for k, (size, style) in enumerate(_size_style(sizes).items()):
            rows = cells[cells["size"].eq(size)].sort_values("tau")
            x = rows["tau"] * 1.06 ** (k - (len(sizes) - 1) / 2)  # side by side, so that intervals do not hide each other
            axis.errorbar(x, rows["win_rate"], yerr=_errors(rows, "win_rate"), lw=1.6, markersize=5.5, elinewidth=1.2, **style)
            axis.plot(x, pd.to_numeric(rows["published"]), **PAPER | {"markeredgecolor": style["color"], "linestyle": "--",
                                                                      "color": style["color"], "lw": 0.9})
        axis.set(title=f"{preset} · {judge}", xscale="log", ylim=(0, 100), xticks=taus, xticklabels=[f"{t:g}" for t in taus])
        axis.minorticks_off()
        if j == 0:
            axis.set_ylabel(f"win rate over {over}, %")
        if i == len(presets) - 1:
            axis.set_xlabel("temperature τ")
    _legend(figure, _size_handles(sizes))
    return figure


@_styled
def learning_curves(history: pd.DataFrame, y: str = "loss", label: str = "training loss") -> Figure:
    """What the runs logged: a panel a method and preset, a line a size (mean of the seeds, a band from least to most).

    history: preset, method, size, tau, seed, step and the column `y`. A method with several temperatures under a
    preset has a row for each.
    """
    history = history.dropna(subset=[y])
    presets, sizes = _order(history["preset"], PRESETS), _order(history["size"])
    several = history.groupby(["method", "preset"])["tau"].nunique().groupby("method").max() > 1
    taus = {m: sorted(history.loc[history["method"].eq(m), "tau"].unique()) if several[m] else [None] for m in several.index}
    lines = [(method, tau) for method in _order(history["method"], METHODS) for tau in taus[method]]
    figure, axes = _grid(len(lines), len(presets), 3.3, 1.75, sharex="col")
    for (i, (method, tau)), (j, preset) in ((a, b) for a in enumerate(lines) for b in enumerate(presets)):
        axis, runs = axes[i, j], history[history["method"].eq(method) & history["preset"].eq(preset)]
        runs = runs if tau is None else runs[runs["tau"].eq(tau)]
        if runs.empty:
            axis.set_yticks([])
        for size, style in _size_style(sizes).items():
            steps = runs[runs["size"].eq(size)].groupby("step")[y].agg(["mean", "min", "max"])
            axis.plot(steps.index, steps["mean"], color=style["color"], lw=1.5, marker="o" if len(steps) == 1 else None)
            axis.fill_between(steps.index, steps["min"], steps["max"], color=style["color"], alpha=0.25, lw=0)
        if i == 0:
            axis.set_title(preset)
        if j == 0:
            name = METHOD_NAMES.get(method, method) + ("" if tau is None else f"\nτ = {tau:g}")
            axis.set_ylabel(name, fontweight="bold", color=COLOURS.get(method, "black"))
        if i == len(lines) - 1:
            axis.set_xlabel("optimiser step")
    figure.supylabel(label, fontsize=10)
    _legend(figure, [Line2D([], [], color=s["color"], lw=2.5, label=size) for size, s in _size_style(sizes).items()])
    return figure


@_styled
def figure1(timings: pd.DataFrame, methods: Sequence[str] = ("kto", "dro", "rpo")) -> Figure:
    """Figure 1: training time by method and size; bars are means over presets and seeds, whiskers run from least to most.

    timings: method, size, seconds. Wall-clock, so it differs from run to run.
    """
    rows = timings[timings["method"].isin(methods)]
    mean = rows["seconds"].mean()
    unit, scale = ("hours", 3600) if mean >= 7200 else ("minutes", 60) if mean >= 120 else ("seconds", 1)
    methods, sizes = _order(rows["method"], methods), _order(rows["size"])
    figure, axes = _grid(1, 1, 6.4, 3.6)
    axis = axes[0, 0]
    sns.barplot(rows.assign(time=rows["seconds"] / scale), x="size", y="time", hue="method", order=sizes, hue_order=methods,
                palette=COLOURS, saturation=1, errorbar=lambda t: (t.min(), t.max()), capsize=0.15, width=0.75, legend=False,
                err_kws={"linewidth": 1.2, "color": "#333333"}, ax=axis)
    for bars in axis.containers:
        if hasattr(bars, "datavalues"):
            axis.bar_label(bars, fmt="%.1f", label_type="center", fontsize=8.5, fontweight="bold")
    axis.set(xlabel="policy size", ylabel=f"training time, {unit}")
    axis.grid(axis="x", visible=False)
    _legend(figure, _method_handles(methods))
    return figure


@_styled
def reward_kl(points: pd.DataFrame, frontier: pd.DataFrame | None = None, label: str = "mean ground-truth reward") -> Figure:
    """Mean reward against KL(policy ‖ reference), a panel a preset; the line is the reference tilted by exp(r/β), which no
    policy can lie above at its KL.

    points: preset, method, size, tau, seed, reward, kl, kl_low, kl_high (nats a completion). frontier: beta, reward, kl and,
    where there are several, size.
    """
    presets, methods, sizes = _order(points["preset"], PRESETS), _order(points["method"], METHODS), _order(points["size"])
    figure, axes = _grid(1, len(presets), 3.7, 3.7, sharex=True, sharey=True)
    styles = _size_style(sizes)
    for axis, preset in zip(axes[0], presets, strict=True):
        if frontier is not None:
            lines = [line for _, line in frontier.groupby("size", sort=False)] if "size" in frontier else [frontier]
            for line, dashes in zip(lines, ("-", "--", ":", "-."), strict=False):
                axis.plot(*line.sort_values("kl")[["kl", "reward"]].to_numpy().T, color="black", lw=1.3, ls=dashes, zorder=1)
        for (method, size), rows in points[points["preset"].eq(preset)].groupby(["method", "size"], sort=False):
            axis.errorbar(rows["kl"], rows["reward"], xerr=_errors(rows, "kl", "kl_low", "kl_high"), ls="none", elinewidth=0.8,
                          color=COLOURS.get(method, "black"), marker=styles[size]["marker"], markersize=6,
                          markeredgecolor="white", markeredgewidth=0.6, alpha=0.9)
            for row in rows.itertuples() if rows["tau"].nunique() > 1 else ():
                axis.annotate(f"τ {row.tau:g}", (row.kl, row.reward), (3, 4), textcoords="offset points", fontsize=6.5)
        axis.set(title=preset, xlabel="KL(policy ‖ reference), nats")
        if points["kl"].max() > 3:  # then the policies near the reference and those far from it are both to be seen
            axis.set_xscale("symlog", linthresh=1)
            axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 3)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.set_xlim(left=min(-0.2, 1.2 * points["kl"].min()))
    axes[0, 0].set_ylabel(label)
    marks = [Line2D([], [], linestyle="none", color="#555555", marker=styles[s]["marker"], label=s) for s in sizes]
    line = [] if frontier is None else [Line2D([], [], color="black", lw=1.3, label="reference, exactly tilted")]
    _legend(figure, [*_method_handles(methods), *marks, *line])
    return figure


def _preset_handles(presets: Sequence[str]) -> list:
    patches = [Patch(color=PRESET_COLOURS[j % len(PRESET_COLOURS)], label=f"preset {preset}") for j, preset in enumerate(presets)]
    return [*patches, Line2D([], [], linestyle="none", marker="o", color="#222222", markersize=3, label="one size"),
            Line2D([], [], label="the paper, mean of its sizes", **PAPER | {"markersize": 8})]


def _dots(axis: Axes, cells: pd.DataFrame, column: str, groups: Sequence[str], value: str, presets: Sequence[str]) -> None:
    """A dot a size and a bar at their mean, presets side by side within each group."""
    for j, preset in enumerate(presets):
        for i, group in enumerate(groups):
            rows = cells[cells["preset"].eq(preset) & cells[column].eq(group)].dropna(subset=[value])
            x = i + (j - (len(presets) - 1) / 2) * 0.26
            if len(rows):
                axis.bar(x, rows[value].mean(), 0.24, color=PRESET_COLOURS[j % len(PRESET_COLOURS)])
            axis.errorbar(x + np.linspace(-0.06, 0.06, len(rows)), rows[value], yerr=_errors(rows, value), ls="none", marker="o",
                          markersize=2.6, elinewidth=0.9, color="#222222")


@_styled
def metric_panels(cells: pd.DataFrame, columns: int = 4) -> Figure:
    """Table II: a panel a metric that was measured, bars by preset (means over sizes), diamonds the paper's mean over sizes."""
    cells = cells.dropna(subset=["value"])
    metrics, presets = _order(cells["metric"], METRICS), _order(cells["preset"], PRESETS)
    methods = _order(cells["method"], METHODS)
    figure, axes = _grid(-(-len(metrics) // columns), columns, 3.5, 2.5)
    for axis in axes.flat[len(metrics):]:
        axis.remove()
    for axis, metric in zip(axes.flat, metrics, strict=False):
        rows = cells[cells["metric"].eq(metric)]
        _dots(axis, rows, "method", methods, "value", presets)
        paper = pd.to_numeric(rows["published"]).groupby(rows["method"]).mean().reindex(methods)
        axis.plot(range(len(methods)), paper, **PAPER | {"markerfacecolor": "white"})
        axis.set(title=METRICS.get(metric, (metric,))[0].split(" (")[0], xticks=range(len(methods)))
        axis.set_xticklabels([METHOD_NAMES.get(m, m).removesuffix(" SFT") for m in methods], fontsize=8, rotation=30, ha="right",
                             rotation_mode="anchor")
        axis.grid(axis="x", visible=False)
    _legend(figure, _preset_handles(presets))
    return figure


@_styled
def overview(cells: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """The result in one picture: left what each method reaches, right RPO's win rate beside the paper's.

    cells: rows of ``reporting.metric_cells`` (the ground-truth reward when it is there, else ROUGE-L). table: Table III.
    Bars are means over sizes, dots the sizes with their intervals; on the right the first judge.
    """
    measured = cells[cells["metric"].eq("reward") & cells["value"].notna()]
    metric = "reward" if len(measured) else "rouge_l"
    cells, table = cells[cells["metric"].eq(metric)], table[table["judge"].eq(_order(table["judge"])[0])]
    presets, methods = _order(cells["preset"], PRESETS), _order(cells["method"], METHODS)
    baselines = [b for b in _order(table["baseline"], METHODS) if b in PAPER_BASELINES]
    figure, axes = _grid(1, 2, 5.6, 3.7)
    left, right = axes[0]
    _dots(left, cells, "method", methods, "value", presets)
    left.set(title=f"Mean {'ground-truth reward' if metric == 'reward' else METRICS[metric][0]}", xticks=range(len(methods)))
    left.set_xticklabels([METHOD_NAMES.get(m, m).replace(" ", "\n") for m in methods])
    _dots(right, table, "baseline", baselines, "win_rate", presets)
    paper = pd.to_numeric(table["published"]).groupby(table["baseline"]).mean().reindex(baselines)
    right.plot(range(len(baselines)), paper, **PAPER | {"markersize": 8, "markerfacecolor": "white"})
    right.axhline(50, color="#444444", lw=1)
    right.set(title=f"Win rate of RPO in %, judge {table['judge'].iloc[0]}", xticks=range(len(baselines)), ylim=(0, 100))
    right.set_xticklabels(["over\n" + METHOD_NAMES[b] for b in baselines])
    for axis in (left, right):
        axis.grid(axis="x", visible=False)
    _legend(figure, _preset_handles(presets))
    return figure
