"""A tiny configuration of every family of models, and the tokenizers of four kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

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
                "type": "longrope",  # as its checkpoints have it
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
