"""The figures of the partition lab about policies: its tables in, matplotlib figures out, in the
kit's style. Those about the estimates themselves are in `partition_figures`.

Titles say the result, counted from what is drawn, and whether it is decided.
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.reporting import decisions, findings
from rpo_nb.reporting.style import (
    DARK,
    MIDDLE,
    entitle,
    errors,
    face,
    interval_note,
    method_look,
    name_lines,
    panel_grid,
    styled,
)
from rpo_nb.studies import aggregates

SCORE = "true score, points of 10"
MARK_EVERY = 7
HIGHER = "Higher is better. "


def without_temperature(policies: pd.Series) -> pd.Series:
    """ "DRO τ 0.3" is DRO: what is left when the temperature is taken for a setting."""
    return policies.str.replace(r" [τβ] [\d.e+-]+$", "", regex=True)


def look(row: pd.Series) -> dict:
    """Colour, marker and dashes of a table's policy."""
    estimator = row.get("estimator", "")
    return method_look(row["method"], estimator if isinstance(estimator, str) else "")


def _words(regime: str) -> str:
    return regime.replace("_", " ").replace("narrow much", "narrow,\nmuch")


@styled
def standing(table: pd.DataFrame, profiles: pd.DataFrame) -> Figure:
    """`lab_tables.summary` and `profiles`: the interquartile mean of every policy's gain, and of
    each method's best policy the share of runs that gain more than so much."""
    figure, axes = panel_grid(1, 2, 6.0, 1.6 + 0.24 * len(table))
    left, right = axes[0]
    spread = errors(table, "iqm", "iqm_low", "iqm_high")
    for y, (_, row) in enumerate(table.iterrows()):
        mark = look(row) | {"linestyle": "none", "markersize": 5.5}
        left.errorbar(row["iqm"], y, xerr=spread[:, [y]], elinewidth=1.5, **mark)
    left.axvline(0, color="black", lw=1)
    left.set(ylim=(len(table) - 0.5, -0.5), xlabel=f"interquartile mean of the gain, {SCORE}")
    left.set_yticks(range(len(table)), table["policy"], fontsize=8)
    for i, (policy, line) in enumerate(profiles.groupby("policy", sort=False)):
        mark = method_look(line["method"].iloc[0])
        every = (i % MARK_EVERY, MARK_EVERY)  # not all at the same places
        right.step(line["gain"], line["share"], where="post", label=policy, markevery=every, **mark)
        told = line["low"].gt(0) | line["high"].lt(1)  # with two seeds a share may be anything
        band = (line["gain"], line["low"].where(told), line["high"].where(told))
        right.fill_between(*band, step="post", color=mark["color"], alpha=0.12, lw=0)
    right.set(xlabel=f"gain, {SCORE}", ylabel="share of runs that gain more", ylim=(-0.02, 1.02))
    right.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, handlelength=3.5)
    seeds = table["seeds"].max()
    note = "Gain over the reference, all regimes and seeds; right and up are better. "
    entitle(figure, _stands_first(table, seeds), note + interval_note(seeds, "lines and bands"))
    return figure


def _stands_first(table: pd.DataFrame, seeds: float) -> str:
    """The best policy by interquartile mean, and whether it is surely ahead of every other
    method's."""
    rows = table.rename(columns={"iqm": "value"}).reset_index(drop=True)
    error, df = findings.errors_of(rows["iqm_low"], rows["iqm_high"], rows["seeds"])
    rows = rows.assign(error=error, df=df, all="all").sort_values("value", ascending=False)
    best = rows.iloc[0]
    found = findings.lead(rows.drop_duplicates("method"), ["all"], "policy", "value")
    sure = findings.ALONE if not seeds > 1 else "not decided"
    if found["decided"].any():
        sure = "ahead of every other method"
    text = f"Over all regimes {best['policy']} gains most, {best['value']:+.2f} points; {sure}"
    losing = int((rows["value"] < 0).sum())
    return f"{text} ({losing} of {len(rows)} policies lose)"


def by_regime(shown: pd.DataFrame, column: str) -> pd.DataFrame:
    """One column of the map: policies down, regimes across, the data's lead over the reference
    growing."""
    gaps = shown.drop_duplicates("regime").set_index("regime")["gap"].sort_values()
    order = list(dict.fromkeys(shown["policy"]))
    wide = shown.pivot(index="policy", columns="regime", values=column)
    return wide.loc[order, list(gaps.index)]


@styled
def gains(shown: pd.DataFrame, by_seed: pd.DataFrame) -> Figure:
    """Gain over the reference by policy and regime; a frame marks the best of a regime and those
    than which it gains more in less than three of four cases (`aggregates.MATTERS`).

    shown: rows of regime_map.csv without the reference; by_seed: `lab_tables.by_seed`.
    """
    gain, behind = by_regime(shown, "gain"), by_regime(shown, "behind")
    gaps = shown.drop_duplicates("regime").set_index("regime")["gap"]
    width = max(8.5, 2.4 + 1.35 * len(gain.columns))
    figure, axes = panel_grid(1, 1, width, 1.9 + 0.27 * len(gain))
    axis, limit = axes[0, 0], np.nanmax(np.abs(gain.to_numpy()))
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
        cbar_kws={"label": f"gain over the reference, {SCORE}"},
    )
    for (i, j), level in np.ndenumerate(behind.to_numpy() < aggregates.MATTERS):
        if level:
            frame = Rectangle((j + 0.04, i + 0.06), 0.92, 0.88, fill=False, ec="black", lw=1.6)
            axis.add_patch(frame)
    axis.set(xlabel="regime, and how much better than the reference its data are", ylabel="")
    names = [f"{_words(name)}\n{gaps[name]:+.1f}" for name in gain.columns]
    axis.set_xticks(np.arange(len(names)) + 0.5, names, rotation=0, fontsize=8)
    seeds = shown["seeds"].max()
    note = "Blue and + is better, red and − worse than the reference. Framed: the best of its "
    note += "regime, and those than which a run of the best gains more in less than 3 of 4 cases. "
    note += "One seed." if not seeds > 1 else f"Means of {seeds:.0f} seeds."
    entitle(figure, _leads(shown, by_seed), note)
    return figure


def _leads(shown: pd.DataFrame, by_seed: pd.DataFrame) -> str:
    """Who gains most in how many regimes, each method and estimator at its best temperature."""
    rows = by_seed[by_seed["study"].isin(shown["regime"])]
    rows = rows[rows["policy"].isin([*shown["policy"], findings.UNTOUCHED])]
    found = findings.lead_over_seeds(rows.assign(name=without_temperature(rows["policy"])), "study")
    return findings.leaders(found, "leads", "regimes", shown["seeds"].max())


@styled
def duels(duels: pd.DataFrame, methods: dict[str, str]) -> Figure:
    """Reward of RPO minus its rivals', a line a reading, a panel a regime.

    duels: `lab_tables.duels`. methods: policy in words -> method, for its colour and marker.
    """
    readings, regimes = (list(dict.fromkeys(duels[name])) for name in ("reading", "study"))
    figure, axes = panel_grid(
        len(readings), len(regimes), max(2.3, 7.5 / len(regimes)), 1.9, sharex=True
    )
    for (i, reading), (j, regime) in (
        (a, b) for a in enumerate(readings) for b in enumerate(regimes)
    ):
        axis = axes[i, j]
        cells = duels[duels["reading"].eq(reading) & duels["study"].eq(regime)]
        spread = errors(cells, "difference", "low", "high")
        for y, row in enumerate(cells.itertuples()):
            mark = method_look(methods.get(row.second, "")) | {"linestyle": "none"}
            mark |= face(mark["color"], row.outcome != decisions.OPEN)
            axis.errorbar(row.difference, y, xerr=spread[:, [y]], markersize=6.5, **mark)
        axis.axvline(0, color="black", lw=1)
        names = [f"− {rival}" for rival in cells["second"]] if j == 0 else []
        axis.set(yticks=range(len(cells)), ylim=(len(cells) - 0.5, -0.5), yticklabels=[])
        if names:
            axis.set_yticklabels(names, fontsize=8)
            axis.set_ylabel(textwrap.fill(reading, 20), fontsize=8, fontweight="bold")
        if i == 0:
            axis.set_title(_words(regime))
        if i == len(readings) - 1:
            axis.set_xlabel("RPO minus rival, points", fontsize=9)
    seeds = duels["seeds"].max()
    title = findings.in_a_title(
        duels["outcome"].replace({"first": decisions.HOLDS, "second": decisions.FAILS}),
        "RPO is ahead",
        "behind",
        "duels",
        int((duels["difference"] > 0).sum()),
        seeds,
    )
    note = f"Differences of mean {SCORE}; right of 0 RPO is ahead. Filled: decided, corrected for "
    note += "all; hollow: not. "
    keys = [
        Line2D([], [], ls="none", marker="o", label=words, **face(MIDDLE, sure))
        for words, sure in (("decided", True), ("not decided", False))
    ]
    entitle(figure, title, note + interval_note(seeds, "lines"), keys)
    return figure


@styled
def pulls(pulls: pd.DataFrame) -> Figure:
    """Log-probability a token before and after training, beside −log K, two arrows a regime."""
    figure, axes = panel_grid(1, 1, max(7.0, 1.9 + 1.5 * len(pulls)), 4.2)
    axis = axes[0, 0]
    for i, row in enumerate(pulls.itertuples()):
        for kind, colour, shift in (("good", DARK, -0.16), ("bad", "#9a9a9a", 0.16)):
            before, after = getattr(row, f"{kind}_before"), getattr(row, f"{kind}_after")
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 2}
            axis.annotate("", (i + shift, after), (i + shift, before), arrowprops=arrow)
            axis.plot(i + shift, before, "o", color=colour, ms=5)
            axis.annotate(
                kind,
                (i + shift, before),
                (-7 if kind == "good" else 7, 0),
                textcoords="offset points",
                ha="right" if kind == "good" else "left",
                va="center",
                fontsize=8,
                color=colour if kind == "good" else MIDDLE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
            )
        axis.hlines(row.minus_log_k, i - 0.45, i + 0.45, color="black", ls="--", lw=1.2)
    axis.annotate(
        "−log K",
        (len(pulls) - 0.55, pulls["minus_log_k"].iloc[-1]),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
    )
    axis.set_xlim(-0.6, len(pulls) - 0.25)
    axis.set_xticks(range(len(pulls)), [_words(name) for name in pulls["study"]])
    axis.set_ylabel("log-probability a token, nats")
    note = "From the reference (dot) to RPO as released (arrow). good, bad: rows above and below "
    note += "the mean reward; a method that hears the reward moves them apart. Means over seeds."
    entitle(figure, _pulled(pulls), note)
    return figure


def _pulled(pulls: pd.DataFrame) -> str:
    """How many of the arrows end nearer to −log K, and where the good rows go."""
    ends = pulls["minus_log_k"]
    nearer = sum(
        int((pulls[f"{kind}_after"] - ends).abs().lt((pulls[f"{kind}_before"] - ends).abs()).sum())
        for kind in ("good", "bad")
    )
    down = int(pulls["good_after"].lt(pulls["good_before"]).sum())
    return (
        f"Training as released makes good rows less probable in {down} of {len(pulls)} regimes "
        f"and moves {nearer} of {2 * len(pulls)} groups of rows towards −log K"
    )


def _curves(axis: Axes, shown: pd.DataFrame, x: str, y: str, step: float) -> None:
    """A line a policy along a logarithmic x, side by side, each with its name at its end."""
    ends = []
    groups = list(shown.groupby("name", sort=False))
    for i, (name, line) in enumerate(groups):
        line = line.sort_values(x)
        at = line[x] * step ** (i - (len(groups) - 1) / 2)
        mark = look(line.iloc[0])
        spread = errors(line, y, f"{y}_low", f"{y}_high")
        axis.errorbar(at, line[y], yerr=spread, ms=5, lw=1.5, elinewidth=1.0, **mark)
        ends.append((at.iloc[-1], line[y].iloc[-1], name, mark["color"]))
    ticks = sorted(set(shown[x]))
    axis.set(xscale="log", xticks=ticks, xticklabels=[f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())
    name_lines(axis, [end for end in ends if np.isfinite(end[1])])


@styled
def low_data(table: pd.DataFrame, by_seed: pd.DataFrame) -> Figure:
    """Mean reward and gradient variance by completions a prompt, the rows in all being the same.

    table: low_data.csv; by_seed: `lab_tables.by_seed` of the same runs.
    """
    base = table[table["method"].eq("reference")].set_index("k")["reward"]
    shown = table[table["method"].ne("reference")]
    shown = shown.assign(name=without_temperature(shown["policy"]))
    figure, axes = panel_grid(1, 2, 6.2, 4.4)
    left, right = axes[0]
    left.axhline(base.mean(), color=MIDDLE, lw=1, ls=":")
    _curves(left, shown, "k", "reward", 1.03)
    left.annotate(
        "reference",
        (0.01, base.mean()),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
    )
    told = shown[shown["gradient_variance"].gt(0)]
    if len(told):
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.yaxis.set_minor_locator(NullLocator())
        _curves(right, told, "k", "gradient_variance", 1.03)
    else:
        right.remove()
    left.set(ylabel=f"mean {SCORE} (higher is better)", xlabel="completions a prompt, K (log)")
    right.set(ylabel="gradient variance / squared mean (log)", xlabel=left.get_xlabel())
    left.set_title("What the policies reach", loc="left")
    right.set_title("Noise of the first step (lower is better)", loc="left")
    seeds = table["seeds"].max()
    rows = by_seed[by_seed["policy"].isin(table["policy"]) & by_seed["study"].str.match("K = ")]
    found = findings.lead_over_seeds(rows.assign(name=without_temperature(rows["policy"])), "study")
    k = found["study"].str.removeprefix("K = ")
    best = ", ".join(f"{a} at K = {b}" for a, b in zip(found["first"], k, strict=True))
    note = f"The same rows in all, as K completions of fewer prompts. Left: {interval_note(seeds)}"
    note += " Right: 95 % interval over mini-batches." if len(told) else ""
    title = f"Highest score: {best}; {findings.sure(found['decided'], seeds)}"
    entitle(figure, title, note)
    return figure


@styled
def data_curve(table: pd.DataFrame) -> Figure:
    """Gain over the reference by training prompts, a line a policy."""
    figure, axes = panel_grid(1, 1, 8.0, 4.2)
    axis = axes[0, 0]
    shown = table[table["method"].ne("reference")]
    axis.axhline(0, color="black", lw=1, ls=":")
    _curves(axis, shown.assign(name=shown["policy"]), "prompts", "gain", 1.02)
    axis.set(xlabel="training prompts (log)", ylabel=f"gain over the reference, {SCORE}")
    seeds = table["seeds"].max()
    entitle(figure, _of_more(shown, seeds), HIGHER + interval_note(seeds))
    return figure


def _of_more(shown: pd.DataFrame, seeds: float) -> str:
    """How many policies gain more with the most prompts than with the fewest, as if the errors of
    the two were independent (seeds that they share make the truth surer)."""
    few, many = shown["prompts"].min(), shown["prompts"].max()
    error, df = findings.errors_of(shown["gain_low"], shown["gain_high"], shown["seeds"])
    rows = shown.assign(error=error, df=df)
    start, end = (rows[rows["prompts"].eq(n)].set_index("policy") for n in (few, many))
    more = end["gain"] - start["gain"]
    error = np.sqrt(end["error"] ** 2 + start["error"] ** 2)
    verdicts = decisions.decide(more, error, np.fmin(end["df"], start["df"])).verdict
    words = f"With {many:g} prompts more is gained than with {few:g}"
    return findings.in_a_title(verdicts, words, "less", "policies", int((more > 0).sum()), seeds)


def methods_of(table: pd.DataFrame) -> dict[str, str]:
    """Policy in words -> method, of a table that has both."""
    found = table.drop_duplicates("policy").set_index("policy")["method"].to_dict()
    return {METHOD_NAMES[name]: name for name in METHOD_NAMES} | found
