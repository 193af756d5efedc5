"""Runs: trained where they do not hold, skipped where they do."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb import partition, store
from rpo_nb.config.objective import Objective
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import inputs as experiment_inputs
from rpo_nb.experiment.grid import Run, plan, world_key
from rpo_nb.experiment.inputs import (
    Prepared,
    chosen_rows,
    fetch,
    half,
    inputs_key,
    processes,
    torch_threads,
    training_groups,
)
from rpo_nb.policy import load
from rpo_nb.remedies import memory_advice, room_for
from rpo_nb.running.progress import tell
from rpo_nb.store import seal, sealed, write_json

# the interpreter's last collections, over all that torch and transformers made, took 2 s of every
# kernel
atexit.register(gc.freeze)


def diagnosis(run: Run, prepared: Prepared) -> str:
    """What is known of an RPO run's targets before it is trained: `partition.diagnostics` as text,
    a line for each warning."""
    reduce, tau, estimator = (
        run.recipe["objective"]["reduce"],
        run.recipe["objective"]["tau"],
        run.recipe["partition"],
    )
    found = partition.diagnostics(
        prepared.ref_logps[reduce],
        prepared.rewards,
        np.asarray(prepared.splits.train["prompt_id"]),
        tau=tau,
        estimator=estimator,
        reduce=reduce,
        lengths=[len(completion) for _, completion in prepared.encoded],
    )
    return f"{estimator}, log-probability {reduce}s, τ = {tau:g}: {partition.summary(found)}"


def build_trainer(
    profile: Profile,
    run: Run,
    prepared: Prepared,
    output_dir: str | Path,
    *,
    rewards: np.ndarray | None = None,
) -> Any:
    """The PolicyTrainer of a run, seeded, not started. rewards: others than the data's (for noise
    experiments)."""
    from transformers import set_seed

    from rpo_nb.training.trainer import make_trainer

    set_seed(run.seed)
    steps = run.recipe["steps"]
    groups = training_groups(profile, run, prepared, rewards)
    config = profile.training_of(run.size)
    model, _ = load.load_policy(
        prepared.path,
        dropout=steps["dropout"],
        bf16=half(config),
        quantize=config.quantize,
        lora_rank=config.lora_rank if config.lora else 0,
        gradient_checkpointing=config.gradient_checkpointing,
        liger=config.liger,
    )
    prepared.release()
    return make_trainer(
        model,
        prepared.tokenizer,
        groups,
        Objective(**run.recipe["objective"]),
        config=config,
        output_dir=output_dir,
        seed=run.seed,
        max_grad_norm=steps["max_grad_norm"],
        weight_decay=steps["weight_decay"],
        prompt_width=profile.limits(run.size)["max_prompt_tokens"],
    )


def train(
    profile: Profile, run: Run, prepared: Prepared, out: Path, *, inputs: str = "", world: str = ""
) -> None:
    """Train a run and write <out>/runs/<run>/: policy/, history.csv, recipe.json and, last,
    done.json with its timing.

    A run that was interrupted continues from its last whole checkpoint when the profile saves any
    and its inputs are the same, else it starts again. inputs: its `inputs_key`, where that is known
    already. world: what `train_runs` may know it by.
    """
    from rpo_nb.training.checkpoints import Elapsed, history, last_checkpoint, save_policy

    folder, inputs = run.folder(out), inputs or inputs_key(profile, run, prepared)
    if int(os.environ.get("RANK", 0)) == 0 and not _goes_on(folder, inputs):
        shutil.rmtree(folder, ignore_errors=True)
    trainer = build_trainer(profile, run, prepared, folder / "trainer")
    main = trainer.accelerator.is_main_process
    if main:
        write_json(folder / "recipe.json", run.recipe | {"inputs": inputs})
        if run.recipe["partition"] is not None:
            print(f"{run.words}, {diagnosis(run, prepared)}")
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(folder / "trainer")
    clock = Elapsed(checkpoint)
    trainer.add_callback(clock)
    where = f"training {run.words}, at most {trainer.micro_batch_tokens} tokens a pass"
    with (
        room_for(folder),
        memory_advice(
            where,
            "lower "
            f"sizes.{run.size}.micro_batch_tokens, or "
            "set training.gradient_checkpointing "
            "or training.lora",
        ),
    ):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = clock.seconds
    save_policy(trainer, prepared.tokenizer, folder / "policy", base=profile.sizes[run.size].id)
    if main:
        pd.DataFrame(history(trainer)).to_csv(
            folder / "history.csv", index=False, lineterminator="\n"
        )
        seal(
            folder,
            {
                "seconds": seconds,
                "steps": trainer.state.global_step,
                "rows": len(chosen_rows(run, prepared)),
                "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
                "inputs": inputs,
                "world": world,
            },
            leave_out=("trainer",),
        )
        # gigabytes each, and of no use to a finished run
        for checkpoint in (folder / "trainer").glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()


def _goes_on(folder: Path, inputs: str) -> bool:
    """Whether what lies in a run's folder is of an interrupted training on these inputs."""
    try:
        return (
            store.read_json(folder / "recipe.json")["inputs"] == inputs
            and not (folder / store.STAMP).exists()
        )
    except (FileNotFoundError, store.Damaged, KeyError, TypeError):
        return False


def holds(profile: Profile, run: Run, prepared: Prepared, out: Path, world: str) -> str | None:
    """None where a run is finished, whole and trained on what it would be trained on now; else its
    `inputs_key`. A line says why one that was finished is trained again. world: while it is the
    same, the inputs are."""
    stamp = sealed(run.folder(out))
    if stamp is not None and stamp.get("world") == world:
        return None
    inputs = inputs_key(profile, run, prepared)
    if stamp is None or stamp.get("inputs") != inputs:
        if stamp is not None:
            store.again(run.folder(out), "was trained on other rows or weights")
        return inputs
    write_json(run.done_file(out), stamp | {"world": world})
    return None


def ensure_policies(profile: Profile, out: str | Path, *, progress: bool = True) -> int:
    """Train the policies that are not there yet, without asking them anything; returns how many.
    The part of `ensure_runs` that several processes share (accelerate launch, notebook_launcher):
    each calls it, the first one writes."""
    from tqdm.auto import tqdm

    torch_threads(profile)
    fetch(profile)
    out, runs, made = Path(out), plan(profile), 0
    with tqdm(
        total=len(runs),
        desc="policies",
        unit="policy",
        disable=not (progress and processes().is_main_process),
    ) as bar:
        for size, seed in dict.fromkeys(
            (size, seed) for size in profile.sizes for seed in profile.seeds
        ):
            mine = [run for run in runs if (run.size, run.seed) == (size, seed)]
            world = world_key(profile, size, seed)
            left = [
                run
                for run in mine
                if (sealed(run.folder(out), quick=True) or {}).get("world") != world
            ]
            bar.update(len(mine) - len(left))
            tell(run.name for run in mine if run not in left)
            # without a method to train: at least the reference and its log-probabilities
            if left or not mine:
                made += train_runs(
                    profile, left, experiment_inputs.prepare(profile, size, seed), out, bar
                )
    return made


def train_runs(
    profile: Profile,
    runs: Sequence[Run],
    prepared: Prepared,
    out: Path,
    bar: Any,
    *,
    world: str = "",
) -> int:
    """Train what does not hold of the runs of one size and seed; returns how many did not.

    world: what everything is made from, in one key; default `world_key`. While it is the same, no
    input is looked at."""
    runs = list({run.key: run for run in runs}.values())
    if not runs:
        return 0
    world = world or world_key(profile, runs[0].size, runs[0].seed)
    left = {run.key: holds(profile, run, prepared, out, world) for run in runs}
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        processes().wait_for_everyone()  # all have looked before the first changes anything
    for run in runs:
        bar.set_postfix_str(run.words)
        if left[run.key] is not None:
            train(profile, run, prepared, out, inputs=left[run.key], world=world)
        tell([run.name])
        bar.update()
    return sum(inputs is not None for inputs in left.values())


@contextmanager
def quick_collections() -> Iterator[None]:
    """Garbage collection passes over what is alive now: the Trainer collects after every training,
    which costs 0.3 s over the objects that imports made, and as much as a small policy's training.
    Nothing is done inside another one."""
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
