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


def test_what_was_asked_the_same_is_not_trained_again(tiny_llama, tmp_path, monkeypatch):
    """The same is the same data and model, wherever they lie."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(labels, "TEST_PROMPTS", 2)
    asked = []

    def teach(self, teaching, train, test, seed):
        asked.append(teaching)
        assert not set(train["prompt_id"]) & set(test["prompt_id"])
        return np.array([1.0, float(seed)])

    monkeypatch.setattr(labels.Teacher, "teach", teach)
    for part in tiny_llama:
        part.save_pretrained(tmp_path / "model")

    def compare(file, rows):
        rows.drop(columns="prompt_id").to_json(tmp_path / file, orient="records", lines=True)
        asked.clear()
        found = labels.compare(str(tmp_path / file), str(tmp_path / "model"), 2, 3)
        return found, len(asked)

    every = 2 * (len(labels.TEACHINGS) + len(labels.OF_SCORES))
    table, trained = compare("a.jsonl", ROWS)
    assert trained == every
    assert (table["accuracy"][table["told"].eq("pair")] == 0.75).all()
    assert (table["accuracy"][table["told"].str.startswith("score less")] == 0).all()
    assert compare("b.jsonl", ROWS)[1] == 0
    assert compare("a.jsonl", ROWS.assign(reward=ROWS["reward"] + 1))[1] == every
