"""Completions of which one is better: pairs (chosen, rejected), and texts told apart by a letter or
a number (response_a, output_1)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from rpo_nb.data import scores
from rpo_nb.data.forms import Entry, Found, Row, conversation_of, has, is_blank
from rpo_nb.data.messages import texts_in_a_string
from rpo_nb.data.winners import better

AGAINST = "scores go against the better one"
Ratings = dict[tuple[str, str], dict]  # of a name of scores, of every side its column


def read_pair(row: Row) -> Iterator[Entry]:
    """A better and a worse completion (chosen and rejected), with scores or without (1 and 0)."""
    texts, models = row.columns.pair
    prompt = _pair_prompt(row)
    name, given = _given(row, row.columns.pair_ratings, (0, 1))
    _compare(row, name, given, 0)
    own = [row.values[text] for text in texts]
    for key in row.columns.sides.values():
        if not is_blank(row.values[key]) and row.values[key] not in own:
            row.report.once(row.line, str(key), "column looks like content and is not used")
    if not given:
        row.report.once(row.line, f"{texts[0]}, {texts[1]}", "pair has no scores")
    for i, (text, model) in enumerate(zip(texts, models, strict=True)):
        score = given[i] if given else (text, 1.0 - i)
        yield Entry(
            prompt,
            (text, row.values[text]),
            score,
            (model, row.values.get(model)),
            row.values,
            row.columns,
            paired=not given,
        )


def _pair_prompt(row: Row) -> Found:
    """A pair of whole conversations brings its prompt."""
    found = row.first(row.asked)
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
    name, given = _given(row, columns.side_ratings, sides)
    told = bool(given)
    field, best = better(row, sides)
    if told:
        _compare(row, name, given, best)
        if best is None and field and not is_blank(values[field]):
            row.report.once(row.line, field, "column looks like content and is not used")
    else:
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


def _given(row: Row, ratings: Ratings, sides: Collection) -> tuple[str, dict[Any, Found]]:
    """(name, the scores of the sides): of the columns that score all sides those that data.reward
    names, else the first that hold scores; the others are told. ("", {}) where there are none."""
    values, parts = row.values, row.parts
    whole = [name for name, keys in ratings.items() if keys.keys() >= set(sides)]
    named = [name for name in whole if name[0] in parts]
    full = [
        name for name in whole if None not in [_size(values[ratings[name][side]]) for side in sides]
    ]
    used = next(iter(named or full or whole), None)
    for name, keys in ratings.items() if not named else ():
        for key in keys.values():
            if name != used and not is_blank(values[key]):
                row.report.once(row.line, str(key), "column could be the reward too")
    if used is None:
        return "", {}
    keys = ratings[used]
    return used[0], {side: (str(keys[side]), values[keys[side]]) for side in sides}


def _size(value: Any) -> float | None:
    number = scores.number(value)
    return scores.label(value) if number is None else number


def _compare(row: Row, name: str, given: dict[Any, Found], best: Any) -> None:
    """Tells where the scores of this name go against the side that is the best."""
    sizes = {side: _size(value) for side, (_, value) in given.items()}
    share = row.parts.get(name, 0.0 if row.parts else 1.0)
    if not share or best not in sizes or None in sizes.values():
        return
    row.scored.compared += 1
    if sizes[best] * share < max(size * share for size in sizes.values()):
        row.scored.name, row.scored.against = name, row.scored.against + 1
        row.report.add(row.line, ", ".join(field for field, _ in given.values()), AGAINST)


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
