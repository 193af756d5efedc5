"""One row a method: what it reads is in its recipe, and nowhere else is a method told by name."""

import pytest

from rpo_nb.config.loading import load_profile
from rpo_nb.config.methods import METHODS, ROWS, tau_of
from rpo_nb.config.objective import Preset
from rpo_nb.experiment import grid
from rpo_nb.running.jobs import units
from rpo_nb.training.losses import LOSSES

OTHER = {
    "reduce": {"sum": "mean", "mean": "sum"},
    "partition": {"leave_one_out": "none", "none": "leave_one_out", "empirical": "none"},
    "kto_kl": {"mismatched": "matched", "matched": "mismatched"},
    "value_pooling": {"masked": "all", "all": "masked"},
    "value_detach": {True: False, False: True},
}


@pytest.fixture(scope="module")
def profile():
    return load_profile("smoke", sizes="small", seeds="0", preset="paper")


def changed(preset: Preset, field: str) -> Preset:
    """The preset with another value of one field."""
    value = getattr(preset, field)
    other = OTHER[field][value] if field in OTHER else value + 0.25
    return preset.model_copy(update={field: other})


def key(profile, preset: Preset, method: str) -> str:
    return grid.recipe(profile, preset, method, "small", tau_of(preset, method), 0).key


@pytest.mark.parametrize("method", [name for name, row in ROWS.items() if row.objective])
def test_a_run_is_another_for_the_fields_that_its_row_says_and_for_no_others(method, profile):
    row, preset = ROWS[method], profile.presets["paper"]
    read = {*row.reads, *([row.temperature] if row.temperature else [])}
    for field in set(Preset.model_fields) - {"decoding"}:
        moved = key(profile, changed(preset, field), method) != key(profile, preset, method)
        assert moved is (field in read), field


def test_every_row_can_be_trained_and_shown():
    assert {row.objective for row in ROWS.values()} - {None} <= set(LOSSES)
    assert all((row.temperature is None) is (row.symbol == "") for row in ROWS.values())
    assert len({row.colour for row in ROWS.values()}) == len({row.title for row in ROWS.values()})
    assert len(METHODS) == len(ROWS)


def test_the_bar_counts_the_policies_of_the_grid():
    profile = load_profile("pocket", methods="reference,sft,best_of_k,kto,dro,rpo,qrpo")
    counted = {job: n for job, n in units(profile).items() if job.startswith("03_train")}
    runs = grid.plan(profile)
    for size in profile.sizes:
        for seed in profile.seeds:
            mine = [run for run in runs if (run.size, run.seed) == (size, seed)]
            assert counted[f"03_train-{size}-seed{seed}"] == 1 + len(mine)
