"""Texts of feedback: one string, or a conversation, a list of {role, content} messages.

Every function checks one text, reports what is wrong with it (`rpo_nb.data.defects`) and returns None if it cannot be used.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rpo_nb.data.defects import Report
from rpo_nb.data.scores import is_null

ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}  # of a message, and how `render` names them
ALIASES = {"developer": "system", "human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant",
           "ai": "assistant", "chatgpt": "assistant", "chatbot": "assistant"}
TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "ipython"}
TEXT_PARTS = {"text", "input_text", "output_text"}
CHARACTERS_A_TOKEN = 8  # text with more than this many characters for each token allowed is surely cut (English has about 4)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # not tab, LF, CR
# Zero-width marks, joiners, direction marks, variation selectors and the byte-order mark: nothing to be seen.
INVISIBLE = "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
_VISIBLE = re.compile(f"[^\\s\x00-\x1f\x7f-\x9f{INVISIBLE}]")
_MESSAGES_IN_A_STRING = re.compile(r"\s*(\[\s*)?\{\s*([\"'])(role|content|from|value)\2\s*:")
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ ]?")
BAD = object()  # what a string that should hold messages and does not is read as


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


def read_prompt(line: int, field: str, value: Any, max_tokens: int, report: Report, *, system: tuple[str, Any] | None = None,
                before: Sequence[tuple[str, Any]] = (), after: Sequence[tuple[str, Any]] = ()) -> Prompt | None:
    """A prompt: one text, or a conversation that ends with the user's turn.

    system, before, after: (field, value) of other columns that belong to it: the system message, what stands before the
    question (a text, or the turns so far) and what stands after it.
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
        report.add(line, f"{field}[{len(messages or read) - 1}].role", "last message is not the user's", roles[-1])
        return None
    turns = roles[1:] if roles[0] == "system" else roles
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))]:
        report.add(line, field, "roles do not alternate")
    text = render(read)
    _note_length(line, field, text, max_tokens, report)
    return Prompt(text, "" if roles == ["user"] else json.dumps(read, ensure_ascii=False))


def _read_messages(line: int, field: str, messages: list, report: Report) -> list[dict[str, str]] | None:
    """The sound messages; an empty one of the system counts as none. None: one of them cannot be used."""
    read = [_message(line, f"{field}[{i}]", message, report) for i, message in enumerate(messages)]
    return None if None in read else [message for message in read if message["content"] or message["role"] != "system"]


def _with_context(line: int, messages: list[dict[str, str]], system: tuple[str, Any] | None, before: Sequence[tuple[str, Any]],
                  after: Sequence[tuple[str, Any]], report: Report) -> list[dict[str, str]] | None:
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
    if system and messages[0]["role"] != "system":
        text = read_text(line, *system, None, report)
        return None if text is None else [{"role": "system", "content": text}, *messages]
    return messages


def _pairs(value: Any) -> Any:
    """History as Alpaca's exports have it, [[question, answer], …], as messages; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(turn, list) and len(turn) == 2 for turn in value):
        return [{"role": role, "content": text} for turn in value for role, text in zip(("user", "assistant"), turn, strict=True)]
    return value


def read_completion(line: int, field: str, value: Any, max_tokens: int, report: Report) -> str | None:
    """A completion: one text, or a list with the assistant's one message."""
    messages = as_messages(line, field, value, report)
    if messages is None:
        return read_text(line, field, value, max_tokens, report)
    if len(messages) != 1 or not isinstance(messages[0], dict) or _role(messages[0]) != "assistant":
        report.add(line, field, "completion is not one message of the assistant", value)
        return None
    message = _message(line, f"{field}[0]", messages[0], report)
    if message is None:
        return None
    if not message["content"]:
        report.add(line, field, "text is empty")
        return None
    _note_length(line, field, message["content"], max_tokens, report)
    return message["content"]


def whole_conversation(line: int, field: str, value: Any, report: Report) -> tuple[list, list] | None:
    """(the messages before, [the assistant's last]) where a completion holds the conversation that it ends; else None."""
    if type(value) is str and value[:1] not in ("\n", "H", "[", "{", " "):
        return None
    messages = as_messages(line, field, value, report, quiet=True)
    if messages and len(messages) > 1 and all(isinstance(message, dict) for message in messages) \
            and _role(messages[0]) in ("system", "user") and _role(messages[-1]) == "assistant":
        if type(value) is str:
            report.once(line, field, "HH's text form" if value.lstrip()[:1] == "H" else "conversation in a string")
        return messages[:-1], messages[-1:]
    return None


def why_no_prompt(line: int, field: str, value: Any, report: Report) -> str:
    """The reason for which a completion without a prompt beside it is no whole conversation."""
    messages = as_messages(line, field, value, report, quiet=True)
    if not messages or not all(isinstance(message, dict) for message in messages):
        return "prompt is missing"
    roles = [_role(message) for message in messages]
    if any(role in TOOLS for role in roles):
        return "a tool's turn"
    if not ROLES.keys() >= set(roles):
        return "role is unknown"
    if roles[-1] != "assistant":
        return "conversation does not end with an answer"
    return "conversation has no message"


def as_messages(line: int, field: str, value: Any, report: Report, *, quiet: bool = False) -> list | None:
    """The messages of a conversation; None if the value is none.

    Also where it is one message, {role: […], content: […]} (older datasets), {messages: […]}, a string that holds the list, or
    HH's text ("\n\nHuman: …\n\nAssistant: …"). quiet: what was read out of a string is not reported.
    """
    if type(value) is str:
        if value[:1] in ("[", "{", " ") and _MESSAGES_IN_A_STRING.match(value):
            messages = _parsed(value)
            if messages and not quiet:
                report.add(line, field, "conversation in a string")
            return messages
        if value[:1] in ("\n", "H", " ") and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value:
            if not quiet:
                report.once(line, field, "HH's text form")
            messages = _hh(value)
            unanswered = messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip()
            return messages[:-1] if unanswered and not quiet else messages
        return None
    if isinstance(value, dict):
        if all(isinstance(value.get(key), list) for key in ("role", "content")) and len(value["role"]) == len(value["content"]):
            return [{"role": role, "content": content} for role, content in zip(value["role"], value["content"], strict=True)]
        if isinstance(value.get("messages"), list):
            return value["messages"]
        return [value] if ("role" in value and "content" in value) or ("from" in value and "value" in value) else None
    return value if isinstance(value, list) and (not value or any(isinstance(item, dict) for item in value)) else None


def _parse(text: str) -> Any:
    """What a string holds, as JSON or as Python writes it; BAD if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return BAD


def _parsed(text: str) -> list | None:
    """The messages that a string holds; None if it is something else."""
    value = _parse(text)
    value = [value] if isinstance(value, dict) else value
    sound = isinstance(value, list) and value and all(
        isinstance(item, dict) and ("role" in item or {"from", "value"} <= item.keys()) for item in value)
    return value if sound else None


def texts_in_a_string(value: Any) -> list[str] | None:
    """The texts of '["…", "…"]', as tables hold the turns of one side; None if the value is no such string."""
    if type(value) is not str or value[:1] != "[" or value[-1:] != "]":
        return None
    texts = _parse(value)
    return texts if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts) else None


def _hh(text: str) -> list[dict[str, str]]:
    """The turns of HH's text."""
    _, *parts = _HH_TURN.split(text)
    return [{"role": {"Human": "user", "Assistant": "assistant"}[role], "content": content}
            for role, content in zip(parts[::2], parts[1::2], strict=True)]


def _role(message: dict) -> str:
    """The role of a message under the names of TRL, OpenAI and ShareGPT."""
    role = message.get("role", message.get("from"))
    role = role.strip().lower() if isinstance(role, str) else ""
    return ALIASES.get(role, role)


def _message(line: int, field: str, message: Any, report: Report) -> dict[str, str] | None:
    """{role, content} of a sound message; its other keys are left out. The content of the system's may be empty."""
    if not isinstance(message, dict):
        report.add(line, field, "message is not an object", message)
        return None
    role, key = _role(message), "value" if "content" not in message and "value" in message else "content"
    content = message.get(key)
    if role in TOOLS or (message.get("tool_calls") or message.get("function_call")):
        report.add(line, field, "a tool's turn", role)
        return None
    if role not in ROLES:
        report.add(line, f"{field}.role", "role is unknown", message.get("role", message.get("from")))
        return None
    if isinstance(content, list):
        texts = [_part(part) for part in content]
        if None in texts:
            report.add(line, f"{field}.{key}", "content is a list of parts", content)
            return None
        content = "\n".join(texts)
    if role == "system" and (is_null(content) or (isinstance(content, str) and not content.strip())):
        return {"role": role, "content": ""}
    text = read_text(line, f"{field}.{key}", content, None, report)
    return None if text is None else {"role": role, "content": text}


def _part(part: Any) -> str | None:
    """The text of one part of a message's content; None if it is an image or another thing."""
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in TEXT_PARTS else None
    return part if isinstance(part, str) else None


def read_text(line: int, field: str, value: Any, max_tokens: int | None, report: Report) -> str | None:
    """The text as it stands, valid Unicode. max_tokens: what it may have (None: no matter)."""
    if type(value) is not str:
        value = _unwrapped(value)
    if not isinstance(value, str) or not value.strip():
        reason = "missing" if is_null(value) else "not a string" if not isinstance(value, str) else "empty"
        report.add(line, field, f"text is {reason}", value)
        return None
    if value[:1] == "[" and _MESSAGES_IN_A_STRING.match(value) and _parse(value) is BAD:
        report.add(line, field, "conversation in a string cannot be read", value)
        return None
    if not value.isascii():
        value = valid_unicode(line, field, value, report)
    if not _VISIBLE.search(value):
        report.add(line, field, "text is invisible", value)
        return None
    if _CONTROL.search(value):
        report.add(line, field, "text has control characters")
    if max_tokens:
        _note_length(line, field, value, max_tokens, report)
    return value


def _unwrapped(value: Any) -> Any:
    """The one text of {text: …}, {content: …} or {full_text: …}, and of bytes; anything else as it is."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("full_text", "text", "content", "value") if isinstance(value.get(key), str)), value)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _note_length(line: int, field: str, text: str, max_tokens: int, report: Report) -> None:
    if len(text) > CHARACTERS_A_TOKEN * max_tokens:
        report.add(line, field, "text is over-long")


def valid_unicode(line: int, field: str, text: str, report: Report) -> str:
    """Lone surrogates cannot be written as UTF-8, nor stored by Arrow."""
    if _LONE_SURROGATE.search(text):
        report.add(line, _LONE_SURROGATE.sub("\ufffd", field), "text is not valid Unicode")
        return _LONE_SURROGATE.sub("\ufffd", text)
    return text
