"""How a model's last states become logits: its head, what scales, caps or biases it, and the test
that says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from rpo_nb.policy.forward import (
    CANNOT,
    IGNORE,
    LONGEST_PROBE,
    MACHINE,
    core_of,
    largest,
    narrowest_window,
    near,
    plain_logits,
    probe,
    probing,
    refuse_what_padding_changes,
    text_config,
    told,
    whole_states,
)

GROWN = 100.0  # the largest logit where a cap is looked for


# ---- the projection --------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """The projection to the vocabulary: states [..., d] → logits [..., V].

    factor: what the states are multiplied with first (T5 1.0, Cohere, Granite). cap: logits are
    cap·tanh(logits / cap) (Gemma 2). bias [1, V]: added last (BART).
    """

    module: nn.Module
    factor: float = 1.0
    cap: float | None = None
    bias: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        return self.module.weight

    def __call__(self, states: Tensor) -> Tensor:
        logits = self.module(states * self.factor if self.factor != 1 else states)
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits if self.bias is None else logits + self.bias


_FACTORS: WeakKeyDictionary = WeakKeyDictionary()  # the factor of models that were tried


def head_of(model: nn.Module) -> Head:
    """A model's projection to the vocabulary, with its scale, cap and bias.

    Tried once a model, before its first log-probability: ValueError names an architecture whose
    logits are others than those of its whole rows here.
    """
    core = core_of(model)
    head = _configured(core)
    if core not in _FACTORS:
        _FACTORS[core] = _fitting(core, head)
    return replace(head, factor=_FACTORS[core])


def _configured(core: nn.Module) -> Head:
    config, module = text_config(core), core.get_output_embeddings()
    if module is None:
        raise ValueError(
            f"{type(core).__name__} has no projection to the vocabulary, so it has no "
            "log-probabilities; use another architecture"
        )
    caps = (getattr(config, name, None) for name in ("final_logit_softcapping", "logits_soft_cap"))
    return Head(
        module,
        cap=next((cap for cap in caps if cap), None),
        bias=getattr(core, "final_logits_bias", None),
    )


def _factors(core: nn.Module) -> list[float]:
    """What families multiply the last states with, where this one's configuration names it."""
    config = text_config(core)
    scales = [getattr(config, name, None) for name in ("logit_scale", "lm_head_multiplier")]
    found = [1.0, *(scale for scale in scales if scale)]
    if getattr(config, "logits_scaling", None):
        found.append(1 / config.logits_scaling)
    return [*found, config.hidden_size**-0.5] if core.config.is_encoder_decoder else found


def _fitting(core: nn.Module, head: Head) -> float:
    """The factor with which the states of padded whole rows give the logits of each row alone."""
    refuse_what_padding_changes(core)
    refused = (
        f"{type(core).__name__}: its log-probabilities here would not be those of its own "
        "forward pass"
    )
    try:
        with probing(core):
            longest = min(narrowest_window(core) or 2, LONGEST_PROBE) + 3
            ids, mask, group, labels = probe(core, longest)
            states, real = whole_states(core, ids, mask, group, labels), labels != IGNORE
            theirs = plain_logits(core, ids, mask, group, labels)
            fits = [
                factor
                for factor in _factors(core)
                if near(replace(head, factor=factor)(states[real]), theirs)
            ]
            # A cap hides behind small logits and shows when they have grown.
            grown = GROWN / max(1e-3, largest(theirs))
            with _multiplied(head.module, grown):  # and rounding grows as they do, under a cap too
                theirs = plain_logits(core, ids, mask, group, labels)
                fits = [
                    factor
                    for factor in fits
                    if near(replace(head, factor=factor)(states[real]), theirs, GROWN)
                ]
    except MACHINE:
        raise
    except CANNOT as error:
        raise ValueError(f"{refused} ({told(error)}); use another architecture") from error
    if not fits:
        raise ValueError(
            f"{refused}: it does more than scale, cap or shift its logits, or its "
            "rows depend on their padding; use another architecture"
        )
    if len(set(fits)) > 1 and bool(theirs.isfinite().all()):
        raise ValueError(
            f"{refused}: all its logits are equal, so that their scale cannot be "
            "told; check the weights of its projection to the vocabulary"
        )
    return fits[0]


@contextmanager
def _multiplied(module: nn.Module, factor: float) -> Iterator[None]:
    """What a module reads is multiplied meanwhile."""
    hook = module.register_forward_pre_hook(lambda _, read: (read[0] * factor, *read[1:]))
    try:
        yield
    finally:
        hook.remove()
