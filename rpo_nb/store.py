"""Files that are whole or absent, and whose bytes depend on nothing but their content."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write to a temporary name in the same folder, then rename: a reader never sees half a file. Text is UTF-8."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    os.replace(scratch, path)
    return path


def write_json(path: Path | str, value: Any) -> Path:
    """JSON with sorted keys."""
    return atomic_write(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n")


def packed(frame: Any) -> bytes:
    """A DataFrame's rows as JSON lines, gzipped without a time stamp. NaN becomes null."""
    lines = frame.to_json(orient="records", lines=True, force_ascii=False) if len(frame) else ""
    return gzip.compress(lines.encode("utf-8"), mtime=0)


def unpacked(path: Path) -> list[dict]:
    """The rows of a file of `packed` bytes."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends well: a folder that exists is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
