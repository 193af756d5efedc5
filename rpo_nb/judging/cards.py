"""A judge's card: what its audit found, for a page, a reader and a program.

<out>/judges/<name>.json holds all of it, .md and .html (a fragment, in the style of the report)
show it. The same audit gives the same bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tabulate import tabulate

from rpo_nb.judging.audit import TOO_FEW, by_set, checks, unanswered
from rpo_nb.judging.judges import Judge
from rpo_nb.judging.language_models import LanguageModelJudge
from rpo_nb.judging.tokens import Tokens
from rpo_nb.store import atomic_write, write_json

TITLES = {
    "accuracy": "Right",
    "position": "Chooses the first shown",
    "length": "Chooses the longer, at a balanced mix",
    "repeats": "Changes its choice when asked again",
    "paraphrase": "… more, when the prompt is reworded",
}
DIGITS = 4  # of numbers in the json
WIDTH, MARGIN = 120, 5  # of the drawing of an interval, in pixels: from 0 to 1, and beside it
TEMPLATES = Path(__file__).parent.parent / "reporting" / "templates"


def card(
    judge: Judge,
    asked: pd.DataFrame,
    *,
    gold: str,
    self_test: pd.DataFrame,
    tokens: Tokens,
    prices: tuple[float, float] | None = None,
    rates: pd.DataFrame | None = None,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """All that a card shows, as JSON has it (NaN is null).

    asked: `audit.ask_gold`. gold: the name of the gold pairs. self_test: `planted.self_test` with
    the same pairs. prices: of a million tokens read and written. rates: the judge's rows of
    `length_control.length_controlled`; notes: what stands below them.
    """
    settings = judge.settings if isinstance(judge, LanguageModelJudge) else None
    found = {
        "name": judge.name,
        "kind": settings.kind if settings else judge.name,
        # a folder of the user's own by its name alone
        "model": Path(settings.model).name
        if settings and Path(settings.model).is_absolute()
        else settings.model
        if settings
        else None,
        "identity": judge.identity,
        "gold": gold,
        "pairs": len(asked),
        "unanswered": unanswered(asked),
        "checks": _rows(checks(asked)),
        "accuracy_by_set": _rows(by_set(asked)),
        "self_test": _rows(self_test),
        "tokens": tokens._asdict(),
        "cost_of_a_verdict": None if prices is None else tokens.cost(*prices),
        "remarks": list(asked.attrs.get("remarks", [])),
        "length_controlled": [] if rates is None else _rows(rates),
        "notes": list(notes or []),
    }
    return _rounded(found | {"headline": headline(found)})


def headline(found: dict[str, Any]) -> str:
    """The card in two sentences, three where a check could not tell."""
    right, *others = found["checks"]
    biases = [row["says"] for row in others if row["found"]]
    untold = [row["check"] for row in others if row["says"] == TOO_FEW]
    given = found["pairs"] - found["unanswered"]
    of = f"{given:,} of {found['pairs']:,} gold pairs"
    if _missing(right["low"]):
        said = [f"It gave a verdict on {of} ({found['gold']}): too few to tell."]
    else:
        ends = f"[{100 * right['low']:.0f}, {100 * right['high']:.0f}]"
        share = f"{100 * right['value']:.0f} % {ends}"
        said = [f"Right in {share} of {of} ({found['gold']}; chance is 50 %): {right['says']}."]
    if biases:
        said.append(f"It {_and(biases)}.")
    elif len(untold) < len(others):
        said.append("No bias was found.")
    if untold:
        said.append(f"{TOO_FEW.capitalize()} of {_and(untold)}.")
    return " ".join(said)


def _and(words: list[str]) -> str:
    return " and ".join([*filter(None, [", ".join(words[:-1])]), words[-1]])


def write_card(found: dict[str, Any], out: str | Path) -> list[Path]:
    """Write <out>/judges/<name>.json, .md and .html; returns the three."""
    folder = Path(out) / "judges"
    return [
        write_json(folder / f"{found['name']}.json", found),
        atomic_write(folder / f"{found['name']}.md", markdown(found)),
        atomic_write(folder / f"{found['name']}.html", html(found)),
    ]


# ---- how it is shown -----------------------------------------------------------------------------


def markdown(found: dict[str, Any]) -> str:
    """The card as Markdown; a name's or text's own marks are made plain."""
    context = _context(found)
    parts = [f"# Judge {_plain(found['name'])}", _plain(found["headline"])]
    parts += [_table(context["checks"]), *map(_plain, context["sentences"])]
    for title, rows in context["tables"]:
        parts += [f"## {title}", _table(rows)]
    parts += ["\n".join(f"- {_plain(note)}" for note in found["notes"])] if found["notes"] else []
    return "\n\n".join(parts) + "\n"


def html(found: dict[str, Any]) -> str:
    """The card as a fragment of a page; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    drawn = [
        None
        if _missing(row["low"])
        else {name: _at(row[name]) for name in ("low", "value", "high", "null")}
        for row in found["checks"]
    ]
    template = environment.get_template("judge_card.html.j2")
    ends = (_at(0.0), _at(1.0))
    return template.render(card=found, drawn=drawn, ends=ends, **_context(found)) + "\n"


def _context(found: dict[str, Any]) -> dict[str, Any]:
    """What both forms show: tables of texts, and sentences."""
    shown = [
        {
            "check": TITLES[row["check"]],
            "value [95 %]": _interval(row),
            "unbiased": f"{'' if _two_sided(row) else '≤ '}{100 * row['null']:.0f} %",
            "p (Holm)": _p(row["p"]),
            "would have shown": _shown(row),
            "found": row["says"],
        }
        for row in found["checks"]
    ]
    sets = [
        {"set": row["set"], "by": row["voice"], "accuracy [95 %]": _interval(row, "accuracy"),
         "pairs": f"{row['n']:,}"}
        for row in found["accuracy_by_set"]
    ]  # fmt: skip
    rates = [
        {
            **{name: str(row[name]) for name in ("preset", "size", "baseline")},
            "tau": f"{row['tau']:g}",
            "win rate %": _rate(row, "win_rate", "ci_low", "ci_high"),
            "at equal length %": _rate(row, "lc_win_rate", "lc_low", "lc_high"),
            "longer": "" if _missing(row["longer"]) else f"{100 * row['longer']:.0f} %",
            "n": f"{row['n']:,}",
        }
        for row in found["length_controlled"]
    ]
    tables = [("Accuracy set by set", sets), ("Win rates at equal length", rates)]
    return {
        "checks": shown,
        "sentences": _sentences(found),
        "tables": [(title, rows) for title, rows in tables if rows],
    }


def _sentences(found: dict[str, Any]) -> list[str]:
    said = []
    if found["unanswered"]:
        said.append(f"{found['unanswered']:,} pairs have no verdict and are left out.")
    said += found["remarks"]
    said.append(
        "Tested with planted judges on the same pairs: "
        + "; ".join(
            f"{_planted(row)} {row['found']} of {row['draws']} times" for row in found["self_test"]
        )
        + "."
    )
    failed = [row["bias"] for row in found["self_test"] if not row["passed"]]
    if failed:
        said.append(
            f"The audit did not pass its own test ({', '.join(failed)}): with so few pairs it "
            "proves little; give more."
        )
    tokens = found["tokens"]
    if tokens["read"]:
        cost = found["cost_of_a_verdict"]
        price = "" if cost is None else f", which cost {cost:.6f} at the prices given"
        said.append(
            f"A verdict (both orders) reads {tokens['read']:,.0f} tokens and writes "
            f"{tokens['written']:,.0f}, {tokens['how']}{price}."
        )
    return said


def _planted(row: dict[str, Any]) -> str:
    if not row["expected"]:
        return "a fair but noisy one was called biased"
    what = {"longer": "the longer", "first": "the first shown", "coin": "a coin's choice"}
    share = f"{100 * row['strength']:.0f} %"
    return f"one that takes {what[row['bias']]} in {share} of questions was found"


def _interval(row: dict[str, Any], name: str = "value") -> str:
    if _missing(row[name]):
        return "not measured"
    if _missing(row["low"]):
        return f"{100 * row[name]:.1f} %"
    return f"{100 * row[name]:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _rate(row: dict[str, Any], name: str, low: str, high: str) -> str:
    if _missing(row[name]):
        return "not measured"
    more = "" if _missing(row[low]) else f" [{row[low]:.1f}, {row[high]:.1f}]"
    return f"{row[name]:.1f}{more}"


def _p(value: float | None) -> str:
    return "" if _missing(value) else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _two_sided(row: dict[str, Any]) -> bool:
    return row["check"] in ("accuracy", "position", "length")


def _shown(row: dict[str, Any]) -> str:
    """The smallest share that would have been told from an unbiased judge's."""
    if _missing(row["smallest"]):
        return "with so few pairs none"
    if _two_sided(row):
        return f"{100 * row['null']:.0f} ± {100 * row['smallest']:.1f} %"
    return f"{100 * (row['null'] + row['smallest']):.1f} %"


def _at(share: float) -> float:
    return round(MARGIN + WIDTH * min(1.0, max(0.0, share)), 1)


def _table(rows: list[dict[str, str]]) -> str:
    safe = [{key: _plain(value) for key, value in row.items()} for row in rows]
    return tabulate(safe, headers="keys", tablefmt="github", disable_numparse=True)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return text.replace("|", "\\|").replace("`", "\\`")


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _rounded(value: Any) -> Any:
    """JSON's own values: numbers to DIGITS significant digits at least, NaN as null."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.{DIGITS + 2}g}")
    return value
