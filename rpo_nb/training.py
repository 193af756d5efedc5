"""Train a policy with one objective, on transformers' Trainer.

    objective = Objective(method="rpo", reduce="sum", tau=1.0)
    groups = prompt_groups(encoded, prompt_ids, rewards=rewards, ref_logps=ref_logps, log_partition=log_partition)
    trainer = make_trainer(model, tokenizer, groups, objective, config=profile.training, output_dir=..., seed=0)
    trainer.train()                    # resume with trainer.train(resume_from_checkpoint=...)
    trainer.model.policy.save_pretrained(...)

One item of the data set is one prompt with all its completions, so a batch holds whole prompts, each read once. A batch of the
Trainer is one optimiser step; it is passed in micro-batches of a token budget, long prompts with long ones.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rpo_nb import checks, objectives, reward_aware
from rpo_nb.config import Objective, TrainingConfig
from rpo_nb.forward import causal_states, states_width
from rpo_nb.policy import collate, grouped_logps
from rpo_nb.steps import Step, StepTrainer, replayed
from rpo_nb.store import STAMP, finished, seal, sealed, write_json

ROW_FIELDS = ("rewards", "ref_logps", "log_partition", "desirable")  # of every item; others are added by name
VALUE_WIDTH = 512  # paper A's value network: hidden → 512 → tanh → 1


class PolicyWithValue(nn.Module):
    """A policy, and for DRO its value network, behind one forward: batch in, log-probabilities and values out.

    One module, so that data-parallel wrappers see every parameter.
    """

    def __init__(self, policy: nn.Module, objective: Objective):
        super().__init__()
        self.policy, self.objective = policy, objective
        self.config = policy.config
        width = states_width(policy)
        self.value = nn.Sequential(nn.Linear(width, VALUE_WIDTH), nn.Tanh(), nn.Linear(VALUE_WIDTH, 1)) if objective.method == "dro" else None

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        padded = self.value is not None and self.objective.value_pooling == "all"
        scored = grouped_logps(self.policy, batch, reduce=self.objective.reduce, exact_padding=padded)
        if padded and not self.config.is_encoder_decoder:  # whole rows have no padding between prompt and completion
            scored = replace(scored, states=causal_states(self.policy, batch["input_ids"], batch["attention_mask"]))
        out = {"logps": scored.logps}
        if scored.mismatched is not None:
            out["mismatched_logps"] = scored.mismatched
        if self.value is not None:
            out["values"] = self.value(self.pool(scored.states, batch["attention_mask"])).squeeze(-1).float()[batch["group"]]
        return out

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Mean of the prompts' states [U, S, d] → [U, d]; the value may see the prompt, never a completion. "all": over all S places,
        as many for every batch (`make_trainer`)."""
        states = states.detach() if self.objective.value_detach else states
        if self.objective.value_pooling == "all":
            return states.mean(1)
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


def _qrpo(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return objectives.qrpo(out["logps"], batch["ref_logps"], batch["rewards"], batch["ref_rewards"], beta=objective.beta)


def _reward_aware(objective: Objective, out: dict, batch: dict, kl: Any) -> Tensor:
    return reward_aware.tuple_losses(out["logps"], batch["ref_logps"], batch["rewards"], batch["group"], objective.setting)


LOSSES = {"sft": _sft, "rpo": _rpo, "dro": _dro, "kto": _kto, "qrpo": _qrpo, "reward_aware": _reward_aware}


def mismatched_rows(prompt_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each row the row whose completion KTO reads under its prompt, [n], and whether that is another prompt's, bool [n].

    Rows are rotated, prompt by prompt, by the size of the largest: every row meets another prompt as soon as none has more
    than half of the rows. The pairs are fixed for a training, so that the reference reads them once (as TRL's KTO does).
    """
    ids = np.asarray(prompt_ids)
    order = np.argsort(ids, kind="stable")
    partner = np.empty(len(ids), dtype=int)
    partner[order] = np.roll(order, -int(np.unique(ids, return_counts=True)[1].max()))
    return partner, ids[partner] != ids


def desirable_rows(rewards: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """What KTO takes as desirable, bool [n]: of two values, which are labels, the upper; of more, what
    is not below their (weighted) mean."""
    values = np.unique(rewards)
    return rewards >= (values[1] if len(values) == 2 else np.average(rewards, weights=weights))


def total_weight(items: Sequence[dict]) -> float:
    """What the loss of some prompts is the mean over: their rows, each as often as its weight says."""
    return sum(sum(item["weights"]) if "weights" in item else len(item["rows"]) for item in items)


def prompt_groups(encoded: Sequence[tuple[list[int], list[int]]], prompt_ids: Sequence[int], *, mismatched: Sequence[list[int]] = (),
                  weights: Sequence[float] | None = None, **fields: Sequence[Any]) -> list[dict]:
    """Rows to one item a prompt: its ids, its completions, and of each completion its row number and the given fields.

    weights [n], 0 and more: a row's loss counts so often; a row of weight 0 is left out, and weights
    that are all 1 are none.

    fields: one value a row, or one list of m values a row; rewards, ref_logps, log_partition and desirable are 0 when left out.
    mismatched: the completion of another prompt that each row is scored with beside its own, with the fields
    mismatched_ref_logps and mismatched_real.
    """
    fields = {name: np.zeros(len(encoded)) for name in ROW_FIELDS} | {name: np.asarray(values) for name, values in fields.items()}
    weights = None if weights is None else checks.weights(weights)
    if weights is not None and (weights != 1).any():
        fields["weights"] = weights
    groups: dict[int, dict] = {}
    for row, (pair, prompt) in enumerate(zip(encoded, prompt_ids, strict=True)):
        if weights is not None and weights[row] == 0:
            continue
        item = groups.setdefault(prompt, {"encoded": [], "rows": [], **({"mismatched": []} if mismatched else {}), **{f: [] for f in fields}})
        item["encoded"].append(pair)
        item["rows"].append(row)
        if mismatched:
            item["mismatched"].append(mismatched[row])
        for name, values in fields.items():
            item[name].append(values[row].astype(float).tolist())
    return list(groups.values())


class GroupCollator:
    """Items of `prompt_groups` to one batch of tensors, `group` the number of a row's item. width: the prompts' least width."""

    def __init__(self, pad_id: int, width: int = 0):
        self.pad_id, self.width = pad_id, width

    def __call__(self, items: Sequence[dict]) -> dict[str, Tensor]:
        def rows(name: str) -> list:
            return [value for item in items for value in item.get(name, ())]

        numbers = [number for number, item in enumerate(items) for _ in item["encoded"]]
        batch = collate(rows("encoded"), pad_id=self.pad_id, mismatched=rows("mismatched"), items=numbers, width=self.width)
        for name in items[0].keys() - {"encoded", "mismatched"}:
            batch[name] = torch.tensor(rows(name))
        batch["desirable"] = batch["desirable"].bool()
        return batch


def micro_batches(items: Sequence[dict], tokens: int, *, at_least: int = 1, width: int = 0) -> list[list[dict]]:
    """The prompts of a step in parts of at most so many tokens (prompts and completions, without padding but to `width`), the
    longest first; a prompt that has more stands alone. at_least: so many parts where there are prompts enough."""
    def size(item: dict) -> int:
        return max(len(item["encoded"][0][0]), width) + sum(len(completion) for _, completion in item["encoded"])

    parts: list[list[dict]] = [[]]
    room = tokens
    for item in sorted(items, key=size, reverse=True) if sum(map(size, items)) > tokens or at_least > 1 else items:
        if parts[-1] and size(item) > room:
            parts.append([])
            room = tokens
        parts[-1].append(item)
        room -= size(item)
    while len(parts) < min(at_least, len(items)):
        largest = max(parts, key=len)
        parts.insert(parts.index(largest) + 1, [largest.pop() for _ in range(len(largest) // 2)])
    return parts


class PolicyTrainer(StepTrainer):
    """A StepTrainer with our losses. The loss of a step is the (weighted) mean over its rows, whatever its micro-batches."""

    def __init__(self, *, objective: Objective, pad_id: int, micro_batch_tokens: int, prompt_width: int = 0, **kwargs):
        width = prompt_width if objective.method == "dro" and objective.value_pooling == "all" else 0
        if objective.method == "dro" and objective.value_pooling == "all" and not width:
            raise ValueError("value_pooling 'all' is the mean over a fixed number of places; give prompt_width, or take 'masked'")
        super().__init__(**kwargs)
        self.objective, self.micro_batch_tokens = objective, micro_batch_tokens
        self.collate = GroupCollator(pad_id, width)
        self._watched: dict[str, list[float]] = defaultdict(list)

    def batch(self, items: Sequence[dict]) -> dict[str, Tensor]:
        """Items as one batch on the device."""
        return {name: tensor.to(self.args.device) for name, tensor in self.collate(items).items()}

    def training_step(self, model, inputs, num_items_in_batch=None):
        def parts_of(at_least: int) -> list[list[dict]]:
            return micro_batches(inputs.items, self.micro_batch_tokens, at_least=at_least, width=self.collate.width)

        parts, rows = parts_of(1), torch.tensor(total_weight(inputs.items), device=self.args.device)
        if self.args.world_size > 1:  # all processes pass as many: with FSDP each pass is one of all of them
            most, rows = self.accelerator.gather(torch.stack([rows.new_tensor(len(parts)), rows])[None]).unbind(1)
            parts, rows = parts_of(int(most.max())), rows.sum()
        z0, replay = self.step_kl(model, parts) if self.objective.method == "kto" and len(parts) > 1 else (None, [])
        loss = 0.0
        for i, part in enumerate(parts):
            if replay:
                replay[i]()
            with self.accelerator.no_sync(model) if i + 1 < len(parts) else nullcontext():
                loss += super().training_step(model, self.collate(part) | ({} if z0 is None else {"z0": z0}), rows)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        z0 = inputs.pop("z0", None)
        out = model(**inputs)
        if self.objective.method == "kto" and z0 is None:
            z0 = self.kl(*self.kl_sum(out, inputs))
        try:
            losses = LOSSES[self.objective.method](self.objective, out, inputs, z0)
        except ValueError as error:
            raise type(error)(f"step {self.state.global_step}: {error} (training rows {inputs['rows'].tolist()})") from error
        if not bool(losses.isfinite().all()):
            bad = inputs["rows"][~losses.isfinite()].tolist()
            raise checks.NotFinite(f"step {self.state.global_step}: the loss of training row {bad[0]} is not finite; lower the learning rate "
                                   "or drop that row")
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
            mine, theirs, real = out["logps"], batch["ref_logps"], torch.ones_like(batch["desirable"])
        else:
            mine, theirs, real = out["mismatched_logps"], batch["mismatched_ref_logps"], batch["mismatched_real"].bool()
        if "weights" in batch:
            counted = batch["weights"] * real
            return ((mine - theirs).detach() * counted).sum(), counted.sum()
        return objectives.kto_kl(mine, theirs, clamp=False, mask=real) * real.sum(), real.sum()

    def kl(self, total: Tensor, count: Tensor) -> Tensor:
        """KTO's z0 over all processes: of mismatched pairs the mean log-ratio clamped at 0, of matched ones unclamped (the authors' code)."""
        if self.args.world_size > 1:  # the mean over all rows, clamped after: not the mean of clamped means
            total, count = self.accelerator.reduce(torch.stack([total, count.to(total)]), "sum")
        kl = total / count.where(count > 0, torch.ones_like(count))
        return kl if self.objective.kto_kl == "matched" else kl.clamp(min=0)

    @torch.no_grad()
    def step_kl(self, model: nn.Module, parts: list[list[dict]]) -> tuple[Tensor, list[Callable[[], None]]]:
        """KTO's z0 over the micro-batches of a step, before the first of them is passed with gradients; and what to call before each
        of those passes, so that dropout drops there what it dropped here."""
        sums, replay = [], []
        model.train()  # as Trainer does only when it passes the first batch
        for part in parts:
            batch = self.batch(part)
            mismatched = batch.pop("mismatched", None)
            replay.append(replayed(batch["input_ids"]))
            if self.objective.kto_kl == "matched":
                sums.append(self.kl_sum(model(**batch), batch))
            else:
                sums.append(self.kl_sum({"mismatched_logps": model(**batch | {"labels": mismatched})["logps"]}, batch))
        return self.kl(torch.stack([total for total, _ in sums]).sum(), torch.stack([count for _, count in sums]).sum()), replay

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """A checkpoint's weights but for frozen ones. T5's embeddings are one tensor under several names, which safetensors takes as copies only."""
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
        """Names of the weights that are not trained: with LoRA gigabytes that a checkpoint need not repeat."""
        return {name for name, weight in self.model.named_parameters(remove_duplicate=False) if not weight.requires_grad}

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """transformers warns of every weight a checkpoint lacks; here a trained one that it lacks is an error and a frozen one is as it was."""
        odd = [*set(load_result.missing_keys) - self.frozen(), *load_result.unexpected_keys]
        if odd:
            raise ValueError(f"a checkpoint in {Path(self.args.output_dir).name} is not of this model: {min(odd)!r} is missing or too much; "
                             "delete that folder and train again")

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
                 seed: int, max_grad_norm: float = 1.0, weight_decay: float = 0.01, optimizers: tuple = (None, None),
                 callbacks: Sequence[TrainerCallback] = (), prompt_width: int = 0) -> PolicyTrainer:
    """A PolicyTrainer for prompt groups. AdamW, linear schedule with warm-up, gradient clipping (0: none), as the profile says.

    batch_size counts rows: a step takes batch_size / (mean completions a prompt) prompts, over all processes. prompt_width: the places
    that DRO's value_pooling "all" is the mean over (the authors: their max_length, 512 or 256), required there. Raises ValueError when KTO's
    mismatched pairs are asked for and not given, when there is no row, and for T5 in half precision.
    """
    if not groups:
        raise ValueError("there is no training row left; see the data report")
    if objective.method == "kto" and objective.kto_kl == "mismatched" and "mismatched" not in groups[0]:
        raise ValueError("KTO's z0 needs mismatched pairs; give prompt_groups mismatched=, mismatched_ref_logps= and mismatched_real=")
    if next(model.parameters()).dtype == torch.float16:
        raise ValueError("fp16 is refused: T5's feed-forward activations overflow its range and give NaN; use bf16 or float32")
    on_cpu = not torch.cuda.is_available()
    processes = PartialState(cpu=on_cpu).num_processes
    prompts = max(1, round(config.batch_size * len(groups) / sum(len(g["rows"]) for g in groups)) // processes)
    steps = -(-len(groups) // (prompts * processes)) * config.epochs
    arguments = TrainingArguments(
        output_dir=str(output_dir), num_train_epochs=config.epochs, per_device_train_batch_size=prompts,
        learning_rate=config.learning_rate, warmup_steps=config.warmup_steps,
        lr_scheduler_type="linear", max_grad_norm=max_grad_norm, weight_decay=weight_decay, bf16=config.bf16,
        logging_steps=min(config.logging_steps, steps), report_to=list(config.report_to), disable_tqdm=True, remove_unused_columns=False,
        save_strategy="steps" if config.save_steps else "no", save_steps=config.save_steps or 500, save_total_limit=1,
        seed=seed, data_seed=seed, use_cpu=on_cpu, dataloader_pin_memory=False, label_names=["labels"], ddp_broadcast_buffers=False)
    trainer = PolicyTrainer(
        model=PolicyWithValue(model, objective), args=arguments, train_dataset=groups, objective=objective, pad_id=tokenizer.pad_token_id,
        micro_batch_tokens=config.micro_batch_tokens, prompt_width=prompt_width, optimizers=optimizers, callbacks=list(callbacks))
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
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            write_json(checkpoint / self.FILE, {"seconds": self.seconds})
            # the other processes may still be writing theirs
            seal(checkpoint, leave_out=tuple(f"rng_state_{i}.pth" for i in range(1, args.world_size)))


def last_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a training, None where there is none: one that was being written when the process was killed
    has no stamp, and one that is not as it was written is told and passed over."""
    def complete(checkpoint: Path) -> bool:
        return (checkpoint / STAMP).is_file() and sealed(checkpoint) is not None

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
