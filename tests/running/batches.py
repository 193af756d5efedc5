"""What the tests of batch are made of."""

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WALL_CLOCK = re.compile(r"timing|figure1|manifest")  # files that say how long something took


def results(out: Path) -> dict[str, str]:
    """Result file -> hash of its bytes, wall-clock files aside."""
    folders = ("tables", "figures", "generations", "verdicts", "data")
    files = [
        *(f for name in folders for f in (out / name).rglob("*") if f.is_file()),
        out / "results.parquet",
        out / "report.html",
        out / "profile.yaml",
    ]
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if not WALL_CLOCK.search(file.name)
    }
