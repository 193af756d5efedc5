"""What every benchmark is given and gives back, and the steps that several of them time."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.measuring import Detail, Ratio, detail, interleaved
from benchmarks.sides import Stepper
from benchmarks.workloads import Case

FLAN_SMALL, LLAMA = "google/flan-t5-small", "Llama, 6 layers"


@dataclass(frozen=True)
class Settings:
    """repetitions of every measurement; quick: toy sizes, which prove that a benchmark runs and
    nothing else."""

    repetitions: int = 5
    quick: bool = False


Found = tuple[list[Ratio], list[Detail]]


def shape_of(name: str, settings: Settings) -> str:
    return name if not settings.quick else "Llama, tiny" if "Llama" in name else "T5, tiny"


def kind_of(shape: str) -> str:
    return "Llama" if "Llama" in shape else "T5"


def even(
    shape: str, settings: Settings, *, prompts: int, completions: int, prompt: int, completion: int
) -> Case:
    """Equal lengths; toy ones when quick."""
    if settings.quick:
        prompts, prompt, completion = 2, prompt // 8, completion // 8
    return Case.even(
        shape_of(shape, settings),
        prompts=prompts,
        completions=completions,
        prompt=prompt,
        completion=completion,
    )


def steps(
    label: str, case: Case, sides: Sequence[str], settings: Settings
) -> tuple[dict[str, np.ndarray], list[Detail]]:
    """Seconds of a training step of each side, and what to note of them."""
    with tempfile.TemporaryDirectory() as folder:
        steppers = {side: Stepper(case, side, f"{folder}/{side}") for side in sides}
        seconds = interleaved(steppers, settings.repetitions)
    rows, shared = case.tokens
    return seconds, [
        *(detail(label, side, "seconds a step", numbers) for side, numbers in seconds.items()),
        detail(label, "rows", "a step", case.batch),
        detail(label, "tokens of all rows", "a step", rows),
        detail(label, "tokens, each prompt once", "a step", shared),
    ]
