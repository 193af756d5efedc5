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
    wins = every.groupby("regime", sort=False)["data_wins"].apply(lambda w: intervals.student(w))
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
    """One sentence a regime of `measured` that is not what its name says; [] when all are. A regime
    is held against those that the table has."""
    at = table.set_index("regime")
    wins, logp, own = at["data_wins"], at["logp"], at["own_logp"]
    claims = {
        "on_policy": [
            ("data win about half of the time", abs(wins.get("on_policy", 50) - 50) < 5),
            _more(wins, "stronger", "on_policy"),
        ],
        "stronger": [("data win more than they lose", wins.get("stronger", 100) > 55)],
        "much_stronger": [_more(wins, "much_stronger", "stronger")],
        "weak_reference": [
            _more(wins, "weak_reference", "stronger"),
            _more(at["reference"], "stronger", "weak_reference"),
        ],
        "narrow_reference": [_more(logp, "stronger", "narrow_reference")],
        "narrow_much_stronger": [
            _more(wins, "narrow_much_stronger", "narrow_reference"),
            _more(logp, "much_stronger", "narrow_much_stronger"),
        ],
    }
