"""`generation: vllm` without vLLM: a stand-in whose signatures are those of vLLM 0.33 and which
samples by our own plain path."""

from __future__ import annotations

import builtins
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import DecodingConfig
from rpo_nb.experiment import generations, grid
from rpo_nb.policy import completing, encoding, generation, load, vllm_engine
from rpo_nb.policy.generation import generate, row_name
from rpo_nb.training.samples import Reader

PROMPTS = [
    "the red lamp",
    "please write about the old boat in the harbour.",
    "a chair",
    "the red lamp",
]
GREEDY = DecodingConfig(do_sample=False, max_new_tokens=8)
SAMPLED = DecodingConfig(max_new_tokens=8, temperature=0.7, top_p=0.9, repetition_penalty=1.1)
SHORT = {"max_prompt_tokens": 32, "batch_size": 8}


class SamplingParams:
    """vllm/sampling_params.py, the fields of 0.33 that the documentation lists first."""

    def __init__(
        self,
        n=1,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=None,
        stop=None,
        stop_token_ids=None,
        ignore_eos=False,
        max_tokens=16,
        min_tokens=0,
        detokenize=True,
        skip_special_tokens=True,
    ):
        assert (
            0 <= temperature <= 2
            and 0 < top_p <= 1
            and top_k >= -1
            and max_tokens >= 1
            and repetition_penalty > 0
        )
        assert seed is None or -(2**63) <= seed < 2**63  # states.py keeps it in an int64
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})


@dataclass(frozen=True)
class LoRARequest:
    """vllm/lora/request.py; equal names are one adapter to the engine."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        assert self.lora_int_id > 0 and self.lora_path


class LLM:
    """vllm/entrypoints/llm.py; the last five are those of EngineArgs."""

    made: list[LLM] = []

    def __init__(
        self,
        model,
        *,
        tokenizer=None,
        dtype="auto",
        seed=0,
        gpu_memory_utilization=0.92,
        max_model_len=None,
        generation_config="auto",
        enable_lora=False,
        max_loras=1,
        max_lora_rank=16,
    ):
        assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512) and dtype in (
            "auto",
            "half",
            "float16",
            "bfloat16",
            "float",
            "float32",
        )
        assert 0 < gpu_memory_utilization < 1 and generation_config == "vllm"
        self.path, self.max_model_len, self.lora, self.calls, self.read = (
            model,
            max_model_len,
            enable_lora and (max_loras, max_lora_rank),
            [],
            {},
        )
        self.dtype = dtype
        self.model, self.tokenizer = load.load_policy(model, bf16=dtype == "bfloat16")
        LLM.made.append(self)

    def generate(
        self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None, priority=None
    ):
        assert len(prompts) == len(sampling_params) and all(
            set(prompt) == {"prompt_token_ids"} for prompt in prompts
        )
        assert all(
            len(p["prompt_token_ids"]) + s.max_tokens <= self.max_model_len
            for p, s in zip(prompts, sampling_params, strict=True)
        )
        self.calls.append((prompts, sampling_params, lora_request))
        net = self.model
        if lora_request is not None:
            assert self.lora
            # an adapter is read once, whatever becomes of its folder
            if lora_request.lora_name not in self.read:
                import copy

                from peft import PeftModel

                self.read[lora_request.lora_name] = PeftModel.from_pretrained(
                    copy.deepcopy(net), lora_request.lora_path
                )
            net = self.read[lora_request.lora_name]
        ids = [tuple(prompt["prompt_token_ids"]) for prompt in prompts]
        order, new = sorted(range(len(ids)), key=lambda i: (-len(ids[i]), ids[i])), {}
        first = sampling_params[0]
        decoding = DecodingConfig(
            do_sample=first.temperature > 0,
            temperature=first.temperature or 1.0,
            top_p=first.top_p,
            top_k=first.top_k,
            repetition_penalty=first.repetition_penalty,
            max_new_tokens=first.max_tokens,
        )
        with generation._generating(net) as core:
            setup = generation._generation_config(core, self.tokenizer, decoding)
            streams = (
                [np.random.Generator(np.random.SFC64(sampling_params[i].seed)) for i in order]
                if first.temperature > 0
                else None
            )
            drawing = generation._sampling(decoding, streams) if streams else None
            rows = next(iter(completing.WAYS))(core, [ids[i] for i in order], setup, drawing)
            for i, row in zip(order, rows, strict=True):
                stop = [n for n, token in enumerate(row.tolist()) if token in first.stop_token_ids]
                new[i] = row.tolist()[: stop[0] + 1] if stop else row.tolist()
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=new[i])]) for i in range(len(ids))
        ]


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in, imported as vllm; no engine before or after."""
    package, lora, request = (
        ModuleType("vllm"),
        ModuleType("vllm.lora"),
        ModuleType("vllm.lora.request"),
    )
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    for name, module in (("vllm", package), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    LLM.made.clear()
    yield package
    vllm_engine.close()
    LLM.made.clear()


@pytest.fixture
def saved(tiny_llama, tmp_path):
    for part in tiny_llama:
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def change(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or not hasattr(model, "peft_config"):
                parameter.add_(
                    torch.randn_like(parameter), alpha=0.1 if "lora_B" not in name else 1.0
                )


def both(model, tokenizer, decoding=GREEDY):
    return [
        generate(model, tokenizer, PROMPTS, decoding=decoding, seed=3, engine=engine, **SHORT)
        for engine in ("transformers", "vllm")
    ]


def test_a_policy_is_sampled_with_the_weights_it_has_now(vllm, saved):
    model, tokenizer = load.load_policy(saved)
    plain, theirs = both(model, tokenizer)
    assert (
        theirs == plain
        and len(LLM.made) == 1
        and LLM.made[0].dtype == "float32"
        and not LLM.made[0].lora
    )
    # the same weights, the same engine
    assert both(model, tokenizer)[1] == plain and len(LLM.made) == 1
    folder = Path(LLM.made[0].path)
    change(model, 1)
    other, theirs = both(model, tokenizer)
    assert theirs == other != plain and len(LLM.made) == 2 and not folder.exists()
    vllm_engine.close()
    assert not Path(LLM.made[1].path).exists()


def test_an_adapter_is_written_again_only_when_it_changed(vllm, saved):
    model, tokenizer = load.load_policy(saved, lora_rank=4, bf16=True)
    seen = []
    for step in range(3):
        change(model, step)
        plain, theirs = both(model, tokenizer)
        assert theirs == plain not in seen
        seen.append(plain)
        assert both(model, tokenizer)[1] == plain
    (engine,) = LLM.made
    requests = [request for _, _, request in engine.calls]
    assert engine.path == str(saved) and engine.lora == (1, 8) and engine.dtype == "bfloat16"
    assert [requests[i] == requests[i + 1] for i in range(5)] == [
        True,
        False,
        True,
        False,
        True,
    ] and len({r.lora_int_id for r in requests}) == 3
    assert not Path(requests[0].lora_path).exists() and Path(requests[-1].lora_path).exists()
    base = load.load_policy(saved, bf16=True)[0]
    with load.adapter_off(model) as reference:
        assert both(reference, tokenizer)[1] == generate(
            base, tokenizer, PROMPTS, decoding=GREEDY, seed=3, **SHORT
        )
    assert engine.calls[-1][2] is None and len(LLM.made) == 1


def test_every_row_is_asked_by_its_own_seed_and_ends_where_our_completions_do(vllm, saved):
    model, tokenizer = load.load_policy(saved)
    texts = generate(model, tokenizer, PROMPTS, decoding=SAMPLED, seed=3, engine="vllm", **SHORT)
    prompts, params, _ = LLM.made[0].calls[-1]
    ids = [
        tuple(p)
        for p, _ in encoding.encode(
            tokenizer, PROMPTS, [""] * 4, max_prompt_tokens=32, max_completion_tokens=1
        )
    ]
    assert [tuple(p["prompt_token_ids"]) for p in prompts] == ids
    assert [p.seed for p in params] == [
        row_name(3, i, n) % 2**63 for i, n in zip(ids, (0, 0, 0, 1), strict=True)
    ]
    assert len({p.seed for p in params}) == 4
    assert {
        (p.temperature, p.top_p, p.top_k, p.repetition_penalty, p.max_tokens) for p in params
    } == {(0.7, 0.9, 0, 1.1, 8)}
    assert all(
        p.stop_token_ids == [tokenizer.eos_token_id] and p.ignore_eos and not p.detokenize
        for p in params
    )
    turned = generate(
        model, tokenizer, PROMPTS[::-1][:2], decoding=SAMPLED, seed=3, engine="vllm", **SHORT
    )
    assert turned == [texts[0], texts[2]]  # the prompt's first sample, whatever stands beside it
    generate(
        model,
        tokenizer,
        PROMPTS,
        decoding=SAMPLED.model_copy(update={"top_k": 5}),
        seed=3,
        engine="vllm",
        **SHORT,
    )
    assert {p.top_k for p in LLM.made[0].calls[-1][1]} == {5}
    both(model, tokenizer)
    assert {(p.temperature, p.seed) for p in LLM.made[0].calls[-1][1]} == {(0.0, None)}
    assert (
        generate(model, tokenizer, [], decoding=SAMPLED, seed=3, engine="vllm", **SHORT) == []
        and len(LLM.made) == 1
    )


def test_autocast_is_the_engines_precision(vllm, saved):
    model, tokenizer = load.load_policy(saved)
    reader = Reader(tokenizer, 32, 8, bf16=True, engine="vllm")
    assert len(reader.sample(model, PROMPTS[:2], 2, 0)) == 4 and LLM.made[0].dtype == "bfloat16"
    assert [p.temperature for p in LLM.made[0].calls[-1][1]] == [1.0] * 4


def test_what_vllm_cannot_do_is_refused_before_it_starts(vllm, saved, tiny_t5, monkeypatch):
    model, tokenizer = load.load_policy(saved)

    def refused(match, *pair, decoding=GREEDY):
        with pytest.raises(ValueError, match=match) as error:
            generate(
                *(pair or (model, tokenizer)),
                PROMPTS,
                decoding=decoding,
                seed=0,
                engine="vllm",
                **SHORT,
            )
        assert "\n" not in str(error.value) and not LLM.made

    refused("no T5-like models.*set generation to transformers", *tiny_t5)
    with pytest.raises(ValueError, match="no T5-like models"):  # asked before the first training
        generation.ready("vllm", tiny_t5[0])
    generation.ready("vllm", model)
    generation.ready("transformers", tiny_t5[0])
    refused("no_repeat_ngram_size", decoding=GREEDY.model_copy(update={"no_repeat_ngram_size": 3}))
    refused("adapters compute in 16 bits.*training.bf16", *load.load_policy(saved, lora_rank=4))
    refused(
        "rank 512 at most, and this policy's has 513",
        *load.load_policy(saved, lora_rank=513, bf16=True),
    )
    model.config.quantization_config = {"load_in_4bit": True}
    refused("training.quantize to none")
    del model.config.quantization_config
    model.generation_config.suppress_tokens = [7]
    refused("says of tokens .suppress_tokens.; set generation to transformers")
    model.generation_config.suppress_tokens = None
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused("one process here, not in 2")
    monkeypatch.delenv("WORLD_SIZE")
    for name in ("vllm", "vllm.lora", "vllm.lora.request"):
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "vllm":
            raise ImportError("No module named 'vllm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    refused("cannot be imported.*pip install vllm.*set generation to transformers")
    with pytest.raises(
        ValueError,
        match="generation is 'tgi', which is unknown; it must be one of transformers, vllm",
    ):
        generate(model, tokenizer, PROMPTS, decoding=GREEDY, seed=0, engine="tgi", **SHORT)


def test_completions_of_another_engine_are_other_files(tmp_path):
    profile = load_profile("llama", seeds=[0])
    cell = grid.cells(profile)[0]
    with_vllm = load_profile("llama", seeds=[0], preset="paper,fixed", generation="vllm")
    assert profile.generation == "transformers" and with_vllm.generation == "vllm"
    files = [generations.completions_file(p, cell, tmp_path, "x-") for p in (profile, with_vllm)]
    assert (
        files[0].name == f"completions-x-{cell.decoding.key()}.json"
        and files[1].name == f"completions-vllm-x-{cell.decoding.key()}.json"
    )
    with pytest.raises(ValueError, match="generation"):
        load_profile("llama", generation="tgi")
    with pytest.raises(ValueError, match="presets.released.decoding sets it; choose presets"):
        load_profile("llama", generation="vllm")
    with pytest.raises(ValueError, match="decoding.no_repeat_ngram_size sets it; set it to 0"):
        load_profile(
            "llama", preset="fixed", generation="vllm", **{"decoding.no_repeat_ngram_size": 3}
        )
