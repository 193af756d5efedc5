"""The benchmarks, a function each: what it finds as ratios (results.csv) and what it measured on
the way (details.csv).

    python -m rpo_nb bench   all of them, into benchmarks/, and the tables in the READMEs
    python -m rpo_nb bench --only sft trl  some; --quick runs the same code at toy size, into
    build/benchmarks/
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import measuring, tables
from benchmarks.measuring import ROOT, Detail, Ratio, detail, interleaved, ratio, seconds_of
from benchmarks.workloads import (
    SHAPES,
    Case,
    CountedPositions,
    Stepper,
    configuration,
    ours,
    real_lengths,
    tokenizer,
)

FLAN_SMALL, LLAMA = "google/flan-t5-small", "Llama, 6 layers"


@dataclass(frozen=True)
class Settings:
    """repetitions of every measurement; quick: toy sizes, which prove that a benchmark runs and
    nothing else."""

    repetitions: int = 5
    quick: bool = False


Found = tuple[list[Ratio], list[Detail]]


def _shape(name: str, settings: Settings) -> str:
    return name if not settings.quick else "Llama, tiny" if "Llama" in name else "T5, tiny"


def _kind(shape: str) -> str:
    return "Llama" if "Llama" in shape else "T5"


def _even(
    shape: str, settings: Settings, *, prompts: int, completions: int, prompt: int, completion: int
) -> Case:
    """Equal lengths; toy ones when quick."""
    if settings.quick:
        prompts, prompt, completion = 2, prompt // 8, completion // 8
    return Case.even(
        _shape(shape, settings),
        prompts=prompts,
        completions=completions,
        prompt=prompt,
        completion=completion,
    )


def _steps(
    label: str, case: Case, sides: Sequence[str], settings: Settings
) -> tuple[dict[str, np.ndarray], list[Detail]]:
    """Seconds of a training step of each side, and what to note of them."""
    with tempfile.TemporaryDirectory() as folder:
        steppers = {side: Stepper(case, side, f"{folder}/{side}") for side in sides}
        seconds = interleaved(steppers, settings.repetitions)
    rows, shared = case.tokens
    return seconds, [
        *(detail(label, side, "seconds a step", numbers) for side, numbers in seconds.items()),
        detail(label, "rows", "a step", case.batch),
        detail(label, "tokens of all rows", "a step", rows),
        detail(label, "tokens, each prompt once", "a step", shared),
    ]


# 1 to 3: a step -----------------------------------------------------------------------------------


def sft(settings: Settings) -> Found:
    """RPO's step over a plain fine-tuning step of transformers' trainer on the same rows."""
    cases = (
        (
            "4 completions, prompts as long as completions",
            0.70,
            {"prompts": 4, "completions": 4, "prompt": 64, "completion": 64},
        ),
        (
            "4 completions, prompts 3 times as long",
            0.50,
            {"prompts": 4, "completions": 4, "prompt": 96, "completion": 32},
        ),
        ("1 completion", 1.05, {"prompts": 16, "completions": 1, "prompt": 64, "completion": 64}),
    )
    ratios, details = [], []
    for shape in (FLAN_SMALL, LLAMA):
        baseline = f"a plain SFT step, {'Seq2SeqTrainer' if shape == FLAN_SMALL else 'Trainer'}"
        for label, goal, sizes in cases:
            name = f"RPO step, {_kind(shape)}, {label}"
            seconds, noted = _steps(
                name, _even(shape, settings, **sizes), ("rpo", "plain"), settings
            )
            ratios.append(ratio(name, baseline, seconds["rpo"], seconds["plain"], goal))
            details += [*noted, least(name, _even(shape, settings, **sizes))]
    return ratios, details


def least(name: str, case: Case) -> Detail:
    """The matrix products that a step cannot do without (`work`) over those of plain fine-tuning,
    which passes every row whole and, where the model is causal, projects its prompt to the
    vocabulary, too."""
    from rpo_nb.config.schema import TrainingConfig
    from rpo_nb.planning import costs

    rows = Case(
        case.shape,
        [(prompt, [answer]) for prompt, answers in case.lengths for answer in answers],
        case.batch,
    )
    projected = (
        0
        if case.config.is_encoder_decoder
        else sum(prompt for prompt, _ in rows.lengths) * case.batch / len(rows.lengths)
    )
    plain = work(rows) + 6 * costs.parameters(case.config, TrainingConfig()).head * projected
    return Detail(name, "least", "of plain SFT's arithmetic", work(case) / plain, np.nan, np.nan, 1)


def methods(settings: Settings) -> Found:
    """RPO's, DRO's and KTO's steps over each other on the same rows: paper A's Figure 1 at equal
    data."""
    ratios, details = [], []
    for shape in (FLAN_SMALL, LLAMA):
        name = f"{_kind(shape)}, 4 completions, prompts as long as completions"
        case = _even(shape, settings, prompts=4, completions=4, prompt=64, completion=64)
        seconds, noted = _steps(f"methods, {name}", case, ("rpo", "dro", "kto"), settings)
        ratios += [
            ratio(f"DRO step, {name}", "an RPO step", seconds["dro"], seconds["rpo"]),
            ratio(f"RPO step, {name}", "a KTO step of ours", seconds["rpo"], seconds["kto"]),
        ]
        details += noted
    return ratios, details


def trl(settings: Settings) -> Found:
    """Our KTO step over that of TRL's KTOTrainer, the reference log-probabilities computed
    beforehand on both sides."""
    import trl

    name = "KTO step, Llama, 4 completions, 48 + 48 tokens"
    case = _even(LLAMA, settings, prompts=4, completions=4, prompt=48, completion=48)
    seconds, noted = _steps(name, case, ("kto", "trl", "plain"), settings)
    return (
        [
            ratio(name, f"a KTO step, TRL {trl.__version__}", seconds["kto"], seconds["trl"], 0.6),
            ratio(
                "KTO step of TRL, Llama, 48 + 48 tokens",
                "a plain SFT step, Trainer",
                seconds["trl"],
                seconds["plain"],
            ),
        ],
        noted,
    )


# 4: the whole run ---------------------------------------------------------------------------------


def _run_ours(case: Case, model: torch.nn.Module) -> None:
    """Reference log-probabilities, V̂ and one epoch of RPO."""
    case.__dict__.pop("ref_logps", None)  # the pass is part of the run
    case.__dict__["model"] = model
    with tempfile.TemporaryDirectory() as folder:
        ours(case, "rpo", folder).train()


def run(settings: Settings) -> Found:
    """Our whole run over the released scripts' way of working, on lengths of real feedback."""
    from benchmarks import released
    from rpo_nb.experiment import runs as experiment_runs

    ratios, details = [], []
    for shape, prompts, repetitions in (
        ("T5, 4M", 16, settings.repetitions),
        (FLAN_SMALL, 4, min(3, settings.repetitions)),
    ):
        prompts, length = (2, 64) if settings.quick else (prompts, 512)
        case = Case(
            _shape(shape, settings), real_lengths(prompts, limit=length), min(32, 4 * prompts)
        )
        model, rewards = case.model, case.rewards.tolist()
        sides = {
            "ours": lambda: _run_ours(case, copy.deepcopy(model)),
            "theirs": lambda: released.train(
                copy.deepcopy(model), case.encoded, case.prompt_ids, rewards, length=length
            ),
        }
        # both as the kit trains: garbage collection passes over what the imports made
        with experiment_runs.quick_collections():
            seconds = interleaved(
                {side: seconds_of(work) for side, work in sides.items()},
                repetitions,
                warm_up=settings.quick,
            )
        name = (
            "reference pass and an epoch of RPO, "
            f"{'T5' if shape == 'T5, 4M' else 'Flan-T5-Small'}, real lengths"
        )
        ratios.append(
            ratio(
                name,
                f"the same as the released scripts go about it, padded to {length}",
                seconds["ours"],
                seconds["theirs"],
                1 / 8,
            )
        )
        real = sum(len(p) + len(c) for p, c in case.encoded)
        details += [
            *(detail(name, side, "seconds", numbers) for side, numbers in seconds.items()),
            detail(name, "real tokens of all rows", "tokens", real),
            detail(name, "padded to the maximum", "tokens", 2 * length * len(case.encoded)),
        ]
    return ratios, details


def scoring(settings: Settings) -> Found:
    """The reference pass: length-sorted batches over one row at a time, neither with needless
    padding."""
    from rpo_nb.policy import logps

    ratios, details = [], []
    for shape in ("T5, 4M", LLAMA):
        case = Case(
            _shape(shape, settings),
            real_lengths(3 if settings.quick else 32, limit=64 if settings.quick else 512),
            4,
        )
        words = tokenizer(case.config.vocab_size)
        together = seconds_of(lambda: logps.score_completions(case.model, words, case.encoded))
        alone = seconds_of(
            lambda: [logps.score_completions(case.model, words, [row]) for row in case.encoded]
        )
        seconds = interleaved({"together": together, "alone": alone}, settings.repetitions)
        name = f"reference log-probabilities, {_kind(shape)}, real lengths"
        ratios.append(
            ratio(name, "one row at a time, unpadded", seconds["together"], seconds["alone"])
        )
        details += [detail(name, side, "seconds", numbers) for side, numbers in seconds.items()]
    return ratios, details


def padding(settings: Settings) -> Found:
    """Positions that the trainer's forward passes take in beyond those that have to be read.

    These are each prompt once and of each completion all but the last token, for T5 a start token a
    prompt.
    """
    ratios, details = [], []
    for shape in ("T5, thin", "Llama, thin"):
        case = Case(shape, real_lengths(8 if settings.quick else 128), 32)
        with tempfile.TemporaryDirectory() as folder:
            trainer = ours(case, "rpo", folder)
            counted = CountedPositions(trainer.model.policy)
            trainer.train()
        real = sum(
            p + sum(n - 1 for n in c) + case.config.is_encoder_decoder for p, c in case.lengths
        )
        name = f"padding, {_kind(shape)}, real lengths"
        ratios.append(
            Ratio(
                name,
                "the tokens to be read, each prompt once",
                counted.count / real - 1,
                np.nan,
                np.nan,
                0.05,
                1,
            )
        )
        details += [
            detail(name, "taken in", "tokens", counted.count),
            detail(name, "to be read", "tokens", real),
        ]
    return ratios, details


# 5: cost against size -----------------------------------------------------------------------------


def work(case: Case) -> float:
    """FLOPs that a training step's matrix products need on average: three forward passes over the
    real tokens, each prompt once.

    Attention's products are counted, causal ones by half; T5's keys and values of the prompt are
    made once a prompt.
    """
    from rpo_nb.config.schema import TrainingConfig
    from rpo_nb.planning import costs

    config = case.config
    count, total = costs.parameters(config, TrainingConfig()), 0.0
    for prompt, completions in case.lengths:
        answers, squares = sum(completions), sum(c * c for c in completions)
        if config.is_encoder_decoder:
            width = config.num_heads * config.d_kv
            across = 2 * config.d_model * width * config.num_decoder_layers
            total += 2 * (
                count.encoder * prompt
                + (count.decoder - across) * answers
                + across * prompt
                + count.head * answers
            )
            total += (
                4
                * width
                * (
                    config.num_layers * prompt**2
                    + config.num_decoder_layers * (squares / 2 + prompt * answers)
                )
            )
        else:
            total += 2 * (count.decoder * (prompt + answers) + count.head * answers)
            total += (
                4
                * config.hidden_size
                * config.num_hidden_layers
                * (prompt**2 / 2 + prompt * answers + squares / 2)
            )
    return 3 * total * case.batch / len(case.prompt_ids)


def size(settings: Settings) -> Found:
    """How seconds grow with rows, completions, length and model, beside how the needed arithmetic
    grows: fitted exponents."""
    quick, small = settings.quick, "T5, axis 64"
    grids: list[tuple[str, str, list[tuple[float, Case]]]] = []
    rows = (32, 64, 128) if quick else (100, 316, 1000, 3160, 10000)
    grids.append(
        (
            "rows",
            "T5",
            [
                (4 * (n // 4), Case(_shape(small, settings), [(16, [16] * 4)] * (n // 4), 32))
                for n in rows
            ],
        )
    )
    for shape in ("T5, 4M", "Llama, 4M"):
        each = {"prompt": 64, "completion": 64}
        grids.append(
            (
                "completions a prompt",
                _kind(shape),
                [
                    (k, _even(shape, settings, prompts=2, completions=k, **each))
                    for k in ((1, 2, 4) if quick else (1, 2, 4, 8, 16))
                ],
            )
        )
        grids.append(
            (
                "length",
                _kind(shape),
                [
                    (n, _even(shape, settings, prompts=1, completions=4, prompt=n, completion=n))
                    for n in ((32, 64, 128) if quick else (32, 64, 128, 256, 512))
                ],
            )
        )
    shapes = [(_parameters(s), s) for s in SHAPES if s.startswith("T5, axis")][
        : 3 if quick else None
    ]
    shapes += [] if quick else [(_parameters(FLAN_SMALL), FLAN_SMALL)]
    grids.append(
        (
            "parameters",
            "T5",
            [
                (n, Case.even(s, prompts=2, completions=4, prompt=48, completion=48))
                for n, s in shapes
            ],
        )
    )
    ratios, details = [], []
    for axis, kind, grid in grids:
        name = f"growth with {axis}, {kind}"
        with tempfile.TemporaryDirectory() as folder:
            if axis == "rows":  # everything a run does, set-up included
                sides = {
                    str(x): seconds_of(lambda case=case: _run_ours(case, copy.deepcopy(case.model)))
                    for x, case in grid
                }
                seconds = interleaved(sides, 1 if quick else 3, warm_up=quick)
                needed = [(x, work(case) * x / case.batch) for x, case in grid]
            else:
                seconds = interleaved(
                    {str(x): Stepper(case, "rpo", f"{folder}/{x}") for x, case in grid},
                    settings.repetitions,
                )
                needed = [(x, work(case)) for x, case in grid]
        ratios.append(growth(name, [(x, s) for x, _ in grid for s in seconds[str(x)]], needed))
        details += [detail(name, f"{axis} = {x}", "seconds", seconds[str(x)]) for x, _ in grid]
        details += [detail(name, f"{axis} = {x}", "GFLOP", flops / 1e9) for x, flops in needed]
        for what, points in (
            ("seconds", [(x, s) for x, _ in grid for s in seconds[str(x)]]),
            ("work", needed),
        ):
            fit = measuring.exponent(*zip(*points, strict=True))
            details.append(
                Detail(name, what, "exponent", fit.value, fit.low, fit.high, len(points))
            )
    return ratios, details


def growth(
    name: str, seconds: Sequence[tuple[float, float]], needed: Sequence[tuple[float, float]]
) -> Ratio:
    """The exponent of (size, seconds) over that of (size, FLOPs), with the 95 % interval of the
    first."""
    time_, flops = (measuring.exponent(*zip(*points, strict=True)) for points in (seconds, needed))
    return Ratio(
        f"{name}: exponent of seconds",
        "the exponent of the needed arithmetic",
        time_.value / flops.value,
        time_.low / flops.value,
        time_.high / flops.value,
        1.0,
        len(seconds),
    )


def _parameters(shape: str) -> int:
    from rpo_nb.config.schema import TrainingConfig
    from rpo_nb.planning import costs

    return costs.parameters(configuration(shape), TrainingConfig()).all


# 6: memory ----------------------------------------------------------------------------------------


def memory(settings: Settings) -> Found:
    """Peak memory of a training, weights and optimiser included, and of the vocabulary projection
    alone; a process each.

    Three repetitions at most, since a peak hardly varies.
    """
    ratios, details, repetitions = [], [], min(3, settings.repetitions)
    for shape, sides in ((FLAN_SMALL, ("rpo", "plain")), (LLAMA, ("rpo", "kto", "plain", "trl"))):
        shape = _shape(shape, settings)
        peaks = interleaved(
            {
                side: lambda side=side: measuring.fresh(
                    "benchmarks.memory", "training", shape, side
                )["mib"]
                for side in sides
            },
            repetitions,
            warm_up=False,
        )
        name = f"peak memory, {_kind(shape)}"
        ratios.append(ratio(f"{name}: RPO", "plain SFT", peaks["rpo"], peaks["plain"]))
        if "trl" in sides:
            ratios.append(ratio(f"{name}: KTO", "TRL's KTOTrainer", peaks["kto"], peaks["trl"]))
        details += [detail(name, side, "MiB", numbers) for side, numbers in peaks.items()]
    for shape in (FLAN_SMALL, "HuggingFaceTB/SmolLM2-135M-Instruct"):
        name = (
            "vocabulary projection, width of "
            f"{'SmolLM2-135M' if 'Smol' in shape else 'Flan-T5-Small'}"
        )
        found: dict[str, list[dict]] = {"pieces": [], "full": []}
        for _ in range(repetitions):
            for way in found:
                found[way].append(
                    measuring.fresh(
                        "benchmarks.memory",
                        "projection",
                        shape,
                        way,
                        "4" if settings.quick else "16",
                    )
                )
        peaks = {way: np.array([one["mib"] for one in many]) for way, many in found.items()}
        ratios.append(
            ratio(
                f"peak memory, {name}",
                "log-softmax over all logits at once",
                peaks["pieces"],
                peaks["full"],
            )
        )
        details += [detail(name, way, "MiB", numbers) for way, numbers in peaks.items()]
        details += [
            detail(name, way, "seconds", np.array([one["seconds"] for one in many]))
            for way, many in found.items()
        ]
    return ratios, details


def gpu(settings: Settings) -> Found:
    """Share of a GPU's peak and peak memory, by shape and method (throughput.py)."""
    if not torch.cuda.is_available():
        print(
            "gpu: no CUDA GPU is here, so the share of its peak and the memory of XL shapes were "
            "not measured."
        )
        return [], []
    from benchmarks import throughput

    ratios, details = [], []
    for row in throughput.every(
        throughput.known()[: 1 if settings.quick else None], repetitions=settings.repetitions
    ):
        name = (
            f"{row['model']}, {'LoRA' if row['lora'] else 'full'}, bf16, {row['rows']} rows of "
            f"{row['prompt']} + {row['completion']}"
        )
        details += [
            detail(name, row["method"], "seconds a step", row["seconds"]),
            detail(name, row["method"], "peak GiB", row["peak_gib"]),
        ]
        if row["share_of_peak"]:
            goal = (
                1 / 0.45 if row["model"].endswith(("large", "xl")) and not row["lora"] else np.nan
            )
            ratios.append(
                Ratio(
                    f"SFT step of ours, {name}",
                    "the same arithmetic at the GPU's peak",
                    1 / row["share_of_peak"],
                    np.nan,
                    np.nan,
                    goal,
                    settings.repetitions,
                )
            )
    return ratios, details


# 7, and what surrounds a run ----------------------------------------------------------------------

# of a reproduction: the goal is one for paper A's tables
OTHER_STAGES = ("07_partition_lab", "08_reward_aware")


def reproduction(settings: Settings) -> Found:
    """Paper A's tables in the committed pocket reproduction, from its manifest: their jobs' seconds
    over the cores that ran them."""
    pocket = ROOT / "results" / "pocket"
    manifest = json.loads((pocket / "manifest.json").read_text(encoding="utf-8"))
    seconds, cores = manifest["seconds"], manifest["hardware"]["cores"]
    stages: dict[str, float] = {}
    for job, took in seconds["jobs"].items():
        stages[job.partition("-")[0]] = stages.get(job.partition("-")[0], 0.0) + took
    trained = pd.read_csv(pocket / "tables" / "timings.csv")["seconds"].sum()
    if stages["03_train"] < trained:
        print(
            f"reproduction: notebook 03 took {stages['03_train']:.0f} s and its policies "
            f"{trained:.0f} s, so they came from a cache and its "
            "minutes say nothing; reproduce pocket into an empty folder with an empty "
            "RPO_NB_CACHE first."
        )
        return [], []
    name = f"pocket reproduction of Tables I to IV, its jobs' seconds over {cores} cores"
    tables_only = sum(took for stage, took in stages.items() if stage not in OTHER_STAGES) / cores
    return (
        [Ratio(name, "10 minutes", tables_only / 600, np.nan, np.nan, 0.6, 1)],
        [
            detail(
                name, f"Tables I to IV, jobs added up over {cores} cores", "seconds", tables_only
            ),
            detail(name, "everything, as a clock shows", "seconds", seconds["wall"]),
            *(
                detail(name, f"{stage}, its jobs added up", "seconds", took)
                for stage, took in stages.items()
            ),
        ],
    )


IDLE = (
    "from jupyter_client.manager import start_new_kernel as new; manager, client = new(); "
    "client.execute_interactive('pass'); "
    "client.stop_channels(); manager.shutdown_kernel()"
)


def start(settings: Settings) -> Found:
    """Seconds of `import rpo_nb`, and of a papermill run of a notebook that does nothing, beside
    its kernel's."""
    import nbformat

    timed = lambda *arguments: seconds_of(lambda: measuring.python(*arguments))  # noqa: E731
    repetitions = settings.repetitions
    found = interleaved(
        {"bare": timed("-c", "pass"), "import": timed("-c", "import rpo_nb")}, repetitions
    )
    importing = np.maximum(found["import"] - found["bare"], 1e-4)
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "nothing.ipynb"
        kernel = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass")], metadata=kernel),
            notebook,
        )
        runs = interleaved(
            {
                "kernel": timed("-c", IDLE),
                "papermill": timed(
                    "-m", "papermill", str(notebook), str(Path(folder) / "out.ipynb")
                ),
            },
            repetitions,
        )
    waste = np.maximum(runs["papermill"] - runs["kernel"], 1e-4)
    return (
        [
            ratio("import rpo_nb", "0.3 seconds", importing, np.full(repetitions, 0.3), 1.0),
            ratio(
                "papermill beyond the kernel, a notebook that does nothing",
                "the kernel alone",
                waste,
                runs["kernel"],
                1.0,
            ),
        ],
        [
            detail("import rpo_nb", "beyond bare Python", "seconds", importing),
            *(
                detail("a notebook that does nothing", side, "seconds", numbers)
                for side, numbers in runs.items()
            ),
        ],
    )


BENCHMARKS: dict[str, Callable[[Settings], Found]] = {
    "sft": sft,
    "methods": methods,
    "trl": trl,
    "run": run,
    "scoring": scoring,
    "padding": padding,
    "size": size,
    "memory": memory,
    "gpu": gpu,
    "reproduction": reproduction,
    "start": start,
}


def bench(
    only: Sequence[str] = (), *, repetitions: int = 5, quick: bool = False, output: str | Path = ""
) -> Path:
    """Run benchmarks, merge their rows into <output>/results.csv and details.csv and, when that is
    benchmarks/ itself, fill the READMEs' tables. Returns the folder. Raises ValueError for an
    unknown name."""
    unknown = set(only) - set(BENCHMARKS)
    if unknown or repetitions < 1:
        raise ValueError(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
            if unknown
            else f"--repetitions is {repetitions}; give 1 or more"
        )
    settings, where = Settings(repetitions, quick), tables.machine(quick)
    folder = Path(output) if output else ROOT / "build" / "benchmarks" if quick else tables.HERE
    for name in only or BENCHMARKS:
        started = time.perf_counter()
        print(f"{name}: {BENCHMARKS[name].__doc__.splitlines()[0]}", flush=True)
        rows = tables.write(folder, name, *BENCHMARKS[name](settings), where)
        for row in rows.itertuples():
            print(f"  {row.name} / {row.baseline}: {row.ratio:.3f}", flush=True)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    if folder.resolve() == tables.HERE:
        tables.fill_readmes()
    return folder
