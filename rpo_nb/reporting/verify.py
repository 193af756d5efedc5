"""Is a run what it should be? Each of its numbers that differ by seed, beside the same numbers of a
run of many seeds (`studies.deep`).

A cell is where it should be when the mean over the run's seeds lies in the 95 % prediction interval
for the mean of as many new seeds: m ± t·s·√(1/n + 1/k), with m, s and t of the n seeds of the deep
run that the run does not share. One cell in twenty misses by chance, but cells hang together: one
unlucky reference moves a hundred of them, and a binomial law would refuse sound runs. So the deep
run says itself how far a table may be off: its seeds are left out in their turn, as many as the run
has, and compared with the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from rpo_nb.config.loading import load_profile, repository_root
from rpo_nb.config.schema import Profile
from rpo_nb.judging import verdicts as judged
from rpo_nb.reporting.style import STYLE
from rpo_nb.store import Damaged, atomic_write, read_json

POINTS = {"method": 100.0, "tie": 50.0, "baseline": 0.0}
SURE = 0.975  # a two-sided interval of 95 %
# How often a sound run is refused, over all tables: nominally; by simulation 1 to 5 of 100 runs,
# the more the stronger the cells of a table hang together.
LEVEL = 0.01
FARTHEST = 10.0  # half widths that one cell counts for: it may have no spread at all
FEWEST = 4  # seeds that a deep run needs beside those of the run
MOST_LEFT_OUT = 200  # ways to leave seeds out that are counted
CELL = ["table", "cell"]
DEEP = "pocket-deep"
# what two runs must share for their numbers to compare; of the studies what a mean is taken over
WORLD = ("sizes", "data", "training", "decoding", "lab", "paper_b")
SAMPLES = {
    "lab": ("size", "prompts"),
    "paper_b": ("size", "prompts", "valid", "test", "k", "iterations", "offline", "online"),
}


# ---- numbers by seed -----------------------------------------------------------------------------


def write_seeds(frame: pd.DataFrame, out: Path | str, name: str) -> Path:
    """<out>/seeds/<name>.csv: what a table's rows are means of. frame: text columns that name a
    cell, seed, one column a number, and n where it is told: of how many items they are means."""
    text = frame.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return atomic_write(Path(out) / "seeds" / f"{name}.csv", text)


def by_seed(out: Path | str) -> pd.DataFrame:
    """The numbers of an output folder that differ by seed: table (table2, table3, table4,
    regime_map, paper_b), cell (what the row says, in words), seed, value. Empty where there are
    none."""
    out, parts = Path(out), []
    if (out / "tables" / "metrics.csv").is_file():
        rows = pd.read_csv(out / "tables" / "metrics.csv")
        parts.append(_cells(rows, "table2", ["preset", "metric", "method", "size", "tau"], "value"))
    for table in ("table3", "table4"):
        if any((out / "verdicts").glob(f"{table}-*.jsonl.gz")):
            rows = judged.load_verdicts(out, table)
            rows["value"] = rows["verdict"].map(POINTS)
            keys = ["preset", "judge", "size", "baseline", "tau"]
            parts.append(_cells(rows, table, keys, "value"))
    for name in ("regime_map", "paper_b"):
        if (out / "seeds" / f"{name}.csv").is_file():
            rows = pd.read_csv(out / "seeds" / f"{name}.csv").drop(columns="n", errors="ignore")
            text = [c for c in rows if not pd.api.types.is_numeric_dtype(rows[c])]
            long = rows.melt([*text, "seed"], var_name="measure")
            parts.append(_cells(long, name, [*text, "measure"], "value"))
    columns = [*CELL, "seed", "value"]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return found.dropna(subset="value")[columns]


def _cells(rows: pd.DataFrame, table: str, keys: Sequence[str], value: str) -> pd.DataFrame:
    """One row a cell and seed, the mean of its values."""
    words = rows[[*keys]].astype(object).where(rows[[*keys]].notna(), "")
    words["tau"] = [f"τ {t:g}" if t != "" else "" for t in words["tau"]] if "tau" in words else ""
    cell = [" ".join(filter(None, map(str, row))) for row in words.itertuples(index=False)]
    means = rows.assign(table=table, cell=cell).groupby([*CELL, "seed"], sort=False)[value].mean()
    return means.rename("value").reset_index()


# ---- a run beside the deep run -------------------------------------------------------------------


class Comparison(NamedTuple):
    """cells: table, cell, value, expected, low, high, deviation (from what is expected, in half
    widths of its interval), misses. allowed: by table its cells, how many miss, off (root mean
    square of their deviations) and may (how far off it may be; from FARTHEST on nothing could be
    too far, and the table cannot be judged). same: of the numbers of shared seeds, how many are the
    same to the last digit, and how many there are."""

    cells: pd.DataFrame
    allowed: pd.DataFrame
    same: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """Whether no table that can be judged is further off than chance allows."""
        return not (self.allowed["off"] > self.allowed["may"]).any()

    @property
    def unjudged(self) -> list[str]:
        """The tables whose seeds in the deep run are too few and too far apart to judge by."""
        judged = self.allowed["off"].notna() & (self.allowed["may"] < FARTHEST)
        return self.allowed.loc[~judged, "table"].tolist()


def compare(run: pd.DataFrame, deep: pd.DataFrame) -> Comparison:
    """A run's numbers beside a deep run's, both as `by_seed` gives them. Raises ValueError when
    they share no cell, or the deep run has too few other seeds."""
    ours, theirs = (f.pivot(index=CELL, columns="seed", values="value") for f in (run, deep))
    shared = ours.index.intersection(theirs.index, sort=False)
    if not len(shared):
        raise ValueError("the two runs have no cell in common; compare runs of one world")
    ours, theirs = ours.loc[shared], theirs.loc[shared]
    both = [seed for seed in ours.columns if seed in theirs.columns]
    others = theirs.drop(columns=both)
    if others.shape[1] < FEWEST:
        raise ValueError(
            f"the deep run has {others.shape[1]} seeds that the run does not share, and {FEWEST} "
            "are needed; add seeds to it"
        )
    deviation, expected, half = _deviation(ours.to_numpy(), others.to_numpy())
    tables = shared.get_level_values("table")
    cells = pd.DataFrame(
        {
            "table": tables,
            "cell": shared.get_level_values("cell"),
            "value": ours.mean(axis=1).to_numpy(),
            "expected": expected,
            "low": expected - half,
            "high": expected + half,
            "deviation": deviation,
            "misses": np.abs(deviation) > 1,
        }
    )
    groups = {name: np.asarray(tables == name) for name in dict.fromkeys(tables)}
    level = LEVEL / len(groups)
    allowed = [
        {
            "table": name,
            "cells": int(mine.sum()),
            "misses": int(cells["misses"][mine].sum()),
            "off": np.exp(_off(deviation[mine])),
            "may": np.exp(_may(_left_out(ours[mine], theirs[mine], both), level)),
        }
        for name, mine in groups.items()
    ]
    a, b = ours[both].to_numpy(), theirs[both].to_numpy()
    known = ~np.isnan(a) & ~np.isnan(b)
    return Comparison(cells, pd.DataFrame(allowed), (int((a == b)[known].sum()), int(known.sum())))


def _deviation(ours: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of values [cells, seeds]: how far our mean is from that of the others, in half widths of its
    prediction interval; that mean; the half width. A cell that is the same for all seeds must be
    so here, too; of one that has fewer than two other seeds nothing is known: NaNs."""
    known = (np.sum(~np.isnan(others), axis=1) > 1) & ~np.isnan(ours).all(axis=1)
    out = np.full((3, len(known)), np.nan)
    ours, others = ours[known], others[known]
    n, k = (np.sum(~np.isnan(values), axis=1) for values in (others, ours))
    mean, spread = np.nanmean(others, axis=1), np.nanstd(others, axis=1, ddof=1)
    half = stats.t.ppf(SURE, n - 1) * spread * np.sqrt(1 / n + 1 / k)
    off = np.nanmean(ours, axis=1) - mean
    tiny = np.abs(off) <= 1e-9 * np.maximum(1, np.abs(mean))  # rounding
    out[:, known] = np.where(tiny, 0.0, off / np.where(half > 0, half, 1e-12)), mean, half
    deviation, mean, half = out
    return deviation, mean, half


def _left_out(ours: pd.DataFrame, deep: pd.DataFrame, both: Sequence[Any]) -> list[float]:
    """`_off` of seeds of the deep run beside its others, as many at a time as we have, of one
    table's cells [cells, seeds]; none where the table has too few seeds that we have not."""
    ours, deep = (frame.dropna(axis=1, how="all") for frame in (ours, deep))
    if len(deep.columns.drop(both, errors="ignore")) < FEWEST:
        return []
    return [_off(way) for way in _by_chance(deep.to_numpy(), ours.shape[1])]


def _by_chance(deep: np.ndarray, seeds: int) -> list[np.ndarray]:
    """The deviations of seeds of the deep run from its others, `seeds` at a time, one array [cells]
    a way; of many ways the first are taken."""
    n = deep.shape[1]
    taken = min(seeds, n - FEWEST + 1)
    ways = [*islice(combinations(range(n), taken), MOST_LEFT_OUT)]
    rest = [[i for i in range(n) if i not in way] for way in ways]
    return [
        _deviation(deep[:, list(way)], deep[:, left])[0]
        for way, left in zip(ways, rest, strict=True)
    ]


def _off(deviation: np.ndarray) -> float:
    """log of the root mean square of deviations: near log ½ by chance; NaN of none."""
    known = deviation[~np.isnan(deviation)]
    capped = np.minimum(np.abs(known), FARTHEST)
    return float(0.5 * np.log(np.mean(capped**2) + 1e-12)) if len(known) else np.nan


def _may(left_out: Sequence[float], level: float) -> float:
    """The one-sided prediction bound of `_off` for another sound run, from that of the seeds left
    out: where cells hang together it scatters from seed to seed, and the bound is wide. Infinite
    where fewer than two ways are known."""
    left_out = [off for off in left_out if not np.isnan(off)]
    n = len(left_out)
    if n < 2:
        return np.inf
    spread = np.std(left_out, ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.mean(left_out) + stats.t.ppf(1 - level, min(n, 10) - 1) * spread)


# ---- in words and as a picture -------------------------------------------------------------------


def sentence(found: Comparison, *, shown: int = 5) -> str:
    """The verdict: how many cells are where they should be, which are not, and whether that is
    chance."""
    missing = found.cells[found.cells["misses"]].copy()
    missing = missing.reindex(missing["deviation"].abs().sort_values(ascending=False).index)
    total = int(found.cells["deviation"].notna().sum())
    text = f"{total - len(missing)} of {total} cells are where they should be"
    if total < len(found.cells):
        text += f" ({len(found.cells) - total} more have too few seeds in the deep run)"
    if len(missing):
        named = [
            f"{row.table} {row.cell} ({row.value:.4g}, expected {row.low:.4g} to {row.high:.4g})"
            for row in missing.head(shown).itertuples()
        ]
        more = f"; and {len(missing) - shown} more" if len(missing) > shown else ""
        text += f"; these are not: {'; '.join(named)}{more}"
    beyond = found.allowed[found.allowed["off"] > found.allowed["may"]]
    unjudged = found.unjudged
    if unjudged:
        text += (
            f". Whether that is chance cannot be told of {', '.join(unjudged)}: the deep run has "
            "too few seeds beside those of the run"
        )
    if beyond.empty and len(unjudged) == len(found.allowed):
        return f"{text}."
    if beyond.empty:
        others = " of the others" if unjudged else ""
        return f"{text}. That is no more than chance allows{others}."
    said = [
        f"{row.table} ({row.misses} of {row.cells} cells, {row.off:.2g} half widths off, "
        f"at most {row.may:.2g})"
        for row in beyond.itertuples()
    ]
    return f"{text}. More than chance allows is wrong with {', '.join(said)}."


def bytes_sentence(found: Comparison, run: Path | str, deep: Path | str) -> str:
    """What is to be said of the seeds that both have; "" where there are none."""
    same, total = found.same
    if not total:
        return ""
    alike = _machine(run) is not None and _machine(run) == _machine(deep)
    where = "one kind of machine and one lock" if alike else "another kind of machine or lock"
    return (
        f"Of the seeds in both, {same} of {total} numbers are the same to the last digit ({where})."
    )


def _machine(out: Path | str) -> list | None:
    """What the bytes may depend on; None where it is not known."""
    try:
        manifest = read_json(Path(out) / "manifest.json")
        return [manifest["packages"], manifest["hardware"]["cpu"]]
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return None


def deep_dir(out: Path | str) -> Path | None:
    """results/pocket-deep of the clone that `out`, or else this process, is in; None where it has
    no numbers by seed, or is `out` itself."""
    for root in (repository_root(Path(out)), repository_root()):
        found = root / "results" / DEEP
        if (found / "seeds").is_dir() and (found / "profile.yaml").is_file():
            return None if found.resolve() == Path(out).resolve() else found
    return None


def unlike(profile: Profile, deep: Path | str) -> list[str]:
    """The settings in which a profile is of another world than a deep run, so that their numbers
    do not compare."""
    other = load_profile(str(Path(deep) / "profile.yaml"))
    mine, theirs = (one.model_dump(mode="json", include=set(WORLD)) for one in (profile, other))
    theirs["sizes"] = {size: theirs["sizes"].get(size) for size in mine["sizes"]}
    for study, fields in SAMPLES.items():
        mine[study], theirs[study] = (
            {field: shown[study][field] for field in fields} for shown in (mine, theirs)
        )
    return [section for section in WORLD if mine[section] != theirs[section]]


def deep_for(profile: Profile, out: Path | str) -> Path | None:
    """The deep run that a run of this profile compares with (`deep_dir`); None where it is of
    another world, or has fewer than FEWEST seeds that the run has not."""
    deep = deep_dir(out)
    if deep is None or unlike(profile, deep):
        return None
    others = set(load_profile(str(deep / "profile.yaml")).seeds) - set(profile.seeds)
    return deep if len(others) >= FEWEST else None


def against(run: Path | str, deep: Path | str) -> Comparison:
    """`compare` of two output folders. Raises ValueError where one has no numbers by seed."""
    found = [by_seed(folder) for folder in (run, deep)]
    for folder, frame in zip((run, deep), found, strict=True):
        if frame.empty:
            raise ValueError(
                f"{Path(folder).name} has no tables with numbers by seed; run reproduce first"
            )
    return compare(*found)


def figure(found: Comparison) -> Figure:
    """Every cell, by table: how far it is from what the deep run expects, in half widths of its
    prediction interval."""
    import matplotlib.pyplot as plt

    tables = list(dict.fromkeys(found.cells["table"]))
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(figsize=(8, 0.7 + 0.6 * len(tables)), layout="constrained")
        axes.axvspan(-1, 1, color="#E4EEF5", label="95 % prediction interval")
        for place, table in enumerate(tables):
            mine = found.cells[found.cells["table"].eq(table)]
            far = mine["deviation"].clip(-3, 3)
            spread = np.random.default_rng(place).uniform(-0.25, 0.25, len(mine))
            colours = np.where(mine["misses"], "#B5302F", "#2F7FB5")
            axes.scatter(far, place + spread, s=8, c=colours, alpha=0.7, linewidths=0)
        counts = found.allowed.set_index("table")
        labels = [f"{t}: {counts.misses[t]} of {counts.cells[t]} miss" for t in tables]
        axes.set_yticks(range(len(tables)), labels)
        axes.set(xlim=(-3.2, 3.2), xlabel="from the deep run's mean, in half widths (cut at ±3)")
        axes.invert_yaxis()
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.25))
    plt.close(fig)
    return fig


# ---- what is said --------------------------------------------------------------------------------


def tell(run: Path, deep: Path) -> bool:
    """Print how a run compares with a deep one; returns whether it agrees. Raises ValueError where
    one of them is not there."""
    for folder in (run, deep):
        if not (folder / "profile.yaml").is_file():
            raise ValueError(f"{folder.name} has no profile.yaml: nothing was made there")
    other = unlike(load_profile(str(run / "profile.yaml")), deep)
    if other:
        print(f"The two runs have other settings of {', '.join(other)}.")
    found = against(run, deep)
    print(*filter(None, (bytes_sentence(found, run, deep), sentence(found))), sep="\n")
    return found.agrees


def beside(profile: Profile, out: Path | str) -> tuple[Comparison | None, str]:
    """A run beside the deep run of its settings, and what is to be said; None where there is no
    such deep run, or where the run has no numbers by seed."""
    deep = deep_for(profile, out)
    if deep is None:
        return None, "There is no deep run of these settings to compare with."
    run = by_seed(out)
    if run.empty:
        return None, "This run has no numbers by seed to compare: notebooks 04 to 08 make them."
    found = compare(run, by_seed(deep))
    return found, sentence(found)


def tell_at_the_end(profile: Profile, out: Path) -> None:
    """The same of a run that has just ended, where the two compare."""
    found, said = beside(profile, out)
    if found is not None:
        print(said)
