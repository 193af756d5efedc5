"""The processes of a reproduction: one at a time, their environment, their memory, and how they
stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import psutil
from filelock import FileLock, Timeout

from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import Profile
from rpo_nb.running import cluster
from rpo_nb.running.provenance import PACKAGE
from rpo_nb.store import atomic_write

ROOT = PACKAGE.resolve().parent
# in the environment of every process of a reproduction: how a later start finds what is left of it
MARK = "RPO_NB_OUTPUT"
AT_A_TIME = "RPO_NB_JOBS"  # likewise: how many jobs run side by side
STATE = ".snakemake"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ON_SLURM = Path(STATE) / "rpo_nb.slurm"  # there since the first start on Slurm


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold the output folder's lock. Raises ValueError when another process holds it; a killed
    process holds nothing."""
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the output folder {shown(out)} cannot be made ({error.strerror}); give "
            "another "
            "--output-dir"
        ) from error
    lock = FileLock(out / STATE / "rpo_nb.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another reproduction is writing to {shown(out)}; wait for it, or give "
            "another --output-dir"
        ) from None
    except OSError as error:
        raise ValueError(
            f"nothing can be written to {shown(out)} ({error.strerror}); give another "
            "--output-dir, or make it a folder of "
            "yours"
        ) from None
    try:
        yield
    finally:
        lock.release()


def shown(path: Path) -> str:
    """A path as a reader wants it: relative when that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)


def mark_of(out: Path) -> str:
    return content_key(str(out.resolve()))


def stop_left_over(out: Path) -> int:
    """Kill what carries the mark of this output folder, except this process and those above it;
    return how many.

    Kernels run in sessions of their own, so the signal that ended their reproduction does not reach
    them. Killing is safe: everything is written to a temporary name first. Only call it under the
    lock.
    """
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    left = [
        process
        for process in psutil.process_iter()
        if process.pid not in mine and _marked(process, mark_of(out))
    ]
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:  # it ended by itself
            continue
    psutil.wait_procs(left, timeout=10)
    return len(left)


def stop_everything(out: Path) -> None:
    """`stop_left_over`, and cancel the jobs that a start on Slurm left, on whatever node;
    ValueError when Slurm is silent."""
    on_slurm = (out / ON_SLURM).exists()
    try:
        if on_slurm:
            # before the processes: those of a job on this machine are Slurm's to end
            cluster.cancel(mark_of(out))
    finally:
        stop_left_over(out)
    if on_slurm:
        cluster.cancel(mark_of(out))  # what a Snakemake that was left may have submitted meanwhile


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:  # gone, or another user's
        return False


def environment(profile: Profile, out: Path) -> dict[str, str]:
    """The environment of the workflow: this package, the mark, and one job's share of the
    threads."""
    env = os.environ | {
        MARK: mark_of(out),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    if os.environ.get("RPO_NB_CACHE"):  # jobs run elsewhere, in another folder
        env["RPO_NB_CACHE"] = str(Path(os.environ["RPO_NB_CACHE"]).expanduser().resolve())
    env |= _home(out)
    # a dozen kernels would each compile torch and transformers again
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    if profile.training.threads:
        env |= dict.fromkeys(THREADS, str(profile.training.threads))
    return env


def _home(out: Path) -> dict[str, str]:
    """Where there is no home folder that can be written to, one in the output folder: Jupyter,
    Snakemake and matplotlib need one. The hub's cache and token stay where they are."""
    home = Path(os.path.expanduser("~"))
    try:
        tempfile.TemporaryFile(dir=home).close()
        return {}
    except OSError:
        own = out / STATE / "home"
        own.mkdir(parents=True, exist_ok=True)
        there = home / ".cache" / "huggingface"
        hub = {"HF_HOME": str(there)} if "HF_HOME" not in os.environ and there.is_dir() else {}
        places = {
            "XDG_CACHE_HOME": ".cache",
            "XDG_CONFIG_HOME": ".config",
            "XDG_DATA_HOME": ".local/share",
        }
        return hub | {"HOME": str(own), **{name: str(own / part) for name, part in places.items()}}


def all_threads(profile: Profile) -> str:
    """The beginning of a job's command that gives it its share of the cores, "" where the profile
    fixes its threads; of Slurm what the job was given. Snakemake would leave it one thread."""
    if profile.training.threads:
        return ""
    jobs = int(os.environ.get(AT_A_TIME, "1"))
    share = max(1, joblib.cpu_count(only_physical_cores=True) // jobs)
    return f"export {' '.join(f'{name}=${{SLURM_CPUS_PER_TASK:-{share}}}' for name in THREADS)}; "


def parallel_jobs(profile: Profile) -> int:
    """Jobs at a time: as many as the threads of one leave room for; one when a job takes what it
    can get (a GPU, all cores)."""
    return max(1, joblib.cpu_count() // profile.training.threads) if profile.training.threads else 1


def without_places(log: Path, out: Path) -> None:
    """Write a finished log again without this machine's folders and name: it lies with the
    results."""
    text = log.read_text(encoding="utf-8", errors="replace")
    host = re.escape(socket.gethostname())
    text = re.sub(rf"(?<![\w.-]){host}(?![\w.-])", "this machine", placeless(text, out))
    atomic_write(log, text)


def placeless(text: str, out: Path) -> str:
    """A text that lies with the results, without this machine's folders."""
    named = {str(out): ".", sys.executable: "python", str(ROOT): "rpo_nb", str(Path.home()): "~"}
    for place, word in named.items():  # the longest first, of which the others may be a part
        if len(Path(place).parts) > 2:
            text = text.replace(place, word)
    return text


@contextmanager
def signals_sent() -> Iterator[None]:
    """A polite end (SIGTERM, a closed terminal) is handled as Ctrl-C is."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # nohup ignores
    heard = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def memory_mb() -> float:
    """Resident memory of this process and all below it. Pages that two share count twice: an upper
    bound."""
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it ended while we counted
            continue
    return total / 2**20
