"""Read, check, repair, split and standardise scalar feedback: completions of a prompt, each with a reward.

sources (files, delimited) → shapes (names) → texts, scores, defects → gather, raters → feedback →
splits · kinds · summary · figures.
"""

from rpo_nb.data.defects import summarise_report, write_report, write_table
from rpo_nb.data.feedback import FEATURES, conversations, load_feedback
from rpo_nb.data.kinds import aspects, is_labelled, kind_notes
from rpo_nb.data.raters import ratings, strictness
from rpo_nb.data.splits import (SPLIT, Splits, group_key, mean_and_std, split_feedback, standardise,
                                weights_of)
from rpo_nb.data.summary import (SPARSE, aspect_table, histogram, prompt_table, rank_correlation,
                                 sparsity, sparsity_warning, summarise)
from rpo_nb.data.texts import render

__all__ = ["FEATURES", "SPARSE", "SPLIT", "Splits", "aspect_table", "aspects", "conversations",
           "group_key", "histogram", "is_labelled", "kind_notes", "load_feedback", "mean_and_std",
           "prompt_table", "rank_correlation", "ratings", "render", "sparsity", "sparsity_warning",
           "split_feedback", "standardise", "strictness", "summarise", "summarise_report",
           "weights_of", "write_report", "write_table"]
