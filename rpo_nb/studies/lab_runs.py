"""The partition lab's runs: trained, asked, measured, one row a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import joblib
import numpy as np
import pandas as pd

from rpo_nb.experiment import generations, inputs, runs
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.pocket import checker
from rpo_nb.running.progress import tell
from rpo_nb.store import read_sealed
from rpo_nb.studies.lab import DISTURBANCES, Spec, Study, trained


def disturbed(study: Study, prepared: Prepared) -> Prepared:
    """The study's rewards, standardised again as a trainer would (but for "scale"). What QRPO
    compares with comes from the same rater, so it is disturbed alike."""
    if not study.disturbance:
        return prepared
    change, g = DISTURBANCES[study.disturbance], np.random.default_rng([study.seed, 8])
    own = inputs.reference_rewards(study.profile, prepared, study.seed)
    both = change(np.column_stack([prepared.rewards, own]), g)
    if study.disturbance != "scale":
        both = (both - both[:, 0].mean()) / both[:, 0].std()
    return replace(prepared, rewards=both[:, 0], ref_rewards=both[:, 1:])


# Training and asking ------------------------------------------------------------------------------


def make(study: Study, out: Path) -> int:
    """Train and ask what is missing of a study; returns how many policies were trained."""
    from tqdm import tqdm
    from transformers.utils import logging

    logging.disable_progress_bar()  # of every model that is read or written
    inputs.torch_threads(study.profile)
    missing = [spec for spec in study.specs if not study.is_answered(spec, out)]
    if not missing:
        return 0
    loaded = inputs.prepare(study.profile, study.size, study.seed)
    reference = loaded.reference
    prepared = disturbed(study, loaded)
    made = 0
    # the notebook prints the diagnostics, regime by regime
    with runs.quick_collections(), redirect_stdout(StringIO()):
        for run in map(study.run, missing):
            if run.trained:
                made += runs.train_runs(
                    study.profile, [run], prepared, out, tqdm(disable=True), world=study.world
                )
            prepared.__dict__["reference"] = reference  # small here; training lets it go
            generations.completions(
                study.profile,
                run,
                prepared,
                out,
                asked=study.asked,
                prompts=study.prompts,
                world=study.world,
            )
    return made


def measure(
    studies: Sequence[Study], out: str | Path, *, workers: int = 1, progress: bool = True
) -> pd.DataFrame:
    """Make what is missing, then one row a study, policy and prompt: study, seed, size, spec (its
    place in the study), prompt_id, prompt, completion, reward (1 to 10), log_ratio (policy over
    reference, nats), broken (0 or 1)."""
    from tqdm.auto import tqdm

    out = Path(out)
    left = []
    for study in studies:
        answered = [study.run(spec) for spec in study.specs if study.is_answered(spec, out)]
        tell(run.name for run in answered if run.trained)
        left += [study] * (len(answered) < len(study.specs))
    processes = max(1, min(workers, len(left)))
    tasks = joblib.Parallel(n_jobs=processes, return_as="generator_unordered", batch_size=1)(
        joblib.delayed(make)(study, out) for study in sorted(left, key=lambda s: -len(s.specs))
    )
    # once for all studies of this process
    with runs.quick_collections() if left and processes == 1 else nullcontext():
        made = sum(tqdm(tasks, total=len(left), desc="studies", disable=not progress or not left))
    policies = len(trained(studies))
    print(f"{made} policies trained, {policies - made} were done already")
    return pd.concat(
        [_rows(study, i, spec, out) for study in studies for i, spec in enumerate(study.specs)],
        ignore_index=True,
    )


def prepared(studies: Sequence[Study]) -> dict[tuple[str, int], Prepared]:
    """Each study's training rows, their rewards and reference log-probabilities, by (name, seed);
    no reference stays in memory."""
    out = {}
    for study in studies:
        out[study.name, study.seed] = found = inputs.prepare(study.profile, study.size, study.seed)
        found.release()
    return out


def _rows(study: Study, place: int, spec: Spec, out: Path) -> pd.DataFrame:
    stored = read_sealed(study.file(spec, out))
    prompts, texts = study.prompts, stored["completions"]
    return pd.DataFrame(
        {
            "study": study.name,
            "seed": study.seed,
            "size": study.size,
            "spec": place,
            "prompt_id": range(len(prompts)),
            "prompt": prompts,
            "completion": texts,
            "reward": [checker.score(p, t) for p, t in zip(prompts, texts, strict=True)],
            "log_ratio": np.subtract(stored["policy_logps"], stored["ref_logps"]),
            "broken": [float(checker.broken(t)) for t in texts],
        }
    )
