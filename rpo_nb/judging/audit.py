"""A judge under audit: what it says of gold pairs, and which biases that shows.

    asked = ask_gold(judge, gold)      # four questions a pair, one row a pair
    found = checks(asked)              # five checks with intervals, corrected together
    by_set(asked)                      # accuracy set by set

Every pair is asked about in both orders, a second time in the first order, and in the first order
with the prompt in other words. The checks, and what a judge without the bias has:

accuracy    share of both orders' choices that are right: ½ is chance
position    share of choices for the completion shown first: ½
length      share of choices for the longer one, where the longer is as often better as worse: ½.
            It is ½ + (A − B)/2, A the accuracy where the longer completion is the better one and B
            where it is the worse one, compared within each set of the gold pairs: a judge that errs
            as often either way has ½, however many of the better completions are long
repeats     share of pairs whose choice changes when nothing changes: at most TOLERANCE
paraphrase  the same when the prompt is put in other words, less the share of repeats: at most
            TOLERANCE

A judge whose errors hang on the texts alone (fair and noisy) passes all but, if it is no better
than chance, the first. The five p-values of a judge are corrected by Holm's method. "smallest" is
the smallest bias that 80 % of audits with as many pairs would find, at the level that the surest of
five has to pass. `planted` tests the audit itself with judges whose bias is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rpo_nb.intervals import Estimate
from rpo_nb.judging.judges import Judge, Pointwise, Reply
from rpo_nb.reporting.decisions import LEVEL, POWER, holm, p_value, smallest_effect

CHECKS = ("accuracy", "position", "length", "repeats", "paraphrase")
TOLERANCE = 0.05  # of choices that may change: one in twenty
FEWEST = 2  # pairs of a group, for a spread
TOO_FEW = "too few pairs to tell"
COLUMNS = ["check", "value", "low", "high", "null", "p", "smallest", "n", "found", "says"]
COUNTS = re.compile(r"([\d,]+) of [\d,]+ questions")  # of a remark
CHOICES = ["first_order", "second_order", "again", "paraphrase"]
SIDES = {"first": "a", "second": "b", None: None}


# ---- asking --------------------------------------------------------------------------------------


def ask_gold(
    judge: Judge, gold: pd.DataFrame, *, another: Judge | None = None, seed: int = 0
) -> pd.DataFrame:
    """What a judge says of gold pairs (`gold.COLUMNS`), one row a pair.

    Columns: id, set, better, longer ("a", "b" or None by characters), CHOICES ("a", "b" or None for
    no choice), log_odds (of a, mean over both orders; NaN for none), tie (whether a judge by scores
    gave both the same; it has not seen their order). another: who is asked the
    second time, for a judge that keeps its replies (`planted.anew`); default the judge itself. The
    second time the pairs stand in another order and come in two calls, so that a judge by scores
    computes them anew beside other texts.
    """
    gold = gold.reset_index(drop=True)  # replies come in the order of the rows
    prompts, a, b = (gold[column].tolist() for column in ("prompt", "output_a", "output_b"))
    calls = Calls()
    both = calls.replies(judge, prompts * 2, a + b, b + a)
    first, second = both[: len(gold)], both[len(gold) :]
    again: list[Reply] = [Reply(None)] * len(gold)
    order = np.random.default_rng([seed, 9]).permutation(len(gold))
    for part in np.array_split(order, 2):
        texts = ([column[i] for i in part] for column in (prompts, a, b))
        for i, reply in zip(part, calls.replies(another or judge, *texts), strict=True):
            again[i] = reply
    other = calls.replies(judge, gold["paraphrase"].tolist(), a, b)
    odds = [
        np.nan
        if one.log_odds is None or two.log_odds is None
        else (one.log_odds - two.log_odds) / 2
        for one, two in zip(first, second, strict=True)
    ]
    sizes = np.sign(gold["output_a"].str.len() - gold["output_b"].str.len())
    turned = {"first": "b", "second": "a", None: None}
    frame = gold[["id", "set", "better"]].assign(
        longer=sizes.map({1: "a", -1: "b", 0: None}).astype(object),
        first_order=_sides(first, SIDES),
        second_order=_sides(second, turned),
        again=_sides(again, SIDES),
        paraphrase=_sides(other, SIDES),
        log_odds=np.array(odds, float),
    )
    both_first = frame["first_order"].eq("a") & frame["second_order"].eq("b")
    frame["tie"] = both_first & isinstance(judge, Pointwise)
    frame.attrs["remarks"] = calls.remarks()
    if ties := int(frame["tie"].sum()):
        said = f"judge {judge.name}: gives both completions the same score in {ties:,} of "
        frame.attrs["remarks"].append(f"{said}{len(frame):,} pairs: half right, no preference.")
    return frame


class Calls:
    """Calls of a judge, and what it remarks of all of them."""

    def __init__(self) -> None:
        self.asked, self.said = 0, []

    def replies(self, judge: Judge, *texts: Sequence[str]) -> list[Reply]:
        found = judge.replies(*texts)
        self.asked += len(set(zip(*texts, strict=True)))  # as a judge counts them
        self.said += judge.remarks()
        return found

    def remarks(self) -> list[str]:
        """Each sentence once, with the sum of its counts, of all questions: a call that had nothing
        to remark on counts, too."""
        counts: dict[str, int] = {}
        for remark in self.said:
            found = COUNTS.search(remark)
            text = COUNTS.sub("\0", remark, count=1)
            here = int(found[1].replace(",", "")) if found else 0
            counts[text] = counts.get(text, 0) + here
        return [
            text.replace("\0", f"{count:,} of {self.asked:,} questions")
            for text, count in counts.items()
        ]


def _sides(replies: Sequence[Reply], names: dict) -> pd.Series:
    return pd.Series([names[reply.choice] for reply in replies], dtype=object)


# ---- estimates -----------------------------------------------------------------------------------


class Part(NamedTuple):
    """The mean of a group of pairs, the variance of that mean and how many pairs it has."""

    mean: float
    variance: float
    n: int


def part(points: np.ndarray, bounds: tuple[float, float]) -> Part:
    """Of the points of a group. One more pair at either bound is counted into the variance, so that
    pairs that all say the same are no certainty (as in `intervals.seeds_and_prompts`)."""
    n, mean = len(points), float(np.mean(points))
    squares = ((points - mean) ** 2).sum() + sum((end - mean) ** 2 for end in bounds)
    return Part(mean, float(squares / (n * (n - 1))), n)


def mean_of(points: np.ndarray, bounds: tuple[float, float]) -> Estimate:
    """The mean over pairs and its interval over other pairs, by Student's t within the bounds. NaNs
    around the mean of fewer than two."""
    if len(points) < FEWEST:
        return Estimate(float(np.mean(points)) if len(points) else np.nan, *[np.nan] * 4)
    found = part(points, bounds)
    return _around(found.mean, found.variance**0.5, found.n - 1, bounds)


def comparable(longer: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """[pairs]: whether a pair is of a set with two pairs of either kind (`length_preference`)."""
    kinds = {name: longer[sets == name] for name in np.unique(sets)}
    wide = [name for name, of in kinds.items() if min(of.sum(), (~of).sum()) >= FEWEST]
    return np.isin(sets, wide)


def length_preference(points: np.ndarray, longer: np.ndarray, sets: np.ndarray) -> Estimate:
    """The share of choices for the longer completion where it is as often better as worse.

    points: [pairs], the share of right choices of each. longer: [pairs], whether the longer
    completion is the better one. sets: [pairs]; the two kinds are compared within a set, whose
    weight is n₁n₀/(n₁ + n₀), as in a linear regression on `longer` with an intercept a set. The
    interval is Welch's over all of them. NaNs where no set has two pairs of either kind.
    """
    weights, differences, terms = [], [], []
    for name in np.unique(sets[comparable(longer, sets)]):
        groups = [points[(sets == name) & (longer == kind)] for kind in (True, False)]
        one, other = (part(group, (0.0, 1.0)) for group in groups)
        weight = one.n * other.n / (one.n + other.n)
        weights.append(weight)
        differences.append(weight * (one.mean - other.mean))
        terms += [(weight**2 * found.variance, found.n - 1) for found in (one, other)]
    if not weights:
        return Estimate(*[np.nan] * 5)
    value = 0.5 + sum(differences) / sum(weights) / 2
    variances = np.array([variance for variance, _ in terms])
    error = variances.sum() ** 0.5 / sum(weights) / 2
    df = variances.sum() ** 2 / sum(variance**2 / n for variance, n in terms)  # Satterthwaite 1946
    return _around(value, error, df, (0.0, 1.0))


def _around(value: float, error: float, df: float, bounds: tuple[float, float]) -> Estimate:
    half = stats.t.ppf(0.975, df) * error
    low, high = max(bounds[0], value - half), min(bounds[1], value + half)
    return Estimate(float(value), float(low), float(high), float(error), float(df))


# ---- the checks ----------------------------------------------------------------------------------


def right(asked: pd.DataFrame) -> pd.Series:
    """Share of right choices of both orders of each pair: 0, ½ or 1; NaN where one is missing."""
    both = [asked[order].eq(asked["better"]).astype(float) for order in CHOICES[:2]]
    return (sum(both) / 2).where(asked[CHOICES[:2]].notna().all(axis=1))


def checks(asked: pd.DataFrame) -> pd.DataFrame:
    """The five checks of `ask_gold`'s rows: COLUMNS.

    value, low, high: the estimate and its 95 % interval over other pairs. null: what a judge
    without the bias has (at most so much, of repeats and paraphrase). p: after Holm's correction
    for the five. smallest: see the module; NaN where so few pairs would show no bias at all. n:
    pairs that were asked and have all it takes. found: whether the null is refused. says: it in
    words. A check with too few pairs has NaNs and is not found.
    """
    points = right(asked)
    given = points.notna()
    shown_first = (
        asked["first_order"].eq("a").astype(float) + asked["second_order"].eq("b").astype(float)
    ) / 2
    shown_first = shown_first.mask(asked["tie"], 0.5)
    told = given & asked["longer"].notna()
    longer, sets = asked["longer"].eq(asked["better"]).to_numpy(), asked["set"].to_numpy()
    told[told] = comparable(longer[told], sets[told])
    length = length_preference(points[told].to_numpy(), longer[told], sets[told])
    rows = [
        _two_sided("accuracy", mean_of(points[given].to_numpy(), (0.0, 1.0)), given.sum()),
        _two_sided("position", mean_of(shown_first[given].to_numpy(), (0.0, 1.0)), given.sum()),
        _two_sided("length", length, told.sum()),
        _changes("repeats", asked, "again"),
        _paraphrase(asked),
    ]
    frame = pd.DataFrame(rows).assign(p=lambda table: holm(table["p"]))
    frame["found"] = frame["p"].lt(LEVEL)
    frame["says"] = [_says(row) for _, row in frame.iterrows()]
    return frame[COLUMNS]


def _two_sided(name: str, found: Estimate, n: int) -> dict:
    """A check whose null is ½, by the t test that its interval is made of."""
    return {
        "check": name,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "null": 0.5,
        "p": float(p_value(found.value, found.error, found.df, 0.5)),
        "smallest": _smallest(found, name, 0.5, n, LEVEL / len(CHECKS)),
        "n": int(n),
    }


# The variance of an estimate where the bias is d, from its variance v now and the number of pairs:
# a judge that never flips shows no variance, but with a bias it would.
SPREADS: dict[str, Callable[[float, float, int], float]] = {
    "accuracy": lambda v, d, n: max(v, 0.25 / n),  # at chance, whatever it is now
    # a bias of d decides 2d of the pairs, each by ½
    "position": lambda v, d, n: v + max(0.0, d * (0.5 - d)) / n,
    # and of the half in which it errs for it
    "length": lambda v, d, n: v + max(0.0, d * (0.5 - d)) / (n / 2),
    "paraphrase": lambda v, d, n: max(v, (TOLERANCE + d) * (1 - TOLERANCE - d) / n),
}


def _smallest(found: Estimate, name: str, null: float, n: int, level: float) -> float:
    """The smallest bias that a t test at a two-sided level finds in 80 % of audits, with the
    variance that it would have; NaN where it would be a share above 1, which no judge has."""
    if np.isnan(found.error):
        return np.nan
    errors, bias = float(smallest_effect(1.0, found.df, level)), 0.0
    for _ in range(50):  # of a square root: it converges from below
        bias = errors * SPREADS[name](found.error**2, bias, n) ** 0.5
    return float(bias) if null + bias <= 1 else np.nan


def _changes(name: str, asked: pd.DataFrame, other: str) -> dict:
    """How often the choice changes: an exact binomial test that it is more than TOLERANCE, with
    Clopper and Pearson's interval."""
    both = asked[["first_order", other]].dropna()
    n, changed = len(both), int(both["first_order"].ne(both[other]).sum())
    row = {"check": name, "null": TOLERANCE, "n": n}
    if not n:
        return row | dict.fromkeys(("value", "low", "high", "p", "smallest"), np.nan)
    test = stats.binomtest(changed, n, TOLERANCE, alternative="greater")
    low, high = stats.binomtest(changed, n).proportion_ci()
    return row | {
        "value": changed / n,
        "low": float(low),
        "high": float(high),
        "p": test.pvalue,
        "smallest": smallest_share(n, TOLERANCE, LEVEL / len(CHECKS)) - TOLERANCE,
    }


def smallest_share(n: int, null: float, level: float) -> float:
    """The smallest true share that an exact one-sided binomial test against `null` finds in 80 % of
    samples of n."""
    fewest = int(stats.binom.isf(level, n, null)) + 1  # the first count that is refused
    return float(stats.beta.ppf(POWER, fewest, n - fewest + 1)) if fewest <= n else np.nan


def _paraphrase(asked: pd.DataFrame) -> dict:
    """How much oftener the choice changes with the prompt's words than with nothing: a paired
    one-sided t test that it is more than TOLERANCE."""
    both = asked[["first_order", "again", "paraphrase"]].dropna()
    excess = both["first_order"].ne(both["paraphrase"]).astype(float) - both["first_order"].ne(
        both["again"]
    )
    found = mean_of(excess.to_numpy(float), (-1.0, 1.0))
    return {
        "check": "paraphrase",
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "null": TOLERANCE,
        "p": float(stats.t.sf((found.value - TOLERANCE) / found.error, found.df)),
        "smallest": _smallest(found, "paraphrase", TOLERANCE, len(both), 2 * LEVEL / len(CHECKS)),
        "n": len(both),
    }


def _says(row: pd.Series) -> str:
    """What a check found, as a reader needs it."""
    name, more = row["check"], row["value"] > row["null"]
    # without a bias that it would show, finding none says nothing
    if np.isnan(row["p"]) or (np.isnan(row["smallest"]) and not row["found"]):
        return TOO_FEW
    if name == "accuracy":
        words = ("right more often than chance", "wrong more often than right")
        return words[not more] if row["found"] else "not told from chance"
    found = {
        "position": ("prefers what is shown first", "prefers what is shown second"),
        "length": ("prefers the longer completion", "prefers the shorter completion"),
        "repeats": ("changes its mind when nothing changes",) * 2,
        "paraphrase": ("changes its mind with the prompt's wording",) * 2,
    }[name]
    return found[not more] if row["found"] else "no bias found"


# ---- beside the checks ---------------------------------------------------------------------------


def by_set(asked: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in each set and in all, uncorrected: set, voice, accuracy, low, high, n.

    voice: "both orders" as in the check; "average" where the judge gave log-odds, by the sign of
    their mean over both orders, in which a leaning to one position cancels. Pairs without a set
    beside pairs with one are "no set".
    """
    sets = asked["set"]
    if sets.nunique() > 1:
        sets = sets.replace("all", "no set")
    average = np.sign(asked["log_odds"]).map({1.0: "a", -1.0: "b", 0.0: "tie"})
    averaged = (
        average.eq(asked["better"])
        .astype(float)
        .mask(average.eq("tie"), 0.5)
        .where(average.notna())
    )
    rows = []
    for voice, points in (("both orders", right(asked)), ("average", averaged)):
        if points.notna().any():
            for name in [*sorted(sets.unique()), "all"]:
                mine = points[sets.eq(name) | (name == "all")].dropna()
                found = mean_of(mine.to_numpy(float), (0.0, 1.0))
                rows.append((name, voice, found.value, found.low, found.high, len(mine)))
    rows = list(dict.fromkeys(rows))
    return pd.DataFrame(rows, columns=["set", "voice", "accuracy", "low", "high", "n"])


def unanswered(asked: pd.DataFrame) -> int:
    """Pairs with no choice in at least one order: they are left out and counted."""
    return int(asked[CHOICES[:2]].isna().any(axis=1).sum())
