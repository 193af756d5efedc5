"""What the command line takes: python -m rpo_nb COMMAND ..., what its --set means, and in which
encoding. No command is run here."""

from __future__ import annotations

import argparse
import locale
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from rpo_nb import __version__

PARAMETERS = ("feedback", "sizes", "methods", "taus", "seeds", "preset", "lora")
SET_HELP = """a notebook parameter (sizes, methods, taus, seeds, preset, lora, feedback) or a dotted
 key of the profile, e.g. --set sizes=small,xl --set training.epochs=2; several may stand in one
 string; values are YAML"""


def in_utf8() -> None:
    """Start again with PYTHONUTF8 where this machine speaks another encoding: τ and V̂ in
    arguments, output and every file that a library opens would be garbled. Returns where nothing is
    to be done."""
    names = {locale.getpreferredencoding(False), sys.getfilesystemencoding()}
    if {name.lower().replace("-", "") for name in names} != {"utf8"} and os.environ.get(
        "PYTHONUTF8"
    ) != "1":
        os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """["sizes=small taus=0.1,1", "training.epochs=2"] as load_profile's keywords. Raises ValueError
    naming what is no setting."""
    found = {}
    for item in (item for text in texts for item in _items(text)):
        key, equals, value = item.partition("=")
        if not equals or not (key in PARAMETERS or "." in key):
            raise ValueError(
                f"--set {item!r}: give key=value, the key dotted (training.epochs=2) "
                f"or of {', '.join(PARAMETERS)}"
            )
        try:
            found[key] = value if key == "feedback" else yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(
                f"--set {item!r}: the value is not YAML; quote it or write a list as [a,b]"
            ) from None
    return found


def _items(text: str) -> list[str]:
    """The key=value items of a string; one in braces or brackets may hold spaces."""
    items: list[str] = []
    for word in shlex.split(text):
        last = items[-1] if items else ""
        if sum(last.count(mark) for mark in "{[") > sum(last.count(mark) for mark in "}]"):
            items[-1] = f"{last} {word}"
        else:
            items.append(word)
    return items


def _numbers(text: str) -> tuple[float, ...]:
    """ "0.1,0.3" as numbers. Raises ArgumentTypeError."""
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers, as 0.1,0.3") from None


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(
        prog="python -m rpo_nb", description="The papers' tables, reproduced."
    )
    main.add_argument("--version", action="version", version=__version__)
    commands = main.add_subparsers(
        dest="command",
        required=True,
        metavar="reproduce | deep | verify | plan | train | report | judge | publish | "
        "data | advise | lab | clean | bench",
    )

    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument(
        "--profile", default="", help="a name or a YAML file; default RPO_NB_PROFILE, else pocket"
    )
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--output-dir",
        default="",
        help="default results/<profile>, or results/<profile>-<your file>-<hash>",
    )
    place.add_argument(
        "--cores",
        "--jobs",
        type=int,
        help="jobs at a time; default: what the machine has, on Slurm all",
    )
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="slurm: a job a notebook, see docs/cluster.md",
    )
    where.add_argument(
        "--snakemake",
        default="",
        metavar="OPTIONS",
        help="""more options for Snakemake, in one string:
 --snakemake="--default-resources slurm_account=me slurm_partition=gpu" """,
    )
    change = argparse.ArgumentParser(add_help=False)
    change.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    change.add_argument(
        "--feedback",
        default="",
        help="your own feedback: a file, a folder saved by datasets, or a hub id",
    )

    command = commands.add_parser(
        "reproduce",
        parents=[profile, place, where, change],
        help="make every table, figure and the report",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would run")
    command = commands.add_parser(
        "plan",
        parents=[profile, place, change],
        help="what a run costs here and what is missing for it",
    )
    command.add_argument(
        "--gpu", default="", help="plan for another GPU than this machine's, e.g. 'A100 80GB'"
    )
    command.add_argument("--json", action="store_true", help="print the plan as JSON")
    command = commands.add_parser(
        "train",
        parents=[profile, place, change],
        help="train the policies; also under accelerate launch",
    )
    command = commands.add_parser(
        "report",
        parents=[profile, place, where],
        help="the tables and the report again, from stored generations",
    )
    command = commands.add_parser(
        "judge",
        parents=[profile, place, where],
        help="ask the judges again about stored generations",
    )
    command = commands.add_parser(
        "deep",
        parents=[profile, place, change],
        help="a run of many seeds, in parts that can be committed (profile pocket-deep)",
    )
    command.add_argument("--minutes", type=float, help="begin no part after so many")
    command.add_argument("--parts", type=int, help="make so many at most")
    command = commands.add_parser(
        "verify",
        help="is a run what it should be? its numbers beside those of the deep run",
    )
    command.add_argument("--results", default="", help="its folder, default results/pocket")
    command.add_argument("--against", default="", help="default results/pocket-deep")
    command = commands.add_parser(
        "publish", parents=[profile], help="a finished policy as a folder with a model card"
    )
    command.add_argument(
        "--output-dir", default="", help="where it was reproduced, default results/<profile>"
    )
    command.add_argument("--repo", required=True, help="owner/name on the hub")
    command.add_argument(
        "--push", action="store_true", help="push it; without, only the folder is written"
    )
    command.add_argument("--private", action="store_true", help="a new repository is private")
    for option, text in (("size", "the first"), ("method", "rpo"), ("preset", "fixed")):
        command.add_argument(f"--{option}", default="", help=f"default {text}")
    command.add_argument("--tau", type=float, help="of RPO, default the preset's")
    command.add_argument("--seed", type=int, help="default the first")
    command.add_argument(
        "--base-model",
        default="",
        help="hub id of what was trained, where the profile names a local folder",
    )
    command.add_argument(
        "--license", default="", help="hub id of the licence, default the base model's where known"
    )
    command = commands.add_parser(
        "data", parents=[profile, change], help="read feedback and report what is wrong with it"
    )
    command.add_argument("source", help="a file, a folder saved by datasets, or a hub id")
    command.add_argument("--strict", action="store_true", help="stop at the first bad row")
    command.add_argument("--output", default="", help="write the row-by-row report there (csv)")
    command = commands.add_parser("clean", help="list, then remove, what no profile's results need")
    command.add_argument(
        "--stale",
        action="store_true",
        required=True,
        help="caches and policies of earlier code, data, settings or weights",
    )
    command.add_argument("--yes", action="store_true", help="remove it without asking")
    command.add_argument(
        "--output-dir",
        action="append",
        default=[],
        help="a folder of results besides those in results/; several may be given",
    )
    command = commands.add_parser(
        "bench", help="measure the kit against what a user would pick instead (in the clone)"
    )
    command.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="some of them: sft methods trl run scoring padding size memory gpu reproduction start",
    )
    command.add_argument(
        "--repetitions", type=int, default=5, help="of every measurement, the sides in turn"
    )
    command.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes, into build/benchmarks/: only whether all of them run",
    )
    command.add_argument(
        "--output", default="", help="folder of results.csv and details.csv, default benchmarks/"
    )
    command = commands.add_parser(
        "advise",
        parents=[profile, change],
        help="which method, estimator and τ for this feedback, and why",
    )
    command = commands.add_parser(
        "lab",
        parents=[profile, place, change],
        help="your own loss in every regime of the lab, beside the kit's methods",
        description="Runs the Python file that --method names: name no file that you do not trust. "
        "docs/own_objective.md says what the function is given.",
    )
    command.add_argument(
        "--method", required=True, metavar="FILE.py:FUNCTION", help="the loss, e.g. my.py:loss"
    )
    command.add_argument(
        "--temperatures",
        type=_numbers,
        default=(),
        metavar="T,T",
        help="to try; default the function's temperatures, its file's TEMPERATURES, or the lab's",
    )
    command.add_argument(
        "--learning-rates",
        type=_numbers,
        default=(),
        metavar="R,R",
        help="to try; default the function's learning_rates, its file's LEARNING_RATES, or the "
        "profile's",
    )
    return main
