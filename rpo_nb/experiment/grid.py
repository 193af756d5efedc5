"""The grid: which policies a profile trains and which completions it asks for. Nothing is made
here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import AUTHORS, ROWS, tau_of
from rpo_nb.config.objective import Objective, Preset
from rpo_nb.config.schema import DecodingConfig, Profile
from rpo_nb.experiment import references
from rpo_nb.policy.generation import released_decoding
from rpo_nb.running.provenance import model_key, source_key, step_code

# of the baselines, which no preset touches
SHARED_STEPS = {"dropout": 0.0, "max_grad_norm": 1.0, "weight_decay": 0.01}


# The plan -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """What tells a policy from others in every study; a study's own kind of run adds its columns.

    tau: its temperature, None where it has none. A field that is not compared is no column."""

    method: str
    tau: float | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """Its row of a frame, where no temperature is NaN."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.compare}
        return values | {"tau": np.nan if self.tau is None else self.tau}


KEYS = ["preset", "method", "size", "tau", "seed"]  # what a policy is found by in tables


@dataclass(frozen=True)
class Run(Columns):
    """A policy of a reading of paper A: its columns, what it is made from, how it is asked."""

    size: str = ""
    seed: int = 0
    preset: str = ""  # "" where it is of no preset of the profile
    # everything that makes it what it is, and names its folder; None: nothing is trained
    recipe: dict[str, Any] | None = field(default=None, compare=False)
    decoding: DecodingConfig = field(default=DecodingConfig(), compare=False)
    # what is asked where nothing is trained: the reference unless named
    model: str = field(default="", compare=False)
    # Whether its completions are drawn with the random numbers that all policies of the seed share:
    # a difference of their means is surer for it, a win rate between them is no win rate.
    common: bool = field(default=False, compare=False)

    @property
    def trained(self) -> bool:
        return self.recipe is not None

    @property
    def key(self) -> str:
        """The same for runs of several presets that are one policy."""
        return content_key(self.recipe if self.trained else self.model)

    @property
    def cell(self) -> tuple:
        """KEYS, None where there is no temperature."""
        return tuple(getattr(self, name) for name in KEYS)

    @property
    def words(self) -> str:
        """For messages."""
        return f"{self.method} {self.size} seed {self.seed}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.size}-seed{self.seed}-{self.key}"

    @property
    def stream(self) -> int:
        """The seed of the random numbers that its completions are drawn with: where they are not
        common, of its seed, its method and what it was told (objective, partition, steps), not of
        code or data.

        No two methods, readings or temperatures of a seed share it, so a win rate compares
        independent samples, as of users who each ask one policy. (With the same numbers, policies
        that are nearly equal write the same texts, which moves the rate.) A policy that several
        presets share has one stream and one file."""
        if self.common:
            return self.seed
        told = self.recipe and [self.recipe[name] for name in ("objective", "partition", "steps")]
        return int(content_key([self.method, told, self.seed]), 16)

    def folder(self, out: Path) -> Path:
        return Path(out) / "runs" / self.name

    def done_file(self, out: Path) -> Path:
        """Exists when the policy is trained."""
        return self.folder(out) / "done.json"


def cell_of(key: tuple) -> tuple:
    """A key of a frame, by KEYS, as `Run.cell` has it: no temperature is None."""
    return tuple(None if pd.isna(part) else part for part in key)


def recipe(
    profile: Profile, preset: Preset, method: str, size: str, tau: float | None, seed: int
) -> Run:
    """The run of a method under a preset at a temperature."""
    decoding = (
        released_decoding(method, profile.decoding)
        if preset.decoding == "released"
        else profile.decoding
    )
    run, row = Run(method, tau, size, seed, decoding=decoding), ROWS[method]
    if row.objective is None:
        return run
    if not row.reads:
        objective, steps = Objective(method=row.objective, reduce="mean"), SHARED_STEPS
    else:
        own = getattr(preset, row.temperature)
        objective = Objective(
            method=row.objective,
            reduce=preset.reduce,
            **({"tau": own if tau is None else tau} if row.symbol == "τ" else {"beta": own}),
            kto_kl=preset.kto_kl,
            value_pooling=preset.value_pooling,
            value_detach=preset.value_detach,
        )
        steps = {name: getattr(preset, name) for name in SHARED_STEPS}
    made_from = {
        "method": method,
        "objective": objective.read_fields(),
        "partition": preset.partition if "partition" in row.reads else None,
        "steps": steps,
        "training": profile.training.model_dump(
            mode="json",
            exclude={"report_to", "logging_steps", "save_steps", "micro_batch_tokens"},
        ),
        "seed": seed,
        "model": model_recipe(profile, size),
        "data": data_recipe(profile),
        "code": step_code("training"),
    }
    return replace(run, recipe=made_from)


def model_recipe(profile: Profile, size: str) -> dict[str, Any]:
    """A size's settings, its model by content: two folders of one name are two models."""
    model = profile.sizes[size]
    settings = model.model_dump(
        mode="json", exclude={"micro_batch_tokens", "authors", "authors_revision"}
    )
    if model.id != "pocket":
        return settings | {"id": model_key(references.resolve(model.id), model.revision)}
    return (
        settings if profile.pocket_world else settings | {"tokenizer": references.vocabulary(model)}
    )


def data_recipe(profile: Profile) -> dict[str, Any]:
    """The settings of the feedback, its source by content."""
    return profile.data.model_dump(mode="json") | {
        "source": source_key(profile.data.source, profile.data.revision)
    }


def world_key(profile: Profile, size: str, seed: int, code: str = "all of the grid") -> str:
    """All that policies of a size and seed and their answers are made from, without making any of
    it: while it is the same, nothing has to be looked at. code: a key of `provenance.STEPS`."""
    settings = profile.model_dump(
        mode="json", include={"data", "training", "generation", "evaluation", "decoding"}
    )  # decoding: what the reference wrote is data of the on_policy regime, and QRPO's rewards
    settings["evaluation"] = settings["evaluation"]["generation_batch_size"]
    return content_key(
        [settings, model_recipe(profile, size), data_recipe(profile), seed, step_code(code)]
    )


def cell_world(profile: Profile, run: Run) -> str:
    """`world_key` of a run, with the weights that are asked where they are not the reference's."""
    world = world_key(profile, run.size, run.seed)
    if not run.model:
        return world
    revision = profile.sizes[run.size].authors_revision
    return content_key([world, model_key(references.resolve(run.model), revision)])


def taus_of(profile: Profile, preset_name: str, method: str) -> list[float | None]:
    """The temperatures a method is trained at under a preset: RPO also at Table IV's where the
    profile asks for them."""
    if ROWS[method].swept:
        return profile.rpo_taus(preset_name)
    return [tau_of(profile.presets[preset_name], method)]


def cells(profile: Profile) -> list[Run]:
    """Every column of generations the profile asks for: the runs of each of its presets."""
    out = []
    for name, preset in profile.presets.items():
        for size in profile.sizes:
            for seed in profile.seeds:
                out += [
                    replace(recipe(profile, preset, method, size, tau, seed), preset=name)
                    for method in profile.methods
                    for tau in taus_of(profile, name, method)
                ]
                authors = profile.sizes[size].authors if profile.evaluation.authors else ""
                if authors and name == _authors_preset(profile):
                    theirs = recipe(profile, preset, AUTHORS, size, None, seed)
                    out.append(replace(theirs, preset=name, model=authors))
    return out


def _authors_preset(profile: Profile) -> str:
    """The preset whose tables show the authors' checkpoints: the one that decodes as they do, else
    the first."""
    return next(
        (name for name, preset in profile.presets.items() if preset.decoding == "released"),
        next(iter(profile.presets)),
    )


def plan(profile: Profile) -> list[Run]:
    """The policies to train, each once."""
    return list({run.key: run for run in cells(profile) if run.trained}.values())
