"""The page generations.html: one prompt, every method's completions, what they are worth and which
numbers they make.

The page is small; the completions lie beside it in generations_page/, a file a shelf (`stored`),
read when they are looked at: scripts with compressed JSON, since a page that is opened as a file
may load those and nothing else. Text is data there, and stays text.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rpo_nb.config.methods import ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.pocket.violations import WORDS
from rpo_nb.reporting import addresses
from rpo_nb.reporting.addresses import PAGE
from rpo_nb.reporting.rendering import plain_text
from rpo_nb.store import atomic_write
from rpo_nb.studies.browse import scored, stored, trace
from rpo_nb.studies.browse.cells import TABLES
from rpo_nb.studies.browse.stored import LAB, A, B, Shelf

DATA, NUMBERS = "generations_page", "numbers"
POLICY = ["preset", "method", "policy", "tau"]  # a column of the page, over all splits
SAID = {"method": "w", "baseline": "l", "tie": "e"}  # a verdict, of RPO; "n": none
TITLES = {
    "table2": "Table II",
    "table3": "Table III",
    "table3_average": "Table III, log-odds averaged",
    "table4": "Table IV, over SFT",
    "table4_reference": "Table IV, over the reference",
    "table4_best_of_k": "Table IV, over best-of-K SFT",
    "regime_map": "Regime map of the lab",
    "paper_b_table2": "Paper B, Table 2",
    "paper_b_table3": "Paper B, Table 3",
    "paper_b_table4": "Paper B, Table 4",
    "paper_b_eta": "Paper B, η",
    "paper_b_bridge": "Paper B, bridge to paper A",
    "paper_b_reward_models": "Paper B, learnt judges",
}


def write(out: Path | str, profile: Profile | None = None) -> Path:
    """Write the page of an output folder from its generations, verdicts and tables, and
    generations/runs.csv; return its path. The same results give the same bytes.

    Raises ValueError for a folder with nothing to show.
    """
    out = Path(out)
    profile = profile or stored.profile_of(out)
    verdicts, shelves = stored.verdicts(out), stored.shelves(out, profile)
    index, columns, written = [], [], []
    for shelf in shelves:
        rows = stored.rows(out, shelf)
        mine = trace.columns_of(rows, shelf)
        content = shelf_data(
            scored.scored(rows, profile.pocket_world and bool(shelf.files)),
            stored.of_shelf(verdicts, shelf),
        )
        written.append(_write(out, shelf.name, content))
        index.append(_about(shelf, content))
        columns.append(mine)
    if any(shelf.files for shelf in shelves):
        trace.write_index(columns, out)
    numbers = numbers_data(out, profile, shelves, pd.concat(columns, ignore_index=True))
    written.append(_write(out, NUMBERS, numbers))
    for file in set((out / DATA).glob("*.js")) - set(written):
        file.unlink()
    context = {
        "profile": profile.name,
        "seeds": len({shelf.seed for shelf in shelves}),
        "texts": any(shelf.files for shelf in shelves),
        "index": {
            "data": DATA,
            "shelves": index,
            "methods": {name: [row.title, row.colour] for name, row in ROWS.items()},
            "lost": list(WORDS.values()),
            "tables": {name: TITLES[name] for name in numbers["tables"]},
            "studies": [A, LAB, B],
            "presets": list(profile.presets),
        },
    }
    return atomic_write(out / PAGE, _rendered("generations.html.j2", context))


def _rendered(template: str, context: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(addresses.__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order is the page's
    return environment.get_template(template).render(context)


def _write(out: Path, name: str, content: dict[str, Any]) -> Path:
    """A script that hands content to the page, as gzipped JSON in base64."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    packed = base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")
    return atomic_write(out / DATA / f"{name}.js", f'rpo({json.dumps(name)},"{packed}");\n')


def _about(shelf: Shelf, content: dict[str, Any]) -> dict[str, Any]:
    """What the page knows of a shelf before it is read."""
    return {
        "name": shelf.name,
        "study": shelf.study,
        "place": shelf.place,
        "seed": shelf.seed,
        "presets": list(dict.fromkeys(c["preset"] for c in content["columns"] if c["preset"])),
        "methods": list(dict.fromkeys(c["method"] for c in content["columns"])),
        "splits": list(dict.fromkeys(p["split"] for p in content["prompts"] if p["split"])),
    }


# ---- a shelf -------------------------------------------------------------------------------------


def shelf_data(rows: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, Any]:
    """A shelf as the page reads it: columns (POLICY, file, first and last row, run), prompts (id,
    split, prompt, target), by prompt and column texts, rewards (in hundredths), lost (bits of
    WORDS), learnt and ratios; verdicts by judge and pair of columns, a letter a prompt (SAID), and
    log-odds.

    rows: of `scored.scored`. verdicts: of `stored.of_shelf`.
    """
    asked = rows.drop_duplicates(scored.PROMPT)
    place = rows[scored.PROMPT].merge(
        asked[scored.PROMPT].assign(place=range(len(asked))), on=scored.PROMPT, how="left"
    )["place"]
    keyed = rows[POLICY].assign(tau=rows["tau"].fillna(math.inf))
    column = keyed.groupby(POLICY, sort=False).ngroup()
    grid = _Grid(place.to_numpy(), column.to_numpy(), len(asked), int(column.max()) + 1)
    bits = {name: 1 << i for i, name in enumerate(WORDS)}
    found = {
        "columns": _columns(rows, column),
        "prompts": [
            {"id": int(one.prompt_id), "split": one.split, "prompt": _text(one.prompt)}
            | ({"target": one.target} if isinstance(one.target, str) else {})
            for one in asked.itertuples()
        ],
        "texts": grid.of([_text(text) for text in rows["completion"]]),
    }
    if rows["reward"].notna().any():
        found["rewards"] = grid.of(_whole(100 * rows["reward"]))
        found["lost"] = grid.of([sum(map(bits.get, lost or ())) for lost in rows["lost"]])
    for name, key in (("learnt", "learnt"), ("log_ratio", "ratios")):
        if rows[name].notna().any():
            found[key] = grid.of(_whole(100 * rows[name].astype(float)))
    if len(verdicts):
        ids = {(one.split, one.prompt_id): i for i, one in enumerate(asked.itertuples())}
        found["verdicts"] = list(_verdicts(verdicts, found["columns"], ids))
    return found


class _Grid:
    """Values of rows as a list a prompt with one a column; None where there is no row."""

    def __init__(self, place: np.ndarray, column: np.ndarray, prompts: int, columns: int) -> None:
        self.at, self.shape = (place, column), (prompts, columns)

    def of(self, values: Sequence[object]) -> list[list[object]]:
        table = np.full(self.shape, None, dtype=object)
        table[self.at] = np.array([*values, None], dtype=object)[:-1]
        return table.tolist()


def _whole(values: pd.Series) -> list[int | None]:
    return [None if pd.isna(value) else round(value) for value in values]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _columns(rows: pd.DataFrame, column: pd.Series) -> list[dict[str, Any]]:
    found = rows.groupby(column)
    first, last = found["row"].min(), found["row"].max()
    heads = rows.groupby(column).first()
    return [
        {
            "preset": one.preset,
            "method": one.method,
            "policy": one.policy,
            "tau": None if pd.isna(one.tau) else one.tau,
            "file": one.file,
            "first": int(first[number]),
            "last": int(last[number]),
            "run": one.run if isinstance(one.run, str) else "",
        }
        for number, one in zip(heads.index, heads.itertuples(index=False), strict=True)
    ]


def _verdicts(verdicts: pd.DataFrame, columns: list[dict], ids: dict[tuple[str, int], int]) -> Any:
    """A judge's verdicts on a pair of columns, those of `columns` only."""
    numbers = {(c["preset"], c["method"], c["tau"]): i for i, c in enumerate(columns)}
    baselines = {(c["preset"], c["method"]): i for i, c in enumerate(columns)}
    keys = ["judge", "preset", "tau", "baseline"]
    for (judge, preset, tau, baseline), mine in verdicts.groupby(keys, sort=True):
        pair = numbers.get((preset, "rpo", tau)), baselines.get((preset, baseline))
        if None in pair:
            continue
        said, odds = ["-"] * len(ids), [None] * len(ids)
        given = "log_odds" in mine and mine["log_odds"].notna().any()
        for row in mine.itertuples():
            at = ids.get(("", row.prompt_id))
            if at is not None:
                said[at] = SAID.get(row.verdict, "n")
                odds[at] = round(row.log_odds, 3) if given and pd.notna(row.log_odds) else None
        found = {"judge": judge, "method": pair[0], "baseline": pair[1], "said": "".join(said)}
        yield found | ({"odds": odds} if given else {})


# ---- the numbers ---------------------------------------------------------------------------------


def numbers_data(
    out: Path, profile: Profile, shelves: Sequence[Shelf], columns: pd.DataFrame
) -> dict[str, Any]:
    """Every cell of the traced tables that are there: columns (shelf, who, preset, split, file,
    first, last, run), and of each table its keys and its cells: values of the keys, the number, and
    of each seed (seed, number, how, evidence, [(role, place in columns or null)])."""
    names = {(shelf.study, shelf.place, shelf.seed): shelf.name for shelf in shelves}
    columns = columns.assign(at=range(len(columns)))
    listed = [
        [names[one.study, one.place, one.seed], one.policy, one.preset, one.split, one.file]
        + [int(one.first), int(one.last), one.run]
        for one in columns.itertuples()
    ]
    tables = {}
    for table in TABLES:
        if trace.has(out, table):
            found = trace.origins(out, profile, table)
            if len(found):
                tables[table] = _cells(trace.located(found, columns), table)
    return {"columns": listed, "tables": tables}


def _cells(found: pd.DataFrame, table: str) -> dict[str, Any]:
    keys = list(TABLES[table].keys)
    cells = []
    for key, rows in found.groupby(keys, sort=False, dropna=False):
        seeds = []
        for seed, mine in rows.groupby("seed"):
            first = mine.iloc[0]
            sides = [
                [one.role, one.who, None if pd.isna(one.at) else int(one.at)]
                for one in mine.itertuples()
            ]
            number = None if pd.isna(first["of_seed"]) else float(f"{first['of_seed']:.6g}")
            seeds.append([int(seed), number, first["how"], first["evidence"], sides])
        cells.append([[plain_text(part) for part in key], plain_text(rows["value"].iloc[0]), seeds])
    return {"keys": keys, "cells": cells}
