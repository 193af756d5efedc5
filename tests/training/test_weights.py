"""Weights: a row's loss counts so often; 2 is the row twice, 0 the row left out, 1 is no weight."""

import copy

import datasets
import numpy as np
import pytest
import torch

from rpo_nb.config.objective import Objective, Setting
from rpo_nb.config.schema import DataConfig, TrainingConfig
from rpo_nb.data import splits
from rpo_nb.experiment import grid, inputs, runs
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.training.batches import desirable_rows, micro_batches, prompt_groups
from rpo_nb.training.trainer import make_trainer

PROMPTS = ["write about a red lamp", "please write about the boat", "two chair in the garden"]
TEXTS = [
    "the red lamp stands in the garden.",
    "a lamp waits.",
    "the boat lies near the harbour.",
    "it is very bad.",
    "a chair.",
    "two chair waits under the mat.",
]
IDS = np.array([0, 0, 1, 1, 2, 2])
PARTNER = np.array([2, 3, 4, 5, 0, 1])  # KTO's mismatched completions
CONFIG = TrainingConfig(
    epochs=1,
    batch_size=100,
    learning_rate=1e-2,
    warmup_steps=0,
    report_to=(),
    logging_steps=1,
    threads=1,
)
OBJECTIVES = {
    "sft": Objective(method="sft", reduce="mean"),
    "rpo": Objective(method="rpo", tau=0.5),
    "dro": Objective(method="dro", tau=0.5),
    "kto": Objective(method="kto", beta=0.5),
    "kto matched": Objective(method="kto", beta=0.5, kto_kl="matched"),
    "qrpo": Objective(method="qrpo", beta=0.5),
    "paper b": Objective(method="reward_aware", setting=Setting("bwd", 0.3)),
}


@pytest.fixture(scope="module")
def calm_t5(tiny_t5):
    model = copy.deepcopy(tiny_t5[0])
    for weight in model.parameters():  # small logits: differences are of rounding, not of chaos
        weight.data *= 0.3
    return model, tiny_t5[1]


def trained(pair, name, rows, folder, *, weights=None, ids=None, budget=16384):
    """The weights after a step of SGD on some rows (numbers of TEXTS, one may stand there twice),
    and the losses."""
    torch.manual_seed(0)  # DRO's value network
    model, tokenizer = copy.deepcopy(pair[0]), pair[1]
    load.set_dropout(model, 0.0)
    encoded = encoding.encode(
        tokenizer, [PROMPTS[i] for i in IDS], TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    sums, _ = score_completions(pair[0], tokenizer, encoded)
    theirs, _ = score_completions(
        pair[0], tokenizer, [(encoded[i][0], encoded[PARTNER[i]][1]) for i in range(6)]
    )
    rewards, rows = np.linspace(1, -1, 6), np.asarray(rows)
    more = {}
    if name == "kto":
        more = {
            "mismatched": [encoded[PARTNER[i]][1] for i in rows],
            "mismatched_ref_logps": theirs[rows] + 0.5,
            "mismatched_real": np.ones(len(rows), bool),
        }
    if name == "qrpo":
        more["ref_rewards"] = np.linspace(-1, 1, 24).reshape(6, 4)[rows]
    groups = prompt_groups(
        [encoded[i] for i in rows],
        (IDS[rows] if ids is None else ids).tolist(),
        rewards=rewards[rows],
        ref_logps=sums[rows] + 0.5,
        log_partition=np.full(len(rows), 0.3),
        desirable=(rewards >= 0)[rows],
        weights=weights,
        **more,
    )
    trainer = make_trainer(
        model,
        tokenizer,
        groups,
        OBJECTIVES[name],
        seed=0,
        output_dir=folder,
        prompt_width=16,
        config=CONFIG.model_copy(update={"micro_batch_tokens": budget}),
    )
    assert len(micro_batches(groups, budget, width=trainer.collate.width)) == (
        1 if budget > 1000 else len(groups)
    )
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1e-3)
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), [
        e["loss"] for e in trainer.state.log_history if "loss" in e
    ]


def same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "paper b"])
def test_two_is_the_row_twice_and_nought_the_row_left_out(calm_t5, tmp_path, name):
    """Weighted in passes of a prompt each, the others in one pass."""
    same(
        trained(calm_t5, name, range(6), tmp_path / "a", weights=[1, 2, 1, 0, 1, 1], budget=12),
        trained(calm_t5, name, [0, 1, 1, 2, 4, 5], tmp_path / "b"),
    )


def test_a_tuple_of_paper_b_counts_as_its_rows_do(calm_t5, tmp_path):
    same(
        trained(
            calm_t5, "paper b", range(6), tmp_path / "a", weights=[2, 2, 0, 0, 1, 1], budget=12
        ),
        trained(
            calm_t5, "paper b", [0, 1, 0, 1, 4, 5], tmp_path / "b", ids=np.array([0, 0, 7, 7, 2, 2])
        ),
    )


@pytest.mark.parametrize("name", ["rpo", "kto", "paper b"])
def test_weights_of_one_change_no_bit(calm_t5, tmp_path, name):
    with_them = trained(calm_t5, name, range(6), tmp_path / "a", weights=np.ones(6), budget=12)
    without = trained(calm_t5, name, range(6), tmp_path / "b", budget=12)
    assert torch.equal(with_them[0], without[0]) and with_them[1] == without[1]


def test_a_wrong_weight_is_refused_by_its_row():
    with pytest.raises(ValueError, match="-1.0 at row 1.*0 or more"):
        prompt_groups([([1], [2])] * 2, [0, 0], weights=[1, -1])


def feedback(rewards, weights=None):
    n = len(rewards)
    columns = {
        "prompt_id": [i // 2 for i in range(n)],
        "prompt": [f"prompt {i // 2}" for i in range(n)],
        "completion": [f"text {i}" for i in range(n)],
        "reward": [float(r) for r in rewards],
        "model": [""] * n,
    }
    return datasets.Dataset.from_dict(
        columns | ({"weight": [float(w) for w in weights]} if weights is not None else {})
    )


def test_weights_enter_the_standardisation_and_nought_is_left_out():
    config, rewards = DataConfig(validation=2, prompts=8), np.arange(20.0) % 7
    weights = np.where(np.arange(20) % 5, 1.0, 3.0)
    parts = splits.split_feedback(feedback(rewards, weights), config=config, seed=0)
    w, r = np.array(parts.train["weight"]), np.array(parts.train["reward"])
    assert parts.reward_mean == pytest.approx((w * r).sum() / w.sum())
    assert parts.reward_std == pytest.approx(
        np.sqrt((w * (r - parts.reward_mean) ** 2).sum() / w.sum())
    )
    ones = splits.split_feedback(feedback(rewards, np.ones(20)), config=config, seed=0)
    none = splits.split_feedback(feedback(rewards), config=config, seed=0)
    assert (ones.reward_mean, ones.reward_std) == (none.reward_mean, none.reward_std)
    without = splits.split_feedback(
        feedback(rewards, np.arange(20) % 4 != 0), config=config, seed=0
    )
    assert "text 0" not in [
        text
        for part in (without.train, without.validation, without.held_out)
        for text in part["completion"]
    ]
    assert any("5 rows have weight 0" in note for note in without.notes)


def test_a_run_trains_on_the_weights_of_its_rows(monkeypatch, tiny_t5, tmp_path):
    """experiment.build_trainer hands the column on: to the items, and to KTO's threshold."""
    from rpo_nb.config import loading

    profile = loading.load_profile("smoke")
    weights = np.where(np.arange(16) % 3, 1.0, 2.5)
    parts = splits.split_feedback(
        feedback(np.arange(16.0), weights), config=DataConfig(validation=1, prompts=7), seed=0
    )
    path = tmp_path / "policy"
    for part in tiny_t5:
        part.save_pretrained(path)
    encoded = encoding.encode(
        tiny_t5[1],
        parts.train["prompt"],
        parts.train["completion"],
        max_prompt_tokens=16,
        max_completion_tokens=16,
    )
    rewards = splits.standardise(np.array(parts.train["reward"]), parts)
    sums, lengths = score_completions(*tiny_t5, encoded)
    logps = {"sum": sums.numpy(), "mean": (sums / lengths).numpy()}
    prepared = inputs.Prepared(
        parts, str(path), tiny_t5[1], encoded, rewards, logps, lambda: tiny_t5[0]
    )
    run = grid.recipe(profile, profile.presets["fixed"], "dro", "small", None, 0)
    items = runs.build_trainer(profile, run, prepared, tmp_path / "run").train_dataset
    assert [w for item in items for w in item["weights"]] == list(parts.train["weight"])


@pytest.mark.parametrize(
    ("rewards", "weights", "expected"),
    [
        # labels: the upper value, wherever the mean lies
        ([0, 1, 1, 1], None, [False, True, True, True]),
        ([-1, 1, 1, 1], [100, 1, 1, 1], [False, True, True, True]),
        ([1, 2, 4, 9], None, [False, False, True, True]),
        ([1, 2, 4, 9], [1, 1, 1, 9], [False, False, False, True]),
    ],
)
def test_what_kto_takes_as_desirable(rewards, weights, expected):
    assert desirable_rows(np.array(rewards, float), weights).tolist() == expected
