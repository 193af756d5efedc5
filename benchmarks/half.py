"""What bfloat16 gives a real model on this machine: training, scoring and sampling."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from benchmarks import throughput
from benchmarks.cases import Found, Settings
from benchmarks.measuring import detail, interleaved, ratio
from benchmarks.throughput import SAMPLING, Shape, Spec, tokens
from benchmarks.workloads import Case, tokenizer
from rpo_nb.config.loading import load_profile
from rpo_nb.policy import logps

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIDES = {"bfloat16": True, "float32": False}
STEPS = 2  # of a training, after a first that does not count
SCORED = 4096  # padded tokens a pass
NEW_TOKENS = 64
GOAL = 0.5


def half(settings: Settings) -> Found:
    """bfloat16 over float32 with LoRA, on SmolLM2-135M's shape, as profile smollm goes about it: an
    RPO step, log-probabilities of completions, sampling; random weights, real lengths."""
    profile = load_profile("smollm")
    shape = Shape(SMOLLM, profile.training, profile.data.max_completion_tokens)
    if settings.quick:
        few = profile.training.model_copy(update={"batch_size": 8})
        shape = Shape("Llama, tiny", few, 12)
    ratios, details = [], []
    for name, method, seconds_a_token in (
        ("RPO step", "rpo", trained),
        ("log-probabilities", "sft", scored),
        ("sampling", SAMPLING, sampled),
    ):
        specs = {side: spec_of(shape, method, on) for side, on in SIDES.items()}
        case = specs["float32"].case(STEPS + 1)
        found = interleaved(
            {side: partial(seconds_a_token, spec, case) for side, spec in specs.items()},
            min(3, settings.repetitions),
            warm_up=method == "sft",  # the others begin with a step or a pass that does not count
        )
        label = f"{name}, SmolLM2-135M, LoRA, bfloat16"
        ratios.append(ratio(label, "the same in float32", *found.values(), GOAL))
        for side, numbers in found.items():
            details.append(detail(label, side, "tokens a second", 1 / numbers))
            if needed := flops_a_token(specs[side], case):
                share = needed / numbers / throughput.here().rate(SIDES[side])
                details.append(detail(label, side, "of the machine's peak", share))
    return ratios, details


def spec_of(shape: Shape, method: str, bf16: bool) -> Spec:
    """A row with LoRA, all of it in float32 where it is not bf16."""
    training = shape.training.model_copy(update={"bf16": bf16})
    return Spec(replace(shape, training=training), True, method)


def trained(spec: Spec, case: Case) -> float:
    """Seconds of a training a token of its rows, each prompt once."""
    seconds, of_step = throughput.trained(spec, case, float("inf"))
    return seconds / of_step


def scored(spec: Spec, case: Case) -> float:
    """Seconds of a pass over the case's rows without a gradient, a token."""
    model, words = throughput.model_of(spec, case).eval(), tokenizer(case.config.vocab_size)
    started = time.perf_counter()
    logps.score_completions(
        model, words, case.encoded, bf16=spec.training.bf16, tokens_at_once=SCORED
    )
    of_all = sum(tokens(case)) * len(case.prompt_ids) / case.batch
    return (time.perf_counter() - started) / of_all


def sampled(spec: Spec, case: Case) -> float:
    """Seconds a token that is written."""
    seconds, written = throughput.sampled(spec, case, NEW_TOKENS)
    return seconds / written


def flops_a_token(spec: Spec, case: Case) -> float:
    """What the matrix products need, as `plan` counts them; 0 where memory is the limit and not
    arithmetic, in sampling."""
    prompts, answers = tokens(case)
    forward = throughput.counted(case.shape, True).forward(0, prompts + answers, answers)
    needed = {"rpo": spec.flops(case), "sft": forward, SAMPLING: 0.0}[spec.method]
    return needed / (prompts + answers)
