"""Sampling by vLLM instead of transformers, on a CUDA GPU: the profile's `generation: vllm`, called
by `generation.generate`.

Only what vLLM documents is used: `LLM`, `SamplingParams` and `LoRARequest`, checked against version
0.33. Prompts go in and completions come out as token ids, so the tokenizer and the chat template
are ours. One engine is kept, since each takes its share of the GPU:

- a LoRA policy: an engine of the model it adapts; its adapter is written to a temporary folder
  whenever its weights changed, and
  the engine reads it under a new name. With its adapter off it is that model alone;
- any other policy: an engine of its weights as they are now, which are first saved to a temporary
  folder. Right whatever they were
  trained to, but an online training builds one a step, which is slow: train with LoRA.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy.forward import TOKENS, core_of

# the engine's share of the GPU; the rest is for the policy that is trained or scored beside it
MEMORY = 0.4
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM has room for


@dataclass
class Engine:
    """A running vLLM and what it was last given. key: what it was built from."""

    key: tuple
    llm: Any
    scratch: tempfile.TemporaryDirectory  # weights that are nowhere else
    adapter: str = ""  # the digest of the adapter below
    request: Any = None  # vLLM's name for it


_KEPT: list[Engine] = []  # at most one
_ADAPTERS = itertools.count(1)


def sample(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    decoding: DecodingConfig,
    max_prompt_tokens: int,
) -> list[list[int]]:
    """The new token ids of each prompt [n], its end token included; row i draws from seeds[i], so
    that its text does not depend on the rows beside it but for bfloat16's rounding.

    Raises ValueError, naming what to set, when vLLM is not installed, for T5-like models, several
    processes, weights in 4 bits, adapters that it has no kernel or room for, and
    no_repeat_ngram_size.
    """
    from rpo_nb.policy.generation import stop_tokens

    LLM, SamplingParams, LoRARequest = ready(model)
    core, adapted = core_of(model), hasattr(model, "peft_config")
    precision = _precision(core)
    rank = max(config.r for config in model.peft_config.values()) if adapted else 0
    _refuse(core, decoding, precision, rank)
    options = {"dtype": precision, "max_model_len": max_prompt_tokens + decoding.max_new_tokens}
    if adapted:
        options |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": min(size for size in RANKS if size >= rank),
        }
    engine = _engine(LLM, core, tokenizer, adapted, options)
    request = (
        _adapter(LoRARequest, engine, model)
        if adapted and model.get_model_status().enabled
        else None
    )
    limits = {
        "max_tokens": decoding.max_new_tokens,
        "repetition_penalty": decoding.repetition_penalty,
        "detokenize": False,
        # where our own sampling stops
        "ignore_eos": True,
        "stop_token_ids": stop_tokens(model, tokenizer),
    }
    if decoding.do_sample:
        # versions differ in the number that switches it off
        off = {} if decoding.top_k else {"top_k"}
        chosen = {
            name: getattr(decoding, name)
            for name in ("temperature", "top_p", "top_k")
            if name not in off
        }
        params = [SamplingParams(seed=seed, **chosen, **limits) for seed in seeds]
    else:
        params = [SamplingParams(temperature=0.0, **limits) for _ in seeds]
    found = engine.llm.generate(
        [{"prompt_token_ids": list(ids)} for ids in prompts],
        params,
        use_tqdm=False,
        lora_request=request,
    )
    return [list(output.outputs[0].token_ids) for output in found]


def ready(model: nn.Module) -> tuple[Any, Any, Any]:
    """vLLM's LLM, SamplingParams and LoRARequest; ValueError where they are not installed or cannot
    be of use to this model."""
    core = core_of(model)
    if core.config.is_encoder_decoder:
        raise ValueError(
            "generation is 'vllm', which has no T5-like models such as this "
            f"{type(core).__name__}; set generation to transformers"
        )
    try:
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest
    except ImportError as error:
        raise ValueError(
            f"generation is 'vllm', which cannot be imported ({error}); pip install "
            "vllm on a machine with a CUDA GPU, or set "
            "generation to transformers"
        ) from error
    return LLM, SamplingParams, LoRARequest


def close() -> None:
    """Let the engine go, and its share of the GPU with it."""
    scratches = [_KEPT.pop().scratch for _ in range(len(_KEPT))]
    gc.collect()
    for scratch in scratches:
        scratch.cleanup()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _precision(core: nn.Module) -> str:
    """What the plain path would compute in: autocast's type where it is on, else the weights'."""
    kind = core.device.type
    return str(
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else core.dtype
    ).removeprefix("torch.")


def _refuse(core: nn.Module, decoding: DecodingConfig, precision: str, rank: int) -> None:
    """What would go wrong inside vLLM, said before it starts."""
    plain = "set generation to transformers"
    if decoding.no_repeat_ngram_size:
        raise ValueError(
            "generation is 'vllm', which has no no_repeat_ngram_size, but the "
            f"decoding's is {decoding.no_repeat_ngram_size} (preset "
            f"released sets it); {plain}, or the size to 0"
        )
    said = [name for name in TOKENS if getattr(core.generation_config, name, None) is not None]
    if said:
        raise ValueError(
            "generation is 'vllm', which does not follow what the checkpoint's "
            f"generation_config says of tokens ({', '.join(said)}); {plain}"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "generation is 'vllm', which works in one process here, not in "
            f"{os.environ['WORLD_SIZE']}; start one process, or {plain}"
        )
    if getattr(core.config, "quantization_config", None):
        raise ValueError(
            "generation is 'vllm', but the policy's frozen weights are quantised, "
            "and vLLM would sample another one; set "
            f"training.quantize to none, or {plain}"
        )
    if rank and precision not in ("bfloat16", "float16"):
        raise ValueError(
            "generation is 'vllm', whose adapters compute in 16 bits only, and this "
            f"policy computes in {precision}; set "
            f"training.bf16 to true, or {plain}"
        )
    if rank > RANKS[-1]:
        raise ValueError(
            f"generation is 'vllm', whose adapters have rank {RANKS[-1]} at most, and "
            f"this policy's has {rank}; lower "
            f"training.lora_rank, or {plain}"
        )


def _engine(
    LLM: Any, core: nn.Module, tokenizer: Any, adapted: bool, options: dict[str, Any]
) -> Engine:
    """The kept engine when it is of these weights and options, else a new one in its place."""
    # an adapter's model is as it was loaded
    source = core.config.name_or_path if adapted else _digest(core.state_dict())
    key = (source, *sorted(options.items()))
    if not _KEPT or _KEPT[0].key != key:
        close()
        scratch = tempfile.TemporaryDirectory(prefix="rpo_nb-vllm-")
        if not adapted:
            core.save_pretrained(scratch.name)
            tokenizer.save_pretrained(scratch.name)
        # generation_config "vllm": nothing of the checkpoint's own set-up, which may even limit the
        # length
        llm = LLM(
            model=source if adapted else scratch.name,
            seed=0,
            gpu_memory_utilization=MEMORY,
            generation_config="vllm",
            **options,
        )
        _KEPT.append(Engine(key, llm, scratch))
    return _KEPT[0]


def _adapter(LoRARequest: Any, engine: Engine, model: nn.Module) -> Any:
    """vLLM's name for the policy's adapter: the last one while the weights are the same, else a new
    one, since it reads each once."""
    from peft import get_peft_model_state_dict

    digest = _digest(get_peft_model_state_dict(model, save_embedding_layers=False))
    if digest != engine.adapter:
        number = next(_ADAPTERS)
        folder = Path(engine.scratch.name) / f"adapter-{number}"
        model.save_pretrained(folder, save_embedding_layers=False)
        engine.adapter, engine.request = (
            digest,
            LoRARequest(f"adapter-{number}", number, str(folder)),
        )
        for old in set(Path(engine.scratch.name).glob("adapter-*")) - {folder}:
            shutil.rmtree(old)
    return engine.request


def _digest(tensors: dict[str, Tensor]) -> str:
    """A hash of named tensors: what they are now."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(
            name.encode()
            + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
