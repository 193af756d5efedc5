"""A judge's questions as a batch file, and its results back as replies: for a model that runs
offline, with no server to ask.

    write_requests(judge, questions, "batch.jsonl")
    # vllm run-batch -i batch.jsonl -o results.jsonl --model M       (or the batches of a paid API)
    read_results(judge, questions, "results.jsonl")   # then ask the judge: nothing is left to ask

The files have the form of OpenAI's batches: one JSON object a line. A request's custom_id is the
key under which its reply is kept (`language_models`), so results may come in any order and any
number of times. A result whose name is no question's, or of another model, is refused, and then
nothing of its file is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.data.plain_rows import plain_rows
from rpo_nb.judging.endpoint import LISTED, REPLY_TOKENS, EndpointJudge, read_response
from rpo_nb.judging.judges import Choice, Judge, Reply
from rpo_nb.judging.language_models import (
    FORMAT,
    LanguageModelJudge,
    Question,
    append,
    question_text,
    read_store,
)
from rpo_nb.judging.verdicts import judge_pairs
from rpo_nb.store import atomic_write

NO_COMPLETION = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


class Results(NamedTuple):
    """What came back: replies that are new, those that were kept already, requests that failed,
    questions still without a reply, and the tokens that the file says were read and written (0
    where it does not)."""

    new: int
    known: int
    failed: int
    missing: int
    read: int
    written: int


class Recorder(Judge):
    """Is asked and says nothing: `questions` are those that a judge would be asked."""

    name, identity = "recorder", "recorder"

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Choice]:
        """See `judges.Judge.compare`."""
        self.questions += [Question(*q) for q in zip(prompts, first, second, strict=True)]
        return [None] * len(prompts)


def questions_about(pairs: pd.DataFrame, *, most_prompts: int | None = None) -> list[Question]:
    """Both orders of `verdicts.make_pairs`, of each seed's first prompts alone where a judge is
    asked about so many at most: what `verdicts.ask` asks it."""
    recorder = Recorder()
    for _, mine in pairs.groupby("seed"):
        first = sorted(mine["prompt_id"].unique())[:most_prompts]
        judge_pairs(recorder, mine[mine["prompt_id"].isin(first)])
    return recorder.questions


def named(judge: LanguageModelJudge, questions: Sequence[Question]) -> dict[str, Question]:
    """Questions by the keys of their replies, each distinct text once. Raises ValueError for a
    judge that is no server's: a local one asks in its own chat template."""
    if not isinstance(judge, EndpointJudge):
        raise ValueError(
            f"judge {judge.name!r} is no endpoint; a batch file is for judges of kind: endpoint, "
            f"so describe the model as one in evaluation.llm_judges.{judge.name}"
        )
    return {content_key([FORMAT, question_text(q, judge.tokens)]): q for q in questions}


def write_requests(
    judge: LanguageModelJudge, questions: Sequence[Question], path: str | Path
) -> int:
    """Write the questions that have no reply yet, one request a line; returns how many. The same
    questions and replies give the same bytes."""
    stored = read_store(judge.store)
    lines = [
        json.dumps(
            {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {
                    "model": judge.settings.model,
                    "messages": [{"role": "user", "content": question_text(question)}],
                    "temperature": 0,
                    "max_tokens": REPLY_TOKENS,
                    "logprobs": True,
                    "top_logprobs": LISTED[0],
                },
            },
            ensure_ascii=False,
        )
        for key, question in sorted(named(judge, questions).items())
        if key not in stored
    ]
    atomic_write(Path(path), "".join(f"{line}\n" for line in lines))
    return len(lines)


def read_results(
    judge: LanguageModelJudge, questions: Sequence[Question], path: str | Path
) -> Results:
    """Keep the replies of a results file, as if the judge had been asked.

    A reply that is kept already stays as it is; a request that failed is counted, and asked by the
    next batch. Raises ValueError, naming file and row, for a custom_id that none of the questions
    has, another model than the judge's, two different replies to one question, a usage that counts
    no tokens, and what is no chat completion; nothing is kept then.
    """
    wanted, name = named(judge, questions), Path(path).name
    found: dict[str, Reply] = {}
    failed, read, written = set(), 0, 0
    for number, row in plain_rows(path):
        where, key = f"{name}, row {number}", row.get("custom_id")
        # a list or an object is no name, and no key of a dict either
        if not isinstance(key, str) or key not in wanted:
            raise ValueError(
                f"{where}: custom_id {key!r:.60} is no question of judge {judge.name!r} about "
                "these pairs; read the results of the file that was written for them"
            )
        body = _body(row)
        if body is None:
            failed.add(key)
            continue
        reply = _reply(body, judge, where)
        prompt_tokens, completion_tokens = _usage(body, where)
        if key not in found:  # the same row once more is the same request
            read, written = read + prompt_tokens, written + completion_tokens
        if found.setdefault(key, reply) != reply:
            raise ValueError(f"{where}: {key} has another reply above; keep one of the two rows")
    stored = read_store(judge.store)
    new = {key: reply for key, reply in found.items() if key not in stored}
    for key, reply in sorted(new.items()):
        kept = {"key": key, "answer": reply.choice, "log_odds": reply.log_odds, "note": reply.note}
        append(judge.store, kept | {"sha256": content_key(kept)})
    left = wanted.keys() - stored.keys() - new.keys()
    known = len(found) - len(new)
    return Results(len(new), known, len(failed - found.keys()), len(left), read, written)


class _Fields(SimpleNamespace):
    """A JSON object by attributes; what it lacks is None, as in the official client."""

    def __getattr__(self, name: str) -> None:
        return None


def _body(row: Mapping[str, Any]) -> dict | None:
    """The chat completion of a results row, None where its request failed. Some write the
    completion itself as the response, most wrap it with its status."""
    response = row.get("response")
    if row.get("error") or not isinstance(response, dict):
        return None
    body = response.get("body", response)
    failed = response.get("status_code", 200) != 200 or not isinstance(body, dict)
    return None if failed else body


def _usage(body: Mapping[str, Any], where: str) -> list[int]:
    """Tokens read and written, 0 where the file does not say."""
    usage = body.get("usage")
    usage = {} if usage is None else usage
    if isinstance(usage, dict):
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        counts = [0 if count is None else count for count in counts]
        if all(type(count) is int and count >= 0 for count in counts):
            return counts
    raise ValueError(
        f"{where}: usage is {usage!r:.60}; it must hold the whole numbers prompt_tokens and "
        "completion_tokens, or be left out"
    )


def _reply(body: Mapping[str, Any], judge: LanguageModelJudge, where: str) -> Reply:
    model = body.get("model", judge.settings.model)
    if model != judge.settings.model:
        raise ValueError(
            f"{where}: it is of the model {model!r:.60}, but judge {judge.name!r} is "
            f"{judge.settings.model!r}; run the batch with that model, or correct "
            f"evaluation.llm_judges.{judge.name}.model"
        )
    try:
        return read_response(json.loads(json.dumps(body), object_hook=lambda o: _Fields(**o)))
    except NO_COMPLETION:
        raise ValueError(f"{where}: its response is no chat completion; run it again") from None
