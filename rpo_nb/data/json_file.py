"""Rows of a .json file: an array, {"data": [rows]}, one row or several, or JSON lines after all.

It is read value by value, with little more than one value in memory.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rpo_nb.data import names
from rpo_nb.data.defects import Report
from rpo_nb.data.files import (
    DAMAGE,
    JSON_SPACE,
    LENIENT,
    LIMIT,
    REPEATED_KEYS,
    SPACE,
    json_lines,
    lines,
    unpacked,
)

WRAPPERS = (
    "data",
    "rows",
    "examples",
    "items",
    "records",
    "instances",
    "feedback",
    "dataset",
    "train",
    "test",
    "validation",
)
_WRAPPED = re.compile(rf'\s*\{{\s*"({"|".join(WRAPPERS)})"\s*:\s*\[\s*(?=\{{)')


class _Text:
    """The text of a JSON file, value by value, with little more than one value in memory."""

    def __init__(self, stream: BinaryIO, name: str):
        self.stream, self.name, self.buffer, self.at, self.ended = stream, name, "", 0, False
        self.decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode

    def more(self) -> bool:
        """Reads on, twice as much where a value is long; False at the end of the file."""
        if self.ended:
            return False
        try:
            raw = self.stream.read(max(2**20, len(self.buffer) - self.at))
        except DAMAGE:
            raw = b""
        self.ended = not raw
        self.buffer, self.at = self.buffer[self.at :] + self.decode(raw, final=not raw), 0
        return not self.ended

    def peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            self.at = SPACE.match(self.buffer, self.at).end()
            if self.at < len(self.buffer) or not self.more():
                return self.buffer[self.at : self.at + 1]

    def value(self) -> Any:
        """The next value. Raises EOFError where the file ends within it, ValueError where it is no
        JSON."""
        while True:
            try:
                value, end = LENIENT.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - 16
                if not cut:
                    raise ValueError(error.msg) from None
                if len(self.buffer) - self.at > LIMIT:
                    raise ValueError("one value is longer than 64 MB") from None
                if not self.more():
                    raise EOFError from None
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            else:
                if end < len(self.buffer) or not self.more():
                    self.at = end
                    return value


def rows(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """A .json file: an array of rows, {"data": [rows]}, one row, several, or JSON lines. Rows are
    counted from 1."""
    if _is_json_lines(path, report.name):
        yield from json_lines(path, report)
        return
    with unpacked(path, report.name) as stream:
        text = _Text(stream, report.name)
        if text.peek() == "\ufeff":
            report.add(1, "", "byte-order mark")
            text.at += 1
        row = 0
        text.peek()
        wrapped = _WRAPPED.match(text.buffer, text.at)
        try:
            while wrapped or text.peek() == "[":  # several: arrays joined end to end
                text.at = wrapped.end() if wrapped else text.at + 1
                while text.peek() not in ("]", ""):
                    value, row = text.value(), row + 1
                    yield row, value
                    if text.peek() == ",":
                        text.at += 1
                    elif text.peek() not in ("]", ""):
                        raise ValueError("Expecting ',' delimiter")
                if not text.peek():
                    raise EOFError
                text.at += 1
                if wrapped:
                    _end_of_wrapper(text, wrapped[1])
                    wrapped = None
            while text.peek():
                value = text.value()
                for item in _rows(value, report.name) if not row else [value]:
                    row += 1
                    yield row, item
        except EOFError:
            report.add(row + 1, "", "file is damaged from here on")
        except ValueError as error:
            if str(error).startswith(report.name):
                raise
            raise ValueError(
                f"{report.name}: after {row} rows it is not JSON ({error}); mend it there, or "
                "write one object on "
                "each line"
            ) from None


def _end_of_wrapper(text: _Text, first: str) -> None:
    """Reads on to the end of the object that holds the list of rows `first`."""
    while text.peek() == ",":
        text.at += 1
        key = text.peek() and text.value()
        if text.peek() != ":":
            raise ValueError("Expecting ':' delimiter") if text.peek() else EOFError
        text.at += 1
        value = text.peek() and text.value()
        if key in WRAPPERS and _are_rows(value):
            raise ValueError(_several(text.name, [first, key]))
    if text.peek() != "}":
        raise ValueError("Expecting ',' delimiter") if text.peek() else EOFError
    text.at += 1


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _several(name: str, keys: list[str]) -> str:
    return f"{name}: it holds several lists of rows ({', '.join(keys)}); write a file of each"


def _is_json_lines(path: Path, name: str) -> bool:
    """Whether the first line is one whole object, and another line follows; or whether nothing in
    it looks like JSON."""
    found = 0
    with unpacked(path, name) as stream:
        for _, raw in lines(stream, Report(name)):
            text = raw.decode("utf-8", "surrogateescape").strip(JSON_SPACE)
            if text and found:
                return True
            if text and text[0] not in "[{":
                return True
            if text and not _is_object(text):
                return False
            found += bool(text)
    return False


def _is_object(text: str) -> bool:
    try:
        return text[0] == "{" and isinstance(LENIENT.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _rows(value: Any, name: str) -> list:
    """The rows of the one value of a file: those of a wrapper, or the value itself."""
    if not isinstance(value, dict):
        return [value]
    known = names.Columns(key for key in value if key is not REPEATED_KEYS)
    inside = [key for key, item in value.items() if key in WRAPPERS and _are_rows(item)]
    if inside and not known.prompt:
        if len(inside) > 1:
            raise ValueError(_several(name, inside))
        return value[inside[0]]
    columns = list(value.values())
    if len(columns) > 1 and not known.completions and (_lists(columns) or _indexed(columns)):
        raise ValueError(
            f"{name}: these are columns ({names.described(value)}), not rows; write a list of "
            "objects "
            "(pandas: to_json(orient='records'))"
        )
    return [value]


def _lists(columns: list) -> bool:
    """Columns as {name: [values]}; messages are a list too, of one cell."""
    return (
        all(
            isinstance(column, list)
            and column
            and not (isinstance(column[0], dict) and {"role", "from"} & column[0].keys())
            for column in columns
        )
        and len({len(column) for column in columns}) == 1
    )


def _indexed(columns: list) -> bool:
    """Columns as {name: {index: value}}."""
    return (
        all(isinstance(column, dict) and column for column in columns)
        and len({tuple(column) for column in columns}) == 1
    )
