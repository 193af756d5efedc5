"""What tests ask of a drawn figure."""

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text


def title(figure: Figure) -> str:
    """The title in one line."""
    return " ".join(figure.get_suptitle().split())


def touching(axis: Axes) -> list[tuple[str, str]]:
    """The pairs of labels on an axis whose letters touch, whatever their leader lines do."""
    axis.figure.draw_without_rendering()
    texts = [text for text in axis.texts if text.get_text()]
    # an annotation's own extent would hold its arrow
    # and is taller than its letters, before matplotlib 3.11 by a point more
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(0, -0.5)) for text in texts]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]
