"""What one size of a profile costs on a device: memory, seconds, disk."""

from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb.config.methods import ROWS
from rpo_nb.config.schema import ModelConfig, Profile, TrainingConfig
from rpo_nb.data import feedback, hub
from rpo_nb.data.splits import Splits
from rpo_nb.experiment import generations, grid, references
from rpo_nb.planning import costs, needs
from rpo_nb.planning.costs import Device, Parameters
from rpo_nb.policy import encoding
from rpo_nb.running import provenance

# of the peak that a training step reaches where nothing was measured
SHARE = {"gpu": 0.3, "cpu": 0.5}
# of Python and kernel launches, a layer and pass (CPU: results/pocket's timings)
LAYER_SECONDS = {"gpu": 0.001, "cpu": 0.006}
# the same of a generated token, a layer of the decoder
TOKEN_SECONDS = {"gpu": 0.001, "cpu": 0.001}
# at most these are tokenised, drawn by seed 0; more are taken to be like them
MEASURED_ROWS = 20_000
BENCHMARKS = provenance.PACKAGE.parent / "benchmarks" / "throughput.csv"


# Data ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Training rows of a size and their lengths in tokens; measured: False where these are the
    profile's limits, a bound."""

    prompts: int
    rows: int
    validation: int
    encoded: float  # tokens of the distinct prompts
    prompted: float  # of every row's prompt
    completed: float  # of every row's completion
    longest_prompt: int
    longest_completion: int
    per_prompt: int  # completions of the prompt that has most
    measured: bool

    def best_of_each(self) -> Rows:
        """The rows of best_of_k: one a prompt, as long as the others on average."""
        share = self.prompts / self.rows
        return replace(
            self,
            rows=self.prompts,
            prompted=self.encoded,
            completed=self.completed * share,
            per_prompt=1,
        )


def rows_of(profile: Profile, size: str, splits: Splits | None, tokenizer: Any) -> Rows:
    """The training rows of a size, from the data and the tokenizer where they are here, else from
    the profile's limits."""
    limits = profile.limits(size)
    longest = limits["max_prompt_tokens"], limits["max_completion_tokens"]
    if splits is None:
        of = needs.known()["datasets"].get(
            profile.data.source, needs.known()["datasets"]["openbmb/UltraFeedback"]
        )
        k = min(
            profile.data.completions_per_prompt or of["completions_per_prompt"],
            of["completions_per_prompt"],
        )
        left = of["prompts"] - profile.data.validation - profile.data.held_out
        prompts = min(profile.data.prompts or left, left)
        return Rows(
            prompts,
            prompts * k,
            profile.data.validation,
            prompts * longest[0],
            prompts * k * longest[0],
            prompts * k * longest[1],
            *longest,
            k,
            False,
        )
    ids = np.asarray(splits.train["prompt_id"])
    counts = Counter(ids.tolist())
    if tokenizer is None:
        return Rows(
            len(counts),
            len(ids),
            len(splits.validation),
            len(counts) * longest[0],
            len(ids) * longest[0],
            len(ids) * longest[1],
            *longest,
            max(counts.values()),
            False,
        )
    drawn = np.sort(np.random.default_rng(0).permutation(len(ids))[:MEASURED_ROWS])
    part = splits.train.select(drawn)
    encoded = encoding.encode(tokenizer, feedback.conversations(part), part["completion"], **limits)
    lengths = np.array([[len(prompt), len(completion)] for prompt, completion in encoded])
    scale, distinct = len(ids) / len(drawn), pd.Series(lengths[:, 0]).groupby(ids[drawn]).first()
    prompted, completed = (lengths.sum(0) * scale).tolist()
    return Rows(
        len(counts),
        len(ids),
        len(splits.validation),
        float(distinct.mean() * len(counts)),
        prompted,
        completed,
        *map(int, lengths.max(0)),
        max(counts.values()),
        True,
    )


def schedule(rows: Rows, training: TrainingConfig) -> tuple[int, int, int]:
    """(optimiser steps, forward passes, longest prompts that fit into a pass) of one training:
    `trainer.make_trainer` steps by whole prompts, `batches.micro_batches` passes them by tokens."""
    step = max(1, round(training.batch_size * rows.prompts / rows.rows))
    steps = math.ceil(rows.prompts / step) * training.epochs
    passes = min(
        step,
        math.ceil(
            step * (rows.encoded + rows.completed) / rows.prompts / training.micro_batch_tokens
        ),
    )
    longest = rows.longest_prompt + rows.per_prompt * rows.longest_completion
    return steps, steps * passes, min(step, max(1, training.micro_batch_tokens // longest))


# A size -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basis:
    """What the costs of a size follow from."""

    profile: Profile
    size: str
    config: Any  # of transformers
    count: Parameters
    rows: Rows
    device: Device
    share: float  # of the device's peak

    @property
    def training(self) -> TrainingConfig:
        return self.profile.training_of(self.size)

    @property
    def layers(self) -> tuple[int, int]:
        """Of the encoder (0 of a causal model) and of the decoder."""
        config = self.config
        return (
            (config.num_layers, config.num_decoder_layers)
            if config.is_encoder_decoder
            else (0, config.num_hidden_layers)
        )

    @property
    def passing(self) -> float:
        """Seconds that a training pass takes besides its arithmetic."""
        return sum(self.layers) * LAYER_SECONDS["cpu" if self.device.cpu else "gpu"]

    def forward(self, rows: Rows) -> float:
        """FLOPs of a forward pass over training rows: a prompt is read once, but with every
        completion by a causal model under gradient checkpointing."""
        prompted = (
            0
            if self.config.is_encoder_decoder
            else rows.prompted
            if self.training.gradient_checkpointing
            else rows.encoded
        )
        return self.count.forward(rows.encoded, prompted + rows.completed, rows.completed)

    def arithmetic(self, flops: float) -> float:
        """Seconds."""
        return flops / (self.device.rate(self.training.bf16) * self.share)


def config_of(model: ModelConfig, tokenizer: Any, *, online: bool) -> tuple[Any, str]:
    """(transformers configuration or None, where it is from)."""
    if model.id != "pocket":
        return named_config(model.id, revision=model.revision, online=online)
    words = 32_100 if tokenizer is None else len(tokenizer)
    return references.shape(model, words), "the profile"


def named_config(model_id: str, *, revision: str = "main", online: bool) -> tuple[Any, str]:
    """The configuration of a folder, package or hub id: its own, else by its shape in
    profiles/models.yaml, else None."""
    from transformers import AutoConfig

    if not hub.look_up(model_id, revision=revision, online=False).problem:
        return AutoConfig.from_pretrained(
            references.resolve(model_id),
            revision=revision,
            local_files_only=True,
            trust_remote_code=False,
        ), "config.json"
    if online and not model_id.startswith("package:"):
        try:
            return AutoConfig.from_pretrained(
                model_id, revision=revision, trust_remote_code=False
            ), "config.json"
        except (OSError, ValueError) as error:
            # why it cannot be had is also told where access is checked
            logging.getLogger(__name__).info("%s: %s", model_id, error)
    shape = {
        key: value
        for key, value in needs.known()["models"].get(model_id, {}).items()
        if key not in ("bytes", "gated")
    }
    return (AutoConfig.for_model(**shape), "profiles/models.yaml") if shape else (None, "")


def size_plan(
    profile: Profile, size: str, out: Path, rows: Rows, config: Any, device: Device, share: float
) -> dict[str, Any]:
    """Counts, memory and hours of one size, of what is not done yet in `out`; without a
    configuration counts only."""
    training = profile.training_of(size)
    runs = [run for run in grid.plan(profile) if run.size == size]
    left = [run for run in runs if not run.done_file(out).is_file()]
    cells = {
        generations.completions_file(profile, cell, out)
        for cell in grid.cells(profile)
        if cell.size == size
    }
    missing = sum(not file.is_file() for file in cells)
    sets = {run.key: rows.best_of_each() if ROWS[run.method].best_only else rows for run in left}
    schedules = {key: schedule(part, training) for key, part in sets.items()}
    tokens_once = sum(part.encoded + part.completed for part in sets.values())
    made = {
        "size": size,
        "model": profile.sizes[size].id,
        "policies": len(runs),
        "to train": len(left),
        "prompts": rows.prompts,
        "rows": rows.rows,
        "steps": schedule(rows, training)[0],
        "steps in all": sum(steps for steps, _, _ in schedules.values()),
        "training tokens": training.epochs * tokens_once,
        "generated tokens": missing * rows.validation * profile.decoding.max_new_tokens,
        "measured": rows.measured,
    }
    if config is None:
        return made | {"parameters": None, "memory": None, "parts": {}, "hours": None, "disk": None}
    basis = Basis(profile, size, config, costs.parameters(config, training), rows, device, share)
    parts = _memory(basis)
    seconds = sum(
        _training_seconds(basis, sets[run.key], schedules[run.key][1], run.method) for run in left
    )
    seconds += len({run.seed for run in left}) * _reference_seconds(
        basis
    ) + missing * _generation_seconds(basis)
    return made | {
        "parameters": basis.count.all,
        "memory": sum(parts.values()),
        "parts": parts,
        "hours": seconds / 3600,
        "disk": _disk(basis, len(left)),
    }


def _memory(basis: Basis) -> dict[str, float]:
    """Bytes by part of the more demanding of training and generation."""
    profile, rows, training = basis.profile, basis.rows, basis.training
    prompts = schedule(rows, training)[2]
    step = costs.training_memory(
        basis.config,
        basis.count,
        training,
        rows=prompts * rows.per_prompt,
        prompts=prompts,
        prompt_tokens=rows.longest_prompt,
        completion_tokens=rows.longest_completion,
        dropout=max(preset.dropout for preset in profile.presets.values()),
    )
    generation = costs.generation_memory(
        basis.config,
        basis.count,
        training,
        rows=min(profile.evaluation.generation_batch_size, rows.validation),
        tokens=profile.limits(basis.size)["max_prompt_tokens"] + profile.decoding.max_new_tokens,
    )
    return step if sum(step.values()) >= generation else {"generation": generation}


def _training_seconds(basis: Basis, rows: Rows, passes: int, method: str) -> float:
    """One training. KTO's policy also reads mismatched completions, its reference once."""
    flops = costs.train_passes(basis.training) * basis.forward(rows) * basis.training.epochs
    if method == "kto":
        flops += basis.forward(replace(rows, encoded=0)) * basis.training.epochs + basis.forward(
            rows
        )
    return basis.arithmetic(flops) + passes * basis.passing


def _reference_seconds(basis: Basis) -> float:
    """A reference's log-probabilities, and where it starts from nothing its own training."""
    model, rows = basis.profile.sizes[basis.size], basis.rows
    seconds = basis.arithmetic(basis.forward(rows))
    if model.id == "pocket":
        each = (
            basis.arithmetic(3 * basis.forward(rows)) / rows.rows + basis.passing / model.batch_size
        )
        seconds += model.epochs * model.demonstrations * each
    return seconds


def _generation_seconds(basis: Basis) -> float:
    """The completions of the validation prompts at full length: every token reads all weights of
    the decoder once a batch."""
    profile, count, device = basis.profile, basis.count, basis.device
    batch = min(profile.evaluation.generation_batch_size, basis.rows.validation)
    held = costs.weight_bytes(count, basis.training) * (count.decoder + count.head) / count.all
    token = max(
        held / device.bandwidth, count.forward(0, batch, batch) / device.rate(basis.training.bf16)
    )
    token += basis.layers[1] * TOKEN_SECONDS["cpu" if device.cpu else "gpu"]
    return math.ceil(basis.rows.validation / batch) * profile.decoding.max_new_tokens * token


def _disk(basis: Basis, policies: int) -> float:
    """Bytes of the policies (of LoRA the adapters) in float32, and of a checkpoint beside the one
    before it."""
    trained = 4.0 * (basis.count.trained if basis.training.lora else basis.count.all)
    # with AdamW's two moments
    checkpoint = 3 * 4.0 * basis.count.trained if basis.training.save_steps and policies else 0.0
    return policies * trained + 2 * checkpoint


def benchmark_rows() -> list[dict[str, str]]:
    if not BENCHMARKS.is_file():
        return []
    with BENCHMARKS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
