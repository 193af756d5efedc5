"""Texts of feedback: one string, or a conversation in TRL's shape, a list of {role, content} messages.

Every function checks one text, reports what is wrong with it (`rpo_nb.data.defects`) and returns None if it cannot be used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rpo_nb.data.defects import Report

ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}  # of a message, and how `render` names them
CHARACTERS_A_TOKEN = 8  # text with more than this many characters for each token allowed is surely cut (English has about 4)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # not tab, LF, CR


class Prompt(NamedTuple):
    """A prompt as text, and where it is more than one user message, its messages as JSON (else "")."""

    text: str
    messages: str


def render(messages: Sequence[dict[str, str]]) -> str:
    """A conversation as plain text for models without a chat template: "System: …", "User: …" and "Assistant: …", a blank line
    between turns. A single user message is its content."""
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n\n".join(f"{ROLES[message['role']]}: {message['content']}" for message in messages)


def read_prompt(line: int, field: str, value: Any, max_tokens: int, report: Report) -> Prompt | None:
    """A prompt: one text, or a conversation that ends with the user's turn."""
    messages = _as_messages(value)
    if messages is None:
        text = read_text(line, field, value, max_tokens, report)
        return None if text is None else Prompt(text, "")
    if not messages:
        report.add(line, field, "conversation has no message", value)
        return None
    read = [_message(line, f"{field}[{i}]", message, report) for i, message in enumerate(messages)]
    if None in read:
        return None
    roles = [message["role"] for message in read]
    if roles[-1] != "user":
        report.add(line, f"{field}[{len(roles) - 1}].role", "last message is not the user's", roles[-1])
        return None
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        report.add(line, field, "roles do not alternate")
    text = render(read)
    _note_length(line, field, text, max_tokens, report)
    return Prompt(text, "" if roles == ["user"] else json.dumps(read, ensure_ascii=False))


def read_completion(line: int, field: str, value: Any, max_tokens: int, report: Report) -> str | None:
    """A completion: one text, or a list with the assistant's one message."""
    messages = _as_messages(value)
    if messages is None:
        return read_text(line, field, value, max_tokens, report)
    if len(messages) != 1 or not isinstance(messages[0], dict) or messages[0].get("role") != "assistant":
        report.add(line, field, "completion is not one message of the assistant", value)
        return None
    message = _message(line, f"{field}[0]", messages[0], report)
    if message is None:
        return None
    _note_length(line, field, message["content"], max_tokens, report)
    return message["content"]


def _as_messages(value: Any) -> list | None:
    """The messages of a conversation; None if the value is none. (Older datasets give {role: [...], content: [...]}.)"""
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in ("role", "content")) \
            and len(value["role"]) == len(value["content"]):
        return [{"role": role, "content": content} for role, content in zip(value["role"], value["content"], strict=True)]
    return value if isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value)) else None


def _message(line: int, field: str, message: Any, report: Report) -> dict[str, str] | None:
    """{role, content} of a sound message; its other keys are left out."""
    if not isinstance(message, dict):
        report.add(line, field, "message is not an object", message)
        return None
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        report.add(line, f"{field}.role", "role is unknown", role)
        return None
    if isinstance(content, list):
        report.add(line, f"{field}.content", "content is a list of parts", content)
        return None
    text = read_text(line, f"{field}.content", content, None, report)
    return None if text is None else {"role": role, "content": text}


def read_text(line: int, field: str, value: Any, max_tokens: int | None, report: Report) -> str | None:
    """The text as it stands, valid Unicode. max_tokens: what it may have (None: no matter)."""
    if not isinstance(value, str) or not value.strip():
        reason = "missing" if value is None else "not a string" if not isinstance(value, str) else "empty"
        report.add(line, field, f"text is {reason}", value)
        return None
    value = valid_unicode(line, field, value, report)
    if _CONTROL.search(value):
        report.add(line, field, "text has control characters")
    if max_tokens:
        _note_length(line, field, value, max_tokens, report)
    return value


def _note_length(line: int, field: str, text: str, max_tokens: int, report: Report) -> None:
    if len(text) > CHARACTERS_A_TOKEN * max_tokens:
        report.add(line, field, "text is over-long")


def valid_unicode(line: int, field: str, text: str, report: Report) -> str:
    """Lone surrogates cannot be written as UTF-8, nor stored by Arrow."""
    if _LONE_SURROGATE.search(text):
        report.add(line, _LONE_SURROGATE.sub("\ufffd", field), "text is not valid Unicode")
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text
