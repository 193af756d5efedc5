"""A process in the workflow's place."""

import subprocess
import sys
from collections.abc import Callable


def stand_in(monkeypatch, code: str, started: Callable[[], None] = lambda: None) -> None:
    """`batch.run` starts Python on `code` where it would start Snakemake; other commands run."""
    real = subprocess.Popen

    def start(command, *args, **more):
        if "snakemake" in command:
            started()
            command = [sys.executable, "-c", code]
        return real(command, *args, **more)

    monkeypatch.setattr(subprocess, "Popen", start)
