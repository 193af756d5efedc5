"""Runs: their columns, and whose random numbers they have."""

from dataclasses import replace

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
