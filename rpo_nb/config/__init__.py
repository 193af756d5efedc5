"""Profiles and everything that may be set in them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "base",
        "keys",
        "loading",
        "methods",
        "metrics",
        "names",
        "objective",
        "schema",
        "settings",
        "studies",
    ],
    submod_attrs={
        "metrics": ["METRICS"],
        "base": ["Config"],
        "keys": ["content_key", "hash_seed"],
        "loading": [
            "REPOSITORY",
            "as_list",
            "default_profile",
            "load_profile",
            "repository_root",
            "results_dir",
            "write_profile",
        ],
        "methods": ["AUTHORS", "METHODS", "METHOD_NAMES"],
        "objective": ["ESTIMATORS", "PRESETS", "Objective", "Preset", "Setting"],
        "schema": [
            "DataConfig",
            "DecodingConfig",
            "EvaluationConfig",
            "LLMJudge",
            "ModelConfig",
            "Profile",
            "TrainingConfig",
        ],
        "studies": ["DISTURBANCES", "REGIMES", "LabConfig", "PaperB", "Schedule"],
    },
)
