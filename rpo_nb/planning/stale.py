"""What no profile's results need: caches and policies of earlier code, data, settings or weights.

Needed is what a rerun of the reproductions in results/ would look for, by the same keys. Replies of
judges (verdicts/ of the cache) are never listed: asking again may cost money.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rpo_nb import store
from rpo_nb.config.loading import load_profile, repository_root
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import generations, grid, inputs, references
from rpo_nb.judging import verdicts
from rpo_nb.running import batch, processes
from rpo_nb.running.provenance import CACHES, STEPS, cache_dir, model_key, step_code
from rpo_nb.running.staging import placed
from rpo_nb.store import LEFT_OVER, STAMP, Damaged, read_json
from rpo_nb.studies import lab, tuning
from rpo_nb.studies.paper_b.grid import GATED, LEARNT
from rpo_nb.studies.paper_b.world import World

# folders of the cache whose entries name their model and code
OF_A_MODEL = ("reference_logps", "reference_samples", "pools", "gradients")


class Stale(NamedTuple):
    """A file or folder that can go, its bytes, and why."""

    path: Path
    bytes: int
    why: str


def outputs(more: Sequence[Path] = ()) -> list[Path]:
    """The output folders whose results count: those in results/ that were reproduced, and more."""
    found = [file.parent for file in sorted((repository_root() / "results").glob("*/profile.yaml"))]
    return list(dict.fromkeys([*found, *(out for out in more if (out / "profile.yaml").is_file())]))


def stale(outs: Sequence[Path]) -> list[Stale]:
    """What none of these output folders needs: in the cache, and in their own runs/. Makes and
    fetches nothing. Raises ValueError for a profile that cannot be read: what it needs is not
    known."""
    profiles = {out: placed(load_profile(str(out / "profile.yaml")), out) for out in outs}
    needed = {folder for profile in profiles.values() for folder in _references(profile)}
    found = _of_cache(needed)
    for out, profile in profiles.items():
        runs = _runs(profile, out)
        if runs is not None:
            there = [
                folder
                for pattern in ("*-seed*", "judges/reward_model-*", "paper_b/*-seed*")
                for folder in (out / "runs").glob(pattern)
                if not folder.name.startswith("own-")  # of a loss of the user's own: lab --method
            ]
            found += [
                (folder, "of earlier code, data or settings")
                for folder in there
                if folder not in runs and folder.is_dir()
            ]
    return [Stale(path, size_of(path), why) for path, why in sorted(dict(found).items())]


def clean(more: Sequence[str] = (), *, yes: bool = False) -> int:
    """`python -m rpo_nb clean --stale`: list it, with sizes; remove it where that was said before
    or is answered with yes. more: output folders besides those in results/."""
    outs = outputs([Path(out).expanduser().resolve() for out in more])
    if not outs:
        raise ValueError(
            "nothing is reproduced in results/, so what is needed is not known; name "
            "the folders with --output-dir"
        )
    names = ", ".join(map(processes.shown, outs))
    print(f"what is needed is what a rerun of {names} would look for")
    with contextlib.ExitStack() as locks:
        for out in outs:
            locks.enter_context(processes.only_one(out))
        half = store.sweep(cache_dir(), CACHES) + sum(
            store.sweep(out, batch.RESULTS) for out in outs
        )
        if half:
            print(f"removed {half} files and folders that killed processes left half written")
        found = stale(outs)
        for path, size, why in found:
            print(f"{size / 1e6:10.1f} MB  {processes.shown(path)}: {why}")
        total = f"{len(found)} files and folders, {sum(item.bytes for item in found) / 1e6:.1f} MB"
        if not found:
            print("nothing is stale")
        elif (
            yes
            or sys.stdin.isatty()
            and input(f"remove these {total}? [y/N] ").strip().lower() in ("y", "yes")
        ):
            remove(found)
            print(f"removed {total}")
        else:
            print(f"nothing was removed; --yes removes these {total}")
    return 0


def remove(found: Sequence[Stale]) -> None:
    for item in found:
        if item.path.is_dir():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def _studies(profile: Profile) -> list[lab.Study]:
    if not profile.pocket_world:
        return []
    return [*lab.studies_of(profile), *tuning.possible_studies(profile)]


def _references(profile: Profile) -> Iterator[Path]:
    """The references of a profile's grid, lab and paper B."""
    wanted = {(size, seed): profile for size in profile.sizes for seed in profile.seeds}
    wanted |= {
        (profile.paper_b.size or next(iter(profile.sizes)), seed): profile
        for seed in profile.paper_b.seeds
    }
    every = [
        *((size, seed, profile) for size, seed in wanted),
        *((s.size, s.seed, s.profile) for s in _studies(profile)),
    ]
    seen = set()
    for size, seed, of in every:
        name = (size, seed, of.sizes[size].demonstrator)
        if name not in seen:
            seen.add(name)
            held_out = (
                None
                if of.pocket_world or of.sizes[size].id != "pocket"
                else inputs.splits(of, seed).held_out
            )
            yield references.expected(of, size, seed, held_out)


def _of_cache(needed: set[Path]) -> list[tuple[Path, str]]:
    cache = cache_dir()
    found = [
        (folder, "of no profile's reference")
        for folder in (cache / "references").glob("*-seed*")
        if _is_made(folder) and folder not in needed
    ]
    models, code = (
        {model_key(folder) for folder in needed if folder.is_dir()},
        {step_code(step) for step in STEPS},
    )
    for kind in OF_A_MODEL:
        for folder in filter(_is_made, (cache / kind).glob("*")):
            try:
                stamp = read_json(folder / STAMP)
                model, made_by = stamp["model"], stamp["code"]
            except (FileNotFoundError, Damaged, KeyError, TypeError):
                found.append((folder, "without a stamp: of an earlier version"))
                continue
            if model not in models or made_by not in code:
                found.append(
                    (folder, "of another model" if model not in models else "of earlier code")
                )
    return found


def _is_made(path: Path) -> bool:
    """A folder that is finished, not one that is being made."""
    return path.is_dir() and not LEFT_OVER.fullmatch(path.name)


def _runs(profile: Profile, out: Path) -> set[Path] | None:
    """The folders in <out>/runs that a rerun would use; None where a reference is not here, so that
    its names are not known."""
    folders = {
        generations.completions_file(profile, run, out).parent for run in grid.cells(profile)
    }
    folders |= {study.file(spec, out).parent for study in _studies(profile) for spec in study.specs}
    if not all(folder.is_dir() for folder in _references(profile)):
        return None
    if "reward_model" in profile.evaluation.judges or not profile.pocket_world:
        seeds = dict.fromkeys(
            (*profile.seeds, *(() if profile.pocket_world else profile.paper_b.seeds))
        )
        size = verdicts.judge_size(profile)
        folders |= {
            verdicts.reward_model_folder(
                profile, out, seed, inputs.reference_path(profile, size, seed)
            )
            for seed in seeds
        }
    for seed in profile.paper_b.seeds if (out / "runs" / "paper_b").is_dir() else ():
        world = World(profile, seed, out)
        folders |= {world.folder(run) for run in world.runs} | {
            world.reward_model_folder(judge) for judge in (LEARNT, GATED)
        }
    return folders
