"""The notebooks as pages: as a run executed them, else as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from rpo_nb.running.executed import tidied

NOT_RUN = "*This notebook has not been executed for this site: it is shown without its outputs.*"
QUESTION = re.compile(r"\*\*Question\.\*\*\s*(.+?)(?:\n\n|$)", re.DOTALL)


class Page(NamedTuple):
    """An executed notebook, or one without outputs. name: its page; source: its file in the
    repository's notebooks/; path: the file that is shown; run: the results folder it is from, None
    where it was not executed."""

    name: str
    source: str
    path: Path
    run: Path | None


def found(root: Path, runs: list[Path]) -> list[Page]:
    """Every notebook of the repository, from the first of these runs that executed it. A training
    notebook has a page for each size and seed of the first seed."""
    out = []
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        copies = ((run, executed(run, source.stem)) for run in runs)
        run, paths = next(((r, p) for r, p in copies if p), (None, [source]))
        out += [Page(path.stem, source.name, path, run) for path in paths]
    return out


def executed(run: Path, name: str) -> list[Path]:
    """The executed copies of a notebook in a results folder; of several seeds the first's."""
    copies = sorted((run / "notebooks").glob(f"{name}*.ipynb"))
    seeds = {path.stem.rpartition("-seed")[2] for path in copies if "-seed" in path.stem}
    first = min(seeds, key=int, default="")
    return [path for path in copies if path.stem == name or path.stem.endswith(f"-seed{first}")]


def page(one: Page, rewritten) -> str:
    """The notebook's JSON for the site. rewritten: Markdown -> the same with the site's links."""
    text = one.path.read_text(encoding="utf-8")
    notebook = nbformat.reads(tidied(text, one.run) if one.run else text, as_version=4)
    kept = [cell for cell in notebook.cells if "google.colab" not in cell.source]
    for cell in kept:
        if cell.cell_type == "markdown":
            cell.source = rewritten(cell.source)
    kept[0].source = titled(kept[0].source, one)
    notebook.cells = kept
    return nbformat.writes(notebook) + "\n"


def titled(source: str, one: Page) -> str:
    """The first cell, its heading first: with size and seed where there are several pages of one
    notebook, and with a word where nothing was executed."""
    before, heading, after = re.split(r"^(# .+)$", source, maxsplit=1, flags=re.MULTILINE)
    which = one.name.removeprefix(Path(one.source).stem).strip("-").replace("-seed", ", seed ")
    heading += f" ({which})" if which else ""
    note = [] if one.run else [NOT_RUN]
    return "\n\n".join(part for part in (heading, *note, before.strip(), after.strip()) if part)


def index(pages: list[Page]) -> str:
    """The list of notebooks, each with its question."""
    lines = ["# Notebooks", "", "Each asks one question, and answers it as far as its run can.", ""]
    for one in pages:
        cell = nbformat.read(one.path, as_version=4).cells[0].source
        question = QUESTION.search(cell)
        told = " ".join(question[1].split()) if question else ""
        run = f" (run `{one.run.name}`)" if one.run else " (not executed)"
        lines.append(f"- [{one.name}]({one.name}.ipynb){run}: {told}")
    names = [one.name for one in pages]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *names, "```", ""])
