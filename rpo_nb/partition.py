"""log Ẑ of each row's prompt: six estimators of Z(x) = Σ_y πref(y|x)·exp(r(x, y)/τ), and what tells whether to trust them.

Notation: e_j = exp(r_j/τ) and w_j = πref(y_j|x) = exp(ref_logps_j) over the K rows of a prompt. The empirical estimate is
paper A's equation 19; the Monte-Carlo ones suit completions that were sampled from πref, where the samples already carry
the weight w_j. Rows of a prompt need not be adjacent; every sum is a scatter log-sum-exp in float64, so τ = 0.001,
rewards of 1000 and log-probabilities of −10000 are safe. Nothing here has a gradient: V̂ = τ·log Ẑ is a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rpo_nb import checks


@dataclass(frozen=True)
class _Groups:
    """n rows in p prompts: the prompt of each row and how many rows each prompt has."""

    ids: Tensor  # [p] sorted prompt ids
    of_row: Tensor  # [n] position in `ids`
    counts: Tensor  # [p] K

    @classmethod
    def of(cls, prompt_ids: Tensor) -> _Groups:
        return cls(*torch.unique(prompt_ids, return_inverse=True, return_counts=True))

    def logsumexp(self, x: Tensor) -> Tensor:
        """x [n] -> [p]; a prompt whose x are all −∞ gives −∞."""
        top = self.max(x)
        shift = torch.where(top.isinf(), 0.0, top)  # −∞ − (−∞) would be nan
        sums = torch.zeros_like(top).index_add_(0, self.of_row, (x - shift[self.of_row]).exp())
        return shift + sums.log()

    def max(self, x: Tensor) -> Tensor:
        """x [n] -> [p]"""
        return x.new_full(self.counts.shape, -math.inf).scatter_reduce_(0, self.of_row, x, "amax")

    def first(self, chosen: Tensor) -> Tensor:
        """Mark one row a prompt: the first of those where `chosen` [n] holds. -> bool [n]"""
        index = torch.arange(len(chosen), device=chosen.device)
        nowhere = torch.full_like(self.counts, len(chosen))
        first = nowhere.scatter_reduce(0, self.of_row, torch.where(chosen, index, len(chosen)), "amin")
        return first[self.of_row] == index


def _log_mean(x: Tensor) -> Tensor:
    """log of the mean of exp(x) over the whole data set"""
    return x.logsumexp(0) - math.log(len(x))


def _empirical(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log Σ_j w_j e_j (paper A, eq. 19)"""
    return groups.logsumexp(ref + scaled)[groups.of_row]


def _monte_carlo(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log (1/K) Σ_j e_j, consistent when y_j ~ πref"""
    return (groups.logsumexp(scaled) - groups.counts.double().log())[groups.of_row]


def _self_normalised(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log (Σ_j w_j e_j / Σ_j w_j)"""
    return (groups.logsumexp(ref + scaled) - groups.logsumexp(ref))[groups.of_row]


def _leave_one_out(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log of the mean of the K−1 other e_j; with K = 1 the data set's mean stands in

    Σ − e_i would cancel where e_i is the largest, so that row gets a sum of its own, made without it.
    """
    top = groups.max(scaled)[groups.of_row]
    largest = groups.first(scaled == top)
    without_largest = groups.logsumexp(scaled.masked_fill(largest, -math.inf))[groups.of_row]
    sums = (groups.logsumexp(scaled)[groups.of_row] - top).exp()  # at least 1, and at least 1 more than a row not largest
    others = torch.where(largest, without_largest, top + (sums - (scaled - top).exp()).clamp(min=1.0).log())
    count = groups.counts[groups.of_row]
    return torch.where(count > 1, others - (count - 1).clamp(min=1).double().log(), _log_mean(scaled))


def _none(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """0: no normalisation (paper A version 4's ablation)"""
    return torch.zeros_like(scaled)


def _pooled(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log ((Σ_j e_j + c·ē) / (K + c)), ē the data set's mean of e: the fallback for few completions"""
    prior = _log_mean(scaled) + (math.log(prior_count) if prior_count else -math.inf)
    return (torch.logaddexp(groups.logsumexp(scaled), prior) - (groups.counts.double() + prior_count).log())[groups.of_row]


ESTIMATORS = {
    "empirical": _empirical,
    "monte_carlo": _monte_carlo,
    "self_normalised": _self_normalised,
    "leave_one_out": _leave_one_out,
    "none": _none,
    "pooled": _pooled,
}


@torch.no_grad()
def log_partition(ref_logps, rewards, prompt_ids, *, tau: float, estimator: str = "empirical",
                  prior_count: float = 1.0) -> Tensor:
    """log Ẑ(x) of each row's prompt.

    ref_logps [n]: log πref(y|x), summed or averaged over tokens as the loss has it; rewards [n]; prompt_ids [n]: any
    integers, equal for rows of one prompt. tau: temperature. estimator: a key of `ESTIMATORS`. prior_count: c of "pooled".
    Returns [n], float64 if an input is float64, else float32. V̂ = tau * log_partition (paper A, eq. 19).
    Raises ValueError for wrong shapes, a non-finite value (it names the row), tau <= 0, prior_count < 0, an unknown name.
    """
    return _estimate(*_checked(ref_logps, rewards, prompt_ids, tau), estimator, prior_count)


@torch.no_grad()
def target(ref_logps, rewards, prompt_ids, *, tau: float, estimator: str = "empirical",
           prior_count: float = 1.0) -> Tensor:
    """What the log-ratio is regressed on: t = r/τ − log Ẑ(x) = (r − V̂)/τ (paper A).

    Arguments, shape and errors as `log_partition`.
    """
    ref, scaled, groups, dtype = _checked(ref_logps, rewards, prompt_ids, tau)
    log_z = _estimate(ref, scaled, groups, torch.float64, estimator, prior_count)
    return _finished(scaled - log_z, dtype)  # subtracted in float64: both may be of order 1e6


@torch.no_grad()
def diagnostics(ref_logps, rewards, prompt_ids, *, tau: float,
                estimators: tuple[str, ...] = ("empirical", "monte_carlo", "self_normalised", "leave_one_out", "pooled")) -> dict:
    """How far log Ẑ can be trusted, per prompt (p of them, sorted by id). Arguments and errors as `log_partition`.

    prompt_ids, completions [p]: K. effective_sample_size [p]: (Σu)²/Σu² of u_j = w_j·e_j, between 1 and K: how many rows
    make up the empirical estimate. effective_sample_size_unweighted [p]: the same of e_j, for the Monte-Carlo ones.
    spread [p]: largest minus smallest log Ẑ among `estimators`, mean over the prompt's rows.
    single_share: the share of prompts with one completion, whose empirical target does not know the reward.
    """
    ref, scaled, groups, dtype = _checked(ref_logps, rewards, prompt_ids, tau)

    def effective_size(x: Tensor) -> Tensor:
        return (2 * groups.logsumexp(x) - groups.logsumexp(2 * x)).exp().to(dtype)

    all_of = torch.stack([_estimate(ref, scaled, groups, torch.float64, name, 1.0) for name in estimators])
    spread = (all_of.amax(0) - all_of.amin(0)) if len(scaled) else scaled
    summed = torch.zeros(len(groups.ids), dtype=torch.float64, device=spread.device).index_add_(0, groups.of_row, spread)
    return {
        "prompt_ids": groups.ids,
        "completions": groups.counts,
        "effective_sample_size": effective_size(ref + scaled),
        "effective_sample_size_unweighted": effective_size(scaled),
        "spread": (summed / groups.counts).to(dtype),
        "single_share": (groups.counts == 1).double().mean().item(),
    }


def _checked(ref_logps, rewards, prompt_ids, tau: float) -> tuple[Tensor, Tensor, _Groups, torch.dtype]:
    """Validated inputs: ref [n] and r/τ [n] in float64, the groups, and the dtype of the answer."""
    tau = checks.number("tau", tau, above=0.0)
    ref, reward = checks.rows(ref_logps=ref_logps, rewards=rewards)
    ids = checks.tensor_of(prompt_ids, ref.device)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"prompt_ids is of type {ids.dtype}; give integers, equal for rows of one prompt")
    checks.same_shape(ref_logps=ref, prompt_ids=ids)
    return ref.double(), reward.double() / tau, _Groups.of(ids), torch.promote_types(ref.dtype, reward.dtype)


def _estimate(ref: Tensor, scaled: Tensor, groups: _Groups, dtype: torch.dtype, estimator: str, prior_count: float) -> Tensor:
    checks.known("estimator", estimator, ESTIMATORS)
    prior_count = checks.number("prior_count", prior_count)
    if prior_count < 0:
        raise ValueError(f"prior_count is {prior_count:g}; it must be 0 or more")
    if not len(scaled):
        return scaled.to(dtype)
    return _finished(ESTIMATORS[estimator](ref, scaled, groups, prior_count), dtype)


def _finished(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` as `dtype`; ValueError when rewards / tau left its range."""
    values = values.to(dtype)
    if not torch.isfinite(values).all():
        row = int((~torch.isfinite(values)).nonzero()[0])
        raise ValueError(f"rewards / tau overflows at row {row}; use a larger tau or standardise the rewards")
    return values
