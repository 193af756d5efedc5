"""A user's feedback."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rpo_nb.config.loading import load_profile
from rpo_nb.experiment import inputs
from rpo_nb.policy import encoding
from rpo_nb.studies.paper_b import figures, tables
from rpo_nb.studies.paper_b import grid as paper_b_grid
from rpo_nb.studies.paper_b.grid import Run
from rpo_nb.studies.paper_b.runs import _groups, _objective, ensure, load
from rpo_nb.studies.paper_b.world import World
from rpo_nb.training.alignment import (
    align,
    make_alignment_trainer,
)
from tests.training.aligned import SCHEDULE

WORDS = (
    "the a red green blue small old lamp rope chair boat book stands lies waits in on under "
    "near garden kitchen harbour"
).split()


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
    assert results[results["run"] == "sft"]["kl"].abs().max() < 1e-4
    moved = results[results["run"] != "sft"].assign(kl=lambda rows: rows["kl"].abs())
    assert moved.groupby("run")["kl"].median().min() > 1e-3  # one prompt's may be near 0
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
        figures.figure4(curves, profile.paper_b),
    ):
        assert figure.axes
    assert (costs["steps"] == 2).all()


def test_the_feedbacks_own_scores_are_what_the_first_policies_learn_from(users_world):
    profile, out, _ = users_world
    world = World(profile, 0, out)
    data = world.responses("train_1")
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


def test_an_adapter_is_the_same_whatever_was_trained_and_loaded_before_it(users_world, tmp_path):
    """As where a seed was interrupted before it."""
    profile, out, _ = users_world
    again = tmp_path / "again"
    shutil.copytree(out, again)
    folders = [World(profile, 0, place).folder(Run("kto")) for place in (out, again)]
    shutil.rmtree(folders[1])
    ensure(profile, again, progress=False)
    first, second = (load_file(one / "policy" / "adapter_model.safetensors") for one in folders)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


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
    going = world.load(Run("dpo"), trained=True)
    trained = {name for name, weight in going.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    rows = world.reader.encode(world.prompts["valid"], ["the red lamp"] * 6)
    torch.testing.assert_close(
        world.reader.logps(going, None, rows)[0],
        world.reader.logps(world.load(Run("dpo")), None, rows)[0],
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
        world.load(trained=True),
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
