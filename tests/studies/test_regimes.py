"""What regimes are, measured; and what their names promise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config.studies import REGIMES
from rpo_nb.studies import regimes

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_regime_is_measured_as_what_it_is(profile, tmp_path):
    both = profile.model_copy(
        update={"lab": profile.lab.model_copy(update={"regimes": ("on_policy", "stronger")})}
    )
    table = regimes.measured(both, tmp_path).set_index("regime")
    data, k = profile.data, profile.data.completions_per_prompt
    assert list(table.index) == ["on_policy", "stronger"] and set(table["seeds"]) == {1}
    assert table["minus_log_k"].tolist() == pytest.approx([-np.log(k)] * 2, abs=0.05)
    assert table["data_wins"]["stronger"] > table["data_wins"]["on_policy"]
    assert table["data_wins_low"].isna().all()  # one seed has no spread
    rows = pocket.make_feedback(
        data.prompts + data.validation + data.held_out, seed=0, completions_per_prompt=k
    )
    every = [pocket.score(r["instruction"], c["response"]) for r in rows for c in r["completions"]]
    # the training rows are a part of them
    assert table["data"]["stronger"] == pytest.approx(np.mean(every), abs=1.0)


def test_a_regime_that_is_not_what_its_name_says_is_named():
    table = pd.DataFrame(
        {
            "regime": REGIMES,
            "data_wins": [50.0, 70, 90, 85, 72, 91],
            "reference": [5.0, 5, 5, 3, 5, 5],
            "logp": [-0.9, -1, -1, -1, -2, -2],
        }
    )
    assert regimes.misnamed(table) == []
    assert regimes.FLAN_T5 in REGIMES
    wrong = table.assign(data_wins=[58.0, 70, 65, 85, 72, 91], logp=[-0.9, -1, -1, -1, -0.5, -2])
    said = regimes.misnamed(wrong)
    assert len(said) == 3
    assert any(s.startswith("much_stronger should be above stronger in data_wins") for s in said)
    assert any(s.startswith("stronger should be above narrow_reference in logp") for s in said)
    assert any(s.startswith("on_policy: the data should win in 45 to 55 %") for s in said)
    assert regimes.misnamed(table[table["regime"].eq("stronger")]) == []


def test_the_regimes_of_the_pocket_profile_are_what_their_names_say():
    """As `python -m benchmarks.ladder` measured them."""
    table = pd.read_csv(BENCHMARKS / "regimes.csv")
    assert tuple(table["regime"]) == REGIMES
    assert regimes.misnamed(table) == []
    narrow = table[table["regime"].str.startswith("narrow")]
    # the reference's own texts are less of a surprise to it than those of styles it hardly knows
    assert (narrow["own_logp"] > narrow["logp"] + 1).all()
    flan = table.set_index("regime").loc[regimes.FLAN_T5]
    assert flan["logp"] < flan["minus_log_k"] and flan["data_wins"] > 60


def test_the_sizes_of_the_pocket_profile_are_a_ladder():
    """On equal demonstrations a larger reference is better by half a point, the intervals over ten
    seeds apart, and there is room above: its teacher and the feedback are better than all."""
    table = pd.read_csv(BENCHMARKS / "ladder.csv")
    assert list(table["size"]) == ["small", "large", "xl"]
    assert table["demonstrations"].nunique() == 1 and set(table["seeds"]) == {10}
    assert (table["reward"].diff().dropna() >= 0.5).all()
    assert (table["low"].to_numpy()[1:] > table["high"].to_numpy()[:-1]).all()
    data = pd.read_csv(BENCHMARKS / "regimes.csv").set_index("regime")["data"]
    assert table["reward"].max() + 0.5 < min(data["stronger"], table["taught"].min())
