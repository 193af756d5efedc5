"""Table I of paper A, measured: what DRO, RPO and KTO cost, and how steady the gradients of DRO and
RPO are.

Gradients are those of the policy's parameters, so that DRO's value network and RPO's V̂ are
compared by what they do to the policy, and they are compared relative to their size, so that the
losses' different scales do not matter.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from rpo_nb import store
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import tau_of
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import grid, inputs, runs
from rpo_nb.experiment.inputs import Prepared
from rpo_nb.intervals import Interval, bootstrap, jackknife
from rpo_nb.policy import logps
from rpo_nb.reporting.published import published_numbers
from rpo_nb.running.provenance import cache_dir, model_key, step_code
from rpo_nb.training.losses import PolicyWithValue
from rpo_nb.training.trainer import PolicyTrainer

METHODS = ("dro", "rpo", "kto")
STEADINESS = ("dro", "rpo")  # the methods of the paper's Table I
COUNTED = 4  # mini-batches whose operations are counted
WARM_UP = 1  # first steps that are not timed
NOISE = 0.5  # standard deviation of the noise, in standard deviations of the reward
FEWEST = 8  # measurements that an interval needs
SECONDS = "seconds a step"
# Our property -> the property of the paper's Table I that it gives a number to.
PROPERTIES = {
    "trainable parameters": "Explicit V estimation",
    "networks in memory": "Explicit V estimation",
    "FLOPs a step": "Optimization complexity",
    SECONDS: "Optimization complexity",
    "gradient variance": "Optimization complexity",
    "gradient share that flows through V": "pi-V coupling",
    "gradient change under reward noise": "Robustness to estimation errors",
    "gradient change without the reward": "Robustness to estimation errors",
}


def measure(profile: Profile, size: str, seed: int) -> pd.DataFrame:
    """Table I of one size and seed, long: property, method, value, ci_low, ci_high, published,
    note.

    Costs, under the first preset (they hardly depend on it): trainable parameters; networks in
    memory while training (the reference's log-probabilities are cached, those of KTO's mismatched
    pairs too); FLOPs a step, forward and backward, counted by torch; seconds a step, the median
    wall clock of training, the optimiser's part included. Steadiness of the mini-batch gradient g,
    under each preset of Table IV, at the start and after as many steps as there are mini-batches
    (evaluation.table1_batches): gradient variance, E‖g − G‖² / ‖G‖² around its expectation G, both
    estimated without bias, jackknife interval; and the mean of ‖g′ − g‖ / ‖g‖, bootstrap interval,
    where g′ has N(0, 0.5²) added to the standardised rewards ("under reward noise"), or all rewards
    0 ("without the reward": how much of g the reward accounts for, at the start only), or is cut
    off from V_φ ("share that flows through V", after the steps only; V̂ is a constant, so it is 0
    for RPO). Intervals are 95 %. Everything but the seconds is the same on a second run.
    """
    prepared = _first_rows(inputs.prepare(profile, size, seed), profile)
    first, presets = next(iter(profile.presets)), profile.table4_presets or tuple(profile.presets)
    rows = []
    with runs.quick_collections():
        for name in dict.fromkeys([first, *presets]):
            for method in METHODS:
                costs, steady = name == first, method in STEADINESS and name in presets
                if costs or steady:
                    rows += _method(profile, prepared, name, method, size, seed, costs, steady)
    order = list(dict.fromkeys(row["property"] for row in rows))
    frame = pd.DataFrame(rows).sort_values(
        "property", key=lambda c: c.map(order.index), kind="stable", ignore_index=True
    )
    return frame[["property", "method", "value", "ci_low", "ci_high", "published", "note"]]


def _first_rows(prepared: Prepared, profile: Profile) -> Prepared:
    """The rows of the first prompts, as many as the mini-batches need."""
    ids = np.asarray(prepared.splits.train["prompt_id"])
    prompts = ids[np.sort(np.unique(ids, return_index=True)[1])]
    wanted = profile.evaluation.table1_batches * _prompts_a_batch(profile, len(ids) / len(prompts))
    rows = np.flatnonzero(np.isin(ids, prompts[:wanted]))
    splits = replace(prepared.splits, train=prepared.splits.train.select(rows))
    return replace(
        prepared,
        splits=splits,
        rewards=prepared.rewards[rows],
        encoded=[prepared.encoded[i] for i in rows],
        ref_logps={k: v[rows] for k, v in prepared.ref_logps.items()},
    )


def _prompts_a_batch(profile: Profile, completions: float) -> int:
    return max(1, round(profile.training.batch_size / completions))


def _method(
    profile: Profile,
    prepared: Prepared,
    preset: str,
    method: str,
    size: str,
    seed: int,
    costs: bool,
    steady: bool,
) -> list[dict]:
    """The rows of one method under one preset."""
    # One pass only: trained to the end on so few rows, the mean gradient is 0 and nothing can be
    # measured relative to it.
    short = profile.training.model_copy(update={"epochs": 1, "report_to": (), "save_steps": 0})
    quiet = profile.model_copy(update={"training": short})
    chosen = profile.presets[preset]
    tau = tau_of(chosen, method)
    run = grid.recipe(quiet, chosen, method, size, tau, seed)
    note = f"preset {preset}" + (f", τ = {tau:g}" if tau else "")
    with tempfile.TemporaryDirectory() as folder:
        trainer = runs.build_trainer(quiet, run, prepared, folder)
        noise = np.random.default_rng([seed, 1]).normal(0, NOISE, len(prepared.rewards))
        noisy, empty = (
            runs.build_trainer(quiet, run, prepared, folder, rewards=r).train_dataset
            if steady
            else None
            for r in (prepared.rewards + noise, np.zeros_like(prepared.rewards))
        )
        rows = _costs(profile, trainer) if costs else []
        rows += (
            _steadiness(profile, trainer, noisy, f"at the start, preset {preset}", empty=empty)
            if steady
            else []
        )
        clock = _Clock()
        trainer.add_callback(clock)
        trainer.train()
        if costs:
            rows.append(
                _row(
                    SECONDS,
                    *_spread(clock.seconds, np.median),
                    note=f"median of {len(clock.seconds)} steps",
                )
            )
        if steady:
            rows += _steadiness(
                profile, trainer, noisy, f"after {trainer.state.global_step} steps, preset {preset}"
            )
    return [
        row
        | {
            "method": method,
            "note": "; ".join(filter(None, [row["note"], note])),
            "published": _published(row["kind"], method),
        }
        for row in rows
    ]


def _costs(profile: Profile, trainer: PolicyTrainer) -> list[dict]:
    held = {"policy": trainer.model.policy, "value network": trainer.model.value}
    networks = [name for name, network in held.items() if network is not None]
    flops = []
    for batch, _ in zip(
        _batches(profile, trainer, trainer.train_dataset), range(COUNTED), strict=False
    ):
        with FlopCounterMode(display=False) as counter:
            _loss(trainer, trainer.model, batch).backward()
        flops.append(counter.get_total_flops())
    trainer.model.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    return [
        _row("trainable parameters", parameters),
        _row("networks in memory", len(networks), note=", ".join(networks)),
        _row("FLOPs a step", float(np.mean(flops)), note=f"mean of {len(flops)} mini-batches"),
    ]


def _steadiness(
    profile: Profile,
    trainer: PolicyTrainer,
    noisy: list[dict],
    when: str,
    *,
    empty: list[dict] | None = None,
) -> list[dict]:
    """The gradient's rows. noisy, empty: the training items with other rewards; with `empty` it is
    the start."""
    clean = _gradients(profile, trainer, trainer.train_dataset)
    changed = _relative(_gradients(profile, trainer, noisy), clean)
    if empty is not None:
        last, kind = (
            _relative(_gradients(profile, trainer, empty), clean),
            "gradient change without the reward",
        )
    else:
        last, kind = np.zeros(len(clean)), "gradient share that flows through V"
        if trainer.model.value is not None and not trainer.model.objective.value_detach:
            last = _relative(
                _gradients(profile, trainer, trainer.train_dataset, detach=True), clean
            )
    note, spread = f"{len(clean)} mini-batches", _variance((clean @ clean.T).double().numpy())
    unclear = "" if np.isfinite(spread[0]) else ", whose mean gradient cannot be told from 0"
    return [
        _row("gradient variance", *spread, note=note + unclear, when=when),
        _row(
            "gradient change under reward noise", *_spread(changed, np.mean), note=note, when=when
        ),
        _row(kind, *_spread(last, np.mean), note=note, when=when),
    ]


def _batches(
    profile: Profile, trainer: PolicyTrainer, groups: list[dict]
) -> Iterator[dict[str, Tensor]]:
    """The groups as mini-batches, in their order."""
    size = _prompts_a_batch(profile, sum(len(g["rows"]) for g in groups) / len(groups))
    for start in range(0, len(groups), size):
        yield trainer.batch(groups[start : start + size])


def _gradients(
    profile: Profile, trainer: PolicyTrainer, groups: list[dict], detach: bool = False
) -> Tensor:
    """The policy's gradient on each mini-batch, [batches, parameters], without dropout. detach: cut
    V_φ off from the policy."""
    model, objective = trainer.model.eval(), trainer.model.objective
    parameters = [p for p in model.policy.parameters() if p.requires_grad]
    model.objective = objective.model_copy(
        update={"value_detach": detach or objective.value_detach}
    )
    found = [
        torch.cat(
            [
                g.reshape(-1)
                for g in torch.autograd.grad(
                    _loss(trainer, model, batch),
                    parameters,
                    allow_unused=True,
                    materialize_grads=True,
                )
            ]
        )
        for batch in _batches(profile, trainer, groups)
    ]
    model.objective = objective
    return torch.stack(found).float().cpu()


def _loss(trainer: PolicyTrainer, model: PolicyWithValue, batch: dict[str, Tensor]) -> Tensor:
    """A mini-batch's loss, computed in the precision of training."""
    with logps.autocast(trainer.args.bf16):
        return trainer.compute_loss(model, batch)


class _Clock(TrainerCallback):
    """Seconds of each optimiser step but the first ones."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > WARM_UP:
            self.seconds.append(time.perf_counter() - self.started)


def _row(
    kind: str,
    value: float,
    low: float = np.nan,
    high: float = np.nan,
    *,
    note: str = "",
    when: str = "",
) -> dict:
    return {
        "kind": kind,
        "property": f"{kind}, {when}" if when else kind,
        "value": float(value),
        "ci_low": low,
        "ci_high": high,
        "note": note,
    }


def _published(kind: str, method: str) -> str:
    """The paper's words: its property and what it says of the method; it says nothing of KTO."""
    words = published_numbers()["paper_a"]["setup"]["table1"][PROPERTIES[kind]].get(method.upper())
    return f"{PROPERTIES[kind]}: {words}" if words else ""


def _relative(changed: Tensor, clean: Tensor) -> np.ndarray:
    """‖g′ − g‖ / ‖g‖ of each mini-batch."""
    return ((changed - clean).norm(dim=1) / clean.norm(dim=1)).double().numpy()


def _variance(gram: np.ndarray) -> Interval:
    """E‖g − G‖² / ‖G‖² from the inner products [b, b] of b mini-batch gradients, and its 95 %
    jackknife interval on a log scale.

    ⟨g_i, g_j⟩ of two different mini-batches has the expectation ‖G‖², so no bias of ‖mean g‖² has
    to be taken off. NaN when ‖G‖² is not told from 0.
    """

    def ratio(keep: np.ndarray) -> float:
        part, n = gram[np.ix_(keep, keep)], len(keep)
        squares = np.trace(part) / n
        mean = (part.sum() - np.trace(part)) / (n * (n - 1))
        return (squares - mean) / mean if mean > 0 < squares - mean else np.nan

    return jackknife(ratio, len(gram), fewest=FEWEST)


def _spread(values: Sequence[float], statistic) -> Interval:
    """The statistic of measurements and its bootstrap interval; none where it has no width: nothing
    varied, which a ratio that is 0 by definition does."""
    found = bootstrap(values, statistic, fewest=FEWEST)
    return found if found.low < found.high else Interval(found.value, np.nan, np.nan)


def first_gradient_variance(profile: Profile, run: grid.Run, prepared: Prepared) -> Interval:
    """The variance of a run's mini-batch gradient before its first step, relative to its squared
    mean, and its interval; see `measure`. Cached by content."""
    made_from = {"model": model_key(prepared.path), "code": step_code("gradient variance")}

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            trainer = runs.build_trainer(profile, run, _first_rows(prepared, profile), scratch)
            gradients = _gradients(profile, trainer, trainer.train_dataset)
        found = _variance((gradients @ gradients.T).double().numpy())
        store.write_json(folder / "variance.json", [float(number) for number in found])

    rows, batches = inputs.inputs_key(profile, run, prepared), profile.evaluation.table1_batches
    key = content_key([made_from, run.recipe, rows, batches])
    folder = store.cached(cache_dir() / "gradients" / key, make, of=made_from)
    return Interval(*store.read_json(folder / "variance.json"))
