"""What policies said, read from an output folder: files, their columns, verdicts.

A *shelf* is what is asked alike: paper A's policies of one size and seed, a study of the partition
lab with one seed, paper B's policies of one seed. A *column* of it is one policy with its
completions of the shelf's prompts, which are rows of one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHOD_NAMES, METHODS, ROWS
from rpo_nb.config.schema import Profile
from rpo_nb.config.studies import REGIMES
from rpo_nb.store import STAMP, Damaged, read_json, unpacked

A, LAB, B = "paper A", "lab", "paper B"
NAME = re.compile(r"(?P<place>.*)-?seed(?P<seed>\d+)")  # of a file: the size comes before
COLUMN = ["file", "preset", "method", "policy", "tau", "split", "run"]  # what tells a column
ROW = ["row", "prompt_id", "prompt", "target", "completion", "reward", "learnt", "log_ratio"]
INDEX = "generations/runs.csv"  # which run wrote which rows; see `trace`
# the reference's further completions of the lab's prompts, which win rates are over
AGAIN = "reference, drawn again"
JUDGED = ("table3", "table4")
PAIR = ["preset", "size", "tau", "seed", "prompt_id", "method", "baseline"]  # what a verdict is on
SIDES = {"method", "baseline", "tie", None}  # what a verdict may be


class Shelf(NamedTuple):
    """study: A, LAB or B. place: the size of paper A, the study of the lab, "" of paper B. files:
    below the output folder; of paper A without completions those of the verdicts."""

    study: str
    place: str
    seed: int
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its file beside the page: of letters, digits and hyphens."""
        parts = [self.study.replace("paper ", ""), self.place, f"seed{self.seed}"]
        return "-".join(re.sub(r"[^\w.-]+", "_", part) for part in parts if part)


def profile_of(out: Path | str) -> Profile:
    """The profile that an output folder was made with. Raises ValueError where it does not say."""
    out = Path(out)
    if (out / "profile.yaml").is_file():
        return load_profile(str(out / "profile.yaml"))
    if (out / "manifest.json").is_file():
        manifest = read_json(out / "manifest.json")
        return load_profile(manifest["profile"], seeds=manifest.get("seeds", ""))
    raise ValueError(
        f"{out.name or out} has neither profile.yaml nor manifest.json, so nothing was reproduced "
        "there; name the folder of a reproduction, as results/pocket"
    )


def shelves(out: Path | str, profile: Profile) -> list[Shelf]:
    """Every shelf of an output folder, in the profile's order. What a run with other seeds, sizes,
    presets or regimes left there is none of them. Raises ValueError when it has neither completions
    nor verdicts."""
    out, found = Path(out), {}
    lab = profile.lab.seeds or profile.seeds
    seeds = {A: profile.seeds, LAB: lab, B: profile.paper_b.seeds}
    for study, folder in ((A, ""), (LAB, "lab"), (B, "paper_b")):
        for file in sorted((out / "generations" / folder).glob("*.jsonl.gz")):
            name = NAME.fullmatch(file.name.removesuffix(".jsonl.gz"))
            place = name and _place(study, name["place"].removesuffix("-"), profile)
            if name and place is not None and int(name["seed"]) in seeds[study]:
                key = (study, place, int(name["seed"]))
                found.setdefault(key, []).append(file.relative_to(out).as_posix())
    if not any(study == A for study, *_ in found):
        found |= {(A, size, seed): [] for size, seed in _judged_cells(out)}
    if not found:
        raise ValueError(
            f"{out.name or out} has neither generations/ nor verdicts/ of profile {profile.name}; "
            "reproduce makes them, and for a deep run in parts: python -m rpo_nb deep"
        )
    order = [A, LAB, B]
    places = [*profile.sizes, *profile.lab.regimes]

    def rank(key: tuple[str, str, int]) -> tuple:
        known = places.index(key[1]) if key[1] in places else len(places)
        return order.index(key[0]), known, key[1], key[2]

    return [Shelf(*key, tuple(found[key])) for key in sorted(found, key=rank)]


def _place(study: str, name: str, profile: Profile) -> str | None:
    """The place of a shelf whose file has this name before its seed: of paper A the size in
    "preset-size", both of which may have hyphens. None where it is not the profile's."""
    if study == A:
        sizes = [
            size
            for size in profile.sizes
            for preset in profile.presets
            if name == f"{preset}-{size}"
        ]
        return sizes[0] if sizes else None
    return None if study == LAB and name in set(REGIMES) - set(profile.lab.regimes) else name


def _judged_cells(out: Path) -> list[tuple[str, int]]:
    rows = verdicts(out)
    return [] if rows.empty else sorted(set(zip(rows["size"], rows["seed"], strict=True)))


def rows(out: Path | str, shelf: Shelf) -> pd.DataFrame:
    """The completions of a shelf: COLUMN and ROW, where row counts the lines of the file from 1 and
    what a study does not know is missing. Of a folder that keeps no texts the completions are
    missing, and the rows are those that verdicts name (row 0)."""
    out, parts = Path(out), []
    for file in shelf.files:
        found = pd.DataFrame(unpacked(out / file))
        if len(found):
            found = found.assign(file=file, row=range(1, len(found) + 1))
            parts.append(_alike(found, shelf, _runs(out, file, shelf, found)))
    if not parts:
        parts.append(_from_verdicts(of_shelf(verdicts(out), shelf)))
    return pd.concat(parts, ignore_index=True).reindex(columns=[*COLUMN, *ROW])


def _alike(found: pd.DataFrame, shelf: Shelf, runs: dict[str, str]) -> pd.DataFrame:
    """A file's rows by the names of COLUMN and ROW."""
    if shelf.study == B:
        kind = found["run"].str.removeprefix("online-").str.split("-").str[0]
        return found.assign(
            preset="",
            tau=float("nan"),
            policy=found["run"].replace("sft", "reference"),
            method=kind.replace("sft", "reference"),
            prompt_id=found.groupby(["run", "split"]).cumcount(),
            reward=found["truth"],
            log_ratio=found["policy_logp"] - found["ref_logp"],
            run=found["run"].map(runs),
        )
    if shelf.study == LAB:
        return found.assign(preset=found["preset"].fillna(""), split="")
    return found.assign(
        policy=_policies(found["method"], found["tau"]),
        split="",
        target=found["reference"],
        run=[runs.get(name) for name in stamp_names(found)],
    )


def stamp_names(rows: pd.DataFrame) -> list[str]:
    """What the stamp of a file of paper A calls the policy of each row, as "rpo 1.0"."""
    pairs = zip(rows["method"], rows["tau"], strict=True)
    return [f"{method} {None if pd.isna(tau) else float(tau)}" for method, tau in pairs]


def policy_name(method: str, tau: float | None = None) -> str:
    """What a policy of paper A is called: its method, of RPO with its temperature."""
    swept = method in ROWS and ROWS[method].swept and pd.notna(tau)
    return METHOD_NAMES.get(method, method) + (f" τ {tau:g}" if swept else "")


def _policies(methods: Iterable[str], taus: Iterable[float]) -> list[str]:
    return [policy_name(method, tau) for method, tau in zip(methods, taus, strict=True)]


def _runs(out: Path, file: str, shelf: Shelf, found: pd.DataFrame) -> dict[str, str]:
    """Run folders below runs/ that wrote a file, by what the file calls them: from this machine's
    runs, else from INDEX. Without what neither knows."""
    stamp = out / "runs" / "generations" / f"{Path(file).name}.json"
    if shelf.study == A and stamp.is_file():
        notes = {name: Path(str(path)).parts for name, path in read_json(stamp).items()}
        return {name: path[1] for name, path in notes.items() if path[:1] == ("runs",)}
    known = {}
    if shelf.study != LAB and (out / INDEX).is_file():
        index = pd.read_csv(out / INDEX, keep_default_na=False)
        known = dict(index.loc[index["file"].eq(file), ["name", "run"]].itertuples(index=False))
    if shelf.study == B:
        # a run that is here and says something else did not write it, whatever INDEX says
        known = {name: run for name, run in known.items() if not (out / "runs" / run).is_dir()}
        known |= _wrote(out / "runs" / "paper_b", found, shelf.seed)
    return known


def _wrote(runs: Path, found: pd.DataFrame, seed: int) -> dict[str, str]:
    """The runs of paper B that said what a file has, by name: no stamp says which wrote it. Of
    several that said the very same, the latest."""
    wrote, texts = {}, ["split", "prompt", "completion"]
    for name, mine in found.groupby("run"):
        done = sorted(
            runs.glob(f"{name}-seed{seed}-*/{STAMP}"), key=lambda stamp: stamp.stat().st_mtime_ns
        )
        for folder in (stamp.parent for stamp in done):
            said = pd.DataFrame(unpacked(folder / "completions.jsonl.gz"))
            if said[texts].to_numpy().tolist() == mine[texts].to_numpy().tolist() and np.allclose(
                said["policy_logp"], mine["policy_logp"], equal_nan=True
            ):
                wrote[name] = f"{runs.name}/{folder.name}"
    return wrote


# ---- verdicts ------------------------------------------------------------------------------------


def verdicts_of(out: Path | str, table: str) -> pd.DataFrame:
    """The stored verdicts of all judges on a table: PAIR, judge, first_order, second_order,
    verdict, and of judges by log-odds log_odds and verdict_average. Raises Damaged for what no
    judge gives."""
    parts = []
    for file in sorted((Path(out) / "verdicts").glob(f"{table}-*.jsonl.gz")):
        found = unpacked(file)
        if any(row["verdict"] not in SIDES for row in found):
            raise Damaged(f"verdicts/{file.name} has a verdict that no judge gives; judge again")
        parts += [pd.DataFrame(found)] if found else []
    columns = [*PAIR, "judge", "first_order", "second_order", "verdict"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def verdicts(out: Path | str) -> pd.DataFrame:
    """`verdicts_of` Tables III and IV, a pair and a judge once, though both tables ask about it. A
    pair is a completion of RPO and a baseline's."""
    parts = [found for found in (verdicts_of(out, table) for table in JUDGED) if len(found)]
    if not parts:
        return verdicts_of(out, JUDGED[0])
    return pd.concat(parts).drop_duplicates([*PAIR, "judge"], ignore_index=True)


def of_shelf(found: pd.DataFrame, shelf: Shelf) -> pd.DataFrame:
    """The verdicts on a shelf's completions; none outside paper A."""
    here = found["size"].eq(shelf.place) & found["seed"].eq(shelf.seed)
    return found[here & (shelf.study == A)].reset_index(drop=True)


def _from_verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """Rows without completions, of the two sides of every pair."""
    keys = ["preset", "method", "tau", "prompt_id"]
    mine = found[keys]
    theirs = found[[*keys, "baseline"]].assign(method=found["baseline"], tau=float("nan"))
    both = pd.concat([theirs[keys], mine]).drop_duplicates()
    rank = both["method"].map({name: i for i, name in enumerate(METHODS)})
    both = both.assign(rank=rank).sort_values(
        ["preset", "rank", "tau", "prompt_id"], ignore_index=True
    )
    names = _policies(both["method"], both["tau"])
    return both.assign(file="", policy=names, split="", run="", row=0)
