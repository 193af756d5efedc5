"""The report while its reproduction runs: made of what is there each time that notebooks end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from rpo_nb.running.processes import STATE

# its time is that of the first start: older files came with a clone
BEGUN = Path(STATE) / "rpo_nb.begun"
SCRATCH = "report."  # how the names of its folders in STATE begin
SAID = Path(STATE) / "report.log"  # what the last page's process said
EVERY = 20.0  # seconds between two reports


class EarlyReport:
    """Has `rpo_nb.reporting.so_far` make the page, one process at a time, behind the jobs.

    afresh: nothing of this output folder was done before this start. fault: why the last page was
    not made, "" where it was.
    """

    def __init__(self, out: Path, env: dict[str, str], *, afresh: bool):
        self.out, self.env = out, env
        self.of, self.process, self.made, self.fault = 0, None, 0.0, ""
        self._sweep()
        if afresh or not (out / BEGUN).is_file():
            (out / BEGUN).touch()

    def make(self, ended: int) -> int:
        """Begin a page where more jobs have ended than the last was made of; of how many one was
        made that is ready since the last call, 0 for none."""
        if self.process is not None and self.process.poll() is not None:
            ready, self.process = self.process.returncode == 0, None
            self.fault = "" if ready else self._last_line()
            return self.of if ready else 0
        if self.process is None and ended > self.of and time.monotonic() - self.made > EVERY:
            self.of, self.made = ended, time.monotonic()
            with (self.out / SAID).open("wb") as said:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "rpo_nb.reporting.so_far", str(self.out), str(BEGUN)],
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
        return 0

    def _last_line(self) -> str:
        said = (self.out / SAID).read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in reversed(said) if line.strip()), "it was killed")

    def stop(self) -> None:
        """End a page that is under way: the whole one comes."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._sweep()

    def _sweep(self) -> None:
        """Remove what a page that was ended has left."""
        for folder in (self.out / STATE).glob(f"{SCRATCH}*"):
            shutil.rmtree(folder, ignore_errors=True)
