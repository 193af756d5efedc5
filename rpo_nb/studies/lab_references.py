"""The lab's studies measured where references may have travelled without their weights
(`running.parts`): what one said is asked once, for all studies that ask it the same, and a gradient
is measured once, whatever processor reads it.

Studies with disturbed rewards ask the same reference as the others, and its answers lie in one file
under two keys (`Study.world`): each kind would take the other's for stale, and load the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.experiment import generations, inputs
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.intervals import Interval
from rpo_nb.running.provenance import cache_dir, model_key, step_code
from rpo_nb.store import cached, read_json, write_json
from rpo_nb.studies import lab_runs, table1
from rpo_nb.studies.lab import REFERENCE, RIVAL, Spec, Study


def measure(studies: Sequence[Study], out: str | Path, *, workers: int = 1) -> pd.DataFrame:
    """`lab_runs.measure`, those with disturbed rewards after the others. Weights of a reference are
    needed only for what it was never asked."""
    parts = []
    for disturbed in (False, True):
        group = [study for study in studies if bool(study.disturbance) is disturbed]
        if group:
            _ask(group, Path(out))
            parts.append(lab_runs.measure(group, out, workers=workers))
    return pd.concat(parts, ignore_index=True)


def _ask(studies: Sequence[Study], out: Path) -> None:
    """Give the references' answers the key of these studies; a reference that was not asked yet
    is."""
    for study in studies:
        asked = [spec for spec in (REFERENCE, RIVAL) if spec in study.specs]
        left = [spec for spec in asked if not study.is_answered(spec, out)]
        prepared = inputs.prepare(study.profile, study.size, study.seed) if left else None
        for spec in left:
            generations.completions(
                study.profile,
                study.run(spec),
                prepared,
                out,
                asked=study.asked,
                prompts=study.prompts,
                world=study.world,
            )


def first_variance(study: Study, spec: Spec, prepared: Prepared) -> Interval:
    """`table1.first_gradient_variance`, kept by what its rows are made from as well. It keeps it by
    the rows, which hold estimates of the partition function: another kind of processor computes
    them to other last digits, and a reference that travelled has no weights to measure it again."""
    run = spec.run(study.profile, study.size, study.seed)
    made_from = {"model": model_key(prepared.path), "code": step_code("gradient variance")}
    key = content_key([made_from, study.world, run.recipe, study.profile.evaluation.table1_batches])

    def make(folder: Path) -> None:
        found = table1.first_gradient_variance(study.profile, run, prepared)
        write_json(folder / "variance.json", [float(number) for number in found])

    folder = cached(cache_dir() / "gradients" / f"made-{key}", make, of=made_from)
    return Interval(*read_json(folder / "variance.json"))
