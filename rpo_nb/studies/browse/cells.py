"""What each number of a table is the mean of: its numbers by seed, and the policies behind it.

One function a table, from its csv and the files that it was made of: a row a cell and seed with
the table's own key columns, value (of the cell), seed, of_seed (the seed's number), n (of
texts or verdicts), how (in words), evidence (the file that holds what it is counted from), study
and place (of the shelf, see `stored`) and sides: (role, preset, policy, split) of each policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.reporting.rendering import read_table
from rpo_nb.reporting.tables import at_main_setting
from rpo_nb.studies.browse.stored import AGAIN, LAB, A, B, policy_name, verdicts_of

if TYPE_CHECKING:
    from rpo_nb.studies.paper_b.grid import Run

POLICY, AGAINST = "policy", "against"  # roles: whose number it is, and over whom
SEEDS = ["seed", "of_seed", "n", "how", "evidence", "study", "place", "sides"]
MAP = ("gain", "reward", "win_rate", "kl", "broken")  # measures of the regime map
OVER = {"gain": "reference", "win_rate": AGAIN}  # those that compare, and with whom
TOLD = {"method": "won", "tie": "even", "baseline": "lost"}  # a verdict, of RPO
POINTS = {"won": 100.0, "even": 50.0, "lost": 0.0}


class Table(NamedTuple):
    """keys: the columns of <out>/tables/<name>.csv that name a cell (measure: which of its numbers,
    where a row has several). read: (out, profile) to rows of keys, value and SEEDS."""

    keys: tuple[str, ...]
    read: Callable[[Path, Profile], pd.DataFrame]


# ---- Tables II to IV -----------------------------------------------------------------------------


def table2(out: Path, profile: Profile) -> pd.DataFrame:
    """Metrics: the values of tables/metrics.csv by seed."""
    keys = list(TABLES["table2"].keys)
    table = read_table(out / "tables" / "table2.csv")[[*keys, "value"]]
    values = at_main_setting(read_table(out / "tables" / "metrics.csv"), profile)
    found = table.merge(values.rename(columns={"value": "of_seed"}), on=keys)
    return found.assign(
        how=[f"over {n:.0f} completions" for n in found["n"]],
        evidence="tables/metrics.csv",
        study=A,
        place=found["size"],
        sides=[
            ((POLICY, row.preset, policy_name(row.method, row.tau), ""),)
            for row in found.itertuples()
        ],
    )


def _rates(out: Path, profile: Profile, *, name: str, over: str) -> pd.DataFrame:
    """A table of win rates: the verdicts by seed. over: the baseline of Table IV, "" where it is
    one of the keys."""
    keys = list(TABLES[name].keys)
    table = read_table(out / "tables" / f"{name}.csv").rename(columns={"win_rate": "value"})
    verdicts = verdicts_of(out, name.partition("_")[0])
    if name.endswith("_average"):
        verdicts = verdicts.assign(verdict=verdicts["verdict_average"])
    if over:
        verdicts = verdicts[verdicts["baseline"].eq(over)]
    else:
        verdicts = at_main_setting(verdicts, profile)
    cell = ["preset", "judge", "size", "baseline", "tau", "seed"]
    told = verdicts["verdict"].map(TOLD).fillna("none")  # counted, and in no rate
    found = verdicts.assign(verdict=told).groupby(cell)["verdict"]
    counts = found.value_counts().unstack(fill_value=0).reindex(columns=list(POINTS), fill_value=0)
    n = counts.sum(axis=1)
    counts = counts.assign(n=n, of_seed=counts.mul(pd.Series(POINTS)).sum(axis=1) / n)
    found = table[[*keys, "value"]].merge(counts.reset_index(), on=keys)
    return found.assign(
        how=[f"{row.won} won, {row.even} even, {row.lost} lost" for row in found.itertuples()],
        evidence=[
            f"verdicts/{name.partition('_')[0]}-{judge}.jsonl.gz" for judge in found["judge"]
        ],
        study=A,
        place=found["size"],
        sides=[
            (
                (POLICY, row.preset, policy_name("rpo", row.tau), ""),
                (AGAINST, row.preset, policy_name(row.baseline), ""),
            )
            for row in found.itertuples()
        ],
    )


# ---- the partition lab ---------------------------------------------------------------------------


def regime_map(out: Path, profile: Profile) -> pd.DataFrame:
    """The regime map: seeds/regime_map.csv."""
    keys = ["regime", "policy"]
    table = read_table(out / "tables" / "regime_map.csv")[[*keys, *MAP]]
    seeds = read_table(out / "seeds" / "regime_map.csv").rename(columns={"study": "regime"})
    found = table.melt(keys, var_name="measure").merge(
        seeds.melt([*keys, "seed"], list(MAP), var_name="measure", value_name="of_seed"),
        on=[*keys, "measure"],
    )
    return found.assign(
        n=profile.lab.prompts,
        how=f"mean over {profile.lab.prompts} completions",
        evidence="seeds/regime_map.csv",
        study=LAB,
        place=found["regime"],
        sides=[
            (
                (POLICY, "", row.policy, ""),
                *([(AGAINST, "", OVER[row.measure], "")] if row.measure in OVER else []),
            )
            for row in found.itertuples()
        ],
    )


# ---- paper B -------------------------------------------------------------------------------------


def _paper_b(out: Path, profile: Profile, *, name: str) -> pd.DataFrame:
    """A table of paper B: seeds/paper_b.csv."""
    keys = list(TABLES[name].keys)
    table = read_table(out / "tables" / f"{name}.csv").rename(columns={"mean": "value"})
    table[keys] = table[keys].astype(object).where(table[keys].notna(), "")
    runs = [_run_of(name, row, profile) for _, row in table.iterrows()]
    table = table.assign(
        run=[run.name for run in runs],
        who=[run.name if run.trained else "reference" for run in runs],
    )
    seeds = read_table(out / "seeds" / "paper_b.csv")
    seeds = seeds.assign(avg_reward=seeds["truth"], win_rate=100 * seeds["win_rate"])
    means = seeds.rename(columns={"split": "prompts"}).melt(
        ["run", "prompts", "seed", "n"],
        ["avg_reward", "win_rate"],
        var_name="metric",
        value_name="of_seed",
    )
    found = table[["run", "who", *keys, "value"]].merge(means, on=["run", "metric", "prompts"])
    return found.assign(
        how=[f"mean over {n} completions" for n in found["n"]],
        evidence="seeds/paper_b.csv",
        study=B,
        place="",
        sides=[((POLICY, "", row.who, row.prompts),) for row in found.itertuples()],
    )


def _run_of(table: str, row: pd.Series, profile: Profile) -> Run:
    """The policy of a row of paper B's tables."""
    from rpo_nb.studies.paper_b import grid

    k, Run = profile.paper_b.k, grid.Run
    if table == "paper_b_table2":
        loss = row["loss"].removeprefix("rpo-")
        if row["responses"] != "Online":
            return Run(loss, k=int(row["k"] or 2))
        judge = grid.TRUTH if row["rm"] == "GT" else grid.LEARNT
        return Run(loss, k=k, online=True, judge=judge)
    if table == "paper_b_table3":
        return Run("dpo", synthetic=row["training_prompts"] == "synthetic")
    if table == "paper_b_table4":
        first, iteration = grid.iterated(profile.paper_b)[row["training"]], int(row["iteration"])
        return replace(first, iteration=iteration) if iteration else grid.REFERENCE
    if table == "paper_b_eta":
        return Run("bwd", k=k, eta=float(row["eta"].split()[0]))
    if table == "paper_b_bridge":
        estimator = row["log_z"].removeprefix("estimated, ")
        mine = estimator in grid.BRIDGE
        return Run("rpo", k=k, estimator=estimator) if mine else Run("sqloo", k=k)
    return Run("bwd", k=k, online=True, judge=row["judge"])


PAPER_B_KEYS = {
    "paper_b_table2": ("loss", "k", "responses", "rm"),
    "paper_b_table3": ("training_prompts",),
    "paper_b_table4": ("training", "iteration"),
    "paper_b_eta": ("eta",),
    "paper_b_bridge": ("log_z",),
    "paper_b_reward_models": ("judge",),
}
RATES = {"table3": "", "table3_average": ""} | {
    f"table4{end}": baseline
    for end, baseline in (("", "sft"), ("_reference", "reference"), ("_best_of_k", "best_of_k"))
}  # table of win rates -> its one baseline
TABLES = {
    "table2": Table(("preset", "metric", "method", "size"), table2),
    **{
        name: Table(
            ("preset", "judge", "size", "tau" if over else "baseline"),
            partial(_rates, name=name, over=over),
        )
        for name, over in RATES.items()
    },
    "regime_map": Table(("regime", "policy", "measure"), regime_map),
    **{
        name: Table((*keys, "metric", "prompts"), partial(_paper_b, name=name))
        for name, keys in PAPER_B_KEYS.items()
    },
}
