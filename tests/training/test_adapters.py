"""Adapters."""

import json
import sys
import types

import pytest
import torch

from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.policy import encoding, load
from rpo_nb.policy import logps as policy_logps
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.checkpoints import save_policy
from rpo_nb.training.trainer import make_trainer
from tests.training.models import PROMPTS, TEXTS, batch_of

# ---- adapters ------------------------------------------------------------------------------------


def test_with_lora_every_log_ratio_of_step_0_is_exactly_zero(pair):
    adapted = load.add_lora(pair[0], 4)
    load.set_dropout(adapted, 0.0)
    batch = batch_of(*pair)
    with torch.no_grad():
        mine = policy_logps.grouped_logps(adapted.train(), batch, reduce="sum").logps
        with load.adapter_off(adapted) as reference:
            theirs = policy_logps.grouped_logps(reference, batch, reduce="sum").logps
    assert adapted.training and torch.equal(mine, theirs)


def lora_trainer(pair, folder, method="kto"):
    torch.manual_seed(0)
    model, tokenizer = pair
    rows = encoding.encode(
        tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    ref = policy_logps.score_completions(model, tokenizer, rows)[0]
    adapted = load.add_lora(model, 4)
    load.set_dropout(adapted, 0.0)
    partner, real = mismatched_rows([0, 1, 2])
    others = [rows[i][1] for i in partner]
    theirs = policy_logps.score_completions(
        model, tokenizer, [(p, c) for (p, _), c in zip(rows, others, strict=True)]
    )[0]
    groups = prompt_groups(
        rows,
        [0, 1, 2],
        rewards=[1.0, -1.0, 0.5],
        ref_logps=ref.tolist(),
        desirable=[True, False, True],
        mismatched=others,
        mismatched_ref_logps=theirs,
        mismatched_real=real,
    )
    config = TrainingConfig(
        epochs=2, batch_size=3, learning_rate=1e-2, warmup_steps=0, report_to=(), logging_steps=1
    )
    return make_trainer(
        adapted,
        tokenizer,
        groups,
        Objective(method=method),
        config=config,
        output_dir=folder,
        seed=0,
    ), rows


def test_lora_kto_trains_adapters_only_and_its_adapter_loads_on_its_base(pair, tmp_path):
    pair[0].save_pretrained(tmp_path / "base")
    pair[1].save_pretrained(tmp_path / "base")
    trainer, rows = lora_trainer(pair, tmp_path / "trainer")
    before = {n: p.clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()
    assert all(
        torch.equal(p, before[n]) for n, p in trainer.model.named_parameters() if n in before
    )
    save_policy(trainer, pair[1], tmp_path / "policy", base="owner/base")
    assert (
        json.loads((tmp_path / "policy" / "adapter_config.json").read_text())[
            "base_model_name_or_path"
        ]
        == "owner/base"
    )
    loaded, tokenizer = load.load_policy(tmp_path / "policy", base=tmp_path / "base")
    torch.testing.assert_close(
        policy_logps.score_completions(loaded, tokenizer, rows)[0],
        policy_logps.score_completions(trainer.model.policy, tokenizer, rows)[0],
    )
    base, _ = load.load_policy(tmp_path / "base")
    assert not torch.allclose(
        policy_logps.score_completions(base, tokenizer, rows)[0],
        policy_logps.score_completions(loaded, tokenizer, rows)[0],
    )


def test_gradient_checkpointing_changes_no_gradient(pair, tmp_path):
    pair[0].save_pretrained(tmp_path / "base")
    pair[1].save_pretrained(tmp_path / "base")
    found = []
    for switched in (False, True):
        model, tokenizer = load.load_policy(tmp_path / "base", gradient_checkpointing=switched)
        assert model.is_gradient_checkpointing is switched
        policy_logps.grouped_logps(
            model.train(), batch_of(model, tokenizer), reduce="sum"
        ).logps.sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    # relative to the whole: the fixture's attention is saturated, where a last bit of float32 is
    # much of a small gradient
    assert (found[1] - found[0]).norm() < 1e-3 * found[0].norm()


def test_bf16_log_probabilities_are_float32_and_near_those_of_float32(pair):
    rows = encoding.encode(pair[1], PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16)
    exact, rounded = (
        policy_logps.score_completions(pair[0], pair[1], rows, bf16=on)[0] for on in (False, True)
    )
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.5)


def test_four_bits_without_a_gpu_are_refused(pair, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="training.quantize is '4bit', which needs a CUDA GPU"):
        load.quantization("4bit")


def liger_like(right: bool):
    """A stand-in with the kernel's signature; right=False scales every gradient by the first
    token's, as liger-kernel 0.8.1 did."""

    def kernel(states, weight, target, bias=None, reduction="mean"):
        assert reduction == "none"
        losses = torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(states, weight, bias).float(), target, reduction="none"
        )
        if not right:
            losses = losses.detach() + (
                losses - losses.detach()
            ).sum() * torch.nn.functional.one_hot(torch.tensor(0), len(losses))
        return losses

    return kernel


def test_a_fused_projection_gives_the_same_numbers_and_a_wrong_one_is_refused(pair, monkeypatch):
    model, batch = pair[0], batch_of(*pair)
    with pytest.raises(
        ValueError, match="training.liger is true, which needs (a CUDA GPU|liger-kernel)"
    ):
        load.use_liger(model)
    usual = policy_logps.grouped_logps(model, batch, reduce="sum").logps
    functional = types.ModuleType("liger_kernel.transformers.functional")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(load, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    functional.liger_fused_linear_cross_entropy = liger_like(right=False)
    with pytest.raises(
        ValueError, match="this liger-kernel gives other log-probabilities or gradients"
    ):
        load.use_liger(model)
    functional.liger_fused_linear_cross_entropy = liger_like(right=True)
    load.use_liger(model)
    calls = []
    policy_logps.LIGER[model] = lambda *args, **more: (
        calls.append(1) or functional.liger_fused_linear_cross_entropy(*args, **more)
    )
    torch.testing.assert_close(policy_logps.grouped_logps(model, batch, reduce="sum").logps, usual)
    assert calls
