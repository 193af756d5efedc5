"""What of a prompt too long for its limit a policy reads: its beginning and its end, never without
the end, where the question is; of a conversation the newest turns, whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Messages = list[dict[str, str]]


def cut_in_the_middle(ids: Sequence[int], room: int) -> list[int]:
    """At most `room` of the token ids: the first and the last half, what lies between left out."""
    if len(ids) <= room:
        return list(ids)
    tail = max(0, room) - max(0, room) // 2
    return [*ids[: max(0, room) // 2], *ids[len(ids) - tail :]]


def newest_turns(messages: Messages, fits: Callable[[Messages], bool]) -> Messages:
    """A conversation that fits, without its oldest turns, each whole, and beginning with the
    user's.

    A system message stays as long as a turn besides the last can go, and goes before the last is
    cut. Where even the last turn does not fit it is what remains.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = messages[len(system) :]
    starts = [i for i, turn in enumerate(turns) if turn["role"] == "user"] or [len(turns) - 1]
    candidates = [system + turns[start:] for start in (0, *starts[starts[0] == 0 :])]
    if system:
        candidates.append(turns[starts[-1] :])
    return next((kept for kept in candidates if fits(kept)), turns[starts[-1] :])


def cut_template(
    messages: Messages, ids_of: Callable[[Messages], list[int]], limit: int
) -> list[int]:
    """At most `limit` token ids of a conversation in a chat template: the newest turns, and where
    the last one alone is too long the template around that one cut in its middle.

    ids_of: the template's ids of messages. Raises ValueError where the template leaves no room.
    """
    kept = newest_turns(messages, lambda some: len(ids_of(some)) <= limit)
    ids = ids_of(kept)
    if len(ids) <= limit:
        return ids
    before, after = _template_around(kept, ids_of)
    room = limit - before - after
    if room < 1:
        raise ValueError(
            f"data.max_prompt_tokens is {limit}, but the chat template alone has "
            f"{before + after} tokens; raise it"
        )
    inside = cut_in_the_middle(ids[before : len(ids) - after], room)
    return [*ids[:before], *inside, *ids[len(ids) - after :]]


def _template_around(
    messages: Messages, ids_of: Callable[[Messages], list[int]]
) -> tuple[int, int]:
    """How many of a conversation's first and last ids do not depend on what its last turn says."""
    one, two = (ids_of([*messages[:-1], messages[-1] | {"content": text}]) for text in ("a", "b b"))

    def alike(first: Sequence[int], second: Sequence[int]) -> int:
        pairs = enumerate(zip(first, second, strict=False))
        return next((i for i, (x, y) in pairs if x != y), min(len(first), len(second)))

    before = alike(one, two)
    return before, min(alike(one[::-1], two[::-1]), len(one) - before)
