"""Tables, agreement with the paper, claims, figures and the page, on small synthetic results."""

import gzip
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rpo_nb.config import loading, objective
from rpo_nb.config.settings import PROFILE_DIR
from rpo_nb.reporting import claims, figures, rendering, style, tables
from rpo_nb.reporting.page import absent, footnotes, gather, report
from rpo_nb.reporting.published import published_metric, published_win_rate

PROFILE = loading.load_profile("pocket")
PUBLISHED = yaml.safe_load((PROFILE_DIR / "published.yaml").read_text(encoding="utf-8"))["paper_a"]


@pytest.fixture(scope="module")
def metrics():
    """The rows of metrics.csv for every preset, method, size and seed; RPO also off its main
    temperature; METEOR is missing."""
    rng, rows = np.random.default_rng(0), []
    for preset, settings in PROFILE.presets.items():
        for method in PROFILE.methods:
            taus = {
                "rpo": sorted({settings.rpo_tau, *PROFILE.taus}),
                "dro": [settings.dro_tau],
            }.get(method, [np.nan])
            for tau in taus:
                for size in PROFILE.sizes:
                    for seed in PROFILE.seeds:
                        for metric in ("bertscore_f1", "rouge_l", "meteor", "toxicity", "reward"):
                            value = np.nan if metric == "meteor" else rng.uniform(0, 1)
                            rows.append(
                                {
                                    "preset": preset,
                                    "method": method,
                                    "size": size,
                                    "tau": tau,
                                    "seed": seed,
                                    "metric": metric,
                                    "value": value,
                                    "ci_low": value - 0.05,
                                    "ci_high": value + 0.05,
                                    "n": 200,
                                    "reason": "WordNet is not installed"
                                    if metric == "meteor"
                                    else "",
                                }
                            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def rates():
    """Rows as judging.win_rates gives them, every preset at every temperature."""
    rng, rows = np.random.default_rng(1), []
    for preset, settings in PROFILE.presets.items():
        for judge in PROFILE.evaluation.judges:
            for size in PROFILE.sizes:
                for baseline in ("reference", "sft", "best_of_k", "kto", "dro"):
                    for tau in sorted({settings.rpo_tau, *PROFILE.taus}):
                        rate = rng.uniform(20, 80)
                        rows.append(
                            {
                                "preset": preset,
                                "judge": judge,
                                "size": size,
                                "baseline": baseline,
                                "tau": tau,
                                "win_rate": rate,
                                "std": 1.5,
                                "ci_low": rate - 4,
                                "ci_high": rate + 4,
                                "n": 400,
                                "ties": 9,
                                "flips": 9,
                                "nulls": 0,
                            }
                        )
    return pd.DataFrame(rows)


def rate_row(win_rate, low, high, published="82.78", **more):
    return {
        "preset": "paper",
        "judge": "checker",
        "size": "small",
        "baseline": "sft",
        "win_rate": win_rate,
        "ci_low": low,
        "ci_high": high,
        "published": published,
        **more,
    }


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
    tail = ["win_rate", "std", "ci_low", "ci_high", "n", "published", "published_std"]
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
    assert re.search(r"\| RPO +\| 0\.\d{4} ± 0\.\d{4} \[-?0\.\d{4}, \d\.\d{4}\] \| 0\.8661", text)
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


# ---- agreement and claims ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "status", "words"),
    [
        (rate_row(80.0, 76.0, 84.0), "agrees", "the paper's 82.78 lies within [76.0, 84.0]"),
        (
            rate_row(60.0, 55.0, 65.0),
            "agrees",
            "in direction only: both are above 50; the kit is 22.8 points below the paper's 82.78",
        ),
        (
            rate_row(52.0, 48.0, 56.0),
            "differs",
            "[48.0, 56.0] includes 50, the paper's number lies above it",
        ),
        (
            rate_row(30.0, 26.0, 34.0),
            "differs",
            "[26.0, 34.0] lies below 50, the paper's number lies "
            "above it; the kit is 52.8 points below",
        ),
        (rate_row(52.0, 40.0, 90.0, "56.40"), "agrees", "lies within"),
        (rate_row(np.nan, np.nan, np.nan), "not measured", "every verdict is missing"),
        (rate_row(60.0, np.nan, np.nan), "not measured", "no interval"),
        (rate_row(60.0, 55.0, 65.0, np.nan), "no published value", "no number for this cell"),
        (
            {
                "metric": "meteor",
                "value": np.nan,
                "ci_low": np.nan,
                "ci_high": np.nan,
                "published": "0.2418",
                "reason": "no WordNet",
            },
            "not measured",
            "no WordNet",
        ),
        (
            {
                "metric": "rouge_l",
                "value": 0.30,
                "ci_low": 0.28,
                "ci_high": 0.32,
                "published": "0.2885",
            },
            "agrees",
            "lies within [0.2800, 0.3200]",
        ),
        (
            {
                "metric": "rouge_l",
                "value": 0.40,
                "ci_low": 0.38,
                "ci_high": 0.42,
                "published": "0.2885",
            },
            "differs",
            "0.1115 above the paper's 0.2885, 5.6 times the interval's half-width",
        ),
    ],
)
def test_agreement_by_hand(row, status, words):
    found, why = claims.agreement(row)
    assert found == status and words in why


def test_the_reason_names_what_moves_the_cell():
    table = pd.DataFrame(
        [
            rate_row(30.0, 26.0, 34.0),
            rate_row(81.0, 77.0, 85.0) | {"preset": "fixed"},
            rate_row(20.0, 16.0, 24.0) | {"preset": "released"},
            rate_row(44.0, 40.0, 48.0) | {"judge": "reward_model"},
        ]
    )
    why = claims.agreement(table.iloc[0], table)[1]
    assert (
        "with preset fixed it is 81.0" in why
        and "judge reward_model gives 44.0" in why
        and "released" not in why
    )
    assert "no other preset comes nearer" in claims.agreement(table.iloc[0], table.iloc[[0, 2]])[1]


def test_a_win_holds_only_where_every_interval_lies_above_half():
    good, even, bad = (
        rate_row(60.0, 55.0, 65.0),
        rate_row(52.0, 48.0, 56.0),
        rate_row(40.0, 36.0, 44.0),
    )
    assert claims.beats(pd.DataFrame([good, good | {"size": "xl"}]))[0] == "holds"
    verdict, sentence = claims.beats(
        pd.DataFrame([good, even | {"size": "large"}, bad | {"size": "xl"}])
    )
    assert (
        verdict == "holds in part"
        and "above 50 in 1 of 3 cells, below in 1" in sentence
        and "small 60.0 [55.0, 65.0]" in sentence
    )
    assert claims.beats(pd.DataFrame([even, bad]))[0] == "does not hold"
    assert claims.beats(pd.DataFrame())[0] == "not measured"


def test_robust_compares_the_spread_over_temperatures_with_the_interval():
    def cells(*found):
        return pd.DataFrame([rate_row(w, w - 4, w + 4, p, tau=t) for t, w, p in found])

    calm = cells((0.1, 60.0, "84.45"), (1.0, 64.0, "82.78"), (5.0, 67.9, "83.03"))
    verdict, sentence = claims.robust(calm)
    assert verdict == "holds" and "spread by 1.7 to 1.7 points" in sentence
    assert "checker small 60.0 to 67.9 (spread 7.9, interval 8.0 wide)" in sentence
    assert claims.robust(cells((0.1, 60.0, "84.45"), (5.0, 68.1, "83.03")))[0] == "does not hold"
    assert claims.robust(calm.head(1))[0] == "not measured"


def test_leads_counts_toxicity_the_other_way_round():
    rows = [
        {"metric": m, "size": "small", "method": k, "value": v}
        for m, values in {
            "rouge_l": (0.1, 0.2, 0.3),
            "toxicity": (0.3, 0.2, 0.1),
            "bleu": (0.3, 0.2, 0.1),
        }.items()
        for k, v in zip(("kto", "dro", "rpo"), values, strict=True)
    ]
    verdict, sentence = claims.leads(pd.DataFrame(rows))
    assert (
        verdict == "holds in part"
        and "best in 2 of 3 cells: ROUGE-L 1 of 1, Toxicity 1 of 1, BLEU 0 of 1" in sentence
    )


def table1(*found):
    rows = [
        {
            "property": p,
            "method": m,
            "value": v,
            "ci_low": low,
            "ci_high": high,
            "published": f"{p} of {m}: words",
            "note": "a note",
        }
        for p, m, v, low, high in found
    ]
    return pd.DataFrame(
        rows, columns=["property", "method", "value", "ci_low", "ci_high", "published", "note"]
    )


def test_faster_is_judged_by_counted_work():
    nothing = (np.nan, np.nan)
    table = table1(
        ("FLOPs a step", "dro", 2e9, *nothing),
        ("FLOPs a step", "rpo", 1e9, *nothing),
        ("parameters", "rpo", 9.0, *nothing),
    )
    verdict, sentence = claims.faster(table)
    assert verdict == "holds" and "0.500 times that of DRO" in sentence
    equal = pd.concat([table, table1(("FLOPs a step", "kto", 1e9, *nothing))])
    assert claims.faster(equal)[0] == "holds in part"  # as much work as KTO is not less
    assert claims.faster(table.tail(1))[0] == claims.faster(pd.DataFrame())[0] == "not measured"


def test_properties_of_table1_agree_only_when_rpo_has_less_beyond_the_interval():
    table = table1(
        ("networks", "dro", 2.0, np.nan, np.nan),
        ("networks", "rpo", 1.0, np.nan, np.nan),
        ("variance", "dro", 2.0, 1.5, 2.5),
        ("variance", "rpo", 1.6, 1.2, 2.0),
        ("noise", "dro", 1.0, 0.9, 1.1),
        ("noise", "rpo", 3.0, 2.0, 4.0),
        ("coupling", "dro", 0.0, np.nan, np.nan),
        ("coupling", "rpo", 0.0, np.nan, np.nan),
        ("variance, fixed", "dro", np.nan, np.nan, np.nan),
        ("variance, fixed", "rpo", 1.0, np.nan, np.nan),
        ("change without the reward", "dro", 2.0, np.nan, np.nan),
        ("change without the reward", "rpo", 1.0, np.nan, np.nan),
    )
    found = claims.properties(table).set_index("property")
    assert found["agreement"].to_dict() == {
        "networks": "agrees",
        "variance": "differs",
        "noise": "differs",
        "coupling": "differs",
        "variance, fixed": "not measured",
        "change without the reward": "no published value",
    }
    assert (
        "lower: 0.5 times DRO's" in found.loc["networks", "why"]
        and "overlap" in found.loc["variance", "why"]
    )
    assert (
        "higher: 3 times DRO's" in found.loc["noise", "why"]
        and "equal" in found.loc["coupling", "why"]
    )
    assert (
        found.loc["variance", "rpo"] == "1.6 [1.2, 2]"
        and found.loc["networks", "paper_dro"] == "networks of dro: words"
    )


# ---- figures -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawings(metrics, rates):
    """name -> a function that draws the figure anew."""
    steps = pd.DataFrame(
        [
            {"preset": p, "method": m, "size": s, "tau": 1.0, "seed": e, "step": t, "loss": 1 / t}
            for p in ("paper", "fixed")
            for m in ("kto", "rpo")
            for s in ("small", "xl")
            for e in (0, 1)
            for t in (1, 2, 3)
        ]
    )
    timings = pd.DataFrame(
        [
            {"method": m, "size": s, "seconds": 60.0 + i}
            for m in ("sft", "kto", "dro", "rpo")
            for i, s in enumerate(("small", "large"))
        ]
    )
    points = pd.DataFrame(
        [
            {
                "preset": "paper",
                "method": m,
                "size": "small",
                "tau": 1.0,
                "seed": 0,
                "reward": 5.0,
                "kl": k,
                "kl_low": k - 1,
                "kl_high": k + 1,
            }
            for k, m in enumerate(("reference", "rpo"))
        ]
    )
    frontier = pd.DataFrame({"beta": [0.1, 1.0], "reward": [9.0, 6.0], "kl": [10.0, 1.0]})
    cells, table3 = tables.metric_cells(metrics, PROFILE), tables.table3(rates, PROFILE)
    return {
        "win_rates": lambda: figures.win_rates(table3),
        "overview": lambda: figures.overview(cells, table3),
        "temperature": lambda: figures.temperature(tables.table4(rates, PROFILE)),
        "figure1": lambda: figures.figure1(timings),
        "learning_curves": lambda: figures.learning_curves(steps),
        "reward_kl": lambda: figures.reward_kl(points, frontier),
        "table2": lambda: figures.metric_panels(cells),
    }


def test_figures_are_the_same_bytes_again_without_a_date(tmp_path, drawings):
    for name in ("reward_kl", "figure1"):
        for folder in ("one", "two"):
            style.save(drawings[name](), tmp_path / folder, name)
        for kind in ("svg", "png"):
            one, two = (
                (tmp_path / folder / "figures" / f"{name}.{kind}").read_bytes()
                for folder in ("one", "two")
            )
            assert one == two and b"<dc:date>" not in one and b"Matplotlib" not in one


def test_figures_draw_the_numbers_they_are_given(drawings, rates):
    table3 = tables.table3(rates, PROFILE)
    drawn = np.concatenate(
        [line.get_xdata() for axis in drawings["win_rates"]().axes for line in axis.lines]
    )
    for column in ("win_rate", "published"):
        assert np.isin(
            pd.to_numeric(table3[column]).dropna().round(6), np.round(drawn.astype(float), 6)
        ).all()
    bars = [
        bar.get_height() for bar in drawings["figure1"]().axes[0].patches if bar.get_height() > 0
    ]
    assert sorted(bars) == [60, 60, 60, 61, 61, 61]  # seconds; SFT is not of Figure 1


# ---- the page ------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def results(tmp_path_factory, metrics, rates, drawings):
    """A results folder with every part, hostile text among the generations."""
    out = tmp_path_factory.mktemp("results")
    rendering.write_csv(metrics, out, "metrics")
    rendering.write_table(
        tables.metric_cells(metrics, PROFILE), out, "table2", [f"METEOR {HOSTILE}"]
    )
    rendering.write_table(tables.table3(rates, PROFILE), out, "table3")
    rendering.write_table(tables.table4(rates, PROFILE), out, "table4")
    rendering.write_table(
        pd.DataFrame({"judge": ["checker"], "remark": [HOSTILE]}), out, "judge_quality"
    )
    rendering.write_table(pd.DataFrame({"method": ["rpo"], "seconds": [123.456]}), out, "timings")
    for name in ("overview", "win_rates", "figure1"):
        style.save(drawings[name](), out, name)
    (out / "generations").mkdir()
    row = {
        "size": "xl",
        "tau": None,
        "seed": 0,
        "prompt_id": 3,
        "prompt": HOSTILE,
        "reference": HOSTILE,
        "completion": HOSTILE,
    }
    with gzip.open(out / "generations" / "paper-xl-seed0.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(
            "".join(
                json.dumps(row | {"preset": "paper", "method": m}) + "\n" for m in ("sft", "kto")
            )
        )
    return out


class Page(html.parser.HTMLParser):
    """Collects tags and the addresses they name."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.open, self.misplaced = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "br", "link", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open[-1:] != [tag]:
            self.misplaced.append(tag)
        self.open.pop()


@pytest.fixture(scope="module")
def page(results):
    return report(results, PROFILE).read_text(encoding="utf-8")


def test_page_is_self_contained_accessible_and_the_same_again(results, page):
    text, page = page, Page(page)
    assert not page.open and not page.misplaced
    allowed = re.compile(
        r"#|data:image/svg\+xml;base64,|figures/figure1\.svg$|tables/timings\.csv$|manifest\.json$|results\.parquet$"
    )
    assert [a for a in page.addresses if not allowed.match(a)] == []
    assert not re.search(r"@import|url\(|<link|<script|<iframe", text)
    assert (
        str(Path.cwd()) not in text
        and "/tmp/" not in text
        and "/root" not in text
        and str(results) not in text
    )
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 3 and all(image.get("alt") for image in images)
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {
        a[1:] for a in page.addresses if a.startswith("#")
    } <= set(ids)
    assert "123.456" not in text  # wall-clock numbers live in files of their own
    (results / "report.html").unlink()
    assert report(results, PROFILE).read_text(encoding="utf-8") == text


def test_page_escapes_hostile_text_and_names_what_is_missing(page):
    assert "<script" not in page and "<img src=x" not in page
    # prompt, reference, two completions, table, footnote
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 5
    assert "not measured" in page and "WordNet is not installed" in page
    assert "run notebooks/02_rpo_derivation.ipynb" in page  # Table I has not been made


def test_page_shows_every_cell_with_both_numbers_and_the_claims(results, page, rates):
    for _, row in tables.table3(rates, PROFILE).iterrows():
        assert (
            f"<b>{row['win_rate']:.1f}</b>" in page
            and f"[{row['ci_low']:.1f}, {row['ci_high']:.1f}]" in page
        )
        assert (
            pd.isna(row["published"])
            or f"paper {row['published']} ± {row['published_std']}" in page
        )
    for _, row in claims.claims(gather(results, PROFILE), PROFILE).iterrows():
        assert row["claim"] in page


def test_page_of_an_empty_folder_says_what_to_run(tmp_path):
    text = report(tmp_path, PROFILE).read_text(encoding="utf-8")
    for notebook in (
        "02_rpo_derivation",
        "04_table2_metrics",
        "05_table3_judges",
        "06_table4_temperature",
    ):
        assert f"run notebooks/{notebook}.ipynb" in text
    assert len(absent(tmp_path)) == 4 and "tables/table3.csv is missing" in absent(tmp_path)[2]


def test_page_hides_the_folder_of_a_users_own_file(tmp_path):
    own = PROFILE.model_copy(
        update={
            "data": PROFILE.data.model_copy(
                update={"source": "/home/someone/secret/feedback.jsonl"}
            )
        }
    )
    text = report(tmp_path, own).read_text(encoding="utf-8")
    assert "feedback.jsonl" in text and "someone" not in text


# ---- generations to metrics ----------------------------------------------------------------------


def test_bleu_intervals_bracket_the_corpus_score_and_follow_its_spread():
    import sacrebleu

    from rpo_nb.evaluation.cells import bleu_intervals

    rng = np.random.default_rng(0)
    words = "the red boat waits in a garden and it is very kind small old lamp".split()
    references = [" ".join(rng.choice(words, 12)) for _ in range(60)]
    noisy = [
        " ".join(w if rng.random() < 0.7 else rng.choice(words) for w in text.split())
        for text in references
    ]
    (low, high), (sacre_low, sacre_high) = bleu_intervals(noisy, references)
    score = sacrebleu.corpus_bleu(noisy, [references]).score
    assert sacre_low < score < sacre_high and low < score / 100 < high
    few = bleu_intervals(noisy[:15], references[:15])[1]
    # a quarter of the items: about twice as wide
    assert few[1] - few[0] > 1.4 * (sacre_high - sacre_low)
    assert bleu_intervals(references, references)[1] == pytest.approx((100, 100))
    assert bleu_intervals(noisy, references) == [(low, high), (sacre_low, sacre_high)]


def test_measure_scores_every_cell_of_the_profile_and_no_other():
    from rpo_nb import pocket
    from rpo_nb.evaluation.cells import measure
    from rpo_nb.evaluation.suite import MetricValue

    class Lengths:
        """A suite with one metric: words of the completion."""

        def score_many(self, cells):
            counts = [
                np.array([len(text.split()) for text in cell["completions"]], float)
                for cell in cells
            ]
            return [
                {
                    "words": MetricValue(c.mean(), c, (c.min(), c.max())),
                    "bleu": MetricValue(0.5),
                    "lost": MetricValue(None, reason="why"),
                    "reward": MetricValue(float(np.mean(cell["rewards"]))),
                }
                for c, cell in zip(counts, cells, strict=True)
            ]

    profile = loading.load_profile("smoke", sizes="small", seeds="0", preset="paper")
    prompt = pocket.make_feedback(1, seed=0)[0]["instruction"]
    base = {"preset": "paper", "size": "small", "seed": 0, "prompt_id": 0}
    rows = [
        base
        | {
            "method": m,
            "tau": t,
            "prompt": prompt,
            "reference": "A red boat is here.",
            "completion": text,
        }
        for m, t in (("sft", np.nan), ("rpo", 1.0), ("rpo", 7.0))
        for text in ("A red boat.", "The boat is very red now.")
    ]
    rows.append(rows[0] | {"size": "large"})
    found = measure(pd.DataFrame(rows), Lengths(), profile)
    assert list(found.columns) == [
        "preset",
        "method",
        "size",
        "tau",
        "seed",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "n",
        "reason",
    ]
    assert found[["method", "metric"]].drop_duplicates().to_numpy().tolist() == [
        [m, k] for m in ("rpo", "sft") for k in ("words", "bleu", "lost", "reward")
    ]
    words = found[found.metric == "words"]
    assert words[["value", "ci_low", "ci_high", "n"]].to_numpy().tolist() == [[4.5, 3, 6, 2]] * 2
    assert found[found.metric == "bleu"][["ci_low", "ci_high"]].notna().all(axis=None)
    assert found[found.metric == "lost"][["value", "reason"]].iloc[0].isna().tolist() == [
        True,
        False,
    ]


def test_a_table_of_numbers_alone_has_rows_without_a_name():
    """No key column: as many empty names as rows, under every pandas."""
    long = tables.long_format(
        {"paper_b_numbers": pd.DataFrame({"value": [1.5, 2.5]})}, loading.load_profile("smoke")
    )
    assert long["row"].tolist() == ["", ""] and long["value"].tolist() == [1.5, 2.5]
