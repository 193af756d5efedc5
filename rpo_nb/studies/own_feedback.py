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
from tqdm import tqdm

from rpo_nb import checks, store
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import METHOD_NAMES, ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.data.feedback import conversations
from rpo_nb.experiment import generations, grid, inputs, runs
from rpo_nb.experiment.grid import Run
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.judging import verdicts
from rpo_nb.judging.judges import Pointwise
from rpo_nb.reporting import style
from rpo_nb.reporting.rendering import write_table
from rpo_nb.running import processes
from rpo_nb.running.progress import time_words
from rpo_nb.running.provenance import step_code
from rpo_nb.studies import deep, lab, own_losses, own_method, prediction
from rpo_nb.studies.deep_feedback import Remembered
from rpo_nb.studies.own_losses import REFERENCE
from rpo_nb.studies.truth import PLAIN
from rpo_nb.training import own as training_own
from rpo_nb.training.own import Own

TEXTS = 4  # of the reference a prompt, where a loss asks for their rewards
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
        size, judge = self.run.size, profile.evaluation.model_dump(mode="json")
        first = next(iter(profile.presets.values()))
        # the data, the reference and the precision that every policy is asked in, this one, too
        world = grid.recipe(profile, first, "sft", size, None, self.run.seed).recipe
        judge["model"] = grid.model_recipe(profile, verdicts.judge_size(profile))
        code = [step_code(step) for step in ("all of the grid", "reward model")]
        asked = [self.run.decoding.key(), self.run.seed, profile.generation]
        if self.asks:
            asked += [TEXTS, inspect.getsource(reference_rewards)]
        return content_key([self.run.recipe, world, asked, judge, code])


# ---- which policies ------------------------------------------------------------------------------


def temperature_of(own: Own, profile: Profile, given: Sequence[float]) -> own_method.OwnSpec:
    """The loss at the one temperature that it is trained at: the given one, else the middle of its
    own."""
    tried = sorted(own_method.specs_of(own, profile, given), key=lambda spec: spec.tau)
    return tried[(len(tried) - 1) // 2]


def policies(
    profile: Profile, wanted: Sequence[Own | str], temperatures: Sequence[float] = ()
) -> list[Policy]:
    """The policies of the profile's first seed: the study's, each once and decoded as the profile
    says, then those of losses and of methods that are wanted. Raises ValueError for several
    temperatures."""
    if len(temperatures) > 1:
        raise ValueError(
            "on a user's feedback nothing is tuned, so --temperatures takes one; "
            f"{len(temperatures)} were given"
        )
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
            row, preset = ROWS[one], lab.presets()["paper"]  # as one's own losses are trained
            for value in temperatures:
                given = {row.temperature: checks.number("--temperatures", value, above=0.0)}
                preset = preset.model_copy(update=given)
            run = grid.recipe(profile, preset, one, size, None, seed)
            run = replace(run, decoding=profile.decoding)
            name = f"{METHOD_NAMES[one]} {row.symbol} {getattr(preset, row.temperature):g}"
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
    run = policy.run
    if policy.asks:  # another judge makes another policy
        judged = content_key(prepared.ref_rewards.round(6).tolist())
        run = replace(run, recipe=run.recipe | {"ref_rewards": judged})
    kept = store.read_sealed(generations.completions_file(profile, run, out))
    if kept is not None and kept["world"] == grid.cell_world(profile, run):
        return kept["completions"]
    if run.trained:
        with policy.registered():
            runs.train_runs(profile, [run], prepared, out, tqdm(disable=True))
    return generations.completions(profile, run, prepared, out)


class Clock:
    """Tells after each step of a seed what it took, and what is left: as many seconds a step as
    the steps of its kind took, of a kind that none was of as the longest."""

    def __init__(self, seed: int, kinds: Sequence[str], since: float) -> None:
        self.seed, self.kinds = seed, list(kinds)
        self.seconds: list[float] = []
        self.since = since  # of time.monotonic

    def told(self, what: str) -> None:
        now = time.monotonic()
        self.seconds.append(now - self.since)
        self.since, done = now, len(self.seconds)
        took: dict[str, list[float]] = {}
        for kind, seconds in zip(self.kinds[:done], self.seconds, strict=True):
            took.setdefault(kind, []).append(seconds)
        mean = {kind: sum(seconds) / len(seconds) for kind, seconds in took.items()}
        left = sum(mean.get(kind, max(mean.values())) for kind in self.kinds[done:])
        end = f"; {time_words(left)} of this seed" if left else ""
        line = f"seed {self.seed}, {done} of {len(self.kinds)}: {what}"
        print(f"{line}, {self.seconds[-1]:.0f} s{end}", flush=True)


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
    since = time.monotonic()
    learnt = prediction.judge_of(profile, out, seed)
    if kept["identity"] != learnt.identity:  # its rewards are another judge's
        lost = [name for name in kept["keys"] if name not in keys]
        if lost:
            print(
                f"seed {seed}: another judge judged {', '.join(lost)}, so they are left out; name "
                "their losses, too, to have them judged anew",
                flush=True,
            )
        right = None if learnt.held_out is None else float(learnt.held_out["correct"].mean())
        kept = {"judge": learnt.name, "identity": learnt.identity, "right": right}
        kept |= {"keys": {}, "rewards": {}}
    left = [one for one in mine if kept["keys"].get(one.name) != keys[one.name]]
    asks = any(policy.asks for policy in left)
    there = [one.name for one in mine if one not in left]
    if there:
        print(f"seed {seed}: judged before, {', '.join(there)}", flush=True)
    kinds = ["added" if policy.added else "of the study" for policy in left]
    clock = Clock(seed, ["judge", *["texts"] * asks, *kinds], since)
    clock.told(f"judge {learnt.name}")
    judge, prepared = Remembered(learnt, out), inputs.prepare(profile, size, seed)
    validation = prepared.splits.validation
    prompts, numbers = list(validation["prompt"]), list(map(str, validation["prompt_id"]))
    with runs.quick_collections():
        if asks:
            prepared.ref_rewards = reference_rewards(profile, prepared, judge, out)
            clock.told("texts of the reference, judged")
        for policy in left:
            scores = judge.score(prompts, said(profile, policy, prepared, out)).tolist()
            kept["rewards"][policy.name] = dict(zip(numbers, scores, strict=True))
            kept["keys"][policy.name] = keys[policy.name]
            store.write_sealed(file, kept)
            clock.told(policy.name)
    return kept


# ---- the command ---------------------------------------------------------------------------------


def check_settings(given: Iterable[str], rates: Sequence[float]) -> None:
    """Raises ValueError for a setting that was given (a key of --set) and that nothing here reads,
    and for learning rates."""
    for name in sorted(set(given) - {"lab.taus", "lab.workers"}):
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
    inputs.fetch(profile)  # before any key is made of it
    size, seeds = next(iter(profile.sizes)), profile.seeds
    every = policies(profile, wanted, temperatures)  # of the first seed: all have the same names
    names, added = [one.name for one in every], [one.name for one in every if one.added]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"two policies are called {twice}; give each loss a name of its own")
    if "reference" not in profile.methods:
        raise ValueError("a gain is over the reference; keep reference among the methods")
    if REFERENCE not in names:
        raise ValueError(
            f"preset {', '.join(profile.presets)} decodes otherwise than a loss beside it is "
            "asked, so nothing of the study compares; add paper or fixed"
        )
    for own in (one for one in wanted if isinstance(one, Own)):
        if own_method.rates_of(own, profile) != (profile.training.learning_rate,):
            yield (
                f"{own.words}: its learning rates are not read on feedback; it learns at the "
                f"profile's {profile.training.learning_rate:g}, as all do"
            )
    with processes.only_one(out):
        found = joblib.Parallel(n_jobs=max(1, min(workers, len(seeds))), batch_size=1)(
            joblib.delayed(judged)(profile, seed, out, wanted, temperatures) for seed in seeds
        )
        rewards = own_losses.wide_rewards(found, names)
        table, apart = own_losses.standing(rewards, added), own_losses.leads(rewards, added)
        rights = [f"{100 * one['right']:.0f}" for one in found if one["right"] is not None]
        note = f"Rewards by {found[0]['judge']}" + (
            f", right in {', '.join(rights)} % of held-out comparisons. " if rights else ". "
        )
        note += f"Size {size}. Nothing was tuned; all are decoded alike. "
        note += style.interval_note(len(seeds))
        write_table(table, out, "losses", [note])
        written = write_table(apart, out, "losses_leads", [note])
        style.save(own_losses.figure(table, note), out, "losses")
    yield from own_losses.told(table, apart)
    more = [name for name in found[0]["rewards"] if name not in names]
    if more:
        yield f"judged before and not in these tables: {', '.join(more)}; name their losses, too"
    yield f"{processes.shown(written)} has every lead, losses.csv beside it every gain"
