"""One pass over the rows of a source: each becomes feedback, or a line of the report."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from rpo_nb.config.schema import DataConfig
from rpo_nb.data import forms, names, scores
from rpo_nb.data.defects import Report
from rpo_nb.data.files import REPEATED_KEYS
from rpo_nb.data.forms import Entry, Found, first
from rpo_nb.data.gather import BOOLEAN, CELL, NUMBER, PAIR, RANK, WORD, Gatherer
from rpo_nb.data.messages import as_messages, role_of
from rpo_nb.data.prompts import read_completion, read_prompt, whole_conversation, why_no_prompt
from rpo_nb.data.texts import more_than_text, valid_unicode
from rpo_nb.data.unused import Unused

FEATURES = datasets.Features(
    {
        "prompt_id": datasets.Value("int64"),
        "prompt": datasets.Value("string"),
        "completion": datasets.Value("string"),
        "reward": datasets.Value("float64"),
        "model": datasets.Value("string"),
    }
)


class Reading:
    """Checks entries one by one and gathers the sound ones."""

    def __init__(self, config: DataConfig, report: Report, rows: Gatherer, of: Any):
        self.config, self.report, self.rows, self.of = config, report, rows, of
        self.parts = {names.normal(name): share for name, share in config.reward_parts().items()}
        self.values: set = set()  # what rewards there were before a range cut them, the first four
        # columns that could be the reward where none is called so
        self.choice: dict[str, None] = {}
        # the row and prompt read last, and what was read: entries share it
        self._last: tuple = (None, None, None)
        self.unused = Unused(report, self.parts)

    def entry(self, line: int, split: int, row: dict, entry: Entry) -> None:
        """One entry of a row, if it is sound."""
        config, report = self.config, self.report
        columns = self._columns_of(row, entry)
        prompt_found, text_found = entry.prompt, entry.text
        whole = (
            whole_conversation(line, *text_found, report)
            if type(text_found[1]) is not str or text_found[1][:1] in "\nH[{ "
            else None
        )
        if whole:
            prompt_found, text_found = self._conversation(line, prompt_found, text_found, whole)
        elif not prompt_found[0]:
            self._note(entry.score[1])
            report.add(line, text_found[0], why_no_prompt(line, *text_found, report))
            return
        used = {
            prompt_found[0],
            text_found[0],
            entry.score[0],
            entry.model[0],
            entry.text[0],
            entry.prompt[0],
        }
        if row is not self._last[0] or prompt_found is not self._last[1]:
            context = (
                self._context(row, columns, used)
                if columns.system or columns.before or columns.after
                else {}
            )
            prompt = read_prompt(
                line,
                prompt_found[0] or "prompt",
                prompt_found[1],
                config.max_prompt_tokens,
                report,
                **context,
            )
            self._last = row, prompt_found, prompt
            self.unused.row(line, row, columns, entry, used)
        if entry.prefix:
            self.unused.item(line, entry)
        prompt = self._last[2]
        if prompt is None:
            self._note(entry.score[1])
            return
        text = read_completion(line, *text_found, config.max_completion_tokens, report)
        field, reward = self._reward(line, entry)
        weight = self._weight(line, row, columns, entry)
        model = entry.model[1]
        model = (
            ""
            if scores.is_null(model)
            else valid_unicode(line, f"{entry.prefix}model", str(model), report)
        )
        if text is None or reward is None or weight is False:
            return
        rater = first(entry.owner, entry.columns.rater)[1] if entry.columns.rater else None
        if scores.is_null(rater):
            rater = first(row, columns.rater)[1] if columns.rater else None
        rater = "" if scores.is_null(rater) else valid_unicode(line, "rater", str(rater), report)
        self.rows.add(
            line,
            text_found[0],
            split,
            prompt,
            text,
            reward,
            model,
            flat=entry.flat,
            weight=weight,
            rater=rater,
            aspects=self._aspects(entry),
            word=self._word(entry),
            score_field=field,
        )

    def _columns_of(self, row: dict, entry: Entry) -> names.Columns:
        return entry.columns if entry.owner is row else self.of(row)

    def _conversation(
        self, line: int, prompt: Found, text: Found, whole: tuple[list, list]
    ) -> tuple[Found, Found]:
        """The prompt and the completion where the completion's value is the whole conversation."""
        before, last = whole
        given = prompt[1]
        asked = as_messages(line, *prompt, self.report, quiet=True)
        own = text[0], before
        if more_than_text(given) or any(map(more_than_text, asked or ())):
            own = prompt  # refused where it is read
        elif asked and all(isinstance(message, dict) for message in asked):
            own = _joined(prompt, asked, own)
        elif not forms.is_blank(given):
            said = [str(_content(message)).strip() for message in before]
            own = own if str(given).strip() in said else None
        if own is None:
            self.report.add(line, prompt[0], "prompt is not the completion's conversation")
        return own or (text[0], before), (text[0], last)

    def _context(self, row: dict, columns: names.Columns, used: set) -> dict[str, Any]:
        """What other columns say that belongs to the prompt, as `read_prompt` takes it."""

        def given(keys: tuple) -> list[Found]:
            found = [
                (str(key), row[key])
                for key in keys
                if str(key) not in used and not forms.is_blank(row[key])
            ]
            used.update(field for field, _ in found)
            return found

        system, before, after = given(columns.system), given(columns.before), given(columns.after)
        return (
            {"system": system[0] if system else None, "before": before, "after": after}
            if system or before or after
            else {}
        )

    def _reward(self, line: int, entry: Entry) -> tuple[str, float | None]:
        """(its field, the reward): of the columns that data.reward names, else of the one that is
        called so."""
        report, config = self.report, self.config
        field, value = entry.score
        # of lists, pairs and sides the score's own name holds the part's: scores[0], chosen_score
        own = len(self.parts) == 1 and next(iter(self.parts)) in names.normal(field)
        if self.parts and (entry.flat or entry.prefix or not own):
            found = [self._part(line, entry, part) for part in self.parts]
            if None in found:
                return field, None
            return ", ".join(self.parts), scores.weighted(self.parts, found)
        if not field:
            return self._only_aspect(line, entry)
        rated = scores.ratings(value) if entry.flat else []
        if rated:
            if len(rated) > 1:
                report.add(line, field, "same completion, several ratings")
            value = sum(rated) / len(rated)
        self._note(value)
        score = scores.read_score(
            line,
            field,
            value,
            config,
            report,
            own=entry.own,
            annotations=entry.owner.get("annotations"),
        )
        if score is None:
            return field, None
        share = next(iter(self.parts.values())) if self.parts else 1.0
        return field, share * (self._of_rank(line, field, score, share) if entry.rank else score)

    def _of_rank(self, line: int, field: str, rank: float, share: float) -> float:
        """A rank as a score: minus the rank (1 is the best), unless its weight says so already."""
        if share < 0:
            return rank
        self.report.once(line, field, "rank was read as minus the rank")
        return -rank

    def _note(self, value: Any) -> None:
        if len(self.values) < 4:
            number = scores.number(value)
            self.values.add(scores.label(value) if number is None else number)

    def _word(self, entry: Entry) -> int:
        """What a reward was written as, see `Gatherer.settle`."""
        value = entry.score[1]
        if entry.paired:
            return PAIR
        if entry.rank and not self.parts:
            return RANK
        if self.parts or type(value) in (float, int) or scores.label(value) is None:
            return NUMBER
        return BOOLEAN if not isinstance(value, str) else CELL if self.report.untyped else WORD

    def _only_aspect(self, line: int, entry: Entry) -> tuple[str, float | None]:
        """The reward where no column is called so: the one aspect, or none of several."""
        annotations = entry.owner.get("annotations")
        rated = (
            [
                name
                for name, aspect in annotations.items()
                if isinstance(aspect, dict) and "Rating" in aspect
            ]
            if isinstance(annotations, dict)
            else []
        )
        there = [key for _, key in entry.columns.aspects] + rated
        if len(there) == 1 and not rated:
            field = f"{entry.prefix}{there[0]}"
            if names.normal(there[0]) in names.LESS:
                self.choice[str(there[0])] = None
                self.report.add(line, field, "more of it may not be better")
                return field, None
            self.report.once(line, field, "the one aspect is the reward")
            return field, scores.read_score(
                line, field, entry.owner[there[0]], self.config, self.report
            )
        numbers = there or [
            key
            for key, value in entry.owner.items()
            if key is not REPEATED_KEYS
            and (scores.number(value) is not None or scores.label(value) is not None)
            and not names.normal(key).endswith(("id", "index"))
        ]
        if len(self.choice) < 40:
            self.choice.update(dict.fromkeys(map(str, numbers)))
        field = entry.prefix + (
            "overall_score" if entry.prefix.startswith("completions[") else "reward"
        )
        self.report.add(
            line,
            field,
            "several columns could be the reward" if len(there) > 1 else "score is missing",
        )
        return field, None

    def _part(self, line: int, entry: Entry, part: str) -> float | None:
        """The value of one of the columns that data.reward names."""
        key = next(iter(entry.columns.names.get(part, ())), None)
        value = entry.owner.get(key) if key is not None else None
        if key is None and isinstance(entry.owner.get("annotations"), dict):
            value = next(
                (
                    aspect.get("Rating")
                    for name, aspect in entry.owner["annotations"].items()
                    if names.normal(name) == part and isinstance(aspect, dict)
                ),
                None,
            )
        field = f"{entry.prefix}{key or part}"
        score = scores.read_score(line, field, value, self.config, self.report)
        if score is None or part not in names.RANKS:
            return score
        return self._of_rank(line, field, score, self.parts[part])

    def _aspects(self, entry: Entry) -> dict[str, float] | None:
        """The values of the aspects that an entry has, NaN where one is no number."""
        if not (entry.flat or entry.prefix):
            return None
        found = {name: entry.owner[key] for name, key in entry.columns.aspects}
        if self.parts:
            found |= {
                part: entry.owner[entry.columns.names[part][0]]
                for part in self.parts
                if part in entry.columns.names
            }
            if isinstance(entry.owner.get("annotations"), dict):
                found |= {
                    names.normal(name): aspect.get("Rating")
                    for name, aspect in entry.owner["annotations"].items()
                    if isinstance(aspect, dict)
                }
        numbers = {
            name: scores.number(value) for name, value in found.items() if name not in _TAKEN
        }
        return {name: np.nan if number is None else number for name, number in numbers.items()}

    def _weight(
        self, line: int, row: dict, columns: names.Columns, entry: Entry
    ) -> float | None | bool:
        """The weight, None where no column has one, False where it cannot be used."""
        if not columns.weight and not entry.columns.weight:
            return None
        field, value = first(entry.owner, entry.columns.weight, "", entry.prefix)
        if not field or scores.is_null(value):
            field, value = first(row, columns.weight, field or "weight")
        weight = scores.read_weight(line, field, value, self.report)
        return False if weight is None else weight


_TAKEN = {*FEATURES, "weight", "rater", "ratings", "messages", "split"}


def _content(message: dict) -> Any:
    return message.get("content", message.get("value"))


def _joined(prompt: Found, asked: list[dict], own: Found) -> Found | None:
    """The prompt of a completion that brings its conversation: the prompt where it ends with that,
    else the conversation, after the prompt's own system turn; None where they differ."""
    given, before = (
        [(role_of(turn), str(_content(turn)).strip()) for turn in turns]
        for turns in (asked, own[1])
    )
    if len(given) > 1 and given[-1] == ("assistant", ""):  # HH's prompt ends with "Assistant:"
        asked, given = asked[:-1], given[:-1]
    if given[-len(before) :] == before:
        return prompt
    system = given[0][0] == "system" and before[0][0] != "system"
    rest = given[system:]
    if all(rest != before[i : i + len(rest)] for i in range(len(before) - len(rest) + 1)):
        return None
    return (prompt[0], [asked[0], *own[1]]) if system else own
