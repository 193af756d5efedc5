"""Names by content: what artefacts are called, and seeds that several numbers share."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def content_key(value: Any) -> str:
    """A 16-digit hash of a JSON-able value; floats by their shortest repr, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_seed(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
