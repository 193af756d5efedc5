"""Frames as a notebook shows them: numbers that can be read, text on the left, long lists folded;
and RPO's diagnosis of a run as a light."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import html
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb import partition
from rpo_nb.experiment.grid import Run
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.reporting.rendering import FEW, MANY, readable

# what makes a run learn something else than the rewards, where it is above what is tolerated
WRONG = ("reward_scale", "unreachable_share", "against_share", "lost_share")
LIGHTS = {"ok": ("●", "#1a7f37"), "look": ("▲", "#9a6700"), "wrong": ("✖", "#b42318")}


# ---- frames --------------------------------------------------------------------------------------


def frame_html(frame: pd.DataFrame, *, index: bool = True) -> str:
    """A frame as HTML: as pandas has it, but text on the left, numbers on the right and none as
    1.8e+04, and nothing where there is no value. index: with its index."""
    is_number, is_bool = pd.api.types.is_numeric_dtype, pd.api.types.is_bool_dtype
    numeric = [is_number(kind) and not is_bool(kind) for kind in frame.dtypes]
    strange = {}
    for i, column in enumerate(frame.columns):
        values = frame.iloc[:, i].abs() if numeric[i] else pd.Series(dtype=float)
        if ((values >= MANY) | values.between(0, FEW, "neither")).any():
            strange[column] = readable
    table = frame.to_html(
        formatters=strange if frame.columns.is_unique else None,
        max_rows=pd.get_option("display.max_rows"),
        max_cols=pd.get_option("display.max_columns"),
        index=index,
        na_rep="",
        border=0,
    )
    name = f"rpo-{hashlib.sha256(table.encode()).hexdigest()[:12]}"
    levels = frame.index.nlevels if index else 0
    texts = [f"td:nth-of-type({i + 1})" for i, number in enumerate(numeric) if not number]
    texts += [f"thead th:nth-child({i + 1 + levels})" for i, n in enumerate(numeric) if not n]
    texts += ["tbody th", *(f"thead th:nth-child({i + 1})" for i in range(levels))]
    left = ", ".join(f"#{name} {text}" for text in texts)
    rules = f"#{name} :is(td, th) {{ text-align: right; padding: 2px 8px; }}\n"
    rules += f"{left} {{ text-align: left; }}"
    return f'<style>{rules}</style><div id="{name}">{table}</div>'


def styled_html(styler: Any) -> str:
    """The same of a styled frame: its text on the left, and never HTML; the same bytes for the same
    frame."""
    frame = styler.data
    texts = [i for i, kind in enumerate(frame.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    names = [name for i in texts for name in (f"td.col{i}", f"th.col_heading.col{i}")]
    left = [{"selector": name, "props": "text-align: left;"} for name in [*names, "th.row_heading"]]
    name = hashlib.sha256(repr(frame.to_dict("split")).encode()).hexdigest()[:12]
    shown = copy.deepcopy(styler)
    # by hand: pandas' own option is lost where a notebook has called `format`
    shown.data, shown.caption = frame.map(_escaped), _escaped(styler.caption)
    for axis in ("index", "columns"):
        shown.format_index(escape="html", axis=axis)
    return shown.set_table_styles(left, overwrite=False).to_html(table_uuid=name)


def _escaped(value: Any) -> Any:
    return html.escape(value, quote=False) if isinstance(value, str) else value


class Folded:
    """Lines that a notebook shows when their title is clicked, or as they are where there is no
    HTML. open: shown above them, as HTML and as text."""

    def __init__(self, title: str, lines: Sequence[str], *, above: tuple[str, str] = ("", "")):
        self.title, self.lines, self.above = title, lines, above

    def _repr_html_(self) -> str:
        text = html.escape("\n".join(self.lines))
        inner = f'<pre style="white-space: pre-wrap">{text}</pre>'
        fold = f"<details><summary>{html.escape(self.title)}</summary>{inner}</details>"
        return self.above[0] + (fold if self.lines else "")

    def __repr__(self) -> str:
        return "\n".join(filter(None, [self.above[1], self.title, *self.lines]))


@contextlib.contextmanager
def folded(title: str) -> Iterator[None]:
    """What is printed in the block, folded under a title when it ends, whether well or not; nothing
    where nothing was printed."""
    from IPython.display import display

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        lines = said.getvalue().rstrip("\n").split("\n")
        if len(lines) > 1:
            display(Folded(f"{title} ({len(lines)} lines)", lines))
        elif lines[0]:
            print(lines[0])


# ---- RPO's diagnosis -----------------------------------------------------------------------------


def light(found: dict[str, Any]) -> str:
    """What `partition.diagnostics` found, as a light: "ok"; "look", a warning that may be meant;
    "wrong", where the targets are about something else than the rewards."""
    over = [name for name in WRONG if found[name] > partition.TOLERATED[name]]
    return "wrong" if over else "look" if found["warnings"] else "ok"


def diagnosed(run: Run, prepared: Prepared) -> dict[str, Any]:
    """`partition.diagnostics` of an RPO run's targets, before it is trained."""
    objective = run.recipe["objective"]
    return partition.diagnostics(
        prepared.ref_logps[objective["reduce"]],
        prepared.rewards,
        np.asarray(prepared.splits.train["prompt_id"]),
        tau=objective["tau"],
        estimator=run.recipe["partition"],
        reduce=objective["reduce"],
        lengths=[len(completion) for _, completion in prepared.encoded],
    )


def lights(found: dict[tuple[str, ...], dict[str, Any]], names: Sequence[str]) -> Folded:
    """One line a run, with its light; the sentences of the diagnosis are folded.

    found: what tells a run -> its diagnosis; names: of what tells it.
    """
    rows, lines = [], []
    for which, one in found.items():
        kind, (mean, std) = light(one), one["target"]
        rows.append(
            dict(zip(names, which, strict=True))
            | {
                "light": f"{LIGHTS[kind][0]} {kind}",
                "targets": f"{mean:+.2f} ± {std:.2f}",
                "out of reach": f"{one['unreachable_share']:.0%}",
                "against the reward": f"{one['against_share']:.0%}",
                "effective rows": f"{one['effective_sample_size'].double().mean():.1f}",
            }
        )
        lines += [f"{', '.join(which)}: {partition.summary(one)}"]
    table = pd.DataFrame(rows)
    page = frame_html(table, index=False)
    for kind, (sign, colour) in LIGHTS.items():
        page = page.replace(f"{sign} {kind}", f'<b style="color:{colour}">{sign} {kind}</b>')
    title = "what it says of each"
    return Folded(title, lines, above=(page, table.to_string(index=False)))
