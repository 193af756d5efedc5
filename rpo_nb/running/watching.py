"""What the jobs of a start were seen to do, and how long the rest will take."""

from __future__ import annotations

import time
from pathlib import Path

from rpo_nb.config.schema import Profile
from rpo_nb.running import estimate
from rpo_nb.running.estimate import Seen, Work
from rpo_nb.running.jobs import (
    committed_manifest,
    failure_file,
    finished,
    needs,
    policies_file,
    told,
    units,
    words,
)
from rpo_nb.running.progress import Look


class Watch:
    """Looks at the files by which jobs tell how far they are.

    cores: jobs at a time. only: the jobs that are run again, whatever was done; else those that
    have no marker. Made before the workflow starts.
    """

    def __init__(self, profile: Profile, out: Path, *, cores: int, only: tuple[str, ...] = ()):
        self.profile, self.out, self.cores = profile, out, cores
        self.before = {} if only else finished(profile, out)
        self.old = finished(profile, out)  # a job is done now when its marker is another than here
        self.only, self.units = only, units(profile)
        self.known = estimate.measured(out, committed_manifest(profile))
        self.seconds = estimate.expected(self.units, self.known)
        self.needs, self.seen = needs(profile), {}
        self.wall, self.started = time.time(), time.monotonic()

    @property
    def total(self) -> int:
        return sum(self.units[job] for job in self.only or self.units)

    def work(self) -> dict[str, Work]:
        """The jobs of this start, and what each is known to take."""
        ours = self.only or [
            job for job in self.units if job in self.seen or job not in self.before
        ]
        lost = set(self.failed)  # and what needs them, which comes after them in the list of needs
        for job in sorted(ours, key=lambda job: len(self.needs[job])):
            lost |= {job} if lost.intersection(self.needs[job]) else set()
        ours = [job for job in ours if job not in lost]
        return {
            job: Work(
                self.seconds[job],
                self.units[job] - 1,
                tuple(need for need in self.needs[job] if need in ours),
            )
            for job in ours
        }

    def look(self) -> Look:
        """How far it is now."""
        now = time.monotonic()
        ended, counts = self.ended(), told(self.profile, self.out)
        for job in self.only or self.units:
            if job not in self.seen and (job in ended or self.has_begun(job)):
                self.seen[job] = Seen(now)
            if job in self.seen and self.seen[job].ended is None:
                self.seen[job] = self.seen[job].telling(counts[job], now)
                if job in ended:
                    self.seen[job] = self.seen[job]._replace(ended=now)
        work = self.work()
        running = [job for job in self.seen if job not in ended and job not in self.failed]
        known = estimate.is_known(self.seen, now - self.started, bool(self.known))
        seen = {job: one for job, one in self.seen.items() if job in work}
        left = estimate.seconds_left(work, seen, now, self.cores) if known else None
        done = sum(
            self.units[job] if job in ended or job in self.before else counts[job]
            for job in self.only or self.units
        )
        return Look(done, ", ".join(self.named(job, counts[job]) for job in running), left)

    def ended(self) -> set[str]:
        """The jobs that were done since the start."""
        now = finished(self.profile, self.out)
        self.before = {job: at for job, at in self.before.items() if now.get(job) == at}
        return {job for job, at in now.items() if self.old.get(job) != at}

    @property
    def failed(self) -> list[str]:
        """The jobs that failed since the start, in the order of the notebooks."""
        return [job for job in self.units if failure_file(self.out, job).is_file()]

    def has_begun(self, job: str) -> bool:
        """A job's first act is to empty the file by which it tells of its policies."""
        file = policies_file(self.out, job)
        return file.is_file() and file.stat().st_mtime >= self.wall - 1

    def named(self, job: str, count: int) -> str:
        policies = self.units[job] - 1
        return words(job, self.profile) + (f" {count}/{policies}" if policies else "")
