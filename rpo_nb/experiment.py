"""The grid: which policies a profile trains, and everything that is made on the way from feedback to generations.

`ensure_runs(profile, out)` makes what is missing and skips what is there: references and their log-probabilities (cached for
all output folders), one run a policy under <out>/runs/, and <out>/generations/{preset}-{size}-seed{seed}.jsonl.gz.
Cells of different presets whose recipe is the same share one run.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpo_nb import data, partition, pocket, policy, references
from rpo_nb.config import METHODS, DecodingConfig, Objective, Preset, Profile, content_key
from rpo_nb.generation import generate, released_decoding
from rpo_nb.store import atomic_write, finished, packed, unpacked, write_json

CODE = ("pocket", "policy", "partition", "objectives", "checks", "training", "references")  # what a trained policy depends on
SHARED_STEPS = {"dropout": 0.0, "max_grad_norm": 1.0, "weight_decay": 0.01}  # of the baselines, which no preset touches
atexit.register(gc.freeze)  # the interpreter's last collections, over all that torch and transformers made, took 2 s of every kernel
COLUMNS = ["preset", "method", "size", "tau", "seed", "prompt_id", "prompt", "reference", "completion"]


# The plan ---------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Run:
    """One policy to train: its recipe says everything that makes it what it is, and names its folder."""

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
    run: Run | None  # None: the reference itself


def recipe(profile: Profile, preset: Preset, method: str, size: str, tau: float | None, seed: int) -> Run:
    """The run of a method under a preset at a temperature."""
    if method in ("sft", "best_of_k"):
        objective, steps = Objective(method="sft", reduce="mean"), SHARED_STEPS
    else:
        objective = Objective(method=method, reduce=preset.reduce, tau=tau or 1.0, beta=preset.kto_beta, kto_kl=preset.kto_kl,
                              value_pooling=preset.value_pooling, value_detach=preset.value_detach)
        steps = {name: getattr(preset, name) for name in SHARED_STEPS}
    return Run(method, size, seed, {
        "method": method, "objective": objective.read_fields(), "partition": preset.partition if method == "rpo" else None, "steps": steps,
        "training": profile.training.model_dump(mode="json", exclude={"report_to", "logging_steps"}), "seed": seed,
        "model": profile.sizes[size].model_dump(mode="json"), "data": profile.data.model_dump(mode="json") | {"source": source_key(profile.data.source)},
        "code": references.code_key(*CODE)})


@lru_cache(maxsize=8)
def source_key(source: str) -> str:
    """What names a feedback source whatever its path: its bytes, or its hub id."""
    path = Path(source)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else []
    return content_key([content_key(f.read_bytes().hex()) for f in files]) if files else source


def taus_of(profile: Profile, preset_name: str, method: str) -> list[float | None]:
    """The temperatures a method is trained at under a preset: RPO also at Table IV's where the profile asks for them."""
    if method == "dro":
        return [profile.presets[preset_name].dro_tau]
    if method != "rpo":
        return [None]
    return profile.rpo_taus(preset_name)


def cells(profile: Profile) -> list[Cell]:
    """Every column of generations the profile asks for."""
    out = []
    for preset_name, preset in profile.presets.items():
        for size in profile.sizes:
            for seed in profile.seeds:
                for method in profile.methods:
                    decoding = released_decoding(method, profile.decoding) if preset.decoding == "released" else profile.decoding
                    for tau in taus_of(profile, preset_name, method):
                        run = None if method == "reference" else recipe(profile, preset, method, size, tau, seed)
                        out.append(Cell(preset_name, method, size, tau, seed, decoding, run))
    return out


def plan(profile: Profile) -> list[Run]:
    """The policies to train, each once."""
    return list({cell.run.key: cell.run for cell in cells(profile) if cell.run is not None}.values())


# Inputs -----------------------------------------------------------------------------------------------------------------------

def feedback(profile: Profile, seed: int, size: str | None = None) -> tuple[Any, list[dict]]:
    """The profile's feedback as a Dataset, and the report of what was set aside. The pocket's differs by seed, and in the
    on_policy regime by size (the first, unless given)."""
    config = profile.data
    if not profile.pocket_world:
        return data.load_feedback(config.source, config=config, return_report=True)
    sample = None
    if config.regime == "on_policy":
        model, tokenizer = policy.load_policy(reference_path(profile, size or next(iter(profile.sizes)), seed))

        def sample(prompts: list[str], k: int) -> list[list[str]]:
            texts = generate(model, tokenizer, [p for p in prompts for _ in range(k)], decoding=profile.decoding, seed=seed,
                             max_prompt_tokens=config.max_prompt_tokens, batch_size=profile.evaluation.generation_batch_size)
            return [texts[i : i + k] for i in range(0, len(texts), k)]

    rows = pocket.make_feedback((config.prompts or 0) + config.validation + config.held_out, completions_per_prompt=config.completions_per_prompt or 4,
                                rater_offset=config.rater_offset, seed=seed, sample=sample)
    return data.load_feedback(rows, config=config, return_report=True)


@lru_cache(maxsize=8)
def _splits(profile_json: str, seed: int, size: str | None) -> data.Splits:
    profile = Profile.model_validate_json(profile_json)
    return data.split_feedback(feedback(profile, seed, size)[0], config=profile.data, seed=seed)


def splits(profile: Profile, seed: int, size: str | None = None) -> data.Splits:
    """Training, validation and held-out rows of a seed (kept in memory)."""
    return _splits(profile.model_dump_json(), seed, size if profile.data.regime == "on_policy" else None)


def reference_path(profile: Profile, size: str, seed: int) -> str:
    """The reference's folder or hub id; a reference from nothing is trained when it is not cached."""
    torch_threads(profile)
    held_out = None if profile.pocket_world or profile.sizes[size].id != "pocket" else splits(profile, seed).held_out
    return references.reference(profile, size, seed, held_out)


def torch_threads(profile: Profile) -> None:
    """Use the profile's number of CPU threads: jobs that run side by side must not fight for the cores."""
    if profile.training.threads:
        torch.set_num_threads(profile.training.threads)


@dataclass(frozen=True)
class Prepared:
    """What all methods of a (size, seed) share."""

    splits: data.Splits
    path: str
    reference: Any
    tokenizer: Any
    encoded: list[tuple[list[int], list[int]]]  # training rows
    rewards: np.ndarray  # standardised
    ref_logps: dict[str, np.ndarray]  # "sum", "mean"


def prepare(profile: Profile, size: str, seed: int) -> Prepared:
    """Feedback, reference and its log-probabilities of the training rows."""
    parts = splits(profile, seed, size)
    path = reference_path(profile, size, seed)
    model, tokenizer = policy.load_policy(path, bf16=profile.training.bf16)
    model.eval().requires_grad_(False)
    encoded = policy.encode(tokenizer, parts.train["prompt"], parts.train["completion"], **references.limits(profile))
    return Prepared(parts, path, model, tokenizer, encoded, data.standardise(np.asarray(parts.train["reward"]), parts),
                    references.reference_logps(path, model, tokenizer, encoded))


def reference_logps(profile: Profile, size: str, seed: int) -> dict[str, np.ndarray]:
    """{"sum", "mean"}: log πref of the rows of splits(profile, seed, size).train."""
    return prepare(profile, size, seed).ref_logps


# Training ---------------------------------------------------------------------------------------------------------------------

def chosen_rows(run: Run, prepared: Prepared) -> np.ndarray:
    """The training rows of a run: all, or for best_of_k the best of each prompt (the first of equals)."""
    rows = np.arange(len(prepared.rewards))
    if run.method != "best_of_k":
        return rows
    table = pd.DataFrame({"prompt_id": prepared.splits.train["prompt_id"], "reward": prepared.rewards})
    return np.sort(table.groupby("prompt_id")["reward"].idxmax().to_numpy())


def build_trainer(profile: Profile, run: Run, prepared: Prepared, output_dir: str | Path, *, rewards: np.ndarray | None = None) -> Any:
    """The PolicyTrainer of a run, seeded, not started. rewards: others than the data's (for noise experiments)."""
    from transformers import set_seed

    from rpo_nb.training import make_trainer, prompt_groups

    set_seed(run.seed)
    objective, steps = Objective(**run.recipe["objective"]), run.recipe["steps"]
    rewards = prepared.rewards if rewards is None else rewards
    rows = chosen_rows(run, prepared)
    prompt_ids = np.asarray(prepared.splits.train["prompt_id"])
    ref = prepared.ref_logps[objective.reduce]
    log_z = np.zeros(len(rewards))
    if run.method == "rpo":
        log_z = partition.log_partition(torch.from_numpy(ref), torch.from_numpy(np.asarray(rewards)), torch.from_numpy(prompt_ids),
                                        tau=objective.tau, estimator=run.recipe["partition"]).numpy()
    groups = prompt_groups([prepared.encoded[i] for i in rows], prompt_ids[rows].tolist(), rewards=rewards[rows], ref_logps=ref[rows],
                           log_partition=log_z[rows], desirable=(rewards >= rewards.mean())[rows])
    model, _ = policy.load_policy(prepared.path, dropout=steps["dropout"], bf16=profile.training.bf16,
                                  lora_rank=profile.training.lora_rank if profile.training.lora else 0)
    return make_trainer(model, prepared.tokenizer, groups, objective, config=profile.training, output_dir=output_dir, seed=run.seed,
                        reference=prepared.reference if run.method == "kto" else None, max_grad_norm=steps["max_grad_norm"],
                        weight_decay=steps["weight_decay"])


def train(profile: Profile, run: Run, prepared: Prepared, out: Path) -> None:
    """Train a run and write <out>/runs/<run>/: policy/, history.csv, recipe.json and, last, done.json with its timing.

    A run that was interrupted continues from its last checkpoint when the profile saves any, else starts again.
    """
    from transformers.trainer_utils import get_last_checkpoint

    from rpo_nb.training import history

    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.json", run.recipe)
    trainer = build_trainer(profile, run, prepared, folder / "trainer")
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder / "trainer") if (folder / "trainer").is_dir() else None)
    seconds = time.perf_counter() - started
    with finished(folder / "policy") as temporary:
        trainer.model.policy.save_pretrained(temporary)
        prepared.tokenizer.save_pretrained(temporary)
    curve = history(trainer)
    pd.DataFrame(curve).to_csv(folder / "history.csv", index=False, lineterminator="\n")
    write_json(folder / "done.json", {"seconds": seconds, "steps": trainer.state.global_step, "rows": len(chosen_rows(run, prepared)),
                                      "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)})


# Generation -------------------------------------------------------------------------------------------------------------------

def completions_file(profile: Profile, cell: Cell, out: Path) -> Path:
    """Where a cell's completions are kept: beside its policy, or in a folder of the reference's own."""
    if cell.run is not None:
        return cell.run.folder(out) / f"completions-{cell.decoding.key()}.json"
    model = recipe(profile, next(iter(profile.presets.values())), "sft", cell.size, None, cell.seed)  # same data, same reference
    return Path(out) / "runs" / f"reference-{cell.size}-seed{cell.seed}-{model.key}" / f"completions-{cell.decoding.key()}.json"


def completions(profile: Profile, cell: Cell, prepared: Prepared, out: Path) -> list[str]:
    """The cell's completions of the validation prompts; generated once a (policy, decoding) and kept beside the policy,
    with both log-probabilities, from which KL(policy ‖ reference) is estimated."""
    file = completions_file(profile, cell, out)
    prompts = list(prepared.splits.validation["prompt"])
    if file.is_file():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["prompts"] == content_key(prompts):
            return stored["completions"]
    model, tokenizer = (prepared.reference, prepared.tokenizer) if cell.run is None else policy.load_policy(file.parent / "policy", bf16=profile.training.bf16)
    texts = generate(model, tokenizer, prompts, decoding=cell.decoding, seed=cell.seed, max_prompt_tokens=profile.data.max_prompt_tokens,
                     batch_size=profile.evaluation.generation_batch_size)
    encoded = policy.encode(tokenizer, prompts, texts, max_prompt_tokens=profile.data.max_prompt_tokens, max_completion_tokens=10**6)
    mine, theirs = (policy.score_completions(net, tokenizer, encoded)[0].tolist() for net in (model, prepared.reference))
    write_json(file, {"prompts": content_key(prompts), "completions": texts, "policy_logps": mine, "ref_logps": theirs})
    return texts


def generation_rows(cell: Cell, parts: data.Splits, texts: Sequence[str]) -> pd.DataFrame:
    """The cell's rows of a generations file."""
    validation = parts.validation
    return pd.DataFrame({
        "preset": cell.preset, "method": cell.method, "size": cell.size, "tau": np.nan if cell.tau is None else cell.tau, "seed": cell.seed,
        "prompt_id": validation["prompt_id"], "prompt": validation["prompt"], "reference": validation["completion"], "completion": list(texts)})


def ensure_runs(profile: Profile, out: Path, *, progress: bool = True) -> None:
    """Make every reference, policy and generations file the profile asks for that is not there yet; say what was skipped."""
    from tqdm.auto import tqdm

    out = Path(out)
    torch_threads(profile)
    wanted = cells(profile)
    total = len({(c.run.key if c.run else (c.size, c.seed), c.decoding.key()) for c in wanted})
    made = 0
    with tqdm(total=total, desc="policies", unit="policy", disable=not progress) as bar:
        for size in profile.sizes:
            for seed in profile.seeds:
                mine = [c for c in wanted if (c.size, c.seed) == (size, seed)]
                made += _ensure_size(profile, mine, out, bar)
    print(f"{made} policies trained, {len(plan(profile)) - made} were done already; generations are in {(out / 'generations').name}/")


def ensure_generations(profile: Profile, out: Path) -> None:
    """`ensure_runs`, but a folder without policies whose generations are complete (a clone's) is taken as it is, and said so."""
    out = Path(out)
    if not any((out / "runs").glob("*/done.json")) and (out / "generations").is_dir():
        columns = ["preset", "method", "size", "tau", "seed"]
        stored = set(load_generations(out)[columns].fillna({"tau": 0.0}).drop_duplicates().itertuples(index=False, name=None))
        if {(c.preset, c.method, c.size, c.tau or 0.0, c.seed) for c in cells(profile)} <= stored:
            print("the stored generations are complete and are used as they are; the policies that wrote them are not here")
            return
    ensure_runs(profile, out)


def _ensure_size(profile: Profile, mine: list[Cell], out: Path, bar: Any) -> int:
    """The cells of one size and seed; returns how many policies had to be trained."""
    size, seed = mine[0].size, mine[0].seed
    presets = {preset: [c for c in mine if c.preset == preset] for preset in dict.fromkeys(c.preset for c in mine)}
    if all(_is_written(profile, group, out) for group in presets.values()):
        bar.update(len({(c.run.key if c.run else None, c.decoding.key()) for c in mine}))
        return 0
    prepared = prepare(profile, size, seed)
    with _quick_collections():
        made, seen = 0, set()
        for cell in mine:
            bar.set_postfix_str(f"{cell.method} {size} seed {seed}")
            if cell.run is not None and not cell.run.done_file(out).is_file():
                train(profile, cell.run, prepared, out)
                made += 1
            completions(profile, cell, prepared, out)
            unit = (cell.run.key if cell.run else None, cell.decoding.key())
            bar.update(unit not in seen)
            seen.add(unit)
        for group in presets.values():
            _write_generations(profile, group, prepared, out)
    return made


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Garbage collection passes over what is alive now: the Trainer collects after every training, which costs 0.3 s over the
    objects that imports made, and as much as a small policy's training."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def generations_file(out: Path, preset: str, size: str, seed: int) -> Path:
    return Path(out) / "generations" / f"{preset}-{size}-seed{seed}.jsonl.gz"


def _stamp(profile: Profile, mine: list[Cell], out: Path) -> tuple[Path, dict[str, str]]:
    """Where it is noted which cells a generations file holds, and the note of each of these cells."""
    file = generations_file(out, mine[0].preset, mine[0].size, mine[0].seed)
    return out / "runs" / "generations" / f"{file.name}.json", {
        f"{c.method} {c.tau}": completions_file(profile, c, out).relative_to(out).as_posix() for c in mine}


def _is_written(profile: Profile, mine: list[Cell], out: Path) -> bool:
    """Whether the generations file holds these cells, from policies that are here."""
    stamp, notes = _stamp(profile, mine, out)
    file = generations_file(out, mine[0].preset, mine[0].size, mine[0].seed)
    if not (stamp.is_file() and file.is_file()) or not all((out / note).is_file() for note in notes.values()):
        return False
    written = json.loads(stamp.read_text(encoding="utf-8"))
    return written.pop("sha256") == hashlib.sha256(file.read_bytes()).hexdigest() and notes.items() <= written.items()


def _write_generations(profile: Profile, mine: list[Cell], prepared: Prepared, out: Path) -> None:
    """Write the cells' rows, beside those of other methods and temperatures that an earlier call made and that still hold."""
    first = mine[0]
    file = generations_file(out, first.preset, first.size, first.seed)
    known = {(c.method, c.tau): c for c in mine}
    for method, tau in ({(m, None if np.isnan(t) else t) for m, t in read_rows(file)[["method", "tau"]].itertuples(index=False)} if file.is_file() else ()):
        if (method, tau) not in known and method in METHODS:
            run = None if method == "reference" else recipe(profile, profile.presets[first.preset], method, first.size, tau, first.seed)
            preset = profile.presets[first.preset]
            decoding = released_decoding(method, profile.decoding) if preset.decoding == "released" else profile.decoding
            if run is None or run.done_file(out).is_file():
                known[method, tau] = Cell(first.preset, method, first.size, tau, first.seed, decoding, run)
    ordered = sorted(known.values(), key=lambda c: (METHODS.index(c.method), c.tau or 0.0))
    frame = pd.concat([generation_rows(c, prepared.splits, completions(profile, c, prepared, out)) for c in ordered], ignore_index=True)
    atomic_write(file, packed(frame))
    stamp, notes = _stamp(profile, ordered, out)
    write_json(stamp, notes | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()})


def load_generations(out: Path) -> pd.DataFrame:
    """All generations of an output folder, the columns of COLUMNS. Raises ValueError when there are none."""
    files = sorted((Path(out) / "generations").glob("*.jsonl.gz"))
    if not files:
        raise ValueError(f"there are no generations in {Path(out).name}/generations; run notebook 03_train first")
    return pd.concat([read_rows(f) for f in files], ignore_index=True)


def read_rows(file: Path) -> pd.DataFrame:
    """The rows of a generations file."""
    frame = pd.DataFrame(unpacked(file), columns=COLUMNS)
    return frame.astype({"tau": float, "seed": int})
