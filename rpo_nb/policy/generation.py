"""Generation with an explicit set-up: the completions that every metric and every judge looks
at."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpo_nb.config.methods import METHODS, ROWS
from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy.completing import Processing, RowSampling, way_of
from rpo_nb.policy.encoding import encode, end_of_turn
from rpo_nb.policy.forward import TOKENS, core_of, start_token

# names of Profile.generation, and the modules beside this one that its texts depend on
ENGINES = {"transformers": (), "vllm": ("vllm_engine",)}


def released_decoding(method: str, decoding: DecodingConfig) -> DecodingConfig:
    """How the authors' code decodes a method: KTO greedily, the others by sampling (so its Table II
    compares unlike things).

    Only the length limit is taken from `decoding`; theirs is 768 tokens. Raises ValueError for an
    unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; the methods are {', '.join(METHODS)}")
    if ROWS[method].released_greedy:
        return DecodingConfig(do_sample=False, max_new_tokens=decoding.max_new_tokens)
    return DecodingConfig(
        temperature=0.7,
        top_k=50,
        top_p=0.95,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        max_new_tokens=decoding.max_new_tokens,
    )


@dataclass(frozen=True)
class Sample:
    """What was drawn for one prompt: its tokens as the model read them; the new ones, up to and
    with the end token, without one where max_new_tokens cut them; and these as text, special tokens
    and outer white space removed."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    text: str

    @property
    def row(self) -> tuple[list[int], list[int]]:
        """Prompt and completion as `logps.score_completions` takes them."""
        return list(self.prompt), list(self.ids)


def generate(
    model: nn.Module, tokenizer: Any, prompts: Sequence[str], **settings: Any
) -> list[str]:
    """The texts of `samples`; an empty one is ""."""
    return [drawn.text for drawn in samples(model, tokenizer, prompts, **settings)]


def samples(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    decoding: DecodingConfig,
    seed: int,
    max_prompt_tokens: int,
    batch_size: int,
    engine: str = "transformers",
) -> list[Sample]:
    """One completion a prompt, in the prompts' order.

    T5-like and causal models (left padding there). Prompts are encoded as for training, sorted by
    length, `batch_size` rows at a time; a prompt given K times is read once a batch and gets K
    samples. Each row draws from a random stream of its own, named by the seed, the prompt's tokens
    and how many equal prompts stand before it: the text depends on neither the batch size nor the
    other prompts (in float32, but for rounding; bfloat16 rounds too coarsely for that). The
    caller's random state is left untouched, and so is whether the model is training. engine: one of
    ENGINES; "vllm" (see `vllm_engine`) forms its own batches and gives other texts. Raises
    ValueError naming the prompt that has no token, and for an unknown engine.
    """
    if engine not in ENGINES:
        raise ValueError(
            f"generation is {engine!r}, which is unknown; it must be one of {', '.join(ENGINES)}"
        )
    rows = encode(
        tokenizer,
        prompts,
        [""] * len(prompts),
        max_prompt_tokens=max_prompt_tokens,
        max_completion_tokens=1,
    )
    encoded = [tuple(ids) for ids, _ in rows]
    empty = next((i for i, ids in enumerate(encoded) if not ids), None)
    if empty is not None:
        raise ValueError(
            f"prompt {empty} ({prompts[empty]!r}) has no token; remove it before generating"
        )
    before: Counter = Counter()
    occurrence = []
    for ids in encoded:
        occurrence.append(before[ids])
        before[ids] += 1
    if engine == "vllm" and prompts:
        from rpo_nb.policy.vllm_engine import sample

        seeds = [row_name(seed, ids, n) % 2**63 for ids, n in zip(encoded, occurrence, strict=True)]
        new = sample(
            model, tokenizer, encoded, seeds, decoding=decoding, max_prompt_tokens=max_prompt_tokens
        )
        return _drawn(tokenizer, encoded, new, stop_tokens(model, tokenizer))
    # the longest first: memory shows at once
    order = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), encoded[i]))
    found: list[Any] = [None] * len(prompts)
    setup = _generation_config(core_of(model), tokenizer, decoding)
    with _generating(model) as core:
        for rows in batches(order, batch_size):
            streams = [row_stream(seed, encoded[i], occurrence[i], core.device) for i in rows]
            asked = [encoded[i] for i in rows]
            drawing = _sampling(decoding, streams) if decoding.do_sample else None
            new = way_of(core)(core, asked, setup, drawing)
            if setup.forced_eos_token_id is not None:  # the last place has an end that nobody drew
                new = [row[: max(1, decoding.max_new_tokens - 1)] for row in new]
            for i, drawn in zip(
                rows, _drawn(tokenizer, asked, new, setup.eos_token_id), strict=True
            ):
                found[i] = drawn
    return found


def stop_tokens(model: nn.Module, tokenizer: Any) -> list[int]:
    """The tokens that end a completion: the tokenizer's end, the end of a turn in its chat
    template, and every end that the checkpoint's generation_config names."""
    named = getattr(core_of(model).generation_config, "eos_token_id", None)
    ends = [
        tokenizer.eos_token_id,
        end_of_turn(tokenizer)[-1],
        *(named if isinstance(named, list) else [named]),
    ]
    return list(dict.fromkeys(token for token in ends if token is not None))


def decoded(
    tokenizer: Any, rows: Sequence[Sequence[int] | Tensor], stops: Sequence[int]
) -> list[str]:
    """New tokens as texts, each up to its first stop token, which need not be one that decoding
    leaves out."""
    return [drawn.text for drawn in _drawn(tokenizer, [()] * len(rows), rows, stops)]


def _drawn(
    tokenizer: Any,
    prompts: Sequence[tuple[int, ...]],
    rows: Sequence[Sequence[int] | Tensor],
    stops: Sequence[int],
) -> list[Sample]:
    """New tokens, padding and all, as samples: each ends with its first stop token. The text lacks
    that, which need not be one that decoding leaves out."""
    rows = [[int(token) for token in row] for row in rows]
    ends = [next((i for i, token in enumerate(row) if token in stops), len(row)) for row in rows]
    texts = tokenizer.batch_decode(
        [row[:end] for row, end in zip(rows, ends, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [
        Sample(prompt, tuple(row[: end + 1]), text.strip())
        for prompt, row, end, text in zip(prompts, rows, ends, texts, strict=True)
    ]


def ready(engine: str, model: nn.Module) -> None:
    """Raise now, before hours of training, what `generate` would raise about this engine and
    model."""
    if engine == "vllm":
        from rpo_nb.policy import vllm_engine

        vllm_engine.ready(model)


def row_name(seed: int, ids: Sequence[int], occurrence: int) -> int:
    """128 bits that name one sample: of the prompt with these token ids, the occurrence-th among
    its equals."""
    return int.from_bytes(
        hashlib.sha256(repr((seed, tuple(ids), occurrence)).encode()).digest()[:16], "little"
    )


def row_stream(
    seed: int, ids: Sequence[int], occurrence: int, device: torch.device
) -> np.random.Generator | torch.Generator:
    """The random numbers of one sample, by its `row_name`.

    NumPy's where the processor draws (four times as fast as torch's there), torch's on a GPU: one a
    device, not the same texts.
    """
    name = row_name(seed, ids, occurrence)
    if device.type == "cpu":
        return np.random.Generator(np.random.SFC64(name))
    return torch.Generator(device).manual_seed(name % 2**63)


def _sampling(
    decoding: DecodingConfig, streams: Sequence[np.random.Generator | torch.Generator]
) -> Processing:
    return lambda rows: RowSampling(decoding, [streams[i] for i in rows])


@contextmanager
def _generating(model: nn.Module) -> Iterator[nn.Module]:
    """The model that generates: evaluation mode, no gradient, none of its checkpoint's defaults."""
    from transformers import GenerationConfig

    # peft's wrapper copies its own generation_config over; the model inside has the adapters in its
    # layers all the same.
    core = core_of(model)
    training, inherited = model.training, core.generation_config
    model.eval()
    # transformers fills every field left open from the checkpoint's generation_config.json; an
    # empty one gives nothing.
    core.generation_config = GenerationConfig()
    try:
        with torch.inference_mode():
            yield core
    finally:
        core.generation_config = inherited
        model.train(training)


def _generation_config(core: nn.Module, tokenizer: Any, decoding: DecodingConfig) -> Any:
    """Everything that generation depends on, spelled out, but for sampling (`RowSampling`). Of the
    checkpoint's own set-up only what belongs to the model: its ends and TOKENS (a first language
    code, words not to be said)."""
    from transformers import GenerationConfig

    forced = {name: getattr(core.generation_config, name, None) for name in TOKENS}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        max_new_tokens=decoding.max_new_tokens,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        pad_token_id=pad,
        eos_token_id=stop_tokens(core, tokenizer),
        **forced,
        decoder_start_token_id=start_token(core) if core.config.is_encoder_decoder else None,
    )


def batches(items: list, size: int) -> Iterator[list]:
    """Consecutive lists of at most `size` items."""
    return (items[start : start + size] for start in range(0, len(items), size))
