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
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.chaos_damage import GRID, WORKFLOW
from benchmarks.chaos_grid import damaged_grid, full_disk, grid_again, loaded
from benchmarks.chaos_whole import damaged_whole, disturbed, finish
from benchmarks.chaos_world import BAD, results, write_feedback
from benchmarks.measuring import ROOT, first_sentence

COLUMNS = ["kind", "case", "seconds", "starts", "files", "lost", "stale", "different", "said"]
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
    options = argparse.ArgumentParser(description=first_sentence(__doc__))
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
