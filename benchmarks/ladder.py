"""benchmarks/ladder.csv: whether the pocket's sizes are a ladder, on equal demonstrations.

    python -m benchmarks.ladder [sizes.small.d_model=48 …]

Trains the reference of every size of the `pocket` profile with ten seeds and asks it questions that
nobody taught; `demonstrations` is what its teacher's own texts are worth. `low` and `high`: 95 %
interval of the mean over seeds, by Student's t. A row a size; five minutes on a core.
"""

from __future__ import annotations

import sys
from pathlib import Path

SEEDS = range(10)
QUESTIONS = 100  # a seed


def main(*settings: str) -> None:
    import numpy as np
    import pandas as pd

    from rpo_nb import intervals
    from rpo_nb.config.loading import load_profile
    from rpo_nb.experiment import inputs
    from rpo_nb.pocket import checker, grammar
    from rpo_nb.pocket.prompts import make_prompts
    from rpo_nb.pocket.writers import demonstrations
    from rpo_nb.policy.load import load_policy

    profile = load_profile("pocket", **dict(setting.split("=") for setting in settings))
    rows = []
    for size, model in profile.sizes.items():
        rewards, taught, fluency = [], [], []
        for seed in SEEDS:
            path = inputs.reference_path(profile, size, seed)
            asked = make_prompts(QUESTIONS, rng=np.random.default_rng([seed, 9]))
            texts = [row[0] for row in inputs.reference_samples(profile, path, asked, 1, seed)]
            rewards.append(np.mean([*map(checker.score, asked, texts)]))
            fluency.append(np.mean([*map(grammar.fluency, texts)]))
            pairs = demonstrations(model.demonstrations, seed=seed, demonstrator=model.demonstrator)
            taught.append(np.mean([checker.score(*pair) for pair in pairs]))
        reward, low, high = intervals.student(rewards)
        rows.append(
            {
                "size": size,
                "d_model": model.d_model,
                "parameters": load_policy(path)[0].num_parameters(),
                "demonstrations": model.demonstrations,
                "seeds": len(SEEDS),
                "reward": reward,
                "low": low,
                "high": high,
                "fluency": np.mean(fluency),
                "demonstrations_reward": np.mean(taught),
            }
        )
        print(rows[-1], flush=True)
    file = Path(__file__).with_suffix(".csv")
    pd.DataFrame(rows).round(4).to_csv(file, index=False, lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
