"""Paper B's Tables 2 to 4, the bridge to paper A, the verdict on each of its learnings, and Figures
1 to 4: frames in, frames out.

results and curves are those of `runs.load`. Intervals are 95 %, over other seeds (references, data
and samples) and other prompts; one seed has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb import intervals, store
from rpo_nb.config.schema import Profile
from rpo_nb.config.studies import PaperB
from rpo_nb.intervals import seeds_and_prompts
from rpo_nb.reporting.published import published_numbers
from rpo_nb.reporting.rendering import with_interval
from rpo_nb.studies.paper_b.grid import (
    GATED,
    LEARNT,
    REFERENCE,
    SPLITS,
    TRUTH,
    Run,
    bridge_runs,
    iterated,
    rows_of,
)
from rpo_nb.studies.paper_b.world import World

METRICS = {"avg_reward": TRUTH, "win_rate": "win_rate"}  # the paper's -> the measure
PAPER_PROMPTS = {
    "valid": "lmsys_valid",
    "test": "lmsys_test",
    **dict.fromkeys(("ood_values", "ood_combinations", "ood"), "alpacaeval"),
}
# of a legend: "best" still covers bands and error bars
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def points(results: pd.DataFrame, measure: str, *runs: Run, split: str = "test") -> pd.DataFrame:
    """A measure's mean over some runs: a line a seed, a column a prompt."""
    rows = rows_of(results[results["split"].eq(split)], *runs)
    return rows.pivot_table(index="seed", columns="prompt", values=measure)


def _cell(
    results: pd.DataFrame, run: Run, split: str, metric: str, published: object = None
) -> dict:
    """mean, ci_low, ci_high, seeds of a measure, and the paper's number with the half width of its
    interval."""
    values, bounds = points(results, METRICS[metric], run, split=split), None
    if metric == "win_rate":
        values, bounds = 100 * values, (0, 100)
    found = seeds_and_prompts(values, bounds=bounds)
    number, half = published if isinstance(published, list) else (published, None)
    missing = {None, "null"}
    return {
        "metric": metric,
        "prompts": split,
        "mean": found.value,
        "ci_low": found.low,
        "ci_high": found.high,
        "seeds": len(values),
        "published": np.nan if number in missing else number,
        "published_ci": np.nan if half in missing else half,
    }


def by_seed(results: pd.DataFrame) -> pd.DataFrame:
    """What the tables' numbers are means of: run, split, seed, n (prompts), and the means of truth,
    win_rate (from 0 to 1) and kl."""
    groups = results.groupby(["run", "split", "seed"], sort=False)
    means = groups[[TRUTH, "win_rate", "kl"]].mean()
    means.insert(0, "n", groups.size())
    return means.reset_index()


def present(frame: pd.DataFrame, run: Run) -> bool:
    return len(rows_of(frame, run)) > 0


def _splits(results: pd.DataFrame) -> list[str]:
    """Those of SPLITS that there are."""
    return [split for split in SPLITS if results["split"].eq(split).any()]


def table2(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Loss, k, responses and rm as in the paper, the 8B numbers beside; average ground-truth reward
    and win rate (%) over the reference, on test prompts and on both kinds out of distribution (both
    beside AlpacaEval)."""
    rows = []
    for line in published_numbers()["paper_b"]["table2"]:
        if line["base"] != "8b":
            continue
        k = config.k if line["k"] == "4" else line["k"]
        run = Run(line["loss"].removeprefix("rpo-"), k=2 if k == "null" else int(k))
        if line["responses"] == "Online":
            judge = TRUTH if line["rm"] == "GT" else LEARNT
            run = replace(run, k=config.k, online=True, judge=judge)
        if present(results, run):
            named = {
                name: "" if line[name] == "null" else line[name] for name in ("responses", "rm")
            }
            rows += [
                {
                    "loss": line["loss"],
                    "k": "" if k == "null" else str(k),
                    **named,
                    **_cell(results, run, split, metric, line[metric].get(PAPER_PROMPTS[split])),
                }
                for metric in METRICS
                for split in _splits(results)[1:]
            ]
    return pd.DataFrame(rows)


def table3(results: pd.DataFrame) -> pd.DataFrame:
    """DPO on prompts of the distribution and on a narrow writer's (the paper's synthetic ones), by
    where it is evaluated."""
    rows = []
    for line in published_numbers()["paper_b"]["table3"]:
        run = Run("dpo", synthetic=line["prompts"] == "synthetic")
        if present(results, run):
            rows += [
                {
                    "training_prompts": "synthetic" if run.synthetic else "in distribution",
                    **_cell(results, run, split, metric, line[metric].get(PAPER_PROMPTS[split])),
                }
                for metric in METRICS
                for split in _splits(results)
            ]
    return pd.DataFrame(rows)


def table4(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Iterations (0 is the reference) of offline DPO, offline bwd and online bwd; the paper's
    numbers: 8B for DPO, 70B for the others."""
    printed = {
        line["prompts"]: line
        for line in published_numbers()["paper_b"]["table4"]
        if line["prompts"] != "SFT"
    }
    starts = {
        line["base"]: line
        for line in published_numbers()["paper_b"]["table4"]
        if line["prompts"] == "SFT"
    }
    rows = []
    for name, run in iterated(config).items():
        for i in range(config.iterations + 1):
            this = replace(run, iteration=i) if i else REFERENCE
            line = (
                printed.get(f"{name}-Iter-{i}", {})
                if i
                else starts[printed[f"{name}-Iter-1"]["base"]]
            )
            if present(results, this) and present(results, run):
                rows += [
                    {
                        "training": name,
                        "iteration": str(i),
                        **_cell(
                            results,
                            this,
                            split,
                            metric,
                            line.get(metric, {}).get(PAPER_PROMPTS[split]),
                        ),
                    }
                    for metric in METRICS
                    for split in _splits(results)
                ]
    return pd.DataFrame(rows).drop(columns="published_ci", errors="ignore")


def reward_models(profile: Profile, out: str | Path, results: pd.DataFrame) -> pd.DataFrame:
    """The learnt judges: accuracy on held-out comparisons, and the mean true test reward of online
    bwd trained on each, and on the truth."""
    rows = []
    for judge in (TRUTH, LEARNT, GATED):
        run = Run("bwd", k=profile.paper_b.k, online=True, judge=judge)
        if not present(results, run):
            continue
        held_out = (
            []
            if judge == TRUTH
            else [
                _held_out(World(profile, seed, Path(out)), judge)["correct"]
                for seed in profile.paper_b.seeds
            ]
        )
        mean, low, high = (
            intervals.student([correct.mean() for correct in held_out])
            if held_out
            else (np.nan,) * 3
        )
        rows.append(
            {
                "judge": judge,
                **_cell(results, run, "test", "avg_reward"),
                "accuracy": mean,
                "accuracy_low": low,
                "accuracy_high": high,
                "comparisons": sum(map(len, held_out)) if held_out else np.nan,
            }
        )
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def _held_out(world: World, judge: str) -> pd.DataFrame:
    """The comparisons that a learnt judge was not trained on, read beside it where it is finished:
    its weights, and its reference's, may not be here (`running.parts`)."""
    folder = world.reward_model_folder(judge)
    if store.sealed(folder) is None:
        return world.reward_model(judge).held_out
    return pd.read_csv(folder / "held_out.csv")


def eta_sweep(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Offline bwd at multiples of the suggested η: mean test reward, KL, entropy."""
    rows = []
    for eta in sorted({1.0, *config.etas}):
        run = Run("bwd", k=config.k, eta=eta)
        if present(results, run):
            tested = rows_of(results[results["split"].eq("test")], run)
            mean = tested[["kl", "entropy"]].mean()
            rows.append(
                {
                    "eta": f"{eta:g} × suggested",
                    **_cell(results, run, "test", "avg_reward"),
                    **mean.to_dict(),
                }
            )
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def bridge(results: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """Paper A's RPO against sqloo on the same tuples, steps and strength of the KL term: the
    squared distance with log Z estimated (each Ẑ) or cancelled. gain: sqloo's mean reward less the
    estimate's, seed by seed."""
    own, rows = Run("sqloo", k=config.k), []
    for run in (own, *bridge_runs(config)):
        if present(results, run) and present(results, own):
            gain, low, high = difference(results, [own], [run])[:3]
            kl = rows_of(results[results["split"].eq("test")], run)["kl"]
            rows.append(
                {
                    "log_z": "cancelled (sqloo)" if run == own else f"estimated, {run.estimator}",
                    **_cell(results, run, "test", "avg_reward"),
                    "kl": float(kl.mean()),
                    **({} if run == own else {"gain": gain, "gain_low": low, "gain_high": high}),
                }
            )
    return pd.DataFrame(rows).drop(columns=["published", "published_ci"], errors="ignore")


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """One of the tables as read: a line a policy, a column a metric and prompts, the paper's number
    beside."""
    if table.empty:
        return table
    keys = [
        c
        for c in table.columns
        if c
        not in (
            "metric",
            "prompts",
            "mean",
            "ci_low",
            "ci_high",
            "seeds",
            "published",
            "published_ci",
        )
    ]
    digits = np.where(table["metric"].eq("win_rate"), 1, 2)
    ours = [
        with_interval(m, low, high, d)
        for m, low, high, d in zip(
            table["mean"], table["ci_low"], table["ci_high"], digits, strict=True
        )
    ]
    cells = [
        f"{text} ({theirs})" if isinstance(theirs, str) else text
        for text, theirs in zip(ours, table["published"], strict=True)
    ]
    shown = table[keys].assign(column=table["metric"] + ", " + table["prompts"], cell=cells)
    lines = shown.pivot_table(
        index=keys, columns="column", values="cell", aggfunc="first", sort=False
    )
    return lines.rename_axis(columns=None).reset_index()


# ---- the learnings -------------------------------------------------------------------------------


def difference(
    results: pd.DataFrame, ahead: Sequence[Run], behind: Sequence[Run]
) -> intervals.Estimate:
    """Mean test reward of some runs less that of others, on the same prompts with common random
    numbers, with its interval over other seeds and other prompts."""
    first, second = (points(results, TRUTH, *runs) for runs in (ahead, behind))
    return seeds_and_prompts(first - second)
