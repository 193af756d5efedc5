"""Verdicts to win rates and their intervals, and what is to be thought of a judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.judging.judges import Judge
from rpo_nb.judging.verdicts import AVERAGE, KEYS

QUALITY = (
    "judge verdicts nulls identical first flips flips_differing ties flips_to_first longer "
    "agreement agreement_low agreement_high held_out held_out_low held_out_high held_out_n"
).split()
CELL = ["preset", "judge", "size", "baseline", "tau"]  # of Tables III and IV
ESTIMATE = ["std", "ci_low", "ci_high", "error", "df", "n", "seeds"]  # beside a mean over seeds
# beside the judges: a judge that does no better has read no more than the length
RULE = "longer wins"
# a judge that contradicts itself more often than not says more of the order than of the texts
MOST_FLIPS = 0.5
# of all answers; ½ is no leaning, and a judge of two equal policies cannot be far from it
MOST_FIRST = 0.9
# of the decided verdicts; the pocket's ground truth prefers the longer in about half
MOST_LONGER = 0.9
MOST_NULLS = 0.5  # what is left is no sample of the pairs
GAPS = (0.0, 0.5, 1.0, 2.0, 3.0, np.inf)  # of the true rewards, for the accuracy of a learnt judge


# ---- numbers -------------------------------------------------------------------------------------


def _sums(rows: pd.DataFrame, points: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts [seeds, prompts] of the points that are not missing (rows: seed,
    prompt_id)."""
    table = rows[["seed", "prompt_id"]].assign(points=points.astype(float)).dropna()
    sums = table.pivot_table(
        index="seed", columns="prompt_id", values="points", aggfunc=["sum", "count"], fill_value=0
    )
    if sums.empty:
        return np.zeros((0, 0)), np.zeros((0, 0))
    return sums["sum"].to_numpy(float), sums["count"].to_numpy(float)


def _rate(rows: pd.DataFrame, points: pd.Series) -> dict[str, float]:
    """What a judge does: mean over seeds, interval over prompts (this judge, other pairs), and
    count of the points that are not missing (rows: seed, prompt_id)."""
    totals, counts = _sums(rows, points)
    rate, low, high = intervals.bootstrap_prompts(totals, counts)
    return {"rate": rate, "low": low, "high": high, "n": int(counts.sum())}


def _estimate(rows: pd.DataFrame, points: pd.Series, bounds: tuple[float, float]) -> dict:
    """What policies do: mean and std over seeds, interval over other seeds and prompts, its error
    and df, count of the points that are not missing (rows: seed, prompt_id)."""
    totals, counts = _sums(rows, points)
    if not len(totals):
        return dict.fromkeys(("mean", *ESTIMATE[:-2]), np.nan) | {"n": 0, "seeds": 0}
    found = intervals.seeds_and_prompts(totals, counts, bounds=bounds)
    by_seed = totals.sum(1) / counts.sum(1)
    return {
        "mean": found.value,
        "std": by_seed.std(ddof=1) if len(by_seed) > 1 else np.nan,
        "ci_low": found.low,
        "ci_high": found.high,
        "error": found.error,
        "df": found.df,
        "n": int(counts.sum()),
        "seeds": len(by_seed),
    }


def win_rates(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Win rate of RPO in % by preset, judge, size, baseline and tau: 100·(wins + ties/2)/verdicts,
    nulls left out.

    Columns: those five, win_rate (mean over seeds), ESTIMATE (std over seeds, ddof 1; the 95 %
    interval over other seeds and prompts of `intervals.seeds_and_prompts`, its standard error and
    degrees of freedom; n, verdicts of all seeds; seeds), nulls, ties, flips. With one seed a rate
    has neither std nor interval.
    """
    rows = []
    for key, cell in verdicts.groupby(CELL, sort=True):
        found = _estimate(cell, _points(cell), (0.0, 100.0))
        rows.append(
            dict(zip(CELL, key, strict=True))
            | {"win_rate": found.pop("mean")}
            | found
            | {
                "nulls": int(cell["verdict"].isna().sum()),
                "ties": int(cell["verdict"].eq("tie").sum()),
                "flips": int(_flips(cell).sum()),
            }
        )
    return pd.DataFrame(rows, columns=[*CELL, "win_rate", *ESTIMATE, "nulls", "ties", "flips"])


def temperature_differences(verdicts: pd.DataFrame) -> pd.DataFrame:
    """How much the win rate moves from one τ of RPO to another: one row a preset, judge, size,
    baseline and pair of τ.

    Columns: preset, judge, size, baseline, tau_low, tau_high, difference (win rate at tau_high less
    that at tau_low, in points, on the prompts where both have a verdict), ESTIMATE as in
    `win_rates`. Both rates of a seed and prompt are over the same completion of the baseline, so
    their difference is surer than its two ends.
    """
    keys, out = [key for key in CELL if key != "tau"], []
    for key, cell in verdicts.groupby(keys, sort=True):
        wide = cell.assign(points=_points(cell)).pivot(
            index=["seed", "prompt_id"], columns="tau", values="points"
        )
        for low, high in combinations(sorted(wide), 2):
            both = (wide[high] - wide[low]).rename("points").reset_index()
            found = _estimate(both, both["points"], (-100.0, 100.0))
            out.append(
                dict(zip(keys, key, strict=True))
                | {"tau_low": low, "tau_high": high, "difference": found.pop("mean")}
                | found
            )
    return pd.DataFrame(out, columns=[*keys, "tau_low", "tau_high", "difference", *ESTIMATE])


def _points(verdicts: pd.DataFrame) -> pd.Series:
    return verdicts["verdict"].map({"method": 100.0, "tie": 50.0, "baseline": 0.0})


def averaged(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The rows of the judges that gave log-odds, their verdict the sign of the average over both
    orders, not the strict one."""
    given = (
        verdicts["verdict_average"].notna()
        if AVERAGE[1] in verdicts
        else pd.Series(False, verdicts.index)
    )
    rows = verdicts[verdicts["judge"].isin(verdicts.loc[given, "judge"].unique())]
    return rows.assign(verdict=rows[AVERAGE[1]]) if len(rows) else rows


def _flips(rows: pd.DataFrame) -> pd.Series:
    return (
        rows["first_order"].notna()
        & rows["second_order"].notna()
        & rows["first_order"].ne(rows["second_order"])
    )


def quality(
    verdicts: pd.DataFrame, pairs: pd.DataFrame, bench: Mapping[int, Sequence[Judge]] | None = None
) -> pd.DataFrame:
    """How far each judge can be trusted: one row a judge, shares from 0 to 1, NaN where there is
    nothing to measure.

    verdicts, nulls: counts. identical: share of pairs whose two texts are the same. first: share of
    all answers on two different texts for the one shown first. flips, ties: shares of the verdicts,
    flips_differing of those on two different texts.
    flips_to_first: share of flips that the completion shown first won (½ is no position bias; 1 for
    a pointwise judge, whose flips are exact ties). longer: share of decided verdicts for the
    completion with more words. agreement: with the checker where it decides (a tie agrees by half);
    held_out: a learnt judge's accuracy on comparisons it was not trained on; both with their 95 %
    bootstrap interval over prompts, held_out_n comparisons.
    """
    if verdicts.empty:
        return pd.DataFrame(columns=QUALITY)
    identical = pairs["method_completion"].eq(pairs["baseline_completion"])
    rows = verdicts.merge(
        pairs[KEYS].assign(longer=_longer(pairs), identical=identical),
        on=KEYS,
        validate="many_to_one",
    )
    truth = rows[rows["judge"].eq("checker")][[*KEYS, "verdict"]].rename(
        columns={"verdict": "truth"}
    )
    out = []
    for name in dict.fromkeys(rows["judge"]):
        mine = rows[rows["judge"].eq(name)].merge(truth, on=KEYS, how="left")
        given, flips = mine["verdict"].notna(), _flips(mine)
        decided = mine[mine["verdict"].isin(["method", "baseline"]) & mine["longer"].notna()]
        agree = (
            _rate(mine, _agreement(mine))
            if name != "checker"
            else _rate(mine, pd.Series(np.nan, mine.index))
        )
        held_out = held_out_comparisons(bench or {}, name)
        right = _rate(held_out, held_out["correct"])
        told = mine[~mine["identical"]]
        first = [
            told[order].dropna().eq(who)
            for order, who in (("first_order", "method"), ("second_order", "baseline"))
        ]
        out.append(
            {
                "judge": name,
                "verdicts": len(mine),
                "nulls": int((~given).sum()),
                "identical": mine["identical"].mean(),
                "first": pd.concat(first).mean(),
                "flips": flips[given].mean(),
                "flips_differing": flips[given & ~mine["identical"]].mean(),
                "ties": mine["verdict"].eq("tie")[given].mean(),
                "flips_to_first": mine["first_order"].eq("method")[flips].mean(),
                "longer": decided["verdict"].eq(decided["longer"]).mean()
                if len(decided)
                else np.nan,
                "agreement": agree["rate"],
                "agreement_low": agree["low"],
                "agreement_high": agree["high"],
                "held_out": right["rate"],
                "held_out_low": right["low"],
                "held_out_high": right["high"],
                "held_out_n": right["n"],
            }
        )
    return pd.DataFrame(out, columns=QUALITY)


def _longer(pairs: pd.DataFrame) -> pd.Series:
    """Whose completion has more words: "method", "baseline" or None."""
    words = {
        c: pairs[f"{c}_completion"].fillna("").str.split().str.len() for c in ("method", "baseline")
    }
    return (
        np.sign(words["method"] - words["baseline"])
        .map({1: "method", -1: "baseline", 0: None})
        .astype(object)
    )


def judge_agreement(verdicts: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """How often each judge says what another says: one row an ordered pair of judges.

    A judge by log-odds also stands as "<name>, average"; "longer wins" is the rule that asks
    nobody. Columns: judge, other, n (pairs that both have a verdict on), same (share of equal
    verdicts), kappa (Cohen's, over method, tie and baseline: what is left of `same` beyond chance;
    NaN where both always say one thing), agreement, low, high (where `other` decides, a tie of
    `judge` agreeing by half; 95 % bootstrap over prompts).
    """
    from sklearn.metrics import cohen_kappa_score

    columns = ["judge", "other", "n", "same", "kappa", "agreement", "low", "high"]
    if verdicts.empty:
        return pd.DataFrame(columns=columns)
    average = averaged(verdicts)
    voices = [
        verdicts,
        average.assign(judge=average["judge"] + ", average"),
        pairs[KEYS].assign(judge=RULE, verdict=_longer(pairs).fillna("tie")),
    ]
    wide = pd.concat([rows[[*KEYS, "judge", "verdict"]] for rows in voices]).pivot(
        index=KEYS, columns="judge", values="verdict"
    )
    names = [name for rows in voices for name in dict.fromkeys(rows["judge"])]
    out = []
    for mine, other in permutations(names, 2):
        both = wide[[mine, other]].dropna().set_axis(["verdict", "truth"], axis=1).reset_index()
        rate = _rate(both, _agreement(both))
        several = len(both) and len(set(both["verdict"]) | set(both["truth"])) > 1
        out.append(
            {
                "judge": mine,
                "other": other,
                "n": len(both),
                "same": both["verdict"].eq(both["truth"]).mean(),
                "kappa": cohen_kappa_score(both["verdict"], both["truth"]) if several else np.nan,
                "agreement": rate["rate"],
                "low": rate["low"],
                "high": rate["high"],
            }
        )
    return pd.DataFrame(out, columns=columns)


def distrust(trust: pd.DataFrame, agreement: pd.DataFrame) -> list[str]:
    """One sentence for each judge whose verdicts are not to be relied on, with the measured reason;
    none for the checker.

    trust: `quality`, one row a judge; agreement: `judge_agreement`. The measure is the checker
    where there is one, else a reward model that is above chance on held-out comparisons. A judge by
    log-odds is measured by its average, its better voice.
    """
    rows = trust.set_index("judge")
    learnt = rows.index.isin(["reward_model"]) & rows["held_out_low"].gt(0.5) if len(rows) else []
    truth = "checker" if "checker" in rows.index else "reward_model" if np.any(learnt) else None
    beside = (
        agreement[agreement["other"].eq(truth)].set_index("judge")
        if truth
        else agreement.iloc[:0].set_index("judge")
    )
    out = []
    for name, row in rows.drop(index="checker", errors="ignore").iterrows():
        reasons = []
        if row["nulls"] > MOST_NULLS * row["verdicts"]:
            reasons.append(f"gives no verdict on {row['nulls'] / row['verdicts']:.0%} of the pairs")
        if row["flips_differing"] > MOST_FLIPS:
            reasons.append(
                f"changes its answer with the order on {row['flips_differing']:.0%} of "
                "the pairs of different texts"
            )
        if max(row["first"], 1 - row["first"]) > MOST_FIRST:
            place, share = (
                ("first", row["first"]) if row["first"] > 0.5 else ("second", 1 - row["first"])
            )
            reasons.append(f"answers with the completion shown {place} in {share:.0%}")
        if row["longer"] > MOST_LONGER:
            reasons.append(
                f"prefers the longer completion in {row['longer']:.0%} of its decided verdicts"
            )
        if row["held_out_low"] <= 0.5:
            reasons.append(
                f"is right in {row['held_out']:.0%} of {row['held_out_n']:.0f} held-out "
                "comparisons, not above chance"
            )
        voice = next((v for v in (f"{name}, average", name) if v in beside.index), None)
        if name != truth and voice is not None:
            reasons += _beside(
                voice, beside.loc[voice], beside["agreement"].get(RULE, np.nan), truth
            )
        if reasons:
            out.append(
                f"Judge {name} "
                f"{', '.join(reasons[:-1])}{' and ' if reasons[1:] else ''}{reasons[-1]}: "
                "its verdicts prove "
                "the path, not quality."
            )
    return out


def _beside(voice: str, row: pd.Series, rule: float, truth: str) -> list[str]:
    """Why a judge's agreement with the measure is none, if it is."""
    where = (
        f"{'on average over both orders ' if voice.endswith(', average') else ''}agrees with "
        f"{truth} in {row['agreement']:.0%}"
    )
    if row["low"] <= 0.5:
        return [f"{where} [{row['low']:.0%}, {row['high']:.0%}], not above chance"]
    return [f'{where}, no more than "{RULE}" does ({rule:.0%})'] if row["agreement"] <= rule else []


def _agreement(rows: pd.DataFrame) -> pd.Series:
    """1 where verdict and truth are the same, ½ where the judge ties, else 0; NaN where the truth
    ties or either is missing."""
    decided = rows["truth"].isin(["method", "baseline"]) & rows["verdict"].notna()
    return (
        rows["verdict"]
        .eq(rows["truth"])
        .astype(float)
        .mask(rows["verdict"].eq("tie"), 0.5)
        .where(decided)
    )


def held_out_comparisons(
    bench: Mapping[int, Sequence[Judge]], name: str = "reward_model"
) -> pd.DataFrame:
    """The comparisons a learnt judge was not trained on, of all seeds: seed, prompt_id, gap,
    correct. Empty for other judges."""
    found = [
        judge.held_out
        for judges in bench.values()
        for judge in judges
        if judge.name == name and judge.held_out is not None
    ]
    return (
        pd.concat(found, ignore_index=True)
        if found
        else pd.DataFrame(columns=["seed", "prompt_id", "gap", "correct"])
    )


def accuracy_by_gap(held_out: pd.DataFrame) -> pd.DataFrame:
    """A learnt judge's accuracy by how far the true rewards lie apart: gap, accuracy, ci_low,
    ci_high, n (see `intervals.bootstrap_prompts`)."""
    rows = []
    for gap, part in held_out.groupby(pd.cut(held_out["gap"], GAPS), observed=True):
        rate = _rate(part, part["correct"])
        rows.append(
            {
                "gap": f"{gap.left:g} to {gap.right:g}"
                if np.isfinite(gap.right)
                else f"above {gap.left:g}",
                "accuracy": rate["rate"],
                "ci_low": rate["low"],
                "ci_high": rate["high"],
                "n": rate["n"],
            }
        )
    return pd.DataFrame(rows, columns=["gap", "accuracy", "ci_low", "ci_high", "n"])
