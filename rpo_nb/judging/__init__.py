"""Judges, their verdicts, and win rates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "endpoint",
        "judges",
        "labelling",
        "language_models",
        "local",
        "rates",
        "reward_model",
        "reward_training",
        "verdicts",
    ],
    submod_attrs={
        "endpoint": ["EndpointJudge", "read_response"],
        "judges": ["Checker", "Judge", "Pointwise"],
        "labelling": ["Labelling"],
        "language_models": ["LanguageModelJudge", "Question", "question_text"],
        "local": ["LocalJudge"],
        "rates": [
            "accuracy_by_gap",
            "averaged",
            "distrust",
            "held_out_comparisons",
            "judge_agreement",
            "quality",
            "temperature_differences",
            "win_rates",
        ],
        "reward_model": ["RewardModel", "bradley_terry"],
        "reward_training": ["train_reward_model"],
        "verdicts": ["KEYS", "ask", "judge_pairs", "judges_for", "load_verdicts", "make_pairs"],
    },
)
