"""The pocket world's words as tokens."""

from __future__ import annotations

import re

from rpo_nb.pocket.words import (
    COLOURS,
    COUNTS,
    FILLERS,
    INSULT,
    MENTIONS,
    OBJECTS,
    PLACES,
    PROMPTS,
    RUDE,
    STYLES,
    TONES,
    WITH,
)


def vocabulary() -> list[str]:
    """Every token the world can write, "▁" marking a preceding space; a few hundred."""
    styles = [text for style in STYLES.values() for part in style for text in part]
    text = " ".join([*PROMPTS, *styles, *PLACES, WITH, INSULT])
    words = set(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", " ", text)))
    words |= {"sentence", "sentences"}
    words = words.union(OBJECTS, COLOURS, MENTIONS, FILLERS, COUNTS, RUDE, TONES, *TONES.values())
    return ["<pad>", "</s>", "<unk>", ".", ",", *sorted(f"▁{w}" for w in words)]


def make_tokenizer():
    """A word-level tokenizer that is lossless on the world's texts (transformers fast tokenizer,
    T5's special tokens)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[.,]"), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
