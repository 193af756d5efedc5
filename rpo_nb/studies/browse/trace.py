"""Where a number comes from: the seeds, runs, texts and verdicts behind each cell of a table.

trace("results/pocket", "table3", size="small", baseline="sft")   # a frame, a row a policy
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.reporting import addresses
from rpo_nb.reporting.rendering import plain_text
from rpo_nb.store import atomic_write
from rpo_nb.studies.browse import stored
from rpo_nb.studies.browse.cells import AGAINST, SEEDS, TABLES
from rpo_nb.studies.browse.stored import COLUMN, INDEX, B, Shelf

SHELF = ["study", "place", "seed"]
SIDE = ["role", "preset_of", "who", "split"]  # a side of a cell, spread over columns
TEXTS = ["generations", "first", "last", "run"]
MOST = 12  # cells that the command shows


def columns_of(rows: pd.DataFrame, shelf: Shelf) -> pd.DataFrame:
    """The columns of a shelf (of `stored.rows`), one row each: SHELF, COLUMN, method, name (what
    the file calls it), and first and last, its rows in the file, counted from 1."""
    found = rows.groupby(COLUMN, sort=False, dropna=False)["row"].agg(["min", "max"]).reset_index()
    found = found.rename(columns={"min": "first", "max": "last"})
    found[["study", "place", "seed"]] = shelf.study, shelf.place, shelf.seed
    of_run = found["policy"].replace("reference", "sft")
    of_cell = stored.stamp_names(found)
    run = found["run"].astype(object).where(found["run"].notna(), "")
    return found.assign(name=of_run if shelf.study == B else of_cell, run=run)


def write_index(columns: Iterable[pd.DataFrame], out: Path) -> Path:
    """<out>/generations/runs.csv: which run wrote which rows, for whoever has no runs."""
    found = pd.concat(columns, ignore_index=True)
    order = ["file", "first", "last", *SHELF, "preset", "method", "policy", "split", "name", "run"]
    return atomic_write(out / INDEX, found[order].to_csv(index=False, lineterminator="\n"))


def has(out: Path, table: str) -> bool:
    """Whether a table is there and has a cell: of a short run one may have none."""
    file = out / "tables" / f"{table}.csv"
    return file.is_file() and file.stat().st_size > 1


def origins(out: Path, profile: Profile, table: str, **where: object) -> pd.DataFrame:
    """The cells of a table by seed and policy, without a look at the texts: its key columns, value,
    SEEDS but sides, and SIDE. Raises ValueError for a table or a column that there
    is not, and where no cell is meant."""
    if table not in TABLES:
        raise ValueError(f"{table!r} is no table that is traced; name one of {', '.join(TABLES)}")
    if not has(out, table):
        raise ValueError(f"{out.name}/tables/{table}.csv has no cell here; reproduce makes it")
    keys = list(TABLES[table].keys)
    found = TABLES[table].read(out, profile)[[*keys, "value", *SEEDS]]
    found = _chosen(found, table, [*keys, "seed"], where).explode("sides")
    sides = pd.DataFrame(found.pop("sides").tolist(), columns=SIDE, index=found.index)
    return pd.concat([found, sides], axis=1).reset_index(drop=True)


def _chosen(found: pd.DataFrame, table: str, keys: list[str], where: dict) -> pd.DataFrame:
    for name, value in where.items():
        if name not in keys:
            raise ValueError(f"{table} has no column {name!r}; it has {', '.join(keys)}")
        said = found[name].map(plain_text)
        if not said.eq(plain_text(value)).any():
            there = ", ".join(dict.fromkeys(said)) or "no cell"
            raise ValueError(f"no cell of {table} has {name}={value}; there is {there}")
        found = found[said.eq(plain_text(value))]
    return found


def located(found: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """Cells of `origins` with TEXTS of each policy, missing where its texts are not here. columns:
    `columns_of` all shelves that they are on; at, where they have it, comes along."""
    known = columns.rename(columns={"policy": "who", "file": "generations"})
    # a lab's policy may be several presets: its words tell it
    known["preset_of"] = known["preset"].where(known["study"].eq(stored.A), "")
    on = [*SHELF, "preset_of", "who", "split"]
    wanted = [*on, *TEXTS, *({"at"} & set(known))]
    return found.merge(known[wanted], on=on, how="left", validate="many_to_one")


def trace(out: Path | str, table: str, **where: object) -> pd.DataFrame:
    """The cells of a table, a row for each seed and policy: the table's key columns, value, seed,
    of_seed (the seed's own number; value is the mean of these), n, how, evidence (the
    file that they are counted from), role (policy, or against: over whom), who (its name), and its
    texts: generations (file), first and last (rows from 1), run (folder below runs/).

    where: values of key columns or of seed, e.g. size="small". Raises ValueError for what
    there is not.
    """
    out, profile = Path(out), stored.profile_of(out)
    found = origins(out, profile, table, **where)
    wanted = set(found[SHELF].itertuples(index=False, name=None))
    try:
        shelves = stored.shelves(out, profile)
    except ValueError:  # tables alone: the cells have seeds and no texts
        shelves = []
    shelves = [s for s in shelves if (s.study, s.place, s.seed) in wanted and s.files]
    parts = [columns_of(stored.rows(out, shelf), shelf) for shelf in shelves]
    if parts:
        found = located(found, pd.concat(parts, ignore_index=True))
    found = found.reindex(columns=list(dict.fromkeys([*found.columns, *TEXTS])))
    return found.drop(columns=["study", "place", "preset_of", "split"])


def where_of(texts: Iterable[str]) -> dict[str, str]:
    """["size=small"] as keywords of `trace`. Raises ValueError for what is no column=value."""
    wrong = next((text for text in texts if "=" not in text), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} names no cell; give column=value, as size=small")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def told(found: pd.DataFrame, table: str) -> Iterator[str]:
    """A frame of `trace` as lines: each cell, its seeds, their policies, and the page's address."""
    keys = list(TABLES[table].keys)
    cells = found.groupby(keys, sort=False, dropna=False)
    for place, (_, rows) in enumerate(cells):
        if place == MOST:
            yield f"and {len(cells) - MOST} further cells: name more columns, as {keys[0]}=…"
            return
        cell = rows.iloc[0]
        names = [f"{key} {plain_text(cell[key])}" for key in keys if plain_text(cell[key])]
        yield f"{table}, {', '.join(names)}: {plain_text(cell['value'])}"
        for seed, mine in rows.groupby("seed"):
            first = mine.iloc[0]
            yield f"  seed {seed}: {first['of_seed']:.6g}, {first['how']}, in {first['evidence']}"
            for side in mine.itertuples():
                over = "over " if side.role == AGAINST else ""
                yield f"    {over}{side.who}: {_texts_of(side)}"
        yield f"  {addresses.of_cell(table, {key: cell[key] for key in keys})}"


def _texts_of(side: Any) -> str:
    if not isinstance(side.generations, str):
        return "its texts are not in this folder"
    rows = f"{side.generations}, rows {side.first:.0f} to {side.last:.0f}"
    return f"{rows}, by runs/{side.run}" if side.run else rows
