"""The jobs of a reproduction: their names, what each has to do, and how much of it is done."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from rpo_nb.config.methods import ROWS, tau_of
from rpo_nb.config.schema import Profile
from rpo_nb.running import progress
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
WORDS = {
    "01_data_prep": "data",
    "02_rpo_derivation": "Table I",
    "04_table2_metrics": "Table II",
    "05_table3_judges": "Table III",
    "06_table4_temperature": "Table IV",
    LAB: "lab",
    PAPER_B: "paper B",
    "09_report": "report",
}  # what a job is called while it runs


# job -> a file that tells whether it was made, of those that the report needs and does not make
MADE = {
    "01_data_prep": "data/summary.csv",
    "02_rpo_derivation": "tables/table1.csv",
    LAB: "tables/regime_map.csv",
    PAPER_B: "tables/paper_b_table2.csv",
}


def jobs(profile: Profile) -> list[str]:
    """The name of every job: its notebook, and for training the size and the seed."""
    training = [f"03_train-{size}-seed{seed}" for size in profile.sizes for seed in profile.seeds]
    more = [LAB] * profile.pocket_world + [PAPER_B] * profile.paper_b.reproduce
    return ["01_data_prep", "02_rpo_derivation", *training, *more, *TABLES]


def unmade(profile: Profile, out: Path) -> list[str]:
    """What the report needs of other jobs and an output folder does not have."""
    return [
        file for job, file in MADE.items() if job in jobs(profile) and not (out / file).is_file()
    ]


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
    more = own_policies(profile.model_dump_json()) if {LAB, PAPER_B} & set(jobs(profile)) else {}
    return {
        job: 1 + (trained if job.startswith("03_train") else more.get(job, 0))
        for job in jobs(profile)
    }


@lru_cache(maxsize=2)
def own_policies(profile: str) -> dict[str, int]:
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


def told(profile: Profile, out: Path) -> dict[str, int]:
    """Job -> how many of its policies it has told of: of those that no job before it has."""
    known, counts = set(), {}
    for job, size in units(profile).items():
        names = progress.told(policies_file(out, job))
        counts[job] = min(len(names - known), size - 1)
        known |= names
    return counts


def lab_sizes(profile: Profile) -> list[str]:
    """The sizes whose references and policies the lab shares with the grid."""
    wanted = {profile.lab.size or next(iter(profile.sizes)), *profile.lab.ablation_sizes}
    return [size for size in profile.sizes if size in wanted]


def needs(profile: Profile) -> dict[str, tuple[str, ...]]:
    """Job -> the jobs that have to be done before it, as in the Snakefile."""
    train = {
        size: [f"03_train-{size}-seed{seed}" for seed in profile.seeds] for size in profile.sizes
    }
    first, every = next(iter(profile.sizes)), [job for of in train.values() for job in of]
    found = {
        "02_rpo_derivation": train[first][:1],
        "04_table2_metrics": every,
        "05_table3_judges": every,
        "06_table4_temperature": [*every, "05_table3_judges"],
        LAB: [job for size in lab_sizes(profile) for job in train[size]],
        PAPER_B: train[profile.paper_b.size or first][:1],
        "09_report": [job for job in jobs(profile) if job != "09_report"],
    }
    return {job: tuple(found.get(job, ())) for job in jobs(profile)}


def words(job: str, profile: Profile) -> str:
    """What a job is called while it runs: "train xl", "Table III"."""
    if job not in WORDS:
        alone = "" if len(profile.seeds) > 1 else f"-seed{profile.seeds[0]}"
        return f"train {job.removeprefix('03_train-').removesuffix(alone)}"
    return WORDS[job]


def policies_file(out: Path, job: str) -> Path:
    """Where a job tells of its policies (`progress.tell`)."""
    return out / JOBS / f"{job}.policies"


def failure_file(out: Path, job: str) -> Path:
    """There when a job has failed since the last start."""
    return out / JOBS / f"{job}.failed"


def committed_manifest(profile: Profile) -> Path:
    """The manifest of the profile's results that came with the clone; there may be none."""
    return ROOT / "results" / profile.name / "manifest.json"


def finished(profile: Profile, out: Path) -> dict[str, int]:
    """Finished job -> when (ns)."""
    markers = {job: out / JOBS / f"{job}.done" for job in jobs(profile)}
    return {job: marker.stat().st_mtime_ns for job, marker in markers.items() if marker.exists()}
