"""``page.html``: one self-contained page made of what stands in the results folder, the same bytes
for the same results.

Wall-clock numbers differ from run to run; their files are linked or shown from beside the page,
never embedded in it.
"""

from __future__ import annotations

import base64
import gzip
import json
import platform
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rpo_nb import __version__
from rpo_nb.config.methods import METHOD_NAMES, METHODS
from rpo_nb.config.metrics import metric
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import agreement, claims, decisions
from rpo_nb.reporting.rendering import (
    COLUMNS,
    line_name,
    number,
    plain_text,
    published_text,
    read_table,
)
from rpo_nb.reporting.tables import WALL_CLOCK, at_main_setting, metric_cells, presets_table
from rpo_nb.running.manifest import installed
from rpo_nb.store import atomic_write

NOTEBOOKS = {
    "table1": "02_rpo_derivation",
    "metrics": "04_table2_metrics",
    "table3": "05_table3_judges",
    "table4": "06_table4_temperature",
}
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
LARGE = 10**6  # bytes
WALL_CLOCK_FIGURES = {
    "figure1": "Figure 1. Training time by method and size; bars are means over presets and seeds."
}
# figure file -> caption, in the order of the page; any other figure follows with its file's name
CAPTIONS = {
    "overview": "The result in one picture: bars are means over sizes, dots the sizes with 95 % "
    "intervals over seeds and prompts, diamonds the paper.",
    "win_rates": "Table III as a picture: win rate of RPO over each baseline with its 95 % "
    "interval over seeds and prompts; diamonds are the paper's.",
    "table2": "Table II as a picture: bars are means over sizes, dots the sizes with 95 % "
    "intervals, diamonds the paper.",
    "temperature": "Table IV as a picture: win rate of RPO over SFT by temperature; dashed with "
    "diamonds: the paper.",
    "data_rewards": "Rewards of the feedback.",
    "data_completions": "Completions per prompt.",
    "data_length": "Length of a completion against its reward.",
    "data_sparsity": "Share of prompts with fewer than k completions.",
    "estimators": "Error of log Ẑ by estimator and by completions per prompt, in a language small "
    "enough to enumerate.",
    "targets": "RPO's targets at the first step, preset by preset (top), and what they are about "
    "(bottom).",
    "lab_bias": "Bias of V̂ at τ = 1 by completions per prompt: where Z can be enumerated (left) "
    "and in the pocket world (right).",
    "lab_error": "Which estimator has the smallest error, by completions per prompt and τ.",
    "lab_ablation": "How often the normalised loss is preferred over V̂ = 0, with 95 % intervals.",
    "lab_map": "Gain in mean reward over the reference by regime and policy; framed: the best of a "
    "regime and those level with it.",
    "lab_standing": "All regimes together: interquartile mean of each policy's gain (left), and "
    "the share of runs that gain more than so much (right).",
    "lab_tuned": "The same with every method tuned alike, on seeds that are not shown.",
    "lab_data": "Gain over the reference by training prompts.",
    "lab_duels": "RPO in three readings against its rivals in the same reading, regime by regime.",
    "lab_log_k": "Where training as released takes the rows' log-probability a token: towards −log "
    "K, whatever the reward.",
    "lab_low_data": "The same budget of rows as K completions of fewer prompts: reward, and "
    "variance of the first gradient.",
    "paper_b_figure1": "Paper B, Figure 1. Validation reward by step, offline (left) and online "
    "(right); bands: least to most over seeds.",
    "paper_b_figure2": "Paper B, Figure 2. Online bwd and sqloo with the true judge: reward, and "
    "KL to the reference.",
    "paper_b_figure3": "Paper B, Figure 3. Reward by iteration, in and out of distribution, with "
    "95 % intervals over seeds.",
    "paper_b_figure4": "Paper B, Figure 4. The learnt reward that a policy is trained on, and the "
    "ground truth.",
    "learning_curves": "Training loss by optimiser step; lines are means over seeds, bands run "
    "from the least to the most.",
    "reward_kl": "Mean reward against KL(policy ‖ reference); the line is the reference tilted by "
    "exp(r/β), the best possible.",
}


# ---- reading the results folder ------------------------------------------------------------------


def gather(out: Path | str, profile: Profile) -> dict[str, pd.DataFrame]:
    """Every table of ``<out>/tables`` by name; ``table2`` comes from metrics.csv with its intervals
    (``metric_cells``), and Table I without its seconds. ValueError: an earlier version's table that
    lacks what verdicts are made of."""
    tables = {
        path.stem: read_table(path)
        for path in sorted((Path(out) / "tables").glob("*.csv"))
        if path.stat().st_size > 1
    }
    for name in ("table3", "table4"):
        lost = [c for c in COLUMNS[name] if name in tables and c not in tables[name]]
        if lost:
            raise ValueError(
                f"tables/{name}.csv has no column {lost[0]!r}: an earlier version made it; run "
                f"notebooks/{NOTEBOOKS[name]}.ipynb again with the same profile"
            )
    if "table1" in tables:  # seconds are wall-clock: they have a file of their own
        tables["table1"] = tables["table1"][~tables["table1"]["property"].str.startswith("seconds")]
    if "metrics" in tables:
        tables["table2"] = metric_cells(tables["metrics"], profile)
    return tables


def absent(out: Path | str) -> list[str]:
    """One sentence for each missing table that says which notebook makes it."""
    return [
        f"tables/{name}.csv is missing: run notebooks/{notebook}.ipynb with the same profile first."
        for name, notebook in NOTEBOOKS.items()
        if not (Path(out) / "tables" / f"{name}.csv").is_file()
    ]


def footnotes(out: Path | str, name: str) -> list[str]:
    """The footnotes that ``write_table`` put below ``tables/<name>.md``."""
    path = Path(out) / "tables" / f"{name}.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line[2:] for line in lines if line.startswith("- ")]


def data_notes(out: Path | str) -> list[str]:
    """What notebook 01 said of the data: their kind, their split, what a model sees of them."""
    path = Path(out) / "data" / "notes.csv"
    return pd.read_csv(path)["note"].tolist() if path.is_file() else []


def samples(out: Path | str, profile: Profile, prompts: int = 2) -> list[dict]:
    """What the policies wrote: of the largest size and the first seed, the first prompts with every
    method's completion."""
    size, seed, found = list(profile.sizes)[-1], min(profile.seeds), []
    for preset in profile.presets:
        path = Path(out) / "generations" / f"{preset}-{size}-seed{seed}.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                found += [json.loads(line) for line in lines if line.strip()]
    if not found:
        return []
    rows = at_main_setting(pd.DataFrame(found), profile)
    order = {method: i for i, method in enumerate(METHODS)}
    rows = rows.assign(rank=rows["method"].map(order)).sort_values(
        ["prompt_id", "rank"], kind="stable"
    )
    return [
        {
            "prompt": group["prompt"].iloc[0],
            "reference": group["reference"].iloc[0],
            "rows": [
                (r["preset"], METHOD_NAMES.get(r["method"], r["method"]), r["completion"])
                for _, r in group.iterrows()
            ],
        }
        for _, group in list(rows.groupby("prompt_id", sort=True))[:prompts]
    ]


def embedded(path: Path) -> str:
    """A picture as a data URI: the svg, or the png beside it where the svg is larger than 1 MB."""
    if path.stat().st_size > LARGE and path.with_suffix(".png").is_file():
        path = path.with_suffix(".png")
    kind = {"svg": "image/svg+xml", "png": "image/png"}[path.suffix[1:]]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def pictures(out: Path | str) -> dict[str, dict]:
    """Figures by name: source and caption; the wall-clock ones by relative address, the others
    embedded."""
    found = {path.stem: path for path in sorted((Path(out) / "figures").glob("*.svg"))}
    names = [n for n in (*CAPTIONS, *WALL_CLOCK_FIGURES) if n in found]
    names += [n for n in found if n not in names]
    captions = CAPTIONS | WALL_CLOCK_FIGURES
    return {
        n: {
            "src": f"figures/{n}.svg" if n in WALL_CLOCK_FIGURES else embedded(found[n]),
            "wall_clock": n in WALL_CLOCK_FIGURES,
            "caption": captions.get(n, n.replace("_", " ").capitalize() + "."),
        }
        for n in names
    }


# ---- shaping tables for the page -----------------------------------------------------------------


def _cell(row: pd.Series) -> dict:
    rate = "win_rate" in row
    digits = 1 if rate else metric(row["metric"]).digits
    value = row["win_rate" if rate else "value"]
    interval = (
        ""
        if pd.isna(row["ci_low"])
        else f"[{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"
    )
    status = row["agreement"] + (" in direction" if row["why"].startswith("in direction") else "")
    return {
        "value": number(value, digits) or agreement.NOT_MEASURED,
        "interval": interval,
        "published": published_text(row),
        "std": number(row["std"], digits),
        "status": status,
        "why": row["why"],
        "n": number(row["n"], 0),
    }


def sections(cells: pd.DataFrame, profile: Profile) -> list[dict]:
    """One section a preset: for every line (metric and method, judge and baseline or τ) its cells
    by size, and the counts."""
    first, last = (
        ("judge", "tau" if "tau" in cells else "baseline")
        if "judge" in cells
        else ("metric", "method")
    )
    sizes, out = list(dict.fromkeys(cells["size"])), []
    for preset, rows in agreement.with_agreement(cells, profile).groupby("preset", sort=False):
        lines: dict[tuple, dict] = {}
        for _, row in rows.iterrows():
            group = metric(row[first]).title
            lines.setdefault((group, line_name(row, last)), {})[row["size"]] = _cell(row)
        counts = rows["agreement"].value_counts()
        kinds = [
            kind
            for kind in (
                agreement.AGREES,
                agreement.DIFFERS,
                decisions.OPEN,
                agreement.NOT_MEASURED,
                agreement.NO_NUMBER,
            )
            if kind in counts
        ]
        out.append(
            {
                "preset": preset,
                "sizes": sizes,
                "counts": [(kind, int(counts[kind])) for kind in kinds],
                "lines": [{"group": g, "name": n, "cells": by} for (g, n), by in lines.items()],
            }
        )
    return out


def plain(frame: pd.DataFrame, rows: int = 60) -> dict:
    """Any frame as header and text cells, at most `rows` of them."""
    shown = frame.head(rows).astype(object).map(plain_text)
    return {
        "columns": list(shown.columns),
        "rows": shown.to_numpy().tolist(),
        "left_out": max(0, len(frame) - rows),
    }


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
    used = {*cells, *WALL_CLOCK, "metrics", "table1", "presets", "claims"}
    others = {name: plain(table) for name, table in tables.items() if name not in used}
    others |= {
        f"data {path.stem}": plain(read_table(path))
        for path in sorted((out / "data").glob("*.csv"))
        if path.stat().st_size > 1
    }
    others.pop("data notes", None)  # sentences: they stand open above the tables
    context = {
        "data_notes": data_notes(out),
        "profile": profile,
        "version": __version__,
        "key": profile.key(),
        "resolved": _resolved(profile),
        "claims": claims.claims(tables, profile),
        "differences": agreement.differences(profile),
        "margin": agreement.MARGIN,
        "presets": plain(presets_table(profile)),
        "sections": {name: sections(table, profile) for name, table in cells.items()},
        "footnotes": {name: footnotes(out, name) for name in tables},
        "pictures": pictures(out),
        "samples": samples(out, profile),
        "table1": claims.properties(tables["table1"]).to_dict("records")
        if "table1" in tables
        else [],
        "others": others,
        "wall_clock": [f"tables/{n}.csv" for n in WALL_CLOCK if n in tables],
        "notebooks": NOTEBOOKS,
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
