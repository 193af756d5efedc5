"""The benchmarks, a function each: what it finds as ratios (results.csv) and what it measured on
the way (details.csv).

    python -m rpo_nb bench   all of them, into benchmarks/, and the tables in the READMEs
    python -m rpo_nb bench --only sft trl  some; --quick runs the same code at toy size, into
    build/benchmarks/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.cases import Found, Settings
from benchmarks.growth import size
from benchmarks.half import half
from benchmarks.measuring import ROOT, first_sentence
from benchmarks.peaks import gpu, memory
from benchmarks.steps import methods, padding, run, scoring, sft, trl
from benchmarks.surroundings import policy, reproduction, start

BENCHMARKS: dict[str, Callable[[Settings], Found]] = {
    "sft": sft,
    "methods": methods,
    "trl": trl,
    "run": run,
    "scoring": scoring,
    "padding": padding,
    "size": size,
    "memory": memory,
    "half": half,
    "gpu": gpu,
    "policy": policy,
    "reproduction": reproduction,
    "start": start,
}


def bench(
    only: Sequence[str] = (), *, repetitions: int = 5, quick: bool = False, output: str | Path = ""
) -> Path:
    """Run benchmarks, merge their rows into <output>/results.csv and details.csv and, when that is
    benchmarks/ itself, fill the READMEs' tables. Returns the folder. Raises ValueError for an
    unknown name."""
    unknown = set(only) - set(BENCHMARKS)
    if unknown or repetitions < 1:
        raise ValueError(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
            if unknown
            else f"--repetitions is {repetitions}; give 1 or more"
        )
    settings, where = Settings(repetitions, quick), tables.machine(quick)
    folder = Path(output) if output else ROOT / "build" / "benchmarks" if quick else tables.HERE
    for name in only or BENCHMARKS:
        started = time.perf_counter()
        print(f"{name}: {first_sentence(BENCHMARKS[name].__doc__)}", flush=True)
        rows = tables.write(folder, name, *BENCHMARKS[name](settings), where)
        for row in rows.itertuples():
            print(f"  {row.name} / {row.baseline}: {row.ratio:.3f}", flush=True)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    if folder.resolve() == tables.HERE:
        tables.fill_readmes()
    return folder
