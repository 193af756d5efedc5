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
from rpo_nb.reporting.agreement import AGREES, DIFFERS, MARGIN, NO_NUMBER, NOT_MEASURED, NOTABLE
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.reporting.rendering import number
from rpo_nb.reporting.tables import at_main_setting

CHANCE, MOST = 1 / 3, 1 / 2  # to be the best of three: by lot, and more often than the other two
COLUMNS = ["claim", "preset", "verdict", "hold", "fail", "undecided", "sentence"]
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
        f"RPO beats {what}": beats(_pick(table3, baseline=baseline), profile)
        for baseline, what in (
            ("sft", "SFT, read as fine-tuned on the completions"),
            ("reference", "SFT, read as the untouched reference"),
            ("kto", "KTO"),
            ("dro", "DRO"),
        )
    }
    found["RPO has the best automatic metrics of KTO, DRO and RPO"] = leads(metrics, profile)
    found["RPO is robust to τ"] = robust(_pick(moves, baseline="sft"), profile, table4)
    found["RPO trains faster"] = {"all": faster(table1)}
    rows = [
        [claim, preset, *_counted(cells), sentence]
        for claim, presets in found.items()
        for preset, (cells, sentence) in presets.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _pick(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column].eq(value)] if column in table else table
    return table


def _counted(cells: Sequence[str]) -> tuple[str, int, int, int]:
    """What cells say together: see `claims`."""
    hold, fail, left = (list(cells).count(one) for one in (HOLDS, FAILS, OPEN))
    if not len(cells):
        return NOT_MEASURED, hold, fail, left
    if len(cells) in (hold, fail, left):
        return cells[0], hold, fail, left
    verbs = "holds" if hold == 1 else "hold", "does not" if fail == 1 else "do not"
    return f"{hold} {verbs[0]}, {fail} {verbs[1]}, {left} not decided", hold, fail, left


def _opening(cells: Sequence[str]) -> str:
    """ "4 of 6 cells hold, 1 does not, 1 is not decided." """
    _, hold, fail, left = _counted(cells)
    return (
        f"{hold} of {len(cells)} cells hold{'s' if hold == 1 else ''}, "
        f"{fail} do{'es' if fail == 1 else ''} not, {left} {'is' if left == 1 else 'are'} not "
        "decided."
    )


def beats(cells: pd.DataFrame, profile: Profile) -> dict[str, tuple[list[str], str]]:
    """preset -> (verdict of each cell, sentence). A judge and size holds where the win rate is
    above 50 beyond doubt, and does not where it is below. cells: rows of Table III of one
    baseline."""
    cells = cells.dropna(subset=["win_rate"]) if len(cells) else cells
    out = {}
    if len(cells):
        columns = (cells[name] for name in ("win_rate", "error", "df"))
        found = decisions.decide(*columns, null=50)
        cells = cells.assign(verdict=found.verdict, smallest=found.smallest)
    for preset in profile.presets:
        mine = _pick(cells, preset=preset)
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


def leads(metrics: pd.DataFrame, profile: Profile) -> dict[str, tuple[list[str], str]]:
    """preset -> (its one verdict, sentence): the probability that RPO is the best of KTO, DRO and
    RPO in a metric of Table II, at a size, with another seed. It holds above ½ and does not below
    ⅓, which a lot would give; so noise decides nothing.

    metrics: rows of metrics.csv. In the paper RPO is the best in all cells.
    """
    known = [name for name, row in METRICS.items() if row.published]
    three = ["kto", "dro", "rpo"]
    shares, told = {}, {}
    for preset in profile.presets if len(metrics) else ():
        rows = at_main_setting(_pick(metrics, preset=preset), profile)
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
    out = {}
    for (preset, share), verdict, seen in zip(
        shares.items(), found.verdict.tolist(), found.smallest, strict=True
    ):
        interval = _interval({"ci_low": share.low, "ci_high": share.high}, 2)
        reach = "" if np.isnan(seen) else f" This run could have seen {number(seen, 2)}."
        if seen == 1:
            reach = " So few seeds could not have seen even a probability of 1."
        out[preset] = (
            [verdict],
            f"The probability that RPO is the best of the three is {number(share.value, 2)}"
            f"{interval} (by lot {number(CHANCE, 2)}; it holds above {number(MOST, 2)}): "
            f"{told[preset]}.{reach if interval else ALONE}",
        )
    missing = "Table II lacks KTO, DRO or RPO." if len(metrics) else "Table II has not been made."
    return {preset: out.get(preset, ([], missing)) for preset in profile.presets}


def robust(
    moves: pd.DataFrame, profile: Profile, table4: pd.DataFrame
) -> dict[str, tuple[list[str], str]]:
    """preset -> (verdict of each cell, sentence). A judge and size holds where every two
    temperatures' win rates are equal but for MARGIN points, and does not where two are not.

    moves: rows of `rates.temperature_differences` over SFT. table4: for the paper's own spread.
    """
    presets = [preset for preset in profile.presets if preset in profile.table4_presets]
    moves = moves.dropna(subset=["difference"]) if len(moves) else moves
    if len(moves):
        names = list(zip(moves["preset"], moves["judge"], moves["size"], strict=True))
        columns = (moves[name] for name in ("difference", "error", "df"))
        found = decisions.decide_equal(*columns, margin=MARGIN, groups=names)
        verdicts = dict(zip(dict.fromkeys(names), found.verdict.tolist(), strict=True))
        reach = dict(zip(dict.fromkeys(names), found.smallest, strict=True))
    out = {}
    for preset in presets:
        mine = _pick(moves, preset=preset)
        if mine.empty:
            out[preset] = [], "Table IV has fewer than two temperatures."
            continue
        cells, parts = [], []
        for (judge, size), rows in mine.groupby(["judge", "size"], sort=False):
            most = rows.loc[rows["difference"].abs().idxmax()]
            verdict, wide = verdicts[preset, judge, size], reach[preset, judge, size]
            cells.append(verdict)
            parts.append(
                f"{judge} {size} {number(most['difference'], 1)}{_interval(most, 1)} from τ = "
                f"{most['tau_low']:g} to {most['tau_high']:g} {verdict}"
                + (f" (equal but for {number(min(wide, 100), 1)})" if wide > 0 else "")
            )
        ends = f"{ALONE if mine['error'].isna().all() else ''}{_papers_spread(table4, preset)}"
        out[preset] = (
            cells,
            f"{_opening(cells)} A cell holds where no two τ differ by {MARGIN:g} points. The "
            f"widest move in points: {'; '.join(parts)}.{ends}",
        )
    return out


def _papers_spread(table4: pd.DataFrame, preset: str) -> str:
    table4 = _pick(table4, preset=preset)
    if table4.empty:
        return ""
    papers = pd.to_numeric(table4["published"]).groupby([table4["judge"], table4["size"]])
    spreads = papers.agg(lambda one: np.ptp(one.dropna()) if one.count() > 1 else np.nan).dropna()
    if spreads.empty:
        return ""
    return (
        f" The paper's own numbers spread by {number(spreads.min(), 1)} to "
        f"{number(spreads.max(), 1)} points."
    )


def faster(table1: pd.DataFrame) -> tuple[list[str], str]:
    """(verdict of each rival, sentence): whether an optimiser step of RPO takes less counted work
    (FLOPs) than one of its rivals; seconds are not judged, they vary.

    table1: rows property, method, value (see ``table1.measure``), among them FLOPs of rpo and of
    dro or kto.
    """
    rows = table1[table1["property"].str.contains("flop", case=False)] if len(table1) else table1
    work = (
        rows.pivot_table(index="property", columns="method", values="value", sort=False)
        if len(rows)
        else pd.DataFrame()
    )
    rivals = [method for method in ("kto", "dro") if method in work]
    if "rpo" not in work or not rivals:
        return [], "Table I has no count of the work of a step."
    ratios = pd.concat([work["rpo"] / work[rival] for rival in rivals], keys=rivals).dropna()
    parts = [
        f"{number(ratio, 3)} times that of {METHOD_NAMES[rival]}"
        for (rival, _), ratio in ratios.items()
    ]
    kto = (
        " KTO's surplus is its mismatched pairs, which the authors' own KTO leaves out."
        if "kto" in work
        else ""
    )
    return [HOLDS if ratio < 1 - NOTABLE else FAILS for ratio in ratios], (
        f"Counted work of a step of RPO: {' and '.join(parts)}; a difference below {NOTABLE:.0%} "
        f"counts as none.{kto} Seconds are in "
        "tables/timings.csv and Figure 1; they vary from run to run."
    )


def properties(table1: pd.DataFrame) -> pd.DataFrame:
    """Table I property by property: property, paper_dro, paper_rpo (its words), dro, rpo (value and
    interval), agreement, why.

    In every property the paper's words say that RPO has less of it than DRO: networks, coupling,
    work, variance, sensitivity to errors. So one agrees when RPO's value is lower and, where there
    are intervals, they do not overlap. How much of the gradient is the reward's at all is measured
    too, but nothing the paper speaks of.
    """
    out = []
    for name, rows in table1.groupby("property", sort=False):
        both = rows.set_index("method")
        if {"dro", "rpo"} <= set(both.index):
            dro, rpo = both.loc["dro"], both.loc["rpo"]
            found, why = (
                (NO_NUMBER, "the paper says nothing of it")
                if "without the reward" in name
                else _less(rpo, dro)
            )
            note = next(
                (str(n) for n in (rpo.get("note"), dro.get("note")) if pd.notna(n) and n), ""
            )
            out.append(
                {
                    "property": name,
                    "paper_dro": dro["published"],
                    "paper_rpo": rpo["published"],
                    "dro": _measured(dro),
                    "rpo": _measured(rpo),
                    "agreement": found,
                    "why": why + (f" ({note})" if note else ""),
                }
            )
    found = pd.DataFrame(out)
    words = list(dict.fromkeys(found["paper_dro"])) if out else []
    return (
        found.sort_values(
            "paper_dro", key=lambda c: c.map(words.index), kind="stable", ignore_index=True
        )
        if out
        else found
    )


def _less(rpo: pd.Series, dro: pd.Series) -> tuple[str, str]:
    """Whether RPO's value is lower than DRO's, beyond both intervals."""
    ours, theirs = rpo["value"], dro["value"]
    if np.isnan(ours) or np.isnan(theirs):
        return NOT_MEASURED, f"{'RPO' if np.isnan(ours) else 'DRO'} has no value"
    ratio = f"{ours / theirs:.3g} times DRO's" if theirs else f"{ours:.3g}, DRO's is 0"
    if ours == theirs:
        return DIFFERS, "RPO and DRO are equal"
    spans = [row[["value", "ci_low", "ci_high"]].astype(float) for row in (rpo, dro)]
    if max(span.min() for span in spans) <= min(span.max() for span in spans):
        return DIFFERS, f"no difference to be seen, the intervals overlap; RPO's is {ratio}"
    return (
        AGREES if ours < theirs else DIFFERS
    ), f"RPO's is {'lower' if ours < theirs else 'higher'}: {ratio}"


def _measured(row: pd.Series) -> str:
    if np.isnan(row["value"]):
        return NOT_MEASURED
    interval = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.3g}, {row['ci_high']:.3g}]"
    return (
        f"{row['value']:,.0f}" if row["value"] == round(row["value"]) else f"{row['value']:.4g}"
    ) + interval
