"""The shapes that rows of feedback have: one small reader a shape, and `SHAPES`, the table of them.

A reader turns a row into entries, one a completion, with the row's own values and where they stood;
it checks that the row has its shape, not what the values are. A new shape is a reader and its line
in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rpo_nb.data.defects import Report
from rpo_nb.data.files import REPEATED_KEYS
from rpo_nb.data.forms import (
    Entry,
    Row,
    Scored,
    has,
    has_list,
    read_conversation,
    read_flat,
    read_list,
    report_repeated,
)
from rpo_nb.data.names import Columns, normal
from rpo_nb.data.sides import read_pair, read_sides
from rpo_nb.data.winners import names_sides


class Shape(NamedTuple):
    """keys: the columns of the shape; fits: whether a row's values are of it."""

    name: str
    keys: Callable[[Columns], tuple]
    fits: Callable[[Row], bool]
    read: Callable[[Row], Iterator[Entry]]


LIST = Shape("a list of completions", lambda columns: columns.completions, has_list, read_list)
FLAT = Shape(
    "one completion",
    lambda columns: columns.completion,
    lambda row: has(row.values, row.columns.completion),
    read_flat,
)
SHAPES = (  # in the order in which they are looked for
    LIST,
    Shape(
        "a pair",
        lambda columns: columns.pair,
        lambda row: has(row.values, row.columns.pair[0]) and not names_sides(row),
        read_pair,
    ),
    Shape(
        "answers a and b",
        lambda columns: tuple(columns.sides),
        lambda row: has(row.values, row.columns.sides.values()),
        read_sides,
    ),
    FLAT,
    Shape(
        "a conversation",
        lambda columns: columns.conversation,
        lambda row: has(row.values, row.columns.conversation),
        read_conversation,
    ),
)


class Reader:
    """Reads rows of any shape, also of several in one source."""

    def __init__(self, report: Report, parts: dict[str, float]):
        self.report, self.scored = report, Scored()
        self.parts = {normal(name): share for name, share in parts.items()}
        self.seen: dict[object, None] = {}  # every column, in the order of appearance
        self._kinds: dict[tuple, Columns] = {}

    def entries(self, line: int, row: Any) -> Iterator[Entry]:
        """The entries of a row; a row of no known shape goes to the report."""
        if not isinstance(row, dict):
            self.report.add(line, "", "row is not an object", row)
            return
        found = self._row(line, row)
        shape = self._shape(found)
        if shape is None:
            self.report.add(line, "", "row has no known keys", row)
            return
        report_repeated(found, "", row)
        yield from shape.read(found)

    def once(self, line: int, row: Any) -> Any:
        """The row without the texts that stand in another column of its prompt too."""
        columns = self._of_row(row) if isinstance(row, dict) else None
        if not columns or not (columns.after or columns.before):
            return row
        field, value = self._row(line, row).prompt
        seen, twice = {_text(value)}, []
        for key in (*columns.after, *columns.before):
            text = _text(row[key])
            if text and str(key) != field:
                if text in seen:
                    twice.append(key)
                    self.report.once(line, str(key), "text stands twice in the prompt")
                elif field in map(str, columns.user):  # who asked, or what was asked?
                    self.report.once(line, f"{field}, {key}", "columns together make the prompt")
                seen.add(text)
        return row | dict.fromkeys(twice) if twice else row

    def _row(self, line: int, row: dict) -> Row:
        columns = self._of_row(row)
        return Row(line, row, columns, self.report, self.of, self.parts, self.scored)

    def of(self, item: dict) -> Columns:
        """What the keys of an object mean (the same object for the same keys)."""
        keys = tuple(item)
        found = self._kinds.get(keys)
        if found is None:
            if len(self._kinds) > 10_000:  # every row has keys of its own
                self._kinds.clear()
            found = self._kinds[keys] = Columns(key for key in keys if key is not REPEATED_KEYS)
        return found

    def _of_row(self, row: dict) -> Columns:
        keys = tuple(row)
        if keys not in self._kinds:
            for key in keys:
                if key is not REPEATED_KEYS and len(self.seen) < 1000:
                    self.seen.setdefault(key)
        return self.of(row)

    def _shape(self, row: Row) -> Shape | None:
        """The first shape that a value speaks for, else the first that a column does."""
        there = [shape for shape in SHAPES if shape.keys(row.columns)]
        for shape in there:
            if shape.fits(row):
                return shape
        if there or row.columns.score or row.columns.aspects:
            return there[0] if there else FLAT
        return LIST if row.columns.prompt else None


def _text(value: Any) -> str:
    return value.strip() if type(value) is str else ""
