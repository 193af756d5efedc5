"""How long a reproduction still takes: what its jobs took when they were measured, at the pace of
what this machine has done of them so far.

Seconds of a finished reproduction are in its manifest.json, and one is committed
(results/pocket). They say how long each job is beside the others; how fast this machine is, its
first policies say.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rpo_nb.store import Damaged, read_json, write_json

# Of a job's seconds, those before its first policy (the start of a kernel, its imports, the data,
# the reference) and those after its last (its tables and pictures): a share, and seconds at most.
BEFORE, AFTER = (0.3, 30.0), (0.15, 15.0)
# A start is slow for reasons of its own (files read for the first time): it counts for half.
START = 0.5
# policies that a job tells of in one look; of more it found them, from an earlier start
AT_ONCE = 2
PRIOR = 15.0  # seconds of work, as if seen at the pace of the machine that was measured
SILENT = 45.0  # seconds in which nothing is told before the pace of that machine is told as ours
WHOLE = 0.5  # of the time of all starts, that jobs which did all their work took at least
KEPT = Path(".snakemake") / "seconds.json"
# Of a job that was never measured: seconds a unit (itself, or a policy) by the number of its
# notebook, and of the others (results/pocket at 25722bd).
A_UNIT, A_NOTEBOOK = {"03": 8.3, "07": 7.7, "08": 14.4}, 37.0


class Work(NamedTuple):
    """What a job is known to take. seconds: on the machine where it was measured; policies: that it
    trains; needs: the jobs that have to be done before it."""

    seconds: float
    policies: int = 0
    needs: tuple[str, ...] = ()

    @property
    def before(self) -> float:
        """Seconds until its first policy is begun; without policies all of them."""
        return min(self.seconds * BEFORE[0], BEFORE[1]) if self.policies else self.seconds

    @property
    def each(self) -> float:
        """Seconds a policy."""
        after = min(self.seconds * AFTER[0], AFTER[1])
        return (self.seconds - self.before - after) / self.policies if self.policies else 0.0


class Seen(NamedTuple):
    """What was seen of a job that has begun; times in seconds, on one clock.

    told: the policies that it has told of, the first `found` of them at once, at `first`; latest:
    when the last of them was told. ended: None while it runs.
    """

    begun: float
    told: int = 0
    found: int = 0
    first: float = 0.0
    latest: float = 0.0
    ended: float | None = None

    def telling(self, told: int, now: float) -> Seen:
        """The same job when it has told of so many policies."""
        if told == self.told:
            return self
        if not self.told:
            return self._replace(told=told, found=told, first=now, latest=now)
        return self._replace(told=told, latest=now)


def pace(work: Mapping[str, Work], seen: Mapping[str, Seen], now: float) -> float:
    """Seconds that this machine takes for a second of the one that was measured."""
    spent = known = PRIOR
    for job, one in seen.items():
        of, resumed = work[job], one.found > AT_ONCE
        if one.ended is not None and not resumed:
            spent, known = spent + one.ended - one.begun, known + of.seconds
            continue
        began = (one.first if one.told else one.ended or now) - one.begun
        if one.told or began > of.before:
            first = 0 if resumed else one.found
            spent, known = spent + START * began, known + START * (of.before + of.each * first)
        spent, known = spent + one.latest - one.first, known + of.each * (one.told - one.found)
    return spent / known


def left_of(of: Work, one: Seen | None, now: float, pace: float) -> float:
    """Seconds that a job still takes; none for one that has ended."""
    if one is None:
        return of.seconds * pace
    if one.ended is not None:
        return 0.0
    if not one.told:
        over = max(of.before * pace - (now - one.begun), 0.05 * of.before * pace)
        return over + (of.seconds - of.before) * pace
    rest = of.seconds - of.before - of.each * min(one.told, of.policies)
    under_way = of.each if one.told < of.policies else rest
    return max(rest * pace - min(now - one.latest, under_way * pace), 0.05 * rest * pace)


def seconds_left(
    work: Mapping[str, Work], seen: Mapping[str, Seen], now: float, cores: int
) -> float:
    """Seconds until the last job is done, `cores` at a time: those that run go on, and of those
    whose needs are done the longest is taken first."""
    rate = pace(work, seen, now)
    done = {job for job, one in seen.items() if one.ended is not None}
    running = [
        (left_of(work[job], one, now, rate), job) for job, one in seen.items() if job not in done
    ]
    heapq.heapify(running)
    waiting = sorted(work.keys() - seen.keys(), key=lambda job: (-work[job].seconds, job))
    at = 0.0
    while running or waiting:
        ready = [job for job in waiting if done.issuperset(work[job].needs)]
        for job in ready[: max(cores - len(running), 0)]:
            waiting.remove(job)
            heapq.heappush(running, (at + left_of(work[job], None, now, rate), job))
        if not running:  # what is needed will not come: it failed, or is not of this start
            return at + sum(work[job].seconds for job in waiting) * rate / cores
        at, job = heapq.heappop(running)
        done.add(job)
    return at


def is_known(seen: Mapping[str, Seen], elapsed: float, measured: bool) -> bool:
    """Whether an estimate may be told: something was seen to be done, or the profile was measured
    and nothing was for a while."""
    heard = any(one.told or one.ended is not None for one in seen.values())
    return heard or measured and elapsed >= SILENT


# ---- what was measured ---------------------------------------------------------------------------


def measured(out: Path, same: Path) -> dict[str, float]:
    """Job -> its seconds when it was measured: in this folder (out), by its own earlier starts, or
    as the manifest of the profile's committed run (same) has it."""
    found: dict[str, float] = {}
    for file in (out / KEPT, out / "manifest.json", same):
        for job, seconds in _seconds(file).items():
            # the most: a job that found its policies done was quick for that reason
            found[job] = max(found.get(job, 0.0), seconds)
    return found


def expected(units: Mapping[str, int], known: Mapping[str, float]) -> dict[str, float]:
    """Job -> its seconds as they are known, or as many as a job of its kind and policies took.
    units: job -> itself and its policies."""
    return {
        job: known.get(job, A_UNIT.get(job[:2], A_NOTEBOOK) * number)
        for job, number in units.items()
    }


def keep(seconds: Mapping[str, float], out: Path) -> None:
    """Write down what was measured of each job: a start overwrites the manifest that it is from."""
    write_json(out / KEPT, {"seconds": {"jobs": dict(seconds)}})


def _seconds(manifest: Path) -> dict[str, float]:
    """The seconds of jobs that a manifest tells; none where there is none, where none can be read,
    or where the jobs found most of their work done: together they then took far less than all
    starts (the estimate learns from what it sees)."""
    try:
        told = read_json(manifest)["seconds"]
        jobs = {job: float(seconds) for job, seconds in told["jobs"].items() if float(seconds) > 0}
        return jobs if sum(jobs.values()) >= WHOLE * told.get("wall", 0.0) else {}
    except (FileNotFoundError, Damaged, KeyError, TypeError, ValueError, AttributeError):
        return {}
