"""Settings are checked before anything starts, and results have a place of their own."""

from __future__ import annotations

import json

import pytest

from rpo_nb import partition
from rpo_nb.__main__ import main
from rpo_nb.config import arguments, loading, objective, settings, studies
from rpo_nb.running import batch, jobs, staging
from rpo_nb.running.manifest import write_manifest
from rpo_nb.studies import lab
from tests.running.workflows import stand_in


@pytest.mark.parametrize(
    ("overrides", "field", "named"),
    [
        ({"sizes.smal.d_model": 8}, "sizes.smal", "small"),
        ({"presets.papre.rpo_tau": 1}, "presets.papre", "paper"),
        ({"training.epoch": 2}, "training.epoch", "epochs"),
        ({"trainin.epochs": 2}, "trainin", "training"),
        ({"sizes.small.d_modl": 8}, "sizes.small.d_modl", "d_model"),
        ({"paper_b.settings.dpo": {"distance": "bwd", "bta": 1.0}}, "bta", "beta"),
        ({"paper_b.settings.dpoo": {"distance": "bwd"}}, "dpoo", "dpo"),
        ({"evaluation.llm_judges.me": {"kind": "local", "model": "x", "urll": ""}}, "urll", "url"),
        ({"evaluation.llm_judges.me": {"modle": "x"}}, "evaluation.llm_judges.me.modle", "model"),
        ({"taus": "nan"}, "taus", "finite"),
        ({"taus": "0"}, "taus", "greater than 0"),
        ({"taus": "1,1"}, "taus", "twice"),
        ({"training.learning_rate": float("inf")}, "training.learning_rate", "finite"),
        ({"seeds": "-1"}, "seeds", "greater than or equal to 0"),
        ({"seeds": "0,0"}, "seeds", "twice"),
        ({"paper_b.seeds": [-1]}, "paper_b.seeds", "greater"),
        ({"methods": "rpo,rppo"}, "rppo", "rpo"),
        ({"methods": "rpo,rpo"}, "methods", "twice"),
        ({"evaluation.judges": ["reward_modl"]}, "reward_modl", "reward_model"),
        ({"evaluation.judges": []}, "evaluation.judges", "at least 1"),
        ({"evaluation.published_judges": {"chekcer": "Mistral"}}, "chekcer", "checker"),
        ({"evaluation.judge_size": "smal"}, "evaluation.judge_size", "small"),
        ({"evaluation.toxicity": "packagd"}, "evaluation.toxicity", "packaged"),
        ({"data.regime": "strongr"}, "data.regime", "stronger"),
        ({"data.held_out": 0}, "data.held_out", "above 0"),
        ({"lab.regimes": ["strnger"]}, "lab.regimes", "stronger"),
        ({"lab.estimators": ["empiricl"]}, "lab.estimators", "empirical"),
        ({"lab.disturbances": ["nose"]}, "lab.disturbances", "noise"),
        ({"lab.ablation_sizes": ["smal"]}, "lab.ablation_sizes", "small"),
        ({"presets.paper.partition": "monte"}, "presets.paper.partition", "monte_carlo"),
        ({"table4_presets": ["papr"]}, "table4_presets", "paper"),
        ({"feedback": "mine.jsonl", "evaluation.judges": ["checker"]}, "checker", "reward_model"),
        ({"feedback": "mine.jsonl", "methods": "qrpo"}, "qrpo", "leave it out"),
        ({"feedback": "mine.jsonl", "data.held_out": 0}, "data.held_out", "above 0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides, field, named):
    with pytest.raises(ValueError) as error:
        loading.load_profile("smoke", **overrides)
    told = str(error.value)
    assert field in told and named in told and "\n" not in told


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"- 1\n- 2\n", "list"),
        (b"name: [1\n", "line 2"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"name: x\n", "data"),
        (b"data: {}\nsizes: {}\n", "sizes"),
        (b"data: {}\nsizes: {s: {}}\n", "name"),
        (b"data: {}\nsizes: {s: {}}\npresets: [papr]\n", "paper"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, content, named):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=named):
        loading.load_profile(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("name", ["presets", "models", "published", "folder.yaml", "smok"])
def test_what_is_no_profile_is_not_taken_for_one(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ValueError, match=f"no profile '{name}'.*the profiles are: .*pocket"):
        loading.load_profile(name)


def test_every_profile_that_is_shipped_is_taken():
    names = {path.stem for path in settings.PROFILE_DIR.glob("*.yaml")} - set(settings.NO_PROFILES)
    assert "pocket" in names
    for name in names:
        assert loading.load_profile(name).name == name


def test_names_known_without_torch_are_those_that_there_are():
    assert tuple(partition.ESTIMATORS) == objective.ESTIMATORS
    assert tuple(lab.REGIMES) == studies.REGIMES and tuple(lab.DISTURBANCES) == studies.DISTURBANCES


def test_fewer_sizes_leave_out_what_stood_for_the_others():
    narrowed = loading.load_profile("smoke", sizes="large", **{"evaluation.judge_size": "small"})
    assert narrowed.evaluation.judge_size == "" and narrowed.lab.ablation_sizes == ()


def test_feedback_of_ones_own_on_smoke_has_a_judge_that_knows_it():
    mine = loading.load_profile("smoke", feedback="mine.jsonl")
    assert mine.evaluation.judges == ("reward_model",) and not mine.pocket_world


# ---- where results go ----------------------------------------------------------------------------


def test_each_content_has_its_own_results(tmp_path, monkeypatch):
    def place(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return loading.results_dir(loading.load_profile("smoke", feedback=str(tmp_path / name)))

    first, second = place("a/train.jsonl", "1"), place("b/train.jsonl", "2")
    assert first != second and first.name.startswith("smoke-train-")
    assert place("c/train.jsonl", "1") == first
    monkeypatch.chdir(tmp_path / "a")
    assert (
        loading.results_dir(loading.load_profile("smoke", feedback="train.jsonl")).name
        == first.name
    )
    folder = loading.results_dir(loading.load_profile("smoke", feedback=str(tmp_path / "a")))
    assert folder.name.startswith("smoke-a-")
    assert loading.results_dir(loading.load_profile("smoke")).name == "smoke"
    hub = [
        loading.results_dir(loading.load_profile("smoke", feedback=name))
        for name in ("x/same", "y/same")
    ]
    assert hub[0] != hub[1]


@pytest.mark.parametrize("name", ["data", "tables", "runs", "inputs"])
def test_feedback_that_is_named_as_a_folder_of_the_results_is_the_users(
    tmp_path, monkeypatch, name
):
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    (out / name / "table.csv").write_text("ours")
    (tmp_path / name).mkdir()
    (tmp_path / name / "train.jsonl").write_text("theirs")
    monkeypatch.chdir(tmp_path)
    staged = staging.stage(loading.load_profile("smoke", feedback=name), out)
    assert (out / staged.data.source / "train.jsonl").read_text() == "theirs"
    assert (out / name / "table.csv").read_text() == "ours"
    assert staging.stage(staged, out).data.source == staged.data.source


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["reproduce", "--profile", "smoke", "--output-dir", str(tmp_path / "file" / "out")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "--output-dir" in told and told.count("\n") == 1


def test_report_and_judge_keep_the_manifest_of_a_clone(tmp_path, monkeypatch):
    profile = loading.load_profile("smoke")
    write_manifest(profile, tmp_path, seconds=100.0, peak_memory_mb=900.0)
    before = (tmp_path / "manifest.json").read_text()
    stand_in(monkeypatch, "")
    assert batch.run(profile, tmp_path, only=jobs.TABLES) == 0
    assert (tmp_path / "manifest.json").read_text() == before
    batch.run(profile, tmp_path)  # a start from nothing begins its count anew
    assert json.loads((tmp_path / "manifest.json").read_text())["seconds"]["wall"] == 0


@pytest.mark.parametrize(
    ("key", "named"),
    [("epochs", "training.epochs"), ("learning_rat", "training.learning_rate"), ("ood", "paper_b")],
)
def test_a_key_without_its_section_is_refused_with_the_whole_key(key, named):
    with pytest.raises(ValueError, match=f"--set '{key}=2'.*did you mean '{named}"):
        arguments.settings([f"{key}=2"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("data FILE --set feedback=other.jsonl", "data reads FILE; leave feedback out"),
        ("data FILE --set data.source=other.jsonl", "data reads FILE; leave data.source out"),
        ("predict --score --set seeds=0", "--score reads what was predicted; leave --set out"),
        ("predict --score --feedback FILE", "--score reads what was predicted; leave --feedback"),
        ("publish --repo a/b --private", "--private is of --push; give both, or neither"),
        ("judge --audit --executor slurm", "--executor is of asking again; leave it out"),
        ("judge --audit --cores 2", "--cores is of asking again; leave it out"),
        ("judge --batch write FILE --snakemake=-n", "--snakemake is of asking again"),
        ("judge --batch write FILE --pairs 3", "--pairs is of --audit; leave it out"),
        ("ask FILE --profile flan-t5 --output-dir OUT", "was made with profile smoke; leave "),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(typed, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    loading.write_profile(loading.load_profile("smoke"), tmp_path / "OUT" / "profile.yaml")
    assert main(typed.split()) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


@pytest.mark.parametrize("typed", ["data FILE --feedback x", "plan --cores 2", "train --jobs 2"])
def test_an_option_of_other_commands_is_none_of_this_one(typed, capsys):
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err
