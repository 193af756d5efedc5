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
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in files
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    top = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "__init__.py"}
    assert len(top) <= 20, sorted(top)


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
