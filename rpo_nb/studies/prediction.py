"""What the lab says of a study before any of its policies is trained, with probabilities.

    python -m rpo_nb predict --profile smollm-study --feedback FILE

The study's data are measured under its reference, as `advise` does. The lab's regimes that are like
them say which policy ends with the higher reward, over as many seeds as the study has; how far to
believe that is measured by leaving one regime out, and halved, since the lab is another world
(docs/prediction.md). `prediction_scores` says afterwards what came true.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rpo_nb.config.keys import content_key
from rpo_nb.config.loading import results_dir
from rpo_nb.config.methods import AUTHORS, METHOD_NAMES, ROWS, tau_of
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import grid, inputs
from rpo_nb.judging import verdicts
from rpo_nb.judging.judges import Pointwise
from rpo_nb.reporting.rendering import number
from rpo_nb.running import manifest
from rpo_nb.running.processes import only_one, shown
from rpo_nb.running.provenance import model_key, source_key
from rpo_nb.store import file_digest, read_json, write_json
from rpo_nb.studies import advise, lab, odds

FILE = "prediction.json"
WRITTEN = ("dated", "code")  # what alone may differ between two writings of one prediction
# The share of what the lab says that is believed of another model, other data and another judge.
# Nobody has measured it: even odds that the lab says nothing of them.
OTHER_WORLD = 0.5
DIGITS = 4  # of a probability
# what only a policy leaves in an output folder
LEFT = (
    *("runs/*/recipe.json", "generations/*.jsonl.gz", "parts/*.tar.xz"),
    *("tables/metrics.csv", "tables/table3.csv"),
)


class Policy(NamedTuple):
    """A policy of the study, trained once a seed: its name, method, the presets that mean it, and
    its name in the lab, "" where the lab has none."""

    name: str
    method: str
    presets: tuple[str, ...]
    lab: str


# ---- from the lab's tables to a study's policies -------------------------------------------------


def studied(profile: Profile, size: str) -> dict[str, list[grid.Run]]:
    """What the study trains of a size with its first seed, its reference with it: the runs, one a
    preset, that mean one policy, by the policy's name."""
    found: dict[str, list[grid.Run]] = {}
    for run in grid.cells(profile):
        own = tau_of(profile.presets[run.preset], run.method)
        here = (run.size, run.seed, run.tau) == (size, profile.seeds[0], own)
        if here and run.method != AUTHORS:
            found.setdefault(run.key, []).append(run)
    named = {}
    for same in found.values():
        presets = [run.preset for run in same]
        of = "" if len(presets) == len(profile.presets) else f" {'/'.join(presets)}"
        named[METHOD_NAMES[same[0].method] + of] = same
    return named


def policies(profile: Profile, size: str, table: pd.DataFrame) -> list[Policy]:
    """What the study trains of a size, each once. table: the regime map."""
    out = []
    for name, runs in studied(profile, size).items():
        presets, method = tuple(run.preset for run in runs), runs[0].method
        out.append(Policy(name, method, presets, _in_lab(profile, method, presets, table)))
    return out


def _in_lab(profile: Profile, method: str, presets: Sequence[str], table: pd.DataFrame) -> str:
    """The name of the lab's policy that has the same method and settings; "" for none."""
    rows, row = table[table["method"].eq(method)], ROWS[method]
    same = {name for name in presets if profile.presets[name] == lab.presets().get(name)}
    if row.presets:
        rows = rows[rows["preset"].fillna("").map(lambda names: bool(same & set(names.split("/"))))]
    elif row.temperature:
        told = {
            (getattr(profile.presets[name], row.temperature), profile.presets[name].reduce)
            for name in same
        }
        rows = rows[[key in told for key in zip(rows["tau"], rows["reduce"], strict=True)]]
    return str(rows["policy"].iloc[0]) if len(rows) else ""


def _gains(seeds: pd.DataFrame, regime: str, names: Sequence[str]) -> np.ndarray:
    """[names, seeds] of lab_seeds.csv, of the seeds that have all of them."""
    mine = seeds[seeds["study"].eq(regime)].pivot(index="policy", columns="seed", values="gain")
    return mine.loc[list(names)].dropna(axis=1).to_numpy()


def predicted(
    known: advise.Evidence, mine: advise.Data, studied: Sequence[Policy], seeds: int
) -> dict[str, Any]:
    """evidence (regimes with their distances and weights, and how much is believed), policies (the
    best first, each with the probability that it is first) and pairs (the probability that the
    first ends with the higher reward, over so many seeds; lab: were the lab taken at its word, all
    of it believed and no data too far from it).

    A policy that the lab does not have is even with every other. Raises ValueError without the
    lab's seeds, and where the lab has none of the policies.
    """
    if known.seeds.empty:
        raise ValueError(
            "the lab's tables have no lab_seeds.csv, so nothing tells how surely a policy wins; "
            "use the results of a newer run"
        )
    places = [i for i, policy in enumerate(studied) if policy.lab]
    if not places:
        raise ValueError("the lab has no policy of this study; keep reference among its methods")
    names = [studied[i].lab for i in places]
    near = advise.distances(known.regimes, mine)
    drawn = [odds.draws(_gains(known.seeds, regime, names), seeds) for regime in near.index]
    pairs = np.stack([odds.ahead(one) for one in drawn])
    firsts = np.stack([odds.leads(one) for one in drawn])
    between = np.stack([_from(known.regimes, regime) for regime in near.index])
    trust, weight = odds.carried(pairs, between), odds.weights(near.to_numpy())
    believed = OTHER_WORLD * trust.share
    n, m = len(studied), len(places)
    here, even = np.ix_(places, places), np.full((n, n), 0.5)
    word = even.copy()
    even[here] += believed * np.tensordot(weight, pairs - 0.5, 1)
    word[here] += np.tensordot(odds.alone(near.to_numpy()), pairs - 0.5, 1)
    first = np.full(n, 1 / n)
    first[places] += believed * (weight @ (firsts - 1 / m)) * m / n
    standing = (even.sum(1) - 0.5) / max(n - 1, 1)
    order = sorted(range(n), key=lambda i: (-standing[i], -first[i], i))
    return {
        "evidence": {
            "seeds": int(known.seeds[known.seeds["study"].isin(near.index)]["seed"].nunique()),
            "regimes": [
                {"regime": regime, "distance": _round(d), "weight": _round(w)}
                for regime, d, w in zip(near.index, near, weight, strict=True)
            ],
            "no_regime": _round(1 - weight.sum()),
            "carried": _round(trust.share),
            "left_out_brier": _round(trust.brier),
            "other_world": OTHER_WORLD,
            "highest": _round(0.5 + believed * weight.sum() / 2),
        },
        "policies": [
            {
                "policy": studied[i].name,
                "method": studied[i].method,
                "presets": list(studied[i].presets),
                "lab": studied[i].lab,
                "first": _round(first[i]),
                "standing": _round(standing[i]),
            }
            for i in order
        ],
        "pairs": [
            {
                "first": studied[i].name,
                "second": studied[j].name,
                "probability": _round(even[i, j]),
                "lab": _round(word[i, j]),
            }
            for i, j in combinations(order, 2)
        ],
    }


def _from(table: pd.DataFrame, regime: str) -> np.ndarray:
    """The distances of all regimes from one of them."""
    row = table[table["regime"].eq(regime)].iloc[0]
    return advise.distances(
        table, advise.Data(row["k"], 0.0, row["logp"], row["data_wins"])
    ).to_numpy()


def _round(value: float) -> float:
    return round(float(value), DIGITS)


# ---- the study -----------------------------------------------------------------------------------


def judge_of(profile: Profile, out: Path, seed: int) -> Pointwise:
    """The judge that a prediction is about: the profile's first. No other is learnt or loaded.
    Raises ValueError for one that compares."""
    name = profile.evaluation.judges[0]
    if name in profile.evaluation.llm_judges:
        raise ValueError(
            f"evaluation.judges: the first, {name}, compares and gives no reward; put reward_model "
            "or checker first"
        )
    first = profile.evaluation.model_copy(update={"judges": profile.evaluation.judges[:1]})
    return verdicts.judges_for(profile.model_copy(update={"evaluation": first}), out, seed)[0]


def look(profile: Profile, size: str, out: Path) -> tuple[advise.Data, dict[str, Any]]:
    """The study's data under its reference, mean over its seeds, and what was measured of each.
    Raises ValueError where one completion a prompt teaches no judge."""
    rows = []
    for seed in profile.seeds:
        sparse = advise.single_share(inputs.splits(profile, seed, size).train)
        if sparse > advise.SPARSE:
            raise ValueError(
                f"{Path(profile.data.source).name}: {sparse:.0%} of the prompts have one "
                "completion, which teaches no judge, so nothing can be predicted of its rewards; "
                "give feedback with several completions a prompt"
            )
        judge = judge_of(profile, out, seed)
        data, _ = advise.look(profile, size, seed, judge)
        held_out = judge.held_out
        rows.append(
            {
                "seed": seed,
                "judge": judge.name,
                "judge_right": None if held_out is None else _round(held_out["correct"].mean()),
                "data_wins": _round(data.wins),
                "logp": _round(data.logp),
                "completions": _round(data.completions),
            }
        )
    mean = pd.DataFrame(rows)[["data_wins", "logp", "completions"]].mean()
    mine = advise.Data(mean["completions"], 0.0, mean["logp"], mean["data_wins"])
    return mine, {
        "data_wins": _round(mine.wins),
        "logp": _round(mine.logp),
        "completions": _round(mine.completions),
        "above_log_k": _round(mine.above_log_k),
        "seeds": rows,
    }


def made_from(profile: Profile, size: str) -> dict[str, str]:
    """The study that a prediction is of, by content: its settings, its data, its model."""
    settings = profile.model_dump(mode="json", exclude={"data", "sizes", "description", "expect"})
    return {
        "config": content_key(
            [settings, grid.data_recipe(profile), grid.model_recipe(profile, size)]
        ),
        "data": source_key(profile.data.source, profile.data.revision),
        "model": model_key(inputs.reference_path(profile, size, profile.seeds[0])),
    }


def _evidence(tables: Path) -> dict[str, str]:
    """What it was read from, by content."""
    files = {name: file_digest(tables / name)[:16] for name in ("regime_map.csv", "lab_seeds.csv")}
    return {"from": f"{tables.parent.name}/{tables.name}", **files}


def first_policy(out: Path) -> str:
    """What lies in an output folder and only a policy leaves there; "" for nothing."""
    found = (path for pattern in LEFT for path in sorted(out.glob(pattern)))
    return next((path.relative_to(out).as_posix() for path in found), "")


def predict(profile: Profile, out: Path, tables: Path | str = advise.TABLES) -> dict[str, Any]:
    """Measure, predict and write <out>/prediction.json; the prediction.

    One that is there and says the same is left as it is, to the byte, with its date. Raises
    ValueError where a policy is there and the same prediction is not: it would be none.
    """
    tables, file, size = Path(tables), out / FILE, next(iter(profile.sizes))
    begun, there = first_policy(out), file.is_file()
    refusal = (
        f"{shown(out)} holds {begun}, which only a trained policy leaves, so "
        "{} would be no prediction; give a fresh folder with --results"
    )
    if begun and not there:
        raise ValueError(refusal.format("what is written now"))
    known = advise.evidence(tables)
    mine, measured = look(profile, size, out)
    advice = advise.recommend(known, mine)
    content = {
        "study": {"profile": profile.name, "size": size, "seeds": list(profile.seeds)},
        "made_from": made_from(profile, size) | {"evidence": _evidence(tables)},
        "measured": measured,
        "advice": {"recommended": advice.settings(), "reasons": list(advice.reasons)},
        **predicted(known, mine, policies(profile, size, known.regimes), len(profile.seeds)),
    }
    content = json.loads(json.dumps(content))
    if there:
        old = read_json(file)
        if {name: part for name, part in old.items() if name not in WRITTEN} == content:
            return old
        if begun:
            raise ValueError(refusal.format("another one than the one that is there"))
    content |= {
        "dated": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "code": manifest.code(),
    }
    write_json(file, content)
    return content


def told(found: dict[str, Any]) -> list[str]:
    """A prediction in sentences."""
    seen, known = found["measured"], found["evidence"]
    regimes = sorted(known["regimes"], key=lambda one: -one["weight"])
    near = ", ".join(f"{one['regime']} {one['weight']:.2f}" for one in regimes)
    lines = [
        f"The data beat the reference's own texts in {seen['data_wins']:.0f} % of comparisons by "
        f"{seen['seeds'][0]['judge']}; log-probability a token {number(seen['logp'], 2)}, "
        f"{number(seen['above_log_k'], 2)} above −log K; {seen['completions']:.1f} completions a "
        "prompt.",
        f"Weights of the lab's regimes: {near}; of no regime {known['no_regime']:.2f}.",
        f"Of their lead over ½ a share of {known['carried']:.2f} carried over to a regime that was "
        f"left out (Brier score {known['left_out_brier']:.3f} where ½ for all has 0.25); of that "
        f"{known['other_world']:g} is believed here, so no probability is above "
        f"{known['highest']:.2f}.",
        "Predicted order, and the probability that each is first:",
    ]
    lines += [
        f"  {one['first']:.2f}  {one['policy']}"
        + ("" if one["lab"] else "  (not in the lab: even with all)")
        for one in found["policies"]
    ]
    return lines


def run(profile: Profile, output_dir: str) -> int:
    """`python -m rpo_nb predict`."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # of every model that is read or written
    logging.set_verbosity_error()  # a tokenizer warns of texts that are cut afterwards
    out = results_dir(profile, output_dir)
    with only_one(out):
        found = predict(profile, out)
    print(*told(found), sep="\n")
    print(f"{shown(out / FILE)}, dated {found['dated']}: commit it before the first policy.")
    return 0
