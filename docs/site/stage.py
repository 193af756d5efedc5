"""Everything that Sphinx reads, written to one folder: the guide, the notebooks, the tables, the
judges, the names, the first page; and the run's own files, which are copied as they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docs.site import api, home, judges, notebooks, tables
from docs.site.links import Links

GUIDE = (  # in the order of a reader; pages that are not named follow
    "statistics",
    "papers",
    "feedback",
    "own_objective",
    "models",
    "judges",
    "scale",
    "cluster",
    "deep",
    "prediction",
    "provenance",
    "speed",
    "security",
)
LEFT = ("runs", "parts", "publish", "inputs")  # of a results folder
TITLE = re.compile(r"\A# .*$", re.MULTILINE)
WHOLE = {  # pages that are whole by themselves, where a run has them
    "report.html": ("Report", "Every table and figure of both papers beside ours, and why."),
    "generations.html": ("Completions", "One prompt, what every method says to it, and verdicts."),
}


def stage(root: Path, run: Path, source: Path) -> list[tuple[str, str]]:
    """Write the site's source; returns (title, place) of the pages that are whole by themselves.

    root: the repository; run: a finished results folder; source: emptied first.
    """
    shutil.rmtree(source, ignore_errors=True)
    files = f"results/{run.name}"
    copy_run(run, source / "extra" / files)
    guide = _guide(root)
    shown = notebooks.found(root, [run, root / "results" / "pocket"])
    audited = judges.cards(root, run)
    places = _places(root, run, guide, shown)
    places |= {_in_repository(path): f"{page}.md" for page, path in audited.items()}
    links = Links(places)
    for file, page in guide.items():
        text = (root / file).read_text(encoding="utf-8")
        text = TITLE.sub("# Start", text, count=1) if file == "README.md" else text
        _write(source / page, links.rewritten(text, file, page))
    for one in shown:
        file, page = f"notebooks/{one.source}", f"notebooks/{one.name}.ipynb"
        text = notebooks.page(one, lambda text, f=file, p=page: links.rewritten(text, f, p))
        _write(source / page, text)
    _write(source / "notebooks/index.md", notebooks.index(shown))
    for page, text in (tables.pages(run, files) | judges.pages(audited)).items():
        _write(source / page, text)
    for page, text in api.pages().items():
        _write(source / f"{page}.rst", text)
    for path in sorted(links.shown):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, source / path)
    whole = [(name, *WHOLE[name]) for name in WHOLE if (run / name).is_file()]
    more = [(title, f"{files}/{name}", what) for name, title, what in whole] + [
        ("Tables", "tables/index.html", "Every number, to sort and to search."),
        ("Notebooks", "notebooks/index.html", "Each asks one question and answers it."),
        *[("Judges", "judges/index.html", "What each is worth, by an audit.")] * bool(audited),
        ("Start", "start.html", "Two commands; your own feedback, your own model."),
        ("Names", "api/index.html", "Losses, estimators, trainers: what to import."),
    ]
    entries = [page.removesuffix(".md") for page in guide.values() if page != "contributing.md"]
    entries += ["judges/index"] * bool(audited)
    _write(source / "index.md", home.page(run, files, more, entries))
    return [(title, f"{files}/{name}") for name, title, _ in whole]


def _in_repository(card: Path) -> str:
    """A card as pages link to it."""
    return f"results/{card.parts[-3]}/judges/{card.name}"


def _guide(root: Path) -> dict[str, str]:
    """A Markdown file of the repository -> its page, in order."""
    names = [path.stem for path in sorted((root / "docs").glob("*.md"))]
    order = [name for name in GUIDE if name in names] + [n for n in names if n not in GUIDE]
    return {
        "README.md": "start.md",
        **{f"docs/{name}.md": f"guide/{name}.md" for name in order},
        "benchmarks/README.md": "guide/benchmarks.md",
        "CONTRIBUTING.md": "contributing.md",
    }


def _places(root: Path, run: Path, guide: dict, shown: list[notebooks.Page]) -> dict[str, str]:
    """A file of the repository -> the page of it."""
    out = dict(guide)
    for one in reversed(shown):  # of several pages of a notebook the first
        out[f"notebooks/{one.source}"] = f"notebooks/{one.name}.ipynb"
    for path in (run / "tables").glob("*"):
        if path.with_suffix(".csv").is_file():
            out[f"results/{run.name}/tables/{path.name}"] = f"tables/{path.stem}.md"
    return out


def copy_run(run: Path, to: Path) -> None:
    """The files of a run that its pages may show or link to."""

    def left(folder: str, names: list[str]) -> set[str]:
        top = Path(folder) == run
        return {name for name in names if name.startswith(".") or (top and name in LEFT)}

    shutil.copytree(run, to, ignore=left)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
