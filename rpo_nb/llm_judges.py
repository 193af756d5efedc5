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
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from threading import Event
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
LISTED = (20, 5, 0)  # top_logprobs asked of a server, the most first: some list 5 at most, some none
REPLY_TOKENS = 4  # of a server: "A" and its end token, and enough to see that there is more
GIVE_UP = 3  # failures in a row, each after its retries, until a server counts as dead
FAILED, NEITHER, LONG, CONTROL, OFF = "failed", "neither", "too long", "control tokens", "off"  # what may be said of a reply

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


def read_store(path: Path) -> dict[str, Reply]:
    """Stored replies by key; a line that a killed process left torn, or that is not as it was written, is skipped."""
    found = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if row.pop("sha256") != content_key(row):
                    continue
                found[row["key"]] = Reply(row["answer"], row["log_odds"], row["note"])
            except (ValueError, KeyError, TypeError):
                continue
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
            self.config = AutoConfig.from_pretrained(self.folder)
            self.tokenizer = AutoTokenizer.from_pretrained(self.folder)
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


# ---- a server ---------------------------------------------------------------------------------------------------------

class EndpointJudge(LanguageModelJudge):
    """A model behind any OpenAI-compatible server: vLLM, Ollama, llama.cpp, `transformers serve`, a paid service.

    The official client asks, `concurrency` questions at a time, and repeats after 429, 5xx and time-outs with its own growing
    delay. The verdict comes from the listed log-probabilities of the first token (a letter that is not listed counts as much as
    the least likely that is, so its log-odds are too small, never too large); of a server that lists none, from a reply that is
    exactly "A" or "B". The key is read from OPENAI_API_KEY and written nowhere.
    Raises ValueError for an empty url, a missing client, a refused key, a model that the server does not know.
    """

    again = (FAILED, LONG)  # a server may be started again with a longer context

    def __init__(self, name: str, settings: LLMJudge) -> None:
        super().__init__(name, settings)
        if not settings.url:
            raise ValueError(f"evaluation.llm_judges.{name}.url is empty; an endpoint needs the server's address, e.g. "
                             "http://localhost:8000/v1")
        try:
            import openai  # noqa: F401
        except ImportError:
            raise ValueError(f"judge {name!r} asks a server, and the client openai is not installed; pip install openai") from None
        self._why, self._level = "", 0

    @property
    def identity(self) -> str:
        """Address and name; what the server runs under that name is the user's to know."""
        return content_key(["endpoint", self.settings.url, self.settings.model, LISTED, REPLY_TOKENS, step_code("endpoint judge")])

    def _failure(self) -> str:
        return f"the server at {self.settings.url} failed ({self._why}); start it, or wait for it, and run again"

    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        import openai

        client = openai.OpenAI(base_url=self.settings.url, api_key=os.environ.get("OPENAI_API_KEY") or "none",
                               timeout=self.settings.timeout, max_retries=self.settings.retries)
        dead, failures = Event(), 0
        with client, ThreadPoolExecutor(self.settings.concurrency) as pool:
            try:
                waiting = {pool.submit(self._one, client, question, dead): question for question in questions}
                for done in as_completed(waiting):
                    reply = done.result()
                    failures = failures + 1 if reply.note == FAILED else 0
                    if failures >= GIVE_UP:
                        dead.set()
                    yield waiting[done], reply
            finally:  # a refused key, Ctrl-C: nothing more is asked
                dead.set()
                pool.shutdown(cancel_futures=True)

    def _one(self, client: Any, question: Question, dead: Event) -> Reply:
        """The reply to one question; FAILED once the server is dead."""
        import openai

        text, where = question_text(question), f"judge {self.name!r}: {self.settings.url}"
        while not dead.is_set():
            level = self._level
            listing = {"logprobs": True, "top_logprobs": LISTED[level]} if LISTED[level] else {}
            try:
                response = client.chat.completions.create(
                    model=self.settings.model, messages=[{"role": "user", "content": text}], temperature=0,
                    max_tokens=REPLY_TOKENS, **listing)
                return read_response(response)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise ValueError(f"{where} refuses the key ({error.status_code}); set OPENAI_API_KEY to a valid one and run "
                                 "again") from None
            except openai.NotFoundError:
                raise ValueError(f"{where} does not know the model {self.settings.model!r} or the address (404); check model and "
                                 f"url of evaluation.llm_judges.{self.name} (a url mostly ends in /v1)") from None
            except openai.APIStatusError as error:
                if error.status_code in (400, 413, 422) and "logprobs" not in str(error.message) \
                        and re.search(r"context|too long|maximum|exceed", str(error.message), re.IGNORECASE):
                    return Reply(None, note=LONG)
                if listing and (error.status_code in (400, 422) or "logprobs" in str(error.message)):
                    self._level = max(self._level, level + 1)  # it does not list so many, or none at all
                    continue
                self._why = f"{error.status_code}"
            except openai.APIConnectionError as error:
                self._why = "timed out" if isinstance(error, openai.APITimeoutError) else "no connection"
            except (openai.OpenAIError, ValueError, AttributeError, IndexError, TypeError):
                self._why = "its reply is not the API's"
            return Reply(None, note=FAILED)
        return Reply(None, note=FAILED)


def read_response(response: Any) -> Reply:
    """The verdict of a chat completion. Raises AttributeError, IndexError or TypeError for what is none."""
    choice = response.choices[0]
    content = choice.message.content
    first = (choice.logprobs.content if choice.logprobs else None) or []
    listed = [(token.token.strip().strip("Ġ▁"), token.logprob) for token in (first[0].top_logprobs if first else None) or []]
    if listed:
        sums = {letter: [p for token, p in listed if token == letter and math.isfinite(p)] for letter in "AB"}
        if not any(sums.values()):
            return Reply(None, note=NEITHER)
        least = min(p for _, p in listed if math.isfinite(p))
        a, b = (float(torch.tensor(p or [least], dtype=torch.float64).logsumexp(0)) for p in sums.values())
        return reply_to(a - b, "" if max(listed, key=lambda token: token[1])[0] in ("A", "B") else OFF)
    answer = {"A": "first", "B": "second"}.get((content or "").strip())
    return Reply(answer, None, "" if answer else NEITHER)


def build(name: str, settings: LLMJudge) -> LanguageModelJudge:
    """The judge that a profile's evaluation.llm_judges describes."""
    return {"local": LocalJudge, "endpoint": EndpointJudge}[settings.kind](name, settings)
