"""Agreement and claims."""

import numpy as np
import pandas as pd
import pytest

from rpo_nb.reporting import agreement, claims
from tests.reporting.results import table1


def rate_row(win_rate, low, high, published="82.78", **more):
    return {
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
        (rate_row(52.0, 40.0, 90.0, "56.40"), "agrees", "lies within"),
        (rate_row(np.nan, np.nan, np.nan), "not measured", "every verdict is missing"),
        (rate_row(60.0, np.nan, np.nan), "not measured", "no interval"),
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


def test_a_win_holds_only_where_every_interval_lies_above_half():
    good, even, bad = (
        rate_row(60.0, 55.0, 65.0),
        rate_row(52.0, 48.0, 56.0),
        rate_row(40.0, 36.0, 44.0),
    )
    assert claims.beats(pd.DataFrame([good, good | {"size": "xl"}]))[0] == "holds"
    verdict, sentence = claims.beats(
        pd.DataFrame([good, even | {"size": "large"}, bad | {"size": "xl"}])
    )
    assert (
        verdict == "holds in part"
        and "above 50 in 1 of 3 cells, below in 1" in sentence
        and "small 60.0 [55.0, 65.0]" in sentence
    )
    assert claims.beats(pd.DataFrame([even, bad]))[0] == "does not hold"
    assert claims.beats(pd.DataFrame())[0] == "not measured"


def test_robust_compares_the_spread_over_temperatures_with_the_interval():
    def cells(*found):
        return pd.DataFrame([rate_row(w, w - 4, w + 4, p, tau=t) for t, w, p in found])

    calm = cells((0.1, 60.0, "84.45"), (1.0, 64.0, "82.78"), (5.0, 67.9, "83.03"))
    verdict, sentence = claims.robust(calm)
    assert verdict == "holds" and "spread by 1.7 to 1.7 points" in sentence
    assert "checker small 60.0 to 67.9 (spread 7.9, interval 8.0 wide)" in sentence
    assert claims.robust(cells((0.1, 60.0, "84.45"), (5.0, 68.1, "83.03")))[0] == "does not hold"
    assert claims.robust(calm.head(1))[0] == "not measured"


def test_leads_counts_toxicity_the_other_way_round():
    rows = [
        {"metric": m, "size": "small", "method": k, "value": v}
        for m, values in {
            "rouge_l": (0.1, 0.2, 0.3),
            "toxicity": (0.3, 0.2, 0.1),
            "bleu": (0.3, 0.2, 0.1),
        }.items()
        for k, v in zip(("kto", "dro", "rpo"), values, strict=True)
    ]
    verdict, sentence = claims.leads(pd.DataFrame(rows))
    assert (
        verdict == "holds in part"
        and "best in 2 of 3 cells: ROUGE-L 1 of 1, Toxicity 1 of 1, BLEU 0 of 1" in sentence
    )


def test_faster_is_judged_by_counted_work():
    nothing = (np.nan, np.nan)
    table = table1(
        ("FLOPs a step", "dro", 2e9, *nothing),
        ("FLOPs a step", "rpo", 1e9, *nothing),
        ("parameters", "rpo", 9.0, *nothing),
    )
    verdict, sentence = claims.faster(table)
    assert verdict == "holds" and "0.500 times that of DRO" in sentence
    equal = pd.concat([table, table1(("FLOPs a step", "kto", 1e9, *nothing))])
    assert claims.faster(equal)[0] == "holds in part"  # as much work as KTO is not less
    assert claims.faster(table.tail(1))[0] == claims.faster(pd.DataFrame())[0] == "not measured"


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
    found = claims.properties(table).set_index("property")
    assert found["agreement"].to_dict() == {
        "networks": "agrees",
        "variance": "differs",
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
