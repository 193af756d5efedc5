"""Paper B's experiments: which policies its Tables 2 to 4 and Figures 1 to 4 need, and what they
gave.

`ensure(profile, out)` trains what is missing, one folder a policy under <out>/runs/paper_b/;
`load(profile, out)` reads what is there. The ground truth is the pocket's checker. For a user's
feedback a judge model stands for it, as in the paper: the reward model that learnt from the
held-out feedback, which no policy and no other judge has seen. The preference data are the
reference's own responses scored by it, or the feedback itself with its own scores
(paper_b.responses).
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpo_nb import partition
from rpo_nb.config.objective import Objective, Setting
from rpo_nb.config.schema import Profile
from rpo_nb.config.studies import PaperB
from rpo_nb.experiment import inputs, runs
from rpo_nb.running.progress import tell
from rpo_nb.store import atomic_write, left_out, packed, seal, sealed, unpacked
from rpo_nb.studies.paper_b.grid import LEARNT, TRUTH, Run, policies
from rpo_nb.studies.paper_b.world import World
from rpo_nb.training import alignment
from rpo_nb.training.alignment import Sampler
from rpo_nb.training.checkpoints import save_policy
from rpo_nb.training.reward_aware import tuples
from rpo_nb.training.samples import Probe, Responses, by_prompt, measures

# ---- training ------------------------------------------------------------------------------------


def ensure(profile: Profile, out: str | Path, *, progress: bool = True) -> None:
    """Train every policy that is not there yet, the seeds in config.processes processes; say how
    many were made."""
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    if not (profile.pocket_world or profile.data.held_out):
        raise ValueError(
            "paper B needs a judge that stands for the truth: a reward model learnt "
            "from held-out feedback; set data.held_out above 0"
        )
    seeds = profile.paper_b.seeds
    jobs, made = min(profile.paper_b.processes, len(seeds)), 0
    work = [
        delayed(_ensure_seed)(profile, Path(out), seed, progress and jobs == 1) for seed in seeds
    ]
    done = Parallel(n_jobs=jobs, return_as="generator_unordered")(work)
    for trained in tqdm(
        done,
        total=len(seeds),
        desc=f"paper B, seeds, {jobs} at a time",
        disable=not progress or jobs == 1,
    ):
        made += trained
    print(f"{made} policies trained, {policies(profile) - made} were done already")


def _ensure_seed(profile: Profile, out: Path, seed: int, progress: bool) -> int:
    from tqdm.auto import tqdm
    from transformers.utils import logging

    logging.disable_progress_bar()
    inputs.torch_threads(profile)
    world, made = World(profile, seed, out), 0
    missing = {run for run in world.runs if sealed(world.folder(run)) is None}
    for run in reversed(world.runs):  # one that travelled without its weights, and is gone on from
        goes_on = any(other.start == run for other in missing)
        if run.trained and goes_on and left_out(world.folder(run)):
            missing.add(run)
    with (
        runs.quick_collections(),
        tqdm(world.runs, desc=f"seed {seed}", disable=not progress) as bar,
    ):
        for run in bar:
            bar.set_postfix_str(run.name)
            if run in missing:
                train(world, run)
                made += run.trained
            if run.trained:
                tell([world.folder(run).name])
    return made


def train(world: World, run: Run) -> None:
    """Train a run and write its folder: policy/, curve.csv (validation), completions.jsonl.gz
    (test and out of distribution), and last done.json."""
    from transformers import set_seed

    config, folder = world.config, world.folder(run)
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted training left
    folder.mkdir(parents=True)
    if not run.trained:
        _write_completions(world, run, world.reference, world.probe("final", run.judge), folder)
        seal(folder)
        return
    # the reference is within the policy
    training, within = (
        world.profile.training_of(world.size),
        world.profile.training.lora and run.start is None,
    )
    groups, sampler, judge = None, None, None
    if run.online:
        judge, eta = world.scale(run.judge)
        objective = _objective(config, run, eta)
        reference = None
        if not within:
            reference = world.reference if run.start is None else world.load(run.start)
        sampler = Sampler(
            world.prompts[run.prompts], judge, world.reader, reference, run.k, world.seed
        )
    else:
        data, eta = world.offline(run)
        objective = _objective(config, run, eta)
        groups = _groups(world, data, objective, run)
    schedule = config.online if run.online else config.offline
    probe, final = (
        world.probe(purpose, run.judge, within=within) for purpose in ("valid", "final")
    )
    if within:
        world.release()
    set_seed(world.seed)  # an adapter starts at random, and a judge that was just loaded drew, too
    model = world.load(run.start, trained=True)
    before = probe.completions(model)
    trainer = alignment.make_alignment_trainer(
        model,
        world.reader,
        objective,
        schedule,
        probe=probe,
        watched=TRUTH,
        output_dir=folder / "trainer",
        seed=world.seed,
        floor=float(before[TRUTH].mean() - schedule.collapse * before[TRUTH].std()),
        groups=groups,
        sampler=sampler,
        micro_batch_tokens=training.micro_batch_tokens,
    )
    outcome = alignment.align(trainer)
    _write_completions(world, run, trainer.model.policy, final, folder)
    save_policy(
        trainer, world.reader.tokenizer, folder / "policy", base=world.profile.sizes[world.size].id
    )
    curve = pd.DataFrame([{"step": 0, **measures(before, [TRUTH, LEARNT])}, *trainer.curve])
    atomic_write(folder / "curve.csv", curve.to_csv(index=False, lineterminator="\n"))
    shutil.rmtree(folder / "trainer")  # checkpoints: the best one is policy/
    seal(
        folder,
        outcome
        | {
            "rewards": [judge.mean, judge.std] if judge else None,
            "eta": objective.setting.eta if objective.setting else None,
        },
    )


def _write_completions(world: World, run: Run, model: Any, probe: Probe, folder: Path) -> None:
    splits = np.repeat(world.splits, [len(world.prompts[split]) for split in world.splits])
    atomic_write(
        folder / "completions.jsonl.gz", packed(probe.completions(model).assign(split=splits))
    )


def _objective(config: PaperB, run: Run, eta: float) -> Objective:
    """What a run is trained on; eta: the suggested η, which a setting of bwd or fwd multiplies."""
    if run.method == "kto":
        return Objective(method="kto", beta=config.kto_beta, kto_kl="mismatched")
    if run.method == "rpo":
        return Objective(
            method="rpo", tau=config.settings["sqloo"].beta / config.settings["sqloo"].eta
        )
    setting: Setting = config.settings[run.method]
    if setting.distance in ("bwd", "fwd") and setting.gap is None:
        setting = replace(setting, eta=setting.eta * run.eta * eta)
    return Objective(
        method="reward_aware", reduce="mean" if setting.per_token else "sum", setting=setting
    )


def _groups(world: World, data: Responses, objective: Objective, run: Run) -> list[dict]:
    rows = tuples(data.prompt_ids, data.rewards, k=run.k, rule=world.config.rule, seed=world.seed)
    groups = alignment.groups_of(
        data,
        rows,
        objective,
        reader=world.reader,
        reference=world.reference if objective.method == "kto" else None,
    )
    if objective.method == "rpo":
        log_z = partition.log_partition(
            torch.from_numpy(data.ref_logps),
            torch.from_numpy(data.rewards),
            torch.from_numpy(data.prompt_ids),
            tau=objective.tau,
            estimator=run.estimator,
        ).numpy()
        for group, tuple_rows in zip(groups, rows, strict=True):
            group["log_partition"] = log_z[tuple_rows].tolist()
    return groups


# ---- what came out -------------------------------------------------------------------------------


def load(profile: Profile, out: str | Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(results, curves, costs) of the policies, each with the columns of `Run` and run, its name.

    results, one row a prompt: seed, split, prompt and `samples.by_prompt`. curves: seed, step and
    the measures on the validation prompts. costs: seed, steps, best_step, reason, seconds of each
    part a step. Raises ValueError when a policy is missing."""
    results, curves, costs = [], [], []
    for seed in profile.paper_b.seeds:
        world = World(profile, seed, Path(out))
        for run in world.runs:
            folder = world.folder(run)
            done = sealed(folder, quick=True)
            if done is None:
                raise ValueError(
                    f"paper B's policy {run.name}, seed {seed}, is not trained; run "
                    "paper_b.ensure first"
                )
            of = {"run": run.name, **run.columns, "seed": seed}
            completions = pd.DataFrame(unpacked(folder / "completions.jsonl.gz"))
            found = by_prompt(completions, [TRUTH, LEARNT])
            results.append(
                found.assign(**of, split=completions["split"], prompt=completions["prompt"])
            )
            if not run.trained:
                continue
            curves.append(pd.read_csv(folder / "curve.csv").assign(**of))
            costs.append(
                of
                | {
                    "steps": done["steps"],
                    "best_step": done["best_step"],
                    "reason": done["reason"],
                    **{part: s / done["steps"] for part, s in done["seconds"].items()},
                }
            )
    results, curves = (pd.concat(frames, ignore_index=True) for frames in (results, curves))
    return results, curves, pd.DataFrame(costs)


def write_generations(profile: Profile, out: str | Path) -> None:
    """<out>/generations/paper_b/seed<n>.jsonl.gz: every policy's completions, their scores and
    log-probabilities; run "sft" is the reference."""
    for seed in profile.paper_b.seeds:
        world = World(profile, seed, Path(out))
        parts = [
            pd.DataFrame(unpacked(world.folder(run) / "completions.jsonl.gz")).assign(
                run=run.name, seed=seed
            )
            for run in world.runs
        ]
        columns = [
            "run",
            "seed",
            "split",
            "prompt",
            "completion",
            TRUTH,
            LEARNT,
            "policy_logp",
            "ref_logp",
            "tokens",
        ]
        atomic_write(
            Path(out) / "generations" / "paper_b" / f"seed{seed}.jsonl.gz",
            packed(pd.concat(parts)[columns]),
        )
