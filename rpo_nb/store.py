"""Files that are whole or absent, and whose bytes depend on nothing but their content. A full disk leaves no half of one."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your quota on this disk is used up",
        errno.EFBIG: "a file may not grow so large here (ulimit -f)"}
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")  # safetensors raises an error of its own, without an errno
UMASK = os.umask(0)  # there is no way to read it but to set it
os.umask(UMASK)


class DiskFull(OSError, ValueError):
    """There was no room for a file. A ValueError because its one sentence tells the user what to do."""


@contextmanager
def room_for(path: Path | str) -> Iterator[None]:
    """Turn a full disk while `path` is written into one sentence. Other errors pass. Raises DiskFull.

    What was written in part is the caller's to remove: `atomic_write` and `finished` do.
    """
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        number, free = getattr(error, "errno", None), _free_mib(Path(path))
        import resource  # not on Windows

        limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        torchs = "inline_container.cc" in str(error) and (limited or free < 16)  # torch.save does not say why it failed
        if number not in FULL and not torchs and not any(word in str(error) for word in FULL_WORDS):
            raise
        number = errno.EFBIG if FULL_WORDS[2] in str(error) or (torchs and free >= 16) else number if number in FULL else errno.ENOSPC
        remedy = "raise the limit" if number == errno.EFBIG else f"free some space ({free:.0f} MiB are left)"
        told = DiskFull(f"{FULL[number]}: {'/'.join(Path(path).parts[-2:])} could not be written; {remedy} and start again: what is "
                        "done is kept")
        told.errno = number
        raise told from error


def _free_mib(path: Path) -> float:
    """What is left on the disk of a path that may not be there yet."""
    return shutil.disk_usage(next(folder for folder in path.absolute().parents if folder.is_dir())).free / 2**20


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write to a temporary name in the same folder, then rename: a reader never sees half a file. Text is UTF-8.

    Raises DiskFull when there is no room; nothing of the file is left then, and what was there before is untouched.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
            os.replace(scratch, path)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise
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


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; the file may be larger than the memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def digest_of(path: Path | str) -> str:
    """What names a file by its bytes, a folder by its files' names and bytes; 64 hexadecimal digits."""
    path = Path(path)
    if not path.is_dir():
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        digest.update(f"{len(name)} {name} {file_digest(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends well: a folder that exists is complete.

    Raises DiskFull when there is no room; nothing of the folder is left then, and what was there before is untouched.
    """
    with room_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~UMASK)  # a temporary folder is its owner's alone; a result follows the user's umask
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
