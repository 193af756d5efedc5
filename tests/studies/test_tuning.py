"""Every method is given as many settings, chosen on seeds that are not reported."""

import pandas as pd
import pytest

from rpo_nb.config import loading
from rpo_nb.studies import lab, lab_runs, lab_tables, tuning
from rpo_nb.studies.lab import REFERENCE, RIVAL, Spec


def tuned(count, **more):
    settings = {"lab.tuning": count, "lab.taus": [0.1, 0.3, 1.0], "lab.betas": [0.1, 0.3, 1.0]}
    return loading.load_profile("smoke", sizes="small", seeds="0", **(settings | more))


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_every_method_has_as_many_settings_and_no_two_are_the_same(count):
    found = tuning.settings(tuned(count))
    assert {len(tried) for tried in found.values()} == {count}
    assert all(len(set(tried)) == count for tried in found.values())
    firsts = {method.words: tried[0].words for method, tried in found.items()}
    fixed = lab.presets()["fixed"]
    assert firsts["DRO"] == f"DRO τ {fixed.dro_tau:g}, rate × 1, epochs × 1"
    assert firsts["SFT"] == "SFT, rate × 1, epochs × 1" and len(firsts) == 7


def test_seeds_that_choose_are_not_reported_and_the_reference_is_asked_once():
    with pytest.raises(ValueError, match="lab.tuning_seeds: seed 0 chooses the settings"):
        tuning.tuning_studies(tuned(1, **{"lab.tuning_seeds": [0]}))
    studies = tuning.tuning_studies(tuned(4))
    assert {study.seed for study in studies} == {7}
    assert sum(REFERENCE in study.specs for study in studies) == 1
    base = tuned(4).training
    other = next(study for study in studies if study.name.endswith("rate × 2, epochs × 1"))
    assert other.profile.training.learning_rate == 2 * base.learning_rate
    assert other.specs and tuning.possible_studies(tuned(0)) == []
    # SFT has no temperature, so its four settings are four schedules
    assert sum(Spec("sft") in study.specs for study in studies) == 4


def test_the_best_on_the_tuning_seed_is_reported_on_the_others(tmp_path):
    profile = tuned(2, **{"lab.prompts": 6, "lab.taus": [1.0], "lab.betas": [0.3]})
    trials = tuning.tuning_studies(profile)
    rows = lab_runs.measure(trials, tmp_path, progress=False)
    table = tuning.tried(rows, trials, profile)
    assert len(table) == 7 * 2 and table["chosen"].sum() == 7
    places = {study.name: study.specs for study in trials}
    for _, row in table.iterrows():
        words, schedule = row["setting"].split(", rate")
        name = f"stronger, rate{schedule}"
        place = [spec.words for spec in places[name]].index(words)
        mine = rows[rows["study"].eq(name) & rows["spec"].eq(place)]
        assert set(mine["seed"]) == {7} and mine["reward"].mean() == pytest.approx(row["reward"])
    best = table.loc[table.groupby("method")["reward"].idxmax()].set_index("method")["setting"]
    chosen = tuning.choose(table, profile)
    assert {method.words: one.words for (_, method), one in chosen.items()} == best.to_dict()

    finals = tuning.reported_studies(profile, chosen)
    final_rows = lab_runs.measure(finals, tmp_path, progress=False)
    found, views = tuning.by_method(final_rows, finals, profile, chosen)
    assert set(found["seed"]) == {0} and len(found) == 9 * 6 and len(views) == 1
    assert views[0].specs[:2] == (REFERENCE, RIVAL)
    for place, method in enumerate(views[0].specs[2:], 2):
        setting = chosen["stronger", method]
        name = f"stronger, rate × {setting.rate:g}, epochs × {setting.epochs}"
        study = next(study for study in finals if study.name == name)
        theirs = final_rows["study"].eq(study.name) & final_rows["spec"].eq(
            study.specs.index(setting.spec)
        )
        pd.testing.assert_series_equal(
            found[found["spec"].eq(place)]["completion"].reset_index(drop=True),
            final_rows[theirs]["completion"].reset_index(drop=True),
        )
    summary = lab_tables.summary(found, views)
    assert set(summary["policy"]) == set(best.index) and summary["iqm_low"].isna().all()
    by_regime = lab_tables.tuned_map(
        found, views, {place: one.words for place, one in chosen.items()}
    )
    named = by_regime[by_regime["method"].ne("reference")].set_index("policy")
    assert named["setting"].to_dict() == best.to_dict() and set(named["regime"]) == {"stronger"}
    assert named.loc["SFT", "gain"] == pytest.approx(summary.set_index("policy").loc["SFT", "mean"])
    duels = lab_tables.duels(found, views, tuning.pairs(profile))
    assert duels["reading"].value_counts().to_dict() == {"RPO eq. 19": 6, "RPO V̂ = 0": 5}
    eq19, dro = named.loc["RPO eq. 19", "reward"], named.loc["DRO", "reward"]
    duel = duels[duels["reading"].eq("RPO eq. 19") & duels["second"].eq("DRO")].iloc[0]
    assert duel["difference"] == pytest.approx(eq19 - dro)
    mean = found.groupby("spec")["reward"].mean()
    sft = views[0].specs.index(Spec("sft"))
    assert summary.set_index("policy").loc["SFT", "mean"] == pytest.approx(mean[sft] - mean[0])


def test_a_curve_over_data_changes_the_prompts_alone():
    profile = loading.load_profile(
        "smoke", sizes="small", seeds="0", **{"lab.more_prompts": [8, 16]}
    )
    small, large = lab.data_studies(profile)
    assert [study.profile.data.prompts for study in (small, large)] == [8, 16]
    assert small.specs == large.specs and small.prompts == large.prompts
    same = profile.data.model_copy(update={"prompts": 8})
    assert small.profile.model_copy(update={"data": profile.data}) == profile
    assert small.profile.data == same and lab.data_studies(tuned(0)) == []
