"""The figures of the partition lab about the estimates of V̂ themselves: their bias, their error,
and what normalising is worth. Those about policies are in `lab_figures`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rpo_nb import partition
from rpo_nb.reporting import decisions, findings
from rpo_nb.reporting.style import (
    ESTIMATOR_DASHES,
    PLAIN_COLOUR,
    WEIGHTED_COLOUR,
    entitle,
    errors,
    face,
    interval_note,
    judge_title,
    method_look,
    name_lines,
    panel_grid,
    styled,
)
from rpo_nb.studies import lab

# (estimator, reduce) -> its name beside its line
BIAS_LINES = {
    ("empirical", "mean"): "eq. 19, means",
    ("self_normalised", "sum"): "self-normalised, sums",
    ("monte_carlo", "sum"): "Monte Carlo",
    ("leave_one_out", "sum"): "leave-one-out",
    ("pooled", "sum"): "pooled",
    ("empirical", "sum"): "eq. 19, sums",
}
# short names, for cells of a heat map
SHORT = {
    "empirical": "eq. 19",
    "monte_carlo": "MC",
    "self_normalised": "SN",
    "leave_one_out": "LOO",
    "pooled": "pool",
}
MARKERS = {"empirical": "o", "self_normalised": "d", "monte_carlo": "^", "leave_one_out": "s"}
NEAR = 0.1  # standard deviations of the reward that are no bias
LINEAR = 1.0  # up to which the axis of biases is linear


def estimator_look(estimator: str, reduce: str = "sum") -> dict:
    """Where estimators are compared: purple weighs by πref, indigo does not."""
    colour = WEIGHTED_COLOUR if estimator in partition.WEIGHTED else PLAIN_COLOUR
    sums = reduce == "sum"
    return {
        "color": colour,
        "marker": MARKERS.get(estimator, "v"),
        "linestyle": ESTIMATOR_DASHES.get(estimator, "-") if sums else (0, (1, 1)),
        "markerfacecolor": colour if sums else "white",
    }


@styled
def bias(table: pd.DataFrame, names: Sequence[str], ks: Sequence[int], tau: float) -> Figure:
    """Bias of V̂ by K at one τ, a panel a regime; the band is the interval over prompts."""
    figure, axes = panel_grid(1, len(names), 14 / max(len(names), 3), 4.3, sharey=True)
    axes[0, 0].set_yscale("symlog", linthresh=LINEAR)
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    ends = []
    for axis, name in zip(axes[0], names, strict=True):
        cells, ends = table[table["regime"].eq(name) & table["tau"].eq(tau)], []
        for key, label in BIAS_LINES.items():
            line = cells[cells["estimator"].eq(key[0]) & cells["reduce"].eq(key[1])]
            mark = estimator_look(*key)
            axis.plot(line["k"], line["bias"], ms=4.5, lw=1.5, **mark)
            band = (line["k"], line["ci_low"], line["ci_high"])
            axis.fill_between(*band, color=mark["color"], alpha=0.15, lw=0)
            if len(line):
                ends.append((line["k"].iloc[-1], line["bias"].iloc[-1], label, mark["color"]))
        axis.axhline(0, color="black", lw=1)
        for end in (-LINEAR, LINEAR):
            axis.axhline(end, color="#999999", lw=0.9, ls=":")
        axis.set(xscale="log", xticks=ks, xticklabels=ks, title=name.replace("_", " "))
        axis.set_xlabel("completions a prompt, K (log)")
        axis.minorticks_off()
    name_lines(axes[0, -1], ends)
    axes[0, 0].set_ylabel(f"bias of V̂ at τ = {tau:g}, σ of the reward")
    note = "0 is no bias. Light purple weighs by πref, dark indigo does not. Bands: 95 % interval "
    note += "over the prompts. The axis is linear between the dotted lines at "
    note += f"±{LINEAR:g}, logarithmic beyond (symlog)."
    entitle(figure, _unbiased(table, names, tau), note)
    return figure


def _unbiased(table: pd.DataFrame, names: Sequence[str], tau: float) -> str:
    """Which estimators are near V* in each regime with the most completions."""
    cells, parts = table[table["tau"].eq(tau)], []
    most = cells["k"].max()
    for name in names:
        rows = cells[cells["regime"].eq(name) & cells["k"].eq(most) & cells["bias"].abs().lt(NEAR)]
        keys = zip(rows["estimator"], rows["reduce"], strict=True)
        good = [BIAS_LINES[key].replace(",", "") for key in keys if key in BIAS_LINES]
        told = ", ".join(dict.fromkeys(good)) or "none"
        parts.append(f"{name.replace('_', ' ')}: {told}")
    return f"Within {NEAR:g} σ of V* at K = {most:g}: {'; '.join(parts)}"


@styled
def smallest_error(table: pd.DataFrame) -> Figure:
    """Which estimator has the smallest root mean squared error, by K and τ."""
    names = [name for name in ("on_policy", "stronger") if table["regime"].eq(name).any()]
    figure, axes = panel_grid(1, len(names), 6.0, 4.2, sharey=True)
    chosen = []
    for axis, name in zip(axes[0], names, strict=True):
        cells = table[table["regime"].eq(name)]
        best = cells.loc[cells.groupby(["tau", "k"])["mse"].idxmin()]
        error = np.sqrt(best["mse"])
        weighted = best["estimator"].isin(partition.WEIGHTED)
        label = best["estimator"].map(SHORT) + np.where(weighted, " " + best["reduce"] + "s", "")
        label = label + "\n" + error.map("{:.2f}".format)
        grids = [
            best.assign(text=label, error=error).pivot(index="tau", columns="k", values=v)
            for v in ("error", "text")
        ]
        sns.heatmap(
            grids[0],
            annot=grids[1],
            fmt="",
            cmap="rocket_r",
            vmin=0,
            vmax=max(1.0, float(np.sqrt(table["mse"]).quantile(0.2))),
            ax=axis,
            annot_kws={"size": 8},
            cbar=axis is axes[0, -1],
            cbar_kws={"label": "root mean squared error, σ"},
        )
        axis.set(title=name.replace("_", " "), xlabel="completions a prompt, K")
        axis.set_ylabel("τ" if axis is axes[0, 0] else "")
        axis.tick_params(axis="y", rotation=0)
        counts = best["estimator"].map(SHORT).value_counts()
        chosen.append(f"{name.replace('_', ' ')}: {counts.index[0]} in {counts.iloc[0]}")
        chosen[-1] += f" of {len(best)} cells"
    note = "The number is the estimator's error, lower is better. MC: Monte Carlo; LOO: "
    note += "leave-one-out; pool: pooled; SN: self-normalised. Means over prompts and draws."
    entitle(figure, f"Smallest error of V̂, {'; '.join(chosen)}", note)
    return figure


@styled
def ablation(table: pd.DataFrame) -> Figure:
    """Win rate of the normalised loss over V̂ = 0, a panel a judge, a line a loss and size."""
    judges = list(dict.fromkeys(table["judge"]))
    keys = ["reduce", "estimator", "size"]
    rows = table.drop_duplicates(keys)[keys].reset_index(drop=True)
    figure, axes = panel_grid(1, len(judges), 4.8, 1.9 + 0.26 * len(rows), sharey=True)
    for axis, judge in zip(axes[0], judges, strict=True):
        cells = rows.merge(table[table["judge"].eq(judge)], on=keys, how="left")
        spread = errors(cells, "win_rate")
        for y, row in enumerate(cells.itertuples()):
            mark = method_look("rpo") | {"linestyle": "none", "markersize": 6.5}
            mark |= face(mark["color"], row.preferred != decisions.OPEN)
            axis.errorbar(row.win_rate, y, xerr=spread[:, [y]], **mark)
        axis.axvline(50, color="#444444", lw=1)
        axis.axvline(90, color="black", lw=1, ls=":")
        axis.set(title=judge_title(judge), xlim=(0, 100))
        axis.set_xlabel("preferred over V̂ = 0, %")
        axis.set_ylim(len(rows) - 0.5, -0.5)
    names = [
        f"{lab.WORDS[row.estimator]}, {row.reduce}s · {row.size_}"
        for row in rows.rename(columns={"size": "size_"}).itertuples()
    ]
    axes[0, 0].set_yticks(range(len(names)), names)
    seeds = table["seeds"].max() if "seeds" in table else np.nan
    title = findings.in_a_title(
        table["preferred"],
        "Normalised RPO is preferred to V̂ = 0",
        "V̂ = 0",
        "comparisons",
        int(table["win_rate"].gt(50).sum()),
        seeds,
    )
    above = int(table["above_published"].eq(decisions.HOLDS).sum())
    title += f"; above the paper's 90 % in {above}" if seeds > 1 else ""
    note = "Right of 50: normalising helps; dotted: the paper says above 90. Filled: decided, "
    entitle(figure, title, f"{note}hollow: not. {interval_note(seeds, 'lines')}")
    return figure
