"""Paper B's trainings on tiny models: tuples, sampling, the probe, the best checkpoint, what
happens to one that diverges."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from rpo_nb.config.objective import Objective, Setting
from rpo_nb.policy.logps import score_completions
from rpo_nb.training import reward_aware
from rpo_nb.training.alignment import (
    Sampler,
    Standardised,
    align,
    groups_of,
    make_alignment_trainer,
)
from rpo_nb.training.reward_aware import framework_loss, tuple_losses, tuples
from rpo_nb.training.samples import Probe, measures, respond
from tests.training.aligned import PROMPTS, SCHEDULE, length

BWD = Objective(method="reward_aware", setting=Setting("bwd", 0.5, 2.0))


def make(
    calm,
    tmp_path,
    *,
    objective=BWD,
    online=False,
    score=length,
    schedule=SCHEDULE,
    floor=-math.inf,
    k=3,
):
    model, reader, data = calm
    probe = Probe(
        PROMPTS,
        {"length": length, "minus": lambda p, c: -length(p, c)},
        reader,
        model,
        seed=3,
        baseline=reader.sample(model, PROMPTS, 1, 3),
    )
    return make_alignment_trainer(
        copy.deepcopy(model).requires_grad_(True),
        reader,
        objective,
        schedule,
        probe=probe,
        watched="length",
        floor=floor,
        output_dir=tmp_path,
        seed=0,
        groups=None
        if online
        else groups_of(
            data,
            tuples(data.prompt_ids, data.rewards, k=k),
            objective,
            reader=reader,
            reference=model,
        ),
        sampler=Sampler(PROMPTS, score, reader, model, k, seed=5) if online else None,
    )


def test_a_cut_completion_has_the_log_probability_of_what_was_drawn(calm):
    """At one new token the entropy is that of the first token's distribution, by plain
    transformers; no end token is added."""
    model, reader, _ = calm
    reader = replace(reader, max_new_tokens=1)
    asked = PROMPTS[:1] * 600
    ids = torch.tensor([reader.encode(PROMPTS[:1], [""])[0][0]])
    with torch.no_grad():
        logps = (
            model(input_ids=ids, decoder_input_ids=torch.tensor([[0]]))
            .logits[0, 0]
            .double()
            .log_softmax(0)
        )
    probe = Probe(asked, {"length": length}, reader, model, seed=3)
    completions = probe.completions(model)
    assert set(completions["tokens"]) == {1}
    # each is of one token
    assert (
        np.abs(completions["policy_logp"].to_numpy()[:, None] - logps.numpy()).min(1).max() < 1e-4
    )
    entropy = float(-(logps.exp() * logps).sum())
    assert measures(completions, ["length"])["entropy"] == pytest.approx(
        entropy, abs=4 * completions["policy_logp"].std() / len(completions) ** 0.5
    )
    data = respond(model, model, asked[:50], 1, length, reader, seed=1)
    assert {len(completion) for _, completion in data.encoded} == {1}  # what is trained on, too


def test_tuples_of_different_sizes_are_compared_each_by_itself():
    g = torch.Generator().manual_seed(0)
    policy_logps, ref, rewards = (
        torch.randn(8, generator=g, dtype=torch.float64) for _ in range(3)
    )
    group, setting = torch.tensor([0, 2, 0, 1, 1, 2, 1, 2]), Setting("bwd", 0.3, gap=2.0)
    losses = tuple_losses(policy_logps, ref, rewards, group, setting)
    for rows in ([0, 2], [3, 4, 6], [1, 5, 7]):
        torch.testing.assert_close(
            losses[rows],
            framework_loss(policy_logps[rows], ref[rows], rewards[rows], setting).expand(len(rows)),
        )
    with pytest.raises(ValueError, match="two or more"):
        tuple_losses(policy_logps, ref, rewards, torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]), setting)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("bwd", 0.5, 2.0),
        Setting("sqloo", 0.5),
        Setting("bwd", 0.5, gap=reward_aware.SURE, gamma=0.2, per_token=True),
    ],
)
def test_a_step_on_tuples_is_the_mean_over_tuples(calm, tmp_path, setting):
    model, _, data = calm
    trainer = make(
        calm,
        tmp_path,
        objective=Objective(
            method="reward_aware", reduce="mean" if setting.per_token else "sum", setting=setting
        ),
    )
    trainer.model.eval()
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, trainer.batch(trainer.train_dataset))
    rows = tuples(data.prompt_ids, data.rewards, k=3)
    # the policy is the reference yet
    logps = torch.from_numpy(data.ref_logps / data.tokens if setting.per_token else data.ref_logps)[
        rows
    ]
    expected = framework_loss(logps, logps, torch.from_numpy(data.rewards)[rows], setting).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_ktos_pairs_are_read_by_the_reference_once(calm, tmp_path):
    trainer = make(calm, tmp_path, objective=Objective(method="kto", beta=0.5), k=2)
    assert all(group["desirable"] == [1.0, 0.0] for group in trainer.train_dataset)
    batch = trainer.batch(trainer.train_dataset)
    with torch.no_grad():
        found = trainer.model.eval()(**batch)["mismatched_logps"]
    torch.testing.assert_close(found, batch["mismatched_ref_logps"].float(), rtol=0, atol=1e-3)
    align(trainer)
    assert len(trainer.curve) == 2


def test_online_steps_read_the_policys_own_samples(calm, tmp_path):
    model, reader, _ = calm
    trainer = make(calm, tmp_path, online=True)
    groups = trainer.sampler(trainer.model.policy, [4, 1], 7, BWD)
    again = make(calm, tmp_path, online=True).sampler(trainer.model.policy, [4, 1], 7, BWD)
    assert groups == again and [len(g["rows"]) for g in groups] == [3, 3]
    texts = [
        reader.tokenizer.decode(c, skip_special_tokens=True)
        for g in groups
        for _, c in g["encoded"]
    ]
    assert [r for g in groups for r in g["rewards"]] == length(None, texts).tolist() and len(
        set(texts)
    ) > 1
    sums, _ = score_completions(
        model, reader.tokenizer, [pair for g in groups for pair in g["encoded"]]
    )
    np.testing.assert_allclose([x for g in groups for x in g["ref_logps"]], sums.numpy(), rtol=1e-5)
    outcome = align(trainer)
    assert (
        outcome["steps"] == 4
        and set(outcome["seconds"]) == {"training", "sampling", "scoring"}
        and min(outcome["seconds"].values()) > 0
    )
    assert [row["step"] for row in trainer.curve] == [2, 4] and all(
        row["n"] == len(PROMPTS) for row in trainer.curve
    )


def test_online_training_raises_its_reward(calm, tmp_path):
    """Half of the words come early in the alphabet at first; a few steps make them more, and leave
    the reference behind."""

    def early(prompts, completions):
        return np.array(
            [sum(word[0] < "l" for word in text.split()) for text in completions], float
        )

    schedule = SCHEDULE.model_copy(
        update={"steps": 12, "evaluate_every": 12, "prompts_a_step": 6, "learning_rate": 1e-2}
    )
    objective = Objective(method="reward_aware", setting=Setting("sqloo", 0.1))
    trainer = make(
        calm, tmp_path, online=True, score=early, schedule=schedule, k=4, objective=objective
    )
    before = early(None, calm[1].sample(calm[0], PROMPTS, 8, 9)).mean()
    align(trainer)
    assert (
        early(None, calm[1].sample(trainer.model.policy, PROMPTS, 8, 9)).mean() > before + 0.5
        and trainer.curve[-1]["kl"] > 0
    )


def test_the_best_checkpoint_by_validation_reward_remains(calm, tmp_path):
    schedule = SCHEDULE.model_copy(update={"steps": 8, "evaluate_every": 1, "learning_rate": 1e-2})
    trainer = make(calm, tmp_path, online=True, schedule=schedule)
    outcome = align(trainer)
    best = max(trainer.curve, key=lambda row: row["length"])
    assert (
        outcome["best"] == best["length"]
        and trainer.curve[outcome["best_step"] - 1]["length"] == best["length"]
    )
    assert trainer.probe.completions(trainer.model.policy)["length"].mean() == best["length"]


def test_a_collapsed_reward_stops_the_training_and_says_why(calm, tmp_path):
    trainer = make(calm, tmp_path, online=True, floor=1e6)
    outcome = align(trainer)
    assert (
        outcome["steps"] == 2
        and "step 2: the validation length is" in outcome["reason"]
        and outcome["best_step"] == 2
    )


def test_a_value_that_is_not_finite_ends_an_online_training_with_its_last_good_checkpoint(
    calm, tmp_path
):
    calls = []

    def breaks(prompts, completions):
        calls.append(1)
        return length(prompts, completions) * (math.nan if len(calls) > 3 else 1.0)

    outcome = align(make(calm, tmp_path / "a", online=True, score=breaks))
    assert (
        outcome["best_step"] == 2
        and "rewards is nan" in outcome["reason"]
        and "\n" not in outcome["reason"]
    )
    calls += [1, 1, 1]
    # before the first checkpoint there is nothing to keep
    with pytest.raises(ValueError, match="rewards is nan"):
        align(make(calm, tmp_path / "b", online=True, score=breaks))


def test_no_tuple_is_refused(calm, tmp_path):
    with pytest.raises(ValueError, match="no tuple to train on"):
        make_alignment_trainer(
            calm[0],
            calm[1],
            BWD,
            SCHEDULE,
            probe=None,
            watched="length",
            output_dir=tmp_path,
            seed=0,
            groups=[],
        )


def test_measures_by_hand():
    completions = pd.DataFrame(
        {
            "policy_logp": [-1.0, -3.0],
            "ref_logp": [-2.0, -7.0],
            "tokens": [2, 4],
            "a": [5.0, 7.0],
            "a_baseline": [5.0, 3.0],
            "b": [1.0, 1.0],
            "b_baseline": [9.0, 9.0],
        }
    )
    found = measures(completions, ["a", "b"])
    assert (
        found["a"] == 6
        and found["b"] == 1
        and found["win_rate"] == 0.75
        and found["kl"] == 2.5
        and found["entropy"] == 2
        and found["tokens"] == 3
    )
    # Student's t, one degree of freedom
    half = 12.706204736 * np.std([1, 4], ddof=1) / math.sqrt(2)
    assert (found["kl_low"], found["kl_high"]) == pytest.approx((2.5 - half, 2.5 + half))
    assert Standardised(length, 2.0, 4.0)(["x"], ["a b c d"]) == [0.5]
