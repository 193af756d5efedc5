"""Names from outside: what may become part of a path or a command.

A profile may come from a stranger. Its names (of itself, of sizes, presets and judges) become
file names, rules of the workflow and arguments of commands, so they are letters, digits, "_", "."
and "-" alone. A user's own file may have any name: what is made from it has a plain one.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

NAME = re.compile(r"\w[\w.-]{0,63}")  # no leading "." (hidden, or a way out) and no "-" (an option)
ENDING = re.compile(
    r"(\.(jsonl?|ndjson|parquet|csv|tsv))?\.[a-z0-9]{1,8}$", re.ASCII
)  # the last, with what is packed in it


def check_name(text: str) -> str:
    """The name itself. Raises ValueError for one that could leave its folder or mean something to
    a shell.
    """
    if not NAME.fullmatch(text):
        raise ValueError(
            f"{text!r:.80} cannot be a name; take at most 64 letters, digits, _ . and -, a letter "
            "or digit first"
        )
    return text


Name = Annotated[str, AfterValidator(check_name)]


def check_address(field: str, url: str) -> None:
    """Raises ValueError for what is no server's address, or holds a secret: a profile is kept
    with the results.
    """
    if not url:
        raise ValueError(
            f"{field} is empty; an endpoint needs the server's address, e.g. "
            "http://localhost:8000/v1"
        )
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(
            f"{field}: {url!r} is no address of a server; give e.g. http://localhost:8000/v1"
        )
    if address.username or address.password or address.query:
        raise ValueError(
            f"{field} holds a user name, a password or a query, and a profile is kept with the "
            "results; give the "
            "address alone and the key in OPENAI_API_KEY"
        )


def plain_name(path: str | Path) -> str:
    """A file's name up to its first dot, with what is no letter, digit, "_" or "-" as "_";
    "feedback" where nothing is left.
    """
    stem = Path(path).name.lstrip(".").split(".")[0]
    return re.sub(r"[^\w-]+", "_", stem).strip("_-")[:64] or "feedback"


def ending(path: str | Path) -> str:
    """The ending that says how a file is read, in lower case (".jsonl.gz"); "" where there is
    none.
    """
    found = ENDING.search(Path(path).name.lower())
    return found[0] if found else ""


def readable(source: str) -> str:
    """A path that can be written down: `source` itself, or, where its name is not UTF-8, a link
    to it that lasts as long as this process.
    """
    try:
        source.encode()
        return source
    except UnicodeEncodeError:
        folder = tempfile.mkdtemp(prefix="rpo_nb-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        link = Path(folder) / f"feedback{ending(source)}"
        link.symlink_to(os.path.abspath(os.path.expanduser(source)))
        return str(link)
