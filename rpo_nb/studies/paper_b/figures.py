"""Paper B's Figures 1 to 4."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure

from rpo_nb import objectives
from rpo_nb.config.studies import PaperB
from rpo_nb.reporting.style import STYLE
from rpo_nb.studies.paper_b.grid import GATED, LEARNT, TRUTH, Run, rows_of
from rpo_nb.studies.paper_b.tables import BESIDE, table4
from rpo_nb.training.reward_aware import SURE

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6b6b6b", "#000000")


# ---- figures -------------------------------------------------------------------------------------


def _lines(axis: object, lines: dict[str, pd.DataFrame], y: str, style: str = "-") -> None:
    """Of each label's rows the mean over seeds by step, the band from the least to the most."""
    for colour, (label, curve) in zip(COLOURS, lines.items(), strict=False):
        rows = curve.groupby("step")[y].agg(["mean", "min", "max"])
        if len(rows):
            axis.plot(
                rows.index, rows["mean"], style, color=colour, label=label, marker="o", markersize=3
            )
            axis.fill_between(
                rows.index, rows["min"], rows["max"], color=colour, alpha=0.15, linewidth=0
            )


def _panels(
    draw: Sequence[tuple[dict[str, Run], str, str]], curves: pd.DataFrame, width: float = 5.6
) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * len(draw), 3.4), layout="constrained")
        for axis, (runs, y, label) in zip(
            figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True
        ):
            _lines(axis, {name: rows_of(curves, run) for name, run in runs.items()}, y)
            axis.set(xlabel="optimiser step", ylabel=label)
            if axis.lines:
                axis.legend(**BESIDE)
        return figure


def distances_figure(explicit: float = 2.0) -> Figure:
    """Loss and gradient of each distance for a pair, by the gap of its implicit rewards; the
    explicit gap is `explicit`."""
    gap = torch.linspace(-6, 10, 400, dtype=torch.float64, requires_grad=True)
    pair = torch.stack([gap, torch.zeros_like(gap)], -1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, (name, distance, target) in zip(
            COLOURS,
            (
                ("sq", "sq", explicit),
                ("bwd", "bwd", explicit),
                ("fwd", "fwd", explicit),
                ("DPO: bwd, δ* = ∞", "bwd", SURE),
            ),
            strict=False,
        ):
            loss = objectives.reward_aware(
                pair,
                torch.tensor([target, 0.0], dtype=gap.dtype).expand_as(pair),
                distance=distance,
            )
            (slope,) = torch.autograd.grad(loss.sum(), gap, retain_graph=True)
            left.plot(gap.detach(), loss.detach(), color=colour, label=name)
            right.plot(gap.detach(), slope, color=colour)
        left.set(ylim=(-0.1, 4), xlabel="implicit gap a₁ − a₂", title="loss")
        right.set(ylim=(-3, 3), xlabel="implicit gap a₁ − a₂", title="gradient")
        left.axvline(explicit, color="#999999", linewidth=0.8)
        right.axvline(explicit, color="#999999", linewidth=0.8)
        left.legend()
        return figure


REWARD = "mean ground-truth reward, validation"


def figure1(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Learning curves of the offline losses, and of the online ones."""
    offline = {"DPO": Run("dpo"), "SimPO": Run("simpo"), "KTO": Run("kto")}
    offline |= {
        f"{loss}, K = {k}": Run(loss, k=k) for loss in ("bwd", "sqloo") for k in (2, config.k)
    }
    online = {
        f"online {loss}, {judge}": Run(loss, k=config.k, online=True, judge=judge)
        for judge in (TRUTH, LEARNT)
        for loss in ("bwd", "sqloo")
    }
    return _panels([(offline, TRUTH, REWARD), (online, TRUTH, REWARD)], curves)


def figure2(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Reward and KL(πθ ‖ πref) of online bwd against online sqloo, with the true judge."""
    runs = {f"online {loss}": Run(loss, k=config.k, online=True) for loss in ("bwd", "sqloo")}
    return _panels([(runs, TRUTH, REWARD), (runs, "kl", "KL(πθ ‖ πref), nats")], curves)


def figure3(results: pd.DataFrame, config: PaperB) -> Figure:
    """Mean test reward by iteration, in and out of distribution, with intervals over seeds."""
    table = table4(results, config).query("metric == 'avg_reward' and prompts != 'valid'")
    with matplotlib.rc_context(STYLE):
        panels = table["prompts"].nunique() or 1
        figure = Figure(figsize=(11 if panels > 1 else 5, 3.4), layout="constrained")
        for axis, (prompts, rows) in zip(
            figure.subplots(1, panels, sharey=True, squeeze=False)[0],
            table.groupby("prompts", sort=False),
            strict=False,
        ):
            for colour, (name, line) in zip(
                COLOURS, rows.groupby("training", sort=False), strict=False
            ):
                errors = [
                    (line["mean"] - line["ci_low"]).fillna(0),
                    (line["ci_high"] - line["mean"]).fillna(0),
                ]
                axis.errorbar(
                    line["iteration"].astype(int),
                    line["mean"],
                    errors,
                    color=colour,
                    marker="o",
                    capsize=3,
                    label=name,
                )
            axis.set(
                title=prompts.replace("_", " "),
                xlabel="iteration",
                xticks=range(config.iterations + 1),
            )
        figure.axes[0].set_ylabel("mean ground-truth reward")
        if len(table):
            figure.axes[-1].legend(**BESIDE)
        return figure


def figure4(curves: pd.DataFrame, config: PaperB) -> Figure:
    """Reward hacking: the learnt reward the policy is trained on, and the ground truth, each in
    standard deviations of itself from the first evaluation, by step; bands from the least to the
    most over seeds."""
    runs = [
        Run(loss, k=config.k, online=True, judge=judge)
        for loss, judge in (("bwd", LEARNT), ("sqloo", LEARNT), ("bwd", GATED))
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.4), layout="constrained")
        for axis, run in zip(figure.subplots(1, 3, sharey=True), runs, strict=False):
            rows = rows_of(curves, run)
            for colour, name, label in (
                (COLOURS[1], LEARNT, "learnt reward"),
                (COLOURS[0], TRUTH, "ground truth"),
            ):
                scale = rows[name].std() if len(rows) > 1 else math.nan
                moved = rows.assign(
                    y=rows[name].sub(rows.groupby("seed")[name].transform("first")) / scale
                )
                _lines(axis, {label: moved}, "y")
                for line in axis.lines[-1:]:
                    line.set_color(colour)
                for band in axis.collections[-1:]:
                    band.set_color(colour)
            axis.set(title=run.name, xlabel="optimiser step")
            if axis.lines:
                axis.legend()
        figure.axes[0].set_ylabel("change, standard deviations over the run")
        return figure
