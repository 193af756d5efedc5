"""The grid: what is planned, what is shared, what is skipped, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rpo_nb import partition, pocket
from rpo_nb.config import loading, objective
from rpo_nb.experiment import generations, grid, inputs, references, runs
from rpo_nb.policy import logps
from rpo_nb.policy.generation import samples
from rpo_nb.store import seal
from rpo_nb.studies import insight


@pytest.fixture(scope="module")
def profile():
    return loading.load_profile("smoke", sizes="small", seeds="0", taus="0.1,1.0")


@pytest.fixture(scope="module")
def made(profile, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    generations.ensure_runs(profile, out, progress=False)
    return out


def test_cells_of_different_presets_share_a_run_only_if_every_field_agrees(profile):
    cells = {(c.preset, c.method, c.tau): c for c in grid.cells(profile)}
    paper, released, fixed = (cells[preset, "sft", None] for preset in objective.PRESETS)
    assert paper.key == released.key == fixed.key
    keys = [
        cells[preset, "rpo", profile.presets[preset].rpo_tau].key for preset in objective.PRESETS
    ]
    assert len(set(keys)) == 3
    assert len({run.key for run in cells.values() if run.trained}) == len(grid.plan(profile))
    assert {tau for (preset, method, tau) in cells if (preset, method) == ("paper", "rpo")} == {
        0.1,
        1.0,
    }
    assert [tau for (preset, method, tau) in cells if (preset, method) == ("released", "rpo")] == [
        5.0
    ]


def test_a_run_is_named_by_everything_that_makes_it(profile):
    base = grid.recipe(profile, profile.presets["paper"], "rpo", "small", 1.0, 0)
    other = loading.load_profile("smoke", sizes="small", seeds="0", **{"training.epochs": 3})
    assert base.key != grid.recipe(other, other.presets["paper"], "rpo", "small", 1.0, 0).key
    assert base.key != grid.recipe(profile, profile.presets["paper"], "rpo", "small", 0.5, 0).key
    assert base.key != grid.recipe(profile, profile.presets["paper"], "rpo", "small", 1.0, 1).key
    # the rest of the grid is none of its business
    again = loading.load_profile("smoke", sizes="small,large", seeds="0,1")
    assert base.key == grid.recipe(again, again.presets["paper"], "rpo", "small", 1.0, 0).key


def test_generations_have_the_columns_and_one_row_a_cell_and_prompt(profile, made):
    frame = generations.load_generations(made)
    assert list(frame.columns) == generations.COLUMNS
    prompts = inputs.splits(profile, 0).validation.num_rows
    counts = frame.groupby(["preset", "method", "size", "tau", "seed"], dropna=False).size()
    assert set(counts) == {prompts} and len(counts) == len(grid.cells(profile))
    train = set(inputs.splits(profile, 0).train["prompt"])
    assert not train & set(frame["prompt"])
    assert (frame.groupby("prompt")["reference"].nunique() == 1).all()
    # the paper's top-score rule
    assert all(
        pocket.score(p, r) >= 9 for p, r in zip(frame["prompt"], frame["reference"], strict=True)
    )
    assert not any(
        str(made) in f.read_text() for f in made.rglob("*.json") if "trainer" not in f.parts
    )


def test_done_work_is_skipped_and_the_files_keep_their_bytes(profile, made, capsys):
    before = {f: f.read_bytes() for f in (made / "generations").iterdir()}
    stamps = {f: f.stat().st_mtime_ns for f in made.rglob("done.json")}
    generations.ensure_runs(profile, made, progress=False)
    assert "0 policies trained" in capsys.readouterr().out
    assert {f: f.read_bytes() for f in (made / "generations").iterdir()} == before
    assert {f: f.stat().st_mtime_ns for f in made.rglob("done.json")} == stamps


def test_a_narrower_call_keeps_the_other_methods_rows(profile, made):
    before = {f.name: f.read_bytes() for f in (made / "generations").iterdir()}
    narrower = loading.load_profile(
        "smoke", sizes="small", seeds="0", methods="rpo,kto", taus="1.0", preset="paper"
    )
    generations.ensure_runs(narrower, made, progress=False)
    assert {f.name: f.read_bytes() for f in (made / "generations").iterdir()} == before


def test_a_clones_complete_generations_are_used_without_training(profile, made, tmp_path, capsys):
    shutil.copytree(made / "generations", tmp_path / "generations")
    generations.ensure_generations(profile, tmp_path)
    assert "used as they are" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    (tmp_path / "generations" / "paper-small-seed0.jsonl.gz").unlink()
    generations.ensure_generations(profile, tmp_path)
    assert "13 policies trained" in capsys.readouterr().out


def test_generations_that_were_tampered_with_are_written_again(profile, made):
    file = made / "generations" / "paper-small-seed0.jsonl.gz"
    before = file.read_bytes()
    file.unlink()
    generations.ensure_runs(profile, made, progress=False)
    assert file.read_bytes() == before


def damage(kind: str, file: Path) -> None:
    """What a disk, an editor or a copy that broke off does to a file, at a later moment than it was
    written."""
    content = file.read_bytes()
    if kind == "missing":
        file.unlink()
    else:
        middle = len(content) // 2
        file.write_bytes(
            {
                "empty": b"",
                "truncated": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            }[kind]
        )


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "flipped"])
def test_damaged_files_of_our_own_are_made_again_with_a_line_each(profile, made, capsys, kind):
    """A policy's weights, another's stamp and history, a third's completions, a generations file
    and the note beside it, the cached log-probabilities, and weights of the reference."""

    def file(pattern: str) -> Path:
        return sorted(made.glob(pattern))[0]

    cached = inputs.reference_path(profile, "small", 0)
    hurt = {
        "weights": file("runs/rpo-*/policy/model.safetensors"),
        "stamp": file("runs/dro-*/done.json"),
        "history": file("runs/kto-*/history.csv"),
        "completions": file("runs/sft-*/completions-*.json"),
        "generations": file("generations/paper-*.gz"),
        "note": file("runs/generations/fixed-*.json"),
        "reference": Path(cached) / "model.safetensors",
    }
    kept = {
        name: path.read_bytes() for name, path in hurt.items() if name not in ("stamp", "history")
    }
    everything = {
        path: path.read_bytes()
        for path in (*made.glob("generations/*"), *made.glob("runs/*/completions-*.json"))
    }
    for path in hurt.values():
        damage(kind, path)
    generations.ensure_runs(profile, made, progress=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(": made again")]
    assert {name: path.read_bytes() for name, path in hurt.items() if name in kept} == kept
    assert {path: path.read_bytes() for path in everything} == everything
    # that is how what is not done looks
    silent = {"stamp", "completions", "generations", "note"} if kind == "missing" else set()
    assert len(lines) == len(hurt) - len(silent), lines
    generations.ensure_runs(profile, made, progress=False)
    assert "0 policies trained" in capsys.readouterr().out


def test_what_was_interrupted_on_other_rows_is_not_gone_on_with(profile, made, tmp_path):
    prepared = inputs.prepare(profile, "small", 0)
    run = grid.recipe(profile, profile.presets["paper"], "sft", "small", None, 0)
    left = run.folder(tmp_path) / "trainer" / "checkpoint-1"
    left.mkdir(parents=True)
    (run.folder(tmp_path) / "recipe.json").write_text(
        json.dumps(run.recipe | {"inputs": "of other rows"})
    )
    seal(left)
    runs.train(profile, run, prepared, tmp_path)
    files = [
        sorted(run.folder(out).glob("policy/*.safetensors"))[0].read_bytes()
        for out in (made, tmp_path)
    ]
    assert files[0] == files[1]


def test_a_fresh_folder_gives_the_same_bytes(profile, made, tmp_path):
    narrow = loading.load_profile(
        "smoke", sizes="small", seeds="0", methods="reference,rpo", taus="1.0", preset="paper"
    )
    for out in (tmp_path / "a", tmp_path / "b"):
        generations.ensure_runs(narrow, out, progress=False)
    name = "generations/paper-small-seed0.jsonl.gz"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_best_of_k_keeps_the_best_row_of_each_prompt(profile):
    prepared = inputs.prepare(profile, "small", 0)
    run = grid.recipe(profile, profile.presets["paper"], "best_of_k", "small", None, 0)
    rows = inputs.chosen_rows(run, prepared)
    ids = np.asarray(prepared.splits.train["prompt_id"])
    assert sorted(ids[rows]) == sorted(set(ids))
    for row in rows:
        assert prepared.rewards[row] == prepared.rewards[ids == ids[row]].max()


def test_the_trainer_sees_standardised_rewards_and_equation_19(profile, tmp_path):
    prepared = inputs.prepare(profile, "small", 0)
    assert prepared.rewards.mean() == pytest.approx(
        0, abs=1e-9
    ) and prepared.rewards.std() == pytest.approx(1, abs=1e-6)
    run = grid.recipe(profile, profile.presets["paper"], "rpo", "small", 1.0, 0)
    trainer = runs.build_trainer(profile, run, prepared, tmp_path)
    for group in trainer.train_dataset[:5]:
        expected = torch.logsumexp(
            torch.tensor(group["ref_logps"], dtype=torch.float64)
            + torch.tensor(group["rewards"], dtype=torch.float64),
            0,
        )
        assert group["log_partition"] == pytest.approx(
            [float(expected)] * len(group["rows"]), rel=1e-5
        )


@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize("row", [0, 50, 95])
def test_a_cached_log_probability_that_is_not_the_models_is_made_again(
    profile, tmp_path, monkeypatch, capsys, name, row
):
    prepared = inputs.prepare(profile, "small", 0)
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))
    references.reference_logps(
        prepared.path, prepared.reference, prepared.tokenizer, prepared.encoded
    )
    (file,) = tmp_path.rglob("logps.npz")
    with np.load(file) as stored:
        changed = {kind: stored[kind] for kind in ("sum", "mean")}
    changed[name][row] += 20
    np.savez(file, **changed)
    found = references.reference_logps(
        prepared.path, prepared.reference, prepared.tokenizer, prepared.encoded
    )
    assert all(np.array_equal(found[kind], prepared.ref_logps[kind]) for kind in ("sum", "mean"))
    assert "logps.npz is not as it was written): made again" in capsys.readouterr().out


def test_on_policy_completions_are_the_references_own():
    """Their log-probabilities a token are, but for chance, those of other samples of the reference;
    those of the writers' completions are not."""
    few = {"data.prompts": 64, "data.validation": 4, "data.held_out": 0}
    few |= {"evaluation.judges": ["checker"]}
    own, writers = (
        inputs.prepare(
            loading.load_profile("smoke", sizes="small", seeds="0", **few, **{"data.regime": name}),
            "small",
            0,
        )
        for name in ("on_policy", "much_stronger")
    )
    rows = own.splits.train
    assert set(rows["model"]) == {"reference"} and rows.num_rows == 64 * 4
    drawn = samples(
        own.reference,
        own.tokenizer,
        rows["prompt"],
        decoding=loading.load_profile("smoke").decoding,
        seed=12345,
        max_prompt_tokens=64,
        batch_size=64,
    )
    encoded = [one.row for one in drawn]
    sums = logps.score_completions(own.reference, own.tokenizer, encoded)[0].numpy()
    others = sums / [len(completion) for _, completion in encoded]

    def distance(found):
        """In standard errors."""
        error = np.sqrt(found.var() / len(found) + others.var() / len(others))
        return abs(found.mean() - others.mean()) / error

    assert distance(own.ref_logps["mean"]) < 4 < distance(writers.ref_logps["mean"])


def test_rows_are_not_compared_with_themselves(monkeypatch):
    """QRPO's reference rewards are of other samples than the on-policy completions: else q is 1/32
    too high on average."""
    few = {
        "data.regime": "on_policy",
        "data.prompts": 8,
        "data.validation": 4,
        "data.held_out": 0,
        "evaluation.judges": ["checker"],
    }
    profile = loading.load_profile("smoke", sizes="small", seeds="0", **few)
    prepared, drawn = inputs.prepare(profile, "small", 0), {}
    plain = inputs.reference_samples

    def samples(profile, path, prompts, k, seed):
        drawn.update(zip(prompts, plain(profile, path, prompts, k, seed), strict=True))
        return list(drawn.values())

    monkeypatch.setattr(inputs, "reference_samples", samples)
    rewards = inputs.reference_rewards(profile, prepared, 0)
    rows = prepared.splits.train.to_pandas().groupby("prompt")["completion"].apply(set)
    assert rewards.shape == (prepared.splits.train.num_rows, 16) and set(drawn) == set(rows.index)
    assert sum(own <= set(drawn[prompt]) for prompt, own in rows.items()) < len(rows) / 2


def test_the_tilted_frontier_is_exact_on_a_case_that_can_be_enumerated():
    rewards = np.tile([1.0, 3.0], (5, 50))
    table = insight.tilt(rewards, taus=(1.0, 1e6))
    p = np.exp(3) / (np.exp(1) + np.exp(3))
    assert table["reward"][0] == pytest.approx(p * 3 + (1 - p))
    assert table["kl"][0] == pytest.approx(p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p)))
    assert table["reward"][1] == pytest.approx(2.0, abs=1e-4) and table["kl"][1] == pytest.approx(
        0, abs=1e-6
    )


def test_the_frontier_starts_at_the_references_own_reward_and_rises_with_its_kl(profile):
    """At the highest temperature nothing is tilted; at the lowest the best samples are all that
    counts, at a KL of log 64 at most."""
    curve = insight.frontier(profile, "small", 0)
    prompts = list(inputs.splits(profile, 0, "small").validation["prompt"])
    samples = inputs.reference_samples(
        profile, inputs.reference_path(profile, "small", 0), prompts, insight.FRONTIER_SAMPLES, 0
    )
    own = np.mean(
        [
            pocket.score(prompt, text)
            for prompt, row in zip(prompts, samples, strict=True)
            for text in row
        ]
    )
    assert curve["reward"].iloc[0] == pytest.approx(own, abs=0.1)
    assert (
        curve["reward"].is_monotonic_increasing
        and curve["kl"].is_monotonic_increasing
        and curve["kl"].iloc[-1] <= np.log(64)
    )


def test_kl_of_the_reference_is_zero_and_of_others_is_finite(profile, made):
    table = insight.rewards_and_kl(profile, made)
    changed = profile.evaluation.model_copy(update={"generation_batch_size": 7})
    # nobody has looked at them since
    assert insight.rewards_and_kl(profile.model_copy(update={"evaluation": changed}), made).empty
    assert "released" not in set(table["preset"])  # its decoding does not sample from the policy
    assert table.loc[table["method"] == "reference", "kl"].abs().max() < 1e-4
    assert np.isfinite(table[["kl", "kl_low", "kl_high", "reward"]].to_numpy()).all()
    assert (table["kl_low"] <= table["kl"]).all() and (table["kl"] <= table["kl_high"]).all()


def test_users_own_text_gets_a_tokenizer_and_a_reference_from_its_held_out_part(tmp_path):
    words = "why how when sky sea tree blue green deep old because of the a it is".split()
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"{' '.join(rng.choice(words, 5))} {i}?",
            "completion": " ".join(rng.choice(words, 6)) + ".",
            "reward": float(rng.integers(1, 11)),
        }
        for i in range(40)
        for _ in range(3)
    ]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    profile = loading.load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,rpo",
        preset="paper",
        feedback=str(file),
        **{"sizes.*.tokenizer": ["train"], "data.validation": 4, "data.held_out": 12},
    )
    generations.ensure_runs(profile, tmp_path / "out", progress=False)
    assert set(generations.load_generations(tmp_path / "out")["method"]) == {"reference", "rpo"}


def test_without_generations_the_message_names_the_notebook(tmp_path):
    with pytest.raises(ValueError, match="run notebook 03_train first"):
        generations.load_generations(tmp_path)


def test_estimators_of_the_presets_exist():
    assert {p.partition for p in loading.load_profile("smoke").presets.values()} <= set(
        partition.ESTIMATORS
    )
