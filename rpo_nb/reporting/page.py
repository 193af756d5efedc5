"""``report.html``: one page made of what stands in the results folder, the same bytes for the same
results. Pictures are files beside it, in figures/.

Wall-clock numbers differ from run to run; their files are linked or shown from beside the page,
never written into it.
"""

from __future__ import annotations

import base64
import json
import platform
import re
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rpo_nb import __version__
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import agreement, answers, captions, properties, when, worlds
from rpo_nb.reporting.contents import SHOWN
from rpo_nb.reporting.layout import laid_out, orders, sections
from rpo_nb.reporting.published import version4_note
from rpo_nb.reporting.rendering import COLUMNS, footnotes, lost_column, read_table
from rpo_nb.reporting.samples import samples
from rpo_nb.reporting.tables import WALL_CLOCK, metric_cells, presets_table
from rpo_nb.running.manifest import installed
from rpo_nb.store import atomic_write

NOTEBOOKS = {
    "table1": "02_rpo_derivation",
    "metrics": "04_table2_metrics",
    "table3": "05_table3_judges",
    "table4": "06_table4_temperature",
}
STUDIES = {"regime_map": "07_partition_lab", "paper_b_verdicts": "08_reward_aware"}
PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "numpy",
    "pandas",
    "scipy",
    "sacrebleu",
    "rouge-score",
    "nltk",
    "bert-score",
    "alt-profanity-check",
)
LARGE = 10**6  # bytes of an svg beyond which the png beside it is shown
# tables that stand elsewhere on the page: as verdicts, as Tables I to IV, or as sentences
ELSEWHERE = {*WALL_CLOCK, "metrics", "table1", "presets", "claims", "paper_b_verdicts"}


# ---- reading the results folder ------------------------------------------------------------------


def _read(out: Path) -> dict[str, pd.DataFrame]:
    """Every table by name that is not empty."""
    return {
        path.stem: read_table(path)
        for path in sorted((out / "tables").glob("*.csv"))
        if path.stat().st_size > 1
    }


def gather(out: Path | str, profile: Profile) -> dict[str, pd.DataFrame]:
    """Every table of ``<out>/tables`` by name; ``table2`` comes from metrics.csv with its intervals
    (``metric_cells``), and Table I without its seconds. An earlier version's table that lacks what
    verdicts are made of is left out; `absent` tells of it."""
    tables = {
        name: table for name, table in _read(Path(out)).items() if not lost_column(name, table)
    }
    if "table1" in tables:  # seconds are wall-clock: they have a file of their own
        tables["table1"] = tables["table1"][~tables["table1"]["property"].str.startswith("seconds")]
    if "metrics" in tables:
        tables["table2"] = metric_cells(tables["metrics"], profile)
    return tables


def absent(out: Path | str) -> list[str]:
    """One sentence for each table that is missing, or that an earlier version made, that says which
    notebook makes it."""
    out, told = Path(out), []
    for name, notebook in NOTEBOOKS.items():
        if not (out / "tables" / f"{name}.csv").is_file():
            told.append(
                f"tables/{name}.csv is missing: run notebooks/{notebook}.ipynb with the same "
                "profile first."
            )
    for name, table in _read(out).items():
        if column := lost_column(name, table):
            told.append(
                f"tables/{name}.csv has no column {column!r}: an earlier version made it; run "
                f"notebooks/{NOTEBOOKS[name.split('_')[0]]}.ipynb again with the same profile."
            )
    return told


def data_notes(out: Path | str) -> list[str]:
    """What notebook 01 said of the data: their kind, their split, what a model sees of them."""
    path = Path(out) / "data" / "notes.csv"
    return pd.read_csv(path)["note"].tolist() if path.is_file() else []


# ---- pictures ------------------------------------------------------------------------------------


def embedded(path: Path) -> str:
    """A picture as a data URI: the svg, or the png beside it where the svg is larger than 1 MB."""
    path = _lighter(path)
    kind = {"svg": "image/svg+xml", "png": "image/png"}[path.suffix[1:]]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _lighter(path: Path) -> Path:
    png = path.with_suffix(".png")
    return png if path.stat().st_size > LARGE and png.is_file() else path


def _points(path: Path) -> tuple[float, float] | None:
    """Width and height of an svg in points, as its head says."""
    with path.open(encoding="utf-8") as file:
        head = file.read(2000)
    found = [re.search(rf'<svg[^>]*\b{side}="([\d.]+)pt"', head) for side in ("width", "height")]
    return tuple(float(one[1]) for one in found) if all(found) else None


def pictures(out: Path | str) -> dict[str, dict]:
    """Figures by name, in the order of the page: src (relative), chapter, caption, alt, wall_clock,
    and width and height in CSS pixels where they are known and the same on every run."""
    found = {path.stem: path for path in sorted((Path(out) / "figures").glob("*.svg"))}
    names = [n for n in captions.PICTURES if n in found]
    names += [n for n in found if n not in names]
    out = {}
    for name in names:
        about, size = captions.picture(name), None
        if not about.wall_clock:
            size = _points(found[name])
        out[name] = about._asdict() | {
            "src": f"figures/{_lighter(found[name]).name}",
            "width": round(size[0] * 4 / 3) if size else 0,
            "height": round(size[1] * 4 / 3) if size else 0,
        }
    return out


# ---- the page ------------------------------------------------------------------------------------


def _resolved(profile: Profile) -> str:
    """The profile as JSON, a path of the user's own shortened to its name: the page holds no
    absolute path."""

    def shorten(value: object) -> object:
        if isinstance(value, dict):
            return {k: shorten(v) for k, v in value.items()}
        if isinstance(value, list):
            return [shorten(v) for v in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    return json.dumps(
        shorten(profile.model_dump(mode="json")), indent=1, sort_keys=True, ensure_ascii=False
    )


def _laid_out(out: Path, tables: dict[str, pd.DataFrame]) -> list[dict]:
    """Every table that has no place of its own, in the order of the page."""
    files = {name: f"tables/{name}.csv" for name in tables}
    found = {name: table for name, table in tables.items() if name not in ELSEWHERE}
    for path in sorted((out / "data").glob("*.csv")):
        if path.stat().st_size > 1 and path.stem != "notes":  # notes are sentences of their own
            found[f"data {path.stem}"] = read_table(path)
            files[f"data {path.stem}"] = f"data/{path.name}"
    order = [name for name in SHOWN if name in found]
    order += [name for name in found if name not in order]
    return [
        laid_out(name, found[name], files[name]) | {"notes": footnotes(out, name)} for name in order
    ]


def executed(out: Path) -> dict[str, str]:
    """Executed notebooks that lie beside the page, name -> address; not the report's own, which is
    still running."""
    return {
        path.stem: f"notebooks/{path.name}"
        for path in sorted((out / "notebooks").glob("*.ipynb"))
        if not path.stem.startswith("09_report")
    }


def report(out: Path | str, profile: Profile) -> Path:
    """Write ``<out>/report.html`` from the tables, figures and generations that stand in `out`;
    return its path.

    What is missing is said to be missing, with the notebook that makes it.
    """
    out, tables = Path(out), gather(out, profile)
    cells = {
        n: t
        for n, t in tables.items()
        if n.split("_")[0] in COLUMNS and {"value", "win_rate"} & set(t.columns)
    }
    others = {name: table for name, table in tables.items() if name not in cells}
    context = {
        "profile": profile,
        "version": __version__,
        "key": profile.key(),
        "resolved": _resolved(profile),
        "absent": absent(out),
        "claims": answers.verdicts_a(tables, profile),
        "details": answers.details_a(tables, profile),
        "learnings": answers.learnings_b(tables),
        "answers": {
            "beaten": answers.beaten(tables),
            "by_preset": answers.by_preset(tables),
            "normalised": answers.normalised(tables),
            "b": answers.answer_b(tables),
            "when": when.answer(tables),
            "when_short": when.short(tables),
        },
        "regimes": when.regimes(tables),
        "worlds": worlds.worlds(out, profile),
        "differences": agreement.differences(profile),
        "margin": agreement.MARGIN,
        "presets": presets_table(profile).to_dict("records"),
        "sections": {name: sections(table, profile) for name, table in cells.items()},
        "orders": orders(cells["table2"]) if "table2" in cells else [],
        "footnotes": {name: footnotes(out, name) for name in tables},
        "pictures": pictures(out),
        "samples": samples(out, profile),
        "table1": properties.properties(tables["table1"]).to_dict("records")
        if "table1" in tables
        else [],
        "tables": _laid_out(out, others),
        "data_notes": data_notes(out),
        "wall_clock": [f"tables/{n}.csv" for n in WALL_CLOCK if n in tables],
        "has_results": (out / "results.parquet").is_file(),
        "notebooks": NOTEBOOKS | STUDIES,
        "executed": executed(out),
        "version4": version4_note(),
        "generations_page": (out / "generations.html").is_file(),
        "packages": {"python": ".".join(platform.python_version_tuple()[:2])}
        | {name: installed(name) for name in PACKAGES},
    }
    return atomic_write(out / "report.html", rendered("report.html.j2", context))


def rendered(template: str, context: dict) -> str:
    """A page of `templates`; text from outside is escaped, a name that is not given an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(context)
