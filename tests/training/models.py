"""What the tests of scale are made of."""

from rpo_nb.policy import encoding
from rpo_nb.policy.logps import collate

PROMPTS = ["write about a red lamp", "please write about the boat", "two chair in the garden"]
TEXTS = [
    "the red lamp stands in the garden.",
    "the boat lies near the harbour.",
    "two chair waits under the mat.",
]


def batch_of(model, tokenizer):
    rows = encoding.encode(
        tokenizer, PROMPTS, TEXTS, max_prompt_tokens=16, max_completion_tokens=16
    )
    return collate(rows, pad_id=tokenizer.pad_token_id)
