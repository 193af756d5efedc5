"""Profiles from strangers: a name runs nothing and leaves no folder, and what is no profile is
refused in one sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rpo_nb.__main__ import main
from rpo_nb.config import loading, settings
from rpo_nb.config.loading import load_profile
from rpo_nb.config.names import check_name, ending, plain_name, readable
from rpo_nb.running import staging

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((settings.PROFILE_DIR / "smoke.yaml").read_text(encoding="utf-8"))
HOSTILE = ROOT.parent / "shared" / "cases" / "hostile"
BAD_NAMES = [
    "a; touch x",
    "$(touch x)",
    "`touch x`",
    "a b",
    "../x",
    "..",
    ".",
    "a/b",
    "{x}",
    "-rf",
    "",
    "a\n",
    "a'b",
    'a"b',
    "<b>",
    "a" * 65,
    "a\0",
    "a*",
    "~",
    "a:b",
    "%s",
]


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMOKE | changes), encoding="utf-8")
    return path


def refused(argv: list[str], capsys: pytest.CaptureFixture) -> str:
    """The one sentence a command is refused with."""
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "Traceback" not in error, (
        error
    )
    return error


def dry_run(path: Path, tmp_path: Path) -> list[str]:
    """The command that only says what a profile's reproduction would do."""
    out = str(tmp_path / "out")
    return ["reproduce", "--dry-run", "--profile", str(path), "--output-dir", out]


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_could_leave_its_folder_or_reach_a_shell_is_refused(name, tmp_path, capsys):
    judge = {"kind": "endpoint", "model": "m", "url": "http://localhost:1/v1"}
    size = SMOKE["sizes"]["small"]
    preset = yaml.safe_load((settings.PROFILE_DIR / "presets.yaml").read_text(encoding="utf-8"))[
        "fixed"
    ]
    for key, changes in {
        "name": {"name": name},
        "sizes": {"sizes": {name: size}},
        "presets": {"presets": {name: preset}},
        "evaluation.llm_judges": {"evaluation": {"llm_judges": {name: judge}}},
        "evaluation.judges": {"evaluation": {"judges": [name]}},
    }.items():
        path = written(tmp_path, **changes)
        said = refused(dry_run(path, tmp_path), capsys)
        assert key in said and "cannot be a name" in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["small", "T5-base", "llama-3.2-1b", "größe", "1e3", "x" * 64])
def test_a_plain_name_is_taken(name):
    assert check_name(name) == name


def test_a_size_that_looks_like_a_number_stays_a_name(tmp_path):
    """papermill would make 1e3 a float; the workflow hands it over raw."""
    path = written(
        tmp_path,
        sizes={"1e3": SMOKE["sizes"]["small"]},
        lab=SMOKE["lab"] | {"ablation_sizes": ["1e3"]},
    )
    assert list(load_profile(str(path)).sizes) == ["1e3"]
    assert list(load_profile(str(path), sizes="1e3").sizes) == ["1e3"]
    command = [sys.executable, "-m", "rpo_nb", *dry_run(path, tmp_path)]
    command.append("--snakemake=--printshellcmds")
    dry = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0 and "-r sizes 1e3 -p seeds 0" in dry.stdout + dry.stderr


def test_two_cells_never_share_a_file(tmp_path):
    presets = yaml.safe_load((settings.PROFILE_DIR / "presets.yaml").read_text(encoding="utf-8"))
    path = written(
        tmp_path,
        sizes={"c": SMOKE["sizes"]["small"], "b-c": SMOKE["sizes"]["small"]},
        lab={},
        presets={"a": presets["fixed"], "a-b": presets["paper"], "paper": presets["paper"]},
    )
    with pytest.raises(ValueError, match="'a-b' of size 'c' .*share their files"):
        load_profile(str(path))


def test_hostile_profiles_run_nothing_and_leave_nothing(tmp_path, capsys, monkeypatch):
    """Every profile of shared/cases/hostile ends in one sentence that names the file or the key."""
    if not HOSTILE.is_dir():
        pytest.skip("../shared/cases/hostile is not on this machine")
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in (ROOT / "results").iterdir())
    for path in sorted(HOSTILE.glob("*.yaml")):
        said = refused(["reproduce", "--dry-run", "--profile", str(path)], capsys)
        assert path.name in said or str(path) in said
    assert (
        not list(tmp_path.iterdir())
        and sorted(p.name for p in (ROOT / "results").iterdir()) == before
    )


# ---- what is no profile -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"[1, 2]", "holds a list"),
        (b"word", "holds a str"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"a: [", "is not YAML at line 1"),
        (b"name: !!python/object/apply:os.system ['touch x']", "is not YAML at line 1"),
        (b"1: x", "the key 1 is no text"),
        (b"[" * 20_000, "nested too deep"),
        (b"a: " + b"1" * 5000, "profile 'mine.yaml'"),
        (b"x" * (1 << 20) + b"x", "more than 1 MiB"),
        (b"name: x", "is missing"),
        (b"sizes: {a: 1}\ndata: 3", "data is"),
        (b"presets: [papier]\nsizes: {a: 1}\ndata: {a: 1}", "'papier' is unknown"),
        (b"presets: [[1]]\nsizes: {a: 1}\ndata: {a: 1}", "presets is no list"),
        (b"presets: 3\nsizes: {a: 1}\ndata: {a: 1}", "presets: 3"),
        (b"lab: 3\nsizes: {a: 1}\ndata: {a: 1}", "lab"),
        (b"sizes: {a: 1}\ndata: {b: 1}\nfeedback_overrides: 3", "feedback_overrides"),
        (b"table4_presets: 3\nsizes: {a: 1}\ndata: {b: 1}", "table4_presets"),
        (b"table4_presets: [[1]]\nsizes: {a: 1}\ndata: {b: 1}", "table4_presets"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_sentence(text, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(text)
    assert said in refused(["plan", "--profile", "mine.yaml"], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_profile_that_is_a_folder_or_cannot_be_read_is_refused(tmp_path, capsys):
    (tmp_path / "mine.yaml").mkdir()
    assert "there is no profile" in refused(
        ["plan", "--profile", str(tmp_path / "mine.yaml")], capsys
    )


# ---- sizes that are left out --------------------------------------------------------------------


def test_fewer_sizes_narrow_what_the_lab_and_paper_b_say_of_them():
    assert load_profile("smoke").lab.ablation_sizes == ("small",)
    profile = load_profile("smoke", sizes="large")
    assert list(profile.sizes) == ["large"] and profile.lab.ablation_sizes == ()
    assert (
        load_profile("smoke", **{"paper_b.size": "small", "lab.size": "small"}).paper_b.size
        == "small"
    )
    for key in ("paper_b.size", "lab.size"):
        assert load_profile(
            "smoke", sizes="large", **{key: "small"}
        )  # what notebook 03 of the other size is told
        with pytest.raises(ValueError, match=f"{key}: 'huge'"):
            load_profile("smoke", **{key: "huge"})
    with pytest.raises(ValueError, match="lab.ablation_sizes: 'huge'"):
        load_profile("smoke", **{"lab.ablation_sizes": ["huge"]})


# ---- files of any name --------------------------------------------------------------------------

FEEDBACK = '{"prompt": "p", "completion": "c", "reward": 1}\n'
ODD_NAMES = [
    "<b>.jsonl",
    "{x}.jsonl",
    "$(touch x).jsonl",
    "a 'b'.jsonl",
    "-rf.jsonl",
    "two\nlines.jsonl",
    ".hidden.jsonl",
    "ü.jsonl",
    os.fsdecode(b"\xff\xfe.jsonl"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_feedback_of_any_name_is_linked_under_a_plain_one(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(FEEDBACK)
    profile = load_profile("pocket", feedback=readable(f"./{name}"))
    place = loading.results_dir(profile).name
    assert place.startswith("pocket-") and check_name(place)
    staged = staging.stage(profile, tmp_path / "out")
    assert staged.data.source == "inputs/feedback/feedback.jsonl" and staged.key()
    assert (tmp_path / "out" / staged.data.source).read_text() == FEEDBACK


def test_the_key_of_a_run_does_not_know_the_name_of_the_file(tmp_path):
    keys = set()
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text(FEEDBACK)
        keys.add(
            staging.stage(
                load_profile("pocket", feedback=str(tmp_path / name)), tmp_path / "out"
            ).key()
        )
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("name", "plain", "end"),
    [
        ("mine.jsonl", "mine", ".jsonl"),
        ("Mine.v1.JSONL.GZ", "Mine", ".jsonl.gz"),
        ("a.csv.bz2", "a", ".csv.bz2"),
        ("<b>.csv", "b", ".csv"),
        ("...", "feedback", ""),
        ("{}", "feedback", ""),
        ("a b.parquet", "a_b", ".parquet"),
        ("folder", "folder", ""),
    ],
)
def test_plain_names(name, plain, end):
    assert (plain_name(name), ending(name)) == (plain, end)
