"""The figures of the partition lab: its tables in, matplotlib figures out, in the kit's style."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rpo_nb import partition
from rpo_nb.config.methods import ROWS
from rpo_nb.reporting.style import styled
from rpo_nb.studies import aggregates, lab

BIAS_LINES = {
    ("empirical", "sum"): ("eq. 19, sums", "#D55E00", "-"),
    ("empirical", "mean"): ("eq. 19, means", "#D55E00", "--"),
    ("self_normalised", "sum"): ("self-normalised, sums", "#CC79A7", "-"),
    ("monte_carlo", "sum"): ("Monte Carlo", "#E69F00", "-"),
    ("leave_one_out", "sum"): ("leave-one-out", "#0072B2", "-"),
    ("pooled", "sum"): ("pooled", "#009E73", "-"),
}
# short names, for cells of a heat map
SHORT = {
    "empirical": "eq. 19",
    "monte_carlo": "MC",
    "self_normalised": "SN",
    "leave_one_out": "LOO",
    "pooled": "pool",
}


@styled
def bias(table: pd.DataFrame, names: Sequence[str], ks: Sequence[int], tau: float) -> Figure:
    """Bias of V̂ by K at one τ, a panel a regime; the band is the interval over prompts."""
    fig, axes = plt.subplots(1, len(names), figsize=(14, 3.9), sharey=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        cells = table[table["regime"].eq(name) & table["tau"].eq(tau)]
        for key, (label, colour, dashes) in BIAS_LINES.items():
            line = cells[cells["estimator"].eq(key[0]) & cells["reduce"].eq(key[1])]
            axis.plot(line["k"], line["bias"], dashes, color=colour, marker="o", ms=4, label=label)
            axis.fill_between(
                line["k"], line["ci_low"], line["ci_high"], color=colour, alpha=0.2, lw=0
            )
        axis.axhline(0, color="black", lw=1)
        axis.set(
            xscale="log",
            xticks=ks,
            xticklabels=ks,
            xlabel="completions a prompt, K",
            title=name.replace("_", " "),
        )
        axis.minorticks_off()
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel(f"bias of V̂ at τ = {tau:g}, in σ of the reward")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


@styled
def smallest_error(table: pd.DataFrame) -> Figure:
    """Which estimator has the smallest root mean squared error, by K and τ."""
    names = ("on_policy", "stronger")
    fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        cells = table[table["regime"].eq(name)]
        best = cells.loc[cells.groupby(["tau", "k"])["mse"].idxmin()]
        label = best["estimator"].map(SHORT) + np.where(
            best["estimator"].isin(partition.WEIGHTED), "\n" + best["reduce"] + "s", ""
        )
        grids = [
            best.assign(text=label, error=np.sqrt(best["mse"])).pivot(
                index="tau", columns="k", values=v
            )
            for v in ("error", "text")
        ]
        sns.heatmap(
            grids[0],
            annot=grids[1],
            fmt="",
            cmap="rocket_r",
            vmin=0,
            vmax=1,
            ax=axis,
            annot_kws={"size": 8},
            cbar=axis is axes[-1],
            cbar_kws={"label": "its root mean squared error, σ"},
        )
        axis.set(
            title=f"smallest error, {name.replace('_', ' ')}",
            xlabel="completions a prompt, K",
            ylabel="τ" if axis is axes[0] else "",
        )
        axis.tick_params(axis="y", rotation=0)
    return fig


@styled
def ablation(table: pd.DataFrame) -> Figure:
    """Win rate of the normalised loss over V̂ = 0 by size, a panel a judge."""
    judges = list(dict.fromkeys(table["judge"]))
    fig, axes = plt.subplots(
        1,
        len(judges),
        figsize=(5.2 * len(judges), 3.4),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    for axis, judge in zip(axes[0], judges, strict=True):
        cells = table[table["judge"].eq(judge)]
        for i, ((reduce, name), line) in enumerate(
            cells.groupby(["reduce", "estimator"], sort=False)
        ):
            x = np.arange(len(line)) + (i - 1.5) * 0.15
            axis.errorbar(
                x,
                line["win_rate"],
                yerr=[line["win_rate"] - line["ci_low"], line["ci_high"] - line["win_rate"]],
                ls="none",
                marker="os"[reduce == "mean"],
                color={"empirical": "#D55E00", "leave_one_out": "#0072B2"}[name],
                mfc="white" if reduce == "mean" else None,
                label=f"{lab.WORDS[name]}, {reduce}s",
            )
        axis.axhline(50, color="#444444", lw=1)
        axis.axhline(90, color="black", lw=1, ls=":", label="the paper: above")
        axis.set(
            title=f"judge {judge}",
            ylim=(0, 100),
            xticks=range(len(line)),
            xticklabels=line["size"],
            xlabel="size",
        )
    axes[0, 0].set_ylabel("preferred over V̂ = 0, %")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return fig


@styled
def standing(table: pd.DataFrame, profiles: pd.DataFrame) -> Figure:
    """`lab_tables.summary` and `profiles`: the interquartile mean of every policy's gain, and of
    each method's best policy the share of runs that gain more than so much."""
    fig, axes = plt.subplots(1, 2, figsize=(12, 0.8 + 0.24 * len(table)), layout="constrained")
    for y, row in enumerate(table.itertuples()):
        colour = ROWS[row.method].colour
        axes[0].plot([row.iqm_low, row.iqm_high], [y, y], color=colour, lw=1.5)
        axes[0].plot(row.iqm, y, "o", color=colour, ms=5)
    axes[0].axvline(0, color="black", lw=1)
    axes[0].set(
        yticks=range(len(table)),
        ylim=(len(table) - 0.5, -0.5),
        xlabel="interquartile mean of the gain over the reference",
    )
    axes[0].set_yticklabels(table["policy"], fontsize=8)
    for policy, line in profiles.groupby("policy", sort=False):
        colour = ROWS[line["method"].iloc[0]].colour
        axes[1].step(line["gain"], line["share"], where="post", color=colour, label=policy)
        told = line["low"].gt(0) | line["high"].lt(1)  # with two seeds a share may be anything
        band = (line["gain"], line["low"].where(told), line["high"].where(told))
        axes[1].fill_between(*band, step="post", color=colour, alpha=0.12, lw=0)
    axes[1].set(xlabel="gain", ylabel="share of runs that gain more", ylim=(0, 1.02))
    axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return fig


def by_regime(shown: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of the map: policies down, regimes across, the data's lead over the reference
    growing."""
    gaps = shown.drop_duplicates("regime").set_index("regime")["gap"].sort_values()
    order = list(dict.fromkeys(shown["policy"]))
    wide = shown.pivot(index="policy", columns="regime", values=column)
    return wide.loc[order, list(gaps.index)]


@styled
def gains(shown: pd.DataFrame) -> Figure:
    """Gain over the reference by policy and regime; a frame marks the best of a regime and those
    than which it gains more in less than three of four cases (`aggregates.MATTERS`)."""
    gain, behind = by_regime(shown, "gain"), by_regime(shown, "behind")
    gaps = shown.drop_duplicates("regime").set_index("regime")["gap"]
    fig, axis = plt.subplots(figsize=(8.5, 0.8 + 0.27 * len(gain)), layout="constrained")
    limit = np.abs(gain.to_numpy()).max()
    sns.heatmap(
        gain,
        annot=True,
        fmt="+.1f",
        cmap="RdBu",
        center=0,
        vmin=-limit,
        vmax=limit,
        ax=axis,
        annot_kws={"size": 8},
        cbar_kws={"label": "gain in mean reward over the reference"},
    )
    for (i, j), level in np.ndenumerate(behind.to_numpy() < aggregates.MATTERS):
        if level:
            axis.add_patch(
                plt.Rectangle(
                    (j + 0.04, i + 0.06), 0.92, 0.88, fill=False, edgecolor="black", lw=1.4
                )
            )
    axis.set(
        xlabel="",
        ylabel="",
        title="Gain by policy and regime, the data's lead over the reference growing to the right",
    )
    wrapped = {
        name: name.replace("_", " ").replace("narrow much", "narrow,\nmuch")
        for name in gain.columns
    }
    axis.set_xticklabels(
        [f"{wrapped[name]}\ngap {gaps[name]:+.1f}" for name in gain.columns], rotation=0, fontsize=8
    )
    return fig


@styled
def duels(duels: pd.DataFrame, regimes: Sequence[str]) -> Figure:
    """Reward of RPO minus its rivals', a panel a reading, a colour a regime."""
    names = list(dict.fromkeys(duels["reading"]))
    fig, axes = plt.subplots(
        1, len(names), figsize=(4.7 * len(names), 3.8), layout="constrained", squeeze=False
    )
    colours = dict(
        zip(
            regimes,
            ("#9a9a9a", "#56B4E9", "#0B3C5D", "#E69F00", "#CC79A7", "#009E73"),
            strict=False,
        )
    )
    for axis, name in zip(axes[0], names, strict=True):
        cells = duels[duels["reading"].eq(name)]
        rivals = list(dict.fromkeys(cells["second"]))
        for i, (study, line) in enumerate(cells.groupby("study", sort=False)):
            y = line["second"].map(rivals.index) + (i - 2.5) * 0.13
            axis.errorbar(
                line["difference"],
                y,
                xerr=[line["difference"] - line["low"], line["high"] - line["difference"]],
                ls="none",
                marker="o",
                ms=5,
                color=colours[study],
                label=study.replace("_", " "),
            )
        axis.axvline(0, color="black", lw=1)
        axis.set(
            title=name,
            yticks=range(len(rivals)),
            ylim=(len(rivals) - 0.5, -0.5),
            xlabel="reward of RPO minus its rival's",
        )
        axis.set_yticklabels([f"− {rival}" for rival in rivals])
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


@styled
def pulls(pulls: pd.DataFrame) -> Figure:
    """Log-probability a token before and after training, beside −log K, two arrows a regime."""
    fig, axis = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    for i, row in enumerate(pulls.itertuples()):
        for kind, colour, shift in (("good", "#009E73", -0.13), ("bad", "#D55E00", 0.13)):
            before, after = getattr(row, f"{kind}_before"), getattr(row, f"{kind}_after")
            axis.annotate(
                "",
                (i + shift, after),
                (i + shift, before),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2},
            )
            axis.plot(i + shift, before, "o", color=colour, ms=5)
        axis.hlines(row.minus_log_k, i - 0.4, i + 0.4, color="black", ls="--", lw=1.2)
    for colour, label in (("#009E73", "rows above the mean reward"), ("#D55E00", "rows below it")):
        axis.plot([], [], color=colour, lw=2, label=label)
    axis.plot([], [], color="black", ls="--", lw=1.2, label="−log K")
    axis.set(
        xticks=range(len(pulls)),
        xticklabels=pulls["study"].str.replace("_", "\n"),
        ylabel="log-probability a token",
        title="From the reference (dot) to the policy trained as released (arrow)",
    )
    axis.legend(loc="lower left")
    return fig


@styled
def low_data(table: pd.DataFrame, ks: Sequence[int]) -> Figure:
    """Mean reward and gradient variance by completions a prompt, the rows in all being the same."""
    base = table[table["method"].eq("reference")].set_index("k")["reward"]
    shown = table[table["method"].ne("reference")].assign(
        policy=lambda t: t["policy"].str.replace(r" [τβ] [\d.]+$", "", regex=True)
    )
    fig, axes = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained")
    palette = dict(
        zip(
            dict.fromkeys(shown["policy"]),
            (
                "#D55E00",
                "#E69F00",
                "#0072B2",
                "#8a8a8a",
                "#56B4E9",
                "#009E73",
                "#CC79A7",
                "#6A3D9A",
            ),
            strict=False,
        )
    )
    for i, (name, line) in enumerate(shown.groupby("policy", sort=False)):
        x = line["k"] * 1.03 ** (i - 3)
        axes[0].errorbar(
            x,
            line["reward"],
            yerr=[line["reward"] - line["reward_low"], line["reward_high"] - line["reward"]],
            marker="o",
            ms=4,
            color=palette[name],
            label=name,
        )
        axes[1].plot(x, line["gradient_variance"], marker="o", ms=4, color=palette[name])
    axes[0].axhline(base.mean(), color="black", lw=1, ls=":", label="reference")
    for axis, label in zip(axes, ("mean reward", "gradient variance / squared mean"), strict=True):
        axis.set(
            xscale="log",
            xticks=ks,
            xticklabels=ks,
            xlabel="completions a prompt, K",
            ylabel=label,
        )
        axis.minorticks_off()
    axes[1].set_yscale("log" if shown["gradient_variance"].gt(0).any() else "linear")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


@styled
def data_curve(table: pd.DataFrame) -> Figure:
    """Gain over the reference by training prompts, a line a policy."""
    fig, axis = plt.subplots(figsize=(7.5, 3.9), layout="constrained")
    shown = table[table["method"].ne("reference")]
    palette = sns.color_palette("colorblind", shown["policy"].nunique())
    for i, (colour, (policy, line)) in enumerate(
        zip(palette, shown.groupby("policy", sort=False), strict=True)
    ):
        errors = [line["gain"] - line["gain_low"], line["gain_high"] - line["gain"]]
        x = line["prompts"] * 1.02 ** (i - 3)
        axis.errorbar(x, line["gain"], yerr=errors, marker="o", ms=4, color=colour, label=policy)
    ticks = sorted(set(shown["prompts"]))
    axis.axhline(0, color="black", lw=1, ls=":")
    axis.set(xscale="log", xticks=ticks, xticklabels=ticks)
    axis.set(xlabel="training prompts", ylabel="gain over the reference")
    axis.minorticks_off()
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig
