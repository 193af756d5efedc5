"""The report while its reproduction runs."""

import os
import sys

import pandas as pd
import pytest

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.reporting import so_far
from rpo_nb.running import early


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


def test_files_that_the_page_writes_beside_itself_are_kept(out, monkeypatch):
    def report(folder, profile):
        (so_far.Path(folder) / "figures" / "small.png").write_bytes(b"picture")
        page = so_far.Path(folder) / "report.html"
        page.write_text("<head></head><body></body>")
        return page

    monkeypatch.setattr(so_far.page, "report", report)
    so_far.so_far(out, 2 * 10**6)
    assert (out / "figures" / "small.png").read_bytes() == b"picture"
    assert not (out / "tables" / "of_this_run.csv").is_symlink()


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
