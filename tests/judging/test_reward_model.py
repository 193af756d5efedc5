"""The learnt judge."""

from __future__ import annotations

import copy
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import DataConfig, EvaluationConfig
from rpo_nb.experiment import inputs
from rpo_nb.judging import reward_training, verdicts
from rpo_nb.judging.rates import accuracy_by_gap, held_out_comparisons
from rpo_nb.judging.reward_model import RewardModel, RewardNet, bradley_terry
from rpo_nb.judging.reward_training import comparisons, train_reward_model
from rpo_nb.policy.encoding import encode
from rpo_nb.policy.load import load_policy
from rpo_nb.policy.logps import collate

DATA = DataConfig(max_prompt_tokens=16, max_completion_tokens=16)


# ---- the learnt judge ----------------------------------------------------------------------------


def test_bradley_terry_closed_form():
    margin = torch.tensor([-30.0, -1.0, 0.0, 2.5], dtype=torch.float64)
    assert torch.allclose(bradley_terry(margin), torch.log1p(torch.exp(-margin)))
    assert bradley_terry(torch.tensor(0.0)).item() == pytest.approx(math.log(2))
    assert torch.isfinite(bradley_terry(torch.tensor([-1e4, 1e4]))).all()


def test_comparisons_are_within_a_prompt_and_by_reward():
    rows = pd.DataFrame(
        [(i, f"p{i}", c, r) for i in range(20) for c, r in (("a", 1.0), ("b", 3.0), ("c", 3.0))],
        columns=["prompt_id", "prompt", "completion", "reward"],
    )
    train, report = comparisons(rows, most=1000, seed=0)
    # 15 % of 20 prompts; b and c are equal: two comparisons a prompt
    assert len(report) == 3 * 2 and len(train) == 17 * 2
    assert not set(train["prompt_id"]) & set(report["prompt_id"])
    assert set(zip(train["better"], train["worse"], train["gap"], strict=True)) == {
        ("b", "a", 2.0),
        ("c", "a", 2.0),
    }
    few, _ = comparisons(rows, most=5, seed=0)
    assert len(few) == 5 and not few.equals(comparisons(rows, most=5, seed=1)[0])
    with pytest.raises(ValueError, match="held_out has 1 prompts"):
        comparisons(rows[rows["prompt_id"].eq(0)], most=10, seed=0)


@pytest.fixture(scope="module")
def toy():
    """Completions whose reward is whether they are kind."""
    rng = np.random.default_rng(0)
    things, places = "lamp rope chair boat book".split(), "garden kitchen harbour".split()
    rows = []
    for i in range(60):
        thing, place = rng.choice(things), rng.choice(places)
        for reward, end in ((8.0, "thank you"), (2.0, "you fool")):
            prompt = f"please write about the {thing} in the {place} {i % 7 * 'very '}"
            rows.append(
                {
                    "prompt_id": i,
                    "prompt": prompt,
                    "completion": f"the {rng.choice(things)} stands in the {place} {end}",
                    "reward": reward,
                    "model": "",
                }
            )
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def trained(reference, toy):
    return train_reward_model(
        reference, toy, config=EvaluationConfig(judge_epochs=8), data=DATA, seed=0, threads=1
    )


def test_reward_model_learns_what_can_be_learnt(trained, toy):
    assert len(trained.held_out) == 9 and trained.held_out["correct"].mean() == 1.0
    kind, rude = toy["completion"][0], toy["completion"][1]
    assert trained.compare([toy["prompt"][0]] * 2, [kind, rude], [rude, kind]) == [
        "first",
        "second",
    ]
    bench = {0: [trained]}
    table = accuracy_by_gap(held_out_comparisons(bench))
    assert table[["gap", "accuracy", "n"]].values.tolist() == [["above 3", 1.0, 9]]


def test_saved_and_loaded_scores_are_the_same(trained, toy, tmp_path):
    prompts, completions = toy["prompt"][:20], toy["completion"][:20]
    trained.save(tmp_path / "judge")
    trained.save(tmp_path / "judge")  # again, over the first
    loaded = RewardModel.load(tmp_path / "judge")
    # without scores kept from other batches
    fresh = RewardModel(trained.net, trained.tokenizer, trained.settings)
    assert np.array_equal(loaded.score(prompts, completions), fresh.score(prompts, completions))
    assert loaded.identity == trained.identity
    pd.testing.assert_frame_equal(loaded.held_out, trained.held_out)
    assert [p.name for p in tmp_path.iterdir()] == ["judge"]
    for path in (tmp_path / "judge").glob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="holds no reward model"):
        RewardModel.load(tmp_path)


def test_training_is_determined_by_the_seed(reference, toy):
    state, config = torch.get_rng_state(), EvaluationConfig(judge_epochs=1, judge_comparisons=20)
    first, again, other = (
        train_reward_model(reference, toy, config=config, data=DATA, seed=s, threads=1)
        for s in (0, 0, 1)
    )
    assert first.identity == again.identity != other.identity
    assert torch.equal(state, torch.get_rng_state())  # and the caller's draws are left alone


@pytest.mark.parametrize("loss", ["bradley_terry", "regression"])
def test_passes_change_the_memory_of_a_step_and_not_its_gradient(
    reference, loss, monkeypatch, tmp_path
):
    """One pass, four, or one a prompt with its layers computed twice: the first step's gradient and
    the number of steps."""
    policy, tokenizer = load_policy(reference)
    names = ["a boat", "a lamp", "a chair in the garden", "a rope and a book"]
    table = pd.DataFrame(
        [
            (f"write {i % 7 * 'very '} about {i}", names[a], names[b])
            for i in range(12)
            for a, b in itertools.combinations(range(2 + i % 3), 2)
        ],
        columns=["prompt", "better", "worse"],
    )
    settings = {
        "max_prompt_tokens": DATA.max_prompt_tokens,
        "max_completion_tokens": DATA.max_completion_tokens,
    }
    regression = loss == "regression"
    rewards = {
        (prompt, name): i % 5 - 2.0
        for i, (prompt, name) in enumerate(itertools.product(table["prompt"].unique(), names))
    }
    examples = reward_training._examples(
        table, tokenizer, settings, rewards if regression else None
    )
    terms = {len(example["rewards" if regression else "pairs"]) for example in examples}
    # a mean of the passes' means would be another gradient
    assert terms == ({2, 3, 4} if regression else {1, 3, 6})
    longest = max(sum(len(p) + len(c) for p, c in example["rows"]) for example in examples)

    class Gradients(TrainerCallback):
        def __init__(self):
            self.first = None

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            self.first = self.first or {
                name: weight.grad.clone()
                for name, weight in model.named_parameters()
                if weight.grad is not None
            }

    def first_step(budget):
        monkeypatch.setattr(reward_training, "TOKENS_A_PASS", budget)
        torch.manual_seed(0)
        net, seen, passes = RewardNet(copy.deepcopy(policy), intercept=regression), Gradients(), []
        net.register_forward_hook(lambda *_: passes.append(1))
        trainer = reward_training._trainer(
            net,
            examples,
            tokenizer.pad_token_id,
            output_dir=str(tmp_path),
            seed=3,
            epochs=1,
            bf16=False,
        )
        trainer.add_callback(seen)
        trainer.train()
        return (
            seen.first,
            len(passes),
            trainer.state.global_step,
            any(getattr(part, "gradient_checkpointing", False) for part in net.modules()),
        )

    whole, *counts = first_step(8 * longest)
    assert counts == [2, 2, False]
    for budget, expected in ((2 * longest, [6, 2, False]), (longest - 1, [12, 2, True])):
        parts, *counts = first_step(budget)
        assert counts == expected and parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_regression_estimates_the_standardised_reward(reference, toy, gated, tmp_path):
    config = EvaluationConfig(judge_epochs=8, judge_loss="regression")
    judge = train_reward_model(
        reference, toy, config=config, data=DATA, seed=0, threads=1, gated=gated
    )
    rewards = np.array(toy["reward"])
    error = (
        judge.score(toy["prompt"], toy["completion"]) - (rewards - rewards.mean()) / rewards.std()
    )
    assert (
        np.sqrt((error**2).mean()) < 0.3
        and len(judge.held_out) == 9
        and judge.held_out["correct"].mean() == 1
    )
    judge.save(tmp_path / "judge")
    loaded, fresh = (
        RewardModel.load(tmp_path / "judge"),
        RewardModel(judge.net, judge.tokenizer, judge.settings),
    )
    assert loaded.identity == judge.identity and np.array_equal(
        *(j.score(toy["prompt"], toy["completion"]) for j in (loaded, fresh))
    )


def test_regression_learns_from_the_completions_that_are_compared_and_no_others():
    rows = pd.DataFrame(
        {
            "prompt_id": [0, 0, 0, 0, 1],
            "prompt": ["a"] * 4 + ["b"],
            "completion": ["x", "y", "z", "x", "x"],
            "reward": [9.0, 4.0, 1.0, 7.0, 5.0],
        }
    )
    train = pd.DataFrame({"prompt": ["a", "a"], "better": ["x", "x"], "worse": ["y", "y"]})
    # of 8, twice scored, and 4
    assert reward_training._standardised(Dataset.from_pandas(rows), train) == {
        ("a", "x"): 1.0,
        ("a", "y"): -1.0,
    }


@pytest.mark.parametrize("bf16", [False, True])
def test_an_adapter_learns_alone_and_its_scores_survive_its_folder(reference, toy, bf16, tmp_path):
    config, more = (
        EvaluationConfig(judge_epochs=1, judge_comparisons=20, judge_lora_rank=4),
        {"threads": 1, "bf16": bf16},
    )
    judge = train_reward_model(reference, toy, config=config, data=DATA, seed=0, **more)
    own = load_policy(reference, bf16=bf16)[0].state_dict()
    inside = {
        name.replace("base_layer.", ""): weight
        for name, weight in judge.net.policy.get_base_model().state_dict().items()
    }
    assert all(torch.equal(inside[name], weight) for name, weight in own.items())
    adapter = [weight for name, weight in inside.items() if "lora_B" in name]
    assert adapter and all(
        weight.abs().max() > 0 and weight.dtype == torch.float32
        for weight in (*adapter, *judge.net.heads.parameters())
    )
    assert (
        train_reward_model(reference, toy, config=config, data=DATA, seed=0, **more).identity
        == judge.identity
    )
    fresh = RewardModel(judge.net, judge.tokenizer, judge.settings).score(
        toy["prompt"], toy["completion"]
    )
    for base in ("", "someone/policy"):
        judge.save(tmp_path / "judge", base=base)
        assert not (tmp_path / "judge" / "model.safetensors").exists()
        assert json.loads((tmp_path / "judge" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ] == (base or str(reference))
        loaded = RewardModel.load(tmp_path / "judge", base=str(reference) if base else "")
        assert loaded.identity == judge.identity and np.array_equal(
            loaded.score(toy["prompt"], toy["completion"]), fresh
        )
        assert next(loaded.net.policy.parameters()).dtype == (
            torch.bfloat16 if bf16 else torch.float32
        )


def test_a_reward_model_of_another_loss_or_rank_is_another_file(tmp_path, monkeypatch, toy):
    names = []
    monkeypatch.setattr(inputs, "reference_path", lambda *_: "some/policy")
    monkeypatch.setattr(inputs, "splits", lambda *_: SimpleNamespace(held_out=toy))
    monkeypatch.setattr(verdicts, "learnt", lambda folder, *_, **__: names.append(folder.name))
    for overrides in (
        {},
        {"judge_loss": "bradley_terry", "judge_lora_rank": 0},
        {"judge_loss": "regression"},
        {"judge_lora_rank": 8},
    ):
        verdicts.reward_model(
            load_profile(
                "smoke", **{f"evaluation.{name}": value for name, value in overrides.items()}
            ),
            tmp_path,
            0,
        )
    assert names[0] == names[1] and len(set(names)) == 3


def test_scores_do_not_depend_on_the_batch(trained, toy):
    prompts, completions = (
        toy["prompt"][:40],
        [" ".join(c.split()[: 3 + i % 6]) for i, c in enumerate(toy["completion"][:40])],
    )
    order = np.random.default_rng(0).permutation(40)

    def fresh():
        return RewardModel(trained.net, trained.tokenizer, trained.settings)

    together = fresh().score(prompts, completions)
    assert np.array_equal(
        fresh().score([prompts[i] for i in order], [completions[i] for i in order]), together[order]
    )
    interrupted = fresh()  # as a run that goes on has scored before what it asks about now
    interrupted.score(prompts[::3], completions[::3])
    assert np.array_equal(interrupted.score(prompts, completions), together)
    single = fresh()
    alone = [float(single.score([p], [c])[0]) for p, c in zip(prompts, completions, strict=True)]
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-4)


def test_score_is_the_gated_sum_and_the_head(tiny_t5):
    """The formula of RewardNet's docstring, one row at a time and without padding."""
    model, tokenizer = tiny_t5
    torch.manual_seed(0)
    net = RewardNet(model)
    rows = encode(
        tokenizer,
        ["write about the boat", "write"],
        ["the boat lies in the harbour", "the cat"],
        max_prompt_tokens=9,
        max_completion_tokens=9,
    )
    with torch.no_grad():
        got = net(**collate(rows, pad_id=0))["scores"]
        for score, (prompt, completion) in zip(got, rows, strict=True):
            out = model(
                input_ids=torch.tensor([prompt]),
                decoder_input_ids=torch.tensor([[0, *completion]]),
                output_hidden_states=True,
            )
            hidden, logps = out.decoder_hidden_states[-1][0], out.logits[0].log_softmax(-1)
            total = net.heads["linear"](torch.cat([hidden[-1], hidden[1:].mean(0)]))
            for t, token in enumerate(completion):
                gate = torch.log1p(net.heads["gate"](torch.cat([hidden[t], hidden[t + 1]])).exp())
                total = total + gate * logps[t, token]
            assert score.item() == pytest.approx(total.item(), rel=1e-5)
