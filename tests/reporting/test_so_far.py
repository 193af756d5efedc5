"""The report while its reproduction runs."""

import os
import sys

import pandas as pd
import pytest

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.reporting import so_far, worlds
from rpo_nb.running import early
from rpo_nb.store import write_json


@pytest.fixture
def out(tmp_path):
    """A folder with a table that came with the clone and one of this run."""
    write_profile(load_profile("smoke", sizes="small", seeds="0"), tmp_path / "profile.yaml")
    (tmp_path / "tables").mkdir()
    (tmp_path / ".snakemake").mkdir()
    for name in ("from_the_clone", "of_this_run"):
        pd.DataFrame({"who": [name], "n": [1.0]}).to_csv(tmp_path / "tables" / f"{name}.csv")
    os.utime(tmp_path / "tables" / "from_the_clone.csv", (10**6, 10**6))
    return tmp_path


def test_it_shows_what_this_run_has_made_and_says_what_is_missing(out):
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    page = so_far.so_far(out, 2 * 10**6)
    assert page == out / "report.html"
    text = page.read_text()
    assert "of_this_run" in text and "from_the_clone" not in text
    assert "05_table3_judges" in text  # what makes the missing Table III
    assert {file: file.read_bytes() for file in before} == before
    assert str(out) not in text
    # it says what it is, and loads itself until the whole one is there
    assert text.count(so_far.RELOAD) == 1 and text.count('role="status"') == 1


def test_it_has_the_executed_notebooks_of_this_run_and_the_prediction_that_was_before_it(
    out, monkeypatch
):
    monkeypatch.setattr(worlds, "RESULTS", out / "none")
    write_profile(load_profile("smollm-study"), out / "profile.yaml")
    foretold = {"dated": "2026-01-02T03:04", "measured": {"data_wins": 71.6}}
    write_json(out / "prediction.json", foretold)
    (out / "notebooks").mkdir()
    for name in ("01_data_prep", "04_table2_metrics"):
        (out / "notebooks" / f"{name}.ipynb").write_text("{}")
    for old in ("prediction.json", "notebooks/01_data_prep.ipynb"):
        os.utime(out / old, (10**6, 10**6))
    text = so_far.so_far(out, 2 * 10**6).read_text()
    assert "<td>on 2026-01-02</td>" in text and "<td>72 %</td>" in text
    assert 'href="notebooks/04_table2_metrics.ipynb"' in text
    assert 'href="notebooks/01_data_prep.ipynb"' not in text


def test_one_is_made_when_more_jobs_have_ended_and_ended_when_the_whole_comes(out, monkeypatch):
    started, real = [], early.subprocess.Popen

    def start(command, **more):
        started.append(command)
        return real([sys.executable, "-c", "import sys; sys.stdin.read()"], **more)

    monkeypatch.setattr(early.subprocess, "Popen", start)
    monkeypatch.setattr(early, "EVERY", -1.0)
    report = early.EarlyReport(out, dict(os.environ), afresh=True)
    assert not report.make(0) and not started  # nothing has ended
    assert not report.make(1) and len(started) == 1
    report.process.wait()
    assert report.make(1) == 1  # told once
    assert not report.make(1) and len(started) == 1
    report.make(2)
    running = report.process
    report.stop()
    assert running.poll() is not None and report.process is None


def test_why_none_could_be_made_is_kept(out, monkeypatch):
    """A folder without a profile: the page's process ends with an error."""
    (out / "profile.yaml").unlink()
    monkeypatch.setattr(early, "EVERY", -1.0)
    report = early.EarlyReport(out, dict(os.environ), afresh=True)
    report.make(1)
    report.process.wait()
    assert report.make(1) == 0 and "profile.yaml" in report.fault


def test_the_report_of_half_a_run_names_what_it_needs(tmp_path, capsys):
    write_profile(load_profile("smoke"), tmp_path / "profile.yaml")
    for file in ("data/summary.csv", "tables/regime_map.csv", "tables/paper_b_table2.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("a\n")
    assert main(["report", "--output-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has no tables/table1.csv, which the report needs; let reproduce end first" in said
    assert said.count("\n") == 1
