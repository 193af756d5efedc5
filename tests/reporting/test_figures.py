"""Figures show what there is: no empty panel, no label on another, no interval of one seed."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from rpo_nb.config.metrics import METRICS
from rpo_nb.reporting import figures, findings, run_figures, tables
from rpo_nb.reporting.decisions import OPEN
from tests.pictures import title, touching
from tests.reporting.results import PROFILE


def test_learning_curves_have_a_panel_for_what_was_trained_and_no_other():
    trained = [("sft", "paper", None), ("sft", "fixed", None), ("kto", "paper", None)]
    trained += [("rpo", "paper", 1.0), ("rpo", "paper", 5.0), ("rpo", "fixed", 0.3)]
    history = pd.DataFrame(
        [
            {
                "preset": p,
                "method": m,
                "size": "small",
                "tau": t,
                "seed": 0,
                "step": i,
                "loss": 3 - i,
            }
            for m, p, t in trained
            for i in (1, 2)
        ]
    ).astype({"tau": float})
    figure = figures.learning_curves(history)
    # SFT is the same policy under every preset
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "SFT",
        "KTO · paper",
        "RPO · paper · τ 1",
        "RPO · paper · τ 5",
        "RPO · fixed",
    ]
    assert all(len(line.get_xdata()) == 2 for axis in figure.axes for line in axis.lines)
    assert "in 6 of 6 trainings" in title(figure)


@pytest.fixture(scope="module")
def points():
    rows = [("reference", np.nan, 4.0, 0.0)]
    rows += [("rpo", tau, 5.0 + tau / 1e3, 3.0) for tau in (0.1, 0.3, 1.0, 5.0)]  # on one spot
    frame = pd.DataFrame(rows, columns=["method", "tau", "reward", "kl"])
    frame = frame.assign(preset="paper", size="small", kl_low=frame["kl"] - 1)
    return frame.assign(kl_high=frame["kl"] + 1, n=100)


def test_names_of_policies_on_one_spot_do_not_touch_and_a_bent_axis_says_so(points):
    far = points.assign(kl=points["kl"] * 10, kl_low=points["kl_low"] * 10)
    far["kl_high"] = points["kl_high"] * 10
    figure = figures.reward_kl(far, pd.DataFrame({"reward": [4.0, 9.0], "kl": [0.0, 40.0]}))
    (axis,) = figure.axes
    assert not touching(axis)
    assert [text.get_text() for text in axis.texts] == ["τ 0.1", "τ 0.3", "τ 1", "τ 5"]
    assert axis.get_xscale() == "symlog" and "bent" in axis.get_xlabel()
    possible = 4 + 5 * 30 / 40
    assert f"at its KL {possible:.1f} could be had" in title(figure)
    near = figures.reward_kl(points.assign(kl=points["kl"] / 3)).axes[0]
    assert near.get_xscale() == "linear" and "bent" not in near.get_xlabel()


def drawn_intervals(figure):
    segments = [
        np.asarray(segment, float)
        for axis in figure.axes
        for lines in axis.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    ]
    return [s for s in segments if len(s) and np.isfinite(s).all() and np.ptp(s, axis=0).any()]


def test_one_seed_has_no_interval_and_decides_nothing(rates):
    table = tables.table3(rates, PROFILE)
    alone = table.assign(ci_low=np.nan, ci_high=np.nan, error=np.nan, df=np.nan, seeds=1)
    assert drawn_intervals(figures.win_rates(table))
    figure = figures.win_rates(alone)
    assert not drawn_intervals(figure) and findings.ALONE in title(figure)
    assert f"in {(alone['win_rate'] > 50).sum()} of {len(alone)} comparisons" in title(figure)


def test_what_is_decided_is_filled_and_counted(rates):
    table = tables.table3(rates, PROFILE).assign(error=0.01, df=9.0, win_rate=80.0)
    sure = figures.win_rates(table)
    assert f"in {len(table)} of {len(table)} comparisons" in title(sure)
    unsure = figures.win_rates(table.assign(error=100.0))
    assert f"{len(table)} {OPEN}" in title(unsure)

    def faces(figure):
        lines = [line for axis in figure.axes for line in axis.lines]
        return {line.get_markerfacecolor() for line in lines if line.get_marker() == "o"}

    assert faces(unsure) == {"white"} and "white" not in faces(sure)


def test_bars_of_training_time_are_named_and_their_overlap_is_said():
    seconds = {"kto": (10.0, 30.0), "rpo": (8.0, 16.0)}
    timings = pd.DataFrame(
        [{"method": m, "size": "small", "seconds": s} for m, both in seconds.items() for s in both]
    )
    figure = run_figures.figure1(timings)
    names = {text.get_text().split("\n")[0] for text in figure.axes[0].texts}
    assert names == {"KTO", "RPO"}
    assert "RPO at 1 of 1 sizes; its range overlaps another's at 1" in title(figure)
    clear = run_figures.figure1(timings.query("method == 'kto' or seconds < 9"))
    assert "overlaps" not in title(clear)


def test_metrics_say_which_way_is_good():
    assert figures.direction("toxicity") == "lower is better"
    assert figures.direction("bleu") == "higher is better"
    assert set(figures.DIRECTIONS) <= set(METRICS)


def test_the_overview_counts_what_it_draws(metrics, rates):
    cells, table = tables.metric_cells(metrics, PROFILE), tables.table3(rates, PROFILE)
    first = table[table["judge"].eq(table["judge"].iloc[0])]
    drawn = first[first["baseline"].ne("best_of_k")]
    assert len(drawn) < len(first)
    lost = table.index.isin(drawn.index[:2])
    sure = table.assign(error=0.01, df=9.0, win_rate=table["win_rate"].where(~lost, np.nan))
    figure = figures.overview(cells, sure)
    ahead = int((drawn["win_rate"][2:] > 50).sum())
    assert f"RPO wins more often than it loses in {ahead} of {len(drawn) - 2} " in title(figure)
    bars = {label.get_text() for label in figure.axes[1].get_xticklabels()}
    assert len(bars) == drawn["baseline"].nunique()


def test_the_best_of_three_is_told_of_cells_that_have_three(metrics):
    cells = tables.metric_cells(metrics, PROFILE)
    known = cells["metric"].map(lambda name: bool(METRICS[name].published)) & cells["value"].notna()
    groups = cells[known].groupby(["preset", "metric", "size"]).ngroups
    lost = cells["method"].eq("dro") & cells["size"].eq("small")
    few = cells[known & cells["size"].eq("small")].groupby(["preset", "metric"]).ngroups
    assert 0 < few < groups
    assert f" of {groups} cells" in title(figures.metric_panels(cells))
    assert f" of {groups - few} cells" in title(figures.metric_panels(cells[~lost]))
    two = figures.metric_panels(cells[cells["method"].ne("dro")])
    assert "in no cell were all of KTO, DRO, RPO measured" in title(two)
