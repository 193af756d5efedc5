"""Before a long run: what a profile asks for, what it costs on the device at hand, and what is missing.

    made = make_plan(load_profile("flan-t5"), out, device=costs.device("A100 80GB"))
    print(render(made)); made["problems"]        # sentences: nothing should start while there is one

Nothing is trained, downloaded or loaded: counts come from the grid itself (`experiment.plan`, `judging.make_pairs`), lengths from
the data where they are here, parameters and memory from config.json. Hours are arithmetic at a share of the device's peak.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rpo_nb import costs, data, experiment, hub, judging, policy, references, tokens
from rpo_nb.config import PROFILE_DIR, ModelConfig, Profile, TrainingConfig
from rpo_nb.costs import GIB, Device, Parameters
from rpo_nb.data import Splits

SHARE = {"gpu": 0.3, "cpu": 0.5}  # of the peak that a training step reaches where nothing was measured
LAYER_SECONDS = {"gpu": 0.001, "cpu": 0.006}  # of Python and kernel launches, a layer and pass (the CPU's from results/pocket's timings)
TOKEN_SECONDS = {"gpu": 0.001, "cpu": 0.001}  # the same of a generated token, a layer of the decoder
MEASURED_ROWS = 20_000  # at most these are tokenised, drawn by seed 0; more are taken to be like them
JUDGE_PROMPT = 180  # tokens of the paper's judging prompt without the texts
METRIC_MODELS = {"bertscore": ("default", "roberta-large"), "toxicity": ("hub", "facebook/roberta-hate-speech-dynabench-r4-target")}
BENCHMARKS = references.PACKAGE.parent / "benchmarks" / "throughput.csv"


@lru_cache(maxsize=1)
def known() -> dict[str, dict[str, Any]]:
    """Shapes of well-known models and sizes of well-known data sets, for where the real ones cannot be looked at."""
    return yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))


# Data -------------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Rows:
    """Training rows of a size and their lengths in tokens. measured: by tokenising them; else the profile's limits, an upper bound."""

    prompts: int
    rows: int
    validation: int
    encoded: float  # tokens of the distinct prompts
    prompted: float  # of every row's prompt
    completed: float  # of every row's completion
    longest_prompt: int
    longest_completion: int
    per_prompt: int  # completions of the prompt that has most
    measured: bool

    def best_of_each(self) -> Rows:
        """The rows of best_of_k: one a prompt, as long as the others on average."""
        share = self.prompts / self.rows
        return Rows(**asdict(self) | {"rows": self.prompts, "prompted": self.encoded, "completed": self.completed * share, "per_prompt": 1})


def rows_of(profile: Profile, size: str, splits: Splits | None, tokenizer: Any) -> Rows:
    """The training rows of a size, from the data and the tokenizer where they are here, else from the profile's limits."""
    limits = profile.limits(size)
    longest = limits["max_prompt_tokens"], limits["max_completion_tokens"]
    if splits is None:
        of = known()["datasets"].get(profile.data.source, known()["datasets"]["openbmb/UltraFeedback"])
        k = min(profile.data.completions_per_prompt or of["completions_per_prompt"], of["completions_per_prompt"])
        prompts = min(profile.data.prompts or of["prompts"], of["prompts"] - profile.data.validation - profile.data.held_out)
        return Rows(prompts, prompts * k, profile.data.validation, prompts * longest[0], prompts * k * longest[0],
                    prompts * k * longest[1], *longest, k, False)
    ids = np.asarray(splits.train["prompt_id"])
    counts = Counter(ids.tolist())
    if tokenizer is None:
        return Rows(len(counts), len(ids), len(splits.validation), len(counts) * longest[0], len(ids) * longest[0],
                    len(ids) * longest[1], *longest, max(counts.values()), False)
    drawn = np.sort(np.random.default_rng(0).permutation(len(ids))[:MEASURED_ROWS])
    part = splits.train.select(drawn)
    encoded = policy.encode(tokenizer, data.conversations(part), part["completion"], **limits)
    lengths = np.array([[len(prompt), len(completion)] for prompt, completion in encoded])
    scale, distinct = len(ids) / len(drawn), pd.Series(lengths[:, 0]).groupby(ids[drawn]).first()
    return Rows(len(counts), len(ids), len(splits.validation), float(distinct.mean() * len(counts)), float(lengths[:, 0].sum() * scale),
                float(lengths[:, 1].sum() * scale), *map(int, lengths.max(0)), max(counts.values()), True)


def schedule(rows: int, prompts: int, training: TrainingConfig) -> tuple[int, int, int]:
    """(optimiser steps, forward passes, prompts in a pass) of one training, as `training.make_trainer` batches whole prompts."""
    per_prompt = rows / prompts
    micro = max(1, round(training.micro_batch_size / per_prompt))
    accumulation = max(1, max(micro, round(training.batch_size / per_prompt)) // micro)
    batches = math.ceil(prompts / micro)
    return max(1, math.ceil(batches / accumulation)) * training.epochs, batches * training.epochs, micro


# A size -----------------------------------------------------------------------------------------------------------------------

def config_of(profile: Profile, model: ModelConfig, tokenizer: Any, *, online: bool) -> tuple[Any, str]:
    """(transformers configuration or None, where it is from)."""
    from transformers import T5Config

    if model.id == "pocket":
        vocabulary = len(tokenizer) if tokenizer is not None else 32_100
        return T5Config(vocab_size=vocabulary, d_model=model.d_model, d_kv=model.d_model // model.heads, d_ff=model.d_ff,
                        num_layers=model.layers, num_decoder_layers=model.layers, num_heads=model.heads), "the profile"
    return _named_config(model.id, online=online)


def _named_config(model_id: str, *, online: bool) -> tuple[Any, str]:
    from transformers import AutoConfig

    if not model_id.startswith("package:"):
        for here in (True, False)[: 1 + online]:
            try:
                return AutoConfig.from_pretrained(str(Path(model_id).expanduser()), local_files_only=here), "config.json"
            except (OSError, ValueError):  # why it cannot be had is told where access is checked
                continue
    shape = {key: value for key, value in known()["models"].get(model_id, {}).items() if key not in ("bytes", "gated")}
    return (AutoConfig.for_model(**shape), "profiles/models.yaml") if shape else (None, "")


def size_plan(profile: Profile, size: str, out: Path, rows: Rows, config: Any, device: Device, share: float) -> dict[str, Any]:
    """Counts, memory and hours of one size; memory and hours are None without a configuration."""
    training = profile.training_of(size)
    runs = [run for run in experiment.plan(profile) if run.size == size]
    left = [run for run in runs if not run.done_file(out).is_file()]
    cells = {(cell.run.key if cell.run else (cell.seed, cell.model), cell.decoding.key()): cell for cell in experiment.cells(profile)
             if cell.size == size}
    new = [cell for cell in cells.values() if not experiment.completions_file(profile, cell, out).is_file()]
    kind, layers = "cpu" if device.cpu else "gpu", _layers(config)
    sets = {run.key: rows.best_of_each() if run.method == "best_of_k" else rows for run in left}
    schedules = {key: schedule(part.rows, part.prompts, training) for key, part in sets.items()}
    seq2seq = config is None or config.is_encoder_decoder
    trained = sum((part.encoded if seq2seq else part.prompted) + part.completed for part in sets.values()) * training.epochs
    one = schedule(rows.rows, rows.prompts, training)
    made = {"size": size, "model": profile.sizes[size].id, "policies": len(runs), "to train": len(left), "rows": rows.rows, "prompts": rows.prompts,
            "steps": one[0], "steps in all": sum(steps for steps, _, _ in schedules.values()), "training tokens": trained,
            "generated tokens": len(new) * rows.validation * profile.decoding.max_new_tokens, "measured": rows.measured}
    if config is None:
        return made | {"parameters": None, "memory": None, "parts": {}, "hours": None, "disk": None}
    count = costs.parameters(config, training)
    parts = _memory(profile, size, config, count, training, rows, one[2], any(experiment.needs_reference(profile, run) for run in left))
    seconds = sum(_seconds(experiment.needs_reference(profile, run), sets[run.key], count, training, device, share, seq2seq)
                  + schedules[run.key][1] * sum(layers) * LAYER_SECONDS[kind] for run in left)
    references_made = len({run.seed for run in left})
    seconds += references_made * count.forward(rows.encoded, rows.prompted * (not seq2seq) + rows.completed, rows.completed) \
        / (device.rate(training.bf16) * share)
    if profile.sizes[size].id == "pocket":  # trained from nothing first
        seconds += references_made * _pocket_seconds(profile.sizes[size], rows, count, device, share, sum(layers) * LAYER_SECONDS[kind])
    seconds += len(new) * _generation_seconds(profile, rows, count, training, device, layers[1] * TOKEN_SECONDS[kind])
    weights = 4.0 * (count.trained if training.lora else count.all)
    checkpoints = 2 * 3.0 * 4 * count.trained * bool(training.save_steps) if left else 0.0  # the new beside the old, with AdamW's moments
    return made | {"parameters": count.all, "memory": sum(parts.values()), "parts": parts, "hours": seconds / 3600,
                   "disk": len(left) * weights + checkpoints}


def _layers(config: Any) -> tuple[int, int]:
    """Layers of the encoder (0 of a causal model) and of the decoder."""
    if config is None:
        return 0, 0
    return (config.num_layers, config.num_decoder_layers) if config.is_encoder_decoder else (0, config.num_hidden_layers)


def _memory(profile: Profile, size: str, config: Any, count: Parameters, training: TrainingConfig, rows: Rows, prompts: int,
            reference: bool) -> dict[str, float]:
    """Bytes by part of the more demanding of training and generation."""
    step = costs.training_memory(config, count, training, reference=reference, rows=prompts * rows.per_prompt, prompts=prompts,
                                 prompt_tokens=rows.longest_prompt, completion_tokens=rows.longest_completion,
                                 dropout=max(preset.dropout for preset in profile.presets.values()))
    answer = costs.generation_memory(config, count, training, rows=min(profile.evaluation.generation_batch_size, rows.validation),
                                     tokens=profile.limits(size)["max_prompt_tokens"] + profile.decoding.max_new_tokens)
    return step if sum(step.values()) >= answer else {"generation": answer}


def _seconds(with_reference: bool, rows: Rows, count: Parameters, training: TrainingConfig, device: Device,
             share: float, seq2seq: bool) -> float:
    """Seconds of one training's arithmetic at the share of the peak."""
    forward = count.forward(rows.encoded, rows.prompted * (not seq2seq) + rows.completed, rows.completed) * training.epochs
    passes = costs.train_passes(training) + (2 if with_reference else 0)  # KTO: policy and reference on mismatched pairs
    return forward * passes / (device.rate(training.bf16) * share)


def _pocket_seconds(model: ModelConfig, rows: Rows, count: Parameters, device: Device, share: float, passing: float) -> float:
    each = count.forward(rows.encoded / rows.prompts, rows.completed / rows.rows, rows.completed / rows.rows)
    return model.epochs * model.demonstrations * (3 * each / (device.fp32 * share) + passing / model.batch_size)


def _generation_seconds(profile: Profile, rows: Rows, count: Parameters, training: TrainingConfig, device: Device, passing: float) -> float:
    """Seconds for the validation prompts' answers at full length: every token reads all weights of the decoder once a batch."""
    batch = min(profile.evaluation.generation_batch_size, rows.validation)
    held = costs.weight_bytes(count, training) * (count.decoder + count.head) / count.all
    token = max(held / device.bandwidth, count.forward(0, batch, batch) / device.rate(training.bf16)) + passing
    return math.ceil(rows.validation / batch) * profile.decoding.max_new_tokens * token


# Judges -----------------------------------------------------------------------------------------------------------------------

def verdicts(profile: Profile, validation: int) -> dict[str, int]:
    """Questions (pairs in both orders) that every judge is asked for Tables III and IV."""
    frame = pd.DataFrame([{"preset": c.preset, "method": c.method, "size": c.size, "tau": np.nan if c.tau is None else c.tau, "seed": c.seed,
                           "prompt_id": 0, "prompt": "", "reference": "", "completion": ""} for c in experiment.cells(profile)])
    return {table: 2 * validation * len(judging.make_pairs(frame, profile, table=table)) for table in ("table3", "table4")}


def judge_hours(profile: Profile, rows: Rows, device: Device, share: float, *, online: bool) -> dict[str, float | None]:
    """Hours of every language model that judges on this machine; None where its shape is not known."""
    found: dict[str, float | None] = {}
    asked = sum(verdicts(profile, rows.validation).values())
    text = JUDGE_PROMPT + rows.encoded / rows.prompts + 2 * profile.decoding.max_new_tokens
    for name in profile.evaluation.judges:
        judge = profile.evaluation.llm_judges.get(name)
        if judge and judge.kind == "local":
            config, _ = _named_config(judge.model, online=online)
            count = costs.parameters(config, TrainingConfig()) if config else None
            found[name] = count and asked * count.forward(0, text, 1) / (device.rate(True) * share) / 3600
    return found


# What it needs ----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Need:
    """A model or data set of a run."""

    name: str
    kind: str  # model, dataset, server
    purpose: str
    access: hub.Access


def needs(profile: Profile) -> list[Need]:
    """Everything a run of the profile reads from elsewhere, looked up; after the first sign that there is no network, only here."""
    wanted: dict[tuple[str, str], list[str]] = {}
    loose = set()  # the metrics' own libraries read other formats than safetensors, too

    def want(name: str, purpose: str, kind: str = "model") -> None:
        wanted.setdefault((name, kind), []).append(purpose)

    if not profile.pocket_world and not Path(profile.data.source).expanduser().is_file():
        want(profile.data.source, "feedback", "dataset")
    for size, model in profile.sizes.items():
        if model.id != "pocket":
            want(model.id, f"policy {size}")
        if profile.evaluation.authors and model.authors:
            want(model.authors, f"the authors' {size}")
    judges = {name: profile.evaluation.llm_judges[name] for name in profile.evaluation.judges if name in profile.evaluation.llm_judges}
    for name, judge in judges.items():
        want(judge.model if judge.kind == "local" else judge.url, f"judge {name}", "model" if judge.kind == "local" else "server")
    for metric, (setting, name) in METRIC_MODELS.items():
        if getattr(profile.evaluation, metric) == setting:
            want(name, f"metric {metric}")
            loose.add(name)
    found, online = [], True
    for (name, kind), purposes in wanted.items():
        if kind == "server":
            access = hub.Access("server")
        else:
            access = hub.look_up(name, kind=kind, online=online, safetensors=name not in loose)
            online &= access.problem is not hub.UNREACHED
        found.append(Need(name, kind, ", ".join(purposes), access))
    return found


def _download(need: Need) -> float | None:
    """Bytes to fetch; what the hub did not say is taken from models.yaml."""
    if need.access.where in ("folder", "cache", "package", "server"):
        return 0.0
    if need.access.bytes is not None:
        return float(need.access.bytes)
    size = known()["datasets" if need.kind == "dataset" else "models"].get(need.name, {}).get("bytes")
    return None if size is None else float(size)


def _disks(out: Path, results: float, fetched: float, prepared: float) -> list[dict[str, Any]]:
    """Bytes needed and free, a row a disk."""
    import datasets
    from huggingface_hub import constants

    rows: dict[int, dict[str, Any]] = {}
    for name, place, need in (("results", out, results), ("the hub's cache", Path(constants.HF_HUB_CACHE), fetched),
                              ("datasets' cache", Path(datasets.config.HF_DATASETS_CACHE), prepared)):
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())
        row = rows.setdefault(there.stat().st_dev, {"holds": [], "need": 0.0, "free": float(shutil.disk_usage(there).free)})
        row["holds"].append(name)
        row["need"] += need
    return [row | {"holds": ", ".join(row["holds"])} for row in rows.values()]


# All of it --------------------------------------------------------------------------------------------------------------------

def make_plan(profile: Profile, out: str | Path, *, device: Device) -> dict[str, Any]:
    """The whole plan as plain values: device, sizes, judges, needs, disks, hours, notes, problems (one sentence each)."""
    out, notes, problems = Path(out), [], []
    looked = needs(profile)
    unreached = [need for need in looked if need.access.problem is hub.UNREACHED]
    online = not unreached
    if unreached:
        names = ", ".join(f"{need.name} ({need.purpose})" for need in unreached)
        problems.append(f"the hub cannot be reached, and not in the local cache is {names}; check the network (and HF_HUB_OFFLINE), or "
                        "name local folders")
    problems += [f"{need.kind} {need.name!r} ({need.purpose}): {need.access.problem.reason}; {need.access.problem.remedy}"
                 for need in looked if need.access.problem and need not in unreached]
    splits = _splits(profile, looked, notes, problems)
    measured, assumed = costs.share_of_peak(_benchmarks(), device.name, profile.training.lora), SHARE["cpu" if device.cpu else "gpu"]
    share = measured or assumed
    notes.append(f"Speeds: {measured:.0%} of the peak, the median measured in benchmarks/throughput.csv." if measured else
                 f"Speeds: benchmarks/throughput.csv has nothing of this device, so {assumed:.0%} of its peak is assumed.")
    notes.append("Generations and verdicts are counted at full length (decoding.max_new_tokens), an upper bound.")
    held_out = [] if splits is None else list(zip(splits.held_out["prompt"], splits.held_out["completion"], strict=True))
    sizes = [_one_size(profile, size, out, splits, held_out, device, share, online, notes) for size in profile.sizes]
    problems += [problem for made in sizes if (problem := _too_big(profile, made, device))]
    if profile.training.bf16 and not device.bf16:
        problems.append(f"training.bf16 is true, but a {device.name} has no bf16; use --set training.bf16=false")
    if profile.training.quantize == "4bit" and device.cpu:
        problems.append("training.quantize is 4bit, which needs a CUDA GPU; use --set training.quantize=none")
    validation = Rows(1, 1, len(splits.validation) if splits else profile.data.validation, profile.limits(next(iter(profile.sizes)))["max_prompt_tokens"],
                      0, 0, 0, 0, 1, False)
    judges = judge_hours(profile, validation, device, share, online=online)
    downloads = {need.name: _download(need) for need in looked}
    unknown = [name for name, size in downloads.items() if size is None]
    if unknown:
        notes.append(f"Not in the sums, because their size is not known: {', '.join(unknown)}.")
    prepared = sum(downloads[need.name] or 0 for need in looked if need.kind == "dataset")  # as Arrow, once more
    disks = _disks(out, sum(made["disk"] or 0 for made in sizes), sum(size or 0 for size in downloads.values()), prepared)
    problems += [f"the disk of {disk['holds']} has {_gib(disk['free'])} free, but {_gib(disk['need'])} are needed; free some, or choose "
                 "another --output-dir or HF_HOME" for disk in disks if disk["need"] > disk["free"]]
    asked = verdicts(profile, validation.validation)
    return {"profile": profile.name, "device": asdict(device), "sizes": sizes, "verdicts": asked, "judges": list(profile.evaluation.judges),
            "judge_hours": judges, "needs": [_plain(need, downloads[need.name]) for need in looked], "disks": disks,
            "hours": sum(made["hours"] or 0 for made in sizes) + sum(hours or 0 for hours in judges.values()), "notes": notes, "problems": problems}


def _splits(profile: Profile, looked: Sequence[Need], notes: list[str], problems: list[str]) -> Splits | None:
    """The data of the first seed where they are on this machine."""
    feedback = next((need for need in looked if need.kind == "dataset"), None)
    if feedback is None or feedback.access.where in ("folder", "cache"):
        if profile.pocket_world and profile.data.regime == "on_policy":
            notes.append("Rows and lengths: the profile's limits, an upper bound (the references write the completions).")
            return None
        try:
            return experiment.splits(profile, profile.seeds[0])
        except ValueError as error:
            problems.append(str(error))
            return None
    sized = "" if profile.data.source in known()["datasets"] else "; how many rows it has is not known, so UltraFeedback's number is taken"
    notes.append(f"Rows and lengths: {profile.data.source} is not on this machine, so the profile's limits are an upper bound{sized}.")
    return None


def _one_size(profile: Profile, size: str, out: Path, splits: Splits | None, held_out: list, device: Device, share: float, online: bool,
              notes: list[str]) -> dict[str, Any]:
    model = profile.sizes[size]
    tokenizer = None
    if splits is not None or model.id == "pocket":
        tokenizer = next(iter(tokens.of_profile(profile.model_copy(update={"sizes": {size: model}}), held_out, online=online).values()))
        if isinstance(tokenizer, str):
            notes.append(f"Size {size}, lengths: the profile's limits, an upper bound; {tokenizer}.")
            tokenizer = None
    config, source = config_of(profile, model, tokenizer, online=online)
    if source == "profiles/models.yaml":
        notes.append(f"Size {size}: config.json cannot be had, its shape is taken from {source}.")
    elif config is None:
        notes.append(f"Size {size}: config.json cannot be had, so its memory, hours and disk are missing from the sums.")
    return size_plan(profile, size, out, rows_of(profile, size, splits, tokenizer), config, device, share)


def _too_big(profile: Profile, made: dict[str, Any], device: Device) -> str:
    if not made["memory"] or made["memory"] + costs.CONTEXT <= device.memory:
        return ""
    training, size = profile.training_of(made["size"]), made["size"]
    ways = [f"sizes.{size}.micro_batch_size={max(1, training.micro_batch_size // 2)}"] if "generation" not in made["parts"] else \
        [f"evaluation.generation_batch_size={max(1, profile.evaluation.generation_batch_size // 2)}"]
    ways += ["training.gradient_checkpointing=true"] * (not training.gradient_checkpointing)
    ways += ["lora=true"] if not training.lora else ["training.quantize=4bit"] * (training.quantize == "none")
    others = [name for name in profile.sizes if name != size]
    ways += [f"sizes={','.join(others)}"] if others else []
    return (f"size {size} takes about {_gib(made['memory'])} of memory and this {device.name} has {_gib(device.memory)}; try --set "
            + " or --set ".join(ways))


def _benchmarks() -> list[dict[str, str]]:
    if not BENCHMARKS.is_file():
        return []
    with BENCHMARKS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _plain(need: Need, size: float | None) -> dict[str, Any]:
    problem = need.access.problem
    return {"name": need.name, "kind": need.kind, "purpose": need.purpose, "where": need.access.where, "bytes": size,
            "gated": need.access.gated or (problem is hub.UNREACHED and bool(known()["models"].get(need.name, {}).get("gated"))),
            "problem": f"{problem.reason}; {problem.remedy}" if problem else ""}


def _gib(size: float | None) -> str:
    return "?" if size is None else f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def _count(number: float | None) -> str:
    """1234567 as 1.23M."""
    if number is None:
        return "?"
    scale, letter = next(((s, c) for s, c in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s), (1, ""))
    return f"{number / scale:.3g}{letter}"


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours / 24:,.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min" if hours >= 1 / 60 else "< 1 min"


def render(made: dict[str, Any]) -> str:
    """The plan as text for a terminal."""
    from tabulate import tabulate

    device = made["device"]
    rates = f"{device['bf16'] / 1e12:.3g} TFLOP/s in bf16, {device['fp32'] / 1e12:.3g} in float32 ({device['source']}), {_gib(device['memory'])}"
    sizes = [[s["size"], s["model"], _count(s["parameters"]), f"{s['to train']} of {s['policies']}", f"{s['rows']:,}", f"{s['steps']:,}",
              ("" if s["measured"] else "<= ") + _count(s["training tokens"]), "<= " + _count(s["generated tokens"]), _gib(s["memory"]),
              _hours(s["hours"]), _gib(s["disk"])] for s in made["sizes"]]
    lines = [f"Plan of profile {made['profile']} on {device['name']}: {rates}", "", tabulate(
        sizes, ["size", "model", "parameters", "to train", "rows", "steps each", "training tokens", "generated", "peak memory", "time", "disk"])]
    asked = " + ".join(f"{n:,}" for n in made["verdicts"].values())
    judges = ", ".join(name + (f" ({_hours(made['judge_hours'][name])})" if name in made["judge_hours"] else "") for name in made["judges"])
    lines += ["", f"Verdicts of each judge (Table III + IV, both orders): {asked}. Judges: {judges}."]
    if made["needs"]:
        lines += ["", tabulate([[n["name"], n["purpose"], n["where"], _gib(n["bytes"]) if n["where"] in ("hub", "missing") else "",
                                 "yes" if n["gated"] else ""] for n in made["needs"]], ["needs", "for", "where", "download", "gated"])]
    lines += ["", *(f"Disk of {d['holds']}: {_gib(d['need'])} needed, {_gib(d['free'])} free." for d in made["disks"]),
              f"Time in all: about {_hours(made['hours'])} on one device (metrics, notebooks and learnt judges come on top).", "", *made["notes"]]
    if made["problems"]:
        lines += ["", "Before it can start:", *(f"- {problem}" for problem in made["problems"])]
    return "\n".join([*lines, "", "Not ready." if made["problems"] else "Ready."])
