"""Finished policies asked other prompts: nothing is trained, nothing is asked twice, and the
judges take what they say."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.evaluation import asking
from rpo_nb.evaluation.prompt_sets import PromptSet, read_prompts
from rpo_nb.experiment.grid import world_key
from rpo_nb.pocket.prompts import make_prompts
from rpo_nb.store import seal

PROMPTS = make_prompts(5, rng=np.random.default_rng(3))


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_t5):
    """(profile, output folder) with the policies rpo and sft of one seed, both the reference's own
    weights, sealed as finished."""
    folder = tmp_path_factory.mktemp("asked")
    model, tokenizer = tiny_t5
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    profile = load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        methods="reference,sft,rpo",
        preset="fixed",
        **{
            "sizes.small.id": str(folder / "base"),
            "evaluation.judges": ["checker"],
            "decoding.max_new_tokens": 8,
        },
    )
    out = folder / "results"
    for run in asking.chosen_runs(profile, methods="rpo,sft"):
        for part in (model, tokenizer):
            part.save_pretrained(run.folder(out) / "policy")
        seal(run.folder(out), {"seconds": 1.0, "world": world_key(profile, "small", 0)})
    write_profile(profile, out / "profile.yaml")
    return profile, out


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path_factory.getbasetemp() / "asked-cache"))


def test_a_file_of_prompts_is_asked_exported_and_judged(world, tmp_path, capsys, monkeypatch):
    profile, out = world
    seeds, judges_for = [], asking.judges_for

    def recorded(profile, out, seed):
        seeds.append(seed)
        return judges_for(profile, out, seed)

    monkeypatch.setattr(asking, "judges_for", recorded)
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(PROMPTS), encoding="utf-8")
    assert main(["ask", str(file), "--output-dir", str(out), "--judge"]) == 0
    assert "3 policies asked 5 prompts" in capsys.readouterr().out
    outputs = sorted((out / "asked" / "mine" / "alpaca_eval").glob("*.json"))
    assert [path.stem.split("-")[1] for path in outputs] == ["reference", "rpo", "sft"]
    for path in outputs:
        rows = json.loads(path.read_text(encoding="utf-8"))
        assert [row["instruction"] for row in rows] == PROMPTS
        assert {row["generator"] for row in rows} == {path.stem}
    table = (out / "tables" / "asked_mine.csv").read_text(encoding="utf-8").splitlines()
    assert len(table) == 3 and "lc_win_rate" in table[0]  # RPO over the reference and over SFT
    assert (out / "verdicts" / "asked_mine-checker.jsonl.gz").is_file()
    assert [type(seed) for seed in seeds] == [int]  # a key is made of it


def test_what_was_said_is_kept_and_other_prompts_are_asked_anew(world, monkeypatch):
    profile, out = world
    runs = asking.chosen_runs(profile, methods="rpo")
    prompts = PromptSet("kept", "prompts", [[p] for p in PROMPTS], [{}] * 5)
    first = asking.ask_policies(profile, out, prompts, runs)[0].replies
    files = {file: file.stat().st_mtime_ns for file in runs[0].folder(out).glob("*kept*")}
    assert len(files) == 1
    again = asking.ask_policies(profile, out, prompts, runs)[0].replies
    assert again == first
    assert {file: file.stat().st_mtime_ns for file in files} == files
    fewer = PromptSet("kept", "prompts", prompts.turns[:2], [{}] * 2)
    assert asking.ask_policies(profile, out, fewer, runs)[0].replies == first[:2]
    assert len(list(runs[0].folder(out).glob("*kept*"))) == 2


def test_a_second_turn_is_asked_with_all_that_was_said(world, monkeypatch):
    profile, out = world
    asked, given = [], iter([["one", "two"], ["three"]])

    def completions(profile, run, prepared, out, *, asked: str, prompts):
        seen.append((asked, prompts))
        return next(given)

    seen = asked
    monkeypatch.setattr(asking, "completions", completions)
    prompts = PromptSet("bench", "mt_bench", [["a", "b"], ["c"]], [{}, {}])
    runs = asking.chosen_runs(profile, methods="rpo")
    (found,) = asking.ask_policies(profile, out, prompts, runs)
    assert found.replies == [["one", "three"], ["two"]]
    assert [names for names, _ in seen] == [f"{prompts.key}-turn0-", f"{prompts.key}-turn1-"]
    assert seen[0][1] == ["a", "c"]
    said = [(message["role"], message["content"]) for message in seen[1][1][0]]
    assert said == [("user", "a"), ("assistant", "one"), ("user", "b")]
    rows = asking.as_generations([found], prompts)
    assert rows["prompt_id"].tolist() == [0, 1, 2]
    assert rows["completion"].tolist() == ["one", "three", "two"]


def test_a_second_turn_is_not_judged_and_said_so_before_anything_is_asked(world, tmp_path, capsys):
    """Each policy is asked it after its own first reply: no two were asked the same."""
    _, out = world
    bench = tmp_path / "question.jsonl"
    rows = [{"question_id": 81, "turns": PROMPTS[:1]}, {"question_id": 82, "turns": PROMPTS[1:3]}]
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = sorted(out.rglob("*"))
    assert main(["ask", str(bench), "--output-dir", str(out), "--judge"]) == 2
    told = capsys.readouterr().err
    assert "1 of the 2 prompts" in told and "without --judge" in told
    assert [path for path in sorted(out.rglob("*")) if path not in before] == []
    prompts = read_prompts(bench)
    with pytest.raises(ValueError, match="question: 1 of the 2 prompts"):
        asking.judged([], world[0], out, prompts)


def test_a_policy_that_is_not_there_and_a_name_that_is_none_are_told(world, tmp_path):
    profile, out = world
    prompts = PromptSet("p", "prompts", [["a"]], [{}])
    with pytest.raises(ValueError, match="no finished policy .*2 of 3 are missing"):
        asking.ask_policies(profile, tmp_path, prompts)
    with pytest.raises(ValueError, match="--methods: 'rop' is unknown; did you mean 'rpo'"):
        asking.chosen_runs(profile, methods="rop")
    with pytest.raises(ValueError, match="--seeds: 7"):
        asking.chosen_runs(profile, seeds="7")
    lonely = asking.ask_policies(profile, out, prompts, asking.chosen_runs(profile, methods="rpo"))
    with pytest.raises(ValueError, match="no pair to judge"):
        asking.judged(lonely, profile, out, prompts)


def test_a_policy_of_another_reference_is_not_asked_beside_todays(world, tmp_path):
    """Its folder is named by its own settings and code, not by the reference's code."""
    profile, out = world
    other = shutil.copytree(out, tmp_path / "other")
    (run,) = asking.chosen_runs(profile, methods="rpo")
    seal(run.folder(other), {"world": "earlier", "inputs": "of another reference"})
    prompts = PromptSet("p", "prompts", [["a"]], [{}])
    with pytest.raises(ValueError, match=f"{run.name} was trained from another reference"):
        asking.ask_policies(profile, other, prompts)


def test_the_reading_of_a_file_goes_the_whole_way(world, tmp_path):
    profile, out = world
    bench = tmp_path / "question.jsonl"
    bench.write_text(
        json.dumps({"question_id": 81, "category": "x", "turns": PROMPTS[:2]}), encoding="utf-8"
    )
    runs = asking.chosen_runs(profile, methods="reference,sft")
    prompts = read_prompts(bench)
    asked = asking.ask_policies(profile, out, prompts, runs)
    assert [len(one.replies[0]) for one in asked] == [2, 2]
    written = asking.export_all(asked, prompts, out)
    assert sum(path.parent.name == "mt_bench" for path in written) == 2


def test_a_prompt_that_is_cut_is_told(world):
    profile, out = world
    limit = profile.limits("small")["max_prompt_tokens"]
    prompts = PromptSet("own", "prompts", [["the red lamp"], ["lamp " * (limit + 5)]], [{}, {}])
    runs = asking.chosen_runs(profile, methods="rpo")
    with pytest.warns(UserWarning, match=f"own: 1 of 2 prompts, the first number 2,.* {limit} tok"):
        asking.ask_policies(profile, out, prompts, runs)
