"""What a table says: cell by cell against the paper, and claim by claim. Every sentence is made of
measured numbers.

Rows are those of ``tables.metric_cells``, ``tables.table3`` and ``tables.table4``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.metrics import LOWER_IS_BETTER, METRICS
from rpo_nb.config.schema import Profile
from rpo_nb.reporting.published import published_numbers
from rpo_nb.reporting.rendering import number

AGREES, DIFFERS, NOT_MEASURED, NO_NUMBER = "agrees", "differs", "not measured", "no published value"
NOTABLE = 0.05  # a smaller saving of work is no saving
HOLDS, PARTLY, FAILS = "holds", "holds in part", "does not hold"


# ---- one cell ------------------------------------------------------------------------------------


def agreement(
    row: Mapping, table: pd.DataFrame | None = None, profile: Profile | None = None
) -> tuple[str, str]:
    """("agrees" | "differs" | "not measured" | "no published value", why) for one cell.

    Agrees in value: the published number lies within the cell's 95 % interval. Agrees in direction
    (win rates only): both are on the same side of 50 and the interval excludes 50. table: the cells
    around it, so that the sentence can say what moves the cell (preset, judge); profile: says what
    stands in for the paper's model, judge or metric model.
    """
    rate = "win_rate" in row
    value, low, high = (
        float(row[k]) for k in (("win_rate" if rate else "value"), "ci_low", "ci_high")
    )
    digits = 1 if rate else METRICS.get(row["metric"], ("", None, 4))[2]
    if np.isnan(value):
        return NOT_MEASURED, str(row.get("reason") or "") or (
            "every verdict is missing" if rate else "no reason was recorded"
        )
    if pd.isna(row["published"]):
        return NO_NUMBER, "the paper has no number for this cell"
    if np.isnan(low) or np.isnan(high):
        return (
            NOT_MEASURED,
            f"{number(value, digits)} has no interval, so nothing can be said of {row['published']}",
        )
    paper = float(row["published"])
    interval = f"[{number(low, digits)}, {number(high, digits)}]"
    if low <= paper <= high:
        return AGREES, f"the paper's {row['published']} lies within {interval}"
    gap = abs(value - paper)
    direction = "below" if value < paper else "above"
    distance = f"{number(gap, digits)} {'points ' if rate else ''}{direction} the paper's {row['published']}"
    if rate and (value - 50) * (paper - 50) > 0 and not low <= 50 <= high:
        return (
            AGREES,
            f"in direction only: both are {'above' if paper > 50 else 'below'} 50; the kit is "
            f"{distance}",
        )
    sides = ""
    if rate:
        here = (
            f"{interval} includes 50"
            if low <= 50 <= high
            else f"{interval} lies {'above' if low > 50 else 'below'} 50"
        )
        sides = f"{here}, the paper's number lies {'above' if paper > 50 else 'below'} it; "
    else:
        half = (high - low) / 2
        sides = f"{number(gap / half, 1)} times the interval's half-width; " if half > 0 else ""
    reasons = [
        f"the kit is {distance}",
        *_neighbours(row, table, value, paper, digits),
        *_stand_ins(row, profile),
    ]
    return DIFFERS, (
        f"{sides}{'; '.join(reasons)}" if rate else f"{reasons[0]}, {sides}{'; '.join(reasons[1:])}"
    ).strip("; ")


def _neighbours(
    row: Mapping, table: pd.DataFrame | None, value: float, paper: float, digits: int
) -> list[str]:
    """What moves this cell: the preset that comes nearest to the paper, and the other judge."""
    if table is None:
        return []
    name = "win_rate" if "win_rate" in row else "value"
    keys = [k for k in ("judge", "size", "baseline", "tau", "metric", "method") if k in table]
    same = {k: table[k].eq(row[k]) for k in keys}
    out = []
    presets = table[
        np.logical_and.reduce(list(same.values())) & table["preset"].ne(row["preset"])
    ].dropna(subset=[name])
    if len(presets):
        nearest = presets.loc[(presets[name] - paper).abs().idxmin()]
        closer = abs(nearest[name] - paper) < abs(value - paper)
        there = f"with preset {nearest['preset']} it is {number(nearest[name], digits)}"
        out.append(there if closer else "no other preset comes nearer")
    if "judge" in same:
        others = table[
            np.logical_and.reduce([m for k, m in same.items() if k != "judge"])
            & table["preset"].eq(row["preset"])
            & table["judge"].ne(row["judge"])
        ].dropna(subset=[name])
        out += [f"judge {o['judge']} gives {number(o[name], digits)}" for _, o in others.iterrows()]
    return out


def _stand_ins(row: Mapping, profile: Profile | None) -> list[str]:
    """What of this very cell is not the paper's: the metric's model. (What no cell shares with the
    paper: ``differences``.)"""
    if profile is None:
        return []
    packaged = {
        "bertscore_f1": profile.evaluation.bertscore,
        "toxicity": profile.evaluation.toxicity,
    }.get(row.get("metric"))
    return (
        []
        if packaged in (None, "default", "hub")
        else ["scored by another model than the paper's, so only methods compare"]
    )


def with_agreement(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The table with the columns agreement and why."""
    found = [agreement(row, table, profile) for _, row in table.iterrows()]
    return table.assign(agreement=[f[0] for f in found], why=[f[1] for f in found])


def differences(profile: Profile) -> list[str]:
    """What every cell of this profile does otherwise than the paper, read from the profile."""
    setup = published_numbers()["paper_a"]["setup"]
    parameters = setup["model_parameters"]
    out = []
    models = {size: model.id for size, model in profile.sizes.items()}
    if any("flan-t5" not in model for model in models.values()):
        named = {
            s: "trained from nothing" if m == "pocket" else Path(m).name for s, m in models.items()
        }
        ours, theirs = (
            ", ".join(f"{size} ({what})" for size, what in kind.items())
            for kind in (named, parameters)
        )
        out.append(f"Models: {ours}; the paper has Flan-T5 {theirs}.")
    if "ultrafeedback" not in profile.data.source.lower():
        source = "the pocket world" if profile.pocket_world else Path(profile.data.source).name
        prompts = (
            f"{profile.data.prompts} training prompts"
            if profile.data.prompts
            else "all training prompts"
        )
        out.append(f"Data: {source}, {prompts}; the paper has {setup['dataset']}.")
    if profile.data.validation != int(setup["validation"]["examples"]):
        theirs = setup["validation"]["examples"]
        out.append(
            f"Validation: up to {profile.data.validation} rows of the top score; the paper "
            f"has {theirs}."
        )
    judges = {j: profile.evaluation.published_judges.get(j) for j in profile.evaluation.judges}
    beside = ", ".join(
        f"{ours} stands beside {theirs}" for ours, theirs in judges.items() if theirs
    )
    if beside:
        out.append(
            f"Judges: {beside}; both orders are asked and a flip counts as a tie, which the "
            "paper does not state."
        )
    training = profile.training
    if training.warmup_steps != int(setup["warmup_steps"]) or training.learning_rate != float(
        setup["learning_rate"]
    ):
        out.append(
            f"Schedule: learning rate {training.learning_rate:g}, {training.warmup_steps} "
            "warm-up steps; "
            f"the paper has {float(setup['learning_rate']):g} and {setup['warmup_steps']}."
        )
    return out


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
    known = [m for m, (_, key, _) in METRICS.items() if key]
    rows = cells[cells["metric"].isin(known) & cells["method"].isin(["kto", "dro", "rpo"])].dropna(
        subset=["value"]
    )
    wide = rows.pivot_table(
        index=["metric", "size"], columns="method", values="value", sort=False
    ).dropna()
    if wide.shape[1] < 3 or wide.empty:
        return NOT_MEASURED, "Table II lacks KTO, DRO or RPO."
    sign = np.where(wide.index.get_level_values("metric").isin(LOWER_IS_BETTER), -1.0, 1.0)
    best = wide.mul(sign, axis=0).idxmax(axis=1).eq("rpo")
    by_metric = best.groupby(level="metric", sort=False).agg(["sum", "size"])
    detail = ", ".join(
        f"{METRICS[m][0].split(',')[0]} {r['sum']} of {r['size']}" for m, r in by_metric.iterrows()
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
