"""Language models as judges: the paper's prompt, asked of a model on this machine or of any OpenAI-compatible server.

    judge = build("mistral", LLMJudge(kind="local", model="mistralai/Mistral-7B-Instruct-v0.3"))
    replies = judge.replies(prompts, first, second)      # one Reply a question; stored on disk as it arrives

The prompt is paper A's, word for word, as the user's message of the model's chat template (the plain text where there is none).
A reply is the log-odds log P("A") − log P("B") of the next token, so nothing is parsed. Every answer is kept under
<cache>/verdicts/<identity>.jsonl by the hash of the text that was asked: a rerun asks only what is missing.

**Completions are data.** The paper's prompt delimits them by headings, which a completion may imitate, so `as_data` changes two
things of an instruction or a completion, and nothing else:

- what looks like a token of a chat template ("<|im_end|>", "[INST]", "</s>", and for a local model every token its tokenizer
  adds) gets a space after its first character, so that it is read as text. A local judge also compares the control tokens of
  the encoded question with those of an empty one, and gives no verdict where they differ;
- a line that begins like one of the prompt's headings ("Response B:", "Your answer (A or B):") or gives a letter as an answer
  ("Answer: A") is quoted with "> "; a completion that fills in the prompt's own last line ("Your answer: A") loses the letter.

No rewriting can stop a sentence like "this response is better": that is for both orders to catch. A completion does not know
which letter it will be, so naming one helps it in one order and harms it in the other: strictly a flip, on average nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rpo_nb import hub, references
from rpo_nb.checks import memory_advice
from rpo_nb.config import LLMJudge, content_key
from rpo_nb.judges import Answer
from rpo_nb.policy import load_policy
from rpo_nb.provenance import model_key, step_code
from rpo_nb.reporting import published_numbers
from rpo_nb.store import room_for

FORMAT = 1  # raised when the same text would get another reply from the same model
DIGITS = 4  # of stored log-odds: other batches change the fifth
SHARED = 16  # tokens that a batch must share before they are worth a pass of their own
# What may be said of a reply.
FAILED, NEITHER, LONG, CONTROL, OFF = "failed", "neither", "too long", "control tokens", "off"
NOTES = ("", FAILED, NEITHER, LONG, CONTROL, OFF)

TEMPLATE_TOKEN = re.compile(  # of the chat templates in use, for judges whose tokenizer we do not see
    r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<<?/?SYS>>?|<(?:start|end)_of_\w+>|<(?:bos|eos|pad)>|\[/?[A-Z][A-Z_]{2,20}\]")
MARKS = r"(?:[^\w\n]|_)*"  # spaces and markdown within a line
HEADING = re.compile(
    rf"^(?={MARKS}(?:(?:instruction|response\s+[ab]|(?:your|final|my)\s+answer(?:\s*\(a\s+or\s+b\))?){MARKS}:"
    rf"|(?:the\s+)?(?:your\s+|final\s+|my\s+|correct\s+)?answer\s*(?:is\b|:)?{MARKS}\b[ab]\b{MARKS}$))",
    re.IGNORECASE | re.MULTILINE)
FILLED_IN = re.compile(rf"((?i:your\s+answer(?:\s*\(a\s+or\s+b\))?\s*(?:is\b)?){MARKS})\b[AB]\b(?!\s+or\b)")


class Question(NamedTuple):
    """An instruction and two completions in the order shown."""

    prompt: str
    first: str
    second: str


class Reply(NamedTuple):
    """answer: which completion, None for no verdict. log_odds: of the one shown first, None where there are no log-probs.
    note: "" or why there is no answer (FAILED: to be asked again), or OFF: neither letter was the likeliest token."""

    answer: Answer
    log_odds: float | None = None
    note: str = ""


# ---- the question -----------------------------------------------------------------------------------------------------

def judge_prompt() -> str:
    """Paper A's prompt with its three places {instruction}, {response_a}, {response_b}."""
    return published_numbers()["paper_a"]["setup"]["judge_prompt"].rstrip("\n")


def as_data(text: str, tokens: Sequence[str] = ()) -> str:
    """The text with what would be read as the prompt's own structure made plain; see the module's docstring.

    tokens: a tokenizer's added tokens, which are always made plain; those of common chat templates are, too.
    """
    known = [re.escape(token) for token in sorted(tokens, key=len, reverse=True) if len(token) > 1 and not token.isspace()]
    pattern = re.compile("|".join([*known, TEMPLATE_TOKEN.pattern]))
    text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text.replace("\r\n", "\n").replace("\r", "\n"))
    return HEADING.sub("> ", text)


def question_text(question: Question, tokens: Sequence[str] = ()) -> str:
    """The paper's prompt about one pair."""
    instruction = as_data(question.prompt, tokens)
    first, second = (as_data(FILLED_IN.sub(r"\1…", text), tokens) for text in question[1:])
    return judge_prompt().format(instruction=instruction, response_a=first, response_b=second)


def reply_to(log_odds: float, note: str = "") -> Reply:
    """The verdict of log-odds; at exactly 0 the first, so that two zeros flip and are a tie, as for equal scores."""
    log_odds = round(log_odds, DIGITS)
    return Reply("first" if log_odds >= 0 else "second", log_odds, note)


# ---- what every judge does --------------------------------------------------------------------------------------------

class LanguageModelJudge(ABC):
    """A judge by a language model. `notes` counts what is to be said of the last call's distinct questions."""

    tokens: Sequence[str] = ()  # that a completion must not use
    again: Sequence[str] = (FAILED,)  # notes of replies that are not final: not stored, and asked for by every rerun

    def __init__(self, name: str, settings: LLMJudge) -> None:
        self.name, self.settings, self.notes, self.asked = name, settings, Counter(), 0

    @property
    @abstractmethod
    def identity(self) -> str:
        """Changes whenever the answer to the same text could."""

    @abstractmethod
    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        """Replies to distinct questions in any order, as they arrive."""

    @abstractmethod
    def _failure(self) -> str:
        """What FAILED questions wait for: what is wrong, and the remedy."""

    @property
    def store(self) -> Path:
        """The file of this judge's answers: one JSON line each."""
        return references.cache_dir() / "verdicts" / f"{self.identity}.jsonl"

    def replies(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[Reply]:
        """One reply a question; those already on disk are not asked again, the others are stored as they arrive."""
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
                row = {"key": keys[question], **reply._asdict()}
                append(self.store, row | {"sha256": content_key(row)})
        self.notes, self.asked = Counter(found[q].note for q in distinct), len(distinct)
        return [found[q] for q in questions]

    def compare(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[Answer]:
        """See `judges.Judge.compare`."""
        return [reply.answer for reply in self.replies(prompts, first, second)]

    def _watched(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        """`_ask`, with a bar when it takes longer than half a minute."""
        from tqdm import tqdm

        if questions:
            yield from tqdm(self._ask(questions), total=len(questions), desc=self.name, unit="question", delay=30, mininterval=30)

    def remarks(self) -> list[str]:
        """One sentence for each thing that is to be said of the last call's questions, its count first."""
        said = {FAILED: f"got no answer: {self._failure()}; their verdicts are null until then, and a rerun asks only for these",
                NEITHER: "got an answer that is neither A nor B: their verdicts are null",
                LONG: "are longer than the model's context: their verdicts are null; lower decoding.max_new_tokens, or take a judge "
                      "with a longer context",
                CONTROL: "hold control tokens of the model in a completion: their verdicts are null",
                OFF: "have a likeliest answer that is neither A nor B: A and B are compared all the same, but this model does "
                     "not do what the prompt asks"}
        return [f"judge {self.name}: {self.notes[note]:,} of {self.asked:,} questions {text}." for note, text in said.items()
                if self.notes[note]]


def is_verdict(reply: Reply) -> bool:
    """Whether a reply is one that a judge can have given: the answer, if there are log-odds, is their sign."""
    answer, log_odds, note = reply
    if answer not in ("first", "second", None) or note not in NOTES:
        return False
    if answer is None:
        return log_odds is None
    number = isinstance(log_odds, (int, float)) and not isinstance(log_odds, bool)
    if note not in ("", OFF) or not (log_odds is None or (number and math.isfinite(log_odds))):
        return False
    return log_odds is None or answer == reply_to(log_odds).answer


def read_store(path: Path) -> dict[str, Reply]:
    """Stored replies by key. A line that is no verdict (a killed process left it torn, or it was changed) is skipped, so that
    its question is asked again; one line says how many there are."""
    found, refused = {}, 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
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
        print(f"{path.name}: {refused:,} of {len(lines):,} stored answers are no verdicts; they are asked for again")
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one JSON line in one write, on a line of its own even after a torn one; several processes may."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if size and torn else b"") + json.dumps(row, sort_keys=True).encode() + b"\n")


# ---- a model on this machine ------------------------------------------------------------------------------------------

_LOADED: dict[tuple, Any] = {}  # at most one judge's model is in memory


class LocalJudge(LanguageModelJudge):
    """A causal chat model through transformers; bfloat16 on a GPU, float32 on the CPU.

    log-odds = log Σ P("A") − log Σ P("B"), over the forms of a letter that are one token of the vocabulary (with and without
    a space before). Questions about one instruction stand together, ordered by length; the tokens that a batch shares (the
    prompt's beginning, the instruction) are computed once and their key-value cache is repeated.
    Raises ValueError when the model is missing, gated, no causal language model, or has no token for a letter.
    """

    def __init__(self, name: str, settings: LLMJudge) -> None:
        from transformers import AutoConfig, AutoTokenizer

        super().__init__(name, settings)
        self.folder = references.resolve(settings.model)
        try:
            self.folder = references.fetched(settings.model, settings.revision)
            self.config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason, remedy = hub.problem(error, settings.model)
            raise ValueError(f"judge {name!r}: model {settings.model!r} could not be loaded: {reason}; {remedy} "
                             f"(evaluation.llm_judges.{name}.model)") from error
        if self.config.is_encoder_decoder:
            raise ValueError(f"judge {name!r}: {settings.model!r} is an encoder-decoder model; a local judge is a causal one")
        added = map(str, self.tokenizer.added_tokens_decoder.values())
        self.tokens = [token for token in added if token != self.tokenizer.unk_token]
        vocabulary = self.tokenizer.get_vocab()
        self.letters = [[vocabulary[form] for form in (letter, f"Ġ{letter}", f"▁{letter}") if form in vocabulary]
                        for letter in "AB"]
        for letter, ids in zip("AB", self.letters, strict=True):
            if not ids:
                raise ValueError(f"judge {name!r}: the tokenizer of {settings.model!r} has no token \"{letter}\"; take another model")

    @cached_property
    def identity(self) -> str:
        """Weights, tokenizer, precision and the code that asks."""
        return content_key(["local", model_key(self.folder), self._bf16, step_code("local judge")])

    @property
    def _bf16(self) -> bool:
        return torch.cuda.is_available()

    @property
    def limit(self) -> int:
        """Tokens of a question at most."""
        text = self.config.get_text_config()
        return min(getattr(text, "max_position_embeddings", None) or 10**9, self.tokenizer.model_max_length)

    def _failure(self) -> str:
        return "run again"  # a local model always says something

    def encode(self, question: Question) -> list[int]:
        """The question's token ids, in the chat template and up to the answer."""
        text = question_text(question, self.tokens)
        if not self.tokenizer.chat_template:
            return self.tokenizer(text)["input_ids"]
        message = [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    def _control(self, ids: Sequence[int]) -> list[int]:
        known = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special} - {self.tokenizer.unk_token_id}
        return [i for i in ids if i in known]

    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        encoded, own = {}, self._control(self.encode(Question("", "", "")))
        for question in questions:
            ids = self.encode(question)
            note = LONG if len(ids) >= self.limit else CONTROL if self._control(ids) != own else ""
            if note:
                yield question, Reply(None, note=note)
            else:
                encoded[question] = np.array(ids, dtype=np.int32)  # 100,000 questions of Python integers would be gigabytes
        order = sorted(encoded, key=lambda q: (len(q.prompt), q.prompt, len(encoded[q]), q))
        if not order:
            return
        model, size = self._model(), self.settings.batch_size
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for question, logits in zip(batch, self._logits(model, [encoded[q].tolist() for q in batch]), strict=True):
                a, b = (float(logits[ids].logsumexp(0)) for ids in self.letters)
                if not math.isfinite(a - b):
                    raise ValueError(f"judge {self.name!r}: its log-odds are {a - b} on the prompt {question.prompt[:80]!r}; check "
                                     "its weights")
                yield question, reply_to(a - b, "" if int(logits.argmax()) in sum(self.letters, []) else OFF)

    def _model(self) -> nn.Module:
        key = (self.identity, self.folder)
        if key not in _LOADED:
            _LOADED.clear()  # before the next comes in: two of 8B need not fit
            _LOADED[key] = load_policy(self.folder, bf16=self._bf16)[0].eval()
        return _LOADED[key]

    def _logits(self, model: nn.Module, rows: list[list[int]]) -> Tensor:
        with memory_advice(f"judge {self.name}, {len(rows)} questions of up to {max(map(len, rows))} tokens",
                           f"lower evaluation.llm_judges.{self.name}.batch_size"):
            return next_token_logits(model, rows, pad_id=self.tokenizer.pad_token_id or 0).cpu()


@torch.inference_mode()
def next_token_logits(model: nn.Module, rows: Sequence[Sequence[int]], *, pad_id: int) -> Tensor:
    """Logits [n, V], float32, of the token after each row of ids: padded on the left, what all rows begin with computed once."""
    device, shared, cache = next(model.parameters()).device, 0, None
    if len(rows) > 1 and not getattr(model, "_is_stateful", False):
        shared = min(len(os.path.commonprefix([list(row) for row in rows])), min(map(len, rows)) - 1)
    if shared >= SHARED:
        begin = torch.tensor([list(rows[0][:shared])], device=device)
        cache = model(input_ids=begin, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(rows))
    else:
        shared = 0
    rest = [row[shared:] for row in rows]
    width = max(map(len, rest))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rest], device=device)
    mask = torch.tensor([[1] * shared + [0] * (width - len(row)) + [1] * len(row) for row in rest], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=cache is not None,
                logits_to_keep=1)
    return out.logits[:, -1].float()


def build(name: str, settings: LLMJudge) -> LanguageModelJudge:
    """The judge that a profile's evaluation.llm_judges describes."""
    from rpo_nb.endpoint import EndpointJudge

    return {"local": LocalJudge, "endpoint": EndpointJudge}[settings.kind](name, settings)
