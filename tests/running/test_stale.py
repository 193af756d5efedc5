"""The whole, once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpo_nb.__main__ import main
from rpo_nb.config import loading, methods
from rpo_nb.experiment import generations, inputs
from rpo_nb.planning import stale
from rpo_nb.running import batch, staging
from rpo_nb.running.provenance import (
    PACKAGE,
)
from rpo_nb.store import STAMP, seal
from tests.running.keys import ROOT

# ---- the whole, once -----------------------------------------------------------------------------

TINY = {
    "sizes.small.demonstrations": 48,
    "data.prompts": 6,
    "data.validation": 4,
    "data.held_out": 2,
    "decoding.max_new_tokens": 4,
    "training.warmup_steps": 0,
    "training.learning_rate": 0.05,
}
ENSURE = """
import sys
from pathlib import Path
from rpo_nb import config, experiment
profile = config.load_profile("smoke", sizes="small", seeds="0", methods="reference,sft,rpo",
                              taus="1.0", preset="paper", **{tiny})
for out in sys.argv[1:]:
    print("#", out)
    experiment.ensure_runs(profile, Path(out), progress=False)
"""
# file, what stands there, what shall stand there: each decides what is trained on, far from the
# trainer
CHANGES = {
    "standardise": (
        "data/splits.py",
        "    return (rewards - rewards.dtype.type(splits.reward_mean))",
        "    return 3 * (rewards - rewards.dtype.type(splits.reward_mean))",
    ),
    "words": ("data/splits.py", "Too few prompts for all of this", "With too few prompts"),
}


def ensured(where: Path, cache: Path, *outs: Path) -> str:
    import os

    env = os.environ | {"PYTHONPATH": str(where), "RPO_NB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", ENSURE.replace("{tiny}", repr(TINY)), *map(str, outs)],
        cwd=where,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(out: Path) -> dict[Path, bytes]:
    """Answers, log-probabilities and weights."""
    files = [
        file
        for pattern in ("generations/*", "runs/*/completions-*.json", "runs/*/policy/*.safetensors")
        for file in out.glob(pattern)
    ]
    return {file.relative_to(out): file.read_bytes() for file in files}


def test_after_a_change_of_code_nothing_stale_is_left_and_after_a_change_of_words_nothing_is_made(
    tmp_path,
):
    """What rows are trained on, changed in a copy of the package: the results in the old folder are
    those of a fresh one."""
    old, fresh, cache = tmp_path / "old", tmp_path / "fresh", tmp_path / "cache"
    assert "2 policies trained" in ensured(ROOT, cache, old)
    before = results(old)
    for name, (file, there, then) in CHANGES.items():
        copy = tmp_path / name
        shutil.copytree(PACKAGE, copy / "rpo_nb", ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / "rpo_nb" / file).read_text(encoding="utf-8")
        assert there in text
        (copy / "rpo_nb" / file).write_text(text.replace(there, then), encoding="utf-8")
    assert "0 policies trained, 2 were done already" in ensured(tmp_path / "words", cache, old)
    told = ensured(tmp_path / "standardise", cache, old, fresh)
    assert (
        "was trained on other rows or weights: made again" in told.split("# ")[1]
        and "made again" not in told.split("# ")[2]
    )
    found = results(old)
    assert found == results(fresh) and found.keys() == before.keys()
    assert {file for file in found if found[file] != before[file]} >= {
        file for file in found if "rpo-" in str(file)
    }


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """A tiny profile of a reference and sft, and two model folders of its architecture."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    profile = loading.load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,sft",
        taus="1.0",
        preset="paper",
        **TINY,
    )
    one, two = (Path(inputs.reference_path(profile, "small", seed)) for seed in (0, 1))
    return profile, one, two


def copied(source: Path, folder: Path) -> None:
    """The model's files in a folder, over those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != STAMP:
            shutil.copyfile(file, folder / file.name)


def test_an_authors_checkpoint_that_is_replaced_in_place_is_asked_again(
    two_models, tmp_path, capsys
):
    profile, one, two = two_models
    copied(one, tmp_path / "authors")
    sizes = {
        "small": profile.sizes["small"].model_copy(update={"authors": str(tmp_path / "authors")})
    }
    profile = profile.model_copy(
        update={
            "sizes": sizes,
            "evaluation": profile.evaluation.model_copy(update={"authors": True}),
            # each policy's samples are its own: equal weights say the same only without them
            "decoding": profile.decoding.model_copy(update={"do_sample": False}),
        }
    )

    def answers(out: str) -> dict[str, list[str]]:
        generations.ensure_runs(profile, tmp_path / out, progress=False)
        return (
            generations.load_generations(tmp_path / out)
            .groupby("method")["completion"]
            .apply(list)
            .to_dict()
        )

    before = answers("old")
    assert before[methods.AUTHORS] == before["reference"]  # the same weights
    copied(two, tmp_path / "authors")
    capsys.readouterr()
    after = answers("old")
    assert "0 policies trained, 1 were done already" in capsys.readouterr().out
    assert after == answers("fresh") and after[methods.AUTHORS] != before[methods.AUTHORS]


def test_a_model_that_is_fetched_by_the_first_start_has_the_same_key_in_the_second(
    two_models, hub_cache, tmp_path, monkeypatch, capsys
):
    profile, one, _ = two_models
    place, commit = hub_cache / "models--an--other", "c" * 40

    def download(name: str, **_) -> str:
        copied(one, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return str(place / "snapshots" / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    sizes = {"small": profile.sizes["small"].model_copy(update={"id": "an/other"})}
    profile = profile.model_copy(update={"sizes": sizes})
    for trained in ("1 policies trained, 0", "0 policies trained, 1"):
        generations.ensure_runs(profile, tmp_path / "out", progress=False)
        assert trained in capsys.readouterr().out
    shutil.rmtree(place)
    keys = []
    for _ in range(2):
        staging.fetch(profile)
        keys.append(batch.params("03_train", profile)["key"])
    assert keys[0] == keys[1] and place.is_dir()


def test_clean_lists_what_nothing_needs_and_removes_it_when_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stale, "repository_root", lambda: tmp_path)
    assert (
        main(["clean", "--stale", "--yes"]) == 2
        and "nothing is reproduced in results/" in capsys.readouterr().err
    )
    out = tmp_path / "results" / "mine"
    profile = loading.load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,sft",
        taus="1.0",
        preset="paper",
        **TINY,
    )
    loading.write_profile(profile, out / "profile.yaml")
    generations.ensure_runs(profile, out, progress=False)
    own = out / "runs" / "own-small-seed0-0123456789abcdef"  # of a loss that no profile knows
    own.mkdir()
    (own / "done.json").write_text("{}")
    needed = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    old_run, old_reference, old_logps = (
        out / "runs" / "sft-small-seed0-0123456789abcdef",
        tmp_path / "cache" / "references" / "small-seed0-old",
        tmp_path / "cache" / "reference_logps" / "0123456789abcdef",
    )
    for folder in (old_run, old_reference, old_logps):
        folder.mkdir()
        (folder / "big").write_bytes(b"x" * 2_000_000)
    seal(old_logps, {"model": "gone", "code": "old"})
    half = out / "runs" / "sft-small-seed0-0123456789abcdef" / ".policy.abcd1234"
    half.mkdir()
    capsys.readouterr()
    assert main(["clean", "--stale"]) == 0
    printed = capsys.readouterr().out
    listed = [line for line in printed.splitlines() if " MB  " in line]
    assert (
        len(listed) == 3
        and all("2.0 MB" in line for line in listed)
        and "nothing was removed; --yes removes these" in printed
    )
    assert not half.exists() and old_run.is_dir()
    assert (
        main(["clean", "--stale", "--yes"]) == 0
        and "removed 3 files and folders" in capsys.readouterr().out
    )
    assert {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    } == {path: content for path, content in needed.items() if path.suffix != ".lock"}
