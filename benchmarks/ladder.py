"""Whether the pocket's sizes are a ladder, and its regimes what their names say, by measurement.

    python -m benchmarks.ladder [sizes] [regimes]      # both; writes ladder.csv, regimes.csv

ladder.csv: the reference of every size of the `pocket` profile, with ten seeds on equal
demonstrations, and what it says to questions that nobody taught: mean reward with `low` and `high`,
the 95 % interval over seeds by Student's t, and fluency; `taught` is the mean reward of the
demonstrations. regimes.csv: `studies.regimes.measured` of the profile. Six minutes on a core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

SEEDS = range(10)
QUESTIONS = 100  # a seed
FOLDER = Path(__file__).parent


def ladder(profile: Any, size: str) -> dict[str, Any]:
    """A row of ladder.csv."""
    import numpy as np

    from rpo_nb import intervals
    from rpo_nb.experiment import inputs
    from rpo_nb.pocket import checker, grammar
    from rpo_nb.pocket.prompts import make_prompts
    from rpo_nb.pocket.writers import demonstrations
    from rpo_nb.policy.load import load_policy

    model, rewards, fluency, taught = profile.sizes[size], [], [], []
    for seed in SEEDS:
        path = inputs.reference_path(profile, size, seed)
        asked = make_prompts(QUESTIONS, rng=np.random.default_rng([seed, 9]))
        texts = [row[0] for row in inputs.reference_samples(profile, path, asked, 1, seed)]
        rewards.append(np.mean([*map(checker.score, asked, texts)]))
        fluency.append(np.mean([*map(grammar.fluency, texts)]))
        pairs = demonstrations(model.demonstrations, seed=seed, demonstrator=model.demonstrator)
        taught.append(np.mean([checker.score(*pair) for pair in pairs]))
    reward, low, high = intervals.student(rewards)
    return {
        "size": size,
        "d_model": model.d_model,
        "parameters": load_policy(path)[0].num_parameters(),
        "demonstrations": model.demonstrations,
        "seeds": len(SEEDS),
        "reward": reward,
        "low": low,
        "high": high,
        "fluency": np.mean(fluency),
        "taught": np.mean(taught),
    }


def main(*wanted: str) -> None:
    import pandas as pd

    from rpo_nb.config.loading import load_profile
    from rpo_nb.studies import regimes

    unknown = set(wanted) - {"sizes", "regimes"}
    if unknown:
        raise SystemExit(f"{min(unknown)!r} is unknown; give sizes, regimes, or nothing for both")
    profile = load_profile("pocket-deep", seeds="0,1")  # all regimes
    if "sizes" in (wanted or ("sizes",)):
        _write(pd.DataFrame([ladder(profile, size) for size in profile.sizes]), "ladder")
    if "regimes" in (wanted or ("regimes",)):
        with tempfile.TemporaryDirectory() as out:
            table = regimes.measured(profile, out)
        _write(table, "regimes")
        print("\n".join(regimes.misnamed(table)))


def _write(table: Any, name: str) -> None:
    print(table.round(2).to_string(index=False), flush=True)
    table.round(4).to_csv(FOLDER / f"{name}.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
