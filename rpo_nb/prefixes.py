"""Read a prompt once and let all its completions go on from there, for T5-like and causal models, with gradients.

The states that predict a completion's tokens are all that log-probabilities need. `read_prompts` passes the prompts through the
model and keeps their keys and values (transformers' caches); its `hidden` passes completions that read them. Where a model
cannot do so (gradient checkpointing, an architecture without such a cache) every row is passed whole, to the same numbers.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

IGNORE = -100  # transformers' label for "no loss here"
# What one more pass through a model of width d costs besides its arithmetic, in tokens: the launching of its operations, over d²,
# and what small matrices lose. Fitted to the seconds of passes of widths 80 to 512 on one CPU core, and as much again for each
# more; on a GPU, where nobody measured it yet, what 10 µs an operation at 300 TFLOP/s make.
LAUNCH = {"cpu": (7e5, 12.0), "cuda": (5e9, 0.0)}


def core_of(model: nn.Module) -> nn.Module:
    """The transformers model inside peft's wrapper; its layers hold the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shift_right(model: nn.Module, labels: Tensor) -> Tensor:
    """The decoder's inputs for these labels: the start token, then the labels without the last."""
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1]], 1).masked_fill(torch.cat([start, labels[:, :-1]], 1) == IGNORE, model.config.pad_token_id)


def encoder_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The encoder's last states [U, S, d]."""
    return core_of(model).get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def decoder_states(model: nn.Module, states: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """The decoder's last states [n, T, d] that predict these labels, which it reads moved right."""
    return core_of(model).get_decoder()(input_ids=shift_right(model, labels), encoder_hidden_states=states, encoder_attention_mask=mask,
                                        use_cache=False).last_hidden_state


def causal_states(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The last layer's states [n, S, d] of a causal model, after its final norm."""
    return core_of(model).get_decoder()(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state


def joined(input_ids: Tensor, attention_mask: Tensor, group: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts [U, S] and completions [n, T] as whole rows: input_ids, attention_mask and labels, [n, S + T], padded on the right."""
    before = attention_mask.sum(1)[group].unsqueeze(1)
    place = torch.arange(input_ids.shape[1] + labels.shape[1], device=labels.device).expand(len(labels), -1)
    prompt = input_ids[group].gather(1, place.clamp(max=input_ids.shape[1] - 1))
    answer = labels.gather(1, (place - before).clamp(0, labels.shape[1] - 1))
    answer = answer.masked_fill((place < before) | (place >= before + labels.shape[1]), IGNORE)
    ids = torch.where(place < before, prompt, answer)
    return ids.masked_fill(ids == IGNORE, 0), ((place < before) | (answer != IGNORE)).long(), answer


@dataclass(frozen=True)
class Read:
    """U prompts that a model has read. states [U, S, d]: the encoder's, of a causal model its last layer's.
    hidden: (prompt of each row [n], labels [n, T]) -> the states [n, T, d] that predict them."""

    states: Tensor
    hidden: Callable[[Tensor, Tensor], Tensor]


def worth_keeping(model: nn.Module, prompts: int, rows: int, width: int) -> bool:
    """Whether keeping the keys and values of prompts of `width` tokens for so many completions costs less than it saves: of a
    causal model the prompts' tokens that are not passed again, of a T5, whose encoder is shared anyhow, the projection of its
    states in the cross-attention, about a sixth of a decoder layer's work."""
    saved = (rows - prompts) * width / (6 if core_of(model).config.is_encoder_decoder else 1)
    return saved > overhead(model) and reads_cache(model)


def read_prompts(model: nn.Module, ids: Tensor, mask: Tensor, *, keep: bool) -> Read:
    """Pass the prompts [U, S], padded on the right. keep: their keys and values, see `worth_keeping`; a causal model's must be, since
    without them it passes whole rows (ValueError)."""
    if keep:
        return _kept(model, ids, mask)
    if not core_of(model).config.is_encoder_decoder:
        raise ValueError("a causal model that keeps no prompts reads whole rows; use `joined` and `causal_states`")
    states = encoder_states(model, ids, mask)
    return Read(states, lambda group, labels: decoder_states(model, states[group], mask[group], labels))


def completion_states(model: nn.Module, ids: Tensor, mask: Tensor, group: Tensor, labels: Tensor) -> Tensor:
    """The states [n, T, d] that predict the labels [n, T] of completions of prompts [U, S], group [n] row → prompt."""
    keep = worth_keeping(model, len(ids), len(group), ids.shape[1])
    if keep or core_of(model).config.is_encoder_decoder:
        return read_prompts(model, ids, mask, keep=keep).hidden(group, labels)
    return _by_whole_rows(model, ids, mask, group, labels)


def _by_whole_rows(model: nn.Module, ids: Tensor, mask: Tensor, group: Tensor, labels: Tensor) -> Tensor:
    rows, seen, _ = joined(ids, mask, group, labels)
    states = causal_states(model, rows, seen)
    place = mask.sum(1)[group].unsqueeze(1) - 1 + torch.arange(labels.shape[1], device=labels.device)
    return states.gather(1, place.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def _kept(model: nn.Module, ids: Tensor, mask: Tensor) -> Read:
    from transformers import DynamicCache, EncoderDecoderCache

    core = core_of(model)
    seq2seq, decoder = core.config.is_encoder_decoder, core.get_decoder()
    if seq2seq:  # the decoder's first token is the same for all: its pass makes the keys and values of the encoder's states
        states, cache = encoder_states(model, ids, mask), EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = ids.new_full((len(ids), 1), core.config.decoder_start_token_id)
        last = decoder(input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=True,
                       past_key_values=cache).last_hidden_state
    else:
        cache = DynamicCache()
        states = decoder(input_ids=ids, attention_mask=mask, use_cache=True, past_key_values=cache).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1].unsqueeze(1)

    def hidden(group: Tensor, labels: Tensor) -> Tensor:
        if labels.shape[1] == 1:
            return last[group]
        tokens = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, 0)  # padding comes after a row's last token: nothing sees it
        if seq2seq:  # of the encoder's states only the shape is read: their keys and values are in the cache
            rest = {"encoder_hidden_states": states[:1].detach().expand(len(tokens), -1, -1), "encoder_attention_mask": mask[group]}
        else:
            rest = {"attention_mask": torch.cat([mask[group], torch.ones_like(tokens)], 1),
                    "position_ids": mask.sum(1)[group].unsqueeze(1) + torch.arange(tokens.shape[1], device=tokens.device)}
        after = decoder(input_ids=tokens, use_cache=True, past_key_values=_of_rows(cache, group), **rest).last_hidden_state
        return torch.cat([last[group], after], 1)

    return Read(states, hidden)


def _of_rows(cache, group: Tensor):
    """A cache of U prompts as one of the rows that go on from them; the prompts' own stays as it is."""
    if hasattr(cache, "self_attention_cache"):
        return type(cache)(_of_rows(cache.self_attention_cache, group), _of_rows(cache.cross_attention_cache, group))
    rows = copy.copy(cache)
    rows.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in rows.layers:
        layer.keys, layer.values = layer.keys[group], layer.values[group]
    return rows


_READS: WeakKeyDictionary = WeakKeyDictionary()


def reads_cache(model: nn.Module) -> bool:
    """Whether completions of this model can go on from kept keys and values: tried once a model against whole rows, and told where not.

    Never of a recurrent model, whose state is not one of keys and values, nor while gradient checkpointing trains: transformers
    then keeps none.
    """
    core = core_of(model)
    if core.training and any(getattr(module, "gradient_checkpointing", False) for module in core.modules()):
        return False
    if core not in _READS:
        takes = inspect.signature(core.get_decoder().forward).parameters
        needed = {"past_key_values"} | (set() if core.config.is_encoder_decoder else {"position_ids"})
        _READS[core] = not getattr(core, "_is_stateful", False) and needed <= set(takes) and _same_states(core)
        if not _READS[core]:
            warnings.warn(f"{type(core).__name__} reads every prompt again for each of its completions, slower but to the same numbers: "
                          "it has no cache of keys and values that they could go on from")
    return _READS[core]


@torch.no_grad()
def _same_states(core: nn.Module) -> bool:
    """Whether a few completions that go on from kept prompts have the states of whole rows."""
    size, training, place = core.get_input_embeddings().weight.shape[0], core.training, {"device": core.device}
    ids, mask = (torch.arange(6, **place).reshape(2, 3) + 3) % size, torch.tensor([[1, 1, 1], [1, 1, 0]], **place)
    group, labels = torch.tensor([0, 0, 1], **place), torch.tensor([[1, 2], [2, 1], [2, IGNORE]], **place)
    core.eval()
    if core.config.is_encoder_decoder:
        whole = decoder_states(core, encoder_states(core, ids, mask)[group], mask[group], labels)
    else:
        whole = _by_whole_rows(core, ids, mask, group, labels)
    ours, real = _kept(core, ids, mask).hidden(group, labels), labels != IGNORE
    core.train(training)
    near = 2e-2 * float(whole.nan_to_num().abs().max())  # broken weights are the row's error, told where it is scored
    return torch.allclose(ours[real].float(), whole[real].float(), rtol=0, atol=near, equal_nan=True)


def buckets(lengths: Sequence[int], overhead: float) -> list[list[int]]:
    """Indices of the lengths in buckets, each padded to its longest, such that all tokens and `overhead` tokens a bucket are
    fewest; the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    ordered = np.array([lengths[i] for i in order])
    least, cut = np.zeros(len(order) + 1), [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):  # least[end]: of the first `end`, the last bucket beginning at cut[end]
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
    core = core_of(model)
    width = core.config.d_model if core.config.is_encoder_decoder else core.config.hidden_size
    launching, losing = LAUNCH.get(core.device.type, LAUNCH["cuda"])
    return (launching / width**2 + losing) * (torch.get_num_threads() if core.device.type == "cpu" else 1)
