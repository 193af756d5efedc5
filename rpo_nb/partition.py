"""log Ẑ of each row's prompt: six estimators of Z(x) = Σ_y πref(y|x)·exp(r(x, y)/τ), and what tells
whether to trust them.

Notation: e_j = exp(r_j/τ) and w_j = πref(y_j|x) = exp(ref_logps_j) over the K rows of a prompt. The
empirical estimate is paper A's equation 19; the Monte-Carlo ones suit completions that were sampled
from πref, where the samples already carry the weight w_j. Rows of a prompt need not be adjacent;
every sum is a scatter log-sum-exp in float64, so τ = 0.001, rewards of 1000 and log-probabilities
of −10000 are safe. Nothing here has a gradient: V̂ = τ·log Ẑ is a constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rpo_nb import checks
from rpo_nb.config import settings


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

    def sum(self, x: Tensor) -> Tensor:
        """x [n] -> [p]"""
        return x.new_zeros(self.counts.shape).index_add_(0, self.of_row, x)

    def first(self, chosen: Tensor) -> Tensor:
        """Mark one row a prompt: the first of those where `chosen` [n] holds. -> bool [n]"""
        index = torch.arange(len(chosen), device=chosen.device)
        nowhere = torch.full_like(self.counts, len(chosen))
        first = nowhere.scatter_reduce(
            0, self.of_row, torch.where(chosen, index, len(chosen)), "amin"
        )
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

    Σ − e_i would cancel where e_i is the largest, so that row gets a sum of its own, made without
    it.
    """
    top = groups.max(scaled)[groups.of_row]
    largest = groups.first(scaled == top)
    without_largest = groups.logsumexp(scaled.masked_fill(largest, -math.inf))[groups.of_row]
    # at least 1, and at least 1 more than a row not largest
    sums = (groups.logsumexp(scaled)[groups.of_row] - top).exp()
    others = torch.where(
        largest, without_largest, top + (sums - (scaled - top).exp()).clamp(min=1.0).log()
    )
    count = groups.counts[groups.of_row]
    return torch.where(
        count > 1, others - (count - 1).clamp(min=1).double().log(), _log_mean(scaled)
    )


def _none(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """0: no normalisation (paper A version 4's ablation)"""
    return torch.zeros_like(scaled)


def _pooled(ref: Tensor, scaled: Tensor, groups: _Groups, prior_count: float) -> Tensor:
    """log ((Σ_j e_j + c·ē) / (K + c)), ē the data set's mean of e: the fallback for few
    completions"""
    prior = _log_mean(scaled) + (math.log(prior_count) if prior_count else -math.inf)
    sums = torch.logaddexp(groups.logsumexp(scaled), prior)
    return (sums - (groups.counts.double() + prior_count).log())[groups.of_row]


ESTIMATORS = {
    "empirical": _empirical,
    "monte_carlo": _monte_carlo,
    "self_normalised": _self_normalised,
    "leave_one_out": _leave_one_out,
    "none": _none,
    "pooled": _pooled,
}
WEIGHTED = ("empirical", "self_normalised")  # the estimators that weigh by πref
DOMINATED, LOST = 0.9, -8.0  # of a prompt's weight; log-probability a token
TOLERATED = {
    "dominated_share": 0.25,
    "unreachable_share": 0.05,
    "against_share": 0.25,
    "reward_scale": 10.0,
    "lost_share": 0.01,
}


@torch.no_grad()
def log_partition(
    ref_logps,
    rewards,
    prompt_ids,
    *,
    tau: float,
    estimator: str = "empirical",
    prior_count: float = 1.0,
) -> Tensor:
    """log Ẑ(x) of each row's prompt.

    ref_logps [n]: log πref(y|x), summed or averaged over tokens as the loss has it; rewards [n];
    prompt_ids [n]: any integers, equal for rows of one prompt. tau: temperature. estimator: a key
    of `ESTIMATORS`. prior_count: c of "pooled". Returns [n], float64 if an input is float64, else
    float32. V̂ = tau * log_partition (paper A, eq. 19). Raises ValueError for wrong shapes, a
    non-finite value (it names the row), tau <= 0, prior_count < 0, an unknown name.
    """
    return _estimate(*_checked(ref_logps, rewards, prompt_ids, tau), estimator, prior_count)


@torch.no_grad()
def target(
    ref_logps,
    rewards,
    prompt_ids,
    *,
    tau: float,
    estimator: str = "empirical",
    prior_count: float = 1.0,
) -> Tensor:
    """What the log-ratio is regressed on: t = r/τ − log Ẑ(x) = (r − V̂)/τ (paper A).

    Arguments, shape and errors as `log_partition`.
    """
    ref, scaled, groups, dtype = _checked(ref_logps, rewards, prompt_ids, tau)
    log_z = _estimate(ref, scaled, groups, torch.float64, estimator, prior_count)
    return _finished(scaled - log_z, dtype)  # subtracted in float64: both may be of order 1e6


@torch.no_grad()
def diagnostics(
    ref_logps,
    rewards,
    prompt_ids,
    *,
    tau: float,
    estimator: str = "empirical",
    reduce: str = "sum",
    lengths=None,
    estimators: tuple[str, ...] = tuple(name for name in ESTIMATORS if name != "none"),
) -> dict:
    """How far log Ẑ can be trusted and what the targets ask for. Arguments, shapes and errors as
    `log_partition`.

    ref_logps: None where no reference is at hand yet: then only what the rewards tell, NaN for the
    rest, and an estimator without πref.
    reduce: what ref_logps are, "sum" or "mean" over tokens; lengths [n]: tokens of the completions,
    where known. Of each of the p prompts, sorted by id: prompt_ids, completions [p] (K);
    effective_sample_size [p]: (Σu)²/Σu² of u_j = w_j·e_j, between 1 and K: how many rows make up
    the empirical estimate; effective_sample_size_unweighted [p]: the same of e_j, for the
    Monte-Carlo ones; spread [p]: largest minus smallest log Ẑ among `estimators`, mean over the
    prompt's rows. Shares, 0 to 1: single_share, prompts with one completion; dominated_share, of
    the others those where one completion has over 90 % of the estimator's weight;
    unreachable_share, rows whose target asks for a log-probability above 0; against_share, rows
    pushed the other way than their reward (above or below the mean of the prompt's others) says;
    above_log_k_share, for means: rows whose reference log-probability a token is above −log K,
    around which the empirical targets lie whatever the reward is; lost_share, rows with under e^−8
    a token (NaN where the tokens are not known).
    Numbers: reward_scale, the rewards' standard deviation over τ; log_partition and target, (mean,
    standard deviation).
    warnings: what is wrong, each one sentence with its remedy.
    """
    checks.known("reduce", reduce, ("sum", "mean"))
    blind = ref_logps is None
    if blind:
        unweighted = [name for name in ESTIMATORS if name not in WEIGHTED]
        checks.known("without ref_logps the estimator", estimator, unweighted)
        estimators = tuple(name for name in estimators if name in unweighted)
        ref_logps = torch.zeros_like(checks.floats(rewards))
    ref, scaled, groups, dtype = _checked(ref_logps, rewards, prompt_ids, tau)
    log_z = _estimate(ref, scaled, groups, torch.float64, estimator, 1.0)

    def effective_size(x: Tensor) -> Tensor:
        return (2 * groups.logsumexp(x) - groups.logsumexp(2 * x)).exp().to(dtype)

    each = [_estimate(ref, scaled, groups, torch.float64, name, 1.0) for name in estimators]
    all_of = torch.stack(each)
    spread = (all_of.amax(0) - all_of.amin(0)) if len(scaled) else scaled
    counts, target = groups.counts.double(), scaled - log_z
    several = groups.counts > 1
    weights = ref + scaled if estimator in WEIGHTED else scaled
    largest = (groups.max(weights) - groups.logsumexp(weights)).exp()
    others = (groups.sum(scaled)[groups.of_row] - scaled) / (counts[groups.of_row] - 1).clamp(min=1)
    better, judged = scaled > others, several[groups.of_row] & (scaled != others)
    per_token = ref if reduce == "mean" else None
    if reduce == "sum" and lengths is not None:
        per_token = ref / checks.tensor_of(lengths, ref.device)
    found = {
        "prompt_ids": groups.ids,
        "completions": groups.counts,
        "effective_sample_size": effective_size(ref + scaled),
        "effective_sample_size_unweighted": effective_size(scaled),
        "spread": (groups.sum(spread) / counts).to(dtype),
        "single_share": _share(~several),
        "dominated_share": _share(largest[several] > DOMINATED),
        "unreachable_share": _share(ref + target > 0),
        "against_share": _share((target > 0)[judged] != better[judged]),
        "above_log_k_share": _share(ref > -counts[groups.of_row].log())
        if reduce == "mean"
        else math.nan,
        "lost_share": _share(per_token < LOST) if per_token is not None else math.nan,
        "reward_scale": scaled.std(correction=0).item() if len(scaled) else math.nan,
        "log_partition": _mean_and_std(log_z),
        "target": _mean_and_std(target),
    }
    if blind:
        found |= {
            "effective_sample_size": torch.full_like(found["spread"], math.nan),
            "unreachable_share": math.nan,
            "above_log_k_share": math.nan,
            "lost_share": math.nan,
        }
    return found | {"warnings": _warnings(found, tau, estimator, reduce)}


def _share(flags: Tensor) -> float:
    return flags.double().mean().item() if flags.numel() else 0.0


def _mean_and_std(x: Tensor) -> tuple[float, float]:
    return (x.mean().item(), x.std(correction=0).item()) if len(x) else (math.nan, math.nan)


def recommended() -> str:
    """What a warning names as the remedy where an estimate fails: preset `fixed`'s estimator."""
    return settings.with_presets({})["presets"]["fixed"]["partition"]


def _warnings(found: dict, tau: float, estimator: str, reduce: str) -> list[str]:
    """The failure signatures that are there, each with its remedy."""
    instead = (
        "" if estimator == recommended() else f"use partition {recommended()}, as preset fixed does"
    )

    def either(*remedies: str) -> str:
        return ", or ".join(filter(None, remedies))

    out = []
    if found["single_share"] > 0 and estimator != "none":
        does = {
            "empirical": "its target is −log πref, whatever the reward",
            "leave_one_out": "the data set's mean stands in for its Ẑ",
            "pooled": "half of its Ẑ is the data set's mean",
        }.get(estimator, "its target is 0, whatever the reward")
        kept = estimator in ("pooled", "leave_one_out")
        remedy = "" if kept else f"; {either(instead, 'DRO or KTO', 'drop these prompts')}"
        out.append(
            f"{found['single_share']:.0%} of the prompts have one completion: {does}{remedy}."
        )
    over = {name for name, most in TOLERATED.items() if found[name] > most}
    if "reward_scale" in over:
        out.append(
            f"The rewards spread by {found['reward_scale']:.3g}·τ: they decide everything and the "
            f"targets explode; standardise the rewards, or raise τ = {tau:g}."
        )
    if "dominated_share" in over and estimator != "none":
        cause = "πref and the reward" if estimator in WEIGHTED else "the reward"
        out.append(
            f"In {found['dominated_share']:.0%} of the prompts one completion has over "
            f"{DOMINATED:.0%} of the weight, given by {cause}: Ẑ is an estimate from one row; "
            f"{either(instead, f'raise τ = {tau:g}')}."
        )
    if "unreachable_share" in over:
        out.append(
            f"{found['unreachable_share']:.0%} of the targets ask for a probability above 1: no "
            f"policy reaches them; {either(f'raise τ = {tau:g}', instead)}."
        )
    if reduce == "mean" and estimator == "empirical" and found["single_share"] < 1:
        above = found["above_log_k_share"]
        share, side, way, so = (
            (above, "above", "pushed down", "")
            if above > 0.5
            else (1 - above, "below", "pulled up", ", which is imitation")
        )
        out.append(
            f"{share:.0%} of the rows lie {side} −log K a token, where eq. 19 with means puts its "
            f"targets: they are {way}, good and bad alike, to a perplexity of K{so}; "
            f"{either('use sums', instead)}."
        )
    elif "against_share" in over:
        mean, std = found["target"]
        cause = "the level of the rewards" if estimator == "none" else "the level of log Ẑ"
        remedy = instead or "standardise the rewards, prompt by prompt if need be"
        out.append(
            f"{found['against_share']:.0%} of the rows are pushed the other way than their reward "
            f"says (targets {mean:+.3g} ± {std:.3g}): {cause} outweighs their differences within a "
            f"prompt; {remedy}."
        )
    if "lost_share" in over:
        out.append(
            f"{found['lost_share']:.0%} of the completions have less than e^{LOST:g} a token under "
            "the reference: it cannot write them; fine-tune it on the completions first (SFT), or "
            "drop these rows."
        )
    return out


def summary(found: dict) -> str:
    """`diagnostics` as one line; its warnings follow one a line."""
    counts, size = found["completions"], found["effective_sample_size"].double()
    unweighted = found["effective_sample_size_unweighted"].double().mean()
    (log_z, log_z_std), (mean, std) = found["log_partition"], found["target"]
    line = (
        f"{len(counts)} prompts, K {int(counts.min())} to {int(counts.max())}; effective sample "
        f"size {size.mean():.1f} weighed by πref, {unweighted:.1f} without; log Ẑ {log_z:+.2f} ± "
        f"{log_z_std:.2f}; targets {mean:+.2f} ± {std:.2f}, "
        f"{found['unreachable_share']:.0%} out of reach, "
        f"{found['against_share']:.0%} against the reward"
    )
    return "\n".join([line, *(f"  warning: {sentence}" for sentence in found["warnings"])])


def _checked(
    ref_logps, rewards, prompt_ids, tau: float
) -> tuple[Tensor, Tensor, _Groups, torch.dtype]:
    """Validated inputs: ref [n] and r/τ [n] in float64, the groups, and the dtype of the result."""
    tau = checks.number("tau", tau, above=0.0)
    ref, reward = checks.rows(ref_logps=ref_logps, rewards=rewards)
    ids = checks.tensor_of(prompt_ids, ref.device)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(
            f"prompt_ids is of type {ids.dtype}; give integers, equal for rows of one prompt"
        )
    checks.same_shape(ref_logps=ref, prompt_ids=ids)
    return (
        ref.double(),
        reward.double() / tau,
        _Groups.of(ids),
        torch.promote_types(ref.dtype, reward.dtype),
    )


def _estimate(
    ref: Tensor,
    scaled: Tensor,
    groups: _Groups,
    dtype: torch.dtype,
    estimator: str,
    prior_count: float,
) -> Tensor:
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
        raise ValueError(
            f"rewards / tau overflows at row {row}; use a larger tau or standardise the rewards"
        )
    return values
