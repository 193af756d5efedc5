"""What the benchmarks run: model shapes and rows of given lengths.

Weights and tokens are random, since speed does not depend on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from torch import nn

from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.policy import forward, load, logps

STEPS = 3  # of a repetition; the first is not counted
END = 1  # the end token, last of every completion; 0 pads
LENGTHS = Path(__file__).with_name("lengths.csv")
SHAPES: dict[str, dict[str, Any]] = {
    "Llama, 6 layers": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    },
    "T5, tiny": {
        "model_type": "t5",
        "vocab_size": 128,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
    },
    "Llama, tiny": {
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "T5, 4M": {
        "model_type": "t5",
        "vocab_size": 4096,
        "d_model": 256,
        "d_kv": 64,
        "d_ff": 512,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
    },
    "Llama, 4M": {
        "model_type": "llama",
        "vocab_size": 4096,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # Flan-T5-Small's width, which decides how rows are put together, and little else: for counting
    # positions
    "T5, thin": {
        "model_type": "t5",
        "vocab_size": 128,
        "d_model": 512,
        "d_kv": 8,
        "d_ff": 8,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 1,
    },
    "Llama, thin": {
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 512,
        "head_dim": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
    },
    # the axis of model sizes; the vocabulary grows with the model so that the projection's share
    # stays what it is in Flan-T5-Small
    **{
        f"T5, axis {d}": {
            "model_type": "t5",
            "vocab_size": 32 * d,
            "d_model": d,
            "d_kv": 32,
            "d_ff": 2 * d,
            "num_layers": layers,
            "num_decoder_layers": layers,
            "num_heads": d // 32,
        }
        for d, layers in ((64, 2), (128, 3), (256, 4), (448, 8))
    },
}


def configuration(name: str) -> Any:
    """The transformers configuration of a shape: one of SHAPES, or a model of
    profiles/models.yaml."""
    shape = SHAPES.get(name) or dict(
        yaml.safe_load((PROFILE_DIR / "models.yaml").read_text(encoding="utf-8"))["models"][name]
    )
    shape = {key: value for key, value in shape.items() if key not in ("bytes", "gated")}
    special = {"pad_token_id": 0, "eos_token_id": END, "bos_token_id": None}
    if shape["model_type"] == "t5":
        special |= {"decoder_start_token_id": 0, "dropout_rate": 0.0}
    return transformers.AutoConfig.for_model(**shape | special)


def fresh(config: Any, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model of random weights without dropout, on the device."""
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if config.is_encoder_decoder
        else transformers.AutoModelForCausalLM
    )
    torch.manual_seed(seed)
    with logps.device():
        model = auto.from_config(config, dtype=dtype, trust_remote_code=False)
    load.set_dropout(model, 0.0)
    return model


@cache
def tokenizer(vocabulary: int) -> Any:
    """Word-level: token i is the word w<i>. TRL reads texts, transformers' collator asks for a
    padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, "</s>": END, **{f"w{i}": i for i in range(2, vocabulary)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>"
    )


@dataclass
class Case:
    """A model and rows: of each prompt its length and those of its completions, their end token
    counted."""

    shape: str
    lengths: list[tuple[int, list[int]]]
    batch: int  # rows a step; all of them in one forward pass, on every side
    rewards_seed: int = 0
    config: Any = field(init=False)

    def __post_init__(self):
        self.config = configuration(self.shape)

    @classmethod
    def even(
        cls,
        shape: str,
        *,
        prompts: int,
        completions: int,
        prompt: int,
        completion: int,
        steps: int = STEPS,
    ) -> Case:
        """`steps` steps of so many prompts, every prompt and every completion of the same
        length."""
        return cls(
            shape, [(prompt, [completion] * completions)] * (prompts * steps), prompts * completions
        )

    @cached_property
    def encoded(self) -> list[tuple[list[int], list[int]]]:
        rng = np.random.default_rng(0)
        draw = lambda n: rng.integers(2, self.config.vocab_size, n).tolist()  # noqa: E731
        found = []
        for prompt, completions in self.lengths:
            ids = draw(prompt)
            found += [(ids, [*draw(n - 1), END]) for n in completions]
        return found

    @property
    def prompt_ids(self) -> list[int]:
        return [i for i, (_, completions) in enumerate(self.lengths) for _ in completions]

    @cached_property
    def rewards(self) -> np.ndarray:
        return np.random.default_rng(self.rewards_seed).normal(size=len(self.prompt_ids))

    @property
    def tokens(self) -> tuple[int, int]:
        """Real tokens a step on average: of every row's prompt and completion; of each prompt once
        and the completions."""
        answers = sum(sum(c) for _, c in self.lengths)
        steps = len(self.rewards) / self.batch
        return round((sum(p * len(c) for p, c in self.lengths) + answers) / steps), round(
            (sum(p for p, _ in self.lengths) + answers) / steps
        )

    @cached_property
    def model(self) -> nn.Module:
        """The weights every side starts from; the reference."""
        return fresh(self.config)

    @cached_property
    def ref_logps(self) -> np.ndarray:
        return self.score(self.encoded)

    def score(self, rows: list[tuple[list[int], list[int]]]) -> np.ndarray:
        """log πref of encoded rows."""
        return logps.score_completions(self.model, tokenizer(self.config.vocab_size), rows)[
            0
        ].numpy()


# Lengths of real feedback -------------------------------------------------------------------------


def real_lengths(prompts: int, *, limit: int = 512, seed: int = 0) -> list[tuple[int, list[int]]]:
    """Lengths of so many prompts and their four completions, drawn from benchmarks/lengths.csv,
    none above the limit."""
    table = np.loadtxt(LENGTHS, delimiter=",", skiprows=1, dtype=int, comments="#")
    chosen = table[np.random.default_rng(seed).permutation(len(table))[:prompts]].clip(max=limit)
    return [(int(row[0]), row[1:].tolist()) for row in chosen]


class CountedPositions:
    """How many token positions a model's forward passes take in, padding included: what its input
    embeddings are asked for."""

    def __init__(self, model: nn.Module):
        self.count = 0
        core = forward.core_of(model)
        inputs = {
            id(m): m
            for m in (
                core.get_input_embeddings(),
                getattr(core.get_encoder(), "embed_tokens", None),
                getattr(core.get_decoder(), "embed_tokens", None),
            )
            if m is not None
        }
        self.hooks = [m.register_forward_pre_hook(self._add) for m in inputs.values()]

    def _add(self, module: nn.Module, arguments: tuple) -> None:
        self.count += arguments[0].numel()
