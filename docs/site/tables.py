"""A page for each table of a run: as it is read, where it has such a form, and every row to sort
and to search."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pandas as pd

from rpo_nb.reporting.rendering import COLUMNS, plain_text, read_table

PAPER_A, PAPER_B = "Paper A", "Paper B"
LAB, JUDGES, MORE = "When does RPO work", "Judges and metrics", "Settings, time, more"
# name -> section and title, in the order of the list
TITLES = {
    "claims": (PAPER_A, "Do the claims hold?"),
    "table1": (PAPER_A, "Table I: DRO and RPO, property by property"),
    "table2": (PAPER_A, "Table II: automatic metrics"),
    "table3": (PAPER_A, "Table III: win rate of RPO"),
    "table3_average": (PAPER_A, "Table III by the log-odds averaged over both orders"),
    "length_controlled": (PAPER_A, "Table III at equal lengths"),
    "table4": (PAPER_A, "Table IV: win rate of RPO by temperature, over SFT"),
    "table4_reference": (PAPER_A, "Table IV over the reference policy"),
    "table4_best_of_k": (PAPER_A, "Table IV over best-of-K SFT"),
    "target_shares": (PAPER_A, "What RPO's first step is about, preset by preset"),
    "temperature_differences": (PAPER_A, "Win rates at two temperatures, their differences"),
    "reward_kl": (PAPER_A, "Mean reward and KL of every policy"),
    "frontier": (PAPER_A, "The best reward at each KL: the tilted reference"),
    "paper_b_verdicts": (PAPER_B, "Do the learnings hold?"),
    "paper_b_table1": (PAPER_B, "Table 1: the losses that the framework recovers"),
    "paper_b_table1_as_printed": (PAPER_B, "Table 1 as it is printed"),
    "paper_b_table2": (PAPER_B, "Table 2: offline losses"),
    "paper_b_table3": (PAPER_B, "Table 3: by training prompts"),
    "paper_b_table4": (PAPER_B, "Table 4: by iteration"),
    "paper_b_bridge": (PAPER_B, "The bridge: paper A's loss in paper B's framework"),
    "paper_b_eta": (PAPER_B, "By η, the scale of the explicit reward"),
    "paper_b_reward_models": (PAPER_B, "The learnt reward models"),
    "lab_summary": (LAB, "All regimes together"),
    "regime_map": (LAB, "Regime by regime: the gain of each policy"),
    "regime_shares": (LAB, "What RPO's first step is about, regime by regime"),
    "regime_duels": (LAB, "RPO against its rivals, regime by regime"),
    "prediction_score": (LAB, "Did the lab foretell this study?"),
    "prediction": (LAB, "Pair by pair: predicted and found"),
    "rivals": (LAB, "Losses of one's own beside the kit's methods"),
    "losses": (LAB, "Losses of one's own beside this study's policies"),
    "losses_leads": (LAB, "Losses of one's own: each beside every policy"),
    "lab_tuned": (LAB, "Every method tuned alike"),
    "lab_tuned_map": (LAB, "Every method tuned alike, regime by regime"),
    "lab_tuned_duels": (LAB, "Every method tuned alike: RPO against each other method"),
    "lab_tuning": (LAB, "What tuning tried"),
    "lab_profiles": (LAB, "The share of runs that gain more than so much"),
    "lab_seeds": (LAB, "Seed by seed"),
    "low_data": (LAB, "The same rows as many completions of few prompts"),
    "data_curve": (LAB, "By the number of training prompts"),
    "robustness": (LAB, "Under disturbed feedback"),
    "partition_ablation": (LAB, "The normalised loss against V̂ = 0"),
    "partition_bias": (LAB, "Bias and error of the estimators of log Ẑ"),
    "partition_truth": (LAB, "V*, and how well it is known"),
    "judge_quality": (JUDGES, "Can the judges be trusted?"),
    "judge_agreement": (JUDGES, "How often judges agree"),
    "judge_accuracy": (JUDGES, "The learnt judge by the gap of true scores"),
    "metric_validity": (JUDGES, "Do the metrics follow the true score?"),
    "metrics": (JUDGES, "Every metric, seed by seed"),
    "aspects": (JUDGES, "Scores by aspect"),
    "presets": (MORE, "Presets: how the paper's open points are read"),
    "timings": (MORE, "Seconds of each training"),
    "table1_timings": (MORE, "Seconds of Table I"),
    "paper_b_timings": (MORE, "Seconds of paper B's steps"),
}
SENTENCE = 60  # characters; a longer text gets a broad column
ROW = re.compile(r"(?<!\\)\|")


def title_of(name: str) -> str:
    return TITLES.get(name, (MORE, name.replace("_", " ").capitalize()))[1]


def pages(run: Path, files: str) -> dict[str, str]:
    """Path on the site -> text, of the list and of every table that has rows. files: where the
    run's own files lie on the site."""
    found = {
        path.stem: read_table(path)
        for path in sorted((run / "tables").glob("*.csv"))
        if path.stat().st_size > 1
    }
    order = [n for n in TITLES if n in found] + [n for n in found if n not in TITLES]
    out = {"tables/index.md": _list({name: found[name] for name in order})}
    for name in order:
        page, shown = _page(run, name, found[name], files)
        out |= {f"tables/{name}.md": page}
        out |= {f"tables/{name}.{part}.html": text for part, text in shown.items()}
    return out


def _list(tables: dict[str, pd.DataFrame]) -> str:
    lines = ["# Tables", "", "Every table of the run, whole: columns can be sorted, rows searched."]
    section = ""
    for name, table in tables.items():
        if TITLES.get(name, (MORE, ""))[0] != section:
            section = TITLES.get(name, (MORE, ""))[0]
            lines += ["", f"## {section}", ""]
        lines.append(f"- [{title_of(name)}]({name}.md), {len(table)} rows")
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *tables, "```", ""])


def _page(run: Path, name: str, table: pd.DataFrame, files: str) -> tuple[str, dict[str, str]]:
    """The page, and the tables it includes as HTML."""
    path = run / "tables" / f"{name}.md"
    markdown = path.read_text(encoding="utf-8") if path.is_file() else ""
    kinds = [k for k in ("csv", "md", "tex") if path.with_suffix(f".{k}").is_file()]
    download = ", ".join(
        f'<a href="../{files}/tables/{name}.{kind}" download>{kind}</a>' for kind in kinds
    )
    notes = [line for line in markdown.splitlines() if line.startswith("- ")]
    lines = [f"# {title_of(name)}", "", f"{len(table)} rows. As a file: {download}", ""]
    shown = {"rows": sortable(table, title_of(name))}
    if name.split("_")[0] in COLUMNS:  # laid out as the paper has it
        shown = {"read": as_read(markdown)} | shown
        lines += [_included(name, "read"), "", *map(_escaped, notes), "", "## Every cell", ""]
        notes = []
    lines += [_included(name, "rows"), "", *map(_escaped, notes), ""]
    return "\n".join(lines), shown


def _included(name: str, part: str) -> str:
    return f"```{{raw}} html\n:file: {name}.{part}.html\n```"


def _escaped(note: str) -> str:
    """A footnote as Markdown that shows it as it is."""
    return "- " + re.sub(r"([\\`*_\[\]<>$])", r"\\\1", note.removeprefix("- "))


def as_read(markdown: str) -> str:
    """The sections of a ``.md`` table as HTML: a heading in bold, then rows between bars."""
    out = []
    for block in markdown.strip().split("\n\n"):
        lines = block.splitlines()
        if block.startswith("**"):
            out.append(f'<p class="section"><b>{html.escape(block.strip("*"))}</b></p>')
        elif block.startswith("|"):
            cells = [
                [cell.strip().replace("\\|", "|") for cell in ROW.split(line)[1:-1]]
                for line in (lines[0], *lines[2:])
            ]
            out.append(_table(cells[0], cells[1:], "", "read"))
    return "\n".join(out)


def sortable(table: pd.DataFrame, caption: str) -> str:
    """Every row of a frame, its numbers with four digits."""
    shown = table.astype(object).map(plain_text)
    kinds = [_kind(table[column], shown[column]) for column in table]
    return _table(list(table.columns), shown.to_numpy().tolist(), caption, "rows", kinds)


def _kind(values: pd.Series, shown: pd.Series) -> str:
    """How a column is set: as numbers, as sentences, or as words."""
    if pd.api.types.is_numeric_dtype(values):
        return "number"
    return "sentence" if shown.str.len().max() > SENTENCE else ""


def _table(
    columns: list[str], rows: list[list[str]], caption: str, kind: str, kinds: list[str] = ()
) -> str:
    marks = [f' class="{one}"' if one else "" for one in kinds] or [""] * len(columns)
    head = "".join(
        f'<th scope="col"{mark}>{html.escape(name)}</th>'
        for name, mark in zip(columns, marks, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{m}>{html.escape(cell)}</td>" for cell, m in zip(row, marks, strict=True))
        + "</tr>"
        for row in rows
    )
    label = html.escape(caption or "table", quote=True)
    return (
        f'<div class="wide" role="region" aria-label="{label}" tabindex="0">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>'
        "</div>"
    )
