"""What the tests of training are made of."""

import copy

import numpy as np
import torch

from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import TrainingConfig
from rpo_nb.policy import encoding, load
from rpo_nb.policy.logps import score_completions
from rpo_nb.training.batches import mismatched_rows, prompt_groups
from rpo_nb.training.trainer import make_trainer

PROMPTS = [
    "write about a red lamp",
    "please write about the boat",
    "two chair in the garden",
    "a kind book",
]
TEXTS = [
    "the red lamp stands in the garden.",
    "a lamp waits.",
    "the boat lies near the harbour.",
    "it is very bad.",
    "a chair.",
    "two chair waits under the mat.",
    "the book is kind.",
    "a book lies.",
]
WIDTH = 16  # places that value_pooling "all" is the mean over
CONFIG = TrainingConfig(
    epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=0,
    report_to=(),
    logging_steps=1,
    threads=1,
)


def make(pair, method, tmp_path, *, config=CONFIG, reduce="sum", seed=0, rewards=None, **objective):
    """A trainer on 4 prompts of 2 completions, and the rows it was made of."""
    torch.manual_seed(seed)  # DRO's value network
    model, tokenizer = copy.deepcopy(pair[0]), pair[1]
    load.set_dropout(model, 0.0)
    rows = encoding.encode(
        tokenizer,
        [p for p in PROMPTS for _ in range(2)],
        TEXTS,
        max_prompt_tokens=16,
        max_completion_tokens=16,
    )
    sums, lengths = score_completions(pair[0], tokenizer, rows)
    rewards = np.linspace(-1, 1, 8) if rewards is None else rewards
    prompt_ids = [0, 0, 1, 1, 2, 2, 3, 3]
    partner, real = mismatched_rows(prompt_ids)
    others = [rows[i][1] for i in partner]
    theirs, their_lengths = score_completions(
        pair[0], tokenizer, [(p, c) for (p, _), c in zip(rows, others, strict=True)]
    )
    groups = prompt_groups(
        rows,
        prompt_ids,
        rewards=rewards,
        ref_logps=sums if reduce == "sum" else sums / lengths,
        log_partition=np.full(8, 0.3),
        desirable=np.asarray(rewards) >= 0,
        mismatched=others if method == "kto" else (),
        mismatched_ref_logps=theirs if reduce == "sum" else theirs / their_lengths,
        mismatched_real=real,
    )
    return make_trainer(
        model,
        tokenizer,
        groups,
        Objective(method=method, reduce=reduce, **objective),
        config=config,
        output_dir=tmp_path,
        seed=seed,
        prompt_width=WIDTH,
    )


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
