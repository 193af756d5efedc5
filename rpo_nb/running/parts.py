"""A part of a long reproduction as one small file that can be committed: what one study found with
one seed, without the weights that said it.

What a part holds is what its making looked up (`store.recorded`): finished folders and sealed files
of the output folder and of the cache. A folder's stamp keeps the hashes of the weights that are
left out, so that every key made of them stays what it was; `store.whole` makes them again where
they are needed. A part knows what it was made from by its key, and its files by their hashes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rpo_nb.store import STAMP, Damaged, atomic_write, fault, read_json

HEADER = "part.json"
PACKED = ".gz"  # such a file travels unpacked: one compression of all is smaller
WEIGHTS = (".safetensors",)
# What others are keyed by. Another kind of machine may train it to other bytes; the parts of a seed
# must agree on it.
REFERENCES = "cache/references/"


class Part(NamedTuple):
    """What a part's file holds. header: its key, and whatever else was said of it; files: name ->
    bytes, a name beginning with that of its root."""

    header: dict[str, Any]
    files: dict[str, bytes]


def pack(
    file: Path,
    header: dict[str, Any],
    found: Collection[Path],
    roots: dict[str, Path],
    *,
    keep: Callable[[str], bool] = lambda name: False,
) -> Path:
    """Write a part; the same content gives the same bytes.

    header: {"key": ...} and more. found: finished folders and sealed files below the roots (name ->
    folder), a file with the finished folder that it is in; what is below none, or gone by now, is
    no part of it. keep: whether a folder, named from its root on, travels with its weights.
    """
    files: dict[str, bytes] = {}
    found = {*found, *(path.parent for path in found if (path.parent / STAMP).is_file())}
    for path in sorted(found):
        root = next((name for name, folder in roots.items() if path.is_relative_to(folder)), None)
        if root is None or not path.exists():
            continue
        name = f"{root}/{path.relative_to(roots[root]).as_posix()}"
        if path.is_file():
            files[name] = path.read_bytes()
        elif fault(path) is None:
            files |= {f"{name}/{file}": content for file, content in _light(path, keep(name))}
    return _write(file, header, files)


def _write(file: Path, header: dict[str, Any], files: dict[str, bytes]) -> Path:
    stamped = {name for name in files if str(PurePosixPath(name).with_name(STAMP)) in files}
    unpacked = {name: raw for name in stamped if (raw := _unpacked(name, files[name]))}
    files = {name: unpacked.get(name, content) for name, content in files.items()}
    header = header | {
        "sha256": {name: _sha(content) for name, content in files.items()},
        "unpacked": sorted(unpacked),
    }
    first = (HEADER, (json.dumps(header, sort_keys=True, indent=1) + "\n").encode())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in [first, *sorted(files.items())]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return atomic_write(file, lzma.compress(tar.getvalue(), preset=6))


def _unpacked(name: str, content: bytes) -> bytes | None:
    """What a gzipped file holds, where packing that gives the same bytes again."""
    if not name.endswith(PACKED):
        return None
    raw = gzip.decompress(content)
    return raw if gzip.compress(raw, mtime=0) == content else None


def _pack_again(files: dict[str, bytes], names: Collection[str]) -> dict[str, bytes]:
    """Files of which those named are gzipped. The stamp beside one takes its hash from these bytes:
    another zlib may pack the same content otherwise."""
    files = files | {name: gzip.compress(files[name], mtime=0) for name in names}
    for name in names:
        path = PurePosixPath(name)
        stamp = json.loads(files[beside := str(path.with_name(STAMP))])
        if stamp["sha256"][path.name] != (digest := _sha(files[name])):
            stamp["sha256"][path.name] = digest
            files[beside] = _as_stamp(stamp)
    return files


def _as_stamp(stamp: dict[str, Any]) -> bytes:
    return (json.dumps(stamp, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


def _light(folder: Path, whole: bool) -> list[tuple[str, bytes]]:
    """The files of a finished folder, its stamp last. Unless whole: a policy and the weights of
    anything are left out, and only their hashes stay in the stamp."""
    stamp = read_json(folder / STAMP)
    absent = dict(stamp.get("left_out", {}))
    for name in stamp["sha256"] if not whole else ():
        if name.endswith(WEIGHTS) or PurePosixPath(name).parts[0] == "policy":
            absent[name] = stamp["sha256"][name]
    here = {name: digest for name, digest in stamp["sha256"].items() if name not in absent}
    stamp = stamp | {"sha256": here} | ({"left_out": absent} if absent else {})
    return [*((name, (folder / name).read_bytes()) for name in here), (STAMP, _as_stamp(stamp))]


def read(file: Path) -> Part:
    """A part, every file of which is as it was packed. Raises Damaged where it is not."""
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(file.read_bytes()))) as archive:
            files = {
                member.name: archive.extractfile(member).read()
                for member in archive
                if member.isreg()
            }
        header = json.loads(files.pop(HEADER))
        if {name: _sha(content) for name, content in files.items()} != header["sha256"]:
            raise ValueError("its files are not as they were packed")
        if not isinstance(header["key"], str):
            raise TypeError("its key is no text")
        return Part(header, _pack_again(files, header.get("unpacked", [])))
    except (lzma.LZMAError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file.name} is damaged ({type(error).__name__}: {error})") from error


def install(part: Part, roots: dict[str, Path]) -> None:
    """Put a part's files where they were made, stamps last. A finished folder that is here whole
    stays as it is. Raises Damaged for a name that leads out of the roots, and where a reference
    that is here is another one than the part's."""
    places = {}
    for name in part.files:
        root, *rest = PurePosixPath(name).parts
        if root not in roots or not rest or ".." in rest or PurePosixPath(name).is_absolute():
            raise Damaged(f"{name!r:.80} is no place for a file of a part")
        places[name] = roots[root].joinpath(*rest)
    stamps = {name for name, place in places.items() if place.name == STAMP}
    stay = set()
    for name in stamps:
        folder, stamp = places[name].parent, json.loads(part.files[name])
        here = read_json(folder / STAMP) if fault(folder) is None else None
        if here and name.startswith(REFERENCES) and _digests(here) != _digests(stamp):
            raise Damaged(f"what it was made from is not the {folder.name} that is here")
        # one that is here without its weights gives way to one that has them
        if here and ("left_out" in stamp or "left_out" not in here):
            stay |= {f"{name.removesuffix(STAMP)}{inner}" for inner in (STAMP, *stamp["sha256"])}
    for name in sorted(set(places) - stay, key=lambda name: (name in stamps, name)):
        place, content = places[name], part.files[name]
        if not place.is_file() or place.read_bytes() != content:
            atomic_write(place, content)


def _digests(stamp: dict[str, Any]) -> dict[str, str]:
    """Name -> SHA-256 of all that a folder was made with."""
    return stamp["sha256"] | stamp.get("left_out", {})


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
