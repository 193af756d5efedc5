"""Figures, the page, generations to metrics."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config import loading
from rpo_nb.reporting import claims, figures, rendering, style, tables
from rpo_nb.reporting.page import absent, gather, report
from tests.reporting.pages import Page
from tests.reporting.results import PROFILE

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
    (prompt,) = pocket.make_prompts(1, rng=np.random.default_rng(0))
    row = {
        "size": "xl",
        "tau": None,
        "seed": 0,
        "prompt_id": 3,
        "prompt": prompt,
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


@pytest.fixture(scope="module")
def page(results):
    return report(results, PROFILE).read_text(encoding="utf-8")


OUTSIDE = {"https://arxiv.org/abs/2506.13702", "https://arxiv.org/abs/2502.00203"}  # the papers


def test_page_is_accessible_and_the_same_again(results, page):
    text, page = page, Page(page)
    assert not page.open and not page.misplaced
    assert not re.search(r"@import|url\(|<link|<script|<iframe", text)
    assert (
        str(Path.cwd()) not in text
        and "/tmp/" not in text
        and "/root" not in text
        and str(results) not in text
    )
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {
        a[1:] for a in page.addresses if a.startswith("#")
    } <= set(ids)
    assert "123.456" not in text  # wall-clock numbers live in files of their own
    (results / "report.html").unlink()
    assert report(results, PROFILE).read_text(encoding="utf-8") == text


def test_every_link_of_the_page_is_there_and_relative(results, page):
    addresses = {a for a in Page(page).addresses if not a.startswith("#")}
    assert addresses >= OUTSIDE
    inside = addresses - OUTSIDE
    assert all((results / address).is_file() for address in inside), inside
    assert {"figures/overview.svg", "tables/table3.csv", "tables/metrics.csv"} <= inside


def test_pictures_are_files_beside_the_page_told_in_words_and_loaded_when_they_are_seen(
    results, page
):
    images = [attrs for tag, attrs in Page(page).tags if tag == "img"]
    assert sorted(image["src"] for image in images) == [
        f"figures/{name}.svg" for name in ("figure1", "overview", "win_rates")
    ]
    assert all(len(image["alt"]) > 40 for image in images)
    eager = [image["src"] for image in images if image.get("loading") != "lazy"]
    assert eager == ["figures/overview.svg"]
    first = len(page.encode()) + sum((results / name).stat().st_size for name in eager)
    assert first < 1_000_000
    sized = [image for image in images if "figure1" not in image["src"]]
    assert all(int(image["width"]) > 100 and int(image["height"]) > 100 for image in sized)


def test_page_escapes_hostile_text_and_names_what_is_missing(page):
    assert "<script" not in page and "<img src=x" not in page
    # target text, two completions, table, footnote
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 5
    assert "not measured" in page and "WordNet is not installed" in page
    assert "run notebooks/02_rpo_derivation.ipynb" in page  # Table I has not been made


def test_a_users_prompt_stays_text(tmp_path):
    own = loading.load_profile("smollm")
    name = f"{next(iter(own.presets))}-{list(own.sizes)[-1]}-seed{min(own.seeds)}.jsonl.gz"
    row = {"preset": next(iter(own.presets)), "method": "sft", "tau": None, "prompt_id": 0}
    row |= {"prompt": "<img src=x onerror=alert(1)>", "reference": "yes", "completion": "no"}
    (tmp_path / "generations").mkdir()
    with gzip.open(tmp_path / "generations" / name, "wt", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    text = report(tmp_path, own).read_text(encoding="utf-8")
    assert "<summary>&lt;img src=x onerror=alert(1)&gt;</summary>" in text
    assert "<img src=x" not in text


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
    assert "same order" in page or "another best" in page  # Table II: orders, no chips


def test_an_earlier_versions_table_is_left_out_told_and_not_called_one_seeds(tmp_path, rates):
    old = tables.table3(rates, PROFILE).drop(columns=["error", "df", "seeds"])
    rendering.write_csv(old, tmp_path, "table3")
    assert "table3" not in gather(tmp_path, PROFILE)
    (told,) = [line for line in absent(tmp_path) if line.startswith("tables/table3.csv")]
    assert "no column 'error'" in told and "run notebooks/05_table3_judges" in told
    text = report(tmp_path, PROFILE).read_text(encoding="utf-8")
    assert "an earlier version made it" in text and "Table III has not been made" in text


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


def test_prompts_that_seeds_share_are_seen_in_the_error_of_a_metrics_mean():
    """Seeds that say the same to the same prompts tell of other prompts no better than one of them
    does, whether the metric is a mean of items or of the corpus."""
    from rpo_nb import pocket
    from rpo_nb.config.schema import EvaluationConfig
    from rpo_nb.evaluation.cells import measure
    from rpo_nb.evaluation.suite import MetricSuite

    profile = loading.load_profile("smoke", sizes="small", seeds="0,1,2", preset="paper")
    asked = [row["instruction"] for row in pocket.make_feedback(30, seed=0)]
    rng = np.random.default_rng(0)
    words = "the red boat waits in a garden and it is very kind small old lamp".split()
    texts = [" ".join(rng.choice(words, 12)) for _ in asked]
    noisy = [" ".join(w if rng.random() < 0.8 else "so" for w in t.split()) for t in texts]

    def rows(shared):
        base = {"preset": "paper", "method": "sft", "size": "small", "tau": np.nan}
        return pd.DataFrame(
            [
                base
                | {"seed": seed, "prompt_id": i, "reference": texts[i], "completion": noisy[i]}
                | {"prompt": prompt if shared else f"{prompt} {seed}"}
                for seed in range(3)
                for i, prompt in enumerate(asked)
            ]
        )

    suite = MetricSuite(EvaluationConfig())
    cells = {}
    for shared in (True, False):
        found = measure(rows(shared), suite, profile)
        assert found["shared"].eq(0).all() != shared
        cells[shared] = tables.metric_cells(found, profile).set_index("metric")
    for metric in ("rouge_l", "sacrebleu", "bleu"):
        one = found[found["metric"].eq(metric)].iloc[0]
        alone = (one["ci_high"] - one["ci_low"]) / 2 / 1.96
        assert cells[True].loc[metric, "error"] == pytest.approx(alone, rel=0.1)
        assert cells[False].loc[metric, "error"] < 0.3 * alone


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
        "shared",
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
