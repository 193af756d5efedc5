"""Which of a row's texts is the better one: what a column such as winner says.

A value names a side as a whole or not at all: "gpt-4.1" is no text 1, and "A>B" no B.
"""

from __future__ import annotations

import re
from typing import Any

from rpo_nb.data import names, scores
from rpo_nb.data.forms import Row, is_blank

Sides = dict[str, str]  # of every letter or number its text's column

TIES = {
    "tie",
    "draw",
    "equal",
    "same",
    "both",
    "neither",
    "none",
    "tie_bothbad",
    "bothbad",
    "both_bad",
    "both_good",
}
_MODELS = "model|assistant|system|chatbot|bot|candidate|side"  # words that no completion is called
_WORDS = (
    f"{_MODELS}|completion|response|output|answer|generation|reply|summary|translation|text"
    "|conversation|message|option|choice|number"
)
_NAME = re.compile(r"[\s\[({\"'*`#]*(\w(?:[\w\s:#-]*\w)?)[\s\])}\"'*`.:]*")
_ORDER = re.compile(r"[\s\[]*([^<>=\[\]]+)(>+|<+|={1,2})([^<>=\[\]]+)[\s\]]*")


def better(row: Row, sides: Sides) -> tuple[str, str | None]:
    """(the column that tells, the side that is better or "tie"); None if it is not understood."""
    columns, values = row.columns, row.values
    hot = [
        side
        for side, key in columns.one_hot.items()
        if scores.number(values[key]) == 1 or values[key] is True
    ]
    if columns.one_hot.keys() >= sides.keys():
        return next(iter(columns.one_hot.values())), hot[0] if len(hot) == 1 else None
    found = [
        (key, _meaning(row, key, sides)) for key in columns.winners if not is_blank(values[key])
    ]
    for key, side in found[1:]:
        if side is not None and side != found[0][1]:
            row.report.once(row.line, str(key), "column could be the reward too")
    return found[0] if found else (columns.winners[0] if columns.winners else "", None)


def names_sides(row: Row) -> bool:
    """Whether chosen and rejected are the names or the models of two of the row's texts, and no
    texts."""
    texts, sides = [row.values[key] for key in row.columns.pair[0]], row.columns.sides
    stem = names.stem(next(iter(sides.values()))) if sides else ""
    models = [row.values[key] for key in row.columns.side_models.values()]
    return bool(sides) and all(
        isinstance(value, (str, int))
        and (value in models or _by_name(value, sides, f"{stem}|{_MODELS}"))
        for value in texts
    )


def _meaning(row: Row, key: str, sides: Sides) -> str | None:
    """The side that a column's value names as the better one, or "tie"."""
    value, name = row.values[key], names.normal(key)
    number = scores.number(value)
    if name in names.STRENGTH:
        if number is None or len(sides) != 2:
            return None
        ordered = sorted(sides, key=lambda side: (len(side), side))
        return "tie" if number == 0 else ordered[number > 0]
    if isinstance(value, bool) or (number is not None and name in ("label", "labels")):
        return None  # nothing says which of the two it means
    side = _named(row, value, sides) or _compared(row, value, sides)
    pair = row.columns.pair
    if pair and key == pair[0][0] and _named(row, row.values[pair[0][1]], sides) == side:
        return None  # chosen and rejected are one
    return side


def _named(row: Row, value: Any, sides: Sides) -> str | None:
    """The one side, or "tie", that a value is the text, the model or the name of."""
    values, models = row.values, row.columns.side_models
    found = {
        side
        for side, key in sides.items()
        if _same(value, values[key]) or _same(value, values.get(models.get(side)))
    } | _by_name(value, sides, _WORDS)
    if type(value) is str and names.normal(value) in TIES:
        found.add("tie")
    return found.pop() if len(found) == 1 else None


def _same(value: Any, other: Any) -> bool:
    if type(value) is str and type(other) is str:
        return value.strip() == other.strip()
    return type(value) is type(other) and value == other


def _by_name(value: Any, sides: Sides, words: str) -> set[str]:
    """The sides that a value is the name of: A, 1, response_a, Response A, model_a."""
    number = scores.number(value)
    if number is not None:
        return {side for side in sides if side.isdigit() and int(side) == number}
    whole = _NAME.fullmatch(value) if type(value) is str else None
    word = names.normal(whole[1]) if whole else ""
    bare = re.sub(rf"^(?:{words})_?", "", word)
    return {
        side for side, key in sides.items() if side in (word, bare) or names.normal(key) == word
    }


def _compared(row: Row, value: Any, sides: Sides) -> str | None:
    """The better of two sides as "A>B", "[[B>>A]]" or "A=B" says it."""
    found = _ORDER.fullmatch(value) if type(value) is str and len(sides) == 2 else None
    if not found:
        return None
    left, right = (_named(row, found[i].strip(), sides) for i in (1, 3))
    if {left, right} != sides.keys():
        return None
    return {">": left, "<": right, "=": "tie"}[found[2][0]]
