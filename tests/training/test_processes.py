"""Several processes, and a killed one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpo_nb.config.loading import load_profile
from rpo_nb.experiment import references
from rpo_nb.store import seal
from rpo_nb.training.checkpoints import last_checkpoint

ROOT = Path(__file__).parents[2]


# ---- several processes, and a killed one ---------------------------------------------------------


def train_command(reproduction, out, *more):
    return [
        *more,
        "-m",
        "rpo_nb",
        "train",
        "--profile",
        "smoke",
        "--output-dir",
        str(out),
        "--set",
        "sizes=small seeds=0 preset=paper taus=1",
    ]


def policies(out):
    return {
        f.parent.parent.name: load_file(f)
        for f in Path(out).glob("runs/*/policy/model.safetensors")
    }


def test_two_processes_train_the_same_policies_as_one(reproduction, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    passes = "training.micro_batch_tokens=300"  # and in several passes a step
    command = [
        *train_command(reproduction, tmp_path, *launch),
        "--set",
        f"methods=sft,rpo,dro,kto {passes}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=reproduction.env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "4 policies trained by 2 processes" in done.stdout, (
        done.stdout + done.stderr
    )
    one, two = policies(reproduction.out), policies(tmp_path)
    assert len(two) == 4 and set(two) <= set(one)
    for name, state in two.items():
        for key, tensor in state.items():
            torch.testing.assert_close(
                tensor, one[name][key], rtol=1e-4, atol=2e-6, msg=lambda m: f"{name} {key}: {m}"
            )
        curves = [
            (folder / "runs" / name / "history.csv").read_text().splitlines()
            for folder in (reproduction.out, tmp_path)
        ]
        losses = [
            [float(line.split(",")[curve[0].split(",").index("loss")]) for line in curve[1:]]
            for curve in curves
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_reference_from_nothing_is_refused_under_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="is trained in one process"):
        references.reference(load_profile("smoke"), "small", 0)


def test_a_killed_training_goes_on_to_the_same_bits(reproduction, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ["--set", "methods=rpo training.epochs=12 training.save_steps=2"]
    env = reproduction.env | {"OMP_NUM_THREADS": "1"}

    def command(out):
        return [*train_command(reproduction, out, sys.executable), *settings]

    subprocess.run(command(whole), cwd=ROOT, env=env, check=True, capture_output=True)
    process = subprocess.Popen(
        command(killed), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("runs/rpo-*/trainer/checkpoint-[46]/seconds.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("runs/*/done.json"))
    spent = max(
        json.loads(f.read_text())["seconds"]
        for f in killed.glob("runs/*/trainer/checkpoint-*/seconds.json")
    )
    again = subprocess.run(command(killed), cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    (done,) = killed.glob("runs/*/done.json")
    assert json.loads(done.read_text())["seconds"] > spent > 0  # what the killed start took counts
    ((name, first),) = policies(whole).items()
    assert all(torch.equal(tensor, policies(killed)[name][key]) for key, tensor in first.items())
    assert not list(killed.glob("runs/*/trainer/checkpoint-*"))  # of no use to a finished run


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text('{"global_step": 9}')
        if step < 11:  # which was being written
            seal(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
