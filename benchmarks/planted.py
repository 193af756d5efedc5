"""Does `verify` notice a fault in training? Measured on the partition lab's first regime, with a
seed that the committed deep run has not.

    python -m benchmarks.planted      # writes planted.csv; ten minutes on a core

Policies are trained three times by the kit's own code: as it is, with RPO's τ doubled, and with
RPO's rewards turned; each run is then compared with results/pocket-deep. A column a measure of
`verify.Comparison.allowed`; noticed: whether the run would be refused, or that so few
seeds cannot tell.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 20
REGIME = "on_policy"
FOLDER = Path(__file__).parent


def faults(rpo: Callable) -> dict[str, Callable]:
    """Name -> RPO's loss of a batch with that fault. rpo: the right one (`training.losses`)."""

    def doubled(objective: Any, out: dict, batch: dict, kl: Any) -> Any:
        twice = objective.model_copy(update={"tau": 2 * objective.tau})
        return rpo(twice, out, batch, kl)

    def turned(objective: Any, out: dict, batch: dict, kl: Any) -> Any:
        return rpo(objective, out, batch | {"rewards": -batch["rewards"]}, kl)

    return {"none": rpo, "τ doubled": doubled, "rewards turned": turned}


def regime(profile: Any, out: Path) -> None:
    """Make the regime's policies and its numbers by seed, as notebook 07 does."""
    from rpo_nb.reporting import verify
    from rpo_nb.studies import lab, lab_runs, lab_tables

    studies = lab.map_studies(profile)
    rows = lab_runs.measure(studies, out, progress=False)
    verify.write_seeds(lab_tables.by_seed(rows, studies), out, "regime_map")


def main() -> None:
    import numpy as np
    import pandas as pd

    from rpo_nb.config.loading import load_profile, repository_root
    from rpo_nb.reporting import verify
    from rpo_nb.training import losses

    deep = repository_root() / "results" / verify.DEEP
    profile = load_profile(verify.DEEP, **{"seeds": [SEED], "lab.regimes": [REGIME]})
    found, rpo = [], losses.LOSSES["rpo"]
    with tempfile.TemporaryDirectory() as place:
        os.environ["RPO_NB_CACHE"] = str(Path(place, "cache"))
        for name, loss in faults(rpo).items():
            out = Path(place, name)
            losses.LOSSES["rpo"] = loss
            regime(profile, out)
            losses.LOSSES["rpo"] = rpo
            compared = verify.compare(verify.by_seed(out), verify.by_seed(deep))
            print(f"{name}: {verify.sentence(compared)}", flush=True)
            allowed = compared.allowed
            unjudged = allowed["table"].isin(compared.unjudged)
            noticed = np.where(unjudged, "cannot be told", ~(allowed["off"] <= allowed["may"]))
            found.append(allowed.assign(fault=name, noticed=noticed))
    table = pd.concat(found)[["fault", "noticed", "table", "cells", "misses", "off", "may"]]
    table.to_csv(FOLDER / "planted.csv", index=False, float_format="%.3g", lineterminator="\n")


if __name__ == "__main__":
    main()
