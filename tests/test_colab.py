"""On Colab's versions: the wheel changes nothing that is there, and every notebook runs alone in an
empty folder.

Opt-in, since it needs gigabytes and ten minutes: RPO_NB_COLAB names a folder for the environment.
It is made there, with tests/colab.txt, when it is not there yet, by RPO_NB_COLAB_PYTHON
(python3.13).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PINS = ROOT / "tests" / "colab.txt"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
asked = pytest.mark.skipif(
    "RPO_NB_COLAB" not in os.environ,
    reason="ten minutes and 6 GB: make test-colab, or set RPO_NB_COLAB to a "
    "folder for its packages",
)


def pins() -> dict[str, str]:
    lines = [
        line
        for line in PINS.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in map(Requirement, lines)
    }


def run(*command, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, (
        f"{' '.join(map(str, command))}\n{(done.stdout + done.stderr)[-3000:]}"
    )
    return done.stdout


def test_the_pins_are_within_what_pyproject_allows():
    from tests.test_setup import project

    given = pins()
    for requirement in map(Requirement, project()["dependencies"]):
        version = given.get(canonicalize_name(requirement.name))
        assert version is None or requirement.specifier.contains(version, prereleases=True), str(
            requirement
        )


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """(Python of an environment with Colab's versions and our wheel, what installing the wheel
    would have changed there)."""
    python = Path(os.environ["RPO_NB_COLAB"]).absolute() / "bin" / "python"
    if not python.is_file():
        maker = os.environ.get("RPO_NB_COLAB_PYTHON", "python3.13")
        run(maker, "-m", "venv", python.parent.parent)
        run(python, "-m", "pip", "install", "--no-cache-dir", "-r", PINS)
    wheels = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT / "rpo_nb", source / "rpo_nb", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        wheels,
        source,
    )
    wheel = next(wheels.glob("rpo_nb-*.whl"))
    report = wheels / "report.json"
    run(
        python,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--quiet",
        "--no-cache-dir",
        "--report",
        report,
        wheel,
    )
    before = {
        canonicalize_name(package["name"]): package["version"]
        for package in json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    }
    changes = {
        canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"]
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]
    }
    # the same version may be there of another commit
    for again in ((), ("--no-deps", "--force-reinstall")):
        run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *again, wheel)
    return python, {
        name: (before[name], version)
        for name, version in changes.items()
        if name in before and name != "rpo-nb"
    }


@asked
def test_installing_the_wheel_changes_nothing_of_colabs(colab):
    python, changed = colab
    assert changed == {}
    found = {
        canonicalize_name(package["name"]): package["version"].split("+")[0]
        for package in json.loads(run(python, "-m", "pip", "list", "--format", "json"))
    }
    assert {name: found[name] for name in pins()} == pins()


@asked
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_alone_in_an_empty_folder(colab, notebook, tmp_path, tmp_path_factory):
    """On smoke. References are shared through the cache, as they would be on one machine; results
    are not."""
    python, _ = colab
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "RPO_NB_PROFILE": "smoke",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RPO_NB_CACHE": str(tmp_path_factory.getbasetemp() / "colab-cache"),
    }
    done = tmp_path / notebook.name
    run(
        python,
        "-m",
        "jupyter",
        "execute",
        "--timeout=1800",
        notebook,
        "--output",
        done,
        cwd=tmp_path,
        env=environment,
    )
    cells = json.loads(done.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell["execution_count"] for cell in cells if cell["cell_type"] == "code" and cell["source"]
    )
