"""Feedback of the pocket world in UltraFeedback's row schema: writers' completions, the checker's
scores."""

from __future__ import annotations

import numpy as np

from rpo_nb.pocket.checker import ratings, score
from rpo_nb.pocket.prompts import make_prompts
from rpo_nb.pocket.writers import SYSTEMS, System, write


def feedback_row(
    prompt: str, completions: list[str], models: list[str], *, offset: float = 0.0
) -> dict:
    """One row of UltraFeedback's schema; `offset` shifts the rater's scores of this prompt (clipped
    to 1..10)."""
    rated = []
    for model, text in zip(models, completions, strict=True):
        fine = ratings(prompt, text, offset=offset)
        annotations = {a: {"Rating": str(r), "Rationale": ""} for a, r in fine.items()}
        overall = float(np.clip(score(prompt, text) + offset, 1.0, 10.0))
        rated.append(
            {
                "model": model,
                "principle": "helpfulness",
                "custom_system_prompt": "",
                "response": text,
                "annotations": annotations,
                "overall_score": overall,
                "critique": "",
            }
        )
    return {
        "source": "pocket",
        "instruction": prompt,
        "models": models,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
        "completions": rated,
    }


def make_feedback(
    prompts: int,
    *,
    completions_per_prompt: int = 4,
    rater_offset: float = 0.0,
    seed: int = 0,
    sample=None,
    writers: tuple[System, ...] = SYSTEMS,
) -> list[dict]:
    """Feedback in UltraFeedback's row schema.

    completions_per_prompt: 1 to 8. rater_offset: standard deviation of a shift per prompt that the
    prompt does not tell.
    sample: None for completions of `writers`; for `on_policy` a function
    (prompts, k) -> list of k completions for each prompt, sampled from the reference.
    """
    if not 1 <= completions_per_prompt <= 8:
        raise ValueError(
            f"completions_per_prompt is {completions_per_prompt}; the pocket world writes 1 to 8"
        )
    rng = np.random.default_rng([seed, 1])
    texts = make_prompts(prompts, rng=rng, part="feedback")
    # own stream: the texts stay the same
    offsets = np.random.default_rng([seed, 2]).normal(0.0, rater_offset, len(texts))
    sampled = sample(texts, completions_per_prompt) if sample else None
    rows = []
    for i, prompt in enumerate(texts):
        if sampled is None:
            places = max(len(writers), completions_per_prompt)
            order = rng.permutation(np.resize(np.arange(len(writers)), places))
            chosen = [writers[j] for j in order[:completions_per_prompt]]
            completions = [write(w, prompt, rng=rng) for w in chosen]
            models = [w.name for w in chosen]
        else:
            completions, models = sampled[i], ["reference"] * completions_per_prompt
        rows.append(feedback_row(prompt, completions, models, offset=float(offsets[i])))
    return rows
