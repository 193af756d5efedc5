"""Faults to what trains and asks the policies, in a child of this process: damaged files, kills, a
full disk."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.chaos_damage import Damage, after_damage
from benchmarks.chaos_world import compared, profile, results


def grid(feedback: Path, folder: Path) -> str:
    """Train and ask what is missing below `folder`, in this process; what was said."""
    from rpo_nb.experiment import generations

    os.environ["RPO_NB_CACHE"] = str(folder / "cache")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
        generations.ensure_runs(profile(feedback), folder / "out", progress=False)
    return said.getvalue()


def loaded() -> None:
    """Import here what every child needs: it starts at once."""
    from transformers import T5ForConditionalGeneration, Trainer  # noqa: F401


def fork(work: Callable[[], str], said: Path) -> int:
    """`work` in a child that has the imports already; its process id. What it says, or its error,
    is in `said`.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            said.write_text(work(), encoding="utf-8")
            status = 0
        except BaseException as error:
            with contextlib.suppress(OSError):
                said.write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        finally:
            os._exit(status)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def grid_again(feedback: Path, folder: Path) -> tuple[int, str]:
    """The status and the words of `grid` in a child."""
    said = folder.with_name(f"{folder.name}.said")
    status = ended(fork(lambda: grid(feedback, folder), said))
    words = said.read_text(encoding="utf-8") if said.exists() else ""
    return status, words


def damaged_grid(
    feedback: Path, whole: Path, cases: Sequence[tuple[str, Damage]]
) -> Iterator[dict]:
    """Each damage alone, to a copy of what the grid made."""
    right = results(whole / "out")
    for number, (target, damage) in enumerate(cases):
        folder = whole.with_name(f"damage{number}")
        shutil.copytree(whole, folder, symlinks=True)
        found = sorted(folder.glob(target))
        if not found:
            raise SystemExit(f"nothing is called {target}: has it another name now?")
        damage(found[0])
        broken, started = results(folder / "out"), time.monotonic()
        if target.startswith("cache/"):  # needed again: everything is trained from it
            shutil.rmtree(folder / "out" / "runs")
            shutil.rmtree(folder / "out" / "generations")
        status, said = grid_again(feedback, folder)
        seconds = round(time.monotonic() - started, 1)
        lines = [line for line in said.splitlines() if "made again" in line or status]
        yield after_damage((target, damage), folder, right, broken, lines, seconds=seconds)
        shutil.rmtree(folder)


def killed_grid(feedback: Path, whole: Path, kills: int, draw: random.Random) -> Iterator[dict]:
    """SIGKILL at random moments of the grid alone (the short version): one folder, until it is
    whole.
    """
    right, folder = results(whole / "out"), whole.with_name("killed")
    (folder / "out").mkdir(parents=True)
    for number in range(kills):
        child, moment = fork(lambda: grid(feedback, folder), folder / "said"), draw.uniform(0.1, 3)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        ended(child)
        yield {"kind": "SIGKILL of the grid", "case": str(number), "seconds": round(moment, 1)}
    status, said = grid_again(feedback, folder)
    assert status == 0, said
    yield compared("SIGKILL of the grid", f"all {kills}", folder / "out", right, starts=kills + 1)


def full_disk(feedback: Path, whole: Path, mebibytes: Sequence[float]) -> Iterator[dict]:
    """The grid on a disk that is too small, and again when it has grown; nothing where a disk
    cannot be mounted.
    """
    right = results(whole / "out")
    for size in mebibytes:
        disk = whole.with_name(f"disk{size}")
        disk.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={int(size * 1024)}k", "tmpfs", str(disk)],
            capture_output=True,
        ).returncode:
            print("disk full: a small disk cannot be mounted here, so this was not tried")
            return
        try:
            (disk / "out").mkdir()
            status, said = grid_again(feedback, disk)
            assert status and "is full" in said and "free some space" in said, said
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            again, more = grid_again(feedback, disk)
            assert again == 0, more
            yield compared(
                "disk full",
                f"{size:g} MiB",
                disk / "out",
                right,
                starts=2,
                said=said.splitlines()[-1][:120],
            )
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
