"""Test_diagnostics."""

import math

import numpy as np
import pytest
import torch

from rpo_nb import partition
from rpo_nb.config import loading


def test_diagnostics():
    """Prompt 0: equal weights, so 3 rows count; prompt 1: one row has all the weight; prompt 5 has
    one completion."""
    found = partition.diagnostics(
        torch.tensor([-1.0, -1, -1, 0, -50, -2]),
        torch.tensor([1.0, 1, 1, 0, 0, 2]),
        torch.tensor([0, 0, 0, 1, 1, 5]),
        tau=1.0,
    )
    assert found["prompt_ids"].tolist() == [0, 1, 5] and found["completions"].tolist() == [3, 2, 1]
    torch.testing.assert_close(found["effective_sample_size"], torch.tensor([3.0, 1.0, 1.0]))
    torch.testing.assert_close(
        found["effective_sample_size_unweighted"], torch.tensor([3.0, 2.0, 1.0])
    )
    assert found["single_share"] == pytest.approx(1 / 3)
    assert (found["spread"] >= 0).all()
    zeros = torch.zeros(2)
    same = partition.diagnostics(
        zeros, zeros, zeros.long(), tau=1.0, estimators=("monte_carlo", "leave_one_out")
    )
    assert same["spread"].tolist() == [0.0]


def rows_of(k, prompts=50, seed=0, **more):
    """A well-behaved set of rows: k completions a prompt, standard-normal rewards, reference sums
    near 0."""
    g = np.random.default_rng(seed)
    n = k * prompts
    return (
        dict(
            ref_logps=g.normal(-20, 0.1, n),
            rewards=g.normal(size=n),
            prompt_ids=np.repeat(np.arange(prompts), k),
        )
        | more
    )


def told(word, **arguments):
    """The warnings that hold the word, of these rows."""
    return [w for w in partition.diagnostics(**arguments)["warnings"] if word in w]


def test_a_healthy_set_of_rows_has_no_warning():
    found = partition.diagnostics(**rows_of(8), tau=1.0, estimator="leave_one_out")
    assert (
        found["warnings"] == []
        and found["against_share"] < 0.25
        and found["unreachable_share"] == 0
    )
    assert "warning" not in partition.summary(found) and "K 8 to 8" in partition.summary(found)


def test_each_failure_signature_is_told_with_its_remedy():
    alone = rows_of(4) | {"prompt_ids": np.arange(200)}
    assert (
        "−log πref, whatever the reward"
        in told("100% of the prompts have one completion", **alone, tau=1.0)[0]
    )
    assert "DRO or KTO" in told("one completion", **alone, tau=1.0, estimator="monte_carlo")[0]
    assert "DRO or KTO" not in told("one completion", **alone, tau=1.0, estimator="pooled")[0]
    assert told(
        "standardise",
        **rows_of(4, rewards=np.random.default_rng(0).normal(size=200) * 100),
        tau=1.0,
    )
    assert told("over 90% of the weight", **rows_of(4), tau=0.02, estimator="monte_carlo")
    by_reference = rows_of(4, ref_logps=np.random.default_rng(0).normal(-30, 10, 200))
    assert "given by πref and the reward" in told("of the weight", **by_reference, tau=1.0)[0]
    assert not told("of the weight", **by_reference, tau=1.0, estimator="leave_one_out")
    assert told(
        "cannot write", **rows_of(4, lengths=np.full(200, 2)), tau=1.0, estimator="leave_one_out"
    )
    assert not told(
        "cannot write", **rows_of(4, lengths=np.full(200, 20)), tau=1.0, estimator="leave_one_out"
    )
    # eq. 19 with sums: all are pushed up
    assert told("pushed the other way", **rows_of(4), tau=1.0)


@pytest.mark.parametrize("estimator", partition.ESTIMATORS)
def test_diagnostics_recommend_what_preset_fixed_is(estimator):
    """Whatever is wrong, no other estimator is recommended, and to who has it already none; without
    one there is no Ẑ to blame."""
    fixed = loading.load_profile("pocket").presets["fixed"].partition
    g = np.random.default_rng(0)
    sentences = [
        sentence
        for reduce, tau, rows in (
            ("sum", 1.0, rows_of(4) | {"prompt_ids": np.arange(200)}),
            (
                "sum",
                0.02,
                rows_of(4, ref_logps=g.normal(-30, 10, 200), rewards=g.normal(5, 1, 200)),
            ),
            ("mean", 5.0, rows_of(4, ref_logps=np.full(200, -0.8))),
            ("mean", 5.0, rows_of(4, ref_logps=np.full(200, -2.5))),
        )
        for sentence in partition.diagnostics(**rows, tau=tau, estimator=estimator, reduce=reduce)[
            "warnings"
        ]
    ]
    remedies = " ".join(sentence.partition(";")[2] for sentence in sentences)
    assert sentences and {name for name in partition.ESTIMATORS if name in remedies.split()} <= {
        fixed
    }
    assert (f"partition {fixed}" in remedies) == (estimator != fixed)
    assert estimator != "none" or "Ẑ" not in " ".join(sentences)


def test_without_a_reference_the_rewards_tell_what_they_can():
    rows = rows_of(4, prompt_ids=np.repeat(np.arange(50), 4))
    found, blind = (
        partition.diagnostics(
            ref, rows["rewards"], rows["prompt_ids"], tau=0.02, estimator="leave_one_out"
        )
        for ref in (rows["ref_logps"], None)
    )
    assert (
        blind["dominated_share"] == found["dominated_share"] > 0.25
        and blind["reward_scale"] == found["reward_scale"] > 10
    )
    assert (
        math.isnan(blind["unreachable_share"])
        and blind["effective_sample_size"].isnan().all()
        and len(blind["warnings"]) >= 2
    )
    with pytest.raises(ValueError, match="without ref_logps the estimator 'empirical' is unknown"):
        partition.diagnostics(None, rows["rewards"], rows["prompt_ids"], tau=1.0)


def test_targets_out_of_reach_are_those_above_probability_one():
    """Prompt of two rows at τ = 0.1, log πref −1 each: leave-one-out asks for (r_i − r_other)/τ =
    ±10, so one of two is out of reach."""
    found = partition.diagnostics(
        torch.tensor([-1.0, -1.0]),
        torch.tensor([0.0, 1.0]),
        torch.zeros(2).long(),
        tau=0.1,
        estimator="leave_one_out",
    )
    assert (
        found["unreachable_share"] == 0.5
        and found["against_share"] == 0.0
        and found["target"][0] == pytest.approx(0.0)
    )
    assert any("probability above 1" in w for w in found["warnings"])


@pytest.mark.parametrize("per_token, side", [(-0.8, "pushed down"), (-2.5, "pulled up")])
def test_means_are_told_on_which_side_of_log_k_the_rows_lie(per_token, side):
    rows = rows_of(
        4,
        ref_logps=np.full(200, per_token),
        rewards=np.random.default_rng(0).normal(size=200) * 0.1,
    )
    found = partition.diagnostics(**rows, tau=5.0, reduce="mean")
    assert found["above_log_k_share"] == (1.0 if per_token > -math.log(4) else 0.0)
    assert sum(side in w for w in found["warnings"]) == 1
    target = partition.target(**rows, tau=5.0)
    assert ((target > 0).double().mean() < 0.5) == (side == "pushed down")
    assert math.isnan(partition.diagnostics(**rows, tau=5.0)["above_log_k_share"])
