"""Paper B's experiments, tables and figures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["figures", "grid", "learnings", "recovered", "runs", "tables", "world"],
    submod_attrs={
        "figures": ["distances_figure", "figure1", "figure2", "figure3", "figure4"],
        "runs": ["ensure", "load", "write_generations"],
        "recovered": ["table1", "table1_as_printed"],
        "tables": [
            "bridge",
            "by_seed",
            "eta_sweep",
            "reward_models",
            "table2",
            "table3",
            "table4",
            "wide",
        ],
        "learnings": ["stability", "verdicts"],
        "world": ["World"],
    },
)
