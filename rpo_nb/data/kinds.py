"""What kind of feedback this is, and what its kind can and cannot tell: sentences for the
reader."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
import pandas as pd

from rpo_nb.data import raters

PLAIN = {
    "prompt_id",
    "prompt",
    "completion",
    "reward",
    "model",
    "weight",
    "rater",
    "ratings",
    "messages",
    "split",
}
LABELS = (
    "The rewards are labels: two values, {low:g} and {high:g}. KTO takes them as they are, "
    "{high:g} is desirable; RPO, DRO and "
    "QRPO read them as rewards of two values, so that among completions of one label nothing "
    "is better."
)
PAIRS = (
    "Pairs here have no scores: of two completions of a prompt it is known which is better "
    "(1) and which is worse (0). They "
    "cannot tell by how much, nor how good either is: every pair weighs the same, a worse "
    "completion of one prompt may be better "
    "than a better one of another, and the size of a reward, of V̂ and of τ has no meaning "
    "beyond the order. KTO reads "
    "better as desirable; DPO, SimPO and the other losses of pairs use all there is."
)
SCORED_PAIRS = (
    "Every prompt has two completions: log Ẑ is estimated from two, which is mostly "
    "noise, and paper B's losses of "
    "more than two have nothing to compare."
)
WEIGHTS = (
    "Rows have weights, {least:g} to {most:g} (mean {mean:.3g}): a row's loss, the mean and "
    "the standard deviation of the "
    "rewards count it so often. All {count:,} rows weigh as much as {effective:,.0f} equal "
    "ones. log Ẑ counts each completion once."
)
ASPECTS = (
    "Beside the reward there are {count} aspects: {names}. Policies learn from the reward "
    "alone (data.reward chooses it, or a "
    "weighted sum); notebook 05 has a judge of each."
)
RATERS = (
    "{ratings:,} ratings by {raters} raters make {rewards:,} rewards; the report says "
    "whether the raters' own strictness "
    "was taken out (data.level_raters)."
)


def aspects(feedback: datasets.Dataset) -> list[str]:
    """The columns that hold further ratings of a completion."""
    return [name for name in feedback.column_names if name not in PLAIN]


def is_labelled(rewards: Sequence[float]) -> bool:
    """Whether the rewards are labels: two values."""
    return len(np.unique(np.asarray(rewards))) == 2


def kind_notes(feedback: datasets.Dataset, report: Sequence[dict]) -> list[str]:
    """Sentences on labels, pairs, weights and aspects; none for plain rewards. report: of
    `load_feedback`."""
    rewards, found = np.asarray(feedback["reward"]), []
    if any(row["reason"] == "pair has no scores" for row in report):
        found.append(PAIRS)
    elif is_labelled(rewards):
        found.append(LABELS.format(low=rewards.min(), high=rewards.max()))
    if (pd.Series(feedback["prompt_id"]).value_counts() == 2).all():
        found.append(SCORED_PAIRS)
    if "weight" in feedback.column_names:
        weights = np.asarray(feedback["weight"], float)
        found.append(
            WEIGHTS.format(
                least=weights.min(),
                most=weights.max(),
                mean=weights.mean(),
                count=len(weights),
                effective=weights.sum() ** 2 / (weights**2).sum() if weights.any() else 0,
            )
        )
    if "ratings" in feedback.column_names:
        given = raters.ratings(feedback)
        found.append(
            RATERS.format(
                ratings=len(given), raters=given["rater"].nunique(), rewards=len(feedback)
            )
        )
    names = aspects(feedback)
    if names:
        found.append(ASPECTS.format(count=len(names), names=", ".join(names)))
    return found
