"""What every notebook owes its reader: no outputs, tagged parameters that exist, short cells, the
Colab cell, the badge."""

import ast
import inspect
from pathlib import Path

import nbformat
import pytest

from rpo_nb.config import loading

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SLUG = loading.REPOSITORY.removeprefix("https://github.com/")


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    nb = nbformat.read(request.param, as_version=4)
    nbformat.validate(nb)
    return request.param, nb


def test_the_set_is_complete():
    assert [p.stem[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]


def test_it_is_committed_without_outputs_in_short_cells(notebook):
    _, nb = notebook
    code = [c for c in nb.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code)
    assert max(len(c.source.splitlines()) for c in code) <= 20
    assert (
        nb.cells[0].cell_type == "markdown"
        and "**Cost.**" in nb.cells[0].source
        and "Question." in nb.cells[0].source
    )


def test_badge_and_colab_cell_name_the_one_repository(notebook):
    path, nb = notebook
    assert (
        f"https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/{path.name}"
        in nb.cells[0].source
    )
    first = next(c.source for c in nb.cells if c.cell_type == "code")
    assert f'"rpo_nb @ git+{loading.REPOSITORY}"' in first and "torch" not in first.replace(
        "Colab's torch", ""
    )
    assert first.index('if "google.colab" in sys.modules') < first.index("%pip")


def test_parameters_are_tagged_plain_and_known_to_load_profile(notebook):
    _, nb = notebook
    tagged = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    values = {
        t.id: ast.literal_eval(s.value) for s in ast.parse(tagged[0].source).body for t in s.targets
    }
    # of notebook 03: how it trains, not what
    own = {"processes": 1} if "processes" in values else {}
    assert own.items() <= values.items() and {"profile", "output_dir"} <= set(values)
    assert set((values | dict.fromkeys(own, "")).values()) == {""}
    assert set(values) - {"profile", "output_dir", *own} <= set(
        inspect.signature(loading.load_profile).parameters
    )


def test_it_begins_with_its_own_name_so_that_it_tells_its_own_cost(notebook):
    path, nb = notebook
    if path.stem == "09_report":  # it gathers what the others made
        return
    code = "\n".join(c.source for c in nb.cells if c.cell_type == "code")
    assert code.count(f'opening.begin("{path.stem}", profile, output_dir') == 1
