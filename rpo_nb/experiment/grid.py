"""The grid: which policies a profile trains and which completions it asks for. Nothing is made
here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
class Run:
    """One policy to train: its recipe says everything that makes it what it is, and names its
    folder."""

    method: str
    size: str
    seed: int
    recipe: dict[str, Any] = field(compare=False)

    @property
    def key(self) -> str:
        return content_key(self.recipe)

    def folder(self, out: Path) -> Path:
        return Path(out) / "runs" / f"{self.method}-{self.size}-seed{self.seed}-{self.key}"

    def done_file(self, out: Path) -> Path:
        """Exists when the policy is trained."""
        return self.folder(out) / "done.json"


@dataclass(frozen=True)
class Cell:
    """One column of generations: a policy under a preset. tau is None where the method has none."""

    preset: str
    method: str
    size: str
    tau: float | None
    seed: int
    decoding: DecodingConfig
    run: Run | None  # None: nothing is trained
    model: str = ""  # then: the model to ask, the reference unless named


def recipe(
    profile: Profile, preset: Preset, method: str, size: str, tau: float | None, seed: int
) -> Run:
    """The run of a method under a preset at a temperature."""
    row = ROWS[method]
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
    return Run(
        method,
        size,
        seed,
        {
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
        },
    )


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
    """All that policies of a size and seed and their completions are made from, without making any
    of it: while it is the same, nothing has to be looked at. code: a key of `provenance.STEPS`."""
    settings = profile.model_dump(
        mode="json", include={"data", "training", "generation", "evaluation", "decoding"}
    )  # decoding: what the reference wrote is data of the on_policy regime, and QRPO's rewards
    settings["evaluation"] = settings["evaluation"]["generation_batch_size"]
    return content_key(
        [settings, model_recipe(profile, size), data_recipe(profile), seed, step_code(code)]
    )


def cell_world(profile: Profile, cell: Cell) -> str:
    """`world_key` of a cell, with the weights that are asked where they are not the reference's."""
    world = world_key(profile, cell.size, cell.seed)
    if not cell.model:
        return world
    revision = profile.sizes[cell.size].authors_revision
    return content_key([world, model_key(references.resolve(cell.model), revision)])


def taus_of(profile: Profile, preset_name: str, method: str) -> list[float | None]:
    """The temperatures a method is trained at under a preset: RPO also at Table IV's where the
    profile asks for them."""
    if ROWS[method].swept:
        return profile.rpo_taus(preset_name)
    return [tau_of(profile.presets[preset_name], method)]


def cells(profile: Profile) -> list[Cell]:
    """Every column of generations the profile asks for."""
    out = []
    for preset_name, preset in profile.presets.items():
        for size in profile.sizes:
            for seed in profile.seeds:
                for method in profile.methods:
                    decoding = (
                        released_decoding(method, profile.decoding)
                        if preset.decoding == "released"
                        else profile.decoding
                    )
                    for tau in taus_of(profile, preset_name, method):
                        run = (
                            None
                            if method == "reference"
                            else recipe(profile, preset, method, size, tau, seed)
                        )
                        out.append(Cell(preset_name, method, size, tau, seed, decoding, run))
                if (
                    profile.evaluation.authors
                    and profile.sizes[size].authors
                    and preset_name == _authors_preset(profile)
                ):
                    decoding = (
                        released_decoding(AUTHORS, profile.decoding)
                        if preset.decoding == "released"
                        else profile.decoding
                    )
                    out.append(
                        Cell(
                            preset_name,
                            AUTHORS,
                            size,
                            None,
                            seed,
                            decoding,
                            None,
                            profile.sizes[size].authors,
                        )
                    )
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
    return list(
        {cell.run.key: cell.run for cell in cells(profile) if cell.run is not None}.values()
    )
