"""Rows of feedback from wherever they lie: the hub, a folder, a file, or memory.

Every reader yields (line, row): the 1-based line of the file, or row of the table, and whatever
stood there. What a file does to its rows is reported by its reader (`rpo_nb.data.files`,
`rpo_nb.data.delimited`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd

from rpo_nb.data import delimited, files, json_file
from rpo_nb.data.arrow import class_labels, to_rows
from rpo_nb.data.defects import Report
from rpo_nb.data.scores import is_null
from rpo_nb.remedies import hub_problem

READERS = {
    ".json": json_file.rows,
    ".jsonl": files.json_lines,
    ".ndjson": files.json_lines,
    ".parquet": files.parquet,
    ".csv": delimited.rows,
    ".tsv": delimited.rows,
}
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_UNREAD = {
    ".arrow",
    ".feather",
    ".avro",
    ".orc",
    ".xls",
    ".xlsx",
    ".ods",
    ".pkl",
    ".pickle",
    ".zip",
    ".tar",
    ".tgz",
    ".7z",
    ".db",
    ".sqlite",
}  # tables and archives
_SHARD = re.compile(r"(?:[-_.]?\d+)?(?:-of-\d+)?")


def rows(
    source: Any, *, split: str, report: Report, second: bool = False, revision: str = "main"
) -> Iterator[tuple[int, Any]]:
    """(line, row) of a hub id, a folder, a file, a list of rows, a pandas frame, a Dataset or a
    DatasetDict.

    A folder was saved by datasets, or holds files as a data set on the hub does (flan.jsonl …,
    data/train-*.parquet). split: which part of a hub id, folder or DatasetDict. revision: of a hub
    id. second: another split of the same source is read besides, so there must be splits. Sets
    report.part. Raises ValueError with the remedy if there is nothing to read.
    """
    report.part = split if second else ""
    if isinstance(source, datasets.DatasetDict):
        source, second = _part(source, split, report.name), False
    if isinstance(source, pd.DataFrame):
        source = source.to_dict("records")
    if isinstance(source, (list, tuple, datasets.Dataset)):
        _without_splits(second, report)
        return (
            _table(source)
            if isinstance(source, datasets.Dataset)
            else enumerate(map(_python, source), 1)
        )
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise ValueError(
            f"feedback source {source!r} is neither a name, a path, a list of rows nor a Dataset; "
            "give one of these"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split, report, second)
    reader = file_reader(path.name)
    if path.is_file() and reader:
        _without_splits(second, report)
        return reader(path, report)
    if path.is_file():
        files.unpacked(path, report.name).close()
        raise ValueError(
            f"{path.name}: the ending is not one of {', '.join(READERS)}, packed "
            f"({', '.join(files.PACKED)}) or not; "
            "convert the file or rename it"
        )
    if path.is_symlink():
        raise ValueError(f"{path.name}: the link leads nowhere; mend it or give the file itself")
    if isinstance(source, str) and not reader and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        return _table(_hub(source, split, revision))
    raise ValueError(
        f"feedback {str(source)!r} is no file, no folder and no hub id (owner/name); check the "
        "spelling"
    )


def file_reader(name: str) -> Any:
    """The reader of a file by its name's ending, packed or not; None if there is none."""
    name = name.lower()
    inner = next(
        (name.removesuffix(ending) for ending in files.PACKED if name.endswith(ending)), name
    )
    return next((read for ending, read in READERS.items() if inner.endswith(ending)), None)


def _without_splits(second: bool, report: Report) -> None:
    if second:
        raise ValueError(
            f"{report.name} has no splits, so data.validation_split {report.part!r} is not in it; "
            "leave that empty, "
            "or give a hub id, a folder or a DatasetDict with that split"
        )


def _table(table: datasets.Dataset) -> Iterator[tuple[int, Any]]:
    """Rows of a Dataset, some thousand at a time."""
    before, classes = 0, class_labels(table.features.to_dict())
    for batch in table.with_format("arrow").iter(1024):
        yield from enumerate(to_rows(batch, classes), before + 1)
        before += batch.num_rows


def _python(row: Any) -> Any:
    """A row in memory without numpy's types and a frame's holes."""
    return {key: _value(value) for key, value in row.items()} if isinstance(row, dict) else row


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_value(item) for item in value.tolist()]
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return None if type(value).__name__ in ("NAType", "NaTType") and is_null(value) else value


def _hub(name: str, split: str, revision: str = "main") -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split=split, revision=revision, trust_remote_code=False)
    except (
        Exception
    ) as error:  # the hub client raises its own, its transport's and the operating system's errors
        reason, remedy = hub_problem(error, name, kind="dataset")
        raise ValueError(
            f"feedback {name!r} is no file or folder here, and the hub did not give its split "
            f"{split!r} ({reason}); "
            f"{remedy}"
        ) from error


def _folder(path: Path, split: str, report: Report, second: bool) -> Iterator[tuple[int, Any]]:
    """Rows of a folder: saved by datasets, or with the files of a data set on the hub."""
    if (path / "dataset_dict.json").is_file():
        return _table(_part(datasets.load_from_disk(str(path)), split, report.name))
    if (path / "state.json").is_file():
        _without_splits(second, report)
        return _table(datasets.load_from_disk(str(path)))
    return _files(path, split, report)


def _files(path: Path, split: str, report: Report) -> Iterator[tuple[int, Any]]:
    """Rows of a folder of files, read by our own readers, so that a faulty line costs no more than
    itself."""
    found = _configured(path, report) or _found(path, report)
    if split not in found:
        raise ValueError(
            f"{report.name}: there is no split {split!r}; set data.split (or "
            "data.validation_split) to one of "
            f"{', '.join(found)}"
        )
    parts, part = found[split], report.part
    unread = next((file for file in parts if not file_reader(file.name)), None)
    if unread:
        raise ValueError(
            f"folder {report.name!r} was not saved by datasets' save_to_disk, and {unread.name} in "
            "it ends in none "
            f"of {', '.join(READERS)}; convert the file"
        )
    for file in parts:
        report.part = ": ".join(filter(None, (part, file.name if len(parts) > 1 else "")))
        yield from file_reader(file.name)(file, report)


def _configured(path: Path, report: Report) -> dict[str, list[Path]]:
    """The files of each split as the folder's README.md says (datasets reads it); {} if it says
    nothing of files."""
    card = path / "README.md"
    if not card.is_file() or "\nconfigs:" not in card.read_text(encoding="utf-8", errors="replace"):
        return {}
    script = next(path.glob("*.py"), None)
    if script:  # datasets before 4 would run it
        raise ValueError(
            f"folder {report.name!r} brings code of its own ({script.name}), which is never run "
            "here; give its "
            "data files alone"
        )
    try:
        names = datasets.get_dataset_config_names(str(path))
        found = datasets.load_dataset_builder(str(path)).config.data_files or {}
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0].replace(str(path), path.name)
        if "name is missing" in reason:  # none is called default, nor marked so
            reason = (
                f"has the configurations {', '.join(names)} and no default; their columns "
                "may differ and are "
                "not mixed: give the files of one of them"
            )
        raise ValueError(f"folder {report.name!r}: its README.md {reason}") from error
    return {name: [Path(file) for file in listed] for name, listed in found.items()}


def _found(path: Path, report: Report) -> dict[str, list[Path]]:
    """The files of each split of a folder by their names, all of them "train" where the names tell
    no splits.

    Raises ValueError where there is no file, or where only some names tell a split, or several
    folders lie beside each other.
    """
    files_there = [
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    there = sorted(file for file in files_there if file_reader(file.name))
    unread = sorted(file.name for file in files_there if file.suffix.lower() in _UNREAD)
    if there and unread:
        raise ValueError(
            f"folder {report.name!r}: {unread[0]} may hold rows and is in none of the formats that "
            f"are read ({', '.join(READERS)}); convert it, move it away, or give one file"
        )
    if not there:
        raise ValueError(
            f"folder {report.name!r} was not saved by datasets' save_to_disk and has no file that "
            "ends in one of "
            f"{', '.join(READERS)}; give one of these, or one file"
        )
    strict = {file: _split_of(file.relative_to(path)) for file in there}
    loose = {file: _token(file) for file in there}
    names = strict if all(strict.values()) else loose if all(loose.values()) else {}
    if not names and any(strict.values()):
        odd = next(file for file in there if not strict[file])
        told = next(file for file in there if strict[file])
        raise ValueError(
            f"folder {report.name!r}: {told.name} is named like a split and {odd.name} is not; "
            "move it away, or give "
            "one file"
        )
    folders = {
        file.relative_to(path).parts[0] for file in there if len(file.relative_to(path).parts) > 1
    }
    if len(folders - _SPLITS.keys()) > 1:
        raise ValueError(
            f"folder {report.name!r} holds several folders ({', '.join(sorted(folders))}), which "
            "may be several "
            "configurations; give one of them"
        )
    found: dict[str, list[Path]] = {}
    for file in there:
        found.setdefault(names.get(file) or "train", []).append(file)
    return {name: found[name] for name in sorted(found, key=("train", "validation", "test").index)}


def _split_of(file: Path) -> str:
    """The split that a file's own name, or its folder, is: train.jsonl,
    test-00000-of-00002.parquet, train/part-1.csv."""
    stem = file.name.split(".")[0].lower()
    for word, split in _SPLITS.items():
        if stem.startswith(word) and _SHARD.fullmatch(stem[len(word) :]):
            return split
    return next((_SPLITS[part.lower()] for part in file.parts[:-1] if part.lower() in _SPLITS), "")


def _token(file: Path) -> str:
    """The split that a word of a file's name says: feedback_train.jsonl."""
    return next(
        (_SPLITS[word] for word in re.split(r"[^a-z]+", file.name.lower()) if word in _SPLITS), ""
    )


def _part(parts: datasets.DatasetDict, split: str, name: str) -> datasets.Dataset:
    if split not in parts:
        raise ValueError(
            f"{name}: there is no split {split!r}; set data.split to one of {', '.join(parts)}"
        )
    return parts[split]
