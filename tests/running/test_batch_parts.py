"""Parts."""

import subprocess
import sys
import time

import pytest

from rpo_nb.config import loading
from rpo_nb.config.arguments import settings
from rpo_nb.running import batch, processes, staging
from rpo_nb.running.progress import Progress
from tests.running.batches import ROOT

# ---- parts ---------------------------------------------------------------------------------------


def test_settings_are_read_as_the_notebooks_read_their_parameters():
    found = settings(
        [
            "sizes=small,xl taus=[0.1,1]",
            "training.epochs=2 lora=true",
            "feedback='a b.jsonl' seeds=0",
        ]
    )
    assert found == {
        "sizes": "small,xl",
        "taus": [0.1, 1],
        "training.epochs": 2,
        "lora": True,
        "feedback": "a b.jsonl",
        "seeds": 0,
    }
    profile = loading.load_profile("pocket", **{k: v for k, v in found.items() if k != "feedback"})
    assert (
        list(profile.sizes) == ["small", "xl"]
        and profile.taus == (0.1, 1.0)
        and profile.seeds == (0,)
    )
    assert profile.training.epochs == 2 and profile.training.lora


def test_a_users_file_is_linked_and_its_place_does_not_matter(tmp_path, monkeypatch):
    keys = set()
    for place in ("here", "there and everywhere"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "mine.jsonl").write_text('{"prompt": "p", "completion": "c", "reward": 1}\n')
        monkeypatch.chdir(folder)
        out = folder / "results"
        profile = staging.stage(loading.load_profile("pocket", feedback="mine.jsonl"), out)
        assert profile.data.source == "inputs/feedback/feedback.jsonl"
        assert (out / profile.data.source).read_text() == (folder / "mine.jsonl").read_text()
        assert staging.stage(profile, out) == profile
        keys.add(profile.key())
    assert len(keys) == 1


def test_no_path_of_this_machine_stands_in_a_staged_profile(tmp_path):
    for name in ("mine.jsonl", "policy", "checkpoint", "judge"):
        (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("{}")
    profile = loading.load_profile(
        "flan-t5",
        feedback=str(tmp_path / "mine.jsonl"),
        sizes="small",
        **{
            "sizes.small.id": str(tmp_path / "policy"),
            "sizes.small.authors": str(tmp_path / "checkpoint"),
            "evaluation.llm_judges.llama.model": str(tmp_path / "judge"),
        },
    )
    staged = staging.stage(profile, tmp_path / "out")
    assert str(tmp_path) not in staged.model_dump_json()
    named = (
        staged.data.source,
        staged.sizes["small"].id,
        staged.sizes["small"].authors,
        staged.evaluation.llm_judges["llama"].model,
    )
    assert [(tmp_path / "out" / path).resolve().name for path in named] == [
        "mine.jsonl",
        "policy",
        "checkpoint",
        "judge",
    ]
    assert staged.evaluation.llm_judges["mistral"] == profile.evaluation.llm_judges["mistral"]


@pytest.mark.parametrize("name", ["pocket", "smoke"])
def test_progress_counts_the_policies_of_the_grid_the_lab_and_paper_b(name):
    from rpo_nb.experiment import grid as experiment_grid
    from rpo_nb.studies import lab
    from rpo_nb.studies.paper_b import grid as paper_b_grid

    profile = loading.load_profile(name)
    trained = (
        len(experiment_grid.plan(profile)) + lab.policies(profile) + paper_b_grid.policies(profile)
    )
    assert sum(batch.units(profile).values()) - len(batch.jobs(profile)) == trained


def test_a_run_that_paper_b_has_not_is_refused_before_anything_starts():
    profile = loading.load_profile("smoke", **{"paper_b.runs": ["no-such-run"]})
    with pytest.raises(ValueError, match="^paper_b.runs: 'no-such-run' is unknown; the runs are"):
        batch.units(profile)


def test_progress_line():
    assert Progress(lambda: 4, total=64).line(4, 15) == "15 s: 4 of 64 policies and notebooks"
    assert (
        Progress(lambda: 4, total=64).line(24, 40)
        == "40 s: 24 of 64 policies and notebooks, about 80 s left"
    )


def test_a_dry_run_names_the_jobs_and_makes_nothing(tmp_path):
    dry = subprocess.run(
        [
            sys.executable,
            "-m",
            "rpo_nb",
            "reproduce",
            "--profile",
            "smoke",
            "--dry-run",
            "--output-dir",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert dry.returncode == 0, dry.stdout + dry.stderr
    printed = dry.stdout + dry.stderr
    assert all(
        f"notebooks/{job}.ipynb" in printed for job in batch.jobs(loading.load_profile("smoke"))
    )
    assert [path.name for path in tmp_path.iterdir()] == [processes.STATE]


def test_help_is_fast_and_needs_no_torch():
    started = time.monotonic()
    code = (
        "import sys; sys.argv = ['rpo_nb', 'reproduce', '--help']\nfrom rpo_nb.__main__ import "
        "main\n"
        "try: main()\nfinally: assert not {'torch', 'transformers', 'snakemake'} & set(sys.modules)"
    )
    assert (
        "--set"
        in subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
    )
    assert time.monotonic() - started < 5
