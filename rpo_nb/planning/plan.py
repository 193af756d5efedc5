"""Before a long run: what a profile asks for, what it costs on the device at hand, and what is
missing.

    made = make_plan(load_profile("flan-t5"), out, device=costs.device("A100 80GB"))
    print(render(made)); made["problems"]       # sentences: nothing should start while there is one

Nothing is trained, downloaded or loaded: counts come from the grid itself (`grid.plan`,
`verdicts.make_pairs`), lengths from the data where they are here, parameters and memory from
config.json. Hours are arithmetic at a share of the device's peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb.config.schema import Profile, TrainingConfig
from rpo_nb.data.splits import Splits
from rpo_nb.experiment import grid, inputs, tokenizers
from rpo_nb.judging.verdicts import make_pairs
from rpo_nb.planning import costs, needs
from rpo_nb.planning.costs import Device
from rpo_nb.planning.plan_text import size_text
from rpo_nb.planning.sizes import SHARE, benchmark_rows, config_of, named_config, rows_of, size_plan
from rpo_nb.remedies import UNREACHED
from rpo_nb.studies import lab
from rpo_nb.studies.paper_b.grid import policies

JUDGE_PROMPT = 180  # tokens of the paper's judging prompt without the texts


# Judges -------------------------------------------------------------------------------------------


def verdicts(profile: Profile, validation: int) -> dict[str, int]:
    """Questions (pairs in both orders) that every judge is asked for Tables III and IV."""
    one = {"prompt_id": 0, "prompt": "", "reference": "", "completion": ""}
    frame = pd.DataFrame(
        [{name: run.columns[name] for name in grid.KEYS} | one for run in grid.cells(profile)]
    )
    return {
        table: 2 * validation * len(make_pairs(frame, profile, table=table))
        for table in ("table3", "table4")
    }


def judge_hours(
    profile: Profile, asked: int, device: Device, share: float, *, online: bool
) -> dict[str, float | None]:
    """Hours of every language model that judges on this machine, for so many questions; None where
    its shape is unknown."""
    found: dict[str, float | None] = {}
    text = JUDGE_PROMPT + profile.data.max_prompt_tokens + 2 * profile.decoding.max_new_tokens
    for name in profile.evaluation.judges:
        judge = profile.evaluation.llm_judges.get(name)
        if judge and judge.kind == "local":
            config, _ = named_config(judge.model, revision=judge.revision, online=online)
            count = costs.parameters(config, TrainingConfig()) if config else None
            rate = device.rate(not device.cpu)  # on a CPU it computes in float32
            found[name] = count and asked * count.forward(0, text, 1) / (rate * share) / 3600
    return found


# All of it ----------------------------------------------------------------------------------------


def make_plan(profile: Profile, out: str | Path, *, device: Device) -> dict[str, Any]:
    """The whole plan as plain values: device, sizes, judges, needs, disks, hours, notes, problems
    (one sentence each)."""
    out = Path(out)
    looked = needs.look_up(profile)
    online = not any(need.access.problem is UNREACHED for need in looked)
    notes, problems = needs.server_notes(looked), needs.problems(looked)
    table, assumed = benchmark_rows(), SHARE["cpu" if device.cpu else "gpu"]
    measured = costs.share_of_peak(table, device.name, profile.training.lora)
    share = measured or assumed
    shares = {
        size: costs.share_of_peak(table, device.name, profile.training.lora, model.id) or share
        for size, model in profile.sizes.items()
    }
    own = ", ".join(f"{size} {one:.0%}" for size, one in shares.items() if one != share)
    notes += [
        f"Speeds: {measured:.0%} of the peak, the median measured in benchmarks/throughput.csv"
        + (f"; of its size: {own}." if own else ".")
        if measured
        else f"Speeds: benchmarks/throughput.csv has nothing of this device, so {assumed:.0%} of "
        "its peak is assumed.",
        "Generations and verdicts are counted at full length (decoding.max_new_tokens), an "
        "upper bound.",
    ]
    slow = costs.slow_half(profile.training, (device.bf16, device.fp32)) if device.cpu else ""
    notes += [f"Slow here: {slow}."] if slow else []
    splits = _splits(profile, looked, notes, problems)
    sizes = [
        _one_size(profile, size, out, splits, device, shares[size], online, notes)
        for size in profile.sizes
    ]
    problems += [
        *filter(None, (_too_big(profile, made, device) for made in sizes)),
        *_unfit(profile, device),
    ]
    asked = verdicts(profile, len(splits.validation) if splits else profile.data.validation)
    judges = judge_hours(profile, sum(asked.values()), device, share, online=online)
    downloads = {need.name: needs.download(need) for need in looked}
    unknown = [name for name, size in downloads.items() if size is None]
    notes += (
        [f"Not in the sums, because their size is not known: {', '.join(unknown)}."]
        if unknown
        else []
    )
    if profile.pocket_world:
        notes.append(
            f"Not in the sums: the {lab.policies(profile):,} policies more that notebook "
            f"07 trains, {profile.lab.workers} at a time."
        )
    if profile.paper_b.reproduce:
        notes.append(
            f"Not in the sums: the {policies(profile):,} policies of paper B that "
            "notebook 08 trains, "
            f"{profile.paper_b.processes} at a time."
        )
    # once more, as Arrow
    prepared = sum(downloads[need.name] or 0 for need in looked if need.kind == "dataset")
    fetched = sum(size or 0 for size in downloads.values())
    disks = needs.disks(out, sum(made["disk"] or 0 for made in sizes), fetched, prepared)
    problems += [
        f"the disk of {disk['holds']} has {size_text(disk['free'])} free, but "
        f"{size_text(disk['need'])} are needed; "
        "free some, or choose another --output-dir or HF_HOME"
        for disk in disks
        if disk["need"] > disk["free"]
    ]
    return {
        "profile": profile.name,
        "device": asdict(device),
        "sizes": sizes,
        "verdicts": asked,
        "judges": list(profile.evaluation.judges),
        "judge_hours": judges,
        "needs": [needs.plain(need, downloads[need.name]) for need in looked],
        "disks": disks,
        "hours": sum(made["hours"] or 0 for made in sizes)
        + sum(hours or 0 for hours in judges.values()),
        "notes": notes,
        "problems": problems,
    }


def _splits(
    profile: Profile, looked: Sequence[needs.Need], notes: list[str], problems: list[str]
) -> Splits | None:
    """The data of the first seed where they are on this machine."""
    bound = "Rows and lengths: the profile's limits, an upper bound"
    feedback = next((need for need in looked if need.kind == "dataset"), None)
    if feedback and feedback.access.where not in ("folder", "cache"):
        known = profile.data.source in needs.known()["datasets"]
        notes.append(
            f"{bound}; {profile.data.source} is not on this machine"
            + ("." if known else ", nor is its number of rows known: UltraFeedback's is taken.")
        )
    elif profile.pocket_world and profile.data.regime == "on_policy":
        notes.append(f"{bound}; the completions are still to be written by the references.")
    else:
        try:
            return inputs.splits(profile, profile.seeds[0])
        except ValueError as error:
            problems.append(str(error))
    return None


def _one_size(
    profile: Profile,
    size: str,
    out: Path,
    splits: Splits | None,
    device: Device,
    share: float,
    online: bool,
    notes: list[str],
) -> dict[str, Any]:
    model, tokenizer = profile.sizes[size], None
    if splits is not None or profile.pocket_world and model.id == "pocket":
        held_out = (
            list(zip(splits.held_out["prompt"], splits.held_out["completion"], strict=True))
            if splits
            else []
        )
        alone = profile.model_copy(update={"sizes": {size: model}})
        tokenizer = next(iter(tokenizers.of_profile(alone, held_out, online=online).values()))
        if isinstance(tokenizer, str):
            notes.append(
                f"Size {size}, lengths: the profile's limits, an upper bound; {tokenizer}."
            )
            tokenizer = None
    config, source = config_of(model, tokenizer, online=online)
    if source == "profiles/models.yaml":
        notes.append(f"Size {size}: config.json cannot be had, its shape is taken from {source}.")
    elif config is None:
        notes.append(
            f"Size {size}: config.json cannot be had, so its memory, hours and disk are "
            "missing from the sums."
        )
    return size_plan(
        profile, size, out, rows_of(profile, size, splits, tokenizer), config, device, share
    )


def _too_big(profile: Profile, made: dict[str, Any], device: Device) -> str:
    """The sentence on a size that does not fit into memory, "" for one that does."""
    if not made["memory"] or made["memory"] + costs.CONTEXT <= device.memory:
        return ""
    size, training = made["size"], profile.training_of(made["size"])
    others = [name for name in profile.sizes if name != size]
    if "generation" in made["parts"]:
        half = max(1, profile.evaluation.generation_batch_size // 2)
        ways = [f"evaluation.generation_batch_size={half}"]
    else:
        ways = [f"sizes.{size}.micro_batch_tokens={max(1, training.micro_batch_tokens // 2)}"]
    ways += [] if training.gradient_checkpointing else ["training.gradient_checkpointing=true"]
    ways += (
        ["lora=true"]
        if not training.lora
        else ["training.quantize=4bit"] * (training.quantize == "none")
    )
    ways += [f"sizes={','.join(others)}"] if others else []
    return (
        f"size {size} takes about {size_text(made['memory'])} of memory and this {device.name} "
        "has "
        f"{size_text(device.memory)}; try --set {' or --set '.join(ways)}"
    )


def _unfit(profile: Profile, device: Device) -> list[str]:
    """What the device cannot do at all."""
    out = []
    if profile.training.bf16 and not device.bf16:
        out.append(
            f"training.bf16 is true, but a {device.name} has no bf16; use --set training.bf16=false"
        )
    if profile.training.quantize == "4bit" and device.cpu:
        out.append(
            "training.quantize is 4bit, which needs a CUDA GPU; use --set training.quantize=none"
        )
    if profile.training.liger and device.cpu:
        out.append("training.liger is true, which needs a CUDA GPU; use --set training.liger=false")
    if profile.generation == "vllm" and device.cpu:
        out.append("generation is vllm, which needs a CUDA GPU; use --set generation=transformers")
    return out
