"""What a colour, a marker and a line say is the same in all figures, and can be seen by all."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from rpo_nb.config.methods import METHODS
from rpo_nb.reporting import style
from tests.pictures import touching

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def test_every_method_has_a_colour_and_a_marker_of_its_own():
    looks = {name: style.method_look(name) for name in METHODS}
    for key in ("color", "marker"):
        assert len({str(look[key]) for look in looks.values()}) == len(METHODS)
    diamond = style.PAPER["marker"]  # the paper's numbers
    assert diamond not in {look["marker"] for look in looks.values()}


def test_what_is_no_method_has_no_methods_colour():
    others = [*style.SIZE_COLOURS, *style.PRESET_COLOURS, style.WEIGHTED_COLOUR, style.PLAIN_COLOUR]
    assert not {c.lower() for c in others} & {c.lower() for c in style.COLOURS.values()}


def test_estimators_of_rpo_differ_by_their_dashes_alone():
    looks = [style.method_look("rpo", name) for name in style.ESTIMATOR_DASHES]
    assert len({str(look["linestyle"]) for look in looks}) == len(looks)
    assert {(look["color"], look["marker"]) for look in looks} == {(style.COLOURS["rpo"], "o")}


def test_sizes_and_presets_grow_darker_also_for_the_colour_blind():
    for colours in (style.SIZE_COLOURS, style.PRESET_COLOURS):
        for seen in (np.eye(3), DEUTERANOPIA):
            grey = [float(np.array([0.2126, 0.7152, 0.0722]) @ seen @ linear(c)) for c in colours]
            assert all(a > 1.5 * b for a, b in zip(grey, grey[1:], strict=False))


@pytest.mark.parametrize(
    "places, gap, wanted",
    [
        ([0.5, 0.5, 0.5], 0.1, [0.4, 0.5, 0.6]),
        ([0.9, 0.1], 0.2, [0.9, 0.1]),
        ([0.3, 0.2, 0.9], 0.2, [0.35, 0.15, 0.9]),
        ([], 0.1, []),
    ],
)
def test_names_are_spread_out_no_farther_than_they_must(places, gap, wanted):
    assert style.spread_out(places, gap).tolist() == pytest.approx(wanted)


def test_names_of_lines_that_merge_do_not_touch():
    figure, axes = style.panel_grid(1, 1, 5, 3)
    axes[0, 0].plot([0, 1], [0, 1])
    names = [f"line {i}" for i in range(7)]
    style.name_lines(axes[0, 0], [(1.0, 1.0 - 1e-3 * i, n, "black") for i, n in enumerate(names)])
    assert not touching(axes[0, 0])
    texts = axes[0, 0].texts
    assert [text.get_text() for text in texts] == names
    heights = [text.xyann[1] for text in texts]  # as the lines lie
    assert heights == sorted(heights, reverse=True)


def test_an_interval_that_is_not_there_is_not_drawn():
    rows = pd.DataFrame({"v": [1.0, 2.0], "ci_low": [0.5, np.nan], "ci_high": [2.5, np.nan]})
    found = style.errors(rows, "v")
    assert found[:, 0].tolist() == [0.5, 1.5] and np.isnan(found[:, 1]).all()
    assert "no interval" in style.interval_note(1) and "10 seeds" in style.interval_note(10)


def test_titles_and_notes_are_within_the_figure_and_png_has_few_bytes(tmp_path):
    figure, axes = style.panel_grid(1, 1, 5, 3)
    axes[0, 0].imshow(np.random.default_rng(0).random((40, 40)))
    style.entitle(figure, "What came out " * 12, "Bars are what they are. " * 8)
    path = style.save(figure, tmp_path, "x").with_suffix(".png")
    figure.draw_without_rendering()
    for text in (figure._suptitle, figure._supxlabel):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    with Image.open(path) as picture:
        assert picture.mode == "P" and len(picture.getcolors()) <= 256
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    assert path.stat().st_size < 0.7 * len(buffer.getvalue())
