"""What the benchmarks run: model shapes, rows of given lengths, and trainers for them: ours,
transformers' and TRL's.

Weights and tokens are random, since speed does not depend on them; every trainer of a case gets the
same rows, weights and schedule. A step's seconds run from the end of a step to the end of the next:
data loading, collation, passes, clipping, optimiser and logging, as a user waits for them.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from torch import nn
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback

from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.partition import log_partition
from rpo_nb.policy import forward, load, logps
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.trainer import make_trainer

STEPS = 3  # of a repetition; the first is not counted
LEARNING_RATE = 1e-5
END = 1  # the end token, last of every completion; 0 pads
LENGTHS = Path(__file__).with_name("lengths.csv")
SHAPES: dict[str, dict[str, Any]] = {
    "Llama, 6 layers": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    },
    "T5, tiny": {
        "model_type": "t5",
        "vocab_size": 128,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
    },
    "Llama, tiny": {
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "T5, 4M": {
        "model_type": "t5",
        "vocab_size": 4096,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
    "Llama, 4M": {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # Flan-T5-Small's width, which decides how rows are put together, and little else: for counting
    # positions
    "T5, thin": {
        "model_type": "t5",
        "vocab_size": 128,
        "d_model": 512,
        "d_kv": 8,
        "d_ff": 8,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 1,
    },
    "Llama, thin": {
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 512,
        "head_dim": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    },
    # the axis of model sizes; the vocabulary grows with the model so that the projection's share
    # stays what it is in Flan-T5-Small
    **{
        f"T5, axis {d}": {
            "model_type": "t5",
            "vocab_size": 32 * d,
            "d_model": d,
            "d_kv": 32,
            "d_ff": 2 * d,
            "num_layers": layers,
            "num_decoder_layers": layers,
            "num_heads": d // 32,
        }
        for d, layers in ((64, 2), (128, 3), (256, 4), (448, 8))
    },
}


def configuration(name: str) -> Any:
    """The transformers configuration of a shape: one of SHAPES, or a model of
    profiles/models.yaml."""
    shape = SHAPES.get(name) or dict(
        yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))["models"][name]
    )
    shape = {key: value for key, value in shape.items() if key not in ("bytes", "gated")}
    special = {"pad_token_id": 0, "eos_token_id": END, "bos_token_id": None}
    if shape["model_type"] == "t5":
        special |= {"decoder_start_token_id": 0, "dropout_rate": 0.0}
    return transformers.AutoConfig.for_model(**shape | special)


def fresh(config: Any, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model of random weights without dropout, on the device."""
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    torch.manual_seed(seed)
    with logps.device():
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    load.set_dropout(model, 0.0)
    return model


@cache
def tokenizer(vocabulary: int) -> Any:
    """Word-level: token i is the word w<i>. TRL reads texts, transformers' collator asks for a
    padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "</s>": END, **{f"w{i}": i for i in range(2, vocabulary)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>"
    )


@dataclass
class Case:
    """A model and rows: of each prompt its length and those of its completions, their end token
    counted."""

    shape: str
    lengths: list[tuple[int, list[int]]]
    batch: int  # rows a step; all of them in one forward pass, on every side
    rewards_seed: int = 0
    config: Any = field(init=False)

    def __post_init__(self):
        self.config = configuration(self.shape)

    @classmethod
    def even(
        cls,
        shape: str,
        *,
        prompts: int,
        completions: int,
        prompt: int,
        completion: int,
        steps: int = STEPS,
    ) -> Case:
        """`steps` steps of so many prompts, every prompt and every completion of the same
        length."""
        return cls(
            shape, [(prompt, [completion] * completions)] * (prompts * steps), prompts * completions
        )

    @cached_property
    def encoded(self) -> list[tuple[list[int], list[int]]]:
        rng = np.random.default_rng(0)
        draw = lambda n: rng.integers(2, self.config.vocab_size, n).tolist()  # noqa: E731
        found = []
        for prompt, completions in self.lengths:
            ids = draw(prompt)
            found += [(ids, [*draw(n - 1), END]) for n in completions]
        return found

    @property
    def prompt_ids(self) -> list[int]:
        return [i for i, (_, completions) in enumerate(self.lengths) for _ in completions]

    @cached_property
    def rewards(self) -> np.ndarray:
        return np.random.default_rng(self.rewards_seed).normal(size=len(self.prompt_ids))

    @property
    def tokens(self) -> tuple[int, int]:
        """Real tokens a step on average: of every row's prompt and completion; of each prompt once
        and the completions."""
        answers = sum(sum(c) for _, c in self.lengths)
        steps = len(self.rewards) / self.batch
        return round((sum(p * len(c) for p, c in self.lengths) + answers) / steps), round(
            (sum(p for p, _ in self.lengths) + answers) / steps
        )

    @cached_property
    def model(self) -> nn.Module:
        """The weights every side starts from; the reference."""
        return fresh(self.config)

    @cached_property
    def ref_logps(self) -> np.ndarray:
        return self.score(self.encoded)

    def score(self, rows: list[tuple[list[int], list[int]]]) -> np.ndarray:
        """log πref of encoded rows."""
        return logps.score_completions(self.model, tokenizer(self.config.vocab_size), rows)[
            0
        ].numpy()


# Trainers -----------------------------------------------------------------------------------------


def schedule(case: Case, **more: Any) -> TrainingConfig:
    """One epoch, a step's rows in one forward pass, as on the other sides."""
    most = case.batch * max(p + max(c) for p, c in case.lengths)
    return TrainingConfig(
        epochs=1,
        batch_size=case.batch,
        micro_batch_tokens=most,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        report_to=(),
        **more,
    )


def groups_of(case: Case, method: str) -> list[dict]:
    """The case's rows as training data with what RPO, KTO and DRO read."""
    rewards, ref = torch.from_numpy(case.rewards), torch.from_numpy(case.ref_logps)
    log_z = log_partition(ref.double(), rewards, torch.tensor(case.prompt_ids), tau=1.0)
    more: dict[str, Any] = {}
    if method == "kto":
        partner, real = mismatched_rows(case.prompt_ids)
        pairs = [
            (prompt, case.encoded[i][1])
            for (prompt, _), i in zip(case.encoded, partner, strict=True)
        ]
        more = {
            "mismatched": [completion for _, completion in pairs],
            "mismatched_ref_logps": case.score(pairs),
            "mismatched_real": real,
        }
    return prompt_groups(
        case.encoded,
        case.prompt_ids,
        rewards=case.rewards,
        ref_logps=case.ref_logps,
        log_partition=log_z.numpy(),
        desirable=case.rewards >= case.rewards.mean(),
        **more,
    )


def ours(
    case: Case,
    method: str,
    folder: str | Path,
    *,
    groups: list[dict] | None = None,
    model: nn.Module | None = None,
    **more: Any,
) -> Trainer:
    """The kit's trainer for sft, rpo, dro or kto. groups: other training data than `groups_of`;
    model: trained in place of a copy of the case's; more: settings of the schedule."""
    return make_trainer(
        model or copy.deepcopy(case.model),
        tokenizer(case.config.vocab_size),
        groups or groups_of(case, method),
        Objective(method=method),
        config=schedule(case, **more),
        output_dir=folder,
        seed=0,
    )


def _arguments(kind: type, case: Case, folder: str | Path, **more: Any) -> Any:
    """What our trainer sets, for another trainer."""
    on_cpu = not torch.cuda.is_available()
    return kind(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=case.batch,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        weight_decay=0.01,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        bf16=False,
        **more,
    )


def plain(case: Case, folder: str | Path) -> Trainer:
    """transformers' Seq2SeqTrainer or Trainer, as its users fine-tune: a row each, its collator's
    padding, cross-entropy."""
    seq2seq = case.config.is_encoder_decoder
    rows = [
        {"input_ids": p, "attention_mask": [1] * len(p), "labels": c}
        if seq2seq
        else {
            "input_ids": p + c,
            "attention_mask": [1] * len(p + c),
            "labels": [forward.IGNORE] * len(p) + c,
        }
        for p, c in case.encoded
    ]
    kind, arguments = (
        (transformers.Seq2SeqTrainer, transformers.Seq2SeqTrainingArguments)
        if seq2seq
        else (Trainer, transformers.TrainingArguments)
    )
    model = copy.deepcopy(case.model)
    collator = DataCollatorForSeq2Seq(
        tokenizer(case.config.vocab_size), model=model if seq2seq else None
    )
    return kind(
        model=model,
        args=_arguments(arguments, case, folder),
        train_dataset=rows,
        data_collator=collator,
    )


def trl_kto(case: Case, folder: str | Path) -> Trainer:
    """TRL's KTOTrainer, its reference log-probabilities computed before the training, as ours are.

    Raises ValueError when it would not read the case's tokens.
    """
    from datasets import Dataset, disable_progress_bars
    from trl import KTOConfig, KTOTrainer

    disable_progress_bars()

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids if i != END)

    words = tokenizer(case.config.vocab_size)
    rows = Dataset.from_dict(
        {
            "prompt": [f"{text(p)} " for p, _ in case.encoded],
            "completion": [text(c) for _, c in case.encoded],
            "label": (case.rewards >= case.rewards.mean()).tolist(),
        }
    )
    trainer = KTOTrainer(
        model=copy.deepcopy(case.model),
        train_dataset=rows,
        processing_class=words,
        args=_arguments(
            KTOConfig,
            case,
            folder,
            beta=1.0,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            max_length=None,
        ),
    )
    theirs = [(row["prompt_ids"], row["completion_ids"]) for row in trainer.train_dataset]
    if theirs != [(list(p), list(c)) for p, c in case.encoded]:
        raise ValueError(
            "TRL's KTOTrainer tokenised the rows otherwise than we did, so the two "
            "sides would not do equal work"
        )
    return trainer


SIDES = {
    "plain": plain,
    "trl": trl_kto,
    **{
        method: (lambda case, folder, method=method: ours(case, method, folder))
        for method in ("sft", "rpo", "dro", "kto")
    },
}


class Clock(TrainerCallback):
    """When each step of the last training ended."""

    def __init__(self):
        self.ends: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


class Stepper:
    """A trainer that trains for one epoch when called and returns the mean seconds of its steps but
    the first.

    Raises ValueError when it has not done the case's number of steps.
    """

    def __init__(self, case: Case, side: str, folder: str | Path):
        self.steps = len(case.encoded) // case.batch
        self.trainer, self.clock = SIDES[side](case, folder), Clock()
        self.trainer.add_callback(self.clock)
        for printer in (transformers.PrinterCallback, transformers.ProgressCallback):
            self.trainer.remove_callback(printer)

    def __call__(self) -> float:
        self.trainer.train()
        if len(self.clock.ends) != self.steps or self.steps < 2:
            raise ValueError(
                f"{type(self.trainer).__name__} did {len(self.clock.ends)} steps "
                f"instead of {self.steps}"
            )
        return float(np.diff(self.clock.ends).mean())


# Lengths of real feedback -------------------------------------------------------------------------


def real_lengths(prompts: int, *, limit: int = 512, seed: int = 0) -> list[tuple[int, list[int]]]:
    """Lengths of so many prompts and their four completions, drawn from benchmarks/lengths.csv,
    none above the limit."""
    table = np.loadtxt(LENGTHS, delimiter=",", skiprows=1, dtype=int, comments="#")
    chosen = table[np.random.default_rng(seed).permutation(len(table))[:prompts]].clip(max=limit)
    return [(int(row[0]), row[1:].tolist()) for row in chosen]


class CountedPositions:
    """How many token positions a model's forward passes take in, padding included: what its input
    embeddings are asked for."""

    def __init__(self, model: nn.Module):
        self.count = 0
        core = forward.core_of(model)
        inputs = {
            id(m): m
            for m in (
                core.get_input_embeddings(),
                getattr(core.get_encoder(), "embed_tokens", None),
                getattr(core.get_decoder(), "embed_tokens", None),
            )
            if m is not None
        }
        self.hooks = [m.register_forward_pre_hook(self._add) for m in inputs.values()]

    def _add(self, module: nn.Module, arguments: tuple) -> None:
        self.count += arguments[0].numel()
