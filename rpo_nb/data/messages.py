"""Prompts given as messages, and texts that hold a conversation."""

from __future__ import annotations

import re
from typing import Any

from rpo_nb.data.defects import Report
from rpo_nb.data.scores import is_null
from rpo_nb.data.texts import (
    BESIDE,
    MESSAGES_IN_A_STRING,
    _parsed,
    more_than_text,
    parse_text,
    read_text,
    tell_left_out,
)

# of a message, and how `render` names them
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
ALIASES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
}
TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "ipython"}
TEXT_PARTS = {"text", "input_text", "output_text"}
_MESSAGE = ("role", "content", "from", "value")
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")


def as_messages(
    line: int, field: str, value: Any, report: Report, *, quiet: bool = False
) -> list | None:
    """The messages of a conversation; None if the value is none.

    Also where it is one message, {role: […], content: […]} (older datasets), {messages: […]}, a
    string that holds the list, or HH's text ("\n\nHuman: …\n\nAssistant: …"). quiet: what was read
    out of a string is not reported.
    """
    if type(value) is str:
        if value[:1] in ("[", "{", " ") and MESSAGES_IN_A_STRING.match(value):
            messages = _parsed(value)
            if messages and not quiet:
                report.add(line, field, "conversation in a string")
            return messages
        if (
            value[:1] in ("\n", "H", " ")
            and value.lstrip().startswith("Human:")
            and "\n\nAssistant:" in value
        ):
            if not quiet:
                report.once(line, field, "HH's text form")
            messages = _hh(value)
            unanswered = messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip()
            return messages[:-1] if unanswered and not quiet else messages
        return None
    if isinstance(value, dict):
        if more_than_text(value):
            return None  # refused where its text is read
        if all(isinstance(value.get(key), list) for key in ("role", "content")) and len(
            value["role"]
        ) == len(value["content"]):
            return [
                {"role": role, "content": content}
                for role, content in zip(value["role"], value["content"], strict=True)
            ]
        if isinstance(value.get("messages"), list):
            return value["messages"]
        return (
            [value]
            if ("role" in value and "content" in value) or ("from" in value and "value" in value)
            else None
        )
    return (
        value
        if isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value))
        else None
    )


def texts_in_a_string(value: Any) -> list[str] | None:
    """The texts of '["…", "…"]', as tables hold the turns of one side; None if the value is no such
    string."""
    if type(value) is not str or value[:1] != "[" or value[-1:] != "]":
        return None
    texts = parse_text(value)
    return (
        texts
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        else None
    )


def _hh(text: str) -> list[dict[str, str]]:
    """The turns of HH's text."""
    _, *parts = _HH_TURN.split(text)
    return [
        {"role": {"Human": "user", "Assistant": "assistant"}[role], "content": content}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]


def role_of(message: dict) -> str:
    """The role of a message under the names of TRL, OpenAI and ShareGPT."""
    role = message.get("role", message.get("from"))
    role = role.strip().lower() if isinstance(role, str) else ""
    return ALIASES.get(role, role)


def message_of(line: int, field: str, message: Any, report: Report) -> dict[str, str] | None:
    """{role, content} of a sound message; its other keys are left out. The content of the system's
    may be empty."""
    if not isinstance(message, dict):
        report.add(line, field, "message is not an object", message)
        return None
    role, key = (
        role_of(message),
        "value" if "content" not in message and "value" in message else "content",
    )
    content = message.get(key)
    if role in TOOLS or (message.get("tool_calls") or message.get("function_call")):
        report.add(line, field, "a tool's turn", role)
        return None
    if role not in ROLES:
        report.add(
            line, f"{field}.role", "role is unknown", message.get("role", message.get("from"))
        )
        return None
    if more_than_text(message):
        report.add(line, field, BESIDE)
        return None
    tell_left_out(line, field, message, _MESSAGE, report)
    if isinstance(content, list):
        texts = [_part(part) for part in content]
        if None in texts:
            report.add(line, f"{field}.{key}", "content is a list of parts", content)
            return None
        content = "\n".join(texts)
    if role == "system" and (
        is_null(content) or (isinstance(content, str) and not content.strip())
    ):
        return {"role": role, "content": ""}
    text = read_text(line, f"{field}.{key}", content, None, report)
    return None if text is None else {"role": role, "content": text}


def _part(part: Any) -> str | None:
    """The text of one part of a message's content; None if it is an image or another thing."""
    if isinstance(part, dict):
        text = part.get("type", "text") in TEXT_PARTS and not more_than_text(part)
        part = part.get("text") if text else None
    return part if isinstance(part, str) else None
