"""Feedback as `feedback_trainer` reads it: which rows, and on what scale."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd

from rpo_nb.data.feedback import conversations, load_feedback
from rpo_nb.data.splits import mean_and_std, weights_of
from rpo_nb.policy import encoding
from rpo_nb.training.batches import Pair

READ = (str, Path, list, tuple, pd.DataFrame, datasets.Dataset, datasets.DatasetDict)
# of a table that `load_feedback` made: always there; there where reading it again would change it
MADE, CHANGED = {"prompt_id", "prompt", "completion", "reward", "model"}, {"messages", "ratings"}
HELD_OUT = ("validation", "test", "eval")  # parts of a DatasetDict, the first that it has
NO_LIMIT = 10**9  # tokens
logger = logging.getLogger(__name__)


def read(source: Any, name: str) -> tuple[datasets.Dataset, list[dict]]:
    """Feedback without rows of weight 0, and the report of what was set aside or repaired; warnings
    say that there is something. Raises ValueError naming the argument."""
    if not isinstance(source, READ):
        raise ValueError(
            f"{name} is of type {type(source).__name__}; give a datasets.Dataset, a list of rows, "
            "a pandas frame, or the name of a file, a folder or a set of the hub"
        )
    rows, report = load_feedback(_as_before(source), return_report=True)
    if report:
        logger.warning("%s: %d entries were set aside or mended; see report", name, len(report))
    weights = weights_of(rows)
    if weights is not None and not weights.all():
        if not weights.any():
            raise ValueError(f"{name}: every row has weight 0, so there is nothing to learn from")
        logger.warning("%s: %d rows of weight 0 are left out", name, int((weights == 0).sum()))
        rows = rows.select(np.flatnonzero(weights))
    return rows, [entry | {"part": name} for entry in report]


def _as_before(source: Any) -> Any:
    """A table that `load_feedback` made as rows that are read to the same table: it would not know
    its own conversations, and take out the strictness of raters that the user let stand."""
    if not isinstance(source, datasets.Dataset):
        return source
    names = set(source.column_names)
    text = "messages" not in names or source.features["messages"].dtype == "string"
    if not (names >= MADE and CHANGED & names and text):
        return source
    kept = [name for name in ("completion", "reward", "model", "weight") if name in names]
    return [
        row | {"prompt": prompt}
        for row, prompt in zip(
            source.select_columns(kept).to_list(), conversations(source), strict=True
        )
    ]


def held_out(source: Any, train: Any) -> dict[str, Any]:
    """What is evaluated on, by name; "" where there is one set: of a DatasetDict its validation or
    test part, of a dict every set. Raises ValueError for what would be trained on as well."""
    if isinstance(source, datasets.DatasetDict):
        part = next((name for name in HELD_OUT if name in source), None)
        if part is None:
            raise ValueError(
                f"eval_dataset has the parts {', '.join(source)}, and none of "
                f"{', '.join(HELD_OUT)}; give one of them, as eval_dataset[...]"
            )
        return {"": source[part]}
    if isinstance(source, dict):
        return dict(source)
    if isinstance(source, (str, Path)) and str(source) == str(train):
        raise ValueError(
            "eval_dataset is the source of train_dataset, of which the same part would be read; "
            'give load_feedback(source, config=DataConfig(split="validation"))'
        )
    return {"": source}


@dataclass(frozen=True)
class Scale:
    """Of the training rows, each counted as often as its weight says: what rewards are measured
    in, and from where on one is desirable (KTO's; in that measure)."""

    mean: float
    std: float
    desirable: float

    @classmethod
    def of(cls, rows: datasets.Dataset, *, standardise: bool) -> Scale:
        """As `batches.desirable_rows` has it: of two rewards, which are labels, the upper one, of
        more their mean."""
        rewards, weights = np.asarray(rows["reward"], float), weights_of(rows)
        mean, std = mean_and_std(rewards, weights) if standardise else (0.0, 1.0)
        std += 1e-8 if standardise else 0.0
        scaled = (rewards - mean) / std
        values = np.unique(scaled)
        first = values[1] if len(values) == 2 else np.average(scaled, weights=weights)
        return cls(mean, std, float(first))

    def __call__(self, rows: datasets.Dataset) -> np.ndarray:
        return (np.asarray(rows["reward"], float) - self.mean) / self.std


def encoded(tokenizer: Any, rows: datasets.Dataset, limits: Sequence[int], name: str) -> list[Pair]:
    """Token ids of prompt and completion of each row; a warning counts those that are cut. limits:
    the most tokens of a prompt, and of a completion."""
    texts, found = (conversations(rows), rows["completion"]), []
    for prompt, completion in (limits, (NO_LIMIT, NO_LIMIT)):
        pairs = encoding.encode(
            tokenizer, *texts, max_prompt_tokens=prompt, max_completion_tokens=completion
        )
        found.append(pairs)
    for side, (kind, limit) in enumerate(zip(("prompt", "completion"), limits, strict=True)):
        cut = sum(len(a[side]) < len(b[side]) for a, b in zip(*found, strict=True))
        if cut:
            logger.warning(
                "%s: of %d rows the %s is cut to max_%s_tokens, %d",
                *(name, cut, kind, kind, limit),
            )
    return found[0]
