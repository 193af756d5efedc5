"""Finished policies asked other prompts than the validation rows: a step after a run.

    asked = ask_policies(profile, out, read_prompts("alpaca_eval.json"))
    export_all(asked, prompts, out)        # <out>/asked/<set>/, in the formats of `exports`
    judged(asked, profile, out, prompts)   # RPO against the others by the profile's judges

Nothing is trained: a policy that is missing is an error. What a policy says is kept beside it, by
the content of the prompts, so the same question is not asked twice.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rpo_nb.config.loading import as_list, load_profile
from rpo_nb.config.methods import tau_of
from rpo_nb.config.schema import Profile
from rpo_nb.config.settings import refuse_unknown
from rpo_nb.evaluation.exports import conversation, export, prompt_text
from rpo_nb.evaluation.prompt_sets import PromptSet, read_prompts
from rpo_nb.experiment import inputs
from rpo_nb.experiment.generations import completions
from rpo_nb.experiment.grid import Run, cells, world_key
from rpo_nb.experiment.seen import NO_LIMIT
from rpo_nb.judging.length_control import length_controlled, length_notes
from rpo_nb.judging.verdicts import ask, judges_for, make_pairs
from rpo_nb.policy.encoding import Prompt, encode
from rpo_nb.reporting.rendering import write_table
from rpo_nb.running.processes import only_one, shown
from rpo_nb.running.staging import placed
from rpo_nb.store import STAMP, read_json, sealed


class Asked(NamedTuple):
    """A policy and its replies: of each prompt one a turn."""

    run: Run
    replies: list[list[str]]

    @property
    def name(self) -> str:
        """Of its files: preset, method, size, temperature where it has one, seed."""
        run = self.run
        tau = "" if run.tau is None else f"-tau{run.tau:g}"
        return f"{run.preset}-{run.method}-{run.size}{tau}-seed{run.seed}"


def chosen_runs(
    profile: Profile, *, presets: str = "", methods: str = "", sizes: str = "", seeds: str = ""
) -> list[Run]:
    """The policies of a profile at their preset's own temperature, of these presets, methods, sizes
    and seeds ("a,b"; "" for all). Raises ValueError for a name that the profile does not have."""
    wanted = {
        "preset": (as_list(presets), list(profile.presets)),
        "method": (as_list(methods), list(profile.methods)),
        "size": (as_list(sizes), list(profile.sizes)),
        "seed": (as_list(seeds, int), list(profile.seeds)),
    }
    for field, (names, known) in wanted.items():
        refuse_unknown(f"--{field}s", names, known)
    return [
        run
        for run in cells(profile)
        if all(not names or getattr(run, field) in names for field, (names, _) in wanted.items())
        and run.tau == tau_of(profile.presets[run.preset], run.method)
    ]


def check_start(profile: Profile, run: Run, folder: Path) -> None:
    """ValueError where a finished policy was not trained from the reference and on the rows that
    this version of the kit makes: beside today's reference it would be measured wrongly. Which code
    trained it does not matter."""
    stamp = read_json(folder / STAMP)
    if stamp.get("world") == world_key(profile, run.size, run.seed):
        return
    prepared = inputs.prepare(profile, run.size, run.seed)
    if stamp.get("inputs") != inputs.inputs_key(profile, run, prepared):
        raise ValueError(
            f"the policy {folder.name} was trained from another reference, or on other rows, than "
            "this version of the kit makes, so it cannot stand beside them; run reproduce again "
            "with the same output folder, which trains it again"
        )


def ask_policies(
    profile: Profile, out: str | Path, prompts: PromptSet, runs: list[Run] | None = None
) -> list[Asked]:
    """What the policies say to the prompts, turn by turn. runs: default `chosen_runs` of all.

    A completion's random numbers are those of its policy's seed. Raises ValueError naming the first
    policy that is not finished in `out`, or that `check_start` refuses, before any is asked.
    """
    out = Path(out)
    runs = chosen_runs(profile) if runs is None else runs
    missing = [run for run in runs if run.trained and sealed(run.folder(out), quick=True) is None]
    if missing:
        raise ValueError(
            f"{out.name} has no finished policy {missing[0].words} of preset {missing[0].preset} "
            f"({len(missing)} of {len(runs)} are missing); run reproduce first, or name those that "
            "are there with --presets, --methods, --sizes, --seeds"
        )
    inputs.torch_threads(profile)
    for run in runs:
        if run.trained:
            check_start(profile, run, run.folder(out))
    found = []
    for size, seed in dict.fromkeys((run.size, run.seed) for run in runs):
        prepared = inputs.prepare(profile, size, seed)
        for run in (run for run in runs if (run.size, run.seed) == (size, seed)):
            found.append(Asked(run, _replies(profile, run, prepared, out, prompts)))
    return found


def _replies(
    profile: Profile, run: Run, prepared: inputs.Prepared, out: Path, prompts: PromptSet
) -> list[list[str]]:
    """A policy's replies, one turn of all prompts after the other; a prompt without a next turn is
    not asked again."""
    replies: list[list[str]] = [[] for _ in prompts.turns]
    for turn in range(max(map(len, prompts.turns))):
        rows = [i for i, turns in enumerate(prompts.turns) if len(turns) > turn]
        asked = [
            prompts.turns[i][0] if not turn else conversation(prompts.turns[i], replies[i])
            for i in rows
        ]
        _tell_of_cuts(profile, run, prepared, prompts, rows, asked)
        texts = completions(
            profile, run, prepared, out, asked=f"{prompts.key}-turn{turn}-", prompts=asked
        )
        for i, text in zip(rows, texts, strict=True):
            replies[i].append(text)
    return replies


def _tell_of_cuts(
    profile: Profile,
    run: Run,
    prepared: inputs.Prepared,
    prompts: PromptSet,
    rows: list[int],
    asked: list[Prompt],
) -> None:
    """Warn of prompts that are longer than the policy reads: exports and judges have them whole."""
    limit = profile.limits(run.size)["max_prompt_tokens"]
    read, whole = (
        encode(
            prepared.tokenizer,
            asked,
            ["x"] * len(asked),
            max_prompt_tokens=tokens,
            max_completion_tokens=1,
        )
        for tokens in (limit, NO_LIMIT)
    )
    cut = [i + 1 for i, mine, all_ in zip(rows, read, whole, strict=True) if mine[0] != all_[0]]
    if cut:
        warnings.warn(
            f"{prompts.name}: {len(cut):,} of {len(rows):,} prompts, the first number {cut[0]}, "
            f"have more than the {limit} tokens that {run.size} reads: they are cut in the middle, "
            "or lose their oldest turns, while exports and judges have them whole; train with a "
            "larger data.max_prompt_tokens, or ask shorter prompts",
            stacklevel=2,
        )


def export_all(asked: list[Asked], prompts: PromptSet, out: str | Path) -> list[Path]:
    """Every policy's files of `exports.export` in <out>/asked/<set>/."""
    folder = Path(out) / "asked" / prompts.name
    return [
        path
        for one in asked
        for path in export(folder, prompts, one.replies, one.name, one.run.decoding)
    ]


def as_generations(asked: list[Asked], prompts: PromptSet) -> pd.DataFrame:
    """The replies as rows of generations, as `verdicts.make_pairs` takes them: a turn of a prompt
    is a prompt of its own, its text all that was said before."""
    rows = []
    for one in asked:
        number = 0
        for turns, said in zip(prompts.turns, one.replies, strict=True):
            for turn in range(len(said)):
                text = prompt_text(turns, said[: turn + 1])
                rows.append(
                    one.run.columns
                    | {"prompt_id": number, "prompt": text, "completion": said[turn]}
                )
                number += 1
    return pd.DataFrame(rows)


def check_judged(prompts: PromptSet) -> None:
    """Raises ValueError for prompts of several turns: a policy is asked the second after its own
    first reply, so no two policies are asked the same, and there is no pair."""
    several = sum(len(turns) > 1 for turns in prompts.turns)
    if several:
        raise ValueError(
            f"{prompts.name}: {several:,} of the {len(prompts.turns):,} prompts have more turns "
            "than one, and a policy is asked the second after its own first reply, so no two can "
            "be compared; ask without --judge and give mt_bench/ to FastChat's judge, or ask a "
            "file of the first turns alone"
        )


def judged(asked: list[Asked], profile: Profile, out: str | Path, prompts: PromptSet) -> Path:
    """RPO against every other policy on these prompts, by the profile's judges; verdicts in
    <out>/verdicts/asked_<set>-*, win rates raw and at equal length in <out>/tables/asked_<set>.*.
    Raises ValueError where RPO or every baseline is missing, and for prompts of several turns."""
    check_judged(prompts)
    pairs = make_pairs(as_generations(asked, prompts), profile, table="table3")
    if pairs.empty:
        raise ValueError("there is no pair to judge: ask rpo and at least one other method")
    seeds = sorted(set(pairs["seed"].tolist()))
    bench = {seed: judges_for(profile, out, seed) for seed in seeds}
    name = f"asked_{prompts.name}"
    table = length_controlled(ask(bench, pairs, out, name), pairs)
    return write_table(table, out, name, length_notes(table))


def run(arguments: argparse.Namespace, out: Path) -> int:
    """`python -m rpo_nb ask`."""
    profile, prompts = (
        placed(load_profile(str(out / "profile.yaml")), out),
        read_prompts(arguments.prompts),
    )
    if arguments.judge:
        check_judged(prompts)
    chosen = {name: getattr(arguments, name) for name in ("presets", "methods", "sizes", "seeds")}
    with only_one(out):
        asked = ask_policies(profile, out, prompts, chosen_runs(profile, **chosen))
        written = export_all(asked, prompts, out)
        print(
            f"{len(asked)} policies asked {len(prompts.turns):,} prompts ({prompts.kind}); "
            f"{len(written)} files in {shown(out / 'asked' / prompts.name)}"
        )
        if arguments.judge:
            print(shown(judged(asked, profile, out, prompts)))
    return 0
