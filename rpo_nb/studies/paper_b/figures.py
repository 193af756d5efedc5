"""Paper B's Figures 1 to 4, and what its distances ask of a pair.

A loss has one colour and marker in all of them, KTO those it has everywhere. Titles say the result,
counted from what is drawn, and that one seed decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpo_nb import intervals, objectives
from rpo_nb.config.studies import PaperB
from rpo_nb.reporting import decisions, findings
from rpo_nb.reporting.style import (
    DARK,
    MIDDLE,
    entitle,
    errors,
    interval_note,
    method_look,
    name_lines,
    panel_grid,
    styled,
)
from rpo_nb.studies.paper_b.grid import GATED, LEARNT, TRUTH, Run, rows_of
from rpo_nb.studies.paper_b.tables import table4
from rpo_nb.training.reward_aware import SURE

# paper B's losses, which are no methods of paper A: none has a method's colour and marker
LOSSES = {
    "dpo": {"color": "#111111", "marker": "D"},
    "simpo": {"color": "#8a8a8a", "marker": "h"},
    "kto": {key: method_look("kto")[key] for key in ("color", "marker")},
    "bwd": {"color": "#332288", "marker": "o"},
    "sqloo": {"color": "#AA4499", "marker": "s"},
    "sq": {"color": "#AA4499", "marker": "s"},
    "fwd": {"color": "#8a8a8a", "marker": "h"},
}
SOLID, BROKEN = "-", "--"
SCORE = "mean true score, validation"
NAMES = {TRUTH: "true judge", LEARNT: "learnt judge", GATED: "gated judge"}


def _look(run: Run, config: PaperB) -> dict:
    """Broken and hollow: a pair's tuple (K = 2) of what is also trained on more, or a judge that is
    not the truth."""
    look = dict(LOSSES.get(run.method, {"color": DARK, "marker": "o"}))
    weaker = run.judge != TRUTH if run.online else run.method in ("bwd", "sqloo") and run.k == 2
    look["linestyle"] = BROKEN if weaker else SOLID
    look["markerfacecolor"] = "white" if weaker else look["color"]
    return look


def _lines(axis: Axes, lines: Mapping[str, tuple[pd.DataFrame, dict]], y: str) -> None:
    """Of each name's rows the mean over seeds by step with its 95 % interval (none with one seed),
    named at its end. A training that was stopped early stays where it ended, as `_last` has it. A
    column that is missing, or empty, draws nothing."""
    ends, values = [], []
    for name, (curve, look) in lines.items():
        wide = curve.pivot_table(index="step", columns="seed", values=y) if len(curve) else curve
        if not len(wide):
            continue
        wide = wide.ffill()
        found = intervals.over_seeds(wide.to_numpy())
        axis.plot(wide.index, found.value, markersize=4, lw=1.5, **look)
        axis.fill_between(
            wide.index, found.low, found.high, color=look["color"], alpha=0.13, linewidth=0
        )
        ends.append((wide.index[-1], found.value[-1], name, look["color"]))
        values.append(found.value)
    if values:  # two seeds have intervals that would hide every line
        low, high = np.nanmin(np.concatenate(values)), np.nanmax(np.concatenate(values))
        room = 0.12 * (high - low) or 0.5
        axis.set_ylim(low - room, high + room)
    name_lines(axis, [end for end in ends if math.isfinite(end[1])])


def _last(curves: pd.DataFrame, runs: Mapping[str, Run], y: str = TRUTH) -> pd.DataFrame:
    """The last value of every run and seed: name, policy (the same), seed, gain."""
    found = []
    for name, run in runs.items():
        rows = rows_of(curves, run).sort_values("step")
        last = rows.groupby("seed")[y].last().rename("gain").reset_index()
        found.append(last.assign(name=name, policy=name))
    return pd.concat(found, ignore_index=True)


def _seeds(curves: pd.DataFrame) -> int:
    return curves["seed"].nunique() if len(curves) else 0


def _panels(
    draw: Sequence[tuple[str, dict[str, Run], str, str]], curves: pd.DataFrame, config: PaperB
) -> tuple[Figure, list]:
    """A panel each: title, the runs by name, y and its label. Those without any run are left
    out."""
    there = {}
    for title, runs, y, label in draw:
        rows = {name: (rows_of(curves, run), _look(run, config)) for name, run in runs.items()}
        if any(len(curve) for curve, _ in rows.values()):
            there[title] = rows, y, label
    figure, axes = panel_grid(1, max(1, len(there)), 4.9, 4.0)
    for axis, (title, (rows, y, label)) in zip(axes[0], there.items(), strict=False):
        axis.set(xlabel="optimiser step", ylabel=label)
        axis.set_title(title, loc="left")
        _lines(axis, rows, y)
    if not there:
        axes[0, 0].remove()
    return figure, list(there)


def _note(curves: pd.DataFrame) -> str:
    seeds = _seeds(curves)
    return (
        "Higher is better. Lines: means; what was stopped early stays at its last value. "
        f"{interval_note(seeds, 'bands', 'other seeds')}"
    )


@styled
def distances_figure(explicit: float = 2.0) -> Figure:
    """Loss and gradient of each distance for a pair, by the gap of its implicit rewards; the
    explicit gap is `explicit`."""
    gap = torch.linspace(-6, 10, 400, dtype=torch.float64, requires_grad=True)
    pair = torch.stack([gap, torch.zeros_like(gap)], -1)
    figure, axes = panel_grid(1, 2, 5.2, 3.7)
    left, right = axes[0]
    kinds = (
        ("sq", "sq", explicit, "-", "sq"),
        ("bwd", "bwd", explicit, "-", "bwd"),
        ("fwd", "fwd", explicit, "--", "fwd"),
        ("DPO: bwd, δ* = ∞", "bwd", SURE, ":", "dpo"),
    )
    ends, last = [], {}
    for name, distance, target, dashes, key in kinds:
        b = torch.tensor([target, 0.0], dtype=gap.dtype).expand_as(pair)
        loss = objectives.reward_aware(pair, b, distance=distance)
        (slope,) = torch.autograd.grad(loss.sum(), gap, retain_graph=True)
        line = {"color": LOSSES[key]["color"], "linestyle": dashes, "lw": 1.8}
        left.plot(gap.detach(), loss.detach(), **line)
        right.plot(gap.detach(), slope, **line)
        last[name] = float(slope[-1])
        ends.append((10.0, float(slope[-1].clamp(-3, 3)), name, line["color"]))
    for axis, limits, title in ((left, (-0.1, 4), "loss"), (right, (-3, 3), "its gradient")):
        axis.axvline(explicit, color="#999999", linewidth=0.8)
        axis.set(ylim=limits, xlabel="implicit gap a₁ − a₂", title=title)
    name_lines(right, ends)
    pulls = ", ".join(f"{name} with {slope:.2f}" for name, slope in last.items())
    title = (
        f"A gap of {gap[-1].item():g}, above the explicit {explicit:g}, is pulled back by {pulls}"
    )
    entitle(figure, title, "Grey line: the explicit gap. A gradient above 0 pulls back.")
    return figure


@styled
def figure1(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Learning curves of the offline losses, and of the online ones."""
    pairs = {"DPO": Run("dpo"), "SimPO": Run("simpo"), "KTO": Run("kto")}
    tuples = {
        f"{loss}, K = {k}": Run(loss, k=k) for loss in ("bwd", "sqloo") for k in (2, config.k)
    }
    online = {
        f"{loss}, {NAMES[judge]}": Run(loss, k=config.k, online=True, judge=judge)
        for judge in (TRUTH, LEARNT)
        for loss in ("bwd", "sqloo")
    }
    figure, _ = _panels(
        [
            ("Offline, pairs and labels", pairs, TRUTH, SCORE),
            ("Offline, the framework", tuples, TRUTH, SCORE),
            ("Online", online, TRUTH, SCORE),
        ],
        curves,
        config,
    )
    kinds = {"offline": pairs | tuples, "online": online}
    ends = pd.concat([_last(curves, runs).assign(kind=kind) for kind, runs in kinds.items()])
    if ends.empty:
        entitle(figure, "No such run")
        return figure
    found = findings.lead_over_seeds(ends, "kind")
    best = ", ".join(f"{row.kind} {row.value:.1f} ({row.first})" for row in found.itertuples())
    sure = findings.sure(found["decided"], _seeds(curves))
    entitle(figure, f"Highest score at the end: {best}; {sure}", _note(curves))
    return figure


def _alone(curves: pd.DataFrame) -> str:
    return "" if _seeds(curves) > 1 else f"; {findings.ALONE}"


@styled
def figure2(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Reward and KL(πθ ‖ πref) of online bwd against online sqloo, with the true judge."""
    runs = {loss: Run(loss, k=config.k, online=True) for loss in ("bwd", "sqloo")}
    figure, there = _panels(
        [
            ("Score (higher is better)", runs, TRUTH, SCORE),
            ("Distance from the reference", runs, "kl", "KL(πθ ‖ πref), nats"),
        ],
        curves,
        config,
    )
    if not there:
        entitle(figure, "No such run")
        return figure
    score, nats = (_last(curves, runs, y).groupby("name")["gain"].mean() for y in (TRUTH, "kl"))
    parts = [f"{name} ends at {score[name]:.1f} for {nats[name]:.1f} nats" for name in score.index]
    found = findings.lead_over_seeds(_last(curves, runs).assign(kind="online"), "kind")
    sure = findings.sure(found["decided"], _seeds(curves))
    note = f"Lines: means. {interval_note(_seeds(curves), 'bands', 'other seeds')}"
    entitle(figure, f"Online, true judge: {', '.join(parts)}; whose is higher: {sure}", note)
    return figure


def figure3(results: pd.DataFrame, config: PaperB) -> Figure:
    """Mean test reward by iteration, in and out of distribution, with intervals over seeds."""
    return iterations(table4(results, config))


@styled
def iterations(table: pd.DataFrame) -> Figure:
    """Figure 3 of paper_b_table4."""
    if len(table):
        table = table.query("metric == 'avg_reward' and prompts != 'valid'")
    panels = list(dict.fromkeys(table["prompts"])) if len(table) else []
    figure, axes = panel_grid(1, max(1, len(panels)), 3.4 if len(panels) > 1 else 5, 3.9)
    looks = {
        "Offline DPO": LOSSES["dpo"] | {"linestyle": "-"},
        "Offline RPO-bwd": LOSSES["bwd"] | {"linestyle": "--", "markerfacecolor": "white"},
        "Online RPO-bwd": LOSSES["bwd"] | {"linestyle": "-"},
    }
    ends, last = [], 0
    for axis, prompts in zip(axes[0], panels, strict=False):
        ends = []
        rows = table[table["prompts"].eq(prompts)].assign(at=lambda t: t["iteration"].astype(int))
        for name, line in rows.groupby("training", sort=False):
            look = looks.get(name, {"color": DARK, "marker": "o"})
            axis.errorbar(
                line["at"], line["mean"], errors(line, "mean"), ms=5, elinewidth=1.1, **look
            )
            ends.append((line["at"].iloc[-1], line["mean"].iloc[-1], name, look["color"]))
        last = int(rows["at"].max())
        axis.set(title=prompts.replace("_", " "), xlabel="iteration", xticks=range(last + 1))
    if not panels:
        axes[0, 0].remove()
        entitle(figure, "No such run")
        return figure
    axes[0, 0].set_ylabel("mean true score (higher is better)")
    _same_limits(axes[0])
    name_lines(axes[0, -1], ends)
    seeds = table["seeds"].max()
    title = f"From iteration {min(1, last)} to {last} the {panels[0]} score changes by: "
    title += _changes(table[table["prompts"].eq(panels[0])], min(1, last), last)
    entitle(figure, title + ("" if seeds > 1 else f"; {findings.ALONE}"), interval_note(seeds))
    return figure


def _changes(rows: pd.DataFrame, first: int, last: int) -> str:
    """Each training's change of the mean between two iterations, as if their errors were
    independent (seeds that they share make the truth surer)."""
    error, df = findings.errors_of(rows["ci_low"], rows["ci_high"], rows["seeds"])
    rows = rows.assign(at=rows["iteration"].astype(int), error=error, df=df)
    start, end = (rows[rows["at"].eq(at)].set_index("training") for at in (first, last))
    change = end["mean"] - start["mean"]
    error = np.sqrt(end["error"] ** 2 + start["error"] ** 2)
    return _moves(change, error, np.fmin(end["df"], start["df"]))


def _moves(change: pd.Series, error: pd.Series, df: pd.Series) -> str:
    """ "DPO −0.2 (not decided), bwd +1.4": by name, decided for all of them together."""
    verdicts = decisions.decide(change, error, df).verdict
    single = error.isna().all()  # said once, not of each
    return ", ".join(
        f"{name} {value:+.1f}" + (" (not decided)" if open_ and not single else "")
        for name, value, open_ in zip(change.index, change, verdicts == decisions.OPEN, strict=True)
    )


def _same_limits(axes: Sequence[Axes]) -> None:
    ends = np.array([axis.get_ylim() for axis in axes])
    for axis in axes:
        axis.set_ylim(ends[:, 0].min(), ends[:, 1].max())


@styled
def figure4(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Reward hacking: the learnt reward the policy is trained on, and the ground truth, each in
    standard deviations of itself from the first evaluation, by step; bands are 95 % intervals over
    seeds."""
    runs = [
        Run(loss, k=config.k, online=True, judge=judge)
        for loss, judge in (("bwd", LEARNT), ("sqloo", LEARNT), ("bwd", GATED))
    ]
    there = [run for run in runs if len(rows_of(curves, run))]
    figure, axes = panel_grid(1, max(1, len(there)), 4.4, 3.9)
    looks = {
        LEARNT: {"color": MIDDLE, "marker": "s", "linestyle": "--", "markerfacecolor": "white"},
        TRUTH: {"color": DARK, "marker": "o", "linestyle": "-"},
    }
    moved = {}
    for axis, run in zip(axes[0], there, strict=False):
        rows, lines = rows_of(curves, run).sort_values("step"), {}
        for name, words in ((LEARNT, "learnt reward"), (TRUTH, "true score")):
            scale = rows[name].std() if len(rows) > 1 else math.nan
            start = rows.groupby("seed")[name].transform("first")
            lines[words] = rows.assign(moved=(rows[name] - start) / scale), looks[name]
        axis.set(xlabel="optimiser step")
        axis.set_title(f"{run.method}, trained on the {NAMES[run.judge]}", loc="left")
        _lines(axis, lines, "moved")
        change = rows.groupby("seed")[TRUTH].agg(["first", "last"])
        moved[f"{run.method}, {NAMES[run.judge]}"] = change["last"] - change["first"]
    if not there:
        axes[0, 0].remove()
        entitle(figure, "No such run")
        return figure
    axes[0, 0].set_ylabel("change, standard deviations over the run")
    found = {name: intervals.over_seeds(one.to_numpy()) for name, one in moved.items()}
    table = pd.DataFrame(found, index=["value", "low", "high", "error", "df"]).T.astype(float)
    title = "While the learnt reward is trained on, the true score moves by: "
    title += _moves(table["value"], table["error"], table["df"]) + _alone(curves)
    entitle(figure, title, _note(curves))
    return figure
