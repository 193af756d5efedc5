"""Rows of a delimited file (.csv, .tsv): the delimiter, the escape, the encoding and decimal commas
are found.

A broken quote costs the lines it swallowed, each of which is reported; no row is made of pieces.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rpo_nb.data import files, names
from rpo_nb.data.defects import Report
from rpo_nb.data.scores import NUMBER

SAMPLE = 200  # rows that the dialect is found from
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d{1,2}\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d+)?\s*")  # 1.000 for 1000, 1.000,5
_BACKSLASHES = re.compile(r'(\\+)("?)')
_ENDED = re.compile(r"unexpected end of data")


class Dialect(NamedTuple):
    """How a file separates and quotes its cells."""

    delimiter: str
    backslash: bool  # a quote within quotes is written \\"
    space: bool  # a space follows every delimiter
    doubled: bool = True  # a backslash is written twice

    def cells(self, record: str) -> list[str]:
        """The cells of one record. Raises csv.Error if its quotes are broken."""
        escape = {"escapechar": "\\"} if self.backslash else {}
        if self.backslash and "\\" in record:
            record = _BACKSLASHES.sub(self._kept, record)
        return next(
            csv.reader(
                [record],
                strict=True,
                delimiter=self.delimiter,
                skipinitialspace=self.space,
                **escape,
            ),
            [],
        )

    def _kept(self, found: re.Match) -> str:
        """Backslashes so that only those that are an escape go: an odd one before a quote, and of
        doubled ones each second."""
        n, quote = len(found[1]), found[2]
        odd = n % 2
        n = n + (odd and not quote) if self.doubled else 2 * n - (odd and bool(quote))
        return "\\" * n + quote


def rows(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """Rows of a delimited file with a header; the line is where the row begins. Every value is a
    text, a hole None."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
    report.untyped = True
    try:
        yield from _rows(path, report)
    finally:
        report.untyped = False


def _rows(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    encoding = _encoding(path, report)
    with files.unpacked(path, report.name) as stream:
        source = _decoded(stream, encoding, report)
        head = list(islice(source, 5 * SAMPLE))
        if head and re.fullmatch(r"sep=.\s*", head[0][1]):  # Excel's word on the delimiter
            head = head[1:]
        first = next((text for _, text in head if text.strip()), "")
        below = next((line for line, text in head[:20] if _names_in(text) > 1), 0)
        if below and not _names_in(first):
            raise ValueError(
                f"{report.name}: the header stands on line {below}; remove the lines before it"
            )
        if first.lstrip().startswith(("{", "[{")):
            raise ValueError(f"{report.name}: the file is JSON; name it .jsonl or .json")
        dialect = _dialect(first, [text for _, text in head], path.name.lower())
        records = _records(head, source, dialect, report)
        line, header = next(records, (1, []))
        header = [cell.strip() for cell in header]
        _tell(line, dialect, header, report)
        commas: tuple[int, ...] = ()
        waiting = list(islice(records, SAMPLE))
        commas = _decimal_commas(header, [cells for _, cells in waiting])
        while waiting:
            for line, cells in waiting:
                if [cell.strip() for cell in cells] == header:
                    report.add(line, "", "header stands again")
                elif len(cells) != len(header):
                    report.add(
                        line,
                        "",
                        "CSV row is malformed",
                        f"{len(cells)} fields, {len(header)} in the header",
                    )
                else:
                    for i in commas:
                        if _THOUSANDS.fullmatch(cells[i]):
                            cells[i] = cells[i].replace(".", "").replace(",", ".")
                            report.once(line, header[i], "points of thousands")
                        elif _DECIMAL_COMMA.fullmatch(cells[i]):
                            cells[i] = cells[i].replace(",", ".")
                            report.once(line, header[i], "decimal commas")
                    yield line, {key: cell or None for key, cell in zip(header, cells, strict=True)}
            waiting = list(islice(records, SAMPLE))


def _tell(line: int, dialect: Dialect, header: list[str], report: Report) -> None:
    for key in {key for key in header if header.count(key) > 1 and key}:
        report.add(line, key, "key is given twice")
    for told, reason in (
        (dialect.delimiter not in ",\t", "delimiter is no comma"),
        (dialect.backslash, "quotes are escaped by backslashes"),
        (dialect.space, "space after the delimiter"),
    ):
        if told:
            report.add(line, "", reason)


def _encoding(path: Path, report: Report) -> str:
    """UTF-8, or cp1252 where bytes stand that UTF-8 has not and never a character that only UTF-8
    writes so."""
    broken = 0
    with files.unpacked(path, report.name) as stream:
        for line, raw in files.lines(stream, Report(report.name)):
            if not raw.isascii():
                try:
                    raw.decode("utf-8")
                    return "utf-8"
                except UnicodeDecodeError as error:
                    text = raw.decode("utf-8", "surrogateescape")
                    if any(ord(char) > 127 and not "\udc80" <= char <= "\udcff" for char in text):
                        return "utf-8"
                    letter = bytes([raw[error.start]]).decode("cp1252", "replace")
                    broken = broken or (
                        line if letter.isprintable() and raw[error.start] != 0xFF else 0
                    )
    if broken:
        report.add(broken, "", "file is not UTF-8")
    return "cp1252" if broken else "utf-8"


def _decoded(stream: Any, encoding: str, report: Report) -> Iterator[tuple[int, str]]:
    """(line, text with its end); a file that ends its lines in CR alone is cut there."""
    for line, raw in files.lines(stream, report):
        text = raw.decode(encoding, "surrogateescape")
        if line == 1 and "\r" in text.rstrip("\r\n") and '"' not in text:
            yield from enumerate(
                text.replace("\r\n", "\r").replace("\r", "\r\n").splitlines(keepends=True), 1
            )
        else:
            yield line, text


def _dialect(header: str, sample: list[str], name: str) -> Dialect:
    """The delimiter that makes the most known names of the header, and the escape that makes the
    most whole rows."""
    marks = sorted(
        {mark for mark in header.rstrip("\r\n") if not mark.isalnum() and mark not in "\"' _-."}
    )
    usual = "\t" if ".tsv" in name else ","

    def known(mark: str) -> tuple[int, bool]:
        cells = header.rstrip("\r\n").split(mark)
        return sum(_known(cell.strip(' "')) for cell in cells), mark == usual

    delimiter = max(marks, key=known, default=usual)
    if not known(delimiter)[0]:
        delimiter = usual
    space = header.count(delimiter) > 0 and header.count(delimiter) == header.count(f"{delimiter} ")
    plain, escaped = Dialect(delimiter, False, space), Dialect(delimiter, True, space)
    if not any('\\"' in text for text in sample):
        return plain
    width = len(_try(plain, header) or _try(escaped, header) or [])
    whole = [
        sum(
            len(cells) == width
            for _, cells in _records(list(enumerate(sample, 1)), iter(()), dialect, Report(""))
        )
        for dialect in (plain, escaped)
    ]
    if whole[1] <= whole[0]:
        return plain
    runs = [found for text in sample for found in _BACKSLASHES.findall(text)]
    alone = any(len(run) % 2 and not quote for run, quote in runs)
    return escaped._replace(doubled=not alone)


def _names_in(text: str) -> int:
    """How many cells of a line are names of feedback's columns."""
    return sum(names.normal(cell.strip(' "')) in names.KNOWN for cell in re.split("[,;\t|]", text))


def _known(cell: str) -> bool:
    """Whether a header's cell is a name of feedback's, a pair's side included."""
    name = names.normal(cell)
    return (
        name in names.KNOWN
        or any(side in name.split("_") for sides in names.SIDES for side in sides)
        or any(part in names.KNOWN for part in name.split("_"))
    )


def _try(dialect: Dialect, record: str) -> list[str] | None:
    try:
        return dialect.cells(record)
    except csv.Error:
        return None


def _records(
    head: list[tuple[int, str]],
    source: Iterator[tuple[int, str]],
    dialect: Dialect,
    report: Report,
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every whole record, blank lines left out and told.

    A record whose quotes are broken costs its first line; with an odd number of quotes also the
    lines up to the one that closes it, unless that one opens a cell of its own (then the quote was
    never closed, and they are records).
    """
    waiting, at = head, 0  # lines read and not yet used, from `at` on

    def ahead(i: int) -> tuple[int, str] | None:
        nonlocal waiting, at
        if at > 4096:
            waiting, at = waiting[at:], 0
        while at + i >= len(waiting):
            more = next(source, None)
            if more is None:
                return None
            waiting.append(more)
        return waiting[at + i]

    while (found := ahead(0)) is not None:
        line, text = found
        if not text.strip("\r\n"):
            report.add(line, "", "line is blank")
            at += 1
            continue
        used, record, error = 1, text, None
        while True:
            try:
                cells = dialect.cells(record)
                break
            except csv.Error as broken:
                error = broken
                if not _ENDED.search(str(broken)):
                    cells = None
                    break
            added = []
            while (more := ahead(used)) is not None and len(record) < files.LIMIT:
                added.append(more[1])
                used += 1
                if '"' in more[1]:
                    break
            if not added:
                cells = None
                break
            record += "".join(added)
        if cells is None:
            lost = _swallowed(ahead, text, dialect)
            for i in range(lost):
                report.add(ahead(i)[0], "", "CSV row is malformed", error)
            at += lost
        else:
            at += used
            yield line, cells


def _swallowed(ahead: Any, text: str, dialect: Dialect) -> int:
    """How many lines a record with broken quotes costs."""
    quotes = _quotes(text, dialect)
    lost = 1
    while quotes % 2 and (more := ahead(lost)) is not None:
        if '"' in more[1]:
            before = more[1][: more[1].index('"')].rstrip(" ")
            if not before or before.endswith(dialect.delimiter):
                return 1 if lost < 2 or _plain(ahead, lost, text, dialect) else lost
            quotes += _quotes(more[1], dialect)
        lost += 1
    return lost if quotes % 2 == 0 else (1 if _plain(ahead, lost, text, dialect) else lost)


def _quotes(text: str, dialect: Dialect) -> int:
    return (text.replace('\\"', "") if dialect.backslash else text).count('"')


def _plain(ahead: Any, lost: int, text: str, dialect: Dialect) -> bool:
    """Whether each of the lines between is a record of its own: as many cells as the broken one
    would have."""
    width = (text.split('"')[0] + "x").count(dialect.delimiter) + 1
    widths = {(_try(dialect, ahead(i)[1]) or []).__len__() for i in range(1, min(lost, 1000))}
    return len(widths) <= 1 and (not widths or min(widths) >= max(2, width))


def _decimal_commas(header: list[str], sample: list[list[str]]) -> tuple[int, ...]:
    """The columns of scores and weights that write 8,5 for 8.5: every cell is a number, one at
    least with a comma."""
    found = []
    for i, name in enumerate(header):
        if names.normal(name) in names.TEXTS:
            continue
        cells = [cells[i] for cells in sample if len(cells) == len(header) and cells[i].strip()]
        commas = [bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in cells]
        if any(commas) and all(
            comma or NUMBER.fullmatch(cell) or _THOUSANDS.fullmatch(cell)
            for comma, cell in zip(commas, cells, strict=True)
        ):
            found.append(i)
    return tuple(found)
