"""A study of a user's feedback in parts, taken up elsewhere without a training, and without a text
of the feedback in them."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers

from rpo_nb import judging
from rpo_nb.config import loading
from rpo_nb.experiment import generations, grid, inputs
from rpo_nb.judging import verdicts
from rpo_nb.running import parts, staging
from rpo_nb.store import read_sealed, write_json, write_sealed
from rpo_nb.studies import deep, deep_feedback, prediction, prediction_scores
from tests.studies.test_paper_b_feedback import own_feedback

ASKED = ("table3", "prediction")


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_llama):
    """The profile, and the output folder in which both seeds were made."""
    folder = tmp_path_factory.mktemp("study")
    for part in tiny_llama:
        part.save_pretrained(folder / "model")
    profile = loading.load_profile(
        "smoke",
        feedback=own_feedback(folder / "own.jsonl", 0),
        sizes="small",
        methods="reference,sft,rpo",
        taus="1",
        preset="paper",
        **{
            "sizes.small.id": str(folder / "model"),
            "training.lora": True,
            "training.lora_rank": 4,
            "data.prompts": 12,
            "data.validation": 8,
            "data.held_out": 20,
            "evaluation.judge_comparisons": 40,
        },
    )
    policies = [
        {"policy": method, "method": method, "presets": ["paper"]} for method in ("sft", "rpo")
    ]
    about = {"size": "small", "seeds": list(profile.seeds)}
    write_json(folder / "out" / prediction.FILE, {"study": about, "policies": policies})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPO_NB_CACHE", str(folder / "cache"))
        assert not deep.run(profile, folder / "out", most=1, cores=1)
        assert deep.run(profile, folder / "out", cores=1)
    return profile, folder / "out"


def answers(out):
    """The bytes of what the judges said."""
    return {
        name: (out / "verdicts" / f"{name}-reward_model.jsonl.gz").read_bytes() for name in ASKED
    }


def test_a_seed_is_two_parts_that_hold_no_text_of_the_feedback(study):
    profile, out = study
    assert [part.name for part in deep.parts_of(profile)] == [
        f"{name}-seed{seed}" for seed in (0, 1) for name in ("policies", "answers")
    ]
    lines = map(json.loads, Path(profile.data.source).read_text(encoding="utf-8").splitlines())
    texts = [text for line in lines for text in (line["prompt"], line["responses"][-1]["text"])]
    for part in deep.parts_of(profile):
        files = parts.read(deep.file_of(out, part)).files
        judged = [name for name in files if name.startswith("out/runs/judges/scores/")]
        policies = [name for name in files if name.endswith("recipe.json")]
        assert (bool(policies), bool(judged)) == (part.study == "policies", part.study == "answers")
        told = b"".join(files.values()).decode(errors="replace")
        assert not [text for text in texts if text in told]


def test_where_the_feedback_lies_is_no_part_of_a_key(study, tmp_path):
    profile, _ = study
    other = shutil.copy(profile.data.source, tmp_path / "elsewhere.jsonl")
    moved = profile.model_copy(
        update={"data": profile.data.model_copy(update={"source": str(other)})}
    )
    first, _, second, _ = deep.parts_of(profile)
    assert deep.key_of(moved, first) == deep.key_of(profile, first)
    with open(other, "a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "a", "responses": [{"text": "b", "reward": 1}]}) + "\n")
    assert deep.key_of(moved, first) != deep.key_of(profile, first)
    assert deep.key_of(profile, second) != deep.key_of(profile, first)


def test_elsewhere_the_tables_ask_nobody_and_train_nothing(study, tmp_path, monkeypatch, capsys):
    profile, out = study
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    inputs._splits.cache_clear()
    moved = shutil.copy(profile.data.source, tmp_path / "moved.jsonl")
    data = profile.data.model_copy(update={"source": str(moved)})
    profile = profile.model_copy(update={"data": data})
    shutil.copytree(out / deep.PARTS, tmp_path / "out" / deep.PARTS)
    shutil.copy(out / prediction.FILE, tmp_path / "out")

    def refuse(*_, **__):
        raise AssertionError("something is trained, or a judge asked")

    monkeypatch.setattr(transformers.Trainer, "train", refuse)
    monkeypatch.setattr(judging.RewardModel, "net", property(refuse))
    assert deep.run(profile, tmp_path / "out", cores=1)
    assert answers(tmp_path / "out") == answers(out)
    rows = generations.load_generations(tmp_path / "out")
    assert rows.equals(generations.load_generations(out))
    # what notebook 05 and predict --score do
    bench = {seed: verdicts.judges_for(profile, tmp_path / "out", seed) for seed in profile.seeds}
    pairs = verdicts.make_pairs(rows, profile, table="table3")
    capsys.readouterr()
    verdicts.ask(bench, pairs, tmp_path / "out", "table3")
    assert "stored verdicts are up to date" in capsys.readouterr().out
    found = json.loads((out / prediction.FILE).read_text(encoding="utf-8"))
    said = prediction_scores.texts(rows, found, profile)
    first = {seed: judges[0] for seed, judges in bench.items()}
    assert len(prediction_scores.rewards(first, tmp_path / "out", said)[0]) == len(said)
    # what every notebook of the batch begins with: the feedback has another name there
    staged = staging.stage(profile, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    generations.ensure_runs(staged, Path(), progress=False)
    assert rows.equals(generations.load_generations(Path()))
    # a run with other settings has written over what a part brought
    run = next(run for run in grid.cells(profile) if run.method == "sft")
    file = generations.completions_file(profile, run, tmp_path / "out")
    said = read_sealed(file)
    write_sealed(file, said | {"world": "another", "completions": ["b"] * len(said["completions"])})
    assert deep.run(profile, tmp_path / "out", cores=1)
    assert read_sealed(file)["completions"] == said["completions"]
    assert rows.equals(generations.load_generations(tmp_path / "out"))


def test_a_judge_that_remembers_says_what_it_said(study):
    profile, out = study
    judge = verdicts.judges_for(profile, out, 0)[0]
    kept = deep_feedback.Remembered(judge, out)
    rows = [("write about the lamp", "red boat"), ("write about the lamp", "a")]
    fresh = kept.score(*zip(*rows, strict=True))
    assert (fresh == judge.score(*zip(*rows, strict=True))).all()
    again = deep_feedback.Remembered(judge, out)
    again.judge = None
    assert (again.score(*zip(*rows, strict=True)) == fresh).all()
    more = ("write about the lamp", "a b")
    asked = []
    again.judge = SimpleNamespace(
        score=lambda *texts: asked.extend(zip(*texts, strict=True)) or np.ones(1)
    )
    assert again.score(*zip(*rows, more, strict=True)).tolist() == [*fresh, 1.0]
    assert asked == [more]  # of a later call only what is new
