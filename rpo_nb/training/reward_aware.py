"""Paper B's loss on tuples of completions, and the tuples it is trained on.

A `Setting` says how implicit rewards a, explicit rewards b and a distance make a loss;
`framework_loss` computes it with `objectives.reward_aware` alone. `tuples` picks pairs and
K-tuples from feedback rows. Which settings recover which method: `studies.paper_b.recovered`.

Shapes: n prompts, K completions a prompt, the preferred completion first wherever an order counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rpo_nb import checks, objectives
from rpo_nb.config.objective import Setting

SURE = 1000.0  # δ* = ∞: float64's exp(−1000) is 0, so the target is exactly one-hot
RULES = ("best_random", "best_worst")


def explicit_rewards(rewards: Tensor, setting: Setting) -> Tensor:
    """b [..., K]: η·r, or the setting's gap for the first completion and 0 for the others."""
    rewards = checks.floats(rewards)
    return setting.eta * rewards if setting.gap is None else setting.gap * first_term(rewards)


def implicit_rewards(policy_logps: Tensor, ref_logps: Tensor, setting: Setting) -> Tensor:
    """a [..., K]: β·ρ less γ for the first completion; of a per-token setting β·log πθ, both given
    per token by the caller."""
    policy, ref = checks.floats(policy_logps), checks.floats(ref_logps)
    return setting.beta * (
        policy if setting.per_token else policy - ref
    ) - setting.gamma * first_term(policy)


def framework_loss(
    policy_logps: Tensor, ref_logps: Tensor, rewards: Tensor, setting: Setting
) -> Tensor:
    """D[a ‖ b] of each prompt. [..., K] each -> [...]"""
    return objectives.reward_aware(
        implicit_rewards(policy_logps, ref_logps, setting),
        explicit_rewards(rewards, setting),
        distance=setting.distance,
    )


def tuple_losses(
    policy_logps: Tensor, ref_logps: Tensor, rewards: Tensor, group: Tensor, setting: Setting
) -> Tensor:
    """The loss of each row's tuple, [n] each -> [n]: so the mean over rows is the mean over tuples,
    each weighted by its size.

    group [n]: the number of the row's tuple; the rows of a tuple stand in their order, the
    preferred one first. A tuple of one row, which compares nothing, is a ValueError.
    """
    policy, ref, reward = checks.rows(
        policy_logps=policy_logps, ref_logps=ref_logps, rewards=rewards
    )
    order = group.argsort(stable=True)
    sizes = torch.bincount(group)
    starts = sizes.cumsum(0) - sizes
    losses = torch.zeros_like(policy)
    for size in sizes[sizes > 0].unique().tolist():
        # [tuples, K]
        rows = order[starts[sizes == size, None] + torch.arange(size, device=group.device)]
        found = framework_loss(policy[rows], ref[rows], reward[rows], setting)
        losses = losses.index_copy(0, rows.reshape(-1), found.repeat_interleave(size))
    return losses


def first_term(like: Tensor) -> Tensor:
    """1 for the first completion, 0 for the others."""
    return torch.zeros_like(like).index_fill(
        -1, torch.zeros(1, dtype=torch.long, device=like.device), 1.0
    )


# ---- Pairs and K-tuples from feedback ------------------------------------------------------------


def tuples(
    prompt_ids: Sequence[int],
    rewards: Sequence[float],
    *,
    k: int,
    rule: str = "best_random",
    seed: int = 0,
) -> np.ndarray:
    """Rows to train on, one tuple a prompt: row numbers [m, k], the preferred completion first.
    Pure: the seed decides.

    rule "best_random" (paper B): the best completion and k − 1 others at random; "best_worst": the
    best and the k − 1 lowest. Of equals the seed takes one. In a pair the other has a strictly
    lower reward, so a prompt whose rewards are all equal gives none; nor does one with fewer than k
    completions. Raises ValueError when nothing is left.
    """
    checks.known("rule", rule, RULES)
    if k < 2:
        raise ValueError(f"k is {k}; a tuple has two or more completions")
    values = np.asarray(rewards, dtype=float)
    ids = np.asarray(prompt_ids)
    if values.shape != ids.shape or values.ndim != 1:
        raise ValueError(
            f"rewards has shape {values.shape} but prompt_ids has {ids.shape}; give "
            "them row for row"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"rewards is {values[~np.isfinite(values)][0]} at row "
            f"{int(np.flatnonzero(~np.isfinite(values))[0])}; drop that row first"
        )
    rng, found = np.random.default_rng([seed, k]), []
    order = np.argsort(ids, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(ids[order])) + 1):  # prompt by prompt
        rows = rng.permutation(rows)  # shuffled once: a stable sort then takes equals at random
        ranked = rows[np.argsort(-values[rows], kind="stable")]
        best, others = ranked[0], ranked[1:]
        lower = others[values[others] < values[best]]
        if k == 2:
            others = lower
        if len(others) < k - 1 or len(lower) == 0:
            continue
        chosen = (
            others[len(others) - k + 1 :]
            if rule == "best_worst"
            else rng.choice(others, k - 1, replace=False)
        )
        found.append([best, *chosen])
    if not found:
        raise ValueError(
            f"no prompt has {k} completions whose rewards differ; lower k or give "
            "feedback with more completions a prompt"
        )
    return np.array(found)


def suggested_eta(gaps: Sequence[float], *, confidence: float = 0.9) -> float:
    """The reward scale η at which the median reward gap of a pair means a preference of probability
    `confidence`.

    gaps: reward of the preferred completion less the other's, of each pair; zeros are left out. bwd
    reads η·gap as log-odds, so that η = logit(confidence) / median gap. Below it the targets are
    close to even, far above it bwd is DPO and forgets the gaps. Raises ValueError when no gap is
    above 0.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence:g}; it must lie between 0.5 and 1")
    values = np.asarray(gaps, dtype=float)
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise ValueError(
            "no pair has a reward gap above 0, so that no reward scale can be "
            "suggested; give feedback whose scores differ"
        )
    return math.log(confidence / (1 - confidence)) / float(np.median(values))
