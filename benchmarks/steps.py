"""A training step, a whole run, a reference pass and its padding, beside what a user would pick
instead."""

from __future__ import annotations

import copy
import tempfile

import numpy as np

from benchmarks.cases import FLAN_SMALL, LLAMA, Found, Settings, even, kind_of, shape_of, steps
from benchmarks.growth import work
from benchmarks.measuring import Detail, Ratio, detail, interleaved, ratio, seconds_of
from benchmarks.sides import ours, run_ours
from benchmarks.workloads import Case, CountedPositions, real_lengths, tokenizer

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
            name = f"RPO step, {kind_of(shape)}, {label}"
            seconds, noted = steps(name, even(shape, settings, **sizes), ("rpo", "plain"), settings)
            ratios.append(ratio(name, baseline, seconds["rpo"], seconds["plain"], goal))
            details += [*noted, least(name, even(shape, settings, **sizes))]
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
        name = f"{kind_of(shape)}, 4 completions, prompts as long as completions"
        case = even(shape, settings, prompts=4, completions=4, prompt=64, completion=64)
        seconds, noted = steps(f"methods, {name}", case, ("rpo", "dro", "kto"), settings)
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
    case = even(LLAMA, settings, prompts=4, completions=4, prompt=48, completion=48)
    seconds, noted = steps(name, case, ("kto", "trl", "plain"), settings)
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
            shape_of(shape, settings), real_lengths(prompts, limit=length), min(32, 4 * prompts)
        )
        model, rewards = case.model, case.rewards.tolist()
        sides = {
            "ours": lambda: run_ours(case, copy.deepcopy(model)),
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
            shape_of(shape, settings),
            real_lengths(3 if settings.quick else 32, limit=64 if settings.quick else 512),
            4,
        )
        words = tokenizer(case.config.vocab_size)
        together = seconds_of(lambda: logps.score_completions(case.model, words, case.encoded))
        alone = seconds_of(
            lambda: [logps.score_completions(case.model, words, [row]) for row in case.encoded]
        )
        seconds = interleaved({"together": together, "alone": alone}, settings.repetitions)
        name = f"reference log-probabilities, {kind_of(shape)}, real lengths"
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
        name = f"padding, {kind_of(shape)}, real lengths"
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
