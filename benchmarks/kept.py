"""What long benchmarks measured, kept in the cache: asked the same again, it is not made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def once(kind: str, made_from: Any, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON holds it, from the cache where it was made from the same."""
    from rpo_nb.config.keys import content_key
    from rpo_nb.running import provenance
    from rpo_nb.store import read_sealed, write_sealed

    file = provenance.cache_dir() / kind / f"{content_key(made_from)}.json"
    known = read_sealed(file)
    if known is None:
        known = {"found": make()}
        write_sealed(file, known)
    return known["found"]
