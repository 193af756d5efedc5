"""Paper B: its Table 1 row by row, the gradients of its distances, log Z, RLOO in expectation, TRL
on the same tensors, tuples."""

import itertools
import math
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from rpo_nb import objectives
from rpo_nb.config.objective import Setting
from rpo_nb.reporting.published import published_numbers
from rpo_nb.studies.paper_b import recovered
from rpo_nb.training import reward_aware
from rpo_nb.training.reward_aware import SURE, framework_loss, suggested_eta, tuples
from tests.tensors import FixedModel, random, trl_trainer

F64 = torch.float64


# Table 1 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table1():
    return recovered.table1()


@pytest.mark.parametrize("name", recovered.RECOVERED)
def test_a_row_of_table_1_is_an_identity(name, table1):
    row, found = recovered.RECOVERED[name], table1.set_index("algorithm").loc[name]
    assert found["max_loss_difference"] < 1e-10 and found["max_gradient_difference"] < 1e-10
    case = recovered.draw(0.3, 5, row.sizes[0])
    case.policy.requires_grad_()
    loss = row.own(case)
    # nothing is compared with nothing
    assert (
        loss.detach().std() > 1e-3
        and torch.autograd.grad(loss.sum(), case.policy)[0].abs().max() > 1e-3
    )


def test_table_1_has_every_method_the_paper_names_and_the_four_columns(table1):
    assert list(table1) == [
        "algorithm",
        "setting",
        "max_loss_difference",
        "max_gradient_difference",
    ]
    named = {
        row["algorithm"].replace(" DPO", "-DPO") for row in published_numbers()["paper_b"]["table1"]
    }
    assert named | {"SLiC", "REBEL", "RLOO"} <= set(table1["algorithm"])


def test_the_papers_settings_to_the_letter_hold_or_not_as_the_table_says():
    frame = recovered.table1_as_printed(published_numbers()["paper_b"]["table1"]).set_index(
        "algorithm"
    )
    loss, gradient = frame["max_loss_difference"], frame["max_gradient_difference"]
    exact = frame["holds"].str.startswith("exact")
    assert (loss[exact] < 1e-10).all() and (gradient[exact] < 1e-10).all()
    constant = frame["holds"].str.startswith("same gradient")
    assert (gradient[constant] < 1e-10).all() and (loss[constant] > 0.1).all()
    other = ~exact & ~constant
    assert (
        set(frame.index[other]) == {"IPO", "Distill DPO", "SimPO"} and (gradient[other] > 0.1).all()
    )
    # SimPO as printed is right where all completions are equally long, with β/|y| for β
    case = recovered.draw(0.3, 0, 2)
    even = replace(case, lengths=torch.full_like(case.lengths, 7))
    _, own, printed = recovered.AS_PRINTED["SimPO"]
    torch.testing.assert_close(own(even), printed(replace(even, beta=0.3 / 7)))


def test_the_own_formulas_are_those_of_the_objectives():
    case = recovered.draw(0.3, 7, 2)
    ratio = case.policy - case.ref
    margin = ratio[:, 0] - ratio[:, 1]
    for own, ours in (
        ("DPO", objectives.dpo(margin, beta=0.3)),
        ("cDPO", objectives.cdpo(margin, beta=0.3, confidence=0.9)),
        ("SLiC", objectives.slic(margin, beta=0.3)),
        ("IPO", objectives.ipo(margin, beta=0.6) / 0.6**2),
    ):
        torch.testing.assert_close(recovered.RECOVERED[own].own(case), ours)
    mean = case.policy / case.lengths
    torch.testing.assert_close(
        recovered.RECOVERED["SimPO"].own(case),
        objectives.simpo(mean[:, 0], mean[:, 1], beta=0.3, gamma=0.4),
    )


# The distances ------------------------------------------------------------------------------------


def weights(a, b, distance):
    """S_k of the gradient β·Σ_k S_k·∇ℓθ(y_k); fwd's is derived here, the paper gives the other
    two."""
    k = a.shape[-1]
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    if distance == "sqloo":
        others = torch.ones(k, k, dtype=a.dtype) - torch.eye(k, dtype=a.dtype)
        return k / (k - 1) * ((a - a @ others / (k - 1)) - (b - b @ others / (k - 1)))
    if distance == "bwd":
        return log_a.exp() - log_b.exp()
    gap = log_a - log_b
    return log_a.exp() * (gap - (log_a.exp() * gap).sum(-1, keepdim=True))


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("distance", ["sqloo", "bwd", "fwd"])
def test_the_gradient_is_beta_times_s_k(distance, k):
    policy, ref, rewards, setting = (
        random(20, k, scale=2).requires_grad_(),
        random(20, k, seed=1),
        random(20, k, seed=2),
        Setting(distance, 0.3, 1.7),
    )
    (slope,) = torch.autograd.grad(framework_loss(policy, ref, rewards, setting).sum(), policy)
    torch.testing.assert_close(
        slope,
        0.3 * weights(0.3 * (policy - ref), 1.7 * rewards, distance).detach(),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("distance", "k"), [("sq", 2), ("sqloo", 2), ("sqloo", 5), ("bwd", 4), ("fwd", 3)]
)
def test_log_z_cancels_in_loss_and_gradient(distance, k):
    """Any constant a prompt in the implicit rewards (β·log Z), or in the explicit ones, changes
    nothing."""
    setting, found = Setting(distance, beta=0.7, eta=1.3), []
    for log_z, offset in (
        (0.0, 0.0),
        (random(9, 1, seed=5, scale=4), random(9, 1, seed=6, scale=4)),
    ):
        policy = random(9, k, scale=2).requires_grad_()
        loss = framework_loss(
            policy, random(9, k, seed=1) - log_z, random(9, k, seed=2) + offset, setting
        )
        found.append((loss.detach(), torch.autograd.grad(loss.sum(), policy)[0]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-11)


@pytest.mark.parametrize("k", [3, 6])
def test_k_responses_by_enumeration(k):
    a, b = random(8, k, scale=2), random(8, k, seed=1)
    pairs = sum(
        objectives.reward_aware(a[:, [i, j]], b[:, [i, j]], distance="sq")
        for i, j in itertools.combinations(range(k), 2)
    )
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance="sqloo"), k / (k - 1) ** 2 * pairs
    )
    p, q = (torch.distributions.Categorical(logits=x) for x in (a, b))
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance="bwd"), torch.distributions.kl_divergence(q, p)
    )
    torch.testing.assert_close(
        objectives.reward_aware(a, b, distance="fwd"), torch.distributions.kl_divergence(p, q)
    )


@pytest.mark.parametrize("distance", ["sqloo", "bwd", "fwd"])
def test_over_the_whole_support_every_distance_is_zero_at_the_tilted_policy_alone(world, distance):
    """π* ∝ πref·exp(η·r/β) = the policy of temperature τ = β/η."""
    setting = Setting(distance, beta=2 * world.tau, eta=2.0)
    assert framework_loss(world.best, world.ref, world.reward, setting) < 1e-14
    assert framework_loss(world.ref, world.ref, world.reward, setting) > 0.01
    assert (
        framework_loss(
            (world.best + random(40, scale=0.2)).log_softmax(-1), world.ref, world.reward, setting
        )
        > 1e-4
    )


@pytest.mark.parametrize("k", [2, 3])
def test_online_sqloo_is_rloo_in_expectation(k):
    """Over all K-tuples of a world of 5 completions: E[∇ sqloo] = −β·K²/(K−1)·∇(E[r] − β·KL(πθ ‖
    πref)), RLOO's gradient."""
    logits, ref, reward, beta = (
        random(5).requires_grad_(),
        random(5, seed=1).log_softmax(-1),
        random(5, seed=2),
        0.4,
    )
    logps = logits.log_softmax(-1)
    every = torch.tensor(list(itertools.product(range(5), repeat=k)))
    chance = logps.detach()[every].sum(-1).exp()
    loss = framework_loss(logps[every], ref[every], reward[every], Setting("sqloo", beta))
    (mine,) = torch.autograd.grad((chance * loss).sum(), logits, retain_graph=True)
    value = (logps.exp() * (reward - beta * (logps - ref))).sum()
    (theirs,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(mine, -beta * k**2 / (k - 1) * theirs, rtol=0, atol=1e-12)


# TRL on the same tensors --------------------------------------------------------------------------

# TRL's loss -> ours from chosen and rejected log-probabilities [pairs, 2], summed and per token
SETTINGS = {
    "sigmoid": lambda s, m, r: framework_loss(s, r, r, Setting("bwd", 0.3, gap=SURE)),
    "sigmoid_norm": lambda s, m, r: framework_loss(m, 0 * m, r, Setting("bwd", 0.3, gap=SURE)),
    "ipo": lambda s, m, r: 2 / 0.3**2 * framework_loss(m, 0 * m, r, Setting("sq", 0.3, gap=0.5)),
    "hinge": lambda s, m, r: (
        1e-6 * framework_loss(s, r, r, Setting("bwd", 0.3e6, gap=SURE, gamma=1e6))
    ),
    "exo_pair": lambda s, m, r: framework_loss(s, r, r, Setting("fwd", 0.3, gap=math.log(4))),
    # each completion against one of implicit reward 0
    "bco_pair": lambda s, m, r: sum(
        framework_loss(*side, 0 * r, Setting("bwd", 0.3, gap=SURE))
        for side in (
            (torch.stack([s[:, 0], 0 * s[:, 0]], -1), torch.stack([r[:, 0], 0 * s[:, 0]], -1)),
            (torch.stack([0 * s[:, 1], s[:, 1]], -1), torch.stack([0 * s[:, 1], r[:, 1]], -1)),
        )
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_framework_gives_trls_losses(trl, kind):  # noqa: F811
    policy, ref = FixedModel(trl.policy), FixedModel(trl.ref)
    trainer = trl_trainer(
        policy,
        ref,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[kind],
        loss_weights=[1.0],
        beta=0.3,
        label_smoothing=0.2,
        use_weighting=False,
    )
    theirs = trl.trl.DPOTrainer._compute_loss(trainer, policy, trl.inputs, False)
    pairs = [
        torch.stack(x.chunk(2), -1)
        for x in (trl.policy.sum(-1), (trl.policy - trl.ref).sum(-1) / trl.lengths, trl.ref.sum(-1))
    ]
    torch.testing.assert_close(SETTINGS[kind](*pairs).mean(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("simpo", 0.0), ("sigmoid", 0.0), ("sigmoid", 0.1), ("ipo", 0.0)]
)
def test_without_a_reference_the_framework_gives_trls_cpo_losses(kind, smoothing):
    trainer = pytest.importorskip(
        "trl.experimental.cpo",
        reason="TRL's CPO trainer is not installed (extra 'test'); it has SimPO's loss",
    ).CPOTrainer
    chosen, rejected = random(9), random(9, seed=1)
    accelerator = types.SimpleNamespace(device=torch.device("cpu"))
    theirs = trainer.cpo_loss(
        types.SimpleNamespace(
            alpha=0.0,
            accelerator=accelerator,
            beta=0.3,
            loss_type=kind,
            simpo_gamma=0.4,
            label_smoothing=smoothing,
        ),
        chosen,
        rejected,
    )[0]
    pair = torch.stack([chosen, rejected], -1)
    if kind == "ipo":
        ours = 2 / 0.3**2 * framework_loss(pair, 0 * pair, pair, Setting("sq", 0.3, gap=0.5))
    else:
        gap = math.log(1 / smoothing - 1) if smoothing else SURE
        setting = Setting(
            "bwd", 0.3, gap=gap, gamma=0.4 if kind == "simpo" else 0.0, per_token=True
        )
        ours = framework_loss(pair, pair, pair, setting)
        if smoothing:  # TRL's cross-entropy is a KL and the label's entropy, a constant
            ours = ours + torch.distributions.Bernoulli(torch.tensor(smoothing)).entropy()
    torch.testing.assert_close(ours, theirs)


# Pairs, tuples, scale -----------------------------------------------------------------------------

IDS = np.array([3, 3, 3, 3, 1, 1, 1, 1, 7, 7, 5, 5, 5])
REWARDS = np.array([1.0, 4, 2, 4, 9, 9, 9, 1, 6, 6, 2, 1, 3])


@pytest.mark.parametrize("rule", reward_aware.RULES)
def test_a_pair_is_the_best_and_a_worse_one_of_the_same_prompt(rule):
    before = np.random.get_state()[1].copy()
    for seed in range(20):
        pairs = tuples(IDS, REWARDS, k=2, rule=rule, seed=seed)
        # prompt 7 has a tie only
        assert (IDS[pairs[:, 0]] == IDS[pairs[:, 1]]).all() and IDS[pairs[:, 0]].tolist() == [
            1,
            3,
            5,
        ]
        assert (REWARDS[pairs[:, 0]] == [9, 4, 3]).all() and (
            REWARDS[pairs[:, 1]] < REWARDS[pairs[:, 0]]
        ).all()
        if rule == "best_worst":
            assert REWARDS[pairs[:, 1]].tolist() == [1, 1, 1]
        assert np.array_equal(pairs, tuples(IDS, REWARDS, k=2, rule=rule, seed=seed))
    assert np.array_equal(before, np.random.get_state()[1])


def test_the_random_other_and_the_equal_best_are_drawn_by_the_seed():
    pairs = np.stack([tuples(IDS, REWARDS, k=2, seed=seed) for seed in range(60)])
    assert (
        set(pairs[:, 1, 0]) == {1, 3}
        and set(pairs[:, 1, 1]) == {0, 2}
        and set(pairs[:, 0, 0]) == {4, 5, 6}
    )


@pytest.mark.parametrize("rule", reward_aware.RULES)
def test_a_tuple_of_k_is_the_best_and_k_less_one_others_without_repeats(rule):
    found = tuples(IDS, REWARDS, k=3, rule=rule)
    assert IDS[found[:, 0]].tolist() == [1, 3, 5] and all(
        len(set(row)) == 3 for row in found.tolist()
    )
    assert (REWARDS[found[:, 0]] == [9, 4, 3]).all()
    if rule == "best_worst":
        assert sorted(REWARDS[found[1]]) == [1, 2, 4]
    whole = tuples(IDS, REWARDS, k=4, rule=rule)
    assert [sorted(row) for row in whole.tolist()] == [[4, 5, 6, 7], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tuples(IDS, REWARDS, k=1), "k is 1"),
        (lambda: tuples(IDS, REWARDS, k=5), "no prompt has 5 completions whose rewards differ"),
        (lambda: tuples(IDS, REWARDS[:3], k=2), "rewards has shape (3,) but prompt_ids has (13,)"),
        (lambda: tuples([0, 0], [1.0, math.nan], k=2), "rewards is nan at row 1"),
        (lambda: tuples(IDS, REWARDS, k=2, rule="worst"), "rule 'worst' is unknown"),
        (lambda: suggested_eta([0.0]), "no pair has a reward gap above 0"),
        (lambda: suggested_eta([1.0], confidence=1.0), "confidence is 1"),
    ],
)
def test_a_refusal_names_the_fault(call, words):
    with pytest.raises(ValueError) as refusal:
        call()
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_suggested_eta_makes_the_median_gap_the_asked_confidence_whatever_the_scale():
    gaps = np.array([0.5, 2.0, 4.0, 0.0])
    for scale in (1.0, 100.0):
        eta = suggested_eta(scale * gaps, confidence=0.9)
        assert 1 / (1 + math.exp(-eta * scale * 2.0)) == pytest.approx(0.9)
