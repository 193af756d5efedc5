"""How many tokens a verdict takes, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rpo_nb.judging.endpoint import REPLY_TOKENS
from rpo_nb.judging.judges import Judge
from rpo_nb.judging.language_models import LanguageModelJudge, Question, question_text
from rpo_nb.judging.local import LocalJudge
from rpo_nb.judging.reward_model import RewardModel, encoded_rows

CHARACTERS = 4  # a token of English, where no tokenizer is known
COUNTED, ESTIMATED, NONE = "counted", f"estimated at {CHARACTERS} characters a token", "no model"


class Tokens(NamedTuple):
    """Mean tokens of one verdict (two questions: both orders): those that the judge reads, those
    that it writes, and how they are known."""

    read: float
    written: float
    how: str

    def cost(self, price_in: float, price_out: float) -> float:
        """Of a verdict, in the currency of the prices, which are those of a million tokens."""
        return (self.read * price_in + self.written * price_out) / 1e6


def tokens_a_verdict(
    judge: Judge, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> Tokens:
    """Of a judge on these pairs. A reward model reads each completion with its prompt once; a local
    language model reads both questions and writes nothing, its verdict being the next token's
    log-probabilities; of a server's model the tokenizer is not known."""
    if isinstance(judge, RewardModel):
        rows = [*zip(prompts, first, strict=True), *zip(prompts, second, strict=True)]
        sizes = [len(p) + len(c) for p, c in encoded_rows(judge.tokenizer, rows, judge.settings)]
        return Tokens(2 * float(np.mean(sizes)), 0.0, COUNTED)
    if not isinstance(judge, LanguageModelJudge):
        return Tokens(0.0, 0.0, NONE)
    orders = [(first, second), (second, first)]
    questions = [Question(*q) for one, two in orders for q in zip(prompts, one, two, strict=True)]
    if isinstance(judge, LocalJudge):
        return Tokens(2 * float(np.mean([len(judge.encode(q)) for q in questions])), 0.0, COUNTED)
    characters = [len(question_text(q, judge.tokens)) for q in questions]
    return Tokens(2 * float(np.mean(characters)) / CHARACTERS, 2.0 * REPLY_TOKENS, ESTIMATED)
