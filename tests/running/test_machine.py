"""What the machine may be like: another encoding, no home, a limit on files, an output folder
that is none. One sentence each.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rpo_nb import store
from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile
from rpo_nb.running import batch, jobs, processes, watching
from tests.running.workflows import stand_in

ROOT = Path(__file__).parents[2]


# ---- encodings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spoken",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONUTF8": "0", "LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    ],
)
def test_what_is_said_is_utf_8_whatever_the_machine_speaks(spoken):
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING")
    }
    done = subprocess.run(
        [sys.executable, "-m", "rpo_nb", "reproduce", "--profile", "τ-größe"],
        cwd=ROOT,
        capture_output=True,
        env=env | spoken,
    )
    assert (
        done.returncode == 2
        and "'τ-größe'" in done.stderr.decode("utf-8")
        and b"Traceback" not in done.stderr
    )


def test_every_process_of_a_reproduction_is_utf_8(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    monkeypatch.setenv("LC_ALL", "POSIX")
    env = processes.environment(load_profile("smoke"), tmp_path)
    code = (
        "import sys, locale; print(sys.stdout.encoding, locale.getpreferredencoding(False), "
        "open(sys.argv[1]).read())"
    )
    (tmp_path / "text").write_text("τ V̂ π", encoding="utf-8")
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "text")], env=env, capture_output=True
    ).stdout.decode("utf-8")
    assert said.lower().replace("-", "").split() == ["utf8", "utf8", "τ", "v̂", "π"]


# ---- home ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["missing", "file", "none"])
def test_without_a_home_folder_the_workflow_gets_one(home, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(
        "HOME",
        {
            "missing": str(tmp_path / "missing"),
            "file": str(tmp_path / "file"),
            "none": "/proc/none",
        }[home],
    )
    env = processes.environment(load_profile("smoke"), tmp_path / "out")
    assert Path(env["HOME"]).is_dir() and (tmp_path / "out") in Path(env["HOME"]).parents
    assert all(
        str(tmp_path / "out") in env[name]
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    )


def test_a_home_folder_of_ones_own_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    env = processes.environment(load_profile("smoke"), tmp_path / "out")
    assert env["HOME"] == str(tmp_path) and not (tmp_path / "out").exists()


# ---- the output folder --------------------------------------------------------------------------


def test_an_output_folder_that_is_none_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        assert main(["reproduce", "--profile", "smoke", "--output-dir", str(place)]) == 2
        error = capsys.readouterr().err
        assert (
            error.startswith("error: ")
            and place.name in error
            and "give another --output-dir" in error
            and error.count("\n") == 1
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_folder_that_is_removed_ends_the_run_in_one_sentence(tmp_path, monkeypatch):
    for place in (watching, jobs):
        monkeypatch.setattr(place, "units", lambda profile: {"01_data_prep": 1})
    out = tmp_path / "out"
    removal = threading.Timer(1, shutil.rmtree, [out])
    stand_in(monkeypatch, "import time; time.sleep(60)", removal.start)
    started = time.monotonic()
    with pytest.raises(ValueError, match="out was removed .* start again"):
        batch.run(load_profile("smoke"), out)
    assert time.monotonic() - started < 30


# ---- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["ours", "safetensors", "torch"])
def test_a_limit_on_a_files_size_is_one_sentence(library, tmp_path):
    write = {
        "ours": "store.atomic_write(path, b'x' * 2**21)",
        "safetensors": "save_file({'w': torch.zeros(2**19)}, path)",
        "torch": "torch.save({'w': torch.zeros(2**19)}, path)",
    }
    code = (
        "import torch; from pathlib import Path; from safetensors.torch import save_file; from "
        "rpo_nb import remedies, store\n"
        "path = Path('out/file')\ntry:\n with remedies.room_for(path):\n  "
        f"Path('out').mkdir(exist_ok=True); {write[library]}\n"
        "except remedies.DiskFull as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)),
    )
    assert (
        "may not grow so large here (ulimit -f): out/file could not be written; raise the limit"
        in done.stdout
    ), done.stderr


# ---- stopped early ------------------------------------------------------------------------------


def test_ctrl_c_before_the_workflow_starts_is_one_sentence(monkeypatch, capsys, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "run", interrupted)
    assert main(["reproduce", "--profile", "smoke", "--output-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip() == "Stopped. The same command goes on from here."


@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_ctrl_c_while_it_is_imported_is_one_sentence(delay, tmp_path):
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rpo_nb",
            "plan",
            "--profile",
            "smoke",
            "--output-dir",
            str(tmp_path),
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:
        deadline = time.monotonic() + 60  # until it listens: a busy machine starts slowly
        while not _listens(child.pid) and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=60)[1].decode()
    assert (
        child.returncode == 130 and said.strip() == "Stopped. The same command goes on from here."
    )


def _listens(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGINT (signal 2), after the interpreter's:
    asked of its imports.
    """
    try:
        return "rpo_nb" in Path(f"/proc/{pid}/cmdline").read_text() and any(
            "pydantic" in line or "_yaml" in line
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        )
    except OSError:
        return False


# ---- what is left on the disk -------------------------------------------------------------------


def test_a_finished_folder_follows_the_umask(tmp_path):
    with store.finished(tmp_path / "policy") as folder:
        (folder / "file").touch()
    mode = stat.S_IMODE((tmp_path / "policy").stat().st_mode)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert mode == stat.S_IMODE(plain.stat().st_mode) != 0o700


def test_the_kept_log_names_no_place_of_this_machine(tmp_path):
    log = tmp_path / "runs" / "snakemake.log"
    log.parent.mkdir()
    host = socket.gethostname()
    log.write_text(
        f"host: {host}\n{sys.executable} -m papermill {tmp_path}/notebooks/x.ipynb < "
        f"{processes.ROOT}/notebooks/x.ipynb\n"
    )
    processes.without_places(log, tmp_path)
    assert (
        log.read_text() == "host: this machine\npython -m papermill ./notebooks/x.ipynb < "
        "rpo_nb/notebooks/x.ipynb\n"
    )


def test_no_tracker_writes_by_default():
    """TensorBoard's files are named by the machine."""
    assert (
        load_profile("pocket").training.report_to
        == ()
        == load_profile("flan-t5").training.report_to
    )
