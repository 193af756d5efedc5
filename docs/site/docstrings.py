"""Docstrings for Sphinx: the kit's are plain text with code between backticks, so what would be
markup in reStructuredText is escaped."""

from __future__ import annotations

import dataclasses
import inspect
import re

from sphinx.application import Sphinx

CODE = re.compile(r"(``[^`]+``|`[^`\n]+`)")
MARKUP = re.compile(r"([\\*|_`])")
LONG = 16  # parameters; a signature with more is transformers' own


def as_rst(lines: list[str]) -> list[str]:
    """A docstring's lines as reStructuredText: code spans as code, indented parts as blocks of
    code, all else as it is written."""
    out: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside:
            out += ["", "::", ""]
        if inside and line.strip() and not indented:
            out.append("")
        inside = indented or (inside and not line.strip())
        out.append(line if inside else _escaped(line))
    return out


def _escaped(line: str) -> str:
    parts = CODE.split(line)
    texts = [MARKUP.sub(r"\\\1", text) for text in parts[::2]]
    spans = [f"``{span.strip('`')}``" for span in parts[1::2]]
    return "".join(text + span for text, span in zip(texts, [*spans, ""], strict=True))


def fields_with_help(cls: object) -> list[str]:
    """A dataclass's own fields that say what they are for, as a list in plain text."""
    if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
        return []
    own = [f for f in dataclasses.fields(cls) if f.name in vars(cls).get("__annotations__", {})]
    return [
        f"- `{f.name}={f.default!r}`: {f.metadata['help']}" for f in own if "help" in f.metadata
    ]


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    fields = fields_with_help(obj) if what == "class" else []
    lines[:] = as_rst([*lines, "", *fields])


def _signature(app, what, name, obj, options, signature, returns):
    """Of a class of many settings only that it has them: its text tells of its own."""
    if what == "class" and len(inspect.signature(obj).parameters) > LONG:
        return "(…)", None
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
