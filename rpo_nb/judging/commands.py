"""What `python -m rpo_nb judge` does beyond asking again: audits, and batch files."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from rpo_nb.config.loading import default_profile, load_profile, results_dir
from rpo_nb.config.schema import LLMJudge, Profile
from rpo_nb.config.settings import refuse_unknown
from rpo_nb.experiment.generations import load_generations
from rpo_nb.judging import batches, cards
from rpo_nb.judging.audit import ask_gold
from rpo_nb.judging.gold import drawn, gold_for
from rpo_nb.judging.judges import Judge
from rpo_nb.judging.language_models import Question
from rpo_nb.judging.length_control import length_notes
from rpo_nb.judging.planted import anew, self_test
from rpo_nb.judging.tokens import tokens_a_verdict
from rpo_nb.judging.verdicts import BASELINES, judges_for, make_pairs
from rpo_nb.running.processes import only_one, shown
from rpo_nb.running.staging import made_in

COUNTED = 50  # pairs of which a verdict's tokens are counted


def run(arguments: argparse.Namespace) -> int:
    """`judge --audit` and `judge --batch write|read FILE`."""
    if arguments.batch and arguments.batch[0] not in ("write", "read"):
        raise ValueError(f"--batch {arguments.batch[0]!r}: it must be write or read, then a file")
    if arguments.pairs and arguments.audit is None:
        raise ValueError(
            "--pairs is of --audit; leave it out, and all pairs of the tables are asked"
        )
    profile, out = _place(arguments)
    settings = profile.evaluation
    names = [name for name in arguments.judges.split(",") if name] or list(settings.judges)
    refuse_unknown("--judges", names, settings.judges)
    if arguments.batch:
        names = [name for name in names if _is_endpoint(settings.llm_judges.get(name))]
        if len(names) != 1:
            raise ValueError(
                f"a batch file is of one judge of kind: endpoint, and here are {len(names)} "
                f"({', '.join(names) or 'none'}); name one with --judges NAME"
            )
    settings = settings.model_copy(update={"judges": tuple(names)})
    profile = profile.model_copy(update={"evaluation": settings})
    with only_one(out):
        bench = judges_for(profile, out, profile.seeds[0])
        if arguments.batch:
            return batch(arguments, profile, out, bench[0])
        return audit(arguments, profile, out, bench)


def _is_endpoint(settings: LLMJudge | None) -> bool:
    return settings is not None and settings.kind == "endpoint"


def _place(arguments: argparse.Namespace) -> tuple[Profile, Path]:
    """The profile of an output folder, or the one named where nothing was reproduced yet."""
    profile = load_profile(arguments.profile or default_profile())
    out = Path(results_dir(profile, arguments.output_dir)).expanduser().resolve()
    if (out / "profile.yaml").is_file():
        profile = made_in(out, arguments.profile)
    return profile, out


# ---- the audit -----------------------------------------------------------------------------------


def audit(arguments: argparse.Namespace, profile: Profile, out: Path, bench: list[Judge]) -> int:
    """A card for each judge, and what it says in a line."""
    name, gold = gold_for(profile, arguments.audit)
    gold = drawn(gold, arguments.pairs)
    print(f"{len(gold):,} gold pairs of {name}; testing the audit with planted judges", flush=True)
    tested = self_test(gold)
    prices = None if arguments.prices is None else tuple(arguments.prices)
    rates = rates_of(out)
    for judge in bench:
        before = time.perf_counter()
        asked = ask_gold(judge, gold, another=anew(judge))
        few = [gold[column].tolist()[:COUNTED] for column in ("prompt", "output_a", "output_b")]
        mine = None if rates is None else rates[rates["judge"].eq(judge.name)]
        found = cards.card(
            judge,
            asked,
            gold=name,
            self_test=tested,
            tokens=tokens_a_verdict(judge, *few),
            prices=prices,
            rates=mine,
            notes=length_notes(mine) if mine is not None and len(mine) else [],
        )
        written = cards.write_card(found, out)
        seconds = time.perf_counter() - before
        print(f"{judge.name}: {found['headline']} ({4 * len(gold):,} questions, {seconds:.0f} s)")
        for line in found["remarks"]:
            print(line)
        print(f"  {shown(written[1])}, .html and .json")
    return 0


def rates_of(out: Path) -> pd.DataFrame | None:
    """Table III's win rates beside those at equal length, as notebook 05 wrote them: it has the
    verdicts and the texts that they are of at hand. None where it wrote none."""
    file = out / "tables" / "length_controlled.csv"
    return pd.read_csv(file) if file.is_file() else None


# ---- batch files ---------------------------------------------------------------------------------


def batch(arguments: argparse.Namespace, profile: Profile, out: Path, judge: Judge) -> int:
    """Write the questions of an endpoint judge, or read the replies to them."""
    way, file = arguments.batch
    for suffix, who, questions in _parts(arguments, profile, out, judge):
        path = _beside(file, suffix)
        if way == "write":
            count = batches.write_requests(who, questions, path)
            print(f"{shown(path)}: {count:,} requests of judge {judge.name}{suffix}")
            continue
        got = batches.read_results(who, questions, path)
        print(
            f"{shown(path)}: {got.new:,} replies kept, {got.known:,} known already, {got.failed:,} "
            f"failed, {got.missing:,} questions still without a reply"
        )
        if got.read:
            print(f"  {got.read:,} tokens read, {got.written:,} written")
            if arguments.prices:
                price_in, price_out = arguments.prices
                print(f"  cost {(got.read * price_in + got.written * price_out) / 1e6:.4f}")
    return 0


def _parts(
    arguments: argparse.Namespace, profile: Profile, out: Path, judge: Judge
) -> list[tuple[str, Judge, list[Question]]]:
    """(ending of the file's name, whose replies, questions): the tables' pairs; of an audit the
    gold pairs, and in a file of their own those that are asked a second time."""
    if arguments.audit is None:
        generations = load_generations(out)
        questions = [
            question
            for table in BASELINES
            for question in batches.questions_about(
                make_pairs(generations, profile, table=table), most_prompts=judge.most_prompts
            )
        ]
        return [("", judge, questions)]
    gold = drawn(gold_for(profile, arguments.audit)[1], arguments.pairs)
    once, twice = batches.Recorder(), batches.Recorder()
    ask_gold(once, gold, another=twice)
    return [("", judge, once.questions), ("-again", anew(judge), twice.questions)]


def _beside(path: str, suffix: str) -> Path:
    """batch.jsonl as batch-again.jsonl."""
    file = Path(path).expanduser()
    return file.with_name(f"{file.stem}{suffix}{file.suffix}")
