"""The forms in which a row gives completions and rewards: lists, flat, conversations (pairs are in
`sides`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from rpo_nb.data import names, scores
from rpo_nb.data.defects import Report
from rpo_nb.data.files import REPEATED_KEYS
from rpo_nb.data.messages import texts_in_a_string
from rpo_nb.data.names import Columns

Found = tuple[str, Any]  # the field of a value as the report calls it, and the value
NOTHING: Found = ("", None)
_WORDS = re.compile(r"\s|[?!\u3002\uff01\uff1f]|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")


class Entry(NamedTuple):
    """One completion of a row, nothing of it checked yet."""

    prompt: Found
    text: Found
    # field "" where no column is one; a value is a number, a label or a list of ratings
    score: Found
    model: Found
    owner: dict  # the object whose columns are this completion's: aspects, weight, rater
    columns: Columns  # of the owner
    prefix: str = ""  # of the owner's fields
    own: bool = False  # UltraFeedback's own row: its scale and its repair
    rank: bool = False  # the score is a rank, 1 the best
    flat: bool = False  # the row is this one completion
    paired: bool = False  # the score is 1 or 0 for being better or worse


class Scored:
    """How often the scores of a source's pairs, of this name, go against what else tells which is
    better."""

    def __init__(self) -> None:
        self.name, self.compared, self.against = "", 0, 0


class Row(NamedTuple):
    """A row, what its columns mean, and whom to tell."""

    line: int
    values: dict
    columns: Columns
    report: Report
    of: Callable[[dict], Columns]  # the columns of an object within the row
    parts: dict[str, float]  # what data.reward names
    scored: Scored

    def first(self, keys: tuple, otherwise: str = "") -> Found:
        """Of columns with the same meaning the first with a value."""
        return first(self.values, keys, otherwise)

    @property
    def asked(self) -> tuple:
        """The columns that can be the prompt; a user's id beside a question cannot."""
        columns = self.columns
        if not columns.user:
            return columns.prompt
        own = tuple(key for key in columns.prompt if key not in columns.user)
        others = (*own, *columns.conversation, *columns.after, *columns.before)
        ids = columns.user if has(self.values, others) else ()
        return tuple(key for key in columns.prompt if key not in ids or not is_id(self.values[key]))

    @property
    def prompt(self) -> Found:
        """The prompt, or what stands for it where no column is called so."""
        columns = self.columns
        found = self.first(self.asked)
        if is_blank(found[1]):
            rest = (*columns.conversation, *columns.after, *columns.before)
            other = self.first(rest) if rest else NOTHING
            found = found if is_blank(other[1]) and found[0] else other
        return found if found[0] else ("prompt", None)


def is_blank(value: Any) -> bool:
    """Nothing stands there, or only white space, or an empty list."""
    return (not value.strip()) if type(value) is str else (scores.is_null(value) or value == [])


def is_id(value: Any) -> bool:
    """A number, or a word without a space or a mark that ends a question (and of a script that
    sets spaces)."""
    return not _WORDS.search(value) if type(value) is str else not isinstance(value, (list, dict))


def first(values: dict, keys: Iterable, otherwise: str = "", prefix: str = "") -> Found:
    """(field, value) of the first of these keys that holds a value, else of the first that is
    there."""
    found = None
    for key in keys:
        value = values[key]
        if not is_blank(value):
            return f"{prefix}{key}", value
        found = found or (f"{prefix}{key}", value)
    return found or (f"{prefix}{otherwise}" if otherwise else "", None)


def has(values: dict, keys: Iterable) -> bool:
    """Whether one of these keys holds a value."""
    return any(not is_blank(values[key]) for key in keys)


# One reader a shape -------------------------------------------------------------------------------


def read_list(row: Row) -> Iterator[Entry]:
    """A prompt with a list of completions: objects with a text and a score each (UltraFeedback,
    nested), or texts beside lists of scores and models (distilabel)."""
    field, items = row.first(row.columns.completions, "completions")
    if not isinstance(items, list) or not items:
        reason = (
            "are missing"
            if scores.is_null(items)
            else "are an empty list"
            if items == []
            else "are not a list"
        )
        row.report.add(row.line, field, f"completions {reason}", items)
        return
    original = normal_is(field, "completions")
    prompt = row.prompt if row.columns.prompt or not original else ("instruction", None)
    if not any(isinstance(item, dict) and "role" not in item for item in items):
        parallel = first(row.values, (*row.columns.scores, *row.columns.ranks))
        if isinstance(parallel[1], list):
            yield from _parallel(row, prompt, field, items, parallel)
            return
    for i, item in enumerate(items):
        where = f"{field}[{i}]"
        if not isinstance(item, dict):
            row.report.add(row.line, where, "completion is not an object", item)
            continue
        columns = row.of(item)
        report_repeated(row, f"{where}.", item)
        text = first(
            item,
            (*columns.completion, *columns.conversation),
            "response" if original else "text",
            f"{where}.",
        )
        score, rank = _score(item, columns, f"{where}.")
        if not score[0] and not columns.aspects and not item.get("annotations"):
            score = f"{where}.{'overall_score' if original else 'reward'}", None
        own = original and score[0].endswith(".overall_score")
        yield Entry(
            prompt, text, score, first(item, columns.model), item, columns, f"{where}.", own, rank
        )


def _parallel(row: Row, prompt: Found, field: str, texts: list, parallel: Found) -> Iterator[Entry]:
    name, given = parallel
    models = row.first(row.columns.models)[1]
    if len(given) != len(texts):
        row.report.add(
            row.line, name, "lists of different length", f"{len(texts)} texts, {len(given)} scores"
        )
        return
    models = (
        models if isinstance(models, list) and len(models) == len(texts) else [None] * len(texts)
    )
    rank = names.normal(name) in names.RANKS
    for i, (text, score, model) in enumerate(zip(texts, given, models, strict=True)):
        yield Entry(
            prompt,
            (f"{field}[{i}]", text),
            (f"{name}[{i}]", score),
            ("model", model),
            {},
            NO_COLUMNS,
            rank=rank,
        )


def conversation_of(asked: list[str], answered: list[str]) -> Any:
    """The turns up to the last answer, a single question as its text."""
    turns = [
        {"role": role, "content": text}
        for pair in zip(asked, answered, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return asked[0] if len(asked) == 1 else turns[:-1]


def read_flat(row: Row) -> Iterator[Entry]:
    """One completion a row: prompt, completion, reward."""
    columns, values = row.columns, row.values
    text = first(values, columns.completion, "completion")
    score, rank = _score(values, columns)
    prompt, asked = row.prompt, texts_in_a_string(text[1]) and texts_in_a_string(row.prompt[1])
    if asked:
        answers = texts_in_a_string(text[1])
        if len(answers) == len(asked):
            row.report.add(row.line, prompt[0], "list of texts in a string")
            prompt, text = (prompt[0], conversation_of(asked, answers)), (text[0], answers[-1])
    yield Entry(
        prompt, text, score, first(values, columns.model), values, columns, rank=rank, flat=True
    )


def read_conversation(row: Row) -> Iterator[Entry]:
    """A whole conversation, its last answer the completion."""
    score, rank = _score(row.values, row.columns)
    yield Entry(
        ("", None),
        row.first(row.columns.conversation),
        score,
        first(row.values, row.columns.model),
        row.values,
        row.columns,
        rank=rank,
        flat=True,
    )


def _score(values: dict, columns: Columns, prefix: str = "") -> tuple[Found, bool]:
    """((field, value) of the score, whether it is a rank)."""
    found = first(values, columns.score, "", prefix)
    if found[1] is None and has(values, columns.rank):
        return first(values, columns.rank, "", prefix), True
    if found[1] is None:  # ratings of this one completion
        found = next(
            (
                (f"{prefix}{key}", values[key])
                for key in columns.scores
                if scores.ratings(values[key])
            ),
            found,
        )
    return found, False


def normal_is(key: object, name: str) -> bool:
    return names.normal(key) == name


def report_repeated(row: Row, prefix: str, item: dict) -> None:
    for key in item.get(REPEATED_KEYS, ()):
        row.report.add(
            row.line, (prefix + key).encode("utf-8", "replace").decode(), "key is given twice"
        )


# The table ----------------------------------------------------------------------------------------


def has_list(row: Row) -> bool:
    """Lists of options or labels beside one completion are no completions."""
    field, items = row.first(row.columns.completions)
    if is_blank(items):
        return False
    scored = isinstance(items, list) and (
        isinstance(items[0], dict)
        or any(
            isinstance(row.values[key], list) for key in (*row.columns.scores, *row.columns.ranks)
        )
    )
    return scored or not has(row.values, row.columns.completion)


NO_COLUMNS = Columns(())
