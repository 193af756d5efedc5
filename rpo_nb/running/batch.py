"""One reproduction as a batch: Snakemake over papermill under a lock, with progress, safe to stop
and to start again.

The workflow runs inside the output folder and everything it is told is relative to it (`staging`).
Whatever stops it (Ctrl-C, SIGKILL, a power cut), the same command goes on: a job is done when its
marker says so, and the next start ends what was left.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import nbformat

from rpo_nb.config.keys import content_key
from rpo_nb.config.loading import write_profile
from rpo_nb.config.schema import Profile
from rpo_nb.running import cluster, estimate, executed
from rpo_nb.running.early import EarlyReport
from rpo_nb.running.jobs import (
    LAB,
    OTHERS,
    PAPER_B,
    TABLES,
    failure_file,
    finished,
    jobs,
    policies_file,
)
from rpo_nb.running.manifest import JOBS, write_manifest
from rpo_nb.running.processes import (
    AT_A_TIME,
    ON_SLURM,
    ROOT,
    STATE,
    environment,
    mark_of,
    memory_mb,
    only_one,
    parallel_jobs,
    shown,
    signals_sent,
    stop_everything,
    without_places,
)
from rpo_nb.running.progress import Progress
from rpo_nb.running.provenance import CACHES, PACKAGE, cache_dir, code_key, notebook_modules
from rpo_nb.running.staging import fetch, hub_data, local_files, models, seen, stage, tokenizers
from rpo_nb.running.watching import Watch
from rpo_nb.store import STAMP, again, digest_of, file_digest, read_sealed, sealed, sweep

# folders of a reproduction
RESULTS = (
    *("data", "figures", "generations", "generations_page"),
    *("publish", "runs", "seeds", "tables", "verdicts"),
)
LOG = Path("runs") / "snakemake.log"
COMPLETIONS = "completions-*.json"  # in the folder of a policy, or in one without: the reference's


def params(notebook: str, profile: Profile) -> dict[str, str]:
    """What a job depends on besides its input files, for Snakemake to remember: another key runs
    the job again."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    kept = [
        digest_of(file)
        for file in sorted(PACKAGE.rglob("*"))
        if file.is_file() and file.suffix not in (".py", ".pyc")
    ]
    code = code_key(*sorted(notebook_modules(path)))
    key = content_key(
        [
            profile.key(),
            digest_of(path),
            code,
            kept,
            *map(digest_of, local_files(profile)),
            [seen(*one) for one in (*models(profile), *tokenizers(profile), *hub_data(profile))],
        ]
    )
    return {"notebook": str(path), "key": key}


def _snakemake(out: Path, *more: str) -> list[str]:
    if not (ROOT / "Snakefile").is_file():
        raise ValueError("the workflow is not part of the installed package: run this in a clone")
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(out),
        *more,
    ]


def run(
    profile: Profile,
    out: Path,
    *,
    cores: int | None = None,
    only: Sequence[str] = (),
    dry_run: bool = False,
    executor: str = "local",
    more: Sequence[str] = (),
) -> int:
    """Make every result of a profile in `out`, skipping what is done; return the exit status.

    cores: jobs at a time, default by the profile's threads. only: job names to run again, whatever
    was done, and no others.
    executor: "slurm" makes each notebook a job of the cluster, by default all at a time. more:
    options for Snakemake. Raises ValueError before anything starts: no such feedback, no workflow,
    no cluster, a second start of the same folder.
    """
    on_slurm = cluster.options(mark_of(out)) if executor == "slurm" else []
    at_a_time = (
        ["--jobs", str(cores or len(jobs(profile)))]
        if on_slurm
        else ["--cores", str(cores or parallel_jobs(profile))]
    )
    options = [
        *at_a_time,
        "--keep-going",
        "--rerun-incomplete",
        "--nocolor",
        "--scheduler",
        "greedy",
        *on_slurm,
        *more,
    ]
    targets = [f"{JOBS}/{job}.done" for job in only]
    if only:
        options += ["--allowed-rules", *map((TABLES | OTHERS).get, only), "--forcerun", *targets]
    with only_one(out):
        profile = stage(profile, out)
        stop_everything(out)
        if on_slurm:
            (out / ON_SLURM).touch()
        env = environment(profile, out) | {AT_A_TIME: at_a_time[1]}
        write_profile(profile, out / (f"{STATE}/dry-run.yaml" if dry_run else "profile.yaml"))
        if not dry_run:
            fetch(profile)
            sweep(out, RESULTS)
            sweep(cache_dir(), CACHES)
            distrust(profile, out)
            for job in jobs(profile):
                failure_file(out, job).unlink(missing_ok=True)
            for job in set(jobs(profile)) - finished(profile, out).keys():
                policies_file(out, job).unlink(missing_ok=True)  # what it tells is of now
        # of a start that was killed: we hold the lock that counts
        if any((out / STATE / "locks").glob("*")):
            subprocess.run(_snakemake(out, "--unlock"), env=env, check=True, capture_output=True)
        if dry_run:
            # Snakemake 7, on Python 3.10, names no host
            if not metadata.version("snakemake").startswith("7."):
                options += ["--quiet", "host"]
            options += ["--dry-run", "--config", f"profile={STATE}/dry-run.yaml"]
            return subprocess.run(_snakemake(out, *options, "--", *targets), env=env).returncode
        watch = Watch(profile, out, cores=int(at_a_time[1]), only=tuple(only))
        estimate.keep(watch.known, out)
        early = EarlyReport(out, env, afresh=not finished(profile, out))
        if not only or not (out / "manifest.json").is_file():  # else it tells of what made the rest
            write_manifest(profile, out, afresh=not finished(profile, out))
        return _watched(
            _snakemake(out, *options, "--", *targets),
            profile,
            out,
            env,
            watch,
            early,
            measured=not only,
            elsewhere=bool(on_slurm),
        )


def distrust(profile: Profile, out: Path) -> list[str]:
    """Unmark the jobs whose results or policies are not there or not as they were written, a line
    for each, and return them: they run again, and make what is missing."""
    doubted = []
    for job in jobs(profile):
        marker = out / JOBS / f"{job}.done"
        if not marker.exists():
            continue
        wrote = read_sealed(marker)
        wrong = (
            None
            if wrote is None
            else next(
                (
                    name
                    for name, digest in wrote.items()
                    if not (out / name).is_file() or file_digest(out / name) != digest
                ),
                None,
            )
        )
        if wrong is not None:
            again(out / wrong, f"is not as {job} wrote it")
        if wrote is None or wrong is not None:
            marker.unlink(missing_ok=True)
            doubted.append(job)
    for folder in sorted(
        {file.parent for name in (STAMP, COMPLETIONS) for file in (out / "runs").rglob(name)}
    ):
        damaged = [file for file in sorted(folder.glob(COMPLETIONS)) if read_sealed(file) is None]
        if damaged or (folder / STAMP).exists() and sealed(folder, quick=True) is None:
            makers = [
                LAB,
                PAPER_B,
                *(
                    f"03_train-{size}-seed{seed}"
                    for size in profile.sizes
                    for seed in profile.seeds
                    if f"-{size}-seed{seed}-" in folder.name
                ),
            ]
            for marker in (out / JOBS / f"{job}.done" for job in makers):
                marker.unlink(missing_ok=True)
            doubted += makers
    return doubted


def _watched(
    command: list[str],
    profile: Profile,
    out: Path,
    env: dict[str, str],
    watch: Watch,
    early: EarlyReport,
    *,
    measured: bool,
    elsewhere: bool,
) -> int:
    """Run the workflow to its end, show how far it is, and say what came out.

    measured: its minutes belong in the manifest. elsewhere: its jobs run on other machines, which
    measured their memory.
    """
    before = finished(profile, out)
    started, peak, named = time.time(), 0.0, set()
    (out / LOG).parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(watch.look, total=watch.total)
    with (out / LOG).open("wb") as log, signals_sent(), progress:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while child.poll() is None:
                if not (out / LOG).exists():
                    raise ValueError(
                        f"{shown(out)} was removed while its results were made; start again"
                    )
                peak = max(peak, memory_mb())
                _say_news(watch, progress, named)
                _report_so_far(watch, early, progress)
                progress.show()
                time.sleep(0.5)
            early.stop()
            _say_news(watch, progress, named)
        except BaseException as error:
            stop_everything(out)
            child.wait()
            if not isinstance(error, KeyboardInterrupt):
                raise
            without_places(out / LOG, out)
            if measured:
                write_manifest(profile, out, seconds=time.time() - started, peak_memory_mb=peak)
            print("\nStopped. The same command goes on from here.", file=sys.stderr)
            return 130
    without_places(out / LOG, out)
    if elsewhere:
        peak = cluster.peak_memory_mb(out / JOBS)
    if measured and finished(profile, out) != before:
        write_manifest(profile, out, seconds=time.time() - started, peak_memory_mb=peak)
    status = _told(profile, out, before, started, peak, child.returncode)
    for job in finished(profile, out):
        try:
            executed.tidy(out, [job])
        except ValueError as error:  # saved by hand, or left by an earlier start
            copy = shown(out / executed.FOLDER / f"{job}.ipynb")
            print(f"{copy} stays as it is: {error}", file=sys.stderr)
    return status


def _say_news(watch: Watch, progress: Progress, named: set[str]) -> None:
    """Say, once, what is finished and what failed since the last look, with its path."""
    ended, failed = watch.ended(), watch.failed
    for job in [job for job in watch.units if job in ended and job not in named]:
        for name in _made_by(job, watch.out):
            progress.say(f"ready: {shown(watch.out / name)}")
    for job in [job for job in failed if job not in named]:
        copy = watch.out / "notebooks" / f"{job}.ipynb"
        old = copy.is_file() and copy.stat().st_mtime < watch.wall  # of an earlier start
        said = "it ended before it wrote anything" if old else notebook_error(copy)
        progress.say(f"failed: {shown(copy)}: {said}")
    named.update(ended, failed)


def _report_so_far(watch: Watch, early: EarlyReport, progress: Progress) -> None:
    """Have the report made of what is there while jobs besides its own are under way."""
    ended = watch.ended()
    if watch.only or not watch.work().keys() - ended - {"09_report"}:
        early.stop()
        return
    fault, made = early.fault, early.make(len(ended))
    if made:
        done = f"{len(watch.before) + made} of {len(watch.units)} notebooks"
        progress.say(f"ready: {shown(watch.out / 'report.html')}, so far of {done}")
    elif early.fault and early.fault != fault:
        progress.say(f"the report so far could not be made: {early.fault}")


def _made_by(job: str, out: Path) -> list[str]:
    """What a reader may open now that a job is done: its tables, as Markdown where they are, and
    the report."""
    wrote = [Path(name) for name in read_sealed(out / JOBS / f"{job}.done") or {}]
    tables = [
        name.with_suffix(".md") if (out / name.with_suffix(".md")).is_file() else name
        for name in wrote
        if name.parts[0] == "tables" or name.suffix == ".html" or name.name == "summary.csv"
    ]
    return [name.as_posix() for name in dict.fromkeys(tables) if name.suffix != ".tex"]


def _told(
    profile: Profile, out: Path, before: dict[str, int], started: float, peak: float, status: int
) -> int:
    """Say what was done, what was skipped, what failed and where the results are; return the exit
    status."""
    after, seconds = finished(profile, out), time.time() - started
    worked = {job for job, marker in after.items() if before.get(job) != marker}
    skipped = (
        f"; {len(after) - len(worked)} were done before and were skipped"
        if len(after) > len(worked)
        else ""
    )
    print(f"{len(after)} of {len(jobs(profile))} notebooks are done{skipped}")
    if status:
        _explain(profile, out, started)
        return 1
    print(f"report: {shown(out / 'report.html')}\ntables: {shown(out / 'tables')}")
    print(f"{seconds / 60:.1f} minutes, at most {peak:.0f} MB of memory")
    return 0


def _explain(profile: Profile, out: Path, started: float) -> None:
    """Name every notebook that failed in this start, its error, and where its executed copy
    lies."""
    found = False
    log = (out / LOG).read_text(encoding="utf-8", errors="replace")
    for job in jobs(profile):
        copy = out / "notebooks" / f"{job}.ipynb"
        if (
            copy.exists()
            and copy.stat().st_mtime >= started
            and not (out / JOBS / f"{job}.done").exists()
        ):
            print(
                f"failed: {shown(copy)}: {notebook_error(copy, cluster.failure(log, job))}",
                file=sys.stderr,
            )
            found = True
    if not found:
        print("failed: " + log[-2000:], file=sys.stderr)
    slurms = (
        f" and {shown(out / STATE / 'slurm_logs')}" if (out / STATE / "slurm_logs").is_dir() else ""
    )
    print(
        "What did not depend on it went on; the same command does the rest. Log: "
        f"{shown(out / LOG)}{slurms}",
        file=sys.stderr,
    )


def notebook_error(path: Path, otherwise: str = "") -> str:
    """The error an executed notebook stopped with, on one line; where it has none, what the cluster
    said of its job."""
    try:
        cells = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4).cells
    except (FileNotFoundError, ValueError):  # killed before it was written, or while it was
        cells = []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                # a ValueError of ours is a sentence for the user
                kind = "" if output.ename == "ValueError" else f"{output.ename}: "
                return f"{kind}{output.evalue}".split("\n")[0]
    return otherwise or (
        "it ended without an error of its own: killed (out of memory or time?), or a result it "
        "should have written is missing"
    )
