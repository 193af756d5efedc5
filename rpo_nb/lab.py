"""The partition lab: which estimator, which convention, which temperature, which method, by how good the data are (notebook 07).

Only in the pocket world, whose checker knows the reward of any text. Every policy is a run of `experiment`, keyed by its recipe: what
another notebook trained is not trained again. A `Study` is one data set and the policies to train on it; `measure` makes what is
missing in a few processes and returns one row a policy, seed and prompt; the tables below are summaries of those rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, cached_property
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd

from rpo_nb import experiment, pocket
from rpo_nb.config import Preset, Profile, content_key, load_profile
from rpo_nb.experiment import Cell, Prepared, Run
from rpo_nb.reporting import METHOD_NAMES
from rpo_nb.store import read_sealed
from rpo_nb.truth import PLAIN


class Regime(NamedTuple):
    """A reference and the data it learns from."""

    demonstrator: str  # whom the reference has learnt from, a key of pocket.DEMONSTRATORS
    writers: str  # of the data, DataConfig.regime
    words: str


REGIMES = {
    "on_policy": Regime("house", "on_policy", "completions of the reference itself"),
    "stronger": Regime("house", "stronger", "better writers, whose words the reference knows"),
    "much_stronger": Regime("house", "much_stronger", "much better writers, whose words the reference knows"),
    "weak_reference": Regime("weak", "stronger", "better writers, and a reference that is weaker than the other ones"),
    "narrow_reference": Regime("narrow", "stronger", "better writers, whose words the reference has hardly seen"),
    # as Flan-T5 stands to UltraFeedback: surprised by all, worse than most
    "narrow_much_stronger": Regime("narrow", "much_stronger", "much better writers, whose words the reference has hardly seen"),
}
WORDS = {"empirical": "eq. 19", "monte_carlo": "Monte Carlo", "self_normalised": "self-normalised", "leave_one_out": "leave-one-out",
         "none": "V̂ = 0", "pooled": "pooled"}
MAP_KEYS = ["method", "preset", "estimator", "reduce", "tau", "policy"]


@dataclass(frozen=True)
class Spec:
    """A policy of the lab: method, convention and temperature. tau: of RPO and DRO τ, of KTO and QRPO β, None for imitation."""

    method: str
    tau: float | None = None
    reduce: str = "sum"
    estimator: str = ""  # of RPO
    released: bool = False  # trained as the authors' code does, dropout and all

    @property
    def words(self) -> str:
        """A short name, for figures and sentences."""
        name = METHOD_NAMES[self.method]
        if self.released:
            return f"{name} as released"
        slope = "" if self.tau is None else f" {'β' if self.method in ('kto', 'qrpo') else 'τ'} {self.tau:g}"
        kind = f" {WORDS[self.estimator]}" if self.estimator else ""
        return f"{name}{kind}{', means' if self.reduce == 'mean' else ''}{slope}"

    def preset(self) -> Preset:
        """Paper A's preset (or the authors' code's) with this policy's choices."""
        given = {"reduce": self.reduce} | ({"partition": self.estimator} if self.estimator else {})
        field = {"rpo": "rpo_tau", "dro": "dro_tau", "kto": "kto_beta", "qrpo": "qrpo_beta"}.get(self.method)
        return presets()["released" if self.released else "paper"].model_copy(update=given | ({field: self.tau} if field else {}))

    def run(self, profile: Profile, size: str, seed: int) -> Run | None:
        """Its run; None for the reference."""
        tau = self.tau if self.method in ("rpo", "dro") else None
        return None if self.method == "reference" else experiment.recipe(profile, self.preset(), self.method, size, tau, seed)

    def presets(self, profile: Profile, size: str) -> str:
        """The presets that mean just this policy, e.g. "paper", "paper/fixed"; "" where none does."""
        if self.method not in ("kto", "dro", "rpo"):
            return ""
        key, names = self.run(profile, size, 0).key, []
        for name, preset in presets().items():
            tau = {"rpo": preset.rpo_tau, "dro": preset.dro_tau}.get(self.method)
            names += [name] if experiment.recipe(profile, preset, self.method, size, tau, 0).key == key else []
        return "/".join(names)

    def columns(self, profile: Profile, size: str) -> dict[str, Any]:
        """MAP_KEYS."""
        return {"method": self.method, "preset": self.presets(profile, size), "estimator": self.estimator,
                "reduce": "" if self.method in ("reference", "sft", "best_of_k") else self.reduce,
                "tau": np.nan if self.tau is None else self.tau, "policy": self.words}


@cache
def presets() -> dict[str, Preset]:
    """The three readings of the paper as presets.yaml has them, whatever a profile chose of them."""
    return load_profile("pocket").presets


# Which policies ---------------------------------------------------------------------------------------------------------------

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
        """What every policy is asked: prompts of nobody's data, the same for all studies of a seed."""
        return pocket.make_prompts(self.profile.lab.prompts, rng=np.random.default_rng([self.seed, 9]))

    def cell(self, spec: Spec) -> Cell:
        """The policy's column of completions, sampled at temperature 1."""
        run = spec.run(self.profile, self.size, self.seed)
        if run is not None and self.disturbance:
            source = inspect.getsource(DISTURBANCES[self.disturbance])
            run = replace(run, recipe=run.recipe | {"disturbance": self.disturbance, "source": source})
        decoding = PLAIN.model_copy(update={"max_new_tokens": self.profile.decoding.max_new_tokens})
        return Cell("lab", spec.method, self.size, spec.tau, self.seed, decoding, run)

    def file(self, spec: Spec, out: Path) -> Path:
        """Where its completions are kept."""
        return experiment.completions_file(self.profile, self.cell(spec), out, self.asked)

    @cached_property
    def world(self) -> str:
        """What its policies and answers are made from, in one key: see `experiment.train_runs`."""
        return experiment.world_key(self.profile, self.size, self.seed, "all of the lab" if self.disturbance else "all of the grid")

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
        raise ValueError(f"lab.size is {wanted!r}, which the profile does not have; it has {', '.join(profile.sizes)}")
    return wanted


def seeds_of(profile: Profile) -> tuple[int, ...]:
    """The lab's seeds."""
    return profile.lab.seeds or profile.seeds


def in_regime(profile: Profile, name: str) -> Profile:
    """The profile with a regime's reference and data."""
    if name not in REGIMES:
        raise ValueError(f"lab.regimes: {name!r} is unknown; the regimes are {', '.join(REGIMES)}")
    sizes = {size: model.model_copy(update={"demonstrator": REGIMES[name].demonstrator}) for size, model in profile.sizes.items()}
    return profile.model_copy(update={"data": profile.data.model_copy(update={"regime": REGIMES[name].writers}), "sizes": sizes})


def map_specs(profile: Profile) -> tuple[Spec, ...]:
    """The policies of the regime map."""
    lab = profile.lab
    out = [Spec("reference"), Spec("sft"), Spec("best_of_k")]
    out += [Spec("kto", beta) for beta in lab.betas if beta >= 0.3]
    out += [Spec("dro", tau) for tau in lab.taus]
    out += [Spec("rpo", tau, "sum", estimator) for estimator in lab.estimators for tau in lab.taus]
    out += [Spec("rpo", tau, "mean", estimator) for estimator in lab.estimators if estimator in ("empirical", "monte_carlo")
            for tau in lab.taus if tau == 1 or estimator == "monte_carlo" and 0.3 <= tau < 1]
    out += [Spec("qrpo", beta) for beta in lab.betas]
    released = presets()["released"]
    out += [Spec("rpo", released.rpo_tau, "mean", "empirical", True), Spec("dro", released.dro_tau, "mean", released=True),
            Spec("kto", released.kto_beta, "mean", released=True)]
    return tuple(dict.fromkeys(out))


def map_studies(profile: Profile) -> list[Study]:
    return [Study(name, in_regime(profile, name), size_of(profile), seed, map_specs(profile))
            for name in profile.lab.regimes for seed in seeds_of(profile)]


def ablation_specs() -> tuple[Spec, ...]:
    """With both conventions at τ = 1: no normalisation, the paper's, and the one that leaves the row out."""
    return tuple(Spec("rpo", 1.0, reduce, name) for reduce in ("sum", "mean") for name in ("none", "empirical", "leave_one_out"))


def ablation_studies(profile: Profile) -> list[Study]:
    return [Study("ablation", profile, size, seed, ablation_specs()) for size in profile.lab.ablation_sizes or profile.sizes
            for seed in seeds_of(profile)]


def low_data_specs(profile: Profile) -> tuple[Spec, ...]:
    """The paper's RPO, the lab's other estimators at the temperature we recommend, and two methods that estimate no partition."""
    fixed = presets()["fixed"]
    others = [name for name in dict.fromkeys((*profile.lab.estimators, "pooled")) if name != "empirical"]
    return (Spec("reference"), Spec("rpo", presets()["paper"].rpo_tau, "sum", "empirical"),
            *(Spec("rpo", fixed.rpo_tau, "sum", name) for name in others), Spec("dro", fixed.dro_tau), Spec("kto", fixed.kto_beta))


def low_data(profile: Profile, k: int) -> Profile:
    """The same budget of rows as k completions a prompt. Validation is small: its top-scored rows are lost to training."""
    return profile.model_copy(update={"data": profile.data.model_copy(update={
        "prompts": profile.lab.rows // k, "completions_per_prompt": k, "validation": 10, "held_out": 0})})


def low_data_studies(profile: Profile) -> list[Study]:
    return [Study(f"K = {k}", low_data(profile, k), size_of(profile), seed, low_data_specs(profile))
            for k in profile.lab.completions for seed in seeds_of(profile)]


def robustness_specs() -> tuple[Spec, ...]:
    """One policy of each kind, as the presets have it."""
    paper, released, fixed = presets().values()
    return (Spec("reference"), Spec("rpo", paper.rpo_tau, "sum", "empirical"), Spec("rpo", released.rpo_tau, "mean", "empirical", True),
            Spec("rpo", fixed.rpo_tau, "sum", fixed.partition), Spec("dro", fixed.dro_tau), Spec("kto", fixed.kto_beta),
            Spec("qrpo", fixed.qrpo_beta))


def robustness_studies(profile: Profile) -> list[Study]:
    return [Study(name or "clean", profile, size_of(profile), seed, robustness_specs(), name)
            for name in ("", *profile.lab.disturbances) for seed in seeds_of(profile)]


def policies(profile: Profile) -> int:
    """How many policies notebook 07 trains beside those of the grid."""
    studies = [*map_studies(profile), *ablation_studies(profile), *low_data_studies(profile), *robustness_studies(profile)]
    wanted = {study.cell(spec).run.key for study in studies for spec in study.specs if spec.method != "reference"}
    return len(wanted - {run.key for run in experiment.plan(profile)})


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
    "noise": _noise, "heavy_tails": _heavy_tails, "scale": _scale}


def disturbed(study: Study, prepared: Prepared) -> Prepared:
    """The study's rewards, standardised again as a trainer would (but for "scale"). What QRPO compares with comes from the same rater,
    so it is disturbed alike."""
    if not study.disturbance:
        return prepared
    change, g = DISTURBANCES[study.disturbance], np.random.default_rng([study.seed, 8])
    own = experiment.reference_rewards(study.profile, prepared, study.seed)
    both = change(np.column_stack([prepared.rewards, own]), g)
    if study.disturbance != "scale":
        both = (both - both[:, 0].mean()) / both[:, 0].std()
    return replace(prepared, rewards=both[:, 0], ref_rewards=both[:, 1:])


# Training and asking ----------------------------------------------------------------------------------------------------------

def make(study: Study, out: Path) -> int:
    """Train and ask what is missing of a study; returns how many policies were trained."""
    from tqdm import tqdm
    from transformers.utils import logging

    logging.disable_progress_bar()  # of every model that is read or written
    experiment.torch_threads(study.profile)
    missing = [spec for spec in study.specs if not study.is_answered(spec, out)]
    if not missing:
        return 0
    loaded = experiment.prepare(study.profile, study.size, study.seed)
    reference = loaded.reference
    prepared = disturbed(study, loaded)
    made = 0
    with experiment.quick_collections(), redirect_stdout(StringIO()):  # the notebook prints the diagnostics, regime by regime
        for cell in map(study.cell, missing):
            if cell.run is not None:
                made += experiment.train_runs(study.profile, [cell.run], prepared, out, tqdm(disable=True), world=study.world)
            prepared.__dict__["reference"] = reference  # small here; training lets it go
            experiment.completions(study.profile, cell, prepared, out, asked=study.asked, prompts=study.prompts, world=study.world)
    return made


def measure(studies: Sequence[Study], out: str | Path, *, workers: int = 1, progress: bool = True) -> pd.DataFrame:
    """Make what is missing, then one row a study, policy and prompt: study, seed, size, spec (its place in the study), prompt_id,
    prompt, completion, reward (1 to 10), log_ratio (policy over reference, nats), broken (0 or 1)."""
    from tqdm.auto import tqdm

    out = Path(out)
    left = [study for study in studies if not all(study.is_answered(spec, out) for spec in study.specs)]
    processes = max(1, min(workers, len(left)))
    tasks = joblib.Parallel(n_jobs=processes, return_as="generator_unordered", batch_size=1)(
        joblib.delayed(make)(study, out) for study in sorted(left, key=lambda s: -len(s.specs)))
    with experiment.quick_collections() if left and processes == 1 else nullcontext():  # once for all studies of this process
        made = sum(tqdm(tasks, total=len(left), desc="studies", disable=not progress or not left))
    policies = len({study.cell(spec).run.key for study in studies for spec in study.specs if spec.method != "reference"})
    print(f"{made} policies trained, {policies - made} were done already")
    return pd.concat([_rows(study, i, spec, out) for study in studies for i, spec in enumerate(study.specs)], ignore_index=True)


def prepared(studies: Sequence[Study]) -> dict[tuple[str, int], Prepared]:
    """Each study's training rows, their rewards and reference log-probabilities, by (name, seed); no reference stays in memory."""
    out = {}
    for study in studies:
        out[study.name, study.seed] = found = experiment.prepare(study.profile, study.size, study.seed)
        found.release()
    return out


def _rows(study: Study, place: int, spec: Spec, out: Path) -> pd.DataFrame:
    stored = read_sealed(study.file(spec, out))
    prompts, texts = study.prompts, stored["completions"]
    return pd.DataFrame({
        "study": study.name, "seed": study.seed, "size": study.size, "spec": place, "prompt_id": range(len(prompts)), "prompt": prompts,
        "completion": texts, "reward": [pocket.score(p, t) for p, t in zip(prompts, texts, strict=True)],
        "log_ratio": np.subtract(stored["policy_logps"], stored["ref_logps"]), "broken": [float(pocket.broken(t)) for t in texts]})
