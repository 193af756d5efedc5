"""The ways in which `make chaos` damages a file, and the files that it damages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos_world import compared


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def missing(file: Path) -> None:
    file.unlink()


def flipped(file: Path) -> None:
    """64 bytes in the middle, or what there is."""
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    for i in range(max(0, middle - 32), min(len(data), middle + 32)):
        data[i] ^= 0xFF
    file.write_bytes(bytes(data))


def reworded(file: Path) -> None:
    """Another completion, in a file that is whole."""
    value = json.loads(file.read_text(encoding="utf-8"))
    value["completions"][0] = "words that no policy wrote"
    file.write_text(json.dumps(value), encoding="utf-8")


def changed(file: Path) -> None:
    """Another digit, in a table that is whole."""
    text = file.read_text(encoding="utf-8")
    file.write_text(
        re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 1) % 10), text), encoding="utf-8"
    )


Damage = Callable[[Path], None]
REFERENCE, LOGPS = "cache/references/*/", "cache/reference_logps/*/"
GRID: list[tuple[str, Damage]] = [  # met while policies are trained and asked
    *((f"{REFERENCE}model.safetensors", damage) for damage in (truncated, empty, flipped, missing)),
    (f"{REFERENCE}tokenizer.json", empty),
    (f"{REFERENCE}config.json", missing),
    (f"{REFERENCE}done.json", empty),
    *((f"{LOGPS}logps.npz", damage) for damage in (truncated, empty, flipped, missing)),
    (f"{LOGPS}done.json", truncated),
    *(
        ("out/runs/rpo-*/policy/model.safetensors", damage)
        for damage in (truncated, empty, flipped, missing)
    ),
    ("out/runs/rpo-*/recipe.json", truncated),
    ("out/runs/sft-*/done.json", empty),
    *(("out/runs/rpo-*/completions-*.json", damage) for damage in (truncated, reworded, missing)),
    *(("out/generations/*.jsonl.gz", damage) for damage in (truncated, flipped, missing)),
    ("out/runs/generations/*.json", truncated),
]
WORKFLOW: list[tuple[str, Damage]] = [  # met by a start of the whole
    ("out/tables/table2.csv", changed),
    ("out/figures/win_rates.svg", missing),
    ("out/report.html", truncated),
    ("out/results.parquet", empty),
    ("out/verdicts/table3-*.jsonl.gz", truncated),
    ("out/runs/jobs/04_table2_metrics.done", empty),
    ("out/runs/judges/reward_model-*/model.safetensors", flipped),
    ("out/manifest.json", truncated),
]


def after_damage(
    case: tuple[str, Damage],
    folder: Path,
    right: dict[str, str],
    broken: dict[str, str],
    lines: Sequence[str],
    **more: Any,
) -> dict:
    """The row of one damage below `folder`; lines: what was said of it, of which the first
    counts."""
    target, damage = case
    return compared(
        "damage",
        f"{target.split('/', 1)[1]} {damage.__name__}",
        folder / "out",
        right,
        broken,
        starts=1,
        said=re.sub(r"[0-9a-f]{16}", "…", next(iter(lines), "").strip())[:120],
        **more,
    )
