"""The answers that the page opens with: verdicts on both papers, and sentences. Each is computed
from tables; what a table does not hold is not said.

A verdict of the page is a dict: verdict ("holds", "does not hold", "not decided", counts of them,
or "not measured"), shows (what was measured) and seen (of what is not decided, the smallest effect
that this run could have seen).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import claims
from rpo_nb.reporting.agreement import NOT_MEASURED
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.reporting.rendering import number, with_interval

Tables = Mapping[str, pd.DataFrame]
RIVALS = {"sft": "SFT (fine-tuned)", "reference": "the untouched reference"}
# the two conventions of a completion's log-probability
READ_AS = {"sum": "sums of log-probabilities (the paper)", "mean": "means (the released code)"}
# Paper B's learnings as the table's rows begin, and as the paper tells them.
SEVEN = {
    "Offline, DPO, SimPO and RPO-bwd do alike, and better than KTO and RPO-sqloo": (
        "offline, DPO",
        "offline, they do better",
    ),
    "Offline, more completions a prompt do not help": ("offline, K =",),
    "Online, RPO-bwd does better than RPO-sqloo": ("online, bwd",),
    "Online does better than offline with the true judge": ("online does better",),
    "Iterations help": ("iterations help",),
    "With a learnt reward model, the gains of online over offline vanish": (
        "with a learnt reward model, online gains",
    ),
    "With a learnt reward model, the policy hacks its reward": (
        "with a learnt reward model, the policy hacks",
    ),
}


# ---- small words ---------------------------------------------------------------------------------


def span(values: Sequence[float], digits: int, *, sign: bool = False) -> str:
    """ "55.0 to 66.0"; one number where all are the same, "" of none."""
    known = [float(value) for value in values if pd.notna(value)]
    if not known:
        return ""
    ends = dict.fromkeys(with_interval(e, None, None, digits, sign=sign) for e in _ends(known))
    return " to ".join(ends)


def _many(count: int, one: str, more: str) -> str:
    """ "1 holds", "2 hold"."""
    return f"{count} {one if count == 1 else more}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def in_words(verdicts: Sequence[str], yes: str, no: str) -> str:
    """ "RPO surely wins 4, surely loses 2, 12 are not decided" with yes "RPO surely wins" and no
    "surely loses"."""
    hold, fail, left = (list(verdicts).count(one) for one in (HOLDS, FAILS, OPEN))
    return f"{yes} {hold}, {no} {fail}, {left} {'is' if left == 1 else 'are'} not decided"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seen(smallest: pd.Series, most: float, unit: str) -> str:
    """What undecided cells could have shown; nothing at all where there is no error."""
    known = smallest.dropna()
    if known.empty:
        return ""
    if known.min() >= most:
        return "could have seen no effect"
    digits = 1 if unit != "" and most > 1 else 2
    return f"could have seen {span(known.clip(upper=most), digits)}{unit}"


# ---- paper A -------------------------------------------------------------------------------------


def _win_verdict(cells: pd.DataFrame) -> dict:
    return {
        "verdict": claims.counted(cells["verdict"])[0],
        "shows": f"wins {span(cells['win_rate'], 1)} %",
        "seen": _seen(cells["smallest"], 50, " points from 50"),
    }


def _lead_verdict(row: pd.Series) -> dict:
    return {
        "verdict": row["verdict"],
        "shows": "best with probability "
        + with_interval(row["value"], row["ci_low"], row["ci_high"], 2),
        "seen": _seen(pd.Series([row["smallest"]]), 1.0, ""),
    }


def _move_verdict(cells: pd.DataFrame) -> dict:
    return {
        "verdict": claims.counted(cells["verdict"])[0],
        "shows": f"moves by up to {number(cells['difference'].abs().max(), 1)} points",
        "seen": (f"equal but for {span(cells['smallest'].clip(upper=100), 1)} points")
        if cells["smallest"].notna().any()
        else "",
    }


def _work_verdict(ratios: pd.Series) -> dict:
    return {
        "verdict": claims.counted([claims.saves(ratio) for ratio in ratios])[0],
        "shows": ", ".join(
            f"{number(ratio, 2)} times the work of {METHOD_NAMES[rival]}"
            for (rival, _), ratio in ratios.items()
        ),
        "seen": "",
    }


def verdicts_a(tables: Tables, profile: Profile) -> list[dict]:
    """Paper A's claims: claim, and presets, name -> verdict of the page ("all" where a claim is not
    of one preset)."""
    table3, metrics, moves, table1 = (
        tables.get(name, pd.DataFrame())
        for name in ("table3", "metrics", "temperature_differences", "table1")
    )
    out = []
    for baseline, claim in claims.BEATS.items():
        cells = claims.win_cells(claims.pick(table3, baseline=baseline))
        out.append(_by_preset(claim, cells, _win_verdict))
    leads = claims.lead_cells(metrics, profile)
    out.append(_by_preset(claims.LEADS, leads, lambda rows: _lead_verdict(rows.iloc[0])))
    steady = claims.move_cells(claims.pick(moves, baseline="sft"), profile)
    out.append(_by_preset(claims.ROBUST, steady, _move_verdict))
    ratios = claims.work_ratios(table1)
    presets = {"all": _work_verdict(ratios)} if len(ratios) else {}
    return [*out, {"claim": claims.FASTER, "presets": presets}]


def _by_preset(claim: str, cells: pd.DataFrame, verdict) -> dict:
    groups = cells.groupby("preset", sort=False) if len(cells) else ()
    return {"claim": claim, "presets": {name: verdict(rows) for name, rows in groups}}


def details_a(tables: Tables, profile: Profile) -> list[dict]:
    """The win rates behind the verdicts, a dict a claim: claim, sizes and lines, each with judge,
    size and cells by preset (value, interval, verdict, seen)."""
    table3, out = tables.get("table3", pd.DataFrame()), []
    for baseline, claim in claims.BEATS.items():
        cells, lines = claims.win_cells(claims.pick(table3, baseline=baseline)), {}
        for _, row in cells.iterrows():
            lines.setdefault((row["judge"], row["size"]), {})[row["preset"]] = {
                "value": with_interval(row["win_rate"], row["ci_low"], row["ci_high"], 1),
                "verdict": row["verdict"],
                "seen": _seen(pd.Series([row["smallest"]]), 50, " points"),
            }
        if lines:
            rows = [{"judge": judge, "size": s, "cells": c} for (judge, s), c in lines.items()]
            out.append({"claim": claim, "lines": rows})
    return out


def _compared(tables: Tables) -> dict[str, pd.DataFrame]:
    """baseline -> its cells of Table III, of those that have any."""
    table3 = tables.get("table3", pd.DataFrame())
    found = {b: claims.win_cells(claims.pick(table3, baseline=b)) for b in claims.BEATS}
    return {baseline: cells for baseline, cells in found.items() if len(cells)}


def _spans(found: Mapping[str, pd.DataFrame], **wanted: str) -> str:
    """ "55.0 to 66.0 % over SFT, 48.2 to 58.0 % over KTO"."""
    parts = []
    for baseline, cells in found.items():
        mine = claims.pick(cells, **wanted)
        if len(mine):
            who = RIVALS.get(baseline, METHOD_NAMES[baseline])
            parts.append(f"{span(mine['win_rate'], 1)} % over {who}")
    return ", ".join(parts)


def beaten(tables: Tables) -> list[str]:
    """Does RPO beat SFT, KTO and DRO? What is decided of all win rates, what could have been seen,
    and the values of the first judge."""
    found = _compared(tables)
    if not found:
        return ["Table III has not been made, so nothing is known of it."]
    every = pd.concat(found.values())
    decided = in_words(every["verdict"], "RPO surely wins", "surely loses")
    out = [f"Of {len(every)} comparisons (by rival, judge, size and preset) {decided}."]
    if every["error"].isna().all():
        out.append(claims.ALONE.strip())
    elif seen := _seen(every["smallest"], 50, " points from 50"):
        out.append(f"Those that are not decided {seen}.")
    judge = every["judge"].iloc[0]
    return [*out, f"By judge {judge} RPO wins {_spans(found, judge=judge)}."]


def by_preset(tables: Tables) -> list[str]:
    """The win rates of the first judge, preset by preset."""
    found = _compared(tables)
    if not found:
        return []
    every = pd.concat(found.values())
    judge = every["judge"].iloc[0]
    return [
        f"By judge {judge}, RPO as {preset} wins {spans}."
        for preset in dict.fromkeys(every["preset"])
        if (spans := _spans(found, preset=preset, judge=judge))
    ]


def normalised(tables: Tables) -> list[str]:
    """Is normalisation worth anything? What the ablation of notebook 07 decides."""
    table = tables.get("partition_ablation", pd.DataFrame())
    if not {"preferred", "above_published", "win_rate"} <= set(table):
        return ["Not measured here: notebook 07_partition_lab does, in the pocket world."]
    out = [
        f"With {words} the loss with an estimate of Ẑ wins {span(mine['win_rate'], 1)} % over the "
        f"same loss without one (V̂ = 0), in {len(mine)} comparisons: "
        f"{in_words(mine['preferred'], 'it surely wins', 'surely loses')}."
        for reduce, words in READ_AS.items()
        if len(mine := claims.pick(table, reduce=reduce))
    ]
    if seen := _seen(table.get("smallest", pd.Series(dtype=float)), 50, " points from 50"):
        out.append(f"Those that are not decided {seen}.")
    above = in_words(table["above_published"], "surely above that", "surely below")
    said = "Paper A's version 4, whose tables we have not seen, is said to report over 90 %"
    return [*out, f"{said}: {above}."]


# ---- paper B -------------------------------------------------------------------------------------


def learnings_b(tables: Tables) -> list[dict]:
    """Paper B's learnings: claim, verdict of the page, and rows of paper_b_verdicts (learning,
    verdict, sentence) that it is made of. A row of no known learning is one of its own. [] where
    the table is not there."""
    table = tables.get("paper_b_verdicts", pd.DataFrame())
    if table.empty:
        return []
    groups: dict[str, list] = {claim: [] for claim in SEVEN}
    for row in table.to_dict("records"):
        known = (claim for claim, starts in SEVEN.items() if row["learning"].startswith(starts))
        groups.setdefault(next(known, capital(row["learning"])), []).append(row)
    return [{"claim": claim, "rows": rows} | _learnt(rows) for claim, rows in groups.items()]


def _learnt(rows: Sequence[Mapping]) -> dict:
    if not rows:
        return {"verdict": NOT_MEASURED, "shows": "", "seen": ""}
    smallest = pd.Series([row.get("smallest") for row in rows], dtype=float)
    differences = span([row["difference"] for row in rows], 2, sign=True)
    return {
        "verdict": claims.counted([row["verdict"] for row in rows])[0],
        "shows": f"difference {differences} points",
        "seen": f"could have decided from {span(smallest, 2)} points on"
        if smallest.notna().any()
        else "",
    }


def answer_b(tables: Tables) -> list[str]:
    """Which of paper B's learnings hold?"""
    found = learnings_b(tables)
    if not found:
        return ["Paper B was not reproduced here: notebook 08_reward_aware does."]
    told, out = [one for one in found if one["rows"]], []
    clear = [one["verdict"] for one in told if one["verdict"] in (HOLDS, FAILS, OPEN)]
    mixed = len(told) - len(clear)
    out.append(
        f"Of paper B's {len(found)} learnings {_many(clear.count(HOLDS), 'holds', 'hold')}, "
        f"{_many(clear.count(FAILS), 'does not', 'do not')}, "
        f"{_many(clear.count(OPEN), 'is', 'are')} not decided"
        + (f", of {mixed} the comparisons do not all say the same" if mixed else "")
        + (f", {len(found) - len(told)} not measured" if len(told) < len(found) else "")
        + "."
    )
    seeds = tables["paper_b_verdicts"].get("seeds", pd.Series(dtype=float))
    if len(seeds) and seeds.max() == 1:
        out.append(claims.ALONE.strip())
    for kind, words in ((HOLDS, "What holds"), (FAILS, "What does not")):
        named = [one["claim"] for one in told if one["verdict"] == kind]
        if named:
            out.append(f"{words}: {'; '.join(named)}.")
    return out
