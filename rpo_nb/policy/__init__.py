"""Policies: loaded, asked, and their log-probabilities, for T5-like and causal models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "completing",
        "encoding",
        "fitting",
        "forward",
        "generation",
        "heads",
        "load",
        "logps",
        "prefixes",
        "vllm_engine",
    ],
    submod_attrs={
        "encoding": ["encode"],
        "forward": ["IGNORE"],
        "generation": ["Sample", "generate", "released_decoding", "samples"],
        "load": ["adapter_off", "load_policy", "load_tokenizer"],
        "logps": [
            "autocast",
            "collate",
            "completion_logps",
            "grouped_logps",
            "score_completions",
            "sequence_logps",
            "token_logps",
        ],
    },
)
