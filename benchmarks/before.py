"""Today's speed over that of an earlier commit: python -m benchmarks.before COMMIT

Both checkouts run at once, a process and a core each, and change cores after every repetition: what
slows the machine down slows both. The commit's own code is measured by this file. Writes
benchmarks/before.csv: steps of training, sampling, and the import of the package.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SHAPES = {"T5": "google/flan-t5-small", "Llama": "Llama, 6 layers"}
SIDES = ("rpo", "dro", "kto", "plain")
FILE = Path(__file__).with_name("before.csv")


def either(name: str, *modules: str) -> Any:
    """A name that moved, from the first of the modules that has it."""
    for module in modules:
        with suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(module), name)
    raise ValueError(f"this commit has no {name} in {' or '.join(modules)}")


def seconds(shapes: Mapping[str, str] = SHAPES) -> dict[str, float]:
    """What is measured of the checkout on sys.path, in seconds, with one thread."""
    started = time.perf_counter()
    importlib.import_module("rpo_nb")
    found = {"import of rpo_nb": time.perf_counter() - started}
    import torch

    from rpo_nb.config import DecodingConfig

    torch.set_num_threads(1)
    generate = either("generate", "rpo_nb.policy", "rpo_nb.generation")
    stepper = either("Stepper", "benchmarks.sides", "benchmarks.workloads")
    workloads = importlib.import_module("benchmarks.workloads")
    for name, shape in shapes.items():
        case = workloads.Case.even(shape, prompts=4, completions=4, prompt=48, completion=48)
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                step = stepper(case, side, folder)
                step()  # the first one warms up
                found[f"{name}, {side} step"] = step()
        prompts = [" ".join(f"w{2 + (7 * i + j) % 90}" for j in range(24)) for i in range(32)]
        words = workloads.tokenizer(case.config.vocab_size)
        decoding = DecodingConfig(max_new_tokens=32, temperature=1.0, top_k=0, top_p=1.0)
        started = time.perf_counter()
        generate(
            case.model.eval(),
            words,
            prompts,
            decoding=decoding,
            seed=0,
            max_prompt_tokens=64,
            batch_size=32,
        )
        found[f"{name}, sampling"] = time.perf_counter() - started
    return found


def _side(checkout: Path, core: int) -> subprocess.Popen:
    """This file's `seconds` of a checkout, on one core."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-W", "ignore", __file__],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _printed(side: subprocess.Popen) -> dict[str, float]:
    told, errors = side.communicate()
    if side.returncode:
        raise ValueError(f"a checkout could not be measured: {errors[-600:]}")
    return json.loads(told.splitlines()[-1])


def compare(commit: str, repetitions: int) -> Path:
    """before.csv: a row a quantity, seconds of both (medians) and their ratio with its extremes."""
    import pandas as pd

    from benchmarks.measuring import ROOT
    from benchmarks.same_code import short

    commit = short(commit)
    git = ["git", "-C", str(ROOT)]
    rows = {"now": [], "before": []}
    with tempfile.TemporaryDirectory() as place:
        old = Path(place) / "before"
        subprocess.run([*git, "worktree", "add", "-q", "--detach", str(old), commit], check=True)
        try:
            for repetition in range(repetitions):
                cores = (0, 1) if repetition % 2 else (1, 0)
                both = [_side(tree, core) for tree, core in zip((ROOT, old), cores, strict=True)]
                for name, side in zip(rows, both, strict=True):
                    rows[name].append(_printed(side))
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(old)], check=True)
    table = compared(commit, *(pd.DataFrame(rows[name]) for name in ("now", "before")))
    table.to_csv(FILE, index=False, float_format="%.4g")
    return FILE


def compared(commit: str, now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """before.csv of seconds, a row a repetition and a column a quantity."""
    import pandas as pd

    from benchmarks.measuring import ratio

    found = [ratio(name, commit, now[name].to_numpy(), before[name].to_numpy()) for name in now]
    named = {"baseline": "commit", "low": "ratio_low", "high": "ratio_high"}
    table = pd.DataFrame(found).drop(columns="goal").rename(columns=named)
    table.insert(2, "seconds", now.median().to_numpy())
    table.insert(3, "seconds_before", before.median().to_numpy())
    return table


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(json.dumps(seconds()))
    else:
        parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
        parser.add_argument("commit")
        parser.add_argument("--repetitions", type=int, default=4)
        given = parser.parse_args()
        print(compare(given.commit, given.repetitions))
