"""Tokens a second, share of the device's peak and peak memory of a training step, by model shape
and method.

    python -m benchmarks.throughput   every shape of profiles/models.yaml that fits here
    python -m benchmarks.throughput google/flan-t5-small --rows 4 --prompt 128 --completion 128

Random weights, whole prompts of four completions at full length, bf16 computation, AdamW, through
the kit's own trainer and losses; medians of the repetitions. share_of_peak is of the SFT step: the
arithmetic of its matrix products, each prompt read once and attention's own products left out, over
the device's peak. Adds its rows to benchmarks/throughput.csv, whose share_of_peak `python -m rpo_nb
plan` then uses for this device. `python -m rpo_nb bench --only gpu` runs it where there is a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks import tables
from benchmarks.workloads import Case, Clock, fresh, ours
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.planning import costs
from rpo_nb.policy import load
from rpo_nb.remedies import OutOfMemory, memory_advice
from rpo_nb.training.batches import prompt_groups

METHODS = ("sft", "rpo", "dro", "kto")
COMPLETIONS = 4
TABLE = Path(__file__).with_suffix(".csv")
KEYS = ["device", "model", "lora", "method", "rows", "prompt", "completion"]


def known() -> list[str]:
    """The models of profiles/models.yaml that a policy can be, each shape once."""
    models = yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))["models"]
    return [
        name
        for name, shape in models.items()
        if "model_type" in shape and not name.startswith(("package:", "mistralai/"))
    ]


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
        desirable=case.rewards > 0,
        mismatched_ref_logps=np.full(n, -100.0),
        mismatched_real=np.ones(n),
    )


def measure(
    name: str, lora: bool, rows: int, prompt: int, completion: int, repetitions: int
) -> Iterator[dict]:
    """A row a method; a method that does not fit into memory is left out, and said."""
    case = Case.even(
        name,
        prompts=rows // COMPLETIONS,
        completions=COMPLETIONS,
        prompt=prompt,
        completion=completion,
        steps=repetitions + 1,
    )
    where, training = costs.device(), TrainingConfig(bf16=True, lora=lora)
    count, groups = costs.parameters(case.config, training), training_data(case)
    for method in METHODS:
        clock = Clock()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        with tempfile.TemporaryDirectory() as folder:
            try:
                with memory_advice(f"{name}, {method}", "give fewer --rows"):
                    model = fresh(case.config, dtype=torch.bfloat16 if lora else torch.float32)
                    mine = [
                        {
                            k: v
                            for k, v in g.items()
                            if method == "kto" or not k.startswith("mismatched")
                        }
                        for g in groups
                    ]
                    trainer = ours(
                        case,
                        method,
                        folder,
                        groups=mine,
                        model=load.add_lora(model, 16) if lora else model,
                        bf16=True,
                        lora=lora,
                    )
                    trainer.add_callback(clock)
                    trainer.train()
            except OutOfMemory as error:
                print(f"left out: {error}")
                continue
        median = float(np.median(np.diff(clock.ends)))
        prompts, answers = prompt * rows // COMPLETIONS, completion * rows
        # through the encoder, through the decoder
        passed = (prompts, answers) if case.config.is_encoder_decoder else (0, prompts + answers)
        flops = costs.train_passes(training) * count.forward(*passed, answers)
        memory = (
            torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
        )
        yield {
            "device": where.name,
            "model": name,
            "lora": lora,
            "method": method,
            "rows": rows,
            "prompt": prompt,
            "completion": completion,
            "seconds": round(median, 4),
            "tokens_per_second": round((prompts + answers) / median),
            "share_of_peak": round(flops / median / where.bf16, 4) if method == "sft" else None,
            "peak_gib": round(memory, 2),
        }
        del trainer, model


def every(
    models: Sequence[str],
    *,
    rows: int = 16,
    prompt: int = 256,
    completion: int = 256,
    repetitions: int = 5,
) -> list[dict]:
    """`measure` of each model, whole and with LoRA, merged into throughput.csv as it goes."""
    import pandas as pd

    found = []
    for name in models:
        for lora in (False, True):
            for row in measure(name, lora, rows, prompt, completion, repetitions):
                print(row, flush=True)
                found.append(row)
                tables.merge(TABLE, pd.DataFrame([row]), KEYS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=known())
    for option, default in (("rows", 16), ("prompt", 256), ("completion", 256), ("repetitions", 5)):
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    every(
        options.models,
        rows=options.rows,
        prompt=options.prompt,
        completion=options.completion,
        repetitions=options.repetitions,
    )


if __name__ == "__main__":
    main()
