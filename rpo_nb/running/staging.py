"""A user's own files in an output folder: what a profile names is linked into ``<out>/inputs/``.

The workflow runs inside the output folder and sees plain, relative names only, whatever a file is
called and wherever it lies.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from rpo_nb.config.loading import load_profile
from rpo_nb.config.names import ending
from rpo_nb.config.schema import Profile
from rpo_nb.data import hub
from rpo_nb.running.processes import shown
from rpo_nb.running.provenance import PACKAGE

INPUTS = "inputs"


def models(profile: Profile) -> list[tuple[str, str]]:
    """(folder or hub id, revision) of every model that a profile names."""
    named = [(model.id, model.revision) for model in profile.sizes.values() if model.id != "pocket"]
    named += [
        (model.authors, model.authors_revision)
        for model in profile.sizes.values()
        if model.authors and profile.evaluation.authors
    ]
    named += [
        (judge.model, judge.revision)
        for name, judge in profile.evaluation.llm_judges.items()
        if judge.kind == "local" and name in profile.evaluation.judges
    ]
    bertscore = profile.evaluation.bertscore
    return [*named, *([(bertscore, "main")] if _is_path(bertscore) else [])]


def tokenizers(profile: Profile) -> list[tuple[str, str]]:
    """The same of the tokenizers that its models from nothing may take."""
    sizes = [] if profile.pocket_world else profile.sizes.values()
    named = [
        name for size in sizes if size.id == "pocket" for name in size.tokenizer if name != "train"
    ]
    folders = [(PACKAGE.parent / name, name) for name in named]
    return [(str(folder) if folder.is_dir() else name, "main") for folder, name in folders]


def hub_data(profile: Profile) -> list[tuple[str, str, str]]:
    """(hub id, revision, "dataset") of the feedback that a profile has of the hub."""
    named = [
        (profile.data.source, profile.data.revision),
        (profile.paper_b.ood, profile.paper_b.ood_revision),
    ]
    return [
        (source, revision, "dataset")
        for source, revision in named
        if re.fullmatch(hub.ID, source) and not Path(source).exists()
    ]


def fetch(profile: Profile) -> None:
    """Have the hub's models here before the jobs' keys are made, which name their commits: else the
    next start would run every job again. What cannot be had is told by the job that needs it.
    """
    for model in models(profile):
        with suppress(ValueError):
            hub.fetch([model])


def seen(name: str, revision: str, kind: str = "model") -> list:
    """What tells at a glance that a model is another: of a folder its files' sizes and times, which
    the jobs then compare by content; of a hub id the commit that is here."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return [name, revision, hub.commit(name, revision, kind=kind)]
    return [
        [file.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        for file in sorted(folder.rglob("*"))
        if file.is_file() and (stat := file.stat())
    ]


def local_files(profile: Profile) -> list[str]:
    """The feedback that the profile names where it is a file or a folder."""
    named = [] if profile.pocket_world else [profile.data.source, profile.paper_b.ood]
    return [source for source in named if source and Path(source).exists()]


def is_hub_id(source: str) -> bool:
    """owner/name, and not the path of a file that is not there."""
    return bool(re.fullmatch(hub.ID, source)) and not re.search(
        r"\.(jsonl?|ndjson|csv|tsv|parquet|gz|bz2|xz|zstd?)$", source
    )


def check_source(profile: Profile) -> None:
    """Raises ValueError when the feedback is neither there nor a hub id."""
    source = profile.data.source
    if not (source == "pocket" or Path(source).expanduser().exists() or is_hub_id(source)):
        raise ValueError(
            f"feedback: {source!r} is no file, no folder and no hub id (owner/name); "
            "check the spelling"
        )


def stage(profile: Profile, out: Path) -> Profile:
    """Link the local files and folders a profile names into ``<out>/inputs/`` and return the
    profile that names the links.

    Raises ValueError when the feedback is neither there nor a hub id.
    """
    source = profile.data.source
    if source == "pocket" or (
        re.fullmatch(rf"{INPUTS}/feedback/[\w.]+", source) and (out / source).exists()
    ):
        linked = source  # the second: it was staged before
    else:
        check_source(profile)
        is_file = Path(source).expanduser().exists()
        linked = _link(source, out, "feedback", f"feedback{ending(source)}") if is_file else source

    def staged(owner: Any, field: str, use: str) -> Any:
        value = getattr(owner, field)
        return (
            owner.model_copy(update={field: _link(value, out, use)}) if _is_path(value) else owner
        )

    sizes = {
        size: staged(staged(model, "id", size), "authors", f"{size}-authors")
        for size, model in profile.sizes.items()
    }
    evaluation = profile.evaluation
    judges = {
        name: staged(judge, "model", f"judge-{name}") if judge.kind == "local" else judge
        for name, judge in evaluation.llm_judges.items()
    }
    evaluation = evaluation.model_copy(update={"llm_judges": judges})
    if _is_path(evaluation.bertscore):
        evaluation = evaluation.model_copy(
            update={"bertscore": _link(evaluation.bertscore, out, "bertscore")}
        )
    data, ood = profile.data.model_copy(update={"source": linked}), profile.paper_b.ood
    paper_b = profile.paper_b.model_copy(
        update={
            "ood": _link(ood, out, "ood", f"ood{ending(ood)}")
            if ood and Path(ood).expanduser().exists()
            else ood
        }
    )
    return profile.model_copy(
        update={"data": data, "sizes": sizes, "evaluation": evaluation, "paper_b": paper_b}
    )


def _is_path(value: str) -> bool:
    """A folder on this machine: it has a separator (a hub id may too) and is there."""
    return os.sep in value and Path(value).expanduser().exists()


def _link(source: str, out: Path, use: str, name: str = "") -> str:
    """Link a file or folder, by default under its own name with what a workflow would misread as
    "_"."""
    target = Path(source).expanduser().resolve()
    link = out / INPUTS / use / (name or re.sub(r"[^\w.-]+", "_", target.name))
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link.relative_to(out).as_posix()


def made_in(out: Path, named: str = "") -> Profile:
    """The profile that an output folder was made with, `placed`. Raises ValueError where another
    one is named."""
    made = placed(load_profile(str(out / "profile.yaml")), out)
    if named and load_profile(named).name != made.name:
        raise ValueError(
            f"{shown(out)} was made with profile {made.name}; leave --profile out, or name another "
            "--output-dir"
        )
    return made


def placed(profile: Profile, out: Path) -> Profile:
    """A profile of an output folder as other folders see it: what is linked into <out>/inputs is
    named by its path."""

    def at(name: str) -> str:
        return str(out / name) if name.startswith(f"{INPUTS}/") and (out / name).exists() else name

    data, ood = (
        profile.data.model_copy(update={"source": at(profile.data.source)}),
        at(profile.paper_b.ood),
    )
    sizes = {
        size: model.model_copy(update={"id": at(model.id), "authors": at(model.authors)})
        for size, model in profile.sizes.items()
    }
    settings = profile.evaluation
    judges = {
        name: judge.model_copy(update={"model": at(judge.model)})
        for name, judge in settings.llm_judges.items()
    }
    evaluation = settings.model_copy(
        update={"llm_judges": judges, "bertscore": at(settings.bertscore)}
    )
    return profile.model_copy(
        update={
            "data": data,
            "sizes": sizes,
            "evaluation": evaluation,
            "paper_b": profile.paper_b.model_copy(update={"ood": ood}),
        }
    )
