"""Whether today's code gives the numbers that the code of an earlier commit gave.

    python -m benchmarks.same_code COMMIT [--seed 0] [--only stronger lab paper_b]
    python -m benchmarks.same_code         # of what is kept already, shown again

Results are keyed by the code that makes them, so an edit of it makes them stale, also one that
changes no number. Here the modules that changed since COMMIT are taken for the same, the deep run's
parts of one seed are made with them from nothing, and compared with the committed ones, file by
file, weights by their hashes. Only where all are the same but for seconds,
rpo_nb/running/same_code.json keeps the modules, and same_code.csv says what was compared, and of
which studies that use them nothing was. Else the files that differ are named.

Parts are the same on the kind of processor that made them only. The grid's parts of seeds 0 to 3
hold judges that an Intel trained beside policies of an AMD, so they come out whole on neither.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from rpo_nb.running import provenance
from rpo_nb.store import atomic_write, write_json

RESULTS = provenance.PACKAGE.parent / "results" / "pocket-deep"
FILE = Path(__file__).with_name("same_code.csv")
# of a run's own time, and hashes of files that hold it; the files themselves are compared
TIMED = ("seconds", "sha256", "peak_memory_mb")


def changed(commit: str) -> dict[str, tuple[str, str]]:
    """Module -> the hash of its code today and what it counted as at the commit ("" of a module
    that the commit does not have), of all modules that a step is keyed by."""
    names = set().union(*map(_closure, provenance.STEPS))
    same = file_at(commit, provenance.SAME)
    known = json.loads(same) if same else {}
    found = {}
    for name in sorted(names):
        file = module_file(name)
        source = file_at(commit, file)
        now = provenance.code_of(file.read_bytes())
        then = "" if source is None else provenance.code_of(source)
        if now != then:
            found[name] = now, known.get(name, {}).get(then, then)
    return found


def kept() -> dict[str, tuple[str, str]]:
    """The same of the modules whose code of today counts as earlier code already."""
    same = json.loads(provenance.SAME.read_text(encoding="utf-8"))
    return {
        name: (code, was[code])
        for name, was in same.items()
        if (code := provenance.code_of(module_file(name).read_bytes())) in was
    }


def module_file(name: str) -> Path:
    path = provenance.PACKAGE.joinpath(*name.split("."))
    file = path.with_suffix(".py")
    return file if file.is_file() else path / "__init__.py"


def short(commit: str) -> str:
    """The hash of a commit that git knows by some name, which may mean another one later."""
    command = ["git", "-C", str(provenance.PACKAGE.parent), "rev-parse", "--short", commit]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def file_at(commit: str, file: Path) -> bytes | None:
    """A file as it was at a commit; None where it was not there."""
    root = provenance.PACKAGE.parent
    name = f"{commit}:{file.relative_to(root).as_posix()}"
    done = subprocess.run(["git", "-C", str(root), "show", name], capture_output=True)
    return None if done.returncode else done.stdout


def told(name: str, content: bytes) -> Any:
    """What a file of a part says, without what differs from run to run."""
    if name.endswith(".json"):
        return _timeless(json.loads(content))
    if name.endswith(".csv"):
        table = pd.read_csv(io.BytesIO(content))
        return table[[c for c in table if "seconds" not in c]].to_csv()
    return content


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def different(ours: dict[str, bytes], theirs: dict[str, bytes]) -> list[str]:
    """The names of files that one of two parts lacks, or that say something else."""
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours
        or name not in theirs
        or (ours[name] != theirs[name] and told(name, ours[name]) != told(name, theirs[name]))
    )


def remade(seed: int, only: list[str], place: Path) -> pd.DataFrame:
    """A row a part of the seed (part, files, different), each made from nothing below `place`."""
    from rpo_nb.config.loading import load_profile
    from rpo_nb.running import parts
    from rpo_nb.studies import deep

    profile = load_profile("pocket-deep")
    out, rows = place / "out", []
    for part in deep.parts_of(profile):
        committed = RESULTS / deep.PARTS / deep.file_of(out, part).name
        if part.study == "tuning":  # its choice is read, not made
            atomic_write(deep.file_of(out, part), committed.read_bytes())
            deep.bring(profile, part, out)
        elif part.seed == seed and (not only or part.study in only):
            ours = parts.read(deep.make(profile, part, out)).files
            apart = different(ours, parts.read(committed).files)
            rows.append({"part": part.name, "files": len(ours), "different": apart})
            print(f"{part.name}: {len(apart)} of {len(ours)} files differ {apart[:3]}", flush=True)
    return pd.DataFrame(rows)


def unseen(modules: Collection[str], compared: Collection[str]) -> list[str]:
    """The studies whose parts are keyed by one of the modules and of which none was compared; the
    regimes of the lab are one."""
    from rpo_nb.studies.deep import CODE, REGIME

    keyed = {
        study: any(set(modules) & _closure(step) for step in steps)
        for study, steps in {**CODE, "regime": REGIME}.items()
    }
    seen = {study if study in CODE else "regime" for study in compared}
    return sorted(study for study, own in keyed.items() if own and study not in seen)


def _closure(step: str) -> set[str]:
    modules, given = provenance.STEPS[step]
    return provenance.closure(modules, without=(*given, *provenance.ALWAYS_GIVEN))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("commit", nargs="?", help="default: what same_code.json keeps already")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="studies; default all of the seed")
    given = parser.parse_args()
    commit = short(given.commit) if given.commit else ""
    file, modules = provenance.SAME, changed(commit) if commit else kept()
    same = json.loads(file.read_text(encoding="utf-8"))
    for name, (now, then) in modules.items():
        same.setdefault(name, {})[now] = then
    with tempfile.TemporaryDirectory() as place:
        os.environ["RPO_NB_CACHE"] = f"{place}/cache"
        # of this process only, until it is shown
        provenance.SAME = write_json(Path(place) / file.name, same)
        found = remade(given.seed, given.only, Path(place))
    if found.empty or found["different"].map(len).any():
        print("the numbers are not the same, so the code keeps its new key")
        return 1
    write_json(file, same)
    studies = [part.rpartition("-seed")[0] for part in found["part"]]
    table = pd.DataFrame(
        {
            "module": name,
            "code": now[:12],
            "same_as": then[:12],
            "commit": commit,
            "parts": " ".join(found["part"]),
            "files": found["files"].sum(),
            "unseen": " ".join(unseen([name], studies)),
        }
        for name, (now, then) in modules.items()
    )
    earlier = [pd.read_csv(FILE)] if FILE.is_file() else []
    atomic_write(FILE, pd.concat([*earlier, table]).to_csv(index=False).encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
