"""What a table says: cell by cell against the paper, and claim by claim. Every sentence is made of
measured numbers.

Rows are those of ``evaluation.measure``, ``tables.table3``, ``tables.table4`` and
``judging.temperature_differences``. What is counted, as the work of a step, is decided by its
number; what was drawn only by its interval (`decisions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.metrics import METRICS
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import decisions
from rpo_nb.reporting.agreement import MARGIN, NOT_MEASURED, NOTABLE
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.reporting.rendering import number
from rpo_nb.reporting.tables import at_main_setting

CHANCE, MOST = 1 / 3, 1 / 2  # to be the best of three: by lot, and more often than the other two
COLUMNS = ["claim", "preset", "verdict", "hold", "fail", "undecided", "sentence"]
BEATS = {  # baseline -> the claim that RPO beats it
    "sft": "RPO beats SFT, read as fine-tuned on the completions",
    "reference": "RPO beats SFT, read as the untouched reference",
    "kto": "RPO beats KTO",
    "dro": "RPO beats DRO",
}
LEADS = "RPO has the best automatic metrics of KTO, DRO and RPO"
ROBUST = "RPO is robust to τ"
FASTER = "RPO trains faster"
ALONE = " One seed gives no interval, so nothing is decided."


# ---- the paper's claims --------------------------------------------------------------------------


def claims(tables: Mapping[str, pd.DataFrame], profile: Profile) -> pd.DataFrame:
    """Columns claim, preset, verdict, hold, fail, undecided, sentence.

    hold, fail, undecided: how many cells hold, do not, and are not decided; all presets' cells of a
    claim are corrected together. verdict: "holds", "does not hold" or "not decided" where all cells
    say the same, else the counts; "not measured" where there is no cell. tables: any of table1,
    metrics (rows of metrics.csv), table3, temperature_differences, table4.
    """
    table1, metrics, table3, moves, table4 = (
        tables.get(name, pd.DataFrame())
        for name in ("table1", "metrics", "table3", "temperature_differences", "table4")
    )
    found = {
        claim: beats(pick(table3, baseline=baseline), profile) for baseline, claim in BEATS.items()
    }
    found[LEADS] = leads(metrics, profile)
    found[ROBUST] = robust(pick(moves, baseline="sft"), profile, table4)
    found[FASTER] = {"all": faster(table1)}
    rows = [
        [claim, preset, *counted(cells), sentence]
        for claim, presets in found.items()
        for preset, (cells, sentence) in presets.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def pick(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows that have these values in these columns, as far as the columns are there."""
    for column, value in wanted.items():
        table = table[table[column].eq(value)] if column in table else table
    return table


def counted(cells: Sequence[str]) -> tuple[str, int, int, int]:
    """What cells say together: see `claims`."""
    hold, fail, left = (list(cells).count(one) for one in (HOLDS, FAILS, OPEN))
    if not len(cells):
        return NOT_MEASURED, hold, fail, left
    if len(cells) in (hold, fail, left):
        return next(iter(cells)), hold, fail, left
    verbs = "holds" if hold == 1 else "hold", "does not" if fail == 1 else "do not"
    return f"{hold} {verbs[0]}, {fail} {verbs[1]}, {left} not decided", hold, fail, left


def _opening(cells: Sequence[str]) -> str:
    """ "4 of 6 cells hold, 1 does not, 1 is not decided." """
    _, hold, fail, left = counted(cells)
    return (
        f"{hold} of {len(cells)} cells hold{'s' if hold == 1 else ''}, "
        f"{fail} do{'es' if fail == 1 else ''} not, {left} {'is' if left == 1 else 'are'} not "
        "decided."
    )


def win_cells(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of one baseline that have a win rate, with verdict and smallest (points from 50
    that this run would have seen; NaN where decided, or where there is no error). A judge and size
    holds where the win rate is above 50 beyond doubt, and does not where it is below; all presets'
    cells are corrected together. cells: rows of Table III."""
    cells = cells.dropna(subset=["win_rate"]) if len(cells) else cells
    if cells.empty:
        return cells
    found = decisions.decide(*(cells[name] for name in ("win_rate", "error", "df")), null=50)
    return cells.assign(verdict=found.verdict, smallest=found.smallest)


def beats(cells: pd.DataFrame, profile: Profile) -> dict[str, tuple[list[str], str]]:
    """preset -> (verdict of each cell, sentence); see `win_cells`."""
    cells, out = win_cells(cells), {}
    for preset in profile.presets:
        mine = pick(cells, preset=preset)
        if mine.empty:
            out[preset] = [], "Table III has no such cell."
            continue
        parts = []
        for judge, rows in mine.groupby("judge", sort=False):
            rates = [
                f"{r['size']} {number(r['win_rate'], 1)}{_interval(r, 1)} {r['verdict']}"
                + _seen(r["smallest"])
                for _, r in rows.iterrows()
            ]
            parts.append(f"{judge}: {', '.join(rates)}")
        verdicts = mine["verdict"].tolist()
        out[preset] = (
            verdicts,
            f"{_opening(verdicts)} Win rate in %: {'; '.join(parts)}.{_why_open(mine, len(cells))}",
        )
    return out


def _seen(smallest: float) -> str:
    """The smallest distance from 50 that a cell could have shown; none where it has no error."""
    if pd.isna(smallest):
        return ""
    return f" (could see {number(smallest, 1) if smallest < 50 else 'none'})"


def _interval(row: Mapping, digits: int) -> str:
    low, high = row["ci_low"], row["ci_high"]
    return "" if pd.isna(low) else f" [{number(low, digits)}, {number(high, digits)}]"


def _why_open(cells: pd.DataFrame, corrected: int) -> str:
    """What stands behind "not decided"."""
    if not cells["verdict"].eq(OPEN).any():
        return ""
    if cells["error"].isna().all():
        return ALONE
    return (
        f" Corrected for {corrected} cells; “could see”: the distance from 50 that 80 % of such "
        "runs would find."
    )


def lead_cells(metrics: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """One row a preset: value, the probability that RPO is the best of KTO, DRO and RPO in a metric
    of Table II, at a size, with another seed, with ci_low and ci_high; verdict, smallest (the
    probability that this run would have seen; 1: none), and by_metric in words. It holds above ½
    and does not below ⅓, which a lot would give; so noise decides nothing.

    metrics: rows of metrics.csv. In the paper RPO is the best in all cells.
    """
    known = [name for name, row in METRICS.items() if row.published]
    three = ["kto", "dro", "rpo"]
    shares, told = {}, {}
    for preset in profile.presets if len(metrics) else ():
        rows = at_main_setting(pick(metrics, preset=preset), profile)
        rows = rows[rows["metric"].isin(known) & rows["method"].isin(three)]
        wide = rows.pivot_table(
            index=["metric", "size", "seed"], columns="method", values="value", sort=False
        ).dropna()
        if not set(three) <= set(wide) or wide.empty:
            continue
        lower = wide.index.get_level_values("metric").map(lambda name: METRICS[name].lower)
        wide = wide.mul(np.where(lower, -1.0, 1.0), axis=0)
        # equal values share the first place
        best = wide.eq(wide.max(axis=1), axis=0)
        first = best["rpo"] / best.sum(axis=1)
        shares[preset] = intervals.share_over_seeds(first.groupby("seed").mean(), len(first))
        told[preset] = ", ".join(
            f"{METRICS[name].title.split(',')[0]} {number(share, 2)}"
            for name, share in first.groupby("metric", sort=False).mean().items()
        )
    found = decisions.decide_shares(list(shares.values()), more=MOST, less=CHANCE)
    return pd.DataFrame(
        {
            "preset": list(shares),
            "value": [share.value for share in shares.values()],
            "ci_low": [share.low for share in shares.values()],
            "ci_high": [share.high for share in shares.values()],
            "verdict": found.verdict.tolist(),
            "smallest": found.smallest,
            "by_metric": list(told.values()),
        }
    )


def leads(metrics: pd.DataFrame, profile: Profile) -> dict[str, tuple[list[str], str]]:
    """preset -> (its one verdict, sentence); see `lead_cells`."""
    out = {}
    for _, row in lead_cells(metrics, profile).iterrows():
        interval, seen = _interval(row, 2), row["smallest"]
        reach = "" if np.isnan(seen) else f" This run could have seen {number(seen, 2)}."
        if seen == 1:
            reach = " So few seeds could not have seen even a probability of 1."
        out[row["preset"]] = (
            [row["verdict"]],
            f"The probability that RPO is the best of the three is {number(row['value'], 2)}"
            f"{interval} (by lot {number(CHANCE, 2)}; it holds above {number(MOST, 2)}): "
            f"{row['by_metric']}.{reach if interval else ALONE}",
        )
    missing = "Table II lacks KTO, DRO or RPO." if len(metrics) else "Table II has not been made."
    return {preset: out.get(preset, ([], missing)) for preset in profile.presets}


def move_cells(moves: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """One row a preset, judge and size: its widest move between two temperatures (difference,
    tau_low, tau_high, ci_low, ci_high, error), verdict and smallest. A cell holds where every two
    temperatures' win rates are equal but for MARGIN points, and does not where two are not.
    smallest: of an undecided cell, the margin within which this run would have called it equal.

    moves: rows of `rates.temperature_differences` over SFT.
    """
    moves = moves.dropna(subset=["difference"]) if len(moves) else moves
    if moves.empty:
        return moves
    moves = moves[moves["preset"].isin(profile.table4_presets)].reset_index(drop=True)
    names = list(zip(moves["preset"], moves["judge"], moves["size"], strict=True))
    columns = (moves[name] for name in ("difference", "error", "df"))
    found = decisions.decide_equal(*columns, margin=MARGIN, groups=names)
    widest = moves["difference"].abs().groupby([moves[k] for k in ("preset", "judge", "size")])
    cells = moves.loc[[widest.idxmax()[name] for name in dict.fromkeys(names)]]
    return cells.assign(verdict=found.verdict, smallest=found.smallest).reset_index(drop=True)


def robust(
    moves: pd.DataFrame, profile: Profile, table4: pd.DataFrame
) -> dict[str, tuple[list[str], str]]:
    """preset -> (verdict of each cell, sentence); see `move_cells`. table4: for the paper's own
    spread."""
    cells, out = move_cells(moves, profile), {}
    for preset in [preset for preset in profile.presets if preset in profile.table4_presets]:
        mine = pick(cells, preset=preset)
        if mine.empty:
            out[preset] = [], "Table IV has fewer than two temperatures."
            continue
        parts = [
            f"{row['judge']} {row['size']} {number(row['difference'], 1)}{_interval(row, 1)} from "
            f"τ = {row['tau_low']:g} to {row['tau_high']:g} {row['verdict']}"
            + (
                f" (equal but for {number(min(row['smallest'], 100), 1)})"
                if row.smallest > 0
                else ""
            )
            for _, row in mine.iterrows()
        ]
        verdicts = mine["verdict"].tolist()
        ends = f"{ALONE if mine['error'].isna().all() else ''}{_papers_spread(table4, preset)}"
        out[preset] = (
            verdicts,
            f"{_opening(verdicts)} A cell holds where no two τ differ by {MARGIN:g} points. The "
            f"widest move in points: {'; '.join(parts)}.{ends}",
        )
    return out


def _papers_spread(table4: pd.DataFrame, preset: str) -> str:
    table4 = pick(table4, preset=preset)
    if table4.empty:
        return ""
    papers = pd.to_numeric(table4["published"]).groupby([table4["judge"], table4["size"]])
    spreads = papers.agg(lambda one: np.ptp(one.dropna()) if one.count() > 1 else np.nan).dropna()
    if spreads.empty:
        return ""
    ends = dict.fromkeys(number(end, 1) for end in (spreads.min(), spreads.max()))
    return f" The paper's own numbers spread by {' to '.join(ends)} points."


def work_ratios(table1: pd.DataFrame) -> pd.Series:
    """Counted work (FLOPs) of an optimiser step of RPO over that of a rival, by rival and property;
    empty where it was not counted. table1: rows property, method, value (see
    ``table1.measure``)."""
    rows = table1[table1["property"].str.contains("flop", case=False)] if len(table1) else table1
    if rows.empty:
        return pd.Series(dtype=float)
    work = rows.pivot_table(index="property", columns="method", values="value", sort=False)
    rivals = [method for method in ("kto", "dro") if method in work and "rpo" in work]
    if not rivals:
        return pd.Series(dtype=float)
    return pd.concat([work["rpo"] / work[rival] for rival in rivals], keys=rivals).dropna()


def saves(ratio: float) -> str:
    """HOLDS where RPO's work is notably less than its rival's."""
    return HOLDS if ratio < 1 - NOTABLE else FAILS


def faster(table1: pd.DataFrame) -> tuple[list[str], str]:
    """(verdict of each rival, sentence): whether an optimiser step of RPO takes less counted work
    than one of its rivals; seconds are not judged, they vary."""
    ratios = work_ratios(table1)
    if ratios.empty:
        return [], "Table I has no count of the work of a step."
    parts = [
        f"{number(ratio, 3)} times that of {METHOD_NAMES[rival]}"
        for (rival, _), ratio in ratios.items()
    ]
    surplus = "kto" in ratios and (ratios["kto"] < 1 - NOTABLE).any()
    kto = (
        " KTO's surplus is its mismatched pairs, which the authors' own KTO leaves out."
        if surplus
        else ""
    )
    return [saves(ratio) for ratio in ratios], (
        f"Counted work of a step of RPO: {' and '.join(parts)}; a difference below {NOTABLE:.0%} "
        f"counts as none.{kto} Seconds are in "
        "tables/timings.csv and Figure 1; they vary from run to run."
    )
