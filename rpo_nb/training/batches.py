"""Rows to prompt groups, and groups to batches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rpo_nb import checks, partition
from rpo_nb.config.objective import Objective
from rpo_nb.policy.logps import collate

Pair = tuple[list[int], list[int]]  # token ids of a prompt and of a completion

# of every item; others are added by name
ROW_FIELDS = ("rewards", "ref_logps", "log_partition", "desirable")


def mismatched_rows(prompt_ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each row the row whose completion KTO reads under its prompt, [n], and whether that is
    another prompt's, bool [n].

    Rows are rotated, prompt by prompt, by the size of the largest: every row meets another prompt
    as soon as none has more than half of the rows. The pairs are fixed for a training, so that the
    reference reads them once (as TRL's KTO does).
    """
    ids = np.asarray(prompt_ids)
    order = np.argsort(ids, kind="stable")
    partner = np.empty(len(ids), dtype=int)
    partner[order] = np.roll(order, -int(np.unique(ids, return_counts=True)[1].max()))
    return partner, ids[partner] != ids


def desirable_rows(rewards: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """What KTO takes as desirable, bool [n]: of two values, which are labels, the upper; of more,
    what is not below their (weighted) mean."""
    values = np.unique(rewards)
    return rewards >= (values[1] if len(values) == 2 else np.average(rewards, weights=weights))


def total_weight(items: Sequence[dict]) -> float:
    """What the loss of some prompts is the mean over: their rows, each as often as its weight
    says."""
    return sum(sum(item["weights"]) if "weights" in item else len(item["rows"]) for item in items)


def prompt_groups(
    encoded: Sequence[Pair],
    prompt_ids: Sequence[int],
    *,
    mismatched: Sequence[list[int]] = (),
    weights: Sequence[float] | None = None,
    **fields: Sequence[Any],
) -> list[dict]:
    """Rows to one item a prompt: its ids, its completions, and of each completion its row number
    and the given fields.

    weights [n], 0 and more: a row's loss counts so often; a row of weight 0 is left out, and
    weights that are all 1 are none.

    fields: one value a row, or one list of m values a row; rewards, ref_logps, log_partition and
    desirable are 0 when left out.
    mismatched: the completion of another prompt that each row is scored with beside its own, with
    the fields mismatched_ref_logps and mismatched_real.
    """
    fields = {name: np.zeros(len(encoded)) for name in ROW_FIELDS} | {
        name: np.asarray(values) for name, values in fields.items()
    }
    weights = None if weights is None else checks.weights(weights)
    if weights is not None and (weights != 1).any():
        fields["weights"] = weights
    groups: dict[int, dict] = {}
    for row, (pair, prompt) in enumerate(zip(encoded, prompt_ids, strict=True)):
        if weights is not None and weights[row] == 0:
            continue
        item = groups.setdefault(
            prompt,
            {
                "encoded": [],
                "rows": [],
                **({"mismatched": []} if mismatched else {}),
                **{f: [] for f in fields},
            },
        )
        item["encoded"].append(pair)
        item["rows"].append(row)
        if mismatched:
            item["mismatched"].append(mismatched[row])
        for name, values in fields.items():
            item[name].append(values[row].astype(float).tolist())
    return list(groups.values())


def method_groups(
    objective: Objective,
    encoded: Sequence[Pair],
    prompt_ids: Sequence[int],
    *,
    rewards: np.ndarray,
    ref_logps: np.ndarray,
    estimator: str | None = None,
    score: Callable[[list[Pair]], np.ndarray] | None = None,
    weights: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    **fields: np.ndarray,
) -> list[dict]:
    """`prompt_groups` with what an objective needs of its rows, computed.

    rewards, ref_logps [n]: standardised, and as objective.reduce says. estimator: of log Ẑ, RPO's;
    None for 0. score: (prompt, completion) token ids -> the reference's log-probabilities [n], for
    KTO's mismatched pairs. rows: those that are trained on, default all; log Ẑ and what is
    desirable are of all rows. fields [n, ...]: more of each row.
    """
    ids, every = np.asarray(prompt_ids), np.asarray(rewards)
    rows = np.arange(len(every)) if rows is None else rows
    log_z = np.zeros(len(every))
    if estimator is not None:
        log_z = partition.log_partition(
            *map(torch.from_numpy, (ref_logps, every, ids)), tau=objective.tau, estimator=estimator
        ).numpy()
    more: dict[str, Any] = {name: values[rows] for name, values in fields.items()}
    if objective.method == "kto" and objective.kto_kl == "mismatched":
        partner, real = mismatched_rows(ids)
        others = [encoded[i][1] for i in partner]
        theirs = score([(pair[0], other) for pair, other in zip(encoded, others, strict=True)])
        more |= {
            "mismatched": [others[i] for i in rows],
            "mismatched_ref_logps": theirs[rows],
            "mismatched_real": real[rows],
        }
    if weights is not None:
        more["weights"] = weights[rows]
    return prompt_groups(
        [encoded[i] for i in rows],
        ids[rows].tolist(),
        rewards=every[rows],
        ref_logps=ref_logps[rows],
        log_partition=log_z[rows],
        desirable=desirable_rows(every, weights)[rows],
        **more,
    )


def best_rows(prompt_ids: Sequence[int], rewards: np.ndarray) -> np.ndarray:
    """The row of the best completion of each prompt (the first of equals), in order."""
    table = pd.DataFrame({"prompt_id": prompt_ids, "reward": rewards})
    return np.sort(table.groupby("prompt_id")["reward"].idxmax().to_numpy())


class GroupCollator:
    """Items of `prompt_groups` to one batch of tensors, `group` the number of a row's item. width:
    the prompts' least width."""

    def __init__(self, pad_id: int, width: int = 0):
        self.pad_id, self.width = pad_id, width

    def __call__(self, items: Sequence[dict]) -> dict[str, Tensor]:
        def rows(name: str) -> list:
            return [value for item in items for value in item.get(name, ())]

        numbers = [number for number, item in enumerate(items) for _ in item["encoded"]]
        batch = collate(
            rows("encoded"),
            pad_id=self.pad_id,
            mismatched=rows("mismatched"),
            items=numbers,
            width=self.width,
        )
        for name in items[0].keys() - {"encoded", "mismatched"}:
            batch[name] = torch.tensor(rows(name))
        batch["desirable"] = batch["desirable"].bool()
        return batch


def micro_batches(
    items: Sequence[dict], tokens: int, *, at_least: int = 1, width: int = 0
) -> list[list[dict]]:
    """The prompts of a step in parts of at most so many tokens (prompts and completions, without
    padding but to `width`), the longest first; a prompt that has more stands alone. at_least: so
    many parts where there are prompts enough."""

    def size(item: dict) -> int:
        return max(len(item["encoded"][0][0]), width) + sum(
            len(completion) for _, completion in item["encoded"]
        )

    parts: list[list[dict]] = [[]]
    room = tokens
    for item in (
        sorted(items, key=size, reverse=True)
        if sum(map(size, items)) > tokens or at_least > 1
        else items
    ):
        if parts[-1] and size(item) > room:
            parts.append([])
            room = tokens
        parts[-1].append(item)
        room -= size(item)
    while len(parts) < min(at_least, len(items)):
        largest = max(parts, key=len)
        parts.insert(parts.index(largest) + 1, [largest.pop() for _ in range(len(largest) // 2)])
    return parts
