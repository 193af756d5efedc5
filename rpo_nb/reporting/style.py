"""One style for all figures: colours, markers, panels, legends; saved with the same bytes for the
same data."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from rpo_nb.config.methods import METHOD_NAMES, ROWS
from rpo_nb.store import atomic_write

COLOURS = {name: row.colour for name, row in ROWS.items()}
SIZE_COLOURS = ("#86B6D9", "#2F7FB5", "#0B3C5D")  # light to dark: small to large
PRESET_COLOURS = ("#CDBFE0", "#9472B8", "#43206B")  # where the bars are presets
MARKERS = ("o", "s", "^", "D", "v")
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
    "axes.titlesize": 11,
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


def save(figure: Figure, out: Path | str, name: str) -> Path:
    """Write ``<out>/figures/<name>.svg`` and ``.png`` (150 dpi), no date or version in them; return
    the svg's path."""
    folder = Path(out) / "figures"
    for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(
                buffer, format=kind, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.1
            )
        # found once, it stands: to find it costs as much as to draw
        figure.set_layout_engine("none")
        path = atomic_write(folder / f"{name}.{kind}", buffer.getvalue())
    return path


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


def size_style(sizes: Sequence[str]) -> dict[str, dict]:
    return {
        size: {"color": SIZE_COLOURS[i % len(SIZE_COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, size in enumerate(sizes)
    }


def errors(
    rows: pd.DataFrame, value: str, low: str = "ci_low", high: str = "ci_high"
) -> np.ndarray:
    """Distances to the interval's ends, shape (2, rows); 0 where there is no interval."""
    return np.nan_to_num(
        np.maximum(np.stack([rows[value] - rows[low], rows[high] - rows[value]]).astype(float), 0.0)
    )


def add_legend(figure: Figure, handles: list, **kwargs: object) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), **kwargs)


def size_handles(sizes: Sequence[str], paper: bool = True) -> list[Line2D]:
    handles = [
        Line2D([], [], linestyle="none", markersize=6.5, label=size, **style)
        for size, style in size_style(sizes).items()
    ]
    return handles + ([Line2D([], [], label="the paper, same size", **PAPER)] if paper else [])


def method_handles(methods: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=COLOURS.get(m, "black"), lw=3, label=METHOD_NAMES.get(m, m))
        for m in methods
    ]


def preset_handles(presets: Sequence[str]) -> list:
    patches = [
        Patch(color=PRESET_COLOURS[j % len(PRESET_COLOURS)], label=f"preset {preset}")
        for j, preset in enumerate(presets)
    ]
    return [
        *patches,
        Line2D(
            [], [], linestyle="none", marker="o", color="#222222", markersize=3, label="one size"
        ),
        Line2D([], [], label="the paper, mean of its sizes", **PAPER | {"markersize": 8}),
    ]


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
