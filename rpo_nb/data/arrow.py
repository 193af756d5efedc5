"""Rows of an Arrow batch as Python values, the same under every pyarrow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rpo_nb.data.scores import number


def to_rows(batch: pa.RecordBatch | pa.Table, classes: Mapping = {}) -> list[dict[str, Any]]:
    """The rows of a batch; a map is a dict, of equal keys the last one's. classes: see
    `class_labels`."""
    rows = _rows(batch)
    for row in rows if classes else ():
        row |= {key: _named(row[key], feature) for key, feature in classes.items() if key in row}
    return rows


def class_labels(features: Any) -> dict[str, Any]:
    """Of a data set's features (as `Features.to_dict` writes them) those that hold class labels:
    numbers given to names by the alphabet or by nobody knows whom, so that the names count."""
    features = features if isinstance(features, dict) else {}
    return {key: found for key, found in features.items() if '"ClassLabel"' in json.dumps(found)}


def class_labels_of(schema: pa.Schema) -> dict[str, Any]:
    """The class labels of a Parquet file that datasets wrote."""
    try:
        written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return class_labels(written["info"]["features"])
    except (ValueError, KeyError, TypeError):  # not of datasets
        return {}


def _named(value: Any, feature: Any) -> Any:
    """A value with its class labels' names for their numbers, however deep they are; a name that is
    a number is that number."""
    feature = feature[0] if isinstance(feature, list) else feature or {}
    feature = (
        feature["feature"]
        if isinstance(feature.get("_type"), str) and "feature" in feature
        else feature
    )
    if isinstance(value, list):
        return [_named(item, feature) for item in value]
    if isinstance(value, dict):
        return {key: _named(item, feature.get(key)) for key, item in value.items()}
    if feature.get("_type") != "ClassLabel" or type(value) is not int:
        return value
    names = feature.get("names") or []
    name = names[value] if 0 <= value < len(names) else None
    found = number(name)
    return name if found is None else int(found) if found.is_integer() else found


def _rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any]]:
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
