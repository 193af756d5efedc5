"""What came true of a prediction (`prediction`): the study's judge rewards beside its numbers.

    python -m rpo_nb predict --score --profile smollm-study

Every completion of the study is scored by its seed's judge, the first of the profile. A pair is
decided where the 95 % interval of its difference, over other seeds and prompts, leaves out 0. It is
not corrected for the number of pairs: a score is a mean over pairs, no claim about any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rpo_nb import intervals
from rpo_nb.config.keys import content_key
from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.config.schema import DecodingConfig, Profile
from rpo_nb.experiment.generations import load_generations
from rpo_nb.judging.judges import Pointwise
from rpo_nb.policy.generation import released_decoding
from rpo_nb.reporting import decisions, tables
from rpo_nb.reporting.rendering import number, write_table
from rpo_nb.reporting.style import (
    DARK,
    entitle,
    errors,
    face,
    interval_note,
    method_handles,
    method_look,
    save,
    styled,
)
from rpo_nb.running.processes import only_one, shown
from rpo_nb.running.staging import placed
from rpo_nb.store import (
    atomic_write,
    file_digest,
    packed,
    read_json,
    read_sealed,
    unpacked,
    write_sealed,
)
from rpo_nb.studies.prediction import FILE, judge_of, made_from

REWARDS = ["policy", "seed", "prompt_id", "reward"]
YES, NO, OPEN = "yes", "no", decisions.OPEN
REFERENCE = METHOD_NAMES["reference"]
OF = {"config": "settings", "data": "data", "model": "model"}  # keys of `prediction.made_from`
SHARED = "shared"  # the decoding of a preset that decodes all methods alike
UNLIKE = (
    "Decoded as their preset says, not as the others: {}. A pair decoded unlike compares that, too."
)
WORST = 5  # pairs that are told where the lab was most wrong


# ---- rewards -------------------------------------------------------------------------------------


def texts(generations: pd.DataFrame, found: dict[str, Any], profile: Profile) -> pd.DataFrame:
    """The completions of the predicted policies: policy, seed, prompt_id, prompt, completion.

    A policy that several presets mean is taken as the first of them decodes it that decodes all
    methods alike. Raises ValueError for a policy that a seed has no completions of.
    """
    rows = tables.at_main_setting(generations, profile)
    seeds = found["study"]["seeds"]
    rows = rows[rows["size"].eq(found["study"]["size"]) & rows["seed"].isin(seeds)]
    parts = []
    for policy in found["policies"]:
        preset = _preset(policy, profile)
        mine = rows[rows["method"].eq(policy["method"]) & rows["preset"].eq(preset)]
        lost = set(seeds) - set(mine["seed"])
        if lost:
            raise ValueError(
                f"{policy['policy']} has no completions of seed {min(lost)}, which the prediction "
                "is about; let the study end first (python -m rpo_nb reproduce)"
            )
        parts.append(mine.assign(policy=policy["policy"]))
    columns = ["policy", "seed", "prompt_id", "prompt", "completion"]
    return pd.concat(parts)[columns].reset_index(drop=True)


def _preset(policy: dict[str, Any], profile: Profile) -> str:
    alike = [one for one in policy["presets"] if profile.presets[one].decoding == SHARED]
    return (alike or policy["presets"])[0]


def decodings(found: dict[str, Any], profile: Profile) -> dict[str, DecodingConfig]:
    """Predicted policy -> how its completions are decoded: preset `released` decodes KTO otherwise
    than the rest (`released_decoding`)."""
    return {
        policy["policy"]: profile.decoding
        if profile.presets[_preset(policy, profile)].decoding == SHARED
        else released_decoding(policy["method"], profile.decoding)
        for policy in found["policies"]
    }


def rewards(
    bench: Mapping[int, Pointwise], out: Path, said: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """REWARDS of every text by its seed's judge, and the judge's name. Kept in
    <out>/verdicts/prediction-<judge>.jsonl.gz, and asked again only of other texts or judges."""
    name = next(iter(bench.values())).name
    file = out / "verdicts" / f"prediction-{name}.jsonl.gz"
    stamp = out / "runs" / "judges" / f"prediction-{name}.json"
    identities = {str(seed): judge.identity for seed, judge in bench.items()}
    key = content_key([said.to_csv(index=False), identities])
    known = read_sealed(stamp)
    if known and file.is_file() and known == known | {"inputs": key, "file": file_digest(file)}:
        return pd.DataFrame(unpacked(file), columns=REWARDS), name
    parts = []
    for seed, judge in bench.items():
        mine = said[said["seed"].eq(seed)]
        scores = judge.score(mine["prompt"].tolist(), mine["completion"].tolist())
        parts.append(mine.assign(reward=scores)[REWARDS])
    frame = pd.concat(parts, ignore_index=True)
    atomic_write(file, packed(frame))
    write_sealed(stamp, {"inputs": key, "file": file_digest(file)})
    return pd.DataFrame(unpacked(file), columns=REWARDS), name


# ---- scores --------------------------------------------------------------------------------------


def compared(scored: pd.DataFrame, pairs: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """prediction.csv: first, second, probability (of the prediction, that the first ends with the
    higher judge reward), lab (were the lab taken at its word), difference (of the mean rewards,
    first less second) with low and high, seeds, and outcome: yes, no, or not decided."""
    wide = scored.pivot_table(index=["policy", "seed"], columns="prompt_id", values="reward")
    rows = []
    for pair in pairs:
        apart = wide.loc[pair["first"]] - wide.loc[pair["second"]]
        found = intervals.seeds_and_prompts(apart.to_numpy())
        outcome = YES if found.low > 0 else NO if found.high < 0 else OPEN
        rows.append(
            dict(pair)
            | {"difference": found.value, "low": found.low, "high": found.high}
            | {"seeds": len(apart), "outcome": outcome}
        )
    return pd.DataFrame(rows)


def brier(probabilities: Sequence[float], came: Sequence[float]) -> float:
    """The mean squared distance of probabilities from what came, 1 or 0 (Brier 1950, Verification
    of Forecasts Expressed in Terms of Probability); NaN of none."""
    apart = np.subtract(probabilities, came, dtype=float)
    return float(np.square(apart).mean()) if apart.size else float("nan")


def carried(probabilities: Sequence[float], came: Sequence[float]) -> float:
    """The share of the lead over ½ that would have had the least Brier score: 1 where all of it
    came true, 0 where it said nothing, below 0 where the contrary came; NaN of no lead."""
    lead, truth = (np.asarray(one, float) - 0.5 for one in (probabilities, came))
    size = np.square(lead).sum()
    return float((lead * truth).sum() / size) if size else float("nan")


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """prediction_score.csv, of the decided pairs, and of all by the sign of their difference:
    which, pairs, right (on the predicted side of ½; ½ itself by half), brier, half (the score of ½
    for all), expected (what the score would be on average if every probability were true),
    lab_brier (of the lab at its word) and carried (see `carried`, of the lab at its word)."""
    came = {
        "decided pairs": table["outcome"].map({YES: 1.0, NO: 0.0}),
        "all pairs, by the sign of the difference": (np.sign(table["difference"]) + 1) / 2,
    }
    rows = []
    for which, outcome in came.items():
        known = outcome.notna()
        p, lab, y = table["probability"][known], table["lab"][known], outcome[known]
        side = 0.5 + np.sign(p - 0.5) * np.sign(y - 0.5) / 2
        rows.append(
            {
                "which": which,
                "pairs": int(known.sum()),
                "right": float(side.sum()),
                "brier": brier(p, y),
                "half": brier(np.full(len(p), 0.5), y),
                "expected": float((p * (1 - p)).mean()) if len(p) else float("nan"),
                "lab_brier": brier(lab, y),
                "carried": carried(lab, y),
            }
        )
    return pd.DataFrame(rows)


def worst(table: pd.DataFrame) -> list[str]:
    """The decided pairs of which the prediction was most wrong, a sentence each."""
    wrong = table.assign(came=table["outcome"].map({YES: 1.0, NO: 0.0})).dropna(subset=["came"])
    wrong = wrong.assign(off=(wrong["probability"] - wrong["came"]).abs())
    wrong = wrong[wrong["off"].gt(0.5)].sort_values("off", ascending=False, kind="stable")
    return [
        f"Wrong: {row.first} over {row.second} had a probability of {row.probability:.2f}, and "
        f"{'came' if row.came else 'did not come'} true ({number(row.difference, 2)} "
        f"[{number(row.low, 2)}, {number(row.high, 2)}])."
        for row in wrong.head(WORST).itertuples()
    ]


def verdict(score: pd.DataFrame, seeds: int) -> str:
    """The result in a sentence, for title and reader."""
    decided, every = score.iloc[0], score.iloc[1]
    if seeds < 2:
        said = "One seed decides no pair; by the sign alone"
        one = every
    elif not decided["pairs"]:
        said = f"None of {every['pairs']:.0f} pairs is decided; by the sign alone"
        one = every
    else:
        said = f"Of {every['pairs']:.0f} pairs {decided['pairs']:.0f} are decided:"
        one = decided
    return (
        f"{said} {one['right']:g} of {one['pairs']:.0f} went as predicted, Brier score "
        f"{one['brier']:.3f} (½ for all: {one['half']:.3f})"
    )


# ---- picture -------------------------------------------------------------------------------------


@styled
def figure(
    table: pd.DataFrame,
    policies: Sequence[dict[str, Any]],
    title: str,
    judge: str,
    others: Sequence[str] = (),
) -> Figure:
    """Left every pair: the probability of the one that was thought better, against its lead. Right
    the policies in their predicted order, with what they gain over the reference. others: not
    decoded as the profile says."""
    drawn = Figure(figsize=(11, 2.2 + 0.3 * len(policies)), layout="constrained")
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.15))
    methods = {one["policy"]: one["method"] for one in policies}
    _pairs(left, table, methods)
    _order(right, table, policies)
    note = (
        "Left: a mark a pair, in the look of the one that was thought better; above the line it "
        "came so; filled: decided. Right: the predicted best on top, in brackets the probability "
        f"that it is first. Rewards by {judge.replace('_', ' ')}. "
        + interval_note(table["seeds"].max())
    )
    if others:
        note += f" {UNLIKE.format(', '.join(others))}"
    shown_methods = [name for name in METHODS if name in methods.values()]
    entitle(drawn, title, note, method_handles(shown_methods))
    return drawn


def _marks(axis: Axes, x: Any, y: Any, spread: dict, method: str, decided: bool) -> None:
    look = method_look(method) | {"linestyle": "none", "markersize": 6}
    axis.errorbar(x, y, elinewidth=0.8, **spread, **look, **face(look["color"], decided))


def _pairs(axis: Axes, table: pd.DataFrame, methods: dict[str, str]) -> None:
    """From the pair that was thought even to the surest, each as who was thought better sees it."""
    surest = table.assign(surest=(table["probability"] - 0.5).abs() + 0.5)
    surest = surest.sort_values("surest", kind="stable", ignore_index=True)
    for place, row in surest.iterrows():
        turned = row["probability"] < 0.5
        sign = -1 if turned else 1
        low, high = sorted((sign * row["low"], sign * row["high"]))
        lead = sign * row["difference"]
        one = pd.DataFrame([{"value": lead, "low": low, "high": high}])
        spread = {"yerr": errors(one, "value", "low", "high")}
        better = methods[row["second" if turned else "first"]]
        _marks(axis, place, lead, spread, better, row["outcome"] != OPEN)
    axis.axhline(0, color=DARK, lw=1)
    ticks = np.unique(np.linspace(0, len(surest) - 1, 7).round().astype(int))
    axis.set_xticks(ticks, [f"{surest['surest'][tick]:.3f}" for tick in ticks])
    axis.grid(axis="x", visible=False)
    axis.set_xlabel("predicted probability, pair by pair: the surest to the right")
    axis.set_ylabel("lead found, judge reward (above 0: it came so)")
    axis.set_title("Every pair", loc="left")


def _order(axis: Axes, table: pd.DataFrame, policies: Sequence[dict[str, Any]]) -> None:
    gains = over_reference(table)
    for place, policy in enumerate(policies):
        name = policy["policy"]
        if name in gains.index:
            row = gains.loc[[name]]
            spread = {"xerr": errors(row, "gain", "low", "high")}
            decided = bool(row["decided"].iloc[0])
            _marks(axis, row["gain"], [place], spread, policy["method"], decided)
        elif name == REFERENCE:
            _marks(axis, [0.0], [place], {}, policy["method"], True)
    axis.axvline(0, color=DARK, lw=1)
    names = [f"{one['policy']} ({one['first']:.2f})" for one in policies]
    axis.set_yticks(range(len(policies)), names)
    axis.set_ylim(len(policies) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("gain over the reference, judge reward (right is better)")
    axis.set_title("What each gained, in the predicted order", loc="left")


def over_reference(table: pd.DataFrame) -> pd.DataFrame:
    """By policy its gain over the reference with low, high and decided, from the pairs."""
    first, second = (
        table[table[side].eq(REFERENCE)].set_index(other)[["difference", "low", "high", "outcome"]]
        for side, other in (("second", "first"), ("first", "second"))
    )
    turned = second.assign(
        difference=-second["difference"], low=-second["high"], high=-second["low"]
    )
    both = pd.concat([first, turned]).rename(columns={"difference": "gain"})
    return both.assign(decided=both["outcome"].ne(OPEN))


# ---- the command ---------------------------------------------------------------------------------


def score(profile: Profile, out: Path) -> list[str]:
    """Write tables/prediction, tables/prediction_score and figures/prediction; what they say, a
    sentence each. Raises ValueError without a prediction or without the study's completions, and
    for a prediction of another study."""
    if not (out / FILE).is_file():
        raise ValueError(
            f"{shown(out)} has no {FILE}, so there is nothing to score; a prediction is made "
            "before the study begins (python -m rpo_nb predict)"
        )
    found = read_json(out / FILE)
    mine = made_from(profile, found["study"]["size"])
    others = [OF[name] for name in mine if mine[name] != found["made_from"].get(name)]
    if others:
        raise ValueError(
            f"{shown(out)}: {FILE} was made for other {' and other '.join(others)} than this study "
            "has, so it says nothing of it; make the study that it is of, in a folder of its own"
        )
    said = texts(load_generations(out), found, profile)
    bench = {seed: judge_of(profile, out, seed) for seed in sorted(set(said["seed"]))}
    scored, judge = rewards(bench, out, said)
    return write(compared(scored, found["pairs"]), found, profile, out, judge)


def write(
    table: pd.DataFrame, found: dict[str, Any], profile: Profile, out: Path, judge: str
) -> list[str]:
    """The files and the sentences of `score`. table: of `compared`; found: the prediction."""
    decoded = decodings(found, profile)
    alike = [decoded[a] == decoded[b] for a, b in zip(table["first"], table["second"], strict=True)]
    table = table.assign(decoded=np.where(alike, "alike", "unlike"))
    others = [policy for policy, how in decoded.items() if how != profile.decoding]
    summary, wrong = scores(table), worst(table)
    title = verdict(summary, int(table["seeds"].max()))
    notes = [
        f"Predicted on {found['dated']}, before the first policy; scored by {judge}.",
        "probability: that the first ends with the higher judge reward; lab: the same, were the "
        "lab taken at its word. A pair is decided where "
        "the 95 % interval of the difference, over other seeds and prompts, leaves out 0 (not "
        "corrected for the number of pairs). Pairs share policies: their outcomes hang together.",
        *[UNLIKE.format(", ".join(others))] * bool(others),
    ]
    write_table(table, out, "prediction", notes)
    write_table(summary, out, "prediction_score", [f"{title}.", *wrong])
    drawn = figure(table, found["policies"], title, judge, others)
    save(drawn, out, "prediction")
    return [f"{title}.", *wrong]


def run(out: Path) -> int:
    """`python -m rpo_nb predict --score`."""
    with only_one(out):
        told = score(placed(load_profile(str(out / "profile.yaml")), out), out)
    print(*told, sep="\n")
    print(f"{shown(out / 'tables' / 'prediction.csv')} has every pair; report shows it.")
    return 0
