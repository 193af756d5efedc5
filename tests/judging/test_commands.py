"""python -m rpo_nb judge --audit and --batch, on the pocket's judges and on a server's."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from rpo_nb.__main__ import main
from rpo_nb.config.loading import load_profile, write_profile
from rpo_nb.judging.gold import pocket_gold
from rpo_nb.store import atomic_write, packed


@pytest.fixture
def out(tmp_path):
    """An output folder with a profile of the checker and a server, and with generations."""
    server = {"kind": "endpoint", "model": "m", "url": "http://localhost:1/v1", "retries": 0}
    profile = load_profile(
        "smoke",
        sizes="small",
        seeds="0",
        **{"evaluation.judges": ["checker", "server"], "evaluation.llm_judges": {"server": server}},
    )
    folder = tmp_path / "results"
    write_profile(profile, folder / "profile.yaml")
    gold = pocket_gold(6)
    own = profile.presets["paper"].rpo_tau
    for preset in profile.presets:
        rows = [
            {"preset": preset, "method": method, "size": "small", "tau": tau, "seed": 0}
            | {"prompt_id": i, "prompt": row.prompt, "reference": "", "completion": text}
            for method, tau, side in (("rpo", own, "output_a"), ("sft", None, "output_b"))
            for i, (row, text) in enumerate(zip(gold.itertuples(), gold[side]))
        ]
        file = folder / "generations" / f"{preset}-small-seed0.jsonl.gz"
        atomic_write(file, packed(pd.DataFrame(rows)))
    return folder


def judge(out, *options):
    return main(["judge", "--output-dir", str(out), *options])


def test_an_audit_writes_a_card_of_each_judge_that_is_asked(out, capsys):
    assert judge(out, "--audit", "--judges", "checker", "--pairs", "40") == 0
    card = json.loads((out / "judges" / "checker.json").read_text(encoding="utf-8"))
    assert card["pairs"] == 40 and card["gold"] == "pocket"
    assert card["checks"][0]["value"] == 1 and not any(r["found"] for r in card["checks"][1:])
    assert not (out / "judges" / "server.json").exists()
    assert "Right in 100 %" in capsys.readouterr().out
    assert str(out) not in (out / "judges" / "checker.md").read_text(encoding="utf-8")


def test_a_card_has_the_runs_rates_at_equal_length_as_they_were_written(out, capsys):
    options = ("--audit", "--judges", "checker", "--pairs", "20")
    card = out / "judges" / "checker.json"
    assert judge(out, *options) == 0
    assert json.loads(card.read_text(encoding="utf-8"))["length_controlled"] == []
    cell = {"preset": "fixed", "size": "small", "baseline": "sft", "tau": 0.3, "win_rate": 60.0}
    cell |= {"ci_low": None, "ci_high": None, "lc_win_rate": 55.5, "lc_low": None, "lc_high": None}
    cell |= {"length_effect": 0.1, "longer": 0.5, "n": 16, "seeds": 1}
    rows = [cell | {"judge": name} for name in ("checker", "another")]
    (out / "tables").mkdir()
    pd.DataFrame(rows).to_csv(out / "tables" / "length_controlled.csv", index=False)
    assert judge(out, *options) == 0
    (shown,) = json.loads(card.read_text(encoding="utf-8"))["length_controlled"]
    assert (shown["judge"], shown["win_rate"], shown["lc_win_rate"]) == ("checker", 60, 55.5)
    assert "LC: what the win rate would be at equal lengths" in card.read_text(encoding="utf-8")


@pytest.mark.parametrize("options", [["--audit"], ["--batch", "write", "batch.jsonl"]])
def test_a_folder_of_another_profile_is_refused(out, options, capsys):
    assert judge(out, *options, "--profile", "pocket", "--judges", "server") == 2
    told = capsys.readouterr().err
    assert "was made with profile smoke; leave --profile out, or name another --output-dir" in told


def test_a_gold_file_of_ones_own_and_a_judge_that_is_none(out, tmp_path, capsys):
    gold = pocket_gold(30)
    file = tmp_path / "mine.jsonl"
    file.write_text(gold.to_json(orient="records", lines=True), encoding="utf-8")
    assert judge(out, "--audit", str(file), "--judges", "checker") == 0
    card = json.loads((out / "judges" / "checker.json").read_text(encoding="utf-8"))
    assert card["gold"] == "mine.jsonl" and card["pairs"] == 30
    assert judge(out, "--audit", "--judges", "chekcer") == 2
    assert "did you mean 'checker'" in capsys.readouterr().err


def test_the_tables_questions_go_out_as_a_batch_and_come_back(out, tmp_path, capsys):
    pytest.importorskip("openai")
    file = tmp_path / "batch.jsonl"
    assert judge(out, "--batch", "write", str(file)) == 0
    asked = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(asked) == 12  # six pairs in both orders, the same in every preset
    body = {"model": "m", "choices": [{"message": {"content": "A"}, "index": 0}]}
    rows = [{"custom_id": row["custom_id"], "response": {"body": body}} for row in asked]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert judge(out, "--batch", "read", str(file)) == 0
    assert "12 replies kept, 0 known already" in capsys.readouterr().out
    assert judge(out, "--batch", "read", str(file)) == 0
    assert "0 replies kept, 12 known already" in capsys.readouterr().out


def test_an_audits_batch_has_a_second_file_for_the_repeats(out, tmp_path, capsys):
    pytest.importorskip("openai")
    file = tmp_path / "batch.jsonl"
    assert judge(out, "--audit", "--pairs", "5", "--batch", "write", str(file)) == 0
    lines = [
        len((tmp_path / name).read_text(encoding="utf-8").splitlines())
        for name in ("batch.jsonl", "batch-again.jsonl")
    ]
    assert lines == [15, 5]
    assert judge(out, "--judges", "checker", "--batch", "write", str(file)) == 2
    assert "kind: endpoint" in capsys.readouterr().err
    assert judge(out, "--batch", "send", str(file)) == 2
    assert "write or read" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--judges", "checker"), ("--pairs", "3"), ("--prices", 1, 2)])
def test_options_of_an_audit_are_refused_without_one(out, capsys, option):
    """Dropped, they would have every judge asked, at a cost."""
    assert main(["judge", "--output-dir", str(out), *map(str, option)]) == 2
    assert "are of --audit and --batch" in capsys.readouterr().err
