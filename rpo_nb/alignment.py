"""Paper B's trainings: offline on tuples of scored responses, online on samples of the policy itself, and iterations of both.

    groups = groups_of(respond(...), tuples(...), objective)    # offline; or online: sampler = Sampler(...)
    trainer = make_alignment_trainer(model, reader, objective, schedule, groups=groups, probe=Probe(...), ...)
    outcome = align(trainer)                                    # the best checkpoint by validation reward is in trainer.model

Every policy is looked at by the same `Probe`: sampled answers to fixed prompts, scored, with their log-probabilities.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from rpo_nb import checks, policy
from rpo_nb.config import DecodingConfig, Objective, Schedule, hash_seed
from rpo_nb.generation import Sample, samples
from rpo_nb.training import PolicyTrainer, PolicyWithValue, Step, mismatched_rows, prompt_groups

Score = Callable[[Sequence[str], Sequence[str]], np.ndarray]  # (prompts, completions) -> rewards [n], float64
SAMPLED = DecodingConfig(temperature=1.0, top_k=0, top_p=1.0)  # samples of the policy itself: what KL and entropy are means over


@dataclass
class Reader:
    """How a policy is sampled and read: what sampler, probe and data share."""

    tokenizer: Any
    max_prompt_tokens: int
    max_new_tokens: int
    batch_size: int = 256  # completions generated at once
    bf16: bool = False
    conversations: Mapping[str, policy.Prompt] = field(default_factory=dict)  # what is asked for a prompt's text, where it is more than that
    engine: str = "transformers"  # who samples: of generation.ENGINES

    def asked(self, prompts: Sequence[str]) -> list[policy.Prompt]:
        return [self.conversations.get(prompt, prompt) for prompt in prompts]

    def samples(self, model: nn.Module, prompts: Sequence[str], k: int, seed: int) -> list[Sample]:
        """k completions of each prompt, those of a prompt together. [prompts·k]"""
        decoding = SAMPLED.model_copy(update={"max_new_tokens": self.max_new_tokens})
        with policy.autocast(self.bf16):
            return samples(model, self.tokenizer, [p for p in self.asked(prompts) for _ in range(k)], decoding=decoding,
                           seed=seed, max_prompt_tokens=self.max_prompt_tokens, batch_size=self.batch_size, engine=self.engine)

    def sample(self, model: nn.Module, prompts: Sequence[str], k: int, seed: int) -> list[str]:
        """The texts of `samples`."""
        return [drawn.text for drawn in self.samples(model, prompts, k, seed)]

    def encode(self, prompts: Sequence[str], completions: Sequence[str]) -> list[tuple[list[int], list[int]]]:
        return policy.encode(self.tokenizer, self.asked(prompts), completions, max_prompt_tokens=self.max_prompt_tokens,
                             max_completion_tokens=self.max_new_tokens + 1)

    def logps(self, model: nn.Module | None, adapted: nn.Module | None, encoded: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities [n] and tokens [n] under a model; without one, under `adapted` with its adapter off."""
        with nullcontext(model) if model is not None else policy.adapter_off(adapted) as net:
            return policy.score_completions(net, self.tokenizer, encoded, bf16=self.bf16)


# ---- what a policy is worth -------------------------------------------------------------------------------------------------

@dataclass
class Probe:
    """Looks at a policy through its sampled answers to fixed prompts. Scores: name -> Score, the first is the ground truth."""

    prompts: list[str]
    scores: dict[str, Score]
    reader: Reader
    reference: nn.Module | None  # None: the policy with its adapter off
    seed: int
    baseline: list[str] = field(default_factory=list)  # the reference's answers, whom a win is over

    def answers(self, model: nn.Module) -> pd.DataFrame:
        """One row a prompt: prompt, completion, policy_logp, ref_logp, tokens, baseline, and <score> and <score>_baseline of each score."""
        drawn = self.reader.samples(model, self.prompts, 1, self.seed)
        texts, encoded = [one.text for one in drawn], [one.row for one in drawn]  # what was drawn: a cut text has no end token
        mine, tokens = self.reader.logps(model, None, encoded)
        theirs, _ = self.reader.logps(self.reference, model, encoded)
        rows = pd.DataFrame({"prompt": self.prompts, "completion": texts, "policy_logp": mine.double().numpy(),
                             "ref_logp": theirs.double().numpy(), "tokens": tokens.numpy()})
        rows["baseline"] = self.baseline or texts
        for name, score in self.scores.items():
            rows[name] = score(rows["prompt"], rows["completion"])
            rows[f"{name}_baseline"] = score(rows["prompt"], rows["baseline"])
        return rows


def measures(answers: pd.DataFrame, scores: Sequence[str]) -> dict[str, float]:
    """Of a probe's answers: mean of each score; win_rate (share of prompts where the first score is above the baseline's, ties
    half); kl = E[log πθ − log πref] over the policy's own samples with its 95 % interval; entropy = −E[log πθ], nats a text;
    tokens a text; n."""
    ratio = answers["policy_logp"] - answers["ref_logp"]
    kl, low, high = mean_interval(ratio)
    ahead = answers[scores[0]] - answers[f"{scores[0]}_baseline"]
    return {**{name: float(answers[name].mean()) for name in scores}, "win_rate": float((np.sign(ahead) + 1).mean() / 2),
            "kl": kl, "kl_low": low, "kl_high": high, "entropy": float(-answers["policy_logp"].mean()),
            "tokens": float(answers["tokens"].mean()), "n": len(answers)}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; no interval for a single value."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


# ---- data -------------------------------------------------------------------------------------------------------------------

@dataclass
class Responses:
    """Scored responses, k a prompt, those of a prompt together: what offline training reads and a reward model learns from."""

    prompt_ids: np.ndarray
    prompts: list[str]
    completions: list[str]
    rewards: np.ndarray
    encoded: list[tuple[list[int], list[int]]]
    ref_logps: np.ndarray  # sums
    tokens: np.ndarray
    weights: np.ndarray | None = None  # of the rows of a user's feedback


def respond(model: nn.Module, reference: nn.Module | None, prompts: Sequence[str], k: int, score: Score, reader: Reader, seed: int,
            clock: dict[str, float] | None = None) -> Responses:
    """Sample k responses a prompt from the model, score them, and read the reference's log-probabilities.

    reference None: the model's own with its adapter off. clock: seconds spent on "sampling" and "scoring" are added to it.
    """
    clock, started = {} if clock is None else clock, time.perf_counter()
    drawn = reader.samples(model, prompts, k, seed)
    sampled = time.perf_counter()
    repeated = [p for p in prompts for _ in range(k)]
    texts, encoded = [one.text for one in drawn], [one.row for one in drawn]
    sums, tokens = reader.logps(reference, model, encoded)
    rewards = np.asarray(score(repeated, texts), float)
    clock["sampling"] = clock.get("sampling", 0.0) + sampled - started
    clock["scoring"] = clock.get("scoring", 0.0) + time.perf_counter() - sampled
    return Responses(np.repeat(np.arange(len(prompts)), k), repeated, texts, rewards, encoded, sums.double().numpy(), tokens.numpy())


def groups_of(data: Responses, rows: np.ndarray, objective: Objective, *, reader: Reader | None = None, reference: nn.Module | None = None,
              ) -> list[dict]:
    """Tuples of rows [m, k], the preferred one first, as items of `training.prompt_groups`; desirable: the first of each.

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
        theirs, tokens = reader.logps(reference, None, [(prompt, other) for (prompt, _), other in zip(encoded, others, strict=True)])
        more |= {"mismatched": others, "mismatched_ref_logps": (theirs if objective.reduce == "sum" else theirs / tokens).tolist(),
                "mismatched_real": real}
    return prompt_groups(encoded, prompts.tolist(), rewards=data.rewards[flat], ref_logps=ref[flat],
                         desirable=np.tile(np.arange(k) == 0, len(rows)), **more)


class Standardised:
    """A score in standard deviations from the mean of some responses, so that one η fits any judge's scale."""

    def __init__(self, score: Score, mean: float, std: float):
        self.score, self.mean, self.std = score, mean, std

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return (np.asarray(self.score(prompts, completions), float) - self.mean) / self.std


@dataclass
class Sampler:
    """The online step's data: k responses of the policy to each prompt of the step, scored, as items of `training.prompt_groups`."""

    prompts: list[str]
    score: Score
    reader: Reader
    reference: nn.Module | None  # None: the policy with its adapter off
    k: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, model: nn.Module, index: Sequence[int], step: int, objective: Objective) -> list[dict]:
        data = respond(model, self.reference, [self.prompts[i] for i in index], self.k, self.score, self.reader,
                       hash_seed(self.seed, step), clock=self.seconds)
        return groups_of(data, np.arange(len(data.rewards)).reshape(-1, self.k), objective)


# ---- training ---------------------------------------------------------------------------------------------------------------

class StepClock(TrainerCallback):
    """Seconds of all optimiser steps, from the batch to the updated weights; evaluations are not in them."""

    def __init__(self):
        self.seconds = self.started = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds += time.perf_counter() - self.started


class AlignmentTrainer(PolicyTrainer):
    """PolicyTrainer whose evaluation samples the policy, and whose batches it may sample itself (online)."""

    def __init__(self, *, probe: Probe, watched: str, floor: float, sampler: Sampler | None = None, **kwargs):
        super().__init__(**kwargs)
        self.probe, self.watched, self.floor, self.sampler = probe, watched, floor, sampler
        self.reason = ""  # why it stopped before its last step
        self.curve: list[dict[str, float]] = []  # one row an evaluation
        self.clock = StepClock()
        self.add_callback(self.clock)

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.sampler is not None:
            net = self.accelerator.unwrap_model(model).policy
            inputs = Step(self.sampler(net, [item["index"] for item in inputs.items], self.state.global_step, self.objective))
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """The probe's measures of the policy as it is; stops a training whose reward has collapsed."""
        answers = self.probe.answers(self.accelerator.unwrap_model(self.model).policy)
        found = measures(answers, list(self.probe.scores))
        self.curve.append({"step": self.state.global_step, **found})
        if self.state.global_step and found[self.watched] < self.floor:
            self.reason = (f"step {self.state.global_step}: the validation {self.watched} is {found[self.watched]:.3g}, below {self.floor:.3g}; "
                           "lower the learning rate or raise beta")
            self.control.should_training_stop = True
        metrics = {f"eval_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def make_alignment_trainer(model: nn.Module, reader: Reader, objective: Objective, schedule: Schedule, *, probe: Probe, watched: str,
                           floor: float = -math.inf, output_dir: str | Path, seed: int, groups: list[dict] | None = None,
                           sampler: Sampler | None = None, micro_batch_tokens: int = 16384, report_to: Sequence[str] = ()) -> AlignmentTrainer:
    """A trainer on tuples (groups) or on the policy's own samples (sampler). AdamW at a constant rate, gradients clipped at 1.

    Every schedule.evaluate_every steps the probe looks at the policy and a checkpoint is kept if its `watched` score is the best so
    far; the best one is what remains after training. floor: below it the training stops. Raises ValueError without data.
    """
    items = groups if sampler is None else [{"index": i} for i in range(len(sampler.prompts))]
    if not items:
        raise ValueError("there is no tuple to train on; give feedback with two or more differently scored completions a prompt")
    every = min(schedule.evaluate_every, schedule.steps)
    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(output_dir), max_steps=schedule.steps, per_device_train_batch_size=schedule.prompts_a_step,
        learning_rate=schedule.learning_rate, lr_scheduler_type="constant", max_grad_norm=1.0, weight_decay=0.0, bf16=reader.bf16,
        seed=seed, data_seed=seed, use_cpu=on_cpu, dataloader_pin_memory=False, eval_strategy="steps", eval_steps=every,
        save_strategy="steps", save_steps=every, save_total_limit=1, save_only_model=True, load_best_model_at_end=True,
        metric_for_best_model=watched, greater_is_better=True, logging_steps=every, report_to=list(report_to), disable_tqdm=True,
        remove_unused_columns=False, label_names=["labels"], ddp_broadcast_buffers=False)
    trainer = AlignmentTrainer(
        model=PolicyWithValue(model, objective), args=arguments, train_dataset=items, eval_dataset=probe.prompts, objective=objective,
        pad_id=reader.tokenizer.pad_token_id, micro_batch_tokens=micro_batch_tokens, probe=probe, watched=watched, floor=floor, sampler=sampler)
    trainer.remove_callback(PrinterCallback)
    return trainer


def align(trainer: AlignmentTrainer) -> dict[str, Any]:
    """Train, and leave the best checkpoint by validation reward in trainer.model. A training that diverges (a value that is not
    finite, or a collapsed reward) ends early; the reason is told. Returns steps, best_step, best, reason, seconds by part.

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
    return {"steps": trainer.state.global_step, "best_step": int(best.rpartition("-")[2] or 0), "best": trainer.state.best_metric,
            "reason": trainer.reason, "seconds": seconds}
