"""What each picture of the report is: where it stands, what it is called, what can be seen.

A figure that is not named here follows in the appendix under its file's name.
"""

from __future__ import annotations

from typing import NamedTuple

A, B, WHEN, TABLES, APPENDIX = "a", "b", "when", "tables", "appendix"  # chapters of the page


class Picture(NamedTuple):
    """chapter: where it stands. caption: its title, and how to read it. alt: what can be seen, for
    who cannot. wall_clock: it differs from run to run."""

    chapter: str
    caption: str
    alt: str
    wall_clock: bool = False


def _temperature(rival: str) -> Picture:
    return Picture(
        A,
        f"Table IV as a picture: win rate of RPO over {rival}, by temperature.",
        f"Lines of RPO's win rate over {rival} in percent against the temperature τ, one line a "
        "model size, a panel for each preset and judge; the paper's numbers are diamonds.",
    )


PICTURES = {
    "headline": Picture(
        A,
        "Which share of RPO's first step tells a good completion from a bad one, and what training "
        "on it gains, by kind of data.",
        "Left, a bar for RPO as written, as released and without Ẑ: the part of the first loss "
        "that differs between completions of one prompt. Right, the gain of each method over the "
        "untouched model, a line a kind of data, with a line at no gain.",
    ),
    "overview": Picture(
        A,
        "The result in one picture: how good the texts of each method are, and how often RPO's is "
        "the better one. Dots are the model sizes, with 95 % intervals where there are several "
        "seeds; diamonds are the paper's numbers.",
        "Left, the mean score of the texts of each method under each preset. Right, RPO's win rate "
        "in percent over each other method, with a line at 50 percent and the paper's win rates as "
        "diamonds.",
    ),
    "targets": Picture(
        A,
        "What RPO is asked to learn at its first step, preset by preset (top), and how much of "
        "that tells a good completion from a bad one (bottom).",
        "Top, RPO's target of each training row against the row's reward, a panel a preset. "
        "Bottom, bars that split the first step's loss into a part that all rows share and a part "
        "that tells good completions of a prompt from bad ones.",
    ),
    "win_rates": Picture(
        A,
        "Table III as a picture: how often RPO's completion is preferred over each rival's, with "
        "95 % intervals over seeds and prompts; diamonds are the paper's numbers.",
        "Points of RPO's win rate in percent over each baseline, a panel for each preset and "
        "judge, one mark a model size, with a line at 50 percent and the paper's numbers as "
        "diamonds.",
    ),
    "temperature": _temperature("SFT"),
    "temperature_reference": _temperature("the untouched reference"),
    "temperature_best_of_k": _temperature("best-of-K SFT"),
    "reward_kl": Picture(
        A,
        "What a method gains, and how far it moves for it: mean score against the distance from "
        "the reference. The line is the best that any policy could do.",
        "Points of each policy's mean true score against its KL divergence from the reference in "
        "nats, a panel for each preset and size, below a curve of the best possible score at each "
        "divergence.",
    ),
    "learning_curves": Picture(
        A,
        "Training loss by optimiser step: lines are means over seeds, bands run from the least to "
        "the most.",
        "Curves of the training loss by optimiser step, a row of panels a method and a column a "
        "preset, one line a model size.",
    ),
    "lab_ablation": Picture(
        A,
        "Is normalisation worth anything? How often the loss with an estimate of Ẑ is preferred "
        "over the same loss without one (V̂ = 0), with 95 % intervals.",
        "Points of the win rate in percent of the normalised loss over the loss with V̂ = 0, by "
        "model size and estimator, a panel a judge, with lines at 50 percent and at the paper's 90 "
        "percent.",
    ),
    "paper_b_figure1": Picture(
        B,
        "Paper B, Figure 1: validation reward by step, offline and online; bands are 95 % "
        "intervals over seeds.",
        "Learning curves of the mean true reward on validation prompts by optimiser step, in "
        "panels of methods that are trained on fixed data and of those that sample while they "
        "train.",
    ),
    "paper_b_figure2": Picture(
        B,
        "Paper B, Figure 2: online bwd and sqloo with the true judge, their reward and their "
        "distance from the reference.",
        "Two panels of curves by optimiser step for online bwd and sqloo: left the mean true "
        "reward, right the KL divergence from the reference in nats.",
    ),
    "paper_b_figure3": Picture(
        B,
        "Paper B, Figure 3: reward by iteration, on prompts like the training prompts and on "
        "others, with 95 % intervals over seeds.",
        "Lines of the mean true reward by iteration for offline DPO, offline bwd and online bwd, a "
        "panel for each kind of prompts.",
    ),
    "paper_b_figure4": Picture(
        B,
        "Paper B, Figure 4: the learnt reward that a policy is trained on, and the truth. Where "
        "the first rises and the second falls, the policy hacks its reward.",
        "Two curves by optimiser step in each panel, the learnt reward and the true reward of the "
        "same policy, a panel a training on a learnt reward.",
    ),
    "prediction": Picture(
        WHEN,
        "What the pocket world said of this study before it began, and what came of it.",
        "Left, a point for each pair of policies: the predicted probability of the one that was "
        "thought better against the lead it had, with a line at no lead. Right, each policy's gain "
        "over the reference in the judge's reward, in the predicted order.",
    ),
    "losses": Picture(
        WHEN,
        "What losses of one's own gained over the reference, beside this study's policies.",
        "A point a policy: its gain over the reference in the first judge's reward with its 95 % "
        "interval, the best on top, with a line at no gain. What was added to the study is a star.",
    ),
    "lab_map": Picture(
        WHEN,
        "Gain in mean score over the reference, by regime and policy. Framed: the best of a regime "
        "and those level with it.",
        "A heat map of the gain in mean score over the reference: a line a policy, a column a "
        "regime, blue where training helped and red where it did harm.",
    ),
    "lab_standing": Picture(
        WHEN,
        "All regimes together: the interquartile mean of each policy's gain (left), and the share "
        "of runs that gain more than so much (right).",
        "Left, points of each policy's interquartile mean gain over all regimes, the best on top. "
        "Right, falling curves of the share of runs whose gain is above each value.",
    ),
    "lab_tuned": Picture(
        WHEN,
        "The same with every method tuned alike, on seeds that are not shown.",
        "Left, points of each tuned method's interquartile mean gain over all regimes, the best on "
        "top. Right, falling curves of the share of runs whose gain is above each value.",
    ),
    "lab_duels": Picture(
        WHEN,
        "RPO in three readings against its rivals in the same reading, regime by regime.",
        "Points of the difference in mean score between RPO and each rival, a panel a reading of "
        "the paper, one mark a regime, with a line at no difference.",
    ),
    "lab_low_data": Picture(
        WHEN,
        "The same budget of rows as K completions of fewer prompts: score, and variance of the "
        "first gradient.",
        "Lines by the number of completions a prompt: left the mean true score of each policy, "
        "right the variance of its first gradient.",
    ),
    "lab_data": Picture(
        WHEN,
        "Gain over the reference by the number of training prompts.",
        "Lines of each policy's gain in mean score over the reference by the number of training "
        "prompts.",
    ),
    "lab_log_k": Picture(
        WHEN,
        "Where training as released takes the rows' log-probability a token: towards −log K, "
        "whatever the reward.",
        "Arrows from the reference's to the trained policy's log-probability a token, for rows "
        "above and below the mean reward, with a line at minus log K in each regime.",
    ),
    "lab_bias": Picture(
        WHEN,
        "How far the estimates of Ẑ lie from the truth at τ = 1, by completions a prompt.",
        "Lines of the bias of V̂ by the number of completions a prompt, one line an estimator, a "
        "panel for each world and kind of data.",
    ),
    "lab_error": Picture(
        WHEN,
        "Which estimator has the smallest error, by completions a prompt and temperature.",
        "Heat maps of the smallest error, the estimator's name in each cell, by completions a "
        "prompt and temperature, a panel for each kind of data.",
    ),
    "estimators": Picture(
        WHEN,
        "Error of log Ẑ by estimator and completions a prompt, in a language small enough to "
        "enumerate.",
        "Points with ranges of the error of log Ẑ by the number of completions a prompt, one "
        "colour an estimator, for completions of the reference and of a stronger writer.",
    ),
    "table1": Picture(
        TABLES,
        "Table I as a picture: how much of a gradient comes from the reward, and how much it "
        "varies between mini-batches.",
        "Points with intervals of DRO and RPO: left how much the gradient changes without the "
        "reward, right its variance relative to its squared mean.",
    ),
    "table2": Picture(
        TABLES,
        "Table II as a picture: bars are means over sizes, dots the sizes with 95 % intervals, "
        "diamonds the paper's numbers.",
        "A panel for each automatic metric with the value of each method under each preset, and "
        "the paper's values as diamonds.",
    ),
    "data_rewards": Picture(
        APPENDIX,
        "Rewards of the feedback.",
        "A histogram of the rewards of all completions, with their mean and standard deviation.",
    ),
    "data_completions": Picture(
        APPENDIX,
        "Completions a prompt.",
        "Bars of how many prompts have one, two, three and more completions.",
    ),
    "data_length": Picture(
        APPENDIX,
        "Length of a completion against its reward.",
        "A point a completion, its reward against its length in words, with the median and the "
        "quartiles of the reward by length.",
    ),
    "data_sparsity": Picture(
        APPENDIX,
        "Share of prompts with fewer than k completions.",
        "Bars of the share of prompts in percent that have fewer than k completions, by k.",
    ),
    "verify": Picture(
        APPENDIX,
        "This run beside the deep run of many seeds: each number where it was expected, or off.",
        "Points of this run's numbers against those of the deep run with their prediction "
        "intervals.",
    ),
    "figure1": Picture(
        APPENDIX,
        "Figure 1: training time by method and size; bars are means over presets and seeds.",
        "Bars of the training time in seconds of each method, grouped by model size.",
        wall_clock=True,
    ),
}


def picture(name: str) -> Picture:
    """A figure's row; one by its file's name for what is not in the table."""
    if name in PICTURES:
        return PICTURES[name]
    words = name.replace("_", " ")
    return Picture(APPENDIX, f"{words.capitalize()}.", f"Figure: {words}.")
