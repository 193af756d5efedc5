"""A reproduction as a batch: jobs, keys, the manifest, progress."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "batch",
        "cluster",
        "early",
        "estimate",
        "jobs",
        "manifest",
        "processes",
        "progress",
        "provenance",
        "staging",
        "watching",
    ],
    submod_attrs={},
)
