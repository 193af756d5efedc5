"""Train a policy with one objective, on transformers' Trainer.

    objective = Objective(method="rpo", reduce="sum", tau=1.0)
    groups = prompt_groups(encoded, prompt_ids, rewards, ref_logps, log_partition, desirable)
    trainer = make_trainer(model, tokenizer, groups, objective, config=profile.training, output_dir=..., seed=0, reference=reference)
    trainer.train()                    # resume with trainer.train(resume_from_checkpoint=...)
    trainer.model.policy.save_pretrained(...)

One item of the data set is one prompt with all its completions, so a batch holds whole prompts: the encoder runs once a
prompt, and KTO's mismatched pairs can be made by rotation inside the micro-batch.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rpo_nb import objectives
from rpo_nb.config import Objective, TrainingConfig
from rpo_nb.policy import IGNORE, adapter_off, autocast, collate, decoder_logps, exchange, grouped_logps
from rpo_nb.store import finished, write_json

ROW_FIELDS = ("rewards", "ref_logps", "log_partition", "desirable", "rows")
VALUE_WIDTH = 512  # paper A's value network: hidden → 512 → tanh → 1


class PolicyWithValue(nn.Module):
    """A policy, and for DRO its value network, behind one forward: batch in, log-probabilities and values out.

    One module, so that data-parallel wrappers see every parameter.
    """

    def __init__(self, policy: nn.Module, objective: Objective):
        super().__init__()
        self.policy, self.objective = policy, objective
        self.config = policy.config
        width = policy.config.d_model if policy.config.is_encoder_decoder else policy.config.hidden_size
        self.value = nn.Sequential(nn.Linear(width, VALUE_WIDTH), nn.Tanh(), nn.Linear(VALUE_WIDTH, 1)) if objective.method == "dro" else None

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        logps, states = grouped_logps(self.policy, batch, reduce=self.objective.reduce)
        out = {"logps": logps, "states": states}
        if self.value is not None:
            values = self.value(self.pool(states, batch)).squeeze(-1).float()
            out["values"] = values[batch["group"]] if self.config.is_encoder_decoder else values
        return out

    def pool(self, states: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean of the prompt's states [U, S, d] → [U, d]."""
        states = states.detach() if self.objective.value_detach else states
        if self.objective.value_pooling == "all":
            return states.mean(1)
        mask = batch["attention_mask"]
        if not self.config.is_encoder_decoder:  # the value may see the prompt, never the completion
            mask = mask * (batch["labels"] == IGNORE)
        mask = mask.unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)


# Losses of a batch: (objective, forward's output, batch, z0) -> [n] ----------------------------------------------------------

def _sft(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.sft(out["logps"])


def _rpo(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.rpo(out["logps"], batch["ref_logps"], batch["rewards"], batch["log_partition"], tau=objective.tau)


def _dro(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.dro(out["logps"], batch["ref_logps"], batch["rewards"], out["values"], tau=objective.tau)


def _kto(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.kto(out["logps"], batch["ref_logps"], batch["desirable"], kl, beta=objective.beta)


LOSSES = {"sft": _sft, "rpo": _rpo, "dro": _dro, "kto": _kto}


def rotation(group: Tensor) -> tuple[Tensor, Tensor]:
    """A mismatched completion for each row: indices [n] into the batch, and whether its prompt really is another, bool [n].

    Rotating by the size of the largest group pairs every row with another prompt as soon as no group fills more than half
    of the batch; rows that still meet their own prompt do not count.
    """
    shift = int(torch.bincount(group).max())
    index = torch.arange(len(group), device=group.device).roll(-shift)
    return index, group[index] != group


def prompt_groups(encoded: Sequence[tuple[list[int], list[int]]], prompt_ids: Sequence[int], **fields: Sequence[float]) -> list[dict]:
    """Rows to one item a prompt: its ids, its completions, and of each completion its row number and the given fields.

    fields: rewards, ref_logps, log_partition, desirable, one value a row; those left out are 0.
    """
    groups: dict[int, dict] = defaultdict(lambda: {"encoded": [], **{f: [] for f in ROW_FIELDS}})
    for row, (pair, prompt) in enumerate(zip(encoded, prompt_ids, strict=True)):
        groups[prompt]["encoded"].append(pair)
        groups[prompt]["rows"].append(row)
        for field in ROW_FIELDS[:-1]:
            groups[prompt][field].append(float(fields[field][row]) if field in fields else 0.0)
    return list(groups.values())


class GroupCollator:
    """Items of `prompt_groups` to one batch of tensors."""

    def __init__(self, pad_id: int, seq2seq: bool):
        self.pad_id, self.seq2seq = pad_id, seq2seq

    def __call__(self, items: Sequence[dict]) -> dict[str, Tensor]:
        batch = collate([pair for item in items for pair in item["encoded"]], pad_id=self.pad_id, seq2seq=self.seq2seq)
        for field in ROW_FIELDS:
            batch[field] = torch.tensor([value for item in items for value in item[field]])
        batch["desirable"] = batch["desirable"].bool()
        return batch


class PolicyTrainer(Trainer):
    """transformers' Trainer with our losses. The loss of a step is the mean over the rows of all its micro-batches."""

    def __init__(self, *args, objective: Objective, reference: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.objective = objective
        self.reference = reference  # only KTO's mismatched pairs need it: no cache can hold them; None: the adapter switched off
        self.model_accepts_loss_kwargs = True  # the loss below is already divided by the rows of the whole step
        self.loss_is_scaled_for_ga = True
        self._watched: dict[str, list[float]] = defaultdict(list)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        rows = torch.tensor(sum(len(b["rewards"]) for b in batch_samples), device=device)
        return self.accelerator.gather(rows).sum() if self.args.world_size > 1 else rows

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        out = model(**inputs)
        try:
            losses = LOSSES[self.objective.method](self.objective, out, inputs, self.baseline(out, inputs))
        except ValueError as error:
            raise ValueError(f"step {self.state.global_step}: {error} (training rows {inputs['rows'].tolist()})") from error
        if not bool(losses.isfinite().all()):
            bad = inputs["rows"][~losses.isfinite()].tolist()
            raise ValueError(f"step {self.state.global_step}: the loss of training row {bad[0]} is not finite; lower the learning rate or drop that row")
        self.watch(out, inputs)
        rows = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / rows * (self.args.world_size if num_items_in_batch is not None else 1)
        return (loss, out) if return_outputs else loss

    def baseline(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor | None:
        """KTO's z0 over the micro-batches of all processes; None for the other methods."""
        if self.objective.method != "kto":
            return None
        if self.objective.kto_kl == "matched":
            kl, count = objectives.kto_kl(out["logps"], batch["ref_logps"], clamp=False), torch.tensor(len(out["logps"]))
        else:
            index, other = rotation(batch["group"])
            kl, count = self.mismatched_kl(out["states"], batch, index, other), other.sum()
        if self.args.world_size > 1:  # the mean over all rows, clamped after: not the mean of clamped means
            total, rows = self.accelerator.reduce(torch.stack([kl * count.to(kl.device), count.to(kl)]), "sum")
            kl = total / rows.clamp(min=1)
        return kl if self.objective.kto_kl == "matched" else kl.clamp(min=0)

    @torch.no_grad()
    def mismatched_kl(self, states: Tensor, batch: dict[str, Tensor], index: Tensor, other: Tensor) -> Tensor:
        """Mean log-ratio of the pairs (x_i, y_index[i]) that are of other prompts; the policy's encoder states are used again."""
        policy = self.accelerator.unwrap_model(self.model).policy
        with autocast(self.args.bf16):  # outside the model's own forward, which the Trainer wraps
            return self._mismatched_kl(policy, states, batch, index, other)

    def _mismatched_kl(self, policy: nn.Module, states: Tensor, batch: dict[str, Tensor], index: Tensor, other: Tensor) -> Tensor:
        if policy.config.is_encoder_decoder:
            rotated = {**batch, "labels": batch["labels"][index]}
            mine = decoder_logps(policy, states, rotated, reduce=self.objective.reduce)
        else:
            rotated = exchange(batch, index, pad_id=self.data_collator.pad_id)
            mine, _ = grouped_logps(policy, rotated, reduce=self.objective.reduce)
        with adapter_off(policy) if self.reference is None else nullcontext(self.reference) as reference:
            theirs, _ = grouped_logps(reference, rotated, reduce=self.objective.reduce)
        return objectives.kto_kl(mine, theirs, mask=other, clamp=False)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint's weights. T5's embeddings are one tensor under several names, which safetensors takes as copies only."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state, seen = {}, set()
        for name, tensor in (self.model.state_dict() if state_dict is None else state_dict).items():
            state[name] = tensor.clone() if tensor.data_ptr() in seen else tensor.contiguous()
            seen.add(tensor.data_ptr())
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def watch(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Log what tells whether the policy moves with the reward: the log-ratio above and below the mean reward."""
        if self.objective.method == "sft":
            return
        ratio = (out["logps"].detach() - batch["ref_logps"]).float()
        for name, rows in (("log_ratio_desirable", batch["desirable"]), ("log_ratio_undesirable", ~batch["desirable"])):
            self._watched[name] += ratio[rows].tolist()

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            logs |= {name: sum(v) / len(v) for name, v in self._watched.items() if v}
            self._watched.clear()
        super().log(logs, *args, **kwargs)


def make_trainer(model: nn.Module, tokenizer: Any, groups: list[dict], objective: Objective, *, config: TrainingConfig, output_dir: str | Path,
                 seed: int, reference: nn.Module | None = None, max_grad_norm: float = 1.0, weight_decay: float = 0.01,
                 optimizers: tuple = (None, None), callbacks: Sequence[TrainerCallback] = ()) -> PolicyTrainer:
    """A PolicyTrainer for prompt groups. AdamW, linear schedule with warm-up, gradient clipping (0: none), as the profile says.

    batch_size counts rows: a step takes batch_size / (mean completions a prompt) prompts, over all processes. Raises ValueError when KTO's
    mismatched pairs are asked for without a reference, when there is no row, and for T5 in half precision.
    """
    if not groups:
        raise ValueError("there is no training row left; see the data report")
    if objective.method == "kto" and objective.kto_kl == "mismatched" and reference is None and not hasattr(model, "disable_adapter"):
        raise ValueError("KTO's mismatched pairs need the reference policy; pass reference=")
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError("fp16 is refused: T5's feed-forward activations overflow its range and give NaN; use bf16 or float32")
    per_prompt = sum(len(g["rows"]) for g in groups) / len(groups)
    on_cpu = not torch.cuda.is_available()
    processes = PartialState(cpu=on_cpu).num_processes
    step = max(1, round(config.batch_size / per_prompt))
    micro = max(1, min(round(config.micro_batch_size / per_prompt), step // processes))
    accumulation = max(1, step // (micro * processes))
    steps = -(-len(groups) // (micro * processes * accumulation)) * config.epochs
    arguments = TrainingArguments(
        output_dir=str(output_dir), num_train_epochs=config.epochs, per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation, learning_rate=config.learning_rate, warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear", max_grad_norm=max_grad_norm, weight_decay=weight_decay, bf16=config.bf16,
        logging_steps=min(config.logging_steps, steps), report_to=list(config.report_to), disable_tqdm=True, remove_unused_columns=False,
        save_strategy="steps" if config.save_steps else "no", save_steps=config.save_steps or 500, save_total_limit=1,
        seed=seed, data_seed=seed, use_cpu=on_cpu, dataloader_pin_memory=not on_cpu, label_names=["labels"])
    trainer = PolicyTrainer(
        model=PolicyWithValue(model, objective), args=arguments, train_dataset=groups, objective=objective, reference=reference,
        data_collator=GroupCollator(tokenizer.pad_token_id, model.config.is_encoder_decoder), optimizers=optimizers, callbacks=list(callbacks))
    trainer.remove_callback(PrinterCallback)  # the notebook shows learning curves and a progress bar instead
    return trainer


def history(trainer: Trainer) -> list[dict[str, float]]:
    """The learning curve: step, loss, grad_norm, learning_rate and what `watch` logged."""
    return [{k: v for k, v in entry.items() if k != "epoch"} for entry in trainer.state.log_history if "loss" in entry]


class Elapsed(TrainerCallback):
    """Seconds of a training over all its starts: kept beside each checkpoint, so that a resumed one does not forget them.

    checkpoint: where it goes on from, None for the beginning.
    """

    FILE = "seconds.json"

    def __init__(self, checkpoint: str | None):
        file = Path(checkpoint or "") / self.FILE
        self.before = json.loads(file.read_text(encoding="utf-8"))["seconds"] if checkpoint and file.is_file() else 0.0
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_json(Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.FILE, {"seconds": self.seconds})


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest complete checkpoint of a training, None where there is none.

    Trainer writes its state last, so a checkpoint whose state cannot be read was being written when the process was killed.
    """
    def complete(checkpoint: Path) -> bool:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return True

    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda f: int(f.name.rpartition("-")[2]), reverse=True)
    return next((str(checkpoint) for checkpoint in found if complete(checkpoint)), None)


def save_policy(trainer: PolicyTrainer, tokenizer: Any, folder: Path, *, base: str = "") -> None:
    """The trained policy (of LoRA its adapter) and its tokenizer, all or nothing, by the first process; every process calls it,
    since with FSDP each holds a part. base: the id an adapter names as the model it belongs to."""
    accelerator, policy = trainer.accelerator, trainer.accelerator.unwrap_model(trainer.model).policy
    state, adapter = None, hasattr(policy, "peft_config")
    if trainer.is_fsdp_enabled:
        whole = accelerator.get_state_dict(trainer.model_wrapped)
        state = {name.removeprefix("policy."): tensor for name, tensor in whole.items() if name.startswith("policy.")}
    if accelerator.is_main_process:
        if base and adapter:
            for config in policy.peft_config.values():
                config.base_model_name_or_path = base  # not the path of this machine
        with finished(Path(folder)) as temporary:
            # no embeddings: they are not trained, and peft would ask the hub for the base's configuration
            policy.save_pretrained(temporary, state_dict=state, **{"save_embedding_layers": False} if adapter else {})
            tokenizer.save_pretrained(temporary)
