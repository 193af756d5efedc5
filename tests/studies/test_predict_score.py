"""What came true of a prediction, after the study."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss

from rpo_nb import pocket
from rpo_nb.__main__ import main
from rpo_nb.config import loading
from rpo_nb.reporting import captions, contents, page
from rpo_nb.store import packed
from rpo_nb.studies import prediction, prediction_scores
from tests.studies.test_predict import MINE, STUDIED, always, evidence, pairs


def test_a_brier_score_by_hand():
    table = pd.DataFrame(
        {
            "probability": [0.7, 0.6, 0.5, 0.65],
            "lab": [1.0, 0.9, 0.5, 0.8],
            "difference": [1.0, -1.0, 2.0, -0.1],
            "outcome": ["yes", "no", "yes", "not decided"],
        }
    )
    decided, every = prediction_scores.scores(table).to_dict("records")
    assert decided["pairs"] == 3 and decided["right"] == 1.5
    assert decided["brier"] == pytest.approx((0.3**2 + 0.6**2 + 0.5**2) / 3)
    assert decided["half"] == every["half"] == 0.25
    assert decided["expected"] == pytest.approx((0.7 * 0.3 + 0.6 * 0.4 + 0.25) / 3)
    assert every["pairs"] == 4 and every["right"] == 1.5
    assert every["brier"] == pytest.approx(brier_score_loss([1, 0, 1, 0], table["probability"]))
    lab = table["lab"].to_numpy()
    assert decided["lab_brier"] == pytest.approx((0 + 0.9**2 + 0.5**2) / 3)
    for row, y in ((decided, [1, 0, 1]), (every, [1, 0, 1, 0])):
        lead = lab[: len(y), None] - 0.5
        slope = np.linalg.lstsq(lead, np.array(y) - 0.5)[0]
        assert row["carried"] == pytest.approx(slope[0])
    assert np.isnan(prediction_scores.brier([], [])) and np.isnan(
        prediction_scores.carried([0.5], [1.0])
    )


def test_a_pair_is_decided_by_its_interval_over_seeds_and_prompts():
    rng = np.random.default_rng(0)
    means = {"RPO": 1.0, "SFT": 0.0, "reference": 0.01}
    scored = pd.DataFrame(
        [
            {"policy": name, "seed": seed, "prompt_id": i, "reward": mean + rng.normal(0, 0.3)}
            for (name, mean), seed, i in product(means.items(), range(3), range(50))
        ]
    )
    made = [("SFT", "RPO", 0.4), ("RPO", "reference", 0.7), ("SFT", "reference", 0.6)]
    keys = ("first", "second", "probability")
    said = [dict(zip(keys, one, strict=True)) | {"lab": one[-1]} for one in made]
    table = prediction_scores.compared(scored, said)
    assert table["outcome"].tolist() == ["no", "yes", "not decided"]
    by_hand = scored.groupby(["policy", "seed"])["reward"].mean().groupby("policy").mean()
    assert table["difference"][0] == pytest.approx(by_hand["SFT"] - by_hand["RPO"])
    gains = prediction_scores.over_reference(table)
    assert gains["gain"]["RPO"] == pytest.approx(by_hand["RPO"] - by_hand["reference"])
    assert gains["decided"].to_dict() == {"RPO": True, "SFT": False}
    alone = prediction_scores.compared(scored[scored["seed"].eq(0)], said[:1])
    assert alone["outcome"].tolist() == ["not decided"]  # one seed decides nothing
    assert "One seed decides no pair" in prediction_scores.verdict(
        prediction_scores.scores(alone), 1
    )
    wrong = prediction_scores.worst(table.assign(probability=[0.6, 0.7, 0.9]))
    assert len(wrong) == 1 and wrong[0].startswith("Wrong: SFT over RPO had a probability of 0.60")


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    """No reference is trained to name the model."""
    monkeypatch.setattr(prediction.inputs, "reference_path", lambda *_: "a/reference")


@pytest.fixture
def study(tmp_path):
    """A study of the pocket world that has ended, with made-up completions: RPO's are the data's
    best, the reference's and SFT's are the worst."""
    out = tmp_path / "study"
    out.mkdir()
    profile = loading.load_profile(
        "smoke", sizes="small", methods="reference,sft,rpo", preset="fixed"
    )
    loading.write_profile(profile, out / "profile.yaml")
    for seed in profile.seeds:
        rows = []
        for i, row in enumerate(pocket.make_feedback(12, completions_per_prompt=4, seed=seed)):
            ranked = sorted(
                (one["response"] for one in row["completions"]),
                key=lambda text, prompt=row["instruction"]: pocket.score(prompt, text),
            )
            said = {"reference": ranked[0], "sft": ranked[0], "rpo": ranked[-1]}
            rows += [
                {
                    "preset": "fixed",
                    "method": method,
                    "size": "small",
                    "tau": profile.presets["fixed"].rpo_tau if method == "rpo" else None,
                    "seed": seed,
                    "prompt_id": i,
                    "prompt": row["instruction"],
                    "reference": ranked[-1],
                    "completion": text,
                }
                for method, text in said.items()
            ]
        file = out / "generations" / f"fixed-small-seed{seed}.jsonl.gz"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(packed(pd.DataFrame(rows)))
        # of a seed that is none of the prediction's
        file.with_name("fixed-small-seed9.jsonl.gz").write_bytes(
            packed(pd.DataFrame(rows).assign(seed=9, completion="nothing"))
        )
    found = prediction.predicted(evidence(always), MINE, STUDIED, len(profile.seeds)) | {
        "study": {"size": "small", "seeds": list(profile.seeds)},
        "dated": "2026-01-01",
        "made_from": prediction.made_from(profile, "small"),
    }
    (out / prediction.FILE).write_text(json.dumps(found), encoding="utf-8")
    return out, profile


def test_the_command_scores_a_study_and_the_report_shows_it(study, capsys):
    out, profile = study
    assert main(["predict", "--score", "--results", str(out)]) == 0
    told = capsys.readouterr().out
    table = pd.read_csv(out / "tables" / "prediction.csv")
    outcomes = {(r.first, r.second): r.outcome for r in table.itertuples()}
    assert outcomes["RPO", "SFT"] == outcomes["RPO", "reference"] == "yes"
    assert outcomes["SFT", "reference"] == "not decided"  # the same texts
    assert (table["seeds"] == len(profile.seeds)).all()
    assert table["decoded"].eq("alike").all()
    found = json.loads((out / prediction.FILE).read_text())
    p = pairs(found)
    score = pd.read_csv(out / "tables" / "prediction_score.csv").iloc[0]
    assert score["pairs"] == 2 and score["half"] == 0.25
    by_hand = ((1 - p["RPO", "SFT"]) ** 2 + (1 - p["RPO", "reference"]) ** 2) / 2
    assert score["brier"] == pytest.approx(by_hand, rel=1e-4)
    assert f"Of 3 pairs 2 are decided: 2 of 2 went as predicted, Brier score {by_hand:.3f}" in told
    assert (out / "figures" / "prediction.svg").stat().st_size > 1000
    text = page.report(out, profile).read_text(encoding="utf-8")
    for name in ("prediction", "prediction_score"):
        assert contents.SHOWN[name].title in text
    assert captions.PICTURES["prediction"].caption in text
    # scored once: the same texts of the same judge are not scored again
    kept = out / "verdicts" / "prediction-checker.jsonl.gz"
    before = kept.stat().st_mtime_ns
    assert main(["predict", "--score", "--results", str(out)]) == 0
    assert kept.stat().st_mtime_ns == before


def test_a_study_that_has_not_ended_or_was_not_predicted_is_refused(study, tmp_path, capsys):
    out, profile = study
    loading.write_profile(profile, tmp_path / "profile.yaml")
    assert main(["predict", "--score", "--results", str(tmp_path)]) == 2
    assert "so there is nothing to score" in capsys.readouterr().err
    (tmp_path / prediction.FILE).write_text((out / prediction.FILE).read_text())
    name = f"fixed-small-seed{profile.seeds[0]}.jsonl.gz"
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations" / name).write_bytes((out / "generations" / name).read_bytes())
    assert main(["predict", "--score", "--results", str(tmp_path)]) == 2
    assert f"no completions of seed {profile.seeds[1]}" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"training.epochs": 3}, {"data.prompts": 7}])
def test_a_prediction_of_another_study_is_not_scored(study, capsys, change):
    out, _ = study
    other = loading.load_profile(
        "smoke", sizes="small", methods="reference,sft,rpo", preset="fixed", **change
    )
    loading.write_profile(other, out / "profile.yaml")
    assert main(["predict", "--score", "--results", str(out)]) == 2
    assert "was made for other settings than this study has" in capsys.readouterr().err
    assert not (out / "tables" / "prediction.csv").exists()


def test_how_each_is_decoded():
    """By the texts that are taken: of a preset that decodes all methods alike, where one does; and
    the authors' code decodes KTO otherwise than the rest."""
    policies = [
        {"policy": f"{method} {name}", "method": method, "presets": presets}
        for method in ("rpo", "dro", "kto")
        for name, presets in {
            "paper": ["paper"],
            "released": ["released"],
            "both": ["released", "fixed"],
        }.items()
    ]
    profile = loading.load_profile("smoke")
    found = prediction_scores.decodings({"policies": policies}, profile)
    unlike = [policy for policy, how in found.items() if how != profile.decoding]
    assert unlike == ["rpo released", "dro released", "kto released"]
    assert found["rpo released"] == found["dro released"] != found["kto released"]
    assert not found["kto released"].do_sample
