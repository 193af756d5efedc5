"""The first page: what this is, what it found by the tables of the run, and where to go on. No
number on it is typed."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

import pandas as pd

from rpo_nb.config.loading import load_profile
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import captions
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.reporting.rendering import read_table

MARKS = {HOLDS: "holds", FAILS: "fails", OPEN: "open"}
INTRODUCTION = """\
# Does learning from rewards do what its papers say?

Most models are tuned on *pairs*: this completion is better than that one. Two papers tune on
*scores*: each completion has a number, nothing more.
[Paper A](https://arxiv.org/abs/2506.13702) (Faye, Azzag, Lebbah 2025) proposes RPO, reward
partitioning, and says that it beats SFT, KTO and DRO.
[Paper B](https://arxiv.org/abs/2502.00203) (Sun, Zhang, Bukharin et al. 2025) puts DPO, IPO, SimPO,
RLOO and more into one framework. This kit makes the tables of both again, with one command, in a
small world whose true score a program knows, and on your own feedback and model. Each claim gets
a verdict: it holds, it does not, or these runs do not decide it.
"""
FIRST = ("headline", "overview")  # pictures of the report; the first that is there is shown


def page(run: Path, files: str, more: list[tuple[str, str, str]], guide: list[str]) -> str:
    """The page in MyST. run: the results folder; files: where its files lie on the site; more:
    (title, place, what it is) of where to go on; guide: the pages of the guide."""
    profile = load_profile(str(run / "profile.yaml"))
    parts = [INTRODUCTION, "## What came out", told(profile, run)]
    for name in [name for name in FIRST if (run / "figures" / f"{name}.svg").is_file()][:1]:
        place, alt = f"{files}/figures/{name}.svg", html.escape(captions.PICTURES[name].alt)
        shown = f'<a href="{place}"><img src="{place}" alt="{alt}"></a>'
        parts.append(f'<p class="picture">{shown}</p>')
    parts += [*verdict_tables(run), "## Where to go on", _doors(more)]
    trees = {
        "The run": ["tables/index", "notebooks/index"],
        "Guide": guide,
        "Code": ["api/index", "contributing"],
    }
    for caption, entries in trees.items():
        parts.append(
            "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"])
        )
    return "\n\n".join(parts) + "\n"


def told(profile: Profile, run: Path) -> str:
    """Which run this is, and how many of the claims it decides, in sentences."""
    seeds, sizes = len(profile.seeds), len(profile.sizes)
    out = [
        f"From the run `{profile.name}`: {_many(sizes, 'size')} of model, {_many(seeds, 'seed')}."
    ]
    if seeds == 1:
        out.append("One seed decides nothing that other seeds could turn.")
    claims, learnings = _table(run, "claims"), _table(run, "paper_b_verdicts")
    if claims is not None:
        cells = claims[["hold", "fail", "undecided"]].sum()
        out.append(
            f"Of the {_many(int(cells.sum()), 'cell')} that paper A's "
            f"{_many(claims['claim'].nunique(), 'claim')} are tested in, {cells['hold']} "
            f"{_do(cells['hold'], 'hold')}, {cells['fail']} {_do(cells['fail'], 'do')} not, "
            f"{cells['undecided']} {_do(cells['undecided'], 'are')} not decided."
        )
    if learnings is not None:
        counts = Counter(learnings["verdict"])
        out.append(
            f"Of paper B's {_many(len(learnings), 'learning')}: "
            + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
            + "."
        )
    return " ".join(out)


def verdict_tables(run: Path) -> list[str]:
    """Claims by preset, and paper B's learnings, each with its verdict, as HTML."""
    claims, learnings = _table(run, "claims"), _table(run, "paper_b_verdicts")
    out = []
    if claims is not None:
        presets = [preset for preset in dict.fromkeys(claims["preset"]) if preset != "all"]
        rows = []
        for claim, found in claims.groupby("claim", sort=False):
            verdicts = dict(zip(found["preset"], found["verdict"], strict=True))
            if "all" in verdicts:
                cells = f'<td colspan="{len(presets)}">{_mark(verdicts["all"])}</td>'
            else:
                cells = "".join(f"<td>{_mark(verdicts.get(preset, ''))}</td>" for preset in presets)
            rows.append(f'<tr><th scope="row">{html.escape(claim)}</th>{cells}</tr>')
        heads = ["Paper A says", *(f"RPO as {preset}" for preset in presets)]
        out.append(_html(heads, rows, "claims of paper A"))
        out.append("RPO is read in three ways: [presets](tables/presets.md).")
    if learnings is not None:
        rows = [
            f'<tr><th scope="row">{html.escape(row.learning)}</th>'
            f"<td>{_mark(row.verdict)}</td></tr>"
            for row in learnings.drop_duplicates(["learning", "verdict"]).itertuples()
        ]
        out.append(_html(["Paper B says", "verdict"], rows, "learnings of paper B"))
    return out


def _table(run: Path, name: str) -> pd.DataFrame | None:
    path = run / "tables" / f"{name}.csv"
    return read_table(path) if path.is_file() and path.stat().st_size > 1 else None


def _mark(verdict: str) -> str:
    kind = MARKS.get(verdict, MARKS[OPEN])
    return f'<span class="verdict {kind}">{html.escape(verdict)}</span>' if verdict else ""


def _html(heads: list[str], rows: list[str], label: str) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _doors(more: list[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<li><b><a href="{place}">{title}</a></b> {html.escape(what)}</li>'
        for title, place, what in more
    )
    return f'<ul class="doors">{items}</ul>'


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _do(count: int, verb: str) -> str:
    """The verb for so many."""
    return {"hold": "holds", "do": "does", "are": "is"}[verb] if count == 1 else verb
