"""Labels, pairs, weights and aspects from the file to the step: what is told of them and what is
trained on."""

import json

import numpy as np
import pandas as pd
import pytest

from rpo_nb.config import loading
from rpo_nb.config.objective import Objective, Setting
from rpo_nb.data import kinds
from rpo_nb.experiment import grid, inputs, runs
from rpo_nb.studies import aspects
from rpo_nb.studies.paper_b import grid as paper_b_grid
from rpo_nb.studies.paper_b.grid import Run, feedback_prompts
from rpo_nb.studies.paper_b.world import World
from rpo_nb.training import alignment
from rpo_nb.training.reward_aware import tuples

GOOD, BAD = "the red lamp stands in the {}.", "a {} lies."
NOUNS = ("garden", "kitchen", "harbour", "boat", "book", "chair", "rope", "lamp", "cat", "mat")
ASKED = [
    f"{how} about the {noun}"
    for how in ("write", "please write", "write two sentences")
    for noun in NOUNS
]
PAIRS = [
    {"prompt": prompt, "chosen": GOOD.format(NOUNS[i % 10]), "rejected": BAD.format(NOUNS[i % 10])}
    for i, prompt in enumerate(ASKED)
]
LABELS = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in PAIRS
    for side in ("chosen", "rejected")
]
RATED = [
    {
        "prompt": row["prompt"],
        "completion": row[side],
        "helpfulness": float(good) + i % 3,
        "fluency": float(i % 4) - good,
    }
    for i, row in enumerate(PAIRS)
    for side, good in (("chosen", 2), ("rejected", 0))
]


@pytest.fixture
def profile(tmp_path, tiny_t5):
    """Of rows, a profile with one tiny policy on them."""
    for part in tiny_t5:
        part.save_pretrained(tmp_path / "policy")

    def of(rows, **more):
        source = tmp_path / "mine.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = {
            "sizes.small.id": str(tmp_path / "policy"),
            "data.prompts": 10,
            "data.validation": 5,
            "data.held_out": 10,
            "data.max_completion_tokens": 12,
            "data.max_prompt_tokens": 16,
            "training.batch_size": 20,
        }
        return loading.load_profile(
            "smoke",
            feedback=str(source),
            sizes="small",
            seeds="0",
            preset="fixed",
            **settings | more,
        )

    return of


def told(profile):
    return " ".join(kinds.kind_notes(*inputs.feedback(profile, 0)))


@pytest.mark.parametrize(
    ("rows", "words"),
    [(PAIRS, "Pairs here have no scores"), (LABELS, "labels: two values, 0 and 1")],
)
@pytest.mark.parametrize("method", ["rpo", "dro", "kto", "sft", "best_of_k"])
def test_pairs_and_labels_are_trained_on_by_every_method(
    profile, tmp_path, monkeypatch, rows, words, method
):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    mine = profile(rows, methods=method)
    assert words in told(mine)
    run = next(run for run in grid.plan(mine) if run.method == method)
    trainer = runs.build_trainer(mine, run, inputs.prepare(mine, "small", 0), tmp_path / "run")
    items = trainer.train_dataset
    assert len(items) == 10 and {len(item["rows"]) for item in items} == {
        1 if method == "best_of_k" else 2
    }
    for item in items:
        assert [bool(flag) for flag in item["desirable"]] == [
            reward > 0 for reward in item["rewards"]
        ]
        assert np.allclose(np.abs(item["rewards"]), 1)
    trainer.train()
    assert np.isfinite([e["loss"] for e in trainer.state.log_history if "loss" in e]).all()


@pytest.mark.parametrize(
    "setting",
    [
        Setting("bwd", 0.1, gap=1000.0),
        Setting("bwd", 0.5, gap=1000.0, gamma=0.1, per_token=True),
        Setting("sqloo", 0.3),
        Setting("bwd", 0.3),
        Setting("sq", 0.3),
    ],
)
def test_paper_bs_losses_train_on_pairs(profile, tmp_path, monkeypatch, tiny_t5, setting):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    mine = profile(
        PAIRS,
        **{
            "paper_b.responses": "feedback",
            "paper_b.k": 2,
            "paper_b.prompts": 4,
            "paper_b.iterations": 1,
            "paper_b.valid": 2,
            "paper_b.test": 2,
        },
    )
    world = World(mine, 0, tmp_path / "out")
    responses, _ = world.offline(Run("bwd"))
    rows = tuples(responses.prompt_ids, responses.rewards, k=2)
    assert (
        rows.shape == (4, 2)
        and (responses.rewards[rows[:, 0]] > responses.rewards[rows[:, 1]]).all()
    )
    objective = Objective(
        method="reward_aware", reduce="mean" if setting.per_token else "sum", setting=setting
    )
    groups = alignment.groups_of(responses, rows, objective)
    from rpo_nb.training.trainer import make_trainer

    trainer = make_trainer(
        world.load(trained=True),
        tiny_t5[1],
        groups,
        objective,
        config=mine.training,
        output_dir=tmp_path / "run",
        seed=0,
    )
    trainer.train()
    assert np.isfinite([e["loss"] for e in trainer.state.log_history if "loss" in e]).all()


def test_more_completions_than_pairs_have_are_refused_before_anything_is_trained(profile):
    mine = profile(
        PAIRS,
        **{
            "paper_b.responses": "feedback",
            "paper_b.prompts": 4,
            "paper_b.iterations": 1,
            "paper_b.valid": 2,
            "paper_b.test": 2,
        },
    )
    with pytest.raises(ValueError, match="paper_b.k is 4.*more than 2.*set paper_b.k to 2"):
        feedback_prompts(mine, 0)
    names = [
        run.name for run in paper_b_grid.grid(mine.paper_b.model_copy(update={"k": 2, "runs": ()}))
    ]
    assert len(names) == len(set(names))


def test_weights_are_told(profile):
    mine = profile([row | {"weight": 1 + i % 2} for i, row in enumerate(LABELS)])
    assert "weights, 1 to 2 (mean 1.5)" in told(mine) and "54 equal ones" in told(mine)


def test_plain_rewards_need_no_word(profile):
    rows = [
        {"prompt": p, "completion": f"{word} {noun}", "reward": len(word) + i}
        for p in ASKED
        for i, (word, noun) in enumerate((("a", "cat"), ("the", "mat"), ("old", "rope")))
    ]
    assert told(profile(rows)) == ""


def test_every_aspect_of_the_generated_texts_is_judged(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    mine = profile(RATED, **{"data.reward": "helpfulness"})
    assert "fluency" in told(mine)
    generations = pd.DataFrame(
        {
            "preset": "fixed",
            "method": ["reference", "reference", "sft", "sft"],
            "size": "small",
            "tau": np.nan,
            "seed": 0,
            "prompt_id": [0, 1] * 2,
            "prompt": ASKED[:2] * 2,
            "reference": "",
            "completion": ["a boat", "it is", "the cat", ""],
        }
    )
    table, notes = aspects.table(mine, tmp_path / "out", generations)
    assert set(table["aspect"]) >= {"fluency"} and set(table["method"]) == {"reference", "sft"}
    assert table["value"].notna().all() and (table["n"] == 2).all()
    assert any("fluency" in note and "held-out comparisons" in note for note in notes)
    again, _ = aspects.table(mine, tmp_path / "out", generations)
    pd.testing.assert_frame_equal(table, again)
    without = mine.model_copy(
        update={"evaluation": mine.evaluation.model_copy(update={"judges": ("other",)})}
    )
    table, notes = aspects.table(without, tmp_path / "out", generations)
    assert table.empty and "fluency" in notes[0] and "reward_model" in notes[0]
