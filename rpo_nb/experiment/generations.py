"""The completions of every cell: asked of its policy, kept beside it, gathered into
<out>/generations/{preset}-{size}-seed{seed}.jsonl.gz.

`ensure_runs(profile, out)` makes what is missing and skips what is there: references, policies,
completions. Cells of different presets whose recipe is the same share one run and one file of
completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb import store
from rpo_nb.config.keys import content_key
from rpo_nb.config.methods import AUTHORS, METHODS
from rpo_nb.config.schema import Profile
from rpo_nb.data.feedback import conversations
from rpo_nb.data.splits import Splits
from rpo_nb.experiment import inputs, references
from rpo_nb.experiment.grid import (
    KEYS,
    Run,
    cell_of,
    cell_world,
    cells,
    plan,
    recipe,
    world_key,
)
from rpo_nb.experiment.inputs import Prepared, fetch, half, torch_threads
from rpo_nb.experiment.runs import holds, quick_collections, train, train_runs
from rpo_nb.policy import load, logps
from rpo_nb.policy.generation import ready, samples
from rpo_nb.remedies import memory_advice
from rpo_nb.running.progress import tell
from rpo_nb.running.provenance import folder_key, model_key, step_code
from rpo_nb.store import (
    atomic_write,
    file_digest,
    packed,
    read_sealed,
    sealed,
    unpacked,
    write_sealed,
)

COLUMNS = [*KEYS, "prompt_id", "prompt", "reference", "completion"]


# Generation ---------------------------------------------------------------------------------------


def completions_file(profile: Profile, run: Run, out: Path, asked: str = "") -> Path:
    """Where a run's completions are kept: beside its policy, or in a folder of the reference's
    own. asked: "" for the validation prompts, else what names others."""
    # never one engine's texts for another's
    engine = "" if profile.generation == "transformers" else f"{profile.generation}-"
    common = "common-" if run.common else ""
    file = f"completions-{engine}{asked}{common}{run.decoding.key()}.json"
    if run.trained:
        return run.folder(out) / file
    # same data, same reference
    first = next(iter(profile.presets.values()))
    made_from = recipe(profile, first, "sft", run.size, None, run.seed).recipe
    if run.model:
        made_from = made_from | {"asked": run.model}
    return replace(run, recipe=made_from).folder(out) / file


def completions(
    profile: Profile,
    run: Run,
    prepared: Prepared,
    out: Path,
    *,
    asked: str = "",
    prompts: Sequence[str] = (),
    world: str = "",
) -> list[str]:
    """The run's completions of the validation prompts (or of `prompts`, which `asked` names);
    generated once a (policy, decoding) and kept beside the policy, with both log-probabilities,
    from which KL(policy ‖ reference) is estimated. world: see `train_runs`."""
    file, world = completions_file(profile, run, out, asked), world or cell_world(profile, run)
    stored = read_sealed(file)
    if stored is not None and stored["world"] == world:
        return stored["completions"]
    prompts = list(prompts) or conversations(prepared.splits.validation)
    if run.trained and store.left_out(file.parent):
        _train_again(profile, run, prepared, out, world)
    training, limit = profile.training, profile.limits(run.size)["max_prompt_tokens"]
    path = (
        references.fetched(run.model, profile.sizes[run.size].authors_revision)
        if run.model
        else prepared.path
    )
    weights = folder_key(file.parent / "policy") if run.trained else model_key(path)
    precision = [
        training.bf16,
        training.quantize,
        profile.evaluation.generation_batch_size if training.bf16 else None,
    ]
    made_from = content_key(
        [
            prompts,
            weights,
            model_key(prepared.path),
            run.decoding.key(),
            run.stream,
            limit,
            precision,
            step_code("completions by vllm" if profile.generation == "vllm" else "completions"),
        ]
    )
    if stored is not None and stored["made_from"] == made_from:
        write_sealed(file, stored | {"world": world})
        return stored["completions"]
    model, tokenizer = prepared.reference, prepared.tokenizer
    if run.trained or run.model:
        path = file.parent / "policy" if run.trained else path
        model, tokenizer = load.load_policy(
            path, bf16=half(training), quantize=training.quantize, base=prepared.path
        )
    with (
        logps.autocast(training.bf16),
        memory_advice(
            f"generating with {run.method} {run.size}", "lower evaluation.generation_batch_size"
        ),
    ):
        drawn = samples(
            model,
            tokenizer,
            prompts,
            decoding=run.decoding,
            seed=run.stream,
            max_prompt_tokens=limit,
            batch_size=profile.evaluation.generation_batch_size,
            engine=profile.generation,
        )
    # what was drawn: a cut text has no end token
    texts, encoded = [one.text for one in drawn], [one.row for one in drawn]
    with (
        load.adapter_off(model)
        if hasattr(model, "disable_adapter")
        else nullcontext(prepared.reference) as reference
    ):
        theirs = logps.score_completions(reference, tokenizer, encoded, bf16=training.bf16)[
            0
        ].tolist()
    mine = logps.score_completions(model, tokenizer, encoded, bf16=training.bf16)[0].tolist()
    write_sealed(
        file,
        {
            "made_from": made_from,
            "world": world,
            "completions": texts,
            # of float32 sums: what is beyond is noise, and half of a file's size
            "policy_logps": [round(logp, 5) for logp in mine],
            "ref_logps": [round(logp, 5) for logp in theirs],
            "tokens": [len(ids) for _, ids in encoded],
        },
    )
    return texts


def _train_again(profile: Profile, run: Run, prepared: Prepared, out: Path, world: str) -> None:
    """Train a policy that travelled without its weights; what it said stays."""
    folder = run.folder(out)
    store.again(folder, "came without its weights, which are needed")
    said = {file.name: file.read_bytes() for file in folder.glob("completions-*.json")}
    train(profile, run, prepared, out, world=world)
    for name, content in said.items():
        atomic_write(folder / name, content)


def generation_rows(run: Run, parts: Splits, texts: Sequence[str]) -> pd.DataFrame:
    """The run's rows of a generations file."""
    validation = parts.validation
    return pd.DataFrame(
        {
            **{name: run.columns[name] for name in KEYS},
            "prompt_id": validation["prompt_id"],
            "prompt": validation["prompt"],
            "reference": validation["completion"],
            "completion": list(texts),
        }
    )


def ensure_runs(profile: Profile, out: Path, *, progress: bool = True) -> None:
    """Make every reference, policy and generations file the profile asks for that is not there yet;
    say what was skipped."""
    from tqdm.auto import tqdm

    out = Path(out)
    torch_threads(profile)
    fetch(profile)
    wanted = cells(profile)
    total = len(plan(profile)) + len(
        {(run.size, run.seed, run.key, run.decoding.key()) for run in wanted}
    )
    made = 0
    with tqdm(
        total=total, desc="policies and their completions", unit="step", disable=not progress
    ) as bar:
        for size in profile.sizes:
            for seed in profile.seeds:
                mine = [run for run in wanted if (run.size, run.seed) == (size, seed)]
                made += _ensure_size(profile, mine, out, bar)
    print(
        f"{made} policies trained, {len(plan(profile)) - made} were done already; generations "
        f"are in {(out / 'generations').name}/"
    )


def ensure_generations(profile: Profile, out: Path) -> None:
    """`ensure_runs`, but a folder without policies whose generations are complete (a clone's) is
    taken as it is, and said so."""
    out = Path(out)
    if not any((out / "runs").glob("*/done.json")) and (out / "generations").is_dir():
        stored = set()
        try:
            found = load_generations(out)[KEYS].drop_duplicates()
            stored = {cell_of(key) for key in found.itertuples(index=False, name=None)}
        except store.Damaged as error:
            print(error)
        if {run.cell for run in cells(profile)} <= stored:
            print(
                "the stored generations are complete and are used as they are; the policies that "
                "wrote them are not here"
            )
            return
    ensure_runs(profile, out)


def _ensure_size(profile: Profile, mine: list[Run], out: Path, bar: Any) -> int:
    """The runs of one size and seed; returns how many policies had to be trained."""
    size, seed = mine[0].size, mine[0].seed
    presets = {
        preset: [run for run in mine if run.preset == preset]
        for preset in dict.fromkeys(run.preset for run in mine)
    }
    written = [_is_written(profile, group, out) for group in presets.values()]  # tells of each
    if all(written):
        trained = {run.key: run.name for run in mine if run.trained}
        tell(trained.values())
        bar.update(len(trained) + len({(run.key, run.decoding.key()) for run in mine}))
        return 0
    prepared = inputs.prepare(profile, size, seed)
    if profile.generation != "transformers":
        ready(profile.generation, prepared.reference)
    with quick_collections():
        made = train_runs(profile, [run for run in mine if run.trained], prepared, out, bar)
        seen = set()
        for run in mine:
            bar.set_postfix_str(f"{run.words} completions")
            completions(profile, run, prepared, out)
            unit = (run.key, run.decoding.key())
            bar.update(unit not in seen)
            seen.add(unit)
        for group in presets.values():
            _write_generations(profile, group, prepared, out)
    return made


def generations_file(out: Path, preset: str, size: str, seed: int) -> Path:
    return Path(out) / "generations" / f"{preset}-{size}-seed{seed}.jsonl.gz"


def _stamp(profile: Profile, mine: list[Run], out: Path) -> tuple[Path, dict[str, str]]:
    """Where it is noted which runs a generations file holds, and the note of each of these."""
    file = generations_file(out, mine[0].preset, mine[0].size, mine[0].seed)
    return out / "runs" / "generations" / f"{file.name}.json", {
        f"{run.method} {run.tau}": completions_file(profile, run, out).relative_to(out).as_posix()
        for run in mine
    }


def _is_written(profile: Profile, mine: list[Run], out: Path) -> bool:
    """Whether the generations file holds these runs, from policies that are here, and all is made
    from what is here now."""
    stamp, notes = _stamp(profile, mine, out)
    file = generations_file(out, mine[0].preset, mine[0].size, mine[0].seed)
    written = read_sealed(stamp)
    if written is None or not file.is_file() or not notes.items() <= written.items():
        return False
    if written["generations"] != file_digest(file):
        store.again(file, "is not as it was written")
        return False
    return all(
        (read_sealed(completions_file(profile, run, out)) or {}).get("world")
        == cell_world(profile, run)
        and (not run.trained or sealed(run.folder(out), quick=True) is not None)
        for run in mine
    )


def _write_generations(profile: Profile, mine: list[Run], prepared: Prepared, out: Path) -> None:
    """Write the runs' rows, beside those of other methods and temperatures that an earlier call
    made and that still hold."""
    first = mine[0]
    file = generations_file(out, first.preset, first.size, first.seed)
    known = {(run.method, run.tau): run for run in mine}
    world, preset = world_key(profile, first.size, first.seed), profile.presets[first.preset]
    for method, tau in _written_cells(file):
        if (method, tau) not in known and method in METHODS and method != AUTHORS:
            run = recipe(profile, preset, method, first.size, tau, first.seed)
            if (
                not run.trained
                or run.done_file(out).is_file()
                and holds(profile, run, prepared, out, world) is None
            ):
                known[method, tau] = replace(run, preset=first.preset)
    ordered = sorted(
        known.values(), key=lambda run: (METHODS.index(run.method), run.tau is not None, run.tau)
    )
    frame = pd.concat(
        [
            generation_rows(run, prepared.splits, completions(profile, run, prepared, out))
            for run in ordered
        ],
        ignore_index=True,
    )
    content = packed(frame)
    # what did not change keeps its time, and what is made from it stands
    if not file.is_file() or file.read_bytes() != content:
        atomic_write(file, content)
    stamp, notes = _stamp(profile, ordered, out)
    write_sealed(stamp, notes | {"generations": file_digest(file)})


def _written_cells(file: Path) -> set[tuple[str, float | None]]:
    """(method, τ) of the columns that a generations file holds; none where it is damaged."""
    try:
        rows = read_rows(file)[["method", "tau"]].itertuples(index=False) if file.is_file() else ()
    except store.Damaged:
        return set()
    return {cell_of(row) for row in rows}


def load_generations(out: Path) -> pd.DataFrame:
    """All generations of an output folder, the columns of COLUMNS. Raises ValueError when there are
    none."""
    files = sorted((Path(out) / "generations").glob("*.jsonl.gz"))
    if not files:
        raise ValueError(
            f"there are no generations in {Path(out).name}/generations; run notebook 03_train first"
        )
    return pd.concat([read_rows(f) for f in files], ignore_index=True)


def read_rows(file: Path) -> pd.DataFrame:
    """The rows of a generations file."""
    frame = pd.DataFrame(unpacked(file), columns=COLUMNS)
    return frame.astype({"tau": float, "seed": int})
