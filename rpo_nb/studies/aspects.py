"""Several rewards a row: what the generated texts are worth by each, as a judge learnt of it says.

For every aspect that the feedback rates besides its reward, a reward model learns that rating by
regression from the held-out rows and scores the policies' completions. The policies themselves
learn from the reward alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import Profile
from rpo_nb.data.kinds import aspects
from rpo_nb.experiment import inputs
from rpo_nb.judging.reward_model import RewardModel
from rpo_nb.judging.reward_training import limits, train_reward_model
from rpo_nb.reporting import tables
from rpo_nb.running.provenance import model_key, step_code
from rpo_nb.store import cached

COLUMNS = ["preset", "aspect", "method", "size", "value", "std", "ci_low", "ci_high", "n", "seeds"]
UNIT = (
    "Predicted rating in standard deviations of the held-out ratings of the aspect; ±: over seeds; "
    "interval: 95 %, over other seeds and prompts."
)


def judge(profile: Profile, out: Path, seed: int, aspect: str) -> RewardModel:
    """The judge of an aspect, learnt once and kept in <out>/runs/judges/. Raises ValueError where
    its ratings do not differ within two held-out prompts or more."""
    settings = profile.evaluation.model_copy(update={"judge_loss": "regression"})
    size = settings.judge_size or next(iter(profile.sizes))
    reference = inputs.reference_path(profile, size, seed)
    held_out = inputs.splits(profile, seed, size).held_out
    rated = held_out.select(np.flatnonzero(np.isfinite(np.asarray(held_out[aspect], float))))
    rows = rated.select_columns(["prompt_id", "prompt", "completion"]).add_column(
        "reward", np.asarray(rated[aspect], float)
    )
    key = content_key(
        [
            model_key(reference),
            rows.to_pandas().to_csv(),
            settings.model_dump(mode="json"),
            limits(profile.data),
            profile.training.threads,
            profile.training.bf16,
            seed,
            step_code("reward model"),
        ]
    )
    name = re.sub(r"\W+", "-", aspect)[:40]
    folder = cached(
        Path(out) / "runs" / "judges" / f"aspect-{name}-seed{seed}-{key}",
        lambda made: train_reward_model(
            reference,
            rows,
            config=settings,
            data=profile.data,
            seed=seed,
            threads=profile.training.threads,
            bf16=profile.training.bf16,
        ).save(made, base=profile.sizes[size].id),
    )
    return RewardModel.load(folder, base=reference)


def table(
    profile: Profile, out: str | Path, generations: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """(mean predicted rating of each aspect by preset, method and size; notes on the judges, or why
    there is none).

    generations: of `generations.load_generations`. Empty, without notes, where the feedback has one
    reward.
    """
    names = aspects(inputs.splits(profile, profile.seeds[0]).train)
    if not names:
        return pd.DataFrame(columns=COLUMNS), []
    if "reward_model" not in profile.evaluation.judges:
        return pd.DataFrame(columns=COLUMNS), [
            f"{', '.join(names)}: nothing here judges an "
            "aspect; add reward_model to "
            "evaluation.judges"
        ]
    shown, found, notes = tables.at_main_setting(generations, profile), [], [UNIT]
    for aspect in names:
        right = []
        for seed in profile.seeds:
            rows = shown[shown["seed"].eq(seed)]
            try:
                bench = judge(profile, Path(out), seed, aspect)
            except ValueError as error:
                notes.append(f"{aspect}, seed {seed}: not measured: {error}")
                continue
            right += bench.held_out["correct"].tolist()
            scores = bench.score(rows["prompt"].tolist(), rows["completion"].tolist())
            found.append(
                rows[["preset", "method", "size", "seed", "prompt_id"]].assign(
                    aspect=aspect, score=scores
                )
            )
        if right:
            doubt = (
                ""
                if np.mean(right) > 0.5
                else ", not above chance: its numbers prove the path, not quality"
            )
            notes.append(
                f"{aspect}: its judge is right in {np.mean(right):.0%} of {len(right)} "
                f"held-out comparisons{doubt}."
            )
    if not found:
        return pd.DataFrame(columns=COLUMNS), notes
    keys, cells = ["preset", "aspect", "method", "size"], []
    for key, cell in pd.concat(found).groupby(keys, sort=False):
        points = cell.pivot(index="seed", columns="prompt_id", values="score").to_numpy()
        mean, low, high, *_ = intervals.seeds_and_prompts(points)
        std = np.nanmean(points, axis=1).std(ddof=1) if len(points) > 1 else np.nan
        cells.append([*key, mean, std, low, high, len(cell), len(points)])
    return pd.DataFrame(cells, columns=COLUMNS), notes
