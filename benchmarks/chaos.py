"""What faults do to a reproduction: `make chaos` (python -m benchmarks.chaos) writes
benchmarks/reliability.csv.

A world as small as it can be is made once, undisturbed. Then it is made again under signals at
random moments (seed 0), on a disk that is too small, and with files of its own damaged in 30
ways; each time the same command is given again until it ends well, and every file of the results
is compared with the undisturbed one, byte by byte. Files that say how long something took are
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
TIMED = re.compile(r"timing|figure1|manifest")
COLUMNS = ["kind", "case", "seconds", "starts", "files", "lost", "stale", "different", "said"]
SETTINGS = {
    "sizes": "small",
    "seeds": "0",
    "preset": "fixed",
    "methods": "reference,sft,rpo",
    "taus": "1.0",
    "sizes.small.d_model": 16,
    "sizes.small.d_ff": 16,
    "sizes.small.demonstrations": 24,
    "sizes.small.epochs": 1,
    "sizes.small.tokenizer": ["train"],
    "data.prompts": 8,
    "data.validation": 4,
    "data.held_out": 16,
    "data.completions_per_prompt": 2,
    "decoding.max_new_tokens": 8,
    "evaluation.judges": ["reward_model"],
    "evaluation.published_judges": {},
    "evaluation.judge_comparisons": 16,
    "training.warmup_steps": 0,
    "training.learning_rate": 0.03,
    "training.epochs": 2,
    "training.batch_size": 4,
    "paper_b.reproduce": False,
    "training.report_to": [],
}
WORDS = (
    "red green small old lamp rope chair boat book stands lies waits in on under near garden "
    "kitchen harbour"
).split()


def write_feedback(path: Path) -> Path:
    """Feedback of nobody: 40 prompts with 3 completions each, their scores by length."""
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"write about {word} {i}",
            "completion": " ".join(draw.choices(WORDS, k=2 + 2 * j)),
            "reward": 2.0 + 2 * j,
        }
        for i, word in enumerate(WORDS * 3)
        if i < 40
        for j in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def profile(feedback: Path) -> Any:
    """The smallest world: one size, one seed, two policies, a reference and a judge from
    nothing.
    """
    from rpo_nb.config.loading import load_profile

    return load_profile("smoke", feedback=str(feedback), **SETTINGS)


# What is compared --------------------------------------------------------------------------------


def results(out: Path) -> dict[str, str]:
    """File -> hash of its bytes: results, policies and their completions, whatever says how long
    something took aside.
    """
    patterns = (
        "tables/*",
        "figures/*",
        "generations/*",
        "verdicts/*",
        "data/*",
        "results.parquet",
        "report.html",
        "profile.yaml",
        "runs/*/policy/*",
        "runs/*/completions-*.json",
    )
    files = {
        file
        for pattern in patterns
        for file in out.glob(pattern)
        if file.is_file() and not TIMED.search(file.name)
    }
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
    }


def compared(
    kind: str,
    case: str,
    out: Path,
    right: dict[str, str],
    damaged: dict[str, str] | None = None,
    **more: Any,
) -> dict:
    """One row: files that are not there, that are still the damaged ones, and that are others
    than the undisturbed.
    """
    now, damaged = results(out), damaged or {}
    stale = sum(now.get(name) == digest != right.get(name) for name, digest in damaged.items())
    row = {
        "kind": kind,
        "case": case,
        "files": len(right),
        "lost": len(right.keys() - now.keys()),
        "stale": stale,
        "different": sum(name in right and now[name] != right[name] for name in now),
        **more,
    }
    print(
        f"{kind}, {case}: {row['lost']} lost, {stale} stale, {row['different']} different of "
        f"{len(right)}",
        flush=True,
    )
    return row


# Damage ------------------------------------------------------------------------------------------


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def missing(file: Path) -> None:
    file.unlink()


def flipped(file: Path) -> None:
    """64 bytes in the middle, or what there is."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    for i in range(max(0, middle - 32), min(len(data), middle + 32)):
        data[i] ^= 0xFF
    file.write_bytes(bytes(data))


def reworded(file: Path) -> None:
    """Another completion, in a file that is whole."""
    value = json.loads(file.read_text(encoding="utf-8"))
    value["completions"][0] = "words that no policy wrote"
    file.write_text(json.dumps(value), encoding="utf-8")


def changed(file: Path) -> None:
    """Another digit, in a table that is whole."""
    text = file.read_text(encoding="utf-8")
    file.write_text(
        re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 1) % 10), text), encoding="utf-8"
    )


Damage = Callable[[Path], None]
REFERENCE, LOGPS = "cache/references/*/", "cache/reference_logps/*/"
GRID: list[tuple[str, Damage]] = [  # met while policies are trained and asked
    *((f"{REFERENCE}model.safetensors", damage) for damage in (truncated, empty, flipped, missing)),
    (f"{REFERENCE}tokenizer.json", empty),
    (f"{REFERENCE}config.json", missing),
    (f"{REFERENCE}done.json", empty),
    *((f"{LOGPS}logps.npz", damage) for damage in (truncated, empty, flipped, missing)),
    (f"{LOGPS}done.json", truncated),
    *(
        ("out/runs/rpo-*/policy/model.safetensors", damage)
        for damage in (truncated, empty, flipped, missing)
    ),
    ("out/runs/rpo-*/recipe.json", truncated),
    ("out/runs/sft-*/done.json", empty),
    *(("out/runs/rpo-*/completions-*.json", damage) for damage in (truncated, reworded, missing)),
    *(("out/generations/*.jsonl.gz", damage) for damage in (truncated, flipped, missing)),
    ("out/runs/generations/*.json", truncated),
]
WORKFLOW: list[tuple[str, Damage]] = [  # met by a start of the whole
    ("out/tables/table2.csv", changed),
    ("out/figures/win_rates.svg", missing),
    ("out/report.html", truncated),
    ("out/results.parquet", empty),
    ("out/verdicts/table3-*.jsonl.gz", truncated),
    ("out/runs/jobs/04_table2_metrics.done", empty),
    ("out/runs/judges/reward_model-*/model.safetensors", flipped),
    ("out/manifest.json", truncated),
]


def after_damage(
    case: tuple[str, Damage],
    folder: Path,
    right: dict[str, str],
    broken: dict[str, str],
    lines: Sequence[str],
    **more: Any,
) -> dict:
    """The row of one damage below `folder`; lines: what was said of it, of which the first
    counts."""
    target, damage = case
    return compared(
        "damage",
        f"{target.split('/', 1)[1]} {damage.__name__}",
        folder / "out",
        right,
        broken,
        starts=1,
        said=re.sub(r"[0-9a-f]{16}", "…", next(iter(lines), "").strip())[:120],
        **more,
    )


# The grid, in a process of this one --------------------------------------------------------------


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

    pass  # noqa: F401


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


# The whole, by the command a user types ----------------------------------------------------------


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


# All of it ---------------------------------------------------------------------------------------

SIGNALS = [signal.SIGKILL] * 20 + [signal.SIGINT] * 5 + [signal.SIGTERM] * 5
PARTS = ("damage", "disk", "workflow", "signals")


def everything(folder: Path, *, parts: Sequence[str] = PARTS, seed: int = 0) -> Iterator[dict]:
    """A row for each fault of the parts: damage to the grid's files, a full disk, damage to the
    workflow's files, and 20 SIGKILLs, 5 SIGINTs, 5 SIGTERMs.
    """
    loaded()
    draw, feedback, whole, small = (
        random.Random(seed),
        write_feedback(folder / "feedback.jsonl"),
        folder / "whole",
        folder / "grid",
    )
    if {"damage", "disk"} & set(parts):
        (small / "out").mkdir(parents=True)
        status, said = grid_again(feedback, small)
        assert status == 0, said
    if "damage" in parts:
        yield from damaged_grid(feedback, small, GRID)
    if "disk" in parts:
        yield from full_disk(feedback, small, [0.1, 0.2, 0.3])
    if {"workflow", "signals"} & set(parts):
        whole.mkdir()
        started = time.monotonic()
        finish(feedback, whole)
        length = time.monotonic() - started
        yield {
            "kind": "undisturbed",
            "case": "from nothing",
            "seconds": round(length, 1),
            "starts": 1,
            "files": len(results(whole / "out")),
        }
    if "workflow" in parts:
        yield from damaged_whole(feedback, whole, WORKFLOW)
    if "signals" in parts:
        yield from disturbed(
            feedback, whole, draw.sample(SIGNALS, len(SIGNALS)), 0.25 * length, draw
        )


def main() -> int:
    """Write benchmarks/reliability.csv; 1 where anything was lost, stale or different."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--output", default=str(ROOT / "benchmarks" / "reliability.csv"))
    options.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="some of the parts"
    )
    chosen, rows = options.parse_args(), []
    with tempfile.TemporaryDirectory(prefix="rpo_nb-chaos-") as folder:
        for row in everything(Path(folder), parts=chosen.only):
            rows.append(row)
            table = pd.DataFrame(rows, columns=COLUMNS).convert_dtypes()
            table.to_csv(chosen.output, index=False)
    print(summary(table))
    if Path(chosen.output) == ROOT / "benchmarks" / "reliability.csv":
        quote(summary(table))
    return int(table[BAD].sum().sum() > 0)


BAD = ["lost", "stale", "different"]


def summary(table: pd.DataFrame) -> str:
    """How many faults of each kind, and how many files were lost, stale or different after them."""
    counts = table[~table["kind"].isin(["signals", "undisturbed"])]["kind"].value_counts()
    faults = ", ".join(f"{count} × {kind}" for kind, count in counts.items())
    return f"{faults}: {', '.join(f'{int(table[name].sum())} files {name}' for name in BAD)}."


def quote(sentence: str) -> None:
    """Put the summary where docs/speed.md quotes it."""
    readme = ROOT / "docs" / "speed.md"
    start, end = "<!-- chaos:start -->", "<!-- chaos:end -->"
    text = re.sub(
        f"(?s)(?<={start}).*?(?={end})",
        lambda _: f"\n{sentence}\n",
        readme.read_text(encoding="utf-8"),
    )
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
