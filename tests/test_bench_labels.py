"""What pairs, labels and scores teach: what is told, who is right, and every method trained."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import labels
from rpo_nb.config.schema import TrainingConfig

ROWS = pd.DataFrame(
    [
        (prompt, f"write about {prompt}", text, reward)
        for prompt in range(6)
        for text, reward in (("a fool", 2.0), ("the red lamp", 9.0), ("small boat", 5.0))
    ],
    columns=["prompt_id", "prompt", "completion", "reward"],
)


def test_a_pair_is_the_best_and_one_below_it():
    pairs = labels.pairs_of(ROWS, 0)
    assert len(pairs) == 12
    better, worse = pairs["completion"][0::2], pairs["completion"][1::2]
    assert set(better) == {"the red lamp"} and set(worse) <= {"a fool", "small boat"}
    assert pairs["label"].tolist() == [labels.BETTER, labels.WORSE] * 6


def test_the_higher_of_a_pair_is_taken_and_a_tie_is_half():
    assert labels.right(np.array([2.0, 1.0, 1.0, 2.0, 3.0, 3.0])).tolist() == [1.0, 0.0, 0.5]


def test_scores_teach_only_what_reads_them():
    told = {teaching.method for teaching in labels.OF_SCORES}
    assert told == {"bwd", "sqloo", "rpo", "dro"}
    few, many = (
        labels.Teaching("score", "bwd").objective(np.array(gaps)).setting.eta
        for gaps in ([1.0], [4.0])
    )
    assert few == pytest.approx(4 * many)  # larger gaps, a smaller suggested scale


@pytest.mark.parametrize("teaching", [*labels.TEACHINGS, *labels.OF_SCORES], ids=str)
def test_each_learns_which_is_better(tiny_llama, tmp_path, teaching):
    """Asked about what it was shown, after enough steps, every one of them knows."""
    for part in tiny_llama:
        part.save_pretrained(tmp_path)
    training = TrainingConfig(learning_rate=3e-2, epochs=12, batch_size=12, warmup_steps=0)
    pairs = labels.pairs_of(ROWS, 0)
    found = labels.Teacher(str(tmp_path), training).teach(teaching, pairs, pairs, 0)
    assert found.mean() > 0.8
