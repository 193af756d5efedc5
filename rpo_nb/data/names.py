"""The names that feedback's columns go by, and how a name is recognised however it is written.

A new name is one word in one of these lists. Of several columns with the same meaning the first
that holds a value counts, in the order of the list.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import lru_cache

PROMPT = (
    "prompt",
    "instruction",
    "question",
    "query",
    "user_input",
    "user_prompt",
    "user_query",
    "user_message",
    "problem",
    "source_text",
    "user",
    "request",
)
USER = ("user", "request")  # beside a question their values may be ids
CONVERSATION = ("messages", "conversation", "conversations", "dialogue", "dialog", "chat", "turns")
SYSTEM = ("system", "system_prompt", "system_message")
BEFORE = ("history", "context", "post")  # stands before the prompt; without one it is the prompt
AFTER = ("input",)  # stands after it (Alpaca's instruction and input); without one it is the prompt
COMPLETION = (
    "completion",
    "response",
    "output",
    "answer",
    "generation",
    "reply",
    "model_output",
    "model_response",
    "generated_text",
    "assistant",
    "assistant_response",
    "summary",
    "translation",
    "text",
    "content",
)
COMPLETIONS = (
    "completions",
    "responses",
    "answers",
    "outputs",
    "generations",
    "candidates",
    "choices",
    "replies",
    "samples",
    "texts",
    "summaries",
    "responses_and_scores",
)
SCORE = (
    "reward",
    "score",
    "rating",
    "overall_score",
    "overall_rating",
    "grade",
    "thumbs",
    "thumb",
    "vote",
    "feedback",
    "liked",
    "is_good",
    "desirable",
    "kto_tag",
    "label",
    "labels",
)
RANK = ("rank", "ranking")  # 1 is best
SCORES = ("rewards", "scores", "ratings", "overall_scores", "labels", *SCORE)
RANKS = ("ranks", "rankings", *RANK)
MODEL = ("model", "model_name", "generator", "policy")
MODELS = ("models", "model_names", "generation_models", *MODEL)
RATER = (
    "rater",
    "rater_id",
    "annotator",
    "annotator_id",
    "worker",
    "worker_id",
    "labeler",
    "labeller",
    "labeler_id",
    "evaluator",
    "reviewer",
    "judge",
    "user_id",
)
WEIGHT = ("weight", "sample_weight", "row_weight", "loss_weight", "weights")
ASPECTS = frozenset(
    (
        "helpfulness",
        "correctness",
        "coherence",
        "complexity",
        "verbosity",
        "honesty",
        "truthfulness",
        "instruction_following",
        "informativeness",
        "relevance",
        "fluency",
        "consistency",
        "accuracy",
        "coverage",
        "overall",
        "quality",
        "harmlessness",
        "safety",
        "toxicity",
        "factuality",
        "clarity",
        "conciseness",
        "completeness",
        "creativity",
        "depth",
        "engagement",
        "faithfulness",
        "humor",
        "adequacy",
        "grammar",
        "readability",
        "politeness",
        "naturalness",
        "groundedness",
        "style",
    )
)
WINNER = (
    "winner",
    "better",
    "preferred",
    "preference",
    "choice",
    "best",
    "verdict",
    "chosen",
    "better_response",
    "better_response_id",
    "preferred_response",
    "preferred_output",
    "human_preference",
    "overall_preference",
    "preference_strength",
    "label",
    "labels",
)
STRENGTH = frozenset(("overall_preference", "preference_strength"))  # below 0: the first is better
SIDES = (
    ("chosen", "rejected"),
    ("preferred", "non_preferred"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("selected", "rejected"),
    ("better", "worse"),
    ("winner", "loser"),
    ("winning", "losing"),
    ("win", "lose"),
    ("good", "bad"),
    ("best", "worst"),
    ("positive", "negative"),
    ("y_w", "y_l"),
)
_TEXT = frozenset(
    (*COMPLETION, *CONVERSATION, *COMPLETIONS, "message", "human_ref", "candidate", "option")
)
_SCORE = (
    *SCORE,
    "avg_rating",
    "average_rating",
    "mean_rating",
    "avg_score",
    "average_score",
    "mean_score",
    "rm_score",
    "total_score",
    "reward_score",
)
LESS = frozenset(("toxicity", "verbosity", "complexity"))  # aspects of which more is not better
OTHER = frozenset(("image", "images", "audio", "video", "videos", "tools"))  # content, no text
_NUMBERED = re.compile(r"(.+?)(?:_([a-z])|_?(\d+))$")
_NUMBERED_SCORE = re.compile(r"(.+?)(?:_([a-z])|_?(\d+))_(.+)")  # response_1_rating

KNOWN = tuple(
    dict.fromkeys(
        (
            *PROMPT,
            *CONVERSATION,
            *SYSTEM,
            *BEFORE,
            *AFTER,
            *COMPLETION,
            *COMPLETIONS,
            *SCORES,
            *RANKS,
            *MODELS,
            *RATER,
            *WEIGHT,
            *sorted(ASPECTS),
            *WINNER,
            "chosen",
            "rejected",
            "annotations",
            "prompt_id",
            "id",
        )
    )
)
TEXTS = frozenset((*PROMPT, *CONVERSATION, *SYSTEM, *BEFORE, *AFTER, *COMPLETION, *COMPLETIONS))
CONTENT = frozenset((*TEXTS, *SCORES, *RANKS, *ASPECTS, *OTHER))


@lru_cache(maxsize=65536)
def normal(name: object) -> str:
    """A column's name without stray spaces, capitals, camel case and hyphens."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name).strip(" \t\r\n\ufeff\u200b\u00a0"))
    return re.sub(r"[^\w]+", "_", text).strip("_").lower()


def stem(name: object) -> str:
    """What stands before a name's letter or number: "response" of response_a and response1."""
    found = _NUMBERED.fullmatch(normal(name))
    return found[1] if found else ""


def nearest(name: object) -> str:
    """The known name that a misspelt one is nearest to, "" if none is near."""
    found = difflib.get_close_matches(normal(name), KNOWN, n=1, cutoff=0.75)
    return found[0] if found else ""


def described(columns: Iterable[object]) -> str:
    """Columns as a sentence lists them, each unknown one with the nearest known name."""
    shown = []
    for column in list(columns)[:40]:
        near = "" if normal(column) in KNOWN else nearest(column)
        shown.append(f"{ascii(column)[1:-1][:60]}" + (f" (did you mean {near}?)" if near else ""))
    return ", ".join(shown)


class Columns:
    """What the keys of an object mean: of every role the keys that can play it, best first.

    pair: of a pair the keys of (better text, worse text) and (better model, worse model), "" where
    there is none. sides: of texts told apart by a letter or a number {letter: key}, likewise
    side_models; winners: the keys that can tell which is better, and one_hot {letter: key}.
    pair_ratings and side_ratings: of every (name, text's name in it or "") that scores of sides go
    by {side: key}, the best name first; side_scores: the keys of all of them.
    """

    def __init__(self, keys: Iterable[object]):
        self.names: dict[str, list] = {}
        for key in keys:
            self.names.setdefault(normal(key), []).append(key)
        for role in (
            "PROMPT",
            "USER",
            "CONVERSATION",
            "SYSTEM",
            "BEFORE",
            "AFTER",
            "COMPLETION",
            "SCORE",
            "COMPLETIONS",
            "RANK",
            "SCORES",
            "RANKS",
            "MODEL",
            "MODELS",
            "RATER",
            "WEIGHT",
        ):
            setattr(self, role.lower(), self.keys(globals()[role]))
        self.aspects = tuple(
            (name, keys[0]) for name, keys in self.names.items() if name in ASPECTS
        )
        self.pair_ratings, self.side_ratings = {}, {}
        self.pair = self._pair()
        self.sides, self.side_models, self.one_hot = {}, {}, {}
        for name, (key, *_) in self.names.items():
            self._place(name, key)
        self.side_ratings = _ranked(self.side_ratings)
        self.side_scores = {
            (name, side): key
            for ratings in (self.pair_ratings, self.side_ratings)
            for name, keys in ratings.items()
            for side, key in keys.items()
        }
        if len(self.sides) < 2 or len({stem(key) for key in self.sides.values()}) > 1:
            self.sides = {}
        self.winners = self.keys(WINNER) if self.sides else ()

    def keys(self, names: Iterable[str]) -> tuple:
        """The keys of these names, in their order."""
        return tuple(key for name in names for key in self.names.get(name, ()))

    def _pair(self) -> tuple:
        for sides in SIDES:
            bases = [
                {
                    _without(name, side): keys[0]
                    for name, keys in self.names.items()
                    if _without(name, side) is not None
                }
                for side in sides
            ]
            both = [base for base in bases[0] if base in bases[1]]
            text = next((base for base in both if not base or base in _TEXT), None)
            if text is not None:
                for i, base in enumerate(bases):
                    for name in (name for name in base if name in _SCORE):
                        self.pair_ratings.setdefault((name, ""), {})[i] = base[name]
                self.pair_ratings = _ranked(self.pair_ratings)
                model = next((base for base in both if base in MODEL), None)
                models = ("", "") if model is None else (bases[0][model], bases[1][model])
                if model is None:  # one side's model alone is still known
                    models = tuple(
                        next((base[m] for m in MODEL if m in base), "") for base in bases
                    )
                return (bases[0][text], bases[1][text]), models
        return ()

    def _place(self, name: str, key: object) -> None:
        found = _NUMBERED.fullmatch(name)
        if not found:
            if name == "winner_tie":
                self.one_hot["tie"] = key
            found = _NUMBERED_SCORE.fullmatch(name)
            if found and found[1] in (*_TEXT, *MODEL) and found[4] in _SCORE:
                self._rate((found[4], found[1]), found[2] or found[3], key)
            return
        stem, side = found[1], found[2] or found[3]
        if stem in _TEXT and not (stem == "text" and side not in "ab01"):
            self.sides.setdefault(side, key)
        elif stem in _SCORE:
            self._rate((stem, ""), side, key)
        elif stem in MODEL:
            self.side_models[side] = key
        elif stem in ("winner_model", "winner"):
            self.one_hot[side] = key

    def _rate(self, name: tuple[str, str], side: str, key: object) -> None:
        self.side_ratings.setdefault(name, {}).setdefault(side, key)


def _ranked(ratings: dict[tuple[str, str], dict]) -> dict[tuple[str, str], dict]:
    return dict(sorted(ratings.items(), key=lambda item: _SCORE.index(item[0][0])))


def _without(name: str, side: str) -> str | None:
    """What a column's name says beside its side: "rating" of chosen_rating and rating_chosen."""
    if name == side:
        return ""
    if name.startswith(f"{side}_"):
        return name[len(side) + 1 :]
    return name[: -len(side) - 1] if name.endswith(f"_{side}") else None
