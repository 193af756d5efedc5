"""Peak memory of one thing, in a process of its own since a peak never falls; prints JSON.

    python -m benchmarks.memory training SHAPE SIDE            one training of sides.SIDES
    python -m benchmarks.memory projection SHAPE WAY ROWS   forward and backward, one layer as wide

training: from before the model is made, so weights, gradients and optimiser count. projection: what
is added when everything but the pass stands. full: what a plain loss does, log-softmax over the
logits of every position in float32; pieces: what the kit does, only the completion's positions, a
piece at a time, computed again in the backward pass.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import psutil
import torch

from benchmarks.measuring import peak_mib
from benchmarks.sides import SIDES
from benchmarks.workloads import Case, configuration, fresh
from rpo_nb.policy import forward
from rpo_nb.policy.logps import sequence_logps

PROMPT = COMPLETION = 256  # UltraFeedback's medians


def training(shape: str, side: str) -> dict:
    """MiB at the peak of two steps beyond what the imports hold."""
    if side == "trl":
        import trl  # noqa: F401
        from trl import KTOTrainer  # noqa: F401
    small = "tiny" in shape
    case = Case.even(
        shape, prompts=1 if small else 4, completions=4, prompt=64, completion=64, steps=2
    )
    before = psutil.Process().memory_info().rss / 2**20
    with tempfile.TemporaryDirectory() as folder:
        SIDES[side](case, folder).train()
    return {"mib": peak_mib() - before}


def full(model: torch.nn.Module, batch: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    """log π of each row from all logits at once."""
    if model.config.is_encoder_decoder:
        labels = batch["labels"]
        logits = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels.clamp(min=0),
        ).logits
    else:
        logits, labels = (
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[
                :, :-1
            ],
            batch["labels"][:, 1:],
        )
    keep = labels != forward.IGNORE
    return (
        torch.log_softmax(logits.float(), -1)
        .gather(-1, labels.clamp(min=0).unsqueeze(-1))
        .squeeze(-1)
        * keep
    ).sum(-1)


def pieces(model: torch.nn.Module, batch: dict[str, torch.Tensor], rows: int) -> torch.Tensor:
    return sequence_logps(
        model, batch["input_ids"], batch["attention_mask"], batch["labels"], reduce="sum"
    )


def projection(shape: str, way: str, rows: str) -> dict:
    """MiB and seconds of a forward and backward pass."""
    config, n = configuration(shape), int(rows)
    config.num_hidden_layers = 1
    if config.is_encoder_decoder:
        config.num_layers = config.num_decoder_layers = 1
    model = fresh(config)
    prompts, completions = (
        torch.randint(2, 1000, (n, PROMPT)),
        torch.randint(2, 1000, (n, COMPLETION)),
    )
    ids, labels = prompts, completions
    if not config.is_encoder_decoder:
        ids, labels = (
            torch.cat([prompts, completions], 1),
            torch.cat([torch.full_like(prompts, forward.IGNORE), completions], 1),
        )
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    logps = {"full": full, "pieces": pieces}[way]
    # gradients and buffers stand
    logps(model, {name: tensor[:1] for name, tensor in batch.items()}, 1).sum().backward()
    before, started = peak_mib(), time.perf_counter()
    out = logps(model, batch, n)
    out.mean().backward()
    return {
        "mib": peak_mib() - before,
        "seconds": time.perf_counter() - started,
        "mean_logp": float(out.detach().mean()),
    }


if __name__ == "__main__":
    print(json.dumps({"training": training, "projection": projection}[sys.argv[1]](*sys.argv[2:])))
