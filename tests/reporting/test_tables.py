"""Tables, agreement with the paper, claims, figures and the page, on small synthetic results."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml

from rpo_nb.config import objective
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.reporting import rendering, tables
from rpo_nb.reporting.published import published_metric, published_win_rate
from rpo_nb.reporting.rendering import footnotes
from tests.reporting.results import PROFILE, table1

PUBLISHED = yaml.safe_load((PROFILE_DIR / "published.yaml").read_text(encoding="utf-8"))["paper_a"]


# ---- tables --------------------------------------------------------------------------------------


def test_table2_is_plain_arithmetic_over_seeds_at_the_main_temperature(metrics):
    table = tables.table2(metrics, PROFILE)
    assert list(table.columns) == [
        "preset",
        "metric",
        "method",
        "size",
        "value",
        "std",
        "published",
    ]
    assert (
        len(table) == 3 * 5 * 6 * 3
        and not table.duplicated(["preset", "metric", "method", "size"]).any()
    )
    found = {}
    for m in metrics.to_dict("records"):
        if m["method"] != "rpo" or m["tau"] == PROFILE.presets[m["preset"]].rpo_tau:
            found.setdefault((m["preset"], m["metric"], m["method"], m["size"]), []).append(
                m["value"]
            )
    for row in table.to_dict("records"):
        seeds = found[row["preset"], row["metric"], row["method"], row["size"]]
        assert len(seeds) == 2
        np.testing.assert_allclose(row["value"], sum(seeds) / 2, rtol=1e-12)
        # ddof 1 of two numbers
        np.testing.assert_allclose(row["std"], abs(seeds[0] - seeds[1]) / 2**0.5, rtol=1e-12)


def test_published_numbers_stand_beside_their_own_cells(metrics, rates):
    names = {"bertscore_f1": "BERTScoreF1", "rouge_l": "ROUGE-L", "toxicity": "Toxicity_avg"}
    sizes = {"small": "Small", "large": "Large", "xl": "XL"}
    for _, row in tables.table2(metrics, PROFILE).iterrows():
        if row["metric"] in names and row["method"] in ("kto", "dro", "rpo"):
            assert (
                float(row["published"])
                == PUBLISHED["table2"][names[row["metric"]]][row["method"].upper()][
                    sizes[row["size"]]
                ]
            )
        elif row["metric"] != "meteor":
            assert pd.isna(row["published"])
    judges = {"checker": "Mistral", "reward_model": "LLaMA"}
    for _, row in tables.table3(rates, PROFILE).iterrows():
        paper = {"reference": "SFT", "sft": "SFT", "kto": "KTO", "dro": "DRO"}.get(row["baseline"])
        if paper is None:
            assert pd.isna(row["published"]) and pd.isna(row["published_std"])
        else:
            both = [float(row["published"]), float(row["published_std"])]
            assert both == PUBLISHED["table3"][judges[row["judge"]]][sizes[row["size"]]][paper]
    table4 = tables.table4(rates, PROFILE)
    own = table4["tau"].eq(0.3)  # the fixed preset's, which the paper has not
    assert set(table4["preset"][own]) == {"fixed"} and table4["published"][own].isna().all()
    for _, row in table4[~own].iterrows():
        both = [float(row["published"]), float(row["published_std"])]
        assert (
            both
            == PUBLISHED["table4"][judges[row["judge"]]][sizes[row["size"]]][f"{row['tau']:.1f}"]
        )


def test_numbers_of_the_paper_keep_their_trailing_zeros():
    assert published_metric("rouge_l", "kto", "xl") == "0.2480"
    assert published_win_rate("Mistral", "large", baseline="sft") == ("84.20", "1.64")
    assert published_win_rate("LLaMA", "large", tau=0.1) == ("56.40", "12.21")


def test_table3_and_table4_columns_and_rows(rates):
    table3, table4 = tables.table3(rates, PROFILE), tables.table4(rates, PROFILE)
    tail = ["win_rate", "std", "ci_low", "ci_high", "error", "df", "n", "seeds"]
    tail += ["published", "published_std"]
    assert list(table3.columns) == ["preset", "judge", "size", "baseline", *tail]
    assert list(table4.columns) == ["preset", "judge", "size", "tau", *tail]
    assert len(table3) == 3 * 2 * 3 * 5 and len(table4) == (3 + 4) * 2 * 3
    assert set(table4["preset"]) == {"paper", "fixed"}
    for preset, settings in PROFILE.presets.items():
        wanted = rates[
            (rates.preset == preset)
            & (rates.judge == "checker")
            & (rates["size"] == "xl")
            & (rates.tau == settings.rpo_tau)
            & (rates.baseline == "dro")
        ]["win_rate"].item()
        found = table3[
            (table3.preset == preset)
            & (table3.judge == "checker")
            & (table3["size"] == "xl")
            & (table3.baseline == "dro")
        ]
        assert found["win_rate"].item() == wanted
    over_reference = tables.table4(rates, PROFILE, "reference")
    assert not np.allclose(over_reference["win_rate"], table4["win_rate"])
    # the paper's Table IV is over SFT only
    assert tables.table4(rates, PROFILE, "kto")["published"].isna().all()


def test_a_repeated_cell_is_refused(metrics):
    with pytest.raises(ValueError, match="appears twice"):
        tables.table2(pd.concat([metrics, metrics.head(1)]), PROFILE)


def test_every_preset_field_has_its_sentence_and_shows_its_values():
    assert set(tables.PRESET_FIELDS) == set(objective.Preset.model_fields)
    table = tables.presets_table(PROFILE).set_index("field")
    assert table.loc["reduce", ["paper", "released", "fixed"]].tolist() == [
        PROFILE.presets[p].reduce for p in ("paper", "released", "fixed")
    ]


# ---- files ---------------------------------------------------------------------------------------


def test_files_are_the_same_bytes_again_and_hold_the_same_cells(tmp_path, metrics, rates):
    cells, table3 = tables.metric_cells(metrics, PROFILE), tables.table3(rates, PROFILE)
    for folder in ("one", "two"):
        out = tmp_path / folder
        rendering.write_table(cells, out, "table2", ["a note"])
        rendering.write_table(table3, out, "table3")
        tables.write_results(tables.long_format({"table2": cells, "table3": table3}, PROFILE), out)
    files = sorted(
        p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()
    )
    assert [p.name for p in files] == [
        "results.parquet",
        "table2.csv",
        "table2.md",
        "table2.tex",
        "table3.csv",
        "table3.md",
        "table3.tex",
    ]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    again = rendering.read_table(tmp_path / "one" / "tables" / "table2.csv")
    assert list(again.columns) == rendering.COLUMNS["table2"]
    np.testing.assert_allclose(again["value"], cells["value"], rtol=1e-5)
    assert again["published"].dropna().tolist() == cells["published"].dropna().tolist()


def test_markdown_shows_kit_interval_and_paper_and_what_is_missing(tmp_path, metrics):
    rendering.write_table(tables.metric_cells(metrics, PROFILE), tmp_path, "table2")
    text = (tmp_path / "tables" / "table2.md").read_text(encoding="utf-8")
    assert re.search(r"\| RPO +\| 0\.\d{4} ± 0\.\d{4} \[-?\d\.\d{4}, \d\.\d{4}\] \| 0\.8661", text)
    assert "| not measured" in text and "- meteor: not measured, WordNet is not installed" in text
    assert footnotes(tmp_path, "table2") == ["meteor: not measured, WordNet is not installed"]


def test_latex_escapes_and_closes_what_it_opens(tmp_path):
    frame = pd.DataFrame({"a_b": ["50% & more", "τ = 0.1"], "value": [0.5, np.nan]})
    rendering.write_table(frame, tmp_path, "extra", ["under_score #1"])
    text = (tmp_path / "tables" / "extra.tex").read_text(encoding="utf-8")
    assert (
        r"a\_b & value" in text
        and r"50\% \& more" in text
        and r"$\tau$ = 0.1" in text
        and r"under\_score \#1" in text
    )
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1 and "nan" not in text


def test_long_format_has_every_number_once(metrics, rates):
    cells, table4 = tables.metric_cells(metrics, PROFILE), tables.table4(rates, PROFILE)
    quality = pd.DataFrame({"judge": ["checker"], "flip_rate": [0.1], "pairs": [40]})
    timings = pd.DataFrame({"method": ["rpo"], "seconds": [3.0]})
    long = tables.long_format(
        {"table2": cells, "table4": table4, "judge_quality": quality, "timings": timings}, PROFILE
    )
    assert list(long.columns) == [
        "paper",
        "table",
        "row",
        "column",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "std",
        "n",
        "seeds",
        "preset",
        "published",
        "profile",
    ]
    assert long["table"].value_counts().to_dict() == {
        "table2": len(cells),
        "table4": len(table4),
        "judge_quality": 2,
    }
    assert "timings" not in set(long["table"])  # wall-clock numbers differ from run to run
    one = long[
        (long.table == "table4")
        & (long.preset == "fixed")
        & (long.metric == "win_rate/checker")
        & (long.row == "5.0")
        & (long.column == "large")
    ].iloc[0]
    same = table4[
        (table4.preset == "fixed")
        & (table4.judge == "checker")
        & (table4.tau == 5.0)
        & (table4["size"] == "large")
    ].iloc[0]
    assert (one["value"], one["ci_low"], one["published"], one["seeds"]) == (
        same["win_rate"],
        same["ci_low"],
        83.72,
        2,
    )
    assert long[long.table == "judge_quality"].set_index("metric")["value"].to_dict() == {
        "flip_rate": 0.1,
        "pairs": 40.0,
    }
    more = tables.long_format(
        {"metrics": metrics, "table1": table1(("FLOPs a step", "dro", 2e9, 1e9, 3e9))}, PROFILE
    )
    assert len(more) == len(metrics) + 1
    moves = pd.DataFrame(
        {"judge": "checker", "size": "xl", "tau_low": [0.1, 1.0], "tau_high": 5.0, "error": 1.0}
    )
    told = pd.DataFrame({"claim": ["RPO wins"], "verdict": "holds", "sentence": "…", "hold": [6]})
    rows = tables.long_format({"temperature_differences": moves, "claims": told}, PROFILE)["row"]
    assert rows.tolist() == ["checker xl 0.1 5", "checker xl 1 5", "RPO wins"]
    assert more[["table", "row", "column", "metric", "value", "ci_low"]].iloc[-1].tolist() == [
        "table1",
        "",
        "dro",
        "FLOPs a step",
        2e9,
        1e9,
    ]
    assert more.iloc[0][["row", "column", "metric", "preset"]].tolist() == [
        "reference 0",
        "small",
        "bertscore_f1",
        "paper",
    ]
