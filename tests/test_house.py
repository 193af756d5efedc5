"""The house keeps its shape: imports go one way, files are short, rooms hand on what they have."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from rpo_nb.running.provenance import PACKAGE, imports_of

ROOT = PACKAGE.parent
# A room may import from those before it and from its own; `running` stands on config and data.
ROOMS = {
    "config": 0,
    "data": 1,
    "running": 2,
    "policy": 3,
    "training": 4,
    "experiment": 5,
    "evaluation": 6,
    "judging": 6,
    "reporting": 6,
    "studies": 7,
    "planning": 8,
    "__main__": 9,
}
BASE = {"checks", "store", "intervals", "remedies", "objectives", "partition", "pocket"}
MODULES = sorted(
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    for file in PACKAGE.rglob("*.py")
    if file.name != "__init__.py"
)
FOLDERS = sorted(file.parent for file in PACKAGE.rglob("*/__init__.py"))
CODE = [
    file
    for folder in ("rpo_nb", "benchmarks", "docs", "tests")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
PRIVATE = re.compile(r"_[a-zA-Z]\w*")
# Private names of ours that a test may use, and why: results are stored by the code of most of
# these modules, so the name cannot be made public there without making the results anew.
PLANTED = "a fault is planted where it would arise"
ASKED = "what a model was found to be is asked, or forgotten so that it is tried again"
PRIVATE_IN_TESTS = {
    "_control": "an undefended judge, which is measured beside ours, has this defence taken out",
    "_examples": "a batch of comparisons by hand: the public way draws them by chance",
    "_FACTORS": ASKED,
    "_generating": "vLLM's stand-in draws as the kit does",
    "_generation_config": "vLLM's stand-in draws as the kit does",
    "_groups": "a trainer is stopped between a paper B policy's data and its training",
    "_issue_warnings_after_load": "transformers' own name, which ours overrides",
    "_kept": PLANTED,
    "_objective": "as _groups",
    "_of_rows": PLANTED,
    "_READS": ASKED,
    "_repr_html_": "IPython's own name",
    "_sampling": "vLLM's stand-in draws as the kit does",
    "_splits": "another machine's memory is empty",
    "_spread": "an estimator against a closed form",
    "_standardised": "rewards by hand: a trained judge shows them with its own error",
    "_trainer": "as _examples: gradients of one step, whatever its passes",
    "_variance": "an estimator against a closed form",
}
CONFIG_READERS = {"partition": {"config.settings"}}  # of the base, for a refusal's nearest name


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way_and_to_modules(module):
    assert room(module) in ROOMS or room(module) in BASE, "a new room needs its place in this order"
    for other in imports_of(module):
        assert other in MODULES, f"{module} imports the folder {other}: name the module"
        if room(module) in BASE:
            allowed = CONFIG_READERS.get(module, set())
            assert room(other) in BASE or other in allowed, f"{module} imports {other}"
        elif room(other) in ROOMS:
            mine, theirs = ROOMS[room(module)], ROOMS[room(other)]
            assert theirs < mine or room(other) == room(module) or theirs == mine, (
                f"{module} imports upwards, {other}"
            )
        if room(module) == "running":
            assert room(other) in BASE | {"config", "data", "running"}, f"{module}: {other}"


def test_no_module_imports_itself_by_a_detour():
    left = {module: set(imports_of(module, top_level=True)) & set(MODULES) for module in MODULES}
    while free := [module for module, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert not left


def test_a_file_has_at_most_400_lines_and_the_top_20_entries():
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in CODE
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    top = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "__init__.py"}
    assert len(top) <= 20, sorted(top)


def assigned(node: ast.AST) -> list[str]:
    """The names that a statement gives to something, also as attributes."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    parts = [p for p in ast.walk(node) if isinstance(getattr(p, "ctx", None), ast.Store)]
    return [getattr(p, "id", "") or getattr(p, "attr", "") for p in parts]


def used(node: ast.AST) -> list[str]:
    """The names of other modules' things in a piece of a test: attributes, imports, and texts such
    as monkeypatch takes."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [name.name for name in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value.rpartition(".")[2]]
    return []


def private(file: Path, names) -> set[str]:
    """The private ones among the `names` of every piece of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = {name for node in ast.walk(tree) for name in names(node)}
    return {name for name in found if PRIVATE.fullmatch(name)}


def test_tests_use_public_names_but_for_a_few_with_a_reason():
    tests = [file for file in CODE if file.is_relative_to(ROOT / "tests")]
    ours = set().union(*(private(file, assigned) for file in CODE if file not in tests))
    here = {
        file.relative_to(ROOT).as_posix(): private(file, used) & ours
        for file in tests
        if file != Path(__file__)
    }
    strange = {name: sorted(names - set(PRIVATE_IN_TESTS)) for name, names in here.items()}
    assert {name: names for name, names in strange.items() if names} == {}, (
        "test by what is seen from outside, make the name public, or give a reason above"
    )
    unused = set(PRIVATE_IN_TESTS) - set().union(*here.values())
    assert not unused, "no test uses these any more: take them off the list"


def test_a_private_name_is_found_however_a_test_comes_by_it(tmp_path):
    ways = (
        "from rpo_nb.store import _a\n",
        "store._a()\n",
        "monkeypatch.setattr(store, '_a', 1)\n",
        "monkeypatch.setattr('rpo_nb.store._a', 1)\n",
    )
    for text in ways:
        (tmp_path / "one.py").write_text(text, encoding="utf-8")
        assert private(tmp_path / "one.py", used) == {"_a"}
    (tmp_path / "own.py").write_text("_a = 1\nx._b: int = 2\ndef _c():\n    pass\n")
    assert private(tmp_path / "own.py", assigned) == {"_a", "_b", "_c"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_room_hands_on_names_that_it_has(folder: Path):
    module = importlib.import_module(".".join(folder.relative_to(ROOT).parts))
    assert module.__doc__ and module.__all__
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is_and_names_what_there_is(module):
    file = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert said and "TODO" not in said
    folder = PACKAGE.joinpath(*module.split(".")[:-1])
    for named, name in re.findall(r"`(\w+)\.(\w+)`", said):
        if (PACKAGE / named / f"{name}.py").is_file():
            continue
        files = [f for f in (folder / f"{named}.py", *PACKAGE.rglob(f"{named}.py")) if f.is_file()]
        if files and name not in ("py", "csv", "json"):
            assert any(re.search(rf"\b{name}\b", f.read_text(encoding="utf-8")) for f in files), (
                f"{module} tells of {named}.{name}, which is not there"
            )
