"""Tables as the page shows them."""

import numpy as np
import pandas as pd
import pytest

from rpo_nb.reporting import layout, rendering, tables
from tests.reporting.results import PROFILE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (18421.2, "18,421"),
        (1.8e4, "18,000"),
        (0.0132345, "0.01323"),
        (8.88e-16, "8.9·10⁻¹⁶"),
        (-0.0, "0"),
        (-0.34567, "-0.3457"),
        (2.5, "2.5"),
        (np.nan, ""),
        (np.inf, "∞"),
        (None, ""),
        ("none", "none"),
        (True, "True"),
        (np.int64(87216), "87,216"),
    ],
)
def test_a_number_is_written_as_people_write_it(value, text):
    assert rendering.readable(value) == text


def test_numbers_stand_right_and_intervals_in_their_numbers_cell():
    frame = pd.DataFrame(
        {
            "method": ["kto", "rpo"],
            "gain": [0.5, -1.25],
            "gain_low": [0.25, np.nan],
            "gain_high": [0.75, np.nan],
            "n": [200, 1600],
            "lost": [np.nan, np.nan],
        }
    )
    found = layout.plain(frame)
    assert found["columns"][0] == "method" and len(found["columns"]) == 3  # an empty one is none
    assert found["kinds"] == ["text", "num", "num"]
    assert found["rows"] == [["kto", "+0.50 [0.25, 0.75]", "200"], ["rpo", "-1.25", "1,600"]]


def test_small_numbers_beside_large_ones_keep_their_digits():
    found = layout.plain(pd.DataFrame({"value": [800.0, 0.0132]}))
    assert found["rows"] == [["800"], ["0.0132"]]


def test_a_duel_says_who_is_ahead():
    table = pd.DataFrame(
        {
            "reading": "as written",
            "study": ["stronger", "on_policy"],
            "first": "RPO",
            "second": "DRO",
            "difference": [1.0, -0.5],
            "low": [0.5, -1.0],
            "high": [1.5, 0.0],
            "outcome": ["first", "not decided"],
        }
    )
    (part,) = layout.laid_out("regime_duels", table, "")["parts"]
    assert part["columns"][-2:] == ["stronger", "on policy"]
    assert part["rows"] == [
        ["as written", "RPO", "DRO", "+1.00 [0.50, 1.50]: ahead", "-0.50 [-1.00, 0.00]"]
    ]


def test_losses_of_ones_own_stand_by_regime_under_the_names_they_were_typed_with():
    rows = [
        {"regime": regime, "over": over, "method": method, "tried": 3, "page": page}
        | {"gain": gain, "gain_low": gain - 0.25, "gain_high": gain + 0.25, "kl": 1.0}
        for regime, over in (
            ("all", "on_policy, stronger; seeds 0, 1"),
            ("on_policy", "seeds 0, 1"),
        )
        for method, page, gain in (
            ("my_file.py:my_loss", "my_file-my_loss", 0.5),
            ("best_of_k", "my_file-my_loss", -0.5),
        )
    ]
    gains, _ = layout.laid_out("rivals", pd.DataFrame(rows), "tables/rivals.csv")["parts"]
    assert gains["columns"] == ["method", "tried", "page", "all", "on policy"]
    assert gains["rows"] == [
        ["my_file.py:my_loss", "3", "my_file-my_loss", *["+0.50 [0.25, 0.75]"] * 2],
        ["best-of-K SFT", "3", "my_file-my_loss", *["-0.50 [-0.75, -0.25]"] * 2],
    ]


def test_table2_compares_the_order_of_methods_and_not_levels(metrics):
    cells = tables.metric_cells(metrics, PROFILE)
    order = {"rpo": 3.0, "dro": 2.0, "kto": 1.0}
    sign = np.where(cells["metric"].eq("toxicity"), -1, 1)
    alike = cells.assign(value=cells["method"].map(order) * sign)
    found = layout.orders(alike)
    assert [one["preset"] for one in found] == list(PROFILE.presets)
    lines = {line["metric"]: line["cells"] for line in found[0]["lines"]}
    assert lines["ROUGE-L"]["small"] == {
        "here": "RPO > DRO > KTO",
        "paper": "RPO > DRO > KTO",
        "same": "same order",
    }
    tied = alike.assign(value=alike["value"].mask(alike["method"].eq("dro"), 3.0 * sign))
    cell = layout.orders(tied)[0]["lines"][1]["cells"]["small"]
    assert cell["here"] == "DRO = RPO > KTO" and cell["same"] == "another best"
    unmeasured = alike.assign(value=alike["value"].mask(alike["metric"].eq("meteor")))
    without = {line["metric"] for one in layout.orders(unmeasured) for line in one["lines"]}
    assert without == set(lines) - {"METEOR"} and "METEOR" in lines
    chips = [
        cell["status"]
        for section in layout.sections(cells, PROFILE)
        for line in section["lines"]
        for cell in line["cells"].values()
    ]
    assert set(chips) == {""}
