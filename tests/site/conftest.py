"""A site, built once: of the committed pocket run, with an executed notebook and a page of
completions beside what it has."""

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
DOT = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
        "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
    )
).decode()


def executed(source: Path) -> nbformat.NotebookNode:
    """A notebook with outputs as papermill leaves them: a line, a wide table, a picture."""
    notebook = nbformat.read(source, as_version=4)
    wide = "<table><tr>" + "<td>a wide table</td>" * 40 + "</tr></table>"
    outputs = [
        nbformat.v4.new_output("stream", text="said by the run\n"),
        nbformat.v4.new_output("display_data", data={"text/html": wide}),
        nbformat.v4.new_output("display_data", data={"image/png": DOT, "text/plain": "<Figure>"}),
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[-1].outputs = outputs
    return notebook


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    pytest.importorskip("myst_nb")
    out = tmp_path_factory.mktemp("results") / "pocket"
    shutil.copytree(ROOT / "results" / "pocket", out)
    (out / "notebooks").mkdir(exist_ok=True)
    for name in ("03_train-small-seed0", "03_train-large-seed0", "05_table3_judges"):
        source = ROOT / "notebooks" / f"{name.partition('-')[0]}.ipynb"
        nbformat.write(executed(source), out / "notebooks" / f"{name}.ipynb")
    if not (out / "generations.html").is_file():
        (out / "generations.html").write_text("<!DOCTYPE html><title>x</title>", encoding="utf-8")
    return out


@pytest.fixture(scope="session")
def site(run) -> Path:
    """build/site of the run; a warning of Sphinx is an error."""
    out = run.parent / "build" / "site"
    done = subprocess.run(
        [sys.executable, "-m", "docs.site", str(run), "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out
