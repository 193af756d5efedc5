"""What is told when a source cannot be used, or would lose too much."""

from __future__ import annotations

import numpy as np

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import names
from rpo_nb.data.defects import HARMLESS, Report
from rpo_nb.data.reading import Reading
from rpo_nb.data.shapes import Reader
from rpo_nb.data.sides import AGAINST

FEW = 5  # entries that may be lost however short the source is
LABELS = ({0.0, 1.0}, {-1.0, 1.0})


def nothing_usable(report: Report, reader: Reader, read: Reading, config: DataConfig) -> str:
    if not any(action == "dropped" for _, action in report.counts):
        return f"{report.name}: there is not one row in it; give a file with feedback"
    there = f"its columns are {names.described(reader.seen)}" if reader.seen else ""
    if report.counts["row has no known keys", "dropped"] == report.dropped:
        return (
            f"{report.name}: the columns {names.described(reader.seen)} are not feedback; name "
            "them prompt, completion and "
            "reward, prompt and chosen and rejected, or instruction and completions "
            "(UltraFeedback)"
        )
    return f"{report.name}: nothing in it can be used; {_first(report, read, config)}" + (
        f"; {there}" if there else ""
    )


def _first(report: Report, read: Reading, config: DataConfig) -> str:
    """The first defect as part of a sentence, and what could be the reward where that is what is
    missing."""
    row = min(report.first.values(), key=lambda row: (row["reason"] in HARMLESS, row["line"]))
    told = (
        f"the first of {sum(report.counts.values()):,} defects is on line {row['line']}, "
        f"{row['field'] or 'the whole line'}: "
        f"{row['reason']}{report.values.get(row['reason'], '')}; {row['remedy']}"
    )
    if read.parts and row["reason"] == "score is missing":
        told += f" (data.reward names {', '.join(read.parts)}, which must be among the columns)"
    elif read.choice and row["reason"] in (
        "score is missing",
        "several columns could be the reward",
    ):
        name = names.normal(next(iter(read.choice)))
        told += (
            f" (there are {', '.join(read.choice)}: data.reward={name}, "
            f"or a sum such as data.reward={{{name}:1}})"
        )
    return told


def stop_at_contradiction(report: Report, reader: Reader) -> None:
    """Raises ValueError where the scores of most pairs go against what else tells which is better,
    and data.reward does not say that they are meant."""
    scored = reader.scored
    if reader.parts or 2 * scored.against <= scored.compared:
        return
    row = next(row for row in report.sorted() if row["reason"] == AGAINST)
    raise ValueError(
        f"{report.name}: in {scored.against:,} of {scored.compared:,} pairs the scores go against "
        f"the better one, the first on line {row['line']}, {row['field']}; they are probably a "
        f"loss: say so with data.reward={{{scored.name}:-1}}, or leave the scores out, or use them "
        f"as they are with data.reward={scored.name}"
    )


def stop_at_loss(
    report: Report, reader: Reader, kept: int, values: set, labels: set, config: DataConfig
) -> None:
    """Raises ValueError where one reason takes more than config.max_dropped of the entries, or
    leaves one class of labels."""
    total = kept + report.dropped
    for reason, row in report.first.items():
        lost = report.counts[reason, "dropped"]
        few = (
            0
            if reason == "score is out of range"
            and (config.reward_min, config.reward_max) != (None, None)
            else FEW
        )
        one_class = (
            len(values) == 1
            and config.max_dropped < 1
            and (
                labels in LABELS or reason == "score is not a number" and values < {-1.0, 0.0, 1.0}
            )
        )
        little = lost <= few or lost / total <= config.max_dropped
        if reason in HARMLESS or little and not one_class:
            continue
        left = " and one class of labels be left" if one_class else ""
        share = min(1.0, np.ceil(lost / total * 100) / 100)
        raise ValueError(
            f"{report.name}: {lost:,} of {total:,} entries would be lost{left}, the first on line "
            f"{row['line']}, "
            f"{row['field'] or 'the whole line'}: {reason}{report.values.get(reason, '')}; "
            f"{row['remedy']}, or go on without them with "
            f"data.max_dropped={1 if one_class else share:g}; the columns are "
            f"{names.described(reader.seen)}"
        )
