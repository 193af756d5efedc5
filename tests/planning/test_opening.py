"""How a notebook begins, and how it tells an error."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from rpo_nb import __main__ as command
from rpo_nb.config.loading import load_profile
from rpo_nb.planning import costs, opening
from rpo_nb.running import batch
from rpo_nb.running.jobs import committed_manifest
from rpo_nb.store import read_json

SMALL = {"has": {"gpus": [], "cores": 2, "memory_gb": 23.5}}
LARGE = {"has": {"gpus": ["Tesla T4"], "cores": 8, "memory_gb": 51.0}}


@pytest.mark.parametrize(("machine", "first"), [(SMALL, "no GPU"), (LARGE, "Tesla T4")])
def test_it_says_whether_a_gpu_is_there(machine, first):
    said = opening.machine(machine["has"])
    assert said.startswith(first) and f"{machine['has']['cores']} CPU cores" in said


def test_the_cost_is_what_was_measured_and_counts_what_is_not_trained_yet(tmp_path):
    profile = load_profile("pocket")
    seconds = read_json(committed_manifest(profile))["seconds"]["jobs"]
    training = [seconds[job] for job in seconds if job.startswith("03_train")]
    all_of = opening.cost("03_train", profile, tmp_path)
    assert opening.minutes(sum(training)) in all_of and "not trained yet" not in all_of
    table = opening.cost("04_table2_metrics", profile, tmp_path)
    assert opening.minutes(seconds["04_table2_metrics"]) in table
    assert f"{opening.minutes(sum(training))} for policies not trained yet" in table
    (tmp_path / "generations").mkdir()
    for size in profile.sizes:
        for preset in profile.presets:
            (tmp_path / "generations" / f"{preset}-{size}-seed0.jsonl.gz").touch()
    assert "not trained yet" not in opening.cost("04_table2_metrics", profile, tmp_path)


def test_it_says_where_the_machine_is_slow_in_the_profiles_number_format(monkeypatch, capsys):
    slow, quick = {"training.bf16": True}, {"training.bf16": False}
    monkeypatch.setattr(costs, "slow_half", lambda training: "slow" if training.bf16 else "")
    for chosen, said in ((slow, "Slow here: slow.\n"), (quick, "")):
        made = load_profile("smoke", **chosen)
        assert opening.warned_where_slow(made) is made and capsys.readouterr().out == said


@pytest.mark.parametrize(("executor", "warned"), [("local", 1), ("slurm", 0)])
def test_a_machine_that_only_hands_on_the_jobs_is_not_measured(executor, warned, monkeypatch):
    seen = []
    monkeypatch.setattr(opening, "warned_where_slow", lambda made: seen.append(made) or made)
    monkeypatch.setattr(batch, "run", lambda *given, **more: 1)
    assert command.main(["reproduce", "--profile", "smoke", "--executor", executor]) == 1
    assert len(seen) == warned


def test_without_a_measurement_it_is_what_the_profile_says(tmp_path):
    profile = load_profile("flan-t5")
    said = opening.cost("03_train", profile, tmp_path)
    assert profile.expect in said and "plan --profile flan-t5" in said


@pytest.mark.parametrize("feedback", ["nofile.jsonl", "no/such/folder/at all", "half.csv"])
def test_feedback_that_is_not_there_is_refused_at_once(feedback, tmp_path):
    with pytest.raises(ValueError, match="^feedback: .* is no file, no folder and no hub id"):
        opening.begin("01_data_prep", "smoke", str(tmp_path), feedback=feedback)


def test_results_are_kept_on_drive_when_asked(monkeypatch):
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setenv("RPO_NB_CACHE", "")
    monkeypatch.delenv("RPO_NB_CACHE")
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    asked = str(opening.DRIVE / "MyDrive" / "rpo")
    made, out = opening.begin("01_data_prep", "smoke", asked)
    assert mounted == [str(opening.DRIVE)] and out == Path(asked)
    assert opening.os.environ["RPO_NB_CACHE"] == f"{asked}/cache"


@pytest.fixture
def shell():
    made = InteractiveShell(config=Config({"HistoryManager": {"hist_file": ":memory:"}}))
    made.set_custom_exc((ValueError,), opening.tell)
    made.showing = []
    made._showtraceback = lambda kind, error, lines: made.showing.append("\n".join(lines))
    return made


def test_a_wrong_parameter_is_one_sentence_and_the_cell_fails(shell):
    ran = shell.run_cell("from rpo_nb import config\nconfig.load_profile('smoke', methods='ppo')")
    assert isinstance(ran.error_in_exec, ValueError) and not ran.success
    (said,) = shell.showing
    assert said.startswith("error: methods: 'ppo' is unknown") and "\n" not in said


def test_any_other_error_keeps_its_traceback(shell):
    for cell in ("int('x')", "1 / 0"):
        assert not shell.run_cell(cell).success
    assert len(shell.showing) == 2
    assert all("Traceback" in said and "\n" in said for said in shell.showing)


def test_no_table_of_a_notebook_runs_what_a_prompt_says(shell, monkeypatch):
    hostile = "<img src=x onerror=alert(1)>"
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    opening.for_people()
    frame = pd.DataFrame({"prompt": [hostile], "reward": [0.5]})
    for shown in (frame, frame.style.hide(), frame.style.hide().format(precision=2)):
        made, _ = shell.display_formatter.format(shown, include={"text/html"})
        assert "<img" not in made["text/html"] and "&lt;img src=x" in made["text/html"]
