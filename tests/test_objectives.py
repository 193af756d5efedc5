"""Every loss against hand numbers, enumeration, finite differences, the identities between them,
Hugging Face and TRL."""

import math

import pytest
import torch

from rpo_nb import objectives, partition
from tests.tensors import F64, A, B, C, D, random, vector

# Hand numbers -------------------------------------------------------------------------------------

P, R = vector(-1.0, -2.0), vector(-1.5, -1.0)  # ρ = 0.5, −1
SIGMOID = {x: 1 / (1 + math.exp(-x)) for x in (-1.5, -0.5, -0.25, 0.25, 0.5, 1.0, 1.5)}


@pytest.mark.parametrize(
    "loss, expected",
    [
        (lambda: objectives.sft(P), [1.0, 2.0]),
        (
            lambda: objectives.rpo(P, R, vector(2, -4), vector(0.5, 1), tau=2.0),
            [0.0, 0.5 * (-1 + 2 + 1) ** 2],
        ),
        (
            lambda: objectives.dro(P, R, vector(2, -4), vector(0.5, 1), tau=2.0),
            [0.5 * 0.5**2, 0.5 * (-4 - 1 + 2) ** 2],
        ),
        (
            lambda: objectives.kto(
                P, R, torch.tensor([True, False]), 1.0, beta=0.5, lambda_d=2.0, lambda_u=3.0
            ),
            [2 * (1 - SIGMOID[-0.25]), 3 * (1 - SIGMOID[1.0])],
        ),
        (
            lambda: objectives.qrpo(
                P, R, vector(1, 5), vector(0, 2, 0, 1, 9, 8, 7, 5).reshape(2, 4), beta=1.0
            ),
            [(0.75 - math.log(math.e - 1) - 0.5) ** 2, (0.25 - math.log(math.e - 1) + 1) ** 2],
        ),
        (
            lambda: objectives.dpo(vector(0.5, -3), beta=0.5),
            [-math.log(SIGMOID[0.25]), -math.log(SIGMOID[-1.5])],
        ),
        (lambda: objectives.ipo(vector(0.5, -3), beta=0.5), [0.75**2, 2.5**2]),
        (lambda: objectives.slic(vector(0.5, -3, 9), beta=0.5), [0.75, 2.5, 0.0]),
        (
            lambda: objectives.cdpo(vector(0.5, -3), beta=0.5, confidence=0.9),
            [
                -0.9 * math.log(SIGMOID[0.25]) - 0.1 * math.log(SIGMOID[-0.25]),
                -0.9 * math.log(SIGMOID[-1.5]) - 0.1 * math.log(SIGMOID[1.5]),
            ],
        ),
        (
            lambda: objectives.simpo(vector(-1, -2), vector(-1.5, -1.5), beta=2.0, gamma=0.5),
            [-math.log(SIGMOID[0.5]), -math.log(SIGMOID[-1.5])],
        ),
        (lambda: objectives.reward_aware(vector(1, 0), vector(0, 2), distance="sq"), 4.5),
        (
            lambda: objectives.reward_aware(vector(1, 0, 2), vector(0, 0, 0), distance="sqloo"),
            0.5 * (0.0 + 1.5**2 + 1.5**2),
        ),
        (
            lambda: objectives.reward_aware(vector(0, 0), vector(math.log(3), 0), distance="bwd"),
            0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        ),
        (
            lambda: objectives.reward_aware(vector(0, 0), vector(math.log(3), 0), distance="fwd"),
            0.5 * math.log(2 / 3) + 0.5 * math.log(2),
        ),
    ],
)
def test_hand_numbers(loss, expected):
    torch.testing.assert_close(loss(), torch.tensor(expected, dtype=F64))


def test_kto_kl_is_a_clamped_mean_without_gradient():
    policy = vector(-1, -4, -2).requires_grad_()
    ref = vector(-2, -2, -2)
    assert objectives.kto_kl(policy, ref).item() == 0.0 and objectives.kto_kl(
        policy, ref, clamp=False
    ).item() == pytest.approx(-1 / 3)
    masked = objectives.kto_kl(policy, ref, mask=torch.tensor([True, False, True]))
    assert masked.item() == 0.5 and not masked.requires_grad
    assert objectives.kto_kl(policy, ref, mask=torch.zeros(3, dtype=torch.bool)).item() == 0.0


# Enumeration --------------------------------------------------------------------------------------


def test_rpo_and_dro_are_zero_exactly_at_the_tilted_policy(world):
    whole_support = torch.zeros(40).long()
    log_z = partition.log_partition(world.ref, world.reward, whole_support, tau=world.tau)
    assert objectives.rpo(world.best, world.ref, world.reward, log_z, tau=world.tau).max() < 1e-28
    values = (world.tau * world.log_z).expand(40)
    assert objectives.dro(world.best, world.ref, world.reward, values, tau=world.tau).max() < 1e-28
    assert objectives.rpo(world.ref, world.ref, world.reward, log_z, tau=world.tau).mean() > 0.1
    assert (
        objectives.dro(world.best, world.ref, world.reward, values + 0.1, tau=world.tau).min()
        > 0.001
    )


def test_the_tilted_policy_solves_the_kl_regularised_problem(world):
    """No distribution has more E[r] − τ·KL, and π* has V* = τ·log Z of it."""

    def objective(logits):
        logp = logits.log_softmax(-1)
        return (logp.exp() * (world.reward - world.tau * (logp - world.ref))).sum(-1)

    torch.testing.assert_close(objective(world.best), world.tau * world.log_z)
    assert (objective(world.best + random(200, 40, scale=0.3)) < world.tau * world.log_z).all()


@pytest.mark.parametrize("method", ["rpo", "dro"])
def test_minimising_the_loss_finds_the_tilted_policy(world, method):
    logits, value = (
        world.ref.clone().requires_grad_(),
        torch.zeros(1, dtype=F64, requires_grad=True),
    )
    optimiser = torch.optim.LBFGS(
        [logits, value],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimiser.zero_grad()
        policy = logits.log_softmax(0)
        if method == "rpo":
            loss = objectives.rpo(
                policy, world.ref, world.reward, world.log_z.expand(40), tau=world.tau
            ).mean()
        else:
            loss = objectives.dro(
                policy, world.ref, world.reward, value.expand(40), tau=world.tau
            ).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(logits.log_softmax(0), world.best, rtol=0, atol=1e-4)
    if method == "dro":
        torch.testing.assert_close(value[0], world.tau * world.log_z, rtol=0, atol=1e-4)


def test_rpo_gradient_is_the_papers(world):
    """d/dlogits of ½ mean δ² = (1/n) Σ_i δ_i (1[y = y_i] − πθ), for rows that repeat and miss
    sequences."""
    rows = torch.tensor([0, 3, 3, 17, 39, 8])
    logits = random(40, seed=1).requires_grad_()
    policy = logits.log_softmax(0)
    log_z = partition.log_partition(
        world.ref[rows], world.reward[rows], torch.zeros(6).long(), tau=world.tau
    )
    objectives.rpo(
        policy[rows], world.ref[rows], world.reward[rows], log_z, tau=world.tau
    ).mean().backward()
    delta = policy[rows] - world.ref[rows] - (world.reward[rows] / world.tau - log_z)
    formula = sum(d * (torch.eye(40, dtype=F64)[i] - policy.exp()) for d, i in zip(delta, rows)) / 6
    torch.testing.assert_close(logits.grad, formula.detach(), rtol=1e-12, atol=1e-14)


def test_qrpo_is_zero_at_its_tilted_policy():
    """Reference: 200,000 equally likely texts with distinct rewards; their quantiles are uniform,
    so log Z is the closed form."""
    n, beta = 200_000, 0.1
    reward = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(F64)
    quantile = (reward + 1) / n
    assert float((quantile / beta).exp().mean().log()) == pytest.approx(
        objectives.qrpo_log_partition(beta), abs=1e-4
    )
    some = slice(0, 50)
    ref = torch.full((50,), -math.log(n), dtype=F64)
    best = ref + quantile[some] / beta - (quantile / beta).logsumexp(0) + math.log(n)
    assert objectives.qrpo(best, ref, reward[some], reward.expand(50, n), beta=beta).max() < 1e-9


@pytest.mark.parametrize(
    "kinds",
    [
        (torch.float32, F64),
        (F64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_qrpo_takes_equal_rewards_in_two_precisions_for_equal(kinds):
    """Rewards that were all drawn alike: q = 1, whichever side was rounded (0.7 in float32 is below
    0.7)."""
    values = torch.arange(1, 100, dtype=F64) / 10
    reward, others = values.to(kinds[0]), values.to(kinds[1])[:, None]
    zeros = torch.zeros(len(values), dtype=F64)
    expected = (1 - objectives.qrpo_log_partition(1.0)) ** 2
    found = objectives.qrpo(zeros, zeros, reward, others, beta=1.0)
    assert found.tolist() == pytest.approx([expected] * len(values))


@pytest.mark.parametrize("beta", [1e-3, 0.01, 0.1, 1.0, 50.0])
def test_qrpo_log_partition_by_exact_arithmetic(beta):
    from decimal import Decimal, getcontext

    getcontext().prec = 60
    exact = (Decimal(beta) * ((1 / Decimal(beta)).exp() - 1)).ln()
    assert objectives.qrpo_log_partition(beta) == pytest.approx(float(exact), rel=1e-12, abs=1e-14)


DESIRED = torch.tensor([True, False, True, True, False])
CASES = {
    "sft": (objectives.sft, (A,)),
    "rpo": (lambda p: objectives.rpo(p, B, C, D, tau=0.7), (A,)),
    "dro": (lambda p, v: objectives.dro(p, B, C, v, tau=0.7), (A, D)),
    "kto": (lambda p: objectives.kto(p, B, DESIRED, 0.3, beta=0.8, lambda_d=1.3), (A,)),
    "qrpo": (lambda p: objectives.qrpo(p, B, C, random(5, 7, seed=9), beta=0.2), (A,)),
    "dpo": (lambda m: objectives.dpo(m, beta=0.7), (A,)),
    "ipo": (lambda m: objectives.ipo(m, beta=0.7), (A,)),
    "slic": (lambda m: objectives.slic(m, beta=0.7), (A,)),
    "cdpo": (lambda m: objectives.cdpo(m, beta=0.7, confidence=0.8), (A,)),
    "simpo": (lambda c, r: objectives.simpo(c, r, beta=2.0, gamma=0.4), (A, B)),
    "sq": (
        lambda a: objectives.reward_aware(a, random(3, 2), distance="sq"),
        (random(3, 2, seed=1),),
    ),
} | {
    d: (
        lambda a, d=d: objectives.reward_aware(a, random(3, 4), distance=d),
        (random(3, 4, seed=1),),
    )
    for d in ("sqloo", "bwd", "fwd")
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_by_finite_differences(name):
    function, inputs = CASES[name]
    assert torch.autograd.gradcheck(function, tuple(x.clone().requires_grad_() for x in inputs))


def test_constants_get_no_gradient():
    policy, log_z = A.clone().requires_grad_(), D.clone().requires_grad_()
    kl = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (
        objectives.rpo(policy, B, C, log_z, tau=1.0).sum()
        + objectives.kto(policy, B, DESIRED, kl, beta=1.0).sum()
    ).backward()
    assert log_z.grad is None and kl.grad is None and policy.grad.abs().min() > 0


# Extremes and refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_extremes_stay_finite_with_finite_gradients(dtype):
    policy = torch.tensor([-1e4, 0.0, -3.0], dtype=dtype, requires_grad=True)
    ref, reward = (
        torch.tensor([0.0, -1e4, -3.0], dtype=dtype),
        torch.tensor([1e3, -1e3, 0.0], dtype=dtype),
    )
    log_z = partition.log_partition(ref, reward, torch.tensor([0, 0, 1]), tau=1e-3)
    margin = policy - ref
    losses = [
        objectives.sft(policy),
        objectives.rpo(policy, ref, reward, log_z, tau=1e-3),
        objectives.dro(policy, ref, reward, reward, tau=1e-3),
        objectives.kto(policy, ref, torch.tensor([True, False, True]), 1e3, beta=10.0),
        objectives.qrpo(policy, ref, reward, reward.expand(3, 3), beta=1e-3),
        objectives.dpo(margin, beta=10.0),
        objectives.ipo(margin, beta=10.0),
        objectives.slic(margin, beta=10.0),
        objectives.cdpo(margin, beta=10.0, confidence=0.9),
        objectives.simpo(policy, ref, beta=10.0, gamma=1.0),
        *(
            objectives.reward_aware(
                torch.stack([policy, ref], -1), torch.stack([reward, -reward], -1), distance=d
            )
            for d in objectives.DISTANCES
        ),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.sum(), policy, retain_graph=True)
        assert (
            loss.dtype == dtype
            and loss.shape == (3,)
            and loss.isfinite().all()
            and gradient.isfinite().all()
        )


def test_half_precision_is_computed_in_float32():
    low = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16, requires_grad=True)
    loss = objectives.rpo(low, low.detach(), torch.ones(2), torch.zeros(2), tau=1.0)
    assert (
        loss.dtype == torch.float32
        and torch.autograd.grad(loss.sum(), low)[0].dtype == torch.bfloat16
    )


X = torch.zeros(3)
NAN = torch.tensor([0.0, 0.0, math.nan])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: objectives.sft(torch.zeros(3, 2)), "policy_logps has shape (3, 2)"),
        (lambda: objectives.sft(NAN), "policy_logps is nan at row 2"),
        (lambda: objectives.rpo(X, torch.zeros(3, 1), X, X, tau=1.0), "ref_logps has shape (3, 1)"),
        (lambda: objectives.rpo(X, X, X, NAN, tau=1.0), "log_partition is nan at row 2"),
        (lambda: objectives.rpo(X, X, X, X, tau=0.0), "tau is 0.0"),
        (lambda: objectives.dro(X, X, X, torch.zeros(2), tau=1.0), "values has shape (2,)"),
        (lambda: objectives.dro(X, X, X, X, tau=-1), "tau is -1"),
        (
            lambda: objectives.kto(X, X, torch.tensor([1, 0, -1]), 0.0, beta=1.0),
            "desirable is -1 at row 2",
        ),
        (
            lambda: objectives.kto(X, X, torch.tensor([True]), 0.0, beta=1.0),
            "desirable has shape (1,)",
        ),
        (lambda: objectives.kto(X, X, X.bool(), X, beta=1.0), "kl is tensor"),
        (lambda: objectives.kto(X, X, X.bool(), math.inf, beta=1.0), "kl is inf"),
        (lambda: objectives.kto(X, X, X.bool(), 0.0, beta=0), "beta is 0"),
        (lambda: objectives.qrpo(X, X, X, torch.zeros(3), beta=1.0), "ref_rewards has shape (3,)"),
        (
            lambda: objectives.qrpo(X, X, X, torch.zeros(3, 0), beta=1.0),
            "ref_rewards has shape (3, 0)",
        ),
        (
            lambda: objectives.qrpo(X, X, X, torch.full((3, 2), math.inf), beta=1.0),
            "ref_rewards is inf at row 0, column 0",
        ),
        (lambda: objectives.dpo(torch.tensor(1.0), beta=1.0), "margin has shape ()"),
        (lambda: objectives.ipo(NAN, beta=1.0), "margin is nan at row 2"),
        (lambda: objectives.slic(X, beta=math.nan), "beta is nan"),
        (lambda: objectives.cdpo(X, beta=1.0, confidence=1.2), "confidence is 1.2"),
        (
            lambda: objectives.simpo(X, torch.zeros(2), beta=1.0, gamma=0.0),
            "rejected_mean_logps has shape (2,)",
        ),
        (lambda: objectives.reward_aware(X, X, distance="sq"), "implicit has shape (3,)"),
        (
            lambda: objectives.reward_aware(torch.zeros(3, 1), torch.zeros(3, 1), distance="bwd"),
            "implicit has shape (3, 1)",
        ),
        (
            lambda: objectives.reward_aware(torch.zeros(3, 2), torch.zeros(2, 3), distance="bwd"),
            "explicit has shape (2, 3)",
        ),
        (lambda: objectives.reward_aware(X, NAN, distance="fwd"), "explicit is nan at row 2"),
        (
            lambda: objectives.reward_aware(X, X, distance="kl"),
            "distance 'kl' is unknown; choose one of sq, sqloo, bwd, fwd",
        ),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_fault(call, words):
    with pytest.raises(ValueError) as refusal:
        call()
    assert words in str(refusal.value) and "\n" not in str(refusal.value)
