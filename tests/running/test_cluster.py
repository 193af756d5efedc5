"""The batch through a real Slurm of one node on this machine (tests/slurm_here.sh), and what is
known of it without one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpo_nb.__main__ import main
from rpo_nb.config import loading
from rpo_nb.running import batch, cluster, processes
from rpo_nb.running.manifest import JOBS
from tests.running.batches import results

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "slurm_here.sh"
MISSING = [
    name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None
]
NO_PLUGIN = importlib.util.find_spec("snakemake_executor_plugin_slurm") is None
NO_SLURM = (
    f"{', '.join(MISSING)} not installed (apt-get install slurm-wlm)"
    if MISSING
    else "snakemake-executor-plugin-slurm is not installed"
    if NO_PLUGIN
    else "Slurm's daemons are started as root only"
    if os.geteuid()
    else ""
)
FEWEST = ["--set", "sizes=small seeds=0 methods=reference,sft,rpo preset=fixed taus=1"]
QUICK = ["--executor", "slurm", "--snakemake"]
OFTEN = "--slurm-init-seconds-before-status-checks 3"


@pytest.fixture(scope="module")
def slurm():
    """Slurm's daemons, stopped again at the end."""
    if NO_SLURM:
        pytest.skip(NO_SLURM)
    started = subprocess.run([HERE, "start"], capture_output=True, text=True)
    if started.returncode and "has a Slurm already" in started.stdout:
        pytest.skip(started.stdout.strip())
    assert started.returncode == 0, started.stdout + started.stderr
    yield
    subprocess.run([HERE, "stop"], check=True)


def start(out: Path, *more: str, cache: Path) -> subprocess.Popen:
    """The command a user types, in a process group of its own."""
    env = os.environ | {"RPO_NB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    env.pop("RPO_NB_PROFILE", None)
    command = [
        sys.executable,
        "-m",
        "rpo_nb",
        "reproduce",
        "--profile",
        "smoke",
        "--output-dir",
        str(out),
        *FEWEST,
        *more,
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(condition, seconds: float, process: subprocess.Popen) -> None:
    """Wait until `condition()`; the process must not end before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it took too long to get there"
        time.sleep(0.2)


def test_stopped_and_killed_slurm_still_gives_the_same_bytes_as_this_machine(slurm, tmp_path):
    """A polite end cancels the jobs. SIGKILL of everything here does not: the jobs go on, the next
    start cancels them and does the rest, and the results are those of a run without Slurm, made
    with a cache of its own."""
    out, mark = tmp_path / "cluster", processes.mark_of(tmp_path / "cluster")
    stopped = start(out, *QUICK, OFTEN, cache=tmp_path / "cache")
    wait_for(lambda: len(cluster.jobs_of(mark)) == 2, 600, stopped)
    stopped.terminate()
    told = stopped.communicate(timeout=600)[0]
    assert stopped.returncode == 130 and "The same command goes on from here" in told, told
    assert not cluster.jobs_of(mark)

    first = start(out, *QUICK, OFTEN, cache=tmp_path / "cache")
    wait_for(lambda: len(cluster.jobs_of(mark)) == 2, 600, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    left = cluster.jobs_of(mark)
    assert len(left) == 2, "Slurm's jobs outlive the Snakemake that submitted them"

    second = start(out, *QUICK, OFTEN, cache=tmp_path / "cache")
    told = second.communicate(timeout=3600)[0]
    assert second.returncode == 0, told + (out / batch.LOG).read_text()
    states = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%i %T"], capture_output=True, text=True
    ).stdout
    ends = dict(line.split() for line in states.splitlines())
    assert {ends[job] for job in left} == {"CANCELLED"} and not cluster.jobs_of(mark)
    done = {marker.stem for marker in (out / JOBS).glob("*.done")}
    assert done == set(batch.jobs(loading.load_profile(str(out / "profile.yaml"))))
    (node,) = json.loads((out / "manifest.json").read_text())["nodes"]
    assert set(node["jobs"]) == done and node["cores"] == os.cpu_count()

    here = start(tmp_path / "here", cache=tmp_path / "cache_here")
    told = here.communicate(timeout=3600)[0]
    assert here.returncode == 0, told
    assert results(out) == results(tmp_path / "here")


def test_what_slurm_refuses_is_told_and_named(slurm, tmp_path):
    more = f"{OFTEN} --set-resources data:mem_mb=99999999 train_small:mem_mb=99999999"
    refused = start(tmp_path, *QUICK, more, cache=tmp_path / "cache")
    told = refused.communicate(timeout=600)[0]
    assert refused.returncode == 1, told
    for job in ("01_data_prep", "03_train-small-seed0"):
        assert (
            f"notebooks/{job}.ipynb: SLURM sbatch failed. sbatch: error: Memory specification can "
            "not be satisfied\n" in told
        )


def test_a_cancelled_folder_leaves_another_folders_jobs_alone(slurm, tmp_path):
    names = {mark: f"{cluster.job_prefix(mark)}_run" for mark in ("a" * 16, "b" * 16)}
    for name in names.values():
        sleep = ["sbatch", "--job-name", name, "--output", "/dev/null", "--wrap", "sleep 60"]
        subprocess.run(sleep, check=True, capture_output=True)
    mine, other = names
    assert len(cluster.jobs_of(mine)) == len(cluster.jobs_of(other)) == 1
    assert cluster.cancel(mine) == 1 and cluster.cancel(mine) == 0
    assert not cluster.jobs_of(mine) and len(cluster.jobs_of(other)) == 1
    cluster.cancel(other)


# ---- without Slurm -------------------------------------------------------------------------------


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_without_the_plugin_or_sbatch_the_command_says_what_to_do(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setenv("PATH", str(tmp_path))
    for there, words in (
        (None, "pip install snakemake-executor-plugin-slurm"),
        (object(), "start on a login node"),
    ):
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, *rest, there=there: (
                there if "plugin_slurm" in name else found(name, *rest)
            ),
        )
        assert (
            main(
                [
                    "reproduce",
                    "--profile",
                    "smoke",
                    "--output-dir",
                    str(tmp_path / "out"),
                    "--executor",
                    "slurm",
                ]
            )
            == 2
        )
        error = capsys.readouterr().err
        assert (
            error.startswith("error: --executor slurm")
            and words in error
            and error.count("\n") == 1
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("accounting", "asked"), [("exit 0", []), ("exit 1", ["--slurm-status-command", "squeue"])]
)
def test_the_status_is_asked_of_squeue_where_there_is_no_accounting(
    tmp_path, monkeypatch, accounting, asked
):
    program(tmp_path, "sbatch", "exit 0")
    program(tmp_path, "sacct", accounting)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    options = cluster.options("0123")
    assert options[:4] == ["--executor", "slurm", "--slurm-jobname-prefix", "rpo_nb-0123"]
    assert options[6:] == asked


def test_a_folder_that_used_slurm_does_not_start_while_slurm_is_silent(
    tmp_path, monkeypatch, capsys
):
    """Its jobs may still be writing on other nodes; a folder that never used Slurm does not ask."""
    program(
        tmp_path,
        "squeue",
        "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    processes.stop_everything(tmp_path)
    (tmp_path / processes.ON_SLURM).parent.mkdir()
    (tmp_path / processes.ON_SLURM).touch()
    assert main(["reproduce", "--profile", "smoke", "--output-dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: Slurm does not say whether jobs of an earlier start run "
        "(slurm_load_jobs error: Unable"
    )
    assert error.count("\n") == 1 and not (tmp_path / "profile.yaml").exists()


def test_a_gpu_is_asked_for_where_the_profile_takes_what_it_gets():
    cpu, gpu = loading.load_profile("pocket"), loading.load_profile("flan-t5")
    assert cpu.training.threads and not gpu.training.threads
    for kind in cluster.ON_GPU:
        assert "gpu" not in cluster.resources(kind, cpu)
        assert cluster.resources(kind, gpu).get("gpu") == (None if kind == "light" else 1)
    assert cluster.resources("training", cpu) == {
        "runtime": 120,
        "mem_mb": 4000,
        "cpus_per_task": 1,
    }


def test_what_slurm_said_of_a_job_is_found_in_snakemakes_log():
    log = (
        "Error in rule data:\n    message: SLURM-job '3' failed, SLURM status is: 'TIMEOUT'. "
        "Reason: Step 0: TimeLimit.For further error details see\n"
        "    log: notebooks/01_data_prep.ipynb (check)\n[date]\nError in rule report:\n    "
        "message: None\n"
        "    log: notebooks/09_report.ipynb (check)\n"
    )
    assert (
        cluster.failure(log, "01_data_prep")
        == "SLURM-job '3' failed, SLURM status is: 'TIMEOUT'. Reason: Step 0: TimeLimit."
    )
    assert cluster.failure(log, "09_report") == "" == cluster.failure("", "09_report")
