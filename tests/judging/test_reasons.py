"""Why there are no pairs, by the settings that leave none."""

import pandas as pd
import pytest

from rpo_nb.config.loading import load_profile
from rpo_nb.judging.reasons import why_no_pairs
from rpo_nb.judging.verdicts import make_pairs


def generations(profile) -> pd.DataFrame:
    """One prompt's completion of every method of a profile."""
    rows = [
        {"preset": name, "size": "small", "seed": 0, "method": method, "tau": preset.rpo_tau}
        | {"prompt_id": 0, "prompt": "p", "reference": "r", "completion": method}
        for name, preset in profile.presets.items()
        for method in profile.methods
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("chosen", "table", "named", "remedy"),
    [
        ({"methods": "rpo,kto"}, "table4", "rpo, kto", "methods=rpo,kto,sft"),
        ({"methods": "rpo"}, "table3", "methods is rpo", "methods=rpo,sft"),
        ({"methods": "sft,kto"}, "table3", "no rpo", "add it"),
        ({"preset": "released"}, "table4", "table4_presets", "released"),
    ],
)
def test_the_reason_is_the_setting_that_leaves_none(chosen, table, named, remedy):
    profile = load_profile("smoke", sizes="small", seeds="0", **chosen)
    assert make_pairs(generations(profile), profile, table=table).empty
    why = why_no_pairs(profile, table)
    assert named in why and remedy in why


def test_there_is_none_where_there_are_pairs():
    profile = load_profile("smoke", sizes="small", seeds="0", methods="rpo,sft")
    for table in ("table3", "table4"):
        assert len(make_pairs(generations(profile), profile, table=table))
        assert why_no_pairs(profile, table) == ""
