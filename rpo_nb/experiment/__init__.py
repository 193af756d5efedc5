"""The grid of paper A: which policies, trained on what, and what they say."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["generations", "grid", "inputs", "references", "runs", "seen", "tokenizers"],
    submod_attrs={
        "generations": [
            "completions",
            "completions_file",
            "ensure_generations",
            "ensure_runs",
            "load_generations",
        ],
        "grid": ["Columns", "Run", "cells", "plan", "recipe"],
        "inputs": [
            "Prepared",
            "feedback",
            "prepare",
            "reference_logps",
            "reference_path",
            "reference_samples",
            "splits",
            "training_groups",
        ],
        "runs": ["build_trainer", "diagnosis", "ensure_policies", "train"],
    },
)
