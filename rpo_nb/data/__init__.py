"""Read, check, repair, split and standardise scalar feedback: completions of a prompt, each with a
reward.

sources (files, delimited) → shapes (names) → texts, scores, defects → gather, raters → feedback →
splits · kinds · summary · figures.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "arrow",
        "defects",
        "delimited",
        "feedback",
        "files",
        "forms",
        "gather",
        "hub",
        "json_file",
        "kinds",
        "messages",
        "names",
        "prompts",
        "raters",
        "reading",
        "scores",
        "shapes",
        "sources",
        "splits",
        "summary",
        "texts",
        "unusable",
    ],
    submod_attrs={
        "defects": ["summarise_report", "write_report", "write_table"],
        "reading": ["FEATURES"],
        "feedback": ["conversations", "load_feedback"],
        "kinds": ["aspects", "is_labelled", "kind_notes"],
        "raters": ["ratings", "strictness"],
        "splits": [
            "SPLIT",
            "Splits",
            "group_key",
            "mean_and_std",
            "split_feedback",
            "standardise",
            "weights_of",
        ],
        "summary": [
            "SPARSE",
            "aspect_table",
            "histogram",
            "prompt_table",
            "rank_correlation",
            "sparsity",
            "sparsity_warning",
            "summarise",
        ],
        "prompts": ["render"],
    },
)
