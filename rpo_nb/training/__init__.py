"""Training with one objective, offline or online, on transformers' Trainer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "alignment",
        "batches",
        "checkpoints",
        "feedback_config",
        "feedback_policy",
        "feedback_rows",
        "feedback_trainer",
        "losses",
        "reward_aware",
        "samples",
        "steps",
        "trainer",
    ],
    submod_attrs={
        "alignment": ["AlignmentTrainer", "align", "make_alignment_trainer"],
        "batches": ["desirable_rows", "mismatched_rows", "prompt_groups"],
        "checkpoints": ["history", "last_checkpoint", "save_policy"],
        "losses": ["LOSSES", "PolicyWithValue"],
        "reward_aware": [
            "explicit_rewards",
            "framework_loss",
            "implicit_rewards",
            "suggested_eta",
            "tuple_losses",
            "tuples",
        ],
        "trainer": ["PolicyTrainer", "make_trainer"],
    },
)
