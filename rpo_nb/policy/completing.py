"""Three ways to complete prompts by transformers' own `generate`, and the test that says which one
fits a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy.forward import (
    CANNOT,
    IGNORE,
    MACHINE,
    near,
    plain_logits,
    probe,
    probing,
    start_token,
    told,
)


class RowSampling:
    """A logits processor after which the greedy choice is a sample: transformers' own temperature,
    top-k and top-p, in the order of its `generate`, then Gumbel noise, row i's from streams[i].

    The argmax of logits + Gumbel noise is distributed as their softmax (Gumbel 1954); a score of
    −inf is never drawn. Inverting the cumulated probabilities needs one random number a row instead
    of one a token, but there every earlier token's rounding moves the outcome: with SmolLM2 (49,152
    tokens, float32) about 2 draws in 1,000 changed with the batch.
    """

    def __init__(
        self, decoding: DecodingConfig, streams: Sequence[np.random.Generator | torch.Generator]
    ):
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self.streams = streams
        self.warpers = [
            *([TemperatureLogitsWarper(decoding.temperature)] if decoding.temperature != 1 else []),
            *([TopKLogitsWarper(decoding.top_k)] if decoding.top_k else []),
            *([TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []),
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        noise = torch.empty_like(scores)
        for row, stream in zip(noise, self.streams, strict=True):
            if isinstance(stream, torch.Generator):
                row.exponential_(generator=stream)
            else:
                # in float64: float32's steps near 0 are too wide
                row.numpy()[:] = stream.standard_exponential(len(row))
        # −log of a standard exponential is a Gumbel variable; an exponential that rounds to 0 must
        # not make it infinite
        return scores - noise.clamp_(min=1e-30).log_()


# Rows → what is done to their logits at each step, as transformers' logits processors do it.
Processing = Callable[[Sequence[int]], Callable[[Tensor, Tensor], Tensor]]


def _penalties(setup: Any, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The penalties on repetition of rows padded on the left (mask [n, S] 0), where transformers
    5.15 counts the padding, so that a text depended on the longest prompt beside it."""
    from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    penalty, size = setup.repetition_penalty or 1.0, setup.no_repeat_ngram_size

    def penalised(ids: Tensor, scores: Tensor) -> Tensor:
        padded = nn.functional.pad(mask == 0, (0, ids.shape[1] - mask.shape[1]))
        seen = ids.where(~padded, ids[:, -1:])  # a token of the row, which counts anyway
        scores = RepetitionPenaltyLogitsProcessor(penalty)(seen, scores) if penalty != 1 else scores
        seen = ids.masked_fill(padded, -1)  # no token
        return NoRepeatNGramLogitsProcessor(size)(seen, scores) if size else scores

    return penalised


@dataclass
class _Unfinished:
    """Rows that `generate` goes on with: [n] of each."""

    rows: list[int]  # their places among the prompts
    ids: Tensor  # what has been read and written, padded
    mask: Tensor  # 1 where a prompt is, of the encoder's input or of the first columns of ids
    cache: Any
    encoded: Tensor | None  # the encoder's last states

    def keep(self, which: Tensor) -> None:
        """Only these of the rows."""
        self.rows = [self.rows[i] for i in which.tolist()]
        if self.rows:
            self.cache.reorder_cache(which)
            self.ids, self.mask = self.ids[which], self.mask[which]
            self.encoded = None if self.encoded is None else self.encoded[which]

    def inputs(self, width: int) -> dict[str, Any]:
        """What `generate` takes. width: of ids before anything was written."""
        from transformers.modeling_outputs import BaseModelOutput

        if self.encoded is None:
            written = torch.ones_like(self.ids[:, width:])
            return {
                "input_ids": self.ids,
                "attention_mask": torch.cat([self.mask, written], 1),
            }
        return {
            "encoder_outputs": BaseModelOutput(self.encoded),
            "attention_mask": self.mask,
            "decoder_input_ids": self.ids,
            "decoder_attention_mask": torch.ones_like(self.ids),
        }


def _read(core: nn.Module, prompts: Sequence[tuple[int, ...]], setup: Any) -> _Unfinished:
    """All prompts, each distinct one read once, nothing written yet."""
    seq2seq, everything = core.config.is_encoder_decoder, list(range(len(prompts)))
    place = {ids: i for i, ids in enumerate(dict.fromkeys(prompts))}
    which = torch.tensor([place[ids] for ids in prompts], device=core.device)
    distinct = [torch.tensor(ids) for ids in place]
    side = "right" if seq2seq else "left"
    padded = pad_sequence(
        distinct, batch_first=True, padding_value=setup.pad_token_id, padding_side=side
    ).to(core.device)
    mask = pad_sequence(
        [torch.ones_like(ids) for ids in distinct], batch_first=True, padding_side=side
    ).to(core.device)
    if seq2seq:
        encoded = core.get_encoder()(input_ids=padded, attention_mask=mask).last_hidden_state
        start = torch.full((len(prompts), 1), setup.decoder_start_token_id, device=core.device)
        return _Unfinished(everything, start, mask[which], None, encoded[which])
    cache = None
    # all but the last token, whose logits start the completions
    if len(place) < len(prompts) and padded.shape[1] > 1:
        cache = core.generate(
            input_ids=padded[:, :-1],
            attention_mask=mask[:, :-1],
            generation_config=_for_steps(setup, 1),
        ).past_key_values
        cache.reorder_cache(which)
    return _Unfinished(everything, padded[which], mask[which], cache, None)


def _complete(
    core: nn.Module, prompts: Sequence[tuple[int, ...]], setup: Any, processing: Processing | None
) -> list[Tensor]:
    """The new token ids of each row, up to and with its end token (or more: padding).

    Equal prompts are read once. `generate` runs until half of its rows have ended; the others go on
    from their cache without them, as often as needed.
    """
    left = _read(core, prompts, setup)
    width, limit = left.ids.shape[1], setup.max_new_tokens
    stops = torch.tensor(setup.eos_token_id, device=core.device)
    asked, setup = setup, copy(setup)
    if left.encoded is None:
        setup.repetition_penalty = setup.no_repeat_ngram_size = None  # `_penalties` instead

    def ended(ids: Tensor) -> Tensor:
        return torch.isin(ids[:, width:], stops).any(1)

    def half_ended(ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return ended(ids).float().mean().ge(0.5).expand(len(ids))

    completions: list[Any] = [None] * len(prompts)
    while left.rows:
        processors = [] if left.encoded is not None else [_penalties(asked, left.mask)]
        out = core.generate(
            **left.inputs(width),
            past_key_values=left.cache,
            generation_config=_for_steps(setup, limit - (left.ids.shape[1] - width)),
            logits_processor=processors + ([processing(left.rows)] if processing else []),
            stopping_criteria=[half_ended],
        )
        left.ids, left.cache = out.sequences, out.past_key_values
        done = ended(left.ids) | (left.ids.shape[1] - width >= limit)
        for place, ids, finished in zip(left.rows, left.ids, done.tolist(), strict=True):
            if finished:
                completions[place] = ids[width:]
        left.keep((~done).nonzero().flatten())
    return completions


def _complete_apart(
    core: nn.Module, prompts: Sequence[tuple[int, ...]], setup: Any, processing: Processing | None
) -> list[Tensor]:
    """`_complete` for any model: prompts of one length at a time, so without padding, and nothing
    shared."""
    new: list[Any] = [None] * len(prompts)
    for length in dict.fromkeys(map(len, prompts)):
        rows = [i for i, ids in enumerate(prompts) if len(ids) == length]
        ids = torch.tensor([prompts[i] for i in rows], device=core.device)
        out = core.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=setup,
            logits_processor=[processing(rows)] if processing else [],
        ).sequences
        for i, row in zip(
            rows, out[:, 1 if core.config.is_encoder_decoder else length :], strict=True
        ):
            new[i] = row
    return new


def _complete_alone(
    core: nn.Module, prompts: Sequence[tuple[int, ...]], setup: Any, processing: Processing | None
) -> list[Tensor]:
    """`_complete` one row at a time."""
    return [
        _complete_apart(core, [ids], setup, processing and (lambda _, i=i: processing([i])))[0]
        for i, ids in enumerate(prompts)
    ]


# Ways to complete prompts, the fastest first, and how a slower one works.
WAYS = {
    _complete: "",
    _complete_apart: "for prompts of one length at a time",
    _complete_alone: "for one prompt at a time",
}
_WAYS: WeakKeyDictionary = WeakKeyDictionary()  # of models that were tried


def way_of(core: nn.Module) -> Callable[..., list[Tensor]]:
    """The fastest of WAYS that says of this model what its own forward pass does: tried once a
    model on a few prompts.

    A slower one is told; ValueError names a model that none fits.
    """
    if core not in _WAYS:
        reasons = []
        for way in WAYS:
            reasons.append(_greedy_difference(core, way))
            if not reasons[-1]:
                break
        else:
            raise ValueError(
                f"{type(core).__name__}: its completions are not those of its own "
                f"forward pass ({reasons[-1]}); use another "
                "architecture"
            )
        _WAYS[core], slower = way, WAYS[way]
        if slower:
            warnings.warn(
                f"{type(core).__name__} generates {slower}, slower but to the same "
                f"texts: {reasons[-2]}"
            )
    return _WAYS[core]


def _greedy_difference(core: nn.Module, complete: Callable[..., list[Tensor]]) -> str:
    """What is wrong with greedy completions of two equal prompts and a shorter one, "" where
    nothing is: the logits of every step are compared, as a token hides what changes them by less
    than its lead."""
    from transformers import GenerationConfig

    with probing(core):
        ids, mask, group, _ = probe(core, 7)
        prompts = [tuple(ids[i, : int(mask[i].sum())].tolist()) for i in group.tolist()]
        read: list[list[Tensor]] = [[] for _ in prompts]  # the logits of each row's steps

        def plain(rows: list[list[int]]) -> Tensor:
            labels = [torch.tensor(row, device=core.device) for row in rows]
            return plain_logits(
                core, ids, mask, group, pad_sequence(labels, batch_first=True, padding_value=IGNORE)
            )

        def reading(rows: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
            def read_step(_: Tensor, scores: Tensor) -> Tensor:
                for i, logits in zip(rows, scores, strict=True):
                    read[i].append(logits)
                return scores

            return read_step

        first = int(plain([[0]] * 3)[0].argmax())
        # the equal prompts end after two tokens, the other goes on alone
        ends = int(plain([[first, 0]] * 3)[1].argmax())
        setup = GenerationConfig(
            do_sample=False,
            return_dict_in_generate=True,
            max_new_tokens=4,
            eos_token_id=[ends],
            pad_token_id=0,
            decoder_start_token_id=start_token(core) if core.config.is_encoder_decoder else None,
        )
        try:
            rows = [row.tolist() for row in complete(core, prompts, setup, reading)]
        except MACHINE:
            raise
        except CANNOT as error:
            return f"its cache cannot be handed on ({told(error)})"
        rows = [row[: row.index(ends) + 1] if ends in row else row for row in rows]
        if any(len(steps) < len(row) for row, steps in zip(rows, read, strict=True)):
            return "its generate passes its logits by"  # and so by what samples them
        ours = torch.stack(
            [step for row, steps in zip(rows, read, strict=True) for step in steps[: len(row)]]
        )
        theirs = plain(rows)
        if near(ours, theirs) or theirs.isnan().any():  # broken weights show where rows are scored
            return ""
        return "its logits, step by step, are not those of each row alone"


def _for_steps(setup: Any, steps: int) -> Any:
    """The set-up with `steps` new tokens at most, where these are fewer after the first ones."""
    begun, setup = steps < setup.max_new_tokens, copy(setup)
    setup.max_new_tokens = steps
    if begun:
        setup.begin_suppress_tokens = None
    return setup
