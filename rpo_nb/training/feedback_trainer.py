"""The kit as a library: a Trainer on scalar feedback, with the habits of Hugging Face.

    from rpo_nb import RPOConfig, RPOTrainer
    trainer = RPOTrainer(model="google/flan-t5-small", args=RPOConfig(output_dir="policy"),
                         train_dataset=dataset)  # prompt, completion, reward
    trainer.train()

It is the notebooks' own `PolicyTrainer`: a prompt is read once for all its completions, a step is
passed in micro-batches, the reference's log-probabilities are computed once. The reference policy
is the model as it is given; of a PEFT model it is the model without its adapter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments, set_seed

from rpo_nb import checks, partition
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import ROWS
from rpo_nb.config.objective import ESTIMATORS, Objective
from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.splits import weights_of
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.store import atomic_write, read_sealed, write_sealed
from rpo_nb.training import batches
from rpo_nb.training.checkpoints import save_policy
from rpo_nb.training.losses import PolicyWithValue
from rpo_nb.training.steps import Step
from rpo_nb.training.trainer import PolicyTrainer

METHODS = ("rpo", "dro", "kto", "sft", "best_of_k")
logger = logging.getLogger(__name__)


@dataclass
class FeedbackConfig(TrainingArguments):
    """TrainingArguments, and what a method on scalar feedback needs.

    An item of the data is a prompt with all its completions, so per_device_train_batch_size counts
    prompts; micro_batch_tokens bounds the memory of a step, gradient_accumulation_steps stays 1.
    """

    method: str = field(default="rpo", metadata={"help": f"One of {', '.join(METHODS)}."})
    tau: float = field(default=1.0, metadata={"help": "RPO and DRO: reward per nat of log-ratio."})
    beta: float = field(default=1.0, metadata={"help": "KTO's β."})
    estimator: str = field(
        default="empirical",
        metadata={
            "help": f"RPO: of log Ẑ, one of {', '.join(ESTIMATORS)}; empirical is eq. 19, "
            "none takes V̂ = 0."
        },
    )
    reduce: str = field(
        default="sum", metadata={"help": "Log-probability of a completion: sum, or mean a token."}
    )
    standardise: bool = field(
        default=True, metadata={"help": "Rewards in standard deviations from their mean."}
    )
    max_prompt_tokens: int = field(default=512, metadata={"help": "Longer prompts are cut."})
    max_completion_tokens: int = field(default=512, metadata={"help": "Longer ones are cut."})
    micro_batch_tokens: int = field(
        default=16384, metadata={"help": "Tokens of a pass; a step is passed in several."}
    )
    disable_dropout: bool = field(
        default=True, metadata={"help": "With it a log-ratio is exactly 0 before the first step."}
    )
    remove_unused_columns: bool = field(default=False)
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    ddp_broadcast_buffers: bool | None = field(default=False)

    def objective(self) -> Objective:
        """What is trained. Raises ValueError naming a field that is out of its range."""
        checks.known("method", self.method, METHODS)
        checks.known("reduce", self.reduce, ("sum", "mean"))
        checks.known("estimator", self.estimator, ESTIMATORS)
        for name in ("tau", "beta"):
            checks.number(name, getattr(self, name), above=0.0)
        method = ROWS[self.method].objective
        return Objective(method=method, reduce=self.reduce, tau=self.tau, beta=self.beta)


class FeedbackTrainer(PolicyTrainer):
    """A Trainer of one of METHODS on scalar feedback.

    model: a hub id, a folder, or a loaded model of transformers or peft (T5-like or causal). args:
    a FeedbackConfig. train_dataset, eval_dataset: columns prompt, completion, reward, or any other
    source or shape that `rpo_nb.load_feedback` reads. processing_class: the model's tokenizer,
    default the one beside the model. peft_config: as in peft; only its adapter is trained.

    What was set aside of the data is in `report`, RPO's diagnosis in `diagnosis`. Raises ValueError
    in one sentence for data that cannot be used, a model that would be wrong, a setting out of
    range.
    """

    config_class: type[FeedbackConfig] = FeedbackConfig

    def __init__(
        self,
        model: str | nn.Module,
        args: FeedbackConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple = (None, None),
    ):
        args = self.config_class(output_dir="policy") if args is None else args
        objective = args.objective()
        set_seed(args.seed)  # an adapter and DRO's value network start at random
        if train_dataset is None:
            raise ValueError("there is no train_dataset; give prompt, completion, reward")
        policy, self.tokenizer = _policy(model, processing_class, peft_config, args)
        policy.to(args.device)
        self.reference_scores = 0  # rows that the reference read; none where they were kept
        rows, self.report = _read(train_dataset, "train_dataset")
        rewards = np.asarray(rows["reward"], float)
        self.reward_mean, self.reward_std = 0.0, 1.0
        if args.standardise:
            self.reward_mean, self.reward_std = float(rewards.mean()), float(rewards.std()) + 1e-8
        self.diagnosis, held_out = "", None
        groups = self._groups(policy, rows, args, objective, "train")
        if eval_dataset is not None:
            others, report = _read(eval_dataset, "eval_dataset")
            self.report += report
            held_out = self._groups(policy, others, args, objective, "eval")
        super().__init__(
            model=PolicyWithValue(policy, objective),
            args=args,
            train_dataset=groups,
            eval_dataset=held_out,
            objective=objective,
            pad_id=self.tokenizer.pad_token_id,
            micro_batch_tokens=args.micro_batch_tokens,
            callbacks=list(callbacks),
            optimizers=optimizers,
        )

    def _groups(
        self, policy: nn.Module, rows: Any, args: FeedbackConfig, objective: Objective, part: str
    ) -> list[dict]:
        """The items that a part of the data is trained or evaluated on."""
        encoded = encoding.encode(
            self.tokenizer,
            conversations(rows),
            rows["completion"],
            max_prompt_tokens=args.max_prompt_tokens,
            max_completion_tokens=args.max_completion_tokens,
        )
        ids = np.asarray(rows["prompt_id"])
        rewards = (np.asarray(rows["reward"], float) - self.reward_mean) / self.reward_std
        ref_logps, chosen = np.zeros(len(rewards)), None
        if ROWS[args.method].best_only and part == "train":
            chosen = batches.best_rows(ids, rewards)
        if objective.method != "sft":
            ref_logps = self._reference(policy, encoded, args, part)
        estimator = args.estimator if args.method == "rpo" else None
        if estimator is not None and part == "train":
            found = partition.diagnostics(
                ref_logps,
                rewards,
                ids,
                tau=args.tau,
                estimator=estimator,
                reduce=args.reduce,
                lengths=[len(completion) for _, completion in encoded],
            )
            self.diagnosis = partition.summary(found)
            logger.info(self.diagnosis)
            for sentence in found["warnings"]:
                logger.warning(sentence)
        return batches.method_groups(
            objective,
            encoded,
            ids,
            rewards=rewards,
            ref_logps=ref_logps,
            estimator=estimator,
            score=lambda pairs: self._reference(policy, pairs, args, f"{part}_mismatched"),
            weights=weights_of(rows),
            rows=chosen,
        )

    def _reference(
        self, policy: nn.Module, encoded: list[batches.Pair], args: FeedbackConfig, part: str
    ) -> np.ndarray:
        """log πref(y|x) of rows [n], kept in the output folder: a training that goes on does not
        compute them again."""
        file = Path(args.output_dir) / f"reference_{part}.json"
        with args.main_process_first(desc="the reference's log-probabilities"):
            key = content_key([encoded, _weights_key(policy), args.bf16])
            kept = read_sealed(file)
            if kept is None or kept.get("key") != key:
                kept = {"key": key, "sum": _scored(policy, self.tokenizer, encoded, args).tolist()}
                self.reference_scores += len(encoded)
                if args.process_index == 0:
                    write_sealed(file, kept)
        sums = np.array(kept["sum"], np.float32)
        lengths = np.array([len(completion) for _, completion in encoded])
        return sums if args.reduce == "sum" else (sums / lengths).astype(np.float32)

    def prediction_step(self, model, inputs: Step, prediction_loss_only, ignore_keys=None):
        """The mean loss of an evaluation step's rows, nothing else."""
        total, weight = 0.0, 0.0
        with torch.no_grad():
            for part in batches.micro_batches(inputs.items, self.micro_batch_tokens):
                count = batches.total_weight(part)
                loss = self.compute_loss(model, self.batch(part))
                total, weight = total + loss.detach() * count, weight + count
        return torch.as_tensor(total / weight), None, None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The policy (of PEFT its adapter) and its tokenizer, as `from_pretrained` reads them. A
        checkpoint, which Trainer asks for itself, is all that goes on needs."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        save_policy(self, self.tokenizer, Path(output_dir or self.args.output_dir))

    def push_to_hub(self, commit_message: str = "End of training", **kwargs: Any) -> Any:
        """The policy, its tokenizer and a card that says what was trained on what, to
        args.hub_model_id. kwargs: token, private, revision."""
        from huggingface_hub import HfApi

        folder = Path(self.args.output_dir) / "to_hub"
        self.save_model(str(folder))
        if not self.is_world_process_zero():
            return None
        atomic_write(folder / "README.md", self.card())
        token = kwargs.get("token") or self.args.hub_token
        api, name = HfApi(token=token), self.args.hub_model_id or Path(self.args.output_dir).name
        private = kwargs.get("private", self.args.hub_private_repo)
        repository = api.create_repo(name, private=private, exist_ok=True).repo_id
        return api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            commit_message=commit_message,
            revision=kwargs.get("revision"),
        )

    def card(self) -> str:
        """A model card: the method with its settings, the data's size, the last logged numbers."""
        from huggingface_hub import ModelCardData

        objective, rows = self.objective, sum(len(item["rows"]) for item in self.train_dataset)
        base = getattr(self.model.policy.config, "_name_or_path", "")
        base = "" if Path(base).exists() else base  # a folder's name is nobody's business
        head = ModelCardData(
            library_name="transformers", base_model=base or None, tags=["rpo_nb", self.args.method]
        ).to_yaml()
        settings = ", ".join(f"{k} {v}" for k, v in objective.read_fields().items())
        logged = [entry for entry in self.state.log_history if "loss" in entry][-1:]
        numbers = "".join(
            f"- {name}: {value:.4g}\n"
            for entry in logged
            for name, value in entry.items()
            if isinstance(value, (int, float))
        )
        return (
            f"---\n{head}\n---\n\n# {ROWS[self.args.method].title}\n\nTrained with rpo_nb on "
            f"{rows:,} completions of {len(self.train_dataset):,} prompts ({settings}), "
            f"{self.state.global_step:,} steps.\n\n"
            + (f"{self.diagnosis}\n\n" if self.diagnosis else "")
            + (f"The last logged numbers:\n\n{numbers}" if numbers else "")
        )


def _read(source: Any, name: str) -> tuple[Any, list[dict]]:
    """Feedback, and the report of what was set aside or repaired; a warning says that there is
    one."""
    rows, report = load_feedback(source, return_report=True)
    if report:
        logger.warning("%s: %d entries were set aside or mended; see report", name, len(report))
    return rows, [entry | {"part": name} for entry in report]


def _policy(
    model: str | nn.Module, tokenizer: Any, peft_config: Any, args: FeedbackConfig
) -> tuple[nn.Module, Any]:
    """The policy as it is trained, and its tokenizer."""
    if isinstance(model, (str, Path)):
        model, own = load.load_policy(model)
    else:
        name = getattr(model.config, "_name_or_path", "")
        if tokenizer is None and not name:
            raise ValueError(
                "this model does not say where its tokenizer is; give it as processing_class"
            )
        own = load.load_tokenizer(name, model.config) if tokenizer is None else None
        load.admit(model)
    tokenizer = own if tokenizer is None else load.ready_tokenizer(tokenizer, model.config)
    if args.disable_dropout:
        load.set_dropout(model, 0.0)
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    return model, tokenizer


def _scored(
    policy: nn.Module, tokenizer: Any, encoded: list[batches.Pair], args: FeedbackConfig
) -> np.ndarray:
    """log πref of rows, float32 [n]: of the policy as it is, or without its adapter."""
    training = policy.training
    policy.eval()
    try:
        with load.adapter_off(policy) if _has_adapter(policy) else nullcontext(policy) as reference:
            return score_completions(reference, tokenizer, encoded, bf16=args.bf16)[0].numpy()
    finally:
        policy.train(training)


def _has_adapter(policy: nn.Module) -> bool:
    return hasattr(policy, "disable_adapter")


def _weights_key(policy: nn.Module) -> list[Any]:
    """What tells one reference from another without keeping its bytes: each weight's name, shape,
    sum and sum of squares; not those of an adapter, which the reference does without."""
    found = []
    for name, weight in policy.named_parameters():
        if not (_has_adapter(policy) and weight.requires_grad):
            values = weight.detach().double()
            found.append([name, list(weight.shape), float(values.sum()), float((values**2).sum())])
    return found


# The methods by name ------------------------------------------------------------------------------


@dataclass
class RPOConfig(FeedbackConfig):
    """Of paper A's RPO, its eq. 19 by default. Tuned alike (results/pocket-deep, lab_tuned_duels)
    that did better than V̂ = 0 (estimator "none") on data of other writers, and worse on the
    reference's own texts."""


@dataclass
class DROConfig(FeedbackConfig):
    """FeedbackConfig of DRO, with its value network."""

    method: str = "dro"


@dataclass
class KTOConfig(FeedbackConfig):
    """FeedbackConfig of KTO."""

    method: str = "kto"


@dataclass
class SFTConfig(FeedbackConfig):
    """FeedbackConfig of SFT on all completions; method "best_of_k" on each prompt's best."""

    method: str = "sft"


class RPOTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class = RPOConfig


class DROTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class = DROConfig


class KTOTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class = KTOConfig


class SFTTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class = SFTConfig
