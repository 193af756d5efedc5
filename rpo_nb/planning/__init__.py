"""Before a long run: what it needs, what it costs, what can go."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["costs", "needs", "opening", "plan", "plan_text", "sizes", "stale"],
    submod_attrs={},
)
