"""How far a reproduction is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

EVERY = 15.0  # seconds between lines when nobody watches a terminal
BAR = (
    "{l_bar}{bar}| {n_fmt} of {total_fmt} policies and notebooks, {elapsed}, about {remaining} left"
)


class Progress:
    """A context manager whose `show()` looks how much is done and tells, at most as often as it is
    worth.

    count: how many of the `total` units of work are done now; some may be at the start.
    """

    def __init__(self, count: Callable[[], int], total: int):
        self.count, self.total = count, total
        self.first = count()
        self.started = self.told = time.monotonic()
        self.bar = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self.bar = tqdm(
                total=self.total, initial=self.first, bar_format=BAR, dynamic_ncols=True
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.show()
            self.bar.close()

    def show(self) -> None:
        """Update the bar, or print a line when the last is `EVERY` seconds old."""
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.count() - self.bar.n)
            self.bar.refresh()
        elif now - self.told >= EVERY:
            self.told = now
            print(self.line(self.count(), now - self.started), flush=True)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def line(self, done: int, seconds: float) -> str:
        """E.g. "45 s: 12 of 60 policies and notebooks, about 180 s left"; no estimate while there
        is nothing to estimate from."""
        fresh = done - self.first
        left = f", about {seconds / fresh * (self.total - done):.0f} s left" if fresh > 0 else ""
        return f"{seconds:.0f} s: {done} of {self.total} policies and notebooks{left}"
