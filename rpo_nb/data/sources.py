"""Rows of feedback from wherever they lie: the hub, a folder, a file, or memory.

Every reader yields (line, row): the 1-based line of the file, or row of the table, and whatever stood there. What a file
does to its rows (encoding, line ends, broken JSON) is reported here; what the rows say is checked in `rpo_nb.data.feedback`.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from rpo_nb import hub
from rpo_nb.data.defects import Report

REPEATED_KEYS = object()  # key under which an object lists the keys it was given twice; no JSON key can equal it
SCORE_KEYS = ("reward", "score", "label")  # of flat rows, and so of CSV columns that hold numbers
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_JSON_SPACE = " \t\r\n"
_SPACE = re.compile(f"[{_JSON_SPACE}]*")


def rows(source: Any, *, split: str, report: Report, second: bool = False, revision: str = "main") -> Iterator[tuple[int, Any]]:
    """(line, row) of a hub id, a folder, a file, a list of rows, a Dataset or a DatasetDict.

    A folder was saved by datasets, or holds files as a data set on the hub does (flan.jsonl …, data/train-*.parquet). split:
    which part of a hub id, folder or DatasetDict. revision: of a hub id. second: another split of the same source is read besides, so there must be
    splits. Sets report.part. Raises ValueError with the remedy if there is nothing to read.
    """
    report.part = split if second else ""
    if isinstance(source, datasets.DatasetDict):
        source, second = _part(source, split, report.name), False
    if isinstance(source, (list, tuple, datasets.Dataset)):
        _without_splits(second, report)
        return enumerate(source, 1)
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise ValueError(f"feedback source {source!r} is neither a name, a path, a list of rows nor a Dataset; give one of these")
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split, report, second)
    reader = _reader(path)
    if path.is_file() and reader:
        _without_splits(second, report)
        return reader(path, report)
    if path.is_file():
        raise ValueError(f"{path.name}: the ending is not one of {', '.join(READERS)}; convert the file or rename it")
    if isinstance(source, str) and not reader and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return enumerate(_hub(source, split, revision), 1)
    raise ValueError(f"feedback {str(source)!r} is no file, no folder and no hub id (owner/name); check the spelling")


def _without_splits(second: bool, report: Report) -> None:
    if second:
        raise ValueError(f"{report.name} has no splits, so data.validation_split {report.part!r} is not in it; leave that empty, "
                         "or give a hub id, a folder or a DatasetDict with that split")


def _reader(path: Path) -> Any:
    return next((read for ending, read in READERS.items() if path.name.lower().endswith(ending)), None)


def _hub(name: str, split: str, revision: str = "main") -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the hub client raises its own, its transport's and the operating system's errors
        reason, remedy = hub.problem(error, name, kind="dataset")
        raise ValueError(f"feedback {name!r} is no file or folder here, and the hub did not give its split {split!r} ({reason}); "
                         f"{remedy}") from error


def _folder(path: Path, split: str, report: Report, second: bool) -> Iterator[tuple[int, Any]]:
    """Rows of a folder: saved by datasets, or with the files of a data set on the hub."""
    if (path / "dataset_dict.json").is_file():
        return enumerate(_part(datasets.load_from_disk(str(path)), split, report.name), 1)
    if (path / "state.json").is_file():
        _without_splits(second, report)
        return enumerate(datasets.load_from_disk(str(path)), 1)
    return _files(path, split, report)


def _files(path: Path, split: str, report: Report) -> Iterator[tuple[int, Any]]:
    """Rows of a folder in the hub's layout. datasets says which files are the split's; they are read by our own readers, so
    that a faulty line costs no more than itself."""
    try:
        found = datasets.load_dataset_builder(str(path)).config.data_files or {}
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0].replace(str(path), path.name)
        raise ValueError(f"folder {report.name!r} was not saved by datasets' save_to_disk and is no data set in the hub's layout "
                         f"({reason}); give one of these, or one file") from error
    if split not in found:
        raise ValueError(f"{report.name}: there is no split {split!r}; set data.split (or data.validation_split) to one of "
                         f"{', '.join(found)}")
    files, part = [Path(file) for file in found[split]], report.part
    unread = next((file for file in files if not _reader(file)), None)
    if unread:
        raise ValueError(f"folder {report.name!r} was not saved by datasets' save_to_disk, and {unread.name} in it ends in none "
                         f"of {', '.join(READERS)}; convert the file")
    for file in files:
        report.part = ": ".join(filter(None, (part, file.name if len(files) > 1 else "")))
        yield from _reader(file)(file, report)


def _part(parts: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    if split not in parts:
        raise ValueError(f"{name}: there is no split {split!r}; set data.split to one of {', '.join(parts)}")
    return parts[split]


def _lines(path: Path, report: Report) -> Iterator[tuple[int, bytes]]:
    """Physical lines, cut at "\\n" only (U+2028 and friends are text), without byte-order mark and line end."""
    line, crlf = 0, 0
    with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        try:
            for line, raw in enumerate(stream, 1):
                raw = _without_bom(raw, report) if line == 1 else raw
                if raw.endswith(b"\r\n"):
                    crlf = crlf or line
                yield line, raw.rstrip(b"\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            report.add(line + 1, "", "file is damaged from here on", error)
    if crlf:
        report.add(crlf, "", "line ends in CR LF")


def _without_bom(head: bytes, report: Report) -> bytes:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{report.name}: the file is UTF-16; save it as UTF-8")
    if head.startswith(b"\xef\xbb\xbf"):
        report.add(1, "", "byte-order mark")
    return head.removeprefix(b"\xef\xbb\xbf")


def _decode(raw: bytes) -> str:
    """UTF-8; undecodable bytes become lone surrogates, which are found and repaired text by text."""
    return raw.decode("utf-8", "surrogateescape")


def _json_lines(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    for line, raw in _lines(path, report):
        text = _decode(raw).strip(_JSON_SPACE)
        if not text:
            report.add(line, "", "line is blank")
            continue
        try:
            values, repair = _parse(text)
        except (ValueError, RecursionError):  # RecursionError: nested deeper than the interpreter can follow
            report.add(line, "", "line is not JSON", text)
            continue
        if repair:
            report.add(line, "", repair)
        for value in values:
            if isinstance(value, list) and any(isinstance(item, dict) for item in value):
                report.add(line, "", "array of objects on one line")
                yield from ((line, item) for item in value)
            else:
                yield line, value


def _object(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object as a dict (the last of equal keys wins) that remembers which keys were given twice."""
    out = dict(pairs)
    if len(out) < len(pairs):
        out[REPEATED_KEYS] = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
    return out


_STRICT = json.JSONDecoder(object_pairs_hook=_object)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object, strict=False)  # takes raw control characters in strings


def _parse(text: str) -> tuple[list, str]:
    """The JSON values of a line, and how the line had to be repaired ("" if not). ValueError: not JSON."""
    try:
        return [_STRICT.decode(text)], ""
    except ValueError:
        values, at = [], 0
    while at < len(text):
        value, at = _LENIENT.raw_decode(text, at)
        values.append(value)
        at = _SPACE.match(text, at).end()
    return values, "several objects on one line" if len(values) > 1 else "raw control characters in JSON"


def _json(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """A .json file: one array of rows, one row, or (when neither) JSON lines. Rows of an array are counted from 1."""
    whole = path.read_bytes()
    try:
        value = _LENIENT.decode(_decode(whole.removeprefix(b"\xef\xbb\xbf")).strip(_JSON_SPACE))
    except (ValueError, RecursionError):
        yield from _json_lines(path, report)
        return
    _without_bom(whole[:3], report)
    yield from enumerate(value if isinstance(value, list) else [value], 1)


def _parquet(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{report.name}: this is not a complete Parquet file; fetch or write it again") from error
    with table:
        line = 0
        for batch in table.iter_batches(batch_size=1024):
            for line, row in enumerate(batch.to_pylist(), line + 1):
                yield line, row


def _csv(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """Rows of a CSV file with a header; the line is where the row begins. Numbers in score columns are no strings here."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
    with path.open("rb") as stream:
        _without_bom(stream.read(3), report)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        table = csv.reader(stream, strict=True)
        header = next(table, [])
        for key in (key for key, n in Counter(header).items() if n > 1):
            report.add(1, key, "key is given twice")
        while True:
            line = table.line_num + 1
            try:
                cells = next(table)
            except StopIteration:
                return
            except csv.Error as error:
                report.add(line, "", "CSV row is malformed", error)
                continue
            if not cells:
                report.add(line, "", "line is blank")
            elif len(cells) != len(header):
                report.add(line, "", "CSV row is malformed", f"{len(cells)} fields, {len(header)} in the header")
            else:
                yield line, {key: _cell(cell) if key in SCORE_KEYS else cell for key, cell in zip(header, cells, strict=True)}


def _cell(cell: str) -> Any:
    """A score of a CSV file: a number where it is one, None where nothing stands."""
    return float(cell) if NUMBER.fullmatch(cell) else (cell or None)


READERS = {".json": _json, ".jsonl": _json_lines, ".jsonl.gz": _json_lines, ".parquet": _parquet, ".csv": _csv}
