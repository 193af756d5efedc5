"""Where the seconds of one policy of the pocket world go, on an output folder and a cache of its
own: python -m benchmarks.policy [size] prints them as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTED = time.perf_counter()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started


def seconds(size: str, folder: Path, *, profile_name: str = "pocket") -> dict[str, float]:
    """Stage -> seconds. Once a kernel: start-up (imports). Once a size and seed: the reference and
    what is asked of it. Once a policy: inputs (what is read again), training (of it the steps),
    sampling and scoring (both log-probabilities), metrics (Table II's)."""
    os.environ["RPO_NB_CACHE"] = str(folder / "cache")
    found: dict[str, float] = {}
    import torch
    from tqdm import tqdm

    from rpo_nb import evaluation, store
    from rpo_nb.config.loading import load_profile
    from rpo_nb.experiment import generations, grid, inputs, runs
    from rpo_nb.policy import logps

    found["start-up"] = time.perf_counter() - STARTED
    profile = load_profile(profile_name)
    torch.set_num_threads(profile.training.threads or 1)
    [run, *_] = [run for run in grid.cells(profile) if (run.method, run.size) == ("rpo", size)]
    with _timed(found, "reference"):
        inputs.prepare(profile, size, run.seed)
    with runs.quick_collections():
        with _timed(found, "inputs"):
            prepared = inputs.prepare(profile, size, run.seed)
        with _timed(found, "training"):
            runs.train_runs(profile, [run], prepared, folder, tqdm(disable=True))
        found["steps"] = store.read_json(run.done_file(folder))["seconds"]
        score = logps.score_completions

        def scored(*args, **options):
            with _timed(found, "scoring"):
                return score(*args, **options)

        logps.score_completions = scored
        with _timed(found, "sampling"):
            texts = generations.completions(profile, run, prepared, folder)
        logps.score_completions = score
    found["sampling"] -= found["scoring"]
    suite = evaluation.MetricSuite(profile.evaluation)
    rows = generations.generation_rows(run, prepared.splits, texts)
    with _timed(found, "metrics"):
        suite.score(*(rows[name].tolist() for name in ("prompt", "completion", "reference")))
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        size = sys.argv[1] if len(sys.argv) > 1 else "large"
        print(json.dumps(seconds(size, Path(place), profile_name=(sys.argv[2:] or ["pocket"])[0])))
