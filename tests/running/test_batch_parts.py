"""Parts."""

import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from rpo_nb.__main__ import COMMANDS
from rpo_nb.config import loading
from rpo_nb.config.arguments import parser, settings
from rpo_nb.data import files, sources
from rpo_nb.running import batch, jobs, processes, staging
from rpo_nb.running.jobs import JOBS, told
from rpo_nb.running.progress import JOB, tell
from tests.running.batches import ROOT
from tests.running.workflows import stand_in

# ---- parts ---------------------------------------------------------------------------------------


def test_settings_are_read_as_the_notebooks_read_their_parameters():
    found = settings(
        [
            "sizes=small,xl taus=[0.1,1]",
            "training.epochs=2 lora=true",
            "feedback='a b.jsonl' seeds=0",
            "paper_b.seeds=0,1 training.learning_rate=1e-3",
        ]
    )
    assert found == {
        "sizes": "small,xl",
        "taus": [0.1, 1],
        "training.epochs": 2,
        "lora": True,
        "feedback": "a b.jsonl",
        "seeds": 0,
        "paper_b.seeds": [0, 1],
        "training.learning_rate": "1e-3",
    }
    profile = loading.load_profile("pocket", **{k: v for k, v in found.items() if k != "feedback"})
    assert (
        list(profile.sizes) == ["small", "xl"]
        and profile.taus == (0.1, 1.0)
        and profile.seeds == (0,)
    )
    assert profile.training.epochs == 2 and profile.training.lora


@pytest.mark.parametrize(
    ("threads", "jobs", "given"), [(None, 1, 6), (None, 4, 1), (None, 9, 1), (1, 1, None)]
)
def test_a_job_has_the_cores_that_no_other_has(tmp_path, monkeypatch, capfd, threads, jobs, given):
    """Snakemake leaves a job one thread; a profile that fixes none gets its share of the cores."""
    machine = tmp_path / "machine"
    machine.mkdir()
    (machine / "sitecustomize.py").write_text(
        "import joblib\njoblib.cpu_count = lambda only_physical_cores=False: 6\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(machine))
    profile = loading.load_profile("smoke", **{"training.threads": threads})
    told = ["--printshellcmds"]
    assert batch.run(profile, tmp_path / "out", cores=jobs, dry_run=True, more=told) == 0
    found = set(re.findall(r"OMP_NUM_THREADS=(\S+)", "".join(capfd.readouterr())))
    assert found == ({f"${{SLURM_CPUS_PER_TASK:-{given}}}"} if given else set())


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
    # and back, for a command that stands elsewhere
    there = staging.placed(staged, tmp_path / "out")
    again = (there.data.source, there.sizes["small"].id, there.sizes["small"].authors)
    judge = there.evaluation.llm_judges["llama"].model
    assert [Path(path).resolve() for path in (*again, judge)] == [
        tmp_path / name for name in ("mine.jsonl", "policy", "checkpoint", "judge")
    ]


def test_a_file_that_is_not_there_is_no_hub_id():
    """Of every ending that feedback is read from, packed or not."""
    for ending in sources.READERS:
        for packed in ("", *files.PACKED):
            assert not staging.is_hub_id(f"data/mine{ending}{packed}"), ending + packed
    assert staging.is_hub_id("openbmb/UltraFeedback")


@pytest.mark.parametrize("written", [None, "", '{"cells": [{"cell_ty'])
def test_a_notebook_that_was_killed_stops_nobody(tmp_path, monkeypatch, capsys, written):
    """Half a copy of a failed job, or none: its line is said, and the start ends as failed."""
    copy, job = tmp_path / "notebooks" / "01_data_prep.ipynb", tmp_path / JOBS / "01_data_prep"
    code = [
        "import pathlib, sys, time",
        f"failed, copy = pathlib.Path({f'{job}.failed'!r}), pathlib.Path({str(copy)!r})",
        "copy.parent.mkdir(exist_ok=True); failed.parent.mkdir(exist_ok=True, parents=True)",
        *([] if written is None else [f"copy.write_text({written!r})"]),
        "failed.touch(); time.sleep(2); sys.exit(1)",
    ]
    stand_in(monkeypatch, "\n".join(code))
    assert batch.run(loading.load_profile("smoke", sizes="small"), tmp_path) == 1
    said = capsys.readouterr()
    assert f"{copy.name}: it ended without an error of its own" in said.out


def test_a_copy_that_fits_no_job_stays_and_is_told(tmp_path, monkeypatch, capsys):
    """One that was saved with an error beside a job that is done."""
    profile = loading.load_profile("smoke", sizes="small")
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="mine", traceback=[])
    cell = nbformat.v4.new_code_cell("1", outputs=[error])
    copy = tmp_path / "notebooks" / "01_data_prep.ipynb"
    copy.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), copy)
    before = copy.read_bytes()
    monkeypatch.setattr(batch, "finished", lambda *_: {"01_data_prep": 1})
    stand_in(monkeypatch, "")
    assert batch.run(profile, tmp_path) == 0
    said = capsys.readouterr()
    assert "01_data_prep.ipynb stays as it is: a cell failed with ValueError: mine" in said.err
    assert "1 of" in said.out and copy.read_bytes() == before


@pytest.mark.parametrize("name", ["pocket", "smoke"])
def test_progress_counts_the_policies_of_the_grid_the_lab_and_paper_b(name):
    from rpo_nb.experiment import grid as experiment_grid
    from rpo_nb.studies import lab
    from rpo_nb.studies.paper_b import grid as paper_b_grid

    profile = loading.load_profile(name)
    trained = (
        len(experiment_grid.plan(profile)) + lab.policies(profile) + paper_b_grid.policies(profile)
    )
    assert sum(jobs.units(profile).values()) - len(batch.jobs(profile)) == trained


def test_jobs_tell_of_their_policies_and_each_is_counted_once(tmp_path, monkeypatch):
    profile = loading.load_profile("smoke")
    train, *_ = [job for job in jobs.jobs(profile) if job.startswith("03_train")]
    (tmp_path / JOBS).mkdir(parents=True)
    tell(["outside of any job"])
    assert set(told(profile, tmp_path).values()) == {0}
    for job, names in ((train, "abb"), (jobs.LAB, "bc"), ("01_data_prep", "z")):
        monkeypatch.setenv(JOB, str(tmp_path / JOBS / job))
        for name in names:
            tell([name])
    monkeypatch.setenv("RANK", "1")
    tell(["the second process of a distributed training"])
    counts = told(profile, tmp_path)
    # b is the grid's, though the lab has it too; notebook 01 trains nothing that could be counted
    assert {job: n for job, n in counts.items() if n} == {train: 2, jobs.LAB: 1}


def test_a_run_that_paper_b_has_not_is_refused_before_anything_starts():
    profile = loading.load_profile("smoke", **{"paper_b.runs": ["no-such-run"]})
    with pytest.raises(ValueError, match="^paper_b.runs: 'no-such-run' is unknown; the runs are"):
        jobs.units(profile)


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


def test_the_help_fits_a_screen_of_80_by_24_with_a_line_for_each_command():
    lines = parser().format_help().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    for command in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [command]]
        assert len(line.split()) > 3


@pytest.mark.parametrize("command", COMMANDS)
def test_so_does_the_help_of_each_command(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: python -m rpo_nb {command} ")


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
