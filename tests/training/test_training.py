"""PolicyTrainer: losses against the formulas, accumulation, KTO's pairs, determinism, resuming,
errors."""

import copy

import numpy as np
import pytest
import torch

from rpo_nb import objectives
from rpo_nb.config.objective import Objective
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.training.checkpoints import history
from rpo_nb.training.trainer import make_trainer
from tests.training.rows import CONFIG, PROMPTS, WIDTH, make, weights


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_before_the_first_step_every_log_ratio_is_zero(pair, tmp_path, reduce):
    trainer = make(pair, "rpo", tmp_path, reduce=reduce)
    batch = trainer.batch(trainer.train_dataset)
    with torch.no_grad():
        ratio = trainer.model(**batch)["logps"] - batch["ref_logps"]
    # batches of another shape sum in another order; nothing else moves it
    assert ratio.abs().max() < 2e-5


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sft", lambda o, b: objectives.sft(o["logps"])),
        (
            "rpo",
            lambda o, b: objectives.rpo(
                o["logps"], b["ref_logps"], b["rewards"], b["log_partition"], tau=0.5
            ),
        ),
        (
            "dro",
            lambda o, b: objectives.dro(
                o["logps"], b["ref_logps"], b["rewards"], o["values"], tau=0.5
            ),
        ),
    ],
)
def test_the_step_loss_is_the_mean_over_rows(pair, tmp_path, method, expected):
    trainer = make(pair, method, tmp_path, tau=0.5)
    batch = trainer.batch(trainer.train_dataset)
    loss, out = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.testing.assert_close(loss, expected(out, batch).mean())


def test_dro_trains_policy_and_value_together_and_its_value_sees_only_the_prompt(pair, tmp_path):
    trainer = make(pair, "dro", tmp_path)
    batch = trainer.batch(trainer.train_dataset)
    trainer.compute_loss(trainer.model, batch).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.model.value.parameters()
    )
    with torch.no_grad():
        values = trainer.model(**batch)["values"]
    # two completions of a prompt have one value
    torch.testing.assert_close(values[0::2], values[1::2])


@pytest.mark.parametrize("pooling", ["masked", "all"])
def test_dros_value_is_of_the_prompts_states_in_plain_transformers(pair, tmp_path, pooling):
    """ "all" as the authors have it: every prompt padded to their max_length, and the mean over all
    of its places."""
    trainer = make(pair, "dro", tmp_path, value_pooling=pooling)
    model, tokenizer = pair
    asked = encoding.encode(
        tokenizer, PROMPTS, ["a"] * 4, max_prompt_tokens=16, max_completion_tokens=4
    )
    ids = torch.tensor(
        [prompt + [tokenizer.pad_token_id] * (WIDTH - len(prompt)) for prompt, _ in asked]
    )
    mask = torch.tensor([[1] * len(prompt) + [0] * (WIDTH - len(prompt)) for prompt, _ in asked])
    core = model.get_encoder() if model.config.is_encoder_decoder else model.model
    with torch.no_grad():
        states = core(input_ids=ids, attention_mask=mask).last_hidden_state
        counted = torch.ones_like(mask) if pooling == "all" else mask
        expected = trainer.model.value(
            (states * counted[..., None]).sum(1) / counted.sum(1, keepdim=True)
        ).squeeze(-1)
        # whatever else is in a pass
        for items in (trainer.train_dataset, *([item] for item in trainer.train_dataset)):
            found = trainer.model(**trainer.batch(items))["values"]
            rows = torch.tensor([row for item in items for row in item["rows"]])
            torch.testing.assert_close(found, expected[rows // 2], rtol=1e-4, atol=1e-5)


def test_pooling_over_all_places_needs_their_number(tiny_t5, tmp_path):
    groups = make(tiny_t5, "dro", tmp_path).train_dataset
    with pytest.raises(ValueError, match="value_pooling 'all'.*prompt_width"):
        make_trainer(
            tiny_t5[0],
            tiny_t5[1],
            groups,
            Objective(method="dro", value_pooling="all"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )


def test_the_same_seed_gives_the_same_bits_and_another_does_not(calm_t5, tmp_path):
    first, again, other = (
        make(calm_t5, "rpo", tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    for trainer in (first, again, other):
        trainer.train()
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_training_lowers_the_rpo_loss_and_moves_with_the_reward(calm_t5, tmp_path):
    trainer = make(
        calm_t5,
        "rpo",
        tmp_path,
        config=CONFIG.model_copy(update={"epochs": 25, "learning_rate": 2e-3, "batch_size": 8}),
    )
    trainer.train()
    curve = history(trainer)
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]
    assert curve[-1]["log_ratio_desirable"] > curve[-1]["log_ratio_undesirable"]


def test_an_interrupted_run_resumes_to_the_same_bits(calm_t5, tmp_path):
    config = CONFIG.model_copy(update={"save_steps": 2, "epochs": 3})
    undisturbed = make(calm_t5, "dro", tmp_path / "a", config=config)
    undisturbed.train()
    stopped = make(calm_t5, "dro", tmp_path / "b", config=config)
    original = stopped.training_step

    def breaks(*args, **kwargs):
        if stopped.state.global_step == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    stopped.training_step = breaks
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    resumed = make(calm_t5, "dro", tmp_path / "b", config=config)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == undisturbed.state.global_step == 6
    assert torch.equal(weights(undisturbed), weights(resumed))


def test_a_non_finite_reward_stops_training_with_the_rows(tiny_t5, tmp_path):
    trainer = make(tiny_t5, "rpo", tmp_path, rewards=np.array([0, 1, 2, np.nan, 4, 5, 6, 7.0]))
    with pytest.raises(ValueError, match=r"step 0: rewards is nan at row \d.*training rows.*3"):
        trainer.compute_loss(trainer.model, trainer.batch(trainer.train_dataset))


def test_lora_trains_adapters_only_and_leaves_the_base_alone(tiny_t5, tmp_path):
    base = copy.deepcopy(tiny_t5[0])
    before = torch.cat([p.detach().flatten() for p in base.parameters()])
    trainer = make((load.add_lora(base, 4), tiny_t5[1]), "rpo", tmp_path)
    trainable = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in n for n in trainable)
    trainer.train()
    with trainer.model.policy.disable_adapter():
        rows = trainer.train_dataset[0]["encoded"]
        torch.testing.assert_close(
            score_completions(trainer.model.policy, tiny_t5[1], rows)[0],
            score_completions(tiny_t5[0], tiny_t5[1], rows)[0],
        )
    assert before.numel() and any(
        p.grad is not None or p.abs().sum() > 0
        for n, p in trainer.model.named_parameters()
        if "lora_B" in n
    )


def test_fp16_an_unknown_method_and_an_empty_data_set_are_refused(tiny_t5, tmp_path):
    with pytest.raises(ValueError, match="fp16 is refused.*bf16"):
        make_trainer(
            copy.deepcopy(tiny_t5[0]).half(),
            tiny_t5[1],
            [{"rows": [0]}],
            Objective(method="sft"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )
    with pytest.raises(ValueError, match="'sft', 'kto', 'dro', 'rpo'"):
        Objective(method="ppo")
    with pytest.raises(ValueError, match="no training row left"):
        make_trainer(
            tiny_t5[0],
            tiny_t5[1],
            [],
            Objective(method="sft"),
            config=CONFIG,
            output_dir=tmp_path,
            seed=0,
        )


def test_a_run_is_keyed_by_what_its_method_reads():
    assert (
        Objective(method="sft", tau=1).read_fields() == Objective(method="sft", tau=2).read_fields()
    )
    assert (
        Objective(method="rpo", tau=1).read_fields() != Objective(method="rpo", tau=2).read_fields()
    )
    assert (
        Objective(method="rpo", beta=1).read_fields()
        == Objective(method="rpo", beta=2).read_fields()
    )
    assert (
        Objective(method="kto", beta=1).read_fields()
        != Objective(method="kto", beta=2).read_fields()
    )


def test_a_training_shorter_than_logging_steps_still_has_a_learning_curve(calm_t5, tmp_path):
    trainer = make(
        calm_t5, "sft", tmp_path, config=CONFIG.model_copy(update={"logging_steps": 500})
    )
    trainer.train()
    assert len(history(trainer)) == 1 and history(trainer)[0]["loss"] > 0
