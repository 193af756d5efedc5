"""Keys: what an artefact was made from. Nothing stale may be served, and nothing made again without
need."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest

from rpo_nb import store
from rpo_nb.config import loading, schema
from rpo_nb.data import hub
from rpo_nb.experiment import grid, inputs, references
from rpo_nb.running import batch, manifest, provenance
from rpo_nb.running.provenance import (
    ALWAYS_GIVEN,
    PACKAGE,
    STEPS,
    closure,
    code_key,
    code_of,
    folder_key,
    model_key,
    source_key,
    step_code,
)
from tests.running.keys import PROFILE, ROOT, model_folder, run_key

WORDS_ONLY = (  # tables, figures and words: no policy may be trained again for them
    "reporting.figures",
    "reporting.page",
    "reporting.claims",
    "reporting.publish",
    "planning.plan",
    "running.cluster",
    "running.progress",
    "judging.labelling",
    "studies.advise",
    "studies.lab_tables",
    "studies.paper_b.tables",
)


def package(folder: Path, **modules: str) -> Path:
    """A package of these modules; "__" in a name is a folder."""
    for name, code in modules.items():
        file = folder / "toy" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    return folder / "toy"


# ---- code ----------------------------------------------------------------------------------------


def test_the_closure_is_what_is_imported_at_any_depth_in_folders_and_functions(tmp_path):
    toy = package(
        tmp_path,
        a="from toy import b\nimport os, toy.sub.d",
        b="def f():\n    from .sub import c",
        sub__c="from ..e import x",
        sub__d="from . import c\nfrom .c import x",
        e="import json",
        sub____init__="",
        alone="import toy.a",
        f="",
    )
    (toy / "sub" / "__init__.py").write_text("from toy.f import y")
    assert closure(["a"], package=toy) == {"a", "b", "sub.c", "sub.d", "e"}
    assert closure(["a"], without=["sub"], package=toy) == {"a", "b"}
    assert closure(["sub.d"], package=toy) == {"sub.c", "sub.d", "e"}
    assert closure(["sub"], package=toy) == {"sub", "sub.c", "sub.d", "e", "f"}  # a whole wing
    with pytest.raises(ValueError, match="'gone' is no module of toy"):
        closure(["gone"], package=toy)


def test_words_are_no_code_but_every_number_is(tmp_path):
    def key(code: str) -> str:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        return code_key("a", package=package(place, a=code))

    plain = key("def f(x: int) -> int:\n    return 3 * x\n")
    assert plain == key(
        '"""What it does."""\n\n# why\ndef f(x: int) -> int:\n    """Three '
        'times."""\n    return (3\n            * x)  # so\n'
    )
    assert (
        len(
            {
                plain,
                key("def f(x: int) -> int:\n    return 4 * x\n"),
                key("def f(x: int) -> int:\n    return 3 * x, 'words'\n"),
            }
        )
        == 3
    )


def test_code_has_the_same_hash_on_every_python():
    """That of Python 3.11's `ast.dump`, whatever this one is."""
    source = (
        "@cache\nasync def f(a: int, /, *b, c=None, **d) -> 'τ':\n    return f'{a!r:>{c}} {b}'\n\n"
        "class A(B, metaclass=C):\n    x: int = -1.5\n"
        "    def g(self): yield lambda: [*self, 1][:2]\n\n"
        "try:\n    pass\nexcept (D, E) as e:\n    match e:\n"
        "        case [1, *_] | {'k': A(y=2)}: raise\n"
    )
    found = code_of(source.encode())
    assert found == "6cf92d895e9704995b27a6f2c9c0575b62eabd51f66f0e75892b661492bb72dc"
    if sys.version_info < (3, 12):
        assert found == hashlib.sha256(ast.dump(ast.parse(source)).encode()).hexdigest()


def test_no_text_of_the_package_is_printed_otherwise_by_another_python():
    """The hash of a module has its texts as `repr` has them, which leaves a character as it is
    where this Python's Unicode knows it; all have known those of version 3.2, and the thumbs."""
    young = {
        (file.name, letter)
        for file in provenance.PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for letter in node.value
        if letter.isprintable()
        and unicodedata.ucd_3_2_0.category(letter) == "Cn"
        and not 0x1F300 <= ord(letter) <= 0x1F5FF  # of Unicode 6
    }
    assert not young


def test_code_that_was_shown_to_give_the_same_numbers_keeps_its_key(tmp_path, monkeypatch):
    """A module counts as the earlier one that it is the same as; its next edit does not."""
    first, same, next_one = (f"def f(x):\n    return x * {n}\n" for n in ("2", "(1 + 1)", "3"))
    folders = [package(tmp_path / str(i), a=code) for i, code in enumerate((first, same, next_one))]
    keys = [code_key("a", package=folder) for folder in folders]
    assert len(set(keys)) == 3
    shown = tmp_path / "same.json"
    kept = {code_of(same.encode()): code_of(first.encode())}
    shown.write_text(json.dumps({"a": kept, "b": {code_of(next_one.encode()): "x"}}))
    monkeypatch.setattr(provenance, "SAME", shown)
    provenance.same_code.cache_clear()
    assert [code_key("a", package=folder) for folder in folders] == [keys[0], keys[0], keys[2]]
    provenance.same_code.cache_clear()


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """module -> a copy of the package in which one line of it is another."""
    made = {}

    def changed(module: str) -> Path:
        if module not in made:
            folder = tmp_path_factory.mktemp("copy") / PACKAGE.name
            shutil.copytree(
                PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__", "*.yaml", "*.j2")
            )
            file = next(
                file
                for file in (
                    folder / f"{module.replace('.', '/')}.py",
                    folder / module / "__init__.py",
                )
                if file.is_file()
            )
            file.write_text(file.read_text(encoding="utf-8") + "\nCHANGED = 1\n", encoding="utf-8")
            made[module] = folder
        return made[module]

    return changed


def of_step(step: str) -> set[str]:
    modules, given = STEPS[step]
    return closure(modules, without=(*given, *ALWAYS_GIVEN))


@pytest.mark.parametrize("module", sorted(set().union(*map(of_step, STEPS))))
def test_one_line_in_a_module_changes_the_key_of_every_step_that_imports_it_and_of_no_other(
    module, copies
):
    for step in STEPS:
        assert (step_code(step, copies(module)) != step_code(step)) == (module in of_step(step)), (
            step
        )


@pytest.mark.parametrize("module", WORDS_ONLY)
def test_a_change_of_words_or_figures_trains_nothing_again(module, copies):
    assert all(step_code(step, copies(module)) == step_code(step) for step in STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_every_module_that_a_step_leaves_out_would_be_read(step):
    """One that would not is a hole waiting for an import: what comes through it later has no
    key."""
    modules, given = STEPS[step]
    for one in given:
        others = [other for other in (*given, *ALWAYS_GIVEN) if other != one]
        assert closure(modules, without=others) > of_step(step), one


def test_a_methods_looks_train_nothing_again_but_let_all_be_looked_at(copies):
    for step in STEPS:
        same = step_code(step, copies("config.methods")) == step_code(step)
        assert same is not step.startswith("all of the"), step


def test_every_step_reads_what_it_must():
    """Where the search stops is a promise that what was left out stands in the key by its
    content."""
    training = {"training.losses", "training.trainer", "objectives", "policy.prefixes"}
    assert training | {"experiment.runs", "config.schema"} <= of_step("training")
    answers = {"policy.generation", "policy.load", "experiment.generations"}
    assert answers <= of_step("completions")
    assert "policy.vllm_engine" in of_step("completions by vllm") - of_step("completions")
    assert {"experiment.references", "pocket.writers", "training.trainer"} <= of_step("reference")
    assert {"judging.reward_model", "policy.logps"} <= of_step("reward model")
    online = {"training.alignment", "training.reward_aware", "training.samples"}
    assert online | answers - {"experiment.generations"} <= of_step("paper B")
    assert {"judging.reward_model", "training.trainer", "pocket.checker"} <= of_step("paper B")
    grid = {"data.feedback", "partition", "pocket.feedback", "experiment.references"}
    assert grid <= of_step("all of the grid") <= of_step("all of the lab")


def test_a_notebooks_imports_are_its_modules():
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found = provenance.notebook_modules(notebook)
        source = "\n".join(
            "".join(cell["source"])
            for cell in json.loads(notebook.read_text())["cells"]
            if cell["cell_type"] == "code"
        )
        assert found and all(module.split(".")[-1] in source for module in found)
        assert "planning.opening" in found


def with_model(folder: Path | str, **more) -> schema.Profile:
    return loading.load_profile(
        "smoke",
        **{"sizes.small.id": str(folder), **{f"sizes.small.{k}": v for k, v in more.items()}},
    )


def test_two_folders_of_one_name_are_two_models_and_one_in_two_places_is_one(tmp_path):
    one, two, same = (
        model_folder(tmp_path / place / "policy", weights)
        for place, weights in (("a", b"1"), ("b", b"2"), ("c", b"1"))
    )
    assert run_key(with_model(one)) == run_key(with_model(same)) != run_key(with_model(two))
    before = run_key(with_model(one))
    (one / "model.safetensors").write_bytes(b"3")  # copied over
    assert run_key(with_model(one)) != before


def test_a_reference_sample_and_a_pool_are_keyed_by_weights_not_by_the_folders_name(
    tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        store, "cached", lambda folder, make, of: asked.append(folder.name) or tmp_path
    )
    (tmp_path / "texts.json").write_text('["a"]')
    for place, weights in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        inputs.reference_samples(
            PROFILE, str(model_folder(tmp_path / place / "policy", weights)), ["p"], 1, 0
        )
    assert asked[0] == asked[2] != asked[1]


def test_a_hub_model_is_the_snapshot_of_its_revision(hub_cache):
    first, commit = hub_cache / "models--some--model" / "snapshots" / ("a" * 40), "b" * 40
    assert Path(references.fetched("some/model")) == first
    before = run_key(with_model("some/model")), source_key("some/data")
    model_folder(hub_cache / "models--some--model" / "snapshots" / commit, b"other weights")
    assert Path(references.fetched("some/model", commit)).name == commit
    assert (
        run_key(with_model("some/model", revision=commit))
        != before[0]
        == run_key(with_model("some/model"))
    )
    (hub_cache / "models--some--model" / "refs" / "main").write_text(commit)  # the branch went on
    (hub_cache / "datasets--some--data" / "refs" / "main").write_text("e" * 40)
    assert Path(references.fetched("some/model")).name == commit
    assert run_key(with_model("some/model")) != before[0] and source_key("some/data") != before[1]
    with pytest.raises(
        ValueError,
        match="model 'some/other' could not be loaded: the hub cannot be reached .* local folder",
    ):
        references.fetched("some/other")


def test_the_manifest_names_the_commit_of_every_hub_model_and_data_set(hub_cache):
    profile = with_model("some/model")
    profile = profile.model_copy(
        update={"data": profile.data.model_copy(update={"source": "some/data"})}
    )
    assert manifest.origins(profile) == [
        {"kind": "model", "name": "some/model", "revision": "main", "commit": "a" * 40},
        {"kind": "dataset", "name": "some/data", "revision": "main", "commit": "d" * 40},
    ]
    profile = profile.model_copy(
        update={
            "paper_b": profile.paper_b.model_copy(update={"ood": "some/data", "ood_revision": "v1"})
        }
    )
    assert manifest.origins(profile)[-1] == {
        "kind": "dataset",
        "name": "some/data",
        "revision": "v1",
        "commit": None,
    }
    pinned = with_model("some/model", revision="c" * 40)
    assert manifest.origins(pinned)[0]["commit"] is None and manifest.origins(PROFILE) == []
    assert hub.commit("some/model", "a" * 40) == "a" * 40


def test_a_folder_is_its_files_whatever_its_place(tmp_path):
    one, two = (model_folder(tmp_path / name, b"w") for name in ("one", "two"))
    assert folder_key(one) == folder_key(two) and model_key(one) == model_key(str(two))
    (two / "notes.md").write_text("nothing that is loaded")
    assert model_key(one) == model_key(two)
    (two / "tokenizer.json").write_text("{}")
    assert model_key(one) != model_key(two)


def test_another_tokenizer_in_the_same_folder_is_another_reference_and_another_run(tmp_path):
    model_folder(tmp_path / "words", b"")
    (tmp_path / "mine.jsonl").write_text("{}")
    profile = loading.load_profile(
        "smoke",
        feedback=str(tmp_path / "mine.jsonl"),
        **{"sizes.small.tokenizer": [str(tmp_path / "words"), "train"]},
    )

    def keys() -> list[str]:
        return [
            run_key(profile, "sft"),
            grid.world_key(profile, "small", 0),
            references.reference_key(profile, "small", 0, []),
            batch.params("03_train", profile)["key"],
        ]

    before = keys()
    assert keys() == before
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    assert all(one != other for one, other in zip(keys(), before, strict=True))


def test_a_job_knows_the_commit_of_its_hub_data(hub_cache):
    profile = PROFILE.model_copy(
        update={"data": PROFILE.data.model_copy(update={"source": "some/data"})}
    )
    before = batch.params("09_report", profile)["key"]
    assert batch.params("09_report", profile)["key"] == before
    (hub_cache / "datasets--some--data" / "refs" / "main").write_text("e" * 40)
    assert batch.params("09_report", profile)["key"] != before
