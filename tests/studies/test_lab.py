"""The partition lab: truth, studies over shared runs, tables by hand, advice from tables."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rpo_nb import partition, pocket
from rpo_nb.config import loading
from rpo_nb.experiment import inputs
from rpo_nb.experiment.grid import cells, plan
from rpo_nb.studies import lab, lab_runs, lab_tables
from rpo_nb.studies.lab import Spec, Study

# Studies ------------------------------------------------------------------------------------------


def test_the_labs_policies_are_those_of_the_grid_where_they_agree(profile):
    grid = {run.key for run in plan(profile)}
    shared = [
        spec
        for spec in lab.map_specs(profile)
        if spec.method != "reference" and spec.run(profile, "small", 0).key in grid
    ]
    named = {
        "SFT",
        "best-of-K SFT",
        "DRO τ 1",
        "RPO eq. 19 τ 1",
        "RPO as released",
        "KTO as released",
        "DRO as released",
    }
    assert named <= {spec.words for spec in shared}
    assert Spec("rpo", 1.0, "sum", "empirical").presets(profile, "small") == "paper"
    assert Spec("kto", 1.0).presets(profile, "small") == "paper/fixed"
    # the authors' code also has dropout and no clipping
    assert Spec("rpo", 5.0, "mean", "empirical").presets(profile, "small") == ""
    assert Spec("rpo", 5.0, "mean", "empirical", True).presets(profile, "small") == "released"
    everywhere = [
        spec.run(lab.in_regime(profile, name), "small", 0).key
        for name in lab.REGIMES
        for spec in (Spec("sft"), Spec("qrpo", 0.3))
    ]
    assert len(set(everywhere)) == len(everywhere)


def test_the_plan_names_the_labs_own_policies(profile):
    # of the map KTO β 0.3, QRPO and eq. 19 with means; of the ablation V̂ = 0 twice and
    # leave-one-out with means; of low data all five
    assert lab.policies(profile) == 11


def test_the_overnight_lab_has_every_policy_once():
    night = loading.load_profile("lab-overnight")
    studies = [
        *lab.map_studies(night),
        *lab.low_data_studies(night),
        *lab.ablation_studies(night),
        *lab.robustness_studies(night),
    ]
    assert all(len(set(study.specs)) == len(study.specs) for study in studies)
    assert {spec.estimator for spec in lab.low_data_specs(night)} - {""} == set(
        partition.ESTIMATORS
    ) and lab.policies(night) > 2000
    assert max(night.lab.bias_ks) <= night.lab.bias_completions


def test_low_data_keeps_the_budget_and_disturbed_rewards_are_another_run(profile):
    for k in (1, 4):
        parts = inputs.splits(lab.low_data(profile, k), 0)
        assert parts.train.num_rows == pytest.approx(profile.lab.rows, abs=profile.lab.rows * 0.05)
        assert len(set(parts.train["prompt_id"])) == profile.lab.rows // k
    spec = Spec("kto", 1.0)
    runs = [
        Study("x", profile, "small", 0, (spec,), name).run(spec).key
        for name in ("", *lab.DISTURBANCES)
    ]
    assert len(set(runs)) == 4 and runs[0] == spec.run(profile, "small", 0).key
    with pytest.raises(
        ValueError, match="lab.regimes: 'strong' is unknown; the regimes are on_policy"
    ):
        lab.in_regime(profile, "strong")


def test_disturbances_do_what_they_say(profile):
    prepared = inputs.prepare(profile, "small", 0)
    study = Study("x", profile, "small", 0, ())
    for name in lab.DISTURBANCES:
        found = lab_runs.disturbed(replace(study, disturbance=name), prepared)
        assert found.rewards.shape == prepared.rewards.shape and found.ref_rewards.shape == (
            len(prepared.rewards),
            inputs.QRPO_SAMPLES,
        )
        correlation = np.corrcoef(found.rewards, prepared.rewards)[0, 1]
        if name == "scale":
            np.testing.assert_allclose(found.rewards, 100 * prepared.rewards)
        else:
            assert found.rewards.std() == pytest.approx(1) and correlation < 0.99
    assert lab_runs.disturbed(study, prepared) is prepared


def test_qrpo_and_the_reference_are_made_and_measured_once(profile, tmp_path, capsys):
    study = Study("stronger", profile, "small", 0, (Spec("reference"), Spec("qrpo", 0.3)))
    rows = lab_runs.measure([study], tmp_path, progress=False)
    assert "1 policies trained, 0 were done already" in capsys.readouterr().out
    assert len(rows) == 2 * profile.lab.prompts and not rows["log_ratio"].isna().any()
    assert (
        rows[rows["spec"].eq(0)]["log_ratio"].abs().max()
        < 1e-3
        < rows[rows["spec"].eq(1)]["log_ratio"].abs().max()
    )
    assert all(pocket.score(row.prompt, row.completion) == row.reward for row in rows.itertuples())
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")}
    pd.testing.assert_frame_equal(lab_runs.measure([study], tmp_path, progress=False), rows)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.json")} == before
    described = lab_tables.regimes([study], lab_runs.prepared([study]), tmp_path)
    table = lab_tables.regime_map(rows, [study], described)
    assert {
        "regime",
        "gap",
        "tau",
        "method",
        "preset",
        "estimator",
        "reward",
        "win_rate",
        "kl",
        "broken",
        "seeds",
    } <= set(table.columns)
    assert table["gap"].iloc[0] == pytest.approx(
        described["data"].iloc[0] - rows[rows["spec"].eq(0)]["reward"].mean()
    )


def test_qrpo_is_a_method_of_the_grid():
    grid = loading.load_profile("smoke", sizes="small", seeds="0", methods="qrpo,rpo")
    runs = {run.preset: run for run in cells(grid) if run.method == "qrpo"}
    assert runs["paper"].key == runs["fixed"].key != runs["released"].key
    assert runs["paper"].recipe["objective"] == {"method": "qrpo", "reduce": "sum", "beta": 0.3}
    assert "qrpo" not in loading.load_profile("smoke").methods


def test_qrpo_outside_the_pocket_world_is_refused(profile):
    other = profile.model_copy(
        update={"data": profile.data.model_copy(update={"source": "mine.jsonl"})}
    )
    with pytest.raises(
        ValueError, match="only the pocket world's checker can score; leave qrpo out of methods"
    ):
        inputs.reference_rewards(other, None, 0)


# Tables -------------------------------------------------------------------------------------------


def test_a_summary_and_a_duel_by_hand(profile):
    specs = (Spec("reference"), Spec("sft"), Spec("kto", 1.0))
    studies = [Study("stronger", profile, "small", seed, specs) for seed in (0, 1)]
    rewards = {0: [5.0, 5, 5, 5], 1: [6.0, 5, 4, 9], 2: [8.0, 8, 8, 8]}
    rows = pd.DataFrame(
        [
            {
                "study": "stronger",
                "seed": seed,
                "spec": spec,
                "prompt_id": i,
                "reward": r + seed * (spec > 0),
                "log_ratio": 0.5 * spec,
                "broken": float(i == 0),
            }
            for seed in (0, 1)
            for spec, column in rewards.items()
            for i, r in enumerate(column)
        ]
    )
    table = lab_tables.summarise(rows, studies).set_index("method")
    assert (
        table.loc["sft", "reward"] == 6.5
        and table.loc["sft", "std"] == pytest.approx(math.sqrt(0.5))
        and table.loc["kto", "reward"] == 8.5
    )
    assert (
        table.loc["sft", "win_rate"] == 100 * (1 + 0.5 + 0 + 1 + 1 + 1 + 0.5 + 1) / 8
        and table.loc["reference", "win_rate"] == 50
    )
    assert (
        table.loc["kto", "kl"] == 1.0
        and set(table["broken"]) == {0.25}
        and set(table["n"]) == {8}
        and set(table["seeds"]) == {2}
    )
    duel = lab_tables.duels(
        rows, studies, [(Spec("kto", 1.0), Spec("sft")), (Spec("kto", 0.3), Spec("sft"))]
    )
    assert (
        len(duel) == 1
        and duel["difference"].iloc[0] == 2.0
        and duel["outcome"].iloc[0] == "first"
        and duel["first"].iloc[0] == "KTO β 1"
    )
