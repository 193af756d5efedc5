"""Which feedback trains, which validates, and on what scale its rewards are (paper A's rule, or the
source's own split)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd

from rpo_nb.config.schema import DataConfig
from rpo_nb.data.gather import plain

# column of feedback that was read from two splits of its source: which one the row is of
SPLIT = "split"
FEW_TOP = 10  # prompts; with fewer of the top score, validation goes down to the next best


@dataclass(frozen=True)
class Splits:
    """Feedback for training, for validation and for what must see neither. Rewards are raw."""

    train: datasets.Dataset
    validation: datasets.Dataset  # one top-scored row a prompt
    held_out: datasets.Dataset
    reward_mean: float  # of train
    reward_std: float  # of train, ddof 0; both count a row as often as its weight says
    notes: list[str]  # what a reader of the results should know about the split


def weights_of(feedback: datasets.Dataset) -> np.ndarray | None:
    """The rows' weights, float64 [n]; None where every row counts once."""
    if "weight" not in feedback.column_names:
        return None
    weights = np.asarray(feedback["weight"], dtype=np.float64)
    return None if (weights == 1).all() else weights


def mean_and_std(rewards: np.ndarray, weights: np.ndarray | None) -> tuple[float, float]:
    """Mean and population standard deviation of rewards, each counted as often as its weight
    says."""
    if weights is None:
        return float(rewards.mean()), float(rewards.std())
    mean = np.average(rewards, weights=weights)
    return float(mean), float(np.sqrt(np.average((rewards - mean) ** 2, weights=weights)))


def _without_weightless(feedback: datasets.Dataset, notes: list[str]) -> datasets.Dataset:
    """Rows of weight 0 are as good as absent: they train, validate and judge nothing."""
    weights = weights_of(feedback)
    if weights is None or weights.all():
        return feedback
    notes.append(f"{int((weights == 0).sum())} rows have weight 0 and are left out.")
    return feedback.select(np.flatnonzero(weights))


def group_key(prompt: str) -> str:
    """Prompts equal but for white space, letter case, invisible and composed characters have one
    key: they never stand on two sides of a split."""
    return plain(prompt).casefold()


def split_feedback(feedback: datasets.Dataset, *, config: DataConfig, seed: int) -> Splits:
    """Split by prompt, everything drawn by `seed`; the three parts share no prompt, nor one that
    differs in white space or case.

    validation: paper A's rule, rows of the data's top score, one a prompt, up to config.validation.
    (Where fewer than 10 prompts reach the very top, as with continuous rewards, the best row of the
    best prompts; a note says so.) With config.validation_split the rows of the source's own split
    of that name instead: the best of each prompt, up to config.validation prompts drawn by seed;
    prompts that stand there train nothing, and a note counts those taken out.
    held_out: config.held_out prompts, all their rows. train: up to config.prompts prompts, at most
    config.completions_per_prompt rows each. Too few prompts for all of this: the parts shrink in
    proportion, with a note. Raises ValueError if there are fewer than 2 prompts, or if the training
    rewards are all equal.
    """
    notes: list[str] = []
    feedback = _without_weightless(feedback, notes)
    rng = np.random.default_rng([seed, 0])
    table = feedback.select_columns(["prompt_id", "reward"]).to_pandas()
    prompt_ids, first = table["prompt_id"], table.drop_duplicates("prompt_id")
    keys = pd.Series(
        [group_key(prompt) for prompt in feedback.select(first.index)["prompt"]],
        index=first["prompt_id"],
    )
    if keys.nunique() < 2:
        raise ValueError(
            "feedback has fewer than 2 different prompts; give at least one to train "
            "on and one to validate on"
        )
    variants = len(keys) - keys.nunique()
    if variants:
        notes.append(
            f"{variants} prompts repeat another but for white space or case (or what "
            "cannot be seen); such twins stay on one side of the split."
        )
    table = table.iloc[rng.permutation(len(table))]  # from here on "first" means "drawn"
    if config.validation_split:
        table, validation, held_out_size = _own_validation(feedback, table, keys, config, notes)
    else:
        validation_size, held_out_size = _sizes(config, keys.nunique(), notes)
        validation = _validation_rows(table, keys, validation_size, notes)
    order = table["prompt_id"].unique()
    free = order[~np.isin(keys.loc[order], keys.loc[prompt_ids.loc[validation]])]
    held_out = free[:held_out_size]
    free = free[~np.isin(keys.loc[free], keys.loc[held_out])][: config.prompts]
    train = (
        table[table["prompt_id"].isin(free)]
        .groupby("prompt_id")
        .head(config.completions_per_prompt or len(table))
        .index
    )
    rewards = table.loc[train, "reward"].sort_index().to_numpy()
    if len(rewards) == 0 or rewards.min() == rewards.max():
        raise ValueError(
            f"the {len(rewards)} training rewards are all equal: no signal; give "
            "feedback whose scores differ"
        )
    feedback = feedback.remove_columns([SPLIT] if SPLIT in feedback.column_names else [])
    parts = [
        feedback.select(np.sort(rows))
        for rows in (train, validation, table.index[table["prompt_id"].isin(held_out)])
    ]
    notes.append(
        f"Train: {len(free)} prompts, {len(rewards)} completions. Validation: "
        f"{len(validation)} prompts. "
        f"Held out: {len(held_out)} prompts."
    )
    return Splits(*parts, *mean_and_std(rewards, weights_of(parts[0])), notes)


def _own_validation(
    feedback: datasets.Dataset,
    table: pd.DataFrame,
    keys: pd.Series,
    config: DataConfig,
    notes: list[str],
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """The rows left for training, the index labels of the validation rows, and how many prompts may
    be held out."""
    name = config.validation_split
    if SPLIT not in feedback.column_names:
        raise ValueError(
            f"data.validation_split is {name!r}, but the feedback was read without "
            "it; load it with "
            "the same settings"
        )
    theirs = (pd.Series(feedback[SPLIT]) == name).loc[table.index]
    row_keys = table["prompt_id"].map(keys)
    # of equals the first drawn
    best = table[theirs].sort_values("reward", ascending=False, kind="stable")
    best = best.loc[~row_keys[best.index].duplicated()]
    if best.empty:
        raise ValueError(
            f"the split {name!r} has no usable row; leave data.validation_split empty "
            "for the paper's rule"
        )
    drawn = table.index[table.index.isin(best.index)][: config.validation].to_numpy()
    if len(drawn) < len(best):
        notes.append(
            f"The split {name!r} has {len(best)} prompts: {len(drawn)} of them, drawn by "
            "seed, validate."
        )
    left = table[~theirs & ~row_keys.isin(row_keys[best.index])]
    shared = row_keys[~theirs & row_keys.isin(row_keys[best.index])].nunique()
    if shared:
        notes.append(
            f"{shared} prompts of the training split also stand in the split {name!r}: "
            "taken out of training."
        )
    if left.empty:
        raise ValueError(
            f"every prompt of the training split also stands in the split {name!r}, "
            "so none is left to "
            "train on; set data.split to another"
        )
    prompts, held_out = left["prompt_id"].map(keys).nunique(), config.held_out
    wanted = held_out + (config.prompts or math.ceil(prompts / 2))
    if wanted > prompts:
        held_out = int(held_out * prompts / wanted)
        notes.append(
            f"The training split has {prompts} prompts of its own, fewer than the "
            f"{wanted} asked for: held out was "
            f"reduced to {held_out}."
        )
    return left, drawn, held_out


def _sizes(config: DataConfig, prompts: int, notes: list[str]) -> tuple[int, int]:
    """Prompts of validation and held_out, in proportion if there are too few (without
    config.prompts, half should train)."""
    wanted = (config.validation, config.held_out)
    train = config.prompts or math.ceil(prompts / 2)
    if sum(wanted) + train <= prompts:
        return wanted
    share = prompts / (sum(wanted) + train)
    sizes = max(1, int(wanted[0] * share)), int(wanted[1] * share)
    notes.append(
        f"The feedback has {prompts} prompts, fewer than the {sum(wanted) + train} asked "
        "for: "
        f"validation was reduced to {sizes[0]} prompts, held out to {sizes[1]}."
    )
    return sizes


def _validation_rows(
    table: pd.DataFrame, keys: pd.Series, size: int, notes: list[str]
) -> np.ndarray:
    """Index labels of the validation rows: top-scored, one a prompt (prompts alike in `keys` count
    as one)."""
    best = table.groupby("prompt_id", sort=False)["reward"].max()
    top = best.max()
    available = keys.loc[best.index[best == top]].nunique()
    floor = top
    if available < min(size, FEW_TOP):
        floor = best.nlargest(size).min()
        notes.append(
            f"Only {available} of the prompts reach the top score {top:g}: validation "
            "takes the best completion of the "
            f"{size} best prompts, down to {floor:g}."
        )
    elif available < size:
        notes.append(
            f"{available} prompts reach the top score {top:g}: validation has these "
            f"instead of {size}."
        )
    rows = table[table["reward"] >= floor].sort_values("reward", ascending=False, kind="stable")
    drawn = rows.assign(key=keys.loc[rows["prompt_id"]].to_numpy()).drop_duplicates("key")
    return drawn.index[:size].to_numpy()


def standardise(rewards, splits: Splits) -> np.ndarray:
    """Rewards [n] in standard deviations from the training mean: (r - mean) / (std + 1e-8), as in
    paper A's code.

    float32 stays float32, everything else becomes float64. Raises ValueError on a reward that is
    not finite.
    """
    rewards = np.asarray(rewards)
    rewards = rewards if rewards.dtype == np.float32 else rewards.astype(np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError(
            f"reward {np.flatnonzero(~np.isfinite(rewards))[0]} is not finite; load "
            "the feedback with load_feedback"
        )
    return (rewards - rewards.dtype.type(splits.reward_mean)) / rewards.dtype.type(
        splits.reward_std + 1e-8
    )
