"""The deep run on the smallest world: in parts, stopped and gone on with, taken from its parts
alone without a training, and never from one that is stale or damaged."""

import json
import lzma
import shutil
import sys
import tarfile

import pytest
import transformers

from rpo_nb.config import loading
from rpo_nb.experiment import inputs
from rpo_nb.running import parts
from rpo_nb.running.provenance import PACKAGE, cache_dir
from rpo_nb.store import read_json, write_json
from rpo_nb.studies import deep, lab, lab_runs, lab_tables
from rpo_nb.studies.paper_b import runs, tables

SMALL = {
    "data.prompts": 12,
    "data.validation": 6,
    "data.held_out": 20,
    "sizes.small.demonstrations": 800,
    "evaluation.judge_comparisons": 40,
    "lab.prompts": 6,
    "lab.taus": [1.0],
    "lab.betas": [0.3],
    "lab.estimators": ["empirical"],
    "lab.rows": 16,
    "paper_b.runs": ["dpo-iteration2"],
}


@pytest.fixture(scope="module")
def profile():
    chosen = {"sizes": "small", "methods": "reference,sft,rpo", "taus": "1", "preset": "paper"}
    return loading.load_profile("smoke", seeds="0,1", **chosen, **SMALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("deep")


@pytest.fixture(autouse=True)
def cache(place, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(place / "cache"))


@pytest.fixture(scope="module")
def first(profile, place):
    """The output folder after three starts: of one part, without time, to the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPO_NB_CACHE", str(place / "cache"))
        assert not deep.run(profile, place / "out", most=1, cores=1)
        assert [f.name for f in (place / "out" / "parts").iterdir()] == ["grid-seed0.tar.xz"]
        assert not deep.run(profile, place / "out", minutes=1e-9, cores=1)
        assert len(list((place / "out" / "parts").iterdir())) == 1
        assert deep.run(profile, place / "out", cores=1)
    return place / "out"


@pytest.fixture(scope="module")
def before(profile, first, place):
    """The tables of the first machine, from its own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPO_NB_CACHE", str(place / "cache"))
        return tables_of(profile, first)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something is trained")

    monkeypatch.setattr(transformers.Trainer, "train", refuse)


@pytest.fixture
def cloned(first, place, tmp_path, monkeypatch):
    """Another machine: an output folder with the parts alone, and an empty cache."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path / "cache"))
    inputs._splits.cache_clear()
    shutil.copytree(first / "parts", tmp_path / "out" / "parts")
    return tmp_path / "out"


def tables_of(profile, out) -> dict[str, str]:
    """Tables of every study as text, and the generations' bytes."""
    studies, few = lab.map_studies(profile), lab.low_data_studies(profile)
    rows = lab_runs.measure(studies, out, progress=False)
    about = lab_tables.regimes(studies, lab_runs.prepared(studies), out)
    results, curves, costs = runs.load(profile, out)
    frames = {
        "regime_map": lab_tables.regime_map(rows, studies, about),
        "by_seed": lab_tables.by_seed(rows, studies),
        "low_data": lab_tables.low_data_table(lab_runs.measure(few, out, progress=False), few),
        "table4": tables.table4(results, profile.paper_b),
        "curves": curves,
        "costs": costs,
    }
    texts = {name: frame.to_csv() for name, frame in frames.items()}
    files = sorted((out / "generations").glob("*.gz"))
    return texts | {file.name: file.read_bytes() for file in files}


def test_the_parts_are_by_study_and_seed(profile):
    assert [part.name for part in deep.parts_of(profile)] == [
        "grid-seed0",
        "stronger-seed0",
        "lab-seed0",
        "paper_b-seed0",
        "grid-seed1",
    ]
    keys = {deep.key_of(profile, part) for part in deep.parts_of(profile)}
    assert len(keys) == 5
    more = loading.load_profile("smoke", seeds="0,1,2", sizes="small")
    same = loading.load_profile("smoke", seeds="0", sizes="small")
    for part in deep.parts_of(same):  # another seed changes no part
        assert deep.key_of(more, part) == deep.key_of(same, part)


def test_what_tuning_chooses_comes_after_it():
    chosen = {"lab.tuning": 1, "lab.tuning_seeds": [5], "paper_b.reproduce": False}
    tuned = loading.load_profile("smoke", seeds="0", sizes="small", **chosen)
    assert [part.name for part in deep.parts_of(tuned)] == [
        "tuning-seed5",
        "grid-seed0",
        "stronger-seed0",
        "lab-seed0",
        "tuned-seed0",
    ]
    assert len({deep.key_of(tuned, part) for part in deep.parts_of(tuned)}) == 5


def test_tables_come_from_the_parts_alone_byte_by_byte(profile, first, before, cloned, no_training):
    assert len([name for name in before if name.endswith(".gz")]) == 2
    assert not cache_dir().exists()  # the other machine has made nothing
    write_json(cloned / "manifest.json", {"seeds": [0], "config_hash": "of a run of fewer seeds"})
    assert deep.run(profile, cloned, cores=1)
    assert read_json(cloned / "manifest.json")["seeds"] == [0, 1]
    assert tables_of(profile, cloned) == before
    for part in deep.parts_of(profile):
        deep.make(profile, part, cloned)
        ours, theirs = (parts.read(deep.file_of(out, part)).files for out in (cloned, first))
        # what only a training looks up is not looked up again
        assert len(ours) > 5 and {name: theirs.get(name) for name in ours} == ours, part


def test_another_kind_of_processor_needs_no_weights(
    profile, before, cloned, no_training, monkeypatch
):
    """Its estimates of the partition function have other last digits, so the rows have other keys;
    what was measured from them is served all the same."""
    known = inputs.inputs_key
    monkeypatch.setattr(inputs, "inputs_key", lambda *of: f"{known(*of)}-elsewhere")
    assert not cache_dir().exists()
    assert deep.run(profile, cloned, cores=1)
    assert tables_of(profile, cloned)["low_data"] == before["low_data"]


def test_a_damaged_part_is_told_and_made_again(profile, first, capsys):
    file = first / "parts" / "paper_b-seed0.tar.xz"
    content, were = file.read_bytes(), parts.read(file).files
    file.write_bytes(content[: len(content) // 2])
    assert deep.run(profile, first, cores=1)
    assert "paper_b-seed0.tar.xz is damaged" in capsys.readouterr().out
    files = parts.read(file).files
    assert {name: were.get(name) for name in files} == files


def test_a_stale_part_is_told_and_not_taken(profile, cloned, capsys):
    file = cloned / "parts" / "grid-seed0.tar.xz"
    held = parts.read(file)
    other = profile.model_copy(
        update={"training": profile.training.model_copy(update={"epochs": 2})}
    )
    grid = deep.parts_of(profile)[0]
    assert not deep.bring(other, grid, cloned)
    assert "was made with other settings or other code: made again" in capsys.readouterr().out
    assert not (cloned / "runs").exists()
    assert deep.bring(profile, grid, cloned) and capsys.readouterr().out == ""
    assert all((cloned.parent / name).exists() for name in held.files)


def test_weights_are_trained_where_only_they_can_say(profile, first, cloned, capsys):
    for part in deep.parts_of(profile):
        assert deep.bring(profile, part, cloned)
    (folder,) = (cloned / "runs").glob("sft-small-seed1-*")
    (said,) = folder.glob("completions-*.json")
    content = said.read_bytes()
    said.unlink()
    assert not (folder / "policy").exists()
    deep.make(profile, deep.parts_of(profile)[-1], cloned)
    assert said.read_bytes() == content
    printed = capsys.readouterr().out
    assert printed.count("came without its weights, which are needed: made again\n") >= 1
    assert printed.endswith("\n")
    assert (folder / "policy").exists()
    others = [f for f in (cloned / "runs").glob("*/policy") if f.parent != folder]
    assert others == []


def test_a_run_that_another_one_starts_from_is_trained_with_it(profile, first, cloned):
    for part in deep.parts_of(profile):
        assert deep.bring(profile, part, cloned)
    (gone,) = (cloned / "runs" / "paper_b").glob("dpo-iteration2-*")
    shutil.rmtree(gone)
    runs.ensure(deep.of_seed(profile, 0), cloned, progress=False)
    there = first / "runs" / "paper_b" / gone.name
    (said,) = gone.glob("*.jsonl.gz")
    assert said.read_bytes() == (there / said.name).read_bytes()


def test_the_deep_profile_extends_the_pocket():
    pocket, ten = loading.load_profile("pocket"), loading.load_profile("pocket-deep")
    assert (pocket.sizes, pocket.data, pocket.training) == (ten.sizes, ten.data, ten.training)
    assert ten.seeds == ten.paper_b.seeds == tuple(range(10))
    assert set(pocket.lab.regimes) <= set(ten.lab.regimes) == set(lab.REGIMES)
    assert set(lab.map_specs(pocket)) <= set(lab.map_specs(ten))
    assert set(pocket.paper_b.runs) <= {run.name for run in runs.World(ten, 0, "").runs}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 has other versions in the lock")
def test_the_committed_parts_are_of_todays_code_and_settings():
    """On every Python: what README and report quote, a fresh clone takes as it is."""
    folder = PACKAGE.parent / "results" / "pocket-deep"
    if not folder.is_dir():
        pytest.skip("the committed results are in a clone")
    ten = loading.load_profile("pocket-deep")
    stale = []
    for part in deep.parts_of(ten):
        with tarfile.open(fileobj=lzma.open(deep.file_of(folder, part)), mode="r|") as archive:
            header = json.load(archive.extractfile(archive.next()))  # the first of its members
        if header["key"] != deep.key_of(ten, part):
            stale.append(part.name)
    assert not stale, f"{len(stale)} parts are stale: see docs/provenance.md"
