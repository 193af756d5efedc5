"""Ten minutes on a GPU: the rows of benchmarks/throughput.csv that fit in, in order of worth.

    make bench-gpu             # python -m benchmarks.gpu [MODEL ...] [--minutes 10] [--again]

Flan-T5 Small, Large and XL and an 8B Llama (random weights, real lengths), whole and with LoRA:
SFT and RPO of every shape as its profile trains it; Liger's kernel, sampling by transformers and by
vLLM, FSDP on one process; then the other way of training, then DRO and KTO. A row is written when
it ends. What does not fit into memory, or cannot be done here, is a row that says why; what does
not fit into the time is named, and the same command again goes on with it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import tables, throughput
from benchmarks.measuring import ROOT, first_sentence
from benchmarks.throughput import COLUMNS, SAMPLING, Shape, Spec, counted, empty_row, here, shapes
from rpo_nb.planning import costs

TABLE = Path(__file__).with_name("throughput.csv")
KEYS = ["device", "model", "lora", "method", "way", "rows"]
APART = {"fsdp": 40.0, "vllm": 150.0}  # ways with a process of their own, seconds it takes to start
SECONDS_A_WEIGHT = 1.5e-9  # to draw it, on a GPU
FAILED = "failed:"
ASSUMED = 0.2  # of the peak, for the time that a row will take


def wanted(given: Sequence[Shape]) -> list[Spec]:
    """Every row, the ones worth most first."""

    def rows(methods: Sequence[str], *, usual: bool) -> Iterator[Spec]:
        for method in methods:
            for shape in given:
                yield Spec(shape, shape.training.lora is usual, method)

    causal, middle = given[-1], given[min(1, len(given) - 1)]
    return [
        *rows(("sft", "rpo"), usual=True),
        Spec(causal, True, "rpo", "liger"),
        Spec(causal, True, SAMPLING),
        Spec(middle, False, "rpo", "fsdp"),
        *rows(("sft", "rpo"), usual=False),
        Spec(middle, False, "rpo", "liger"),
        *rows(("dro", "kto"), usual=True),
        *rows(("dro", "kto"), usual=False),
        Spec(causal, True, SAMPLING, "vllm"),
    ]


def expected(spec: Spec, steps: int, where: costs.Device) -> float:
    """Seconds that a row may take: its process, its weights, its arithmetic."""
    case = spec.case(steps + 1)
    arithmetic = (steps + 1) * spec.flops(case) / (where.rate(True) * ASSUMED)
    weights = counted(case.shape, spec.lora).all * SECONDS_A_WEIGHT
    return APART.get(spec.way, 2.0) + weights + arithmetic


def cannot(spec: Spec) -> str:
    """Why this machine cannot measure a row, "" where it may."""
    if spec.way == "fsdp" and not torch.cuda.is_available():
        return "FSDP needs a CUDA GPU: accelerate has it on none else"
    if spec.way == "vllm" and find_spec("vllm") is None:
        return "vLLM is not installed; pip install vllm in an environment of its own"
    return ""


def apart(spec: Spec, steps: int, seconds: float) -> dict[str, Any]:
    """A row that is measured in a process of its own. Raises RuntimeError with the end of what it
    said where it fails, ValueError where it takes longer than so many seconds."""
    throughput.release()
    launched = ["-m", "accelerate.commands.launch", "--use_fsdp", "--num_processes", "1"]
    command = [
        sys.executable,
        *(launched if spec.way == "fsdp" else []),
        *("-m", "benchmarks.throughput", spec.shape.model, spec.method),
        *("--way", spec.way, "--steps", str(steps)),
        *(["--lora"] if spec.lora else []),
    ]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"{spec.words}: it took longer than the {seconds:.0f} s left") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(f"{spec.words}: its process ended with {done.returncode}: {last[:300]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def row_of(spec: Spec, steps: int, end: float) -> dict[str, Any]:
    """The row of a spec; one that failed says so."""
    reason = cannot(spec)
    if not reason:
        try:
            if spec.way in APART:
                return apart(spec, steps, max(1.0, end - time.monotonic()))
            return throughput.measure(spec, steps=steps, end=end)
        except ValueError as error:  # a sentence on what cannot be done here
            reason = str(error)
        # what fails otherwise (a kernel, a library of another version) must not cost the others:
        # the row says it, and the exit status
        except Exception as error:
            reason = f"{FAILED} {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return empty_row(spec, spec.case(steps + 1), reason)


def done_before(table: Path, device: str) -> set[tuple[str, str, str, str]]:
    """Model, adapters, method and way of the rows that the table has measured on a device."""
    if not table.is_file():
        return set()
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["device"] == device and row["seconds"]]
    return {(row["model"], row["lora"], row["method"], row["way"]) for row in rows}


def every(
    specs: Sequence[Spec],
    *,
    minutes: float,
    steps: int = 5,
    table: Path = TABLE,
    again: bool = False,
    left: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """The rows of the specs that fit into the time, each merged into the table as it ends. left:
    is told what did not fit. again: also rows that the table has of this device."""
    end, where = time.monotonic() + 60 * minutes, here()
    before = set() if again else done_before(table, where.name)
    found, over = [], []
    for spec in specs:
        if (spec.shape.model, str(spec.lora), spec.method, spec.way) in before:
            continue
        if not cannot(spec) and time.monotonic() + expected(spec, steps, where) > end:
            over.append(spec.words)
            continue
        row = row_of(spec, steps, end)
        print(f"{spec.words}: {row['said'] or told(row)}", flush=True)
        found.append(row)
        tables.merge(table, pd.DataFrame([row], columns=COLUMNS), KEYS)
    if over:
        left(
            f"{len(over)} rows did not fit into {minutes:g} minutes; the same command again goes "
            f"on with them: {'; '.join(over)}"
        )
    return found


def told(row: dict[str, Any]) -> str:
    """A measured row in words."""
    share = f", {row['share_of_peak']:.1%} of the peak" if row["share_of_peak"] else ""
    memory = f", {row['peak_gib']:.1f} GiB" if row["peak_gib"] else ""
    return f"{row['tokens_per_second']:,.0f} tokens a second{share}{memory}"


def main() -> int:
    """1 where a row failed, for another reason than memory, time or something that is not here."""
    known = {shape.model: shape for shape in shapes()}
    parser = argparse.ArgumentParser(description=first_sentence(__doc__))
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"some of {', '.join(known)}")
    parser.add_argument("--minutes", type=float, default=10.0, help="in which rows may begin")
    parser.add_argument("--steps", type=int, default=5, help="of a row, after a first")
    parser.add_argument("--again", action="store_true", help="also rows that are there already")
    given = parser.parse_args()
    if unknown := sorted(set(given.models) - set(known)):
        parser.error(f"{unknown[0]!r} is unknown; there are {', '.join(known)}")
    if not torch.cuda.is_available():
        parser.error("no CUDA GPU is here; run it where there is one")
    if given.minutes <= 0 or given.steps < 1:
        parser.error("give --minutes above 0 and --steps of 1 or more")
    specs = wanted([known[name] for name in given.models or known])
    rows = every(specs, minutes=given.minutes, steps=given.steps, again=given.again)
    return int(any((row["said"] or "").startswith(FAILED) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
