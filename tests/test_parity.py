"""Identities (semantics C, paper B table 1), Hugging Face's own cross-entropy, TRL."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from rpo_nb import objectives
from tests.tensors import A, B, C, D, FixedModel, random, trl_kto, trl_trainer, vector

# Identities (semantics C, paper B table 1) --------------------------------------------------------


def pair(margin):
    """Two completions [pairs, 2] that differ by `margin` [pairs]."""
    return torch.stack([margin, torch.zeros_like(margin)], -1)


M = random(50, scale=3.0)  # margins
PAIR = pair(M)


def test_bwd_becomes_dpo():
    target = vector(1000.0, 0.0).expand(50, 2)
    torch.testing.assert_close(
        objectives.reward_aware(0.3 * PAIR, target, distance="bwd"), objectives.dpo(M, beta=0.3)
    )


@pytest.mark.parametrize("confidence", [0.55, 0.9])
def test_bwd_becomes_cdpo_less_the_label_entropy(confidence):
    entropy = -confidence * math.log(confidence) - (1 - confidence) * math.log(1 - confidence)
    target = vector(math.log(confidence / (1 - confidence)), 0.0).expand(50, 2)
    bwd = objectives.reward_aware(0.3 * PAIR, target, distance="bwd")
    torch.testing.assert_close(bwd, objectives.cdpo(M, beta=0.3, confidence=confidence) - entropy)


def test_cdpo_of_a_sure_label_is_dpo():
    torch.testing.assert_close(
        objectives.cdpo(M, beta=0.3, confidence=1.0), objectives.dpo(M, beta=0.3)
    )


def test_sq_with_half_a_unit_is_ipo_and_with_rewards_is_rebel():
    beta = 0.3
    half = objectives.reward_aware(beta * PAIR, vector(0.5, 0.0).expand(50, 2), distance="sq")
    # IPO as NeMo-Aligner and TRL have it
    torch.testing.assert_close(2 * half, beta**2 * (M - 1 / (2 * beta)) ** 2)
    torch.testing.assert_close(8 * half, objectives.ipo(M, beta=2 * beta))  # paper A's form
    rewards = random(50, 2, seed=5)
    gap = rewards[:, 0] - rewards[:, 1]
    # REBEL
    torch.testing.assert_close(
        2 * objectives.reward_aware(beta * PAIR, rewards, distance="sq"),
        beta**2 * (gap / beta - M) ** 2,
    )


def test_simpo_is_bwd_without_a_reference_and_with_a_margin():
    c, r = random(50, seed=2), random(50, seed=3)
    shifted = torch.stack([2.0 * c - 0.7, 2.0 * r], -1)
    bwd = objectives.reward_aware(shifted, vector(1000.0, 0.0).expand(50, 2), distance="bwd")
    torch.testing.assert_close(bwd, objectives.simpo(c, r, beta=2.0, gamma=0.7))


@pytest.mark.parametrize("distance", ["bwd", "fwd"])
def test_small_gaps_make_both_kls_a_square(distance):
    a, b = 1e-3 * random(50, 2), 1e-3 * random(50, 2, seed=1)
    gap = (a - b)[:, 0] - (a - b)[:, 1]
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance=distance), gap**2 / 8, rtol=2e-3, atol=1e-12
    )


def test_pairwise_kls_are_bernoulli_and_sqloo_of_two_is_twice_sq():
    a, b = random(50, 2), random(50, 2, seed=1)
    x, y = a[:, 0] - a[:, 1], b[:, 0] - b[:, 1]
    bernoulli = y.sigmoid() * (logsigmoid(y) - logsigmoid(x)) + (-y).sigmoid() * (
        logsigmoid(-y) - logsigmoid(-x)
    )
    torch.testing.assert_close(objectives.reward_aware(a, b, distance="bwd"), bernoulli)
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance="sqloo"),
        2 * objectives.reward_aware(a, b, distance="sq"),
    )
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance="fwd"), objectives.reward_aware(b, a, distance="bwd")
    )


@pytest.mark.parametrize("distance", list(objectives.DISTANCES))
def test_log_z_cancels(distance):
    a, b = random(6, 2), random(6, 2, seed=1)
    moved = objectives.reward_aware(
        a + random(6, 1, seed=2, scale=5), b + random(6, 1, seed=3, scale=5), distance=distance
    )
    torch.testing.assert_close(moved, objectives.reward_aware(a, b, distance=distance))


def test_gradient_weights_of_paper_b():
    """S_k = (K/(K−1))(â_k − b̂_k) for sqloo, q^a_k − q^b_k for bwd."""
    a, b = random(6, 4).requires_grad_(), random(6, 4, seed=1)

    def leave_one_out(v):
        return v - (v.sum(-1, keepdim=True) - v) / 3

    (sqloo,) = torch.autograd.grad(objectives.reward_aware(a, b, distance="sqloo").sum(), a)
    torch.testing.assert_close(sqloo, 4 / 3 * (leave_one_out(a) - leave_one_out(b)).detach())
    (bwd,) = torch.autograd.grad(objectives.reward_aware(a, b, distance="bwd").sum(), a)
    torch.testing.assert_close(bwd, (a.softmax(-1) - b.softmax(-1)).detach())


def test_dro_with_the_partition_as_value_is_rpo_in_units_of_the_reward():
    torch.testing.assert_close(
        objectives.dro(A, B, C, 0.7 * D, tau=0.7), 0.7**2 * objectives.rpo(A, B, C, D, tau=0.7)
    )


# Hugging Face's own cross-entropy -----------------------------------------------------------------


def test_sft_is_hugging_faces_cross_entropy_for_t5():
    from transformers import T5Config, T5ForConditionalGeneration

    from rpo_nb.policy.logps import sequence_logps

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=30,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).double().eval()
    inputs = torch.randint(2, 30, (4, 7))
    mask = (torch.arange(7) < torch.tensor([[7], [3], [5], [6]])).long()
    labels = torch.randint(2, 30, (4, 6)).masked_fill(
        torch.arange(6) >= torch.tensor([[6], [2], [4], [1]]), -100
    )
    theirs = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
    ours = (
        objectives.sft(sequence_logps(model, inputs, mask, labels, reduce="sum")).sum()
        / (labels != -100).sum()
    )
    torch.testing.assert_close(ours, theirs)


def test_sft_is_hugging_faces_cross_entropy_for_a_causal_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    from rpo_nb.policy.logps import sequence_logps

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config).double().eval()
    inputs = torch.randint(2, 30, (4, 9))
    mask = (torch.arange(9) < torch.tensor([[9], [5], [7], [8]])).long()
    labels = inputs.masked_fill((torch.arange(9) < 3) | (mask == 0), -100)  # prompts of 3 tokens
    theirs = model(input_ids=inputs, attention_mask=mask, labels=labels).loss
    ours = (
        objectives.sft(sequence_logps(model, inputs, mask, labels, reduce="sum")).sum()
        / (labels[:, 1:] != -100).sum()
    )
    # transformers takes a causal model's loss in float32
    torch.testing.assert_close(ours.float(), theirs)


@pytest.mark.parametrize(
    "kind, ours",
    [
        ("sigmoid", lambda s, m, beta: objectives.dpo(m, beta=beta)),
        ("hinge", lambda s, m, beta: objectives.slic(m, beta=beta)),
        # TRL averages over tokens and has (m − 1/2β)²
        ("ipo", lambda s, m, beta: objectives.ipo(s, beta=2 * beta) / (2 * beta) ** 2),
        (
            "robust",
            lambda s, m, beta: (
                (
                    objectives.cdpo(m, beta=beta, confidence=0.8)
                    - 0.4 * objectives.dpo(-m, beta=beta)
                )
                / 0.6
            ),
        ),
        (
            "exo_pair",
            lambda s, m, beta: objectives.reward_aware(
                pair(beta * m), pair(0 * m + math.log(4)), distance="fwd"
            ),
        ),
    ],
)
def test_pairwise_losses_are_trls(trl, kind, ours):
    policy, ref, beta = FixedModel(trl.policy), FixedModel(trl.ref), 0.3
    trainer = trl_trainer(
        policy,
        ref,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[kind],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=0.2,
        use_weighting=False,
    )
    theirs = trl.trl.DPOTrainer._compute_loss(trainer, policy, trl.inputs, False)
    ratio = (trl.policy - trl.ref).sum(-1)
    per_token = ratio / trl.lengths
    torch.testing.assert_close(
        ours(per_token[:4] - per_token[4:], ratio[:4] - ratio[4:], beta).mean(), theirs
    )


@pytest.mark.parametrize("shift", [2.0, -2.0])  # z0 above 0, and below it where the clamp acts
def test_kto_is_trls(trl, shift):
    theirs, labels, mismatched = trl_kto(trl, shift, beta=0.3, desirable=1.2, undesirable=0.9)
    kl = objectives.kto_kl(*mismatched)
    ours = objectives.kto(
        trl.policy.sum(-1), trl.ref.sum(-1), labels, kl, beta=0.3, lambda_d=1.2, lambda_u=0.9
    )
    torch.testing.assert_close(ours.mean(), theirs)
