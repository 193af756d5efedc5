"""The report of a reproduction that still runs: the page of what its jobs have written so far.

    python -m rpo_nb.reporting.so_far results/pocket .snakemake/rpo_nb.begun

Tables that came with a clone are not of this run: what is older than the second file, which its
first start touched, is left out.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

from rpo_nb.config.loading import load_profile
from rpo_nb.reporting import page
from rpo_nb.running.early import SCRATCH
from rpo_nb.running.processes import STATE
from rpo_nb.store import atomic_write

SAID = (
    '<p role="status"><strong>So far.</strong> This page is made while its results are: what is'
    " not measured yet comes when its notebook ends, and the page loads itself anew.</p>"
)
RELOAD = '<meta http-equiv="refresh" content="20">'  # seconds
READ = ("data", "figures", "generations", "notebooks", "tables")  # folders of a page
FORETOLD = "prediction.json"  # of a page, too; older than its run by design


def so_far(out: Path, since: float) -> Path:
    """Write ``<out>/report.html`` of the files that are not older than `since` (seconds since the
    epoch); return its path. Its pictures and links are those beside it."""
    profile = load_profile(str(out / "profile.yaml"))
    with tempfile.TemporaryDirectory(dir=out / STATE, prefix=SCRATCH) as folder:
        new = (
            file
            for name in READ
            for file in (out / name).rglob("*")
            if file.is_file() and file.stat().st_mtime >= since
        )
        for file in filter(Path.is_file, [*new, out / FORETOLD]):
            link = Path(folder) / file.relative_to(out)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        text = page.report(folder, profile).read_text(encoding="utf-8")
    text = re.sub("(<head[^>]*>)", rf"\1{RELOAD}", text, count=1)
    return atomic_write(out / "report.html", re.sub("(<body[^>]*>)", rf"\1{SAID}", text, count=1))


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(10)  # the jobs go first
    so_far(Path(sys.argv[1]), Path(sys.argv[1], sys.argv[2]).stat().st_mtime)
