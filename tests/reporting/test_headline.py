"""The first picture says what its tables say, and no more than they decide."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from rpo_nb.config import loading
from rpo_nb.reporting import figures, findings, rendering, style

PROFILE = loading.load_profile("pocket")
WITHIN = {"paper": 0.8, "released": 7.0, "fixed": 80.0}
POLICIES = {  # policy -> method, preset, gain
    "reference": ("reference", "", 0.0),
    "RPO eq. 19 τ 1": ("rpo", "paper", 0.5),
    "RPO as released": ("rpo", "released", -1.0),
    "RPO V̂ = 0 τ 0.3": ("rpo", "fixed", 1.0),
    "RPO V̂ = 0 τ 1": ("rpo", "", 9.0),  # of no preset: not shown
    "DRO τ 0.3": ("dro", "fixed", 0.9),
    "KTO β 1": ("kto", "paper/fixed", 0.2),
    "SFT": ("sft", "", -0.5),
}


def write(out, seeds, regimes=("stronger", "on_policy")):
    rng = np.random.default_rng(0)
    shares = [
        {"regime": r, "seed": s, "preset": p, "within": w + 0.1 * s}
        for r in regimes
        for s in range(seeds)
        for p, w in WITHIN.items()
    ]
    by_seed = [
        {"study": r, "policy": p, "seed": s, "gain": g + (p != "reference") * rng.normal(0, 0.05)}
        for r in regimes
        for p, (_, _, g) in POLICIES.items()
        for s in range(seeds)
    ]
    table = [
        {"regime": r, "gap": 2.5 * (r == "stronger"), "method": m, "preset": x, "policy": p}
        | {"gain": g, "seeds": seeds, "estimator": ""}
        | {f"gain_{end}": (g + d if seeds > 1 else np.nan) for end, d in (("low", -1), ("high", 1))}
        for r in regimes
        for p, (m, x, g) in POLICIES.items()
    ]
    rendering.write_csv(pd.DataFrame(shares), out, "regime_shares")
    rendering.write_csv(pd.DataFrame(by_seed), out, "lab_seeds")
    rendering.write_csv(pd.DataFrame(table), out, "regime_map")


def test_nothing_is_drawn_without_the_shares(tmp_path):
    assert figures.headline(tmp_path, PROFILE) is None and not (tmp_path / "figures").exists()


@pytest.mark.parametrize("seeds", [1, 10])
def test_it_draws_its_tables_and_says_how_sure_they_are(tmp_path, seeds):
    write(tmp_path, seeds)
    figure = figures.headline(tmp_path, PROFILE)
    left, right = figure.axes
    orange = style.COLOURS["rpo"].lower()
    drawn = [bar.get_width() for bar in left.patches if to_hex(bar.get_facecolor()) == orange]
    assert drawn == pytest.approx([w + 0.05 * (seeds - 1) for w in WITHIN.values()], rel=0.01)
    marks = np.concatenate([np.asarray(line.get_xdata(), float) for line in right.lines])
    shown = {g for p, (m, x, g) in POLICIES.items() if m != "reference" and g != 9.0}
    assert shown <= set(np.round(marks, 6)) and 9.0 not in marks
    title = " ".join(figure.get_suptitle().split())
    assert f"{drawn[0]:.1f} % as written" in title and f"{drawn[2]:.0f} % without Ẑ" in title
    assert (findings.ALONE in title) == (seeds == 1)
    assert "gains more than as written in 2 of 2 regimes" in title
    assert [label.get_text().split("\n")[1] for label in right.get_yticklabels()] == [
        "(data as good)",
        "(data 2.5 better)",
    ]
    for kind in ("png", "svg"):
        assert (tmp_path / f"figures/headline.{kind}").stat().st_size < 150_000


def test_without_a_map_the_shares_stand_alone(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "tables/regime_map.csv").unlink()
    assert len(figures.headline(tmp_path, PROFILE).axes) == 1


def test_it_is_the_same_bytes_again(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder, 2)
        figures.headline(tmp_path / folder, PROFILE)
    for kind in ("png", "svg"):
        one, two = (
            (tmp_path / folder / f"figures/headline.{kind}").read_bytes() for folder in "ab"
        )
        assert one == two
