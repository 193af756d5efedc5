"""Log_partition against hand numbers, plain Python, enumeration of a whole support, and
extremes."""

import math
import time

import numpy as np
import pytest
import torch

from rpo_nb import partition
from rpo_nb.partition import log_partition

NAMES = tuple(partition.ESTIMATORS)
# prompt 7 has e = (2, 4) with w = (0.2, 0.3); prompt -1 has e = 6 with w = 0.5; the data set's mean
# of e is 4
HAND = dict(
    ref_logps=torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log(),
    rewards=torch.tensor([2.0, 6.0, 4.0], dtype=torch.float64).log(),
    prompt_ids=torch.tensor([7, -1, 7]),
)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("empirical", [1.6, 3.0, 1.6]),
        ("monte_carlo", [3.0, 6.0, 3.0]),
        ("self_normalised", [3.2, 6.0, 3.2]),
        ("leave_one_out", [4.0, 4.0, 2.0]),
        ("none", [1.0, 1.0, 1.0]),
        ("pooled", [10 / 3, 5.0, 10 / 3]),
    ],
)
def test_hand_numbers(name, expected):
    result = log_partition(**HAND, tau=1.0, estimator=name)
    torch.testing.assert_close(result.exp(), torch.tensor(expected, dtype=torch.float64))


def in_plain_python(ref, reward, ids, tau, name, c):
    """The definitions of the design, one row at a time, without logs."""
    w, e = [math.exp(v) for v in ref], [math.exp(v / tau) for v in reward]
    mean_e = sum(e) / len(e)
    out = []
    for i, x in enumerate(ids):
        js = [j for j in range(len(ids)) if ids[j] == x]
        others = [e[j] for j in js if j != i]
        out.append(
            math.log(
                {
                    "empirical": lambda: sum(w[j] * e[j] for j in js),
                    "monte_carlo": lambda: sum(e[j] for j in js) / len(js),
                    "self_normalised": lambda: sum(w[j] * e[j] for j in js) / sum(w[j] for j in js),
                    "leave_one_out": lambda: sum(others) / len(others) if others else mean_e,
                    "none": lambda: 1.0,
                    "pooled": lambda: (sum(e[j] for j in js) + c * mean_e) / (len(js) + c),
                }[name]()
            )
        )
    return out


def random_rows(n, prompts, seed=0):
    g = np.random.default_rng(seed)
    return g.normal(-3, 1.5, n), g.normal(0, 1, n), g.integers(0, prompts, n) * 10**12 - 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tau, c", [(0.3, 1.0), (5.0, 2.5)])
def test_agrees_with_the_definitions_in_plain_python(name, tau, c):
    ref, reward, ids = random_rows(60, 25)
    result = log_partition(ref, reward, ids, tau=tau, estimator=name, prior_count=c)
    expected = torch.tensor(in_plain_python(ref, reward, ids, tau, name, c), dtype=torch.float64)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_prompt_need_not_be_adjacent(name):
    ref, reward, ids = random_rows(60, 25)
    whole = log_partition(ref, reward, ids, tau=0.5, estimator=name)
    order = np.random.default_rng(1).permutation(60)
    torch.testing.assert_close(
        log_partition(ref[order], reward[order], ids[order], tau=0.5, estimator=name), whole[order]
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "none"])
def test_a_shift_of_all_rewards_leaves_the_target(name):
    ref, reward, ids = random_rows(60, 25)
    arguments = dict(tau=0.7, estimator=name)
    moved = partition.target(ref, reward + 3, ids, **arguments)
    torch.testing.assert_close(moved, partition.target(ref, reward, ids, **arguments))


def test_empirical_is_exact_on_the_whole_support(world):
    ids = torch.zeros(len(world.ref), dtype=torch.long)
    for name in ("empirical", "self_normalised"):
        estimate = log_partition(world.ref, world.reward, ids, tau=world.tau, estimator=name)
        torch.testing.assert_close(estimate, world.log_z.expand_as(estimate))


def test_leave_one_out_is_unbiased_for_completions_of_the_reference(world):
    """E[Ẑ] over every pair (y₁, y₂) ~ πref² is Z for both rows; the Monte-Carlo Ẑ is too, but it
    depends on its own row."""
    n = len(world.ref)
    first, second = (
        i.reshape(-1) for i in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    )
    rows = torch.stack([first, second], 1).reshape(-1)
    ids = torch.arange(n * n).repeat_interleave(2)
    chance = (world.ref[first] + world.ref[second]).exp()
    own = world.reward[first] - (chance * world.reward[first]).sum()
    covariance = {}
    for name in ("leave_one_out", "monte_carlo"):
        z = (
            log_partition(world.ref[rows], world.reward[rows], ids, tau=world.tau, estimator=name)
            .exp()
            .reshape(-1, 2)
        )
        torch.testing.assert_close((chance[:, None] * z).sum(0), world.log_z.exp().expand(2))
        covariance[name] = float((chance * own * z[:, 0]).sum())
    assert abs(covariance["leave_one_out"]) < 1e-12 < covariance["monte_carlo"]


def test_monte_carlo_converges_and_empirical_does_not(world):
    drawn = torch.multinomial(
        world.ref.exp(), 200_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    ids = torch.zeros(len(drawn), dtype=torch.long)
    arguments = (world.ref[drawn], world.reward[drawn], ids)
    assert float(
        log_partition(*arguments, tau=world.tau, estimator="monte_carlo")[0] - world.log_z
    ) == pytest.approx(0, abs=0.02)
    # a sum over rows: it grows with them
    assert float(log_partition(*arguments, tau=world.tau)[0] - world.log_z) > 3


def test_released_target_is_a_log_softmax_over_the_prompts_completions():
    """Semantics A: with eq. 19 the target of log π itself is ref + t = log softmax_j(ref_j +
    r_j/τ)."""
    g = torch.Generator().manual_seed(0)
    ref, reward = (
        torch.randn(6, 4, generator=g).double() - 2,
        torch.randn(6, 4, generator=g).double(),
    )
    t = partition.target(
        ref.reshape(-1), reward.reshape(-1), torch.arange(6).repeat_interleave(4), tau=5.0
    ).reshape(6, 4)
    torch.testing.assert_close(ref + t, torch.log_softmax(ref + reward / 5.0, -1))
    alone = partition.target(ref[:, 0], reward[:, 0], torch.arange(6), tau=5.0)
    # one completion: perplexity 1, whatever r
    torch.testing.assert_close(ref[:, 0] + alone, torch.zeros(6, dtype=torch.float64))


def test_pooled_goes_from_monte_carlo_to_the_data_sets_mean():
    ref, reward, ids = random_rows(60, 25)
    pooled = {
        c: log_partition(ref, reward, ids, tau=1.0, estimator="pooled", prior_count=c)
        for c in (0, 1e12)
    }
    torch.testing.assert_close(
        pooled[0], log_partition(ref, reward, ids, tau=1.0, estimator="monte_carlo")
    )
    mean = torch.full((60,), np.exp(reward).mean(), dtype=torch.float64)
    torch.testing.assert_close(pooled[1e12].exp(), mean, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_stay_finite_and_keep_their_type(name, dtype):
    reward = torch.tensor([1e3, -1e3, 1e3, 0, 1e3, 5], dtype=dtype)
    ref = torch.tensor([-1e4, -1, -1e4, -2e4, 0, -3], dtype=dtype)
    for tau in (1e-3, 1e3):
        result = log_partition(
            ref, reward, torch.tensor([0, 0, 1, 1, 2, 0]), tau=tau, estimator=name
        )
        assert result.dtype == dtype and result.isfinite().all()


def test_leave_one_out_does_not_cancel():
    """e = (exp(1000), exp(1), exp(0)): the largest row's others are 20 orders below what float64
    could subtract."""
    reward = torch.tensor([1000.0, 1.0, 0.0], dtype=torch.float64)
    result = log_partition(
        torch.zeros(3).double(), reward, torch.zeros(3).long(), tau=1.0, estimator="leave_one_out"
    )
    half = math.log(2)
    torch.testing.assert_close(
        result,
        torch.tensor([math.log(math.e + 1) - half, 1000 - half, 1000 - half], dtype=torch.float64),
    )
    ties = log_partition(
        torch.zeros(3),
        torch.ones(3) * 40,
        torch.zeros(3).long(),
        tau=0.001,
        estimator="leave_one_out",
    )
    torch.testing.assert_close(ties, torch.full((3,), 40_000.0))


def test_no_gradient_and_half_precision_becomes_float32():
    ref = torch.zeros(4, requires_grad=True)
    assert not log_partition(ref, torch.ones(4), torch.zeros(4).long(), tau=1.0).requires_grad
    assert (
        log_partition(
            torch.zeros(4).bfloat16(), torch.ones(4).half(), torch.zeros(4).int(), tau=1.0
        ).dtype
        == torch.float32
    )
    assert log_partition(torch.zeros(0), torch.zeros(0), torch.zeros(0).long(), tau=1.0).shape == (
        0,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_quarter_of_a_million_rows_are_a_second(name):
    ref, reward, ids = random_rows(250_000, 60_000)
    start = time.perf_counter()
    result = log_partition(ref, reward, ids, tau=0.5, estimator=name)
    assert time.perf_counter() - start < 5  # a loop over 60,000 prompts takes longer
    rows = np.flatnonzero(ids == ids[0])
    few = log_partition(ref[rows], reward[rows], ids[rows], tau=0.5, estimator=name)
    if name != "pooled":  # which knows the rest of the data
        torch.testing.assert_close(result[rows], few)


# Consistency: how the error moves with K, over many prompts of a language whose Z is known --------


def mean_squared_error(world, writer, k, estimator, *, prompts=4000, distinct=False):
    """E[(log Ẑ − log Z)²] for k completions a prompt drawn from `writer` (log-probabilities)."""
    g = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(
        writer.exp().expand(prompts, -1), k, replacement=not distinct, generator=g
    ).reshape(-1)
    ids = torch.arange(prompts).repeat_interleave(k)
    found = log_partition(
        world.ref[drawn], world.reward[drawn], ids, tau=world.tau, estimator=estimator
    )
    return float(((found - world.log_z) ** 2).mean())


@pytest.mark.parametrize("name", ["monte_carlo", "leave_one_out", "pooled"])
def test_consistent_on_the_references_own_completions(world, name):
    """The squared error falls like 1/K, and only where the reference is the writer."""
    few, many = (
        mean_squared_error(world, world.ref, k, name, prompts=4000 // k) for k in (16, 256)
    )
    assert many < few / 8 and many < 0.05
    # a stronger writer: it stays too high
    assert mean_squared_error(world, world.best, 256, name, prompts=50) > 0.2


def test_self_normalised_is_consistent_for_texts_drawn_evenly(world):
    even = torch.full_like(world.ref, -math.log(len(world.ref)))
    assert mean_squared_error(world, even, 2048, "self_normalised", prompts=50) < 0.05
    assert mean_squared_error(world, world.ref, 2048, "self_normalised", prompts=50) > 0.05


def test_empirical_is_exact_only_when_every_text_is_there_once(world):
    even = torch.full_like(world.ref, -math.log(len(world.ref)))
    assert (
        mean_squared_error(world, even, len(world.ref), "empirical", prompts=20, distinct=True)
        < 1e-20
    )
    some, many = (
        mean_squared_error(world, world.ref, k, "empirical", prompts=200) for k in (64, 1024)
    )
    assert many > max(some, 4)  # texts that are drawn again count again: it grows with K


GOOD = dict(
    ref_logps=torch.zeros(3), rewards=torch.zeros(3), prompt_ids=torch.zeros(3).long(), tau=1.0
)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(rewards=torch.zeros(2)), "rewards has shape (2,)"),
        (dict(ref_logps=torch.zeros(3, 1)), "ref_logps has shape (3, 1)"),
        (dict(prompt_ids=torch.zeros(4).long()), "prompt_ids has shape (4,)"),
        (dict(prompt_ids=torch.zeros(3)), "prompt_ids is of type torch.float32"),
        (dict(rewards=torch.tensor([0, math.nan, 0])), "rewards is nan at row 1"),
        (dict(ref_logps=torch.tensor([0, 0, -math.inf])), "ref_logps is -inf at row 2"),
        (dict(tau=0), "tau is 0"),
        (dict(tau=-1.0), "tau is -1.0"),
        (dict(tau=math.nan), "tau is nan"),
        (dict(tau="x"), "tau is 'x'"),
        (dict(estimator="emprical"), "estimator 'emprical' is unknown"),
        (dict(estimator="pooled", prior_count=-1), "prior_count is -1"),
        (dict(rewards=torch.tensor([0, 0, 1e30]), tau=1e-30), "overflows at row"),
    ],
)
def test_a_refusal_is_one_sentence_that_names_the_fault(change, words):
    for function in (partition.log_partition, partition.target):
        with pytest.raises(ValueError) as refusal:
            function(**(GOOD | change))
        assert words in str(refusal.value) and "\n" not in str(refusal.value)
