"""What the command line takes: python -m rpo_nb COMMAND ..., what its --set means, and in which
encoding. No command is run here."""

from __future__ import annotations

import argparse
import locale
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import yaml

from rpo_nb import __version__
from rpo_nb.config.settings import meant

PARAMETERS = ("feedback", "sizes", "methods", "taus", "seeds", "preset", "lora")
SET_HELP = """a notebook parameter (sizes, methods, taus, seeds, preset, lora, feedback) or a dotted
 key of the profile: --set sizes=small,xl --set training.epochs=2; values are YAML"""


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


NUMBERS = re.compile(r"[-+]?\d[\d.eE+-]*(,[-+]?\d[\d.eE+-]*)+")  # 0,1 or 0.1,3e-4


def settings(texts: Sequence[str]) -> dict[str, Any]:
    """["sizes=small taus=0.1,1", "training.epochs=2"] as load_profile's keywords. Raises ValueError
    naming what is no setting."""
    found = {}
    for item in (item for text in texts for item in _items(text)):
        key, equals, value = item.partition("=")
        if not equals or not (key in PARAMETERS or "." in key):
            raise ValueError(
                f"--set {item!r}: give key=value, the key dotted (training.epochs=2) "
                f"or of {', '.join(PARAMETERS)}{meant(key)}"
            )
        if "." in key and NUMBERS.fullmatch(value):
            value = f"[{value}]"  # as seeds=0,1 of a notebook
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


class _OneLineEach(argparse.RawDescriptionHelpFormatter):
    """The commands in a column, each with its line."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=17, width=80)


_Options = partial(argparse.HelpFormatter, max_help_position=25, width=80)


def _add_judge(command: argparse.ArgumentParser) -> None:
    """The options of `judge`."""
    command.add_argument(
        "--audit",
        nargs="?",
        const="",
        metavar="GOLD",
        help="is a judge right? on gold pairs: a file, LLMBar's or the pocket's; makes cards",
    )
    command.add_argument("--pairs", type=int, metavar="N", help="of an audit, at most")
    command.add_argument("--judges", default="", metavar="NAME,NAME", help="default all")
    command.add_argument(
        "--prices",
        type=float,
        nargs=2,
        metavar=("READ", "WRITTEN"),
        help="of a million tokens: tells what a verdict costs",
    )
    command.add_argument(
        "--batch",
        nargs=2,
        metavar=("DO", "FILE"),
        help="write an endpoint's questions as a batch file, or read its results",
    )


def _add_ask(command: argparse.ArgumentParser) -> None:
    """The options of `ask`."""
    command.add_argument(
        "prompts",
        help="a file: AlpacaEval's, IFEval's or MT-Bench's as published, rows with a prompt, or "
        "a text file with a prompt a line",
    )
    command.add_argument(
        "--output-dir", default="", help="where it was reproduced, default results/<profile>"
    )
    for option in ("presets", "methods", "sizes", "seeds"):
        command.add_argument(f"--{option}", default="", metavar="A,B", help="default all")
    command.add_argument(
        "--judge", action="store_true", help="then ask the profile's judges: RPO against the others"
    )


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    main = argparse.ArgumentParser(
        prog="python -m rpo_nb",
        usage="python -m rpo_nb COMMAND [options]",
        epilog="COMMAND --help tells more; begin with reproduce, or data FILE of your feedback.",
        formatter_class=_OneLineEach,
        add_help=False,
    )
    main.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    main.add_argument("--version", action="version", version=__version__, help=argparse.SUPPRESS)
    commands = main.add_subparsers(
        dest="command",
        required=True,
        metavar="A COMMAND ...",  # as long as a line of the list begins
        title="The papers' tables, reproduced",
        prog="python -m rpo_nb",
    )

    def add(name: str, needed: str = "", **more: Any) -> argparse.ArgumentParser:
        """A command; needed: what it cannot do without."""
        usage = f"python -m rpo_nb {name} {needed}[options]"
        return commands.add_parser(name, usage=usage, formatter_class=_Options, **more)

    profile = argparse.ArgumentParser(add_help=False)
    profile.add_argument(
        "--profile",
        default="",
        metavar="NAME",
        help="or a YAML file; default RPO_NB_PROFILE, else pocket",
    )
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "--output-dir",
        default="",
        metavar="FOLDER",
        help="default results/<profile>, with your own feedback results/<profile>-<file>-<hash>",
    )
    jobs = argparse.ArgumentParser(add_help=False, parents=[place])
    jobs.add_argument(
        "--cores",
        "--jobs",
        type=int,
        metavar="N",
        help="jobs at a time; default as many as fit, on Slurm all",
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
        help="its own options, in one string: --snakemake='--default-resources slurm_account=me'",
    )
    some = argparse.ArgumentParser(add_help=False)
    some.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=SET_HELP)
    change = argparse.ArgumentParser(add_help=False, parents=[some])
    change.add_argument(
        "--feedback",
        default="",
        metavar="SOURCE",
        help="your own: a file, a folder saved by datasets, or a hub id",
    )

    command = add(
        "reproduce",
        parents=[profile, jobs, where, change],
        help="make every table, figure and the report",
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would run")
    command = add(
        "plan",
        parents=[profile, place, change],
        help="what a run costs here, and what it lacks",
    )
    command.add_argument(
        "--gpu", default="", help="plan for another GPU than this machine's, e.g. 'A100 80GB'"
    )
    command.add_argument("--json", action="store_true", help="print the plan as JSON")
    command = add(
        "train",
        parents=[profile, place, change],
        help="train the policies only; also under accelerate launch",
    )
    command = add(
        "report",
        parents=[profile, jobs, where],
        help="the tables and the report again, from stored completions",
    )
    _add_judge(
        add(
            "judge",
            parents=[profile, jobs, where],
            help="ask the judges again about stored completions, or audit them",
        )
    )
    _add_ask(add("ask", "FILE ", parents=[profile], help="ask finished policies other prompts"))
    command = add(
        "deep",
        parents=[profile, jobs, change],
        help="a run of many seeds, in parts that can be committed",
        description="Here --profile is pocket-deep where it is not given.",
    )
    command.add_argument("--minutes", type=float, help="begin no part after so many")
    command.add_argument("--parts", type=int, help="make so many at most")
    command = add(
        "verify",
        help="is a run what it should be? its numbers beside the deep run",
    )
    command.add_argument("--results", default="", help="its folder, default results/pocket")
    command.add_argument("--against", default="", help="default results/pocket-deep")
    command = add(
        "publish",
        "--repo OWNER/NAME ",
        parents=[profile],
        help="a finished policy as a folder with a model card",
    )
    command.add_argument(
        "--output-dir",
        default="",
        metavar="FOLDER",
        help="where it was reproduced, default results/<profile>",
    )
    command.add_argument("--repo", required=True, metavar="OWNER/NAME", help="on the hub")
    command.add_argument(
        "--push", action="store_true", help="push it; without, only the folder is written"
    )
    command.add_argument("--private", action="store_true", help="a new repository is private")
    for option, text in (("size", "the first"), ("method", "rpo"), ("preset", "fixed")):
        command.add_argument(f"--{option}", default="", metavar="NAME", help=f"default {text}")
    command.add_argument("--tau", type=float, metavar="T", help="of RPO, default the preset's")
    command.add_argument("--seed", type=int, metavar="N", help="default the first")
    command.add_argument(
        "--base-model",
        default="",
        metavar="ID",
        help="hub id of what was trained, where that is a local folder",
    )
    command.add_argument(
        "--license", default="", metavar="ID", help="of the licence, default the base model's"
    )
    command = add(
        "data",
        "SOURCE ",
        parents=[profile, some],
        help="read feedback and say what is wrong with it",
    )
    command.add_argument("source", help="a file, a folder saved by datasets, or a hub id")
    command.add_argument("--strict", action="store_true", help="stop at the first bad row")
    command.add_argument("--output", default="", help="write the row-by-row report there (csv)")
    command = add("clean", "--stale ", help="list, then remove, what no profile's results need")
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
    command = add("bench", help="time and memory beside what a user would pick instead")
    command.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="some of them: sft methods trl run scoring padding size memory half gpu policy "
        "reproduction start",
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
    command = add(
        "advise",
        parents=[profile, change],
        help="which method, estimator and τ for your feedback, and why",
    )
    command = add(
        "predict",
        parents=[profile, change],
        help="before a study: which method will win, with probabilities",
    )
    where_to = {"dest": "output_dir", "metavar": "FOLDER", "help": "default results/<profile>"}
    command.add_argument("--results", default="", **where_to)
    command.add_argument("--score", action="store_true", help="after it: what came true")
    command = add(
        "lab",
        "--method FILE.py:FUNCTION ... ",
        parents=[profile, jobs, change],
        help="your own loss beside the others, in the lab or on feedback",
        description="Runs the Python file that --method names: name no file that you do not trust. "
        "docs/own_objective.md says what the function is given.",
    )
    command.add_argument(
        "--method",
        required=True,
        nargs="+",
        metavar="FILE.py:FUNCTION",
        help="the loss, e.g. my.py:loss; several are made in turn, and stand in a table",
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
    _looking(add)
    return main


def _looking(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that look at what a reproduction left."""
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument(
        "results", nargs="?", default="results/pocket", help="its folder, default results/pocket"
    )
    add(
        "generations",
        parents=[place],
        help="a page: what every policy said, side by side",
    )
    command = add(
        "trace",
        "DIR TABLE ",
        help="the seeds, runs, texts and verdicts behind a number",
    )
    command.add_argument("results", help="its folder, as results/pocket")
    command.add_argument("table", help="table2, table3, table4, regime_map, paper_b_table2, …")
    command.add_argument(
        "where",
        nargs="*",
        metavar="COLUMN=VALUE",
        help="the cells: size=small baseline=sft judge=checker",
    )
    command = add("chat", parents=[place], help="talk to a finished policy beside its reference")
    for option, text in (("method", "rpo"), ("size", "the first"), ("preset", "fixed")):
        command.add_argument(f"--{option}", default="", help=f"default {text}")
    command.add_argument("--tau", type=float, help="of RPO, default the preset's")
    command.add_argument("--seed", type=int, help="default the first")
