"""Results as tables, figures, claims, a page, and a folder for the hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "agreement",
        "card",
        "claims",
        "data_figures",
        "figures",
        "page",
        "publish",
        "published",
        "rendering",
        "style",
        "tables",
    ],
    submod_attrs={
        "agreement": ["with_agreement"],
        "page": ["absent", "gather", "report"],
        "published": ["published_numbers"],
        "rendering": [
            "missing_footnotes",
            "plain_text",
            "read_table",
            "wide_table",
            "with_interval",
            "write_csv",
            "write_table",
        ],
        "tables": [
            "at_main_setting",
            "long_format",
            "metric_cells",
            "presets_table",
            "sampling_notes",
            "table2",
            "table3",
            "table4",
            "write_results",
        ],
    },
)
