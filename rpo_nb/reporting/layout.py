"""Tables as the page shows them: whole, pivoted where they are long, each number readable.

A table of the page is a dict: columns (headings), kinds ("text" or "num", one a column) and rows of
texts. Nothing is cut: a table that is too long to read, pivoted as it is, is linked and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.metrics import METRICS, metric
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import agreement, decisions
from rpo_nb.reporting.contents import Shown, heading, shown
from rpo_nb.reporting.published import PAPER_SIZES
from rpo_nb.reporting.rendering import (
    line_name,
    number,
    published_text,
    readable,
    with_interval,
)

LONGEST = 300  # lines of a table that a page holds
SIGNED = ("gain", "difference", "gap")  # differences: with their sign
# the column that an interval of these names is of, the first that is there
OWNERS = {
    ("ci_low", "ci_high"): ("win_rate", "mean", "value", "bias", "accuracy"),
    ("low", "high"): ("difference", "share", "agreement"),
}
ORDERED = ("kto", "dro", "rpo")  # the methods of the paper's Table II


# ---- any frame -----------------------------------------------------------------------------------


def _decimals(values: pd.Series) -> int | None:
    """How many decimals show a column's numbers alike; None where they are whole, or too far apart
    for one count."""
    sizes = values.abs()[np.isfinite(values)]
    sizes = sizes[sizes > 0]
    if sizes.empty or sizes.eq(sizes.round()).all():
        return None
    most = sizes.max()
    digits = 1 if most >= 100 else 2 if most >= 1 else 3
    return digits if sizes.min() >= 10.0**-digits else None


def _ends(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """column -> the two columns of its interval."""
    found = {
        column: (f"{column}_low", f"{column}_high")
        for column in frame.columns
        if {f"{column}_low", f"{column}_high"} <= set(frame.columns)
    }
    for ends, owners in OWNERS.items():
        owner = next((name for name in owners if name in frame.columns), None)
        if owner and set(ends) <= set(frame.columns):
            found.setdefault(owner, ends)
    return found


def is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _texts(frame: pd.DataFrame, column: str, ends: tuple[str, str] | None) -> list[str]:
    values = frame[column]
    if not is_number(values):
        return [readable(value) for value in values]
    digits, sign = _decimals(values.astype(float)), column in SIGNED
    parts = [values.astype(float)] + [frame[end].astype(float) for end in ends or ()]
    out = []
    for value, *interval in zip(*parts, strict=True):
        if digits is None:
            low, high = map(readable, interval) if interval else ("", "")
            text = f"+{readable(value)}" if sign and value > 0 else readable(value)
            out.append(f"{text} [{low}, {high}]" if low else text)
        else:
            out.append(with_interval(value, *(interval or (np.nan, np.nan)), digits, sign=sign))
    return out


def _looks_like_numbers(texts: Sequence[str]) -> bool:
    said = [text for text in texts if text]
    return bool(said) and all(text.lstrip("+-−<>≥≤±~ ")[:1].isdigit() for text in said)


def plain(frame: pd.DataFrame) -> dict:
    """Any frame, whole: an interval stands in its number's cell, columns that are empty are left
    out."""
    ends = _ends(frame)
    inside = {end for pair in ends.values() for end in pair}
    names = [name for name in frame.columns if name not in inside and frame[name].notna().any()]
    texts = {name: _texts(frame, name, ends.get(name)) for name in names}
    kinds = [
        "num" if is_number(frame[name]) or _looks_like_numbers(texts[name]) else "text"
        for name in names
    ]
    return {
        "columns": [heading(str(name)) for name in names],
        "kinds": kinds,
        "rows": [list(row) for row in zip(*texts.values(), strict=True)],
    }


# ---- long tables, pivoted ------------------------------------------------------------------------


def _named(name: str, value: object) -> str:
    """What heads a line or a column: "K 4", "on policy", "win rate, %"."""
    if isinstance(value, float | int | np.number):
        return f"{heading(name)} {readable(value)}"
    return heading(METHOD_NAMES.get(str(value), str(value)))


def _filled(frame: pd.DataFrame, value: str, digits: int) -> list[str]:
    """The cells of a pivot: value with interval, the paper's number in parentheses, and of a duel
    who is ahead."""
    low, high = _ends(frame).get(value, ("", ""))
    out = []
    for _, row in frame.iterrows():
        shown_digits = 1 if row.get("metric") == "win_rate" else digits
        bounds = (row[low], row[high]) if low else (np.nan, np.nan)
        text = with_interval(row[value], *bounds, shown_digits, sign=value in SIGNED)
        if isinstance(row.get("published"), str):
            text += f" ({row['published']})"
        if "outcome" in row:
            text += {"first": ": ahead", "second": ": behind"}.get(row["outcome"], "")
        out.append(text)
    return out


def pivot(frame: pd.DataFrame, spec: Shown, value: str, digits: int) -> dict:
    """One value of a long table: a line for each combination of spec.lines, a column for each of
    spec.across."""
    lines = [name for name in spec.lines if name in frame and frame[name].notna().any()]
    across = [name for name in spec.across if name in frame]
    cells = _filled(frame, value, digits)
    rows: dict[tuple, dict[tuple, str]] = {}
    columns: dict[tuple, None] = {}
    keys = frame[lines].astype(object).where(frame[lines].notna(), "").itertuples(index=False)
    heads = frame[across].itertuples(index=False)
    for key, head, cell in zip(keys, heads, cells, strict=True):
        columns[tuple(head)] = None
        rows.setdefault(tuple(key), {})[tuple(head)] = cell
    titles = [
        " ".join(_named(name, one) for name, one in zip(across, head, strict=True))
        for head in columns
    ]
    return {
        "columns": [*(heading(name) for name in lines), *titles],
        "kinds": [*["text"] * len(lines), *["num"] * len(columns)],
        "rows": [
            [
                *(
                    _plain_key(name, one) if isinstance(one, str) else readable(one)
                    for name, one in zip(lines, key, strict=True)
                ),
                *(row.get(head, "") for head in columns),
            ]
            for key, row in rows.items()
        ],
    }


def _plain_key(column: str, text: str) -> str:
    if column == "page" or ".py:" in text:  # a folder's name, a function's: as they are typed
        return text
    return METHOD_NAMES.get(text, text.replace("_", " "))


def laid_out(name: str, frame: pd.DataFrame, csv: str, notebook: str = "") -> dict:
    """A table of the results for the page: title, about, csv (its address), notebook, lines (how
    many the file has) and parts, each with a caption; no part where it is too long to read."""
    spec, parts = shown(name), []
    frame = frame.reset_index(drop=True)
    if spec.lines and set(spec.lines[:1]) <= set(frame) and set(spec.across) <= set(frame):
        for value, digits in spec.values:
            if value in frame and frame[value].notna().any():
                caption = heading(value) if len(spec.values) > 1 else ""
                parts.append(pivot(frame, spec, value, digits) | {"caption": caption})
    if not parts:
        parts = [plain(frame) | {"caption": ""}]
    if max(len(part["rows"]) for part in parts) > LONGEST:
        parts = []
    return {
        "name": name.replace(" ", "_"),
        "title": spec.title,
        "about": spec.about,
        "chapter": spec.chapter,
        "csv": csv,
        "notebook": notebook or spec.notebook,
        "lines": len(frame),
        "parts": parts,
    }


# ---- Tables II to IV -----------------------------------------------------------------------------


def _cell(row: pd.Series) -> dict:
    rate = "win_rate" in row
    digits = 1 if rate else metric(row["metric"]).digits
    value = row["win_rate" if rate else "value"]
    interval = (
        ""
        if pd.isna(row["ci_low"])
        else f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"
    )
    status = row["agreement"] + (" in direction" if row["why"].startswith("in direction") else "")
    return {
        "value": number(value, digits) or agreement.NOT_MEASURED,
        "interval": interval,
        "published": published_text(row),
        "std": number(row["std"], digits),
        "status": status if rate else "",  # of a metric orders compare, levels do not
        "why": row["why"],
        "n": readable(row["n"]),
    }


def sections(cells: pd.DataFrame, profile: Profile) -> list[dict]:
    """One section a preset: for every line (metric and method, judge and baseline or τ) its cells
    by size; and, of win rates, how many agree with the paper."""
    rate = "judge" in cells
    first, last = (
        ("judge", "tau" if "tau" in cells else "baseline") if rate else ("metric", "method")
    )
    sizes, out = list(dict.fromkeys(cells["size"])), []
    for preset, rows in agreement.with_agreement(cells, profile).groupby("preset", sort=False):
        lines: dict[tuple, dict] = {}
        for _, row in rows.iterrows():
            group = metric(row[first]).title
            lines.setdefault((group, line_name(row, last)), {})[row["size"]] = _cell(row)
        counts = rows["agreement"].value_counts()
        kinds = (agreement.AGREES, agreement.DIFFERS, decisions.OPEN, agreement.NOT_MEASURED)
        out.append(
            {
                "preset": preset,
                "sizes": sizes,
                "counts": [(kind, int(counts[kind])) for kind in kinds if rate and kind in counts],
                "lines": [{"group": g, "name": n, "cells": by} for (g, n), by in lines.items()],
            }
        )
    return out


def order_of(values: Mapping[str, float], *, lower: bool) -> list[list[str]]:
    """Methods from the best value to the worst, those of equal values together; those that lack a
    value are left out."""
    known: dict[float, list[str]] = {}
    for name, value in values.items():
        if pd.notna(value):
            known.setdefault(float(value), []).append(name)
    return [sorted(known[value]) for value in sorted(known, reverse=not lower)]


def _order_text(groups: Sequence[Sequence[str]]) -> str:
    """ "RPO > DRO = KTO"."""
    return " > ".join(" = ".join(METHOD_NAMES[name] for name in group) for group in groups)


def orders(cells: pd.DataFrame) -> list[dict]:
    """Table II as an order of KTO, DRO and RPO, best mean first: a dict a preset, with sizes, and
    lines of metric and cells by size, each with paper and here (names, best first) and same ("same
    order", "same best", "another best"). Only what the paper has and what is complete here."""
    out = []
    rows = cells[cells["method"].isin(ORDERED)]
    for preset, mine in rows.groupby("preset", sort=False):
        lines, sizes = [], [size for size in dict.fromkeys(mine["size"]) if size in PAPER_SIZES]
        for name, group in mine.groupby("metric", sort=False):
            lower, by_size = metric(name).lower, {}
            for size in sizes:
                one = group[group["size"].eq(size)].set_index("method")
                here = order_of(one["value"], lower=lower)
                paper = order_of(one["published"], lower=lower)
                if sum(map(len, here)) == sum(map(len, paper)) == len(ORDERED):
                    by_size[size] = {
                        "here": _order_text(here),
                        "paper": _order_text(paper),
                        "same": _compared(here, paper),
                    }
            if by_size and name in METRICS:
                lines.append({"metric": METRICS[name].title, "cells": by_size})
        if lines:
            out.append({"preset": preset, "sizes": sizes, "lines": lines})
    return out


def _compared(here: Sequence[list[str]], paper: Sequence[list[str]]) -> str:
    if here == paper:
        return "same order"
    return "same best" if here[0] == paper[0] else "another best"
