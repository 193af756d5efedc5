"""`rpo_nb.data.splits` under the name it had when the package had no folders."""

from rpo_nb.data.splits import SPLIT, Splits, group_key, split_feedback, standardise

__all__ = ["SPLIT", "Splits", "group_key", "split_feedback", "standardise"]
