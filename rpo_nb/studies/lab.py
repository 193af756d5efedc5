"""The partition lab: which estimator, which convention, which temperature, which method, by how
good the data are (notebook 07).

Only in the pocket world, whose checker knows the reward of any text. Every policy is a run of
`experiment`, keyed by its recipe: what another notebook trained is not trained again. A `Study` is
one data set and the policies to train on it; `measure` makes what is missing in a few processes and
returns one row a policy, seed and prompt; the tables below are summaries of those rows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rpo_nb import pocket
from rpo_nb.config.keys import content_key
from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHOD_NAMES, ROWS, tau_of
from rpo_nb.config.objective import Preset
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import generations, grid
from rpo_nb.experiment.grid import Columns, Run
from rpo_nb.store import read_sealed
from rpo_nb.studies.truth import PLAIN


class Regime(NamedTuple):
    """A reference and the data it learns from."""

    demonstrator: str  # whom the reference has learnt from, a key of pocket.DEMONSTRATORS
    writers: str  # of the data, DataConfig.regime
    words: str


REGIMES = {
    "on_policy": Regime("house", "on_policy", "completions of the reference itself"),
    "stronger": Regime("house", "stronger", "better writers, whose words the reference knows"),
    "much_stronger": Regime(
        "house", "much_stronger", "much better writers, whose words the reference knows"
    ),
    "weak_reference": Regime(
        "weak", "stronger", "better writers, and a reference that is weaker than the other ones"
    ),
    "narrow_reference": Regime(
        "narrow", "stronger", "better writers, whose words the reference has hardly seen"
    ),
    # as Flan-T5 stands to UltraFeedback: surprised by all, worse than most
    "narrow_much_stronger": Regime(
        "narrow", "much_stronger", "much better writers, whose words the reference has hardly seen"
    ),
}
WORDS = {
    "empirical": "eq. 19",
    "monte_carlo": "Monte Carlo",
    "self_normalised": "self-normalised",
    "leave_one_out": "leave-one-out",
    "none": "V̂ = 0",
    "pooled": "pooled",
}
# The temperatures that the regime map trains: of KTO no β below, of RPO with means these τ of an
# estimator, from and to, and of others none.
LEAST_KTO = 0.3
MEANS = {"empirical": (1.0, 1.0), "monte_carlo": (0.3, 1.0)}
NONE = (math.inf, -math.inf)
MAP_KEYS = ["method", "preset", "estimator", "reduce", "tau", "policy"]


@dataclass(frozen=True)
class Spec(Columns):
    """A policy of the lab, of no size or seed yet: method, temperature (of RPO and DRO τ, of KTO
    and QRPO β) and convention."""

    reduce: str = "sum"
    estimator: str = ""  # of RPO
    released: bool = False  # trained as the authors' code does, dropout and all
    # Whether it is asked with the random numbers that all policies of a seed share: for differences
    # of means, which they make surer. Win rates want independent samples.
    common: bool = True

    @property
    def words(self) -> str:
        """A short name, for figures and sentences."""
        name = METHOD_NAMES[self.method]
        if self.released:
            return f"{name} as released"
        slope = "" if self.tau is None else f" {ROWS[self.method].symbol} {self.tau:g}"
        kind = f" {WORDS[self.estimator]}" if self.estimator else ""
        return f"{name}{kind}{', means' if self.reduce == 'mean' else ''}{slope}"

    def preset(self) -> Preset:
        """Paper A's preset (or the authors' code's) with this policy's choices."""
        given = {"reduce": self.reduce} | ({"partition": self.estimator} if self.estimator else {})
        field = ROWS[self.method].temperature
        return presets()["released" if self.released else "paper"].model_copy(
            update=given | ({field: self.tau} if field else {})
        )

    def run(self, profile: Profile, size: str, seed: int) -> Run:
        """Its run, of no preset of the profile."""
        tau = self.tau if ROWS[self.method].symbol == "τ" else None
        return grid.recipe(profile, self.preset(), self.method, size, tau, seed)

    def presets(self, profile: Profile, size: str) -> str:
        """The presets that mean just this policy, e.g. "paper", "paper/fixed"; "" where none
        does."""
        if not ROWS[self.method].presets:
            return ""
        key, names = self.run(profile, size, 0).key, []
        for name, preset in presets().items():
            tau = tau_of(preset, self.method)
            names += (
                [name] if grid.recipe(profile, preset, self.method, size, tau, 0).key == key else []
            )
        return "/".join(names)

    def row(self, profile: Profile, size: str) -> dict[str, Any]:
        """MAP_KEYS."""
        values = self.columns | {"preset": self.presets(profile, size), "policy": self.words}
        values["reduce"] = self.reduce if ROWS[self.method].reads else ""
        return {name: values[name] for name in MAP_KEYS}


# What policies are compared with: by differences of means, and by win rates.
REFERENCE, RIVAL = Spec("reference"), Spec("reference", common=False)


@cache
def presets() -> dict[str, Preset]:
    """The three readings of the paper as presets.yaml has them, whatever a profile chose of
    them."""
    return load_profile("pocket").presets


# Which policies -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """One data set and reference, and the policies to compare on it."""

    name: str
    profile: Profile  # of this data set
    size: str
    seed: int
    specs: tuple[Spec, ...]
    disturbance: str = ""  # of the rewards, a key of DISTURBANCES

    @cached_property
    def prompts(self) -> list[str]:
        """What every policy is asked: prompts of nobody's data, the same for all studies of a
        seed."""
        return pocket.make_prompts(
            self.profile.lab.prompts, rng=np.random.default_rng([self.seed, 9])
        )

    def run(self, spec: Spec) -> Run:
        """The policy's run, asked at sampling temperature 1."""
        run = spec.run(self.profile, self.size, self.seed)
        if run.trained and self.disturbance:
            source = inspect.getsource(DISTURBANCES[self.disturbance])
            changed = {"disturbance": self.disturbance, "source": source}
            run = replace(run, recipe=run.recipe | changed)
        decoding = PLAIN.model_copy(update={"max_new_tokens": self.profile.decoding.max_new_tokens})
        return replace(run, decoding=decoding, common=spec.common)

    def file(self, spec: Spec, out: Path) -> Path:
        """Where its completions are kept."""
        return generations.completions_file(self.profile, self.run(spec), out, self.asked)

    @cached_property
    def world(self) -> str:
        """What its policies and answers are made from, in one key: see `runs.train_runs`."""
        return grid.world_key(
            self.profile,
            self.size,
            self.seed,
            "all of the lab" if self.disturbance else "all of the grid",
        )

    def is_answered(self, spec: Spec, out: Path) -> bool:
        """Whether its completions are there and whole, and made from what is here now."""
        stored = read_sealed(self.file(spec, out))
        return stored is not None and stored["world"] == self.world

    @cached_property
    def asked(self) -> str:
        """What names these prompts beside a policy."""
        return f"lab{content_key(self.prompts)[:8]}-"


def size_of(profile: Profile) -> str:
    """The size that the lab trains."""
    wanted = profile.lab.size or next(iter(profile.sizes))
    if wanted not in profile.sizes:
        raise ValueError(
            f"lab.size is {wanted!r}, which the profile does not have; it has "
            f"{', '.join(profile.sizes)}"
        )
    return wanted


def seeds_of(profile: Profile) -> tuple[int, ...]:
    """The lab's seeds."""
    return profile.lab.seeds or profile.seeds


def in_regime(profile: Profile, name: str) -> Profile:
    """The profile with a regime's reference and data."""
    if name not in REGIMES:
        raise ValueError(f"lab.regimes: {name!r} is unknown; the regimes are {', '.join(REGIMES)}")
    sizes = {
        size: model.model_copy(update={"demonstrator": REGIMES[name].demonstrator})
        for size, model in profile.sizes.items()
    }
    return profile.model_copy(
        update={
            "data": profile.data.model_copy(update={"regime": REGIMES[name].writers}),
            "sizes": sizes,
        }
    )


def map_specs(profile: Profile) -> tuple[Spec, ...]:
    """The policies of the regime map."""
    lab = profile.lab
    out = [REFERENCE, RIVAL, Spec("sft"), Spec("best_of_k")]
    out += [Spec("kto", beta) for beta in lab.betas if beta >= LEAST_KTO]
    out += [Spec("dro", tau) for tau in lab.taus]
    out += [Spec("rpo", tau, "sum", estimator) for estimator in lab.estimators for tau in lab.taus]
    for estimator in lab.estimators:
        least, most = MEANS.get(estimator, NONE)
        out += [Spec("rpo", tau, "mean", estimator) for tau in lab.taus if least <= tau <= most]
    out += [Spec("qrpo", beta) for beta in lab.betas]
    released = presets()["released"]
    out += [
        Spec("rpo", released.rpo_tau, "mean", "empirical", True),
        Spec("dro", released.dro_tau, "mean", released=True),
        Spec("kto", released.kto_beta, "mean", released=True),
    ]
    return tuple(dict.fromkeys(out))


def map_studies(profile: Profile) -> list[Study]:
    return [
        Study(name, in_regime(profile, name), size_of(profile), seed, map_specs(profile))
        for name in profile.lab.regimes
        for seed in seeds_of(profile)
    ]


def ablation_specs() -> tuple[Spec, ...]:
    """With both conventions at τ = 1: no normalisation, the paper's, and the one that leaves the
    row out. Win rates are between them."""
    return tuple(
        Spec("rpo", 1.0, reduce, name, common=False)
        for reduce in ("sum", "mean")
        for name in ("none", "empirical", "leave_one_out")
    )


def ablation_studies(profile: Profile) -> list[Study]:
    return [
        Study("ablation", profile, size, seed, ablation_specs())
        for size in profile.lab.ablation_sizes or profile.sizes
        for seed in seeds_of(profile)
    ]


def low_data_specs(profile: Profile) -> tuple[Spec, ...]:
    """The paper's RPO, the lab's other estimators at the temperature we recommend, and two methods
    that estimate no partition."""
    fixed = presets()["fixed"]
    others = [
        name for name in dict.fromkeys((*profile.lab.estimators, "pooled")) if name != "empirical"
    ]
    return (
        REFERENCE,
        RIVAL,
        Spec("rpo", presets()["paper"].rpo_tau, "sum", "empirical"),
        *(Spec("rpo", fixed.rpo_tau, "sum", name) for name in others),
        Spec("dro", fixed.dro_tau),
        Spec("kto", fixed.kto_beta),
    )


def low_data(profile: Profile, k: int) -> Profile:
    """The same budget of rows as k completions a prompt. Validation is small: its top-scored rows
    are lost to training."""
    return profile.model_copy(
        update={
            "data": profile.data.model_copy(
                update={
                    "prompts": profile.lab.rows // k,
                    "completions_per_prompt": k,
                    "validation": 10,
                    "held_out": 0,
                }
            )
        }
    )


def low_data_studies(profile: Profile) -> list[Study]:
    return [
        Study(f"K = {k}", low_data(profile, k), size_of(profile), seed, low_data_specs(profile))
        for k in profile.lab.completions
        for seed in seeds_of(profile)
    ]


def robustness_specs() -> tuple[Spec, ...]:
    """One policy of each kind, as the presets have it."""
    paper, released, fixed = presets().values()
    return (
        REFERENCE,
        RIVAL,
        Spec("rpo", paper.rpo_tau, "sum", "empirical"),
        Spec("rpo", released.rpo_tau, "mean", "empirical", True),
        Spec("rpo", fixed.rpo_tau, "sum", fixed.partition),
        Spec("dro", fixed.dro_tau),
        Spec("kto", fixed.kto_beta),
        Spec("qrpo", fixed.qrpo_beta),
    )


def robustness_studies(profile: Profile) -> list[Study]:
    return [
        Study(name or "clean", profile, size_of(profile), seed, robustness_specs(), name)
        for name in ("", *profile.lab.disturbances)
        for seed in seeds_of(profile)
    ]


def data_studies(profile: Profile) -> list[Study]:
    """More or fewer training prompts, all else being equal; none where none are asked for."""
    return [
        Study(
            f"{n} prompts",
            profile.model_copy(update={"data": profile.data.model_copy(update={"prompts": n})}),
            size_of(profile),
            seed,
            (*robustness_specs(), Spec("sft")),
        )
        for n in profile.lab.more_prompts
        for seed in seeds_of(profile)
    ]


def studies_of(profile: Profile) -> list[Study]:
    """All of a profile, but those of `tuning`."""
    return [
        *map_studies(profile),
        *ablation_studies(profile),
        *low_data_studies(profile),
        *robustness_studies(profile),
        *data_studies(profile),
    ]


def policies(profile: Profile) -> int:
    """How many policies notebook 07 trains beside those of the grid, without what tuning will
    choose."""
    studies = studies_of(profile)
    return len(trained(studies) - {run.key for run in grid.plan(profile)})


def trained(studies: Iterable[Study]) -> set[str]:
    """The keys of the policies that studies train."""
    runs = [study.run(spec) for study in studies for spec in study.specs]
    return {run.key for run in runs if run.trained}


def _noise(rewards: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """As much noise as signal."""
    return rewards + g.normal(size=rewards.shape)


def _heavy_tails(rewards: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """Noise of Student's t with 1.5 degrees of freedom, whose variance is infinite."""
    return rewards + 0.3 * g.standard_t(1.5, size=rewards.shape)


def _scale(rewards: np.ndarray, g: np.random.Generator) -> np.ndarray:
    """A hundred times as large, and not standardised."""
    return 100 * rewards


DISTURBANCES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "heavy_tails": _heavy_tails,
    "scale": _scale,
}
