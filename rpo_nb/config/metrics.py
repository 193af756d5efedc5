"""The metrics, by name."""

from __future__ import annotations

# our metric -> (name to print, the paper's key or None, decimals)
METRICS = {
    "bertscore_f1": ("BERTScore F1", "BERTScoreF1", 4),
    "rouge_l": ("ROUGE-L", "ROUGE-L", 4),
    "bleu": ("BLEU", "BLEU", 4),
    "sacrebleu": ("SacreBLEU", "SacreBLEU", 2),
    "meteor": ("METEOR", "METEOR", 4),
    "toxicity": ("Toxicity, mean (lower is better)", "Toxicity_avg", 4),
    "reward": ("Ground-truth reward", None, 2),
    "distinct_1": ("Distinct-1", None, 4),
    "distinct_2": ("Distinct-2", None, 4),
    "self_bleu": ("Self-BLEU (lower is more diverse)", None, 4),
    "length_ratio": ("Length ratio", None, 2),
}
LOWER_IS_BETTER = ("toxicity", "self_bleu")
