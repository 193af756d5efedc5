"""Generation with an explicit set-up: the completions that every metric and every judge looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from .config import METHODS, DecodingConfig
from .policy import encode


def released_decoding(method: str, decoding: DecodingConfig) -> DecodingConfig:
    """How the authors' code decodes a method: KTO greedily, the others by sampling (so its Table II compares unlike things).

    Only the length limit is taken from `decoding`; theirs is 768 tokens. Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; the methods are {', '.join(METHODS)}")
    if method == "kto":
        return DecodingConfig(do_sample=False, max_new_tokens=decoding.max_new_tokens)
    return DecodingConfig(temperature=0.7, top_k=50, top_p=0.95, repetition_penalty=1.2, no_repeat_ngram_size=3,
                          max_new_tokens=decoding.max_new_tokens)


def generate(model: nn.Module, tokenizer: Any, prompts: Sequence[str], *, decoding: DecodingConfig, seed: int,
             max_prompt_tokens: int, batch_size: int) -> list[str]:
    """One completion a prompt, in the prompts' order, special tokens and outer white space removed; an empty one is "".

    T5-like and causal models (left padding there). Prompts are encoded as for training and batched by length. The same
    seed, prompts and batch size give the same texts on the same machine; the caller's random state is left untouched, and
    so is whether the model is training. Raises ValueError naming the prompt that has no token.
    """
    seq2seq = model.config.is_encoder_decoder
    rows = encode(tokenizer, prompts, [""] * len(prompts), max_prompt_tokens=max_prompt_tokens, max_completion_tokens=1)
    encoded = [ids for ids, _ in rows]
    empty = next((i for i, ids in enumerate(encoded) if not ids), None)
    if empty is not None:
        raise ValueError(f"prompt {empty} ({prompts[empty]!r}) has no token; remove it before generating")
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)  # the longest first: memory shows at once
    texts = [""] * len(prompts)
    with _generating(model, seed) as core:
        setup = _generation_config(core, tokenizer, decoding)
        for rows in batches(order, batch_size):
            ids = [torch.tensor(encoded[i]) for i in rows]
            side = "right" if seq2seq else "left"
            inputs = pad_sequence(ids, batch_first=True, padding_value=setup.pad_token_id, padding_side=side).to(core.device)
            mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True, padding_side=side).to(core.device)
            out = core.generate(input_ids=inputs, attention_mask=mask, generation_config=setup)
            new = out if seq2seq else out[:, inputs.shape[1]:]
            decoded = tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for i, text in zip(rows, decoded, strict=True):
                texts[i] = text.strip()
    return texts


@contextmanager
def _generating(model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """The model that generates: evaluation mode, no gradient, its own random stream, none of its checkpoint's defaults."""
    from transformers import GenerationConfig

    # peft's wrapper copies its own generation_config over; the model inside has the adapters in its layers all the same.
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    training, inherited = model.training, core.generation_config
    model.eval()
    # transformers fills every field left open from the checkpoint's generation_config.json; an empty one gives nothing.
    core.generation_config = GenerationConfig()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            yield core
    finally:
        core.generation_config = inherited
        model.train(training)


def _generation_config(model: nn.Module, tokenizer: Any, decoding: DecodingConfig) -> Any:
    """Everything that generation depends on, spelled out."""
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    sampling = decoding.model_dump(include={"temperature", "top_k", "top_p"}) if decoding.do_sample else {}
    return GenerationConfig(
        do_sample=decoding.do_sample, num_beams=1, max_new_tokens=decoding.max_new_tokens,
        repetition_penalty=decoding.repetition_penalty, no_repeat_ngram_size=decoding.no_repeat_ngram_size, **sampling,
        pad_token_id=pad, eos_token_id=tokenizer.eos_token_id,  # the end that the completions were trained with
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None))


def batches(items: list, size: int) -> Iterator[list]:
    """Consecutive lists of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
