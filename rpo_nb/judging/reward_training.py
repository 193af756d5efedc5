"""How the reward model is trained: on comparisons of held-out completions, in passes that fit."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rpo_nb.config.schema import DataConfig, EvaluationConfig, Profile
from rpo_nb.judging.judges import both_scores
from rpo_nb.judging.reward_model import RewardModel, RewardNet, encoded_rows
from rpo_nb.policy.load import load_policy
from rpo_nb.policy.logps import collate
from rpo_nb.store import cached
from rpo_nb.training.steps import StepTrainer, arguments

# of the reward model
RECIPE = {"learning_rate": 1e-3, "prompts_a_step": 8, "warmup_share": 0.1, "weight_decay": 0.01}
# of the held-out prompts: not trained on, they measure the reward model's accuracy
REPORT_SHARE = 0.15
# prompt and completion tokens of one training pass: what bounds its memory; a step takes as many as
# it needs
TOKENS_A_PASS = 2048


def train_reward_model(
    reference_path: str | Path,
    held_out: Any,
    *,
    config: EvaluationConfig,
    data: DataConfig,
    seed: int,
    threads: int | None = None,
    bf16: bool = False,
    gated: bool = True,
) -> RewardModel:
    """Learn a judge from comparisons: any two completions of one prompt whose rewards differ.

    config.judge_loss "bradley_terry": from which of two is better. "regression": from the rewards
    of the completions in the same comparisons, standardised over them; the score estimates that,
    and the accuracy is told of comparisons all the same.

    reference_path: the policy it starts from (T5-like or causal). held_out: a datasets.Dataset with
    prompt_id, prompt, completion, reward; 15 % of its prompts are kept to report the accuracy, the
    others give up to config.judge_comparisons comparisons, both chosen by seed. bf16: train with
    computation in bfloat16. gated: see `RewardNet`. config.judge_lora_rank: above 0 an adapter and
    the heads alone are trained, and the policy's own weights stand in bfloat16 if bf16: for models
    of billions of weights. Raises ValueError when there is nothing to compare.
    """
    if threads:
        torch.set_num_threads(threads)
    train, report = comparisons(
        pd.DataFrame(held_out.to_dict()), most=config.judge_comparisons, seed=seed
    )
    rewards = _standardised(held_out, train) if config.judge_loss == "regression" else None
    lora_rank = config.judge_lora_rank
    half = bf16 and lora_rank > 0
    settings = {
        **limits(data),
        "seed": seed,
        "comparisons": len(train),
        "epochs": config.judge_epochs,
        **RECIPE,
        **({} if gated else {"gated": False}),
        **({} if rewards is None else {"loss": config.judge_loss}),
        **({"lora_rank": lora_rank, "half": half} if lora_rank else {}),
    }
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(seed)  # an adapter starts at random
        policy, tokenizer = load_policy(reference_path, lora_rank=lora_rank, bf16=half)
        torch.manual_seed(seed)
        net = RewardNet(policy, gated, rewards is not None)
        trainer = _trainer(
            net,
            _examples(train, tokenizer, settings, rewards),
            tokenizer.pad_token_id,
            output_dir=scratch,
            seed=seed,
            epochs=config.judge_epochs,
            bf16=bf16,
        )
        trainer.train()
        # without the training's autocast, as the model that is loaded from its folder scores
        if half:
            trainer.accelerator.unwrap_model(net, keep_fp32_wrapper=False)
    judge = RewardModel(net, tokenizer, settings)
    judge.held_out = report.assign(seed=seed, correct=_correct(judge, report))[
        ["seed", "prompt_id", "gap", "correct"]
    ]
    return judge


def learnt(
    folder: Path,
    reference_path: str | Path,
    held_out: Any,
    *,
    profile: Profile,
    size: str,
    seed: int,
    config: EvaluationConfig | None = None,
    gated: bool = True,
) -> RewardModel:
    """The reward model that is kept in a folder; trained first where it is not there. size: whose
    reference it starts from. config: default the profile's evaluation."""

    def make(made: Path) -> None:
        train_reward_model(
            reference_path,
            held_out,
            config=config or profile.evaluation,
            data=profile.data,
            seed=seed,
            threads=profile.training.threads,
            bf16=profile.training.bf16,
            gated=gated,
        ).save(made, base=profile.sizes[size].id)

    return RewardModel.load(cached(folder, make), base=reference_path)


def limits(data: DataConfig) -> dict[str, int]:
    """How many tokens of a prompt and of a completion a reward model reads, whatever its size's
    policies read."""
    return data.model_dump(include={"max_prompt_tokens", "max_completion_tokens"})


def _trainer(
    net: RewardNet,
    examples: list[dict[str, list]],
    pad_id: int,
    *,
    output_dir: str,
    seed: int,
    epochs: int,
    bf16: bool,
) -> _OverComparisons:
    """A step reads RECIPE's number of prompts, in as many passes of whole prompts as TOKENS_A_PASS
    asks for; its loss is the mean over all its comparisons (by regression over its completions), so
    the number of passes changes memory and nothing else. A prompt that is longer alone has its
    layers computed again in the backward pass."""
    step, longest = (
        RECIPE["prompts_a_step"],
        max(sum(len(p) + len(c) for p, c in example["rows"]) for example in examples),
    )
    # of one pass
    prompts = max(
        n for n in range(1, step + 1) if step % n == 0 and (n == 1 or n * longest <= TOKENS_A_PASS)
    )
    if longest > TOKENS_A_PASS:
        net.policy.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    return _OverComparisons(
        model=net,
        args=arguments(
            output_dir,
            seed=seed,
            num_train_epochs=epochs,
            per_device_train_batch_size=step,
            learning_rate=RECIPE["learning_rate"],
            warmup_steps=int(RECIPE["warmup_share"] * (-(-len(examples) // step) * epochs)),
            weight_decay=RECIPE["weight_decay"],
            max_grad_norm=1.0,
            save_strategy="no",
            logging_strategy="no",
            bf16=bf16,
        ),
        train_dataset=examples,
        prompts_a_pass=prompts,
        pad_id=pad_id,
    )


class _OverComparisons(StepTrainer):
    """The loss of a step is the mean over the comparisons (or rewards) of all its passes, however
    many each has."""

    def __init__(self, *, prompts_a_pass: int, pad_id: int, **kwargs):
        super().__init__(**kwargs)
        self.prompts_a_pass, self.pad_id = prompts_a_pass, pad_id

    def training_step(self, model, inputs, num_items_in_batch=None):
        starts = range(0, len(inputs.items), self.prompts_a_pass)
        passes = [
            _batch(inputs.items[start : start + self.prompts_a_pass], self.pad_id)
            for start in starts
        ]
        return sum(
            super(_OverComparisons, self).training_step(model, part, sum(map(_terms, passes)))
            for part in passes
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs)["loss"] * (_terms(inputs) / num_items_in_batch)


def _terms(batch: dict[str, Tensor]) -> int:
    """What the loss of a batch is the mean of."""
    return len(batch["rewards" if "rewards" in batch else "pairs"])


def comparisons(rows: pd.DataFrame, *, most: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Comparisons to train on and to report on (prompts disjoint): prompt_id, prompt, better,
    worse, gap; at most `most` each.

    rows: prompt_id, prompt, completion, reward. Raises ValueError when a part would be empty.
    """
    pairs = []
    for (prompt_id, prompt), group in rows.groupby(["prompt_id", "prompt"], sort=True):
        ranked = sorted(zip(group["reward"], group["completion"], strict=True), reverse=True)
        pairs += [
            (prompt_id, prompt, a, b, r - s)
            for (r, a), (s, b) in itertools.combinations(ranked, 2)
            if r > s
        ]
    table = pd.DataFrame(pairs, columns=["prompt_id", "prompt", "better", "worse", "gap"])
    ids = table["prompt_id"].unique()
    if len(ids) < 2:
        raise ValueError(
            f"held_out has {len(ids)} prompts with two differently rewarded "
            "completions; the reward model needs 2 "
            "or more, so raise data.held_out or leave reward_model out of "
            "evaluation.judges"
        )
    rng = np.random.default_rng(seed)
    kept = table["prompt_id"].isin(rng.permutation(ids)[: max(1, round(REPORT_SHARE * len(ids)))])
    parts = (table[~kept], table[kept])
    return tuple(
        part.iloc[np.sort(rng.permutation(len(part))[:most])].reset_index(drop=True)
        for part in parts
    )


def _standardised(held_out: Any, train: pd.DataFrame) -> dict[tuple[str, str], float]:
    """{(prompt, completion): reward} of the completions in the comparisons, in standard deviations
    from their mean."""
    # of a text that was scored twice
    raw = pd.DataFrame(held_out.to_dict()).groupby(["prompt", "completion"])["reward"].mean()
    compared = pd.concat(
        [train[["prompt", side]].set_axis(raw.index.names, axis=1) for side in ("better", "worse")]
    ).drop_duplicates()
    found = raw[pd.MultiIndex.from_frame(compared)]
    return ((found - found.mean()) / found.std(ddof=0)).to_dict()


def _examples(
    table: pd.DataFrame,
    tokenizer: Any,
    settings: dict[str, Any],
    rewards: dict[tuple[str, str], float] | None = None,
) -> list[dict[str, list]]:
    """One example a prompt: its distinct completions, read once, and the comparisons between them,
    or their rewards."""
    examples = []
    for prompt, group in table.groupby("prompt", sort=True):
        texts = list(dict.fromkeys([*group["better"], *group["worse"]]))
        example = {"rows": encoded_rows(tokenizer, [(prompt, text) for text in texts], settings)}
        if rewards is None:
            example["pairs"] = [
                (texts.index(a), texts.index(b))
                for a, b in zip(group["better"], group["worse"], strict=True)
            ]
        else:
            example["rewards"] = [rewards[prompt, text] for text in texts]
        examples.append(example)
    return examples


def _batch(examples: list[dict[str, list]], pad_id: int) -> dict[str, Tensor]:
    batch = collate([row for e in examples for row in e["rows"]], pad_id=pad_id)
    if "rewards" in examples[0]:
        return {
            **batch,
            "rewards": torch.tensor([reward for e in examples for reward in e["rewards"]]),
        }
    offsets = np.cumsum([0, *(len(e["rows"]) for e in examples)])
    pairs = [
        (int(o) + a, int(o) + b)
        for o, e in zip(offsets[:-1], examples, strict=True)
        for a, b in e["pairs"]
    ]
    return {**batch, "pairs": torch.tensor(pairs)}


def _correct(judge: RewardModel, table: pd.DataFrame) -> np.ndarray:
    """1 where the judge prefers the truly better completion, ½ where its scores are equal, else
    0."""
    margin = np.subtract(*both_scores(judge, table["prompt"], table["better"], table["worse"]))
    return np.where(margin > 0, 1.0, np.where(margin == 0, 0.5, 0.0))
