"""Runs: their columns, and whose random numbers they have."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rpo_nb.config import loading
from rpo_nb.experiment import generations, grid, inputs


@pytest.fixture(scope="module")
def profile():
    return loading.load_profile("smoke", sizes="small", seeds="0", taus="0.1,1.0")


def test_no_temperature_is_none_in_a_run_and_nan_in_a_frame(profile):
    runs = grid.cells(profile)
    frame = pd.DataFrame([run.columns for run in runs])
    assert frame["tau"].dtype == float and not (frame["tau"] == 0).any()
    assert [run.tau is None for run in runs] == frame["tau"].isna().tolist()
    keys = frame[grid.KEYS].itertuples(index=False, name=None)
    assert [grid.cell_of(key) for key in keys] == [run.cell for run in runs]
    without = {run.method for run in runs if run.tau is None}
    assert without == {"reference", "sft", "best_of_k", "kto"}


def test_runs_of_one_draw_have_their_random_numbers_in_common_and_others_do_not(profile, tmp_path):
    reference = grid.cells(profile)[0]
    prepared = inputs.prepare(profile, "small", 0)

    def texts(draw, folder):
        run = replace(reference, draw=draw)
        return generations.completions(profile, run, prepared, tmp_path / folder)

    assert texts("", "one") == texts("", "two") != texts("other", "one")
    assert texts("other", "one") == texts("other", "two") != texts("another", "one")


def test_two_policies_have_random_numbers_in_common_only_if_they_are_one(profile):
    by_policy, by_draw = {}, {}
    for run in grid.cells(profile):
        policy = run.method if run.recipe is None else run.key
        by_policy.setdefault(policy, set()).add(run.sampling_seed)
        by_draw.setdefault(run.sampling_seed, set()).add(policy)
    assert len(by_policy) > 10
    assert all(len(draws) == 1 for draws in by_policy.values())
    assert all(len(policies) == 1 for policies in by_draw.values())
    one = next(run for run in grid.cells(profile) if run.trained)
    assert one.sampling_seed != replace(one, seed=1).sampling_seed


def test_equal_policies_write_independent_texts_unless_their_numbers_are_common(profile, tmp_path):
    prepared = inputs.prepare(profile, "small", 0)
    run = replace(next(run for run in grid.cells(profile) if not run.trained), draw="")
    other = replace(run, method="sft")  # the reference by another name
    common, alone = (
        [np.array(generations.completions(profile, one, prepared, tmp_path)) for one in pair]
        for pair in ((run, other), (run.alone(), other.alone()))
    )
    assert (common[0] == common[1]).all()
    assert (alone[0] != alone[1]).mean() > 0.9
