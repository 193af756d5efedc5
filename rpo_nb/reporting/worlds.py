"""Paper A's comparison in three worlds, side by side: as published, in the pocket world, with a
real model.

The pocket is the committed deep run, the real model the committed study, whichever run's page it
is; where there is no such folder (an installed wheel), a run of its kind stands in its place.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import claims
from rpo_nb.reporting.answers import in_words, span
from rpo_nb.reporting.published import PAPER_BASELINES, published_numbers
from rpo_nb.reporting.rendering import footnotes, lost_column, number, read_table
from rpo_nb.running.provenance import PACKAGE
from rpo_nb.running.staging import is_hub_id
from rpo_nb.store import read_json

RESULTS = PACKAGE.resolve().parent / "results"
KEPT = {"the pocket world": "pocket-deep", "a real model": "smollm-study"}  # profile and folder
# the lines of the comparison
ABOUT = "model, data, judge"
WINS = {rival: f"RPO wins over {METHOD_NAMES[rival]}" for rival in ("sft", "kto", "dro")}
DECIDED = "of these comparisons"
DATA = "the data beat the reference's own texts"
FORETOLD = "foretold"
LINES = (ABOUT, *WINS.values(), DECIDED, DATA, FORETOLD)


def worlds(out: Path | str, profile: Profile) -> dict[str, dict[str, str]]:
    """World -> line of LINES -> what is known of it, "" for nothing. Win rates are of the profile's
    first preset, the least and the largest of all judges and sizes; ABOUT names preset and
    folder."""
    found = {"the paper": _paper()}
    for name, kept in KEPT.items():
        folder, own, source = RESULTS / kept, load_profile(kept), f"results/{kept}"
        if (folder / "tables" / "table3.csv").is_file():
            made = folder / "profile.yaml"  # what it was made with: the data's name is in it
            own = load_profile(str(made)) if made.is_file() else own
        elif profile.pocket_world == own.pocket_world:
            folder, own, source = Path(out), profile, "this run"
        found[name] = _measured(folder, own, source)
    return {name: {line: told.get(line, "") for line in LINES} for name, told in found.items()}


def _paper() -> dict[str, str]:
    table = published_numbers()["paper_a"]["table3"]
    rates = {
        line: [
            float(size[PAPER_BASELINES[rival]][0])
            for judge in table.values()
            for size in judge.values()
        ]
        for rival, line in WINS.items()
    }
    every = [rate for values in rates.values() for rate in values]
    return {
        ABOUT: f"Flan-T5 Small, Large, XL; UltraFeedback; {' and '.join(table)}",
        **{line: f"{span(values, 1)} %" for line, values in rates.items()},
        DECIDED: f"{sum(rate > 50 for rate in every)} of {len(every)} above 50, as printed",
    }


def _measured(folder: Path, profile: Profile, source: str) -> dict[str, str]:
    """source: the folder, as it is told: the page names no folder of its reader's."""
    file, other = folder / "tables" / "table3.csv", _of_wins(folder) | _foretold(folder)
    if not file.is_file():
        not_yet = f"not measured yet (profile {profile.name})"
        return {ABOUT: f"{not_yet}; {source}" if other else not_yet} | other
    table3, preset = read_table(file), next(iter(profile.presets))
    if column := lost_column(file.stem, table3):
        older = f"an earlier version made its tables/{file.name}, without {column!r}"
        return {ABOUT: f"not measured: {older}; {source}"} | other
    cells = {  # corrected with those of all presets, as everywhere on the page
        line: claims.pick(claims.win_cells(claims.pick(table3, baseline=rival)), preset=preset)
        for rival, line in WINS.items()
    }
    cells = {line: rows for line, rows in cells.items() if len(rows)}
    sizes, seeds = ", ".join(map(_of_size, profile.sizes.items())), len(profile.seeds)
    judges = ", ".join(table3["judge"].unique())
    made = f"{seeds} seed{'s' if seeds > 1 else ''}; preset {preset}; {source}"
    verdicts = [verdict for rows in cells.values() for verdict in rows["verdict"]]
    return {
        ABOUT: f"{sizes}; {_of_data(profile)}; {judges}; {made}",
        **{line: f"{span(rows['win_rate'], 1)} %" for line, rows in cells.items()},
        DECIDED: in_words(verdicts, "RPO surely wins", "surely loses"),
        **other,
    }


def _of_size(size: tuple[str, Any]) -> str:
    name, model = size
    known = Path(model.id).name.removeprefix("package:")
    return name if known == "pocket" else f"{known} {name}"


def _of_data(profile: Profile) -> str:
    if profile.pocket_world:
        return "texts of a grammar"
    source = profile.data.source  # the name of a file is not kept, only its content
    return source if is_hub_id(source) else "a file of feedback"


def _of_wins(folder: Path) -> dict[str, str]:
    """Of the data against the reference's own texts, in %: by regime in the pocket, measured before
    the study elsewhere."""
    regimes, prediction = folder / "tables" / "regime_map.csv", folder / "prediction.json"
    if prediction.is_file():
        return {DATA: f"{number(read_json(prediction)['measured']['data_wins'], 0)} %"}
    if not regimes.is_file():
        return {}
    return {DATA: f"{span(read_table(regimes)['data_wins'], 0)} %, by regime"}


def _foretold(folder: Path) -> dict[str, str]:
    """How good the prediction of the study was, or when it was made."""
    if said := footnotes(folder, "prediction_score"):
        return {FORETOLD: said[0].removesuffix(".")}
    prediction = folder / "prediction.json"
    return {FORETOLD: f"on {read_json(prediction)['dated'][:10]}"} if prediction.is_file() else {}
