"""What a run reads from elsewhere, whether it is here, and the room that it takes."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rpo_nb.config.schema import Profile
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.data import hub, sources
from rpo_nb.remedies import UNREACHED, Problem

SERVER_TIMEOUT = 2.0  # seconds
# setting of EvaluationConfig that asks for it, and its id
METRIC_MODELS = {
    "bertscore": ("default", "roberta-large"),
    "toxicity": ("hub", "facebook/roberta-hate-speech-dynabench-r4-target"),
}


@lru_cache(maxsize=1)
def known() -> dict[str, dict[str, Any]]:
    """Shapes of well-known models and sizes of well-known data sets, for where the real ones cannot
    be looked at."""
    return yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Need:
    """A model or data set of a run."""

    name: str
    kind: str  # model, dataset or server
    purpose: str
    access: hub.Access


def look_up(profile: Profile) -> list[Need]:
    """Everything a run of the profile reads from elsewhere; after the first sign that there is no
    network, only here."""
    found, online = [], True
    for (name, kind, revision), purposes in _wanted(profile).items():
        if kind == "server":
            access = hub.Access("answers" if _answers(name) else "silent")
        elif kind == "dataset" and sources.file_reader(name):
            access = hub.Access(
                "missing", None, False, Problem("there is no such file", "check the path")
            )
        else:
            # their libraries read other formats, too
            metric = name in (model for _, model in METRIC_MODELS.values())
            access = hub.look_up(
                name, kind=kind, revision=revision, online=online, safetensors=not metric
            )
            online &= access.problem is not UNREACHED
        found.append(Need(name, kind, ", ".join(purposes), access))
    return found


def _wanted(profile: Profile) -> dict[tuple[str, str, str], list[str]]:
    """{(name, kind, revision): what for}."""
    wanted: dict[tuple[str, str, str], list[str]] = {}

    def want(name: str, purpose: str, kind: str = "model", revision: str = "main") -> None:
        wanted.setdefault((name, kind, revision), []).append(purpose)

    if not profile.pocket_world and not Path(profile.data.source).expanduser().is_file():
        want(profile.data.source, "feedback", "dataset", profile.data.revision)
    if (
        profile.paper_b.reproduce
        and profile.paper_b.ood
        and not Path(profile.paper_b.ood).expanduser().is_file()
    ):
        want(
            profile.paper_b.ood,
            "prompts out of distribution",
            "dataset",
            profile.paper_b.ood_revision,
        )
    for size, model in profile.sizes.items():
        if model.id != "pocket":
            want(model.id, f"policy {size}", revision=model.revision)
        if profile.evaluation.authors and model.authors:
            want(model.authors, f"the authors' {size}", revision=model.authors_revision)
    for name in profile.evaluation.judges:
        judge = profile.evaluation.llm_judges.get(name)
        if judge and judge.kind == "local":
            want(judge.model, f"judge {name}", revision=judge.revision)
        elif judge:
            want(judge.url, f"judge {name}", "server")
    for metric, (setting, name) in METRIC_MODELS.items():
        if getattr(profile.evaluation, metric) == setting:
            want(name, f"metric {metric}")
    return wanted


def _answers(url: str) -> bool:
    """Whether an OpenAI-compatible server is there: it answers, if only with a refusal."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/models", timeout=SERVER_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def server_notes(looked: Sequence[Need]) -> list[str]:
    """Servers that do not answer: no reason not to train, but nothing can be judged then."""
    return [
        f"Nothing answers at {need.name}: start the server of {need.purpose} before the "
        "judges' notebooks (05 and 06) run."
        for need in looked
        if need.access.where == "silent"
    ]


def problems(looked: Sequence[Need]) -> list[str]:
    """What is missing, a sentence each with its remedy; without a network one for all."""
    unreached = [need for need in looked if need.access.problem is UNREACHED]
    out = [
        f"{need.kind} {need.name!r} ({need.purpose}): {need.access.problem.reason}; "
        f"{need.access.problem.remedy}"
        for need in looked
        if need.access.problem and need not in unreached
    ]
    if unreached:
        names = ", ".join(f"{need.name} ({need.purpose})" for need in unreached)
        out.insert(
            0,
            f"the hub cannot be reached, and not in the cache is {names}; check the "
            "network (and HF_HUB_OFFLINE), "
            "or name local folders",
        )
    return out


def download(need: Need) -> float | None:
    """Bytes to fetch; what the hub did not say is taken from models.yaml."""
    if need.access.bytes is not None:
        return float(need.access.bytes)
    size = (
        known()["datasets" if need.kind == "dataset" else "models"].get(need.name, {}).get("bytes")
    )
    return None if size is None else float(size)


def disks(out: Path, results: float, fetched: float, prepared: float) -> list[dict[str, Any]]:
    """Bytes needed and free, a row a disk."""
    import datasets
    from huggingface_hub import constants

    rows: dict[int, dict[str, Any]] = {}
    for name, place, need in (
        ("results", out, results),
        ("the hub's cache", Path(constants.HF_HUB_CACHE), fetched),
        ("datasets' cache", Path(datasets.config.HF_DATASETS_CACHE), prepared),
    ):
        there = next(
            folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir()
        )
        row = rows.setdefault(
            there.stat().st_dev,
            {"holds": [], "need": 0.0, "free": float(shutil.disk_usage(there).free)},
        )
        row["holds"].append(name)
        row["need"] += need
    return [row | {"holds": ", ".join(row["holds"])} for row in rows.values()]


def plain(need: Need, size: float | None) -> dict[str, Any]:
    problem = need.access.problem
    return {
        "name": need.name,
        "kind": need.kind,
        "purpose": need.purpose,
        "where": need.access.where,
        "bytes": size,
        "gated": need.access.gated
        or (problem is UNREACHED and bool(known()["models"].get(need.name, {}).get("gated"))),
        "problem": f"{problem.reason}; {problem.remedy}" if problem else "",
    }
