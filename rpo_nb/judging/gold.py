"""Gold pairs: two completions of a prompt of which it is known which is better. What a judge is
audited with.

LLMBar (Zeng et al. 2024, Evaluating Large Language Models at Evaluating Instruction Following; MIT)
has 419 that people agree on: 100 natural ones, and 319 adversarial ones whose worse completion
looks better. A user's own file has the same columns. The pocket world makes its own: its checker
knows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rpo_nb.config.loading import repository_root
from rpo_nb.config.schema import Profile
from rpo_nb.data.plain_rows import plain_rows, prompt_of, text_of
from rpo_nb.pocket import checker
from rpo_nb.pocket.prompts import make_prompts, parse
from rpo_nb.pocket.words import COUNTS, PROMPTS
from rpo_nb.pocket.writers import SYSTEMS, write

COLUMNS = ["id", "set", "prompt", "paraphrase", "output_a", "output_b", "better"]
COUNT = 419  # as many as LLMBar has
LLMBAR = "shared/data/llmbar.jsonl.gz"  # beside the clone
# names of a column in LLMBar's own files and in JUDGE-BENCH's
PROMPT, FIRST, SECOND = (
    ("prompt", "instruction", "input"),
    ("output_a", "output_1", "completion_a"),
    ("output_b", "output_2", "completion_b"),
)
BETTER = {"a": "a", "b": "b", "1": "a", "2": "b", "output_a": "a", "output_b": "b"}
# the same wish in other words, for prompts of which nothing is known; by the row's number
PARAPHRASES = (
    "Please do the following.\n\n{prompt}",
    "I have a request for you: {prompt}",
    "{prompt}\n\nThank you in advance.",
    "Could you help me with this?\n\n{prompt}",
)


def read_gold(path: str | Path) -> pd.DataFrame:
    """The gold pairs of a file, COLUMNS, in its order.

    A row has prompt, output_a, output_b and better ("a" or "b"); also LLMBar's own names (input,
    output_1, output_2, label 1 or 2). Optional: id (else its number), set (else "all"; biases are
    compared within a set), paraphrase (the prompt in other words). Raises ValueError naming file
    and row: a column that is missing, a text that is empty, another `better`, an id twice, two
    completions that are the same, a paraphrase that is the prompt.
    """
    name, found = Path(path).name, []
    for number, row in plain_rows(path):
        where = f"{name}, row {number}"
        prompt = prompt_of(row, PROMPT, where)
        first, second = (text_of(row, names, where) for names in (FIRST, SECOND))
        told = row.get("better", row.get("label"))
        if str(told).lower() not in BETTER:
            raise ValueError(f'{where}: better is {told!r:.40}; it must be "a" or "b"')
        if first == second:
            raise ValueError(f"{where}: its two completions are the same; remove the row")
        paraphrase = PARAPHRASES[number % len(PARAPHRASES)].format(prompt=prompt)
        if row.get("paraphrase"):
            paraphrase = text_of(row, ("paraphrase",), where)
            if paraphrase == prompt:
                raise ValueError(
                    f"{where}: its paraphrase is the prompt; leave it out, or put the prompt in "
                    "other words"
                )
        found.append(
            {
                "id": str(_given(row, "id", number)),
                "set": str(_given(row, "set", "all")),
                "prompt": prompt,
                "paraphrase": paraphrase,
                "output_a": first,
                "output_b": second,
                "better": BETTER[str(told).lower()],
            }
        )
    frame = pd.DataFrame(found, columns=COLUMNS)
    twice = frame["id"][frame["id"].duplicated()]
    if len(twice):
        raise ValueError(f"{name}: the id {twice.iloc[0]!r} stands twice; name every row once")
    return frame


def _given(row: dict, name: str, otherwise: Any) -> Any:
    return otherwise if row.get(name) is None else row[name]


def pocket_gold(count: int = COUNT, *, seed: int = 0) -> pd.DataFrame:
    """Gold pairs of the pocket world, COLUMNS: two writers' completions of prompts that no policy
    learnt from; its checker says which is better.

    In half of them the longer completion is the better one. Which stands as a is drawn. The
    paraphrase is the same wish in another of the world's wordings.
    """
    rng, found = np.random.default_rng([seed, 7]), []
    left = {"longer": (count + 1) // 2, "shorter": count // 2}
    while sum(left.values()):
        (prompt,) = make_prompts(1, rng=rng, part="questions")
        writers = rng.permutation(len(SYSTEMS))[:2]
        texts = [write(SYSTEMS[i], prompt, rng=rng) for i in writers]
        gap = np.subtract(*(checker.score(prompt, text) for text in texts))
        if gap == 0 or len(texts[0]) == len(texts[1]):
            continue
        which = "longer" if (gap > 0) == (len(texts[0]) > len(texts[1])) else "shorter"
        if left[which]:
            left[which] -= 1
            found.append(
                {
                    "id": f"pocket-{len(found)}",
                    "set": "all",
                    "prompt": prompt,
                    "paraphrase": _other_wording(prompt),
                    "output_a": texts[0],
                    "output_b": texts[1],
                    "better": "a" if gap > 0 else "b",
                }
            )
    return pd.DataFrame(found, columns=COLUMNS)


def _other_wording(prompt: str) -> str:
    """A pocket prompt's wish in the next of the world's wordings."""
    wish = parse(prompt)
    count = next(word for word, number in COUNTS.items() if number == wish.count)
    fields: dict[str, Any] = vars(wish) | {
        "count": count,
        "sentences": "sentence" if count == "one" else "sentences",
    }
    wordings = [wording.format(**fields) for wording in PROMPTS]
    return wordings[(wordings.index(prompt) + 1) % len(wordings)]


def gold_for(profile: Profile, path: str = "") -> tuple[str, pd.DataFrame]:
    """(name, gold pairs) of an audit: a file where one is named; else the pocket's own in the
    pocket world, and LLMBar elsewhere. Raises ValueError where LLMBar is not here."""
    if path:
        return Path(path).name, read_gold(path)
    if profile.pocket_world:
        return "pocket", pocket_gold()
    root = repository_root()
    here = [folder / LLMBAR for folder in (root, *root.parents) if (folder / LLMBAR).is_file()]
    if not here:
        raise ValueError(
            "LLMBar's gold pairs are not here; download Dataset/LLMBar/Natural/dataset.json of "
            "github.com/princeton-nlp/LLMBar, or write a file of your own, and name it: "
            "--audit FILE (docs/judges.md says what a row has)"
        )
    return "LLMBar", read_gold(here[0])


def drawn(gold: pd.DataFrame, pairs: int | None, *, seed: int = 0) -> pd.DataFrame:
    """At most so many of the gold pairs, drawn by seed, in their order; all for None. Raises
    ValueError for fewer than two, which have no spread."""
    if pairs is not None and pairs < 2:
        raise ValueError(f"--pairs {pairs}: an audit needs 2 pairs at least, and says little of 50")
    if pairs is None or pairs >= len(gold):
        return gold
    places = np.random.default_rng([seed, 8]).permutation(len(gold))[:pairs]
    return gold.iloc[np.sort(places)].reset_index(drop=True)
