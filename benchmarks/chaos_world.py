"""The world that `make chaos` disturbs, as small as it can be, and what is compared in it."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

TIMED = re.compile(r"timing|figure1|manifest")
SETTINGS = {
    "sizes": "small",
    "seeds": "0",
    "preset": "fixed",
    "methods": "reference,sft,rpo",
    "taus": "1.0",
    "sizes.small.d_model": 16,
    "sizes.small.d_ff": 16,
    "sizes.small.demonstrations": 24,
    "sizes.small.epochs": 1,
    "sizes.small.tokenizer": ["train"],
    "data.prompts": 8,
    "data.validation": 4,
    "data.held_out": 16,
    "data.completions_per_prompt": 2,
    "decoding.max_new_tokens": 8,
    "evaluation.judges": ["reward_model"],
    "evaluation.published_judges": {},
    "evaluation.judge_comparisons": 16,
    "training.warmup_steps": 0,
    "training.learning_rate": 0.03,
    "training.epochs": 2,
    "training.batch_size": 4,
    "paper_b.reproduce": False,
    "training.report_to": [],
}
WORDS = (
    "red green small old lamp rope chair boat book stands lies waits in on under near garden "
    "kitchen harbour"
).split()
BAD = ["lost", "stale", "different"]


def write_feedback(path: Path) -> Path:
    """Feedback of nobody: 40 prompts with 3 completions each, their scores by length."""
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"write about {word} {i}",
            "completion": " ".join(draw.choices(WORDS, k=2 + 2 * j)),
            "reward": 2.0 + 2 * j,
        }
        for i, word in enumerate(WORDS * 3)
        if i < 40
        for j in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def profile(feedback: Path) -> Any:
    """The smallest world: one size, one seed, two policies, a reference and a judge from
    nothing.
    """
    from rpo_nb.config.loading import load_profile

    return load_profile("smoke", feedback=str(feedback), **SETTINGS)


# What is compared --------------------------------------------------------------------------------


def results(out: Path) -> dict[str, str]:
    """File -> hash of its bytes: results, policies and their completions, whatever says how long
    something took aside.
    """
    patterns = (
        "tables/*",
        "figures/*",
        "generations/*",
        "verdicts/*",
        "data/*",
        "results.parquet",
        "report.html",
        "profile.yaml",
        "runs/*/policy/*",
        "runs/*/completions-*.json",
    )
    files = {
        file
        for pattern in patterns
        for file in out.glob(pattern)
        if file.is_file() and not TIMED.search(file.name)
    }
    return {
        file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
    }


def compared(
    kind: str,
    case: str,
    out: Path,
    right: dict[str, str],
    damaged: dict[str, str] | None = None,
    **more: Any,
) -> dict:
    """One row: files that are not there, that are still the damaged ones, and that are others
    than the undisturbed.
    """
    now, damaged = results(out), damaged or {}
    stale = sum(now.get(name) == digest != right.get(name) for name, digest in damaged.items())
    row = {
        "kind": kind,
        "case": case,
        "files": len(right),
        "lost": len(right.keys() - now.keys()),
        "stale": stale,
        "different": sum(name in right and now[name] != right[name] for name in now),
        **more,
    }
    print(
        f"{kind}, {case}: {row['lost']} lost, {stale} stale, {row['different']} different of "
        f"{len(right)}",
        flush=True,
    )
    return row
