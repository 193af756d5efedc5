"""Length-controlled win rates: what the rate would be if both completions were equally long.

    length_controlled(verdicts, pairs)    # beside the raw rates, a row a cell of Table III or IV

Dubois et al. 2024 (Length-Controlled AlpacaEval, arXiv 2404.04475) fit a logistic regression to a
judge's verdicts and read off what it says at no difference of length:

    P(method wins on prompt x) = σ(θ + φ·tanh(Δ/sd(Δ)) + ψ·γ_x),    LC = mean over x of σ(θ + ψ·γ_x)

Δ is the method's length less the baseline's in characters, sd(Δ) its standard deviation, γ_x the
prompt's difficulty as the other comparisons show it. So it is here, with three differences:

- theirs takes γ_x from hundreds of models; here from the other comparisons of the same judge,
  preset, size and seed on that prompt (never from the cell's own verdicts, which γ_x would repeat):
  one Newton step from γ = 0 of the regression in which γ_x has a standard normal prior, as
  Σ(y − p)/(1 + Σp(1 − p)), p from θ and φ alone;
- φ and ψ have a weak normal prior (RIDGE) where theirs have an L1 penalty by cross-validation and
  two rewritten baselines that we have not; θ has none, so where Δ says nothing the rate is the raw
  one;
- each seed has a regression of its own, so that the interval is about other seeds and prompts
  (`intervals.seeds_and_prompts`, of each prompt's share of the estimate: the linearised delta
  method).

Where one side is nearly always the longer one, the regression extrapolates; `longer` tells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from rpo_nb import intervals
from rpo_nb.judging.rates import CELL, win_rates
from rpo_nb.judging.verdicts import KEYS

RIDGE = 0.1  # of φ and ψ: a normal prior of standard deviation 3.2, on a scale where 1 is an odds e
ONE_SIDED = 0.9  # share of pairs from which on the regression extrapolates
FAR = 10.0  # points; where the rate moves further, look at the pairs before you believe it
WINS = {"method": 1.0, "tie": 0.5, "baseline": 0.0}
SEED = ["preset", "judge", "size", "seed"]  # what shares a prompt's difficulty
COLUMNS = [
    *CELL,
    *["win_rate", "ci_low", "ci_high", "lc_win_rate", "lc_low", "lc_high"],
    *["length_effect", "longer", "n", "seeds"],
]


class Fit(NamedTuple):
    """A regression of one seed: LC from 0 to 1; each prompt's share of it, whose mean it is [n];
    φ, NaN where every verdict is the same; fitted probabilities without ψ·γ [n]."""

    rate: float
    points: np.ndarray
    length_effect: float
    fitted: np.ndarray


def fit(wins: np.ndarray, lengths: np.ndarray, difficulty: np.ndarray, ridge: float = RIDGE) -> Fit:
    """The regression of the module's docstring.

    wins: [n] from 0 to 1. lengths: [n], tanh(Δ/sd). difficulty: [n], γ. Verdicts that are all the
    same say nothing of length: the rate is theirs.
    """
    from sklearn.linear_model import LogisticRegression

    if np.ptp(wins) == 0 and wins[0] in (0.0, 1.0):
        return Fit(float(wins[0]), wins.astype(float), np.nan, wins.astype(float))
    features, n = np.column_stack([lengths, difficulty]), len(wins)
    # every verdict as a win with its weight and a loss with the rest
    rows, labels = np.concatenate([features, features]), np.repeat([1, 0], n)
    weights = np.concatenate([wins, 1 - wins])
    kept = weights > 0
    model = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-9, max_iter=200)
    model.fit(rows[kept], labels[kept], sample_weight=weights[kept])
    theta, (phi, psi) = model.intercept_[0], model.coef_[0]
    design = np.column_stack([np.ones(n), features])
    fitted, at_zero = expit(theta + features @ [phi, psi]), expit(theta + psi * difficulty)
    information = design.T @ (design * (fitted * (1 - fitted))[:, None])
    information += np.diag([0.0, ridge, ridge])
    moved = (at_zero * (1 - at_zero)) @ np.column_stack([np.ones(n), np.zeros(n), difficulty])
    shares = design @ np.linalg.solve(information, moved) * (wins - fitted)
    points = at_zero + shares - shares.mean()
    return Fit(float(at_zero.mean()), points, float(phi), fitted)


def scaled(differences: np.ndarray) -> np.ndarray:
    """tanh(Δ/sd(Δ)) of differences of length [n]; 0 where all are the same."""
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return np.tanh(differences / spread) if spread else np.zeros(len(differences))


def length_controlled(verdicts: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Raw and length-controlled win rates in %: COLUMNS, one row a preset, judge, size, baseline
    and tau, in the order of `rates.win_rates`.

    verdicts: `verdicts.judge_pairs`; pairs: `verdicts.make_pairs`, whose texts they are of. low and
    high: 95 % over other seeds and prompts, NaN with one seed. length_effect: φ, mean over seeds;
    longer: share of pairs whose longer completion is the method's; n: verdicts. A seed without any
    verdict is left out.
    """
    rows = verdicts.merge(
        pairs[[*KEYS, "method_completion", "baseline_completion"]], on=KEYS, validate="many_to_one"
    )
    rows = rows.assign(wins=rows["verdict"].map(WINS).astype(float)).dropna(subset=["wins"])
    sizes = [rows[f"{side}_completion"].str.len() for side in ("method", "baseline")]
    rows = _with_difficulty(rows.assign(difference=(sizes[0] - sizes[1]).astype(float)))
    found = []
    for key, cell in rows.groupby(CELL, sort=True):
        fits = {
            seed: fit(*(mine[c].to_numpy() for c in ("wins", "length", "difficulty")))
            for seed, mine in cell.groupby("seed", sort=True)
        }
        points = pd.concat([cell.loc[cell["seed"].eq(seed), "prompt_id"] for seed in fits])
        table = cell.loc[points.index, ["seed", "prompt_id"]].assign(
            points=np.concatenate([one.points for one in fits.values()])
        )
        wide = table.pivot(index="seed", columns="prompt_id", values="points").to_numpy()
        estimate = intervals.seeds_and_prompts(100 * wide, bounds=(0.0, 100.0))
        decided = cell["difference"].ne(0)
        found.append(
            dict(zip(CELL, key, strict=True))
            | {
                "lc_win_rate": estimate.value,
                "lc_low": estimate.low,
                "lc_high": estimate.high,
                "length_effect": _mean([one.length_effect for one in fits.values()]),
                "longer": cell["difference"].gt(0)[decided].mean(),
            }
        )
    raw = win_rates(verdicts)
    both = raw.merge(pd.DataFrame(found, columns=[*CELL, *COLUMNS[8:13]]), on=CELL, how="left")
    return both[COLUMNS]


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _with_difficulty(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with length (`scaled`, a comparison a seed at a time) and difficulty (γ of the other
    comparisons)."""
    parts = []
    for _, cell in rows.groupby([*CELL, "seed"], sort=True):
        length = scaled(cell["difference"].to_numpy())
        fitted = fit(cell["wins"].to_numpy(), length, np.zeros(len(cell))).fitted
        parts.append(
            cell.assign(length=length, residual=cell["wins"] - fitted, weight=fitted * (1 - fitted))
        )
    if not parts:
        return rows.assign(length=0.0, difficulty=0.0)
    rows = pd.concat(parts)
    prompts = rows.groupby([*SEED, "prompt_id"])
    others = [prompts[name].transform("sum") - rows[name] for name in ("residual", "weight")]
    return rows.assign(difficulty=others[0] / (1 + others[1]))


def length_notes(table: pd.DataFrame) -> list[str]:
    """What is to be said below a table of `length_controlled`."""
    one_sided = table["longer"].gt(ONE_SIDED) | table["longer"].lt(1 - ONE_SIDED)
    notes = [
        "LC: what the win rate would be at equal lengths, by the regression of Dubois et al. 2024 "
        "(docs/judges.md); intervals are 95 % over other seeds and prompts."
    ]
    if one_sided.any():
        notes.append(
            f"In {one_sided.sum()} of {len(table)} cells one side is the longer one in more than "
            f"{100 * ONE_SIDED:.0f} % of the pairs: there LC extrapolates."
        )
    far = (table["lc_win_rate"] - table["win_rate"]).abs().gt(FAR)
    if far.any():
        notes.append(
            f"In {far.sum()} of {len(table)} cells LC is more than {FAR:.0f} points from the raw "
            "rate: length tells much of the verdict there, be it the judge's taste or that the "
            "wrong length is a fault."
        )
    return notes
