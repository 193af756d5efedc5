"""Where a researcher's loss stands: the tables of a `own_method.Comparison`.

Every gain, KL and lead is a mean over regimes, seeds and prompts with an interval over other seeds
and other prompts (`intervals.seeds_and_prompts`). The probability of improvement is that of Agarwal
et al. 2021, with an interval over seeds that regimes share (`aggregates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.intervals import Estimate, Share
from rpo_nb.reporting import decisions
from rpo_nb.studies import aggregates
from rpo_nb.studies.own_method import Comparison

ALL = "all"  # the mean over regimes
OUTCOMES = AHEAD, BEHIND, SAME, OPEN = (
    "ahead of",
    "behind",
    "the same reward for every prompt as",
    "not decided against",
)
OTHER_SIDE = {AHEAD: BEHIND, BEHIND: AHEAD}
WORDS = {decisions.HOLDS: AHEAD, decisions.FAILS: BEHIND, decisions.OPEN: OPEN}


def estimate(values: np.ndarray, prompts: Sequence[Sequence[str]]) -> Estimate:
    """The mean and interval of [seeds, prompts]; prompts: what each seed asked, so that prompts
    which seeds share count as shared."""
    rows = [pd.Series(mine, asked) for mine, asked in zip(values, prompts, strict=True)]
    return intervals.seeds_and_prompts(pd.DataFrame(rows).to_numpy())


def improvement(first: np.ndarray, second: np.ndarray) -> Share:
    """`aggregates.improvement` of runs whose scores are their means, with its interval over other
    seeds. [regimes, seeds, prompts] each."""
    scores = first.mean(-1), second.mean(-1)
    return aggregates.share_over_seeds(aggregates.improvement, *scores)


def standing(c: Comparison) -> pd.DataFrame:
    """One row a method and regime, and one a method for all of them: regime, over (in words, what
    the row is a mean over, and a key of the settings: rows with another one do not compare),
    method, setting, gain (points over the reference), kl (nats), lead (points of the researcher's
    loss over this method), each with _low and _high, the lead with _error and _df; improvement,
    _low and _high (probability that the researcher's loss scores higher; of all regimes only);
    prompts, seeds."""
    over = "seed" if len(c.seeds) == 1 else "seeds"
    over += f" {', '.join(map(str, c.seeds))}; settings {c.alike}"
    mine, rows = c.own.words, []
    for method in c.reward:
        parts = {
            "gain": c.reward[method] - c.reward["reference"],
            "kl": c.log_ratio[method],
            "lead": c.reward[mine] - c.reward[method],
        }
        chance = improvement(c.reward[mine], c.reward[method])
        for place, regime in enumerate((*c.regimes, ALL)):
            setting = c.chosen.get((method, regime))
            mean = over if regime != ALL else f"{', '.join(c.regimes)}; {over}"
            row = {"regime": regime, "over": mean, "method": method}
            row["setting"] = setting and setting.words
            for name, values in parts.items():
                one = estimate(values[place] if regime != ALL else values.mean(0), c.prompts)
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
                if name == "lead":
                    row |= {"lead_error": one.error, "lead_df": one.df}
            found = chance[:3] if regime == ALL and method != mine else [np.nan] * 3
            ends = ("improvement", "improvement_low", "improvement_high")
            row |= dict(zip(ends, found, strict=True))
            rows.append(row | {"prompts": c.reward[mine].shape[-1], "seeds": len(c.seeds)})
    return pd.DataFrame(rows)


def tuning(c: Comparison) -> pd.DataFrame:
    """What was tried: method, setting, a column of mean reward on the tuning seed a regime, and
    chosen (the regimes that took it)."""
    rows = []
    for method, settings in c.settings.items():
        for setting in settings:
            took = [r for r in c.regimes if c.chosen[method, r] == setting]
            row = {"method": method, "setting": setting.words}
            row |= {regime: c.tuned[method, regime][setting] for regime in c.regimes}
            rows.append(row | {"chosen": ", ".join(took)})
    return pd.DataFrame(rows)


def together(pages: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """Every loss that has a page, and the kit's methods, in one table: for each regime a row a
    method, best gain first. Pages that were made with other regimes, seeds or settings do not
    compare: they follow one another, and `over` says which is which. pages: (`standing`, `tuning`)
    by the page's name; one of an earlier version, which has no `over`, stands alone.

    regime, over, method, setting, tried (settings that it was given; NaN of the reference), gain,
    kl, each with _low and _high, prompts, seeds, page (where the row stands; of a row that several
    pages have the first). A method has two rows where pages differ in it, as when one loss was
    given more settings than another, and so the kit's methods beside it.
    """
    values = [f"{name}{end}" for name in ("gain", "kl") for end in ("", "_low", "_high")]
    columns = ["regime", "over", "method", "setting", "tried", *values, "prompts", "seeds"]
    tables = [
        standing.assign(
            over=standing.get("over", f"as page {page} alone"),
            tried=standing["method"].map(tuning["method"].value_counts()),
            page=page,
        )
        for page, (standing, tuning) in pages.items()
    ]
    rows = pd.concat(tables, ignore_index=True)[[*columns, "page"]].drop_duplicates(columns)
    regimes = [ALL, *rows.loc[rows["regime"].ne(ALL), "regime"].unique()]
    rankings = [
        ranking.sort_values("gain", ascending=False, kind="stable")
        for regime in regimes
        for _, ranking in rows[rows["regime"].eq(regime)].groupby("over", sort=False)
    ]
    return pd.concat(rankings, ignore_index=True)


def timings(c: Comparison) -> pd.DataFrame:
    """What a step of training costs on this machine: method, seconds with _low and _high (Student's
    t over policies), policies, over_sft (its seconds over those of SFT)."""
    rows = []
    for method, seconds in c.seconds.items():
        value, low, high = intervals.student(seconds)
        ends = {"seconds": value, "seconds_low": low, "seconds_high": high}
        rows.append({"method": method, **ends, "policies": len(seconds)})
    table = pd.DataFrame(rows)
    return table.assign(over_sft=table["seconds"] / table.set_index("method")["seconds"]["SFT"])


def outcomes(table: pd.DataFrame, mine: str) -> pd.DataFrame:
    """Where the researcher's loss stands to each other method over all regimes: method, outcome
    (of OUTCOMES), p (Holm's, for all methods together), smallest (points of lead that these seeds
    would have decided in 80 % of runs; NaN where decided)."""
    others = table[table["regime"].eq(ALL) & table["method"].ne(mine)]
    lead, error, df = (others[name].to_numpy() for name in ("lead", "lead_error", "lead_df"))
    same = (lead == 0) & (error == 0)  # every text is worth the same: nothing to decide
    found = decisions.decide(lead, np.where(same, np.nan, error), df)
    outcome = [SAME if one else WORDS[v] for one, v in zip(same, found.verdict, strict=True)]
    names = others["method"].to_numpy()
    return pd.DataFrame(
        {"method": names, "outcome": outcome, "p": found.p, "smallest": found.smallest}
    )
