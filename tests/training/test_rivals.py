"""examples/rivals.py: each against something that we did not write, or a limit."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rpo_nb import objectives, partition
from rpo_nb.config.methods import ROWS
from rpo_nb.training import own
from tests.tensors import F64, random, trl_kto, vector

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "examples" / "rivals.py"
N, TAU = 12, 0.7
# what each asks for that must be made for it
ASKED = {
    "a_star": ("reference_rewards",),
    "dro_fixed": (),
    "reward_weighted": (),
    "qrpo_per_token": ("reference_rewards",),
    "kto_balanced": ("mismatched",),
}
POLICY, REF = random(N, scale=2.0), random(N, seed=1, scale=2.0)
REWARDS, OTHERS = random(N, seed=2), random(N, 5, seed=3)  # of the data; of the reference
PROMPTS = torch.tensor([7, 3, 7, 3, 7, 3, 7, 3, 9, 9, 9, 9])  # rows of a prompt stand apart
DESIRABLE = torch.arange(N) % 3 == 0  # a third
ONES = torch.ones(N, dtype=torch.long)


@pytest.fixture
def rivals():
    """The file's module, made anew."""
    return own.read(f"{FILE}:a_star").module()


@pytest.mark.parametrize("name", ASKED)
def test_each_is_a_loss_that_asks_for_what_it_needs(name):
    mine = own.read(f"{FILE}:{name}")
    with own.registered(mine):
        row = ROWS["own"]
        assert row.needs == ("prompt_numbers", "lengths", *ASKED[name])
        assert row.objective == ("kto" if name == "kto_balanced" else "own")
    function = mine.function(mine.module())
    # as many settings each: the kit's methods have as many, and so one row on all pages
    assert len(set(function.temperatures)) == 3 and "temperature" in mine.wanted(function)
    assert re.search(r"arXiv \d{4}\.\d{5}|Peters and Schaal 2007", function.__doc__)
    assert "temperature: " in function.__doc__ and "[n" in function.__doc__


# A*-PO --------------------------------------------------------------------------------------------


def test_v_star_is_the_log_mean_exp_between_the_mean_and_the_largest(rivals):
    wanted = 0.7 * np.log(np.exp(OTHERS.numpy() / 0.7).mean(1))
    np.testing.assert_allclose(rivals.v_star(OTHERS, 0.7), wanted, rtol=1e-13)
    torch.testing.assert_close(rivals.v_star(OTHERS, 1e7), OTHERS.mean(1), rtol=1e-5, atol=1e-6)
    top = OTHERS.max(1).values
    torch.testing.assert_close(rivals.v_star(OTHERS, 1e-6), top, rtol=1e-4, atol=1e-5)
    # exp(1000 / 0.001) is no number
    far = rivals.v_star(1000 * OTHERS, 1e-3)
    torch.testing.assert_close(far, 1000 * top - 1e-3 * np.log(5))


def test_v_star_of_the_references_samples_is_the_worlds(rivals, world):
    """All texts of a tiny language, each as often as the reference writes it."""
    often = (world.ref.exp() * 2e5).round().long()
    sampled = world.reward.repeat_interleave(often)[None]
    found = rivals.v_star(sampled, world.tau)
    torch.testing.assert_close(found, world.tau * world.log_z[None], rtol=1e-4, atol=1e-4)
    losses = rivals.a_star(
        world.best, world.ref, world.reward, sampled.expand(40, -1), world.tau, beta1=world.tau
    )
    assert losses.max() < 1e-7  # π* is where the loss is 0


def test_a_star_without_a_value_is_rpo_without_one(rivals):
    zero = torch.zeros(N, 1, dtype=F64)
    found = rivals.a_star(POLICY, REF, REWARDS, zero, TAU)
    wanted = TAU**2 * objectives.rpo(POLICY, REF, REWARDS, zero[:, 0], tau=TAU)
    torch.testing.assert_close(found, wanted)


def test_a_star_with_the_prompts_own_rows_is_monte_carlo_rpo(rivals):
    mine = torch.stack([REWARDS[prompt == PROMPTS] for prompt in PROMPTS])
    found = rivals.a_star(POLICY, REF, REWARDS, mine, TAU, beta1=TAU)
    log_z = partition.log_partition(REF, REWARDS, PROMPTS, tau=TAU, estimator="monte_carlo")
    torch.testing.assert_close(found, TAU**2 * objectives.rpo(POLICY, REF, REWARDS, log_z, tau=TAU))
    # with β1 = ∞, V* is the mean: the baseline of dro_fixed
    found = rivals.a_star(POLICY, REF, REWARDS, mine, TAU, beta1=1e8)
    wanted = rivals.dro_fixed(POLICY, REF, REWARDS, PROMPTS, TAU)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_star_has_two_temperatures(rivals):
    """As the authors' code has it, but for its ½: (β2·ρ + V* − r)²."""
    v = 0.5 * (OTHERS / 0.5).exp().mean(1).log()
    found = rivals.a_star(POLICY, REF, REWARDS, OTHERS, 0.001, beta1=0.5)
    torch.testing.assert_close(2 * found, (0.001 * (POLICY - REF) + v - REWARDS) ** 2)


# DRO with a fixed baseline ------------------------------------------------------------------------


def test_dro_with_a_number_is_dro_with_that_value(rivals):
    found = rivals.dro_fixed(POLICY, REF, REWARDS, PROMPTS, TAU, baseline=0.4)
    wanted = objectives.dro(POLICY, REF, REWARDS, torch.full((N,), 0.4, dtype=F64), tau=TAU)
    torch.testing.assert_close(found, wanted)


def test_dro_without_a_number_has_the_mean_of_the_prompts_rows(rivals):
    means = np.array([REWARDS[prompt == PROMPTS].mean() for prompt in PROMPTS])
    found = rivals.dro_fixed(POLICY, REF, REWARDS, PROMPTS, TAU)
    torch.testing.assert_close(found, objectives.dro(POLICY, REF, REWARDS, means, tau=TAU))


def test_dro_goes_where_the_hosted_loss_goes(rivals):
    """Tinker's: −(A·log πθ − ½β(log πθ/q)²), for completions of one token."""
    policy = POLICY.clone().requires_grad_()
    advantages = REWARDS - 0.4
    hosted = -(policy * advantages - 0.5 * TAU * (policy - REF) ** 2)
    mine = rivals.dro_fixed(policy, REF, REWARDS, PROMPTS, TAU, baseline=0.4)
    gradients = [torch.autograd.grad(loss.sum(), policy)[0] for loss in (mine, TAU * hosted)]
    torch.testing.assert_close(*gradients)


# Reward-weighted fine-tuning ----------------------------------------------------------------------


def test_reward_weighted_at_an_infinite_temperature_is_sft(rivals):
    for tau in (1e15, float("inf")):
        found = rivals.reward_weighted(POLICY, REWARDS, tau)
        torch.testing.assert_close(found, objectives.sft(POLICY))


def test_reward_weighted_ends_at_the_data_tilted_by_the_reward(rivals):
    """Of completions that the data have once each, its best policy is softmax(r/τ)."""
    logits = (REWARDS / TAU).requires_grad_()
    losses = rivals.reward_weighted(logits.log_softmax(0), REWARDS, TAU)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros(N, dtype=F64))
    (elsewhere,) = torch.autograd.grad(
        rivals.reward_weighted((2 * logits).log_softmax(0), REWARDS, TAU).sum(), logits
    )
    assert elsewhere.abs().max() > 0.1


def test_reward_weighted_is_the_readmes(rivals):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your own objective")[1]
    names = {}
    exec(re.search(r"```python\n(.*?)```", section, re.S)[1], names)
    wanted = names["reward_weighted"](POLICY, REWARDS, TAU)
    torch.testing.assert_close(rivals.reward_weighted(POLICY, REWARDS, TAU), wanted)
    assert rivals.reward_weighted.temperatures == names["TEMPERATURES"]


# QRPO with beta divided by the length -------------------------------------------------------------


def test_qrpo_of_single_tokens_is_qrpo(rivals):
    found = rivals.qrpo_per_token(POLICY, REF, REWARDS, OTHERS, ONES, 0.3)
    torch.testing.assert_close(found, objectives.qrpo(POLICY, REF, REWARDS, OTHERS, beta=0.3))


@pytest.mark.parametrize("beta", [0.01, 5.0, 1000.0])
def test_qrpo_of_each_row_is_qrpo_with_its_own_beta(beta, rivals):
    lengths = torch.arange(1, N + 1) ** 2
    found = rivals.qrpo_per_token(POLICY, REF, REWARDS, OTHERS, lengths, beta)
    rows = [slice(i, i + 1) for i in range(N)]
    wanted = torch.cat(
        [
            objectives.qrpo(POLICY[i], REF[i], REWARDS[i], OTHERS[i], beta=beta / lengths[i].item())
            for i in rows
        ]
    )
    torch.testing.assert_close(found, wanted)
    single = rivals.qrpo_per_token(
        *(t.float() for t in (POLICY, REF, REWARDS, OTHERS)), lengths, beta
    )
    # float32 has 1e-7 of log Z, which grows with β
    torch.testing.assert_close(single.double(), wanted, rtol=1e-4, atol=1e-3)


# KTO with weights ---------------------------------------------------------------------------------


def test_kto_with_weights_of_one_is_kto(rivals):
    found = rivals.kto_balanced(POLICY, REF, DESIRABLE, vector(0.4), TAU, lambda_d=1, lambda_u=1)
    torch.testing.assert_close(found, objectives.kto(POLICY, REF, DESIRABLE, 0.4, beta=TAU))
    # one alone: the other is 1
    found = rivals.kto_balanced(POLICY, REF, DESIRABLE, vector(0.4), TAU, lambda_d=1.3)
    wanted = objectives.kto(POLICY, REF, DESIRABLE, 0.4, beta=TAU, lambda_d=1.3)
    torch.testing.assert_close(found, wanted)


def test_kto_with_weights_is_trls(trl, rivals):
    theirs, labels, mismatched = trl_kto(trl, 2.0, beta=0.3, desirable=1.7, undesirable=0.6)
    kl = objectives.kto_kl(*mismatched)
    ours = rivals.kto_balanced(
        trl.policy.sum(-1), trl.ref.sum(-1), labels, kl, 0.3, lambda_d=1.7, lambda_u=0.6
    )
    torch.testing.assert_close(ours.mean(), theirs)


@pytest.mark.parametrize("desirable, others", [(1, 10), (10, 1), (5, 4), (4, 5), (7, 7)])
@pytest.mark.parametrize("ratio", [1.0, 4 / 3])
def test_the_weights_balance_the_kinds(desirable, others, ratio, rivals):
    lambda_d, lambda_u = rivals.balance(desirable, others, ratio)
    assert lambda_d * desirable / (lambda_u * others) == pytest.approx(ratio)
    assert min(lambda_d, lambda_u) == 1
    if (desirable, others) == (1, 10):  # the paper's example: λ_U = 1, λ_D from 10 to 13.3
        assert 10 <= lambda_d <= 13.34 and lambda_u == 1
    assert rivals.balance(0, others) == rivals.balance(desirable, 0) == (1, 1)


def test_the_balance_is_that_of_the_rows_seen_in_this_training(rivals):
    def weights(module, flags):
        flags = torch.tensor(flags)
        zeros = torch.zeros(len(flags))
        return (2 * module.kto_balanced(zeros, zeros, flags, torch.tensor(0.0), 1.0)).tolist()

    assert weights(rivals, [True, True]) == [1, 1]  # one kind: nothing to balance
    assert weights(rivals, [False]) == [2]  # 2 and 1
    assert weights(rivals, [False] * 7 + [True]) == pytest.approx([1] * 7 + [8 / 3])  # 3 and 8
    assert weights(rivals, [True] * 5) == [1] * 5  # 8 and 8
    anew = own.read(f"{FILE}:kto_balanced").module()
    assert weights(anew, [False, False, True]) == [1, 1, 2]
