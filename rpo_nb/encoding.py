"""Prompts and completions to token ids, as a model was trained to read them.

A prompt has what its tokenizer adds by itself (BOS, `<s>`, a language code) and, of a causal model,
no end; a completion ends as the model ends its answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Prompt = str | list[dict[str, str]]  # a text, or the messages of a conversation
MARK = r"<(?!0x)[^<>]+>|\[[^\[\]]+\]"  # a token that looks like one: <…> or […], but no byte
ANSWER = "Zqx 42"  # stands for an assistant's turn in a chat template that is read


def encode(tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str], *,
           max_prompt_tokens: int, max_completion_tokens: int) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and completion for each row, each truncated to its limit, its special
    tokens kept.

    A prompt goes through the tokenizer's chat template where it has one (a text is one user
    message); too long a prompt then loses the end of its text, not the template's opening of the
    answer. Others read a conversation as plain text (`data.render`), between the tokens that the
    tokenizer adds by itself; a causal model's prompt is not ended (see `is_causal`). A completion
    ends with `end_of_turn`, of an encoder-decoder as its tokenizer ends a target text.
    """
    causal = is_causal(tokenizer)

    def distinct(texts: Sequence[Any], ids: Callable[[list], list[list[int]]]) -> list[list[int]]:
        keys = [text if isinstance(text, str) else json.dumps(text) for text in texts]
        first = dict(zip(reversed(keys), reversed(texts), strict=True))
        table = dict(zip(first, ids(list(first.values())) if first else [], strict=True))
        return [table[key] for key in keys]

    def plain(texts: list[str], limit: int, before: list[int], after: list[int], *,
              target: bool = False) -> list[list[int]]:
        encoded = _tokenized(tokenizer, texts, target=target, add_special_tokens=False)
        room = max(0, limit - len(before) - len(after))
        return [before + ids[:room] + after for ids in encoded]

    def asked(conversations: list[Prompt]) -> list[list[int]]:
        if getattr(tokenizer, "chat_template", None):
            return [_shortened(ids, max_prompt_tokens, opening)
                    for ids, opening in _templated(tokenizer, conversations)]
        from rpo_nb.data import render

        texts = [c if isinstance(c, str) else render(c) for c in conversations]
        before, after = added_tokens(tokenizer)
        if causal:
            after = [token for token in after if token != tokenizer.eos_token_id]
        return plain(texts, max_prompt_tokens, before, after)

    if causal:
        before, after = [], end_of_turn(tokenizer)
    else:
        before, after = added_tokens(tokenizer, target=True)
        after = [*after[: after.index(tokenizer.eos_token_id)], tokenizer.eos_token_id] if (
            tokenizer.eos_token_id in after) else [tokenizer.eos_token_id]
    answers = distinct(completions, lambda texts: plain(
        texts, max_completion_tokens, before, after, target=not causal))
    return list(zip(distinct(prompts, asked), answers, strict=True))


def added_tokens(tokenizer: Any, *, target: bool = False) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text by itself; target: a text to be written, which
    a multilingual tokenizer marks with another language."""
    whole, = _tokenized(tokenizer, ["a"], target=target)
    bare, = _tokenized(tokenizer, ["a"], target=target, add_special_tokens=False)
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _tokenized(tokenizer: Any, texts: list[str], *, target: bool, **options: Any) -> list[list[int]]:
    return tokenizer(**{"text_target" if target else "text": texts}, **options)["input_ids"]


def is_causal(tokenizer: Any) -> bool:
    """Whether the tokenizer is a causal model's: as `policy.load_policy` found the model to be; of
    one that comes from elsewhere, whether it does not end a text by itself, as T5's does."""
    known = getattr(tokenizer, "for_causal_model", None)
    return not is_t5_like(tokenizer) if known is None else known


def is_t5_like(tokenizer: Any) -> bool:
    """T5's tokenizers end every text with the end token; causal ones do not end a prompt."""
    return tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]


def end_of_turn(tokenizer: Any) -> list[int]:
    """The tokens that end a causal model's completion: as its chat template ends an assistant's
    turn, up to its first special token (`<end_of_turn>`, `<|eot_id|>`, `<|im_end|>`); the end token
    where there is no template, or none that ends a turn."""
    end = [tokenizer.eos_token_id]
    if not getattr(tokenizer, "chat_template", None):
        return end
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"},
                                          {"role": "assistant", "content": ANSWER}], tokenize=False)
    answered = text.rfind(ANSWER) + len(ANSWER)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    before = tokenizer(text[:answered], add_special_tokens=False)["input_ids"]
    if text.rfind(ANSWER) < 0 or ids[: len(before)] != before:
        return end
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    added = (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
    tail = ids[len(before) :]
    for place, (number, token) in enumerate(zip(tail, tokenizer.convert_ids_to_tokens(tail),
                                                strict=True)):
        if number in added or (number != tokenizer.unk_token_id and re.fullmatch(MARK, token)):
            return tail[: place + 1]
    return end


def _templated(tokenizer: Any, conversations: Sequence[Prompt]) -> Iterator[tuple[list[int], int]]:
    """Ids of each conversation in the chat template, and how many of the last ones are the
    template's opening of the answer."""
    def ids(conversation: Prompt) -> list[int]:
        messages = conversation
        if isinstance(conversation, str):
            messages = [{"role": "user", "content": conversation}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    pairs = zip(reversed(ids("a")), reversed(ids("b b")), strict=False)
    opening = next((i for i, (x, y) in enumerate(pairs) if x != y), 0)
    return ((ids(conversation), opening) for conversation in conversations)


def _shortened(ids: list[int], limit: int, opening: int) -> list[int]:
    if len(ids) <= limit:
        return ids
    if limit <= opening:
        raise ValueError(f"data.max_prompt_tokens is {limit}, but the chat template alone ends "
                         f"with {opening} tokens; raise it")
    return ids[: limit - opening] + ids[len(ids) - opening :]
