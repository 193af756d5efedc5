"""The jobs of a reproduction: their names, what each has to do, and how much of it is done."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from rpo_nb.config.methods import ROWS, tau_of
from rpo_nb.config.schema import Profile
from rpo_nb.running.manifest import JOBS
from rpo_nb.running.processes import ROOT

LAB = "07_partition_lab"  # only where the ground truth is known
PAPER_B = "08_reward_aware"  # where paper_b.reproduce is on
TABLES = {
    "04_table2_metrics": "metrics",
    "05_table3_judges": "judges",
    "06_table4_temperature": "temperature",
    "09_report": "report",
}  # job -> its rule in the Snakefile
OTHERS = {
    LAB: "lab",
    PAPER_B: "paper_b",
    "01_data_prep": "data",
    "02_rpo_derivation": "derivation",
}  # the same of the others that do not train the grid


def jobs(profile: Profile) -> list[str]:
    """The name of every job: its notebook, and for training the size and the seed."""
    training = [f"03_train-{size}-seed{seed}" for size in profile.sizes for seed in profile.seeds]
    more = [LAB] * profile.pocket_world + [PAPER_B] * profile.paper_b.reproduce
    return ["01_data_prep", "02_rpo_derivation", *training, *more, *TABLES]


def units(profile: Profile) -> dict[str, int]:
    """Job -> its units of work, for the progress bar: itself, and each policy that it trains.

    The grid's are counted as `grid.plan` does, but without its import of torch; presets that read a
    method alike share its policy.
    """
    policies = set()
    for name, preset in profile.presets.items():
        for method in profile.methods:
            row = ROWS[method]
            slope = (row.temperature,) if row.symbol == "β" else ()
            read_alike = tuple(getattr(preset, field) for field in (*row.reads, *slope))
            taus = profile.rpo_taus(name) if row.swept else [tau_of(preset, method)]
            policies |= {(method, tau, read_alike) for tau in taus}
    trained = sum(ROWS[method].objective is not None for method, *_ in policies)
    more = _own_policies(profile.model_dump_json()) if {LAB, PAPER_B} & set(jobs(profile)) else {}
    return {
        job: 1 + (trained if job.startswith("03_train") else more.get(job, 0))
        for job in jobs(profile)
    }


@lru_cache(maxsize=2)
def _own_policies(profile: str) -> dict[str, int]:
    """How many policies notebooks 07 and 08 train, asked of a process of its own: this one does
    without torch."""
    found = subprocess.run(
        [sys.executable, "-m", "rpo_nb.studies.policies"],
        input=profile,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if found.returncode:
        raise ValueError(found.stderr.strip().rpartition("\n")[2])
    return json.loads(found.stdout)


def done_units(profile: Profile, out: Path) -> int:
    """The units of work that are done: all of a finished job, of one that trains its finished
    policies."""
    made, sizes, total = finished(profile, out), units(profile), 0
    grid = sum(size - 1 for job, size in sizes.items() if job.startswith("03_train"))
    for job, size in sizes.items():
        folder = (
            f"*{job.removeprefix('03_train')}-*"
            if job.startswith("03_train")
            else "paper_b/*"
            if job == PAPER_B
            else "*"
        )
        trained = (
            len(list((out / "runs").glob(f"{folder}/done.json"))) - (grid if job == LAB else 0)
            if size > 1
            else 0
        )
        total += size if job in made else min(max(trained, 0), size - 1)
    return total


def finished(profile: Profile, out: Path) -> dict[str, int]:
    """Finished job -> when (ns)."""
    markers = {job: out / JOBS / f"{job}.done" for job in jobs(profile)}
    return {job: marker.stat().st_mtime_ns for job, marker in markers.items() if marker.exists()}
