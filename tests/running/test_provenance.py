"""Keys: what an artefact was made from. Nothing stale may be served, and nothing made again without
need."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from rpo_nb import store
from rpo_nb.__main__ import main
from rpo_nb.config import base, loading, methods, objective, schema, studies
from rpo_nb.data import hub
from rpo_nb.experiment import generations, grid, inputs, references
from rpo_nb.judging import verdicts
from rpo_nb.planning import stale
from rpo_nb.running import batch, manifest, provenance, staging
from rpo_nb.running.provenance import (
    ALWAYS_GIVEN,
    PACKAGE,
    STEPS,
    closure,
    code_key,
    folder_key,
    model_key,
    source_key,
    step_code,
)
from rpo_nb.store import STAMP, seal
from rpo_nb.studies.lab import Spec, Study, low_data
from rpo_nb.studies.paper_b import world

ROOT = Path(__file__).parents[2]
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
    "studies.table1",
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


def test_every_step_reads_what_it_must():
    """Where the search stops is a promise that what was left out stands in the key by its
    content."""
    training = {"training.losses", "training.trainer", "objectives", "policy.prefixes"}
    assert training | {"experiment.runs", "config.schema"} <= of_step("training")
    answers = {"policy.generation", "policy.load", "experiment.generations"}
    assert answers <= of_step("answers")
    assert "policy.vllm_engine" in of_step("answers by vllm") - of_step("answers")
    assert {"experiment.references", "pocket", "training.trainer"} <= of_step("reference")
    assert {"judging.reward_model", "policy.logps"} <= of_step("reward model")
    online = {"training.alignment", "training.reward_aware", "training.samples"}
    assert online | answers - {"experiment.generations"} <= of_step("paper B")
    assert {"judging.reward_model", "training.trainer", "pocket"} <= of_step("paper B")
    grid = {"data.feedback", "partition", "pocket", "experiment.references"}
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
        assert "config" in found


# ---- settings ------------------------------------------------------------------------------------


def leaves(value: base.Config, place: tuple = ()) -> list[tuple]:
    """(place, value) of every field that is no section."""
    out = []
    for name in type(value).model_fields:
        field = getattr(value, name)
        out += (
            leaves(field, (*place, name))
            if isinstance(field, base.Config)
            else [((*place, name), field)]
        )
    return out


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if value is None:
        return 7
    return (*value, *value[:1], 3) if isinstance(value, tuple) else f"{value}x"


def with_leaf(profile: schema.Profile, place: tuple, value) -> schema.Profile:
    """The profile with another value there, not validated: only keys are made of it."""

    def put(section, rest):
        inner = put(getattr(section, rest[0]), rest[1:]) if len(rest) > 1 else value
        return section.model_copy(update={rest[0]: inner})

    return put(profile, place)


def run_key(profile: schema.Profile, method: str = "rpo") -> str:
    return grid.recipe(
        profile,
        profile.presets["paper"],
        method,
        "small",
        1.0 if method in ("rpo", "dro") else None,
        0,
    ).key


PROFILE = loading.load_profile("smoke")
NOT_TRAINED_BY = {  # fields of these sections that change no policy
    # memory, logs, checkpoints
    "training": {"micro_batch_tokens", "report_to", "logging_steps", "save_steps"},
    "sizes": {"authors", "authors_revision", "micro_batch_tokens"},
}


@pytest.mark.parametrize(
    "place",
    [place for place, _ in leaves(PROFILE) if place[0] in ("data", "training")],
    ids=".".join,
)
def test_every_field_of_data_and_training_names_a_run(place):
    changed = with_leaf(PROFILE, place, other(dict(leaves(PROFILE))[place]))
    assert (run_key(changed) != run_key(PROFILE)) == (
        place[1] not in NOT_TRAINED_BY.get(place[0], ())
    )


@pytest.mark.parametrize("field", schema.ModelConfig.model_fields)
def test_every_field_of_a_size_names_a_run_and_its_reference(field):
    model = PROFILE.sizes["small"]
    changed = PROFILE.model_copy(
        update={
            "sizes": PROFILE.sizes
            | {"small": model.model_copy(update={field: other(getattr(model, field))})}
        }
    )
    named = field not in NOT_TRAINED_BY["sizes"]
    assert (run_key(changed) != run_key(PROFILE)) == named
    pairs = [("prompt", "completion")]
    keys = {references.reference_key(profile, "small", 0, pairs) for profile in (PROFILE, changed)}
    assert len(keys) == 1 + (named and field != "revision")


@pytest.mark.parametrize(
    ("method", "fields"),
    {
        "rpo": ("reduce", "partition", "dropout", "max_grad_norm", "weight_decay"),
        "dro": (
            "reduce",
            "value_pooling",
            "value_detach",
            "dropout",
            "max_grad_norm",
            "weight_decay",
        ),
        "kto": ("reduce", "kto_beta", "kto_kl", "dropout", "max_grad_norm", "weight_decay"),
        "qrpo": ("reduce", "qrpo_beta", "dropout", "max_grad_norm", "weight_decay"),
        "sft": (),
    }.items(),
)
def test_a_presets_fields_name_the_runs_of_the_methods_that_read_them(method, fields):
    paper = PROFILE.presets["paper"]
    values = {
        "reduce": "mean",
        "partition": "none",
        "kto_kl": "matched",
        "value_pooling": "all",
        "decoding": "released",
    }
    for field in objective.Preset.model_fields:
        if field in ("rpo_tau", "dro_tau"):  # the temperature of the run itself
            continue
        preset = paper.model_copy(update={field: values.get(field, other(getattr(paper, field)))})
        changed = PROFILE.model_copy(update={"presets": PROFILE.presets | {"paper": preset}})
        assert (run_key(changed, method) != run_key(PROFILE, method)) == (field in fields), field


@pytest.mark.parametrize("field", schema.DecodingConfig.model_fields)
def test_every_field_of_decoding_names_the_answers_and_no_policy(field, tmp_path):
    changed = with_leaf(PROFILE, ("decoding", field), other(getattr(PROFILE.decoding, field)))
    files = []
    for profile in (PROFILE, changed):
        cell = next(c for c in grid.cells(profile) if c.preset == "paper" and c.method == "rpo")
        files.append(generations.completions_file(profile, cell, tmp_path))
    assert files[0].parent == files[1].parent and files[0] != files[1]
    # The reference's texts are data of the on_policy regime and rewards of QRPO: all is looked at
    # again.
    assert grid.world_key(changed, "small", 0) != grid.world_key(PROFILE, "small", 0)


# which policies there are, and where the prompts are from
NOT_IN_PAPER_B = {"size", "seeds", "processes", "runs", "etas", "reproduce"}


@pytest.mark.parametrize("field", studies.PaperB.model_fields)
def test_every_field_of_paper_b_names_its_policies(field, tmp_path, monkeypatch):
    monkeypatch.setattr(world.World, "inputs", ["reference and prompts"])
    value = {
        "settings": {"dpo": PROFILE.paper_b.settings["bwd"]},
        "size": "large",
        "offline": studies.Schedule(steps=3),
        "online": studies.Schedule(steps=3),
    }.get(field) or other(getattr(PROFILE.paper_b, field))
    profile = (
        with_leaf(PROFILE, ("paper_b", "ood"), "some/data") if field == "ood_revision" else PROFILE
    )
    keys = {
        world.World(one, 0, tmp_path).key()
        for one in (profile, with_leaf(profile, ("paper_b", field), value))
    }
    assert len(keys) == (1 if field in NOT_IN_PAPER_B else 2)


def test_the_batch_that_is_generated_at_once_names_paper_bs_policies_in_bf16(tmp_path, monkeypatch):
    monkeypatch.setattr(world.World, "inputs", ["reference and prompts"])
    for bf16 in (False, True):
        one = with_leaf(PROFILE, ("training", "bf16"), bf16)
        other_batch = with_leaf(one, ("evaluation", "generation_batch_size"), 7)
        keys = {world.World(profile, 0, tmp_path).key() for profile in (one, other_batch)}
        assert len(keys) == 1 + bf16


@pytest.mark.parametrize("field", ["max_prompt_tokens", "max_completion_tokens"])
def test_a_reward_model_is_named_by_the_tokens_that_it_reads(field, tmp_path):
    """Of a size with a lower limit of its own, too, which its policies have and the judge has
    not."""
    size = PROFILE.sizes["small"].model_copy(update={"max_tokens": 16})
    profile = PROFILE.model_copy(update={"sizes": {"small": size}})
    changed = with_leaf(profile, ("data", field), getattr(profile.data, field) + 1)
    reference = model_folder(tmp_path / "reference", b"")
    folders = {
        verdicts.reward_model_folder(one, tmp_path, 0, reference) for one in (profile, changed)
    }
    assert len(folders) == 2


def test_the_lab_on_other_data_is_another_world():
    study = Study("x", PROFILE, "small", 0, (Spec("sft"),))
    assert study.world == grid.world_key(PROFILE, "small", 0)
    others = [
        Study("x", low_data(PROFILE, 2), "small", 0, ()),
        Study("x", PROFILE, "small", 1, ()),
        Study("x", PROFILE, "large", 0, ()),
        Study("x", PROFILE, "small", 0, (), "noise"),
    ]
    assert len({study.world, *(one.world for one in others)}) == 5


# ---- models and data by content ------------------------------------------------------------------


def model_folder(folder: Path, weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{}")
    return folder


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


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub client's cache with one model and one data set, their refs and snapshots."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, commit in (("models--some--model", "a" * 40), ("datasets--some--data", "d" * 40)):
        model_folder(tmp_path / name / "snapshots" / commit, b"weights")
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs" / "main").write_text(commit)
    return tmp_path


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


# ---- the whole, once -----------------------------------------------------------------------------

TINY = {
    "sizes.small.demonstrations": 48,
    "data.prompts": 6,
    "data.validation": 4,
    "data.held_out": 2,
    "decoding.max_new_tokens": 4,
    "training.warmup_steps": 0,
    "training.learning_rate": 0.05,
}
ENSURE = """
import sys
from pathlib import Path
from rpo_nb import config, experiment
profile = config.load_profile("smoke", sizes="small", seeds="0", methods="reference,sft,rpo", taus="1.0", preset="paper", **{tiny})
for out in sys.argv[1:]:
    print("#", out)
    experiment.ensure_runs(profile, Path(out), progress=False)
"""
# file, what stands there, what shall stand there: each decides what is trained on, far from the
# trainer
CHANGES = {
    "standardise": (
        "data/splits.py",
        "    return (rewards - rewards.dtype.type(splits.reward_mean))",
        "    return 3 * (rewards - rewards.dtype.type(splits.reward_mean))",
    ),
    "words": ("data/splits.py", "Too few prompts for all of this", "With too few prompts"),
}


def ensured(where: Path, cache: Path, *outs: Path) -> str:
    import os

    env = os.environ | {"PYTHONPATH": str(where), "RPO_NB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", ENSURE.replace("{tiny}", repr(TINY)), *map(str, outs)],
        cwd=where,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(out: Path) -> dict[Path, bytes]:
    """Answers, log-probabilities and weights."""
    files = [
        file
        for pattern in ("generations/*", "runs/*/completions-*.json", "runs/*/policy/*.safetensors")
        for file in out.glob(pattern)
    ]
    return {file.relative_to(out): file.read_bytes() for file in files}


def test_after_a_change_of_code_nothing_stale_is_left_and_after_a_change_of_words_nothing_is_made(
    tmp_path,
):
    """What rows are trained on, changed in a copy of the package: the results in the old folder are
    those of a fresh one."""
    old, fresh, cache = tmp_path / "old", tmp_path / "fresh", tmp_path / "cache"
    assert "2 policies trained" in ensured(ROOT, cache, old)
    before = results(old)
    for name, (file, there, then) in CHANGES.items():
        copy = tmp_path / name
        shutil.copytree(PACKAGE, copy / "rpo_nb", ignore=shutil.ignore_patterns("__pycache__"))
        text = (copy / "rpo_nb" / file).read_text(encoding="utf-8")
        assert there in text
        (copy / "rpo_nb" / file).write_text(text.replace(there, then), encoding="utf-8")
    assert "0 policies trained, 2 were done already" in ensured(tmp_path / "words", cache, old)
    told = ensured(tmp_path / "standardise", cache, old, fresh)
    assert (
        "was trained on other rows or weights: made again" in told.split("# ")[1]
        and "made again" not in told.split("# ")[2]
    )
    found = results(old)
    assert found == results(fresh) and found.keys() == before.keys()
    assert {file for file in found if found[file] != before[file]} >= {
        file for file in found if "rpo-" in str(file)
    }


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """A tiny profile of a reference and sft, and two model folders of its architecture."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    profile = loading.load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,sft",
        taus="1.0",
        preset="paper",
        **TINY,
    )
    one, two = (Path(inputs.reference_path(profile, "small", seed)) for seed in (0, 1))
    return profile, one, two


def copied(source: Path, folder: Path) -> None:
    """The model's files in a folder, over those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name != STAMP:
            shutil.copyfile(file, folder / file.name)


def test_an_authors_checkpoint_that_is_replaced_in_place_is_asked_again(
    two_models, tmp_path, capsys
):
    profile, one, two = two_models
    copied(one, tmp_path / "authors")
    sizes = {
        "small": profile.sizes["small"].model_copy(update={"authors": str(tmp_path / "authors")})
    }
    profile = profile.model_copy(
        update={
            "sizes": sizes,
            "evaluation": profile.evaluation.model_copy(update={"authors": True}),
        }
    )

    def answers(out: str) -> dict[str, list[str]]:
        generations.ensure_runs(profile, tmp_path / out, progress=False)
        return (
            generations.load_generations(tmp_path / out)
            .groupby("method")["completion"]
            .apply(list)
            .to_dict()
        )

    before = answers("old")
    assert before[methods.AUTHORS] == before["reference"]  # the same weights
    copied(two, tmp_path / "authors")
    capsys.readouterr()
    after = answers("old")
    assert "0 policies trained, 1 were done already" in capsys.readouterr().out
    assert after == answers("fresh") and after[methods.AUTHORS] != before[methods.AUTHORS]


def test_a_model_that_is_fetched_by_the_first_start_has_the_same_key_in_the_second(
    two_models, hub_cache, tmp_path, monkeypatch, capsys
):
    profile, one, _ = two_models
    place, commit = hub_cache / "models--an--other", "c" * 40

    def download(name: str, **_) -> str:
        copied(one, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
        return str(place / "snapshots" / commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    sizes = {"small": profile.sizes["small"].model_copy(update={"id": "an/other"})}
    profile = profile.model_copy(update={"sizes": sizes})
    for trained in ("1 policies trained, 0", "0 policies trained, 1"):
        generations.ensure_runs(profile, tmp_path / "out", progress=False)
        assert trained in capsys.readouterr().out
    shutil.rmtree(place)
    keys = []
    for _ in range(2):
        staging.fetch(profile)
        keys.append(batch.params("03_train", profile)["key"])
    assert keys[0] == keys[1] and place.is_dir()


def test_clean_lists_what_nothing_needs_and_removes_it_when_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stale, "repository_root", lambda: tmp_path)
    assert (
        main(["clean", "--stale", "--yes"]) == 2
        and "nothing is reproduced in results/" in capsys.readouterr().err
    )
    out = tmp_path / "results" / "mine"
    profile = loading.load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,sft",
        taus="1.0",
        preset="paper",
        **TINY,
    )
    loading.write_profile(profile, out / "profile.yaml")
    generations.ensure_runs(profile, out, progress=False)
    needed = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    old_run, old_reference, old_logps = (
        out / "runs" / "sft-small-seed0-0123456789abcdef",
        tmp_path / "cache" / "references" / "small-seed0-old",
        tmp_path / "cache" / "reference_logps" / "0123456789abcdef",
    )
    for folder in (old_run, old_reference, old_logps):
        folder.mkdir()
        (folder / "big").write_bytes(b"x" * 2_000_000)
    seal(old_logps, {"model": "gone", "code": "old"})
    half = out / "runs" / "sft-small-seed0-0123456789abcdef" / ".policy.abcd1234"
    half.mkdir()
    capsys.readouterr()
    assert main(["clean", "--stale"]) == 0
    printed = capsys.readouterr().out
    listed = [line for line in printed.splitlines() if " MB  " in line]
    assert (
        len(listed) == 3
        and all("2.0 MB" in line for line in listed)
        and "nothing was removed; --yes removes these" in printed
    )
    assert not half.exists() and old_run.is_dir()
    assert (
        main(["clean", "--stale", "--yes"]) == 0
        and "removed 3 files and folders" in capsys.readouterr().out
    )
    assert {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    } == {path: content for path, content in needed.items() if path.suffix != ".lock"}
