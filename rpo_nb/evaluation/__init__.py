"""The metrics of Table II."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["cells", "metrics", "suite"],
    submod_attrs={"cells": ["measure"], "suite": ["METRICS", "MetricSuite", "MetricValue"]},
)
