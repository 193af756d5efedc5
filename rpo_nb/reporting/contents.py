"""What each table of the report is: where it stands, what it is called, how it is laid out.

A table that is not named here follows in the appendix under its file's name, as it is.
"""

from __future__ import annotations

from typing import NamedTuple

from rpo_nb.reporting.captions import APPENDIX, TABLES, WHEN, A, B


class Shown(NamedTuple):
    """chapter: where the table stands. title: its heading. about: what its numbers are. notebook:
    which one makes it. lines, across, values: where it is pivoted, the columns that head its lines
    and its columns, and those that fill its cells, one table each, with their decimals."""

    chapter: str
    title: str
    about: str = ""
    notebook: str = ""
    lines: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    values: tuple[tuple[str, int], ...] = ()


POLICY = ("policy",)
MEASURES = (("gain", 2), ("reward", 2), ("win_rate", 1), ("kl", 2), ("broken", 2))
_LAB, _B = "07_partition_lab", "08_reward_aware"
_PAPER_B = (("mean", 2),)

SHOWN = {
    "regime_shares": Shown(
        A,
        "What RPO's first step is about",
        "Share in % of the first step's loss that differs between completions of one prompt, by "
        "regime.",
        _LAB,
    ),
    "length_controlled": Shown(
        TABLES,
        "Table III at equal lengths",
        "Win rate in %, raw and length-controlled.",
        "05_table3_judges",
    ),
    "target_shares": Shown(
        A,
        "The same on the training rows of paper A's tables",
        "Share in % of the first step's loss.",
        "02_rpo_derivation",
    ),
    "partition_ablation": Shown(
        A,
        "With an estimate of Ẑ against without",
        "Win rate in % of the normalised loss over the same loss with V̂ = 0; 50 is no difference, "
        "and paper A (version 4) is said to report above 90.",
        _LAB,
    ),
    "paper_b_table1": Shown(
        B,
        "Paper B, Table 1: which algorithm is which setting",
        "The largest difference between a method computed by its own paper's formula and by the "
        "framework's setting: rounding error where the two are the same.",
        _B,
    ),
    "paper_b_table1_as_printed": Shown(
        B, "Paper B, Table 1 as printed", "The paper's own rows taken to the letter.", _B
    ),
    "paper_b_table2": Shown(
        B,
        "Paper B, Table 2: methods, offline and online",
        "Mean true reward, and win rate in % over the reference; in parentheses the paper's number "
        "(8B models, other prompts, another judge's scale: directions compare, levels do not).",
        _B,
        ("loss", "k", "responses", "rm"),
        ("metric", "prompts"),
        _PAPER_B,
    ),
    "paper_b_table3": Shown(
        B,
        "Paper B, Table 3: which prompts to train on",
        "DPO trained on prompts of the distribution and on a narrow writer's; in parentheses the "
        "paper's number.",
        _B,
        ("training_prompts",),
        ("metric", "prompts"),
        _PAPER_B,
    ),
    "paper_b_table4": Shown(
        B,
        "Paper B, Table 4: iterations",
        "Iteration 0 is the reference; in parentheses the paper's number (8B for DPO, 70B for the "
        "others).",
        _B,
        ("training", "iteration"),
        ("metric", "prompts"),
        _PAPER_B,
    ),
    "paper_b_bridge": Shown(
        B,
        "The bridge between the papers: log Z estimated or cancelled",
        "Paper A's RPO and paper B's sqloo on the same tuples; gain: sqloo's mean reward less the "
        "estimate's.",
        _B,
    ),
    "paper_b_reward_models": Shown(
        B,
        "Paper B's judges, true and learnt",
        "Accuracy on held-out comparisons, and the mean true reward of online bwd trained on each.",
        _B,
    ),
    "paper_b_eta": Shown(
        B, "Paper B: the scale η of the reward", "Offline bwd at multiples of the suggested η.", _B
    ),
    "prediction_score": Shown(
        WHEN,
        "Did the lab foretell this study?",
        "Brier score of the probabilities that were written before the first policy; half: of ½ "
        "for every pair; expected: on average, if every probability were true; lab: of the lab "
        "taken at its word; carried: which share of its lead over ½ would have scored best.",
    ),
    "prediction": Shown(
        WHEN,
        "Pair by pair: predicted and found",
        "Probability that the first ends with the higher judge reward, and the difference found.",
    ),
    "regime_map": Shown(WHEN, "The regime map", "", _LAB, POLICY, ("regime",), MEASURES),
    "lab_summary": Shown(
        WHEN,
        "All regimes together",
        "Gain over the reference in points; over sft, over best: the probability that a run gains "
        "more than one of SFT, and than one of the first line's policy.",
        _LAB,
    ),
    "lab_tuned": Shown(
        WHEN, "All regimes together, every method tuned alike", "Columns as above.", _LAB
    ),
    "lab_tuned_map": Shown(
        WHEN,
        "Every method tuned alike, regime by regime",
        "The setting of each method is the best of its own on seeds that are not shown.",
        _LAB,
        POLICY,
        ("regime",),
        MEASURES,
    ),
    "lab_tuned_duels": Shown(
        WHEN,
        "Every method tuned alike: RPO against each other method",
        "Difference of the mean scores in points, RPO minus the other, and who is surely ahead "
        "after correction for all of them.",
        _LAB,
        ("reading", "second"),
        ("study",),
        (("difference", 2),),
    ),
    "regime_duels": Shown(
        WHEN,
        "Duels: RPO and its rivals in the same reading",
        "Difference of the mean scores in points, RPO minus the rival, and who is surely ahead "
        "after correction for all duels.",
        _LAB,
        ("reading", "first", "second"),
        ("study",),
        (("difference", 2),),
    ),
    "low_data": Shown(
        WHEN,
        "The same budget as K completions of fewer prompts",
        "",
        _LAB,
        POLICY,
        ("k",),
        (*MEASURES, ("gradient_variance", 1)),
    ),
    "data_curve": Shown(WHEN, "More training prompts", "", _LAB, POLICY, ("prompts",), MEASURES),
    "robustness": Shown(
        WHEN, "Disturbed rewards", "", _LAB, POLICY, ("study",), (("reward", 2), *MEASURES[:1])
    ),
    "rivals": Shown(
        WHEN,
        "Losses of one's own beside the kit's methods",
        "Gain over the reference in points, KL in nats. Pages made with other seeds, regimes or "
        "settings do not compare: rivals.csv names them (over). tried: settings that the method "
        "was given; page: whose standing has the row (lab --method).",
        lines=("method", "tried", "page"),
        across=("regime",),
        values=(("gain", 2), ("kl", 2)),
    ),
    "losses": Shown(
        WHEN,
        "Losses of one's own beside this study's policies",
        "Gain over the reference in the first judge's reward; added: to the study, by "
        "lab --method. Nothing was tuned.",
    ),
    "losses_leads": Shown(
        WHEN,
        "Losses of one's own: each beside every policy",
        "lead: the difference of their gains; p by Holm's method over all leads; smallest: "
        "the lead that so many seeds would have decided in 80 % of runs.",
    ),
    "partition_truth": Shown(
        WHEN, "The true V*", "V* by sampling, with its error, by temperature.", _LAB
    ),
    "partition_bias": Shown(
        WHEN,
        "Bias of V̂",
        "By estimator, data and temperature (lines) and completions a prompt (columns).",
        _LAB,
        ("regime", "estimator", "reduce", "tau"),
        ("k",),
        (("bias", 2),),
    ),
    "judge_quality": Shown(
        APPENDIX,
        "What the judges did",
        "Shares of all verdicts: first, those for the completion shown first; flips, those that "
        "change with the order; longer, those for the longer text; agreement with the truth; "
        "held_out, accuracy on comparisons that no judge has learnt from.",
        "05_table3_judges",
    ),
    "judge_agreement": Shown(
        APPENDIX,
        "Where two judges agree",
        "same: share of pairs with the same verdict; kappa: corrected for chance.",
        "05_table3_judges",
    ),
    "judge_accuracy": Shown(
        APPENDIX,
        "How often the learnt judge is right",
        "By the distance of the true rewards.",
        "05_table3_judges",
    ),
    "aspects": Shown(
        APPENDIX,
        "Other ratings of the feedback",
        "Mean of what a judge learnt of each aspect says.",
        "05_table3_judges",
    ),
    "metric_validity": Shown(
        APPENDIX,
        "Which metric follows the truth",
        "Rank correlation with the true reward, over all policies.",
        "04_table2_metrics",
    ),
    "reward_kl": Shown(
        APPENDIX,
        "Score and distance of every policy",
        "Mean true score, and KL from the reference in nats with its 95 % interval.",
        "09_report",
        ("preset", "method", "tau"),
        ("size",),
        (("reward", 2), ("kl", 2)),
    ),
    "frontier": Shown(
        APPENDIX,
        "The best possible score at a distance",
        "The reference tilted by exp(r/τ).",
        "09_report",
        ("tau",),
        ("size",),
        (("reward", 2), ("kl", 2)),
    ),
    "temperature_differences": Shown(
        APPENDIX,
        "Moves of the win rate between two temperatures",
        "In points.",
        "06_table4_temperature",
        ("preset", "judge", "size", "baseline"),
        ("tau_low", "tau_high"),
        (("difference", 1),),
    ),
    "metrics": Shown(APPENDIX, "Automatic metrics, seed by seed", "", "04_table2_metrics"),
    "lab_seeds": Shown(APPENDIX, "The lab, seed by seed", "", _LAB),
    "lab_profiles": Shown(
        APPENDIX,
        "Share of runs that gain more than so much",
        "",
        _LAB,
        ("gain",),
        POLICY,
        (("share", 2),),
    ),
    "lab_tuning": Shown(APPENDIX, "What tuning tried", "", _LAB),
    "data summary": Shown(APPENDIX, "The feedback in numbers", "", "01_data_prep"),
    "data report": Shown(
        APPENDIX, "Rows of the feedback that were set aside or mended", "", "01_data_prep"
    ),
    "data seen": Shown(APPENDIX, "What a model sees of the texts", "In tokens.", "01_data_prep"),
    "data tokens": Shown(APPENDIX, "What the tokenizer keeps of the texts", "", "01_data_prep"),
}
WORDS = {  # a column's heading where the name in the file is not one
    "win_rate": "win rate, %",
    "kl": "KL, nats",
    "broken": "share of broken texts",
    "reward": "mean score",
    "gain": "gain over the reference, points",
    "avg_reward": "reward",
    "iqm": "interquartile mean",
    "rm": "judge",
    "ood_values": "new words",
    "ood_combinations": "new combinations",
    "gradient_variance": "variance of the first gradient",
    "tau": "τ",
    "tau_low": "τ",
    "tau_high": "to",
    "data_wins": "data beat the reference, %",
    "k": "K",
}


def heading(name: str) -> str:
    """A column's or a value's name as people read it."""
    return WORDS.get(name, name.replace("_", " "))


def shown(name: str) -> Shown:
    """A table's row; one by its file's name for what is not in the table."""
    return SHOWN.get(name, Shown(APPENDIX, name.replace("_", " ").capitalize()))
