"""What a table says: cell by cell against the paper, and claim by claim. Every sentence is made of
measured numbers.

Rows are those of ``tables.metric_cells``, ``tables.table3`` and ``tables.table4``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.metrics import METRICS
from rpo_nb.config.schema import Profile
from rpo_nb.reporting.agreement import AGREES, DIFFERS, NO_NUMBER, NOT_MEASURED, NOTABLE
from rpo_nb.reporting.rendering import number

HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"


# ---- the paper's claims --------------------------------------------------------------------------


def claims(tables: Mapping[str, pd.DataFrame], profile: Profile) -> pd.DataFrame:
    """Columns claim, preset, verdict ("holds" | "holds in part" | "does not hold" | "not
    measured"), sentence.

    tables: any of table1, table2 (``metric_cells``), table3, table4.
    """
    presets = list(profile.presets)
    table3, table4, table2 = (
        tables.get(name, pd.DataFrame()) for name in ("table3", "table4", "table2")
    )
    rows = []
    for baseline, claim in (
        ("sft", "RPO beats SFT, read as fine-tuned on the completions"),
        ("reference", "RPO beats SFT, read as the untouched reference"),
        ("kto", "RPO beats KTO"),
        ("dro", "RPO beats DRO"),
    ):
        rows += [
            (claim, preset, *beats(_pick(table3, preset=preset, baseline=baseline)))
            for preset in presets
        ]
    claim = "RPO has the best automatic metrics of KTO, DRO and RPO"
    rows += [(claim, preset, *leads(_pick(table2, preset=preset))) for preset in presets]
    swept = [preset for preset in presets if preset in profile.table4_presets]
    rows += [
        ("RPO is robust to τ", preset, *robust(_pick(table4, preset=preset))) for preset in swept
    ]
    rows.append(("RPO trains faster", "all", *faster(tables.get("table1", pd.DataFrame()))))
    return pd.DataFrame(rows, columns=["claim", "preset", "verdict", "sentence"])


def _pick(table: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column].eq(value)] if column in table else table
    return table


def _share(good: int, all_: int) -> str:
    return NOT_MEASURED if all_ == 0 else HOLDS if good == all_ else FAILS if good == 0 else PARTLY


def beats(cells: pd.DataFrame) -> tuple[str, str]:
    """Holds only when the interval of every judge and size lies above 50. cells: rows of Table III
    of one preset and baseline."""
    cells = cells.dropna(subset=["win_rate"]) if len(cells) else cells
    if cells.empty:
        return NOT_MEASURED, "Table III has no such cell."
    above = cells["ci_low"] > 50
    parts = []
    for judge, rows in cells.groupby("judge", sort=False):
        rates = [
            f"{r['size']} {number(r['win_rate'], 1)} [{number(r['ci_low'], 1)}, "
            f"{number(r['ci_high'], 1)}]"
            for _, r in rows.iterrows()
        ]
        parts.append(f"{judge}: {', '.join(rates)}")
    return _share(above.sum(), len(cells)), (
        f"The interval lies above 50 in {above.sum()} of "
        f"{len(cells)} cells, below in "
        f"{(cells['ci_high'] < 50).sum()}. Win rate in %: "
        f"{'; '.join(parts)}."
    )


def leads(cells: pd.DataFrame) -> tuple[str, str]:
    """In how many (metric, size) cells of Table II RPO has the best mean of KTO, DRO and RPO; in
    the paper it has it in all."""
    if cells.empty:
        return NOT_MEASURED, "Table II has not been made."
    known = [name for name, row in METRICS.items() if row.published]
    rows = cells[cells["metric"].isin(known) & cells["method"].isin(["kto", "dro", "rpo"])].dropna(
        subset=["value"]
    )
    wide = rows.pivot_table(
        index=["metric", "size"], columns="method", values="value", sort=False
    ).dropna()
    if wide.shape[1] < 3 or wide.empty:
        return NOT_MEASURED, "Table II lacks KTO, DRO or RPO."
    sign = np.where(
        wide.index.get_level_values("metric").map(lambda m: METRICS[m].lower), -1.0, 1.0
    )
    best = wide.mul(sign, axis=0).idxmax(axis=1).eq("rpo")
    by_metric = best.groupby(level="metric", sort=False).agg(["sum", "size"])
    detail = ", ".join(
        f"{METRICS[m].title.split(',')[0]} {r['sum']} of {r['size']}"
        for m, r in by_metric.iterrows()
    )
    return _share(
        best.sum(), len(best)
    ), f"RPO's mean is the best in {best.sum()} of {len(best)} cells: {detail}."


def robust(cells: pd.DataFrame) -> tuple[str, str]:
    """Robust where the win rate's spread over τ is no wider than its 95 % interval. cells: rows of
    Table IV of one preset."""
    cells = cells.dropna(subset=["win_rate"]) if len(cells) else cells
    good, parts, papers = 0, [], []
    for (judge, size), rows in cells.groupby(["judge", "size"], sort=False) if len(cells) else ():
        if rows["tau"].nunique() < 2:
            continue
        spread, width = np.ptp(rows["win_rate"]), (rows["ci_high"] - rows["ci_low"]).max()
        good += spread <= width
        ends = f"{number(rows['win_rate'].min(), 1)} to {number(rows['win_rate'].max(), 1)}"
        parts.append(
            f"{judge} {size} {ends} (spread {number(spread, 1)}, interval {number(width, 1)} wide)"
        )
        paper = pd.to_numeric(rows["published"]).dropna()
        papers += [np.ptp(paper)] if len(paper) > 1 else []
    if not parts:
        return NOT_MEASURED, "Table IV has fewer than two temperatures."
    taus = ", ".join(f"{t:g}" for t in sorted(cells["tau"].unique()))
    theirs = (
        f" The paper's own numbers spread by {number(min(papers), 1)} to {number(max(papers), 1)} "
        "points."
        if papers
        else ""
    )
    share = f"{good} of {len(parts)} cells"
    return _share(good, len(parts)), (
        f"Over τ = {taus} the win rate spreads by no more than its "
        f"interval's width in {share}; "
        f"in %: {'; '.join(parts)}.{theirs}"
    )


def faster(table1: pd.DataFrame) -> tuple[str, str]:
    """Whether an optimiser step of RPO takes less counted work (FLOPs) than one of its rivals;
    seconds are not judged, they vary.

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
        return NOT_MEASURED, "Table I has no count of the work of a step."
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
    return _share((ratios < 1 - NOTABLE).sum(), len(ratios)), (
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
