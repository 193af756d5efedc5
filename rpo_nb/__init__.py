"""rpo_nb: a notebook-first reproducibility kit for learning from scalar feedback (prompt,
completion, reward)."""

__version__ = "0.1.0"
__all__ = ["load_feedback"]


def __getattr__(name: str) -> object:
    """What users call most, loaded when it is asked for: the command line starts without it."""
    if name == "load_feedback":
        from rpo_nb.data.feedback import load_feedback

        return load_feedback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
