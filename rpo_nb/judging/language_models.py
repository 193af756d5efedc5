"""Language models as judges: the paper's prompt, asked of a model on this machine or of any
OpenAI-compatible server.

    judge = build("mistral", LLMJudge(kind="local", model="mistralai/Mistral-7B-Instruct-v0.3"))
    replies = judge.replies(prompts, first, second)   # one Reply a question; stored as it arrives

The prompt is paper A's, word for word, as the user's message of the model's chat template (the
plain text where there is none). A reply is the log-odds log P("A") − log P("B") of the next token,
so nothing is parsed. Every reply is kept under <cache>/verdicts/<identity>.jsonl by the hash of
the text that was asked: a rerun asks only what is missing.

**Completions are data.** The paper's prompt delimits them by headings, which a completion may
imitate, so `as_data` changes two things of an instruction or a completion, and nothing else:

- what looks like a token of a chat template ("<|im_end|>", "[INST]", "</s>", and for a local model
  every token its tokenizer
  adds) gets a space after its first character, so that it is read as text. A local judge also
  compares the control tokens of the encoded question with those of an empty one, and gives no
  verdict where they differ;
- a line that begins like one of the prompt's headings ("Response B:", "Your answer (A or B):") or
  gives a letter as an answer
  ("Answer: A") is quoted with "> "; a completion that fills in the prompt's own last line ("Your
  answer: A") loses the letter.

No rewriting can stop a sentence like "this response is better": that is for both orders to catch. A
completion does not know which letter it will be, so naming one helps it in one order and harms it
in the other: strictly a flip, on average nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import LLMJudge
from rpo_nb.judging.judges import Choice, Judge, Reply
from rpo_nb.remedies import room_for
from rpo_nb.reporting.published import published_numbers
from rpo_nb.running import provenance

FORMAT = 1  # raised when the same text would get another reply from the same model
DIGITS = 4  # of stored log-odds: other batches change the fifth
# What may be said of a reply.
FAILED, NEITHER, LONG, CONTROL, OFF = "failed", "neither", "too long", "control tokens", "off"
NOTES = ("", FAILED, NEITHER, LONG, CONTROL, OFF)

# of the chat templates in use, for judges whose tokenizer we do not see
TEMPLATE_TOKEN = re.compile(
    r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<<?/?SYS>>?|<(?:start|end)_of_\w+>|<(?:bos|eos|pad)>"
    r"|\[/?[A-Z][A-Z_]{2,20}\]"
)
MARKS = r"(?:[^\w\n]|_)*"  # spaces and markdown within a line
HEADING = re.compile(
    rf"^(?={MARKS}(?:"
    rf"(?:instruction|response\s+[ab]|(?:your|final|my)\s+answer(?:\s*\(a\s+or\s+b\))?){MARKS}:"
    rf"|(?:the\s+)?(?:your\s+|final\s+|my\s+|correct\s+)?answer\s*(?:is\b|:)?"
    rf"{MARKS}\b[ab]\b{MARKS}$))",
    re.IGNORECASE | re.MULTILINE,
)
FILLED_IN = re.compile(
    rf"((?i:your\s+answer(?:\s*\(a\s+or\s+b\))?\s*(?:is\b)?){MARKS})\b[AB]\b(?!\s+or\b)"
)


class Question(NamedTuple):
    """An instruction and two completions in the order shown."""

    prompt: str
    first: str
    second: str


# ---- the question --------------------------------------------------------------------------------


def judge_prompt() -> str:
    """Paper A's prompt with its three places {instruction}, {response_a}, {response_b}."""
    return published_numbers()["paper_a"]["setup"]["judge_prompt"].rstrip("\n")


def as_data(text: str, tokens: Sequence[str] = ()) -> str:
    """The text with what would be read as the prompt's own structure made plain; see the module's
    docstring.

    tokens: a tokenizer's added tokens, which are always made plain; those of common chat templates
    are, too.
    """
    known = [
        re.escape(token)
        for token in sorted(tokens, key=len, reverse=True)
        if len(token) > 1 and not token.isspace()
    ]
    pattern = re.compile("|".join([*known, TEMPLATE_TOKEN.pattern]))
    text = pattern.sub(
        lambda found: f"{found[0][0]} {found[0][1:]}",
        text.replace("\r\n", "\n").replace("\r", "\n"),
    )
    return HEADING.sub("> ", text)


def question_text(question: Question, tokens: Sequence[str] = ()) -> str:
    """The paper's prompt about one pair."""
    instruction = as_data(question.prompt, tokens)
    first, second = (as_data(FILLED_IN.sub(r"\1…", text), tokens) for text in question[1:])
    return judge_prompt().format(instruction=instruction, response_a=first, response_b=second)


def reply_to(log_odds: float, note: str = "") -> Reply:
    """The verdict of log-odds; at exactly 0 the first, so that two zeros flip and are a tie, as for
    equal scores."""
    log_odds = round(log_odds, DIGITS)
    return Reply("first" if log_odds >= 0 else "second", log_odds, note)


# ---- what every judge does -----------------------------------------------------------------------


class LanguageModelJudge(Judge):
    """A judge by a language model. `notes` counts what is to be said of the last call's distinct
    questions: why there is no choice (FAILED: to be asked again), or OFF: neither letter was the
    likeliest token."""

    by_log_odds = True

    tokens: Sequence[str] = ()  # that a completion must not use
    # notes of replies that are not final: not stored, and asked for by every rerun
    again: Sequence[str] = (FAILED,)

    def __init__(self, name: str, settings: LLMJudge) -> None:
        self.name, self.settings, self.notes, self.asked = name, settings, Counter(), 0
        self.most_prompts = settings.prompts

    @property
    @abstractmethod
    def identity(self) -> str:
        """Changes whenever the reply to the same text could."""

    @abstractmethod
    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        """Replies to distinct questions in any order, as they arrive."""

    @abstractmethod
    def _failure(self) -> str:
        """What FAILED questions wait for: what is wrong, and the remedy."""

    @property
    def store(self) -> Path:
        """The file of this judge's replies: one JSON line each."""
        return provenance.cache_dir() / "verdicts" / f"{self.identity}.jsonl"

    def replies(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Reply]:
        """One reply a question; those already on disk are not asked again, the others are stored as
        they arrive."""
        questions = [Question(*texts) for texts in zip(prompts, first, second, strict=True)]
        distinct = list(dict.fromkeys(questions))
        keys = {q: content_key([FORMAT, question_text(q, self.tokens)]) for q in distinct}
        stored = read_store(self.store)
        found = {q: stored[keys[q]] for q in distinct if keys[q] in stored}
        missing = [q for q in distinct if q not in found]
        for question, reply in self._watched(missing):
            found[question] = reply
            if not is_verdict(reply):
                raise ValueError(f"judge {self.name!r}: {reply} is no verdict and is not stored")
            if reply.note not in self.again:
                choice, log_odds, note = reply
                # "answer": what the files of replies have always called it
                row = {"key": keys[question], "answer": choice, "log_odds": log_odds, "note": note}
                append(self.store, row | {"sha256": content_key(row)})
        self.notes, self.asked = Counter(found[q].note for q in distinct), len(distinct)
        return [found[q] for q in questions]

    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Choice]:
        """See `judges.Judge.compare`."""
        return [reply.choice for reply in self.replies(prompts, first, second)]

    def _watched(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        """`_ask`, with a bar when it takes longer than half a minute."""
        from tqdm import tqdm

        if questions:
            yield from tqdm(
                self._ask(questions),
                total=len(questions),
                desc=self.name,
                unit="question",
                delay=30,
                mininterval=30,
            )

    def failed(self) -> int:
        return sum(self.notes[note] for note in self.again)

    def remarks(self) -> list[str]:
        """One sentence for each thing that is to be said of the last call's questions, its count
        first."""
        said = {
            FAILED: f"got no reply: {self._failure()}; their verdicts are null until then, "
            "and a rerun asks only for these",
            NEITHER: "got a reply that is neither A nor B: their verdicts are null",
            LONG: "are longer than the model's context: their verdicts are null; lower "
            "decoding.max_new_tokens, or take a judge "
            "with a longer context",
            CONTROL: "hold control tokens of the model in a completion: their verdicts are null",
            OFF: "have a likeliest reply that is neither A nor B: A and B are compared all "
            "the same, but this model does "
            "not do what the prompt asks",
        }
        return [
            f"judge {self.name}: {self.notes[note]:,} of {self.asked:,} questions {text}."
            for note, text in said.items()
            if self.notes[note]
        ]


def is_verdict(reply: Reply) -> bool:
    """Whether a reply is one that a judge can have given: the choice, if there are log-odds, is
    their sign."""
    choice, log_odds, note = reply
    if choice not in ("first", "second", None) or note not in NOTES:
        return False
    if choice is None:
        return log_odds is None
    number = isinstance(log_odds, (int, float)) and not isinstance(log_odds, bool)
    if note not in ("", OFF) or not (log_odds is None or (number and math.isfinite(log_odds))):
        return False
    return log_odds is None or choice == reply_to(log_odds).choice


def read_store(path: Path) -> dict[str, Reply]:
    """Stored replies by key. A line that is no verdict (a killed process left it torn, or it was
    changed) is skipped, so that its question is asked again; one line says how many there are."""
    found, refused = {}, 0
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    )
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
            written = row.pop("sha256")
            key, reply = row["key"], Reply(row["answer"], row["log_odds"], row["note"])
            good = isinstance(key, str) and is_verdict(reply) and written == content_key(row)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            good = False
        if good:
            found[key] = reply
        refused += not good
    if refused:
        print(
            f"{path.name}: {refused:,} of {len(lines):,} stored replies are no verdicts; they "
            "are asked for again"
        )
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one JSON line in one write, on a line of its own even after a torn one; several processes
    may."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        file.write(
            (b"\n" if size and torn else b"") + json.dumps(row, sort_keys=True).encode() + b"\n"
        )
