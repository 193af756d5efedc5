"""What a training leaves: its history, its clock over several starts, its checkpoints, its
policy."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from rpo_nb.store import STAMP, finished, seal, sealed, write_json
from rpo_nb.training.trainer import PolicyTrainer


def history(trainer: Trainer) -> list[dict[str, float]]:
    """The learning curve: step, loss, grad_norm, learning_rate and what `watch` logged."""
    return [
        {k: v for k, v in entry.items() if k != "epoch"}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


class Elapsed(TrainerCallback):
    """Seconds of a training over all its starts: kept beside each checkpoint, so that a resumed one
    does not forget them.

    checkpoint: where it goes on from, None for the beginning.
    """

    FILE = "seconds.json"

    def __init__(self, checkpoint: str | None):
        file = Path(checkpoint or "") / self.FILE
        self.before = (
            json.loads(file.read_text(encoding="utf-8"))["seconds"]
            if checkpoint and file.is_file()
            else 0.0
        )
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            write_json(checkpoint / self.FILE, {"seconds": self.seconds})
            # the other processes may still be writing theirs
            seal(
                checkpoint, leave_out=tuple(f"rng_state_{i}.pth" for i in range(1, args.world_size))
            )


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a training, None where there is none: one that was being
    written when the process was killed has no stamp, and one that is not as it was written is told
    and passed over."""

    def complete(checkpoint: Path) -> bool:
        return (checkpoint / STAMP).is_file() and sealed(checkpoint) is not None

    found = sorted(
        Path(folder).glob("checkpoint-*"),
        key=lambda f: int(f.name.rpartition("-")[2]),
        reverse=True,
    )
    return next((str(checkpoint) for checkpoint in found if complete(checkpoint)), None)


def save_policy(trainer: PolicyTrainer, tokenizer: Any, folder: Path, *, base: str = "") -> None:
    """The trained policy (of LoRA its adapter) and its tokenizer, all or nothing, by the first
    process; every process calls it, since with FSDP each holds a part. base: the id an adapter
    names as the model it belongs to."""
    accelerator, policy = (
        trainer.accelerator,
        trainer.accelerator.unwrap_model(trainer.model).policy,
    )
    state, adapter = None, hasattr(policy, "peft_config")
    if trainer.is_fsdp_enabled:
        whole = accelerator.get_state_dict(trainer.model_wrapped)
        state = {
            name.removeprefix("policy."): tensor
            for name, tensor in whole.items()
            if name.startswith("policy.")
        }
    if accelerator.is_main_process:
        if base and adapter:
            for config in policy.peft_config.values():
                config.base_model_name_or_path = base  # not the path of this machine
        with finished(Path(folder)) as temporary:
            # no embeddings: they are not trained, and peft would ask the hub for the base's
            # configuration
            policy.save_pretrained(
                temporary, state_dict=state, **{"save_embedding_layers": False} if adapter else {}
            )
            tokenizer.save_pretrained(temporary)
