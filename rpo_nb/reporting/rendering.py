"""Tables as files: csv, markdown, LaTeX; a cell and its interval as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from rpo_nb.config.methods import METHOD_NAMES
from rpo_nb.config.metrics import metric
from rpo_nb.store import atomic_write

COLUMNS = {
    "table2": ["preset", "metric", "method", "size", "value", "std", "published"],
    "table3": [
        "preset",
        "judge",
        "size",
        "baseline",
        "win_rate",
        "std",
        "ci_low",
        "ci_high",
        "error",
        "df",
        "n",
        "seeds",
        "published",
        "published_std",
    ],
    "table4": [
        "preset",
        "judge",
        "size",
        "tau",
        "win_rate",
        "std",
        "ci_low",
        "ci_high",
        "error",
        "df",
        "n",
        "seeds",
        "published",
        "published_std",
    ],
}
LONG_COLUMNS = [
    "paper",
    "table",
    "row",
    "column",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "std",
    "n",
    "seeds",
    "preset",
    "published",
    "profile",
]


MANY, FEW = 1e4, 1e-4  # beyond these 1.8e+04 would be written


def lost_column(name: str, table: pd.DataFrame) -> str:
    """The first column that an earlier version's table of win rates lacks of what verdicts are made
    of; "" where it has all. name: of its file."""
    needed = COLUMNS.get(name.removesuffix("_average").split("_")[0], [])
    lost = [column for column in needed if column not in table]
    return lost[0] if lost and name.startswith(("table3", "table4")) else ""


def missing_footnotes(cells: pd.DataFrame) -> list[str]:
    """One line for each distinct reason why a cell was not measured. cells: rows of
    ``metric_cells`` (or of metrics.csv)."""
    lost = cells[cells["value"].isna()]
    reasons = lost.groupby("metric", sort=False)["reason"].unique()
    return [
        f"{metric}: not measured, "
        f"{'; '.join(r for r in found if isinstance(r, str) and r) or 'no reason was recorded'}"
        for metric, found in reasons.items()
    ]


# ---- rendering -----------------------------------------------------------------------------------


def number(value: float, digits: int) -> str:
    """Fixed decimals, without "-0.00"; an empty string for NaN."""
    if pd.isna(value):
        return ""
    text = f"{float(value):.{digits}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def with_interval(value: float, low: float, high: float, digits: int, *, sign: bool = False) -> str:
    """ "1.23 [0.80, 1.70]"; the value alone where there is no interval. sign: "+1.23", of a
    difference."""
    text = number(value, digits)
    if sign and text and not text.startswith("-"):
        text = f"+{text}"
    return text if pd.isna(low) else f"{text} [{number(low, digits)}, {number(high, digits)}]"


def cell_text(row: pd.Series) -> str:
    """ "61.2 ± 1.3 [57.0, 65.1]": mean, std over seeds, interval; "not measured" when there is no
    value."""
    value, digits = (
        (row["win_rate"], 1) if "win_rate" in row else (row["value"], metric(row["metric"]).digits)
    )
    if pd.isna(value):
        return "not measured"
    std = f" ± {number(row['std'], digits)}" if not pd.isna(row["std"]) else ""
    interval = (
        f" [{number(row['ci_low'], digits)}, {number(row['ci_high'], digits)}]"
        if not pd.isna(row.get("ci_low"))
        else ""
    )
    return number(value, digits) + std + interval


def published_text(row: pd.Series) -> str:
    """ "82.78 ± 1.93" as printed; a dash where the paper has no number."""
    if pd.isna(row["published"]):
        return "–"
    return str(row["published"]) + (
        "" if pd.isna(row.get("published_std")) else f" ± {row['published_std']}"
    )


def line_name(row: pd.Series, column: str) -> str:
    """How a line of Tables II to IV is headed: "τ = 0.1", "over SFT", "RPO"."""
    name = f"τ = {row[column]:g}" if column == "tau" else METHOD_NAMES.get(row[column], row[column])
    return f"over {name}" if column == "baseline" else name


def wide_table(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables II to IV as read: heading -> frame with, for every size, the kit's cell and the
    paper's."""
    last = "tau" if "tau" in cells else "baseline" if "baseline" in cells else "method"
    first = "judge" if "judge" in cells else "metric"
    out = {}
    for (preset, section), rows in cells.groupby(["preset", first], sort=False):
        lines = {}
        for _, row in rows.iterrows():
            line = lines.setdefault(line_name(row, last), {})
            line |= {row["size"]: cell_text(row), f"{row['size']}, paper": published_text(row)}
        of = f"judge {section}" if first == "judge" else metric(section).title
        heading = f"preset {preset}, {of}"
        out[heading] = (
            pd.DataFrame.from_dict(lines, orient="index").fillna("").rename_axis("").reset_index()
        )
    return out


def write_table(
    frame: pd.DataFrame, out: Path | str, name: str, footnotes: Sequence[str] = ()
) -> Path:
    """Write ``<out>/tables/<name>.csv`` (binding columns; six significant digits), ``.md`` and
    ``.tex``; return the csv's path.

    Tables II to IV (``table2`` as ``metric_cells`` or ``table2``, table3_average,
    table4_<baseline>) are laid out as in the paper, the paper's number beside each; any other frame
    is printed as it is. footnotes: one line each, below the table. Tables II to IV are written
    before their variants: those that stand there are another profile's, and go.
    """
    base = name.split("_")[0] if name.startswith(("table3_", "table4_")) else name
    notes = [
        *footnotes,
        *(missing_footnotes(frame) if "reason" in frame and "metric" in frame else []),
    ]
    notes = list(dict.fromkeys(notes))
    shown = wide_table(frame) if base in COLUMNS else {"": frame.map(readable)}
    folder = Path(out) / "tables"
    for variant in folder.glob(f"{name}_*") if name in COLUMNS else ():
        variant.unlink()
    atomic_write(folder / f"{name}.md", _markdown(shown, notes))
    atomic_write(folder / f"{name}.tex", _latex(shown, notes))
    return write_csv(frame[COLUMNS.get(base, list(frame.columns))], out, name)


def write_csv(frame: pd.DataFrame, out: Path | str, name: str) -> Path:
    """``<out>/tables/<name>.csv`` alone, for tables too long to read; six significant digits."""
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    return atomic_write(Path(out) / "tables" / f"{name}.csv", text)


def read_table(path: Path | str) -> pd.DataFrame:
    """A csv of ``write_table``; the paper's numbers stay as printed, names like "none" stay
    names."""
    text = {"published": object, "published_std": object, "reason": object}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])


def footnotes(out: Path | str, name: str) -> list[str]:
    """The footnotes that ``write_table`` put below ``tables/<name>.md``."""
    path = Path(out) / "tables" / f"{name}.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line[2:] for line in lines if line.startswith("- ")]


def plain_text(value: object) -> str:
    """Any table value as short text."""
    if isinstance(value, float | np.floating):
        return readable(value)
    return "" if value is None or value is pd.NA else str(value)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(value: object, digits: int = 4) -> str:
    """Any table value as people write it: "18,421", "0.0132", "8.9·10⁻¹⁶"; four digits at least
    where they say something, and no exponent between 0.0001 and 10¹⁵. Text stays as it is."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return plain_text(value)
    if not np.isfinite(value):
        return "" if np.isnan(value) else ("∞" if value > 0 else "−∞")
    value = value + 0.0  # no "-0"
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa}·10{str(int(power)).translate(SUPERSCRIPTS)}"
    if size >= 10 ** (digits - 1) or value == round(value):
        return f"{value:,.0f}"
    text = np.format_float_positional(value, precision=digits, fractional=False, trim="-")
    return text.rstrip(".")


def _markdown(sections: dict[str, pd.DataFrame], notes: Sequence[str]) -> str:
    parts = []
    for heading, frame in sections.items():
        safe = frame.map(lambda text: text.replace("|", "\\|").replace("\n", " "))
        parts += [f"**{heading}**"] if heading else []
        parts.append(
            tabulate(
                safe, headers="keys", tablefmt="github", showindex=False, disable_numparse=True
            )
        )
    parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "τ": r"$\tau$",
        "π": r"$\pi$",
        "ρ": r"$\rho$",
        "φ": r"$\phi$",
        "θ": r"$\theta$",
        "Ẑ": r"$\hat{Z}$",
        "×": r"$\times$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "β": r"$\beta$",
        "γ": r"$\gamma$",
        "δ": r"$\delta$",
        "η": r"$\eta$",
        "½": r"$\tfrac12$",
        "·": r"$\cdot$",
        **{power: f"$^{base}$" for base, power in zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True)},
        "≻": r"$\succ$",
        "→": r"$\to$",
        "−": "$-$",
        "∞": r"$\infty$",
        "–": "--",
    }
)


def _latex(sections: dict[str, pd.DataFrame], notes: Sequence[str]) -> str:
    parts = [r"% needs \usepackage{booktabs}"]
    for heading, frame in sections.items():
        safe = (
            frame.rename(columns=str)
            .map(lambda text: text.translate(TEX))
            .rename(columns=lambda text: text.translate(TEX))
        )
        parts += [r"\noindent\textbf{" + heading.translate(TEX) + r"}\par"] if heading else []
        parts.append(safe.style.hide(axis="index").to_latex(hrules=True).rstrip())
    parts += [r"\par\noindent{\footnotesize " + note.translate(TEX) + "}" for note in notes]
    return "\n\n".join(parts) + "\n"
