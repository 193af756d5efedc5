"""The losses: log-probabilities in, one loss a row out. No model, no configuration, no reduction
inside.

Notation: policy_logps = log πθ(y|x) and ref_logps = log πref(y|x), both summed or both averaged
over tokens by the caller; ρ = policy_logps − ref_logps, the log-ratio; r the reward; τ the
temperature. Sources: paper A (Faye et al. 2025), paper B (Sun et al. 2025), and those named at each
function. Every function returns float32, or float64 when given float64, and raises ValueError for
wrong shapes, a non-finite value (naming argument and row) or a temperature that is not above 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, relu

from rpo_nb import checks

# One completion at a time -------------------------------------------------------------------------


def sft(policy_logps) -> Tensor:
    """Cross-entropy of the completion, −log πθ(y|x). [n] -> [n]"""
    (policy,) = checks.rows(policy_logps=policy_logps)
    return -policy


def rpo(policy_logps, ref_logps, rewards, log_partition, *, tau: float) -> Tensor:
    """Reward partitioning: ½(ρ − (r/τ − log Ẑ))². [n] each -> [n]

    log_partition comes from `partition.log_partition`; it is a constant, no gradient flows through
    it. Paper A, section on the empirical partition (eq. 19).
    """
    tau = checks.number("tau", tau, above=0.0)
    policy, ref, reward, log_z = checks.rows(
        policy_logps=policy_logps, ref_logps=ref_logps, rewards=rewards, log_partition=log_partition
    )
    return 0.5 * (policy - ref - (reward / tau - log_z.detach())) ** 2


def dro(policy_logps, ref_logps, rewards, values, *, tau: float) -> Tensor:
    """Direct reward optimisation: ½(r − V − τρ)². [n] each -> [n]

    values: V_φ(x) of each row's prompt, in units of the reward, trained by this same loss.
    Richemond et al. 2024.
    """
    tau = checks.number("tau", tau, above=0.0)
    policy, ref, reward, value = checks.rows(
        policy_logps=policy_logps, ref_logps=ref_logps, rewards=rewards, values=values
    )
    return 0.5 * (reward - value - tau * (policy - ref)) ** 2


def kto(
    policy_logps,
    ref_logps,
    desirable,
    kl,
    *,
    beta: float,
    lambda_d: float = 1.0,
    lambda_u: float = 1.0,
) -> Tensor:
    """λ_D(1 − σ(β(ρ − z0))) where desirable, else λ_U(1 − σ(β(z0 − ρ))). [n] each -> [n]

    desirable [n]: bool, or 0 and 1. kl: z0 of the batch, a number or a tensor of one element
    (`kto_kl`), no gradient. Ethayarajh et al. 2024, eq. 7.
    """
    beta = checks.number("beta", beta, above=0.0)
    lambda_d, lambda_u = checks.number("lambda_d", lambda_d), checks.number("lambda_u", lambda_u)
    policy, ref = checks.rows(policy_logps=policy_logps, ref_logps=ref_logps)
    desired = _desired(desirable, policy)
    z0 = checks.number("kl", kl.item() if isinstance(kl, Tensor) and kl.numel() == 1 else kl)
    sign = torch.full_like(ref, -1.0).masked_fill(desired, 1.0)
    weight = torch.full_like(ref, lambda_u).masked_fill(desired, lambda_d)
    # 1 − σ(u) = σ(−u), without cancellation
    return weight * torch.sigmoid(-beta * sign * (policy - ref - z0))


@torch.no_grad()
def kto_kl(policy_logps, ref_logps, *, clamp: bool = True, mask=None) -> Tensor:
    """KTO's z0: the mean log-ratio of the micro-batch, clamped at 0, no gradient. [n] each ->
    scalar

    Given mismatched pairs (x_i, y_j≠i) it estimates KL(πθ‖πref) as Ethayarajh et al. 2024 have it.
    Given the matched pairs and clamp=False it is paper A's released code. mask [n]: bool, rows that
    count; with none left z0 is 0.
    """
    policy, ref = checks.rows(policy_logps=policy_logps, ref_logps=ref_logps)
    ratio = policy - ref
    if mask is not None:
        ratio = ratio[_desired(mask, ratio, "mask")]
    z0 = ratio.mean() if len(ratio) else ratio.sum()
    return z0.clamp(min=0.0) if clamp else z0


def qrpo(policy_logps, ref_logps, rewards, ref_rewards, *, beta: float) -> Tensor:
    """Quantile rewards, whose partition function is known exactly: (q − β·log Z − βρ)². [n] each ->
    [n]

    q = share of ref_rewards [n, m] (rewards of m completions of the reference on the row's prompt)
    that are <= reward. Equal rewards given in two precisions are equal: both are compared in the
    coarser one. Matrenok et al. 2025.
    """
    beta = checks.number("beta", beta, above=0.0)
    policy, ref, reward = checks.rows(
        policy_logps=policy_logps, ref_logps=ref_logps, rewards=rewards
    )
    others = checks.floats(ref_rewards)
    if others.dim() != 2 or len(others) != len(reward) or others.shape[1] == 0:
        raise ValueError(
            f"ref_rewards has shape {tuple(others.shape)}; give ({len(reward)}, m), m "
            "reference rewards a row"
        )
    checks.finite(ref_rewards=others)
    given = [
        t.dtype for t in map(checks.tensor_of, (rewards, ref_rewards)) if t.is_floating_point()
    ]
    coarser = max(given, key=lambda dtype: torch.finfo(dtype).eps, default=policy.dtype)
    quantile = (others.to(coarser) <= reward.to(coarser)[:, None]).to(policy.dtype).mean(1)
    return (quantile - beta * qrpo_log_partition(beta) - beta * (policy - ref)) ** 2


def qrpo_log_partition(beta: float) -> float:
    """log Z of a uniform reward on [0, 1]: Z = ∫ exp(q/β) dq = β(e^(1/β) − 1), for any beta > 0
    without overflow."""
    beta = checks.number("beta", beta, above=0.0)
    return math.log(beta) + 1 / beta + math.log(-math.expm1(-1 / beta))


# Pairs: margin = ρ_win − ρ_lose, [pairs] -> [pairs] -----------------------------------------------


def dpo(margin, *, beta: float) -> Tensor:
    """log(1 + e^(−βm)). Rafailov et al. 2023, eq. 7."""
    beta, m = _pairs(margin, beta)
    return -logsigmoid(beta * m)


def ipo(margin, *, beta: float) -> Tensor:
    """(βm − 1)²: paper A's form of Azar et al. 2024 (their eq. 17, (m − 1/(2τ))², times β² at τ =
    β/2)."""
    beta, m = _pairs(margin, beta)
    return (beta * m - 1) ** 2


def slic(margin, *, beta: float) -> Tensor:
    """max(0, 1 − βm). Zhao et al. 2023, as paper A writes it."""
    beta, m = _pairs(margin, beta)
    return relu(1 - beta * m)


def cdpo(margin, *, beta: float, confidence: float) -> Tensor:
    """Cross-entropy with a label right with probability c: −c·log σ(βm) − (1 − c)·log σ(−βm).
    Mitchell 2023."""
    beta, m = _pairs(margin, beta)
    confidence = checks.number("confidence", confidence)
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence is {confidence:g}; it is a probability, between 0 and 1")
    return -confidence * logsigmoid(beta * m) - (1 - confidence) * logsigmoid(-beta * m)


def simpo(chosen_mean_logps, rejected_mean_logps, *, beta: float, gamma: float) -> Tensor:
    """−log σ(β(m_win − m_lose) − γ), m the log-probability per token, no reference. [pairs] each.
    Meng et al. 2024, eq. 6."""
    beta, gamma = checks.number("beta", beta, above=0.0), checks.number("gamma", gamma)
    chosen, rejected = checks.rows(
        chosen_mean_logps=chosen_mean_logps, rejected_mean_logps=rejected_mean_logps
    )
    return -logsigmoid(beta * (chosen - rejected) - gamma)


# K completions of a prompt: implicit a = βρ, explicit b = ηr* -------------------------------------


def _sq(a: Tensor, b: Tensor) -> Tensor:
    """½(a₁ − a₂ − b₁ + b₂)²"""
    gap = a - b
    return 0.5 * (gap[..., 0] - gap[..., 1]) ** 2


def _sqloo(a: Tensor, b: Tensor) -> Tensor:
    """½ Σ_k (â_k − b̂_k)², hat: own value minus the mean of the K−1 others = K/(K−1)·(own − mean of
    all)"""
    gap = a - b
    count = gap.shape[-1]
    return 0.5 * ((count / (count - 1) * (gap - gap.mean(-1, keepdim=True))) ** 2).sum(-1)


def _bwd(a: Tensor, b: Tensor) -> Tensor:
    """KL[softmax b ‖ softmax a]: the target comes first"""
    log_q, log_p = log_softmax(b, -1), log_softmax(a, -1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def _fwd(a: Tensor, b: Tensor) -> Tensor:
    """KL[softmax a ‖ softmax b]: the policy comes first (paper B prints the backward formula again
    as eq. 10, a misprint)"""
    return _bwd(b, a)


DISTANCES = {"sq": _sq, "sqloo": _sqloo, "bwd": _bwd, "fwd": _fwd}


def reward_aware(implicit, explicit, *, distance: str) -> Tensor:
    """Paper B's RPO: the distance between implicit rewards a = βρ and explicit ones b = ηr*. [...,
    K] each -> [...]

    distance: a key of `DISTANCES`; "sq" takes pairs (K = 2), the others K >= 2. log Z(x) cancels in
    each of them.
    """
    checks.known("distance", distance, DISTANCES)
    a, b = checks.floats(implicit), checks.floats(explicit)
    checks.same_shape(implicit=a, explicit=b)
    count = a.shape[-1] if a.dim() else 0
    if count < 2 or (distance == "sq" and count != 2):
        raise ValueError(
            f"implicit has shape {tuple(a.shape)}; distance {distance!r} compares "
            f"{'two' if distance == 'sq' else 'two or more'} completions along the "
            "last axis"
        )
    checks.finite(implicit=a, explicit=b)
    return DISTANCES[distance](a, b)


def _pairs(margin, beta: float) -> tuple[float, Tensor]:
    (m,) = checks.rows(margin=margin)
    return checks.number("beta", beta, above=0.0), m


def _desired(flags, like: Tensor, name: str = "desirable") -> Tensor:
    """Flags as bool, row for row with `like`; labels of −1 and 1 would pass as all true, so only 0
    and 1 are taken."""
    flags = checks.tensor_of(flags, like.device)
    checks.same_shape(policy_logps=like, **{name: flags})
    wrong = torch.zeros_like(flags) if flags.dtype == torch.bool else (flags != 0) & (flags != 1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} is {flags[row].item()} at row {row}; give true or false, or 1 and 0"
        )
    return flags.bool()
