"""A researcher's own loss in the lab: trained in every regime beside the kit's methods.

All are tuned alike: every method has the same number of settings (temperature and learning rate),
and in each regime the one with the best mean reward on lab.tuning_seeds is taken; what is reported
comes from other seeds (`tuning`). `compare` makes what is missing, `own_page` the tables and page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd

from rpo_nb import checks
from rpo_nb.config.keys import content_key
from rpo_nb.config.loading import repository_root
from rpo_nb.config.schema import Profile
from rpo_nb.experiment.grid import Run
from rpo_nb.pocket import checker
from rpo_nb.running.provenance import code_key, step_code
from rpo_nb.store import atomic_write, packed, read_sealed, sealed, unpacked
from rpo_nb.studies import lab, lab_runs, tuning
from rpo_nb.studies.lab import REFERENCE, Spec, Study
from rpo_nb.studies.tuning import Setting
from rpo_nb.training import own as training_own
from rpo_nb.training.own import Own

MOST_SETTINGS = len(tuning.SCHEDULES)  # of a method: so many all of the kit's have to try
ROWS_FILE = "lab/rivals.jsonl.gz"  # what the kit's methods did, prompt by prompt


@dataclass(frozen=True)
class OwnSpec(Spec):
    """A policy of the researcher's loss."""

    own: Own | None = None
    has_tau: bool = True  # whether the loss takes a temperature

    @property
    def words(self) -> str:
        return f"{self.own.name} τ {self.tau:g}" if self.has_tau else self.own.name

    def run(self, profile: Profile, size: str, seed: int) -> Run:
        found = super().run(profile, size, seed)
        # what is one call may be a statistic of the loss, so where a step is cut makes its policy
        cut = profile.training_of(size).micro_batch_tokens
        return replace(found, recipe=found.recipe | {"own": self.own.key(), "cut": cut})


@dataclass(frozen=True)
class Policy:
    """A setting in a regime, with a seed."""

    profile: Profile = field(compare=False)
    regime: str
    seed: int
    setting: Setting

    @cached_property
    def study(self) -> Study:
        """The lab's study of its regime, seed and schedule, with this policy alone."""
        profile = tuning.trained_as(lab.in_regime(self.profile, self.regime), *self.setting[1:])
        size = lab.size_of(profile)
        return Study(self.regime, profile, size, self.seed, (self.setting.spec,))

    @cached_property
    def key(self) -> str:
        """What it is by its settings, the world and its checker, but not by the training's code:
        rows under this key compare with ours, though another version may have made them."""
        study, spec = self.study, self.setting.spec
        shown = spec if spec.method != "reference" else Spec("sft")
        recipe = study.run(shown).recipe
        engine = study.profile.generation
        return content_key(
            [
                spec.method,
                {name: value for name, value in recipe.items() if name != "code"},
                study.run(spec).decoding.key(),
                study.profile.decoding.key(),
                study.profile.lab.prompts,
                code_key("pocket.checker", "pocket.prompts"),
                *([engine] if engine != "transformers" else []),
            ]
        )


class Told(NamedTuple):
    """What a policy did, [prompts] each: reward (1 to 10), and log-ratio of policy to reference in
    nats, whose mean is its KL."""

    reward: np.ndarray
    log_ratio: np.ndarray
    code: str  # of what made it
    here: bool  # not read from a file of rows


# Settings -----------------------------------------------------------------------------------------


def settings_of(
    own: Own, profile: Profile, temperatures: Sequence[float] = (), rates: Sequence[float] = ()
) -> tuple[Setting, ...]:
    """The settings of a researcher's loss: every temperature with every learning rate.

    Raises ValueError as `specs_of` does, and for more than MOST_SETTINGS.
    """
    specs, wanted = specs_of(own, profile, temperatures), rates_of(own, profile, rates)
    if len(specs) * len(wanted) > MOST_SETTINGS:
        raise ValueError(
            f"{own.words} has {len(specs) * len(wanted)} settings; try at most {MOST_SETTINGS}, "
            "since every other method is given as many"
        )
    return tuple(
        Setting(spec, rate / profile.training.learning_rate, 1) for rate in wanted for spec in specs
    )


def specs_of(own: Own, profile: Profile, temperatures: Sequence[float] = ()) -> list[OwnSpec]:
    """A researcher's loss at each of its temperatures: the given ones, else the function's own
    (its attribute temperatures), else its module's (TEMPERATURES), else the lab's. Raises
    ValueError for what is no positive number, and for temperatures of a loss that takes none."""
    takes = "temperature" in own.wanted(own.function(own.module()))
    taus = _numbers(own, "temperatures", temperatures, profile.lab.taus if takes else (1.0,))
    if not takes and taus != (1.0,):
        raise ValueError(
            f"{own.words} takes no temperature, but {len(taus)} are to be tried; "
            "give it an argument temperature"
        )
    return [OwnSpec(training_own.NAME, tau, own=own, has_tau=takes) for tau in taus]


def rates_of(own: Own, profile: Profile, rates: Sequence[float] = ()) -> tuple[float, ...]:
    """Its learning rates, found as `specs_of` finds temperatures; else the profile's."""
    return _numbers(own, "learning_rates", rates, (profile.training.learning_rate,))


def _numbers(
    own: Own, name: str, given: Sequence[float], otherwise: Sequence[float]
) -> tuple[float, ...]:
    module = own.module()
    found = given or getattr(own.function(module), name, getattr(module, name.upper(), ()))
    try:
        found = tuple(dict.fromkeys(found))
    except TypeError:
        raise ValueError(f"{own.words}: {name} is {found!r}; give a list of numbers") from None
    values = (checks.number(f"{own.words}: {name}", one, above=0.0) for one in found)
    return tuple(values) or tuple(otherwise)


def rivals(profile: Profile, count: int) -> dict[str, tuple[Setting, ...]]:
    """The kit's methods by name, with so many settings each, as `tuning` tries them."""
    lab_config = profile.lab.model_copy(update={"tuning": count})
    found = tuning.settings(profile.model_copy(update={"lab": lab_config}))
    return {method.words: tried for method, tried in found.items()}


# Rows ---------------------------------------------------------------------------------------------


def train_group(group: Sequence[Policy], own: Own, out: Path) -> int:
    """Train and ask policies of one regime, seed and learning rate."""
    if isinstance(group[0].setting.spec, OwnSpec):
        with training_own.registered(own):
            return lab_runs.make(_study(group), out)
    return lab_runs.make(_study(group), out)


def _study(group: Sequence[Policy]) -> Study:
    return replace(group[0].study, specs=tuple(policy.setting.spec for policy in group))


def rows_of(
    policies: Iterable[Policy],
    own: Own,
    out: Path,
    *,
    workers: int,
    here: Iterable[Policy] = (),
    progress: bool = True,
) -> dict[Policy, Told]:
    """What each policy did: read where it is stored, else trained and asked now.

    here: policies that are wanted on this machine, though their rows be stored. Rows of the kit's
    methods are kept in ROWS_FILE of `out`; those of any results folder of the clone are taken."""
    from tqdm.auto import tqdm

    policies, here = list(dict.fromkeys(policies)), set(here)
    mine, code = _stored(out / ROWS_FILE), step_code("all of the lab")
    stored = [*chain(*(_stored(file).items() for file in _files())), *mine.items()]
    known = dict(sorted(stored, key=lambda row: row[1].code == code))  # of today's code if there is
    left = [
        policy
        for policy in policies
        if not policy.study.is_answered(policy.setting.spec, out)
        and (policy.key not in known or policy in here)
    ]
    groups: dict[tuple, list[Policy]] = {}
    for policy in left:
        # a researcher's policies stand alone: their module is made anew for each
        alone = policy.setting.spec if isinstance(policy.setting.spec, OwnSpec) else None
        name = (policy.regime, policy.seed, policy.setting[1:], alone)
        groups.setdefault(name, []).append(policy)
    tasks = joblib.Parallel(
        n_jobs=max(1, min(workers, len(groups))), return_as="generator_unordered", batch_size=1
    )(
        joblib.delayed(train_group)(group, own, out)
        for group in sorted(groups.values(), key=lambda group: -len(group))
    )
    with tqdm(total=len(groups), desc="trainings", disable=not progress or not left) as bar:
        for _ in tasks:
            bar.update()
    found = {}
    for policy in policies:
        answers = read_sealed(policy.study.file(policy.setting.spec, out))
        if answers is not None and answers["world"] == policy.study.world:
            pairs = zip(policy.study.prompts, answers["completions"], strict=True)
            found[policy] = Told(
                np.array([checker.score(prompt, text) for prompt, text in pairs]),
                np.subtract(answers["policy_logps"], answers["ref_logps"]),
                code,
                True,
            )
        else:
            found[policy] = known[policy.key]
    made = {p.key: found[p] for p in policies if not isinstance(p.setting.spec, OwnSpec)}
    _keep(mine | made, out)  # all: what this call does not need, the next one may
    return found


def _files() -> list[Path]:
    """The stored rows of every results folder of the clone."""
    return sorted((repository_root() / "results").glob(f"*/{ROWS_FILE}"))


def _stored(file: Path) -> dict[str, Told]:
    rows = unpacked(file) if file.is_file() else []
    return {
        row["key"]: Told(np.array(row["reward"]), np.array(row["log_ratio"]), row["code"], False)
        for row in rows
    }


def _keep(rows: dict[str, Told], out: Path) -> None:
    frame = pd.DataFrame(
        [
            {"key": key, "code": told.code, "reward": told.reward, "log_ratio": told.log_ratio}
            for key, told in sorted(rows.items())
        ]
    )
    content, file = packed(frame), out / ROWS_FILE
    if not file.is_file() or file.read_bytes() != content:
        atomic_write(file, content)


# The comparison -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. Methods by name: the researcher's first, the kit's, the reference."""

    own: Own
    regimes: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: list[list[str]]  # of each seed
    settings: dict[str, tuple[Setting, ...]]  # tried of each method
    tuned: dict[tuple[str, str], dict[Setting, float]]  # (method, regime): mean reward by setting
    chosen: dict[tuple[str, str], Setting]  # (method, regime)
    reward: dict[str, np.ndarray]  # of each method [regimes, seeds, prompts], 1 to 10
    log_ratio: dict[str, np.ndarray]  # the same shape, nats
    seconds: dict[str, list[float]]  # a step, of each policy that was trained on this machine
    stored: int  # policies whose rows were read from a file
    other_code: int  # of these, those that another version of the kit's code made
    alike: str  # a key of what else numbers depend on: data, training, decoding, what is tuned on


def compare(
    profile: Profile,
    own: Own,
    settings: tuple[Setting, ...],
    out: Path,
    *,
    workers: int = 1,
    progress: bool = True,
) -> Comparison:
    """Train the loss in every regime of the lab, and of the kit's methods what is not stored.
    Raises ValueError outside the pocket world, and where the tuning seed is to be reported."""
    if not profile.pocket_world:
        raise ValueError(
            "the lab needs rewards of new texts, which only the pocket world's checker knows; "
            "leave --feedback and data.source out"
        )
    seeds, regimes = lab.seeds_of(profile), profile.lab.regimes
    both = set(profile.lab.tuning_seeds) & set(seeds)
    if both:
        raise ValueError(f"seed {min(both)} chooses the settings; report others: lab.seeds")
    methods = {own.words: settings} | rivals(profile, len(settings))
    options = {"workers": workers, "progress": progress}
    with training_own.named(own):
        tuned, stored = _tune(profile, own, methods, out, options)
        chosen = {of: max(means, key=means.__getitem__) for of, means in tuned.items()}
        reference = Setting(REFERENCE, *tuning.SCHEDULES[0])
        every = {
            (name, regime, seed): Policy(
                profile, regime, seed, chosen[name, regime] if name in methods else reference
            )
            for name in (*methods, "reference")
            for regime in regimes
            for seed in seeds
        }
        # one of each method is trained here: seconds of another machine do not compare; and the
        # loss starts from the references of this one, which on another say other texts
        here = [every[name, regimes[0], seeds[0]] for name in methods]
        here += [policy for (name, *_), policy in every.items() if name == "reference"]
        told = rows_of(every.values(), own, out, here=here, **options)
        seconds = {
            name: [
                found
                for of, policy in every.items()
                if of[0] == name and (found := step_seconds(policy, out)) is not None
            ]
            for name in methods
        }

    def array(name: str, part: str) -> np.ndarray:
        return np.array(
            [[getattr(told[every[name, r, s]], part) for s in seeds] for r in regimes], float
        )

    code = step_code("all of the lab")
    read = stored + [one for one in told.values() if not one.here]
    return Comparison(
        own,
        regimes,
        seeds,
        [every["reference", regimes[0], seed].study.prompts for seed in seeds],
        methods,
        tuned,
        chosen,
        {name: array(name, "reward") for name in (*methods, "reference")},
        {name: array(name, "log_ratio") for name in (*methods, "reference")},
        seconds,
        len(read),
        sum(one.code != code for one in read),
        _alike(profile),
    )


def _alike(profile: Profile) -> str:
    """Comparisons of the same regimes and seeds may stand in one ranking where this is the same."""
    any_policy = Policy(profile, "stronger", 0, Setting(REFERENCE, *tuning.SCHEDULES[0]))
    config = profile.lab
    return content_key([any_policy.key, config.tuning_seeds, config.taus, config.betas])[:6]


def _tune(
    profile: Profile,
    own: Own,
    methods: dict[str, tuple[Setting, ...]],
    out: Path,
    options: dict,
) -> tuple[dict[tuple[str, str], dict[Setting, float]], list[Told]]:
    """Mean reward of every setting on the tuning seeds, by method and regime; nan where there is
    nothing to choose. And what was read from a file."""
    every = {
        (name, regime, setting): [Policy(profile, regime, s, setting) for s in seeds]
        for seeds in (profile.lab.tuning_seeds,)
        for name, found in methods.items()
        for regime in profile.lab.regimes
        for setting in found
    }
    one = len(next(iter(methods.values()))) == 1
    told = {} if one else rows_of(chain(*every.values()), own, out, **options)
    tuned: dict[tuple[str, str], dict[Setting, float]] = {}
    for (name, regime, setting), policies in every.items():
        means = [np.nan if one else told[policy].reward.mean() for policy in policies]
        mean = float(np.mean(means))
        tuned.setdefault((name, regime), {})[setting] = mean
    return tuned, [one for one in told.values() if not one.here]


def step_seconds(policy: Policy, out: Path) -> float | None:
    """A step's seconds, where the policy was trained here."""
    stamp = sealed(policy.study.run(policy.setting.spec).folder(out), quick=True)
    return None if stamp is None else stamp["seconds"] / stamp["steps"]
