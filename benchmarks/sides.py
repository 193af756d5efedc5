"""Trainers of a case: ours, transformers' and TRL's, and the clock of their steps.

Every trainer of a case gets the same rows, weights and schedule. A step's seconds run from the end
of a step to the end of the next: data loading, collation, passes, clipping, optimiser and logging,
as a user waits for them.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback

from benchmarks.workloads import END, Case, tokenizer
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.partition import log_partition
from rpo_nb.policy import forward
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.trainer import make_trainer

LEARNING_RATE = 1e-5


def schedule(case: Case, **more: Any) -> TrainingConfig:
    """One epoch, a step's rows in one forward pass, as on the other sides."""
    most = case.batch * max(p + max(c) for p, c in case.lengths)
    return TrainingConfig(
        epochs=1,
        batch_size=case.batch,
        micro_batch_tokens=most,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        report_to=(),
        **more,
    )


def groups_of(case: Case, method: str) -> list[dict]:
    """The case's rows as training data with what RPO, KTO and DRO read."""
    rewards, ref = torch.from_numpy(case.rewards), torch.from_numpy(case.ref_logps)
    log_z = log_partition(ref.double(), rewards, torch.tensor(case.prompt_ids), tau=1.0)
    more: dict[str, Any] = {}
    if method == "kto":
        partner, real = mismatched_rows(case.prompt_ids)
        pairs = [
            (prompt, case.encoded[i][1])
            for (prompt, _), i in zip(case.encoded, partner, strict=True)
        ]
        more = {
            "mismatched": [completion for _, completion in pairs],
            "mismatched_ref_logps": case.score(pairs),
            "mismatched_real": real,
        }
    return prompt_groups(
        case.encoded,
        case.prompt_ids,
        rewards=case.rewards,
        ref_logps=case.ref_logps,
        log_partition=log_z.numpy(),
        desirable=case.rewards >= case.rewards.mean(),
        **more,
    )


def ours(
    case: Case,
    method: str,
    folder: str | Path,
    *,
    groups: list[dict] | None = None,
    model: nn.Module | None = None,
    **more: Any,
) -> Trainer:
    """The kit's trainer for sft, rpo, dro or kto. groups: other training data than `groups_of`;
    model: trained in place of a copy of the case's; more: settings of the schedule."""
    return make_trainer(
        model or copy.deepcopy(case.model),
        tokenizer(case.config.vocab_size),
        groups or groups_of(case, method),
        Objective(method=method),
        config=schedule(case, **more),
        output_dir=folder,
        seed=0,
    )


def run_ours(case: Case, model: nn.Module) -> None:
    """Reference log-probabilities, V̂ and one epoch of RPO."""
    case.__dict__.pop("ref_logps", None)  # the pass is part of the run
    case.__dict__["model"] = model
    with tempfile.TemporaryDirectory() as folder:
        ours(case, "rpo", folder).train()


def _arguments(kind: type, case: Case, folder: str | Path, **more: Any) -> Any:
    """What our trainer sets, for another trainer."""
    on_cpu = not torch.cuda.is_available()
    return kind(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=case.batch,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        weight_decay=0.01,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        bf16=False,
        **more,
    )


def plain(case: Case, folder: str | Path) -> Trainer:
    """transformers' Seq2SeqTrainer or Trainer, as its users fine-tune: a row each, its collator's
    padding, cross-entropy."""
    seq2seq = case.config.is_encoder_decoder
    rows = [
        {"input_ids": p, "attention_mask": [1] * len(p), "labels": c}
        if seq2seq
        else {
            "input_ids": p + c,
            "attention_mask": [1] * len(p + c),
            "labels": [forward.IGNORE] * len(p) + c,
        }
        for p, c in case.encoded
    ]
    kind, arguments = (
        (transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments)
        if seq2seq
        else (Trainer, transformers.TrainingArguments)
    )
    model = copy.deepcopy(case.model)
    collator = DataCollatorForSeq2Seq(
        tokenizer(case.config.vocab_size), model=model if seq2seq else None
    )
    return kind(
        model=model,
        args=_arguments(arguments, case, folder),
        train_dataset=rows,
        data_collator=collator,
    )


def trl_kto(case: Case, folder: str | Path) -> Trainer:
    """TRL's KTOTrainer, its reference log-probabilities computed before the training, as ours are.

    Raises ValueError when it would not read the case's tokens.
    """
    from datasets import Dataset, disable_progress_bars
    from trl import KTOConfig, KTOTrainer

    disable_progress_bars()

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids if i != END)

    words = tokenizer(case.config.vocab_size)
    rows = Dataset.from_dict(
        {
            "prompt": [f"{text(p)} " for p, _ in case.encoded],
            "completion": [text(c) for _, c in case.encoded],
            "label": (case.rewards >= case.rewards.mean()).tolist(),
        }
    )
    trainer = KTOTrainer(
        model=copy.deepcopy(case.model),
        train_dataset=rows,
        processing_class=words,
        args=_arguments(
            KTOConfig,
            case,
            folder,
            beta=1.0,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            max_length=None,
        ),
    )
    theirs = [(row["prompt_ids"], row["completion_ids"]) for row in trainer.train_dataset]
    if theirs != [(list(p), list(c)) for p, c in case.encoded]:
        raise ValueError(
            "TRL's KTOTrainer tokenised the rows otherwise than we did, so the two "
            "sides would not do equal work"
        )
    return trainer


SIDES = {
    "plain": plain,
    "trl": trl_kto,
    **{
        method: (lambda case, folder, method=method: ours(case, method, folder))
        for method in ("sft", "rpo", "dro", "kto")
    },
}


class Clock(TrainerCallback):
    """When each step of the last training ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class Stepper:
    """A trainer that trains for one epoch when called and returns the mean seconds of its steps but
    the first.

    Raises ValueError when it has not done the case's number of steps.
    """

    def __init__(self, case: Case, side: str, folder: str | Path):
        self.steps = len(case.encoded) // case.batch
        self.trainer, self.clock = SIDES[side](case, folder), Clock()
        self.trainer.add_callback(self.clock)
        for printer in (transformers.PrinterCallback, transformers.ProgressCallback):
            self.trainer.remove_callback(printer)

    def __call__(self) -> float:
        self.trainer.train()
        if len(self.clock.ends) != self.steps or self.steps < 2:
            raise ValueError(
                f"{type(self.trainer).__name__} did {len(self.clock.ends)} steps "
                f"instead of {self.steps}"
            )
        return float(np.diff(self.clock.ends).mean())
