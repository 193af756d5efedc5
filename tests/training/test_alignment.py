"""Paper B's trainings on tiny models: tuples, sampling, the probe, the best checkpoint, what
happens to one that diverges."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rpo_nb import pocket
from rpo_nb.config.loading import load_profile
from rpo_nb.config.objective import Objective, Setting
from rpo_nb.config.studies import PaperB, Schedule
from rpo_nb.experiment import inputs
from rpo_nb.policy import encoding
from rpo_nb.policy.logps import score_completions
from rpo_nb.studies.paper_b import figures, learnings, tables
from rpo_nb.studies.paper_b import grid as paper_b_grid
from rpo_nb.studies.paper_b.grid import UNSEEN, is_synthetic, prompts_of
from rpo_nb.studies.paper_b.runs import _groups, _objective, ensure, load
from rpo_nb.studies.paper_b.world import World
from rpo_nb.training import reward_aware
from rpo_nb.training.alignment import (
    Sampler,
    Standardised,
    align,
    groups_of,
    make_alignment_trainer,
)
from rpo_nb.training.reward_aware import framework_loss, tuple_losses, tuples
from rpo_nb.training.samples import Probe, Reader, measures, respond

WORDS = "the a red green blue small old lamp rope chair boat book stands lies waits in on under near garden kitchen harbour".split()
PROMPTS = [
    "write about a red lamp",
    "please write about the boat",
    "two chair in the garden",
    "a kind book",
    "the small cat",
    "old rope",
]
SCHEDULE = Schedule(steps=4, prompts_a_step=3, learning_rate=1e-3, evaluate_every=2)
BWD = Objective(method="reward_aware", setting=Setting("bwd", 0.5, 2.0))


def length(prompts, completions):
    """A reward that needs no world: words of the completion."""
    return np.array([len(text.split()) for text in completions], float)


@pytest.fixture(scope="module")
def calm(tiny_t5):
    """A T5 as T5 initialises itself, its reader, and scored responses of its own."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(**{**tiny_t5[0].config.to_dict(), "initializer_factor": 1.0, "dropout_rate": 0.0})
    ).eval()
    reader = Reader(tiny_t5[1], max_prompt_tokens=16, max_new_tokens=6)
    return (
        model.requires_grad_(False),
        reader,
        respond(model, model, PROMPTS, 3, length, reader, seed=1),
    )


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
    answers = probe.answers(model)
    assert set(answers["tokens"]) == {1}
    # each is of one token
    assert np.abs(answers["policy_logp"].to_numpy()[:, None] - logps.numpy()).min(1).max() < 1e-4
    entropy = float(-(logps.exp() * logps).sum())
    assert measures(answers, ["length"])["entropy"] == pytest.approx(
        entropy, abs=4 * answers["policy_logp"].std() / len(answers) ** 0.5
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
    assert trainer.probe.answers(trainer.model.policy)["length"].mean() == best["length"]


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
    answers = pd.DataFrame(
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
    found = measures(answers, ["a", "b"])
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


# The pocket experiments ---------------------------------------------------------------------------


def test_prompts_in_and_out_of_distribution_are_what_their_names_say():
    config = PaperB(prompts=30, valid=20, test=25, iterations=2)
    found = prompts_of(config, 3)
    assert {name: len(prompts) for name, prompts in found.items()} == {
        "train_1": 30,
        "train_2": 30,
        "synthetic": 30,
        "valid": 20,
        "test": 25,
        "ood_values": 25,
        "ood_combinations": 25,
    }
    every = [prompt for prompts in found.values() for prompt in prompts]
    assert len(set(every)) == len(every) and found == prompts_of(config, 3) != prompts_of(config, 4)
    wishes = {name: [pocket.parse(prompt) for prompt in prompts] for name, prompts in found.items()}
    seen = [
        w for name in ("train_1", "train_2", "synthetic", "valid", "test") for w in wishes[name]
    ]
    unseen = UNSEEN
    assert not any(w.object in unseen["object"] or w.place in unseen["place"] for w in seen)
    assert all(
        w.object in unseen["object"] or w.place in unseen["place"] for w in wishes["ood_values"]
    )
    pairs = {(w.colour, w.object) for w in seen}
    assert not any(
        (w.colour, w.object) in pairs or w.object in unseen["object"] or w.place in unseen["place"]
        for w in wishes["ood_combinations"]
    )
    assert all(is_synthetic(prompt) for prompt in found["synthetic"])


def test_the_grid_names_what_the_tables_need_and_runs_follow_those_they_start_from():
    grid = paper_b_grid.grid(PaperB())
    names = [run.name for run in grid]
    assert len(set(names)) == len(names) == 26 and names[0] == "sft"
    assert all(names.index(run.start) < names.index(run.name) for run in grid if run.start)
    some = paper_b_grid.grid(PaperB(runs=("dpo-iteration3",)))
    assert [run.name for run in some] == [
        "sft",
        "dpo",
        "dpo-iteration2",
        "dpo-iteration3",
    ] and some[-1].prompts == "train_3"
    with pytest.raises(ValueError, match="'ppo' is unknown"):
        paper_b_grid.grid(PaperB(runs=("ppo",)))


def frame(values, seeds=(0, 1, 2)):
    """results of runs whose rewards are given, plus a little a seed."""
    rows = [
        {
            "run": run,
            "seed": seed,
            "split": split,
            "truth": value + 0.1 * seed,
            "learnt": 0.0,
            "win_rate": 0.5 + value / 100,
            "kl": 1.0,
        }
        for run, value in values.items()
        for seed in seeds
        for split in paper_b_grid.SPLITS[:4]
    ]
    return pd.DataFrame(rows)


def test_tables_have_the_papers_columns_and_numbers_beside():
    results = frame({run.name: 5.0 + i for i, run in enumerate(paper_b_grid.grid(PaperB()))})
    two, three, four = (
        tables.table2(results, PaperB()),
        tables.table3(results),
        tables.table4(results, PaperB()),
    )
    for table in (two, three, four):
        assert {"metric", "prompts", "mean", "ci_low", "ci_high", "seeds", "published"} <= set(
            table
        ) and (table["seeds"] == 3).all()
    assert len(two) == 12 * 2 * 3 and len(three) == 2 * 2 * 4 and len(four) == 3 * 4 * 2 * 4
    cell = two.query(
        "loss == 'rpo-bwd' and k == '4' and responses == 'Online' and rm == 'Learnt' "
        "and metric == 'win_rate' and "
        "prompts == 'test'"
    ).iloc[0]
    assert (cell["published"], cell["published_ci"]) == ("57.3", "1.6") and cell[
        "mean"
    ] == pytest.approx(
        50 + 5 + [run.name for run in paper_b_grid.grid(PaperB())].index("online-bwd-learnt")
    )
    first = two.query("loss == 'dpo' and metric == 'avg_reward' and prompts == 'test'").iloc[0]
    assert first["mean"] == pytest.approx(6.1) and first["ci_high"] - first[
        "mean"
    ] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-4)
    third = four.query(
        "training == 'Online RPO-bwd' and iteration == '3' and metric == "
        "'avg_reward' and prompts == 'test'"
    )
    assert third["published"].item() == "6.056"
    assert tables.eta_sweep(results.assign(entropy=1.0), PaperB())["eta"].tolist() == [
        "0.3 × suggested",
        "1 × suggested",
        "3 × suggested",
    ]
    gains = tables.bridge(results, PaperB())
    assert gains["log_z"].tolist()[0] == "cancelled (sqloo)" and gains["gain"].notna().sum() == 4


def test_verdicts_follow_the_differences_and_their_intervals():
    curves = pd.DataFrame(
        {"run": "dpo", "seed": 0, "step": [0, 1], "truth": [1.0, 2.0], "learnt": 0.0, "kl": 0.0}
    )
    flat = {run.name: 5.0 for run in paper_b_grid.grid(PaperB())}
    results = frame(flat | {"online-bwd-truth": 8.0, "online-sqloo-truth": 9.0})
    found = learnings.verdicts(results, curves, PaperB()).set_index("learning")["verdict"]
    assert found["online, bwd does better than sqloo"] == "is reversed"
    assert found["online does better than offline with the true judge (bwd)"] == "holds"
    noisy = frame(flat)
    noisy.loc[(noisy["run"] == "kto") & (noisy["seed"] == 0), "truth"] -= 3
    told = (
        learnings.verdicts(noisy, curves, PaperB())
        .set_index("learning")
        .loc["offline, they do better than KTO"]
    )
    assert told["verdict"] == "not decided" and "+1.00 [" in told["sentence"]
    alone = learnings.verdicts(frame(flat, seeds=(0,)), curves, PaperB())
    assert set(alone["verdict"]) == {"one seed: not decided"}


def test_hacking_is_a_learnt_reward_that_rises_while_the_truth_falls():
    def curves(truths):
        return pd.concat(
            [
                pd.DataFrame(
                    {
                        "run": "online-bwd-learnt",
                        "seed": seed,
                        "step": [0, 10, 20],
                        "truth": np.array(truths) + 0.01 * seed * np.arange(3),
                        "learnt": [0.0, 1.0, 2.0],
                    }
                )
                for seed in range(3)
            ]
        )

    for truths, verdict in (
        ([5, 7, 6], "seen"),
        ([5, 4, 4.5], "seen"),
        ([5, 6, 7], "not seen"),
        ([5, 5, 5.0], "gains vanish"),
    ):
        assert learnings._hacked(learnings.hacking(curves(truths)))[0] == verdict
    assert learnings.hacking(curves([5, 7, 6])).iloc[0].tolist()[2:] == [2.0, 1.0, -1.0]
    flat = learnings.hacking(curves([5, 5, 5.0])).assign(
        truth_gain=[-1, 0.0, 1.0], truth_late=[-1, 0.0, 1.0]
    )
    assert (
        learnings._hacked(flat)[0] == "gains vanish"
        and learnings._hacked(flat.head(1))[0] == "one seed: not decided"
    )


# A user's feedback --------------------------------------------------------------------------------


def own_feedback(file, first, prompts=60):
    """Feedback in the words of the tiny models: longer answers score higher."""
    rng = np.random.default_rng(first)
    rows = [
        {
            "prompt": f"write about the {rng.choice(WORDS)} {rng.choice(WORDS)} "
            f"{rng.choice(WORDS)} {rng.choice(WORDS)}",
            "responses": [
                {"text": " ".join(rng.choice(WORDS, n)), "reward": float(n + rng.random() / 2)}
                for n in (1, 3, 5, 7)
            ],
        }
        for _ in range(prompts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def users_world(tmp_path_factory, tiny_llama):
    """A causal policy with LoRA on feedback that is no pocket's: profile, folder, and what came
    out."""
    folder = tmp_path_factory.mktemp("own")
    model, tokenizer = tiny_llama
    calm = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "initializer_range": 0.02}))
    calm.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    profile = load_profile(
        "smoke",
        feedback=own_feedback(folder / "own.jsonl", 0),
        sizes="small",
        **{
            "sizes.small.id": str(folder / "model"),
            "training.lora": True,
            "training.lora_rank": 4,
            "data.prompts": 20,
            "data.validation": 14,
            "data.held_out": 20,
            "data.max_completion_tokens": 12,
            "decoding.max_new_tokens": 8,
            "paper_b.responses": "feedback",
            "paper_b.valid": 6,
            "paper_b.ood": own_feedback(folder / "other.jsonl", 1),
            "paper_b.runs": [
                "dpo-iteration2",
                "kto",
                "online-bwd-learnt",
                "online-bwd-truth-iteration2",
            ],
            "paper_b.offline.learning_rate": 0.05,
            "paper_b.online.learning_rate": 0.05,
        },
    )
    ensure(profile, folder, progress=False)
    return profile, folder, load(profile, folder)


def test_a_users_feedback_makes_paper_bs_tables_with_a_judge_in_the_truths_place(users_world):
    profile, out, (results, curves, costs) = users_world
    assert set(results["split"]) == {"valid", "test", "ood"} and np.isfinite(
        results[["truth", "learnt", "kl"]]
    ).all(axis=None)
    assert (
        results[results["run"] == "sft"]["kl"].abs().max()
        < 1e-4
        < results[results["run"] != "sft"]["kl"].abs().min()
    )
    table = tables.table2(results, profile.paper_b)
    assert set(table["loss"]) == {"sft", "dpo", "kto", "rpo-bwd"} and set(table["prompts"]) == {
        "test",
        "ood",
    }
    assert tables.table3(results)["training_prompts"].unique().tolist() == ["in distribution"]
    assert len(tables.table4(results, profile.paper_b)) == 2 * 3 * 2 * 3
    for figure in (
        figures.figure1(curves, profile.paper_b),
        figures.figure3(results, profile.paper_b),
        figures.figure4(curves),
    ):
        assert figure.axes
    assert (costs["steps"] == 2).all()


def test_the_feedbacks_own_scores_are_what_the_first_policies_learn_from(users_world):
    profile, out, _ = users_world
    world = World(profile, 0, out)
    data = world.responses("train_1", "")
    rows = map(json.loads, Path(profile.data.source).read_text().splitlines())
    own = {
        (row["prompt"], item["text"]): item["reward"] for row in rows for item in row["responses"]
    }
    assert len(data.rewards) == 4 * len(world.prompts["train_1"])
    assert [own[key] for key in zip(data.prompts, data.completions)] == data.rewards.tolist()
    dpo = next(run for run in world.runs if run.name == "dpo")
    standardised, _ = world.offline(dpo)
    assert abs(standardised.rewards.mean()) < 1e-9 and standardised.rewards.std() == pytest.approx(
        1
    )
    asked = [set(world.prompts[name]) for name in ("train_1", "train_2", "valid", "test", "ood")]
    # what the judge in the truth's place learnt from
    held_out = set(inputs.splits(profile, 0).held_out["prompt"])
    assert len(set().union(*asked, held_out)) == sum(map(len, asked)) + len(held_out)


def test_an_iteration_goes_on_with_the_adapter_of_the_one_before(users_world):
    profile, out, _ = users_world
    world = World(profile, 0, out)
    runs = {run.name: run for run in world.runs}
    first, second = (
        load_file(world.folder(runs[name]) / "policy" / "adapter_model.safetensors")
        for name in ("dpo", "dpo-iteration2")
    )
    assert first.keys() == second.keys() and any(
        (first[name] != second[name]).any() for name in first
    )
    going = world.load("dpo", trained=True)
    trained = {name for name, weight in going.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    rows = world.reader.encode(world.prompts["valid"], ["the red lamp"] * 6)
    torch.testing.assert_close(
        world.reader.logps(going, None, rows)[0],
        world.reader.logps(world.load("dpo"), None, rows)[0],
    )
    curve = pd.read_csv(world.folder(runs["dpo-iteration2"]) / "curve.csv")
    before = pd.read_csv(world.folder(runs["dpo"]) / "curve.csv")
    assert (
        curve["truth"].iloc[0] == pytest.approx(before["truth"].iloc[-1])
        and curve["kl"].iloc[0] != 0
    )


def test_checkpoints_of_an_adapter_hold_the_adapter_alone_and_strange_ones_are_refused(
    users_world, tmp_path
):
    profile, out, _ = users_world
    world = World(profile, 0, out)
    run = next(run for run in world.runs if run.name == "dpo")
    data, eta = world.offline(run)
    objective = _objective(profile.paper_b, run, eta)
    probe = world.probe("valid", "truth", within=True)
    trainer = make_alignment_trainer(
        world.load("", trained=True),
        world.reader,
        objective,
        SCHEDULE,
        probe=probe,
        watched="truth",
        output_dir=tmp_path,
        seed=0,
        groups=_groups(world, data, objective, run),
    )
    align(trainer)
    (file,) = tmp_path.glob("checkpoint-*/model.safetensors")
    assert set(load_file(file)) == {
        name for name, weight in trainer.model.named_parameters() if weight.requires_grad
    }
    with pytest.raises(ValueError, match="not of this model: 'strange'"):
        trainer._issue_warnings_after_load(
            SimpleNamespace(missing_keys=[], unexpected_keys=["strange"])
        )


def test_a_policys_name_depends_on_the_source_of_prompts_and_on_nothing_that_lies_around(
    users_world, tmp_path, monkeypatch
):
    def key(profile):
        return World(profile, 0, tmp_path).key()

    monkeypatch.chdir(tmp_path)
    profile = load_profile("smoke")
    before = key(profile)
    (tmp_path / "note.txt").write_text("new")
    assert key(profile) == before
    other = own_feedback(tmp_path / "ood.jsonl", 2)
    with_ood = profile.model_copy(
        update={"paper_b": profile.paper_b.model_copy(update={"ood": other})}
    )
    assert key(with_ood) != before


def test_feedback_that_is_too_small_for_paper_b_is_told(users_world, tmp_path):
    profile, out, _ = users_world
    with pytest.raises(ValueError, match="asks for 9 × 8 training prompts"):
        paper_b_grid.feedback_prompts(
            profile.model_copy(
                update={"paper_b": profile.paper_b.model_copy(update={"iterations": 9})}
            ),
            0,
        )
    same = tmp_path / "same.jsonl"
    same.write_text(
        "".join(
            json.dumps({"prompt": p, "completion": "a", "reward": 1}) + "\n"
            for p in inputs.splits(profile, 0).train["prompt"]
        )
    )
    with pytest.raises(ValueError, match="has no prompt that the feedback lacks"):
        paper_b_grid.feedback_prompts(
            profile.model_copy(
                update={"paper_b": profile.paper_b.model_copy(update={"ood": str(same)})}
            ),
            0,
        )
    with pytest.raises(ValueError, match="set data.held_out above 0"):
        ensure(
            profile.model_copy(update={"data": profile.data.model_copy(update={"held_out": 0})}),
            tmp_path,
        )
    with pytest.raises(ValueError, match="paper_b.size: 'huge'"):
        load_profile("smoke", **{"paper_b.size": "huge"})


def test_a_reward_model_may_be_a_linear_head_alone_and_survives_its_folder(tiny_t5, tmp_path):
    from rpo_nb.judging.reward_model import RewardModel, RewardNet

    model, tokenizer = tiny_t5
    torch.manual_seed(0)
    judge = RewardModel(
        RewardNet(copy.deepcopy(model), gated=False),
        tokenizer,
        {"max_prompt_tokens": 9, "max_completion_tokens": 9, "gated": False},
    )
    assert set(judge.net.heads) == {"linear"}
    got = judge.score(["write about the boat"], ["the boat lies"])
    ids, completion = encoding.encode(
        tokenizer,
        ["write about the boat"],
        ["the boat lies"],
        max_prompt_tokens=9,
        max_completion_tokens=9,
    )[0]
    with torch.no_grad():
        hidden = model(
            input_ids=torch.tensor([ids]),
            decoder_input_ids=torch.tensor([[0, *completion]]),
            output_hidden_states=True,
        )
        last = hidden.decoder_hidden_states[-1][0]
        assert got[0] == pytest.approx(
            float(judge.net.heads["linear"](torch.cat([last[-1], last[1:].mean(0)]))), rel=1e-4
        )
    judge.save(tmp_path / "judge")
    assert RewardModel.load(tmp_path / "judge").score(["write about the boat"], ["the boat lies"])[
        0
    ] == pytest.approx(got[0], rel=1e-6)
