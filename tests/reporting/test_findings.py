"""Titles of figures are counted from the numbers, and are no surer than they are."""

import numpy as np
import pandas as pd
import pytest

from rpo_nb.reporting import decisions, findings


def cells(*rows, error=0.1, df=9.0):
    frame = pd.DataFrame(rows, columns=["cell", "method", "value"])
    return frame.assign(error=error, df=df)


def test_a_lead_is_decided_only_beyond_both_errors():
    table = cells(("far", "a", 5.0), ("far", "b", 1.0), ("near", "a", 1.0), ("near", "b", 1.1))
    found = findings.lead(table, ["cell"], "method", "value").set_index("cell")
    assert found["first"].to_dict() == {"far": "a", "near": "b"}
    assert found["decided"].to_dict() == {"far": True, "near": False}
    alone = findings.lead(table.assign(error=np.nan, df=np.nan), ["cell"], "method", "value")
    assert not alone["decided"].any() and alone["first"].tolist() == ["a", "b"]


def test_the_least_sure_rival_and_the_number_of_cells_count():
    rivals = [("c", "a", 5.0), ("c", "b", 1.0), ("c", "c", 4.99)]
    assert not findings.lead(cells(*rivals), ["cell"], "method", "value")["decided"].item()
    # 2.5 standard errors: enough for one cell, not for the twentieth of twenty
    one = [("c0", "a", 0.5 * 2**0.5 / 2), ("c0", "b", 0.0)]
    assert findings.lead(cells(*one), ["cell"], "method", "value")["decided"].all()
    many = [(f"c{i}", name, value) for i in range(20) for _, name, value in one]
    assert not findings.lead(cells(*many), ["cell"], "method", "value")["decided"].any()


def by_seed(effects, seeds=10, noise=0.05):
    """gain of each policy: a part that all policies of a seed share, its effect, and noise."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 3, seeds)
    rows = [
        {"study": "r", "name": policy.split()[0], "policy": policy, "seed": s}
        | {"gain": shared[s] + effect + rng.normal(0, noise)}
        for policy, effect in effects.items()
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_policies_of_a_seed_are_compared_on_its_own_prompts():
    effects = {"a 1": 0.5, "a 2": 0.2, "b 1": 0.0}  # far below the seeds' spread of 3
    found = findings.lead_over_seeds(by_seed(effects), "study").iloc[0]
    assert found["first"] == "a" and found["decided"]
    level = findings.lead_over_seeds(by_seed({"a 1": 0.02, "b 1": 0.0}, noise=1.0), "study")
    assert not level["decided"].item()
    # two policies of one name do not compete with each other
    same = findings.lead_over_seeds(by_seed({"a 1": 0.5, "a 2": 0.5, "b 1": 0.0}), "study")
    assert same["decided"].item()


def test_one_seed_leads_but_decides_nothing():
    found = findings.lead_over_seeds(by_seed({"a 1": 5.0, "b 1": 0.0}, seeds=1), "study")
    assert found["first"].item() == "a" and not found["decided"].item()
    assert findings.leaders(found, "leads", "regimes", 1).endswith(findings.ALONE)


def test_leaders_are_counted():
    found = pd.DataFrame(
        {"first": ["KTO", "DRO", "KTO", "reference"], "decided": [True, False] * 2}
    )
    text = findings.leaders(found, "leads", "regimes", 10)
    assert text == (
        "KTO leads in 2 of 4 regimes, DRO in 1, the untouched reference in 1; "
        "decided in 2, not in 2"
    )


@pytest.mark.parametrize(
    "seeds, said", [(10, "in 1 of 3 duels, loses in 0; 2 not"), (1, "in 2 of")]
)
def test_verdicts_are_counted(seeds, said):
    verdicts = [decisions.HOLDS, decisions.OPEN, decisions.OPEN]
    text = findings.in_a_title(verdicts, "RPO wins", "loses", "duels", 2, seeds)
    assert said in text and (findings.ALONE in text) == (seeds == 1)


def test_errors_come_back_from_an_interval():
    low, high = pd.Series([1.0, np.nan]), pd.Series([3.0, np.nan])
    error, df = findings.errors_of(low, high, pd.Series([3, 1]))
    assert error[0] == pytest.approx(1 / 4.3027, rel=1e-3) and df[0] == 2
    assert np.isnan(error[1]) and np.isnan(df[1])
