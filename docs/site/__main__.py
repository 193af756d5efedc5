"""python -m docs.site [RESULTS] [--out build/site]: the site of a finished run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from docs.site.stage import stage

ROOT = Path(__file__).parents[2]
RUNS = ("pocket-deep", "pocket")  # the first that is finished is shown


def finished(run: Path) -> bool:
    return (run / "report.html").is_file() and (run / "tables" / "claims.csv").is_file()


def build(run: Path, out: Path) -> int:
    """Write the site of a run to `out`, and its source beside it; returns 1 where Sphinx had a
    warning. Raises ValueError where the run is not finished."""
    if not finished(run):
        raise ValueError(f"{run} has no report.html and tables: run make reproduce first")
    source, docs = out.with_name(f"{out.name}-source"), ROOT / "docs"
    whole = stage(ROOT, run, source)
    given = {
        "html_context": {"run_pages": whole},
        "html_extra_path": [str(source / "extra")],
    }
    with patch_docutils(docs), docutils_namespace():
        app = Sphinx(
            srcdir=source,
            confdir=docs,
            outdir=out,
            doctreedir=out.with_name(f"{out.name}-doctrees"),
            buildername="html",
            confoverrides=given,
            status=None,
            freshenv=True,
            warningiserror=True,
        )
        app.build(force_all=True)
    return app.statuscode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("results", nargs="?", help="default: the deep run, else pocket")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    given = parser.parse_args()
    started = time.time()
    runs = [ROOT / "results" / name for name in RUNS]
    run = Path(given.results) if given.results else next(filter(finished, runs), runs[-1])
    try:
        status = build(run.resolve(), given.out.resolve())
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    pages = len(list(given.out.rglob("*.html")))
    print(f"{given.out / 'index.html'}: {pages} pages of {run.name}, {time.time() - started:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
