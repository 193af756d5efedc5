"""rpo_nb: a notebook-first reproducibility kit for learning from scalar feedback (prompt,
completion, reward)."""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "config",
        "data",
        "evaluation",
        "experiment",
        "judging",
        "objectives",
        "partition",
        "planning",
        "pocket",
        "policy",
        "reporting",
        "running",
        "studies",
        "training",
    ],
    submod_attrs={"data": ["load_feedback"]},
)
