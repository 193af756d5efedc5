"""What the policies of the partition lab said, as files that can be read without their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rpo_nb.store import atomic_write, packed
from rpo_nb.studies.browse.stored import AGAIN
from rpo_nb.studies.lab import RIVAL, Study

FOLDER = "lab"  # below <out>/generations


def write(rows: pd.DataFrame, studies: Sequence[Study], out: str | Path) -> list[Path]:
    """<out>/generations/lab/{study}-seed{n}.jsonl.gz of each study; returns the files.

    rows: of `lab_runs.measure`. A row is one completion: study, seed, size, policy (its words),
    method, preset, tau, run (its folder below runs/), prompt_id, prompt, completion, reward (1 to
    10), log_ratio (policy over reference, nats).
    """
    files = []
    for study in studies:
        mine = rows[rows["study"].eq(study.name) & rows["seed"].eq(study.seed)]
        said = pd.DataFrame([_about(study, place, Path(out)) for place in range(len(study.specs))])
        told = mine.drop(columns="broken").merge(said, on="spec", validate="many_to_one")
        order = ["study", "seed", "size", "policy", "method", "preset", "tau", "run"]
        columns = [*order, "prompt_id", "prompt", "completion", "reward", "log_ratio"]
        told = told.sort_values(["spec", "prompt_id"], kind="stable")[columns]
        file = Path(out) / "generations" / FOLDER / f"{study.name}-seed{study.seed}.jsonl.gz"
        files.append(atomic_write(file, packed(told.round({"reward": 2, "log_ratio": 5}))))
    return files


def _about(study: Study, place: int, out: Path) -> dict:
    """What is the same for all completions of one policy of a study."""
    spec = study.specs[place]
    known = spec.row(study.profile, study.size)
    return {
        "spec": place,
        "policy": AGAIN if spec == RIVAL else known["policy"],
        "method": known["method"],
        "preset": known["preset"],
        "tau": known["tau"],
        "run": study.file(spec, out).parent.name,
    }
