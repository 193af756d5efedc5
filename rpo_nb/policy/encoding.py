"""Prompts and completions to token ids, as a model was trained to read them.

A prompt has what its tokenizer adds by itself (BOS, `<s>`, a language code) and, of a causal model,
no end; a completion ends as the model ends its turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rpo_nb.policy.fitting import Messages, cut_in_the_middle, cut_template, newest_turns

Prompt = str | list[dict[str, str]]  # a text, or the messages of a conversation
MARK = r"<(?!0x)[^<>]+>|\[[^\[\]]+\]"  # a token that looks like one: <…> or […], but no byte
TURN = "Zqx 42"  # stands for an assistant's turn in a chat template that is read


def encode(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and completion of each row, cut to their limits, special tokens kept.

    A prompt goes through the tokenizer's chat template where it has one (a text is one user
    message). Too long a prompt is cut in its middle, a conversation loses its oldest turns first
    (`fitting`); a completion loses its end. Others read a conversation as plain text
    (`data.render`), between the tokens that the tokenizer adds by itself; a causal model's prompt
    is not ended (see `is_causal`). A completion ends with `end_of_turn`, of an encoder-decoder as
    its tokenizer ends a target text.
    """
    causal = is_causal(tokenizer)

    def distinct(texts: Sequence[Any], ids: Callable[[list], list[list[int]]]) -> list[list[int]]:
        """`ids` of the texts, each distinct one read once."""
        keys = [text if isinstance(text, str) else json.dumps(text) for text in texts]
        first: dict[str, Any] = {}
        for key, text in zip(keys, texts, strict=True):
            first.setdefault(key, text)
        if not first:
            return []
        table = dict(zip(first, ids(list(first.values())), strict=True))
        return [table[key] for key in keys]

    def asked(conversations: list[Prompt]) -> list[list[int]]:
        if getattr(tokenizer, "chat_template", None):
            ids_of = partial(_template_ids, tokenizer)
            return [cut_template(_messages(c), ids_of, max_prompt_tokens) for c in conversations]
        before, after = added_tokens(tokenizer)
        if causal:
            after = [token for token in after if token != tokenizer.eos_token_id]
        room = max_prompt_tokens - len(before) - len(after)
        found = []
        whole = _tokenized(tokenizer, [_rendered(c) for c in conversations])
        for conversation, ids in zip(conversations, whole, strict=True):
            fits = len(ids) <= room
            found.append(before + (ids if fits else _cut(tokenizer, conversation, room)) + after)
        return found

    def completed(texts: list[str]) -> list[list[int]]:
        room = max(0, max_completion_tokens - len(before) - len(after))
        encoded = _tokenized(tokenizer, texts, target=not causal)
        return [before + ids[:room] + after for ids in encoded]

    if causal:
        before, after = [], end_of_turn(tokenizer)
    else:
        before, after = added_tokens(tokenizer, target=True)
        end = tokenizer.eos_token_id
        after = [*after[: after.index(end)], end] if end in after else [end]
    return list(zip(distinct(prompts, asked), distinct(completions, completed), strict=True))


def added_tokens(tokenizer: Any, *, target: bool = False) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text by itself; target: a text to be written,
    which a multilingual tokenizer marks with another language. Raises ValueError where that cannot
    be told from the text."""
    (whole,) = _tokenized(tokenizer, ["a"], target=target, special=True)
    (bare,) = _tokenized(tokenizer, ["a"], target=target)
    if bare or not whole:
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    raise ValueError(
        f"{type(tokenizer).__name__}: which tokens it adds to a text cannot be told, "
        f"'a' is {bare} without and {whole} with them; use another tokenizer"
    )


def _tokenized(
    tokenizer: Any, texts: list[str], *, target: bool = False, special: bool = False
) -> list[list[int]]:
    given = {"text_target" if target else "text": texts}
    return tokenizer(**given, add_special_tokens=special, verbose=False)["input_ids"]


def is_causal(tokenizer: Any) -> bool:
    """Whether the tokenizer is a causal model's: as `load.load_policy` found the model to be; of
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
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": TURN}], tokenize=False
    )
    end_of_text = text.rfind(TURN) + len(TURN)
    ids, before = _tokenized(tokenizer, [text, text[:end_of_text]])
    if text.rfind(TURN) < 0 or ids[: len(before)] != before:
        return end
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    added = (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
    tail = ids[len(before) :]
    for place, (number, token) in enumerate(
        zip(tail, tokenizer.convert_ids_to_tokens(tail), strict=True)
    ):
        if number in added or (number != tokenizer.unk_token_id and re.fullmatch(MARK, token)):
            return tail[: place + 1]
    return end


def _messages(prompt: Prompt) -> Messages:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _template_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Ids of a conversation in the chat template, with its opening of the completion."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _tokenized(tokenizer, [text])[0]


def _rendered(prompt: Prompt) -> str:
    from rpo_nb.data.prompts import render

    return prompt if isinstance(prompt, str) else render(prompt)


def _cut(tokenizer: Any, prompt: Prompt, room: int) -> list[int]:
    """Ids of a prompt without a template that has more than `room`."""

    def ids_of(messages: Prompt) -> list[int]:
        return _tokenized(tokenizer, [_rendered(messages)])[0]

    kept = newest_turns(_messages(prompt), lambda some: len(ids_of(some)) <= room)
    return cut_in_the_middle(ids_of(kept), room)
