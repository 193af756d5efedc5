"""The package's public names as pages: of a module its functions and classes, of a room what it
hands on, and what its modules are for."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import rpo_nb
from docs.site.docstrings import as_rst

PACKAGE = Path(rpo_nb.__file__).parent
# page -> title, in the order a reader comes to them
ROOMS = {
    "rpo_nb": "The kit as a library",
    "rpo_nb.objectives": "Losses",
    "rpo_nb.partition": "Estimators of log Ẑ",
    "rpo_nb.intervals": "Intervals",
    "rpo_nb.data": "Feedback",
    "rpo_nb.policy": "Policies",
    "rpo_nb.training": "Training",
    "rpo_nb.experiment": "The grid of policies",
    "rpo_nb.evaluation": "Metrics",
    "rpo_nb.judging": "Judges",
    "rpo_nb.reporting": "Tables and report",
    "rpo_nb.studies": "Studies",
    "rpo_nb.pocket": "The pocket world",
    "rpo_nb.config": "Settings",
}


def pages() -> dict[str, str]:
    """Path of a page, without its ending -> its text in reStructuredText."""
    listed = "\n".join(f"   {name}" for name in ROOMS)
    first = (
        f"{_heading('Names to call')}\n\n"
        "Shapes: n rows, K completions a prompt. Errors are one sentence with what to do.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n{listed}\n"
    )
    return {"api/index": first} | {f"api/{name}": _page(name) for name in ROOMS}


def _page(name: str) -> str:
    module = importlib.import_module(name)
    found = {n: getattr(module, n) for n in public(module)}
    calls = {n: v for n, v in found.items() if inspect.isroutine(v) or inspect.isclass(v)}
    parts = [_heading(ROOMS[name]), f".. automodule:: {name}", f".. currentmodule:: {name}"]
    parts += [".. rubric:: At a glance", _glance(calls)] if calls else []
    for one, value in calls.items():
        kind = "class" if inspect.isclass(value) else "function"
        members = "\n   :members:" if kind == "class" else ""
        parts.append(f".. auto{kind}:: {one}{members}")
    values = [f"``{one}`` ({_kind(found[one])})" for one in found if one not in calls]
    if values:
        parts.append(f".. rubric:: Values\n\n{', '.join(values)}")
    if hasattr(module, "__path__") and name != "rpo_nb":
        parts.append(_modules(PACKAGE / name.removeprefix("rpo_nb.")))
    return "\n\n".join(parts) + "\n"


def _glance(calls: dict[str, object]) -> str:
    """Each name with the first sentence of its own docstring."""
    lines = []
    for name, value in calls.items():
        told = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        lines.append(f"- :py:obj:`{name}`: {first_sentence(inspect.cleandoc(told or ''))}")
    return "\n".join(lines)


def public(module: ModuleType) -> list[str]:
    """The names that a module means to be called: those it hands on, else those it defines."""
    if hasattr(module, "__all__"):
        names = [n for n in module.__all__ if not inspect.ismodule(getattr(module, n))]
        return sorted(names, key=str.lower)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"{kind} of {len(value)}" if isinstance(value, dict | list | tuple | set) else kind


def _modules(folder: Path) -> str:
    """What is in each module of a room, by the first sentence of its docstring."""
    lines = [".. rubric:: Modules", ""]
    for file in sorted(folder.rglob("*.py")):
        if file.name != "__init__.py":
            told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
            lines += [f"``{name}``", f"   {first_sentence(told)}", ""]
    return "\n".join(lines)


def first_sentence(told: str) -> str:
    """The first sentence of a docstring on one line, as reStructuredText."""
    text = " ".join(told.split("\n\n")[0].split())
    first = re.split(r"(?<!\beq)\.\s", text)[0]
    return as_rst([first.rstrip(".:") + "."])[0] if text else ""


def _heading(text: str) -> str:
    return f"{text}\n{'=' * (len(text) + 4)}"
