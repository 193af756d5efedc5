"""Advice."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from rpo_nb import pocket
from rpo_nb.__main__ import main
from rpo_nb.config import loading, methods, objective
from rpo_nb.judging.judges import Checker
from rpo_nb.studies import advise
from tests.studies.worlds import cell

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
# gains of five seeds: best KTO is ahead of RPO in 60 % of pairs of runs, of SFT in all
GAINS = {
    "kto": [2.9, 3.0, 3.1, 3.0, 3.0],
    "rpo": [2.8, 3.05, 2.95, 3.2, 2.75],
    "sft": [1.0, 1.1, 0.9, 1.0, 1.0],
    "reference": [0.0] * 5,
}
SEEDS = pd.DataFrame(
    [
        {"study": "stronger", "policy": policy, "seed": seed, "gain": gain}
        for policy, gains in GAINS.items()
        for seed, gain in enumerate(gains)
    ]
)
TUNED = pd.DataFrame(
    [
        {"regime": regime, "method": method, "policy": policy, "setting": f"{policy}, rate × 2"}
        | {"gain": gain, "gain_low": gain - 0.1, "gain_high": gain + 0.1}
        for regime, method, policy, gain in (
            ("stronger", "reference", "reference", 0.0),
            ("stronger", "dro", "DRO", -0.25),
            ("stronger", "rpo", "RPO eq. 19", 1.5),
            ("narrow_reference", "rpo", "RPO eq. 19", 7.0),
        )
    ]
)
KNOWN = advise.Evidence(MAP, LOW, SEEDS, TUNED)
DATA = advise.Data(completions=4.0, single_share=0.0, logp=-0.85, wins=60.0)


def test_where_whatever_is_trained_breaks_the_texts_nothing_is_recommended():
    broken = MAP.assign(broken=MAP["broken"].where(MAP["method"].eq("reference"), 0.5))
    found = advise.recommend(KNOWN._replace(regimes=broken), DATA)
    assert found.settings() == "reference" and "nothing is recommended" in found.reasons[1]


def test_advice_tells_what_each_method_gains_at_its_best_in_that_regime_alone():
    told = next(one for one in advise.recommend(KNOWN, DATA).reasons if "settings tried" in one)
    assert told.endswith(
        "gain over the reference: +1.50 [1.40, 1.60] RPO eq. 19, rate × 2; "
        "-0.25 [-0.35, -0.15] DRO, rate × 2."
    )
    bare = KNOWN._replace(tuned=TUNED.iloc[:0])
    assert not any("settings tried" in one for one in advise.recommend(bare, DATA).reasons)


def test_advice_is_the_nearest_to_the_reference_of_those_level_with_the_best_and_sound():
    found = advise.recommend(KNOWN, DATA)
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
    told = next(reason for reason in found.reasons if reason.startswith("In how many of 100"))
    by_pairs = stats.mannwhitneyu(GAINS["rpo"], GAINS["kto"]).statistic / 25
    assert f"a run of rpo gains more than one of kto: {100 * by_pairs:.0f} [" in told
    assert "sft: 100 [" in told and "reference: 100 [" in told
    surely = SEEDS.assign(gain=SEEDS["gain"] - SEEDS["policy"].eq("rpo"))
    assert advise.recommend(KNOWN._replace(seeds=surely), DATA).method == "kto"
    alone = advise.recommend(KNOWN._replace(seeds=SEEDS[SEEDS["seed"].eq(0)]), DATA)
    assert "One seed cannot tell how surely it gains more than others." in alone.reasons
    # of an earlier version: nothing is known of seeds, so the best mean it is
    without = advise.recommend(KNOWN._replace(seeds=SEEDS.iloc[:0]), DATA)
    assert without.method == "kto" and not any("gains more" in one for one in without.reasons)
    assert "7.95 [7.85, 8.05]" in found.reasons[1] and "400 texts over 2 seeds" in found.reasons[-1]
    foreign = advise.recommend(KNOWN, replace(DATA, logp=-2.8))
    assert (foreign.method, foreign.tau) == (
        "sft",
        None,
    ) and "Level with it" not in foreign.reasons[1]
    assert any(
        reason.startswith("RPO, chosen alike: rpo: reward 6.00") for reason in foreign.reasons
    )
    assert not any("is a guess" in advice.reasons[0] for advice in (found, foreign))
    strange, lost = (
        advise.recommend(KNOWN, replace(DATA, logp=logp)).reasons[0] for logp in (-6.0, -9.0)
    )
    assert "No regime is like your data" in strange and "No regime is like your data" in lost
    assert "can hardly write such texts" in lost
    assert "can hardly write" not in strange
    sparse = advise.recommend(KNOWN, replace(DATA, single_share=0.9, logp=-9.0))
    assert sparse.estimator == "pooled"
    assert "can hardly write such texts" in sparse.reasons[0] and "90%" in sparse.reasons[0]
    assert found.settings() == "RPO, estimator leave_one_out, log-probabilities: sums, τ = 0.3"


def test_where_no_mean_is_above_the_references_it_is_kept():
    better = MAP.assign(reward=MAP["reward"].where(MAP["method"].ne("reference"), 8.0))
    found = advise.recommend(KNOWN._replace(regimes=better), DATA)
    assert (found.method, found.tau) == ("reference", None)
    assert (
        "mean reward of 8.00, and no policy's mean is above it; the best: kto" in found.reasons[1]
    )
    assert any("settings tried" in one for one in found.reasons)
    assert any("gains more than one of reference" in one for one in found.reasons)


def test_no_advice_trains_what_the_lab_found_below_the_reference():
    """The committed evidence, at every regime's own place."""
    known, advised = advise.evidence(), set()
    for _, one in known.regimes.drop_duplicates("regime").iterrows():
        data = advise.Data(float(one["k"]), 0.0, float(one["logp"]), float(one["data_wins"]))
        found = advise.recommend(known, data)
        advised.add(found.method)
        means = known.regimes[known.regimes["regime"].eq(one["regime"])].groupby("method")["reward"]
        assert means.max()[found.method] >= means.max()["reference"], one["regime"]
    assert len(advised) > 1


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
    known = advise.evidence()
    regime = re.search(r"lab's regimes is (\w+)", "\n".join(told))
    known = (
        known.low[known.low["k"].eq(1)]
        if k == 1
        else known.regimes[known.regimes["regime"].eq(regime[1])]
    )
    best = re.search(r"best(?: there)?: (.+?): reward ([\d.]+)", "\n".join(told))
    # measured, not typed
    assert known.set_index("policy")["reward"][best[1]] == pytest.approx(float(best[2]), abs=0.006)
    assert (
        known["method"]
        .map(methods.METHOD_NAMES)
        .eq(recommended.removeprefix("Recommended: ").split(",")[0])
        .any()
    )
    alone = "- 100% of the prompts have one completion."
    assert any(line.startswith(alone) for line in told) == (k == 1)


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


def test_a_judge_that_decides_nothing_is_named(profile):
    class Mute(Checker):
        def compare(self, prompts, first, second):
            return ["none"] * len(prompts)

    with pytest.raises(ValueError, match="judge checker said of no completion.*evaluation.judges"):
        advise.look(profile, "small", 0, Mute(pocket.score))
