"""The partition lab's tables: summaries of `lab_runs.measure`'s rows, one function a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from rpo_nb import partition
from rpo_nb.config.methods import ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import inputs
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.intervals import Share, seeds_and_prompts
from rpo_nb.judging import verdicts
from rpo_nb.judging.rates import win_rates
from rpo_nb.reporting import decisions
from rpo_nb.studies import lab_references
from rpo_nb.studies.aggregates import improvement, iqm, over_seeds, profile, share_over_seeds
from rpo_nb.studies.lab import MAP_KEYS, REFERENCE, RIVAL, Spec, Study

# paper A, version 4, as we were told: preference in % for the normalised loss (docs/papers.md)
ABOVE = 90.0
PUBLISHED_ABLATION = f">{ABOVE:g}"
PROFILE_POINTS = 41


def _wide(rows: pd.DataFrame, column: str) -> dict[int, pd.DataFrame]:
    """Of one study's rows, by policy (its place): a line a seed, a column a prompt."""
    table = rows.set_index(["spec", "seed", "prompt"])[column].unstack()
    return {place: table.loc[place] for place in dict.fromkeys(rows["spec"])}


def _measures(
    rows: pd.DataFrame, studies: Sequence[Study]
) -> Iterator[tuple[Study, Spec, dict[str, pd.DataFrame]]]:
    """Of every study and policy reward, gain, win_rate, kl and broken: a line a seed, a column a
    prompt."""
    first = {study.name: study for study in reversed(studies)}
    for name, mine in rows.groupby("study", sort=False):
        study = first[name]
        reward, kl, broken = (_wide(mine, one) for one in ("reward", "log_ratio", "broken"))
        own, rival = (reward[study.specs.index(spec)] for spec in (REFERENCE, RIVAL))
        for place, spec in enumerate(study.specs):
            if spec != RIVAL:
                yield (
                    study,
                    spec,
                    {
                        "reward": reward[place],
                        "gain": reward[place] - own,
                        "win_rate": 50.0 * (1 + np.sign(reward[place] - rival)),
                        "kl": kl[place],
                        "broken": broken[place],
                    },
                )


def summarise(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """One row a study and policy: study, MAP_KEYS, reward, gain (over the study's reference),
    win_rate (% over the reference's other completions, ties half), kl (nats a completion), broken
    (share), each with _low and _high (95 %, over other seeds and prompts; NaN for one seed), std
    (of the reward over seeds), n (texts), seeds.

    gain is between completions of common random numbers, which cancel; win_rate between
    independent ones: common ones would make it the share of prompts where training moved a text.
    """
    return pd.DataFrame(
        [
            {"study": study.name, **spec.row(study.profile, study.size)} | _summary(values)
            for study, spec, values in _measures(rows, studies)
        ]
    )


def _summary(values: dict[str, pd.DataFrame]) -> dict[str, float]:
    bounds, row = {"win_rate": (0, 100), "broken": (0, 1)}, {}
    for key, table in values.items():
        found = seeds_and_prompts(table, bounds=bounds.get(key))
        row |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
    reward = values["reward"]
    row["std"] = reward.mean(axis=1).std()
    return row | {"n": int(reward.notna().to_numpy().sum()), "seeds": len(reward)}


def tuned_map(
    rows: pd.DataFrame, studies: Sequence[Study], settings: Mapping[tuple[str, Spec], str]
) -> pd.DataFrame:
    """lab_tuned_map.csv, of rows by method (`tuning.by_method`): regime, method, policy, setting
    (by regime and method, in words; none for the reference) and the measures of `summarise`."""
    return pd.DataFrame(
        [
            {"regime": study.name, "method": spec.method, "policy": spec.words}
            | {"setting": settings.get((study.name, spec)), **_summary(values)}
            for study, spec, values in _measures(rows, studies)
        ]
    )


def by_seed(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """lab_seeds.csv, what the tables' rows are means of and comparisons are made of: study, policy,
    seed, and reward, gain, win_rate, kl and broken as in `summarise`, means over the seed's
    prompts."""
    found = []
    for study, spec, values in _measures(rows, studies):
        means = {name: table.mean(axis=1) for name, table in values.items()}
        frame = pd.DataFrame(means).rename_axis("seed").reset_index()
        frame.insert(0, "policy", spec.words)
        frame.insert(0, "study", study.name)
        found.append(frame)
    return pd.concat(found, ignore_index=True)


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
        own = json.loads(study.file(REFERENCE, Path(out)).read_text(encoding="utf-8"))
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
    the reference's own texts), data_wins, k, logp, own_logp and above_log_k of `regimes`, and
    behind: the probability that a run of the regime's best policy gains more than one of this."""
    table = summarise(rows, studies).rename(columns={"study": "regime"})
    own = table[table["method"].eq("reference")].set_index("regime")["reward"]
    about = described.set_index("regime")
    table.insert(1, "gap", table["regime"].map(about["data"] - own))
    gains = by_seed(rows, studies).set_index(["study", "policy", "seed"])["gain"].unstack()
    best = table.loc[table.groupby("regime")["gain"].idxmax()].set_index("regime")["policy"]
    behind = [
        improvement(*(gains.loc[(regime, one)].to_numpy()[None] for one in (best[regime], policy)))
        for regime, policy in zip(table["regime"], table["policy"], strict=True)
    ]
    columns = ("data_wins", "k", "logp", "own_logp", "above_log_k")
    where = {name: table["regime"].map(about[name]) for name in columns}
    return table.assign(behind=behind, **where)


def _gains(rows: pd.DataFrame, studies: Sequence[Study]) -> dict[Spec, np.ndarray]:
    """Of every trained policy the gain over the reference, [regimes, seeds, prompts]."""
    specs, found = studies[0].specs, {}
    shape = len(set(rows["study"])), len(set(rows["seed"])), -1
    for place, spec in enumerate(specs):
        if spec.method != "reference":
            both = (rows[rows["spec"].eq(i)] for i in (place, specs.index(REFERENCE)))
            order = ["study", "seed", "prompt_id"]
            mine, own = (one.sort_values(order)["reward"].to_numpy() for one in both)
            found[spec] = (mine - own).reshape(shape)
    return found


def summary(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """lab_summary.csv, the policies over all regimes: method, policy; mean and iqm of the gain over
    the reference (points; `aggregates`) and over_sft and over_best, the probability that a run
    gains more than one of SFT and than one of the policy with the best iqm, each with _low and
    _high (NaN for one seed); worst, the mean gain of its worst regime; regimes, seeds. The best
    first."""
    gains = _gains(rows, studies)
    runs = {spec: gain.mean(-1) for spec, gain in gains.items()}
    best, out = max(runs, key=lambda spec: iqm(runs[spec])), []
    for spec, scores in runs.items():
        prompts = stats.sem(gains[spec].mean(0), axis=-1)
        found = {
            "mean": over_seeds(np.mean, scores, prompts=prompts),
            "iqm": over_seeds(iqm, scores, prompts=prompts),
        }
        for name, other in (("over_sft", Spec("sft")), ("over_best", best)):
            found[name] = Share(*[np.nan] * 4)
            if spec != other and other in runs:
                found[name] = share_over_seeds(improvement, scores, runs[other])
        row = {"method": spec.method, "policy": spec.words}
        for key, one in found.items():
            row |= {key: one.value, f"{key}_low": one.low, f"{key}_high": one.high}
        row["worst"] = scores.mean(1).min()
        out.append(row | dict(zip(("regimes", "seeds"), scores.shape, strict=True)))
    return pd.DataFrame(out).sort_values("iqm", ascending=False, ignore_index=True)


def profiles(rows: pd.DataFrame, studies: Sequence[Study], table: pd.DataFrame) -> pd.DataFrame:
    """lab_profiles.csv, of each method's best policy by `summary`: method, policy, gain, and share,
    of its runs over all regimes and seeds those that gain more, with low and high."""
    shown = dict.fromkeys(table.drop_duplicates("method")["policy"])
    runs = {spec.words: gain.mean(-1) for spec, gain in _gains(rows, studies).items()}
    every = np.concatenate([runs[policy].ravel() for policy in shown])
    out = [
        [policy, gain, *share_over_seeds(partial(profile, at=gain), runs[policy])[:3]]
        for policy, gain in product(shown, np.linspace(every.min(), every.max(), PROFILE_POINTS))
    ]
    columns = ["policy", "gain", "share", "low", "high"]
    return pd.DataFrame(out, columns=columns).merge(table[["policy", "method"]], on="policy")


def ablation(
    rows: pd.DataFrame, studies: Sequence[Study], profile: Profile, out: Path
) -> pd.DataFrame:
    """partition_ablation.csv: win rate in % of each normalised loss over V̂ = 0 at τ = 1, by judge,
    size and log-prob convention: judge, size, reduce, estimator, win_rate (mean over seeds), std
    (over seeds), ci_low, ci_high, n, published, and what `worth` decides."""
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
        "seeds",
        "error",
        "df",
    ]
    rates = rates[wanted].sort_values(
        ["judge", "reduce", "estimator", "size"],
        key=lambda c: (
            c.map({size: i for i, size in enumerate(profile.sizes)}) if c.name == "size" else c
        ),
        ascending=[True, False, True, True],
        ignore_index=True,
    )
    return worth(rates)


def worth(rates: pd.DataFrame) -> pd.DataFrame:
    """Whether a normalised loss is preferred to V̂ = 0, decided for all lines together (Holm), in
    the place of error and df: p and preferred (holds: above 50 %), smallest (points from 50 that
    this run would have seen), and above_published (holds: above the paper's 90 %)."""
    cells = rates["win_rate"], rates["error"], rates["df"]
    half, paper = (decisions.decide(*cells, null=null) for null in (50.0, ABOVE))
    return rates.drop(columns=["error", "df"]).assign(
        p=half.p,
        preferred=half.verdict,
        smallest=half.smallest,
        above_published=paper.verdict,
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
                value = lab_references.first_variance(study, spec, prepared)
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


def data_curve(rows: pd.DataFrame, studies: Sequence[Study]) -> pd.DataFrame:
    """data_curve.csv: `summarise` by the number of training prompts."""
    table = summarise(rows, studies)
    prompts = table.pop("study").str.removesuffix(" prompts").astype(int)
    table.insert(0, "prompts", prompts)
    return table


def duels(
    rows: pd.DataFrame,
    studies: Sequence[Study],
    readings: Mapping[str, Sequence[tuple[Spec, Spec]]],
) -> pd.DataFrame:
    """Pairs of policies asked the same prompts with common random numbers, all duels that are shown
    together: reading, study, first, second (in words), difference of their mean rewards with low
    and high (95 %, over other seeds and prompts), seeds, ahead (of these, in how many the first has
    the higher mean), p (after Holm's correction for all duels) and outcome: "first" or "second"
    where p is below 0.05, else "not decided"; then smallest is the difference that this run would
    have seen."""
    specs, out = {study.name: study.specs for study in studies}, []
    wide = {name: _wide(mine, "reward") for name, mine in rows.groupby("study", sort=False)}
    wanted = [(reading, *pair) for reading, pairs in readings.items() for pair in pairs]
    for name, (reading, *pair) in product(wide, wanted):
        if set(pair) <= set(specs[name]):
            first, second = (wide[name][specs[name].index(spec)] for spec in pair)
            found = seeds_and_prompts(first - second)
            row = {"reading": reading, "study": name}
            row |= {"first": pair[0].words, "second": pair[1].words}
            row |= {"difference": found.value, "low": found.low, "high": found.high}
            row |= {"seeds": len(first), "error": found.error, "df": found.df}
            row["ahead"] = int((first.mean(axis=1) > second.mean(axis=1)).sum())
            out.append(row)
    columns = ["reading", "study", "first", "second", "difference", "low", "high", "seeds", "ahead"]
    table = pd.DataFrame(out, columns=[*columns, "error", "df"])
    decided = decisions.decide(table["difference"], table["error"], table["df"])
    words = {decisions.HOLDS: "first", decisions.FAILS: "second", decisions.OPEN: decisions.OPEN}
    return table[columns].assign(
        p=decided.p,
        outcome=[words[verdict] for verdict in decided.verdict],
        smallest=decided.smallest,
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
