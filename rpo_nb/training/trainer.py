"""Train a policy with one objective, on transformers' Trainer.

    objective = Objective(method="rpo", reduce="sum", tau=1.0)
    groups = prompt_groups(encoded, prompt_ids, rewards=rewards, ref_logps=ref_logps,
                           log_partition=log_partition)
    trainer = make_trainer(model, tokenizer, groups, objective, config=profile.training,
                           output_dir=..., seed=0)
    trainer.train()  # resume with trainer.train(resume_from_checkpoint=...)
    trainer.model.policy.save_pretrained(...)

One item of the data set is one prompt with all its completions, so a batch holds whole prompts,
each read once. A batch of the Trainer is one optimiser step; it is passed in micro-batches of a
token budget, long prompts with long ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from rpo_nb import checks, objectives
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.training import steps
from rpo_nb.training.batches import GroupCollator, micro_batches, total_weight
from rpo_nb.training.losses import LOSSES, PolicyWithValue
from rpo_nb.training.steps import StepTrainer, replayed


class PolicyTrainer(StepTrainer):
    """A StepTrainer with our losses. The loss of a step is the (weighted) mean over its rows,
    whatever its micro-batches."""

    def __init__(
        self,
        *,
        objective: Objective,
        pad_id: int,
        micro_batch_tokens: int,
        prompt_width: int = 0,
        **kwargs,
    ):
        width = (
            prompt_width if objective.method == "dro" and objective.value_pooling == "all" else 0
        )
        if objective.method == "dro" and objective.value_pooling == "all" and not width:
            raise ValueError(
                "value_pooling 'all' is the mean over a fixed number of places; give "
                "prompt_width, or take 'masked'"
            )
        super().__init__(**kwargs)
        self.objective, self.micro_batch_tokens = objective, micro_batch_tokens
        self.collate = GroupCollator(pad_id, width)
        self._watched: dict[str, list[float]] = defaultdict(list)

    def batch(self, items: Sequence[dict]) -> dict[str, Tensor]:
        """Items as one batch on the device."""
        return {name: tensor.to(self.args.device) for name, tensor in self.collate(items).items()}

    def training_step(self, model, inputs, num_items_in_batch=None):
        def parts_of(at_least: int) -> list[list[dict]]:
            return micro_batches(
                inputs.items, self.micro_batch_tokens, at_least=at_least, width=self.collate.width
            )

        parts, rows = parts_of(1), torch.tensor(total_weight(inputs.items), device=self.args.device)
        # all processes pass as many: with FSDP each pass is one of all of them
        if self.args.world_size > 1:
            most, rows = self.accelerator.gather(
                torch.stack([rows.new_tensor(len(parts)), rows])[None]
            ).unbind(1)
            parts, rows = parts_of(int(most.max())), rows.sum()
        z0, replay = (
            self.step_kl(model, parts)
            if self.objective.method == "kto" and len(parts) > 1
            else (None, [])
        )
        loss = 0.0
        for i, part in enumerate(parts):
            if replay:
                replay[i]()
            with self.accelerator.no_sync(model) if i + 1 < len(parts) else nullcontext():
                loss += super().training_step(
                    model, self.collate(part) | ({} if z0 is None else {"z0": z0}), rows
                )
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        z0 = inputs.pop("z0", None)
        out = model(**inputs)
        if self.objective.method == "kto" and z0 is None:
            z0 = self.kl(*self.kl_sum(out, inputs))
        try:
            losses = LOSSES[self.objective.method](self.objective, out, inputs, z0)
        except ValueError as error:
            raise type(error)(
                f"step {self.state.global_step}: {error} (training rows {inputs['rows'].tolist()})"
            ) from error
        if not bool(losses.isfinite().all()):
            bad = inputs["rows"][~losses.isfinite()].tolist()
            raise checks.NotFinite(
                f"step {self.state.global_step}: the loss of training row "
                f"{bad[0]} is not finite; lower the learning rate "
                "or drop that row"
            )
        self.watch(out, inputs)
        rows = len(losses)
        if "weights" in inputs:
            losses, rows = losses * inputs["weights"], inputs["weights"].sum()
        rows = rows if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / rows * (self.args.world_size if num_items_in_batch is not None else 1)
        return (loss, out) if return_outputs else loss

    def kl_sum(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The log-ratios that KTO's z0 is the mean of, summed, and their number."""
        if self.objective.kto_kl == "matched":
            mine, theirs, real = (
                out["logps"],
                batch["ref_logps"],
                torch.ones_like(batch["desirable"]),
            )
        else:
            mine, theirs, real = (
                out["mismatched_logps"],
                batch["mismatched_ref_logps"],
                batch["mismatched_real"].bool(),
            )
        if "weights" in batch:
            counted = batch["weights"] * real
            return ((mine - theirs).detach() * counted).sum(), counted.sum()
        return objectives.kto_kl(mine, theirs, clamp=False, mask=real) * real.sum(), real.sum()

    def kl(self, total: Tensor, count: Tensor) -> Tensor:
        """KTO's z0 over all processes: of mismatched pairs the mean log-ratio clamped at 0, of
        matched ones unclamped (the authors' code)."""
        # the mean over all rows, clamped after: not the mean of clamped means
        if self.args.world_size > 1:
            total, count = self.accelerator.reduce(torch.stack([total, count.to(total)]), "sum")
        kl = total / count.where(count > 0, torch.ones_like(count))
        return kl if self.objective.kto_kl == "matched" else kl.clamp(min=0)

    @torch.no_grad()
    def step_kl(
        self, model: nn.Module, parts: list[list[dict]]
    ) -> tuple[Tensor, list[Callable[[], None]]]:
        """KTO's z0 over the micro-batches of a step, before the first of them is passed with
        gradients; and what to call before each of those passes, so that dropout drops there what it
        dropped here."""
        sums, replay = [], []
        model.train()  # as Trainer does only when it passes the first batch
        for part in parts:
            batch = self.batch(part)
            mismatched = batch.pop("mismatched", None)
            replay.append(replayed(batch["input_ids"]))
            if self.objective.kto_kl == "matched":
                sums.append(self.kl_sum(model(**batch), batch))
            else:
                sums.append(
                    self.kl_sum(
                        {"mismatched_logps": model(**batch | {"labels": mismatched})["logps"]},
                        batch,
                    )
                )
        return self.kl(
            torch.stack([total for total, _ in sums]).sum(),
            torch.stack([count for _, count in sums]).sum(),
        ), replay

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint's weights but for frozen ones. T5's embeddings are one tensor under several
        names, which safetensors takes as copies only."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state, seen, frozen = {}, set(), self.frozen()
        for name, tensor in (self.model.state_dict() if state_dict is None else state_dict).items():
            if name in frozen:
                continue
            state[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
            seen.add(tensor.data_ptr())
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def frozen(self) -> set[str]:
        """Names of the weights that are not trained: with LoRA gigabytes that a checkpoint need not
        repeat."""
        return {
            name
            for name, weight in self.model.named_parameters(remove_duplicate=False)
            if not weight.requires_grad
        }

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """transformers warns of every weight a checkpoint lacks; here a trained one that it lacks
        is an error and a frozen one is as it was."""
        odd = [*set(load_result.missing_keys) - self.frozen(), *load_result.unexpected_keys]
        if odd:
            raise ValueError(
                f"a checkpoint in {Path(self.args.output_dir).name} is not of this "
                f"model: {min(odd)!r} is missing or too much; "
                "delete that folder and train again"
            )

    def watch(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Log what tells whether the policy moves with the reward: the log-ratio above and below
        the mean reward."""
        if self.objective.method == "sft":
            return
        ratio = (out["logps"].detach() - batch["ref_logps"]).float()
        for name, rows in (
            ("log_ratio_desirable", batch["desirable"]),
            ("log_ratio_undesirable", ~batch["desirable"]),
        ):
            self._watched[name] += ratio[rows].tolist()

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= {name: sum(v) / len(v) for name, v in self._watched.items() if v}
            self._watched.clear()
        super().log(logs, *args, **kwargs)


def policy_arguments(output_dir: str | Path, *, seed: int, **settings: Any) -> TrainingArguments:
    """`steps.arguments` of a policy's training, offline or online: its data's order from the seed,
    too, and one checkpoint kept."""
    return steps.arguments(
        output_dir,
        seed=seed,
        data_seed=seed,
        save_total_limit=1,
        label_names=["labels"],
        ddp_broadcast_buffers=False,
        **settings,
    )


def make_trainer(
    model: nn.Module,
    tokenizer: Any,
    groups: list[dict],
    objective: Objective,
    *,
    config: TrainingConfig,
    output_dir: str | Path,
    seed: int,
    max_grad_norm: float = 1.0,
    weight_decay: float = 0.01,
    optimizers: tuple = (None, None),
    callbacks: Sequence[TrainerCallback] = (),
    prompt_width: int = 0,
) -> PolicyTrainer:
    """A PolicyTrainer for prompt groups. AdamW, linear schedule with warm-up, gradient clipping (0:
    none), as the profile says.

    batch_size counts rows: a step takes batch_size / (mean completions a prompt) prompts, over all
    processes. prompt_width: the places that DRO's value_pooling "all" is the mean over (the
    authors: their max_length, 512 or 256), required there. Raises ValueError when KTO's mismatched
    pairs are asked for and not given, when there is no row, and for T5 in half precision.
    """
    if not groups:
        raise ValueError("there is no training row left; see the data report")
    if (
        objective.method == "kto"
        and objective.kto_kl == "mismatched"
        and "mismatched" not in groups[0]
    ):
        raise ValueError(
            "KTO's z0 needs mismatched pairs; give prompt_groups mismatched=, "
            "mismatched_ref_logps= and mismatched_real="
        )
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError(
            "fp16 is refused: T5's feed-forward activations overflow its range and "
            "give NaN; use bf16 or float32"
        )
    processes = PartialState(cpu=not torch.cuda.is_available()).num_processes
    prompts = max(
        1, round(config.batch_size * len(groups) / sum(len(g["rows"]) for g in groups)) // processes
    )
    total = -(-len(groups) // (prompts * processes)) * config.epochs
    arguments = policy_arguments(
        output_dir,
        seed=seed,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=prompts,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear",
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
        bf16=config.bf16,
        logging_steps=min(config.logging_steps, total),
        report_to=list(config.report_to),
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 500,
    )
    return PolicyTrainer(
        model=PolicyWithValue(model, objective),
        args=arguments,
        train_dataset=groups,
        objective=objective,
        pad_id=tokenizer.pad_token_id,
        micro_batch_tokens=config.micro_batch_tokens,
        prompt_width=prompt_width,
        optimizers=optimizers,
        callbacks=list(callbacks),
    )
