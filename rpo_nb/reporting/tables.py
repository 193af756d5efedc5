"""Long-format results to tables: the paper's number stands beside every cell of the kit.

``metric_cells``, ``table2``, ``table3``, ``table4``, ``presets_table`` are pure frames to frames;
``write_table`` renders one as csv (binding columns, fixed precision), md and tex; ``long_format``
and ``write_results`` gather every number.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from rpo_nb import intervals
from rpo_nb.config.methods import METHODS
from rpo_nb.config.metrics import METRICS, metric
from rpo_nb.config.objective import Preset
from rpo_nb.config.schema import Profile
from rpo_nb.reporting.published import published_metric, published_win_rate
from rpo_nb.reporting.rendering import COLUMNS, LONG_COLUMNS, plain_text
from rpo_nb.store import atomic_write

# files that differ from run to run: never in results.parquet or the page
WALL_CLOCK = ("timings", "table1_timings", "paper_b_timings")
NUMBERED = ("tau", "tau_low", "tau_high", "seed", "step", "beta", "k")  # columns that name a row
TOLD = ("verdict", "sentence")  # columns of text that do not
PRESET_FIELDS = {  # one sentence a field of config.Preset
    "reduce": "A completion's log-probability: over its tokens, the sum (the paper's formula) or "
    "the mean (the authors' code).",
    "partition": "Estimator of the log-partition: eq. 19, or none, V̂ = 0.",
    "rpo_tau": "Temperature of RPO outside Table IV.",
    "dro_tau": "Temperature of DRO.",
    "kto_beta": "Slope of KTO's sigmoid in the log-ratio.",
    "qrpo_beta": "Temperature of QRPO, in quantiles of the reference's own rewards.",
    "kto_kl": "KTO's reference point: mismatched pairs clamped at 0, or the unclamped batch mean "
    "of the log-ratio.",
    "value_pooling": "What DRO's value network averages over: the prompt's own tokens, or padding "
    "too.",
    "value_detach": "Whether the value loss is kept out of the policy's encoder.",
    "dropout": "Dropout of the policy while it is trained.",
    "max_grad_norm": "Gradient clipping; 0 is none.",
    "weight_decay": "AdamW's weight decay.",
    "decoding": "One decoding for all methods, or the authors' (KTO greedy, the others top-k "
    "sampling).",
}


# ---- frames --------------------------------------------------------------------------------------


def ordered(frame: pd.DataFrame, profile: Profile, by: Sequence[str]) -> pd.DataFrame:
    """Rows in the order of the profile (presets, judges, sizes), of METRICS and of METHODS; what
    they lack comes last."""
    ranks = {
        "preset": list(profile.presets),
        "judge": list(profile.evaluation.judges),
        "size": list(profile.sizes),
        "metric": list(METRICS),
        "method": list(METHODS),
        "baseline": list(METHODS),
    }

    def rank(column: pd.Series) -> pd.Series:
        known = ranks.get(column.name)
        return (
            column
            if known is None
            else column.map({name: i for i, name in enumerate(known)}).fillna(len(known))
        )

    return frame.sort_values(list(by), key=rank, kind="stable", ignore_index=True)


def at_main_setting(frame: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Rows outside Table IV's sweep: RPO (or a win rate of RPO) only at its preset's own
    temperature."""
    main = frame["preset"].map({name: preset.rpo_tau for name, preset in profile.presets.items()})
    swept = frame["method"].eq("rpo") if "method" in frame else pd.Series(True, frame.index)
    return frame[~swept | np.isclose(frame["tau"].astype(float), main.astype(float))]


def metric_cells(metrics: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Table II's cells with everything known of them.

    metrics: rows preset, method, size, tau, seed, metric, value, ci_low, ci_high, n, reason, and
    shared where seeds share prompts (`evaluation.measure`).
    Returns preset, metric, method, size, value (mean over seeds), std (over seeds, ddof 1), ci_low,
    ci_high, error, df (of the mean, over other seeds and prompts: `intervals.over_seeds`; NaN with
    one seed), n (texts of all seeds), seeds (measured), published, reason. Raises ValueError on a
    repeated (cell, seed).
    """
    keys = ["preset", "metric", "method", "size"]
    rows = at_main_setting(metrics, profile)
    repeated = rows[rows.duplicated([*keys, "seed"])]
    if len(repeated):
        first = repeated.iloc[0]
        cell = " ".join(str(first[k]) for k in [*keys, "seed"])
        raise ValueError(f"metrics: the cell {cell} appears twice; write each cell once")
    found = []
    for key, cell in rows.groupby(keys, sort=False):
        seeds = cell.dropna(subset=["value"])
        prompts = (seeds["ci_high"] - seeds["ci_low"]) / 2 / stats.norm.ppf(0.975)
        shared = seeds["shared"].mean() if "shared" in seeds and len(seeds) else 0.0
        mean = intervals.over_seeds(
            seeds["value"], prompts=prompts, shared=shared, bounds=metric(key[1]).bounds
        )
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                "value": mean.value,
                "std": seeds["value"].std(),
                "ci_low": mean.low,
                "ci_high": mean.high,
                "error": mean.error,
                "df": mean.df,
                "n": cell["n"].sum(),
                "seeds": len(seeds),
                "reason": next((r for r in cell["reason"] if isinstance(r, str) and r), ""),
            }
        )
    measured = ["value", "std", "ci_low", "ci_high", "error", "df", "n", "seeds", "reason"]
    cells = pd.DataFrame(found, columns=[*keys, *measured])
    cells["published"] = [
        published_metric(m, k, s)
        for m, k, s in zip(cells.metric, cells.method, cells["size"], strict=True)
    ]
    cells["published"] = cells["published"].astype(object)
    return ordered(cells, profile, keys)


def table2(metrics: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Table II (paper A) in the binding columns; see ``metric_cells``."""
    return metric_cells(metrics, profile)[COLUMNS["table2"]]


def table3(rates: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Table III: win rate (%) of RPO at its preset's own temperature over each baseline.

    rates: rows of ``rates.win_rates``.
    """
    return _with_published(at_main_setting(rates, profile), profile, "baseline")


def table4(rates: pd.DataFrame, profile: Profile, baseline: str = "sft") -> pd.DataFrame:
    """Table IV: win rate (%) of RPO over one baseline at the profile's temperatures and the
    preset's own; the paper's numbers belong to SFT, which may be our ``sft`` or our ``reference``
    (the paper leaves it open)."""
    rows = rates[rates["baseline"].eq(baseline) & rates["preset"].isin(profile.table4_presets)]
    swept = [
        bool(np.isclose(tau, profile.rpo_taus(preset)).any())
        for preset, tau in zip(rows["preset"], rows["tau"], strict=True)
    ]
    rows = rows[np.array(swept, dtype=bool)]
    return _with_published(rows, profile, "tau")


def _with_published(rates: pd.DataFrame, profile: Profile, key: str) -> pd.DataFrame:
    columns = COLUMNS["table3" if key == "baseline" else "table4"]
    judges = rates["judge"].map(profile.evaluation.published_judges)
    found = []
    for judge, (_, row) in zip(judges, rates.iterrows(), strict=True):
        applies = row["baseline"] in ("sft", "reference") or key == "baseline"
        found.append(
            published_win_rate(judge, row["size"], **{key: row[key]})
            if applies
            else (np.nan, np.nan)
        )
    joined = rates.assign(
        published=pd.Series([f[0] for f in found], rates.index, object),
        published_std=pd.Series([f[1] for f in found], rates.index, object),
    )
    return ordered(joined[columns], profile, columns[:4])


def presets_table(profile: Profile) -> pd.DataFrame:
    """The presets side by side: field, one column a preset, what the field means."""
    rows = []
    for field in Preset.model_fields:
        rows.append(
            {"field": field}
            | {name: str(getattr(preset, field)) for name, preset in profile.presets.items()}
            | {"meaning": PRESET_FIELDS[field]}
        )
    return pd.DataFrame(rows)


# ---- what stands under a table ----


def sampling_notes(profile: Profile) -> list[str]:
    """How the completions were drawn and what ± and [ ] are, for this profile's seeds."""
    spread = (
        "±: standard deviation over seeds; [ ]: 95 % interval of the mean over other seeds and "
        "other prompts (t, rpo_nb/intervals.py)."
        if len(profile.seeds) > 1
        else "One seed: a number has neither ± nor interval, and decides nothing."
    )
    return [
        spread,
        "Every policy draws its completions with random numbers of its own, so a win rate compares "
        "independent samples.",
        *objective_notes(profile),
    ]


def objective_notes(profile: Profile) -> list[str]:
    """One sentence for each preset in which RPO has the objective of DRO without its value network:
    on made-up rows the gradients are one multiple of each other."""
    import torch

    from rpo_nb import objectives, partition

    rng = torch.Generator().manual_seed(0)
    policy, ref, rewards = torch.randn(3, 8, generator=rng, dtype=torch.float64)
    prompts, out = torch.arange(8) // 4, []
    for name, preset in profile.presets.items() if {"rpo", "dro"} <= set(profile.methods) else ():
        log_z = partition.log_partition(
            ref, rewards, prompts, tau=preset.rpo_tau, estimator=preset.partition
        )
        policy = policy.detach().requires_grad_()
        losses = (
            objectives.rpo(policy, ref, rewards, log_z, tau=preset.rpo_tau),
            objectives.dro(policy, ref, rewards, torch.zeros(8).double(), tau=preset.dro_tau),
        )
        mine, theirs = (torch.autograd.grad(loss.sum(), policy)[0] for loss in losses)
        factor = mine[0] / theirs[0]
        if factor > 0 and torch.allclose(mine, factor * theirs):
            out.append(
                f"Preset {name}: RPO is the objective of DRO without its value network (gradients "
                f"are {factor:.3g} times as large, row by row), so RPO over DRO asks what that "
                "network adds."
            )
    return out


# ---- long format ---------------------------------------------------------------------------------


def long_format(
    tables: dict[str, pd.DataFrame], profile: Profile, paper: str = "A"
) -> pd.DataFrame:
    """Every number of `tables` (name -> frame) in the binding long columns.

    ``table2`` is given as ``metric_cells``; tables II to IV keep their own row and column (method
    or baseline or tau, by size); of any other table each numeric column becomes a metric and the
    text columns make the row, unless it has a column value. Wall-clock tables are left out.
    """
    parts = []
    for name, frame in tables.items():
        if name in WALL_CLOCK or frame.empty:
            continue
        base = name.split("_")[0] if name.startswith(("table3_", "table4_")) else name
        if base in COLUMNS:
            row = {"table2": "method", "table3": "baseline", "table4": "tau"}[base]
            rows = frame.assign(row=frame[row].astype(str), column=frame["size"])
            if base != "table2":
                rows = rows.assign(
                    value=frame["win_rate"],
                    metric="win_rate/" + frame["judge"],
                )
        else:
            frame = frame.rename(columns={"mean": "value"})  # paper B's tables are long already
            rows = _stacked(frame) if "value" in frame else _melt(frame)
        parts.append(
            rows.assign(
                paper="B" if name.startswith("paper_b") else paper, table=name, profile=profile.name
            )
        )
    if not parts:
        return pd.DataFrame(columns=LONG_COLUMNS)
    out = pd.concat(parts, ignore_index=True).reindex(columns=LONG_COLUMNS)
    text = ["paper", "table", "row", "column", "metric", "preset", "profile"]
    out[text] = out[text].fillna("").astype(str)
    numbers = [c for c in LONG_COLUMNS if c not in text]
    return out.assign(**{c: pd.to_numeric(out[c], errors="coerce").astype(float) for c in numbers})


def _joined(frame: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """What the key columns of each row say, in one text."""
    rows = zip(*(frame[key] for key in keys), strict=True) if keys else [()] * len(frame)
    return [" ".join(filter(None, map(plain_text, row))) for row in rows]


def _stacked(frame: pd.DataFrame) -> pd.DataFrame:
    """A table that is long already (metrics.csv, Table I): what is neither number, preset nor
    metric makes row and column."""
    named = next((c for c in ("metric", "property") if c in frame), "value")
    column = next((c for c in ("size", "method") if c in frame), "value")
    known = {named, column, *LONG_COLUMNS, "shared", "reason", "note"}
    keys = [c for c in frame.columns if c not in known]
    return frame.assign(
        metric=frame[named] if named != "value" else "value",
        row=_joined(frame, keys),
        column=frame[column],
    )


def _melt(frame: pd.DataFrame) -> pd.DataFrame:
    """Any table to row, column, metric, value: key columns (text but for TOLD, and NUMBERED) make
    the row."""
    numeric = [
        c
        for c in frame.columns
        if pd.api.types.is_numeric_dtype(frame[c]) and not pd.api.types.is_bool_dtype(frame[c])
    ]
    values = [c for c in numeric if c not in NUMBERED]
    keys = [c for c in frame.columns if c not in (*values, *TOLD, "preset")]
    wide = frame[values].assign(row=_joined(frame, keys), preset=frame.get("preset", ""))
    return wide.melt(["row", "preset"], var_name="column").assign(metric=lambda d: d["column"])


def write_results(long: pd.DataFrame, out: Path | str) -> Path:
    """``<out>/results.parquet``; the same rows give the same bytes."""
    buffer = io.BytesIO()
    long.to_parquet(buffer, engine="pyarrow", index=False, compression="zstd")
    return atomic_write(Path(out) / "results.parquet", buffer.getvalue())
