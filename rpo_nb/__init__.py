"""rpo_nb: a notebook-first reproducibility kit for learning from scalar feedback (prompt, completion, reward)."""

__version__ = "0.1.0"
