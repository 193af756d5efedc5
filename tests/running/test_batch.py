"""The batch, for real: the smoke profile by the command a user types, stopped, started again,
refused, failed."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from rpo_nb.__main__ import main
from rpo_nb.config import loading
from rpo_nb.running import batch, executed, processes
from rpo_nb.running.manifest import JOBS
from tests.running.batches import ROOT, results

# ---- the undisturbed run -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("table2", "preset metric method size value std published"),
        (
            "table3",
            "preset judge size baseline win_rate std ci_low ci_high error df n seeds published "
            "published_std",
        ),
        (
            "table4",
            "preset judge size tau win_rate std ci_low ci_high error df n seeds published "
            "published_std",
        ),
    ],
)
def test_the_tables_have_the_columns_others_rely_on(reproduction, name, columns):
    table = pd.read_csv(reproduction.out / "tables" / f"{name}.csv")
    assert set(columns.split()) <= set(table.columns)
    assert set(table["preset"]) == (
        {"paper", "fixed"} if name == "table4" else {"paper", "released", "fixed"}
    )
    assert table["value" if name == "table2" else "win_rate"].notna().any()
    assert all(
        (reproduction.out / "tables" / f"{name}.{kind}").stat().st_size > 0
        for kind in ("md", "tex")
    )


def test_everything_is_there(reproduction):
    profile = loading.load_profile(str(reproduction.out / "profile.yaml"))
    assert loading.load_profile("smoke") == profile
    for job in batch.jobs(profile):
        assert (reproduction.out / JOBS / f"{job}.done").exists()
        kept = (reproduction.out / "notebooks" / f"{job}.ipynb").read_text(encoding="utf-8")
        assert executed.tidied(kept, reproduction.out) == kept
    assert (reproduction.out / "tables" / "table1.csv").is_file()
    long = pd.read_parquet(reproduction.out / "results.parquet")
    assert set(
        "paper table row column metric value ci_low ci_high std n seeds preset published "
        "profile".split()
    ) <= set(long.columns)
    assert "report.html" in reproduction.printed and "MB of memory" in reproduction.printed
    named = re.findall(r"^ready: (\S+)", reproduction.printed, flags=re.MULTILINE)
    assert {"table1.md", "table2.md", "table3.md", "table4.md", "report.html"} <= {
        Path(name).name for name in named
    }


def test_win_rates_follow_from_the_stored_verdicts(reproduction):
    """Table III again, from verdicts/ alone: 100·(wins + ties/2)/answered a seed, then the mean
    over seeds."""
    rows = []
    for file in sorted((reproduction.out / "verdicts").glob("table3-*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    verdicts = pd.DataFrame(rows).dropna(subset="verdict")
    points = verdicts["verdict"].map({"method": 100.0, "tie": 50.0, "baseline": 0.0})
    cell = ["preset", "judge", "size", "baseline"]
    mine = points.groupby([verdicts[k] for k in [*cell, "seed"]]).mean().groupby(cell).mean()
    table = pd.read_csv(reproduction.out / "tables" / "table3.csv").set_index(cell)["win_rate"]
    assert len(mine) == len(table)
    pd.testing.assert_series_equal(
        mine.sort_index(), table.sort_index(), check_names=False, rtol=1e-4
    )


def test_nothing_written_names_this_machine(reproduction):
    """No absolute path of the clone, the output or the home folder, and no user name, in any text
    that was written."""
    words = {str(ROOT), str(reproduction.out.parent), str(Path.home())} - {"/", "/root"}
    for file in sorted(reproduction.out.rglob("*")):
        if (
            file.is_file()
            and processes.STATE not in file.parts
            and file.suffix
            in (
                ".ipynb",
                ".json",
                ".yaml",
                ".csv",
                ".md",
                ".tex",
                ".html",
                ".svg",
                ".tsv",
                ".txt",
                ".log",
            )
        ):
            text = file.read_text(encoding="utf-8")
            found = [word for word in words if word in text]
            assert not found, f"{file.relative_to(reproduction.out)} holds {found[0]}"


def test_done_work_is_skipped_and_said_so(reproduction):
    before = results(reproduction.out)
    again = subprocess.run(
        reproduction.command(reproduction.out),
        cwd=ROOT,
        env=reproduction.env,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    count = len(batch.jobs(loading.load_profile("smoke")))
    assert (
        f"{count} of {count} notebooks are done; {count} were done before and were skipped"
        in again.stdout
    )
    assert results(reproduction.out) == before


def test_manifest(reproduction):
    manifest = json.loads((reproduction.out / "manifest.json").read_text())
    profile = loading.load_profile("smoke")
    assert manifest["config_hash"] == profile.key() and manifest["seeds"] == list(profile.seeds)
    assert set(manifest["seconds"]["jobs"]) == set(batch.jobs(profile))
    assert (
        max(manifest["seconds"]["jobs"].values())
        < manifest["seconds"]["wall"]
        < reproduction.seconds
    )
    assert 100 < manifest["peak_memory_mb"] < 4096
    assert manifest["packages"]["torch"].startswith("2.") and manifest["hardware"]["cores"] >= 1


# ---- stopped and started again -------------------------------------------------------------------


def mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(processes.MARK)
    except psutil.Error:  # gone, or another user's
        return None


def marked(out: Path) -> list[psutil.Process]:
    own = processes.mark_of(out)
    return [process for process in psutil.process_iter() if mark(process) == own]


def wait_for(condition, seconds: float, process: subprocess.Popen) -> None:
    """Wait until `condition()`; the run must not end before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (
            f"it ended with {process.returncode} before it could be stopped"
        )
        assert time.monotonic() < deadline, "it took too long to get there"
        time.sleep(0.1)


def test_a_stopped_run_continues_to_the_same_bytes(reproduction, tmp_path):
    """Ctrl-C while the first notebooks run, then SIGKILL of the whole group when policies are
    trained, then the end."""
    out = tmp_path / "stopped"
    command = reproduction.command(out)

    def start() -> subprocess.Popen:
        # A suite that was itself started in the background ignores Ctrl-C, and its children would
        # inherit that.
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=reproduction.env,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    first = start()
    wait_for(lambda: any("ipykernel" in " ".join(p.cmdline()) for p in marked(out)), 120, first)
    os.killpg(first.pid, signal.SIGINT)
    printed = first.communicate(timeout=60)[0]
    assert first.returncode == 130 and "The same command goes on from here" in printed
    assert not marked(out)

    second = start()
    wait_for(lambda: list(out.glob("runs/*/done.json")), 240, second)
    refused = subprocess.run(
        command, cwd=ROOT, env=reproduction.env, capture_output=True, text=True
    )
    assert refused.returncode == 2 and refused.stderr.startswith(
        "error: another reproduction is writing to "
    )
    assert refused.stderr.count("\n") == 1
    os.killpg(second.pid, signal.SIGKILL)
    second.communicate()
    trained = {file: file.stat().st_mtime_ns for file in out.glob("runs/*/done.json")}
    assert trained

    third = subprocess.run(command, cwd=ROOT, env=reproduction.env, capture_output=True, text=True)
    assert third.returncode == 0, third.stdout + third.stderr
    assert {file: file.stat().st_mtime_ns for file in trained} == trained, (
        "a trained policy was trained again"
    )
    assert not marked(out)
    assert results(out) == results(reproduction.out)


def test_what_an_earlier_run_left_is_stopped(tmp_path):
    (tmp_path / "other").mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours, others = (
        subprocess.Popen(
            sleep,
            env=os.environ | {processes.MARK: processes.mark_of(folder)},
            start_new_session=True,
        )
        for folder in (tmp_path, tmp_path / "other")
    )
    try:
        wait_for(lambda: len(marked(tmp_path)) == 1, 10, ours)
        assert processes.stop_left_over(tmp_path) == 1
        assert not psutil.pid_exists(ours.pid)
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
        ours.wait()


# ---- refused, failed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--set", "training.epoch=2"], "training.epoch"),
        (["--set", "training.epochs=two"], "training.epochs"),
        (["--set", "epochs=2"], "epochs=2"),
        (["--set", "sizes=small,huge"], "huge"),
        (["--set", "methods=ppo"], "ppo"),
        (["--set", "taus=0"], "taus"),
        (["--profile", "pockets"], "pockets"),
        (["--feedback", "no/such/file.jsonl"], "no/such/file.jsonl"),
    ],
)
def test_a_bad_parameter_is_refused_before_anything_starts(arguments, named, tmp_path, capsys):
    assert main(["reproduce", "--output-dir", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "rpo_nb.lock"]
    assert not left


def test_a_failed_notebook_leaves_its_copy_and_stops_nothing_else(reproduction, tmp_path):
    """One size cannot be loaded: its training fails, the other size's is done, and what needs both
    is not started."""
    out = tmp_path / "failed"
    more = [
        "--set",
        "sizes.large.id=no-such-owner/no-such-model seeds=0 preset=fixed "
        "methods=reference,rpo taus=1 paper_b.reproduce=false",
    ]
    failed = subprocess.run(
        reproduction.command(out, *more),
        cwd=ROOT,
        env=reproduction.env,
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 1
    assert re.search(r"failed: \S*notebooks/03_train-large-seed0\.ipynb: .+", failed.stderr)
    # said as soon as it has failed, and once more at the end
    assert re.search(r"failed: \S*notebooks/03_train-large-seed0\.ipynb: .+", failed.stdout)
    outputs = [
        o
        for cell in nbformat.read(out / "notebooks" / "03_train-large-seed0.ipynb", 4).cells
        for o in cell.get("outputs", [])
    ]
    assert [o for o in outputs if o.output_type == "error"]
    done = {marker.stem for marker in (out / JOBS).glob("*.done")}
    assert {"01_data_prep", "03_train-small-seed0"} <= done and not {
        "03_train-large-seed0",
        "04_table2_metrics",
    } & done
    assert not (out / "notebooks" / "04_table2_metrics.ipynb").exists()
