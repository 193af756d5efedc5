"""Tiny models of every family, and what the kit does with each: the table of docs/models.md.

    python -m tests.policy.families            writes docs/models.md
    python -m tests.policy.families Mamba T5   prints what is measured of these families

Every number stands beside a plain forward pass of transformers: each row alone, unpadded, float64.
Prompts have unequal lengths, most of them longer than the windows.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import completing, encoding, forward, generation, load, prefixes
from rpo_nb.policy import logps as policy_logps
from rpo_nb.policy.logps import collate, grouped_logps, sequence_logps
from tests.policy.family_configs import (
    DOCS,
    FAMILIES,
    FLOAT32,
    LIMITS,
    NEW,
    PROMPTS,
    ROWS,
    TEXTS,
    t5gemma,
    tokenizer_of,
)


def build(name: str) -> torch.nn.Module:
    """A family's tiny model in float64 (FLOAT32 aside), its weights large enough that all count."""
    _, kind, fields = FAMILIES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**fields if fields else t5gemma())
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config)
    with torch.no_grad():
        for path, weight in model.named_parameters():
            kept = any(word in path for word in ("norm", "A_log", "conv", "vision"))
            if weight.dim() >= 2 and not kept:
                weight.normal_(0, weight.shape[-1] ** -0.5)
        if not config.is_encoder_decoder:
            model.get_output_embeddings().weight.mul_(4)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # the grouped kernel knows no float64
    return (model if name in FLOAT32 else model.double()).eval()


# ---- measuring ---------------------------------------------------------------------------------


@dataclass
class Family:
    """What the kit makes of a family. refused: its sentence, "" where it is not; whole, grouped:
    the largest difference of a log-probability from the plain forward's, nats; gradient: of grouped
    log-probabilities in training, the relative difference; texts: greedy completions that are those
    of `model.generate`, of as many; shared, way: how log-probabilities and completions come about;
    said: the warnings."""

    name: str
    model: str
    refused: str = ""
    whole: float = math.nan
    grouped: float = math.nan
    gradient: float = math.nan
    texts: tuple[int, int] = (0, 0)
    shared: bool = False
    way: str = ""
    said: tuple[str, ...] = ()


def plain_logps(model: torch.nn.Module, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """log π of each row's completion by transformers alone: one row, no padding, no cache."""
    sums = []
    for prompt, answer in rows:
        if model.config.is_encoder_decoder:
            inputs, start = [prompt], forward.start_token(model)
            more = {"decoder_input_ids": torch.tensor([[start, *answer[:-1]]])}
        else:
            inputs, more = [prompt + answer], {}
            if model.config.model_type == "gemma3":  # which training asks for
                more = {"token_type_ids": torch.zeros(1, len(inputs[0]), dtype=torch.long)}
        ids = torch.tensor(inputs)
        logits = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **more
        ).logits[0]
        logits = logits if model.config.is_encoder_decoder else logits[len(prompt) - 1 : -1]
        sums.append(logits.log_softmax(-1).gather(1, torch.tensor(answer).unsqueeze(1)).sum())
    return torch.stack(sums)


def flat_gradient(model: torch.nn.Module, logps: torch.Tensor) -> torch.Tensor:
    loss = (logps * torch.linspace(-1, 2, len(logps), dtype=logps.dtype)).sum()
    parts = torch.autograd.grad(
        loss,
        [p for p in model.parameters() if p.requires_grad],
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([part.flatten() for part in parts])


def whole_rows(model: torch.nn.Module, rows: list[tuple[list[int], list[int]]]) -> tuple:
    """input_ids, attention_mask and labels of `logps.sequence_logps`."""

    def padded(lists: list[list[int]], value: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(x) for x in lists], batch_first=True, padding_value=value)

    split = model.config.is_encoder_decoder
    ids = [p if split else p + c for p, c in rows]
    labels = [c if split else [forward.IGNORE] * len(p) + c for p, c in rows]
    mask = padded([[1] * len(row) for row in ids], 0)
    return padded(ids, 0), mask, padded(labels, forward.IGNORE)


@cache
def measured(name: str) -> Family:
    """A family's row of the table. Prompts are read together, and kept wherever they can be."""
    model, tokenizer = build(name), tokenizer_of(FAMILIES[name][0])
    load.set_dropout(model, 0.0)
    rows = encoding.encode(tokenizer, ROWS, TEXTS, **LIMITS)
    found = Family(name, type(model).__name__)
    costs = prefixes.overhead, policy_logps.overhead
    prefixes.overhead, policy_logps.overhead = (lambda _: 0.0), (lambda _: 1e9)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                whole = sequence_logps(model, *whole_rows(model, rows), reduce="sum")
                batch = collate(rows, pad_id=0)
                grouped = grouped_logps(model.train(), batch, reduce="sum").logps
            except ValueError as error:
                found.refused = str(error)
            else:
                plain = plain_logps(model, rows)
                found.whole = float((whole - plain).detach().abs().max())
                found.grouped = float((grouped - plain).detach().abs().max())
                ours, theirs = flat_gradient(model, grouped), flat_gradient(model, plain)
                found.gradient = float((ours - theirs).norm() / theirs.norm())
                found.shared = all(prefixes._READS[model].values())
            if not found.refused:
                found.texts, found.way = same_texts(model.eval(), tokenizer)
    finally:
        prefixes.overhead, policy_logps.overhead = costs
    ours = (str(w.message) for w in said if str(w.message).startswith(found.model))
    found.said = tuple(dict.fromkeys(ours))
    return found


def same_texts(model: torch.nn.Module, tokenizer: Any) -> tuple[tuple[int, int], str]:
    """How many greedy completions are those of `model.generate`, one prompt at a time, with the
    checkpoint's own generation_config, of how many; and the way they came about."""
    expected = []
    for prompt, _ in encoding.encode(tokenizer, PROMPTS, [""] * len(PROMPTS), **LIMITS):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=1,
                do_sample=False,
                max_new_tokens=NEW,
                eos_token_id=generation.stop_tokens(model, tokenizer),
            )[0]
        new = out[1 if model.config.is_encoder_decoder else len(prompt) :]
        expected += generation.decoded(tokenizer, [new], generation.stop_tokens(model, tokenizer))
    ours = generation.generate(
        model,
        tokenizer,
        [PROMPTS[0], *PROMPTS],
        seed=0,
        batch_size=5,
        max_prompt_tokens=32,
        decoding=DecodingConfig(do_sample=False, max_new_tokens=NEW),
    )
    same = sum(a == b for a, b in zip(ours, [expected[0], *expected], strict=True))
    return (same, len(ours)), completing.WAYS[completing.way_of(model)]


# ---- the page ----------------------------------------------------------------------------------

HEADER = f"""# Models

What the kit does with a model of each family, measured on tiny random ones against a plain forward
pass of transformers {transformers.__version__.rpartition(".")[0]}: `tests/policy/test_families.py` measures it again, and
`python -m tests.policy.families` writes this page. Log-probabilities are those of the plain
forward pass, gradients too, and greedy completions those of `model.generate` with the checkpoint's own `generation_config`; prompts had
unequal lengths and were longer than the windows.

- **shared prefixes**: a prompt is read once for all its completions. **whole rows**: every row is
  passed whole, slower, to the same numbers. **refused**: one sentence names the model before
  anything is computed.
- Completions are generated **in batches** with shared prompts, or more slowly as the column says.

| family | class | log-probabilities | completions |
| --- | --- | --- | --- |
"""
FOOTER = """
A family that is not here is tried before its first log-probability, on unequal prompts, longer than
its narrowest window once a batch has such rows: where shared prefixes give other states than whole
rows, whole rows are passed and one line says so; where padded whole rows give other logits than
each row alone (to 1e-3 of the largest in float32, 5e-2 in half precision), the model is refused.
What so few rows cannot show is refused by a rule when it is loaded: experts with room for a share of a
whole batch (NLLB-MoE), attention that is sparse in long batches only (BigBird) or chosen among
padding too (Doge).

What tokenizers add by themselves (BOS, `<s>`, a language code) is there in scoring, training and
sampling; a causal model's prompt is not ended. A completion ends as the chat template ends an
assistant's turn, and sampling stops there, at the tokenizer's end and at every `eos_token_id` of
the checkpoint's `generation_config`. A token that a checkpoint forces (`forced_bos_token_id`: the
language to be written) is forced here too and counts as a token of the completion, as in
transformers' own loss. What else it says of tokens (`bad_words_ids`, `suppress_tokens`,
`begin_suppress_tokens`, `sequence_bias`) is followed by completions too. What it says of the
search is not, which is the profile's `decoding`: beams, penalties and least lengths that a
checkpoint names are told when it is loaded.

**LongRoPE and dynamic RoPE** (Phi-3 with 128k tokens): transformers scales all positions of a batch
by its longest row as soon as that is longer than the original context. A row's log-probability then
depends on the rows beside it. The kit says so when such a model is loaded: keep prompt and
completion together below that length (4,096 tokens of Phi-3).
"""


def page(families: list[Family]) -> str:
    lines = []
    for family in families:
        how = "shared prefixes" if family.shared else "whole rows"
        cells = ("refused", "") if family.refused else (how, family.way or "in batches")
        lines.append(f"| {family.name} | `{family.model}` | {cells[0]} | {cells[1]} |\n")
    return HEADER + "".join(lines) + FOOTER


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            print(measured(name))
    else:
        DOCS.write_text(page([measured(name) for name in FAMILIES]), encoding="utf-8")
