"""Judges: who says which of two completions answers a prompt better.

`Checker` asks the pocket's ground truth; `RewardModel` is a small learnt judge, trained on held-out
comparisons with Bradley-Terry (as paper B's section 4.1 learns its reward model), or on their
rewards by regression. Both are pointwise: they score one completion at a time and prefer the higher
score, so they can change their choice with the order only on an exact tie.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.running.provenance import code_key

Choice = Literal["first", "second"] | None  # None: the judge could not say
CALLS_KEPT = 8  # of a judge by scores: a training looks again and again at the same baseline


class Reply(NamedTuple):
    """choice: which completion, None for no verdict. log_odds: of the one shown first, None where
    there are no log-probs. note: "" or what is to be said of it, see `language_models`."""

    choice: Choice
    log_odds: float | None = None
    note: str = ""


class Judge(ABC):
    """Anything that compares. `identity` changes whenever its choices could; all below `compare` is
    what a judge may have beyond that."""

    name: str
    identity: str

    @abstractmethod
    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Choice]:
        """Which completion answers each prompt better, in the order shown; None where the judge
        gave none."""

    here: bool = True  # whether it can be asked, or has first to be made again
    by_log_odds: bool = False  # whether its replies carry log-odds
    most_prompts: int | None = None  # that it is asked about; None for all
    held_out: pd.DataFrame | None = None  # comparisons that it was not trained on: see `rates`

    def replies(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Reply]:
        """`compare`, with what else is known of each choice."""
        return [Reply(choice) for choice in self.compare(prompts, first, second)]

    def failed(self) -> int:
        """How many of the last call's questions a rerun should ask again."""
        return 0

    def remarks(self) -> list[str]:
        """What is to be said of the last call, a sentence each."""
        return []


class Pointwise(Judge):
    """A judge by scores: the first completion unless the second scores strictly higher, so that an
    exact tie changes its choice with the order and is counted as a tie.

    The scores of a call are made together, whatever was scored before: a batch's composition moves
    a score in its seventh digit, so it depends on the texts that are asked about and on nothing
    else. The last few calls are kept.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[tuple[str, str], ...], dict[tuple[str, str], float]] = {}

    @abstractmethod
    def _score(self, rows: list[tuple[str, str]]) -> Sequence[float]:
        """The scores of distinct (prompt, completion) rows, in their order."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Scores [n], float64; the same texts in any order have the same scores. Raises ValueError
        naming the prompt whose score is not finite."""
        rows = list(zip(prompts, completions, strict=True))
        distinct = tuple(sorted(set(rows)))
        scores = self._calls.pop(distinct, None)
        if scores is None:
            scores = {}
            for row, score in zip(
                distinct, self._score(list(distinct)) if distinct else (), strict=True
            ):
                if not np.isfinite(score):
                    raise ValueError(
                        f"judge {self.name!r} scored {score} on the prompt "
                        f"{row[0][:80]!r}; check its weights or "
                        "scores"
                    )
                scores[row] = float(score)
        self._calls[distinct] = scores
        if len(self._calls) > CALLS_KEPT:
            self._calls.pop(next(iter(self._calls)))
        return np.array([scores[row] for row in rows])

    def compare(
        self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
    ) -> list[Choice]:
        """See `Judge.compare`."""
        return [
            "second" if better else "first"
            for better in np.greater(*both_scores(self, prompts, second, first))
        ]


def both_scores(
    judge: Pointwise, prompts: Sequence[str], one: Sequence[str], other: Sequence[str]
) -> np.ndarray:
    """Scores [2, n] of two completions of each prompt, asked in one call: equal texts have equal
    scores."""
    return judge.score([*prompts, *prompts], [*one, *other]).reshape(2, -1)


class Checker(Pointwise):
    """The ground truth as a judge. score_fn: (prompt, completion) -> float, e.g.
    ``pocket.score``."""

    name = "checker"

    def __init__(self, score_fn: Callable[[str, str], float]) -> None:
        super().__init__()
        self.score_fn = score_fn

    @cached_property
    def identity(self) -> str:
        """The code of the module that scores: a changed rule is another judge. Raises ValueError
        for a rule that lies in no file, as one that was typed in a notebook."""
        package, _, module = self.score_fn.__module__.partition(".")
        if package == "rpo_nb":
            return code_key(module)
        try:
            return content_key(inspect.getsource(sys.modules[self.score_fn.__module__]))
        except (KeyError, OSError, TypeError):
            raise ValueError(
                f"the checker's rule {self.score_fn.__qualname__!r} lies in no file, so verdicts "
                "by it could not be told from those by another; put it into a module and import it"
            ) from None

    def _score(self, rows: list[tuple[str, str]]) -> Sequence[float]:
        return [self.score_fn(prompt, completion) for prompt, completion in rows]
