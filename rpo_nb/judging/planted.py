"""Judges whose bias is known: what tests the audit.

    self_test(gold)    # does the audit find what was planted with these gold pairs, and only that?

A planted judge knows the gold and errs on a share of the pairs, always on the same ones: a fair
judge with noise. On a further share of the questions it follows its bias: it takes the longer
completion, the one shown first, or a coin that is thrown anew with every question.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from rpo_nb.judging.audit import ask_gold, checks
from rpo_nb.judging.judges import Choice, Judge
from rpo_nb.reporting.decisions import LEVEL, POWER
from rpo_nb.running import provenance

# bias -> share of the questions on which it decides, and the check that has to find it
PLANTED = {
    "fair": (0.0, None),
    "longer": (0.4, "length"),
    "first": (0.3, "position"),
    "coin": (0.3, "repeats"),
}
ACCURACY = 0.8  # of a planted judge before its bias
DRAWS = 10  # of each planted judge in a self-test


class Planted(Judge):
    """A judge of gold pairs with one of PLANTED's biases. accuracy: of its own mind. strength: the
    share of questions on which its bias decides; default PLANTED's. seed: another draw of its
    errors."""

    def __init__(
        self,
        gold: pd.DataFrame,
        bias: str = "fair",
        *,
        accuracy: float = ACCURACY,
        strength: float | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self.bias, self.seed = f"planted-{bias}", bias, seed
        self.accuracy = accuracy
        self.strength = PLANTED[bias][0] if strength is None else strength
        self.identity = f"{self.name}-{accuracy}-{self.strength}-{seed}"
        # by what is asked of a row; a row's own prompt is surer than another's rewording
        self._pairs = {
            (getattr(row, asked), frozenset((row.output_a, row.output_b))): (
                (str(row.id), row.prompt),
                getattr(row, f"output_{row.better}"),
            )
            for asked in ("paraphrase", "prompt")
            for row in gold.itertuples()
        }
        self._asked: Counter = Counter()

    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Choice]:
        """See `judges.Judge.compare`."""
        return [self._choice(*texts) for texts in zip(prompts, first, second, strict=True)]

    def _choice(self, prompt: str, first: str, second: str) -> Choice:
        pair, better = self._pairs[prompt, frozenset((first, second))]
        # its own mind: of the pair alone, whatever the order and the prompt's words
        knows = self._uniform("own", *pair, *sorted((first, second))) < self.accuracy
        chosen = (first == better) == knows
        question = (prompt, first, second)
        # of the pair alone, too: the prompt's words are no part of these biases
        order = (first, second) if self.bias == "first" else sorted((first, second))
        if self._uniform("bias", *pair, *order) >= self.strength:
            return "first" if chosen else "second"
        if self.bias == "longer" and len(first) != len(second):
            chosen = len(first) > len(second)
        elif self.bias == "first":
            chosen = True
        elif self.bias == "coin":
            self._asked[question] += 1
            chosen = self._uniform("coin", str(self._asked[question]), *question) < 0.5
        return "first" if chosen else "second"

    def _uniform(self, *texts: str) -> float:
        """A number from 0 to 1 that these texts name."""
        text = "\0".join((str(self.seed), *texts)).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def self_test(gold: pd.DataFrame, *, draws: int = DRAWS) -> pd.DataFrame:
    """The audit of each planted judge, `draws` times with other errors.

    Columns: bias, strength, expected (the check that has to find it, "" for the fair judge), found
    (in how many draws it is found; of the fair judge, in how many any bias is), draws, passed:
    found in four draws of five (the power that `audit` speaks of); of the fair judge in no more
    than chance explains, by a binomial test of the five checks' 5 %.
    """
    rows = []
    for bias, (strength, expected) in PLANTED.items():
        found = 0
        for seed in range(draws):
            table = checks(ask_gold(Planted(gold, bias, seed=seed), gold)).set_index("check")
            named = table["found"].drop("accuracy")
            found += bool(named[expected] if expected else named.any())
        fair = stats.binomtest(found, draws, LEVEL, alternative="greater").pvalue > LEVEL
        rows.append(
            {
                "bias": bias,
                "strength": strength,
                "expected": expected or "",
                "found": found,
                "draws": draws,
                "passed": found >= POWER * draws if expected else bool(fair),
            }
        )
    return pd.DataFrame(rows)


def anew(judge: Judge, name: str = "again") -> Judge:
    """The same judge with a store of its own, so that what it replied before is asked once more; a
    judge without a store is itself."""
    if not hasattr(type(judge), "store"):
        return judge

    def store(self):
        return provenance.cache_dir() / "verdicts" / f"{self.identity}-{name}.jsonl"

    kind = type(f"{type(judge).__name__}Anew", (type(judge),), {"store": property(store)})
    other = object.__new__(kind)
    other.__dict__.update(judge.__dict__)
    return other
