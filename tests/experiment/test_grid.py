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


def test_two_policies_share_a_stream_of_random_numbers_only_if_they_are_one(profile):
    by_policy, by_stream = {}, {}
    for run in grid.cells(profile):
        policy = run.key if run.trained else ("reference", run.seed)
        by_policy.setdefault(policy, set()).add(run.stream)
        by_stream.setdefault(run.stream, set()).add(policy)
    assert len(by_policy) > 10
    assert all(len(streams) == 1 for streams in by_policy.values())
    assert all(len(policies) == 1 for policies in by_stream.values())
    one = grid.Run("sft", seed=0)
    assert one.stream != replace(one, seed=1).stream != replace(one, method="reference").stream
    assert replace(one, common=True).stream == replace(one, method="kto", common=True).stream


def test_equal_policies_write_independent_texts_unless_their_numbers_are_common(profile, tmp_path):
    prepared = inputs.prepare(profile, "small", 0)
    one = next(run for run in grid.cells(profile) if not run.trained)
    other = replace(one, method="sft")  # the reference by another name
    texts = [
        [
            generations.completions(profile, replace(run, common=common), prepared, tmp_path)
            for run in (one, other)
        ]
        for common in (False, True)
    ]
    assert texts[1][0] == texts[1][1]
    assert np.mean(np.array(texts[0][0]) != np.array(texts[0][1])) > 0.9
