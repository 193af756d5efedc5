"""Executed notebooks as they are kept beside the results: what was computed, small, and the same
bytes for the same outputs.

papermill's copy is a log: when each cell ran, progress bars with their state, ids made by lot and
addresses in memory. All of that goes. Pictures keep their size in pixels and get a palette of 256
colours. `reproduce` and `deep` do this when they end. By hand:

    python -m rpo_nb.running.executed results/pocket
"""

from __future__ import annotations

import base64
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from rpo_nb.running.processes import placeless
from rpo_nb.store import atomic_write

FOLDER = "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
PLAIN = "text/plain"
PICTURE = "image/png"
COLOURS = 256
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object that has no words of its own
STYLED = re.compile(r"\bT_([0-9a-f]{5})(?![0-9a-f])")  # the id that pandas gives a styled table
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def tidy(out: Path | str, jobs: Iterable[str]) -> list[Path]:
    """Write again the executed notebooks of these jobs that are not tidy yet; returns their paths.
    A job without a copy (the deep run trains without notebooks) is passed over."""
    out, changed = Path(out), []
    for job in jobs:
        path = out / FOLDER / f"{job}.ipynb"
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        now = tidied(text, out)
        if now != text:
            changed.append(atomic_write(path, now))
    return changed


def tidied(text: str, out: Path | str) -> str:
    """An executed notebook as JSON -> the one to keep. out: its results folder, whose place is not
    to be told. Raises ValueError where a cell failed: that copy is a log, and stays as it is."""
    notebook = nbformat.reads(text, as_version=4)
    cells = [_cell(cell, place) for place, cell in enumerate(notebook.cells)]
    kept = nbformat.v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)
    nbformat.validate(kept)
    return placeless(_ids_in_order(nbformat.writes(kept)), Path(out).resolve()) + "\n"


def _cell(cell: NotebookNode, place: int) -> NotebookNode:
    tags = cell.metadata.get("tags")
    cell.id = f"cell-{place:02d}"
    cell.metadata = NotebookNode({"tags": tags} if tags else {})
    cell.pop("attachments", None)
    if cell.cell_type == "code":
        cell.outputs = [kept for output in cell.outputs if (kept := _output(output))]
    return cell


def _output(output: NotebookNode) -> NotebookNode | None:
    """An output without what only a running kernel shows; None where nothing is left of it."""
    if output.output_type == "error":
        told = f"{output.ename}: {output.evalue}".split("\n")[0]
        raise ValueError(f"a cell failed with {told}; run the notebook again before it is kept")
    if output.output_type == "stream":
        output.text = _settled(output.text)
        return output if output.text else None
    if output.data.pop(WIDGET, None) is not None and set(output.data) <= {PLAIN}:
        return None
    if PLAIN in output.data:
        output.data[PLAIN] = ADDRESS.sub("", output.data[PLAIN])
    if PICTURE in output.data:
        output.data[PICTURE] = _small(output.data[PICTURE])
    return output


def _settled(text: str) -> str:
    """What a terminal shows in the end: of a line written over itself, the last."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _small(picture: str) -> str:
    """A base64 PNG with a palette, where that is smaller."""
    from PIL import Image

    given = base64.b64decode(picture)
    image, packed = Image.open(io.BytesIO(given)), io.BytesIO()
    if image.mode == "P":
        return picture
    solid = image.convert("RGBA").getextrema()[3] == (255, 255)
    image = image.convert("RGB" if solid else "RGBA")
    image.quantize(COLOURS).save(packed, "png", optimize=True)
    return min(picture, base64.b64encode(packed.getvalue()).decode("ascii"), key=len)


def _ids_in_order(text: str) -> str:
    """Styled tables numbered as they come: pandas names them by lot."""
    names = dict.fromkeys(STYLED.findall(text))
    new = {name: f"T_{number:05x}" for number, name in enumerate(names)}
    return STYLED.sub(lambda found: new[found[1]], text)


def main(folders: list[str]) -> None:
    """Tidy every executed notebook of these results folders, and say how large they are now."""
    for folder in map(Path, folders):
        files = sorted((folder / FOLDER).glob("*.ipynb"))
        if not files:
            raise ValueError(f"{folder}: no executed notebook in {FOLDER}/: run reproduce first")
        changed = tidy(folder, [file.stem for file in files])
        size = sum(file.stat().st_size for file in files) / 1e6
        print(f"{folder}: {len(changed)} of {len(files)} made tidy, {size:.1f} MB")


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or ["results/pocket"])
    except ValueError as error:
        sys.exit(str(error))
