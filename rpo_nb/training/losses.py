"""One function an objective: what the model gave and what the batch holds in, one loss a row
out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rpo_nb import objectives
from rpo_nb.config.objective import Objective
from rpo_nb.policy.forward import causal_states, states_width
from rpo_nb.policy.logps import grouped_logps
from rpo_nb.training import reward_aware

VALUE_WIDTH = 512  # paper A's value network: hidden → 512 → tanh → 1


class PolicyWithValue(nn.Module):
    """A policy, and for DRO its value network, behind one forward: batch in, log-probabilities and
    values out.

    One module, so that data-parallel wrappers see every parameter.
    """

    def __init__(self, policy: nn.Module, objective: Objective):
        super().__init__()
        self.policy, self.objective = policy, objective
        self.config = policy.config
        width = states_width(policy)
        self.value = (
            nn.Sequential(nn.Linear(width, VALUE_WIDTH), nn.Tanh(), nn.Linear(VALUE_WIDTH, 1))
            if objective.method == "dro"
            else None
        )

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        padded = self.value is not None and self.objective.value_pooling == "all"
        scored = grouped_logps(
            self.policy, batch, reduce=self.objective.reduce, exact_padding=padded
        )
        # whole rows have no padding between prompt and completion
        if padded and not self.config.is_encoder_decoder:
            scored = replace(
                scored,
                states=causal_states(self.policy, batch["input_ids"], batch["attention_mask"]),
            )
        out = {"logps": scored.logps}
        if scored.mismatched is not None:
            out["mismatched_logps"] = scored.mismatched
        if self.value is not None:
            out["values"] = (
                self.value(self.pool(scored.states, batch["attention_mask"]))
                .squeeze(-1)
                .float()[batch["group"]]
            )
        return out

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Mean of the prompts' states [U, S, d] → [U, d]; the value may see the prompt, never a
        completion. "all": over all S places, as many for every batch (`make_trainer`)."""
        states = states.detach() if self.objective.value_detach else states
        if self.objective.value_pooling == "all":
            return states.mean(1)
        mask = mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


# Losses of a batch: (objective, forward's output, batch, z0) -> [n] -------------------------------


def _sft(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.sft(out["logps"])


def _rpo(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.rpo(
        out["logps"],
        batch["ref_logps"],
        batch["rewards"],
        batch["log_partition"],
        tau=objective.tau,
    )


def _dro(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.dro(
        out["logps"], batch["ref_logps"], batch["rewards"], out["values"], tau=objective.tau
    )


def _kto(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.kto(
        out["logps"], batch["ref_logps"], batch["desirable"], kl, beta=objective.beta
    )


def _qrpo(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.qrpo(
        out["logps"],
        batch["ref_logps"],
        batch["rewards"],
        batch["ref_rewards"],
        beta=objective.beta,
    )


def _reward_aware(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return reward_aware.tuple_losses(
        out["logps"], batch["ref_logps"], batch["rewards"], batch["group"], objective.setting
    )


LOSSES = {
    "sft": _sft,
    "rpo": _rpo,
    "dro": _dro,
    "kto": _kto,
    "qrpo": _qrpo,
    "reward_aware": _reward_aware,
}
