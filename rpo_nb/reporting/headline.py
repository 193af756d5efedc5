"""The first picture: which share of the first step's loss tells a good completion from a bad one,
beside what that is worth in each regime. Drawn from tables alone: no policy is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rpo_nb import intervals
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import decisions, findings
from rpo_nb.reporting.rendering import read_table
from rpo_nb.reporting.style import (
    COLOURS,
    DARK,
    LIGHT,
    entitle,
    errors,
    interval_note,
    method_look,
    save,
    styled,
)

# preset -> what its RPO is called here, and how full its mark is
READINGS = {
    "paper": ("as written", "none"),
    "released": ("as released", "bottom"),
    "fixed": ("without Ẑ", "full"),
}
RIVALS = {"dro": "fixed", "kto": "fixed", "sft": ""}  # method -> the preset it is shown as
SAME = 0.25  # points between data and model that are called no difference
SHARES = ("regime_shares", "target_shares")  # the tables that may hold them, the fuller first


def headline(out: Path | str, profile: Profile) -> Figure | None:
    """Draw figures/headline from the tables of `out` and save it; None where notebook 07 (or, with
    the shares alone, 02) has not written what it needs."""
    tables = Path(out) / "tables"
    found = [tables / f"{name}.csv" for name in SHARES]
    files = [path for path in found if path.is_file()]
    if not files:
        return None
    parts = [tables / f"{name}.csv" for name in ("regime_map", "lab_seeds")]
    table = by_seed = None
    if all(path.is_file() for path in parts):
        table, by_seed = (read_table(path) for path in parts)
    size = profile.lab.size or next(iter(profile.sizes))
    figure = drawn(read_table(files[0]), table, by_seed, size)
    save(figure, out, "headline")
    return figure


@styled
def drawn(
    shares: pd.DataFrame,
    table: pd.DataFrame | None,
    by_seed: pd.DataFrame | None,
    size: str = "",
) -> Figure:
    """shares: of `studies.target_shares`. table, by_seed: regime_map.csv and lab_seeds.csv; None:
    the left panel alone."""
    marks = None if table is None else _marks(table)
    regimes = 0 if marks is None else marks["regime"].nunique()
    figure = Figure(
        figsize=(10.5, 2.6 + 0.42 * max(regimes, 2)) if regimes else (6.4, 3.2),
        layout="constrained",
    )
    axes = figure.subplots(1, 2 if regimes else 1, squeeze=False)[0]
    _shares(axes[0], shares)
    title = _of_shares(shares)
    note = "The first step's loss is ½ mean t², t the target of a row; as written: the paper's "
    note += "formula; as released: the authors' code; without Ẑ: no partition is estimated."
    note += f" Size of the policies: {size}." if size else ""
    handles: list[Line2D] = []
    if regimes:
        seeds = table["seeds"].max()
        _gains(axes[1], marks)
        title += _of_gains(by_seed, marks, seeds)
        handles = _handles(marks)
        best = findings.lead_over_seeds(_named(by_seed, marks), "study")
        note += f" Right: {findings.leaders(best, 'gains most', 'regimes', seeds)}. "
        note += interval_note(seeds, "lines")
    entitle(figure, title, note, handles)
    return figure


# ---- left ----------------------------------------------------------------------------------------


def _mean_shares(shares: pd.DataFrame) -> pd.DataFrame:
    """By preset: within, of a regime's seeds and then of the regimes the mean, in %, with its
    interval over seeds."""
    keyed = shares.assign(regime=shares["regime"].fillna(""))
    wide = keyed.pivot_table(index=["preset", "seed"], values="within", aggfunc="mean")["within"]
    rows = {
        preset: intervals.over_seeds(wide[preset].to_numpy(), bounds=(0, 100))
        for preset in READINGS
        if preset in wide.index.get_level_values("preset")
    }
    return pd.DataFrame(rows, index=["value", "low", "high", "error", "df"]).T


def _percent(value: float) -> str:
    return f"{value:.1f} %" if value < 2 else f"{value:.0f} %"


def _shares(axis: Axes, shares: pd.DataFrame) -> None:
    means = _mean_shares(shares)
    places = np.arange(len(means))
    axis.barh(places, 100, color=LIGHT, height=0.6)
    axis.barh(places, means["value"], color=COLOURS["rpo"], height=0.6)
    told = means["low"].notna()
    if told.any():
        spread = errors(means, "value", "low", "high")
        axis.errorbar(means["value"], places, xerr=spread, ls="none", color=DARK, lw=1.2, capsize=3)
    for place, row in zip(places, means.itertuples(), strict=True):
        inside = row.value > 50
        axis.text(
            np.nanmin([row.value, row.low]) - 2 if inside else np.nanmax([row.value, row.high]) + 2,
            place,
            _percent(row.value),
            va="center",
            ha="right" if inside else "left",
            fontsize=15,
            fontweight="bold",
            color="white" if inside else COLOURS["rpo"],
        )
    axis.text(
        98,
        0,
        "the same for all completions of a prompt",
        va="center",
        ha="right",
        fontsize=8,
        color=DARK,
    )
    axis.set_yticks(places, [f"RPO\n{READINGS[name][0]}" for name in means.index], fontsize=10.5)
    axis.set(xlim=(0, 100), ylim=(len(means) - 0.5, -0.5), xlabel="share of the first loss, %")
    axis.set_title("Dark: tells good completions from bad ones", loc="left")
    axis.grid(visible=False)


def _of_shares(shares: pd.DataFrame) -> str:
    means = _mean_shares(shares)["value"]
    said = {name: f"{_percent(means[name])} {READINGS[name][0]}" for name in means.index}
    shown = [said[name] for name in ("paper", "fixed") if name in said] or list(said.values())
    return f"Of RPO's first step, {' and '.join(shown)} is about which completion is better"


# ---- right ---------------------------------------------------------------------------------------


def _marks(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the map that are shown, with the name of each: RPO in its readings, and its
    rivals as `fixed` has them."""
    presets = table["preset"].fillna("").astype(str).str.split("/")

    def of(method: str, preset: str) -> pd.DataFrame:
        return table[table["method"].eq(method) & presets.map(lambda names: preset in names)]

    found = [
        of("rpo", preset).assign(name=f"RPO {words}", full=full)
        for preset, (words, full) in READINGS.items()
    ]
    for method, preset in RIVALS.items():
        mine = of(method, preset)
        found.append(mine.assign(name=mine["policy"], full="full"))
    marks = pd.concat(found)
    return marks.sort_values("gap", kind="stable")


def _gains(axis: Axes, marks: pd.DataFrame) -> None:
    regimes = list(dict.fromkeys(marks["regime"]))
    names = list(dict.fromkeys(marks["name"].sort_values(key=lambda c: c.map(_rank(marks)))))
    lanes = np.linspace(-0.32, 0.32, len(names))
    for lane, name in zip(lanes, names, strict=True):
        rows = marks[marks["name"].eq(name)]
        y = rows["regime"].map(regimes.index) + lane
        spread = errors(rows, "gain", "gain_low", "gain_high")
        axis.errorbar(rows["gain"], y, xerr=spread, elinewidth=1.0, **_look(rows.iloc[0]))
    axis.axvline(0, color="black", lw=1)
    for place in range(1, len(regimes)):
        axis.axhline(place - 0.5, color="#dddddd", lw=0.8)
    gaps = marks.drop_duplicates("regime").set_index("regime")["gap"]
    words = [f"{name.replace('_', ' ')}\n{_told(gaps[name])}" for name in regimes]
    axis.set_yticks(range(len(regimes)), words)
    axis.set_ylim(len(regimes) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("gain in true score, points of 10 (right is better)")
    axis.set_title("What it gains over the untouched model", loc="left")


def _told(gap: float) -> str:
    """How much better than the untouched model's own the data are."""
    if abs(gap) < SAME:
        return "(data as good)"
    return f"(data {abs(gap):.1f} {'better' if gap > 0 else 'worse'})"


def _rank(marks: pd.DataFrame) -> dict[str, int]:
    order = [f"RPO {words}" for words, _ in READINGS.values()]
    order += [name for method in RIVALS for name in marks.query("method == @method")["name"]]
    return {name: place for place, name in enumerate(dict.fromkeys(order))}


def _look(row: pd.Series) -> dict:
    look = method_look(row["method"]) | {"linestyle": "none", "markersize": 7}
    return look | {
        "fillstyle": row["full"],
        "markerfacecoloralt": "white",
        "markeredgecolor": look["color"],
        "markeredgewidth": 1.3,
    }


def _handles(marks: pd.DataFrame) -> list[Line2D]:
    rows = marks.drop_duplicates("name").sort_values(
        "name", key=lambda c: c.map(_rank(marks)), kind="stable"
    )
    return [Line2D([], [], label=row["name"], **_look(row)) for _, row in rows.iterrows()]


def _named(by_seed: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
    """The seeds' gains of the policies that are shown, by their names, and the reference's."""
    names = marks.drop_duplicates("policy").set_index("policy")["name"]
    rows = by_seed[by_seed["study"].isin(marks["regime"])]
    rows = rows.assign(name=rows["policy"].map(names).where(rows["policy"].ne("reference")))
    rows["name"] = rows["name"].fillna(rows["policy"].where(rows["policy"].eq("reference")))
    return rows.dropna(subset=["name"])


def _of_gains(by_seed: pd.DataFrame, marks: pd.DataFrame, seeds: float) -> str:
    """In how many regimes RPO gains more without Ẑ than as written, and whether that is sure."""
    wide = _named(by_seed, marks).pivot_table(
        index=["study", "seed"], columns="name", values="gain", sort=False
    )
    first, second = (f"RPO {READINGS[name][0]}" for name in ("fixed", "paper"))
    if not {first, second} <= set(wide):
        return ""
    found = pd.DataFrame(
        [
            intervals.over_seeds(one.to_numpy())
            for _, one in (wide[first] - wide[second]).groupby("study", sort=False)
        ]
    )
    verdicts = decisions.decide(found["value"], found["error"], found["df"]).verdict
    ahead = int((found["value"] > 0).sum())
    said = findings.in_a_title(
        verdicts, f"gains more than {READINGS['paper'][0]}", "less", "regimes", ahead, seeds
    )
    return f"\nWithout Ẑ it {said}"
