"""The deep run: a profile with many seeds, made in parts by study and seed.

Each part goes, when it ends, into one small file of <out>/parts/ (see `running.parts`): committed,
it is there for every later start on any machine. A start takes the parts that fit today's settings
and code, makes those that are missing until its time is up, and, when all are there, the tables and
the report. Weights are trained where something is missing that only they can say.

Of a user's feedback a seed of paper A is two parts: its policies with their completions, and what
its judge said of them. They hold no text of the feedback.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from rpo_nb import store
from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import generations, inputs
from rpo_nb.judging import verdicts
from rpo_nb.running import parts
from rpo_nb.running.jobs import LAB, MADE, PAPER_B, TABLES, jobs
from rpo_nb.running.manifest import JOBS, write_manifest
from rpo_nb.running.processes import only_one, parallel_jobs
from rpo_nb.running.provenance import cache_dir, source_key, step_code
from rpo_nb.studies import (
    deep_feedback,
    insight,
    lab,
    lab_runs,
    lab_tables,
    truth,
    tuning,
)
from rpo_nb.studies.paper_b import runs as paper_b
from rpo_nb.studies.paper_b import tables as paper_b_tables
from rpo_nb.studies.paper_b.world import World

PARTS = "parts"
TOLD = ("made again", "on this machine")  # ends of the lines that a reader of many parts wants
# what a study's part does not depend on
FREE = {"name", "description", "expect", "feedback_overrides"}
CODE = {  # study -> the steps whose code a part depends on, keys of provenance.STEPS
    "grid": ("all of the grid", "reward model"),
    "lab": ("all of the lab", "gradient variance", "truth pool"),
    "paper_b": ("paper B",),
    "policies": ("all of the grid",),
    "answers": ("all of the grid", "reward model", "verdicts"),
}
REGIME = ("all of the lab",)
ALWAYS = (*TABLES, LAB, PAPER_B)  # the notebooks whose tables are of all seeds
ONCE = ("01_data_prep", "02_rpo_derivation")  # notebooks of the first seed


class Part(NamedTuple):
    """A study with one seed. study: "tuning" (of a tuning seed), "grid" (paper A), a regime of the
    lab, "lab" (the rest of it), "tuned" (every method at the settings that tuning chose),
    "paper_b"; of a user's feedback "policies" and "answers" (of the judges by scores)."""

    study: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.study}-seed{self.seed}"


def parts_of(profile: Profile) -> list[Part]:
    """Every part of a profile: those that choose settings, then seed by seed, so that what is there
    early is whole seeds."""
    if not profile.pocket_world:
        return [Part(study, seed) for seed in profile.seeds for study in ("policies", "answers")]
    tuned = profile.lab.tuning > 0
    found = [Part("tuning", seed) for seed in profile.lab.tuning_seeds if tuned]
    for seed in dict.fromkeys((*profile.seeds, *lab.seeds_of(profile), *profile.paper_b.seeds)):
        if seed in profile.seeds:
            found.append(Part("grid", seed))
        if seed in lab.seeds_of(profile):
            found += [
                Part(name, seed) for name in (*profile.lab.regimes, "lab", *["tuned"] * tuned)
            ]
        if seed in profile.paper_b.seeds and profile.paper_b.reproduce:
            found.append(Part("paper_b", seed))
    return found


def of_seed(profile: Profile, seed: int) -> Profile:
    """The profile with one seed, and one process."""
    return profile.model_copy(
        update={
            "seeds": (seed,),
            "lab": profile.lab.model_copy(update={"seeds": (seed,), "workers": 1}),
            "paper_b": profile.paper_b.model_copy(update={"seeds": (seed,), "processes": 1}),
        }
    )


def key_of(profile: Profile, part: Part) -> str:
    """What a part is made from: its settings, its seed and the code."""
    of_the_grid = dict.fromkeys(("grid", "policies", "answers"), {"lab", "paper_b"})
    others = {"paper_b": {"lab"}, **of_the_grid}.get(part.study, {"paper_b"})
    settings = of_seed(profile, part.seed).model_dump(mode="json", exclude=FREE | others)
    if not profile.pocket_world:  # wherever the feedback lies
        settings["data"]["source"] = source_key(profile.data.source, profile.data.revision)
    first = part.seed == profile.seeds[0]
    code = [step_code(step) for step in CODE.get(part.study, REGIME)]
    return content_key([part, first, settings, code])


# ---- a part is made ------------------------------------------------------------------------------


def _policies(profile: Profile, out: Path) -> None:
    generations.ensure_runs(profile, out, progress=False)
    for size in profile.sizes:
        inputs.prepare(profile, size, profile.seeds[0])


def _grid(profile: Profile, out: Path, first: bool) -> None:
    seed = profile.seeds[0]
    _policies(profile, out)
    verdicts.judges_for(profile, out, seed)
    insight.rewards_and_kl(profile, out)
    for size in profile.sizes if first else ():
        insight.frontier(profile, size, seed)


def _regime(profile: Profile, out: Path, name: str) -> None:
    studies = [study for study in lab.map_studies(profile) if study.name == name]
    lab_runs.measure(studies, out, progress=False)
    lab_tables.regimes(studies, lab_runs.prepared(studies), out)


def _lab(profile: Profile, out: Path, first: bool) -> None:
    few = lab.low_data_studies(profile)
    for find in (lab.ablation_studies, lab.robustness_studies, lab.data_studies):
        if studies := find(profile):
            lab_runs.measure(studies, out, progress=False)
    lab_tables.low_data_table(lab_runs.measure(few, out, progress=False), few)
    b, size = profile.lab, lab.size_of(profile)
    sizes = {"prompts": b.bias_prompts, "completions": b.bias_completions, "truth": b.truth_samples}
    for name in ("on_policy", "stronger") if first else ():
        truth.sampled(profile, size, profile.lab.seeds[0], name, **sizes)


def _tuning(profile: Profile, out: Path, seed: int) -> None:
    lab_runs.measure(
        [study for study in tuning.tuning_studies(profile) if study.seed == seed],
        out,
        progress=False,
    )


def _chosen(profile: Profile, out: Path) -> tuning.Chosen:
    trials = tuning.tuning_studies(profile)
    return tuning.choose(
        tuning.tried(lab_runs.measure(trials, out, progress=False), trials, profile), profile
    )


def _tuned(profile: Profile, out: Path, chosen: tuning.Chosen) -> None:
    lab_runs.measure(tuning.reported_studies(profile, chosen), out, progress=False)


def _paper_b(profile: Profile, out: Path) -> None:
    world = World(profile, profile.paper_b.seeds[0], out)
    if any(store.sealed(world.folder(run)) is None for run in world.runs):
        store.whole(world.path)  # first: its bytes are in the names of the policies
    paper_b.ensure(profile, out, progress=False)
    results, *_ = paper_b.load(profile, out)
    paper_b_tables.reward_models(profile, out, results)


def make(profile: Profile, part: Part, out: Path) -> Path:
    """Make a part, from whatever of it is here, and pack it; returns its file."""
    own, first = of_seed(profile, part.seed), part.seed == profile.seeds[0]
    with redirect_stdout(StringIO()) as said:
        # before what is recorded: the runs that it is read from are in tuning's own parts
        chosen = _chosen(own, out) if part.study == "tuned" else {}
        if part.study == "answers":  # the texts, from the part before
            generations.ensure_runs(own, out, progress=False)
        with store.recorded() as found:
            if part.study == "grid":
                _grid(own, out, first)
            elif part.study == "policies":
                _policies(own, out)
            elif part.study == "answers":
                with TemporaryDirectory() as unused:  # a table has the verdicts of all seeds
                    deep_feedback.answers(own, out, Path(unused))
            elif part.study == "lab":
                _lab(own, out, first)
            elif part.study == "tuning":
                _tuning(profile, out, part.seed)
            elif part.study == "tuned":
                _tuned(own, out, chosen)
            elif part.study == "paper_b":
                _paper_b(own, out)
            else:
                _regime(own, out, part.study)
    for line in said.getvalue().splitlines():
        if line.endswith(TOLD):
            print(line, flush=True)
    sizes = {lab.size_of(profile), profile.paper_b.size or next(iter(profile.sizes))}
    if not profile.pocket_world:  # made from its package or the hub wherever it is needed
        found = {
            path for path in found if not path.is_relative_to(cache_dir().resolve() / "models")
        }
    # notebooks show things with the first seed's references of these sizes
    shown = tuple(f"cache/references/{size}-seed{profile.seeds[0]}-" for size in sorted(sizes))
    return parts.pack(
        file_of(out, part),
        {"key": key_of(profile, part)},
        found,
        _roots(out),
        keep=lambda name: part.study == "grid" and name.startswith(shown),
    )


def file_of(out: Path, part: Part) -> Path:
    return out / PARTS / f"{part.name}.tar.xz"


def _roots(out: Path) -> dict[str, Path]:
    return {"out": out.resolve(), "cache": cache_dir().resolve()}


def _note(out: Path, part: Part) -> Path:
    """Tells which file of a part is installed here."""
    return out / "runs" / PARTS / f"{part.name}.json"


def bring(profile: Profile, part: Part, out: Path) -> bool:
    """Whether a part is here: its file fits today's settings and code and is installed. One that
    does not fit or is damaged is told in a line."""
    file, note = file_of(out, part), {"key": key_of(profile, part)}
    if not file.is_file():
        return False
    note["file"] = store.file_digest(file)
    fits = part.study != "policies" or deep_feedback.known(of_seed(profile, part.seed), out)
    if store.read_sealed(_note(out, part)) != note or not fits:
        try:
            packed = parts.read(file)
            if packed.header["key"] != note["key"]:
                store.again(file, "was made with other settings or other code")
                return False
            parts.install(packed, _roots(out))
        except store.Damaged as error:
            print(f"{part.name}: {error}: made again", flush=True)
            return False
        if part.study == "policies":
            deep_feedback.vouch(of_seed(profile, part.seed), out)
        store.write_sealed(_note(out, part), note)
    return True


def _made(profile: Profile, wanted: Sequence[Part], out: Path, until: float) -> int:
    """Make parts one after another, none is begun after `until`; returns how many. A line tells of
    each what it cost."""
    for done, part in enumerate(wanted):
        started = time.time()
        if started > until:
            return done
        size = make(profile, part, out).stat().st_size
        bring(profile, part, out)
        print(f"{part.name}: {time.time() - started:.0f} s, {size / 1e6:.2f} MB", flush=True)
    return len(wanted)


# ---- the run -------------------------------------------------------------------------------------


def run(
    profile: Profile,
    out: Path,
    *,
    minutes: float | None = None,
    most: int | None = None,
    cores: int | None = None,
) -> bool:
    """Take the parts that are here and make others, until `minutes` are over (none is begun later)
    or `most` are made; returns whether all are here. Interrupted, the next start goes on within the
    part. Some seeds are made at a time; the parts of one share policies, and so come in turn."""
    from joblib import Parallel, delayed

    until = time.time() + 60 * minutes if minutes else float("inf")
    wanted = parts_of(profile)
    with only_one(out):
        left = [part for part in wanted if not bring(profile, part, out)]
        print(f"{len(wanted) - len(left)} of {len(wanted)} parts are here", flush=True)
        chosen, made = left[:most], 0
        # what tuning chooses is trained after it
        for phase in (True, False):
            now = [part for part in chosen if (part.study == "tuning") is phase]
            seeds = list(dict.fromkeys(part.seed for part in now))
            at_once = max(1, min(cores or parallel_jobs(profile), len(seeds)))
            made += sum(
                Parallel(n_jobs=at_once, batch_size=1, pre_dispatch=at_once)(
                    delayed(_made)(profile, [part for part in now if part.seed == seed], out, until)
                    for seed in seeds
                )
            )
        missing = len(left) - made
        if missing:
            print(f"{missing} parts are missing")
            return False
        _mark(profile, out)
        write_manifest(profile, out)  # of all seeds, where tables of fewer were made before
        return True


def _mark(profile: Profile, out: Path) -> None:
    """Write the generations files that are missing, and of a user's feedback the verdicts, and mark
    the notebooks that train as done: the parts did their work."""
    for seed in profile.seeds:
        own = of_seed(profile, seed)
        generations.ensure_runs(own, out, progress=False)
        for size in own.sizes:
            files = [generations.generations_file(out, p, size, seed) for p in own.presets]
            store.write_sealed(
                out / JOBS / f"03_train-{size}-seed{seed}.done",
                {file.relative_to(out).as_posix(): store.file_digest(file) for file in files},
            )
    if not profile.pocket_world:
        deep_feedback.answers(profile, out, out)
        deep_feedback.for_notebooks(profile, out)


def notebooks(profile: Profile, out: Path) -> list[str]:
    """The notebooks to run when all parts are here: those of all seeds, and those of the first that
    a clone does not have the tables of."""
    once = [name for name in ONCE if not (out / MADE[name]).is_file()]
    return [name for name in (*once, *ALWAYS) if name in jobs(profile)]
