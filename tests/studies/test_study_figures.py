"""Figures of the studies: methods look as everywhere, lines that merge have names that do not
touch, titles count what is drawn."""

import numpy as np
import pandas as pd
import pytest

from rpo_nb.config import loading
from rpo_nb.config.methods import METHODS
from rpo_nb.reporting import findings, style
from rpo_nb.studies import lab_figures, partition_figures
from rpo_nb.studies.paper_b import figures
from rpo_nb.studies.paper_b.grid import Run, rows_of
from tests.pictures import title, touching

PROFILE = loading.load_profile("pocket")


def low_data(ks=(1, 4)):
    policies = {"RPO eq. 19 τ 1": ("rpo", "empirical"), "RPO V̂ = 0 τ 0.3": ("rpo", "none")}
    policies |= {"DRO τ 0.3": ("dro", ""), "KTO β 1": ("kto", ""), "reference": ("reference", "")}
    rows = [
        {"k": k, "method": m, "estimator": e, "policy": p, "seeds": 1}
        | {"reward": 5.0, "reward_low": np.nan, "reward_high": np.nan}  # all lines merge
        | {
            f"gradient_variance{end}": 2.0 + k if m == "rpo" else np.nan
            for end in ("", "_low", "_high")
        }
        for k in ks
        for p, (m, e) in policies.items()
    ]
    gains = {p: i for i, p in enumerate(policies)}
    by_seed = [
        {"study": f"K = {k}", "policy": p, "seed": 0, "gain": gains[p]}
        for k in ks
        for p in policies
    ]
    return pd.DataFrame(rows), pd.DataFrame(by_seed)


def test_policies_that_do_alike_keep_their_looks_and_names():
    figure = lab_figures.low_data(*low_data())
    left, right = figure.axes
    assert not touching(left) and not touching(right)
    lines = {str(line.get_color()): line for line in left.lines if len(line.get_xdata()) == 2}
    for method in ("rpo", "dro", "kto"):
        assert lines[style.COLOURS[method]].get_marker() == style.LOOKS[method][0]
    names = [text.get_text() for text in left.texts]
    assert {"RPO eq. 19", "RPO V̂ = 0", "DRO", "KTO"} < set(names)
    assert (
        title(figure) == f"Highest score: reference at K = 1, reference at K = 4; {findings.ALONE}"
    )


def test_temperatures_are_taken_for_a_setting():
    policies = pd.Series(["DRO τ 0.3", "KTO β 1", "RPO as released", "RPO V̂ = 0 τ 0.1", "SFT"])
    assert lab_figures.without_temperature(policies).tolist() == [
        *("DRO", "KTO", "RPO as released", "RPO V̂ = 0", "SFT")
    ]


def test_arrows_towards_log_k_are_counted():
    row = {"study": "stronger", "minus_log_k": -1.4, "good_before": -0.6, "good_after": -1.2}
    pulls = pd.DataFrame([row | {"bad_before": -1.0, "bad_after": -2.0}])
    assert "in 1 of 1 regimes and moves 1 of 2 groups" in title(lab_figures.pulls(pulls))


def test_biases_that_merge_are_named_and_a_bent_axis_is_marked():
    rows = [
        {"estimator": e, "reduce": r, "regime": "on_policy", "k": k, "tau": 1.0, "bias": b}
        for (e, r) in partition_figures.BIAS_LINES
        for k in (1, 64)
        for b in [-9.0 if (e, r) == ("empirical", "sum") else 0.01]
    ]
    table = pd.DataFrame(rows).assign(ci_low=np.nan, ci_high=np.nan)
    figure = partition_figures.bias(table, ["on_policy"], [1, 64], 1.0)
    (axis,) = figure.axes
    assert len(axis.texts) == 6 and not touching(axis)
    assert axis.get_yscale() == "symlog" and "symlog" in figure.get_supxlabel()
    marked = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == ":"]
    assert {-1, 1} <= set(marked)
    assert "pooled" in title(figure) and "on policy: eq. 19 means, self-normalised sums" in title(
        figure
    )


def curves(seeds):
    rng = np.random.default_rng(0)
    runs = [Run("dpo"), Run("simpo"), Run("kto"), Run("bwd", k=2)]
    return pd.DataFrame(
        [
            run.columns | {"seed": s, "step": t, "truth": 5 + t / 10 + rng.normal(0, 0.1)}
            for run in runs
            for s in range(seeds)
            for t in (0, 10, 20)
        ]
    ).assign(kl=1.0, learnt=1.0)


@pytest.mark.parametrize("seeds", [1, 2, 10])
def test_paper_bs_curves(seeds):
    figure = figures.figure1(curves(seeds), PROFILE.paper_b)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == [
        "Offline, pairs and labels",
        "Offline, the framework",
    ]  # no online run, no panel
    assert (findings.ALONE in title(figure)) == (seeds == 1)
    pairs = figure.axes[0]
    kto = next(line for line in pairs.lines if line.get_marker() == style.LOOKS["kto"][0])
    assert kto.get_color() == style.COLOURS["kto"]
    assert not touching(pairs) and [text.get_text() for text in pairs.texts] == [
        *("DPO", "SimPO", "KTO")
    ]
    # two seeds' interval is as wide as the world: lines, not bands, set the scale
    assert np.ptp(pairs.get_ylim()) < 4


def test_a_training_that_was_stopped_early_ends_no_line():
    """One of ten seeds collapses: the mean goes on, with that seed where it ended."""
    rows = curves(10)
    dpo = rows_of(rows, Run("dpo"))
    left = rows.drop(dpo[dpo["seed"].eq(3) & dpo["step"].gt(0)].index)
    (pairs, *_) = figures.figure1(left, PROFILE.paper_b).axes
    assert "DPO" in [text.get_text() for text in pairs.texts]
    line = next(one for one in pairs.lines if one.get_color() == figures.LOSSES["dpo"]["color"])
    assert line.get_xdata()[-1] == 20
    at = {seed: one.set_index("step")["truth"] for seed, one in dpo.groupby("seed")}
    last = [values[0 if seed == 3 else 20] for seed, values in at.items()]
    assert line.get_ydata()[-1] == pytest.approx(np.mean(last))


def test_paper_bs_losses_have_no_methods_colour_but_ktos():
    methods = {style.COLOURS[name] for name in METHODS}
    own = {name: look["color"] for name, look in figures.LOSSES.items()}
    assert own.pop("kto") == style.COLOURS["kto"] and not set(own.values()) & methods
