"""Lock file, pyproject and environment.yml say the same, and the lock is the environment the tests
run in."""

import ast
import json
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

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib
ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")  # that make takes


def lock(python: str | None = None) -> dict[str, str]:
    """Canonical name -> version pinned for a Python on Linux, by default for the one that runs."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    machine = {"python_version": python, "python_full_version": f"{python}.5"} if python else {}
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(machine)]
    names = [canonicalize_name(pin.name) for pin in here]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    return dict(zip(names, (str(pin.specifier)[2:] for pin in here)))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted() -> list[Requirement]:
    """What pyproject asks for: the package itself and the extras that make needs (not lab, which is
    only to look)."""
    extras = project()["optional-dependencies"]
    return [
        Requirement(text)
        for text in project()["dependencies"]
        + extras["workflow"]
        + extras["judges"]
        + extras["test"]
        + extras["site"]
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_locked_within_its_range_on_every_python(python):
    pins = lock(python)
    for requirement in wanted():
        if requirement.marker is not None and not requirement.marker.evaluate(
            {"python_version": python}
        ):
            continue
        assert requirement.specifier.contains(
            pins[canonicalize_name(requirement.name)], prereleases=True
        ), str(requirement)


def test_torch_is_the_pinned_release():
    assert lock()["torch"] == "2.13.0"


def test_no_dependency_has_an_upper_bound():
    """Colab brings its own, newer or older: only a lower bound is ours to ask for, but for wn,
    which it has not."""
    # no Python 3.10
    there = [
        requirement
        for requirement in wanted()
        if requirement.marker is None and requirement.name != "wn"
    ]
    assert all(spec.operator == ">=" for requirement in there for spec in requirement.specifier)


def test_conda_installs_the_lock_on_the_python_of_the_results():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(item["pip"] for item in environment if isinstance(item, dict))
    manifest = json.loads(
        (ROOT / "results" / "pocket" / "manifest.json").read_text(encoding="utf-8")
    )
    assert f"python={'.'.join(manifest['python'].split('.')[:2])}" in environment
    assert pip == ["--editable .", "jupyterlab", "-r requirements.lock"]


def test_the_lock_is_what_uv_makes_of_pyproject(tmp_path):
    """Nothing has drifted: resolving again, from the pins that are there, changes no line."""
    if shutil.which("uv") is None:
        pytest.skip("there is no uv here")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    done = make(tmp_path, "lock")
    if "error sending request" in done.stderr or "Network" in done.stderr:
        pytest.skip("no package registry is reached")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "requirements.lock").read_text() == (ROOT / "requirements.lock").read_text()


def test_the_lock_is_complete():
    """Whatever a locked package needs here is locked too, at a version it accepts: `pip install
    --no-deps` leaves no hole."""
    pins = lock()
    if any(_installed(name) != version for name, version in pins.items()):
        pytest.skip(
            "another environment than the lock's: the lowest versions, Colab's, or one's own"
        )
    for name in pins:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and not _cuda(name, requirement):
                pin = pins.get(canonicalize_name(requirement.name))
                assert pin and requirement.specifier.contains(pin, prereleases=True), (
                    f"{name} needs {text}, the lock has {pin}"
                )


def _installed(name: str) -> str:
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return "none"


def _cuda(name: str, requirement: Requirement) -> bool:
    """A CUDA wheel of torch brings libraries of its own, which the Makefile installs with it and
    the lock cannot name."""
    return name == "torch" and requirement.name.startswith(("nvidia-", "cuda-", "triton"))


def test_everything_the_package_imports_is_declared():
    """A module of ours imports nothing that only happens to be there."""
    top = metadata.packages_distributions()
    everything = project()["dependencies"] + [
        text for extra in project()["optional-dependencies"].values() for text in extra
    ]
    names = {canonicalize_name(Requirement(text).name) for text in everything}
    for path in (ROOT / "rpo_nb").rglob("*.py"):
        # benchmarks: those of the clone; google: google.colab, which Colab has
        ours = {"rpo_nb", "benchmarks", "google"}
        for module in _imports(path) - ours - set(sys.stdlib_module_names):
            # of an extra that is not here, by its own name
            found = {canonicalize_name(d) for d in top.get(module, [module])}
            assert found & names, f"{path.name} imports {module}, which pyproject does not name"


def _imports(path: Path) -> set[str]:
    """The top-level names of the modules a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {
        name.split(".")[0]
        for name in plain
        | {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0}
    }


def test_profiles_and_template_are_package_data():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["rpo_nb"]
    packed = {path for pattern in data for path in (ROOT / "rpo_nb").glob(pattern)}
    others = {
        path
        for path in (ROOT / "rpo_nb").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert others == packed


# ---- containers and workflows --------------------------------------------------------------------

CALLERS = (  # files that start the kit somewhere else, all by make
    "Dockerfile",
    ".devcontainer/devcontainer.json",
    ".ci/run",
    ".github/workflows/test.yml",
    ".github/workflows/site.yml",
)


def called(file: str) -> set[str]:
    """The make targets that a file calls: make test, ["make", "test"]."""
    text = (ROOT / file).read_text(encoding="utf-8")
    before = r'(?:^|RUN |rpo_nb |run: |")'
    return set(re.findall(rf'{before}make"?,? "?([a-z-]+)', text, re.MULTILINE))


def test_all_that_is_called_elsewhere_are_targets_of_make():
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    targets = {file: called(file) for file in CALLERS}
    assert all(targets.values())
    assert set().union(*targets.values()) <= set(phony)
    assert {"setup", "reproduce", "test", "site"} <= set().union(*targets.values())


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())


def test_the_suite_runs_on_every_python_and_the_site_goes_to_the_pages():
    assert workflow("test")["jobs"]["suite"]["strategy"]["matrix"]["python"] == list(PYTHONS)
    jobs = workflow("site")["jobs"]
    steps = {step.get("uses", "").split("@")[0]: step for step in jobs["build"]["steps"]}
    assert steps["actions/upload-pages-artifact"]["with"]["path"] == "build/site"
    assert jobs["publish"]["needs"] == "build" and "push" in jobs["publish"]["if"]
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}


def test_the_image_is_the_lock_on_any_base_and_the_devcontainer_is_that_image():
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert docker.index("ARG BASE=") < docker.index("FROM ${BASE}")
    copied = docker[: docker.index("RUN make setup")]
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "README.md", "rpo_nb"):
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", copied, re.MULTILINE), name
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).samefile(ROOT / "Dockerfile")
    assert f"useradd --create-home --uid 1001 {container['remoteUser']}" in docker


# ---- the Makefile --------------------------------------------------------------------------------


# of the make that may run these tests (make test-matrix, make test ARGS=...)
OUTER = ("MAKEFLAGS", "ARGS", "VENV", "PYTHON")


def make(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "-C", str(folder), *arguments],
        env={name: value for name, value in os.environ.items() if name not in OUTER} | env,
        capture_output=True,
        text=True,
    )


def stamp(clone: Path) -> str:
    """The name of a finished set-up, below the clone."""
    return re.search(r"\.venv/\.ready-\d+", make(clone, "--dry-run", "setup").stdout)[0]


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


def test_without_a_python_that_fits_make_says_what_to_do(clone):
    done = make(clone, "setup", "PYTHON=", "UV=")
    assert done.returncode != 0 and "A Python from 3.10 to 3.14" in done.stdout
    assert not (clone / ".venv").exists()


def test_the_newest_python_that_fits_is_taken(clone, tmp_path):
    """3.14 before 3.12; one without venv, one too old and one that is broken are passed over."""
    folder = tmp_path / "bin"
    folder.mkdir()
    answers = {
        "python3.14": "exit 0",
        "python3.13": "exit 1",
        "python3.12": "exit 0",
        "python3": "exit 1",
    }
    for name, answer in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    assert 'python="python3.14"' in make(clone, "--dry-run", "setup", "UV=", PATH=path).stdout
    (folder / "python3.14").write_text("#!/bin/sh\nexit 1\n")  # as one without ensurepip
    assert 'python="python3.12"' in make(clone, "--dry-run", "setup", "UV=", PATH=path).stdout


def test_a_failed_installation_leaves_no_stamp(clone):
    (clone / "requirements.lock").write_text("torch==0.0.0\n")
    done = make(
        clone, "setup", f"PYTHON={sys.executable}", "UV=", PIP_NO_INDEX="1", PIP_FIND_LINKS=""
    )
    assert done.returncode != 0 and "could not be installed" in done.stdout
    assert not list((clone / ".venv").glob(".ready-*"))


def test_a_finished_installation_is_not_made_again(clone):
    """The stamp is named by the lock, pyproject and the place; when it is there make goes straight
    to the command."""
    (clone / ".venv").mkdir()
    (clone / stamp(clone)).touch()
    assert "venv" not in make(clone, "--dry-run", "setup").stdout
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("another==1\n")
    assert "-m venv .venv" in make(clone, "--dry-run", "setup", "UV=").stdout


@pytest.fixture
def telling(clone):
    """A clone whose set-up is done, with a Python that tells its arguments."""
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (clone / stamp(clone)).touch()
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    python.chmod(0o755)
    return clone


def test_what_the_user_names_reaches_the_command_as_it_is(telling):
    """A profile, settings and a relative path with spaces arrive unsplit and unexpanded."""
    done = make(
        telling,
        "reproduce",
        "PROFILE=smoke",
        "SET=sizes=small taus=[0.1, 1]",
        "FEEDBACK=../my data/x.jsonl",
    )
    assert (
        "[--profile][smoke][--set][sizes=small taus=[0.1, 1]][--feedback][../my data/x.jsonl]"
        in done.stdout
    )


@pytest.mark.parametrize("run", ["", "results/my run", "$(touch x)"])
def test_the_site_is_of_the_run_that_is_named(telling, run):
    done = make(telling, "site", *[f"RESULTS={run}"] * bool(run))
    assert f"[-m][docs.site][{run}]" in done.stdout
    assert not list(telling.rglob("x"))


@pytest.mark.parametrize(
    "text",
    [
        "$(touch x)",
        "$(shell touch x)",
        "`touch x`",
        "price$5 {x}.jsonl",
        "$$HOME",
        "${HOME}",
        "a'b\"c.jsonl",
        "; touch x",
        "$(error stopped)",
    ],
)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_what_the_user_names_is_never_expanded_or_run(telling, text, by):
    values = {"PROFILE": text, "SET": f"a.b={text}", "FEEDBACK": text}
    given = [f"{name}={value}" for name, value in values.items()] if by == "argument" else []
    done = make(telling, "reproduce", *given, **({} if given else values))
    assert f"[--profile][{text}][--set][a.b={text}][--feedback][{text}]" in done.stdout, (
        done.stdout + done.stderr
    )
    assert not list(telling.rglob("x"))
