"""Read, check, repair, split and standardise scalar feedback: completions of a prompt, each with a reward.

`load_feedback` reads any source into one row a completion and reports every defect (`rpo_nb.data.defects`): what cannot be used is
set aside, what can be meant in one way only is repaired, and everything sound goes on. `split_feedback` follows paper A:
validation on top-scored rows, rewards standardised over the training split.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from rpo_nb.config import DataConfig
from rpo_nb.data import sources
from rpo_nb.data.defects import Report
from rpo_nb.data.splits import SPLIT
from rpo_nb.data.texts import Prompt, read_completion, read_prompt, valid_unicode

FEATURES = datasets.Features({"prompt_id": datasets.Value("int64"), "prompt": datasets.Value("string"),
                              "completion": datasets.Value("string"), "reward": datasets.Value("float64"),
                              "model": datasets.Value("string")})


class Shape(NamedTuple):
    """How a kind of row names its parts; the first name that is present counts."""

    prompt: tuple[str, ...]
    completions: str  # "": the row itself is the one completion
    text: tuple[str, ...]
    score: tuple[str, ...]


ULTRAFEEDBACK = Shape(("instruction", "prompt"), "completions", ("response",), ("overall_score",))
NESTED = Shape(("prompt", "instruction"), "responses", ("text",), ("reward",))
FLAT = Shape(("prompt", "instruction"), "", ("completion", "response"), sources.SCORE_KEYS)


class Answer(NamedTuple):
    """One sound completion and where it stood."""

    line: int
    part: str  # of the source, as the report calls it
    field: str
    prompt: Prompt
    completion: str
    reward: float
    model: str
    flat: bool


def load_feedback(source: Any, *, config: DataConfig | None = None, return_report: bool = False):
    """Scalar feedback as a Dataset, one row a completion, the rows of a prompt together.

    source: a hub id; a folder saved by datasets, or with files as a data set on the hub has them; a .json, .jsonl, .jsonl.gz,
    .parquet or .csv file; or rows in memory (a list of dicts, a Dataset). Rows are UltraFeedback's (instruction,
    completions[{response, overall_score}]), nested (prompt, responses[{text, reward}]) or flat (prompt or instruction, completion
    or response, reward or score or label). A prompt may be a conversation, a list of {role, content} messages that ends with the
    user's, and a completion a list with the assistant's one message.
    Returns columns prompt_id (int, from 0 in order of appearance; one for each prompt or conversation), prompt (a conversation
    rendered as text), completion, reward (float64, as given), model; where any prompt is more than one user message also messages
    (JSON, "" for the others; see `conversations`); with config.validation_split also split, the part of the source the row is of.
    With return_report also the report, a list of dicts line, field, reason, remedy, action.
    Raises ValueError: no such source, nothing usable in it, or with config.strict the first entry that would be set aside
    (copies of a completion are looked for last).
    """
    config = config or DataConfig()
    name = Path(source).name if isinstance(source, (str, Path)) else "feedback"
    report = Report(name, strict=config.strict)
    prompts: dict[Prompt, dict[str, list[Answer]]] = {}  # of each prompt the answers of each split
    strange: dict = {}
    wanted = list(dict.fromkeys(filter(None, (config.split, config.validation_split))))
    for split in wanted:
        for line, row in sources.rows(source, split=split, report=report, second=split != config.split, revision=config.revision):
            shape = _shape(row)
            if isinstance(row, dict) and not shape:
                strange = strange or row
            for answer in _answers(line, row, shape, config, report):
                prompts.setdefault(answer.prompt, {}).setdefault(split, []).append(answer)
    if not prompts:
        raise ValueError(_nothing_usable(name, report.sorted(), strange))
    kept = [(i, split, answer) for i, of_splits in enumerate(prompts.values())
            for split, answers in of_splits.items() for answer in _one_each(answers, report)]
    columns = {"prompt_id": [i for i, _, _ in kept], "prompt": [answer.prompt.text for _, _, answer in kept],
               **{column: [getattr(answer, column) for _, _, answer in kept] for column in ("completion", "reward", "model")}}
    if any(prompt.messages for prompt in prompts):
        columns["messages"] = [answer.prompt.messages for _, _, answer in kept]
    if config.validation_split:
        columns[SPLIT] = [split for _, split, _ in kept]
    more = {column: datasets.Value("string") for column in columns if column not in FEATURES}
    feedback = datasets.Dataset.from_dict(columns, features=datasets.Features({**FEATURES, **more}))
    return (feedback, report.sorted()) if return_report else feedback


def conversations(feedback: datasets.Dataset) -> list[str | list[dict[str, str]]]:
    """What the policy reads of each row: the messages where the prompt is more than one user message, else the prompt."""
    if "messages" not in feedback.column_names:
        return list(feedback["prompt"])
    return [json.loads(messages) if messages else prompt
            for prompt, messages in zip(feedback["prompt"], feedback["messages"], strict=True)]


def _nothing_usable(name: str, report: list[dict], strange: dict) -> str:
    if strange and all(row["reason"] == "row has no known keys" for row in report):
        columns = ", ".join(key for key in strange if key is not sources.REPEATED_KEYS)
        return (f"{name}: the columns {ascii(columns)} are not feedback; name them instruction and completions (UltraFeedback), "
                "prompt and responses, or prompt, completion, reward")
    first = next((row for row in report if row["action"] == "dropped"), None)
    if first is None:
        return f"{name}: there is not one row in it; give a file with feedback"
    return (f"{name}: nothing in it can be used; the first of {len(report)} defects is on line {first['line']}, "
            f"{first['field'] or 'the whole line'}: {first['reason']}; {first['remedy']}")


def _shape(row: Any) -> Shape | None:
    """The kind of row, by its keys; None if there is no telling."""
    if not isinstance(row, dict):
        return None
    if "completions" in row or "responses" in row:
        return ULTRAFEEDBACK if "completions" in row else NESTED
    if any(key in row for key in FLAT.text + FLAT.score):
        return FLAT
    return ULTRAFEEDBACK if "instruction" in row else None


def _answers(line: int, row: Any, shape: Shape | None, config: DataConfig, report: Report) -> Iterator[Answer]:
    """The sound completions of a row; everything else goes to the report."""
    if not shape:
        report.add(line, "", "row has no known keys" if isinstance(row, dict) else "row is not an object", row)
        return
    _report_repeated(line, "", row, report)
    key = next((key for key in shape.prompt if key in row), shape.prompt[0])
    prompt = read_prompt(line, key, row.get(key), config.max_prompt_tokens, report)
    if not shape.completions:
        if prompt is not None:
            yield from _answer(line, "", row, shape, prompt, config, report)
        return
    items = row.get(shape.completions)
    if not isinstance(items, list) or not items:
        reason = "are missing" if items is None else "are not a list" if not isinstance(items, list) else "are an empty list"
        report.add(line, shape.completions, f"completions {reason}", items)
    elif prompt is not None:
        for i, item in enumerate(items):
            yield from _answer(line, f"{shape.completions}[{i}]", item, shape, prompt, config, report)


def _answer(line: int, where: str, item: Any, shape: Shape, prompt: Prompt, config: DataConfig, report: Report,
            ) -> Iterator[Answer]:
    """One completion if it is sound, else nothing."""
    if not isinstance(item, dict):
        report.add(line, where, "completion is not an object", item)
        return
    prefix = f"{where}." if where else ""
    if where:
        _report_repeated(line, prefix, item, report)
    text_key = next((key for key in shape.text if key in item), shape.text[0])
    score_key = next((key for key in shape.score if key in item), shape.score[0])
    text = read_completion(line, prefix + text_key, item.get(text_key), config.max_completion_tokens, report)
    reward = _reward(line, prefix + score_key, item, score_key, config, report)
    model = item.get("model")
    model = "" if model is None else valid_unicode(line, f"{prefix}model", str(model), report)
    if text is not None and reward is not None:
        yield Answer(line, report.part, prefix + text_key, prompt, text, reward, model, flat=not where)


def _report_repeated(line: int, prefix: str, item: dict, report: Report) -> None:
    for key in item.get(sources.REPEATED_KEYS, ()):
        report.add(line, valid_unicode(line, prefix, prefix + key, report), "key is given twice")


def _reward(line: int, field: str, item: dict, key: str, config: DataConfig, report: Report) -> float | None:
    """The score as a finite number in range; None if it is not one."""
    value = item.get(key)
    quoted = isinstance(value, str) and sources.NUMBER.fullmatch(value)
    if isinstance(value, bool) or not (quoted or isinstance(value, (Real, Decimal))):
        reason = "missing" if value is None else "a boolean" if isinstance(value, bool) else "not a number"
        report.add(line, field, f"score is {reason}", value)
        return None
    try:
        score = float(value)
    except OverflowError:  # an integer beyond the largest float
        score = math.inf
    if key == "overall_score" and score == 10:
        score = _overall_score(line, field, item.get("annotations"), config, report)
    if not math.isfinite(score) or not config.reward_min <= score <= config.reward_max:
        report.add(line, field, "score is out of range" if math.isfinite(score) else "score is not finite", value)
        return None
    if quoted:
        report.add(line, field, "score is a number in quotes")
    return score


def _overall_score(line: int, field: str, annotations: Any, config: DataConfig, report: Report) -> float:
    """UltraFeedback's score-10 fault: many a 10 of its first release stood for 1.

    The rule is the data set's own correction (OpenBMB/UltraFeedback, issue 8): with m the mean of the fine-grained ratings
    (1 to 5, "N/A" left out), m <= 2 becomes 1; 2 < m <= 4 had to be annotated again, which nobody can do offline; m > 4 is right.
    """
    rated = [aspect["Rating"] for aspect in annotations.values() if isinstance(aspect, dict) and "Rating" in aspect] \
        if isinstance(annotations, dict) else []
    ratings = [float(rating) for rating in rated if sources.NUMBER.fullmatch(str(rating))]
    if ratings and np.mean(ratings) <= 2:
        repair = config.repair_overall_score
        report.add(line, field, "overall_score 10 with ratings of 2 or less", action="repaired" if repair else "kept")
        return 1.0 if repair else 10.0
    if ratings and np.mean(ratings) <= 4:
        report.add(line, field, "overall_score 10 with ratings of 2 to 4")
    elif rated and not ratings:
        report.add(line, field, "overall_score 10 without any rating")
    return 10.0


def _one_each(answers: list[Answer], report: Report) -> list[Answer]:
    """The prompt's answers without copies. Of copies that differ in score the first with the lower median score stays:
    a score that some rater gave, and rather too low than too high."""
    copies: dict[str, list[Answer]] = {}
    for answer in answers:
        copies.setdefault(answer.completion, []).append(answer)
    kept = []
    for same in copies.values():
        scores = sorted(answer.reward for answer in same)
        stays = next(answer for answer in same if answer.reward == scores[(len(scores) - 1) // 2])
        kept.append(stays)
        for answer in same:
            if answer is not stays:
                reason = "same completion, same score" if scores[0] == scores[-1] else "same completion, different scores"
                report.part = answer.part
                report.add(answer.line, answer.field, reason, answer.reward)
    if not all(answer.flat for answer in answers):  # flat rows are one completion each: several make a prompt
        places = list(dict.fromkeys((answer.part, answer.line) for answer in answers))
        for part, line in places if len(places) > 1 else ():
            report.part = part
            report.add(line, "prompt", "prompt is spread over rows")
    report.part = kept[0].part
    if len(kept) == 1:
        report.add(kept[0].line, "prompt", "prompt has one completion")
    elif len({answer.reward for answer in kept}) == 1:
        report.add(kept[0].line, "prompt", "all rewards of the prompt are equal")
    return kept
