"""Tokens a second, share of the device's peak and peak memory of a training step or of sampling, by
model shape and method.

    python -m benchmarks.throughput google/flan-t5-small rpo [--lora] [--way kit]

Measures one row and prints it as JSON; `python -m benchmarks.gpu` measures all that fit into ten
minutes, and keeps them in benchmarks/throughput.csv, whose share_of_peak `python -m rpo_nb plan`
uses for this device.

Random weights, prompts of four completions with real lengths, and the settings of the profiles
flan-t5 and llama (rows a step, tokens a pass, gradient checkpointing) in bf16, through the kit's
own trainer and losses. The first step warms up and is not counted. share_of_peak: the arithmetic of
the matrix products, each prompt read once and attention's own products left out, as `plan` counts
it, over the device's peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from benchmarks import measuring
from benchmarks.sides import LEARNING_RATE, Clock
from benchmarks.workloads import Case, configuration, fresh, real_lengths, tokenizer
from rpo_nb.config.loading import load_profile
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import DecodingConfig, TrainingConfig
from rpo_nb.planning import costs
from rpo_nb.policy import generation, load, logps
from rpo_nb.remedies import OutOfMemory, memory_advice
from rpo_nb.training.batches import prompt_groups
from rpo_nb.training.trainer import make_trainer

METHODS = ("sft", "rpo", "dro", "kto")
SAMPLING = "sampling"
# kit: transformers' kernels; sampling has kit and vllm, training kit, liger and fsdp
WAYS = ("kit", "liger", "fsdp", "vllm")
COMPLETIONS = 4
RANK = 16  # of the adapters
SAMPLED = 64  # prompts, a batch
NEW_TOKENS = 128
COLUMNS = [
    *("device", "model", "lora", "method", "way", "rows", "prompt", "completion"),
    *("seconds", "tokens_per_second", "share_of_peak", "peak_gib", "said"),
]


@dataclass(frozen=True)
class Shape:
    """A model's shape, how its profile trains it, and the most tokens of a prompt or completion."""

    model: str
    training: TrainingConfig
    limit: int


def shapes() -> list[Shape]:
    """Flan-T5 Small, Large, XL and the 8B Llama, as the profiles flan-t5 and llama have them."""
    found = []
    for profile in map(load_profile, ("flan-t5", "llama")):
        for size, model in profile.sizes.items():
            training = profile.training_of(size).model_copy(update={"bf16": True})
            found.append(Shape(model.id, training, min(profile.limits(size).values())))
    return found


@dataclass(frozen=True)
class Spec:
    """A row to measure: way is one of WAYS, method one of METHODS or SAMPLING."""

    shape: Shape
    lora: bool
    method: str
    way: str = "kit"

    @property
    def words(self) -> str:
        kind = "LoRA" if self.lora else "full"
        return f"{self.shape.model}, {kind}, {self.method}, {self.way}"

    @property
    def training(self) -> TrainingConfig:
        given = {"epochs": 1, "lora": self.lora, "lora_rank": RANK, "learning_rate": LEARNING_RATE}
        given |= {"warmup_steps": 0, "report_to": (), "save_steps": 0}
        return self.shape.training.model_copy(update=given)

    def case(self, steps: int) -> Case:
        """The rows of so many steps; of sampling the prompts."""
        of_step = max(1, self.shape.training.batch_size // COMPLETIONS)
        prompts = SAMPLED if self.method == SAMPLING else of_step * steps
        lengths = real_lengths(prompts, limit=self.shape.limit)
        return Case(self.shape.model, lengths, of_step * COMPLETIONS)

    def flops(self, case: Case) -> float:
        """What a step's matrix products need on average, as `plan` counts them."""
        count, passes = counted(case.shape, self.lora), costs.train_passes(self.training)
        prompts, answers = tokens(case)
        # of a causal model under gradient checkpointing a prompt is read with each completion
        again = sum(p * len(c) for p, c in case.lengths) * case.batch / len(case.prompt_ids)
        read = again if self.training.gradient_checkpointing else prompts
        causal = not case.config.is_encoder_decoder
        forward = count.forward(prompts, answers + causal * read, answers)
        if self.method != "kto":
            return passes * forward
        # the mismatched pairs, without a gradient, under prompts that are kept where they can be
        kept = 0 if self.training.gradient_checkpointing and causal else read
        return passes * forward + count.forward(0, answers + causal * (read - kept), answers)


@cache  # of a large model's shapes it takes seconds
def counted(model: str, lora: bool) -> costs.Parameters:
    return costs.parameters(configuration(model), TrainingConfig(lora=lora, lora_rank=RANK))


@cache  # where the device is in no table, its peak is timed
def here() -> costs.Device:
    return costs.device()


def tokens(case: Case) -> tuple[float, float]:
    """Tokens a step on average: of its prompts, each once, and of its completions."""
    steps = len(case.prompt_ids) / case.batch
    prompts = sum(p for p, _ in case.lengths)
    return prompts / steps, sum(sum(c) for _, c in case.lengths) / steps


def training_data(case: Case) -> list[dict]:
    """The case's rows with made-up reference log-probabilities: a big model's own would take a
    pass."""
    n = len(case.encoded)
    return prompt_groups(
        case.encoded,
        case.prompt_ids,
        mismatched=[case.encoded[(i + COMPLETIONS) % n][1] for i in range(n)],
        rewards=case.rewards,
        ref_logps=np.full(n, -100.0),
        log_partition=np.zeros(n),
        desirable=case.rewards > 0,
        mismatched_ref_logps=np.full(n, -100.0),
        mismatched_real=np.ones(n),
    )


class Until(TrainerCallback):
    """Ends a training at a time, between two steps."""

    def __init__(self, end: float):
        self.end = end

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = time.monotonic() >= self.end


def model_of(spec: Spec, case: Case) -> torch.nn.Module:
    """Random weights on the device, held as a training of the kit holds them."""
    half = spec.lora and spec.training.bf16
    model = fresh(case.config, dtype=torch.bfloat16 if half else torch.float32)
    if spec.way == "liger":
        load.use_liger(model)
    return load.add_lora(model, RANK) if spec.lora else model


def trained(spec: Spec, case: Case, end: float) -> tuple[float, float]:
    """(seconds of a step, its tokens). Raises ValueError where the time is over before two steps
    are done."""
    groups = [
        {k: v for k, v in g.items() if spec.method == "kto" or not k.startswith("mismatched")}
        for g in training_data(case)
    ]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model_of(spec, case),
            tokenizer(case.config.vocab_size),
            groups,
            Objective(method=spec.method),
            config=spec.training,
            output_dir=folder,
            seed=0,
        )
        trainer.add_callback(clock)
        trainer.add_callback(Until(end))
        trainer.train()
    if len(clock.ends) < 2:
        raise ValueError(f"{spec.words}: the time was over after a step; give more --minutes")
    return (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1), sum(tokens(case))


def sampled(spec: Spec, case: Case, new_tokens: int = NEW_TOKENS) -> tuple[float, float]:
    """(seconds, tokens written) of one completion a prompt, the second time it is asked."""
    model, words = model_of(spec, case).eval(), tokenizer(case.config.vocab_size)
    rng = np.random.default_rng(0)
    prompts = [
        " ".join(f"w{i}" for i in rng.integers(2, case.config.vocab_size, n))
        for n, _ in case.lengths
    ]
    for seed in (0, 1):
        started = time.perf_counter()
        with logps.autocast(spec.training.bf16):
            found = generation.samples(
                model,
                words,
                prompts,
                decoding=DecodingConfig(do_sample=True, max_new_tokens=new_tokens),
                seed=seed,
                max_prompt_tokens=spec.shape.limit,
                batch_size=SAMPLED,
                engine="vllm" if spec.way == "vllm" else "transformers",
            )
    return time.perf_counter() - started, sum(len(one.ids) for one in found)


def release() -> None:
    """Give back what the rows before have held of the GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def empty_row(spec: Spec, case: Case, said: str = "") -> dict[str, Any]:
    """A row without a measurement. said: why there is none."""
    prompts, answers = (len(case.lengths), len(case.prompt_ids))
    row = dict.fromkeys(COLUMNS)
    return row | {
        "device": here().name,
        "model": spec.shape.model,
        "lora": spec.lora,
        "method": spec.method,
        "way": spec.way,
        "rows": SAMPLED if spec.method == SAMPLING else case.batch,
        "prompt": round(sum(p for p, _ in case.lengths) / prompts),
        "completion": round(sum(sum(c) for _, c in case.lengths) / answers),
        "said": said,
    }


def measure(spec: Spec, *, steps: int, end: float = float("inf")) -> dict[str, Any]:
    """The row of a spec, of so many steps at most and none begun after `end` (time.monotonic).

    What does not fit into memory is a row that says so. Raises ValueError for what this machine
    cannot do (no GPU for Liger, no vLLM, ...).
    """
    on_gpu, case = torch.cuda.is_available(), spec.case(steps + 1)
    row = empty_row(spec, case)
    release()
    try:
        with memory_advice(spec.words, "lower sizes.….micro_batch_tokens, or train with LoRA"):
            if spec.method == SAMPLING:
                seconds, found = sampled(spec, case)
            else:
                seconds, found = trained(spec, case, end)
    except OutOfMemory as error:
        return row | {"said": str(error)}
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None
    row |= {"seconds": round(seconds, 4), "tokens_per_second": round(found / seconds, 1)}
    if spec.method != SAMPLING:
        row["share_of_peak"] = float(f"{spec.flops(case) / seconds / here().rate(True):.4g}")
    return row | {"peak_gib": peak}


def main() -> None:
    known = {shape.model: shape for shape in shapes()}
    parser = argparse.ArgumentParser(description=measuring.first_sentence(__doc__))
    parser.add_argument("model", choices=known)
    parser.add_argument("method", choices=(*METHODS, SAMPLING))
    parser.add_argument("--way", choices=WAYS, default="kit")
    parser.add_argument("--lora", action="store_true", help="adapters instead of all weights")
    parser.add_argument("--steps", type=int, default=5, help="that are counted, after a first")
    given = parser.parse_args()
    spec = Spec(known[given.model], given.lora, given.method, given.way)
    print(json.dumps(measure(spec, steps=given.steps)), flush=True)


if __name__ == "__main__":
    main()
