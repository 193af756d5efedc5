"""What a model really sees of the feedback: lengths in its own tokens, what is cut, which prompts
become one.

Measured before anything is trained, with the tokenizer and the limits that the training has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.data.feedback import conversations
from rpo_nb.data.splits import Splits
from rpo_nb.policy import encoding

NO_LIMIT = 10**9  # tokens
NAMED = 5  # prompts that a table names
MIDDLE, TURNS, END = (
    "in the middle",
    "by the oldest turns of a conversation, else in the middle",
    "at the end",
)


def lengths(tokenizer: Any, rows: datasets.Dataset, limits: Mapping[str, int]) -> pd.DataFrame:
    """What a tokenizer and its limits make of some rows, one line for the prompts (each once) and
    one for the completions.

    limits: `Profile.limits`. Columns: texts (which), number, median, most (tokens, the template's
    and the end token included), limit, cut (how many texts), share, lost (tokens), where, first
    (prompt_id of the first that are cut), twins (texts that have the tokens of another: of prompts
    another prompt's, of completions another of the same prompt's).
    """
    columns = [
        "texts",
        "number",
        "median",
        "most",
        "limit",
        "cut",
        "share",
        "lost",
        "where",
        "first",
        "twins",
    ]
    if not len(rows):
        return pd.DataFrame(columns=columns)
    texts = conversations(rows), rows["completion"]
    whole = encoding.encode(
        tokenizer, *texts, max_prompt_tokens=NO_LIMIT, max_completion_tokens=NO_LIMIT
    )
    kept = encoding.encode(tokenizer, *texts, **limits)
    ids = np.asarray(rows["prompt_id"])
    once = np.sort(np.unique(ids, return_index=True)[1])
    found = []
    for side, (name, chosen) in enumerate(
        (("prompts", once), ("completions", np.arange(len(ids))))
    ):
        before = np.array([len(whole[i][side]) for i in chosen])
        after = np.array([len(kept[i][side]) for i in chosen])
        cut = before > after
        talks = any(not isinstance(texts[0][i], str) for i in chosen[cut])
        where = END if side else TURNS if talks else MIDDLE
        tokens = [(0 if side == 0 else ids[i], *kept[i][side]) for i in chosen]
        found.append(
            {
                "texts": name,
                "number": len(chosen),
                "median": float(np.median(before)),
                "most": int(before.max()),
                "limit": limits[f"max_{name[:-1]}_tokens"],
                "cut": int(cut.sum()),
                "share": float(cut.mean()),
                "lost": int((before - after).sum()),
                "where": where if cut.any() else "",
                "first": ", ".join(
                    map(str, list(dict.fromkeys(ids[chosen[cut]].tolist()))[:NAMED])
                ),
                "twins": len(tokens) - len(set(tokens)),
            }
        )
    return pd.DataFrame(found, columns=columns)


def sentences(table: pd.DataFrame) -> list[str]:
    """`lengths` in words: one sentence for what is cut, and one where texts become one."""
    told = []
    for row in table.itertuples():
        verb = "is" if row.cut == 1 else "are"
        cut = (
            f"{row.cut:,} {verb} cut {row.where}, by {row.lost:,} tokens in all"
            if row.cut
            else "none is cut"
        )
        told.append(
            f"{row.number:,} {row.texts} of {row.median:g} tokens (median), at most "
            f"{row.most:,}; "
            f"the limit is {row.limit:,}: {cut}"
        )
        if row.twins:
            other = (
                "another prompt" if row.texts == "prompts" else "another completion of their prompt"
            )
            told.append(
                f"warning: {row.twins:,} {row.texts} become the same tokens as {other}: "
                "the model cannot tell them apart"
            )
    return told


def of_profile(profile: Profile, splits: Splits, tokenizers: Mapping[str, Any]) -> pd.DataFrame:
    """`lengths` of each part of the data under each tokenizer and limit of a profile's sizes:
    columns sizes, part, and those of `lengths`. tokenizers: `tokenizers.of_profile`; one that is a
    sentence (it cannot be had) is left out."""
    groups: dict[tuple, list[str]] = {}
    for names, tokenizer in tokenizers.items():
        for size in names.partition(" (")[0].split(", ") if not isinstance(tokenizer, str) else ():
            groups.setdefault((names, *profile.limits(size).values()), []).append(size)
    found = []
    for (names, *_), sizes in groups.items():
        for part in ("train", "validation"):
            table = lengths(tokenizers[names], getattr(splits, part), profile.limits(sizes[0]))
            found.append(table.assign(sizes=", ".join(sizes), part=part))
    if not found:
        return pd.DataFrame(columns=["sizes", "part"])
    table = pd.concat(found, ignore_index=True)
    return table[["sizes", "part", *table.columns.drop(["sizes", "part"])]]


def told(table: pd.DataFrame) -> Sequence[str]:
    """`of_profile` in words."""
    return [
        f"{sizes}, {part}: {sentence}"
        for (sizes, part), rows in table.groupby(["sizes", "part"], sort=False)
        for sentence in sentences(rows)
    ]
