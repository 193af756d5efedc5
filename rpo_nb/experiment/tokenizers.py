"""What a tokenizer loses of the data: texts that do not come back from their tokens, and the
characters to blame.

T5's tokenizer turns newlines and runs of white space into one space and knows no { } < \\ ~ ^ nor
the backtick: code and tables come back as other texts, in training and in generations alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rpo_nb.config.schema import Profile
from rpo_nb.experiment import references
from rpo_nb.remedies import hub_problem

BATCH = 1000  # texts at a time


@dataclass(frozen=True)
class Loss:
    """Of n texts: shares, 0 to 1, and how often each character that went missing did."""

    texts: int
    changed: float  # do not survive encode and decode
    unknown: float  # have an unknown token
    newline: float  # lose a newline
    characters: pd.DataFrame  # character, count; the most frequent first

    @property
    def sentence(self) -> str:
        """What a reader should know, in one sentence."""
        if not self.changed:
            return f"all {self.texts:,} texts survive: lossless"
        worst = ", ".join(
            f"{ascii(c)} ({n:,})" for c, n in self.characters.head(8).itertuples(index=False)
        )
        changed, newline, unknown = (
            f"{100 * share:.3g} %" for share in (self.changed, self.newline, self.unknown)
        )
        told = (
            f"{changed} of {self.texts:,} texts do not survive; {newline} lose a newline, "
            f"{unknown} have an unknown token"
        )
        return told + (f"; most often lost: {worst}" if worst else "")


def lossy_text(tokenizer: Any, texts: Sequence[str]) -> Loss:
    """Encode and decode every text (no length limit) and compare. Raises ValueError when there is
    no text.

    characters: the characters that the decoded text has fewer of than the text, and how many fewer,
    over all texts. (A normaliser that writes another character for one, as T5's writes "..." for
    "…", is among them.)
    """
    if not texts:
        raise ValueError("there is no text to measure the tokenizer on; give at least one")
    changed = unknown = newline = 0
    lost: Counter[str] = Counter()
    for start in range(0, len(texts), BATCH):
        part = list(texts[start : start + BATCH])
        ids = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
        back = tokenizer.batch_decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        unknown += (
            sum(tokenizer.unk_token_id in row for row in ids)
            if tokenizer.unk_token_id is not None
            else 0
        )
        for text, decoded in zip(part, back, strict=True):
            if text != decoded:
                changed += 1
                missing = Counter(text) - Counter(decoded)
                newline += "\n" in missing
                lost.update(missing)
    table = pd.DataFrame(
        sorted(lost.items(), key=lambda item: (-item[1], item[0])), columns=["character", "count"]
    )
    return Loss(len(texts), changed / len(texts), unknown / len(texts), newline / len(texts), table)


def of_profile(
    profile: Profile, pairs: Sequence[tuple[str, str]], *, online: bool = True
) -> dict[str, Any]:
    """The tokenizers of a profile's sizes by name: the tokenizer, or where it cannot be had the
    sentence that says why.

    Sizes that share a tokenizer's origin are one entry. pairs: (prompt, completion) texts that one
    from nothing learns from.
    online: False looks on this machine only.
    """
    found = {}
    for model in profile.sizes.values():
        sizes = [
            size
            for size, other in profile.sizes.items()
            if (other.id, other.revision, other.tokenizer)
            == (model.id, model.revision, model.tokenizer)
        ]
        name = ", ".join(sizes) + (
            " (word-level)" if model.id == "pocket" and profile.pocket_world else ""
        )
        if name not in found:
            found[name] = (
                references.make_tokenizer(model, profile, pairs)
                if model.id == "pocket"
                else _load(model.id, model.revision, online)
            )
    return found


def _load(model_id: str, revision: str, online: bool) -> Any:
    """The tokenizer of a model, from this machine if it has it; a sentence where it cannot be
    had."""
    from transformers import AutoTokenizer

    try:
        path = references.resolve(model_id)
    except ValueError as error:
        return str(error)
    # without a network the second try costs half a minute of retries
    for here in (True, False)[: 1 + online]:
        try:
            return AutoTokenizer.from_pretrained(
                path, revision=revision, local_files_only=here, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            problem = hub_problem(error, model_id)
    return f"its tokenizer cannot be had ({problem.reason}): {problem.remedy}"
