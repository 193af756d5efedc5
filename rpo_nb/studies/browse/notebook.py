"""The texts of a prompt in a notebook: `show("results/pocket", size="small", preset="paper")`."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb.pocket.violations import WORDS
from rpo_nb.reporting.rendering import number, plain_text
from rpo_nb.studies.browse import scored, stored
from rpo_nb.studies.browse.stored import A, Shelf

SHELF = ("study", "place", "seed")  # keywords that choose a shelf
COLUMN = ("preset", "method", "policy", "split", "prompt_id")  # keywords that choose rows of it
LONGEST = 8  # names that a refusal lists


class Texts:
    """Completions of a few prompts; `rows` is their frame, and a notebook shows them as a table."""

    def __init__(self, shelf: Shelf, rows: pd.DataFrame) -> None:
        self.shelf, self.rows = shelf, rows

    def _repr_html_(self) -> str:
        return "".join(
            _table(self.shelf, rows) for _, rows in self.rows.groupby(scored.PROMPT, sort=False)
        )

    def __repr__(self) -> str:
        return self.rows[["prompt", "preset", "policy", "completion", "reward"]].to_string()


def show(out: Path | str, *, order: str = "asked", prompts: int = 1, **where: Any) -> Texts:
    """The completions of the first prompts of a shelf, side by side.

    order: of the prompts, by what is shown: "asked", "loss" (the most behind the reference first)
    or "disagreement" (of the judges), as on the page. where: study ("paper A", "lab", "paper B"),
    size or regime, seed, preset, method, policy, split, prompt (its id); the first of each that is
    not given, of the columns all.
    Raises ValueError for what there is not.
    """
    if order not in scored.ORDERS:
        raise ValueError(f"order is {order!r}; it must be one of {', '.join(scored.ORDERS)}")
    out, wanted = Path(out), dict(where)
    for name, study in (("size", A), ("regime", stored.LAB)):
        if name in wanted:
            if wanted.get("study", study) != study:
                raise ValueError(
                    f"{name} is of {study}, and study is {wanted['study']!r}; leave one of them out"
                )
            wanted |= {"study": study, "place": wanted.pop(name)}
    if "prompt" in wanted:
        wanted["prompt_id"] = wanted.pop("prompt")
    unknown = set(wanted) - {*SHELF, *COLUMN}
    if unknown:
        known = ["study", "size", "regime", "seed", "preset", "method", "policy", "split", "prompt"]
        raise ValueError(f"show knows no {min(unknown)!r}; it filters by {', '.join(known)}")
    profile = stored.profile_of(out)
    shelves = pd.DataFrame(stored.shelves(out, profile))
    shelf = Shelf(*_chosen(shelves, SHELF, wanted).iloc[0])
    every = scored.scored(stored.rows(out, shelf), profile.pocket_world and bool(shelf.files))
    verdicts = stored.of_shelf(stored.verdicts(out), shelf)
    rows = _chosen(every, COLUMN, wanted)
    kept = list(rows.drop_duplicates(scored.PROMPT)[scored.PROMPT].itertuples(index=False))
    if order != "asked":
        pairs = scored.between(verdicts, rows)
        by = (
            scored.losses(rows, every, pairs, by_preset=shelf.study == A)
            if order == "loss"
            else scored.disagreements(pairs)
        ).fillna(0.0)
        kept.sort(key=lambda prompt: -by.get(tuple(prompt), 0.0))
    parts = [
        rows[rows["split"].eq(split) & rows["prompt_id"].eq(prompt)]
        for split, prompt in kept[:prompts]
    ]
    return Texts(shelf, pd.concat([_with_verdicts(part, verdicts) for part in parts]))


def _chosen(frame: pd.DataFrame, names: tuple[str, ...], wanted: dict[str, Any]) -> pd.DataFrame:
    for name in names:
        if name in wanted:
            said = frame[name].map(plain_text)
            if not said.eq(plain_text(wanted[name])).any():
                there = ", ".join(list(dict.fromkeys(said))[:LONGEST])
                raise ValueError(f"there is no {name} {wanted[name]!r}; there is {there}")
            frame = frame[said.eq(plain_text(wanted[name]))]
    return frame


def _with_verdicts(rows: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    mine = verdicts[verdicts["prompt_id"].eq(rows["prompt_id"].iloc[0])]
    return rows.assign(
        verdicts=[
            scored.outcomes(mine, row.method, row.preset, row.tau) for row in rows.itertuples()
        ]
    )


def _table(shelf: Shelf, rows: pd.DataFrame) -> str:
    """A prompt as HTML; every text is escaped."""
    first, cells = rows.iloc[0], []
    for row in rows.itertuples():
        judged = [
            f"{judge}: " + "; ".join(f"{word} {', '.join(who)}" for word, who in said.items())
            for judge, said in row.verdicts.items()
        ]
        lost = ", ".join(WORDS[name] for name in row.lost)
        text = row.completion if isinstance(row.completion, str) else "not in this folder"
        values = [row.policy, row.preset, text, number(row.reward, 2), lost, " | ".join(judged)]
        cells.append("".join(f'<td style="text-align:left">{html.escape(v)}</td>' for v in values))
    head = "".join(
        f"<th>{name}</th>"
        for name in ("policy", "preset", "completion", "reward", "lost", "judges")
    )
    where = f"{shelf.study}, {shelf.place or 'all prompts'}, seed {shelf.seed}"
    asked = first["prompt"] if isinstance(first["prompt"], str) else "a prompt not in this folder"
    body = "".join(f"<tr>{cell}</tr>" for cell in cells)
    title = html.escape(f"{where}, prompt {first['prompt_id']}: {asked}")
    return f"<table><caption>{title}</caption><thead><tr>{head}</tr></thead>{body}</table>"
