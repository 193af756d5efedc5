"""Peak memory, and the share of a GPU's peak."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks import measuring
from benchmarks.cases import FLAN_SMALL, LLAMA, Found, Settings, kind_of, shape_of
from benchmarks.measuring import Ratio, detail, interleaved, ratio


def memory(settings: Settings) -> Found:
    """Peak memory of a training, weights and optimiser included, and of the vocabulary projection
    alone; a process each.

    Three repetitions at most, since a peak hardly varies.
    """
    ratios, details, repetitions = [], [], min(3, settings.repetitions)
    for shape, sides in ((FLAN_SMALL, ("rpo", "plain")), (LLAMA, ("rpo", "kto", "plain", "trl"))):
        shape = shape_of(shape, settings)
        peaks = interleaved(
            {
                side: lambda side=side: measuring.fresh(
                    "benchmarks.memory", "training", shape, side
                )["mib"]
                for side in sides
            },
            repetitions,
            warm_up=False,
        )
        name = f"peak memory, {kind_of(shape)}"
        ratios.append(ratio(f"{name}: RPO", "plain SFT", peaks["rpo"], peaks["plain"]))
        if "trl" in sides:
            ratios.append(ratio(f"{name}: KTO", "TRL's KTOTrainer", peaks["kto"], peaks["trl"]))
        details += [detail(name, side, "MiB", numbers) for side, numbers in peaks.items()]
    for shape in (FLAN_SMALL, "HuggingFaceTB/SmolLM2-135M-Instruct"):
        name = (
            "vocabulary projection, width of "
            f"{'SmolLM2-135M' if 'Smol' in shape else 'Flan-T5-Small'}"
        )
        found: dict[str, list[dict]] = {"pieces": [], "full": []}
        for _ in range(repetitions):
            for way in found:
                found[way].append(
                    measuring.fresh(
                        "benchmarks.memory",
                        "projection",
                        shape,
                        way,
                        "4" if settings.quick else "16",
                    )
                )
        peaks = {way: np.array([one["mib"] for one in many]) for way, many in found.items()}
        ratios.append(
            ratio(
                f"peak memory, {name}",
                "log-softmax over all logits at once",
                peaks["pieces"],
                peaks["full"],
            )
        )
        details += [detail(name, way, "MiB", numbers) for way, numbers in peaks.items()]
        details += [
            detail(name, way, "seconds", np.array([one["seconds"] for one in many]))
            for way, many in found.items()
        ]
    return ratios, details


def gpu(settings: Settings) -> Found:
    """Share of a GPU's peak and peak memory, by shape and method, in ten minutes (gpu.py)."""
    if not torch.cuda.is_available():
        print(
            "gpu: no CUDA GPU is here, so the share of its peak and the memory of XL shapes were "
            "not measured."
        )
        return [], []
    from benchmarks import gpu as rows_of_gpu
    from benchmarks import throughput

    shapes = throughput.shapes()[: 1 if settings.quick else None]
    found = rows_of_gpu.every(
        rows_of_gpu.wanted(shapes), minutes=10.0, steps=settings.repetitions, again=True
    )
    ratios, details = [], []
    for row in [row for row in found if row["seconds"]]:
        name = f"{row['model']}, {'LoRA' if row['lora'] else 'full'}, {row['way']}, bf16"
        details += [
            detail(name, row["method"], "seconds a step", row["seconds"]),
            detail(name, row["method"], "peak GiB", row["peak_gib"]),
        ]
        if row["method"] == "sft" and row["way"] == "kit":
            large = row["model"].endswith(("large", "xl")) and not row["lora"]
            ratios.append(
                Ratio(
                    f"SFT step of ours, {name}",
                    "the same arithmetic at the GPU's peak",
                    1 / row["share_of_peak"],
                    np.nan,
                    np.nan,
                    1 / 0.45 if large else np.nan,
                    settings.repetitions,
                )
            )
    return ratios, details
