"""Sound completions, row by row into columns, and at the end in order, each completion once."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from array import array
from typing import Any

import numpy as np
import pyarrow as pa

from rpo_nb.data.defects import Report
from rpo_nb.data.prompts import Prompt
from rpo_nb.data.raters import level
from rpo_nb.data.texts import INVISIBLE

NUMBER, WORD, CELL, BOOLEAN, PAIR, RANK = range(
    6
)  # what a reward was written as; CELL: a word in a table of texts alone
CHUNK = 8192  # rows that are Python objects at a time
_POSITION = re.compile(r"\[\d+\]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")


def plain(text: str) -> str:
    """A text without what cannot be told by looking at it: white space as one space each, invisible
    characters left out, characters composed."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return " ".join(text.split())


class _Strings:
    """A growing column of texts, in Arrow's memory but for the last rows."""

    def __init__(self):
        self.chunks, self.last = [], []

    def append(self, text: str | None) -> None:
        self.last.append(text)
        if len(self.last) == CHUNK:
            self._pack()

    def _pack(self) -> None:
        self.chunks.append(pa.array(self.last, pa.string()))
        self.last = []

    def take(self, order: np.ndarray | None) -> pa.ChunkedArray:
        """The texts in this order (None: as they are), and no more than 2 GB of them in a chunk."""
        if self.last or not self.chunks:
            self._pack()
        column = pa.chunked_array(self.chunks, pa.string())
        if order is None:
            return column
        self.chunks = []
        return pa.chunked_array(
            [_taken(column, order[i : i + 65536]) for i in range(0, len(order), 65536)] or [[]],
            pa.string(),
        )


def _taken(column: pa.ChunkedArray, order: np.ndarray) -> pa.Array:
    found = column.take(pa.array(order))
    return (
        found
        if isinstance(found, pa.Array)
        else pa.concat_arrays(found.chunks)
        if found.num_chunks
        else pa.array([], pa.string())
    )


class Gatherer:
    """Columns of sound completions. splits: the names of the parts of the source, in order."""

    def __init__(self, report: Report, splits: list[str]):
        self.report, self.splits = report, splits
        self.prompts: dict[bytes, int] = {}
        self.prompt_text, self.prompt_messages, self.prompt_key = _Strings(), _Strings(), array("q")
        self.any_messages = self.any_weight = False
        self.completion, self.model = _Strings(), _Strings()
        self.line, self.part, self.field, self.prompt = (
            array("q"),
            array("i"),
            array("i"),
            array("q"),
        )
        self.split, self.flat, self.digest, self.rater = (
            array("b"),
            array("b"),
            array("q"),
            array("i"),
        )
        self.reward, self.weight, self.word = array("d"), array("d"), array("b")
        self.score_field = array("i")
        self.lost = np.zeros(0, bool)
        self.aspects: dict[str, array] = {}
        self._names: dict[str, dict[str, int]] = {"part": {}, "field": {}, "rater": {"": 0}}

    def _number(self, kind: str, name: str) -> int:
        return self._names[kind].setdefault(name, len(self._names[kind]))

    def _prompt(self, prompt: Prompt) -> int:
        key = hashlib.blake2b(
            f"{len(prompt.messages)} {prompt.messages}{prompt.text}".encode(), digest_size=16
        ).digest()
        number = self.prompts.get(key)
        if number is None:
            number = self.prompts[key] = len(self.prompts)
            self.prompt_text.append(prompt.text)
            self.prompt_messages.append(prompt.messages)
            self.prompt_key.append(hash(plain(prompt.text)))
            self.any_messages = self.any_messages or bool(prompt.messages)
        return number

    def add(
        self,
        line: int,
        field: str,
        split: int,
        prompt: Prompt,
        completion: str,
        reward: float,
        model: str,
        *,
        flat: bool,
        rater: str = "",
        weight: float | None = None,
        aspects: dict[str, float] | None = None,
        word: int = NUMBER,
        score_field: str = "reward",
    ) -> None:
        """One completion with its reward."""
        self.score_field.append(self._number("field", score_field))
        self.line.append(line)
        self.part.append(self._number("part", self.report.part))
        self.field.append(self._number("field", field))
        self.prompt.append(self._prompt(prompt))
        self.completion.append(completion)
        self.model.append(model)
        self.split.append(split)
        self.flat.append(flat)
        self.digest.append(hash(completion))
        self.rater.append(self._number("rater", rater))
        self.reward.append(reward)
        self.word.append(word)
        self.weight.append(1.0 if weight is None else weight)
        self.any_weight = self.any_weight or weight is not None
        for name, value in (aspects or {}).items():
            if name not in self.aspects:
                self.aspects[name] = array("d", [math.nan]) * (len(self.reward) - 1)
            self.aspects[name].append(value)
        for column in self.aspects.values():
            if len(column) < len(self.reward):
                column.append(math.nan)

    def settle(self) -> np.ndarray:
        """The rewards, those left out that are words, booleans or pairs in a source of other
        numbers than 1 and 0, and ranks in a source of scores."""
        self._said = {kind: list(numbers) for kind, numbers in self._names.items()}
        reward, word = np.frombuffer(self.reward, np.float64), np.frombuffer(self.word, np.int8)
        labels = set(np.unique(reward).tolist()) <= {0.0, 0.5, 1.0}
        ranks = word == RANK
        self.lost = np.zeros(len(reward), bool) if labels else (word != NUMBER) & ~ranks
        if ranks.any() and not ranks.all():
            self.lost |= ranks
        for i in np.flatnonzero(self.lost & ranks):
            self._tell(i, "rank among scores", field=self._said["field"][self.score_field[i]])
        for i in self._other_columns():
            self._tell(
                i, "rewards are of several columns", field=self._said["field"][self.score_field[i]]
            )
        for i in np.flatnonzero((word != NUMBER) & ~ranks):
            field = self._said["field"][self.score_field[i]]
            if not labels:
                self._tell(
                    i,
                    {BOOLEAN: "score is a boolean", PAIR: "score is missing"}.get(
                        word[i], "score is not a number"
                    ),
                    field=field,
                )
            elif word[i] == WORD:
                self._tell(i, "label is a word", field=field)
        return reward[~self.lost]

    def _other_columns(self) -> list[int]:
        """The first row of every column of rewards but the first, of rows of one completion and of
        several (pairs have a column a side)."""
        fields = [_POSITION.sub("[]", field) for field in self._said["field"]]
        number = {field: i for i, field in enumerate(fields)}
        column = np.array([number[field] for field in fields], np.int64)
        listed = np.array(["[]" in field for field in fields], bool)
        field = np.frombuffer(self.score_field, np.int32)
        found = []
        for those in (np.frombuffer(self.flat, np.int8) != 0, listed[field]):
            rows = np.flatnonzero(those & ~self.lost)
            _, first = np.unique(column[field[rows]], return_index=True)
            found += rows[np.sort(first)[1:]].tolist()
        return found

    def columns(self, *, level_raters: bool, labels: bool, own_split: bool) -> dict[str, Any]:
        """The columns of the feedback: the rows of a prompt together, of copies of a completion
        one, with the mean of their ratings. What is merged or odd is reported."""
        reward = np.frombuffer(self.reward, np.float64).copy()
        names = list(self._names["rater"])
        rater = np.frombuffer(self.rater, np.int32)
        given = reward.copy()
        pairs = (np.frombuffer(self.word, np.int8)[~self.lost] == PAIR).all()
        if level_raters and not labels and not pairs and len(names) > 2:
            self._level(reward, np.array(names, object)[rater])
        prompt, split = np.frombuffer(self.prompt, np.int64), np.frombuffer(self.split, np.int8)
        order = np.lexsort(
            (split, prompt)
        )  # stable: rows of a prompt and a split stay as they came
        order = order[~self.lost[order]]
        kept, weight = ~self.lost, np.frombuffer(self.weight, np.float64).copy()
        aspects = {
            name: np.frombuffer(column, np.float64).copy() for name, column in self.aspects.items()
        }
        several: dict[int, list[int]] = {}
        for rows in self._copies(prompt, split):
            counted = self._counted(rows, given, rater)
            first = rows[0]
            kept[rows[1:]] = False
            for values in (reward, *aspects.values()):
                values[first] = _mean(values[counted], weight[counted])
            weight[first] = math.fsum(weight[rows]) / len(rows)
            several[first] = counted
        self._tell_spread(order, prompt, split)
        order = order[kept[order]]
        self._tell_prompts(order, prompt, split, reward)
        self._tell_twins(split)
        as_is = (
            None if len(order) == len(reward) and (order == np.arange(len(order))).all() else order
        )
        ids = prompt[order]  # ascending, with a gap where every row of a prompt was lost
        unique = None if as_is is None and (ids == np.arange(len(ids))).all() else ids
        columns = {
            "prompt_id": np.concatenate([[0], np.cumsum(np.diff(ids) != 0)]).astype(np.int64),
            "prompt": self.prompt_text.take(unique),
            "completion": self.completion.take(as_is),
            "reward": reward[order],
            "model": self.model.take(as_is),
        }
        if self.any_weight:
            columns["weight"] = weight[order]
        if len(names) > 1:
            mine = [several.get(i, [i]) for i in order]
            columns["rater"] = [
                "; ".join(dict.fromkeys(names[rater[i]] for i in rows)) for rows in mine
            ]
            columns["ratings"] = [
                json.dumps([[names[rater[i]], float(given[i])] for i in rows], ensure_ascii=False)
                for rows in mine
            ]
        if self.any_messages:
            columns["messages"] = self.prompt_messages.take(unique)
        columns |= {name: values[order] for name, values in aspects.items()}
        if own_split:
            columns["split"] = [self.splits[i] for i in split[order]]
        return columns

    def _level(self, reward: np.ndarray, raters: np.ndarray) -> None:
        """Takes every rater's own mean and spread out of the rewards, in place."""
        sound = ~self.lost
        reward[sound], levelled, others = level(reward[sound], raters[sound])
        first = dict(zip(raters[::-1], range(len(raters) - 1, -1, -1), strict=True))
        reasons = dict.fromkeys(levelled, "rater's own mean and spread were taken out")
        reasons |= dict.fromkeys(others, "rater has too few ratings to be levelled")
        for name, reason in reasons.items():
            self._tell(first[name], reason, field=f"rater {name}")

    def _copies(self, prompt: np.ndarray, split: np.ndarray) -> list[list[int]]:
        """The rows of every completion that stands more than once under its prompt, as they
        came."""
        digest = np.frombuffer(self.digest, np.int64)
        by = np.lexsort((digest, split, prompt))
        by = by[~self.lost[by]]
        same = (np.diff(prompt[by]) == 0) & (np.diff(split[by]) == 0) & (np.diff(digest[by]) == 0)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)))
        found = [
            sorted(by[start : end + 1].tolist())
            for start, end in zip(edges[::2], edges[1::2], strict=True)
        ]
        return sorted(
            found, key=lambda rows: rows[1]
        )  # by place: a text's hash differs from process to process

    def _counted(self, rows: list[int], given: np.ndarray, rater: np.ndarray) -> list[int]:
        """The rows whose ratings count: all, but of copies with one score and no rater's name the
        first."""
        copies = len(set(given[rows])) == 1 and not rater[rows].any()
        for i in rows[1:]:
            self._tell(
                i, "same completion, same score" if copies else "same completion, several ratings"
            )
        return rows[:1] if copies else rows

    def _tell(self, i: int, reason: str, *, field: str | None = None) -> None:
        self.report.part = self._said["part"][self.part[i]]
        self.report.add(
            self.line[i], self._said["field"][self.field[i]] if field is None else field, reason
        )

    def _tell_spread(self, order: np.ndarray, prompt: np.ndarray, split: np.ndarray) -> None:
        """Prompts over several rows of the source (rows of one completion each are meant so)."""
        flat, line, part = (
            np.frombuffer(a, t)
            for a, t in ((self.flat, np.int8), (self.line, np.int64), (self.part, np.int32))
        )
        edges = _edges(order, prompt, split)
        for start, end in () if flat.all() else zip(edges[:-1], edges[1:], strict=True):
            rows = order[start:end]
            places = {}
            for i in rows if end - start > 1 and not flat[rows].all() else ():
                places.setdefault((part[i], line[i]), i)
            for i in places.values() if len(places) > 1 else ():
                self._tell(i, "prompt is spread over rows", field="prompt")

    def _tell_prompts(
        self, order: np.ndarray, prompt: np.ndarray, split: np.ndarray, reward: np.ndarray
    ) -> None:
        edges = _edges(order, prompt, split)
        values = reward[order]
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if end - start == 1:
                self._tell(order[start], "prompt has one completion", field="prompt")
            elif values[start] == values[end - 1] and (values[start:end] == values[start]).all():
                self._tell(order[start], "all rewards of the prompt are equal", field="prompt")

    def _tell_twins(self, split: np.ndarray) -> None:
        """Prompts that only a machine tells apart."""
        keys = np.frombuffer(self.prompt_key, np.int64)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        twins = np.flatnonzero(first[inverse] != np.arange(len(keys)))
        if len(twins):
            row = dict(zip(self.prompt[::-1], range(len(self.prompt) - 1, -1, -1), strict=True))
            for number in twins:
                self._tell(row[number], "prompt is another's twin", field="prompt")


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted mean of those that are there, NaN of none; equal values stay as they are to the
    last bit."""
    found = ~np.isnan(values)
    values, weights = values[found], weights[found]
    if len(set(values)) < 2:
        return values[0] if len(values) else math.nan
    weights = weights if weights.any() else np.ones(len(values))
    return math.fsum(values * weights) / math.fsum(weights)


def _edges(order: np.ndarray, prompt: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Where the rows of a prompt (and split) begin in `order`, and the end."""
    change = (np.diff(prompt[order]) != 0) | (np.diff(split[order]) != 0)
    return np.concatenate([[0], np.flatnonzero(change) + 1, [len(order)]])
