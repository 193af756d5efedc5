"""Executed notebooks as they are kept: small, the same bytes for the same outputs, no place."""

import base64
import io
import json
import random
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from rpo_nb.running import executed


def png() -> str:
    """A picture of 64 by 48: five colours with some noise, so that a palette cannot hold all."""
    lot, image = random.Random(0), Image.new("RGBA", (64, 48))
    colours = [(20, 20, 20), (230, 90, 10), (10, 120, 200), (10, 160, 90), (240, 240, 240)]
    pixels = [
        (*(part + lot.randrange(8) for part in colours[place // 16 % len(colours)]), 255)
        for place in range(64 * 48)
    ]
    image.putdata(pixels)
    packed = io.BytesIO()
    image.save(packed, "png")
    return base64.b64encode(packed.getvalue()).decode()


def copy(lot: str, out: Path, *, fails: bool = False) -> str:
    """papermill's copy of a notebook with every kind of output. lot: what differs from run to
    run."""
    v4 = nbformat.v4
    bar = {executed.WIDGET: {"model_id": lot}, "text/plain": "Training: 0%"}
    table = {
        "text/html": f'<style>#T_{lot}_row0 {{}}</style><table id="T_{lot}">',
        "text/plain": "x",
    }
    outputs = [
        v4.new_output("display_data", data=bar),
        v4.new_output("stream", name="stderr", text="10 %\r50 %\r100 %\n"),
        v4.new_output("stream", text=f"wrote {out}/tables/table3.csv\n"),
        v4.new_output("display_data", data=table),
        v4.new_output("display_data", data={"text/plain": f"<Styler at 0x7f{lot}>"}),
        v4.new_output("display_data", data={"image/png": png(), "text/plain": "<Figure>"}),
    ]
    if fails:
        outputs.append(v4.new_output("error", ename="ValueError", evalue="no", traceback=[]))
    timed = {"papermill": {"start_time": lot}, "execution": {"shell": lot}, "tags": ["parameters"]}
    cells = [
        v4.new_markdown_cell("# 05 · Judges", metadata={"papermill": {"duration": lot}}),
        v4.new_code_cell("x = 1", outputs=outputs, metadata=timed, execution_count=1),
    ]
    metadata = {"papermill": {"start_time": lot}, "widgets": {"state": {lot: {}}}}
    return nbformat.writes(v4.new_notebook(cells=cells, metadata=metadata))


def test_two_runs_with_the_same_outputs_are_the_same_bytes(tmp_path):
    one, other = (executed.tidied(copy(lot, tmp_path), tmp_path) for lot in ("0a1b2", "ffe09"))
    assert one == other
    assert executed.tidied(one, tmp_path) == one


def test_what_was_computed_stays_and_the_log_goes(tmp_path):
    kept = nbformat.reads(executed.tidied(copy("0a1b2", tmp_path), tmp_path), as_version=4)
    code = kept.cells[1]
    assert code.source == "x = 1" and code.execution_count == 1
    assert code.metadata == {"tags": ["parameters"]} and set(kept.metadata) == set(
        executed.METADATA
    )
    error, said, table, styled, picture = code.outputs
    assert styled.data["text/plain"] == "<Styler>"
    assert error.text == "100 %\n"
    assert said.text == "wrote ./tables/table3.csv\n"
    assert 'id="T_00000"' in table.data["text/html"] and "#T_00000_row0" in table.data["text/html"]
    assert picture.data["text/plain"] == "<Figure>"


def test_a_picture_keeps_its_size_and_its_colours_nearly(tmp_path):
    given = Image.open(io.BytesIO(base64.b64decode(png()))).convert("RGB")
    tidy = executed.tidied(copy("0a1b2", tmp_path), tmp_path)
    small = nbformat.reads(tidy, as_version=4).cells[1].outputs[-1].data["image/png"]
    kept = Image.open(io.BytesIO(base64.b64decode(small)))
    assert kept.mode == "P" and kept.size == given.size and len(small) < len(png())
    far = np.abs(np.asarray(given, int) - np.asarray(kept.convert("RGB"), int))
    assert far.max(-1).mean() < 8
    assert executed.tidied(tidy, tmp_path) == tidy


def test_a_copy_that_failed_stays_a_log(tmp_path):
    folder = tmp_path / executed.FOLDER
    folder.mkdir()
    text, path = copy("0a1b2", tmp_path, fails=True), folder / "05_table3_judges.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match="ValueError: no"):
        executed.tidy(tmp_path, ["05_table3_judges"])
    assert path.read_text() == text


def test_only_what_is_not_tidy_is_written(tmp_path, capsys):
    folder = tmp_path / executed.FOLDER
    folder.mkdir()
    path = folder / "05_table3_judges.ipynb"
    path.write_text(copy("0a1b2", tmp_path))
    assert executed.tidy(tmp_path, ["03_train-small-seed0", "05_table3_judges"]) == [path]
    assert executed.tidy(tmp_path, ["05_table3_judges"]) == []
    executed.main([str(tmp_path)])
    assert "0 of 1 made tidy" in capsys.readouterr().out


def test_a_folder_without_notebooks_is_told(tmp_path):
    with pytest.raises(ValueError, match="run reproduce first"):
        executed.main([str(tmp_path)])


ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "results").glob("pocket*/notebooks/*.ipynb"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_committed_notebook_is_tidy_and_tells_no_place(path):
    text = path.read_text(encoding="utf-8")
    assert executed.tidied(text, path.parents[1]) == text
    said = [
        part
        for cell in json.loads(text)["cells"]
        for output in cell.get("outputs", [])
        for part in (output.get("text"), output.get("data", {}).get("text/plain"))
        if part
    ]
    told = "".join("".join(part) for part in said)
    assert not [place for place in ("/home/", "/root/", "/tmp/", "site-packages") if place in told]


def test_the_committed_notebooks_are_small():
    for run in {path.parents[1] for path in KEPT}:
        size = sum(path.stat().st_size for path in (run / executed.FOLDER).glob("*.ipynb"))
        assert size < 8e6, run.name
