"""Rows of a file whose form is known: the JSON objects of a .json or .jsonl file, packed or not.

`data.feedback` reads files of any form and sets aside what it cannot read; here what cannot be read
is an error, because a row that is left out would change what is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpo_nb.data.defects import Report
from rpo_nb.data.json_file import rows
from rpo_nb.data.names import SYSTEM


def plain_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of every row of a JSON array, or of JSON lines, from 1 on.

    Raises ValueError naming file and row for what is no object, and for a missing or empty file.
    """
    path, found = Path(path).expanduser(), False
    if not path.is_file():
        raise ValueError(f"there is no file {path.name!r}; check the path")
    for number, row in rows(path, Report(path.name, strict=True)):
        if not isinstance(row, dict):
            raise ValueError(
                f"{path.name}, row {number}: it is a {type(row).__name__}, no JSON object; "
                "write one object a row"
            )
        found = True
        yield number, row
    if not found:
        raise ValueError(f"{path.name} holds no rows; check the file")


def text_of(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """The text under the first of these names that the row has. Raises ValueError naming file and
    row (`where`) and the names where there is none, or where it is no text."""
    name = next((name for name in names if name in row), None)
    if name is None:
        raise ValueError(
            f"{where}: it has no {names[0]!r}; its keys are {', '.join(row) or 'none'}"
        )
    if not isinstance(row[name], str) or not row[name].strip():
        raise ValueError(f"{where}: {name!r} is {row[name]!r:.60}, no text; mend it or remove it")
    return row[name]


def prompt_of(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    """The prompt of a row: `text_of` these names, and after it what Alpaca calls `input`, as
    `load_feedback` reads the two. Raises ValueError, too, for `refuse_system`."""
    refuse_system(row, where)
    text = text_of(row, names, where)
    if not row.get("input") or row["input"] == text:
        return text
    return f"{text}\n\n{text_of(row, ('input',), where)}"


def refuse_system(row: dict[str, Any], where: str) -> None:
    """Raise ValueError for a row with a system text, which is not asked."""
    for name in SYSTEM:
        if row.get(name):
            raise ValueError(
                f"{where}: it has a {name!r}, which would not be read; write it into the prompt, "
                "or leave it out"
            )
