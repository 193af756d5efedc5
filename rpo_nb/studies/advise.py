"""What to train on a user's feedback, and why: its diagnostics, and what the partition lab measured
on data like these.

The evidence is read from the tables of notebook 07, never typed: the deep run's where there are
any, else those in results/pocket. It comes from a small model in a world whose reward is known;
that it carries over to other models is an assumption, and the advice says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset

from rpo_nb import partition
from rpo_nb.config.keys import hash_seed
from rpo_nb.config.methods import METHOD_NAMES, ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.data import feedback
from rpo_nb.experiment import grid, inputs
from rpo_nb.experiment.runs import diagnosis
from rpo_nb.intervals import Share
from rpo_nb.judging import verdicts
from rpo_nb.judging.judges import Judge
from rpo_nb.policy import logps
from rpo_nb.policy.generation import generate
from rpo_nb.reporting.rendering import number, read_table, with_interval
from rpo_nb.running.provenance import PACKAGE
from rpo_nb.studies.aggregates import MATTERS, improvement, share_over_seeds
from rpo_nb.studies.lab import REGIMES

RESULTS = PACKAGE.resolve().parent / "results"
_DEEP = RESULTS / "pocket-deep" / "tables"
TABLES = _DEEP if (_DEEP / "regime_map.csv").is_file() else RESULTS / "pocket" / "tables"
COMPARED = 100  # rows that are compared with the reference's own texts
ALIKE = 2.0  # distance, see `nearest`, beyond which no regime of the lab is like a user's data
SPARSE = 0.5  # share of prompts with one completion from which the low-data study decides
# so many more broken texts than the reference has: such a policy is not recommended
MOST_BROKEN = 0.15


@dataclass(frozen=True)
class Data:
    """What the advice depends on."""

    completions: float  # mean K
    single_share: float  # of the prompts have one completion
    logp: float  # mean log πref of the data, a token
    # % of the data's completions over the reference's own for the same prompts, by a judge; NaN
    # without one
    wins: float

    @property
    def above_log_k(self) -> float:
        """How far the data lie above −log K a token; the authors' setting pulls them there."""
        return self.logp + math.log(max(self.completions, 1.0))


@dataclass(frozen=True)
class Advice:
    """A recommendation, and the sentences that give its reasons."""

    method: str
    estimator: str  # "" for methods without one, as reduce may be
    reduce: str
    tau: float | None
    reasons: tuple[str, ...]

    def settings(self) -> str:
        """As a user would set it."""
        slope = ROWS[self.method].symbol
        parts = [
            METHOD_NAMES[self.method],
            f"estimator {self.estimator}" if self.estimator else "",
            f"log-probabilities: {'sums' if self.reduce == 'sum' else 'means'}"
            if self.reduce
            else "",
            f"{slope} = {self.tau:g}" if self.tau is not None else "",
        ]
        return ", ".join(filter(None, parts))


def single_share(train: Dataset) -> float:
    """Share of the prompts of feedback rows that have one completion."""
    return float((pd.Series(train["prompt_id"]).value_counts() == 1).mean())


def look(profile: Profile, size: str, seed: int, judge: Judge | None) -> tuple[Data, list[str]]:
    """The data of a profile under its reference, by a judge, and the diagnostics of each preset as
    lines of text. Raises ValueError for a judge that decides nothing."""
    prepared = inputs.prepare(profile, size, seed)
    train, runs = prepared.splits.train, {}
    for name, preset in profile.presets.items():
        runs[name] = grid.recipe(profile, preset, "rpo", size, preset.rpo_tau, seed)
    lines = [f"preset {name}: {diagnosis(run, prepared)}" for name, run in runs.items()]
    k, logp = len(train) / len(set(train["prompt_id"])), float(prepared.ref_logps["mean"].mean())
    if judge is None:
        return Data(k, single_share(train), logp, math.nan), lines
    drawn = np.random.default_rng(seed).permutation(len(train))[:COMPARED]
    part = train.select(drawn)
    prompts, theirs = list(part["prompt"]), list(part["completion"])
    with logps.autocast(profile.training.bf16):
        own = generate(
            prepared.reference,
            prepared.tokenizer,
            feedback.conversations(part),
            decoding=profile.decoding,
            seed=hash_seed(seed, inputs.AGAIN),
            max_prompt_tokens=profile.limits(size)["max_prompt_tokens"],
            batch_size=profile.evaluation.generation_batch_size,
        )
    chances = [
        {"first": 100.0, "second": 0.0}.get(a, np.nan) for a in judge.compare(prompts, theirs, own)
    ]
    chances += [
        {"first": 0.0, "second": 100.0}.get(a, np.nan) for a in judge.compare(prompts, own, theirs)
    ]
    if np.isnan(chances).all():
        raise ValueError(
            f"the judge {judge.name} said of no completion whether it or the reference's own text "
            "is better; name another first in evaluation.judges"
        )
    return Data(k, single_share(train), logp, float(np.nanmean(chances))), lines


class Evidence(NamedTuple):
    """The lab's tables (see `lab_tables`): the regime map, the low-data study, both seed by seed,
    and the map of methods tuned alike; the last two without lines where a folder has none."""

    regimes: pd.DataFrame
    low: pd.DataFrame
    seeds: pd.DataFrame
    tuned: pd.DataFrame


def evidence(folder: Path | str = TABLES) -> Evidence:
    """What the lab measured. Raises ValueError where the regime map or the low-data study is not
    there."""
    folder = Path(folder)
    missing = next(
        (name for name in ("regime_map", "low_data") if not (folder / f"{name}.csv").is_file()),
        None,
    )
    if missing:
        raise ValueError(
            f"there is no {missing}.csv in {folder.parent.name}/{folder.name}, so "
            "there is no evidence to advise from; "
            "run notebook 07_partition_lab first, in a clone"
        )
    empty = {"lab_seeds": ["study", "policy", "seed", "gain"], "lab_tuned_map": ["regime"]}
    more = [
        read_table(folder / f"{name}.csv")
        if (folder / f"{name}.csv").is_file()
        else pd.DataFrame(columns=columns)
        for name, columns in empty.items()
    ]
    return Evidence(*(read_table(folder / f"{n}.csv") for n in ("regime_map", "low_data")), *more)


def chance(seeds: pd.DataFrame, first: str, second: str) -> Share:
    """The probability that a run of the first policy gains more than one of the second, by one
    study's lines of lab_seeds; NaNs where one has none."""
    gains = [
        seeds[seeds["policy"].eq(policy)].sort_values("seed")["gain"].to_numpy(float)[None]
        for policy in (first, second)
    ]
    if not all(one.size for one in gains):
        return Share(*[math.nan] * 4)
    return share_over_seeds(improvement, *gains)


def distances(table: pd.DataFrame, mine: Data) -> pd.Series:
    """How unlike these data each of the lab's regimes is: by how often they beat the reference's
    own texts, and by where their log-probability a token lies against −log K. 10 points of the
    first count as much as half a nat of the second, 1 each."""
    about = table.drop_duplicates("regime").set_index("regime")
    return np.hypot(
        (about["data_wins"] - mine.wins) / 10,
        (about["logp"] + np.log(about["k"]) - mine.above_log_k) / 0.5,
    )


def nearest(table: pd.DataFrame, mine: Data) -> tuple[str, float]:
    """The lab's regime that is most like these data, and its distance: see `distances`."""
    distance = distances(table, mine)
    return str(distance.idxmin()), float(distance.min())


def _lie(wins: float, above: float) -> str:
    """Where data lie, on the two axes of `nearest`."""
    return (
        f"beat the reference's own texts in {wins:.0f} % of comparisons, and have a "
        f"log-probability {abs(above):.2f} nats a token "
        f"{'above' if above > 0 else 'below'} −log K"
    )


def recommend(known: Evidence, mine: Data) -> Advice:
    """The policy of the nearest regime (with mostly one completion a prompt, of the low-data study
    at K = 1) that has the best reward; of those level with it the nearest to the reference: a run
    of the best gains more than one of theirs in less than three of four cases
    (`aggregates.MATTERS`). Only what a user can train counts: QRPO needs rewards of the reference's
    own texts, and the authors' code has settings of its own.
    """
    if mine.single_share > SPARSE:
        k = int(known.low["k"].min())
        study, cells = f"K = {k}", known.low[known.low["k"].eq(k)]
        where = f"the low-data study at {study}"
        reasons = [
            f"{mine.single_share:.0%} of the prompts have one completion. The low-data study is of "
            "the pocket world's own writers; how like it your data are is not measured."
        ]
    else:
        study, distance = nearest(known.regimes, mine)
        cells, where = known.regimes[known.regimes["regime"].eq(study)], f"the regime {study}"
        theirs = cells.iloc[0]
        reasons = [
            f"Your data {_lie(mine.wins, mine.above_log_k)} under the reference. The "
            f"nearest of the lab's regimes is {study} "
            f"({REGIMES[study].words}), whose data "
            f"{_lie(theirs['data_wins'], theirs['logp'] + math.log(theirs['k']))}."
        ]
        reasons[0] += (
            " No regime is like your data, so what follows is a guess." if distance > ALIKE else ""
        )
    if mine.logp < partition.LOST:
        reasons[0] += (
            " The reference can hardly write such texts, so there is little to learn from: take a "
            "model that can, and ask again."
        )
    seeds = known.seeds[known.seeds["study"].eq(study)]
    reference = cells[cells["method"].eq("reference")].iloc[0]
    trainable = [
        name
        for name, row in ROWS.items()
        if row.objective is not None and "reference_rewards" not in row.needs
    ]
    open_to_all = cells[cells["method"].isin(trainable) & cells["preset"].ne("released")]
    sound = open_to_all[open_to_all["broken"] <= reference["broken"] + MOST_BROKEN]
    if sound.empty:
        reasons.append(
            f"In {where} whatever is trained breaks over {MOST_BROKEN:.0%} more of its texts than "
            "the reference does, so nothing is recommended: keep the reference, or fine-tune it "
            "on other texts of that kind first and ask again."
        )
        reasons += _tuned(known.tuned[known.tuned["regime"].eq(study)])
        return Advice("reference", "", "", None, tuple(reasons))
    best = sound.loc[sound["reward"].idxmax()]
    if best["reward"] <= reference["reward"]:
        reasons.append(
            f"In {where} the reference has a mean reward of {number(reference['reward'], 2)}, and "
            f"no policy's mean is above it; the best: {_cell(best)}. So keep the reference, or "
            "get other data."
        )
        reasons += _tuned(known.tuned[known.tuned["regime"].eq(study)])
        reasons += _chances(seeds, best["policy"], [reference["policy"]])
        return Advice("reference", "", "", None, tuple(reasons))
    chosen = _nearest_of_the_level(sound, best, seeds)
    reasons.append(
        f"In {where} the reference has a mean reward of "
        f"{number(reference['reward'], 2)}; best there: {_cell(best)}"
        + (
            "."
            if chosen.name == best.name
            else ". Level with it, and nearest to the reference of "
            f"those that are: {_cell(chosen)}."
        )
    )
    rivals = [] if chosen.name == best.name else [best]
    rpo = sound[sound["method"].eq("rpo")]
    if chosen["method"] != "rpo" and len(rpo):
        rivals.append(_nearest_of_the_level(rpo, rpo.loc[rpo["reward"].idxmax()], seeds))
        reasons.append(f"RPO, chosen alike: {_cell(rivals[-1])}.")
    imitation = cells[cells["method"].isin(["sft", "best_of_k"])]
    if len(imitation):
        reasons.append(
            "Imitation of the same completions: "
            f"{'; '.join(_cell(row) for _, row in imitation.iterrows())}."
        )
    literal = cells[cells["method"].eq("rpo") & cells["preset"].isin(["paper", "released"])]
    if len(literal):
        reasons.append(
            "RPO as published, as written or as its code does: "
            f"{'; '.join(_cell(row) for _, row in literal.iterrows())}."
        )
    reasons += _tuned(known.tuned[known.tuned["regime"].eq(study)])
    rivals += [row for _, row in pd.concat([imitation, literal]).iterrows()] + [reference]
    reasons += _chances(seeds, chosen["policy"], [row["policy"] for row in rivals])
    reasons.append(
        f"Each number is of {chosen['n']} texts over {chosen['seeds']} seeds, [95 % "
        "interval] over other seeds and prompts, of a small T5 in the pocket world, rewards "
        "from 1 to 10; check a recommendation on held-out prompts of your own."
    )
    return Advice(
        chosen["method"],
        _text(chosen["estimator"]),
        _text(chosen["reduce"]),
        None if pd.isna(chosen["tau"]) else float(chosen["tau"]),
        tuple(reasons),
    )


def _tuned(cells: pd.DataFrame) -> list[str]:
    """What each method gains in a regime at the best of its settings, in a sentence; none where
    the lab tuned nothing."""
    told = []
    for _, row in cells[cells["method"].ne("reference")].iterrows() if len(cells) else ():
        gain = with_interval(row["gain"], row["gain_low"], row["gain_high"], 2, sign=True)
        told.append((row["gain"], f"{gain} {row['setting']}"))
    if not told:
        return []
    lines = "; ".join(words for _, words in sorted(told, key=lambda one: -one[0]))
    return [
        "With as many settings tried for every method, each at its best by other seeds "
        f"(rates and epochs are multiples of the profile's), gain over the reference: {lines}."
    ]


def _nearest_of_the_level(cells: pd.DataFrame, best: pd.Series, seeds: pd.DataFrame) -> pd.Series:
    behind = cells["policy"].map(lambda one: chance(seeds, best["policy"], one).value)
    level = cells[behind.lt(MATTERS) | cells["policy"].eq(best["policy"])]
    return level.loc[level["kl"].idxmin()]


def _chances(seeds: pd.DataFrame, chosen: str, others: Sequence[str]) -> list[str]:
    """How surely the chosen policy gains more than others, in a sentence; none without seeds."""
    if seeds["seed"].nunique() == 1:
        return ["One seed cannot tell how surely it gains more than others."]
    told = []
    for other in dict.fromkeys(others):
        found = chance(seeds, chosen, other)
        if other != chosen and not math.isnan(found.value):
            share = with_interval(*(100 * part for part in found[:3]), 0)
            told.append(f"{other}: {share}")
    if not told:
        return []
    return [f"In how many of 100 cases a run of {chosen} gains more than one of {', '.join(told)}."]


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)


def _cell(row: pd.Series) -> str:
    """One policy of the lab in words and numbers."""
    reward = with_interval(row["reward"], row["reward_low"], row["reward_high"], 2)
    return (
        f"{row['policy']}: reward {reward}, wins {number(row['win_rate'], 0)} % over the "
        f"reference, KL {number(row['kl'], 1)}"
    )


def advise(profile: Profile, size: str, seed: int, out: Path, tables: Path | str = TABLES) -> str:
    """Diagnostics and recommendation as text. out: the profile's results, where a learnt judge is
    kept."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of every model that is read or written
    logging.set_verbosity_error()  # a tokenizer warns of texts that are cut afterwards
    known = evidence(tables)
    sparse = single_share(inputs.splits(profile, seed, size).train) > SPARSE
    # one completion a prompt teaches no judge, and none is asked
    judge = None if sparse else verdicts.judges_for(profile, out, seed)[0]
    found, lines = look(profile, size, seed, judge)
    advice = recommend(known, found)
    if judge is not None:
        lines.append(
            f"Judge of the data against the reference's own texts: {judge.name}."
            + (
                " It was learnt from held-out rows and is no ground truth."
                if judge.name == "reward_model"
                else ""
            )
        )
    return "\n".join(
        [
            *lines,
            "",
            f"Recommended: {advice.settings()}",
            *(f"- {reason}" for reason in advice.reasons),
        ]
    )
