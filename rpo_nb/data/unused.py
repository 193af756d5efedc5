"""Columns that look like content, or like the reward, and are not used: each is told once."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from rpo_nb.data import names
from rpo_nb.data.defects import Report
from rpo_nb.data.files import REPEATED_KEYS
from rpo_nb.data.forms import Entry, is_blank
from rpo_nb.data.texts import NO_TEXT, is_text

LOOKS = 20  # values of a column that are looked at, of every kind of row
_OF_THE_JUDGE = {"correct_answers", "incorrect_answers"}  # UltraFeedback's, no part of the prompt


class Unused:
    """Looks at rows for what is left out of them. parts: the names in data.reward."""

    def __init__(self, report: Report, parts: dict[str, float]):
        self.report, self.parts = report, parts
        # of every kind of row its columns, and how many of their values were looked at
        self._looked: WeakKeyDictionary[names.Columns, dict] = WeakKeyDictionary()

    def row(
        self, line: int, row: dict, columns: names.Columns, entry: Entry, used: set[str]
    ) -> None:
        """Names the columns of a row that are not used."""
        known = None
        for key in self._next(row, columns):
            value = row[key]
            known = _known(columns) if known is None else known
            if (
                key in known
                or str(key) in used
                or any(found[0].startswith(f"{key}[") for found in (entry.text, entry.score))
            ):
                continue
            name = names.normal(key)
            if name in self.parts or name in _OF_THE_JUDGE:
                continue
            if entry.flat and key in columns.score:
                if entry.score[0]:
                    self.report.once(line, str(key), "column could be the reward too")
            elif (
                is_text(value)
                or name in NO_TEXT
                or (
                    name in names.CONTENT
                    and (name not in names.TEXTS or not isinstance(value, (int, float)))
                )
            ):
                self.report.once(line, str(key), "column looks like content and is not used")

    def item(self, line: int, entry: Entry) -> None:
        """Names the keys of a completion's object that are not used: what is no text, and what
        could be the reward."""
        for key in self._next(entry.owner, entry.columns):
            field, name = f"{entry.prefix}{key}", names.normal(key)
            if field in (entry.text[0], entry.score[0]) or name in self.parts:
                continue
            if key in (*entry.columns.score, *entry.columns.rank):
                if entry.score[0]:
                    self.report.once(line, field, "column could be the reward too")
            elif name in NO_TEXT:
                self.report.once(line, field, "column looks like content and is not used")

    def _next(self, values: dict, columns: names.Columns) -> list[Any]:
        """The columns with a value that were not looked at often enough."""
        looks = self._looked.get(columns)
        if looks is None:
            looks = self._looked[columns] = {key: 0 for key in values if key is not REPEATED_KEYS}
        found = [key for key in looks if not is_blank(values.get(key))]
        for key in found:
            looks[key] += 1
            if looks[key] > LOOKS:
                del looks[key]
        return found


def _known(columns: names.Columns) -> set:
    """The columns that have a role which needs no word where another plays it."""
    return {
        *columns.model,
        *columns.models,
        *columns.rater,
        *columns.weight,
        *columns.sides.values(),
        *columns.side_scores.values(),
        *columns.side_models.values(),
        *columns.winners,
        *columns.one_hot.values(),
        *(key for _, key in columns.aspects),
        *(key for pair in columns.pair if pair for key in pair),
    }
