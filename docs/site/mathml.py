"""Formulas as MathML: every browser of today draws it, no script is fetched."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

BARE = re.compile(r"\\(math(?:bb|cal))\s*(\w)")  # \mathbb E is not known as a letter, \mathbb{E} is
UNKNOWN = re.compile(r"\\\w+")


def mathml(formula: str, *, block: bool) -> str:
    """LaTeX -> a <math> element. Raises ValueError naming a command that is not known."""
    text = BARE.sub(r"\\\1{\2}", formula)
    drawn = convert(text, display="block" if block else "inline")
    if left := UNKNOWN.search(re.sub(r"<[^>]+>", "", drawn)):
        raise ValueError(f"{left[0]} is not known in the formula {formula!r}")
    return drawn


def _inline(translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
