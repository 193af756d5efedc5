"""The page and the tables of a researcher's loss, in <out>/lab/<file>-<function>/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rpo_nb import __version__
from rpo_nb.config.schema import Profile
from rpo_nb.reporting import page, style
from rpo_nb.reporting.layout import plain
from rpo_nb.reporting.rendering import number, read_table, write_csv, write_table
from rpo_nb.running import processes
from rpo_nb.store import atomic_write
from rpo_nb.studies import lab, own_method, own_tables
from rpo_nb.studies.own_method import Comparison
from rpo_nb.studies.own_tables import ALL
from rpo_nb.training.own import COLOUR, Own

COLUMNS = {"gain": 2, "kl": 2, "lead": 2, "improvement": 2}  # decimals
# of these groups of settings, what a loss of one's own is made with; the rest is of other studies
READ = {
    "lab": {"size", "regimes", "taus", "betas", "seeds", "prompts", "tuning_seeds", "workers"},
    "evaluation": {"generation_batch_size"},
}


def check_settings(given: Iterable[str], profile: Profile) -> None:
    """Raises ValueError for a setting that was given (a key of --set) and that nothing here
    reads."""
    out = "leave it out"
    instead = {
        "taus": "use --temperatures, or --set lab.taus for the kit's methods",
        "methods": out,
        "preset": out,
        "presets": out,
        "paper_b": out,
        "table4_presets": out,
        "lab.tuning": "use --temperatures and --learning-rates, and all have as many settings",
    }
    if profile.lab.seeds:
        instead["seeds"] = "use --set lab.seeds, which this profile has"
    for name in given:
        group, _, field = name.partition(".")
        remedy = instead.get(name) or instead.get(group)
        if field and field not in READ.get(group, {field}):
            remedy = remedy or out
        if remedy:
            raise ValueError(f"lab --method does not read {name}; {remedy}")


def make(
    losses: Sequence[Own],
    profile: Profile,
    out: Path,
    temperatures: Sequence[float] = (),
    rates: Sequence[float] = (),
    *,
    workers: int = 1,
) -> Iterator[str]:
    """Compare each loss in turn, write its page and the table of all; yield what to tell. Raises
    ValueError before anything is trained where a loss has no settings to try, or the folder of
    another one."""
    named: dict[str, Own] = {}
    for own in losses:
        first = named.setdefault(_folder_name(own), own)
        if first is not own:
            raise ValueError(
                f"{first.path}:{first.name} and {own.path}:{own.name} would both be written to "
                f"lab/{_folder_name(own)}; rename one of the files, or give each a run and an "
                "--output-dir of its own"
            )
    wanted = [own_method.settings_of(own, profile, temperatures, rates) for own in losses]
    with processes.only_one(out):
        for own, settings in zip(losses, wanted, strict=True):
            found = own_method.compare(profile, own, settings, out, workers=workers)
            written = write(found, profile, out)
            yield from told(found)
            yield f"{processes.shown(written)} has it all, tables/ beside it the numbers"
        yield f"{processes.shown(write_rivals(out))} has every loss with a page beside the others"


def _folder_name(own: Own) -> str:
    return f"{Path(own.path).stem}-{own.name}"


def write_rivals(out: Path) -> Path:
    """Write tables/rivals: the standings of every page in <out>/lab; return the csv's path."""
    pages = {
        file.parent.parent.name: (read_table(file), read_table(file.with_name("tuning.csv")))
        for file in sorted((out / "lab").glob("*/tables/standing.csv"))
    }
    return write_table(
        own_tables.together(pages),
        out,
        "rivals",
        [
            "gain: points over the reference; kl: nats; intervals 95 %, over other seeds and "
            "prompts; over: regimes, seeds and a key of the other settings, rows with another one "
            "do not compare; tried: settings that the method was given; page: whose standing has "
            "the row, <page>/tables/standing.csv in lab/."
        ],
    )


def write(c: Comparison, profile: Profile, out: Path) -> Path:
    """Write tables/standing, tuning and timings, figures/ and page.html; return the page's path.
    All but timings and figures/seconds are the same bytes for the same runs."""
    folder = out / "lab" / _folder_name(c.own)
    table, tuning = own_tables.standing(c), own_tables.tuning(c)
    times = own_tables.timings(c)
    write_table(
        table,
        folder,
        "standing",
        [
            "gain: points over the reference; kl: nats; lead: points of the researcher's loss over "
            "the method; improvement: probability that it scores higher; intervals 95 %, over "
            "other seeds and prompts; over: regimes, seeds and a key of the other settings."
        ],
    )
    write_csv(tuning, folder, "tuning")
    write_csv(times, folder, "timings")
    style.save(seconds(times), folder, "seconds")
    drawn = {"standing": standing(table, c.own.words), "reward_kl": reward_kl(table, c)}
    pictures = {name: page.embedded(style.save(fig, folder, name)) for name, fig in drawn.items()}
    context = {
        "name": c.own.words,
        "headline": headline(table, c),
        "outcomes": outcomes(table, c),
        "undecided": undecided(table, c),
        "pictures": pictures,
        "overall": plain(overall(table)),
        "regimes": plain(by_regime(table, c)),
        "described": {regime: lab.REGIMES[regime].words for regime in c.regimes},
        "tuned": tuned(c, profile),
        "tuning": plain(tuning),
        "batch": profile.training.batch_size,
        "version": __version__,
        "profile": profile,
        "seeds": c.seeds,
        "prompts": profile.lab.prompts,
        "rows": rows_note(c),
        "file": Path(c.own.path).name,
        "source": c.own.source,
    }
    return atomic_write(folder / "page.html", page.rendered("own_method.html.j2", context))


def told(c: Comparison) -> list[str]:
    """The page in a few lines, with what a step costs."""
    table, times = own_tables.standing(c), own_tables.timings(c).set_index("method")
    mine, sft = times.loc[[c.own.words, "SFT"], "seconds"]
    return [
        headline(table, c),
        *outcomes(table, c),
        f"a step took {mine:.3g} s here, SFT's {sft:.3g} s; each when it was trained, whatever "
        "else ran then",
    ]


# Sentences and cells ------------------------------------------------------------------------------


def cell(row: pd.Series, name: str) -> str:
    """ "+1.23 [0.80, 1.70]"; only the value where there is no interval, "" where there is none."""
    digits = COLUMNS[name]
    value = number(row[name], digits)
    if value and name in ("gain", "lead") and not value.startswith("-"):
        value = f"+{value}"
    low, high = (number(row[f"{name}_{end}"], digits) for end in ("low", "high"))
    return f"{value} [{low}, {high}]" if low else value


def _over_all(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["regime"].eq(ALL)].set_index("method")


def headline(table: pd.DataFrame, c: Comparison) -> str:
    """What it gains and how far it goes for it, over all regimes."""
    row = _over_all(table).loc[c.own.words]
    count = f"{len(c.regimes)} regimes" if len(c.regimes) > 1 else f"regime {c.regimes[0]}"
    return (
        f"{c.own.words} changes the mean reward of its reference by {cell(row, 'gain')} points, at "
        f"{cell(row, 'kl')} nats of KL; over {count} of the pocket world, "
        + ("seed " if len(c.seeds) == 1 else "seeds ")
        + f"{', '.join(map(str, c.seeds))}."
    )


def outcomes(table: pd.DataFrame, c: Comparison) -> list[str]:
    """ "Ahead of reference, SFT.", one sentence an outcome."""
    found = own_tables.outcomes(table, c.own.words)
    parts = {w: found.loc[found["outcome"].eq(w), "method"] for w in own_tables.OUTCOMES}
    return [f"{words.capitalize()} {', '.join(who)}." for words, who in parts.items() if len(who)]


def undecided(table: pd.DataFrame, c: Comparison) -> str:
    """What these seeds could have seen of what they did not decide."""
    if len(c.seeds) < 2:
        return "One seed has no interval, and decides nothing: give two or more (lab.seeds)."
    smallest = own_tables.outcomes(table, c.own.words).set_index("method")["smallest"].dropna()
    if smallest.empty:
        return ""
    return (
        f"{len(c.seeds)} seeds would have decided (in 80 % of such runs) a lead of "
        f"{smallest.min():.2f} points over {smallest.idxmin()} to {smallest.max():.2f} over "
        f"{smallest.idxmax()}; more seeds decide smaller ones."
    )


def tuned(c: Comparison, profile: Profile) -> str:
    """How the settings were chosen."""
    count, seeds = len(c.settings[c.own.words]), profile.lab.tuning_seeds
    if count == 1:
        return "Every method has one setting, so that nothing was chosen."
    return (
        f"Every method has {count} settings of temperature, learning rate (× 1 is "
        f"{profile.training.learning_rate:g}) and epochs (× 1 is {profile.training.epochs}). In "
        "each regime the one with the best mean reward was taken, on seed "
        f"{', '.join(map(str, seeds))} alone, which is reported nowhere else."
    )


def rows_note(c: Comparison) -> str:
    """Where the other methods' rows come from."""
    if not c.stored:
        return "All policies were trained by this version of the kit."
    other = f", {c.other_code} of them by another version of the kit" if c.other_code else ""
    return (
        f"{c.stored} policies of the kit's methods were trained before{other}: their rows are read "
        "from lab/rivals.jsonl.gz. Where another kind of processor made them they may differ by "
        "0.1 and more; the reference is this machine's."
    )


def overall(table: pd.DataFrame) -> pd.DataFrame:
    """The table over all regimes, best gain first."""
    rows = _over_all(table).sort_values("gain", ascending=False)
    return pd.DataFrame(
        {
            "method": rows.index,
            "gain": [cell(row, "gain") for _, row in rows.iterrows()],
            "KL": [cell(row, "kl") for _, row in rows.iterrows()],
            "its lead over the method": [
                "" if np.isnan(row["improvement"]) else cell(row, "lead")
                for _, row in rows.iterrows()
            ],
            "probability of improvement": [cell(row, "improvement") for _, row in rows.iterrows()],
        }
    )


def by_regime(table: pd.DataFrame, c: Comparison) -> pd.DataFrame:
    """Methods by regime: gain with its interval, methods by their gain over all regimes."""
    order = _over_all(table).sort_values("gain", ascending=False).index.drop("reference")
    wide = table.assign(cell=[cell(row, "gain") for _, row in table.iterrows()])
    wide = wide.pivot(index="method", columns="regime", values="cell")
    return wide.loc[order, list(c.regimes)].reset_index()


# Figures ------------------------------------------------------------------------------------------


def _looks(method: str, setting_method: str) -> dict:
    """Colour and marker; the researcher's loss a star."""
    mine = setting_method == "own"
    colour = COLOUR if mine else style.COLOURS.get(setting_method, "black")
    return {
        "color": colour,
        "marker": "*" if mine else "D" if method.startswith("RPO V̂") else "o",
        "markersize": 11 if mine else 5,
    }


@style.styled
def standing(table: pd.DataFrame, mine: str) -> Figure:
    """Gain of every method (left), probability of improvement over it (right)."""
    rows = _over_all(table).sort_values("gain")
    places = np.arange(len(rows))
    figure, axes = style.panel_grid(1, 2, 5.0, 0.8 + 0.34 * len(rows), sharey=True)
    colours = [COLOUR if name == mine else "#444444" for name in rows.index]
    for axis, name in zip(axes[0], ("gain", "improvement"), strict=True):
        spread = style.errors(rows, name, f"{name}_low", f"{name}_high")
        for i, colour in enumerate(colours):
            axis.errorbar(
                rows[name].iloc[i], places[i], xerr=spread[:, [i]], fmt="o", color=colour, capsize=3
            )
    axes[0, 0].set(xlabel="gain over the reference, points", yticks=places, yticklabels=rows.index)
    axes[0, 0].axvline(0, color="black", lw=1)
    axes[0, 1].set(xlabel="probability of improvement over it", xlim=(-0.04, 1.04))
    axes[0, 1].axvline(0.5, color="black", lw=1)
    return figure


@style.styled
def reward_kl(table: pd.DataFrame, c: Comparison) -> Figure:
    """Gain against KL, a panel a regime."""
    columns = min(3, len(c.regimes))
    lines = -(-len(c.regimes) // columns)
    figure, axes = style.panel_grid(lines, columns, 4.2, 3.2)
    for axis in axes.flat[len(c.regimes) :]:
        axis.set_axis_off()
    for axis, regime in zip(axes.flat, c.regimes, strict=False):
        rows = table[table["regime"].eq(regime)].set_index("method")
        for method, settings in c.settings.items():
            row = rows.loc[[method]]
            axis.errorbar(
                row["kl"],
                row["gain"],
                xerr=style.errors(row, "kl", "kl_low", "kl_high"),
                yerr=style.errors(row, "gain", "gain_low", "gain_high"),
                linestyle="none",
                elinewidth=0.8,
                label=method,
                **_looks(method, settings[0].spec.method),
            )
        axis.axhline(0, color="black", lw=1)
        axis.set(title=regime.replace("_", " "), xlabel="KL, nats", ylabel="gain, points")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


@style.styled
def seconds(times: pd.DataFrame) -> Figure:
    """Seconds a step by method."""
    figure, axes = style.panel_grid(1, 1, 5.6, 0.8 + 0.3 * len(times))
    places = np.arange(len(times))[::-1]
    axes[0, 0].barh(
        places,
        times["seconds"],
        xerr=style.errors(times, "seconds", "seconds_low", "seconds_high"),
        color=[COLOUR, *["#9aa3ad"] * (len(times) - 1)],
    )
    axes[0, 0].set(yticks=places, yticklabels=times["method"], xlabel="seconds a step")
    return figure
