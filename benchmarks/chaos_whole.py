"""Faults to the whole workflow, by the command that a user types: signals, damaged files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.chaos_damage import Damage, after_damage
from benchmarks.chaos_world import SETTINGS, compared, results
from benchmarks.measuring import ROOT


def start(feedback: Path, folder: Path) -> subprocess.Popen:
    """`python -m rpo_nb reproduce` in a session of its own."""
    given = [
        f"--set={key}={json.dumps(value) if not isinstance(value, str) else value}".replace(" ", "")
        for key, value in SETTINGS.items()
    ]
    env = os.environ | {
        "RPO_NB_CACHE": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "rpo_nb",
        "reproduce",
        "--profile",
        "smoke",
        "--feedback",
        str(feedback),
        *given,
        "--output-dir",
        str(folder / "out"),
    ]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(feedback: Path, folder: Path) -> str:
    """Start and let it end well; what it said."""
    process = start(feedback, folder)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return said


def disturbed(
    feedback: Path,
    whole: Path,
    signals: Sequence[signal.Signals],
    length: float,
    draw: random.Random,
) -> Iterator[dict]:
    """A signal at a random moment of a start, and the same command again, until all signals are
    sent; each time it ends well the results are compared, and a new folder is begun.
    """
    right, number, folder, sent = results(whole / "out"), 0, whole.with_name("signals0"), []

    def settled() -> dict:
        names = ", ".join(f"{sent.count(name)} {name}" for name in dict.fromkeys(sent))
        return compared("signals", names, folder / "out", right, starts=len(sent) + 1)

    for each in signals:
        process, moment = start(feedback, folder), draw.uniform(0.5, length)
        try:
            said = process.communicate(timeout=moment)[
                0
            ]  # it was quicker: the signal goes to a run from nothing
            assert process.returncode == 0, said
            yield settled()
            shutil.rmtree(folder)
            number, sent = number + 1, []
            folder = whole.with_name(f"signals{number}")
            process = start(feedback, folder)
            time.sleep(moment)
        except subprocess.TimeoutExpired:
            pass
        os.killpg(process.pid, each)
        said = process.communicate()[0]
        assert process.returncode and (
            each == signal.SIGKILL or "goes on from here" in said or process.returncode < 0
        ), said
        sent.append(each.name)
        yield {"kind": each.name, "case": f"run {number}", "seconds": round(moment, 1)}
    finish(feedback, folder)
    yield settled()


def damaged_whole(
    feedback: Path, whole: Path, cases: Sequence[tuple[str, Damage]]
) -> Iterator[dict]:
    """All of the damages at once, to a copy of the whole: they lie in different files, each of
    which is looked at by itself.
    """
    right, folder = results(whole / "out"), whole.with_name("damaged")
    shutil.copytree(whole, folder, symlinks=True)
    for target, damage in cases:
        damage(sorted(folder.glob(target))[0])
    broken = results(folder / "out")
    said = finish(feedback, folder)
    for target, damage in cases:
        names = {file.name for file in folder.glob(target)}
        again = [line for line in said.splitlines() if "made again" in line]
        lines = [line for line in again if any(name in line for name in names)]
        yield after_damage((target, damage), folder, right, broken, lines)
