"""Scores, labels and weights as numbers.

Every function reads one value, reports what is wrong with it (`rpo_nb.data.defects`) and returns
None if it cannot be used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from rpo_nb.config.schema import DataConfig
from rpo_nb.data.defects import Report

NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
LIKED = frozenset(
    (
        "true",
        "yes",
        "y",
        "t",
        "up",
        "thumbs up",
        "thumbs_up",
        "thumbsup",
        "good",
        "like",
        "liked",
        "upvote",
        "positive",
        "accept",
        "accepted",
        "chosen",
        "helpful",
        "desirable",
        "correct",
        "\U0001f44d",
    )
)
DISLIKED = frozenset(
    (
        "false",
        "no",
        "n",
        "f",
        "down",
        "thumbs down",
        "thumbs_down",
        "thumbsdown",
        "bad",
        "dislike",
        "disliked",
        "downvote",
        "negative",
        "reject",
        "rejected",
        "unhelpful",
        "undesirable",
        "incorrect",
        "\U0001f44e",
    )
)
_TONES = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")  # of a thumb
OWN_SCALE = 1.0, 10.0  # of UltraFeedback's overall_score


def is_null(value: Any) -> bool:
    """Nothing stands there: None, or the NaN and NaT by which tables mark a hole."""
    return (
        value is None
        or (isinstance(value, float) and value != value)
        or type(value).__name__ in ("NAType", "NaTType")
    )


def number(value: Any) -> float | None:
    """A number as float, also one in quotes (an integer beyond the largest float is infinite); None
    if the value is none. A boolean is no number."""
    if type(value) is float or type(value) is int:
        pass
    elif isinstance(value, str):
        if not NUMBER.fullmatch(value):
            return None
    elif isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def label(value: Any) -> float | None:
    """1 for true and its words, 0 for false and its words, None for everything else."""
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    word = (
        _TONES.sub("", value).strip().lower() if isinstance(value, str) and len(value) < 20 else ""
    )
    return 1.0 if word in LIKED else 0.0 if word in DISLIKED else None


def ratings(value: Any) -> list[float]:
    """The numbers of a list of ratings of one completion, holes left out; [] if it is no such
    list."""
    if not isinstance(value, list):
        return []
    numbers = [number(item) for item in value if not is_null(item)]
    return [] if None in numbers else numbers


def read_score(
    line: int,
    field: str,
    value: Any,
    config: DataConfig,
    report: Report,
    *,
    own: bool = False,
    annotations: Any = None,
) -> float | None:
    """A score as a finite number in the range that is set, a label as 1 or 0.

    own: it is UltraFeedback's overall_score, from 1 to 10, with the repair of its tens.
    """
    score = number(value)
    if score is None:
        score = None if own else label(value)
        if score is None:
            boolean = isinstance(value, (bool, np.bool_))
            reason = (
                "missing"
                if is_null(value) or value == ""
                else "a boolean"
                if boolean
                else "not a number"
            )
            report.add(line, field, f"score is {reason}", value)
            return None
    elif own and score == 10:
        score = _overall_score(line, field, annotations, config, report)
    least, most = OWN_SCALE if own else (-math.inf, math.inf)
    least = least if config.reward_min is None else config.reward_min
    most = most if config.reward_max is None else config.reward_max
    if not math.isfinite(score) or not least <= score <= most:
        hole = is_null(value)
        reason = "out of range" if math.isfinite(score) else "not finite"
        report.add(line, field, f"score is {reason}", None if hole else value)
        return None
    if isinstance(value, str) and not report.untyped and NUMBER.fullmatch(value):
        report.add(line, field, "score is a number in quotes")
    return score


def weighted(parts: Mapping[str, float], values: Iterable[float]) -> float:
    """The weighted sum of aspects."""
    return math.fsum(weight * value for weight, value in zip(parts.values(), values, strict=True))


def read_weight(line: int, field: str, value: Any, report: Report) -> float | None:
    """A row's weight: a finite number, 0 and more; a missing one is 1."""
    if is_null(value) or value == "":
        report.add(line, field, "weight is missing")
        return 1.0
    weight = number(value)
    if weight is None or not math.isfinite(weight) or weight < 0:
        report.add(line, field, "weight is not a number of 0 and more", value)
        return None
    return weight


def _overall_score(
    line: int, field: str, annotations: Any, config: DataConfig, report: Report
) -> float:
    """UltraFeedback's score-10 fault: many a 10 of its first release stood for 1.

    The rule is the data set's own correction (OpenBMB/UltraFeedback, issue 8): with m the mean of
    the fine-grained ratings (1 to 5, "N/A" left out), m <= 2 becomes 1; 2 < m <= 4 had to be
    annotated again, which nobody can do offline; m > 4 is right.
    """
    rated = (
        [
            aspect["Rating"]
            for aspect in annotations.values()
            if isinstance(aspect, dict) and "Rating" in aspect
        ]
        if isinstance(annotations, dict)
        else []
    )
    given = [float(rating) for rating in rated if NUMBER.fullmatch(str(rating))]
    if given and np.mean(given) <= 2:
        repair = config.repair_overall_score
        report.add(
            line,
            field,
            "overall_score 10 with ratings of 2 or less",
            action="repaired" if repair else "kept",
        )
        return 1.0 if repair else 10.0
    if given and np.mean(given) <= 4:
        report.add(line, field, "overall_score 10 with ratings of 2 to 4")
    elif rated and not given:
        report.add(line, field, "overall_score 10 without any rating")
    return 10.0
