"""Rows of an Arrow batch as Python values, the same under every pyarrow."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def to_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
    """The rows of a batch; a map is a dict, of equal keys the last one's."""
    try:
        return batch.to_pylist(maps_as_pydicts="lossy")
    except TypeError:  # pyarrow before 19 has maps as lists of pairs
        return [
            {field.name: with_dicts(row[field.name], field.type) for field in batch.schema}
            for row in batch.to_pylist()
        ]


def with_dicts(value: Any, kind: pa.DataType) -> Any:
    """A value of an Arrow type, the lists of pairs of its maps as dicts, however deep they are."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {key: with_dicts(item, kind.item_type) for key, item in value}
    if pa.types.is_struct(kind):
        return {field.name: with_dicts(value[field.name], field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [with_dicts(item, kind.value_type) for item in value]
    return value
