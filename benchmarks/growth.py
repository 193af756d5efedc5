"""How cost grows with the size of rows, completions, lengths and models, beside the arithmetic
that is needed."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence

from benchmarks import measuring
from benchmarks.cases import FLAN_SMALL, Found, Settings, even, kind_of, shape_of
from benchmarks.measuring import Detail, Ratio, detail, interleaved, seconds_of
from benchmarks.sides import Stepper, run_ours
from benchmarks.workloads import SHAPES, Case, configuration


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
                (4 * (n // 4), Case(shape_of(small, settings), [(16, [16] * 4)] * (n // 4), 32))
                for n in rows
            ],
        )
    )
    for shape in ("T5, 4M", "Llama, 4M"):
        each = {"prompt": 64, "completion": 64}
        grids.append(
            (
                "completions a prompt",
                kind_of(shape),
                [
                    (k, even(shape, settings, prompts=2, completions=k, **each))
                    for k in ((1, 2, 4) if quick else (1, 2, 4, 8, 16))
                ],
            )
        )
        grids.append(
            (
                "length",
                kind_of(shape),
                [
                    (n, even(shape, settings, prompts=1, completions=4, prompt=n, completion=n))
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
                    str(x): seconds_of(lambda case=case: run_ours(case, copy.deepcopy(case.model)))
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
