"""A researcher's own losses on a user's feedback, beside the policies of a study of it.

Outside the pocket world nobody knows the reward of a new text. So the study's first judge says how
good a completion is: a reward model of held-out feedback. It scores the reference's own texts, too,
for losses that ask for them. Nothing is tuned: each loss is trained once a seed, at one
temperature, and stands beside what the study's presets trained.

What the judge gave is kept seed by seed in <out>/lab/feedback-seed<N>.json, without a text.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from rpo_nb import intervals, store
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import METHOD_NAMES, ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.data.feedback import conversations
from rpo_nb.experiment import generations, grid, inputs, runs
from rpo_nb.experiment.grid import Run
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.judging.judges import Pointwise
from rpo_nb.reporting import decisions, style
from rpo_nb.reporting.rendering import number, write_table
from rpo_nb.running import processes
from rpo_nb.running.progress import time_words
from rpo_nb.running.provenance import step_code
from rpo_nb.studies import deep, own_method, own_tables, prediction
from rpo_nb.studies.deep_feedback import Remembered
from rpo_nb.studies.truth import PLAIN
from rpo_nb.training import own as training_own
from rpo_nb.training.own import COLOUR, Own

TEXTS = 4  # of the reference a prompt, where a loss asks for their rewards
REFERENCE = METHOD_NAMES["reference"]
AT_ONCE = 3.0  # seconds: a step that takes less made nothing
# of the kit, and in no study of feedback: what they ask for needs a judge
ASKING = tuple(name for name, row in ROWS.items() if "reference_rewards" in row.needs)


@dataclass(frozen=True)
class Policy:
    """One of the comparison, with one seed: of the study, of a loss (own), or of a method of the
    kit that the study has no place for (added, without own)."""

    name: str
    run: Run
    own: Own | None = None
    added: bool = False

    @property
    def asks(self) -> bool:
        """Whether its loss is given rewards of the reference's own texts."""
        if self.own is None:
            return self.run.method in ASKING
        return "ref_rewards" in self.own.wanted(self.own.function(self.own.module()))

    def registered(self) -> AbstractContextManager:
        """In which it can be trained."""
        return nullcontext() if self.own is None else training_own.registered(self.own)

    def key(self, profile: Profile) -> str:
        """What its rewards are made from, wherever the feedback lies."""
        judge = profile.evaluation.model_dump(mode="json")
        model = grid.model_recipe(profile, self.run.size)
        code = [step_code(step) for step in ("all of the grid", "reward model")]
        asked = [self.run.decoding.key(), self.run.seed]
        if self.asks:
            asked += [TEXTS, inspect.getsource(reference_rewards)]
        return content_key([self.run.recipe, asked, model, grid.data_recipe(profile), judge, code])


# ---- which policies ------------------------------------------------------------------------------


def temperature_of(own: Own, profile: Profile, given: Sequence[float]) -> own_method.OwnSpec:
    """The loss at the one temperature that it is trained at: the given one, else the middle of its
    own. Raises ValueError for several."""
    if len(given) > 1:
        raise ValueError(
            "on a user's feedback nothing is tuned, so --temperatures takes one; "
            f"{len(given)} were given"
        )
    tried = {one.spec.tau: one.spec for one in own_method.settings_of(own, profile, given)}
    return tried[sorted(tried)[(len(tried) - 1) // 2]]


def policies(
    profile: Profile, wanted: Sequence[Own | str], temperatures: Sequence[float] = ()
) -> list[Policy]:
    """The policies of the profile's first seed: the study's, each once and decoded as the profile
    says, then those of losses and of methods that are wanted."""
    size, seed = next(iter(profile.sizes)), profile.seeds[0]
    found = []
    for name, same in prediction.studied(profile, size).items():
        alike = [run for run in same if run.decoding == profile.decoding]
        found += [Policy(name, run) for run in alike[:1]]
    for one in wanted:
        if isinstance(one, Own):
            spec = temperature_of(one, profile, temperatures)
            with training_own.named(one):
                run = spec.run(profile, size, seed)
            found.append(Policy(spec.words, run, one, True))
        else:
            preset = next(iter(profile.presets.values()))
            run = grid.recipe(profile, preset, one, size, None, seed)
            slope = getattr(preset, ROWS[one].temperature)
            name = f"{METHOD_NAMES[one]} {ROWS[one].symbol} {slope:g}"
            found.append(Policy(name, run, added=True))
    return found


# ---- a seed is made ------------------------------------------------------------------------------


def reference_rewards(
    profile: Profile, prepared: Prepared, judge: Pointwise, out: Path
) -> np.ndarray:
    """[rows, TEXTS]: the judge's scores of texts that the reference wrote to each training row's
    prompt, at temperature 1; less the mean of its scores of the training rows, over their standard
    deviation, as the data's rewards are over theirs."""
    train, size, seed = prepared.splits.train, next(iter(profile.sizes)), profile.seeds[0]
    places = {prompt: place for place, prompt in reversed(list(enumerate(train["prompt_id"])))}
    order = sorted(places.values())
    spoken, asked = conversations(train), train["prompt"]
    repeated = [spoken[place] for place in order for _ in range(TEXTS)]
    plain = PLAIN.model_copy(update={"max_new_tokens": profile.decoding.max_new_tokens})
    texts = generations.completions(
        profile,
        Run("reference", size=size, seed=seed, decoding=plain),
        prepared,
        out,
        asked=f"own{content_key(repeated)[:8]}-",
        prompts=repeated,
    )
    scores = judge.score([asked[place] for place in order for _ in range(TEXTS)], texts)
    data = judge.score(list(asked), list(train["completion"]))
    rows = dict(
        zip(
            (train["prompt_id"][place] for place in order),
            ((scores - data.mean()) / data.std()).reshape(-1, TEXTS),
            strict=True,
        )
    )
    return np.array([rows[prompt] for prompt in train["prompt_id"]])


def said(profile: Profile, policy: Policy, prepared: Prepared, out: Path) -> list[str]:
    """A policy's completions of the validation prompts; trained first where it is not there."""
    run, reference = policy.run, prepared.reference
    if policy.asks:  # another judge makes another policy
        judged = content_key(prepared.ref_rewards.round(6).tolist())
        run = replace(run, recipe=run.recipe | {"ref_rewards": judged})
    kept = store.read_sealed(generations.completions_file(profile, run, out))
    if kept is not None and kept["world"] == grid.cell_world(profile, run):
        return kept["completions"]
    if run.trained:
        with policy.registered():
            runs.train_runs(profile, [run], prepared, out, tqdm(disable=True))
    prepared.__dict__["reference"] = reference  # training lets it go
    return generations.completions(profile, run, prepared, out)


class Clock:
    """Tells after each step of a seed what it took and what is left: so many as were long, as long
    as the mean of the long ones."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps, self.done = seed, steps, 0
        self.long: list[float] = []
        self.since = time.monotonic()

    def told(self, what: str) -> None:
        now = time.monotonic()
        seconds, self.since, self.done = now - self.since, now, self.done + 1
        line = f"seed {self.seed}, {self.done} of {self.steps}: {what}"
        if seconds < AT_ONCE:
            print(f"{line}, was there", flush=True)
            return
        self.long.append(seconds)
        left = (self.steps - self.done) * sum(self.long) / len(self.long)
        end = f"; {time_words(left)} of this seed" if left else ""
        print(f"{line}, {seconds:.0f} s{end}", flush=True)


def judged(
    whole: Profile,
    seed: int,
    out: Path,
    wanted: Sequence[Own | str],
    temperatures: Sequence[float] = (),
) -> dict[str, Any]:
    """Of a seed of the whole profile: judge, right (its share of held-out comparisons) and rewards,
    of each policy by prompt_id. Read where all are kept; else the others are made, each kept as
    soon as it is judged."""
    profile = deep.of_seed(whole, seed)
    size, mine = next(iter(profile.sizes)), policies(profile, wanted, temperatures)
    keys = {policy.name: policy.key(profile) for policy in mine}
    file = out / "lab" / f"feedback-seed{seed}.json"
    kept = store.read_sealed(file) or {"keys": {}, "identity": None}
    if keys.items() <= kept["keys"].items():
        return kept
    inputs.torch_threads(profile)
    deep.bring(whole, deep.Part("policies", seed), out)
    asks = any(policy.asks for policy in mine)
    clock = Clock(seed, len(mine) + 1 + asks)
    learnt = prediction.judge_of(profile, out, seed)
    clock.told(f"judge {learnt.name}")
    judge, prepared = Remembered(learnt, out), inputs.prepare(profile, size, seed)
    if kept["identity"] != learnt.identity:  # its rewards are another judge's
        right = None if learnt.held_out is None else float(learnt.held_out["correct"].mean())
        kept = {"judge": learnt.name, "identity": learnt.identity, "right": right}
        kept |= {"keys": {}, "rewards": {}}
    left = [one for one in mine if kept["keys"].get(one.name) != keys[one.name]]
    validation = prepared.splits.validation
    prompts, numbers = list(validation["prompt"]), list(map(str, validation["prompt_id"]))
    with runs.quick_collections():
        if any(policy.asks for policy in left):
            prepared.ref_rewards = reference_rewards(profile, prepared, judge, out)
        if asks:
            clock.told("texts of the reference, judged")
        for policy in mine:
            if policy in left:
                scores = judge.score(prompts, said(profile, policy, prepared, out)).tolist()
                kept["rewards"][policy.name] = dict(zip(numbers, scores, strict=True))
                kept["keys"][policy.name] = keys[policy.name]
                store.write_sealed(file, kept)
            clock.told(policy.name)
    return kept


# ---- tables and picture --------------------------------------------------------------------------


def wide_rewards(found: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, np.ndarray]:
    """[seeds, prompts] of each policy; NaN where a seed was not asked a prompt."""
    prompts = sorted({int(p) for one in found for p in one["rewards"][names[0]]})
    return {
        name: np.array(
            [[one["rewards"][name].get(str(p), np.nan) for p in prompts] for one in found], float
        )
        for name in names
    }


def standing(rewards: dict[str, np.ndarray], added: Sequence[str]) -> pd.DataFrame:
    """One row a policy, the best first: policy, added (to the study), gain (mean reward over the
    reference's) with low and high, reward, seeds, prompts (of a seed)."""
    rows = []
    for name, mine in rewards.items():
        gain = intervals.seeds_and_prompts(mine - rewards[REFERENCE])
        rows.append(
            {
                "policy": name,
                "added": name in added,
                "gain": gain.value,
                "low": gain.low,
                "high": gain.high,
                "reward": np.nanmean(mine),
                "seeds": len(mine),
                "prompts": int(np.isfinite(mine).sum(1).max()),
            }
        )
    return pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)


def leads(rewards: dict[str, np.ndarray], added: Sequence[str]) -> pd.DataFrame:
    """Each added policy beside every other: policy, other, lead with low and high, p (Holm's, for
    all of a policy's leads), outcome (of `own_tables.OUTCOMES`), smallest (the lead that these
    seeds would have decided in 80 % of runs; NaN where decided)."""
    parts = []
    for name in added:
        others = [other for other in rewards if other != name]
        found = [intervals.seeds_and_prompts(rewards[name] - rewards[other]) for other in others]
        value, low, high, error, df = (
            np.array(column, float) for column in zip(*found, strict=True)
        )
        same = (value == 0) & (error == 0)  # every text is worth the same: nothing to decide
        verdict = decisions.decide(value, np.where(same, np.nan, error), df)
        outcome = [
            own_tables.SAME if one else own_tables.WORDS[word]
            for one, word in zip(same, verdict.verdict, strict=True)
        ]
        columns = {"policy": name, "other": others, "lead": value, "low": low, "high": high}
        columns |= {"p": verdict.p, "outcome": outcome, "smallest": verdict.smallest}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


@style.styled
def figure(table: pd.DataFrame, note: str) -> Figure:
    """What each policy gained over the reference; what was added is a star."""
    rows = table[table["policy"].ne(REFERENCE)].reset_index(drop=True)
    drawn = Figure(figsize=(8, 1.8 + 0.32 * len(rows)), layout="constrained")
    axis = drawn.subplots()
    for place, row in rows.iterrows():
        axis.errorbar(
            [row["gain"]],
            [place],
            xerr=style.errors(rows.iloc[[place]], "gain", "low", "high"),
            marker="*" if row["added"] else "o",
            markersize=11 if row["added"] else 5,
            color=COLOUR if row["added"] else style.DARK,
            elinewidth=0.8,
            capsize=3,
        )
    axis.axvline(0, color=style.DARK, lw=1)
    axis.set_yticks(range(len(rows)), rows["policy"])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("gain over the reference, judge reward (right is better)")
    style.entitle(drawn, "Losses beside the study's policies", note, [])
    return drawn


def told(table: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """A sentence a loss: what it gains, and against whom that decides anything."""
    lines = []
    for name, mine in found.groupby("policy", sort=False):
        row = table.set_index("policy").loc[name]
        line = f"{name} gains {number(row['gain'], 2)}"
        if np.isfinite(row["low"]):
            line += f" [{number(row['low'], 2)}, {number(row['high'], 2)}]"
        groups = [
            f"{words} {', '.join(mine.loc[mine['outcome'].eq(words), 'other'])}"
            for words in own_tables.OUTCOMES
            if mine["outcome"].eq(words).any()
        ]
        smallest = mine["smallest"].dropna()
        if len(smallest):
            groups[-1] += (
                f" (a lead of {smallest.min():.2f} to {smallest.max():.2f} would have been seen)"
            )
        lines.append(f"{line} over the reference; {'; '.join(groups)}")
    return lines


# ---- the command ---------------------------------------------------------------------------------


def check_settings(given: Iterable[str], rates: Sequence[float]) -> None:
    """Raises ValueError for a setting that was given (a key of --set) and that nothing here reads,
    and for learning rates."""
    for name in given:
        if name == "lab" or name.startswith(("lab.", "paper_b")):
            raise ValueError(f"lab --method on feedback does not read {name}; leave it out")
    if rates:
        raise ValueError(
            "on a user's feedback all learn at training.learning_rate; leave --learning-rates out"
        )


def make(
    wanted: Sequence[Own | str],
    profile: Profile,
    out: Path,
    temperatures: Sequence[float] = (),
    *,
    workers: int = 1,
) -> Iterator[str]:
    """Train what is missing, some seeds at a time; write tables/losses, tables/losses_leads and
    figures/losses; yield what to tell. Raises ValueError before anything is trained where a loss
    cannot be."""
    seeds = profile.seeds
    every = policies(profile, wanted, temperatures)  # of the first seed: all have the same names
    names, added = [one.name for one in every], [one.name for one in every if one.added]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two policies are called {twice}; give each loss a name of its own")
    if REFERENCE not in names:
        raise ValueError("a gain is over the reference; keep reference among the methods")
    with processes.only_one(out):
        found = joblib.Parallel(n_jobs=max(1, min(workers, len(seeds))), batch_size=1)(
            joblib.delayed(judged)(profile, seed, out, wanted, temperatures) for seed in seeds
        )
        rewards = wide_rewards(found, names)
        table, apart = standing(rewards, added), leads(rewards, added)
        rights = [f"{100 * one['right']:.0f}" for one in found if one["right"] is not None]
        note = f"Rewards by {found[0]['judge']}" + (
            f", right in {', '.join(rights)} % of held-out comparisons. " if rights else ". "
        )
        note += "Nothing was tuned; all are decoded alike. " + style.interval_note(len(seeds))
        write_table(table, out, "losses", [note])
        written = write_table(apart, out, "losses_leads", [note])
        style.save(figure(table, note), out, "losses")
    yield from told(table, apart)
    yield f"{processes.shown(written)} has every lead, losses.csv beside it every gain"
