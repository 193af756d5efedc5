"""The batch on a Slurm cluster, through Snakemake's own executor plugin (docs/cluster.md).

Every notebook becomes one Slurm job. Slurm's jobs are found by their names, which begin with the
mark of their output folder, on whatever node they run; the processes of this machine are
`processes.stop_left_over`'s.
"""

from __future__ import annotations

import csv
import getpass
import importlib.util
import re
import shutil
import subprocess
import time
from pathlib import Path

from rpo_nb.config.schema import Profile

CPUS = 8  # of a job that does not fix its threads: data loading and tokenising beside a GPU
# Minutes and MB by the kind of a job: of worlds that train on CPU threads, and of models that want
# a GPU. Generous on purpose: a job that is cut off has to start again. Snakemake's --set-resources
# and workflow profiles change them, rule by rule.
ON_CPUS = {"light": (30, 4000), "judging": (60, 4000), "training": (120, 4000)}
ON_GPU = {"light": (120, 16000), "judging": (720, 64000), "training": (1440, 64000)}


def resources(kind: str, profile: Profile) -> dict[str, int]:
    """What a job asks of Slurm, by Snakemake's names: runtime (minutes), mem_mb, cpus_per_task, and
    gpu where it wants one.

    kind: "light" (tables from files), "judging" (models are read) or "training". A profile that
    does not fix its threads takes what it can get, which on a cluster is a GPU. Run on this machine
    nothing of it is a limit.
    """
    gpu = profile.training.threads is None
    minutes, memory = (ON_GPU if gpu else ON_CPUS)[kind]
    wanted = {
        "runtime": minutes,
        "mem_mb": memory,
        "cpus_per_task": profile.training.threads or CPUS,
    }
    return wanted | ({"gpu": 1} if gpu and kind != "light" else {})


def job_prefix(mark: str) -> str:
    """How the names of an output folder's Slurm jobs begin."""
    return f"rpo_nb-{mark}"


def options(mark: str) -> list[str]:
    """Snakemake's options for jobs on Slurm. Raises ValueError with the remedy when this machine
    cannot submit any."""
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise ValueError(
            "--executor slurm needs Snakemake's plugin: pip install snakemake-executor-plugin-slurm"
        )
    if shutil.which("sbatch") is None:
        raise ValueError(
            "--executor slurm: there is no sbatch here; start on a login node of the cluster"
        )
    # a shared file system shows a job's files later than Slurm shows its end
    wait = ["--latency-wait", "60"]
    # The plugin asks sacct, which without accounting never tells it that a job has ended.
    accounting = (
        shutil.which("sacct")
        and subprocess.run(["sacct", "--noheader", "-X"], capture_output=True).returncode == 0
    )
    status = [] if accounting else ["--slurm-status-command", "squeue"]
    return ["--executor", "slurm", "--slurm-jobname-prefix", job_prefix(mark), *wait, *status]


def jobs_of(mark: str) -> list[str]:
    """The ids of this user's Slurm jobs, waiting or running, that belong to an output folder.
    ValueError when Slurm is silent."""
    command = ["squeue", "--noheader", "--user", getpass.getuser(), "--format", "%i %j"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip() or "no reason given").splitlines()[-1]
        raise ValueError(
            f"Slurm does not say whether jobs of an earlier start run ({reason}); "
            "start again when squeue answers"
        )
    rows = [line.split(maxsplit=1) for line in asked.stdout.splitlines()]
    return [row[0] for row in rows if len(row) == 2 and row[1].startswith(f"{job_prefix(mark)}_")]


def cancel(mark: str, *, seconds: float = 120) -> int:
    """Cancel the Slurm jobs of an output folder, wait until they have ended, and return how many
    there were.

    Safe at any moment: everything is written to a temporary name first. Raises ValueError when they
    do not end.
    """
    there = jobs_of(mark)
    if there:
        # whether it worked is what the queue says
        subprocess.run(["scancel", *there], capture_output=True)
    deadline = time.monotonic() + seconds
    while there and (left := jobs_of(mark)):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{len(left)} Slurm jobs of an earlier start do not end; scancel "
                f"{' '.join(left)}, then start again"
            )
        time.sleep(1)
    return len(there)


def failure(log: str, job: str) -> str:
    """What Slurm said of a failed job, from Snakemake's log, on one line; "" when it said
    nothing."""
    blocks = [
        block
        for block in re.split(r"\n(?=Error in rule )", log)
        if f"log: notebooks/{job}.ipynb" in block
    ]
    said = (
        re.search(r"^    message: (?!None)([^\n]+)", blocks[-1], flags=re.MULTILINE)
        if blocks
        else None
    )
    return (
        re.sub("The error message was '|For further error details.*", "", said[1]) if said else ""
    )


def peak_memory_mb(folder: Path) -> float:
    """The most memory one job took, from Snakemake's benchmark files."""
    rows = [
        next(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
        for path in folder.glob("*.tsv")
    ]
    return max((float(row["max_rss"]) for row in rows if row["max_rss"] != "NA"), default=0.0)
