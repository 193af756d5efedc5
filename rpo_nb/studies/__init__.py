"""What is measured beyond the grid: Table I, V*, the partition lab, paper B, advice."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "advise",
        "aggregates",
        "aspects",
        "browse",
        "derivation_figures",
        "insight",
        "lab",
        "lab_figures",
        "lab_runs",
        "lab_tables",
        "lab_texts",
        "partition_figures",
        "prediction",
        "prediction_scores",
        "table1",
        "target_shares",
        "truth",
        "tuning",
        "paper_b",
    ],
    submod_attrs={},
)
