"""Paper B's trainings: offline on tuples of scored responses, online on samples of the policy
itself, and iterations of both.

    groups = groups_of(respond(...), tuples(...), objective)  # offline; online: a Sampler(...)
    trainer = make_alignment_trainer(model, reader, objective, schedule, groups=groups,
                                     probe=Probe(...), ...)
    outcome = align(trainer)  # trainer.model: the best checkpoint by validation reward

Every policy is looked at by the same `Probe`: sampled completions of fixed prompts, scored, with
their log-probabilities.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from rpo_nb import checks
from rpo_nb.config.keys import hash_seed
from rpo_nb.config.objective import Objective
from rpo_nb.config.studies import Schedule
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.losses import PolicyWithValue
from rpo_nb.training.samples import Probe, Reader, Responses, Score, measures, respond
from rpo_nb.training.steps import Step
from rpo_nb.training.trainer import PolicyTrainer, policy_arguments


def groups_of(
    data: Responses,
    rows: np.ndarray,
    objective: Objective,
    *,
    reader: Reader | None = None,
    reference: nn.Module | None = None,
) -> list[dict]:
    """Tuples of rows [m, k], the preferred one first, as items of `batches.prompt_groups`;
    desirable: the first of each.

    KTO's mismatched pairs are read by the reference here, once.
    """
    flat, k = rows.reshape(-1), rows.shape[1]
    prompts = np.repeat(np.arange(len(rows)), k)
    ref = data.ref_logps if objective.reduce == "sum" else data.ref_logps / data.tokens
    encoded, more = [data.encoded[i] for i in flat], {}
    if data.weights is not None:
        more["weights"] = data.weights[flat]
    if objective.method == "kto" and objective.kto_kl == "mismatched":
        partner, real = mismatched_rows(prompts)
        others = [encoded[j][1] for j in partner]
        theirs, tokens = reader.logps(
            reference,
            None,
            [(prompt, other) for (prompt, _), other in zip(encoded, others, strict=True)],
        )
        more |= {
            "mismatched": others,
            "mismatched_ref_logps": (
                theirs if objective.reduce == "sum" else theirs / tokens
            ).tolist(),
            "mismatched_real": real,
        }
    return prompt_groups(
        encoded,
        prompts.tolist(),
        rewards=data.rewards[flat],
        ref_logps=ref[flat],
        desirable=np.tile(np.arange(k) == 0, len(rows)),
        **more,
    )


class Standardised:
    """A score in standard deviations from the mean of some responses, so that one η fits any
    judge's scale."""

    def __init__(self, score: Score, mean: float, std: float):
        self.score, self.mean, self.std = score, mean, std

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return (np.asarray(self.score(prompts, completions), float) - self.mean) / self.std


@dataclass
class Sampler:
    """The online step's data: k responses of the policy to each prompt of the step, scored, as
    items of `batches.prompt_groups`."""

    prompts: list[str]
    score: Score
    reader: Reader
    reference: nn.Module | None  # None: the policy with its adapter off
    k: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, model: nn.Module, index: Sequence[int], step: int, objective: Objective
    ) -> list[dict]:
        data = respond(
            model,
            self.reference,
            [self.prompts[i] for i in index],
            self.k,
            self.score,
            self.reader,
            hash_seed(self.seed, step),
            clock=self.seconds,
        )
        return groups_of(data, np.arange(len(data.rewards)).reshape(-1, self.k), objective)


# ---- training ------------------------------------------------------------------------------------


class StepClock(TrainerCallback):
    """Seconds of all optimiser steps, from the batch to the updated weights; evaluations are not in
    them."""

    def __init__(self):
        self.seconds = self.started = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self.started


class AlignmentTrainer(PolicyTrainer):
    """PolicyTrainer whose evaluation samples the policy, and whose batches it may sample itself
    (online)."""

    def __init__(
        self, *, probe: Probe, watched: str, floor: float, sampler: Sampler | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        self.probe, self.watched, self.floor, self.sampler = probe, watched, floor, sampler
        self.reason = ""  # why it stopped before its last step
        self.curve: list[dict[str, float]] = []  # one row an evaluation
        self.clock = StepClock()
        self.add_callback(self.clock)

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.sampler is not None:
            net = self.accelerator.unwrap_model(model).policy
            inputs = Step(
                self.sampler(
                    net,
                    [item["index"] for item in inputs.items],
                    self.state.global_step,
                    self.objective,
                )
            )
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """The probe's measures of the policy as it is; stops a training whose reward has
        collapsed."""
        completions = self.probe.completions(self.accelerator.unwrap_model(self.model).policy)
        found = measures(completions, list(self.probe.scores))
        self.curve.append({"step": self.state.global_step, **found})
        if self.state.global_step and found[self.watched] < self.floor:
            self.reason = (
                f"step {self.state.global_step}: the validation {self.watched} is "
                f"{found[self.watched]:.3g}, below {self.floor:.3g}; "
                "lower the learning rate or raise beta"
            )
            self.control.should_training_stop = True
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def make_alignment_trainer(
    model: nn.Module,
    reader: Reader,
    objective: Objective,
    schedule: Schedule,
    *,
    probe: Probe,
    watched: str,
    floor: float = -math.inf,
    output_dir: str | Path,
    seed: int,
    groups: list[dict] | None = None,
    sampler: Sampler | None = None,
    micro_batch_tokens: int = 16384,
    report_to: Sequence[str] = (),
) -> AlignmentTrainer:
    """A trainer on tuples (groups) or on the policy's own samples (sampler). AdamW at a constant
    rate, gradients clipped at 1.

    Every schedule.evaluate_every steps the probe looks at the policy and a checkpoint is kept if
    its `watched` score is the best so far; the best one is what remains after training. floor:
    below it the training stops. Raises ValueError without data.
    """
    items = groups if sampler is None else [{"index": i} for i in range(len(sampler.prompts))]
    if not items:
        raise ValueError(
            "there is no tuple to train on; give feedback with two or more "
            "differently scored completions a prompt"
        )
    every = min(schedule.evaluate_every, schedule.steps)
    arguments = policy_arguments(
        output_dir,
        seed=seed,
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.prompts_a_step,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        weight_decay=0.0,
        bf16=reader.bf16,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model=watched,
        greater_is_better=True,
        logging_steps=every,
        report_to=list(report_to),
    )
    return AlignmentTrainer(
        model=PolicyWithValue(model, objective),
        args=arguments,
        train_dataset=items,
        eval_dataset=probe.prompts,
        objective=objective,
        pad_id=reader.tokenizer.pad_token_id,
        micro_batch_tokens=micro_batch_tokens,
        probe=probe,
        watched=watched,
        floor=floor,
        sampler=sampler,
    )


def align(trainer: AlignmentTrainer) -> dict[str, Any]:
    """Train, and leave the best checkpoint by validation reward in trainer.model. A training that
    diverges (a value that is not finite, or a collapsed reward) ends early; the reason is told.
    Returns steps, best_step, best, reason, seconds by part.

    Raises the error itself when it diverges before the first checkpoint.
    """
    if trainer.sampler:
        trainer.sampler.seconds.clear()  # samples drawn before are no part of its steps
    try:
        trainer.train()
    except checks.NotFinite as error:
        if not trainer.state.best_model_checkpoint:
            raise
        trainer.reason = f"step {trainer.state.global_step}: {error}"
        trainer._load_best_model()
    best = trainer.state.best_model_checkpoint or ""
    before = trainer.sampler.seconds if trainer.sampler else {}
    seconds = {"training": trainer.clock.seconds - sum(before.values()), **before}
    return {
        "steps": trainer.state.global_step,
        "best_step": int(best.rpartition("-")[2] or 0),
        "best": trainer.state.best_metric,
        "reason": trainer.reason,
        "seconds": seconds,
    }
