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
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from rpo_nb.config.schema import DecodingConfig
from rpo_nb.policy import completing, encoding, forward, generation, load, prefixes
from rpo_nb.policy import logps as policy_logps
from rpo_nb.policy.logps import collate, grouped_logps, sequence_logps

sys.path.insert(0, str(Path(__file__).parents[2]))

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<turn>", "</turn>", "en_XX", "ro_RO"]
WORDS = (
    "red green blue lamp rope chair boat book cat dog mat sun sea sky hill tree road rain "
    "door wall roof bell"
).split()
PROMPTS = [
    " ".join(WORDS[(7 * i + 3 * j) % len(WORDS)] for j in range(n))
    for i, n in enumerate((14, 3, 9, 21))
]
ROWS = [PROMPTS[i] for i in (0, 0, 1, 1, 2, 3, 3)]
TEXTS = [
    " ".join(WORDS[(5 * i + 11 * j + 1) % len(WORDS)] for j in range(n))
    for i, n in enumerate((5, 12, 1, 7, 10, 3, 9))
]
LIMITS = {"max_prompt_tokens": 32, "max_completion_tokens": 16}
NEW = 8  # tokens generated

# How tokenizers put special tokens around a text by themselves.
KINDS = {
    "plain": "$A",
    "turn": "$A",
    "BOS": "<s> $A",
    "EOS": "$A </s>",
    "both": "<s> $A </s>",
    "language": "en_XX $A </s>",
}
TEMPLATE = (
    "{% for m in messages %}<turn> {{ m.content }} </turn> {% endfor %}"
    "{% if add_generation_prompt %}<turn> {% endif %}"
)


def tokenizer_of(kind: str) -> Any:
    """A word-level tokenizer of one of KINDS; "turn": with a chat template whose end is not EOS."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *WORDS, "a", "b"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    used = [(token, vocabulary[token]) for token in KINDS[kind].split() if token != "$A"]
    if used:
        made.post_processor = processors.TemplateProcessing(single=KINDS[kind], special_tokens=used)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        additional_special_tokens=["<turn>", "en_XX", "ro_RO"],
    )
    if kind == "turn":
        tokenizer.chat_template = TEMPLATE
        tokenizer.add_tokens(["</turn>"])  # a token that decoding does not leave out
    return tokenizer


# ---- configurations ----------------------------------------------------------------------------

V = len(SPECIAL) + len(WORDS) + 2
W = 8  # the windows
IDS = {"vocab_size": V, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
T5 = IDS | {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = IDS | {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 1,
}
CAUSAL = IDS | {"tie_word_embeddings": False}
SMALL = CAUSAL | {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
LLAMA = SMALL | {"intermediate_size": 48, "num_key_value_heads": 2}
HEADS = LLAMA | {"head_dim": 8}
MIXED = {"sliding_window": W, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA = HEADS | {"query_pre_attn_scalar": 8}
DELTA = HEADS | {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}


def t5gemma() -> dict[str, Any]:
    part = transformers.T5GemmaModuleConfig(**GEMMA | MIXED)
    return {"encoder": part, "decoder": part, "vocab_size": V, "pad_token_id": 0, "eos_token_id": 1}


# Family → kind of tokenizer, class of configuration, its fields.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "T5": ("EOS", "T5", T5),
    "mT5": ("EOS", "MT5", T5),
    "UMT5": ("EOS", "UMT5", T5),
    "LongT5": ("EOS", "LongT5", T5 | {"local_radius": 4}),
    "LongT5, transient-global": (
        "EOS",
        "LongT5",
        T5
        | {"local_radius": 4, "encoder_attention_type": "transient-global", "global_block_size": 4},
    ),
    "SwitchTransformers": (
        "EOS",
        "SwitchTransformers",
        T5
        | {
            "num_experts": 4,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "expert_capacity": 3,
        },
    ),
    "T5Gemma": ("EOS", "T5Gemma", {}),
    "NLLB-MoE": (
        "language",
        "NllbMoe",
        BART | {"num_experts": 2, "encoder_sparse_step": 1, "decoder_sparse_step": 1},
    ),
    "BigBird-PEGASUS, sparse": (
        "EOS",
        "BigBirdPegasus",
        BART | {"decoder_start_token_id": 0, "block_size": 2, "num_random_blocks": 1},
    ),
    "FSMT": (
        "EOS",
        "FSMT",
        BART | {"langs": ["en", "de"], "src_vocab_size": V, "tgt_vocab_size": V},
    ),
    "BART": ("both", "Bart", BART),
    "mBART": ("language", "MBart", BART | {"forced_bos_token_id": 6}),
    "NLLB (M2M100)": ("language", "M2M100", BART | {"forced_bos_token_id": 6}),
    "PEGASUS": ("EOS", "Pegasus", BART | {"decoder_start_token_id": 0}),
    "Marian": ("EOS", "Marian", BART | {"decoder_start_token_id": 0}),
    "ProphetNet": (
        "EOS",
        "ProphetNet",
        IDS
        | {
            "hidden_size": 32,
            "encoder_ffn_dim": 48,
            "num_encoder_layers": 2,
            "decoder_ffn_dim": 48,
            "num_encoder_attention_heads": 4,
            "num_decoder_layers": 2,
            "num_decoder_attention_heads": 4,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 0,
        },
    ),
    "GPT-2": (
        "plain",
        "GPT2",
        CAUSAL | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "GPT-Neo": (
        "plain",
        "GPTNeo",
        CAUSAL
        | {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 64,
            "attention_types": [[["global", "local"], 1]],
            "window_size": W,
        },
    ),
    "GPT-NeoX": ("plain", "GPTNeoX", SMALL | {"intermediate_size": 48}),
    "OPT": ("BOS", "OPT", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "BLOOM": ("plain", "Bloom", CAUSAL | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "Falcon": ("plain", "Falcon", SMALL),
    "Falcon, ALiBi": ("plain", "Falcon", SMALL | {"alibi": True}),
    "MPT": (
        "plain",
        "Mpt",
        CAUSAL | {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    "Llama": ("BOS", "Llama", LLAMA),
    "Llama 4": (
        "turn",
        "Llama4Text",
        HEADS
        | {
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "attention_chunk_size": W,
            "num_hidden_layers": 4,
        },
    ),
    "Mistral": ("BOS", "Mistral", HEADS | {"sliding_window": W}),
    "Mixtral": ("BOS", "Mixtral", LLAMA | {"num_local_experts": 4}),
    "Qwen 2": ("turn", "Qwen2", LLAMA),
    "Qwen 2, sliding layers": (
        "turn",
        "Qwen2",
        LLAMA | {"use_sliding_window": True, "sliding_window": W, "max_window_layers": 1},
    ),
    "Qwen 3": ("turn", "Qwen3", HEADS),
    "Phi": ("plain", "Phi", LLAMA),
    "Phi-3": ("turn", "Phi3", LLAMA | {"sliding_window": W}),
    "Phi-3, LongRoPE": (
        "turn",
        "Phi3",
        LLAMA
        | {
            "original_max_position_embeddings": 48,
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
            },
        },
    ),
    "Gemma": ("BOS", "Gemma", HEADS),
    "Gemma 2": ("BOS", "Gemma2", GEMMA | {"sliding_window": W}),
    "Gemma 3": ("BOS", "Gemma3Text", GEMMA | MIXED),
    "Gemma 3, multimodal": (
        "turn",
        "Gemma3",
        {
            "text_config": GEMMA | MIXED,
            "mm_tokens_per_image": 1,
            "image_token_id": V - 1,
            "boi_token_id": V - 2,
            "eoi_token_id": V - 3,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "tie_word_embeddings": False,
            "vision_config": {
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
        },
    ),
    "Gemma 3n": (
        "BOS",
        "Gemma3nText",
        HEADS
        | {
            "num_hidden_layers": 4,
            "intermediate_size": 48,
            "sliding_window": W,
            "laurel_rank": 4,
            "layer_types": MIXED["layer_types"] * 2,
            "vocab_size_per_layer_input": V,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "RecurrentGemma": (
        "BOS",
        "RecurrentGemma",
        LLAMA | {"num_hidden_layers": 3, "attention_window_size": W, "lru_width": 32},
    ),
    "Cohere": ("turn", "Cohere", LLAMA),
    "Cohere 2": ("turn", "Cohere2", HEADS | MIXED),
    "Starcoder 2": ("plain", "Starcoder2", LLAMA | {"sliding_window": W}),
    "EXAONE 4": ("turn", "Exaone4", HEADS | MIXED),
    "gpt-oss": (
        "turn",
        "GptOss",
        HEADS | MIXED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "Granite": ("plain", "Granite", LLAMA | {"logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "OLMo 2": ("turn", "Olmo2", LLAMA),
    "GLM 4": ("turn", "Glm4", HEADS),
    "SmolLM 3": ("turn", "SmolLM3", LLAMA),
    "LFM2": (
        "turn",
        "Lfm2",
        LLAMA | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "MiniMax": (
        "plain",
        "MiniMax",
        HEADS
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "num_local_experts": 4,
            "block_size": 8,
        },
    ),
    "Mamba": (
        "plain",
        "Mamba",
        CAUSAL | {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2},
    ),
    "RWKV": (
        "plain",
        "Rwkv",
        CAUSAL
        | {
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "num_hidden_layers": 2,
            "context_length": 64,
        },
    ),
    "Jamba": (
        "BOS",
        "Jamba",
        LLAMA
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "expert_layer_period": 2,
            "mamba_d_state": 4,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "Qwen 3 Next": (
        "turn",
        "Qwen3Next",
        DELTA
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "Qwen 3.5": ("turn", "Qwen3_5Text", DELTA),
    "Nemotron-H": (
        "turn",
        "NemotronH",
        HEADS
        | {
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "Doge": ("BOS", "Doge", LLAMA | {"keep_window_size": W}),
    "Falcon H1": (
        "plain",
        "FalconH1",
        LLAMA
        | {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
            "lm_head_multiplier": 0.5,
        },
    ),
}


# In float64 their masks of −1.8e308 become −inf in a softmax of float32, and padding NaN.
FLOAT32 = ("ProphetNet", "T5Gemma", "BLOOM", "MPT", "Gemma 2")


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
    return (same, len(ours)), completing.WAYS[completing._WAYS[model]]


# ---- the page ----------------------------------------------------------------------------------

HEADER = f"""# Models

What the kit does with a model of each family, measured on tiny random ones against a plain forward
pass of transformers {transformers.__version__.rpartition(".")[0]}: `tests/policy/test_families.py` measures it again, and `python -m tests.policy.families`
writes this page. Log-probabilities are those of the plain forward pass, gradients too, and greedy
completions those of `model.generate` with the checkpoint's own `generation_config`; prompts had
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
rows, whole rows are passed and one line says so; where padded whole rows give other logits than each
row alone (to 1e-3 of the largest in float32, 5e-2 in half precision), the model is refused. What
so few rows cannot show is refused by a rule when it is loaded: experts with room for a share of a
whole batch (NLLB-MoE), attention that is sparse in long batches only (BigBird) or chosen among
padding too (Doge).

What tokenizers add by themselves (BOS, `<s>`, a language code) is there in scoring, training and
sampling; a causal model's prompt is not ended. A completion ends as the chat template ends an
assistant's turn, and sampling stops there, at the tokenizer's end and at every `eos_token_id` of the
checkpoint's `generation_config`. A token that a checkpoint forces (`forced_bos_token_id`: the
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
