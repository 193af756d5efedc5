"""A model's own forward pass in two parts: the last states, and their projection to the vocabulary.

Log-probabilities need logits at the completion's tokens only, so the states are computed first and
few of them are projected (`logps.completion_logps`). What a family does between the two (scales,
caps or shifts its logits) is read from its configuration and tried once a model against
transformers' own logits; a model that does something else is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

IGNORE = -100  # transformers' label for "no loss here"
LONGEST_PROBE = 512  # tokens of a prompt that every model is tried on, whatever its windows
# What architectures raise when they are asked for something they have not: each is raised by some
# (XLM; RWKV; LFM2; MiniMax; FSMT; Mamba), is told with its text, and another error is a fault.
CANNOT = (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)
# What among these is the machine's.
MACHINE = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))

# What a checkpoint's generation_config says of tokens belongs to the model and is used as it is;
TOKENS = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
)
# what it says of the search is not (the value that does nothing), for the profile says how.
SEARCH = {
    "num_beams": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "encoder_repetition_penalty": 1,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1,
    "stop_strings": None,
    "min_p": 0,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "top_h": None,
    "penalty_alpha": 0,
    "dola_layers": None,
    "watermarking_config": None,
}


def core_of(model: nn.Module) -> nn.Module:
    """The transformers model inside peft's wrapper; its layers hold the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def text_config(model: nn.Module, *, encoder: bool = False) -> Any:
    """The part of a configuration that the text's layers have; encoder: those of the encoder."""
    config = core_of(model).config
    parts = ("encoder", "text_config") if encoder else ("decoder", "text_config")
    return next(
        (
            part
            for part in (getattr(config, name, None) for name in parts)
            if hasattr(part, "to_dict")
        ),
        config,
    )


def states_width(model: nn.Module) -> int:
    """The width of a prompt's states, as `logps.Scored` has them: what a value network reads."""
    return text_config(model, encoder=core_of(model).config.is_encoder_decoder).hidden_size


def narrowest_window(model: nn.Module) -> int | None:
    """The fewest tokens that a layer looks back at, by the configuration; None: all see all."""
    configs = [text_config(model)]
    if core_of(model).config.is_encoder_decoder:
        configs.append(text_config(model, encoder=True))
    sizes = [
        value
        for config in configs
        for name, value in vars(config).items()
        if re.search("window|chunk|local", name)
        and not re.search("layers|experts|pattern|feed_forward", name)
        and isinstance(value, int)
        and not isinstance(value, bool)
        and value > 0
    ]
    return min(sizes, default=None)


def depends_on_the_batch(model: nn.Module) -> str:
    """What a user must know of a model whose log-probabilities depend on the rows beside, "" of
    others: transformers scales its positions by the longest row of a batch."""
    config = text_config(model)
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(part for part in ropes.values() if isinstance(part, dict))):
        if rope.get("rope_type") in ("longrope", "dynamic"):
            limit = (
                rope.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or config.max_position_embeddings
            )
            return (
                f"{type(core_of(model)).__name__} scales its positions ({rope['rope_type']}) "
                f"by the longest row of a batch as soon as that has more than {limit} tokens: "
                "keep prompt and completion together below that, or a row's log-probability "
                "depends on the rows beside it"
            )
    return ""


def unused_search(model: nn.Module) -> str:
    """What of a checkpoint's search `model.generate` would do and completions here do not, "" of
    most; but for temperature, top-k and top-p, which every profile has of its own."""
    core = core_of(model)
    own = {name: getattr(core.generation_config, name, None) for name in SEARCH}
    said = [f"{name} {value}" for name, value in own.items() if value not in (None, SEARCH[name])]
    if not said:
        return ""
    return (
        f"{type(core).__name__}: the checkpoint's generation_config sets {', '.join(said)}, "
        "which completions here do not follow: they are decoded as the profile's decoding says"
    )


def refuse_what_padding_changes(model: nn.Module) -> None:
    """Raise ValueError for a family whose rows depend on the rows or the padding beside them in
    batches larger than those that models are tried on, so that no trial shows it."""
    core = core_of(model)
    if getattr(core.config, "moe_eval_capacity_token_fraction", None) is not None:  # NLLB-MoE
        reason = "its experts have room for so many tokens of a whole batch"
    elif getattr(core.config, "keep_window_size", None) is not None:  # Doge
        reason = "it chooses the tokens to look at among a row's padding and what comes after, too"
    elif getattr(core.config, "attention_type", None) == "block_sparse":  # BigBird
        reason = (
            "its attention is sparse in long batches only; set attention_type in config.json "
            "to original_full"
        )
    else:
        return
    raise ValueError(
        f"{type(core).__name__}: the log-probability of a row would depend on the "
        f"rows beside it ({reason}); use another architecture"
    )


def start_token(model: nn.Module) -> int:
    """The token that the decoder begins with, as transformers' `generate` does. Raises ValueError
    for a checkpoint that names none."""
    core = core_of(model)
    own = getattr(core, "generation_config", None)
    named = [getattr(place, "decoder_start_token_id", None) for place in (own, core.config)]
    if text_config(core) is not core.config:  # T5Gemma: a decoder of its own
        named.append(text_config(core).bos_token_id)
    for token in named:
        if token is not None:
            return token
    raise ValueError(
        f"{type(core).__name__}: its configuration has no decoder_start_token_id; set "
        "it in config.json, for a multilingual model to the code of the language"
    )


def shift_right(model: nn.Module, labels: Tensor) -> Tensor:
    """The decoder's inputs for these labels: the start token, then the labels without the last."""
    inputs = torch.cat([labels.new_full((len(labels), 1), start_token(model)), labels[:, :-1]], 1)
    return inputs.masked_fill(inputs == IGNORE, getattr(model.config, "pad_token_id", None) or 0)


def encoder_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The encoder's last states [U, S, d]."""
    return (
        core_of(model)
        .get_encoder()(input_ids=input_ids, attention_mask=attention_mask)
        .last_hidden_state
    )


def decoder_of(model: nn.Module) -> nn.Module:
    """The layers of a model without its projection to the vocabulary."""
    core = core_of(model)
    found = core.get_decoder()
    return core.model if found is core and hasattr(core, "model") else found


def decoder_states(model: nn.Module, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """The decoder's last states [n, T, d] that predict these labels, which it reads moved right."""
    return decoder_of(model)(
        input_ids=shift_right(model, labels),
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state


def causal_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """A causal model's last states [n, S, d], after its final norm, of rows padded on the right."""
    if narrowest_window(model) is not None:  # no token sees the padding behind it, but padding far
        attention_mask = torch.ones_like(attention_mask)  # behind would see nothing at all: NaN
    return decoder_of(model)(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state


def joined(
    input_ids: Tensor,
    attention_mask: Tensor,
    group: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts [U, S] and completions [n, T] as whole rows: input_ids, attention_mask and labels,
    [n, S + T], padded on the right."""
    before = attention_mask.sum(1)[group].unsqueeze(1)
    width = input_ids.shape[1] + labels.shape[1]
    place = torch.arange(width, device=labels.device).expand(len(labels), -1)
    prompt = input_ids[group].gather(1, place.clamp(max=input_ids.shape[1] - 1))
    completion = labels.gather(1, (place - before).clamp(0, labels.shape[1] - 1))
    outside = (place < before) | (place >= before + labels.shape[1])
    completion = completion.masked_fill(outside, IGNORE)
    ids = torch.where(place < before, prompt, completion)
    seen = ((place < before) | (completion != IGNORE)).long()
    return ids.masked_fill(ids == IGNORE, 0), seen, completion


def whole_states(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    group: Tensor,
    labels: Tensor,
) -> Tensor:
    """The states [n, T, d] that predict the labels [n, T] of completions of prompts [U, S],
    group [n] row → prompt; every row of a causal model is passed whole."""
    if core_of(model).config.is_encoder_decoder:
        return decoder_states(model, encoder_states(model, ids, mask)[group], mask[group], labels)
    rows, seen, _ = joined(ids, mask, group, labels)
    states = causal_states(model, rows, seen)
    steps = torch.arange(labels.shape[1], device=labels.device)
    place = mask.sum(1)[group].unsqueeze(1) - 1 + steps
    return states.gather(1, place.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


# ---- trying a model ----------------------------------------------------------------------------


@contextmanager
def probing(core: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, without gradients, computing in its own weights' precision."""
    training = core.training
    core.eval()
    try:
        with torch.no_grad(), torch.autocast(core.device.type, enabled=False):
            yield
    finally:
        core.train(training)


def probe(core: nn.Module, longest: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two prompts, of `longest` and of two tokens, and three completions to try a model on:
    input_ids, attention_mask, group and labels as `logps.collate` makes them."""
    place = {"device": core.device}
    vocabulary = core.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(2 * longest, **place).reshape(2, longest) % 11 + 3) % vocabulary
    mask = torch.ones_like(ids)
    mask[1, 2:] = 0
    labels = torch.tensor([[5, 4, 6], [4, 5, IGNORE], [6, 4, 5]], **place)
    labels = torch.where(labels == IGNORE, labels, labels % vocabulary)
    return ids, mask, torch.tensor([0, 0, 1], **place), labels


def largest(numbers: Tensor) -> float:
    """The largest magnitude. NaN is none, nor are infinities and a dtype's least number, which
    stand for tokens that cannot be."""
    sizes = numbers.abs()
    sizes = sizes[sizes < torch.finfo(numbers.dtype).max / 2]
    return float(sizes.max()) if len(sizes) else 0.0


def near(ours: Tensor, theirs: Tensor, size: float = 0.0) -> bool:
    """Whether two ways to the same numbers agree: to 1e-3 of the largest, or of `size` where that
    is more. Broken weights are the row's error, told where it is scored.

    In half precision to 5e-2: rounding alone, in bfloat16 with other kernels, came to 2.2 % in
    random models of 32 to 80 layers, while padding that a model reads came to 8 % and more.
    """
    share = 5e-2 if theirs.dtype in (torch.bfloat16, torch.float16) else 1e-3
    return torch.allclose(
        ours.float(),
        theirs.float(),
        rtol=0,
        equal_nan=True,
        atol=share * max(size, largest(theirs)),
    )


def told(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    return ": ".join((type(error).__name__, *str(error).splitlines()[:1]))


def plain_logits(
    core: nn.Module,
    ids: Tensor,
    mask: Tensor,
    group: Tensor,
    labels: Tensor,
) -> Tensor:
    """The logits of all labels, by a forward pass of each row alone, without padding."""
    found = []
    for which, row in zip(group.tolist(), labels, strict=True):
        prompt, completion = ids[which, : int(mask[which].sum())], row[row != IGNORE]
        if core.config.is_encoder_decoder:
            row_ids, more = (
                prompt,
                {"decoder_input_ids": shift_right(core, completion.unsqueeze(0))},
            )
        else:
            row_ids, more = torch.cat([prompt, completion]), {}
        row_ids = row_ids.unsqueeze(0)
        logits = core(
            input_ids=row_ids, attention_mask=torch.ones_like(row_ids), use_cache=False, **more
        ).logits[0]
        found.append(logits if more else logits[len(prompt) - 1 : -1])
    return torch.cat(found)
