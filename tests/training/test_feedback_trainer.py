"""The kit as a library: the same numbers as the notebooks' trainer, Hugging Face's habits."""

import json
from copy import deepcopy

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, HfArgumentParser

import rpo_nb
from rpo_nb import FeedbackConfig, FeedbackTrainer, RPOConfig, RPOTrainer
from rpo_nb.policy.load import load_policy
from rpo_nb.policy.logps import score_completions
from tests.training.feedback import Hub, config, losses, rows


@pytest.mark.parametrize("method", ["rpo", "dro", "kto", "sft", "best_of_k"])
def test_every_method_trains_and_its_policy_is_read_by_transformers(method, folder, tmp_path):
    args = config(tmp_path, FeedbackConfig, method=method)
    trainer = FeedbackTrainer(
        model=str(folder), args=args, train_dataset=datasets.Dataset.from_list(rows())
    )
    trainer.train()
    assert len(losses(trainer)) == 4 and np.isfinite(losses(trainer)).all()
    trainer.save_model(str(tmp_path / "policy"))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "policy")
    mine = dict(trainer.model.policy.named_parameters())
    assert all(torch.equal(weight, mine[name]) for name, weight in loaded.named_parameters())
    before = AutoModelForSeq2SeqLM.from_pretrained(folder).get_parameter("shared.weight")
    assert not torch.equal(loaded.get_parameter("shared.weight"), before)


@pytest.mark.parametrize("estimator", ["none", None])
def test_the_first_loss_is_the_papers_formula_by_hand(folder, tmp_path, estimator):
    """V̂ = 0, and what is trained unless told otherwise: equation 19."""
    data, more = rows(), {"estimator": estimator} if estimator else {}
    args = config(tmp_path, tau=0.5, max_steps=1, per_device_train_batch_size=6, **more)
    trainer = RPOTrainer(model=str(folder), args=args, train_dataset=data)
    trainer.train()
    rewards = np.array([row["reward"] for row in data])
    scaled = torch.from_numpy((rewards - rewards.mean()) / (rewards.std() + 1e-8)).float() / 0.5
    log_z = torch.zeros(18)
    if estimator is None:
        groups, prompts = trainer.train_dataset, [row["prompt"] for row in data]
        ref = torch.tensor([one for group in groups for one in group["ref_logps"]])
        for prompt in set(prompts):
            mine = torch.tensor([one == prompt for one in prompts])
            log_z[mine] = torch.logsumexp(ref[mine] + scaled[mine], 0)
    # ρ = 0 before the first step
    by_hand = torch.nn.functional.mse_loss(log_z, scaled)
    assert losses(trainer)[0] == pytest.approx(float(by_hand) / 2, rel=1e-4)


def test_it_is_the_notebooks_trainer(folder, tmp_path):
    """The same groups through `make_trainer` give the same losses."""
    from transformers import set_seed

    from rpo_nb.config.schema import TrainingConfig
    from rpo_nb.training.trainer import make_trainer

    args = config(tmp_path, estimator="empirical", max_steps=-1, num_train_epochs=1, tau=0.7)
    args.lr_scheduler_type = "linear"
    trainer = RPOTrainer(model=str(folder), args=args, train_dataset=rows())
    groups, objective = trainer.train_dataset, trainer.objective
    trainer.train()
    set_seed(3)
    model, tokenizer = load_policy(folder)
    plain = make_trainer(
        model,
        tokenizer,
        groups,
        objective,
        config=TrainingConfig(
            epochs=1, batch_size=6, learning_rate=1e-2, warmup_steps=0, logging_steps=1
        ),
        output_dir=tmp_path / "plain",
        seed=3,
        weight_decay=args.weight_decay,
    )
    plain.train()
    assert losses(trainer) == losses(plain)


def test_the_reference_is_read_once_and_kept(folder, tmp_path):
    first = RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
    again = RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
    assert (first.reference_scores, again.reference_scores) == (18, 0)
    assert [g["ref_logps"] for g in first.train_dataset] == [
        g["ref_logps"] for g in again.train_dataset
    ]
    model, tokenizer = load_policy(folder)
    encoded = [pair for group in first.train_dataset for pair in group["encoded"]]
    plain = score_completions(model, tokenizer, encoded)[0].numpy()
    kept = np.concatenate([group["ref_logps"] for group in first.train_dataset])
    assert np.allclose(plain, kept, atol=1e-5)


def test_other_weights_are_another_reference(folder, tmp_path):
    RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
    model, tokenizer = load_policy(folder)
    with torch.no_grad():
        model.get_parameter("shared.weight").mul_(1.5)
    other = RPOTrainer(
        model=model, args=config(tmp_path), train_dataset=rows(), processing_class=tokenizer
    )
    assert other.reference_scores == 18


def test_a_damaged_file_of_log_probabilities_is_not_served(folder, tmp_path, capsys):
    RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
    file = tmp_path / "out" / "reference_train.json"
    kept = json.loads(file.read_text())
    for damaged in (json.dumps(kept | {"sum": [0.0] * 18}), "half a fi"):
        file.write_text(damaged)
        trainer = RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
        assert trainer.reference_scores == 18
        assert "reference_train.json" in capsys.readouterr().out
    assert json.loads(file.read_text()) == kept


def test_a_training_goes_on_from_its_checkpoint_to_the_same_policy(folder, tmp_path):
    def trainer(name, **more):
        args = config(tmp_path, save_strategy="steps", save_steps=2, **more)
        args.output_dir = str(tmp_path / name)
        return RPOTrainer(model=str(folder), args=args, train_dataset=rows())

    whole = trainer("whole")
    whole.train()
    rest = trainer("whole")
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.parameters(), rest.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_lora_trains_the_adapter_against_the_model_without_it(folder, tmp_path):
    from peft import LoraConfig, TaskType

    trainer = RPOTrainer(
        model=str(folder),
        args=config(tmp_path),
        train_dataset=rows(),
        peft_config=LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=2, target_modules=["q", "v"]),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for name, tensor in stored.items() if "lora_B" in name)
    again = RPOTrainer(
        model=str(folder),
        args=config(tmp_path),
        train_dataset=rows(),
        peft_config=LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=2, target_modules=["q", "v"]),
    )
    assert again.reference_scores == 0


def test_a_causal_model_and_an_evaluation(tmp_path, tiny_llama):
    model, tokenizer = tiny_llama
    data = rows()
    trainer = RPOTrainer(
        model=deepcopy(model),  # the fixture is everybody's
        args=config(tmp_path, eval_strategy="steps", eval_steps=2),
        train_dataset=data,
        eval_dataset=data[:9],
        processing_class=tokenizer,
    )
    trainer.train()
    found = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(found) == 2 and np.isfinite(found).all()


def test_what_is_pushed_is_a_policy_with_a_card(folder, tmp_path, monkeypatch):
    hub = Hub(monkeypatch)
    trainer = RPOTrainer(model=str(folder), args=config(tmp_path), train_dataset=rows())
    trainer.train()
    trainer.push_to_hub(token="secret")
    (sent,) = hub.sent
    assert sent["repo_id"] == "me/out" and sent["token"] == "secret"
    pushed = tmp_path / "out" / "to_hub"
    card = (pushed / "README.md").read_text()
    assert "18 completions of 6 prompts" in card and "tau 1.0" in card
    assert "secret" not in card and str(tmp_path) not in card
    AutoModelForSeq2SeqLM.from_pretrained(pushed)


def test_settings_are_arguments_of_a_script(tmp_path):
    (args,) = HfArgumentParser(RPOConfig).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--tau", "0.3", "--estimator", "leave_one_out"]
    )
    assert (args.tau, args.estimator, args.method) == (0.3, "leave_one_out", "rpo")


@pytest.mark.parametrize(
    "more, message",
    [
        ({"tau": 0.0}, "tau is 0.0; it must be a finite number above 0"),
        ({"method": "ppo"}, "method 'ppo' is unknown; choose one of rpo"),
        ({"estimator": "best"}, "estimator 'best' is unknown"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps is 2; leave it at 1"),
    ],
)
def test_a_wrong_setting_is_one_sentence(more, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        RPOTrainer(model=str(folder), args=config(tmp_path, **more), train_dataset=rows())


def test_no_data_and_bad_rows_are_told(folder, tmp_path, caplog):
    with pytest.raises(ValueError, match="there is no train_dataset; give prompt, completion"):
        RPOTrainer(model=str(folder), args=config(tmp_path))
    bad = [*rows(), {"prompt": "red", "completion": "", "reward": 1.0}]
    with caplog.at_level("WARNING"):
        trainer = RPOTrainer(
            model=str(folder), args=config(tmp_path), train_dataset=bad, eval_dataset=bad
        )
    told = [(entry["part"], entry["line"]) for entry in trainer.report]
    assert told == [("train_dataset", 19), ("eval_dataset", 19)]
    assert "eval_dataset: 1 entries were set aside or mended; see report" in caplog.text
    assert json.dumps(trainer.report)


def test_names_are_at_hand():
    assert {"RPOTrainer", "RPOConfig", "load_feedback"} <= set(dir(rpo_nb))
