"""Completions of which one is better: pairs (chosen, rejected), and texts told apart by a letter or
a number (response_a, output_1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rpo_nb.data.forms import Entry, Found, Row, conversation_of, has, is_blank
from rpo_nb.data.messages import texts_in_a_string
from rpo_nb.data.winners import better


def read_pair(row: Row) -> Iterator[Entry]:
    """A better and a worse completion (chosen and rejected), with scores or without (1 and 0)."""
    texts, models, given = row.columns.pair
    prompt = _pair_prompt(row)
    told = given is not None
    own = [row.values[text] for text in texts]
    for key in row.columns.sides.values():
        if not is_blank(row.values[key]) and row.values[key] not in own:
            row.report.once(row.line, str(key), "column looks like content and is not used")
    if not told:
        row.report.once(row.line, f"{texts[0]}, {texts[1]}", "pair has no scores")
    for i, (text, model) in enumerate(zip(texts, models, strict=True)):
        score = (given[i], row.values[given[i]]) if told else (text, 1.0 - i)
        yield Entry(
            prompt,
            (text, row.values[text]),
            score,
            (model, row.values.get(model)),
            row.values,
            row.columns,
            paired=not told,
        )


def _pair_prompt(row: Row) -> Found:
    """A pair of whole conversations brings its prompt."""
    found = row.first(row.columns.prompt)
    rest = (*row.columns.after, *row.columns.before, *row.columns.conversation)
    return (
        found
        if not is_blank(found[1])
        else row.first(rest)
        if has(row.values, rest)
        else ("", None)
    )


def read_sides(row: Row) -> Iterator[Entry]:
    """Completions told apart by a letter or a number (response_a, output_1), with a score each or a
    column that names the better one."""
    columns, values = row.columns, row.values
    sides = {side: key for side, key in columns.sides.items() if not is_blank(values[key])}
    told = all(side in columns.side_scores for side in sides)
    if told:
        given = {
            side: (columns.side_scores[side], values[columns.side_scores[side]]) for side in sides
        }
    else:
        field, best = better(row, sides)
        if best is None:
            reason = "winner is not understood" if field else "neither score nor winner"
            row.report.add(row.line, field, reason, values.get(field))
            return
        row.report.once(row.line, field, "pair has no scores")
        if best == "tie":
            row.report.add(row.line, field, "pair is a tie")
        given = {side: (field, 0.5 if best == "tie" else float(side == best)) for side in sides}
    prompt, turns = row.prompt, _turns(row, sides)
    for side, key in sides.items():
        model = columns.side_models.get(side, "")
        before, text = turns[side] if turns else (prompt[1], values[key])
        yield Entry(
            (prompt[0], before),
            (key, text),
            given[side],
            (model, values.get(model)),
            values,
            columns,
            paired=not told,
        )


def _turns(row: Row, sides: dict[str, str]) -> dict[str, tuple[Any, str]]:
    """Of every side (the conversation so far, its answer) where prompt and answers are lists of
    turns in strings."""
    asked = texts_in_a_string(row.prompt[1])
    answers = {side: texts_in_a_string(row.values[key]) for side, key in sides.items()}
    if not asked or any(not texts or len(texts) != len(asked) for texts in answers.values()):
        return {}
    row.report.add(row.line, row.prompt[0], "list of texts in a string")
    if len({tuple(texts[:-1]) for texts in answers.values()}) > 1:
        row.report.add(row.line, row.prompt[0], "the pair's conversations differ before the end")
    return {side: (conversation_of(asked, texts), texts[-1]) for side, texts in answers.items()}
