"""What each regime of the partition lab is, measured, and whether it is what its name says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rpo_nb import intervals
from rpo_nb.config.schema import Profile
from rpo_nb.studies import lab_runs, lab_tables
from rpo_nb.studies.lab import Spec, Study, in_regime, seeds_of, size_of

# Where a Flan-T5 on UltraFeedback would stand. No one has measured it here: it is asked for long
# chat answers, hardly any of which it was trained on (surprised: log-probabilities a token below
# −log K), by writers up to GPT-4 (worse than most: the data win).
FLAN_T5 = "narrow_much_stronger"
# What the names promise: a regime, what it has more of, than which.
CLAIMS = (
    ("stronger", "data_wins", "on_policy"),
    ("much_stronger", "data_wins", "stronger"),
    ("weak_reference", "data_wins", "stronger"),
    ("stronger", "reference", "weak_reference"),
    ("narrow_much_stronger", "data_wins", "narrow_reference"),
    # the narrow references are surprised by the others' words
    ("stronger", "logp", "narrow_reference"),
    ("much_stronger", "logp", "narrow_much_stronger"),
)
WINS = {"on_policy": (45, 55), "stronger": (55, 90)}  # % of the rows over the reference's own texts


def measured(profile: Profile, out: str | Path) -> pd.DataFrame:
    """One row a regime of the profile's lab, each number the mean over its seeds: regime, data and
    reference (mean reward of the training rows, of the reference's own texts for other prompts),
    data_wins (% of the rows over the reference's own texts for their prompts, ties half) with _low
    and _high (95 %, t over seeds; NaN for one seed); log-probabilities of the reference a token:
    logp (of the rows), own_logp (of its own texts), minus_log_k, above_log_k (share of rows above
    it); seeds. Trains the references that are missing, no policy."""
    studies = [
        Study(name, in_regime(profile, name), size_of(profile), seed, (Spec("reference"),))
        for name in profile.lab.regimes
        for seed in seeds_of(profile)
    ]
    rows = lab_runs.measure(studies, out, workers=1, progress=False)
    own = rows.groupby(["study", "seed"])["reward"].mean()
    parts = []
    for study in studies:
        found = lab_tables.regimes([study], lab_runs.prepared([study]), out)
        parts.append(found.assign(seed=study.seed, reference=own[study.name, study.seed]))
    every = pd.concat(parts, ignore_index=True)
    table = every.groupby("regime", sort=False).mean().reset_index()
    wins = every.groupby("regime", sort=False)["data_wins"].apply(
        lambda w: intervals.over_seeds(w, bounds=(0, 100))
    )
    return pd.DataFrame(
        {
            "regime": table["regime"],
            "data": table["data"],
            "reference": table["reference"],
            "data_wins": table["data_wins"],
            "data_wins_low": [wins[name].low for name in table["regime"]],
            "data_wins_high": [wins[name].high for name in table["regime"]],
            "logp": table["logp"],
            "own_logp": table["own_logp"],
            "minus_log_k": -np.log(table["k"]),
            "above_log_k": table["above_log_k"],
            "seeds": [len(seeds_of(profile))] * len(table),
        }
    )


def misnamed(table: pd.DataFrame) -> list[str]:
    """One sentence a claim of CLAIMS that a table of `measured` does not bear out; [] where all
    hold. A claim about a regime that the table lacks is not looked at."""
    at = table.set_index("regime")
    return [
        f"{more} should be above {less} in {column}, but {at[column][more]:.2f} is not above "
        f"{at[column][less]:.2f}"
        for more, column, less in CLAIMS
        if {more, less} <= set(at.index) and not at[column][more] > at[column][less]
    ] + [
        f"{name}: the data should win in {low} to {high} % of cases, but they win in "
        f"{at['data_wins'][name]:.1f} %"
        for name, (low, high) in WINS.items()
        if name in at.index and not low <= at["data_wins"][name] <= high
    ]
