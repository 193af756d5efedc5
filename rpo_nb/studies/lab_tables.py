"""The partition lab's tables: summaries of `lab_runs.measure`'s rows, one function a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb import intervals, partition
from rpo_nb.config.methods import ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import inputs
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.judging import verdicts
from rpo_nb.judging.rates import win_rates
from rpo_nb.studies import table1
from rpo_nb.studies.lab import MAP_KEYS, Spec, Study

# paper A, version 4: preference in % for the normalised loss, over models and judges
PUBLISHED_ABLATION = ">90"


def summarise(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """One row a study and policy: study, MAP_KEYS, reward, std (over seeds), win_rate (% over the
    study's reference, ties half), kl (nats a completion), broken (share), each with _low and _high
    (95 % bootstrap over the prompts of all seeds), n, seeds."""
    first = {study.name: study for study in reversed(studies)}
    out = []
    for (name, place), mine in rows.groupby(["study", "spec"], sort=False):
        study = first[name]
        base = rows[
            rows["study"].eq(name)
            & rows["spec"].eq([s.method for s in study.specs].index("reference"))
        ]
        paired = mine.merge(
            base[["seed", "prompt_id", "reward"]],
            on=["seed", "prompt_id"],
            suffixes=("", "_reference"),
            validate="one_to_one",
        )
        gap = paired["reward"] - paired["reward_reference"]
        values = {
            "reward": paired["reward"],
            "win_rate": 50.0 * (1 + np.sign(gap)),
            "kl": paired["log_ratio"],
            "broken": paired["broken"],
        }
        row = {"study": name, **study.specs[place].row(study.profile, study.size)}
        for key, column in values.items():
            row |= dict(
                zip(
                    (key, f"{key}_low", f"{key}_high"),
                    intervals.bootstrap(column),
                    strict=True,
                )
            )
        row["std"] = paired.groupby("seed")["reward"].mean().std(ddof=1)
        out.append(row | {"n": len(paired), "seeds": paired["seed"].nunique()})
    return pd.DataFrame(out)


def regimes(
    studies: Sequence[Study], held: dict[tuple[str, int], Prepared], out: str | Path
) -> pd.DataFrame:
    """What each regime is (held: `lab_runs.prepared`), mean over seeds: regime, data (mean reward
    of the training rows), data_wins (% of the rows over the reference's own texts for their
    prompts, ties half), k, and log-probabilities of the reference a token: logp (of the rows),
    own_logp (of its own texts), above_log_k (share of rows above −log K)."""
    rows = []
    for study in studies:
        prepared = held[study.name, study.seed]
        ids = np.asarray(prepared.splits.train["prompt_id"])
        found = partition.diagnostics(
            prepared.ref_logps["mean"], prepared.rewards, ids, tau=1.0, reduce="mean"
        )
        own = json.loads(study.file(Spec("reference"), Path(out)).read_text(encoding="utf-8"))
        ahead = np.sign(
            prepared.rewards[:, None]
            - inputs.reference_rewards(study.profile, prepared, study.seed)
        )
        rows.append(
            {
                "regime": study.name,
                "data": np.mean(prepared.splits.train["reward"]),
                "data_wins": 50 * (1 + ahead.mean()),
                "k": found["completions"].double().mean().item(),
                "logp": prepared.ref_logps["mean"].mean(),
                "own_logp": np.divide(own["ref_logps"], own["tokens"]).mean(),
                "above_log_k": found["above_log_k_share"],
            }
        )
    return pd.DataFrame(rows).groupby("regime", sort=False).mean().reset_index()


def regime_map(
    rows: pd.DataFrame, studies: Sequence[Study], described: pd.DataFrame
) -> pd.DataFrame:
    """regime_map.csv: `summarise` with, of each regime, gap (mean reward of the data minus that of
    the reference's own texts), data_wins, k, logp, own_logp and above_log_k of `regimes`."""
    table = summarise(rows, studies).rename(columns={"study": "regime"})
    own = table[table["method"].eq("reference")].set_index("regime")["reward"]
    about = described.set_index("regime")
    table.insert(1, "gap", table["regime"].map(about["data"] - own))
    return table.assign(
        **{
            name: table["regime"].map(about[name])
            for name in ("data_wins", "k", "logp", "own_logp", "above_log_k")
        }
    )


def ablation(
    rows: pd.DataFrame, studies: Sequence[Study], profile: Profile, out: Path
) -> pd.DataFrame:
    """partition_ablation.csv: win rate in % of each normalised loss over V̂ = 0 at τ = 1, by judge,
    size and log-prob convention: judge, size, reduce, estimator, win_rate (mean over seeds), std
    (over seeds), ci_low, ci_high, n, published."""
    names = dict(enumerate(studies[0].specs))
    rows = rows.assign(
        reduce=rows["spec"].map(lambda i: names[i].reduce),
        estimator=rows["spec"].map(lambda i: names[i].estimator),
    )
    keys = ["reduce", "size", "seed", "prompt_id", "prompt"]
    bare = rows[rows["estimator"].eq("none")][[*keys, "completion"]].rename(
        columns={"completion": "baseline_completion"}
    )
    pairs = (
        rows[rows["estimator"].ne("none")]
        .merge(bare, on=keys, validate="many_to_one")
        .rename(columns={"completion": "method_completion"})
    )
    pairs = pairs.assign(
        preset=pairs["reduce"] + " " + pairs["estimator"], tau=1.0, method="rpo", baseline="none"
    )
    columns = [*verdicts.KEYS, "prompt", "method_completion", "baseline_completion"]
    pairs = pairs[columns].sort_values(verdicts.KEYS, ignore_index=True)
    bench = {seed: verdicts.judges_for(profile, out, seed) for seed in sorted(set(pairs["seed"]))}
    rates = win_rates(verdicts.ask(bench, pairs, out, "partition_ablation"))
    reduce, estimator = (rates["preset"].str.split(" ").str[i] for i in (0, 1))
    rates = rates.assign(reduce=reduce, estimator=estimator, published=PUBLISHED_ABLATION)
    wanted = [
        "judge",
        "size",
        "reduce",
        "estimator",
        "win_rate",
        "std",
        "ci_low",
        "ci_high",
        "n",
        "published",
    ]
    return rates[wanted].sort_values(
        ["judge", "reduce", "estimator", "size"],
        key=lambda c: (
            c.map({size: i for i, size in enumerate(profile.sizes)}) if c.name == "size" else c
        ),
        ascending=[True, False, True, True],
        ignore_index=True,
    )


def low_data_table(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """low_data.csv: `summarise` by k and prompts, and of RPO and DRO gradient_variance: of the
    first mini-batch gradient, relative to its squared mean, with _low and _high (of value and
    interval the mean over seeds; NaN where a mean gradient is not told from 0)."""
    found = []
    for study in studies:
        prepared = inputs.prepare(study.profile, study.size, study.seed)
        for spec in study.specs:
            if ROWS[spec.method].symbol == "τ":
                value = table1.first_gradient_variance(
                    study.profile, spec.run(study.profile, study.size, study.seed), prepared
                )
                found.append(
                    {
                        "study": study.name,
                        **spec.row(study.profile, study.size),
                        **dict(
                            zip(
                                (f"gradient_variance{end}" for end in ("", "_low", "_high")),
                                value,
                                strict=True,
                            )
                        ),
                    }
                )
    keys = ["study", *MAP_KEYS]
    table = summarise(rows, studies).merge(
        pd.DataFrame(found).groupby(keys, dropna=False).mean().reset_index(), on=keys, how="left"
    )
    table.insert(0, "k", table.pop("study").str.removeprefix("K = ").astype(int))
    table.insert(1, "prompts", studies[0].profile.lab.rows // table["k"])
    return table


def duels(
    rows: pd.DataFrame, studies: Sequence[Study], pairs: Sequence[tuple[Spec, Spec]]
) -> pd.DataFrame:
    """Pairs of policies on the same prompts: study, first, second (in words), difference of their
    mean rewards with its 95 % bootstrap interval over prompts (low, high), and outcome: "first" or
    "second" where the interval excludes 0, else "level"."""
    specs, out = {study.name: study.specs for study in studies}, []
    for name, mine in rows.groupby("study", sort=False):
        wide = mine.pivot_table(index=["seed", "prompt_id"], columns="spec", values="reward")
        for pair in pairs:
            if not set(pair) <= set(specs[name]):
                continue
            first, second = (wide[specs[name].index(spec)] for spec in pair)
            difference = (first - second).to_numpy()
            mean, low, high = intervals.bootstrap(difference)
            out.append(
                {
                    "study": name,
                    "first": pair[0].words,
                    "second": pair[1].words,
                    "difference": mean,
                    "low": low,
                    "high": high,
                    "outcome": "first" if low > 0 else "second" if high < 0 else "level",
                }
            )
    return pd.DataFrame(
        out, columns=["study", "first", "second", "difference", "low", "high", "outcome"]
    )


def pulls(
    studies: Sequence[Study], held: dict[tuple[str, int], Prepared], spec: Spec, out: str | Path
) -> pd.DataFrame:
    """Where training took the rows of a policy whose log-probabilities are means: study;
    log-probability a token of the rows above (good) and below (bad) the mean reward, _before and
    _after training; minus_log_k. Means over seeds."""
    rows = []
    for study in studies:
        if spec in study.specs:
            history = pd.read_csv(study.run(spec).folder(Path(out)) / "history.csv").iloc[-1]
            prepared = held[study.name, study.seed]
            logps, good = prepared.ref_logps["mean"], prepared.rewards >= prepared.rewards.mean()
            k = len(logps) / len(set(prepared.splits.train["prompt_id"]))
            rows.append(
                {
                    "study": study.name,
                    "good_before": logps[good].mean(),
                    "bad_before": logps[~good].mean(),
                    "good_after": logps[good].mean() + history["log_ratio_desirable"],
                    "bad_after": logps[~good].mean() + history["log_ratio_undesirable"],
                    "minus_log_k": -np.log(k),
                }
            )
    return pd.DataFrame(rows).groupby("study", sort=False).mean().reset_index()
