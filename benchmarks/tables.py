"""results.csv and details.csv of the benchmarks, and the tables in the READMEs that are made from
them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.measuring import ROOT, Detail, Ratio
from rpo_nb.store import atomic_write

HERE = ROOT / "benchmarks"
COLUMNS = ["name", "baseline", "ratio", "ratio_low", "ratio_high", "goal", "n", "machine"]
DETAILS = ["benchmark", "name", "what", "quantity", "value", "low", "high", "n", "machine"]
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
# whether only rows with a goal are shown
READMES = {"docs/speed.md": True, "benchmarks/README.md": False}


def machine(quick: bool = False) -> str:
    """CPU, threads and GPU, as results.csv names a machine."""
    import torch

    from rpo_nb.running.manifest import cpu_name

    threads = torch.get_num_threads()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}{gpu}{' (quick)' * quick}"


def merge(file: Path, rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The rows of `file` with these in the place of those of the same keys, new ones at the end;
    written whole."""
    before = pd.read_csv(file) if file.is_file() else rows.iloc[:0]
    replaced = before.set_index(list(keys)).index.isin(rows.set_index(list(keys)).index)
    order = {
        key: i
        for i, key in reversed(list(enumerate(map(tuple, before[list(keys)].to_numpy().tolist()))))
    }
    together = (
        pd.concat([part for part in (before[~replaced], rows) if len(part)])
        if len(before)
        else rows
    )
    place = [order.get(tuple(key), len(order)) for key in together[list(keys)].to_numpy().tolist()]
    together = (
        together.assign(place=place)
        .sort_values("place", kind="stable")
        .drop(columns="place")
        .reset_index(drop=True)
    )
    atomic_write(file, together.to_csv(index=False, lineterminator="\n"))
    return together


def write(
    folder: Path, benchmark: str, ratios: Sequence[Ratio], details: Sequence[Detail], where: str
) -> pd.DataFrame:
    """Merge what a benchmark found into <folder>/results.csv, by name, baseline and machine, and
    <folder>/details.csv, by benchmark, name and machine. Returns the new rows of results.csv."""
    rows = pd.DataFrame(
        [
            [
                r.name,
                r.baseline,
                *(round(x, 4) for x in (r.ratio, r.low, r.high, r.goal)),
                r.n,
                where,
            ]
            for r in ratios
        ],
        columns=COLUMNS,
    )
    if ratios:
        merge(folder / "results.csv", rows, ["name", "baseline", "machine"])
    if details:
        found = pd.DataFrame(
            [
                [
                    benchmark,
                    d.name,
                    d.what,
                    d.quantity,
                    *(float(f"{x:.5g}") for x in (d.value, d.low, d.high)),
                    d.n,
                    where,
                ]
                for d in details
            ],
            columns=DETAILS,
        )
        merge(folder / "details.csv", found, ["benchmark", "name", "machine"])
    return rows


def markdown(results: pd.DataFrame, *, only_goals: bool = False) -> str:
    """results.csv as Markdown, a table a machine."""
    shown = results[results["goal"].notna()] if only_goals else results
    parts = []
    for where, rows in shown.groupby("machine", sort=False):
        lines = [
            f"On {where}:",
            "",
            "| cost of | over that of | ratio | of repetitions | goal |",
            "| --- | --- | --- | --- | --- |",
        ]
        for row in rows.itertuples():
            spread = (
                ""
                if pd.isna(row.ratio_low)
                else f"{number(row.ratio_low)} to {number(row.ratio_high)}, n = {row.n}"
            )
            goal = (
                ""
                if pd.isna(row.goal)
                else f"{row.goal:g}{'' if row.ratio <= row.goal else ', missed'}"
            )
            lines.append(
                f"| {row.name} | {row.baseline} | **{number(row.ratio)}** | {spread} | {goal} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def number(x: float) -> str:
    return f"{x:.2f}" if x >= 0.1 else f"{x:.3f}"


def filled(text: str, table: str) -> str:
    """The text with what stands between its two marks replaced. Raises ValueError where the marks
    are not there, once each."""
    if text.count(START) != 1 or text.count(END) != 1:
        raise ValueError(
            f"a README needs {START} and {END}, once each, where the benchmarks' table goes"
        )
    head, _, rest = text.partition(START)
    return f"{head}{START}\n{table}\n{END}{rest.partition(END)[2]}"


def fill_readmes(root: Path = ROOT) -> None:
    """Put benchmarks/results.csv into docs/speed.md (with a goal) and benchmarks/README.md (all
    rows)."""
    results = pd.read_csv(root / "benchmarks" / "results.csv")
    for name, only_goals in READMES.items():
        text = (root / name).read_text(encoding="utf-8")
        atomic_write(root / name, filled(text, markdown(results, only_goals=only_goals)))
