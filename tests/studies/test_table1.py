"""Table I: the estimators on gradients whose moments are known, and the whole measurement on the
smoke profile."""

import numpy as np
import pytest
import torch

from rpo_nb.config.loading import load_profile
from rpo_nb.studies import table1


def test_gradient_variance_is_unbiased_and_its_interval_covers_the_truth():
    """g ~ N(G, s²I) in d dimensions: E‖g − G‖² / ‖G‖² = d·s² / ‖G‖² = 4."""
    d, rng = 400, np.random.default_rng(0)
    center, scale = np.ones(d) / np.sqrt(d), 2 / np.sqrt(d)
    found = [
        table1._variance(g @ g.T)
        for g in (center + rng.normal(0, scale, (16, d)) for _ in range(300))
    ]
    value, low, high = np.array(found).T
    assert np.median(value) == pytest.approx(4, rel=0.05)
    assert 0.88 < np.mean((low < 4) & (high > 4)) < 0.99


def test_gradient_variance_of_nothing_but_noise_is_not_a_number():
    g = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert np.isnan(table1._variance(g @ g.T)[0])


def test_interval_of_the_mean():
    values = np.random.default_rng(0).normal(5, 1, 200)
    mean, low, high = table1._spread(values, np.mean)
    assert mean == pytest.approx(values.mean()) and high - low == pytest.approx(
        4 / np.sqrt(200), rel=0.2
    )
    assert (
        np.isnan(table1._spread([1.0, 2.0], np.mean)[1:]).all()
        and np.isnan(table1._spread([2.0] * 20, np.mean)[1:]).all()
    )


@pytest.fixture(scope="module")
def measured():
    torch.set_num_threads(1)
    return table1.measure(load_profile("smoke"), "small", 0)


def value(measured, kind, method):
    return measured.set_index(["property", "method"]).loc[(kind, method), "value"]


def test_measured_costs(measured):
    width = load_profile("smoke").sizes["small"].d_model
    policy = value(measured, "trainable parameters", "rpo")
    # the paper's value network
    assert value(measured, "trainable parameters", "dro") - policy == width * 512 + 512 + 512 + 1
    assert value(measured, "trainable parameters", "kto") == policy
    # DRO's second is the value network; KTO's reference log-probabilities are cached, too
    assert [value(measured, "networks in memory", m) for m in table1.METHODS] == [2, 1, 1]
    work = {m: value(measured, "FLOPs a step", m) for m in table1.METHODS}
    assert 0 < work["rpo"] < work["dro"] < work["kto"]
    assert (measured.loc[measured["property"] == table1.SECONDS, "value"] > 0).all()


def test_measured_gradients(measured):
    """Leave-one-out targets are 0 when all rewards are: the reward accounts for all of that
    gradient. Eq. 19's are not."""
    without = "gradient change without the reward, at the start, preset {}"
    assert value(measured, without.format("fixed"), "rpo") == pytest.approx(1, abs=1e-4)
    assert value(measured, without.format("paper"), "rpo") < 0.5
    through = measured[measured["property"].str.startswith("gradient share that flows through V")]
    assert (through.loc[through["method"] == "rpo", "value"] == 0).all() and (
        through.loc[through["method"] == "dro", "value"] > 0
    ).all()
    noise = measured[measured["property"].str.startswith("gradient change under reward noise")]
    assert len(noise) == 8 and (noise["value"] > 0).all()  # two presets, two methods, twice


def test_the_papers_words_stand_beside(measured):
    assert list(measured) == [
        "property",
        "method",
        "value",
        "ci_low",
        "ci_high",
        "published",
        "note",
    ]
    assert set(measured.loc[measured["method"] == "kto", "published"]) == {""}
    assert measured["published"].str.contains("No (empirical estimation)", regex=False).sum() == 2


def test_table1_is_measured_in_bfloat16_with_adapters_too(tmp_path, monkeypatch):
    """The precision of training, outside the Trainer's own wrapping: frozen bfloat16 weights under
    float32 adapters and value."""
    monkeypatch.setenv("RPO_NB_CACHE", str(tmp_path))
    profile = load_profile(
        "smoke",
        sizes="small",
        seeds=0,
        preset="fixed",
        lora=True,
        **{
            "training.bf16": True,
            "data.prompts": 8,
            "evaluation.table1_batches": 2,
            "sizes.small.demonstrations": 64,
        },
    )
    measured = table1.measure(profile, "small", 0)
    dro = measured[measured["method"].eq("dro")].set_index("property")["value"]
    assert (
        dro["networks in memory"] == 2
        and dro.filter(like="gradient change without the reward").notna().all()
    )
