"""The log-probability of a completion, read off any T5-like or causal model.

A policy is any transformers model of one of the two kinds; a reference is a policy that is not
trained. One function gives log-probabilities (`sequence_logps`); `grouped_logps` gives the same
numbers for a batch of whole prompts, the encoder run once a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpo_nb import checks
from rpo_nb.policy.forward import (
    IGNORE,
    causal_states,
    core_of,
    decoder_states,
    encoder_states,
    joined,
)
from rpo_nb.policy.heads import head_of
from rpo_nb.policy.prefixes import buckets, overhead, read_prompts, worth_keeping
from rpo_nb.remedies import memory_advice

LOGITS_AT_ONCE = 2**25  # of the vocabulary projection: 128 MB in float32


def device() -> torch.device:
    """Where models go: this process's GPU when there is one."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def autocast(enabled: bool) -> Any:
    """Computation in bfloat16 where it is safe, as transformers' Trainer does it: reference and
    policy must compute alike."""
    return torch.autocast(device().type, torch.bfloat16, enabled=enabled)


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """log-softmax of logits[..., V] at labels[...], in float32 (float64 stays), 0 where labels are
    −100."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -losses.view(labels.shape)


def reduce_logps(logps: Tensor, labels: Tensor, reduce: str) -> Tensor:
    """Token log-probabilities [n, T] to one number a row: their sum, or their mean over the
    labelled tokens."""
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce is {reduce!r}; it must be 'sum' or 'mean'")
    total = logps.sum(-1)
    return total if reduce == "sum" else total / (labels != IGNORE).sum(-1).clamp(min=1)


def sequence_logps(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, *, reduce: str
) -> Tensor:
    """log πθ(y|x) of each row, shape [n], float32 (float64 for a float64 model).

    T5-like: input_ids [n, S] is the prompt, labels [n, T] the completion. Causal: both are [n, S],
    the prompt's labels −100; the shift is done here. reduce: "sum" (paper A, eq. 19) or "mean" over
    the completion's tokens, its end token included (the authors' code). Raises ValueError for
    shapes that do not fit and for a row without a label.
    """
    head_of(model)  # an architecture that is refused is, before its layers fail
    seq2seq = model.config.is_encoder_decoder
    if (
        input_ids.shape != attention_mask.shape
        or len(labels) != len(input_ids)
        or (not seq2seq and labels.shape != input_ids.shape)
    ):
        raise ValueError(
            f"shapes do not fit: input_ids {tuple(input_ids.shape)}, attention_mask "
            f"{tuple(attention_mask.shape)}, "
            f"labels {tuple(labels.shape)}"
        )
    shifted = labels if seq2seq else labels[:, 1:]
    empty = (shifted == IGNORE).all(-1)
    if bool(empty.any()):
        raise ValueError(
            f"row {int(empty.nonzero()[0])} has no completion token left: every label is −100"
        )
    if seq2seq:
        hidden = decoder_states(
            model, encoder_states(model, input_ids, attention_mask), attention_mask, labels
        )
    else:
        hidden = causal_states(model, input_ids, attention_mask)[:, :-1]
    return reduce_logps(completion_logps(model, hidden, shifted), shifted, reduce)


def completion_logps(model: nn.Module, hidden: Tensor, labels: Tensor) -> Tensor:
    """log π of labels [n, T] from the states [n, T, d] that predict them, [n, T] float32 (float64
    stays), 0 where −100.

    Only labelled positions are projected to the vocabulary, LOGITS_AT_ONCE numbers at a time, and
    where that takes several pieces each is computed again in the backward pass: a full float32
    block of logits never stands.
    """
    keep = labels != IGNORE
    chosen, wanted = hidden[keep], labels[keep]
    head = head_of(model)
    rows = max(1, LOGITS_AT_ONCE // head.weight.shape[0])

    def project(part: Tensor, targets: Tensor) -> Tensor:
        return token_logps(head(part), targets)

    if core_of(model) in LIGER:
        values = -LIGER[core_of(model)](
            chosen * head.factor, head.weight, wanted, bias=head.module.bias, reduction="none"
        )
    elif len(chosen) <= rows:
        values = project(chosen, wanted)
    else:
        values = torch.cat(
            [
                checkpoint(project, part, targets, use_reentrant=False)
                for part, targets in zip(chosen.split(rows), wanted.split(rows), strict=True)
            ]
        )
    return values.new_zeros(labels.shape).masked_scatter(keep, values)


LIGER: WeakKeyDictionary = WeakKeyDictionary()  # models whose projection is Liger's kernel


@dataclass(frozen=True)
class Scored:
    """What `grouped_logps` says of n completions of U prompts."""

    logps: Tensor  # [n], with gradient
    # [U, S, d], what a value network reads: the encoder's states of the prompts, of a causal model
    # its last layer's
    states: Tensor
    # [n], without gradient: of the mismatched completions, where the batch has them
    mismatched: Tensor | None


def grouped_logps(
    model: nn.Module, batch: dict[str, Tensor], *, reduce: str, exact_padding: bool = False
) -> Scored:
    """log πθ(y|x) of a batch of `collate`, each prompt read once for all its completions (see
    `prefixes`).

    Prompts, and the completions of the prompts read together, are passed in buckets of near
    lengths, so that little padding is computed; exact_padding: all at once, padded as the batch is.
    Gradients are those of `sequence_logps` on whole rows.
    """
    head_of(model)  # as in `sequence_logps`
    ids, mask, group = batch["input_ids"], batch["attention_mask"], batch["group"]
    wanted = {name: batch[name] for name in ("labels", "mismatched") if name in batch}
    longest = ids.shape[1] + max(labels.shape[1] for labels in wanted.values())
    keep = worth_keeping(model, len(ids), len(wanted) * len(group), ids.shape[1], longest)
    if not (keep or model.config.is_encoder_decoder):
        return _whole_rows(model, batch, reduce, exact_padding)
    states, logps = [], {name: [] for name in wanted}
    for prompts, width in _buckets(model, mask, exact_padding):
        rows, place = _rows_of(prompts, group, len(ids))
        read = read_prompts(model, ids[prompts, :width], mask[prompts, :width], keep=keep)
        states.append((prompts, nn.functional.pad(read.states, (0, 0, 0, ids.shape[1] - width))))
        for name, labels in wanted.items():
            with torch.set_grad_enabled(torch.is_grad_enabled() and name == "labels"):
                for some, longest in _buckets(model, labels[rows] != IGNORE, exact_padding):
                    part = labels[rows[some], :longest]
                    found = completion_logps(model, read.hidden(place[some], part), part)
                    logps[name].append((rows[some], reduce_logps(found, part, reduce)))
    values = {name: _in_order(parts) for name, parts in logps.items()}
    return Scored(values["labels"], _in_order(states), values.get("mismatched"))


def _whole_rows(
    model: nn.Module, batch: dict[str, Tensor], reduce: str, exact_padding: bool
) -> Scored:
    """`grouped_logps` of a causal model that reads every row whole."""
    ids, group = batch["input_ids"], batch["group"]
    first = torch.zeros(len(ids), dtype=group.dtype, device=group.device)
    # each prompt's first row
    first[group.flip(0)] = torch.arange(len(group), device=group.device).flip(0)
    values, prompts = {}, []
    for name in (name for name in ("labels", "mismatched") if name in batch):
        rows, mask, labels = joined(ids, batch["attention_mask"], group, batch[name])
        logps = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and name == "labels"):
            for some, longest in _buckets(model, mask, exact_padding):
                states = causal_states(model, rows[some, :longest], mask[some, :longest])
                part = labels[some, 1:longest]
                logps.append(
                    (
                        some,
                        reduce_logps(completion_logps(model, states[:, :-1], part), part, reduce),
                    )
                )
                if name == "labels":
                    states = nn.functional.pad(states, (0, 0, 0, rows.shape[1] - longest))[
                        :, : ids.shape[1]
                    ]
                    prompts.append((some, states))
        values[name] = _in_order(logps)
    return Scored(values["labels"], _in_order(prompts)[first], values.get("mismatched"))


def _buckets(model: nn.Module, mask: Tensor, exact_padding: bool) -> Iterator[tuple[Tensor, int]]:
    """(rows, width) of each bucket that rows padded on the right [n, S] are passed in."""
    lengths = mask.sum(1).tolist()
    for rows in [list(range(len(mask)))] if exact_padding else buckets(lengths, overhead(model)):
        yield (
            torch.tensor(rows, device=mask.device),
            mask.shape[1] if exact_padding else max(lengths[i] for i in rows),
        )


def _rows_of(prompts: Tensor, group: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The rows [m] of some of the prompts, and which of them each belongs to [m]."""
    place = torch.full((number,), -1, device=group.device).index_copy(
        0, prompts, torch.arange(len(prompts), device=group.device)
    )
    rows = (place[group] >= 0).nonzero().squeeze(1)
    return rows, place[group[rows]]


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Values by their indices, of (indices, values)."""
    return torch.cat([values for _, values in parts])[
        torch.cat([index for index, _ in parts]).argsort()
    ]


def collate(
    rows: Sequence[tuple[list[int], list[int]]],
    *,
    pad_id: int,
    mismatched: Sequence[list[int]] = (),
    items: Sequence[int] | None = None,
    width: int = 0,
) -> dict[str, Tensor]:
    """Encoded rows to a batch: input_ids and attention_mask [U, S] of the U prompts, labels [n, T]
    of the completions, group [n] (row → its prompt, 0 to U−1), and labels of the rows' mismatched
    completions where they are given; padded on the right.

    items [n]: numbers that keep apart prompts of equal tokens; without them they are one, which is
    right where prompts are only read. width: S is at least that.
    """
    from torch.nn.utils.rnn import pad_sequence

    def padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
        return pad_sequence(
            [torch.tensor(s) for s in sequences], batch_first=True, padding_value=value
        )

    numbers = [0] * len(rows) if items is None else items
    names = [(number, tuple(prompt)) for number, (prompt, _) in zip(numbers, rows, strict=True)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    prompts = [prompt for _, prompt in index]
    batch = {
        "input_ids": padded(prompts, pad_id),
        "attention_mask": padded([[1] * len(prompt) for prompt in prompts], 0),
        "labels": padded([completion for _, completion in rows], IGNORE),
        "group": torch.tensor([index[name] for name in names]),
    }
    wide = max(0, width - batch["input_ids"].shape[1])
    for name, value in (("input_ids", pad_id), ("attention_mask", 0)):
        batch[name] = nn.functional.pad(batch[name], (0, wide), value=value)
    return batch | {"mismatched": padded(mismatched, IGNORE)} if mismatched else batch


def score_completions(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[tuple[list[int], list[int]]],
    *,
    bf16: bool = False,
    tokens_at_once: int = 32768,
) -> tuple[Tensor, Tensor]:
    """Sum of the completion's log-probabilities [n] and its number of tokens [n], in length-sorted
    batches; no gradient.

    bf16: compute as a training step in bf16 does. tokens_at_once: padded tokens of prompt and
    completion in one batch. Raises ValueError naming the row when a log-probability is not finite.
    """
    # equal prompts together
    order = sorted(
        range(len(rows)), key=lambda i: (len(rows[i][0]), rows[i][0], len(rows[i][1])), reverse=True
    )
    sums = torch.empty(len(rows), dtype=torch.float32)
    training, place, start = model.training, next(model.parameters()).device, 0
    model.eval()
    with (
        torch.inference_mode(),
        autocast(bf16),
        memory_advice("scoring completions", "set training.lora or training.bf16"),
    ):
        while start < len(order):
            longest = sum(
                max(len(rows[i][side]) for i in order[start : start + 256]) for side in (0, 1)
            )
            chunk = order[start : start + max(1, min(256, tokens_at_once // longest))]
            batch = collate([rows[i] for i in chunk], pad_id=tokenizer.pad_token_id)
            sums[chunk] = (
                grouped_logps(model, {k: v.to(place) for k, v in batch.items()}, reduce="sum")
                .logps.float()
                .cpu()
            )
            start += len(chunk)
    model.train(training)
    bad = (~sums.isfinite()).nonzero()
    if len(bad):
        raise checks.NotFinite(
            f"row {int(bad[0])}: its log-probability under the model is "
            f"{float(sums[bad[0]])}; check the model's weights and "
            "dtype"
        )
    return sums, torch.tensor([len(c) for _, c in rows])
