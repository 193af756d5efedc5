"""A language model on this machine as a judge, by the log-odds of its first token."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import LLMJudge
from rpo_nb.experiment import references
from rpo_nb.judging.language_models import (
    CONTROL,
    LONG,
    OFF,
    LanguageModelJudge,
    Question,
    Reply,
    question_text,
    reply_to,
)
from rpo_nb.policy.load import load_policy
from rpo_nb.remedies import hub_problem, memory_advice
from rpo_nb.running.provenance import model_key, step_code

SHARED = 16  # tokens that a batch must share before they are worth a pass of their own


# ---- a model on this machine ---------------------------------------------------------------------

_LOADED: dict[tuple, Any] = {}  # at most one judge's model is in memory


class LocalJudge(LanguageModelJudge):
    """A causal chat model through transformers; bfloat16 on a GPU, float32 on the CPU.

    log-odds = log Σ P("A") − log Σ P("B"), over the forms of a letter that are one token of the
    vocabulary (with and without a space before). Questions about one instruction stand together,
    ordered by length; the tokens that a batch shares (the prompt's beginning, the instruction) are
    computed once and their key-value cache is repeated. Raises ValueError when the model is
    missing, gated, no causal language model, or has no token for a letter.
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
            reason, remedy = hub_problem(error, settings.model)
            raise ValueError(
                f"judge {name!r}: model {settings.model!r} could not be loaded: "
                f"{reason}; {remedy} "
                f"(evaluation.llm_judges.{name}.model)"
            ) from error
        if self.config.is_encoder_decoder:
            raise ValueError(
                f"judge {name!r}: {settings.model!r} is an encoder-decoder model; a "
                "local judge is a causal one"
            )
        added = map(str, self.tokenizer.added_tokens_decoder.values())
        self.tokens = [token for token in added if token != self.tokenizer.unk_token]
        vocabulary = self.tokenizer.get_vocab()
        self.letters = [
            [
                vocabulary[form]
                for form in (letter, f"Ġ{letter}", f"▁{letter}")
                if form in vocabulary
            ]
            for letter in "AB"
        ]
        for letter, ids in zip("AB", self.letters, strict=True):
            if not ids:
                raise ValueError(
                    f"judge {name!r}: the tokenizer of {settings.model!r} has no "
                    f'token "{letter}"; take another model'
                )

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
        return min(
            getattr(text, "max_position_embeddings", None) or 10**9, self.tokenizer.model_max_length
        )

    def _failure(self) -> str:
        return "run again"  # a local model always says something

    def encode(self, question: Question) -> list[int]:
        """The question's token ids, in the chat template and up to the reply."""
        text = question_text(question, self.tokens)
        if not self.tokenizer.chat_template:
            return self.tokenizer(text)["input_ids"]
        message = [{"role": "user", "content": text}]
        rendered = self.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    def _control(self, ids: Sequence[int]) -> list[int]:
        known = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special} - {
            self.tokenizer.unk_token_id
        }
        return [i for i in ids if i in known]

    def _ask(self, questions: Sequence[Question]) -> Iterator[tuple[Question, Reply]]:
        encoded, own = {}, self._control(self.encode(Question("", "", "")))
        for question in questions:
            ids = self.encode(question)
            note = LONG if len(ids) >= self.limit else CONTROL if self._control(ids) != own else ""
            if note:
                yield question, Reply(None, note=note)
            else:
                # 100,000 questions of Python integers would be gigabytes
                encoded[question] = np.array(ids, dtype=np.int32)
        order = sorted(encoded, key=lambda q: (len(q.prompt), q.prompt, len(encoded[q]), q))
        if not order:
            return
        model, size = self._model(), self.settings.batch_size
        for start in range(0, len(order), size):
            batch = order[start : start + size]
            for question, logits in zip(
                batch, self._logits(model, [encoded[q].tolist() for q in batch]), strict=True
            ):
                a, b = (float(logits[ids].logsumexp(0)) for ids in self.letters)
                if not math.isfinite(a - b):
                    raise ValueError(
                        f"judge {self.name!r}: its log-odds are {a - b} on the prompt "
                        f"{question.prompt[:80]!r}; check "
                        "its weights"
                    )
                yield (
                    question,
                    reply_to(a - b, "" if int(logits.argmax()) in sum(self.letters, []) else OFF),
                )

    def _model(self) -> nn.Module:
        key = (self.identity, self.folder)
        if key not in _LOADED:
            _LOADED.clear()  # before the next comes in: two of 8B need not fit
            _LOADED[key] = load_policy(self.folder, bf16=self._bf16)[0].eval()
        return _LOADED[key]

    def _logits(self, model: nn.Module, rows: list[list[int]]) -> Tensor:
        with memory_advice(
            f"judge {self.name}, {len(rows)} questions of up to {max(map(len, rows))} tokens",
            f"lower evaluation.llm_judges.{self.name}.batch_size",
        ):
            return next_token_logits(model, rows, pad_id=self.tokenizer.pad_token_id or 0).cpu()


@torch.inference_mode()
def next_token_logits(model: nn.Module, rows: Sequence[Sequence[int]], *, pad_id: int) -> Tensor:
    """Logits [n, V], float32, of the token after each row of ids: padded on the left, what all rows
    begin with computed once."""
    device, shared, cache = next(model.parameters()).device, 0, None
    if len(rows) > 1 and not getattr(model, "_is_stateful", False):
        shared = min(
            len(os.path.commonprefix([list(row) for row in rows])), min(map(len, rows)) - 1
        )
    if shared >= SHARED:
        begin = torch.tensor([list(rows[0][:shared])], device=device)
        cache = model(input_ids=begin, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(rows))
    else:
        shared = 0
    rest = [row[shared:] for row in rows]
    width = max(map(len, rest))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rest], device=device)
    mask = torch.tensor(
        [[1] * shared + [0] * (width - len(row)) + [1] * len(row) for row in rest], device=device
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=1,
    )
    return out.logits[:, -1].float()
