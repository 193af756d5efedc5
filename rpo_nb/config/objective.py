"""What a policy is trained on: a preset's reading of the paper, one objective, one setting of paper
B."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from rpo_nb.config.base import Config
from rpo_nb.config.methods import ROWS

PRESETS = ("paper", "released", "fixed")
# Names of what lies in modules that import torch: settings are checked without it.
# partition
ESTIMATORS = ("empirical", "monte_carlo", "self_normalised", "leave_one_out", "none", "pooled")


class Preset(Config):
    """A reading of the paper's open points. Every field is a difference between paper, code and
    recommendation."""

    reduce: Literal["sum", "mean"]  # log-probability of a completion: over or per token
    partition: str  # estimator of partition.log_partition
    rpo_tau: float = Field(gt=0)  # outside Table IV
    dro_tau: float = Field(gt=0)
    kto_beta: float = Field(gt=0)
    qrpo_beta: float = Field(0.3, gt=0)  # not the paper's method: every reading has the same
    # rotated pairs clamped at 0, or the batch mean of the log-ratio, unclamped
    kto_kl: Literal["mismatched", "matched"]
    value_pooling: Literal["masked", "all"]  # DRO's value net: real prompt tokens, or padding too
    value_detach: bool  # keep the value gradient out of the encoder
    dropout: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(ge=0)  # 0: no clipping
    weight_decay: float = Field(ge=0)
    # one set-up for all methods, or the authors' (KTO greedy, the others top-k)
    decoding: Literal["shared", "released"]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Setting:
    """One member of paper B's framework: D[a ‖ b] with a = β·(log πθ − log πref) and b = η·r."""

    distance: Literal["sq", "sqloo", "bwd", "fwd"]
    beta: float = 0.1
    eta: float = 1.0
    # δ*: b of the preferred completion over the others', whatever the rewards; 1000 is ∞
    gap: float | None = None
    gamma: float = 0.0  # margin: taken off the preferred completion's implicit reward
    per_token: bool = False  # log-probabilities are per token and there is no reference (SimPO)


class Objective(Config):
    """What a policy is trained on, with everything about it that a preset may choose."""

    # own: a user's loss, which only `training.own` knows
    method: Literal["sft", "kto", "dro", "rpo", "qrpo", "reward_aware", "own"]
    # log-probability of a completion: over its tokens or per token
    reduce: Literal["sum", "mean"] = "sum"
    tau: float = Field(1.0, gt=0)  # RPO and DRO
    beta: float = Field(1.0, gt=0)  # KTO and QRPO
    kto_kl: Literal["mismatched", "matched"] = "mismatched"
    value_pooling: Literal["masked", "all"] = "masked"  # DRO's value network
    value_detach: bool = False
    setting: Setting | None = None  # reward_aware

    def read_fields(self) -> dict[str, Any]:
        """The fields its method reads: what a run is keyed by."""
        if self.method == "reward_aware":
            return self.model_dump(include={"method", "reduce", "setting"})
        row = ROWS[self.method]
        temperature = {"τ": {"tau"}, "β": {"beta"}, "": set()}[row.symbol]
        own = set(row.reads) & set(type(self).model_fields)
        return self.model_dump(include={"method", "reduce"} | temperature | own)
