"""Settings of `feedback_trainer`: TrainingArguments, and what a method on scalar feedback needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from rpo_nb import checks
from rpo_nb.config.methods import ROWS
from rpo_nb.config.objective import ESTIMATORS, Objective

METHODS = ("rpo", "dro", "kto", "sft", "best_of_k")


@dataclass
class FeedbackConfig(TrainingArguments):
    """TrainingArguments, and what a method on scalar feedback needs.

    An item of the data is a prompt with all its completions, so per_device_train_batch_size counts
    prompts; micro_batch_tokens bounds the memory of a step, gradient_accumulation_steps stays 1.
    What Trainer would ignore here, or get wrong, is refused: fp16, label_smoothing_factor, NEFTune,
    group_by_length, and hub strategies that push checkpoints.
    """

    method: str = field(default="rpo", metadata={"help": f"One of {', '.join(METHODS)}."})
    tau: float = field(default=1.0, metadata={"help": "RPO and DRO: reward per nat of log-ratio."})
    beta: float = field(default=1.0, metadata={"help": "KTO's β."})
    estimator: str = field(
        default="empirical",
        metadata={
            "help": f"RPO: of log Ẑ, one of {', '.join(ESTIMATORS)}; empirical is eq. 19, "
            "none takes V̂ = 0."
        },
    )
    reduce: str = field(
        default="sum", metadata={"help": "Log-probability of a completion: sum, or mean a token."}
    )
    standardise: bool = field(
        default=True, metadata={"help": "Rewards in standard deviations from their mean."}
    )
    max_prompt_tokens: int = field(default=512, metadata={"help": "Longer prompts are cut."})
    max_completion_tokens: int = field(default=512, metadata={"help": "Longer ones are cut."})
    micro_batch_tokens: int = field(
        default=16384, metadata={"help": "Tokens of a pass; a step is passed in several."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "With it a log-ratio is exactly 0 before the first step."}
    )
    remove_unused_columns: bool = field(default=False)
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    ddp_broadcast_buffers: bool | None = field(default=False)

    def objective(self) -> Objective:
        """What is trained. Raises ValueError naming a field that is out of its range, or that
        would be ignored."""
        checks.known("method", self.method, METHODS)
        checks.known("reduce", self.reduce, ("sum", "mean"))
        checks.known("estimator", self.estimator, ESTIMATORS)
        for name in ("tau", "beta", "micro_batch_tokens"):
            checks.number(name, getattr(self, name), above=0.0)
        for name in ("max_prompt_tokens", "max_completion_tokens"):
            checks.number(name, getattr(self, name), above=1.0)  # one is the end token
        self._refuse_what_is_ignored()
        method = ROWS[self.method].objective
        return Objective(method=method, reduce=self.reduce, tau=self.tau, beta=self.beta)

    def _refuse_what_is_ignored(self) -> None:
        by_length = "group_by_length" in (
            getattr(self, "train_sampling_strategy", ""),  # its name since transformers 5
            "group_by_length" if getattr(self, "group_by_length", False) else "",
        )
        pushed = getattr(self, "hub_strategy", None)
        for refused, sentence in (
            (
                self.fp16,
                "fp16 overflows in T5's feed-forward layers and gives NaN; set bf16, or neither",
            ),
            (
                self.label_smoothing_factor,
                "label_smoothing_factor has no meaning for a log-probability of the completion as "
                "it is; leave it at 0",
            ),
            (
                self.neftune_noise_alpha,
                "neftune_noise_alpha adds noise to what the policy reads and not to what the "
                "reference read, and of T5 to nothing; leave it out",
            ),
            (
                by_length,
                "grouping by length is done inside a step (micro_batch_tokens); leave the order "
                "of prompts random",
            ),
            (
                pushed in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS),
                "hub_strategy pushes checkpoints, which only this trainer can read; use every_save "
                "or end",
            ),
        ):
            if refused:
                raise ValueError(sentence)


@dataclass
class RPOConfig(FeedbackConfig):
    """Of paper A's RPO, its eq. 19 by default. Tuned alike (results/pocket-deep, lab_tuned_duels)
    that did better than V̂ = 0 (estimator "none") on data of other writers, and worse on the
    reference's own texts and on those of better, not much better, writers whose words it had hardly
    seen."""


@dataclass
class DROConfig(FeedbackConfig):
    """FeedbackConfig of DRO, with its value network."""

    method: str = "dro"


@dataclass
class KTOConfig(FeedbackConfig):
    """FeedbackConfig of KTO."""

    method: str = "kto"


@dataclass
class SFTConfig(FeedbackConfig):
    """FeedbackConfig of SFT on all completions; method "best_of_k" on each prompt's best."""

    method: str = "sft"
