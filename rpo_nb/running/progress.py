"""How far a reproduction is: what its jobs tell, and a bar on a terminal, else a line now and then.

A job appends the name of each policy that it has to a file of its own; the batch counts the names.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

JOB = "RPO_NB_JOB"  # in a job's environment: its place in runs/jobs, without the ending
EVERY = 15.0  # seconds between lines when nobody watches a terminal
BAR = "{n_fmt} of {total_fmt} |{bar:10}| {elapsed}, {desc}"  # policies and notebooks


def tell(policies: Iterable[str]) -> None:
    """Append the names of finished policies to this job's file; nothing outside a job. Processes of
    one job may all tell, and the same policy twice; of a distributed training the first does."""
    job = os.environ.get(JOB)
    names = "".join(f"{name}\n" for name in policies)
    if job and names and int(os.environ.get("RANK", 0)) == 0:
        with Path(f"{job}.policies").open("a", encoding="utf-8") as told:
            told.write(names)


def told(file: Path) -> set[str]:
    """The names of the policies that a job has told of; none where it has not begun."""
    return set(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else set()


class Look(NamedTuple):
    """How far the work is. done: units of work; running: what runs, in words; left: seconds, None
    while they are not known."""

    done: int
    running: str
    left: float | None

    def words(self) -> str:
        """E.g. "about 12 min left: train xl 7/15, lab 3/63"."""
        left = "estimating" if self.left is None else time_words(self.left)
        return f"{left}: {self.running}" if self.running else left


def time_words(seconds: float) -> str:
    """ "about 12 min left": as exact as an estimate can be."""
    if seconds < 20:
        return "a few seconds left"
    if seconds < 95:
        return f"about {round(seconds, -1):.0f} s left"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min left"
    if seconds < 48 * 3600:
        return f"about {seconds / 3600:.1f} h left"
    return f"about {seconds / 86400:.1f} days left"


class Progress:
    """A context manager whose `show()` looks how far the work is and tells, at most as often as it
    is worth.

    look: says how far it is; total: units of work.
    """

    def __init__(self, look: Callable[[], Look], total: int):
        self.look, self.total = look, total
        self.started = self.told = time.monotonic()
        self.bar = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total, initial=self.look().done, bar_format=BAR, dynamic_ncols=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.show()
            self.bar.close()

    def show(self) -> None:
        """Update the bar, or print a line when the last is `EVERY` seconds old."""
        now, look = time.monotonic(), self.look()
        if self.bar is not None:
            words = look.words() if look.done < self.total else "done"
            self.bar.set_description_str(words, refresh=False)
            self.bar.update(look.done - self.bar.n)
            self.bar.refresh()
        elif now - self.told >= EVERY:
            self.told = now
            print(self.line(look, now - self.started), flush=True)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def line(self, look: Look, seconds: float) -> str:
        """E.g. "2:10, 34 of 144 policies and notebooks, about 9 min left: lab 12/63"."""
        elapsed = tqdm.format_interval(seconds)
        return f"{elapsed}, {look.done} of {self.total} policies and notebooks, {look.words()}"
