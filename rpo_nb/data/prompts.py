"""What stands in a row as its prompt and its completion, as messages or as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from rpo_nb.data.defects import Report
from rpo_nb.data.messages import ROLES, TOOLS, as_messages, message_of, role_of
from rpo_nb.data.texts import BESIDE, _note_length, more_than_text, read_text


class Prompt(NamedTuple):
    """A prompt as text, and where it is more than one user message, its messages as JSON (else
    "")."""

    text: str
    messages: str


def render(messages: Sequence[dict[str, str]]) -> str:
    """A conversation as plain text for models without a chat template: "System: …", "User: …" and
    "Assistant: …", a blank line between turns. A single user message is its content."""
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n\n".join(f"{ROLES[message['role']]}: {message['content']}" for message in messages)


def read_prompt(
    line: int,
    field: str,
    value: Any,
    max_tokens: int,
    report: Report,
    *,
    system: tuple[str, Any] | None = None,
    before: Sequence[tuple[str, Any]] = (),
    after: Sequence[tuple[str, Any]] = (),
) -> Prompt | None:
    """A prompt: one text, or a conversation that ends with the user's turn.

    system, before, after: (field, value) of other columns that belong to it: the system message,
    what stands before the question (a text, or the turns so far) and what stands after it.
    """
    around = system or before or after
    messages = as_messages(line, field, value, report)
    if messages is None:
        text = read_text(line, field, value, None if around else max_tokens, report)
        if text is None or not around:
            return None if text is None else Prompt(text, "")
        read = [{"role": "user", "content": text}]
    else:
        read = messages and _read_messages(line, field, messages, report)
        if not messages or read == []:
            report.add(line, field, "conversation has no message", value)
        if not read:
            return None
    if around:
        read = _with_context(line, read, system, before, after, report)
        if read is None:
            return None
    roles = [message["role"] for message in read]
    if roles[-1] != "user":
        report.add(
            line,
            f"{field}[{len(messages or read) - 1}].role",
            "last message is not the user's",
            roles[-1],
        )
        return None
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        report.add(line, field, "roles do not alternate")
    text = render(read)
    _note_length(line, field, text, max_tokens, report)
    return Prompt(text, "" if roles == ["user"] else json.dumps(read, ensure_ascii=False))


def _read_messages(
    line: int, field: str, messages: list, report: Report
) -> list[dict[str, str]] | None:
    """The sound messages; an empty one of the system counts as none. None: one of them cannot be
    used."""
    read = [
        message_of(line, f"{field}[{i}]", message, report) for i, message in enumerate(messages)
    ]
    return (
        None
        if None in read
        else [message for message in read if message["content"] or message["role"] != "system"]
    )


def _with_context(
    line: int,
    messages: list[dict[str, str]],
    system: tuple[str, Any] | None,
    before: Sequence[tuple[str, Any]],
    after: Sequence[tuple[str, Any]],
    report: Report,
) -> list[dict[str, str]] | None:
    """The conversation with what other columns say; None if one of them cannot be used."""
    for field, value in before:
        turns = as_messages(line, field, _pairs(value), report)
        if turns is None:
            text = read_text(line, field, value, None, report)
            if text is None:
                return None
            last = messages[-1]
            messages = [*messages[:-1], last | {"content": f"{text}\n\n{last['content']}"}]
        else:
            turns = _read_messages(line, field, turns, report)
            if turns is None:
                return None
            messages = [*turns, *messages]
    for field, value in after:
        text = read_text(line, field, value, None, report)
        if text is None:
            return None
        last = messages[-1]
        messages = [*messages[:-1], last | {"content": f"{last['content']}\n\n{text}"}]
    if not system:
        return messages
    if messages[0]["role"] == "system":
        if messages[0]["content"].strip() != str(system[1]).strip():
            report.once(line, system[0], "column looks like content and is not used")
        return messages
    text = read_text(line, *system, None, report)
    return None if text is None else [{"role": "system", "content": text}, *messages]


def _pairs(value: Any) -> Any:
    """History as Alpaca's exports have it, [[question, answer], …], as messages; anything else as
    it is."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(turn, list) and len(turn) == 2 for turn in value)
    ):
        return [
            {"role": role, "content": text}
            for turn in value
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
    return value


def read_completion(
    line: int, field: str, value: Any, max_tokens: int, report: Report
) -> str | None:
    """A completion: one text, or a list with the assistant's one message."""
    messages = as_messages(line, field, value, report)
    if messages is None:
        return read_text(line, field, value, max_tokens, report)
    if (
        len(messages) != 1
        or not isinstance(messages[0], dict)
        or role_of(messages[0]) != "assistant"
    ):
        report.add(line, field, "completion is not one message of the assistant", value)
        return None
    message = message_of(line, f"{field}[0]", messages[0], report)
    if message is None:
        return None
    if not message["content"]:
        report.add(line, field, "text is empty")
        return None
    _note_length(line, field, message["content"], max_tokens, report)
    return message["content"]


def whole_conversation(
    line: int, field: str, value: Any, report: Report
) -> tuple[list, list] | None:
    """(the messages before, [the assistant's last]) where a completion holds the conversation that
    it ends; else None."""
    if type(value) is str and value[:1] not in ("\n", "H", "[", "{", " "):
        return None
    messages = as_messages(line, field, value, report, quiet=True)
    if (
        messages
        and len(messages) > 1
        and all(isinstance(message, dict) for message in messages)
        and role_of(messages[0]) in ("system", "user")
        and role_of(messages[-1]) == "assistant"
    ):
        if type(value) is str:
            report.once(
                line,
                field,
                "HH's text form" if value.lstrip()[:1] == "H" else "conversation in a string",
            )
        return messages[:-1], messages[-1:]
    return None


def why_no_prompt(line: int, field: str, value: Any, report: Report) -> str:
    """The reason for which a completion without a prompt beside it is no whole conversation."""
    if more_than_text(value):
        return BESIDE
    messages = as_messages(line, field, value, report, quiet=True)
    if not messages or not all(isinstance(message, dict) for message in messages):
        return "prompt is missing"
    roles = [role_of(message) for message in messages]
    if any(role in TOOLS for role in roles):
        return "a tool's turn"
    if not ROLES.keys() >= set(roles):
        return "role is unknown"
    if roles[-1] != "assistant":
        return "conversation does not end with an answer"
    return "conversation has no message"
