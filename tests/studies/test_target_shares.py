"""Which share of RPO's first loss tells a prompt's completions apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from rpo_nb.studies import lab, target_shares
from rpo_nb.studies.target_shares import PARTS, of_presets, of_regimes, shares


@pytest.mark.parametrize(
    "targets, ids, wanted",
    [
        ([1, 1, 1, 1], [0, 0, 1, 1], (100, 0, 0)),
        ([1, 1, -1, -1], [0, 0, 1, 1], (0, 100, 0)),
        ([1, -1, 1, -1], [0, 0, 1, 1], (0, 0, 100)),
        ([3, 1, -1, 1], [0, 0, 1, 1], (100 / 3, 100 / 3, 100 / 3)),
        ([2, 0, 0], [0, 0, 1], (100 / 3, 100 / 6, 50)),  # prompts weigh by their rows
    ],
)
def test_the_parts_of_the_loss(targets, ids, wanted):
    found = shares(np.array(targets, float), np.array(ids))
    assert tuple(found[name] for name in PARTS) == pytest.approx(wanted)


def test_targets_that_are_all_0_have_no_parts():
    with pytest.raises(ValueError, match="all targets are 0.*rewards all equal"):
        shares(np.zeros(3), np.array([0, 0, 1]))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(30), 4)
    rewards = rng.normal(size=120)
    logps = {"sum": rng.normal(-25, 5, 120), "mean": rng.normal(-1, 0.2, 120)}
    return logps, (rewards - rewards.mean()) / rewards.std(), ids


def test_presets_are_measured_at_their_own_temperature_and_estimate(rows):
    table = of_presets(lab.presets(), *rows).set_index("preset")
    assert table[list(PARTS)].sum(axis=1).tolist() == pytest.approx([100] * 3)
    assert table.loc["fixed", "same"] == pytest.approx(0, abs=1e-9)  # rewards are standardised
    # sums of −25 nats drown the reward; no estimate has nothing but the reward
    assert table.loc["paper", "within"] < 5 < 50 < table.loc["fixed", "within"]
    assert table["rows"].tolist() == [120] * 3 and table["prompts"].tolist() == [30] * 3
    without = shares(rows[1], rows[2])["within"]  # whatever τ is
    assert table.loc["fixed", "within"] == pytest.approx(without)


def test_regimes_have_a_row_each_seed_and_preset(rows):
    logps, rewards, ids = rows
    splits = SimpleNamespace(train={"prompt_id": ids})
    one = SimpleNamespace(ref_logps=logps, rewards=rewards, splits=splits)
    table = of_regimes({("stronger", 0): one, ("stronger", 1): one})
    assert list(table.columns) == [
        *("regime", "seed", "preset", "reduce", "tau", "estimator", *PARTS, "rows", "prompts")
    ]
    assert len(table) == 6 and set(table["regime"]) == {"stronger"} and set(table["seed"]) == {0, 1}
    assert target_shares.PARTS == ("same", "between", "within")
