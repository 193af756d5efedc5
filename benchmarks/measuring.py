"""How a cost is measured: interleaved repetitions, paired ratios, peak memory of a process,
exponents."""

from __future__ import annotations

import gc
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent


class Ratio(NamedTuple):
    """One row of results.csv: a cost of ours over the cost of a baseline, both of one run; smaller
    is better.

    low, high: the smallest and the largest ratio of a repetition's pair (of exponents, the 95 %
    interval of the fit).
    """

    name: str
    baseline: str
    ratio: float
    low: float
    high: float
    goal: float  # nan: none
    n: int


class Detail(NamedTuple):
    """One row of details.csv: something that was measured, in its own unit."""

    name: str
    what: str
    quantity: str
    value: float
    low: float
    high: float
    n: int


def interleaved(
    sides: Mapping[str, Callable[[], float]], repetitions: int, *, warm_up: bool = True
) -> dict[str, np.ndarray]:
    """{side: [repetitions] numbers}, the sides in turn (A B A B …), so that what slows the machine
    down slows all of them."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    gc.collect()
    # collections, which Trainers ask for at every start, then look at what a side made and not at
    # every import
    gc.freeze()
    try:
        for repetition in range(-warm_up, repetitions):
            for side, work in sides.items():
                number = work()
                if repetition >= 0:
                    found[side].append(number)
    finally:
        gc.unfreeze()
    return {side: np.array(numbers) for side, numbers in found.items()}


def seconds_of(work: Callable[[], Any]) -> Callable[[], float]:
    """`work` as something that returns its wall seconds."""

    def timed() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return timed


def ratio(
    name: str, baseline: str, ours: np.ndarray, theirs: np.ndarray, goal: float = np.nan
) -> Ratio:
    """Ratio of the medians of paired repetitions; low and high are the extreme ratios of a pair,
    which enclose it."""
    pairs = ours / theirs
    return Ratio(
        name,
        baseline,
        float(np.median(ours) / np.median(theirs)),
        float(pairs.min()),
        float(pairs.max()),
        goal,
        len(pairs),
    )


def detail(name: str, what: str, quantity: str, numbers: np.ndarray | float) -> Detail:
    """The median with the extremes."""
    numbers = np.atleast_1d(numbers)
    return Detail(
        name,
        what,
        quantity,
        float(np.median(numbers)),
        float(numbers.min()),
        float(numbers.max()),
        len(numbers),
    )


class Exponent(NamedTuple):
    """b of y = a·xᵇ with its 95 % interval."""

    value: float
    low: float
    high: float


def exponent(x: Sequence[float], y: Sequence[float]) -> Exponent:
    """Least squares in logarithms; the interval is Student's. Raises ValueError for fewer than
    three points or one not above 0."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) != len(y) or len(x) < 3 or not (x > 0).all() or not (y > 0).all() or len(set(x)) < 2:
        raise ValueError(
            "an exponent needs three or more points above 0 at two or more sizes, "
            f"got x {x.tolist()} and y {y.tolist()}"
        )
    fit = stats.linregress(np.log(x), np.log(y))
    half = float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr)
    return Exponent(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def first_sentence(told: str) -> str:
    """The first sentence of a docstring on one line; docstrings are wrapped."""
    paragraph = " ".join(told.split("\n\n")[0].split())
    return re.split(r"(?<=\w{2}\.)\s", paragraph)[0].rstrip(".:")


# Memory -------------------------------------------------------------------------------------------


def peak_mib() -> float:
    """This process's largest resident memory. On Linux VmHWM: ru_maxrss would begin at the
    parent's, whatever the parent held."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 1024
    )


def python(*arguments: str) -> str:
    """What a fresh Python process in the clone prints. Raises ValueError with the end of its
    errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    if done.returncode:
        raise ValueError(f"python {' '.join(arguments)[:200]} failed: {done.stderr[-600:]}")
    return done.stdout


def fresh(module: str, *arguments: str) -> dict:
    """The JSON that `python -m module arguments` prints on its last line."""
    return json.loads(python("-m", module, *arguments).splitlines()[-1])
