"""Paper B's Table 1, computed live: the settings that recover other methods, beside those methods'
own losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rpo_nb.config.objective import Setting
from rpo_nb.training.reward_aware import SURE, framework_loss

HINGE = 1e-12  # temperature at which SLiC's hinge is computed as a limit
# (β, seed) of the random tensors that Table 1 compares on
DRAWS = ((0.05, 0), (0.3, 1), (1.0, 2), (2.0, 3))


# ---- Table 1: each method's own formula, and the framework's setting -----------------------------


@dataclass(frozen=True)
class Draw:
    """Random numbers where a training has a policy's, float64: n prompts, K completions each."""

    beta: float
    policy: Tensor  # log πθ(y|x) [n, K], the one that gradients are taken of
    ref: Tensor  # log πref(y|x)
    proposal: Tensor  # log-probability under whatever else sampled the completions
    prior: Tensor  # log P(y|x) of an unconditioned model
    attribute: Tensor  # P(a|y, x), in (0, 1)
    rewards: Tensor
    opponents: Tensor  # P(y ≻ y'|x) against 5 completions y' of the policy, [n, K, 5]
    chances: Tensor  # the probabilities of those 5, [n, 5], summing to 1
    lengths: Tensor  # tokens


def draw(beta: float, seed: int, k: int, n: int = 64) -> Draw:
    """Random tensors of n prompts with k completions each; the first completion has the highest
    reward."""
    generator = torch.Generator().manual_seed(1000 * k + seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    rewards = normal(n, k).sort(-1, descending=True).values
    return Draw(
        beta,
        normal(n, k, scale=3) - 20,
        normal(n, k, scale=3) - 20,
        normal(n, k) - 20,
        normal(n, k) - 20,
        normal(n, k).sigmoid(),
        rewards,
        normal(n, k, 5).sigmoid(),
        normal(n, 5).softmax(-1),
        torch.randint(1, 40, (n, k), generator=generator).double(),
    )


def _log_ratio(d: Draw) -> Tensor:
    """log πθ(y_w)/πref(y_w) − log πθ(y_l)/πref(y_l) of pairs [n, 2]."""
    return (d.policy[:, 0] - d.policy[:, 1]) - (d.ref[:, 0] - d.ref[:, 1])


def _dpo(d: Draw) -> Tensor:
    """Rafailov et al. 2023, eq. 7."""
    return -torch.log(1 / (1 + torch.exp(-d.beta * _log_ratio(d))))


def _cdpo(d: Draw, confidence: float = 0.9) -> Tensor:
    """Mitchell 2023: binary cross-entropy with a label that is right with probability c."""
    target = torch.full_like(d.rewards[:, 0], confidence)
    return torch.nn.functional.binary_cross_entropy_with_logits(
        d.beta * _log_ratio(d), target, reduction="none"
    )


def _ipo(d: Draw) -> Tensor:
    """Azar et al. 2024, eq. 17, with their τ = β."""
    return (_log_ratio(d) - 1 / (2 * d.beta)) ** 2


def _distill_dpo(d: Draw) -> Tensor:
    """Fisch et al. 2024: the reward margin regressed on the policy's, β·log-ratio."""
    return ((d.rewards[:, 0] - d.rewards[:, 1]) - d.beta * _log_ratio(d)) ** 2


def _simpo(d: Draw, gamma: float = 0.4) -> Tensor:
    """Meng et al. 2024, eq. 6: average log-probabilities, no reference, margin γ."""
    score = d.beta / d.lengths * d.policy
    return -logsigmoid(score[:, 0] - score[:, 1] - gamma)


def _self_normalised(target: Tensor, weight: Tensor) -> Tensor:
    """KL between two sets of importance weights [n, K], each normalised over the K samples."""
    alpha, omega = target / target.sum(-1, keepdim=True), weight / weight.sum(-1, keepdim=True)
    return (alpha * torch.log(alpha / omega)).sum(-1)


def _brain(d: Draw) -> Tensor:
    """Pandey et al. 2024: the posterior ∝ πref·e^r matched from samples of a proposal,
    self-normalised."""
    return _self_normalised(
        torch.exp(d.rewards) * torch.exp(d.ref - d.proposal), torch.exp(d.policy - d.proposal)
    )


def _dno(d: Draw) -> Tensor:
    """Rosset et al. 2024, Algorithm 1: soft labels σ(r_1 − r_2), r the expected win rate against
    the policy; β is their η."""
    win = (d.opponents * d.chances[:, None]).sum(-1)
    label = torch.sigmoid(win[:, 0] - win[:, 1])
    return -label * logsigmoid(d.beta * _log_ratio(d)) - (1 - label) * logsigmoid(
        -d.beta * _log_ratio(d)
    )


def _steerlm2(d: Draw) -> Tensor:
    """SteerLM 2.0 (Nemotron-4 340B report): P(y|a, x) ∝ P(a|y, x)·P(y|x), from samples of Q'(y|a,
    x)."""
    return _self_normalised(
        d.attribute * torch.exp(d.prior - d.proposal), torch.exp(d.policy - d.proposal)
    )


def _slic(d: Draw) -> Tensor:
    """Zhao et al. 2023's hinge on the log-ratio, as paper A and TRL write it, without its
    regulariser."""
    return torch.clamp(1 - d.beta * _log_ratio(d), min=0)


def _rebel(d: Draw) -> Tensor:
    """Gao et al. 2024, eq. 1, with their η = 1/β."""
    return (d.beta * _log_ratio(d) - (d.rewards[:, 0] - d.rewards[:, 1])) ** 2


def _rloo(d: Draw) -> Tensor:
    """Ahmadian et al. 2024: REINFORCE on R = r − β·ρ, each sample's baseline the mean of the
    others.

    RLOO is a gradient and has no loss; the value here is its mean of advantage times R, over 2β,
    the gradient is RLOO's.
    """
    shaped = (d.rewards - d.beta * (d.policy - d.ref)).detach()
    k = shaped.shape[-1]
    baseline = torch.stack(
        [shaped[:, [j for j in range(k) if j != i]].mean(-1) for i in range(k)], -1
    )
    surrogate = -((shaped - baseline) * d.policy).mean(-1)
    return ((shaped - baseline) * shaped).mean(-1) / (2 * d.beta) + surrogate - surrogate.detach()


@dataclass(frozen=True)
class Recovered:
    """A row of Table 1: own(draw) and framework(draw), losses [n] that agree, and in words what
    makes them agree."""

    words: str
    own: Callable[[Draw], Tensor]
    framework: Callable[[Draw], Tensor]
    sizes: tuple[int, ...] = (2,)  # K


def _entropy(gap: Tensor | float) -> Tensor:
    """Entropy of a Bernoulli label with log-odds `gap`."""
    gap = torch.as_tensor(gap, dtype=torch.float64)
    return -(gap.sigmoid() * logsigmoid(gap) + (-gap).sigmoid() * logsigmoid(-gap))


def _of(setting: Setting, **changed: Callable[[Draw], Tensor]) -> Callable[[Draw], Tensor]:
    """The framework's loss at the draw's β; changed: policy, ref, rewards as other functions of the
    draw."""

    def loss(d: Draw) -> Tensor:
        policy, ref, rewards = (
            changed.get(name, lambda d, name=name: getattr(d, name))(d)
            for name in ("policy", "ref", "rewards")
        )
        return framework_loss(policy, ref, rewards, replace(setting, beta=d.beta))

    return loss


def _win_rates(d: Draw) -> Tensor:
    return torch.einsum("nkm,nm->nk", d.opponents, d.chances)


def _slic_limit(d: Draw) -> Tensor:
    """T·D^bwd at δ* = ∞ with the implicit margin (βρ-margin − 1)/T: softplus with temperature T."""
    sharp = Setting("bwd", beta=d.beta / HINGE, gap=SURE, gamma=1 / HINGE)
    return HINGE * framework_loss(d.policy, d.ref, d.rewards, sharp)


LOGIT = math.log(9.0)  # logit(c) at cDPO's c = 0.9
ANY_K = (2, 3, 4, 8)
POSTERIOR = _of(
    Setting("bwd"), ref=lambda d: d.proposal, rewards=lambda d: d.rewards + d.ref - d.proposal
)
RECOVERED: dict[str, Recovered] = {
    "DPO": Recovered("bwd, δ* = ∞", _dpo, _of(Setting("bwd", gap=SURE))),
    "cDPO": Recovered(
        "bwd, δ* = logit(c), c = 0.9; plus the label's entropy H(c), a constant",
        _cdpo,
        lambda d: _of(Setting("bwd", gap=LOGIT))(d) + _entropy(LOGIT),
    ),
    "IPO": Recovered(
        "sq, δ* = 1/2; times 2/β²", _ipo, lambda d: 2 / d.beta**2 * _of(Setting("sq", gap=0.5))(d)
    ),
    "Distill-DPO": Recovered(
        "sq, η = 1; times 2", _distill_dpo, lambda d: 2 * _of(Setting("sq"))(d)
    ),
    "SimPO": Recovered(
        "bwd, δ* = ∞, a = β·log πθ/|y|, γ = 0.4 off the preferred one's a, no πref",
        _simpo,
        _of(
            Setting("bwd", gap=SURE, gamma=0.4, per_token=True),
            policy=lambda d: d.policy / d.lengths,
        ),
    ),
    "BRAIn": Recovered(
        "bwd, β = η = 1, any K, samples of πref",
        lambda d: _brain(replace(d, proposal=d.ref)),
        lambda d: _of(Setting("bwd"))(replace(d, beta=1.0)),
        ANY_K,
    ),
    "BRAIn, other samples": Recovered(
        "bwd, β = η = 1, any K, samples of q in πref's place, r* = r + log πref/q",
        _brain,
        lambda d: POSTERIOR(replace(d, beta=1.0)),
        ANY_K,
    ),
    "DNO": Recovered(
        "bwd, η = 1, r* = E P(y ≻ y'|x), y' ~ π; plus the label's entropy, a constant",
        _dno,
        lambda d: (
            _of(Setting("bwd"), rewards=_win_rates)(d)
            + _entropy(_win_rates(d)[:, 0] - _win_rates(d)[:, 1])
        ),
    ),
    "SteerLM 2.0": Recovered(
        "bwd, β = η = 1, any K, πref = Q', r* = log P(a|y,x)·P(y|x)/Q'(y|x,a)",
        _steerlm2,
        lambda d: _of(
            Setting("bwd"),
            ref=lambda d: d.proposal,
            rewards=lambda d: d.attribute.log() + d.prior - d.proposal,
        )(replace(d, beta=1.0)),
        ANY_K,
    ),
    "SLiC": Recovered(
        "bwd, δ* = ∞, a's margin less 1 over T, times T; a limit, T → 0, here T = "
        "1e-12 (off by T·log 2 at most)",
        _slic,
        _slic_limit,
    ),
    "REBEL": Recovered(
        "sq, η = 1, πref = the last iterate; times 2", _rebel, lambda d: 2 * _of(Setting("sq"))(d)
    ),
    "RLOO": Recovered(
        "sqloo, η = 1, any K, samples of πθ; times (K−1)/(βK²); RLOO has no loss, "
        "its gradient is compared, and its "
        "mean of advantage × reward over 2β",
        _rloo,
        lambda d: (
            (d.rewards.shape[-1] - 1)
            / (d.beta * d.rewards.shape[-1] ** 2)
            * _of(Setting("sqloo"))(d)
        ),
        ANY_K,
    ),
}


def _simpo_printed(d: Draw) -> Tensor:
    """The paper's words for SimPO: DPO with log πref(y|x) = −c·|y| for one c (here the draw's mean
    log-probability a token)."""
    c = -float(d.policy.detach().mean() / d.lengths.mean())
    return framework_loss(
        d.policy, -c * d.lengths, d.rewards, Setting("bwd", beta=d.beta, gap=SURE)
    )


# What the paper's Table 1 says, to the letter: no factor, no constant. Its own sq has the ½, its
# rows give β and η nowhere.
AS_PRINTED: dict[str, tuple[str, Callable[[Draw], Tensor], Callable[[Draw], Tensor]]] = {
    "DPO": ("exact", _dpo, _of(Setting("bwd", gap=SURE))),
    "cDPO": ("same gradient; the losses differ by H(c)", _cdpo, _of(Setting("bwd", gap=LOGIT))),
    "IPO": ("up to the factor 2/β²", _ipo, _of(Setting("sq", gap=0.5))),
    "Distill DPO": ("up to the factor 2", _distill_dpo, _of(Setting("sq"))),
    "SimPO": (
        "not as printed: πref falling with length is a length penalty, dividing by length is "
        "not; the same only where all completions "
        "are equally long, with β/|y| for β",
        lambda d: _simpo(d, gamma=0.0),
        _simpo_printed,
    ),
    "BRAIn": (
        "exact for samples of πref and β = η = 1; for another proposal q, r* also takes log "
        "πref/q, and q stands for πref",
        lambda d: _brain(replace(d, proposal=d.ref)),
        lambda d: _of(Setting("bwd"))(replace(d, beta=1.0)),
    ),
    "DNO": (
        "same gradient, for D bwd, which the row does not name; the losses differ by the "
        "label's entropy",
        _dno,
        _of(Setting("bwd"), rewards=_win_rates),
    ),
    "SteerLM 2.0": (
        "exact, for D bwd and β = 1, with Q' for πref",
        RECOVERED["SteerLM 2.0"].own,
        RECOVERED["SteerLM 2.0"].framework,
    ),
}


def table1() -> pd.DataFrame:
    """Table 1, computed: algorithm, setting, max_loss_difference, max_gradient_difference (of the
    policy's log-probabilities).

    Largest absolute differences over random float64 tensors: 4 pairs of β and seed, every K of the
    row, 64 prompts each.
    """
    return pd.DataFrame(
        [
            {
                "algorithm": name,
                "setting": row.words,
                **_differences(row.own, row.framework, row.sizes),
            }
            for name, row in RECOVERED.items()
        ]
    )


def table1_as_printed(printed: Sequence[dict[str, str]]) -> pd.DataFrame:
    """The paper's own settings taken to the letter: algorithm, setting (its words), holds, and the
    same two differences.

    printed: paper_b.table1 of published.yaml.
    """
    rows = []
    for row in printed:
        holds, own, framework = AS_PRINTED[row["algorithm"]]
        rows.append(
            {
                "algorithm": row["algorithm"],
                "setting": row["rpo_setting"],
                "holds": holds,
                **_differences(own, framework, (2,)),
            }
        )
    return pd.DataFrame(rows)


def _differences(
    own: Callable[[Draw], Tensor], framework: Callable[[Draw], Tensor], sizes: Sequence[int]
) -> dict[str, float]:
    losses, gradients = [], []
    for k in sizes:
        for beta, seed in DRAWS:
            case = draw(beta, seed, k)
            case.policy.requires_grad_()
            pair = [loss(case) for loss in (own, framework)]
            slopes = [torch.autograd.grad(loss.sum(), case.policy)[0] for loss in pair]
            losses.append(float((pair[0] - pair[1]).detach().abs().max()))
            gradients.append(float((slopes[0] - slopes[1]).abs().max()))
    return {"max_loss_difference": max(losses), "max_gradient_difference": max(gradients)}
