"""benchmarks/lengths.csv: token lengths of real feedback, no text.

    python benchmarks/lengths.py ../shared/data/alpaca_feedback.jsonl.gz
    ../shared/models/t5-tokenizer

Any feedback source and tokenizer will do. One line a prompt: tokens of the prompt and of its first
four completions, each with its end token.
"""

from __future__ import annotations

import sys
from pathlib import Path

COMPLETIONS = 4


def main(source: str, tokenizer_path: str) -> None:
    import pandas as pd
    from transformers import AutoTokenizer

    from rpo_nb.data.feedback import load_feedback
    from rpo_nb.policy.encoding import encode

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=False)
    feedback = load_feedback(source)
    rows = encode(
        tokenizer,
        feedback["prompt"],
        feedback["completion"],
        max_prompt_tokens=10**6,
        max_completion_tokens=10**6,
    )
    table = pd.DataFrame(
        {
            "id": feedback["prompt_id"],
            "prompt": [len(p) for p, _ in rows],
            "completion": [len(c) for _, c in rows],
        }
    )
    table["k"] = table.groupby("id").cumcount() + 1
    wide = (
        table[table["k"] <= COMPLETIONS]
        .pivot(index=["id", "prompt"], columns="k", values="completion")
        .dropna()
        .astype(int)
    )
    wide.columns = [f"completion_{k}" for k in wide.columns]
    wide.reset_index("prompt").to_csv(
        Path(__file__).with_suffix(".csv"), index=False, lineterminator="\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
