"""Agreement and claims."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rpo_nb.config import loading
from rpo_nb.judging.rates import temperature_differences, win_rates
from rpo_nb.reporting import agreement, claims, properties
from rpo_nb.reporting.tables import objective_notes, sampling_notes
from tests.judging.pairs import verdict_table
from tests.reporting.results import PROFILE, table1

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"


def rate_row(win_rate, low, high, published="82.78", **more):
    error = (high - low) / 2 / stats.t.ppf(0.975, 9)
    return {
        "error": error,
        "df": 9.0,
        "preset": "paper",
        "judge": "checker",
        "size": "small",
        "baseline": "sft",
        "win_rate": win_rate,
        "ci_low": low,
        "ci_high": high,
        "published": published,
        **more,
    }


# ---- agreement and claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "status", "words"),
    [
        (rate_row(80.0, 76.0, 84.0), "agrees", "the paper's 82.78 lies within [76.0, 84.0]"),
        (
            rate_row(60.0, 55.0, 65.0),
            "agrees",
            "in direction only: both are above 50; the kit is 22.8 points below the paper's 82.78",
        ),
        (
            rate_row(52.0, 48.0, 56.0),
            "differs",
            "[48.0, 56.0] includes 50, the paper's number lies above it",
        ),
        (
            rate_row(30.0, 26.0, 34.0),
            "differs",
            "[26.0, 34.0] lies below 50, the paper's number lies "
            "above it; the kit is 52.8 points below",
        ),
        (
            rate_row(52.0, 40.0, 90.0, "56.40"),
            "not decided",
            "holds the paper's 56.40 and too much",
        ),
        (rate_row(70.0, 55.0, 85.0), "agrees", "in direction only"),
        (rate_row(np.nan, np.nan, np.nan), "not measured", "every verdict is missing"),
        (rate_row(60.0, np.nan, np.nan), "not decided", "no interval (one seed)"),
        (rate_row(60.0, 55.0, 65.0, np.nan), "no published value", "no number for this cell"),
        (
            {
                "metric": "meteor",
                "value": np.nan,
                "ci_low": np.nan,
                "ci_high": np.nan,
                "published": "0.2418",
                "reason": "no WordNet",
            },
            "not measured",
            "no WordNet",
        ),
        (
            {
                "metric": "rouge_l",
                "value": 0.30,
                "ci_low": 0.28,
                "ci_high": 0.32,
                "published": "0.2885",
            },
            "agrees",
            "lies within [0.2800, 0.3200]",
        ),
        (
            {
                "metric": "rouge_l",
                "value": 0.30,
                "ci_low": 0.25,
                "ci_high": 0.35,
                "published": "0.2885",
            },
            "not decided",
            "too much else to agree",
        ),
        (
            {
                "metric": "rouge_l",
                "value": 0.40,
                "ci_low": 0.38,
                "ci_high": 0.42,
                "published": "0.2885",
            },
            "differs",
            "0.1115 above the paper's 0.2885, 5.6 times the interval's half-width",
        ),
    ],
)
def test_agreement_by_hand(row, status, words):
    found, why = agreement.agreement(row)
    assert found == status and words in why


def test_the_reason_names_what_moves_the_cell():
    table = pd.DataFrame(
        [
            rate_row(30.0, 26.0, 34.0),
            rate_row(81.0, 77.0, 85.0) | {"preset": "fixed"},
            rate_row(20.0, 16.0, 24.0) | {"preset": "released"},
            rate_row(44.0, 40.0, 48.0) | {"judge": "reward_model"},
        ]
    )
    why = agreement.agreement(table.iloc[0], table)[1]
    assert (
        "with preset fixed it is 81.0" in why
        and "judge reward_model gives 44.0" in why
        and "released" not in why
    )
    assert (
        "no other preset comes nearer" in agreement.agreement(table.iloc[0], table.iloc[[0, 2]])[1]
    )


def cells_of(*rates, presets=("paper",)):
    return pd.DataFrame(
        [
            rate_row(rate, rate - half, rate + half, preset=preset, size=f"size {i}")
            for preset in presets
            for i, (rate, half) in enumerate(rates)
        ]
    )


def test_a_win_is_decided_only_beyond_the_interval_corrected_for_all_cells():
    verdicts, sentence = claims.beats(cells_of((60, 3), (61, 4)), PROFILE)["paper"]
    assert verdicts == [HOLDS, HOLDS] and "2 of 2 cells hold" in sentence
    verdicts, sentence = claims.beats(cells_of((60, 3), (51, 4), (40, 3)), PROFILE)["paper"]
    assert verdicts == [HOLDS, OPEN, FAILS]
    assert "1 of 3 cells holds, 1 does not, 1 is not decided" in sentence
    assert "size 0 60.0 [57.0, 63.0] holds" in sentence and "Corrected for 3 cells" in sentence
    seen = float(sentence.split("could see ")[1].split(")")[0])
    assert 4 < seen < 8  # beyond the interval's half-width, by the power asked for
    # 4.2 points at a half-width of 4: decided alone, not among 18 cells
    assert claims.beats(cells_of((54.2, 4)), PROFILE)["paper"][0] == [HOLDS]
    many = claims.beats(cells_of(*[(54.2, 4)] * 6, presets=PROFILE.presets), PROFILE)
    assert all(set(verdicts) == {OPEN} for verdicts, _ in many.values())
    assert claims.beats(pd.DataFrame(), PROFILE)["paper"] == ([], "Table III has no such cell.")


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_decides_nothing_and_says_so(seeds):
    """Even of unanimous verdicts; two of as many prompts do."""
    rows = pd.concat(
        [
            verdict_table(["method"] * 80, seed=seed, tau=tau, size="small")
            for seed in range(seeds)
            for tau in (0.1, 1.0)
        ]
    ).assign(preset="paper", judge="checker")
    rates, moves = win_rates(rows), temperature_differences(rows)
    assert rates["ci_low"].isna().all() == (seeds == 1) and (rates["win_rate"] == 100).all()
    profile = loading.load_profile("pocket", seeds=",".join(map(str, range(seeds))))
    tables = {"table3": rates[rates["tau"].eq(1.0)], "temperature_differences": moves}
    found = claims.claims(tables, profile).set_index(["claim", "preset"])
    beats = found.loc["RPO beats SFT, read as fine-tuned on the completions", "paper"]
    assert beats["verdict"] == (OPEN if seeds == 1 else HOLDS)
    assert ("One seed" in beats["sentence"]) == (seeds == 1)
    assert ("One seed" in found.loc["RPO is robust to τ", "paper"]["sentence"]) == (seeds == 1)
    assert ("One seed" in sampling_notes(profile)[0]) == (seeds == 1)


def test_a_claim_is_counted_where_its_cells_do_not_all_say_the_same():
    table = pd.concat(
        [cells_of((60, 3), (51, 4), (40, 3)), cells_of((60, 3)).assign(preset="fixed")]
    )
    found = claims.claims({"table3": table.assign(baseline="kto")}, PROFILE)
    found = found[found["claim"].eq("RPO beats KTO")].set_index("preset")
    assert found.loc["paper", ["verdict", "hold", "fail", "undecided"]].tolist() == [
        "1 holds, 1 does not, 1 not decided",
        1,
        1,
        1,
    ]
    assert found.loc["fixed", "verdict"] == HOLDS
    assert found.loc["released", "verdict"] == "not measured"


def moves_of(*found, error=0.5):
    """Rows of temperature_differences: (judge, difference) of three pairs of τ."""
    half = error * stats.t.ppf(0.975, 9)
    return pd.DataFrame(
        [
            {
                "preset": "paper",
                "judge": judge,
                "size": "small",
                "baseline": "sft",
                "tau_low": low,
                "tau_high": high,
                "difference": value,
                "ci_low": value - half,
                "ci_high": value + half,
                "error": error,
                "df": 9.0,
            }
            for judge, value in found
            for low, high in ((0.1, 1.0), (0.1, 5.0), (1.0, 5.0))
        ]
    )


def test_robust_is_equality_within_the_margin_and_not_a_difference_unseen():
    paper = pd.DataFrame(
        [rate_row(60, 56, 64, p, tau=t) for t, p in ((0.1, "84.45"), (1.0, "82.78"))]
    )
    moves = moves_of(("checker", 1.0), ("reward_model", -9.0))
    verdicts, sentence = claims.robust(moves, PROFILE, paper)["paper"]
    assert verdicts == [HOLDS, FAILS] and "spread by 1.7 points" in sentence
    assert "checker small 1.0 [-0.1, 2.1] from τ = 0.1 to 1 holds" in sentence
    # no difference to be seen, and none excluded
    verdicts, sentence = claims.robust(moves_of(("checker", 1.0), error=4), PROFILE, paper)["paper"]
    assert verdicts == [OPEN] and "(equal but for 10.0)" in sentence
    assert claims.robust(pd.DataFrame(), PROFILE, paper)["paper"][0] == []


def metric_rows(values, preset="paper"):
    """values: metric, method, seed -> value, of two sizes."""
    return pd.DataFrame(
        [
            {
                "preset": preset,
                "metric": metric,
                "method": method,
                "size": size,
                "seed": seed,
                "tau": PROFILE.presets[preset].rpo_tau if method == "rpo" else np.nan,
                "value": values(metric, method, seed, size),
            }
            for metric in ("rouge_l", "bleu", "toxicity")
            for method in ("kto", "dro", "rpo")
            for size in ("small", "xl")
            for seed in range(10)
        ]
    )


def test_leads_is_a_probability_and_counts_toxicity_the_other_way_round():
    order = {"kto": 0.1, "dro": 0.2, "rpo": 0.3}
    best = metric_rows(lambda m, k, *_: -order[k] if m == "toxicity" else order[k])
    verdicts, sentence = claims.leads(best, PROFILE)["paper"]
    assert verdicts == [HOLDS]
    assert "is 1.00 [0.69, 1.00]" in sentence and "Toxicity 1.00" in sentence
    worst = metric_rows(lambda m, k, *_: order[k] if m == "toxicity" else -order[k])
    assert claims.leads(worst, PROFILE)["paper"][0] == [FAILS]
    mixed = metric_rows(lambda m, k, *_: order[k])
    verdicts, sentence = claims.leads(mixed, PROFILE)["paper"]
    assert "0.67" in sentence and "Toxicity 0.00" in sentence
    alone = claims.leads(best[best["seed"].eq(0)], PROFILE)["paper"]
    assert alone[0] == [OPEN] and "One seed" in alone[1]
    two = claims.leads(best[best["seed"].lt(2)], PROFILE)["paper"]
    assert two[0] == [OPEN] and "So few seeds" in two[1]
    assert claims.leads(best[best["method"].ne("dro")], PROFILE)["paper"][0] == []
    assert claims.leads(pd.DataFrame(), PROFILE)["paper"][0] == []


def test_noise_has_no_best_method():
    """Three methods that differ by chance alone, metrics of a text that hang together: of 300
    tables at least 95 % decide nothing."""
    rows, decided = metric_rows(lambda *_: 0.0), 0
    texts = rows.groupby(["method", "size", "seed"]).ngroup().to_numpy()
    sign = np.where(rows["metric"].eq("toxicity"), -1, 1)
    for trial in range(300):
        rng = np.random.default_rng(trial)
        noise = sign * rng.normal(size=60)[texts] + rng.normal(size=len(rows))
        decided += claims.leads(rows.assign(value=noise), PROFILE)["paper"][0] != [OPEN]
    assert decided <= 15


def test_where_rpo_is_dro_without_its_value_network_the_tables_say_so():
    notes = objective_notes(PROFILE)
    assert len(notes) == 1 and notes[0].startswith("Preset fixed: RPO is the objective of DRO")
    other = PROFILE.model_copy(
        update={
            "presets": {
                name: preset.model_copy(update={"rpo_tau": 0.5})
                for name, preset in PROFILE.presets.items()
            }
        }
    )
    assert objective_notes(other) == []
    assert objective_notes(PROFILE.model_copy(update={"methods": ("sft", "rpo")})) == []


def test_faster_is_judged_by_counted_work():
    nothing = (np.nan, np.nan)
    table = table1(
        ("FLOPs a step", "dro", 2e9, *nothing),
        ("FLOPs a step", "rpo", 1e9, *nothing),
        ("parameters", "rpo", 9.0, *nothing),
    )
    verdicts, sentence = claims.faster(table)
    assert verdicts == [HOLDS] and "0.500 times that of DRO" in sentence
    equal = pd.concat([table, table1(("FLOPs a step", "kto", 1e9, *nothing))])
    assert sorted(claims.faster(equal)[0]) == [FAILS, HOLDS]  # as much work as KTO is not less
    assert claims.faster(table.tail(1))[0] == claims.faster(pd.DataFrame())[0] == []


def test_properties_of_table1_agree_only_when_rpo_has_less_beyond_the_interval():
    table = table1(
        ("networks", "dro", 2.0, np.nan, np.nan),
        ("networks", "rpo", 1.0, np.nan, np.nan),
        ("variance", "dro", 2.0, 1.5, 2.5),
        ("variance", "rpo", 1.6, 1.2, 2.0),
        ("noise", "dro", 1.0, 0.9, 1.1),
        ("noise", "rpo", 3.0, 2.0, 4.0),
        ("coupling", "dro", 0.0, np.nan, np.nan),
        ("coupling", "rpo", 0.0, np.nan, np.nan),
        ("variance, fixed", "dro", np.nan, np.nan, np.nan),
        ("variance, fixed", "rpo", 1.0, np.nan, np.nan),
        ("change without the reward", "dro", 2.0, np.nan, np.nan),
        ("change without the reward", "rpo", 1.0, np.nan, np.nan),
    )
    found = properties.properties(table).set_index("property")
    assert found["agreement"].to_dict() == {
        "networks": "agrees",
        "variance": "not decided",
        "noise": "differs",
        "coupling": "differs",
        "variance, fixed": "not measured",
        "change without the reward": "no published value",
    }
    assert (
        "lower: 0.5 times DRO's" in found.loc["networks", "why"]
        and "overlap" in found.loc["variance", "why"]
    )
    assert (
        "higher: 3 times DRO's" in found.loc["noise", "why"]
        and "equal" in found.loc["coupling", "why"]
    )
    assert (
        found.loc["variance", "rpo"] == "1.6 [1.2, 2]"
        and found.loc["networks", "paper_dro"] == "networks of dro: words"
    )


def test_a_gradient_without_an_interval_decides_nothing():
    none = (np.nan, np.nan)
    table = table1(
        ("gradient variance, after 16 steps", "dro", 200.6, *none),
        ("gradient variance, after 16 steps", "rpo", 8.0, 5.6, 11.5),
        ("gradient change under reward noise", "dro", 0.5, *none),
        ("gradient change under reward noise", "rpo", 0.5, *none),
        # what is 0 by definition needs no interval
        ("gradient share that flows through V", "dro", 0.03, 0.02, 0.04),
        ("gradient share that flows through V", "rpo", 0.0, *none),
    )
    found = properties.properties(table).set_index("property")
    assert found["agreement"].tolist() == ["not decided", "not decided", "agrees"]
    variance, noise, _ = found["why"]
    assert variance.startswith("DRO has no interval; RPO's is 0.0399 times DRO's")
    assert noise.startswith("RPO and DRO have no interval")
