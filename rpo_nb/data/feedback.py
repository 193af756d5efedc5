"""Feedback of any source and shape as a table: one row a completion of a prompt, with its reward.

`load_feedback` reports every defect (`rpo_nb.data.defects`): what cannot be used is set aside, what
can be meant in one way only is repaired, and everything sound goes on. Where too much would be lost
it stops.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import sources
from rpo_nb.data.defects import Report
from rpo_nb.data.gather import Gatherer
from rpo_nb.data.reading import FEATURES, Reading
from rpo_nb.data.shapes import Reader
from rpo_nb.data.unusable import LABELS, nothing_usable, stop_at_contradiction, stop_at_loss


def load_feedback(source: Any, *, config: DataConfig | None = None, return_report: bool = False):
    """Scalar feedback as a Dataset, one row a completion, the rows of a prompt together.

    source: a hub id; a folder saved by datasets, or with files as a data set on the hub has them; a
    .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, packed or not; or rows in memory (a list of
    dicts, a Dataset, a pandas frame). The shapes of rows are those of `rpo_nb.data.shapes.SHAPES`,
    the columns' names those of `rpo_nb.data.names`; one source may hold several. Returns columns
    prompt_id (int, from 0 in order of appearance; one for each prompt or conversation), prompt (a
    conversation rendered as text), completion, reward (float64, as given; of several ratings their
    mean, see `rpo_nb.data.raters`), model. Where given: weight (0 and more), rater (of several "a;
    b"), ratings (JSON, [[rater, rating], …] as given), messages (JSON of a prompt that is more than
    one user message, "" for the others; see `conversations`), one column an aspect (float64, NaN
    where there is none); with config.validation_split also split, the part of the source the row is
    of. With return_report also the report, a list of dicts line, field, reason, remedy, action.
    Raises ValueError: no such source, nothing usable in it, more than config.max_dropped of it
    would be lost, or with config.strict the first entry that would be set aside (copies of a
    completion are looked for last).
    """
    config = config or DataConfig()
    name = Path(source).name if isinstance(source, (str, Path)) else "feedback"
    report, wanted = (
        Report(name, strict=config.strict),
        list(dict.fromkeys(filter(None, (config.split, config.validation_split)))),
    )
    rows, reader = Gatherer(report, wanted), Reader(report, config.reward_parts())
    read = Reading(config, report, rows, reader.of)
    for number, split in enumerate(wanted):
        for line, row in sources.rows(
            source,
            split=split,
            report=report,
            second=split != config.split,
            revision=config.revision,
        ):
            asked = reader.once(line, row)
            for entry in reader.entries(line, asked):
                read.entry(line, number, asked, entry)
    rewards = rows.settle()
    if not len(rewards):
        raise ValueError(nothing_usable(report, reader, read, config))
    if len(rewards) == 1 and not report.dropped and isinstance(source, (str, Path)):
        raise ValueError(
            f"{name}: there is one completion in it; give at least two, so that there "
            "is a better and a worse one"
        )
    stop_at_contradiction(report, reader)
    values = set(np.unique(rewards).tolist())
    labels = values in LABELS
    if labels:
        report.part = ""
        report.add(rows.line[0], "reward", "rewards are labels")
    stop_at_loss(report, reader, len(rewards), values, read.values - {None}, config)
    columns = rows.columns(
        level_raters=config.level_raters, labels=labels, own_split=bool(config.validation_split)
    )
    table = pa.table(
        {
            key: column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column)
            for key, column in columns.items()
        }
    )
    table = table.cast(
        pa.schema(
            [
                (key, FEATURES[key].pa_type if key in FEATURES else table.schema.field(key).type)
                for key in columns
            ]
        )
    )
    feedback = datasets.Dataset(
        datasets.table.InMemoryTable(table), fingerprint=_fingerprint(table)
    )
    return (feedback, report.sorted()) if return_report else feedback


def _fingerprint(table: pa.Table) -> str:
    """A hash of the content, which datasets would make of a pickled copy of the table."""
    found = hashlib.blake2b(repr(table.schema).encode(), digest_size=8)
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in filter(None, chunk.buffers()):
                found.update(buffer)
    return found.hexdigest()


def conversations(feedback: datasets.Dataset) -> list[str | list[dict[str, str]]]:
    """What the policy reads of each row: the messages where the prompt is more than one user
    message, else the prompt."""
    if "messages" not in feedback.column_names:
        return list(feedback["prompt"])
    return [
        json.loads(messages) if messages else prompt
        for prompt, messages in zip(feedback["prompt"], feedback["messages"], strict=True)
    ]
