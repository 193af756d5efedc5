"""How long it still takes: on timings that were recorded, and told in words."""

import heapq
import json
import os
from pathlib import Path

import pytest

from rpo_nb.config import loading
from rpo_nb.running import estimate, jobs, progress, watching
from rpo_nb.running.estimate import Seen, Work
from rpo_nb.running.manifest import JOBS
from rpo_nb.running.progress import Look, Progress
from tests.running.batches import ROOT

POCKET = json.loads((ROOT / "results" / "pocket" / "manifest.json").read_text())["seconds"]["jobs"]
# The two seeds of pocket as they were made twice: on a quiet machine (c2b0c05) and on a busy one
# (28e364e).
QUIET, BUSY = (
    {f"0{job}": seconds for job, seconds in told.items()}
    for told in (
        {
            "1_data_prep": 9.1,
            "2_rpo_derivation": 34.5,
            "3_train-large-seed0": 96.3,
            "3_train-large-seed1": 95.2,
            "3_train-small-seed0": 68.9,
            "3_train-small-seed1": 68.4,
            "3_train-xl-seed0": 166.8,
            "3_train-xl-seed1": 164.9,
            "4_table2_metrics": 65.7,
            "5_table3_judges": 29.6,
            "6_table4_temperature": 21.1,
            "7_partition_lab": 804.9,
            "8_reward_aware": 419.2,
            "9_report": 15.3,
        },
        {
            "1_data_prep": 11.2,
            "2_rpo_derivation": 35.8,
            "3_train-large-seed0": 187.2,
            "3_train-large-seed1": 188.3,
            "3_train-small-seed0": 114.1,
            "3_train-small-seed1": 114.3,
            "3_train-xl-seed0": 260.5,
            "3_train-xl-seed1": 260.8,
            "4_table2_metrics": 58.6,
            "5_table3_judges": 35.2,
            "6_table4_temperature": 26.5,
            "7_partition_lab": 861.1,
            "8_reward_aware": 392.6,
            "9_report": 13.8,
        },
    )
)
# the order of the Snakefile's priorities
ORDER = ("01", "03_train-large", "03_train-small", "02", "07", "03_train-xl", "05", "08")


def place(job: str) -> int:
    return next((i for i, start in enumerate(ORDER) if job.startswith(start)), len(ORDER))


def played(seconds: dict[str, float], needs: dict, cores: int = 2) -> dict[str, tuple]:
    """Job -> when it begins and ends, as the workflow runs them."""
    times, running, waiting, now = {}, [], sorted(seconds, key=place), 0.0
    while running or waiting:
        done = {job for job, (_, end) in times.items() if end <= now}
        ready = [job for job in waiting if done.issuperset(needs[job])]
        for job in ready[: cores - len(running)]:
            waiting.remove(job)
            times[job] = (now, now + seconds[job])
            heapq.heappush(running, now + seconds[job])
        now = heapq.heappop(running)
    return times


def told_at(begin: float, end: float, policies: int, start: float) -> list[float]:
    """When a job's policies are told: one after another between its start and its pictures."""
    first, last = begin + start, end - 0.1 * (end - begin)
    return [first + (last - first) * (i + 1) / policies for i in range(policies)]


def at(now: float, times: dict, policies: dict[str, int], start: float) -> dict[str, Seen]:
    """What a watcher has seen by then."""
    seen = {}
    for job, (begin, end) in times.items():
        if begin > now:
            continue
        told = [t for t in told_at(begin, end, policies[job], start) if t <= now]
        one = Seen(begin, len(told), min(len(told), 1), *((told[0], told[-1]) if told else ()))
        seen[job] = one._replace(ended=end) if end <= now else one
    return seen


def off(expected, true, policies, needs, now, start) -> float:
    """The estimate of the whole at a time, over the truth."""
    times = played(true, needs)
    truth = max(end for _, end in times.values())
    work = {job: Work(s, policies[job], needs[job]) for job, s in expected.items()}
    seen = at(now, times, policies, start)
    return (now + estimate.seconds_left(work, seen, now, 2)) / truth


@pytest.fixture(scope="module")
def pocket():
    """Policies and needs of the pocket profile with one seed and with two."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:  # as many as there were
        patch.setattr(jobs, "own_policies", lambda profile: {jobs.LAB: 63, jobs.PAPER_B: 25})
        for seeds in ((0,), (0, 1)):
            profile = loading.load_profile("pocket", seeds=list(seeds))
            units = jobs.units(profile)
            found[len(seeds)] = {job: n - 1 for job, n in units.items()}, jobs.needs(profile)
    return found


@pytest.mark.parametrize("speed", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("start", [12.0, 25.0])
def test_after_a_minute_the_estimate_of_pocket_is_within_30_percent(pocket, speed, start):
    """On a machine as fast as the one that committed its seconds, faster, slower."""
    true = {job: seconds * speed for job, seconds in POCKET.items()}
    whole = max(end for _, end in played(true, pocket[1][1]).values())
    for now in (60, 90, 120, 240, 400):
        if now < 0.9 * whole:
            assert 0.7 < off(POCKET, true, *pocket[1], now, start * speed) < 1.3, now


@pytest.mark.parametrize(("expected", "true"), [(QUIET, BUSY), (BUSY, QUIET)])
def test_it_is_no_nonsense_where_jobs_are_slowed_down_unlike(pocket, expected, true):
    """On the busy machine the trainings took twice as long, and the lab as long as on the quiet
    one, which nothing tells before it runs."""
    for now in (60, 120, 300, 600):
        assert 0.6 < off(expected, true, *pocket[2], now, 20.0) < 1.6, now


def test_nothing_is_estimated_before_anything_is_seen():
    silent = {"a": Seen(0.0)}
    assert not estimate.is_known(silent, 10, measured=True)
    assert estimate.is_known(silent, estimate.SILENT, measured=True)
    assert not estimate.is_known(silent, 1000, measured=False)
    assert estimate.is_known({"a": Seen(0.0).telling(1, 5.0)}, 6, measured=False)


def test_policies_of_an_earlier_start_say_nothing_of_the_pace():
    work = {"a": Work(1000.0, policies=100)}
    found = Seen(0.0).telling(90, 30.0)  # 90 at once: they were there
    assert estimate.pace(work, {"a": found}, 31.0) == pytest.approx(1, rel=0.1)
    slow = found.telling(92, 30.0 + 4 * work["a"].each)
    assert estimate.pace(work, {"a": slow}, slow.latest) > 1.2
    left = estimate.seconds_left(work, {"a": found}, 31.0, 2)
    assert left == pytest.approx(10 * work["a"].each + 15, rel=0.2)


def test_the_rest_waits_for_what_it_needs_and_for_a_free_core():
    work = {"a": Work(100.0), "b": Work(60.0), "c": Work(50.0, needs=("a",)), "d": Work(10.0)}
    assert estimate.seconds_left(work, {}, 0.0, 2) == pytest.approx(150)
    assert estimate.seconds_left(work, {}, 0.0, 1) == pytest.approx(220)
    done = {"a": Seen(0.0, ended=100.0), "b": Seen(0.0, ended=60.0)}
    assert estimate.seconds_left(work, done, 100.0, 2) == pytest.approx(50)


def test_seconds_are_the_own_earlier_ones_the_committed_or_those_of_its_kind(tmp_path):
    units = {"03_train-small-seed0": 16, "09_report": 1, "07_partition_lab": 64}
    committed = tmp_path / "committed.json"
    committed.write_text(json.dumps({"seconds": {"jobs": {"09_report": 30.0}}}))
    assert estimate.measured(tmp_path, tmp_path / "none.json") == {}
    guessed = estimate.expected(units, {})
    assert guessed["03_train-small-seed0"] == 16 * estimate.A_UNIT["03"]
    known = estimate.measured(tmp_path, committed)
    assert estimate.expected(units, known) == guessed | {"09_report": 30.0}
    estimate.keep(known | {"09_report": 45.0}, tmp_path)  # a start overwrites the manifest
    for manifest in (json.dumps({"seconds": {"jobs": {"09_report": 3.0}}}), "not JSON"):
        (tmp_path / "manifest.json").write_text(manifest)
        assert estimate.measured(tmp_path, committed) == {"09_report": 45.0}


def test_jobs_that_found_their_work_done_tell_nothing(tmp_path):
    """The committed smollm: its training took 24 s of 2,337, since its policies were there."""
    resumed = {"seconds": {"jobs": {"03_train-small-seed0": 24.4, "09_report": 9}, "wall": 2336.6}}
    (tmp_path / "manifest.json").write_text(json.dumps(resumed))
    assert estimate.measured(tmp_path, tmp_path / "none.json") == {}
    assert estimate.measured(tmp_path, ROOT / "results" / "pocket" / "manifest.json") == POCKET


def touch(out: Path, job: str, ending: str, text: str = "") -> Path:
    file = out / JOBS / f"{job}.{ending}"
    file.write_text(text)
    return file


def test_a_watch_sees_jobs_begin_tell_end_and_fail(tmp_path, monkeypatch):
    profile = loading.load_profile(
        "smoke", seeds=[0], sizes="small", **{"paper_b.reproduce": False}
    )
    monkeypatch.setattr(jobs, "own_policies", lambda profile: {jobs.LAB: 5})
    train = "03_train-small-seed0"
    (tmp_path / JOBS).mkdir(parents=True)
    os.utime(touch(tmp_path, "01_data_prep", "done"), ns=(10**15, 10**15))
    os.utime(touch(tmp_path, jobs.LAB, "policies"), (10**6, 10**6))  # of an earlier start
    watch = watching.Watch(profile, tmp_path, cores=2)
    assert watch.look() == Look(1, "", None)
    assert watch.known == {}  # smoke was never measured: nothing is told before it is seen
    touch(tmp_path, train, "policies", "a\nb\n")
    seen = watch.look()
    assert (seen.done, seen.running) == (3, f"train small 2/{watch.units[train] - 1}")
    assert seen.left > 0 and "01_data_prep" not in watch.work()
    touch(tmp_path, train, "done")
    seen = watch.look()
    assert (seen.done, seen.running) == (1 + watch.units[train], "")
    assert watch.ended() == {train}
    touch(tmp_path, "05_table3_judges", "policies")
    assert watch.look().running == "Table III"
    touch(tmp_path, "05_table3_judges", "failed")
    assert watch.look().running == "" and watch.failed == ["05_table3_judges"]
    # what needs it does not come, and nothing is waited for
    assert not {"05_table3_judges", "06_table4_temperature", "09_report"} & set(watch.work())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (5, "a few seconds left"),
        (44, "about 40 s left"),
        (700, "about 12 min left"),
        (9025, "about 2.5 h left"),
        (128_690 * 86400.0, "about 128690.0 days left"),
    ],
)
def test_an_estimate_is_told_no_more_exactly_than_it_is(seconds, words):
    assert progress.time_words(seconds) == words


def test_a_line_tells_what_is_done_what_is_left_and_what_runs():
    line = Progress(lambda: Look(34, "", None), total=144).line
    assert line(Look(0, "", None), 4).endswith("0 of 144 policies and notebooks, estimating")
    told = line(Look(34, "train xl 7/15, lab 3/63", 540.0), 130)
    assert told.startswith("02:10, 34 of 144 policies and notebooks, about 9 min left: ")
    assert told.endswith("train xl 7/15, lab 3/63")
