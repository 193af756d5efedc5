"""Rows of one file: JSON lines, Parquet; packed with gzip, bzip2, xz or zstd by its bytes,
not its name.

Every reader yields (line, row) and holds no more than one row, however long the file is.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from rpo_nb.data import names
from rpo_nb.data.arrow import class_labels_of, to_rows
from rpo_nb.data.defects import Report

REPEATED_KEYS = (
    object()
)  # key under which an object lists the keys it was given twice; no JSON key can equal it
LIMIT = 64 * 2**20  # bytes of a line, and characters of one value of a .json file
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zstd": "zstd"}
DAMAGE = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
)  # what unpackers raise; gzip's and pyarrow's are OSErrors
_OTHERS = {  # what a file begins with: what it is, and what to do
    b"PAR1": "Parquet; name it .parquet",
    b"ARROW1": "Arrow; save it as Parquet",
    b"\xff\xff\xff\xff": "Arrow; save it as Parquet",
    b"\xff\xfe\0\0": "UTF-32; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-32; save it as UTF-8",
    b"PK\x03\x04": "a zip archive or an Excel book; unpack it, or save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel book; save it as CSV UTF-8",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
    b"%PDF": "PDF; give the rows as JSON lines",
    b"ORC": "ORC; save it as Parquet",
    b"Obj\x01": "Avro; save it as Parquet",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
}
JSON_SPACE = " \t\r\n"
SPACE = re.compile(f"[{JSON_SPACE}]*")


class _Unpacking(io.RawIOBase):
    """An unpacker that gives what it has: of a file that is cut off, all that came before."""

    def __init__(self, stream: Any):
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.stream.close()
        super().close()


def unpacked(path: Path, name: str) -> BinaryIO:
    """The file's bytes, unpacked. Raises ValueError where they are no text: Parquet, Excel, an
    archive."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"\x1f\x8b"):
        opened: Any = io.BufferedReader(_Unpacking(gzip.open(path, "rb")), 2**16)  # noqa: SIM115
    elif head.startswith(b"BZh"):
        opened = io.BufferedReader(_Unpacking(bz2.open(path, "rb")), 2**16)  # noqa: SIM115
    elif head.startswith(b"\xfd7zXZ\x00"):
        opened = io.BufferedReader(_Unpacking(lzma.open(path, "rb")), 2**16)  # noqa: SIM115
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        opened = io.BufferedReader(
            pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), 2**16
        )
    else:
        opened = path.open("rb", buffering=2**20)
    try:
        head = opened.peek(512)[:512]
    except DAMAGE:
        opened.close()
        raise ValueError(
            f"{name}: the file is damaged from its first byte on; fetch it again"
        ) from None
    problem = next((told for begin, told in _OTHERS.items() if head.startswith(begin)), "")
    if head[257:262] == b"ustar":
        problem = "a tar archive; unpack it"
    elif not problem and (head.startswith((b"\xff\xfe", b"\xfe\xff")) or _is_utf16(head)):
        problem = "UTF-16; save it as UTF-8"
    if problem:
        opened.close()
        raise ValueError(f"{name}: the file is {problem}")
    return opened


def _is_utf16(head: bytes) -> bool:
    """Whether every other byte is mostly 0: UTF-16 without its mark."""
    zeros = sorted((head[::2].count(0), head[1::2].count(0)))
    return len(head) > 20 and zeros[1] > len(head) // 3 and zeros[0] < len(head) // 20


def lines(stream: BinaryIO, report: Report) -> Iterator[tuple[int, bytes]]:
    """Physical lines with their ends, cut at "\\n" only (U+2028 and friends are text), without the
    byte-order mark."""
    line = 0
    while True:
        try:
            raw = stream.readline(LIMIT + 1)
            line += 1
            if len(raw) > LIMIT:
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(LIMIT)
                report.add(line, "", "line is longer than 64 MB")
                continue
        except DAMAGE as error:
            report.add(line + 1, "", "file is damaged from here on", error)
            return
        if not raw:
            return
        if line == 1 and raw.startswith(codecs.BOM_UTF8):
            report.add(1, "", "byte-order mark")
            raw = raw.removeprefix(codecs.BOM_UTF8)
        yield line, raw


def json_lines(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """One value a line. Undecodable bytes become lone surrogates, which are found and repaired text
    by text."""
    crlf, found = 0, False
    with unpacked(path, report.name) as stream:
        for line, raw in lines(stream, report):
            crlf = crlf or (line if raw.endswith(b"\r\n") else 0)
            text = raw.decode("utf-8", "surrogateescape").strip(JSON_SPACE)
            if not text:
                report.add(line, "", "line is blank")
                continue
            try:
                values, repair = _parse(text)
            except (
                ValueError,
                RecursionError,
            ):  # RecursionError: nested deeper than the interpreter can follow
                cells = [cell.strip(' "') for cell in re.split("[,;\t|]", text[:1000])]
                if line == 1 and sum(names.normal(cell) in names.KNOWN for cell in cells) > 1:
                    raise ValueError(
                        f"{report.name}: the file is CSV, with a header; name it .csv"
                    ) from None
                if not found and text in ("{", "[", "[{"):
                    raise ValueError(
                        f"{report.name}: these are not JSON lines, an object goes over several "
                        "lines; write one "
                        "object on each line (jq -c .), or name the file .json"
                    ) from None
                report.add(line, "", "line is not JSON", text)
                continue
            found = True
            if repair:
                report.add(line, "", repair)
            for value in values:
                if isinstance(value, list) and any(isinstance(item, dict) for item in value):
                    report.add(line, "", "array of objects on one line")
                    yield from ((line, item) for item in value)
                else:
                    yield line, value
    if crlf:
        report.add(crlf, "", "line ends in CR LF")


def _object(pairs: list[tuple[str, Any]]) -> dict:
    """A JSON object as a dict (the last of equal keys wins) that remembers which keys were given
    twice."""
    out = dict(pairs)
    if len(out) < len(pairs):
        out[REPEATED_KEYS] = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
    return out


_STRICT = json.JSONDecoder(object_pairs_hook=_object)
LENIENT = json.JSONDecoder(
    object_pairs_hook=_object, strict=False
)  # takes raw control characters in strings


def _parse(text: str) -> tuple[list, str]:
    """The JSON values of a line, and how the line had to be repaired ("" if not). ValueError: not
    JSON."""
    try:
        return [_STRICT.decode(text)], ""
    except ValueError:
        values, at = [], 0
    while at < len(text):
        value, at = LENIENT.raw_decode(text, at)
        values.append(value)
        at = SPACE.match(text, at).end()
    return values, "several objects on one line" if len(
        values
    ) > 1 else "raw control characters in JSON"


def parquet(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """Rows of a Parquet file; maps are objects, class labels their names."""
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            before, classes = 0, class_labels_of(table.schema_arrow)
            for batch in table.iter_batches(batch_size=1024):
                yield from enumerate(to_rows(batch, classes), before + 1)
                before += batch.num_rows
    except (pyarrow.ArrowInvalid, OSError) as error:
        with path.open("rb") as stream:
            head = stream.read(4)
        reason = (
            "is gzip; unpack it"
            if head.startswith(b"\x1f\x8b")
            else "is not a complete Parquet file, or damaged; fetch or write it again"
            if head == b"PAR1"
            else "is no Parquet file; name it for what it is (.csv, .jsonl …)"
        )
        raise ValueError(f"{report.name}: this {reason}") from error
