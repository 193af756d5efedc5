"""transformers' Trainer, one batch of which is the whole of an optimiser step.

What divides a loss under Trainer's own accumulation differs between its versions and rests on
private methods; here a step is passed in parts by `training_step`, which is public and scales their
losses itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states
from transformers import PrinterCallback, Trainer, TrainingArguments

# Of Trainer: without them checkpoints would be others.
PRIVATE = ("_save", "_issue_warnings_after_load", "_load_best_model")


def arguments(output_dir: str | Path, *, seed: int, **settings: Any) -> TrainingArguments:
    """TrainingArguments as all trainings here have them: whole items reach the trainer, nothing is
    printed, nothing reported unless asked for, on a GPU where there is one. settings: the rest, by
    transformers' names."""
    return TrainingArguments(
        output_dir=str(output_dir),
        seed=seed,
        **{
            "report_to": "none",
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            "use_cpu": not torch.cuda.is_available(),
        }
        | settings,
    )


@dataclass(frozen=True)
class Step:
    """The prompts of an optimiser step, one process's share; opaque, so that accelerate does not
    walk through their tokens."""

    items: list[dict]


def replayed(place: Tensor) -> Callable[[], None]:
    """What brings torch's random numbers, on the CPU and on a tensor's device, back to where they
    are now."""
    here, devices = torch.get_rng_state(), get_device_states(place)

    def back() -> None:
        torch.set_rng_state(here)
        set_device_states(*devices)

    return back


class StepTrainer(Trainer):
    """A Trainer whose data set's items come as a `Step`; a subclass's `training_step` passes it in
    parts.

    Raises ValueError where Trainer is asked to accumulate, ImportError for a transformers that
    checkpoints cannot rely on.
    """

    def __init__(self, *, args: TrainingArguments, **kwargs):
        if args.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps is {args.gradient_accumulation_steps}; "
                "leave it at 1, a step "
                "is passed in micro-batches"
            )
        missing = [name for name in PRIVATE if not hasattr(Trainer, name)]
        if missing:
            raise ImportError(
                f"this transformers has no Trainer.{missing[0]}, which checkpoints "
                "here rely on; "
                "install another version"
            )
        # several GPUs are for several processes: Trainer would split a batch by rows
        args._n_gpu = min(1, args.n_gpu)
        super().__init__(args=args, data_collator=Step, **kwargs)
        # notebooks show learning curves and a progress bar instead
        self.remove_callback(PrinterCallback)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, None]:
        # transformers would look for labels to count
        return list(islice(epoch_iterator, num_batches)), None

    def floating_point_ops(self, inputs: Step) -> int:
        return 0  # transformers' own guess looks for a batch of tensors; table1 counts operations
