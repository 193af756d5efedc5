"""Texts of feedback: one string, or a conversation, a list of {role, content} messages.

Every function checks one text, reports what is wrong with it (`rpo_nb.data.defects`) and returns
None if it cannot be used.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any

from rpo_nb.data import names
from rpo_nb.data.defects import Report
from rpo_nb.data.scores import is_null

# text with more than this many characters for each token allowed is surely cut (English has about
# 4)
CHARACTERS_A_TOKEN = 8
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# not tab, LF, CR
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Zero-width marks, joiners, direction marks, variation selectors and the byte-order mark: nothing
# to be seen. In a pattern's own words: what Python takes for printable differs between its
# versions, and so would the hash of this module.
INVISIBLE = (
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
)
_VISIBLE = re.compile(f"[^\\s\x00-\x1f\x7f-\x9f{INVISIBLE}]")
MESSAGES_IN_A_STRING = re.compile(r"\s*(\[\s*)?\{\s*([\"'])(role|content|from|value)\2\s*:")
BESIDE = "an image, audio, video or tools beside the text"  # a reason of the report
# of an object with a text: what belongs to it and is no text
NO_TEXT = names.OTHER | {"image_url", "image_urls", "audio_url", "video_url", "input_audio"}
_TEXT_KEYS = ("full_text", "text", "content", "value")  # of an object that is a text
BAD = object()  # what a string that should hold messages and does not is read as


def parse_text(text: str) -> Any:
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
    value = parse_text(text)
    value = [value] if isinstance(value, dict) else value
    sound = (
        isinstance(value, list)
        and value
        and all(
            isinstance(item, dict) and ("role" in item or {"from", "value"} <= item.keys())
            for item in value
        )
    )
    return value if sound else None


def read_text(
    line: int, field: str, value: Any, max_tokens: int | None, report: Report
) -> str | None:
    """The text as it stands, valid Unicode. max_tokens: what it may have (None: no matter)."""
    if type(value) is not str:
        if more_than_text(value):
            report.add(line, field, BESIDE)
            return None
        tell_left_out(line, field, value, _TEXT_KEYS, report)
        value = _unwrapped(value)
    if not isinstance(value, str) or not value.strip():
        reason = (
            "missing"
            if is_null(value)
            else "not a string"
            if not isinstance(value, str)
            else "empty"
        )
        report.add(line, field, f"text is {reason}", value)
        return None
    if value[:1] == "[" and MESSAGES_IN_A_STRING.match(value) and parse_text(value) is BAD:
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


def more_than_text(value: Any) -> bool:
    """Whether an object holds an image, audio, video or tools."""
    return isinstance(value, dict) and any(
        names.normal(key) in NO_TEXT and not is_null(item) and item not in ("", [], {})
        for key, item in value.items()
    )


def is_text(value: Any) -> bool:
    """Whether an unknown column holds a text to read, several, or messages."""
    if type(value) is str:
        return value.count(" ") > 3
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(text, str) for text in value) or (
        isinstance(value[0], dict) and bool({"role", "from"} & value[0].keys())
    )


def tell_left_out(line: int, field: str, value: Any, read: Collection[str], report: Report) -> None:
    """Names the keys of an object that hold a text beside the one that is read."""
    for key, item in value.items() if isinstance(value, dict) and len(value) > 1 else ():
        if key not in read and isinstance(key, str) and is_text(item):
            report.once(line, f"{field}.{key}", "column looks like content and is not used")


def _unwrapped(value: Any) -> Any:
    """The one text of {text: …}, {content: …} or {full_text: …}, and of bytes; anything else as it
    is."""
    if isinstance(value, dict):
        value = next(
            (value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)),
            value,
        )
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
