"""A prediction before the study, and its score after it."""

import json
from itertools import product
from math import erf, exp, sqrt

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from rpo_nb.__main__ import main
from rpo_nb.config import loading, methods
from rpo_nb.studies import advise, odds, prediction
from rpo_nb.studies.prediction import Policy
from tests.studies.worlds import cell

REGIMES = {"stronger": (65.0, -0.8), "weak_reference": (75.0, -0.9), "narrow_reference": (95.0, -4)}
STUDIED = [
    Policy("reference", "reference", ("fixed",), "reference"),
    Policy("SFT", "sft", ("fixed",), "sft"),
    Policy("RPO", "rpo", ("fixed",), "rpo"),
]
MINE = advise.Data(completions=4.0, single_share=0.0, logp=-0.8, wins=65.0)


def evidence(gain, seeds=4):
    """The lab's tables in which `gain` (regime, policy, seed) is what a policy gained."""
    table = pd.DataFrame(
        [
            cell(regime, one.lab, 5.0, logp=logp, data_wins=wins)
            for regime, (wins, logp) in REGIMES.items()
            for one in STUDIED
        ]
    )
    rows = [
        {"study": regime, "policy": one.lab, "seed": seed, "gain": gain(regime, one.lab, seed)}
        for regime, one, seed in product(REGIMES, STUDIED, range(seeds))
    ]
    return advise.evidence()._replace(regimes=table, low=table.iloc[:0], seeds=pd.DataFrame(rows))


def always(regime, policy, seed):
    return {"reference": 0.0, "sft": 1.0, "rpo": 2.0}[policy] + seed


def pairs(found):
    """(first, second) -> probability, in both directions."""
    told = {(one["first"], one["second"]): one["probability"] for one in found["pairs"]}
    return told | {(b, a): round(1 - p, prediction.DIGITS) for (a, b), p in told.items()}


# ---- probabilities -------------------------------------------------------------------------------


def test_a_method_that_always_wins_has_the_highest_probability_there_is():
    found = prediction.predicted(evidence(always), MINE, STUDIED, 3)
    known = found["evidence"]
    p = pairs(found)
    assert p["RPO", "SFT"] == p["SFT", "reference"] == p["RPO", "reference"] == known["highest"]
    assert known["carried"] == 1 and [one["policy"] for one in found["policies"]] == [
        "RPO",
        "SFT",
        "reference",
    ]
    # by hand: the regimes' weights, and even odds that the lab says nothing here
    apart = [np.hypot((w - 65) / 10, (lp + 0.8) / 0.5) for w, lp in REGIMES.values()]
    kernel = [exp(-d * d / 2) for d in apart]
    like = sum(kernel) / (sum(kernel) + exp(-(advise.ALIKE**2) / 2))
    assert known["highest"] == pytest.approx(0.5 + 0.5 * like / 2, abs=1e-4)
    assert 0.5 < known["highest"] < 0.75
    # at its word the lab is sure
    assert all(one["lab"] == 1 for one in found["pairs"])
    assert known["no_regime"] == pytest.approx(1 - like, abs=1e-4)
    # the best of three in every draw: what is believed, and a third of what is not
    firsts = {one["policy"]: one["first"] for one in found["policies"]}
    believed = 0.5 * like
    assert firsts["RPO"] == pytest.approx(believed + (1 - believed) / 3, abs=1e-4)
    assert sum(firsts.values()) == pytest.approx(1, abs=3e-4)


def test_noise_says_next_to_nothing_and_data_that_are_like_no_regime_nothing():
    rng = np.random.default_rng(0)
    leads = np.array(
        [
            [
                one["probability"] - 0.5
                if one["first"] < one["second"]
                else 0.5 - one["probability"]
                for one in prediction.predicted(made, MINE, STUDIED, 3)["pairs"]
            ]
            for made in (evidence(lambda *_: rng.normal(), seeds=6) for _ in range(40))
        ]
    )
    assert abs(leads.mean()) < 0.02
    # believing in noise costs little on average, in hundredths of the score of ½ for all
    assert np.square(leads).mean() < 0.02 * 0.25
    far = advise.Data(completions=4.0, single_share=0.0, logp=-9.0, wins=5.0)
    found = prediction.predicted(evidence(always), far, STUDIED, 3)
    assert set(pairs(found).values()) == {0.5}
    assert all(one["lab"] in (0, 1) for one in found["pairs"])  # however far it is
    assert found["evidence"]["no_regime"] == pytest.approx(1, abs=1e-3)


def test_a_study_of_nothing_that_the_lab_has_is_told():
    strangers = [one._replace(lab="") for one in STUDIED]
    with pytest.raises(ValueError, match="the lab has no policy of this study"):
        prediction.predicted(evidence(always), MINE, strangers, 3)


def test_regimes_that_contradict_each_other_carry_nothing_over():
    turned = evidence(
        lambda regime, policy, seed: always(regime, policy, 0) * (-1 if regime == "stronger" else 1)
    )
    found = prediction.predicted(turned, MINE, STUDIED, 3)
    assert found["evidence"]["carried"] < 0.05
    assert all(abs(p - 0.5) < 0.03 for p in pairs(found).values())


def test_a_policy_that_the_lab_lacks_is_even_with_all_and_seeds_are_needed():
    more = [*STUDIED, Policy("new", "rpo", ("own",), "")]
    found = prediction.predicted(evidence(always), MINE, more, 3)
    assert all(p == 0.5 for pair, p in pairs(found).items() if "new" in pair)
    assert pairs(found)["RPO", "SFT"] == found["evidence"]["highest"]
    firsts = {one["policy"]: one["first"] for one in found["policies"]}
    assert firsts["new"] == 0.25 and sum(firsts.values()) == pytest.approx(1, abs=4e-4)
    known = evidence(always)
    with pytest.raises(ValueError, match="no lab_seeds.csv"):
        prediction.predicted(known._replace(seeds=known.seeds.iloc[:0]), MINE, STUDIED, 3)


def test_draws_are_all_there_are_and_many_seeds_are_near_the_normal_law(monkeypatch):
    gains = np.array([[0.0, 1.0], [0.5, 0.5]])
    drawn = odds.draws(gains, 2)
    assert sorted(drawn[0]) == [0.0, 0.5, 0.5, 1.0]  # 00, 01, 10, 11
    # above in one draw of four, equal in two
    assert odds.ahead(drawn)[0, 1] == 0.5 and odds.ahead(drawn)[0, 0] == 0.5
    assert odds.leads(drawn) == pytest.approx([(1 + 2 / 2) / 4, (1 + 2 / 2) / 4])
    # the mean of 3 of 60 seeds of N(m, 1) is above 0 with probability Φ(m √3)
    quantiles = np.sqrt(2) * np.array(
        [optimize.brentq(lambda x, u=u: erf(x) - u, -5, 5) for u in np.linspace(-0.98, 0.98, 60)]
    )
    many = np.stack([quantiles / quantiles.std() + 0.4, np.zeros(60)])
    share = odds.ahead(odds.draws(many, 3))[0, 1]  # 216,000 draws: a sample of them
    assert share == pytest.approx((1 + erf(0.4 * sqrt(3) / sqrt(2))) / 2, abs=0.015)
    assert odds.draws(many, 3).shape == (2, odds.DRAWS)


def test_the_share_that_carries_over_has_the_least_expected_brier_score():
    rng = np.random.default_rng(4)
    means = rng.normal([0.0, 0.2, 0.4, 0.1], 0.5, size=(5, 4))  # regimes that agree a little
    drawn = rng.normal(means[..., None], 0.5, size=(5, 4, 40))
    told = np.stack([odds.ahead(one) for one in drawn])
    distance = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))

    def expected(share):
        """By simulated outcomes' exact mean: yes with probability q, score (p − 1)², else p²."""
        total = []
        for i in range(5):
            others = [j for j in range(5) if j != i]
            k = np.exp(-(distance[i, others] ** 2) / 2)
            k = k / (k.sum() + exp(-2))
            p = 0.5 + share * np.tensordot(k, told[others] - 0.5, 1)
            q = told[i]
            total += [
                q[a, b] * (p[a, b] - 1) ** 2 + (1 - q[a, b]) * p[a, b] ** 2
                for a in range(4)
                for b in range(a + 1, 4)
            ]
        return np.mean(total)

    best = optimize.minimize_scalar(expected, bounds=(0, 1), method="bounded")
    found = odds.carried(told, distance)
    assert found.share == pytest.approx(best.x, abs=1e-4) and 0.1 < found.share < 0.9
    assert found.brier == pytest.approx(best.fun, abs=1e-6) and expected(0) == 0.25


# ---- the study's policies ------------------------------------------------------------------------


def test_every_policy_of_the_pockets_presets_is_found_in_the_committed_lab():
    profile, known = loading.load_profile("pocket"), advise.evidence()
    found = prediction.policies(profile, "large", known.regimes)
    assert all(one.lab in set(known.seeds["policy"]) for one in found)
    assert len({one.lab for one in found}) == len(found) == len({one.name for one in found})
    by_name = {one.name: one for one in found}
    assert by_name["SFT"].presets == tuple(profile.presets)  # no preset touches it
    # by the presets' own numbers, not by names
    rows = known.regimes.drop_duplicates("policy").set_index("policy")
    for one in found:
        if one.method in ("rpo", "dro"):
            for name in one.presets:
                field = methods.ROWS[one.method].temperature
                assert rows["tau"][one.lab] == getattr(profile.presets[name], field)
                assert rows["reduce"][one.lab] == profile.presets[name].reduce
    qrpo = loading.load_profile("pocket", methods="reference,qrpo", preset="fixed")
    slope = qrpo.presets["fixed"].qrpo_beta
    assert prediction.policies(qrpo, "large", known.regimes)[1].lab == f"QRPO β {slope:g}"
    other = loading.load_profile("pocket", **{"presets.fixed.rpo_tau": 0.7})
    assert {one.name: one.lab for one in prediction.policies(other, "large", known.regimes)}[
        "RPO fixed"
    ] == ""


def test_the_studys_profile_is_the_issues_sizes():
    profile = loading.load_profile("smollm-study", feedback="own/set")
    assert profile.seeds == (0, 1, 2) and list(profile.presets) == ["paper", "released", "fixed"]
    assert profile.data.prompts == profile.data.validation == 200
    assert profile.data.completions_per_prompt == 4 and "best_of_k" in profile.methods
    base = loading.load_profile("smollm", feedback="own/set")
    assert profile.sizes == base.sizes and profile.training == base.training


# ---- the file ------------------------------------------------------------------------------------

SMALL = [
    *("--set", "sizes=small methods=reference,sft,rpo data.prompts=6 data.validation=3"),
    *("--set", "data.held_out=2"),
]


def test_a_prediction_is_written_once_and_never_after_a_policy(tmp_path, capsys, monkeypatch):
    measured = advise.Data(completions=4.0, single_share=0.0, logp=-0.9, wins=70.0)
    monkeypatch.setattr(advise, "look", lambda *_: (measured, []))
    asked = ["predict", "--profile", "smoke", *SMALL, "--results", str(tmp_path)]
    monkeypatch.setattr(prediction.inputs, "reference_path", lambda *_: "a/reference")
    assert main(asked) == 0
    told, file = capsys.readouterr().out, tmp_path / prediction.FILE
    found, written = json.loads(file.read_text(encoding="utf-8")), file.read_bytes()
    seeds = loading.load_profile("smoke").seeds
    assert found["study"] == {"profile": "smoke", "size": "small", "seeds": list(seeds)}
    assert found["measured"]["data_wins"] == 70 and len(found["measured"]["seeds"]) == len(seeds)
    assert found["made_from"]["evidence"]["from"] == f"{advise.TABLES.parent.name}/tables"
    assert found["code"]["version"] and found["dated"].endswith("+00:00")
    assert found["advice"]["recommended"] and str(tmp_path) not in written.decode()
    n = len(found["policies"])
    assert len(found["pairs"]) == n * (n - 1) / 2
    assert all(0.25 <= one["probability"] <= 0.75 for one in found["pairs"])
    assert f"{found['policies'][0]['first']:.2f}  {found['policies'][0]['policy']}" in told
    # the same again, also beside a policy: not a byte is another
    assert main(asked) == 0 and file.read_bytes() == written
    policy = tmp_path / "runs" / "rpo-small-seed0-0" / "recipe.json"
    policy.parent.mkdir(parents=True)
    policy.write_text("{}", encoding="utf-8")
    assert main(asked) == 0 and file.read_bytes() == written
    # another one: refused beside a policy, in one sentence
    capsys.readouterr()
    monkeypatch.setattr(advise, "look", lambda *_: (measured.__class__(4.0, 0.0, -0.9, 60.0), []))
    assert main(asked) == 2 and file.read_bytes() == written
    error = capsys.readouterr().err
    assert "recipe.json" in error and "would be no prediction" in error and error.count("\n") == 1
    file.unlink()
    assert main(asked) == 2 and not file.exists()
    policy.unlink()
    part = tmp_path / "parts" / "policies-seed0.tar.xz"  # all that a clone has of a policy
    part.parent.mkdir()
    part.touch()
    assert main(asked) == 2 and not file.exists()
    part.unlink()
    assert main(asked) == 0 and json.loads(file.read_text())["measured"]["data_wins"] == 60


def test_a_judge_that_gives_no_reward_is_refused_before_it_is_asked(tmp_path, capsys):
    judge = "evaluation.llm_judges={mine: {kind: endpoint, model: m, url: 'http://nowhere/v1'}}"
    judges = ["--set", judge, "--set", "evaluation.judges=[mine,checker]"]
    asked = ["predict", "--profile", "smoke", *SMALL, *judges, "--results", str(tmp_path)]
    assert main(asked) == 2
    assert "the first, mine, compares and gives no reward" in capsys.readouterr().err
    assert not (tmp_path / prediction.FILE).exists()


def test_one_completion_a_prompt_is_refused_in_one_sentence(tmp_path, capsys):
    asked = ["predict", "--profile", "smoke", *SMALL, "--results", str(tmp_path)]
    assert main([*asked, "--set", "data.completions_per_prompt=1"]) == 2
    assert "100% of the prompts have one completion" in capsys.readouterr().err
    assert not (tmp_path / prediction.FILE).exists()
