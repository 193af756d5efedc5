"""Lock file, pyproject and environment.yml say the same, and the lock is the environment the tests run in."""

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib; the lock is for 3.11")
ROOT = Path(__file__).parent.parent


def lock() -> dict[str, str]:
    """Canonical name -> pinned version."""
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in lines]
    assert all(pins), f"not a plain pin: {[line for line, pin in zip(lines, pins) if not pin]}"
    names = [canonicalize_name(pin[1]) for pin in pins]
    assert len(set(names)) == len(names)
    return dict(zip(names, (pin[2] for pin in pins)))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted() -> list[Requirement]:
    """What pyproject asks for: the package itself and the extras that make needs (not lab, which is only to look)."""
    extras = project()["optional-dependencies"]
    return [Requirement(text) for text in project()["dependencies"] + extras["workflow"] + extras["judges"] + extras["test"]]


def test_every_dependency_is_locked_within_its_range():
    pins = lock()
    for requirement in wanted():
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)], prereleases=True), str(requirement)


def test_torch_is_the_pinned_release():
    assert lock()["torch"] == "2.13.0"


def test_no_dependency_has_an_upper_bound():
    """Colab brings its own, newer or older: only a lower bound is ours to ask for."""
    assert all(spec.operator == ">=" for requirement in wanted() for spec in requirement.specifier)


def test_environment_yml_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in environment
    pip = next(item["pip"] for item in environment if isinstance(item, dict))
    assert pip[:2] == ["--editable .", "jupyterlab"]
    assert [f"{canonicalize_name(name)}=={version}" for name, version in lock().items()] \
        == [f"{canonicalize_name(name)}=={version}" for name, version in (pin.split("==") for pin in pip[2:])]


def test_the_lock_is_complete():
    """Whatever a locked package needs here is locked too, at a version it accepts: `pip install --no-deps` leaves no hole."""
    pins = lock()
    for name, version in pins.items():
        assert metadata.version(name).split("+")[0] == version, f"{name}: not the lock's environment; run `make clean test`"
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and not _cuda(name, requirement):
                pin = pins.get(canonicalize_name(requirement.name))
                assert pin and requirement.specifier.contains(pin, prereleases=True), f"{name} needs {text}, the lock has {pin}"


def _cuda(name: str, requirement: Requirement) -> bool:
    """A CUDA wheel of torch brings libraries of its own, which the Makefile installs with it and the lock cannot name."""
    return name == "torch" and requirement.name.startswith(("nvidia-", "cuda-", "triton"))


def test_everything_the_package_imports_is_declared():
    """A module of ours imports nothing that only happens to be there."""
    top = metadata.packages_distributions()
    everything = project()["dependencies"] + [text for extra in project()["optional-dependencies"].values() for text in extra]
    names = {canonicalize_name(Requirement(text).name) for text in everything}
    for path in (ROOT / "rpo_nb").rglob("*.py"):
        for module in _imports(path) - {"rpo_nb", "benchmarks"} - set(sys.stdlib_module_names):  # benchmarks: those of the clone
            found = {canonicalize_name(d) for d in top.get(module, [module])}  # of an extra that is not here, by its own name
            assert found & names, f"{path.name} imports {module}, which pyproject does not name"


def _imports(path: Path) -> set[str]:
    """The top-level names of the modules a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.split(".")[0] for name in plain | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0}}


def test_profiles_and_template_are_package_data():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rpo_nb"]
    packed = {path for pattern in data for path in (ROOT / "rpo_nb").glob(pattern)}
    others = {path for path in (ROOT / "rpo_nb").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == packed


# ---- the Makefile -----------------------------------------------------------------------------------------------------

def make(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", "-C", str(folder), *arguments], env=os.environ | env, capture_output=True, text=True)


@pytest.fixture
def clone(tmp_path):
    """The files that set-up reads, in a folder with a space in its name."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_without_python_311_make_says_what_to_do(clone):
    done = make(clone, "setup", "PYTHON=")
    assert done.returncode != 0 and "Python 3.11 is needed: install it" in done.stdout
    assert not (clone / ".venv").exists()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock is for Python 3.11")
def test_a_failed_installation_leaves_no_stamp(clone):
    (clone / "requirements.lock").write_text("torch==0.0.0\n")
    done = make(clone, "setup", f"PYTHON={sys.executable}", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode != 0 and "could not be installed" in done.stdout
    assert not list((clone / ".venv").glob(".ready-*"))


def test_a_finished_installation_is_not_made_again(clone):
    """The stamp is named by the lock, pyproject and the place; when it is there make goes straight to the command."""
    named = re.search(r"\.venv/\.ready-\d+", make(clone, "--dry-run", "setup").stdout)[0]
    (clone / named).parent.mkdir()
    (clone / named).touch()
    assert "venv" not in make(clone, "--dry-run", "setup").stdout
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("another==1\n")
    assert "-m venv .venv" in make(clone, "--dry-run", "setup").stdout


def test_what_the_user_names_reaches_the_command_as_it_is(clone):
    """A profile, settings and a relative path with spaces arrive unsplit and unexpanded."""
    named = re.search(r"\.venv/\.ready-\d+", make(clone, "--dry-run", "setup").stdout)[0]
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (clone / named).touch()
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    python.chmod(0o755)
    done = make(clone, "reproduce", "PROFILE=smoke", "SET=sizes=small taus=[0.1, 1]", "FEEDBACK=../my data/x.jsonl")
    assert "[--profile][smoke][--set][sizes=small taus=[0.1, 1]][--feedback][../my data/x.jsonl]" in done.stdout
