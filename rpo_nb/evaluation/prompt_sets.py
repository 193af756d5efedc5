"""Evaluation prompts other than validation rows: AlpacaEval's, IFEval's and MT-Bench's files as
they are published, or a file of one's own.

The kind is told by the keys of the first row:

| kind | its keys | from |
| --- | --- | --- |
| ifeval | key, prompt, instruction_id_list, kwargs | google-research, instruction_following_eval |
| mt_bench | question_id, turns | lm-sys/FastChat, llm_judge/data/mt_bench/question.jsonl |
| alpaca_eval | instruction (input, dataset, generator) | tatsu-lab/alpaca_eval, alpaca_eval.json |
| prompts | prompt; or a .txt file with a prompt a line | a user |
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from rpo_nb.config.keys import content_key
from rpo_nb.config.names import ENDING
from rpo_nb.data.plain_rows import plain_rows, prompt_of, refuse_system, text_of

MOST_TURNS = 8  # of a conversation


class PromptSet(NamedTuple):
    """name: of files, letters, digits and _. kind: see the module. turns: what the user says in
    turn, of each prompt. docs: each row as it stands in the file, for exports."""

    name: str
    kind: str
    turns: list[list[str]]
    docs: list[dict[str, Any]]

    @property
    def key(self) -> str:
        """Names what is asked, for files beside a policy."""
        return f"{self.name}-{content_key(self.turns)}"


def read_prompts(path: str | Path) -> PromptSet:
    """The prompts of a file, with a byte-order mark or without. Raises ValueError naming file and
    row for a row of another form than the first, an empty prompt, a conversation of more than 8
    turns, and what is not UTF-8."""
    file = Path(path).expanduser()
    name = re.sub(r"\W+", "_", ENDING.sub("", file.name)).strip("_") or "prompts"
    if file.suffix == ".txt":
        if not file.is_file():
            raise ValueError(f"there is no file {file.name!r}; check the path")
        lines = [line.strip() for line in _text(file).splitlines()]
        rows = [(i, {"prompt": line}) for i, line in enumerate(lines, 1) if line]
        if not rows:
            raise ValueError(f"{file.name} holds no prompt; write one a line")
    else:
        rows = list(plain_rows(file))
        for number, row in rows:
            _check_utf8(row, f"{file.name}, row {number}")
    kind = _kind(rows[0][1])
    turns = [_turns(kind, row, f"{file.name}, row {number}") for number, row in rows]
    return PromptSet(name, kind, turns, [row for _, row in rows])


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len((error.object[: error.start] + b"?").splitlines())
        raise ValueError(
            f"{file.name}, line {line}: the byte 0x{error.object[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _check_utf8(row: dict[str, Any], where: str) -> None:
    """A byte that is not UTF-8 is read as a lone surrogate, which no export can write again."""
    try:
        json.dumps(row, ensure_ascii=False, skipkeys=True).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}: it holds what is not UTF-8; mend it, or save the file as UTF-8"
        ) from None


def _kind(row: dict[str, Any]) -> str:
    if "instruction_id_list" in row:
        return "ifeval"
    if "turns" in row:
        return "mt_bench"
    return "alpaca_eval" if "instruction" in row else "prompts"


def _turns(kind: str, row: dict[str, Any], where: str) -> list[str]:
    if kind != "mt_bench":
        names = ("instruction",) if kind == "alpaca_eval" else ("prompt",)
        return [prompt_of(row, names, where)]
    refuse_system(row, where)
    turns = row.get("turns")
    if not isinstance(turns, list) or not 1 <= len(turns) <= MOST_TURNS:
        raise ValueError(f"{where}: turns must be a list of 1 to {MOST_TURNS} texts")
    return [text_of({"turns": turn}, ("turns",), where) for turn in turns]
