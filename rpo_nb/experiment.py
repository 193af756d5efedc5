"""The grid: which policies a profile trains, and everything that is made on the way from feedback to generations.

`ensure_runs(profile, out)` makes what is missing and skips what is there: references and their log-probabilities (cached for
all output folders), one run a policy under <out>/runs/, and <out>/generations/{preset}-{size}-seed{seed}.jsonl.gz.
Cells of different presets whose recipe is the same share one run.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from rpo_nb import checks, data, hub, partition, pocket, policy, references, store
from rpo_nb.config import AUTHORS, METHODS, DecodingConfig, Objective, Preset, Profile, TrainingConfig, content_key, hash_seed
from rpo_nb.generation import generate, ready, released_decoding, samples
from rpo_nb.provenance import digest, folder_key, model_key, source_key, step_code
from rpo_nb.store import atomic_write, file_digest, packed, read_sealed, room_for, seal, sealed, unpacked, write_json, write_sealed

QRPO_SAMPLES = 16  # of the reference for a prompt
AGAIN = 1  # beside a seed: the reference's texts that data are compared with, which on_policy data are drawn from by the seed alone
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
    run: Run | None  # None: nothing is trained
    model: str = ""  # then: the model to ask, the reference unless named


def recipe(profile: Profile, preset: Preset, method: str, size: str, tau: float | None, seed: int) -> Run:
    """The run of a method under a preset at a temperature."""
    if method in ("sft", "best_of_k"):
        objective, steps = Objective(method="sft", reduce="mean"), SHARED_STEPS
    else:
        objective = Objective(method=method, reduce=preset.reduce, tau=tau or 1.0, kto_kl=preset.kto_kl,
                              beta=preset.qrpo_beta if method == "qrpo" else preset.kto_beta, value_pooling=preset.value_pooling,
                              value_detach=preset.value_detach)
        steps = {name: getattr(preset, name) for name in SHARED_STEPS}
    return Run(method, size, seed, {
        "method": method, "objective": objective.read_fields(), "partition": preset.partition if method == "rpo" else None, "steps": steps,
        "training": profile.training.model_dump(mode="json", exclude={"report_to", "logging_steps", "save_steps", "micro_batch_tokens"}),
        "seed": seed, "model": model_recipe(profile, size), "data": data_recipe(profile), "code": step_code("training")})


def model_recipe(profile: Profile, size: str) -> dict[str, Any]:
    """A size's settings, its model by content: two folders of one name are two models."""
    model = profile.sizes[size]
    settings = model.model_dump(mode="json", exclude={"micro_batch_tokens", "authors", "authors_revision"})
    if model.id != "pocket":
        return settings | {"id": model_key(references.resolve(model.id), model.revision)}
    return settings if profile.pocket_world else settings | {"tokenizer": references.vocabulary(model)}


def data_recipe(profile: Profile) -> dict[str, Any]:
    """The settings of the feedback, its source by content."""
    return profile.data.model_dump(mode="json") | {"source": source_key(profile.data.source, profile.data.revision)}


def world_key(profile: Profile, size: str, seed: int, code: str = "all of the grid") -> str:
    """All that policies of a size and seed and their answers are made from, without making any of it: while it is the same, nothing
    has to be looked at. code: a key of `provenance.STEPS`."""
    settings = profile.model_dump(
        mode="json", include={"data", "training", "generation", "evaluation", "decoding"}
    )  # decoding: what the reference wrote is data of the on_policy regime, and QRPO's rewards
    settings["evaluation"] = settings["evaluation"]["generation_batch_size"]
    return content_key([settings, model_recipe(profile, size), data_recipe(profile), seed, step_code(code)])


def cell_world(profile: Profile, cell: Cell) -> str:
    """`world_key` of a cell, with the weights that are asked where they are not the reference's."""
    world = world_key(profile, cell.size, cell.seed)
    if not cell.model:
        return world
    revision = profile.sizes[cell.size].authors_revision
    return content_key([world, model_key(references.resolve(cell.model), revision)])


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
                if profile.evaluation.authors and profile.sizes[size].authors and preset_name == _authors_preset(profile):
                    decoding = released_decoding(AUTHORS, profile.decoding) if preset.decoding == "released" else profile.decoding
                    out.append(Cell(preset_name, AUTHORS, size, None, seed, decoding, None, profile.sizes[size].authors))
    return out


def _authors_preset(profile: Profile) -> str:
    """The preset whose tables show the authors' checkpoints: the one that decodes as they do, else the first."""
    return next((name for name, preset in profile.presets.items() if preset.decoding == "released"), next(iter(profile.presets)))


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
        path = reference_path(profile, size or next(iter(profile.sizes)), seed)

        def sample(prompts: list[str], k: int) -> list[list[str]]:
            return reference_samples(profile, path, prompts, k, seed)

    rows = pocket.make_feedback((config.prompts or 0) + config.validation + config.held_out, rater_offset=config.rater_offset, seed=seed,
                                completions_per_prompt=config.completions_per_prompt or 4, sample=sample,
                                writers=pocket.WRITERS.get(config.regime, pocket.SYSTEMS))
    return data.load_feedback(rows, config=config, return_report=True)


def reference_samples(profile: Profile, path: str, prompts: Sequence[str], k: int, seed: int) -> list[list[str]]:
    """k completions of the reference at `path` for each prompt, decoded as the profile says. Cached by content."""
    made_from = {"model": model_key(path), "code": step_code("reference samples")}
    key = content_key([made_from, list(prompts), k, seed, profile.decoding.key(), profile.data.max_prompt_tokens])

    def make(folder: Path) -> None:
        model, tokenizer = policy.load_policy(path)
        texts = generate(model, tokenizer, [p for p in prompts for _ in range(k)], decoding=profile.decoding, seed=seed,
                         max_prompt_tokens=profile.data.max_prompt_tokens, batch_size=profile.evaluation.generation_batch_size)
        write_json(folder / "texts.json", texts)

    folder = store.cached(references.cache_dir() / "reference_samples" / key, make, of=made_from)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    return [texts[i : i + k] for i in range(0, len(texts), k)]


@lru_cache(maxsize=8)
def _splits(profile_json: str, seed: int, size: str | None) -> data.Splits:
    profile = Profile.model_validate_json(profile_json)
    return data.split_feedback(feedback(profile, seed, size)[0], config=profile.data, seed=seed)


def splits(profile: Profile, seed: int, size: str | None = None) -> data.Splits:
    """Training, validation and held-out rows of a seed (kept in memory)."""
    return _splits(profile.model_dump_json(), seed, size if profile.data.regime == "on_policy" else None)


def fetch(profile: Profile) -> None:
    """Have here what the hub gives, before any key is made of it: see `hub.fetch`. Raises ValueError."""
    sizes, source = profile.sizes.values(), profile.data.source
    authors = [(size.authors, size.authors_revision) for size in sizes if profile.evaluation.authors]
    hub.fetch([*((size.id, size.revision) for size in sizes), *authors])
    here = source == "pocket" or Path(source).expanduser().exists()
    if not here and hub.commit(source, profile.data.revision, kind="dataset") is None:
        splits(profile, profile.seeds[0])


def reference_path(profile: Profile, size: str, seed: int) -> str:
    """The reference's folder or hub id; a reference from nothing is trained when it is not cached."""
    torch_threads(profile)
    held_out = None if profile.pocket_world or profile.sizes[size].id != "pocket" else splits(profile, seed).held_out
    return references.reference(profile, size, seed, held_out)


def processes() -> Any:
    """accelerate's PartialState: how many processes share the work (accelerate launch, torchrun), and which one this is."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def torch_threads(profile: Profile) -> None:
    """Use the profile's number of CPU threads: jobs that run side by side must not fight for the cores."""
    if profile.training.threads:
        torch.set_num_threads(profile.training.threads)


@dataclass
class Prepared:
    """What all methods of a (size, seed) share. The reference is loaded when it is asked for and given back by `release`:
    with cached log-probabilities, training needs none in memory."""

    splits: data.Splits
    path: str
    tokenizer: Any
    encoded: list[tuple[list[int], list[int]]]  # training rows
    rewards: np.ndarray  # standardised
    ref_logps: dict[str, np.ndarray]  # "sum", "mean"
    load: Callable[[], Any]  # the frozen reference
    ref_rewards: np.ndarray | None = None  # [rows, m], standardised, of QRPO: see `reference_rewards`

    @cached_property
    def reference(self) -> Any:
        return self.load()

    def release(self) -> None:
        """Let the reference go from memory."""
        self.__dict__.pop("reference", None)


def prepare(profile: Profile, size: str, seed: int) -> Prepared:
    """Feedback, reference and its log-probabilities of the training rows."""
    parts = splits(profile, seed, size)
    path, training = reference_path(profile, size, seed), profile.training

    def load() -> tuple[Any, Any]:
        model, tokenizer = policy.load_policy(path, bf16=half(training), quantize=training.quantize)
        return model.eval().requires_grad_(False), tokenizer

    model, tokenizer = load()
    encoded = policy.encode(tokenizer, data.conversations(parts.train), parts.train["completion"], **profile.limits(size))
    logps = references.reference_logps(path, model, tokenizer, encoded, bf16=training.bf16)
    prepared = Prepared(parts, path, tokenizer, encoded, data.standardise(np.asarray(parts.train["reward"]), parts), logps, lambda: load()[0])
    prepared.__dict__["reference"] = model
    return prepared


def half(training: TrainingConfig) -> bool:
    """Whether weights are held in bfloat16: frozen ones are; trained ones stay in float32 and compute in bfloat16."""
    return training.bf16 and training.lora


def reference_logps(profile: Profile, size: str, seed: int) -> dict[str, np.ndarray]:
    """{"sum", "mean"}: log πref of the rows of splits(profile, seed, size).train."""
    return prepare(profile, size, seed).ref_logps


def reference_rewards(profile: Profile, prepared: Prepared, seed: int) -> np.ndarray:
    """Rewards [rows, QRPO_SAMPLES], standardised, of the reference's own completions of each training row's prompt: QRPO's quantiles.

    Raises ValueError outside the pocket world, where nobody knows the reward of a new text.
    """
    if not profile.pocket_world:
        raise ValueError("qrpo compares a reward with those of the reference's own completions, which only the pocket world's checker can "
                         "score; leave qrpo out of methods")
    prompts = list(dict.fromkeys(prepared.splits.train["prompt"]))
    sampled = reference_samples(profile, prepared.path, prompts, QRPO_SAMPLES, hash_seed(seed, AGAIN))
    scored = {p: [pocket.score(p, text) for text in texts] for p, texts in zip(prompts, sampled, strict=True)}
    return data.standardise(np.array([scored[p] for p in prepared.splits.train["prompt"]]), prepared.splits)


# Training ---------------------------------------------------------------------------------------------------------------------

def chosen_rows(run: Run, prepared: Prepared) -> np.ndarray:
    """The training rows of a run: all, or for best_of_k the best of each prompt (the first of equals)."""
    rows = np.arange(len(prepared.rewards))
    if run.method != "best_of_k":
        return rows
    table = pd.DataFrame({"prompt_id": prepared.splits.train["prompt_id"], "reward": prepared.rewards})
    return np.sort(table.groupby("prompt_id")["reward"].idxmax().to_numpy())


def diagnosis(run: Run, prepared: Prepared) -> str:
    """What is known of an RPO run's targets before it is trained: `partition.diagnostics` as text, a line for each warning."""
    reduce, tau, estimator = run.recipe["objective"]["reduce"], run.recipe["objective"]["tau"], run.recipe["partition"]
    found = partition.diagnostics(prepared.ref_logps[reduce], prepared.rewards, np.asarray(prepared.splits.train["prompt_id"]), tau=tau,
                                  estimator=estimator, reduce=reduce, lengths=[len(completion) for _, completion in prepared.encoded])
    return f"{estimator}, log-probability {reduce}s, τ = {tau:g}: {partition.summary(found)}"


def training_groups(profile: Profile, run: Run, prepared: Prepared, rewards: np.ndarray | None = None) -> list[dict]:
    """What a run is trained on: the items of `training.prompt_groups`. rewards: others than the data's (for noise experiments)."""
    from rpo_nb.training import desirable_rows, mismatched_rows, prompt_groups

    objective = Objective(**run.recipe["objective"])
    rewards = prepared.rewards if rewards is None else rewards
    rows = chosen_rows(run, prepared)
    prompt_ids = np.asarray(prepared.splits.train["prompt_id"])
    ref = prepared.ref_logps[objective.reduce]
    log_z = np.zeros(len(rewards))
    if run.method == "rpo":
        log_z = partition.log_partition(torch.from_numpy(ref), torch.from_numpy(np.asarray(rewards)), torch.from_numpy(prompt_ids),
                                        tau=objective.tau, estimator=run.recipe["partition"]).numpy()
    more = {}
    if run.method == "qrpo":
        more["ref_rewards"] = reference_rewards(profile, prepared, run.seed) if prepared.ref_rewards is None else prepared.ref_rewards
    if run.method == "kto" and objective.kto_kl == "mismatched":
        partner, real = mismatched_rows(prompt_ids)
        completions = [prepared.encoded[i][1] for i in partner]
        pairs = [(prompt, other) for (prompt, _), other in zip(prepared.encoded, completions, strict=True)]
        theirs = references.reference_logps(prepared.path, prepared.reference, prepared.tokenizer, pairs, bf16=profile.training.bf16)
        more |= {"mismatched": completions, "mismatched_ref_logps": theirs[objective.reduce], "mismatched_real": real}
    weights = data.weights_of(prepared.splits.train)
    if weights is not None:
        more["weights"] = weights[rows]
    return prompt_groups([prepared.encoded[i] for i in rows], prompt_ids[rows].tolist(), rewards=rewards[rows], ref_logps=ref[rows],
                         log_partition=log_z[rows], desirable=desirable_rows(rewards, weights)[rows], **more)


def inputs_key(profile: Profile, run: Run, prepared: Prepared) -> str:
    """What a run is trained on, besides its recipe: the rows with their rewards and reference log-probabilities, and the weights that
    it starts from."""
    return content_key([digest(training_groups(profile, run, prepared)), model_key(prepared.path)])


def build_trainer(profile: Profile, run: Run, prepared: Prepared, output_dir: str | Path, *, rewards: np.ndarray | None = None) -> Any:
    """The PolicyTrainer of a run, seeded, not started. rewards: others than the data's (for noise experiments)."""
    from transformers import set_seed

    from rpo_nb.training import make_trainer

    set_seed(run.seed)
    steps = run.recipe["steps"]
    groups = training_groups(profile, run, prepared, rewards)
    config = profile.training_of(run.size)
    model, _ = policy.load_policy(prepared.path, dropout=steps["dropout"], bf16=half(config), quantize=config.quantize,
                                  lora_rank=config.lora_rank if config.lora else 0, gradient_checkpointing=config.gradient_checkpointing,
                                  liger=config.liger)
    prepared.release()
    return make_trainer(model, prepared.tokenizer, groups, Objective(**run.recipe["objective"]), config=config, output_dir=output_dir,
                        seed=run.seed, max_grad_norm=steps["max_grad_norm"], weight_decay=steps["weight_decay"],
                        prompt_width=profile.limits(run.size)["max_prompt_tokens"])


def train(profile: Profile, run: Run, prepared: Prepared, out: Path, *, inputs: str = "", world: str = "") -> None:
    """Train a run and write <out>/runs/<run>/: policy/, history.csv, recipe.json and, last, done.json with its timing.

    A run that was interrupted continues from its last whole checkpoint when the profile saves any and its inputs are the same, else
    it starts again. inputs: its `inputs_key`, where that is known already. world: what `train_runs` may know it by.
    """
    from rpo_nb.training import Elapsed, history, last_checkpoint, save_policy

    folder, inputs = run.folder(out), inputs or inputs_key(profile, run, prepared)
    if int(os.environ.get("RANK", 0)) == 0 and not _goes_on(folder, inputs):
        shutil.rmtree(folder, ignore_errors=True)
    trainer = build_trainer(profile, run, prepared, folder / "trainer")
    main = trainer.accelerator.is_main_process
    if main:
        write_json(folder / "recipe.json", run.recipe | {"inputs": inputs})
        if run.method == "rpo":
            print(f"{run.method} {run.size} seed {run.seed}, {diagnosis(run, prepared)}")
    trainer.accelerator.wait_for_everyone()
    checkpoint = last_checkpoint(folder / "trainer")
    clock = Elapsed(checkpoint)
    trainer.add_callback(clock)
    where = f"training {run.method} {run.size} seed {run.seed}, at most {trainer.micro_batch_tokens} tokens a pass"
    with room_for(folder), checks.memory_advice(where, f"lower sizes.{run.size}.micro_batch_tokens, or set training.gradient_checkpointing "
                                                       "or training.lora"):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = clock.seconds
    save_policy(trainer, prepared.tokenizer, folder / "policy", base=profile.sizes[run.size].id)
    if main:
        pd.DataFrame(history(trainer)).to_csv(folder / "history.csv", index=False, lineterminator="\n")
        seal(folder, {"seconds": seconds, "steps": trainer.state.global_step, "rows": len(chosen_rows(run, prepared)),
                      "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad), "inputs": inputs,
                      "world": world}, leave_out=("trainer",))
        for checkpoint in (folder / "trainer").glob("checkpoint-*"):  # gigabytes each, and of no use to a finished run
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()


def _goes_on(folder: Path, inputs: str) -> bool:
    """Whether what lies in a run's folder is of an interrupted training on these inputs."""
    try:
        return store.read_json(folder / "recipe.json")["inputs"] == inputs and not (folder / store.STAMP).exists()
    except (FileNotFoundError, store.Damaged, KeyError, TypeError):
        return False


def holds(profile: Profile, run: Run, prepared: Prepared, out: Path, world: str) -> str | None:
    """None where a run is finished, whole and trained on what it would be trained on now; else its `inputs_key`. A line says why one
    that was finished is trained again. world: while it is the same, the inputs are."""
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


# Generation -------------------------------------------------------------------------------------------------------------------

def completions_file(profile: Profile, cell: Cell, out: Path, asked: str = "") -> Path:
    """Where a cell's completions are kept: beside its policy, or in a folder of the reference's own. asked: "" for the validation
    prompts, else what names others."""
    engine = "" if profile.generation == "transformers" else f"{profile.generation}-"  # never one engine's texts for another's
    file = f"completions-{engine}{asked}{cell.decoding.key()}.json"
    if cell.run is not None:
        return cell.run.folder(out) / file
    key = recipe(profile, next(iter(profile.presets.values())), "sft", cell.size, None, cell.seed).key  # same data, same reference
    name = content_key([key, cell.model]) if cell.model else key
    return Path(out) / "runs" / f"{cell.method}-{cell.size}-seed{cell.seed}-{name}" / file


def completions(profile: Profile, cell: Cell, prepared: Prepared, out: Path, *, asked: str = "", prompts: Sequence[str] = (),
                world: str = "") -> list[str]:
    """The cell's completions of the validation prompts (or of `prompts`, which `asked` names); generated once a (policy, decoding) and kept
    beside the policy, with both log-probabilities, from which KL(policy ‖ reference) is estimated. world: see `train_runs`."""
    file, world = completions_file(profile, cell, out, asked), world or cell_world(profile, cell)
    stored = read_sealed(file)
    if stored is not None and stored["world"] == world:
        return stored["completions"]
    prompts = list(prompts) or data.conversations(prepared.splits.validation)
    training, limit = profile.training, profile.limits(cell.size)["max_prompt_tokens"]
    path = references.fetched(cell.model, profile.sizes[cell.size].authors_revision) if cell.model else prepared.path
    weights = folder_key(file.parent / "policy") if cell.run is not None else model_key(path)
    precision = [training.bf16, training.quantize, profile.evaluation.generation_batch_size if training.bf16 else None]
    made_from = content_key([prompts, weights, model_key(prepared.path), cell.decoding.key(), cell.seed, limit, precision,
                             step_code("answers by vllm" if profile.generation == "vllm" else "answers")])
    if stored is not None and stored["made_from"] == made_from:
        write_sealed(file, stored | {"world": world})
        return stored["completions"]
    model, tokenizer = prepared.reference, prepared.tokenizer
    if cell.run is not None or cell.model:
        path = file.parent / "policy" if cell.run is not None else path
        model, tokenizer = policy.load_policy(path, bf16=half(training), quantize=training.quantize, base=prepared.path)
    with policy.autocast(training.bf16), checks.memory_advice(f"generating with {cell.method} {cell.size}",
                                                              "lower evaluation.generation_batch_size"):
        drawn = samples(model, tokenizer, prompts, decoding=cell.decoding, seed=cell.seed, max_prompt_tokens=limit,
                        batch_size=profile.evaluation.generation_batch_size, engine=profile.generation)
    texts, encoded = [one.text for one in drawn], [one.row for one in drawn]  # what was drawn: a cut text has no end token
    with policy.adapter_off(model) if hasattr(model, "disable_adapter") else nullcontext(prepared.reference) as reference:
        theirs = policy.score_completions(reference, tokenizer, encoded, bf16=training.bf16)[0].tolist()
    mine = policy.score_completions(model, tokenizer, encoded, bf16=training.bf16)[0].tolist()
    write_sealed(file, {"made_from": made_from, "world": world, "completions": texts, "policy_logps": mine, "ref_logps": theirs,
                        "tokens": [len(ids) for _, ids in encoded]})
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
    fetch(profile)
    wanted = cells(profile)
    total = len(plan(profile)) + len({(c.run.key if c.run else (c.size, c.seed, c.model), c.decoding.key()) for c in wanted})
    made = 0
    with tqdm(total=total, desc="policies and their answers", unit="step", disable=not progress) as bar:
        for size in profile.sizes:
            for seed in profile.seeds:
                mine = [c for c in wanted if (c.size, c.seed) == (size, seed)]
                made += _ensure_size(profile, mine, out, bar)
    print(f"{made} policies trained, {len(plan(profile)) - made} were done already; generations are in {(out / 'generations').name}/")


def ensure_policies(profile: Profile, out: str | Path, *, progress: bool = True) -> int:
    """Train the policies that are not there yet, without asking them anything; returns how many. The part of `ensure_runs` that
    several processes share (accelerate launch, notebook_launcher): each calls it, the first one writes."""
    from tqdm.auto import tqdm

    torch_threads(profile)
    fetch(profile)
    out, runs, made = Path(out), plan(profile), 0
    with tqdm(total=len(runs), desc="policies", unit="policy", disable=not (progress and processes().is_main_process)) as bar:
        for size, seed in dict.fromkeys((size, seed) for size in profile.sizes for seed in profile.seeds):
            mine = [run for run in runs if (run.size, run.seed) == (size, seed)]
            world = world_key(profile, size, seed)
            left = [run for run in mine if (sealed(run.folder(out), quick=True) or {}).get("world") != world]
            bar.update(len(mine) - len(left))
            if left or not mine:  # without a method to train: at least the reference and its log-probabilities
                made += train_runs(profile, left, prepare(profile, size, seed), out, bar)
    return made


def ensure_generations(profile: Profile, out: Path) -> None:
    """`ensure_runs`, but a folder without policies whose generations are complete (a clone's) is taken as it is, and said so."""
    out = Path(out)
    if not any((out / "runs").glob("*/done.json")) and (out / "generations").is_dir():
        columns, stored = ["preset", "method", "size", "tau", "seed"], set()
        try:
            stored = set(load_generations(out)[columns].fillna({"tau": 0.0}).drop_duplicates().itertuples(index=False, name=None))
        except store.Damaged as error:
            print(error)
        if {(c.preset, c.method, c.size, c.tau or 0.0, c.seed) for c in cells(profile)} <= stored:
            print("the stored generations are complete and are used as they are; the policies that wrote them are not here")
            return
    ensure_runs(profile, out)


def _ensure_size(profile: Profile, mine: list[Cell], out: Path, bar: Any) -> int:
    """The cells of one size and seed; returns how many policies had to be trained."""
    size, seed = mine[0].size, mine[0].seed
    presets = {preset: [c for c in mine if c.preset == preset] for preset in dict.fromkeys(c.preset for c in mine)}
    if all([_is_written(profile, group, out) for group in presets.values()]):  # a list: what is wrong with each is told
        bar.update(len({c.run.key for c in mine if c.run}) + len({(c.run.key if c.run else c.model, c.decoding.key()) for c in mine}))
        return 0
    prepared = prepare(profile, size, seed)
    ready(profile.generation, prepared.reference)
    with quick_collections():
        made = train_runs(profile, [c.run for c in mine if c.run is not None], prepared, out, bar)
        seen = set()
        for cell in mine:
            bar.set_postfix_str(f"{cell.method} {size} seed {seed} answers")
            completions(profile, cell, prepared, out)
            unit = (cell.run.key if cell.run else cell.model, cell.decoding.key())
            bar.update(unit not in seen)
            seen.add(unit)
        for group in presets.values():
            _write_generations(profile, group, prepared, out)
    return made


def train_runs(profile: Profile, runs: Sequence[Run], prepared: Prepared, out: Path, bar: Any, *, world: str = "") -> int:
    """Train what does not hold of the runs of one size and seed; returns how many did not.

    world: what everything is made from, in one key; default `world_key`. While it is the same, no input is looked at."""
    runs = list({run.key: run for run in runs}.values())
    if not runs:
        return 0
    world = world or world_key(profile, runs[0].size, runs[0].seed)
    left = {run.key: holds(profile, run, prepared, out, world) for run in runs}
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        processes().wait_for_everyone()  # all have looked before the first changes anything
    for run in runs:
        bar.set_postfix_str(f"{run.method} {run.size} seed {run.seed}")
        if left[run.key] is not None:
            train(profile, run, prepared, out, inputs=left[run.key], world=world)
        bar.update()
    return sum(inputs is not None for inputs in left.values())


@contextmanager
def quick_collections() -> Iterator[None]:
    """Garbage collection passes over what is alive now: the Trainer collects after every training, which costs 0.3 s over the
    objects that imports made, and as much as a small policy's training. Nothing is done inside another one."""
    if gc.get_freeze_count():
        yield
        return
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
    """Whether the generations file holds these cells, from policies that are here, and all is made from what is here now."""
    stamp, notes = _stamp(profile, mine, out)
    file = generations_file(out, mine[0].preset, mine[0].size, mine[0].seed)
    written = read_sealed(stamp)
    if written is None or not file.is_file() or not notes.items() <= written.items():
        return False
    if written["generations"] != file_digest(file):
        store.again(file, "is not as it was written")
        return False
    return all((read_sealed(completions_file(profile, c, out)) or {}).get("world") == cell_world(profile, c)
               and (c.run is None or sealed(c.run.folder(out), quick=True) is not None) for c in mine)


def _write_generations(profile: Profile, mine: list[Cell], prepared: Prepared, out: Path) -> None:
    """Write the cells' rows, beside those of other methods and temperatures that an earlier call made and that still hold."""
    first = mine[0]
    file = generations_file(out, first.preset, first.size, first.seed)
    known = {(c.method, c.tau): c for c in mine}
    world = world_key(profile, first.size, first.seed)
    for method, tau in _written_cells(file):
        if (method, tau) not in known and method in METHODS and method != AUTHORS:
            run = None if method == "reference" else recipe(profile, profile.presets[first.preset], method, first.size, tau, first.seed)
            preset = profile.presets[first.preset]
            decoding = released_decoding(method, profile.decoding) if preset.decoding == "released" else profile.decoding
            if run is None or run.done_file(out).is_file() and holds(profile, run, prepared, out, world) is None:
                known[method, tau] = Cell(first.preset, method, first.size, tau, first.seed, decoding, run)
    ordered = sorted(known.values(), key=lambda c: (METHODS.index(c.method), c.tau or 0.0))
    frame = pd.concat([generation_rows(c, prepared.splits, completions(profile, c, prepared, out)) for c in ordered], ignore_index=True)
    content = packed(frame)
    if not file.is_file() or file.read_bytes() != content:  # what did not change keeps its time, and what is made from it stands
        atomic_write(file, content)
    stamp, notes = _stamp(profile, ordered, out)
    write_sealed(stamp, notes | {"generations": file_digest(file)})


def _written_cells(file: Path) -> set[tuple[str, float | None]]:
    """(method, τ) of the columns that a generations file holds; none where it is damaged."""
    try:
        rows = read_rows(file)[["method", "tau"]].itertuples(index=False) if file.is_file() else ()
    except store.Damaged:
        return set()
    return {(method, None if np.isnan(tau) else tau) for method, tau in rows}


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
