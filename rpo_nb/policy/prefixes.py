"""Read a prompt once and let all its completions go on from there, for T5-like and causal models,
with gradients.

The states that predict a completion's tokens are all that log-probabilities need. `read_prompts`
passes the prompts through the model and keeps their keys and values (transformers' caches); its
`hidden` passes completions that read them. Where a model cannot do so (gradient checkpointing, an
architecture without such a cache) every row is passed whole, to the same numbers.

transformers counts the window of local attention in places of the cache: where a model has one,
prompts are kept padded on the left, so that padding stands before a row and not between its tokens.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rpo_nb.policy.forward import (
    CANNOT,
    IGNORE,
    MACHINE,
    core_of,
    decoder_of,
    decoder_states,
    encoder_states,
    narrowest_window,
    near,
    probe,
    probing,
    start_token,
    states_width,
    told,
    whole_states,
)

# What one more pass through a model of width d costs besides its arithmetic, in tokens: the
# launching of its operations, over d², and what small matrices lose. Fitted to the seconds of
# passes of widths 80 to 512 on one CPU core, and as much again for each more; on a GPU, where
# nobody measured it yet, what 10 µs an operation at 300 TFLOP/s make.
LAUNCH = {"cpu": (7e5, 12.0), "cuda": (5e9, 0.0)}


@dataclass(frozen=True)
class Read:
    """U prompts that a model has read. states [U, S, d]: the encoder's, of a causal model its last
    layer's.
    hidden: (prompt of each row [n], labels [n, T]) -> the states [n, T, d] that predict them."""

    states: Tensor
    hidden: Callable[[Tensor, Tensor], Tensor]


def worth_keeping(model: nn.Module, prompts: int, rows: int, width: int, longest: int) -> bool:
    """Whether keeping the keys and values of prompts of `width` tokens for so many completions
    costs less than it saves: of a causal model the prompts' tokens that are not passed again, of a
    T5, whose encoder is shared anyhow, the projection of its states in the cross-attention, about a
    sixth of a decoder layer's work. longest: tokens of prompt and completion together; where a
    layer's window is narrower, the model is tried beyond it."""
    saved = (rows - prompts) * width / (6 if core_of(model).config.is_encoder_decoder else 1)
    window = narrowest_window(model) or math.inf
    return (
        saved > overhead(model)
        and reads_cache(model)
        and (longest <= window or _goes_on(model, window + 3))
    )


def read_prompts(model: nn.Module, ids: Tensor, mask: Tensor, *, keep: bool) -> Read:
    """Pass the prompts [U, S], padded on the right. keep: their keys and values, see
    `worth_keeping`; a causal model's must be, since without them it passes whole rows
    (ValueError)."""
    if keep:
        return _kept(model, ids, mask)
    if not core_of(model).config.is_encoder_decoder:
        raise ValueError(
            "a causal model that keeps no prompts reads whole rows; use `joined` and "
            "`causal_states`"
        )
    states = encoder_states(model, ids, mask)
    return Read(
        states, lambda group, labels: decoder_states(model, states[group], mask[group], labels)
    )


def completion_states(
    model: nn.Module, ids: Tensor, mask: Tensor, group: Tensor, labels: Tensor
) -> Tensor:
    """The states [n, T, d] that predict the labels [n, T] of completions of prompts [U, S], group
    [n] row → prompt."""
    keep = worth_keeping(model, len(ids), len(group), ids.shape[1], ids.shape[1] + labels.shape[1])
    if keep or core_of(model).config.is_encoder_decoder:
        return read_prompts(model, ids, mask, keep=keep).hidden(group, labels)
    return whole_states(model, ids, mask, group, labels)


def _kept(model: nn.Module, ids: Tensor, mask: Tensor) -> Read:
    from transformers import DynamicCache, EncoderDecoderCache

    core = core_of(model)
    seq2seq, decoder = core.config.is_encoder_decoder, decoder_of(core)
    local = not seq2seq and narrowest_window(core) is not None
    # the decoder's first token is the same for all: its pass makes the keys and values of the
    # encoder's states
    if seq2seq:
        states, cache = (
            encoder_states(model, ids, mask),
            EncoderDecoderCache(DynamicCache(), DynamicCache()),
        )
        start = ids.new_full((len(ids), 1), start_token(core))
        last = decoder(
            input_ids=start,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            use_cache=True,
            past_key_values=cache,
        ).last_hidden_state
    elif local:
        # padding first, then the tokens in their order
        cache, right, order = DynamicCache(), mask, mask.argsort(dim=1, stable=True)
        mask = mask.gather(1, order)
        states = decoder(
            input_ids=ids.gather(1, order),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            past_key_values=cache,
        ).last_hidden_state
        last, back = states[:, -1:], order.argsort(1).unsqueeze(-1)
        states = states.gather(1, back.expand(-1, -1, states.shape[-1])).masked_fill(
            right.unsqueeze(-1) == 0, 0
        )
    else:
        cache = DynamicCache()
        states = decoder(
            input_ids=ids, attention_mask=mask, use_cache=True, past_key_values=cache
        ).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1].unsqueeze(1)

    def hidden(group: Tensor, labels: Tensor) -> Tensor:
        if labels.shape[1] == 1:
            return last[group]
        # padding comes after a row's last token: nothing sees it
        tokens = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, 0)
        # of the encoder's states only the shape is read: their keys and values are in the cache
        if seq2seq:
            rest = {
                "encoder_hidden_states": states[:1].detach().expand(len(tokens), -1, -1),
                "encoder_attention_mask": mask[group],
            }
        else:
            rest = {
                "attention_mask": torch.cat([mask[group], torch.ones_like(tokens)], 1),
                "position_ids": mask.sum(1)[group].unsqueeze(1)
                + torch.arange(tokens.shape[1], device=tokens.device),
            }
        after = decoder(
            input_ids=tokens, use_cache=True, past_key_values=_of_rows(cache, group), **rest
        ).last_hidden_state
        return torch.cat([last[group], after], 1)

    return Read(states, hidden)


def _of_rows(cache, group: Tensor):
    """A cache of U prompts as one of the rows that go on from them; the prompts' own stays as it
    is."""
    if hasattr(cache, "self_attention_cache"):
        return type(cache)(
            _of_rows(cache.self_attention_cache, group),
            _of_rows(cache.cross_attention_cache, group),
        )
    rows = copy.copy(cache)
    rows.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in rows.layers:
        layer.keys, layer.values = layer.keys[group], layer.values[group]
    return rows


# model → {longest prompt it was tried with: whether it can}
_READS: WeakKeyDictionary = WeakKeyDictionary()


def reads_cache(model: nn.Module) -> bool:
    """Whether completions of this model can go on from kept keys and values: tried once a model
    against whole rows, and told where not.

    Never of a recurrent model, whose state is not one of keys and values, nor while gradient
    checkpointing trains: transformers then keeps none.
    """
    core = core_of(model)
    if core.training and any(
        getattr(module, "gradient_checkpointing", False) for module in core.modules()
    ):
        return False
    return _goes_on(core, 3)


def _goes_on(model: nn.Module, longest: int) -> bool:
    """Whether completions that go on from kept prompts of `longest` and of two tokens have the
    states of whole rows."""
    core = core_of(model)
    tried = _READS.setdefault(core, {})
    if longest not in tried:
        takes = set(inspect.signature(decoder_of(core).forward).parameters)
        needed = {"past_key_values"} | (
            set() if core.config.is_encoder_decoder else {"position_ids"}
        )
        reason = "it has no cache of keys and values that they could go on from"
        if getattr(core.config, "expert_capacity", None):  # Switch: counted anew in each pass
            reason = f"its experts have room for {core.config.expert_capacity} tokens of a pass"
        elif not getattr(core, "_is_stateful", False) and needed <= takes:
            reason = _difference(core, longest)
        tried[longest] = not reason
        if reason:
            warnings.warn(
                f"{type(core).__name__} reads every prompt again for each of its "
                "completions, slower but to the same "
                f"numbers: {reason}"
            )
    return tried[longest]


def _difference(core: nn.Module, longest: int) -> str:
    """What keeps completions from going on from kept prompts, "" where nothing does."""
    with probing(core):
        ids, mask, group, labels = probe(core, longest)
        whole, real = whole_states(core, ids, mask, group, labels), labels != IGNORE
        try:
            ours = _kept(core, ids, mask).hidden(group, labels)
        except MACHINE:
            raise
        except CANNOT as error:
            return f"its cache cannot be shared ({told(error)})"
    return (
        ""
        if near(ours[real], whole[real])
        else "from kept keys and values it comes to other states"
    )


def buckets(lengths: Sequence[int], overhead: float) -> list[list[int]]:
    """Indices of the lengths in buckets, each padded to its longest, such that all tokens and
    `overhead` tokens a bucket are fewest; the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ordered = np.array([lengths[i] for i in order])
    least, cut = np.zeros(len(order) + 1), [0] * (len(order) + 1)
    # least[end]: of the first `end`, the last bucket beginning at cut[end]
    for end in range(1, len(order) + 1):
        costs = least[:end] + ordered[:end] * (end - np.arange(end)) + overhead
        cut[end] = int(costs.argmin())
        least[end] = costs[cut[end]]
    found, end = [], len(order)
    while end:
        found.append(order[cut[end] : end])
        end = cut[end]
    return found[::-1]


def overhead(model: nn.Module) -> float:
    """Tokens that one more pass costs a model besides its arithmetic; see LAUNCH."""
    core, width = core_of(model), states_width(model)
    launching, losing = LAUNCH.get(core.device.type, LAUNCH["cuda"])
    return (launching / width**2 + losing) * (
        torch.get_num_threads() if core.device.type == "cpu" else 1
    )
