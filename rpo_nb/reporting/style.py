"""One style for all figures: what a colour, a marker and a line say; panels, titles, notes and
legends; saved with the same bytes for the same data.

A method has one colour and one marker in every figure (`LOOKS`). The colours are Okabe and Ito's,
safe for colour-blind readers; markers, dashes and names beside the lines tell them apart in grey.
What is no method (sizes, presets, estimators, paper B's losses) has colours that no method has.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from scipy.optimize import isotonic_regression

from rpo_nb.config.methods import AUTHORS, METHOD_NAMES, ROWS
from rpo_nb.store import atomic_write

COLOURS = {name: row.colour for name, row in ROWS.items()}
# method -> its marker, and the dashes of its line
LOOKS = {
    "reference": ("<", ":"),
    "sft": ("v", (0, (1, 1))),
    "best_of_k": ("X", (0, (3, 1, 1, 1, 1, 1))),
    "kto": ("^", "--"),
    "dro": ("s", "-."),
    "rpo": ("o", "-"),
    "qrpo": ("P", (0, (6, 1.5, 1, 1.5))),
    AUTHORS: ("*", ":"),
}
# RPO's estimators share its colour and marker: their dashes and their names tell them apart
ESTIMATOR_DASHES = {
    "empirical": "-",
    "monte_carlo": (0, (1, 1)),
    "self_normalised": (0, (3, 1, 1, 1)),
    "leave_one_out": "-.",
    "none": "--",
    "pooled": (0, (5, 1, 1, 1, 1, 1)),
}
# where estimators are what is compared: those that weigh by πref, and those that do not
WEIGHTED_COLOUR, PLAIN_COLOUR = "#AA4499", "#332288"
SIZE_COLOURS = ("#86B6D9", "#2F7FB5", "#0B3C5D")  # light to dark: small to large
SIZE_DASHES = (":", "--", "-")
PRESET_COLOURS = ("#CDBFE0", "#9472B8", "#43206B")  # where the bars are presets
DARK, MIDDLE, LIGHT = "#222222", "#6f7b88", "#c9ced6"  # what is neither
JUDGES = {"checker": "the true score", "reward_model": "a reward model"}
PAPER = {
    "marker": "D",
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markersize": 5.5,
    "linestyle": "none",
}
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "path",
    "svg.hashsalt": "rpo_nb",
    "path.simplify": False,
}
TITLE_POINTS, NOTE_POINTS, LABEL_POINTS = 12, 8.5, 8.5
WORDS_INCHES = 0.6  # of a figure's height for title, note and legend
KEY_LETTERS = 6  # what a legend's mark and gap take
LETTER = 0.6  # width of a letter in points of its font, about
BOLD = 1.08  # a bold letter's width in a plain one's


# ---- figures and files ---------------------------------------------------------------------------


def save(figure: Figure, out: Path | str, name: str) -> Path:
    """Write ``<out>/figures/<name>.svg`` and ``.png`` (150 dpi, 256 colours), no date or version in
    them; return the svg's path."""
    folder = Path(out) / "figures"
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(
                buffer, format=kind, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.1
            )
        # found once, it stands: to find it costs as much as to draw
        figure.set_layout_engine("none")
        content = _of_a_palette(buffer) if kind == "png" else buffer.getvalue()
        path = atomic_write(folder / f"{name}.{kind}", content)
    return path


def _of_a_palette(png: io.BytesIO) -> bytes:
    """The picture in its 256 main colours: a third of the bytes."""
    small = io.BytesIO()
    with Image.open(png) as picture:
        flat = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    flat.save(small, format="png", optimize=True, dpi=(150, 150))
    return small.getvalue()


def panel_grid(
    rows: int, columns: int, width: float, height: float, **kwargs: object
) -> tuple[Figure, np.ndarray]:
    """A figure with `rows` x `columns` axes of the given size in inches; pyplot does not hold it,
    so nothing has to be closed."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def styled(draw):
    """Run a drawing function under STYLE."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def method_order(values: pd.Series, known: Sequence[str] = ()) -> list:
    """Distinct values: known ones in their order, the others as they come."""
    found = list(dict.fromkeys(values))
    return [v for v in known if v in found] + [v for v in found if v not in known]


# ---- how things look -----------------------------------------------------------------------------


def method_look(method: str, estimator: str = "") -> dict:
    """Colour, marker and dashes of a method's line; of RPO the dashes of its estimator."""
    marker, dashes = LOOKS.get(method, ("o", "-"))
    return {
        "color": COLOURS.get(method, "black"),
        "marker": marker,
        "linestyle": ESTIMATOR_DASHES.get(estimator, dashes),
    }


def size_style(sizes: Sequence[str]) -> dict[str, dict]:
    """A larger policy is a larger, darker dot."""
    return {
        size: {
            "color": SIZE_COLOURS[i % len(SIZE_COLOURS)],
            "marker": "o",
            "markersize": 4.5 + 1.7 * (i % len(SIZE_COLOURS)),
        }
        for i, size in enumerate(sizes)
    }


def size_lines(sizes: Sequence[str]) -> dict[str, dict]:
    """The same as lines: the larger, the darker and the less broken."""
    last = min(len(sizes), len(SIZE_DASHES))
    return {
        size: {"color": look["color"], "linestyle": SIZE_DASHES[i % last - last]}
        for i, (size, look) in enumerate(size_style(sizes).items())
    }


def errors(
    rows: pd.DataFrame, value: str, low: str = "ci_low", high: str = "ci_high"
) -> np.ndarray:
    """Distances to the interval's ends, shape (2, rows); NaN, so that nothing is drawn, where there
    is no interval."""
    return np.maximum(
        np.stack([rows[value] - rows[low], rows[high] - rows[value]]).astype(float), 0.0
    )


def face(colour: str, decided: bool) -> dict:
    """A filled mark is decided, a hollow one is not."""
    return {
        "markerfacecolor": colour if decided else "white",
        "markeredgecolor": colour,
        "markeredgewidth": 1.4,
    }


def judge_title(name: str) -> str:
    """A judge over a panel."""
    return f"judge: {JUDGES.get(name, name.replace('_', ' '))}"


# ---- titles, notes, legends, names beside lines --------------------------------------------------


def wrapped(text: str, inches: float, points: float) -> str:
    """The text broken into lines that fit a width, in a font of so many points."""
    letters = max(16, int(inches * 72 / (LETTER * points)))
    return "\n".join(
        textwrap.fill(line, letters, break_on_hyphens=False) for line in text.split("\n")
    )


def entitle(figure: Figure, title: str, note: str = "", handles: Sequence = ()) -> None:
    """Give a figure what it shows as its title, and below it what marks, intervals, units and
    directions are (note), over the legend if there is one."""
    width = figure.get_figwidth()
    figure.suptitle(
        wrapped(title, 0.98 * width, BOLD * TITLE_POINTS),
        x=0.01,
        ha="left",
        fontsize=TITLE_POINTS,
        fontweight="bold",
    )
    said = wrapped(note, 0.98 * width, NOTE_POINTS)
    lengths = [len(handle.get_label()) + KEY_LETTERS for handle in handles]
    room = width * 72 / (9 * LETTER)
    columns = len(handles) if sum(lengths) < room else max(1, int(room / max(lengths)))
    lines = (figure.get_suptitle().count("\n") + 1) * TITLE_POINTS
    lines += (said.count("\n") + 1) * NOTE_POINTS + -(-len(handles) // max(1, columns)) * 10
    more = max(0.0, 1.25 * lines / 72 - WORDS_INCHES)
    figure.set_figheight(figure.get_figheight() + more)  # the panels keep their height
    if not handles:
        figure.supxlabel(said, x=0.01, ha="left", fontsize=NOTE_POINTS, color="#444444")
        return
    legend = figure.legend(
        handles=list(handles),
        loc="outside lower left",
        ncols=columns,
        title=said,
        title_fontsize=NOTE_POINTS,
        alignment="left",
    )
    legend.get_title().set_color("#444444")


def interval_note(seeds: float, what: str = "bars", over: str = "other seeds and prompts") -> str:
    """What a figure's intervals are: of how many seeds, or none where there is one."""
    if not seeds > 1:
        return "One seed: no interval is drawn, and nothing is decided."
    return f"{what.capitalize()}: 95 % interval over {over}; {seeds:.0f} seeds."


def spread_out(places: Sequence[float], gap: float) -> np.ndarray:
    """The places, moved as little as possible (least squares) so that they lie `gap` apart, in
    their order."""
    places = np.asarray(places, float)
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    out = np.empty(len(places))
    out[order] = isotonic_regression(places[order] - steps).x + steps if len(places) else places
    return out


def name_lines(axis: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names to the right of the axes, each joined to its line's end (x, y, name, colour), so
    that none touches another. Call it when the limits stand."""
    if not ends:
        return
    axis.set_xlim(axis.get_xlim())
    axis.set_ylim(axis.get_ylim())
    to_axes = axis.transData + axis.transAxes.inverted()
    heights = [to_axes.transform((x, y))[1] for x, y, *_ in ends]
    inches = axis.get_position().height * axis.figure.get_figheight() * 0.8
    gap = 1.35 * LABEL_POINTS / 72 / inches
    places = spread_out(heights, gap)
    places -= max(0.0, places.max() - 1.0)
    places += max(0.0, -places.min())
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axis.annotate(
            name,
            (x, y),
            (1.045, place),
            textcoords="axes fraction",
            va="center",
            fontsize=LABEL_POINTS,
            color=colour,
            annotation_clip=False,  # a line that ends at the edge has a name, too
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 1, "shrinkB": 3},
        )


def size_handles(sizes: Sequence[str], paper: bool = True) -> list[Line2D]:
    handles = [
        Line2D([], [], linestyle="none", label=f"size {size}", **style)
        for size, style in size_style(sizes).items()
    ]
    return handles + ([Line2D([], [], label="the paper, same size", **PAPER)] if paper else [])


def method_handles(methods: Sequence[str], line: bool = False) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            markersize=6.5,
            label=METHOD_NAMES.get(m, m),
            **method_look(m) | ({} if line else {"linestyle": "none"}),
        )
        for m in methods
    ]


def preset_handles(presets: Sequence[str], paper: bool = True) -> list:
    handles = [
        Patch(color=PRESET_COLOURS[j % len(PRESET_COLOURS)], label=f"preset {preset}")
        for j, preset in enumerate(presets)
    ]
    handles.append(
        Line2D(
            [], [], linestyle="none", marker="o", color="#222222", markersize=3, label="one size"
        )
    )
    diamond = Line2D([], [], label="the paper, mean of its sizes", **PAPER | {"markersize": 8})
    return [*handles, diamond] if paper else handles


def dots(
    axis: Axes,
    cells: pd.DataFrame,
    column: str,
    groups: Sequence[str],
    value: str,
    presets: Sequence[str],
) -> None:
    """A dot a size and a bar at their mean, presets side by side within each group."""
    for j, preset in enumerate(presets):
        for i, group in enumerate(groups):
            rows = cells[cells["preset"].eq(preset) & cells[column].eq(group)].dropna(
                subset=[value]
            )
            x = i + (j - (len(presets) - 1) / 2) * 0.26
            if len(rows):
                axis.bar(x, rows[value].mean(), 0.24, color=PRESET_COLOURS[j % len(PRESET_COLOURS)])
            axis.errorbar(
                x + np.linspace(-0.06, 0.06, len(rows)),
                rows[value],
                yerr=errors(rows, value),
                ls="none",
                marker="o",
                markersize=2.6,
                elinewidth=0.9,
                color="#222222",
            )
