"""What the deep run of a user's feedback needs beside that of the pocket world: answers of judges
that cost an hour, kept without the texts, and policies known wherever the feedback lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rpo_nb import store
from rpo_nb.config.keys import content_key
from rpo_nb.config.schema import Profile
from rpo_nb.experiment import generations, grid
from rpo_nb.judging import verdicts
from rpo_nb.judging.judges import Pointwise
from rpo_nb.running.staging import stage
from rpo_nb.studies import prediction, prediction_scores


class Remembered(Pointwise):
    """A judge by scores whose answers are kept beside it, without the texts. It is asked once for
    each text: one that it has scored keeps that score in later calls."""

    def __init__(self, judge: Pointwise, out: Path) -> None:
        super().__init__()
        self.name, self.identity, self.judge = judge.name, judge.identity, judge
        self.folder = out / "runs" / "judges" / "scores"
        self._known: dict[tuple[str, str], float] = {}

    def _score(self, rows: list[tuple[str, str]]) -> Sequence[float]:
        file = self.folder / f"{self.name}-{content_key([self.identity, rows])}.json"
        kept = store.read_sealed(file)
        if kept is None:
            asked = [row for row in rows if row not in self._known]
            if asked:
                scores = self.judge.score(*zip(*asked, strict=True)).tolist()
                self._known |= dict(zip(asked, scores, strict=True))
            kept = {"scores": [self._known[row] for row in rows]}
            store.write_sealed(file, kept)
        self._known |= dict(zip(rows, kept["scores"], strict=True))
        return kept["scores"]


def answers(profile: Profile, out: Path, to: Path) -> None:
    """Ask the judges by scores what Tables III and IV and a prediction's score ask of a profile's
    seeds; their verdicts go to the folder `to`, as those write them."""
    rows, bench = generations.load_generations(out), {}
    for seed in profile.seeds:
        judges = verdicts.judges_for(profile, out, seed)
        bench[seed] = [Remembered(judge, out) for judge in judges if isinstance(judge, Pointwise)]
    if not all(bench.values()):
        return  # the profile has none
    for table in verdicts.BASELINES:
        pairs = verdicts.make_pairs(rows, profile, table=table)
        if len(pairs):
            verdicts.ask(bench, pairs, to, table)
    first = {seed: judges[0] for seed, judges in bench.items()}
    foretold = profile.evaluation.judges[0] == first[profile.seeds[0]].name
    if foretold and (out / prediction.FILE).is_file():
        found = store.read_json(out / prediction.FILE)
        found["study"]["seeds"] = list(profile.seeds)
        prediction_scores.rewards(first, to, prediction_scores.texts(rows, found, profile))


def known(profile: Profile, out: Path) -> bool:
    """Whether all that the profile's policies said is here and was made with its settings."""
    for run in grid.cells(profile):
        kept = store.read_sealed(generations.completions_file(profile, run, out))
        if kept is None or kept["world"] != grid.cell_world(profile, run):
            return False
    return True


def vouch(profile: Profile, out: Path) -> None:
    """Let what the policies said be known by this profile's name of the feedback: elsewhere, and in
    a notebook, it has another. Only for what was just taken from a part or found to be `known`."""
    for run in grid.cells(profile):
        file = generations.completions_file(profile, run, out)
        kept = store.read_sealed(file)
        if kept is not None:
            store.write_sealed(file, kept | {"world": grid.cell_world(profile, run)})


def for_notebooks(profile: Profile, out: Path) -> None:
    """`vouch` with the names that the notebooks of a batch give, which are relative to `out`."""
    staged, here = stage(profile, out), Path.cwd()
    os.chdir(out)
    try:
        vouch(staged, Path())
    finally:
        os.chdir(here)
