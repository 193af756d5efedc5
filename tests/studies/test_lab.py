"""The partition lab: truth, studies over shared runs, tables by hand, advice from tables."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb import partition, pocket
from rpo_nb.config import loading
from rpo_nb.experiment import inputs
from rpo_nb.experiment.grid import cells, plan
from rpo_nb.reporting import findings
from rpo_nb.studies import lab, lab_figures, lab_references, lab_runs, lab_tables
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


def test_what_a_reference_said_serves_disturbed_rewards_without_its_weights(
    profile, tmp_path, monkeypatch
):
    study = Study("stronger", profile, "small", 0, (lab.REFERENCE, lab.RIVAL))
    rows = lab_runs.measure([study], tmp_path, progress=False)
    noisy = replace(study, name="noise", disturbance="noise")
    assert noisy.file(lab.REFERENCE, tmp_path) == study.file(lab.REFERENCE, tmp_path)
    assert not noisy.is_answered(lab.REFERENCE, tmp_path)

    def gone(self):
        raise AssertionError("its weights are asked for")

    monkeypatch.setattr(inputs.Prepared, "reference", property(gone))
    for _ in range(2):
        again = lab_references.measure([study, noisy], tmp_path)
        assert again["study"].unique().tolist() == ["stronger", "noise"]
        assert again["completion"].tolist() == 2 * rows["completion"].tolist()
    other = replace(study, seed=1)  # what nobody asked yet is asked
    with pytest.raises(AssertionError, match="its weights are asked for"):
        lab_references.measure([other], tmp_path)


def test_qrpo_and_the_reference_are_made_and_measured_once(profile, tmp_path, capsys):
    study = Study("stronger", profile, "small", 0, (lab.REFERENCE, lab.RIVAL, Spec("qrpo", 0.3)))
    rows = lab_runs.measure([study], tmp_path, progress=False)
    assert "1 policies trained, 0 were done already" in capsys.readouterr().out
    assert len(rows) == 3 * profile.lab.prompts and not rows["log_ratio"].isna().any()
    assert (
        rows[rows["spec"].eq(0)]["log_ratio"].abs().max()
        < 1e-3
        < rows[rows["spec"].eq(2)]["log_ratio"].abs().max()
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


SPECS = (lab.REFERENCE, lab.RIVAL, Spec("sft"), Spec("kto", 1.0))
# rewards of four prompts, seed by seed; of the reference, of its rival, of SFT and of KTO
REWARDS = {0: [5.0, 5, 5, 5], 1: [5.0, 6, 5, 4], 2: [6.0, 5, 4, 9], 3: [8.0, 8, 9, 8]}


def told(profile, seeds, shift=lambda study, seed, spec: seed * (spec > 1)):
    """Studies of two regimes and rows of them: REWARDS, and `shift` more."""
    names = ("stronger", "on_policy")
    studies = [Study(name, profile, "small", seed, SPECS) for name in names for seed in seeds]
    rows = [
        {
            "study": study.name,
            "seed": study.seed,
            "spec": spec,
            "prompt_id": i,
            "prompt": f"{study.seed} {i}",
            "reward": reward + shift(study.name, study.seed, spec),
            "log_ratio": 0.5 * spec,
            "broken": float(i == 0),
        }
        for study in studies
        for spec, column in REWARDS.items()
        for i, reward in enumerate(column)
    ]
    return pd.DataFrame(rows), studies


def test_a_summary_by_hand(profile):
    rows, studies = told(profile, (0, 1))
    table = lab_tables.summarise(rows, studies).query("study == 'stronger'").set_index("method")
    assert table.index.tolist() == ["reference", "sft", "kto"]  # the rival is no policy
    assert table.loc["sft", "reward"] == 6.5 and table.loc["sft", "gain"] == 1.5
    assert table.loc["sft", "std"] == pytest.approx(math.sqrt(0.5))
    # over the rival: 6 5 4 9 against 5 6 5 4, and one more each against the same
    assert table.loc["sft", "win_rate"] == 100 * (1 + 0 + 0 + 1 + 1 + 0.5 + 0.5 + 1) / 8
    assert table.loc["reference", "win_rate"] == 50 and table.loc["reference", "gain_high"] == 0
    assert table.loc["kto", "kl"] == 1.5 and set(table["broken"]) == {0.25}
    assert set(table["n"]) == {8} and set(table["seeds"]) == {2}
    # two seeds' means, 6 and 7: Student's t with one degree of freedom
    known = stats.ttest_1samp([6.0, 7.0], 0).confidence_interval(0.95)
    assert table.loc["sft", ["reward_low", "reward_high"]].tolist() == pytest.approx(known)
    rows, studies = told(profile, (0,))
    alone = lab_tables.summarise(rows, studies)
    assert alone.filter(regex="_(low|high)$").isna().all(axis=None) and alone["std"].isna().all()


def test_duels_are_decided_together_and_never_by_one_seed(profile):
    pairs = [(Spec("kto", 1.0), Spec("sft")), (Spec("kto", 0.3), Spec("sft"))]
    rows, studies = told(profile, range(10), lambda study, seed, spec: 0.5 * seed * (spec == 3))
    duels = lab_tables.duels(rows, studies, {"one": pairs, "two": pairs[::-1]})
    assert len(duels) == 4 and duels["first"].unique().tolist() == ["KTO β 1"]
    assert set(duels["outcome"]) == {"first"} and set(duels["ahead"]) == {10}
    by_seed = [2.25 + 0.5 * seed for seed in range(10)]
    p = stats.ttest_1samp(by_seed, 0).pvalue
    assert duels["p"].tolist() == pytest.approx([4 * p] * 4) and duels["smallest"].isna().all()
    assert duels["difference"].tolist() == pytest.approx([np.mean(by_seed)] * 4)
    # seeds on both sides
    rows, studies = told(profile, (0, 1), lambda study, seed, spec: -4.0 * seed * (spec == 3))
    split = lab_tables.duels(rows, studies, {"one": pairs})
    assert set(split["outcome"]) == {"not decided"} and set(split["ahead"]) == {1}
    assert (split["smallest"] > split["difference"].abs()).all()
    rows, studies = told(profile, (0,))
    alone = lab_tables.duels(rows, studies, {"one": pairs})
    assert set(alone["outcome"]) == {"not decided"} and alone["low"].isna().all()
    assert alone["smallest"].isna().all() and set(alone["difference"]) == {2.25}


def test_pure_noise_decides_no_duel(profile):
    rng, found = np.random.default_rng(0), []
    pairs = [(Spec("kto", 1.0), Spec("sft"))]
    for _ in range(100):
        rows, studies = told(profile, (0, 1, 2))
        rows["reward"] = rng.normal(size=len(rows))
        found.append(lab_tables.duels(rows, studies, {"one": pairs})["outcome"].ne("not decided"))
    assert np.mean([one.any() for one in found]) <= 0.1  # a claim in twenty, and chance


def test_the_lab_in_one_table_and_seed_by_seed(profile):
    better = {"stronger": 1.0, "on_policy": 2.0}
    rows, studies = told(profile, range(5), lambda study, seed, spec: better[study] * (spec == 3))
    table = lab_tables.summary(rows, studies)
    assert table["method"].tolist() == ["kto", "sft"] and set(table["regimes"]) == {2}
    kto, sft = (table.iloc[i] for i in (0, 1))
    assert kto["iqm"] == pytest.approx(3.25 + 1.5) and kto["worst"] == 4.25 and sft["mean"] == 1.0
    assert kto["over_sft"] == 1 and sft["over_best"] == 0 and np.isnan(sft["over_sft"])
    assert 0.4 < kto["over_sft_low"] < 1 == kto["over_sft_high"]
    # the seeds agree, so their prompts alone say how sure the mean is
    error = stats.sem(np.subtract(REWARDS[2], 5)) / math.sqrt(5)
    assert sft["mean_high"] - sft["mean"] >= 0.999 * error
    seeds = lab_tables.by_seed(rows, studies)
    assert len(seeds) == 2 * 5 * 3 and seeds.query("policy == 'SFT'")["gain"].tolist() == [1.0] * 10
    alone = lab_tables.summary(*told(profile, (0,)))
    assert alone.filter(regex="_(low|high)$").isna().all(axis=None)
    assert alone["iqm"].tolist() == [3.25, 1.0]


@pytest.mark.parametrize("seeds", [(0,), (0, 1), range(10)])
def test_figures_stand_with_one_seed_or_many(profile, seeds):
    rows, studies = told(profile, seeds)
    summary = lab_tables.summary(rows, studies)
    profiles = lab_tables.profiles(rows, studies, summary)
    assert profiles.groupby("policy")["share"].apply(lambda s: s.is_monotonic_decreasing).all()
    assert profiles["low"].isna().all() == (len(seeds) == 1)
    about = pd.DataFrame({"regime": ["stronger", "on_policy"], "data": 6.0})
    about = about.assign(data_wins=60.0, k=4.0, logp=-1.0, own_logp=-1.0, above_log_k=0.5)
    table = lab_tables.regime_map(rows, studies, about)
    best = table.loc[table.groupby("regime")["gain"].idxmax()]
    assert set(best["policy"]) == {"KTO β 1"} and set(best["behind"]) == {0.5}
    assert set(table.loc[table["policy"].eq("reference"), "behind"]) == {1.0}
    duels = lab_tables.duels(rows, studies, {"one": [(Spec("kto", 1.0), Spec("sft"))]})
    alone = len(seeds) == 1
    by_seed = lab_tables.by_seed(rows, studies)
    for figure in (
        lab_figures.standing(summary, profiles),
        lab_figures.gains(table[table["method"].ne("reference")], by_seed),
        lab_figures.duels(duels, lab_figures.methods_of(table)),
    ):
        figure.draw_without_rendering()
        assert (findings.ALONE in " ".join(figure.get_suptitle().split())) == alone


def test_what_normalisation_is_worth_is_decided_for_all_lines_together():
    rates = pd.DataFrame(
        {
            "win_rate": [95.0, 60.0, 40.0, 52.0, 80.0],
            "error": [1.0, 1.0, 1.0, 1.0, np.nan],
            "df": [9.0, 9.0, 9.0, 9.0, np.nan],
        }
    )
    found = lab_tables.worth(rates)
    assert found["preferred"].tolist() == [
        "holds",
        "holds",
        "does not hold",
        "not decided",
        "not decided",
    ]
    assert found["above_published"].tolist() == [
        "holds",
        "does not hold",
        "does not hold",
        "does not hold",
        "not decided",
    ]
    # 52 alone would be decided at 10 %, and is the last step of Holm's method
    assert found["p"][3] == pytest.approx(2 * stats.t.sf(2.0, 9))
    assert found["smallest"].notna().tolist() == [False, False, False, True, False]
