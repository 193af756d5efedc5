"""What policies said, and where a number comes from: a page, a notebook's cell, a trace, a chat."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["cells", "chat", "commands", "notebook", "page", "scored", "stored", "trace"],
    submod_attrs={"notebook": ["show"], "page": ["write"]},
)
