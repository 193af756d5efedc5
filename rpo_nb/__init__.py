"""rpo_nb: a notebook-first reproducibility kit for learning from scalar feedback (prompt,
completion, reward)."""

import lazy_loader

__version__ = "0.1.0"
_FEEDBACK_TRAINER = [
    "DROConfig",
    "DROTrainer",
    "FeedbackConfig",
    "FeedbackTrainer",
    "KTOConfig",
    "KTOTrainer",
    "RPOConfig",
    "RPOTrainer",
    "SFTConfig",
    "SFTTrainer",
]
# What users call most, loaded when it is asked for: the command line starts without it.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data.feedback": ["load_feedback"],
        "training.feedback_trainer": _FEEDBACK_TRAINER,
    },
)
