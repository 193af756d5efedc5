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
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, set_seed
from transformers.trainer_utils import HubStrategy

from rpo_nb import partition
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import ROWS
from rpo_nb.config.objective import Objective
from rpo_nb.data.splits import weights_of
from rpo_nb.policy import load
from rpo_nb.policy.logps import score_completions
from rpo_nb.store import atomic_write, read_sealed, write_sealed
from rpo_nb.training import batches, feedback_rows
from rpo_nb.training.checkpoints import save_policy
from rpo_nb.training.feedback_config import (
    METHODS,
    DROConfig,
    FeedbackConfig,
    KTOConfig,
    RPOConfig,
    SFTConfig,
)
from rpo_nb.training.feedback_policy import Trained, policy_of, trained_weights
from rpo_nb.training.steps import Step
from rpo_nb.training.trainer import PolicyTrainer

logger = logging.getLogger(__name__)


class FeedbackTrainer(PolicyTrainer):
    """A Trainer of one of METHODS on scalar feedback.

    model: a hub id, a folder, or a loaded model of transformers or peft (T5-like or causal). args:
    a FeedbackConfig. train_dataset: columns prompt, completion, reward, or any other source or
    shape that `rpo_nb.load_feedback` reads, and what it returns. eval_dataset: the same, or several
    in a dict; rewards are on the scale of the training rows. processing_class: the model's
    tokenizer, default the one beside the model. peft_config: as in peft, of methods that change
    layers; only its adapter is trained.

    What was set aside of the data is in `report`, RPO's diagnosis in `diagnosis`. eval_loss is the
    mean over rows, as the training's loss is (KTO's z0 is that of a batch). Raises ValueError in
    one sentence for data that cannot be used, a model that would be wrong, a setting out of range.
    """

    config_class: type[FeedbackConfig] = FeedbackConfig
    methods: tuple[str, ...] = METHODS

    def __init__(
        self,
        model: str | nn.Module,
        args: FeedbackConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
    ):
        args = self.config_class(output_dir="policy") if args is None else args
        objective = self._objective(args)
        set_seed(args.seed)  # an adapter and DRO's value network start at random
        if train_dataset is None:
            raise ValueError("there is no train_dataset; give prompt, completion, reward")
        policy, self.tokenizer = policy_of(
            model, processing_class, peft_config, dropout=not args.disable_dropout
        )
        policy.to(args.device)
        self.reference_scores = 0  # rows that the reference read; none where they were kept
        rows, self.report = feedback_rows.read(train_dataset, "train_dataset")
        self.scale = feedback_rows.Scale.of(rows, standardise=args.standardise)
        if objective.method != "sft" and len(set(rows["reward"])) == 1:
            raise ValueError(
                f"train_dataset: all {len(rows)} rewards are {rows['reward'][0]:g}, so none says "
                "what is better; give rewards that differ, or train SFT"
            )
        self.diagnosis, self._evaluated = "", [0.0, 0.0]
        groups, held_out = self._groups(policy, rows, args, objective, "train"), None
        if eval_dataset is not None:
            held_out = {
                name: self._held_out(policy, source, args, objective, f"eval_{i}" if i else "eval")
                for i, (name, source) in enumerate(
                    feedback_rows.held_out(eval_dataset, train_dataset).items()
                )
            }
            held_out = held_out[""] if list(held_out) == [""] else held_out
        super().__init__(
            model=Trained(policy, objective),
            args=args,
            train_dataset=groups,
            eval_dataset=held_out,
            objective=objective,
            pad_id=self.tokenizer.pad_token_id,
            micro_batch_tokens=args.micro_batch_tokens,
            callbacks=list(callbacks or ()),
            optimizers=optimizers,
        )

    def _objective(self, args: Any) -> Objective:
        """What is trained, of one of this trainer's methods."""
        if not isinstance(args, FeedbackConfig):
            raise ValueError(
                f"args is a {type(args).__name__}; give a {self.config_class.__name__}, which has "
                "every field of TrainingArguments"
            )
        objective = args.objective()
        if args.method not in self.methods:
            raise ValueError(
                f"{type(self).__name__} trains {' or '.join(self.methods)}, and args.method is "
                f"{args.method!r}; give a {self.config_class.__name__}, or another trainer"
            )
        return objective

    def _held_out(
        self, policy: nn.Module, source: Any, args: FeedbackConfig, objective: Objective, part: str
    ) -> list[dict]:
        """The items of an evaluation set; what is desirable there is so in the training rows."""
        rows, report = feedback_rows.read(source, "eval_dataset")
        self.report += report
        groups = self._groups(policy, rows, args, objective, part)
        for item in groups:
            item["desirable"] = [float(one >= self.scale.desirable) for one in item["rewards"]]
        return groups

    def _groups(
        self, policy: nn.Module, rows: Any, args: FeedbackConfig, objective: Objective, part: str
    ) -> list[dict]:
        """The items that a part of the data is trained or evaluated on."""
        limits = args.max_prompt_tokens, args.max_completion_tokens
        encoded = feedback_rows.encoded(self.tokenizer, rows, limits, part)
        ids, rewards = np.asarray(rows["prompt_id"]), self.scale(rows)
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

    def watch(self, out: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        """Of training alone: an evaluation between two steps is none of the step's log."""
        if torch.is_grad_enabled():
            super().watch(out, batch)

    def prediction_step(self, model, inputs: Step, prediction_loss_only, ignore_keys=None):
        """The mean loss of an evaluation step's rows, nothing else."""
        total, weight = 0.0, 0.0
        with torch.no_grad():
            for part in batches.micro_batches(inputs.items, self.micro_batch_tokens):
                count = batches.total_weight(part)
                loss = self.compute_loss(model, self.batch(part))
                total, weight = total + loss.detach() * count, weight + count
        self._evaluated[0] += float(total)
        self._evaluated[1] += float(weight)
        return torch.as_tensor(total / weight), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's, with the loss as the mean over all rows: Trainer's own is one over batches,
        and so depends on how many prompts are in one."""
        self._evaluated = [0.0, 0.0]
        found = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        sums = torch.tensor(self._evaluated, device=self.args.device)
        total, weight = self.accelerator.reduce(sums, "sum").tolist()
        found.metrics[f"{metric_key_prefix}_loss"] = total / weight
        return found

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer's; eval_dataset: also feedback as the trainer's own, see `_asked`."""
        return super().evaluate(self._asked(eval_dataset), *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's, which here has a loss and no predictions."""
        return super().predict(self._asked(test_dataset), *args, **kwargs)

    def _asked(self, source: Any) -> Any:
        """Items of feedback that was not given as eval_dataset. ValueError where its reference's
        log-probabilities can no longer be had."""
        named = isinstance(self.eval_dataset, dict) and isinstance(source, str)
        items = isinstance(source, list) and source and "encoded" in source[0]
        if source is None or items or (named and source in self.eval_dataset):
            return source
        policy = self.accelerator.unwrap_model(self.model).policy
        if not (self.objective.method == "sft" or hasattr(policy, "disable_adapter")):
            raise ValueError(
                "the reference is the model before its training, which is no longer here; give "
                "this feedback as eval_dataset when the trainer is made"
            )
        given = feedback_rows.held_out(source, None)
        found = {
            name: self._held_out(policy, one, self.args, self.objective, "asked")
            for name, one in given.items()
        }
        return found[""] if list(found) == [""] else found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The policy (of PEFT its adapter) and its tokenizer, as `from_pretrained` reads them;
        other files of the folder stay. With args.push_to_hub it is pushed, too. A checkpoint,
        which Trainer asks for itself, is all that goes on needs."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        self._write(Path(output_dir or self.args.output_dir))
        if self.args.push_to_hub:
            self.push_to_hub("Model save")

    def _write(self, folder: Path) -> None:
        """The policy's files, each whole or absent, into a folder that may have others."""
        folder = folder.resolve()
        written = folder / ".policy"
        save_policy(self, self.tokenizer, written)
        if self.is_world_process_zero():
            for file in sorted(written.iterdir()):
                if file.is_dir():  # of an adapter that has a name
                    shutil.rmtree(folder / file.name, ignore_errors=True)
                os.replace(file, folder / file.name)
            written.rmdir()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """What Trainer pushes at a save: the policy, which `from_pretrained` reads, and not the
        checkpoint, which it does not."""
        if self.args.hub_strategy != HubStrategy.END:
            self.push_to_hub(f"Training in progress, step {self.state.global_step}")

    def push_to_hub(self, commit_message: str = "End of training", **kwargs: Any) -> Any:
        """The policy, its tokenizer and a card that says what was trained on what, to
        args.hub_model_id. kwargs: token, private, revision."""
        from huggingface_hub import HfApi

        folder = Path(self.args.output_dir) / "to_hub"
        if self.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)  # an adapter's folder has no whole model
        self._write(folder)
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
            revision=kwargs.get("revision") or getattr(self.args, "hub_revision", None),
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


def _scored(
    policy: nn.Module, tokenizer: Any, encoded: list[batches.Pair], args: FeedbackConfig
) -> np.ndarray:
    """log πref of rows, float32 [n]: of the policy as it is, or without its adapter."""
    training, trained = policy.training, trained_weights(policy)
    policy.eval()
    try:
        with load.adapter_off(policy) if _has_adapter(policy) else nullcontext(policy) as reference:
            return score_completions(reference, tokenizer, encoded, bf16=args.bf16)[0].numpy()
    finally:
        policy.train(training)
        for name, weight in policy.named_parameters():  # peft lets an adapter that was off train
            weight.requires_grad_(name in trained)


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


class RPOTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class, methods = RPOConfig, ("rpo",)


class DROTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class, methods = DROConfig, ("dro",)


class KTOTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class, methods = KTOConfig, ("kto",)


class SFTTrainer(FeedbackTrainer):
    """See `FeedbackTrainer`."""

    config_class, methods = SFTConfig, ("sft", "best_of_k")
