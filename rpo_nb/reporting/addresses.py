"""Addresses on generations.html, the page of what the policies said (studies/browse)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from rpo_nb.reporting.rendering import plain_text

PAGE = "generations.html"  # beside report.html


def of_cell(table: str, cell: Mapping[str, object]) -> str:
    """Where a number stands with its seeds, texts and verdicts.

    table: the name of its csv, e.g. "table3". cell: the columns that name it (`browse.cells`), e.g.
    preset, judge, size and baseline; others must not be given.
    """
    said = {name: plain_text(value) for name, value in cell.items()}
    return f"{PAGE}#{urlencode({'table': table} | said, quote_via=quote)}"
