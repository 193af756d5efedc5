"""Commands that look at what a reproduction left: python -m rpo_nb generations | trace | chat."""

from __future__ import annotations

import argparse
from pathlib import Path

CHOICE = ("method", "size", "preset", "tau", "seed")  # options that choose a policy


def generations(arguments: argparse.Namespace) -> int:
    """The page of what every policy said."""
    from rpo_nb.running.processes import shown
    from rpo_nb.studies.browse import page

    written = page.write(Path(arguments.results).expanduser())
    print(f"{shown(written)} opens in a browser; its texts are in {page.DATA}/ beside it")
    return 0


def trace(arguments: argparse.Namespace) -> int:
    """Where the numbers of a table come from."""
    from rpo_nb.studies.browse import trace as tracing

    where = tracing.where_of(arguments.where)
    found = tracing.trace(Path(arguments.results).expanduser(), arguments.table, **where)
    print(*tracing.told(found, arguments.table), sep="\n")
    return 0


def chat(arguments: argparse.Namespace) -> int:
    """A conversation with a finished policy and its reference."""
    from rpo_nb.studies.browse import chat as talking

    chosen = {name: getattr(arguments, name) for name in CHOICE}
    return talking.talk(talking.open_pair(Path(arguments.results).expanduser(), **chosen))


COMMANDS = {"generations": generations, "trace": trace, "chat": chat}
