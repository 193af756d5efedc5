"""The methods, one row each: all that is to be known of one outside its loss (`objectives`).

A new method is a loss in `objectives`, its line in `training.losses`, a row here, and the field of
a preset that holds its temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rpo_nb.config.objective import Preset

STEPS = ("dropout", "max_grad_norm", "weight_decay")  # fields of a preset: how a step is made


@dataclass(frozen=True)
class Method:
    """title, colour: in tables and figures. objective: what its policies are trained on, a key of
    `losses.LOSSES`; None where nothing is trained. temperature: the field of a preset that holds
    it, printed as `symbol`; None where there is none. reads: the other fields of a preset that
    change its policies. needs: what is computed for its rows before it is trained. best_only: it is
    trained on the best completion of each prompt. swept: Table IV trains it at other temperatures
    as well. presets: the paper has it and leaves it
    open, so that each preset is a reading of it. released_greedy: the authors' code decodes it
    greedily."""

    title: str
    colour: str
    objective: str | None = None
    temperature: str | None = None
    symbol: Literal["", "τ", "β"] = ""
    reads: tuple[str, ...] = ()
    needs: tuple[Literal["mismatched", "reference_rewards"], ...] = ()
    best_only: bool = False
    swept: bool = False
    presets: bool = False
    released_greedy: bool = False


# the paper's authors' published checkpoint: evaluated (evaluation.authors), never trained
AUTHORS = "rpo_authors"
ROWS = {
    "reference": Method("reference", "#6b6b6b"),
    "sft": Method("SFT", "#56B4E9", "sft"),
    "best_of_k": Method("best-of-K SFT", "#CC79A7", "sft", best_only=True),
    "kto": Method(
        "KTO",
        "#E69F00",
        "kto",
        "kto_beta",
        "β",
        reads=("reduce", "kto_kl", *STEPS),
        needs=("mismatched",),
        presets=True,
        released_greedy=True,
    ),
    "dro": Method(
        "DRO",
        "#009E73",
        "dro",
        "dro_tau",
        "τ",
        reads=("reduce", "value_pooling", "value_detach", *STEPS),
        presets=True,
    ),
    "rpo": Method(
        "RPO",
        "#D55E00",
        "rpo",
        "rpo_tau",
        "τ",
        reads=("reduce", "partition", *STEPS),
        swept=True,
        presets=True,
    ),
    "qrpo": Method(
        "QRPO",
        "#0072B2",
        "qrpo",
        "qrpo_beta",
        "β",
        reads=("reduce", *STEPS),
        needs=("reference_rewards",),
    ),
    AUTHORS: Method("RPO, the authors' checkpoint", "black"),
}
METHODS = tuple(ROWS)
METHOD_NAMES = {name: row.title for name, row in ROWS.items()}


def tau_of(preset: Preset, method: str) -> float | None:
    """A method's own τ under a preset; None where it has none (a slope β is no τ)."""
    row = ROWS[method]
    return getattr(preset, row.temperature) if row.symbol == "τ" else None
