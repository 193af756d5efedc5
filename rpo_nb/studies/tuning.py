"""Every method tuned alike: each is given as many settings (temperature, learning rate, epochs), in
every regime the one with the best mean reward on the tuning seeds is taken, and what is reported
comes from other seeds.

The regime map compares methods at settings that somebody chose; here each had the same chance. A
`Spec` without temperature stands for a method: RPO counts once for each estimator of `ESTIMATORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.studies import lab
from rpo_nb.studies.lab import REFERENCE, RIVAL, Spec, Study

ESTIMATORS = ("empirical", "none")  # of RPO: the paper's, and none, as preset `fixed` has it
# (learning rate, epochs) as multiples of the profile's, in the order in which they are tried
SCHEDULES = (
    (1.0, 1),
    (2.0, 1),
    (0.5, 1),
    (1.0, 2),
    (2.0, 2),
    (0.5, 2),
    (4.0, 1),
    (4.0, 2),
    (0.25, 1),
)


class Setting(NamedTuple):
    """A policy of a method and how it is trained, as multiples of the profile's."""

    spec: Spec
    rate: float
    epochs: int

    @property
    def words(self) -> str:
        return f"{self.spec.words}, rate × {self.rate:g}, epochs × {self.epochs}"


def trained_as(profile: Profile, rate: float, epochs: int) -> Profile:
    """The profile with a schedule's learning rate and epochs."""
    training = profile.training
    changed = {
        "learning_rate": training.learning_rate * rate,
        "epochs": training.epochs * epochs,
    }
    return profile.model_copy(update={"training": training.model_copy(update=changed)})


Chosen = dict[tuple[str, Spec], Setting]  # by regime and method


def settings(profile: Profile) -> dict[Spec, tuple[Setting, ...]]:
    """lab.tuning settings of every method: the first schedule with each of the lab's temperatures
    (that of preset `fixed` first), then the next schedule."""
    fixed, found = lab.presets()["fixed"], {}
    methods = {
        Spec("sft"): ((None,), None),
        Spec("best_of_k"): ((None,), None),
        Spec("kto"): (profile.lab.betas, fixed.kto_beta),
        Spec("dro"): (profile.lab.taus, fixed.dro_tau),
        **{
            Spec("rpo", estimator=estimator): (profile.lab.taus, fixed.rpo_tau)
            for estimator in ESTIMATORS
        },
        Spec("qrpo"): (profile.lab.betas, fixed.qrpo_beta),
    }
    for method, (taus, first) in methods.items():
        ordered = sorted(dict.fromkeys(taus), key=lambda tau, first=first: tau != first)
        tried = (
            Setting(Spec(method.method, tau, method.reduce, method.estimator), *schedule)
            for schedule, tau in product(SCHEDULES, ordered)
        )
        found[method] = tuple(tried)[: profile.lab.tuning]
    return found


def _studies(
    profile: Profile, seeds: Sequence[int], wanted: dict[str, set[Setting]]
) -> list[Study]:
    """The settings wanted in each regime, a study for each regime, seed and schedule; the first
    schedule has the reference, too. A study is called by regime and schedule."""
    out = []
    for (regime, mine), (rate, epochs), seed in product(wanted.items(), SCHEDULES, seeds):
        specs = tuple(one.spec for one in mine if one[1:] == (rate, epochs))
        specs = tuple(sorted(specs, key=lambda spec: spec.words))
        specs = (REFERENCE, RIVAL, *specs) if (rate, epochs) == SCHEDULES[0] else specs
        if specs:
            own = trained_as(lab.in_regime(profile, regime), rate, epochs)
            name = _name(regime, rate, epochs)
            out.append(Study(name, own, lab.size_of(profile), seed, specs))
    return out


def _name(regime: str, rate: float, epochs: int) -> str:
    return f"{regime}, rate × {rate:g}, epochs × {epochs}"


def tuning_studies(profile: Profile) -> list[Study]:
    """Every setting of every method in every regime, on the tuning seeds. Raises ValueError where a
    tuning seed is to be reported, too."""
    both = set(profile.lab.tuning_seeds) & set(lab.seeds_of(profile))
    if both:
        raise ValueError(
            f"lab.tuning_seeds: seed {min(both)} chooses the settings, so it cannot be reported; "
            "take another, or leave it out of lab.seeds"
        )
    every = {one for tried in settings(profile).values() for one in tried}
    return _studies(profile, profile.lab.tuning_seeds, dict.fromkeys(profile.lab.regimes, every))


def tried(rows: pd.DataFrame, studies: Sequence[Study], profile: Profile) -> pd.DataFrame:
    """lab_tuning.csv: method, regime, setting, reward (mean on the tuning seeds) and chosen (1
    where it is the regime's best of the method). rows: `lab_runs.measure` of `tuning_studies`."""
    specs = {study.name: study.specs for study in studies}
    means = rows.groupby(["study", "spec"])["reward"].mean()
    out = [
        {
            "method": method.words,
            "regime": regime,
            "setting": setting.words,
            "reward": means[name, specs[name].index(setting.spec)],
        }
        for method, found in settings(profile).items()
        for regime in profile.lab.regimes
        for setting in found
        for name in (_name(regime, setting.rate, setting.epochs),)
    ]
    table = pd.DataFrame(out)
    best = table.groupby(["method", "regime"])["reward"].idxmax()
    return table.assign(chosen=table.index.isin(best).astype(int))


def choose(table: pd.DataFrame, profile: Profile) -> Chosen:
    """The settings that `tried` marks."""
    marked = table[table["chosen"].eq(1)].set_index(["regime", "method"])["setting"]
    return {
        (regime, method): next(one for one in found if one.words == marked[regime, method.words])
        for method, found in settings(profile).items()
        for regime in profile.lab.regimes
    }


def reported_studies(profile: Profile, chosen: Chosen) -> list[Study]:
    """The chosen settings and the reference on the lab's seeds."""
    wanted = {
        regime: {setting for (place, _), setting in chosen.items() if place == regime}
        for regime in profile.lab.regimes
    }
    return _studies(profile, lab.seeds_of(profile), wanted)


def possible_studies(profile: Profile) -> list[Study]:
    """Every study that tuning may come to need, whatever it chooses; none where it is off."""
    if not profile.lab.tuning:
        return []
    every = {one for found in settings(profile).values() for one in found}
    seeds = (*profile.lab.tuning_seeds, *lab.seeds_of(profile))
    return _studies(profile, seeds, dict.fromkeys(profile.lab.regimes, every))


def by_method(
    rows: pd.DataFrame, studies: Sequence[Study], profile: Profile, chosen: Chosen
) -> tuple[pd.DataFrame, list[Study]]:
    """Rows of `reported_studies` as rows of studies whose policies are methods, one study a regime
    and seed: what `lab_tables` reads."""
    methods = (REFERENCE, RIVAL, *settings(profile))
    specs, parts = {study.name: study.specs for study in studies}, []
    for regime, (place, method) in product(profile.lab.regimes, enumerate(methods)):
        setting = chosen.get((regime, method), Setting(method, *SCHEDULES[0]))
        name = _name(regime, setting.rate, setting.epochs)
        mine = rows["study"].eq(name) & rows["spec"].eq(specs[name].index(setting.spec))
        parts.append(rows[mine].assign(study=regime, spec=place))
    views = [
        Study(regime, lab.in_regime(profile, regime), lab.size_of(profile), seed, methods)
        for regime in profile.lab.regimes
        for seed in lab.seeds_of(profile)
    ]
    return pd.concat(parts, ignore_index=True), views


def pairs(profile: Profile) -> dict[str, list[tuple[Spec, Spec]]]:
    """What `lab_tables.duels` compares of rows by method: each RPO with every other method, the
    paper's also with the one that has no estimate. By RPO, in words."""
    methods = list(settings(profile))
    first, *others = [Spec("rpo", estimator=estimator) for estimator in ESTIMATORS]
    rivals = [method for method in methods if method.method != "rpo"]
    return {first.words: [(first, one) for one in (*rivals, *others)]} | {
        rpo.words: [(rpo, one) for one in rivals] for rpo in others
    }
