"""The partition lab: truth, studies over shared runs, tables by hand, advice from tables."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

from rpo_nb import partition, pocket
from rpo_nb.__main__ import main
from rpo_nb.config import loading, methods, objective
from rpo_nb.experiment import inputs
from rpo_nb.experiment.grid import cells, plan
from rpo_nb.judging.judges import Checker
from rpo_nb.studies import advise, lab, lab_runs, lab_tables, truth
from rpo_nb.studies.lab import Spec, Study


@pytest.fixture(scope="module")
def profile():
    return loading.load_profile("smoke", sizes="small", seeds="0")


# Truth --------------------------------------------------------------------------------------------


def test_an_enumerated_language_is_a_distribution_and_its_v_star_is_the_exact_sum():
    pool = truth.enumerated(None, prompts=3, completions=200, longest=4)
    assert pool.rewards.shape == pool.sums.shape == pool.lengths.shape == (3, 200)
    assert pool.rewards.mean() == pytest.approx(
        0, abs=1e-9
    ) and pool.rewards.std() == pytest.approx(1)
    # 13 texts: all of them are drawn
    everything = truth.enumerated(None, prompts=1, completions=20_000, longest=2)
    first = np.unique(
        everything.sums.round(9) + 1e3 * everything.rewards.round(9), return_index=True
    )[1]
    sums, rewards = everything.sums[0, first], everything.rewards[0, first]
    assert len(first) == 13 and logsumexp(sums) == pytest.approx(0, abs=1e-9)
    for tau in (0.1, 1.0, 5.0):
        found = tau * partition.log_partition(sums, rewards, np.zeros(13, int), tau=tau)
        np.testing.assert_allclose(found, everything.truth(tau)[0], rtol=1e-9)


def test_v_star_of_samples_lies_between_their_mean_and_their_best():
    rewards = np.random.default_rng(0).normal(size=(5, 100))
    small, large = truth.v_star(rewards, 0.01), truth.v_star(rewards, 1e4)
    np.testing.assert_allclose(small, rewards.max(1) - 0.01 * math.log(100), atol=0.01)
    np.testing.assert_allclose(large, rewards.mean(1), atol=1e-3)
    table = truth.truth_table(rewards, "x", (0.01, 10.0))
    assert (
        table["largest_share"].iloc[0] > 0.5 > 0.05 > table["largest_share"].iloc[1]
        and (table["error"] > 0).all()
    )


def test_errors_hold_their_identities_and_know_who_is_consistent():
    pool = truth.enumerated(None, prompts=8, completions=400, longest=4)
    table = truth.errors(pool, "enumerated_on_policy", ks=(4, 64), taus=(0.5, 2.0), draws=6)
    assert (
        list(table.columns) == truth.BIAS_COLUMNS
        and len(table) == len(truth.ESTIMATORS) * 2 * 2 * 2
    )
    np.testing.assert_allclose(table["mse"], table["bias"] ** 2 + table["std"] ** 2, rtol=1e-9)
    assert ((table["ci_low"] <= table["bias"]) & (table["bias"] <= table["ci_high"])).all() and set(
        table["n"]
    ) == {48}
    cell = table.set_index(["estimator", "reduce", "tau", "k"])["mse"]
    for name in ("monte_carlo", "leave_one_out", "pooled"):
        assert cell[name, "sum", 2.0, 64] < cell[name, "sum", 2.0, 4] / 4
        assert cell[name, "sum", 2.0, 64] == cell[name, "mean", 2.0, 64]
    # it grows by log K
    assert cell["empirical", "mean", 2.0, 64] > cell["empirical", "mean", 2.0, 4]
    stronger = truth.errors(
        truth.enumerated(0.5, prompts=8, completions=400, longest=4),
        "x",
        ks=(64,),
        taus=(2.0,),
        draws=6,
    )
    # a stronger writer: too high
    assert (
        stronger.set_index("estimator").loc[["monte_carlo", "leave_one_out", "pooled"], "ci_low"]
        > 0
    ).all()


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
        Study("x", profile, "small", 0, (spec,), name).cell(spec).run.key
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
    runs = {cell.preset: cell.run for cell in cells(grid) if cell.method == "qrpo"}
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


# Advice -------------------------------------------------------------------------------------------


def cell(
    regime,
    method,
    reward,
    *,
    kl=1.0,
    broken=0.05,
    estimator="",
    tau=np.nan,
    logp=-0.8,
    half=0.1,
    **more,
):
    return {
        "regime": regime,
        "gap": 1.0,
        "method": method,
        "preset": "",
        "estimator": estimator,
        "reduce": "sum",
        "tau": tau,
        "policy": method,
        "reward": reward,
        "reward_low": reward - half,
        "reward_high": reward + half,
        "win_rate": 60.0,
        "kl": kl,
        "broken": broken,
        "k": 4.0,
        "logp": logp,
        "data_wins": 65.0,
        "n": 400,
        "seeds": 2,
        **more,
    }


MAP = pd.DataFrame(
    [
        cell("stronger", "reference", 5.0),
        cell("stronger", "kto", 8.0, kl=3, tau=1.0),
        cell("stronger", "rpo", 7.95, kl=2, tau=0.3, estimator="leave_one_out"),
        cell("stronger", "dro", 9.0, broken=0.5, tau=1.0),
        cell("stronger", "qrpo", 9.0, tau=0.3),
        cell("stronger", "sft", 6.0),
        cell("narrow_reference", "reference", 5.0, logp=-3.0),
        cell("narrow_reference", "sft", 7.0, logp=-3.0),
        cell("narrow_reference", "rpo", 6.0, logp=-3.0, tau=1.0, estimator="empirical"),
    ]
)
LOW = pd.DataFrame(
    [
        cell("", "reference", 5.0) | {"k": 1},
        cell("", "rpo", 6.0, tau=0.3, estimator="pooled") | {"k": 1},
        cell("", "dro", 5.5, tau=0.3) | {"k": 1},
        cell("", "kto", 9.0) | {"k": 8},
    ]
)
DATA = advise.Data(completions=4.0, single_share=0.0, logp=-0.85, wins=60.0)


def test_advice_is_the_nearest_to_the_reference_of_those_level_with_the_best_and_sound():
    found = advise.recommend(MAP, LOW, DATA)
    assert (found.method, found.estimator, found.reduce, found.tau) == (
        "rpo",
        "leave_one_out",
        "sum",
        0.3,
    )
    assert (
        "in 60 % of comparisons, and have a log-probability 0.54 nats a token above −log K under "
        "the reference" in found.reasons[0]
    )
    assert (
        "regimes is stronger (better writers, whose words the reference knows), whose data beat"
        in found.reasons[0]
    )
    assert (
        "best there: kto: reward 8.00" in found.reasons[1]
        and "Level with it, and nearest to the reference" in found.reasons[1]
    )
    assert "7.95 [7.85, 8.05]" in found.reasons[1] and "400 texts over 2 seeds" in found.reasons[-1]
    foreign = advise.recommend(MAP, LOW, replace(DATA, logp=-2.8))
    assert (foreign.method, foreign.tau) == (
        "sft",
        None,
    ) and "Level with it" not in foreign.reasons[1]
    assert any(
        reason.startswith("RPO, chosen alike: rpo: reward 6.00") for reason in foreign.reasons
    )
    assert not any("is a guess" in advice.reasons[0] for advice in (found, foreign))
    strange, lost = (
        advise.recommend(MAP, LOW, replace(DATA, logp=logp)).reasons[0] for logp in (-6.0, -9.0)
    )
    assert "No regime is like your data" in strange and "No regime is like your data" in lost
    assert "fine-tune it on them first (SFT)" in lost and "SFT" not in strange
    assert advise.recommend(MAP, LOW, replace(DATA, single_share=0.9)).estimator == "pooled"
    assert found.settings() == "RPO, estimator leave_one_out, log-probabilities: sums, τ = 0.3"


def test_advice_without_evidence_names_the_notebook(tmp_path):
    with pytest.raises(
        ValueError, match="no regime_map.csv .* run notebook 07_partition_lab first"
    ):
        advise.evidence(tmp_path)


SMALL = (
    "sizes=small seeds=0 sizes.*.tokenizer=[train] data.held_out=10 data.validation=4 "
    "evaluation.judges=[reward_model] "
    "evaluation.published_judges={}"
)


@pytest.mark.parametrize("k", [1, 4])
def test_the_command_advises_on_a_users_file(k, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "repository_root", lambda: tmp_path)
    rows = pocket.make_feedback(30, completions_per_prompt=4, seed=6)
    file = tmp_path / "own.jsonl"
    file.write_text(
        "\n".join(
            json.dumps(
                {
                    "prompt": row["instruction"],
                    "completion": one["response"],
                    "reward": one["overall_score"],
                }
            )
            for row in rows
            for one in row["completions"][:k]
        ),
        encoding="utf-8",
    )
    assert main(["advise", "--profile", "smoke", "--feedback", str(file), "--set", SMALL]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "own.jsonl, reference small of profile smoke, seed 0"
    for name in objective.PRESETS:
        assert any(
            line.startswith(f"preset {name}: ") and "effective sample size" in line for line in told
        )
    recommended = next(line for line in told if line.startswith("Recommended: "))
    table, low = advise.evidence()
    known = (
        low[low["k"].eq(1)]
        if k == 1
        else table[table["regime"].eq(re.search(r"lab's regimes is (\w+)", "\n".join(told))[1])]
    )
    best = re.search(r"best there: (.+?): reward ([\d.]+)", "\n".join(told))
    # measured, not typed
    assert known.set_index("policy")["reward"][best[1]] == pytest.approx(float(best[2]), abs=0.006)
    assert (
        known["method"]
        .map(methods.METHOD_NAMES)
        .eq(recommended.removeprefix("Recommended: ").split(",")[0])
        .any()
    )
    assert ("- 100% of the prompts have one completion." in told) == (k == 1)


def test_the_command_names_what_is_wrong_with_a_file_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "repository_root", lambda: tmp_path)
    file = tmp_path / "broken.jsonl"
    file.write_text('{"prompt": "Name a colour."}\nnot json\n', encoding="utf-8")
    assert main(["advise", "--profile", "smoke", "--feedback", str(file), "--set", SMALL]) == 2
    assert capsys.readouterr().err.startswith(
        "error: broken.jsonl: nothing in it can be used; the first of 2 defects is on line 1"
    )
    assert (
        main(
            [
                "advise",
                "--profile",
                "smoke",
                "--feedback",
                str(tmp_path / "none.jsonl"),
                "--set",
                SMALL,
            ]
        )
        == 2
    )
    assert "is no file, no folder and no hub id" in capsys.readouterr().err


def test_a_look_at_data_has_the_diagnostics_of_every_preset(profile):
    mine, lines = advise.look(profile, "small", 0, Checker(pocket.score))
    assert (
        mine.completions == pytest.approx(4, abs=0.2) and mine.logp < 0 and mine.single_share == 0
    )
    assert mine.wins > 80  # the smallest reference writes little that is right
    assert [line.split()[1].rstrip(":") for line in lines] == list(profile.presets) and all(
        "effective sample size" in line for line in lines
    )
