"""Files that are whole or absent, and whose bytes depend on nothing but their content. A full disk
leaves no half of one.

What we made is known by its hashes: a finished folder has them in its stamp, done.json, and a JSON
file of `write_sealed` in itself. They are compared whenever something is read; what is not as it
was written is told in one line and made again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rpo_nb.remedies import room_for

STAMP = "done.json"
# a file or folder that a kill left half written
LEFT_OVER = re.compile(r"(\..+)\.(\d+\.tmp|[a-z0-9_]{8}(\.tmp)?)")
UMASK = os.umask(0)  # there is no way to read it but to set it
os.umask(UMASK)


def atomic_write(path: Path | str, data: bytes | str) -> Path:
    """Write to a temporary name in the same folder, then rename: a reader never sees half a file.
    Text is UTF-8.

    Raises DiskFull when there is no room; nothing of the file is left then, and what was there
    before is untouched.
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
    return atomic_write(
        path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    )


def packed(frame: Any) -> bytes:
    """A DataFrame's rows as JSON lines, gzipped without a time stamp. NaN becomes null."""
    lines = frame.to_json(orient="records", lines=True, force_ascii=False) if len(frame) else ""
    return gzip.compress(lines.encode("utf-8"), mtime=0)


def unpacked(path: Path) -> list[dict]:
    """The rows of a file of `packed` bytes. Raises Damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise Damaged(
            f"{_named(path)} is damaged ({_words(error)}); remove it and start again: it "
            "is made again"
        ) from error


_DIGESTS: dict[tuple, str] = {}  # of this process: a reference is loaded ten times


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; the file may be larger than the memory. Within a
    process a file whose size and times are the same is read once."""
    stat = Path(path).stat()
    key = (os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key not in _DIGESTS:
        digest = hashlib.sha256()
        with Path(path).open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
        _DIGESTS[key] = digest.hexdigest()
    return _DIGESTS[key]


def digest_of(path: Path | str) -> str:
    """What names a file by its bytes, a folder by its files' names and bytes; 64 hexadecimal
    digits."""
    path = Path(path)
    if not path.is_dir():
        return file_digest(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        digest.update(
            f"{len(name)} {name} {file_digest(file)}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


@contextmanager
def finished(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends well: a folder that exists
    is complete.

    Raises DiskFull when there is no room; nothing of the folder is left then, and what was there
    before is untouched.
    """
    with room_for(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent)
        )
        try:
            yield temporary
            # a temporary folder is its owner's alone; a result follows the user's umask
            temporary.chmod(0o777 & ~UMASK)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


# ---- known by its hashes -------------------------------------------------------------------------


class Damaged(ValueError):
    """A file of our own is not what was written. Its one sentence names the file."""


def again(path: Path | str, why: str) -> None:
    """Say that something of ours is made again."""
    print(f"{_named(path)} {why}: made again", flush=True)


def _named(path: Path | str) -> str:
    return "/".join(Path(path).parts[-2:])


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]


def read_json(path: Path | str) -> Any:
    """A JSON file of ours. Raises Damaged where it is none, FileNotFoundError."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(
            f"{_named(path)} is damaged ({_words(error)}); remove it and start again: it "
            "is made again"
        ) from error


def seal(
    folder: Path, value: dict[str, Any] | None = None, *, leave_out: tuple[str, ...] = ()
) -> Path:
    """Write the stamp that makes a folder finished: `value` and the SHA-256 of every file in it.

    leave_out: names of files and folders below it that are no part of what is finished."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and file != folder / STAMP
        and file.relative_to(folder).parts[0] not in leave_out
    ]
    return write_json(
        folder / STAMP,
        (value or {})
        | {"sha256": {file.relative_to(folder).as_posix(): file_digest(file) for file in files}},
    )


def fault(folder: Path, *, quick: bool = False) -> str | None:
    """Why a folder is not what its stamp says, in words that follow its name; None where it is.
    quick: read only the files that were written after the stamp."""
    try:
        wanted = read_json(folder / STAMP)["sha256"].items()
        stamped = (folder / STAMP).stat().st_mtime_ns
    except FileNotFoundError:
        return "is not finished"
    except (Damaged, TypeError, KeyError, AttributeError):
        return f"has a damaged {STAMP}"
    for name, digest in wanted:
        try:
            if quick and (folder / name).stat().st_mtime_ns <= stamped:
                continue
            if file_digest(folder / name) != digest:
                return f"is damaged ({name} is not as it was written)"
        except OSError:
            return f"is damaged ({name} is missing)"
    return None


def sealed(folder: Path, *, quick: bool = False) -> dict[str, Any] | None:
    """The stamp of a finished folder, all of whose files are as they were written (quick: see
    `fault`); else None. A damaged one is told in a line and loses its stamp: it is not finished any
    more."""
    _looked_up.add(Path(os.path.abspath(folder)))
    why = fault(folder, quick=quick)
    if why is None:
        return read_json(folder / STAMP)
    if (folder / STAMP).exists():
        again(folder, why)
        (folder / STAMP).unlink(missing_ok=True)
    return None


def cached(folder: Path, make: Callable[[Path], None], *, of: dict[str, Any] | None = None) -> Path:
    """`folder`, made by `make(temporary folder)` unless it is there and whole; one process makes
    it, the others wait.

    of: what it was made from, for its stamp."""
    from filelock import FileLock

    _looked_up.add(Path(os.path.abspath(folder)))
    _makers[os.path.abspath(folder)] = (make, of)
    if fault(folder) is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            why = fault(folder)
            if why is not None:
                if folder.exists():
                    again(folder, why)
                # nobody else writes here: we hold the lock
                for half in folder.parent.glob(f".{folder.name}.*"):
                    _remove(half)
                with finished(folder) as temporary:
                    make(temporary)
                    seal(temporary, of)
    return folder


def mark(outputs: list[str]) -> Path:
    """Write the marker of a finished job, the one of its outputs that ends with .done: the hashes
    of the others."""
    (marker,) = (name for name in outputs if name.endswith(".done"))
    return write_sealed(marker, {name: file_digest(name) for name in outputs if name != marker})


def write_sealed(path: Path | str, value: dict[str, Any]) -> Path:
    """A JSON file that knows its own hash."""
    return write_json(path, value | {"sha256": _content(value)})


def read_sealed(path: Path | str) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where there is no such file. One that is not as it was
    written is told in a line and removed."""
    _looked_up.add(Path(os.path.abspath(path)))
    try:
        value = read_json(path)
        if value.pop("sha256") == _content(value):
            return value
        why = "is not as it was written"
    except FileNotFoundError:
        return None
    except (Damaged, AttributeError, KeyError, TypeError):
        why = "is damaged"
    again(path, why)
    Path(path).unlink(missing_ok=True)
    return None


def _content(value: Any) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


# ---- finished folders that travel without their weights ------------------------------------------

# What this process looked up: finished folders and sealed files, absolute.
_looked_up: set[Path] = set()
_makers: dict[str, tuple[Callable[[Path], None], dict[str, Any] | None]] = {}  # of `cached`


@contextmanager
def recorded() -> Iterator[set[Path]]:
    """Yield a set that fills with what this process looks up in the block: every finished folder
    and sealed file that its results are made from, whether it was there or is made."""
    global _looked_up
    before, _looked_up = _looked_up, set()
    try:
        yield _looked_up
    finally:
        _looked_up = before | _looked_up


def left_out(folder: Path | str) -> dict[str, str]:
    """Name -> SHA-256 of what a finished folder was made with and travelled without (its weights:
    see `running.parts`); empty where all is here."""
    try:
        return read_json(Path(folder) / STAMP).get("left_out", {})
    except (FileNotFoundError, NotADirectoryError, Damaged, AttributeError):
        return {}


def whole(folder: Path | str) -> None:
    """Make a folder of `cached` again that travelled without its weights, now that they are needed.

    A line tells it, and where they come out otherwise than they were: then whatever is keyed by
    their content is another thing here, and is made again. Raises ValueError when this process does
    not know how the folder is made.
    """
    from filelock import FileLock

    folder = Path(folder)
    if not left_out(folder):
        return
    if os.path.abspath(folder) not in _makers:
        raise ValueError(
            f"{_named(folder)} came without its weights and nothing here can make them; remove the "
            "folder and start again: it is made again"
        )
    make, of = _makers[os.path.abspath(folder)]
    with FileLock(f"{folder}.lock"):
        were = left_out(folder)
        if were:
            again(folder, "came without its weights, which are needed")
            with finished(folder) as temporary:
                make(temporary)
                seal(temporary, of)
    if any(file_digest(folder / name) != digest for name, digest in were.items()):
        print(f"{_named(folder)}: its weights come out otherwise on this machine", flush=True)


# ---- what a kill leaves --------------------------------------------------------------------------


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(root: Path, folders: Iterable[str]) -> int:
    """Remove the half-written files and folders that killed processes left below these folders of a
    root, and the half-written files beside them; return how many.

    Only under the lock of an output folder, with nothing running. In the cache, which others may be
    using, what a live process is making is left: it holds that folder's lock."""
    from filelock import FileLock, Timeout

    beside = [
        path for path in root.glob(".*.tmp") if path.is_file() and LEFT_OVER.fullmatch(path.name)
    ]
    removed = 0
    for path in [*beside, *(path for folder in folders for path in left_over(root / folder))]:
        name = path.name
        while found := LEFT_OVER.fullmatch(name):
            name = found[1][1:]
        lock = path.with_name(f"{name}.lock")
        try:
            if lock.exists():
                with FileLock(lock, timeout=0):
                    _remove(path)
            else:
                _remove(path)
            removed += 1
        except Timeout:
            continue
    return removed


def left_over(root: Path) -> list[Path]:
    """What is half written below a folder."""
    found = []
    for folder, folders, files in os.walk(root):
        half = [name for name in (*folders, *files) if LEFT_OVER.fullmatch(name)]
        found += [Path(folder) / name for name in half]
        folders[:] = [name for name in folders if name not in half]
    return sorted(found)


# the end of a job, in its output folder: python -m rpo_nb.store <its outputs>
if __name__ == "__main__":
    mark(sys.argv[1:])
