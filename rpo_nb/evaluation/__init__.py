"""The metrics of Table II, and policies asked other prompts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["asking", "cells", "exports", "metrics", "prompt_sets", "suite"],
    submod_attrs={
        "asking": ["ask_policies", "export_all", "judged"],
        "cells": ["measure"],
        "prompt_sets": ["read_prompts"],
        "suite": ["MEASURES", "MetricSuite", "MetricValue"],
    },
)
