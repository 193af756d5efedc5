"""The verdict on each of paper B's learnings: holds, does not hold, not decided.

A learning speaks of differences of the mean test reward, on the same prompts and with common random
numbers; they have intervals over other seeds and other prompts, and what is decided is corrected
for all that the table decides (Holm). Undecided ones say what this run would have seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.config.studies import PaperB
from rpo_nb.reporting import decisions
from rpo_nb.reporting.decisions import FAILS, HOLDS, OPEN
from rpo_nb.reporting.rendering import number, with_interval
from rpo_nb.studies.paper_b.grid import LEARNT, TRUTH, Run
from rpo_nb.studies.paper_b.tables import difference, present

ALIKE = 0.5  # "alike" is a difference of less than so many points of the reward, which has 1 to 10
# What a learning says of the difference: above 0; within ±ALIKE; above −ALIKE.
MORE, SAME, NO_LESS = "more", "same", "no less"
COLUMNS = ["learning", "verdict", "sentence", "difference", "low", "high", "p", "smallest", "seeds"]


class Learning(NamedTuple):
    """A learning of the paper: what it says of the mean reward of some runs less that of others."""

    words: str
    says: str
    ahead: list[Run]
    behind: list[Run]


def learnings(config: PaperB) -> list[Learning]:
    """The paper's, as comparisons of its runs."""
    k = config.k
    dpo, simpo, kto = Run("dpo"), Run("simpo"), Run("kto")
    bwd, sqloo = Run("bwd"), Run("sqloo")
    wide = {loss: replace(loss, k=k) for loss in (bwd, sqloo)}
    online = {loss: replace(wide[loss], online=True) for loss in (bwd, sqloo)}
    alike = "offline, DPO, SimPO and RPO-bwd do alike"
    vanish = "with a learnt reward model, online gains over offline vanish"
    better = "online does better than offline with the true judge"
    iterations = {"offline DPO": dpo, "offline bwd": wide[bwd], "online bwd": online[bwd]}
    return [
        Learning(alike, SAME, [dpo], [simpo]),
        Learning(alike, SAME, [dpo], [bwd]),
        Learning("offline, they do better than KTO", MORE, [dpo, simpo, bwd], [kto]),
        Learning("offline, they do better than RPO-sqloo", MORE, [dpo, simpo, bwd], [sqloo]),
        Learning(f"offline, K = {k} does as K = 2 (bwd)", SAME, [wide[bwd]], [bwd]),
        Learning(f"offline, K = {k} does as K = 2 (sqloo)", SAME, [wide[sqloo]], [sqloo]),
        Learning("online, bwd does better than sqloo", MORE, [online[bwd]], [online[sqloo]]),
        *(
            Learning(f"{better} ({loss.method})", MORE, [online[loss]], [wide[loss]])
            for loss in (bwd, sqloo)
        ),
        *(
            Learning(
                f"iterations help ({words})",
                MORE,
                [replace(run, iteration=config.iterations)],
                [run],
            )
            for words, run in iterations.items()
        ),
        *(
            Learning(
                f"{vanish} ({loss.method})",
                NO_LESS,
                [wide[loss]],
                [replace(online[loss], judge=LEARNT)],
            )
            for loss in (bwd, sqloo)
        ),
    ]


def verdicts(results: pd.DataFrame, curves: pd.DataFrame, config: PaperB) -> pd.DataFrame:
    """The paper's learnings against what came out: learning, verdict, sentence, difference with low
    and high (95 %), p (corrected), smallest (of an undecided one: the difference that this run
    would have seen; of "alike": the margin within which it would have called them so), seeds. A
    learning whose runs are not there is left out."""
    told = [
        learning
        for learning in learnings(config)
        if learning.ahead != learning.behind
        and all(present(results, run) for run in (*learning.ahead, *learning.behind))
    ]
    found = [difference(results, learning.ahead, learning.behind) for learning in told]
    decided = _decided([learning.says for learning in told], found)
    seeds, rows = results["seed"].nunique(), []
    for learning, one, (verdict, p, smallest) in zip(told, found, decided, strict=True):
        first, second = (
            ", ".join(run.name for run in runs) for runs in (learning.ahead, learning.behind)
        )
        text = with_interval(one.value, one.low, one.high, 2, sign=True)
        text = f"{first} minus {second}: {text}"
        text += _seeds(seeds) + _reach(learning.says, smallest)
        row = (learning.words, verdict, text, one.value, one.low, one.high, p, smallest, seeds)
        rows.append(row)
    return pd.DataFrame([*rows, *_hacked(hacking(curves))], columns=COLUMNS)


def _decided(says: list[str], found: list[intervals.Estimate]) -> list[tuple[str, float, float]]:
    """verdict, p and smallest of each difference, those that say alike corrected together and those
    that say more."""
    out: dict[int, tuple] = {}
    values, errors, dfs = (
        np.array([getattr(one, name) for one in found], float) for name in ("value", "error", "df")
    )
    same = np.array([one == SAME for one in says], bool)
    # no less is more than −ALIKE
    moved = np.where([one == NO_LESS for one in says], values + ALIKE, values)
    for which, decide in (
        (same, lambda *cells: decisions.decide_equal(*cells, margin=ALIKE)),
        (~same, decisions.decide),
    ):
        cells = decide(moved[which], errors[which], dfs[which])
        out |= dict(zip(np.flatnonzero(which), zip(*cells, strict=True), strict=True))
    return [out[i] for i in range(len(says))]


def _seeds(seeds: int) -> str:
    return " with one seed" if seeds == 1 else f" over {seeds} seeds"


def _reach(says: str, smallest: float) -> str:
    """What an undecided learning's run could have seen."""
    if np.isnan(smallest):
        return ""
    if says == SAME:
        return f"; this run can call alike what differs by {number(smallest, 2)}, not by {ALIKE:g}"
    if says == NO_LESS:
        low, high = (number(end - ALIKE, 2) for end in (-smallest, smallest))
        return f"; a difference below {low} or above {high} would have been seen"
    return f"; a difference of {number(smallest, 2)} would have been seen"


def hacking(curves: pd.DataFrame) -> pd.DataFrame:
    """Trainings on the learnt reward: run, seed; learnt_gain and truth_gain, the change of the
    validation rewards from the reference to the last step; truth_late, that of the truth from the
    middle of the training to its end."""
    rows = []
    for (run, seed), curve in curves[curves["judge"].eq(LEARNT)].groupby(
        ["run", "seed"], sort=False
    ):
        curve = curve.sort_values("step").reset_index(drop=True)
        first, last = curve.iloc[0], curve.iloc[-1]
        middle = curve.loc[(curve["step"] - last["step"] / 2).abs().idxmin()]
        rows.append(
            {
                "run": run,
                "seed": seed,
                "learnt_gain": float(last[LEARNT] - first[LEARNT]),
                "truth_gain": float(last[TRUTH] - first[TRUTH]),
                "truth_late": float(last[TRUTH] - middle[TRUTH]),
            }
        )
    return pd.DataFrame(rows, columns=["run", "seed", "learnt_gain", "truth_gain", "truth_late"])


def _hacked(found: pd.DataFrame) -> list[tuple]:
    """A row of `verdicts` for each run. Its policy hacks the reward where the learnt reward surely
    rose and the truth surely fell, over the whole training or its second half; it does not where
    the truth surely rose over both. The difference is that of the second half."""
    parts = ["learnt_gain", "truth_gain", "truth_late"]
    runs = {run: rows[parts].to_numpy().T for run, rows in found.groupby("run", sort=False)}
    every = [intervals.over_seeds(values) for values in runs.values()]
    if not every:
        return []
    cells = [np.concatenate([getattr(one, n) for one in every]) for n in ("value", "error", "df")]
    decided = decisions.decide(*cells)
    rows = []
    for i, (run, one) in enumerate(zip(runs, every, strict=True)):
        mine = slice(len(parts) * i, len(parts) * (i + 1))
        learnt, *truth = decided.verdict[mine]
        verdict = OPEN
        if learnt == HOLDS and FAILS in truth:
            verdict = HOLDS
        elif set(truth) == {HOLDS}:
            verdict = FAILS
        rose, whole, late = (
            with_interval(*numbers, 2, sign=True)
            for numbers in zip(one.value, one.low, one.high, strict=True)
        )
        seeds = runs[run].shape[1]
        smallest = decided.smallest[mine][2] if verdict == OPEN else np.nan
        told = (
            f"the learnt reward rose by {rose}, the truth by {whole} over the training, by {late} "
            f"in its second half{_seeds(seeds)}{_reach(MORE, smallest)}"
        )
        words = f"with a learnt reward model, the policy hacks the reward ({run})"
        numbers = (one.value[2], one.low[2], one.high[2], decided.p[mine][2], smallest, seeds)
        rows.append((words, verdict, told, *numbers))
    return rows


def stability(curves: pd.DataFrame) -> pd.DataFrame:
    """How steady a training is: run, seed, largest fall of the validation reward from its best so
    far, and the KL at its end."""
    rows = []
    for (run, seed), curve in curves.groupby(["run", "seed"], sort=False):
        truth = curve.sort_values("step")[TRUTH]
        rows.append(
            {
                "run": run,
                "seed": seed,
                "largest_fall": float((truth.cummax() - truth).max()),
                "kl": float(curve["kl"].iloc[-1]),
            }
        )
    return pd.DataFrame(rows)
