"""The methods that are compared, by name."""

from __future__ import annotations

# the paper's authors' published checkpoint: evaluated (evaluation.authors), never trained
AUTHORS = "rpo_authors"
METHODS = ("reference", "sft", "best_of_k", "kto", "dro", "rpo", "qrpo", AUTHORS)


METHOD_NAMES = {
    "reference": "reference",
    "sft": "SFT",
    "best_of_k": "best-of-K SFT",
    "kto": "KTO",
    "dro": "DRO",
    "rpo": "RPO",
    "qrpo": "QRPO",
    "rpo_authors": "RPO, the authors' checkpoint",
}
