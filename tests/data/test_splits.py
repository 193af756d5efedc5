"""Splits and rewards, the source's own validation split."""

from collections import Counter

import datasets
import numpy as np
import pytest

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import reading
from rpo_nb.data.feedback import load_feedback
from rpo_nb.data.splits import Splits, group_key, split_feedback, standardise
from rpo_nb.data.summary import sparsity, sparsity_warning, summarise
from tests.data.rows import (
    FLAT,
    lines,
    reasons,
)

# ---- splits and rewards --------------------------------------------------------------------------


def graded(prompts, *, top=0, k=4, seed=0):
    """Feedback whose first `top` prompts have two completions of the top score 10; the others have
    1 to 9 at random."""
    rng = np.random.default_rng(seed)
    return load_feedback(
        [
            {
                "prompt": f"Prompt {i}",
                "completion": f"{i}-{j}",
                "reward": 10.0 if i < top and j < 2 else float(rng.integers(1, 10)),
            }
            for i in range(prompts)
            for j in range(k)
        ]
    )


def keys(part):
    return {group_key(prompt) for prompt in part["prompt"]}


def test_split_follows_the_papers_rule():
    config = DataConfig(prompts=50, completions_per_prompt=3, validation=20, held_out=30)
    splits = split_feedback(graded(200, top=40), config=config, seed=0)
    assert (
        set(splits.validation["reward"]) == {10.0}
        and len(splits.validation) == len(keys(splits.validation)) == 20
    )
    assert len(keys(splits.train)) == 50 and set(Counter(splits.train["prompt_id"]).values()) == {3}
    assert len(keys(splits.held_out)) == 30 and len(splits.held_out) == 120
    assert not (
        keys(splits.train) & keys(splits.validation)
        or keys(splits.train) & keys(splits.held_out)
        or keys(splits.validation) & keys(splits.held_out)
    )
    assert (splits.reward_mean, splits.reward_std) == (
        np.mean(splits.train["reward"]),
        np.std(splits.train["reward"]),
    )
    assert splits.notes == [
        "Train: 50 prompts, 150 completions. Validation: 20 prompts. Held out: 30 prompts."
    ]
    assert splits.train.features == reading.FEATURES


def test_split_is_drawn_by_the_seed_alone():
    feedback, config = (
        graded(80, top=30),
        DataConfig(prompts=30, completions_per_prompt=2, validation=10, held_out=10),
    )
    first, again, other = (split_feedback(feedback, config=config, seed=seed) for seed in (3, 3, 4))
    assert all(
        getattr(first, part).to_dict() == getattr(again, part).to_dict()
        for part in ("train", "validation", "held_out")
    )
    assert all(
        getattr(first, part).to_dict() != getattr(other, part).to_dict()
        for part in ("train", "validation", "held_out")
    )


def test_which_top_row_validates_and_which_completions_train_is_drawn():
    feedback, config = (
        graded(40, top=20),
        DataConfig(prompts=10, completions_per_prompt=1, validation=10),
    )
    splits = [split_feedback(feedback, config=config, seed=seed) for seed in range(30)]
    assert {text.split("-")[1] for s in splits for text in s.validation["completion"]} == {"0", "1"}
    assert {text.split("-")[1] for s in splits for text in s.train["completion"]} == {
        "0",
        "1",
        "2",
        "3",
    }


@pytest.mark.parametrize("seed", range(5))
def test_prompts_that_differ_in_white_space_or_case_never_stand_on_two_sides(seed):
    base = [f"Say {i} now" for i in range(30)]
    twins = [prompt.replace(" ", "  ") + "\n" for prompt in base[:20]] + [
        prompt.upper() for prompt in base[10:30]
    ]
    rng = np.random.default_rng(seed)
    rows = [
        {
            "prompt": prompt,
            "responses": [
                {"text": f"{i} {j}", "reward": float(rng.integers(8, 11))} for j in range(3)
            ],
        }
        for i, prompt in enumerate(base + twins)
    ]
    splits = split_feedback(
        load_feedback(rows), config=DataConfig(validation=8, held_out=8), seed=seed
    )
    parts = [keys(part) for part in (splits.train, splits.validation, splits.held_out)]
    assert all(parts) and len(set.union(*parts)) == sum(map(len, parts))
    assert len(splits.validation) == len(parts[1])
    assert any(
        "40 prompts repeat another but for white space or case" in note for note in splits.notes
    )


def test_fewer_top_rows_than_asked_for_are_said_and_not_filled():
    splits = split_feedback(graded(100, top=12), config=DataConfig(validation=20), seed=0)
    assert len(splits.validation) == 12 and set(splits.validation["reward"]) == {10.0}
    assert (
        splits.notes[0] == "12 prompts reach the top score 10: validation has these instead of 20."
    )


def test_continuous_rewards_validate_on_the_best_prompts():
    rows = [
        {"prompt": f"p{i}", "completion": text, "reward": 1 + i / scale}
        for i in range(100)
        for text, scale in (("a", 30), ("b", 60))
    ]
    splits = split_feedback(load_feedback(rows), config=DataConfig(validation=20), seed=0)
    assert set(splits.validation["prompt"]) == {f"p{i}" for i in range(80, 100)} and set(
        splits.validation["completion"]
    ) == {"a"}
    assert "Only 1 of the prompts reach the top score 4.3" in splits.notes[0]


def test_too_few_prompts_shrink_in_proportion():
    config = DataConfig(prompts=500, validation=200, held_out=500)
    splits = split_feedback(graded(120, top=60), config=config, seed=0)
    sizes = [len(keys(part)) for part in (splits.train, splits.validation, splits.held_out)]
    assert sizes == [50, 20, 50] and "fewer than the 1200 asked for" in splits.notes[0]


def test_two_prompts_are_enough_and_one_is_not():
    splits = split_feedback(graded(2, top=1), config=DataConfig(), seed=0)
    assert len(keys(splits.train)) == len(splits.validation) == 1 and len(splits.held_out) == 0
    with pytest.raises(ValueError, match="fewer than 2 different prompts"):
        split_feedback(graded(1), config=DataConfig(), seed=0)
    rows = [
        {"prompt": f"p{i}", "responses": [{"text": "a", "reward": 5}, {"text": "b", "reward": 5}]}
        for i in range(20)
    ]
    with pytest.raises(ValueError, match="training rewards are all equal"):
        split_feedback(load_feedback(rows), config=DataConfig(), seed=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardise_is_the_population_z_score(dtype):
    splits = Splits(None, None, None, reward_mean=5.0, reward_std=2.0, notes=[])
    out = standardise(np.array([1, 5, 10], dtype), splits)
    assert out.dtype == dtype
    np.testing.assert_allclose(
        out, np.array([-4, 0, 5]) / (2 + 1e-8), rtol=1e-6 if dtype == np.float32 else 1e-15
    )


def test_standardised_training_rewards_have_mean_0_and_variance_1():
    splits = split_feedback(graded(60, top=10), config=DataConfig(validation=5), seed=0)
    out = standardise(splits.train["reward"][:], splits)
    assert out.dtype == np.float64 and abs(out.mean()) < 1e-12 and abs(out.var() - 1) < 1e-6
    with pytest.raises(ValueError, match="reward 1 is not finite"):
        standardise([1.0, float("nan")], splits)


def test_sparsity_and_summary():
    rows = [
        {
            "prompt": f"p{n}",
            "responses": [{"text": "word " * j, "reward": j} for j in range(1, n + 1)],
        }
        for n in (1, 2, 3, 5)
    ]
    feedback = load_feedback(rows)
    assert sparsity(feedback) == 0.5 and sparsity(feedback, fewer_than=2) == 0.25
    assert sparsity_warning(feedback).startswith(
        "50.0% of the prompts have fewer than 3 completions"
    )
    assert sparsity_warning(load_feedback(rows[2:])) == ""
    summary = summarise(feedback).set_index("quantity")["value"]
    rewards = [1, 1, 2, 1, 2, 3, 1, 2, 3, 4, 5]
    assert (
        summary["prompts"],
        summary["completions"],
        summary["completions per prompt, most"],
    ) == (4, 11, 5)
    assert summary["reward, mean"] == pytest.approx(np.mean(rewards))
    assert summary["reward, standard deviation"] == pytest.approx(np.std(rewards))
    assert summary["rank correlation of length and reward"] == pytest.approx(1)
    assert summary["words per completion, median"] == 2
    assert summary["share of prompts whose rewards are all equal"] == 0.25
    assert summary["share of prompts that reach the top reward"] == 0.25


# ---- the source's own validation split -----------------------------------------------------------


def two_splits():
    train = [
        {"instruction": f"Prompt {i}", "response": f"{i}-{j}", "reward": 2.0 + j}
        for i in range(20)
        for j in range(3)
    ]
    test = [
        {"instruction": f"prompt  {i}", "response": f"test {i}-{j}", "reward": 5.0 + j}
        for i in range(17, 25)
        for j in range(2)
    ]
    return datasets.DatasetDict(
        train=datasets.Dataset.from_list(train), test=datasets.Dataset.from_list(test)
    )


@pytest.mark.parametrize("kind", ["memory", "saved", "folder", "hub"])
def test_the_sources_own_split_validates_and_its_prompts_do_not_train(kind, tmp_path, monkeypatch):
    source, parts = two_splits(), two_splits()
    if kind == "saved":
        source.save_to_disk(tmp_path / "x")
    elif kind == "folder":
        (tmp_path / "x").mkdir()
        for name, part in source.items():
            lines(tmp_path / "x" / f"{name}.jsonl", *part)
    elif kind == "hub":
        monkeypatch.setattr(datasets, "load_dataset", lambda name, split, **_: parts[split])
    config = DataConfig(validation_split="test", validation=6, held_out=4)
    source = {"memory": source, "hub": "bilalfaye/ultrafeedback-rpo-split"}.get(
        kind, tmp_path / "x"
    )
    feedback, report = load_feedback(source, config=config, return_report=True)
    assert (
        report == []
        and feedback.column_names == [*reading.FEATURES, "split"]
        and Counter(feedback["split"]) == {"train": 60, "test": 16}
    )
    splits = split_feedback(feedback, config=config, seed=0)
    assert splits.train.features == reading.FEATURES and set(splits.validation["reward"]) == {6.0}
    assert len(splits.validation) == len(keys(splits.validation)) == 6 and keys(
        splits.validation
    ) < {f"prompt {i}" for i in range(17, 25)}
    assert (
        keys(splits.train) | keys(splits.held_out) == {f"prompt {i}" for i in range(17)}
        and len(keys(splits.held_out)) == 4
    )
    assert splits.notes[1:3] == [
        "The split 'test' has 8 prompts: 6 of them, drawn by seed, validate.",
        "3 prompts of the training split also stand in the split 'test': taken out of training.",
    ]
    others = [
        split_feedback(feedback, config=config, seed=seed).validation["prompt"][:]
        for seed in range(5)
    ]
    assert len(set(map(tuple, others))) > 1


def test_a_source_without_that_split_says_so(tmp_path):
    config = DataConfig(validation_split="test")
    two_splits()["train"].save_to_disk(tmp_path / "saved")
    for source in (FLAT, lines(tmp_path / "x.jsonl", *FLAT), tmp_path / "saved"):
        with pytest.raises(
            ValueError, match="has no splits, so data.validation_split 'test' is not in it"
        ):
            load_feedback(source, config=config)
    with pytest.raises(ValueError, match="there is no split 'test'; set .* to one of train"):
        load_feedback(datasets.DatasetDict(train=datasets.Dataset.from_list(FLAT)), config=config)
    with pytest.raises(ValueError, match="was read without it"):
        split_feedback(load_feedback(FLAT), config=config, seed=0)
    same = datasets.DatasetDict(
        train=datasets.Dataset.from_list(FLAT), test=datasets.Dataset.from_list(FLAT)
    )
    with pytest.raises(ValueError, match="none is left to train on"):
        split_feedback(load_feedback(same, config=config), config=config, seed=0)


def test_defects_of_two_splits_name_the_split():
    parts = two_splits()
    parts["test"] = datasets.Dataset.from_list(
        [*parts["test"], {"instruction": "p", "response": "", "reward": 3.0}]
    )
    _, report = load_feedback(parts, config=DataConfig(validation_split="test"), return_report=True)
    assert reasons(report) == [(17, "test: response", "text is empty", "dropped")]
