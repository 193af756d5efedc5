"""The page as a stranger reads it: both papers, nothing cut, early, on a user's feedback, on a
phone."""

import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from rpo_nb import pocket
from rpo_nb.config import loading
from rpo_nb.config.schema import PaperB
from rpo_nb.pocket import checker
from rpo_nb.reporting import answers, captions, claims, rendering, samples, tables, when, worlds
from rpo_nb.reporting.page import gather, report
from rpo_nb.running.provenance import PACKAGE
from rpo_nb.studies.paper_b import learnings
from tests.reporting.pages import Page
from tests.reporting.results import PROFILE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
REGIMES = ("on_policy", "stronger", "weak_reference", "narrow_reference", "much_stronger", "other")


def regime_map(policies=29):
    """As notebook 07 writes it for ten seeds; every gain is another number."""
    rows = []
    for i, regime in enumerate(REGIMES):
        for j in range(policies):
            gain = round(-2 + 0.02 * (i * policies + j), 2)
            row = {"regime": regime, "gap": 1.0, "method": ["reference", "sft", "rpo"][min(j, 2)]}
            row |= {"policy": f"policy {j}", "reward": 5 + gain, "gain": gain, "kl": 1.0}
            row |= {"gain_low": gain - 0.5, "gain_high": gain + 0.5, "data_wins": 70.0}
            rows.append(row | {"logp": -1.0, "own_logp": -0.8, "k": 4.0, "n": 2000, "seeds": 10})
    return pd.DataFrame(rows)


def paper_b_table2(losses=12):
    rows = [
        {"loss": f"loss {i}", "k": "2", "responses": "Offline", "rm": "GT"}
        | {"metric": metric, "prompts": prompts, "mean": 3 + i + 0.01 * k}
        | {"ci_low": np.nan, "ci_high": np.nan, "seeds": 1, "published": "5.503"}
        for i in range(losses)
        for k, (metric, prompts) in enumerate(
            (m, p) for m in ("avg_reward", "win_rate") for p in ("test", "ood_values", "ood")
        )
    ]
    return pd.DataFrame(rows)


def verdict_rows(verdicts=("holds",)):
    words = dict.fromkeys(learning.words for learning in learnings.learnings(PaperB()))
    rows = [
        (word, verdicts[i % len(verdicts)], f"a minus b: {i}", 0.1 * i, 0.0, 1.0, 0.01, 0.4, 10)
        for i, word in enumerate(words)
    ]
    hacked = "with a learnt reward model, the policy hacks the reward (online-bwd-learnt)"
    rows.append((hacked, "holds", "the learnt reward rose", 0.1, 0.0, 1.0, 0.01, np.nan, 10))
    return pd.DataFrame(rows, columns=learnings.COLUMNS)


@pytest.fixture(scope="module")
def results(tmp_path_factory, rates):
    """A folder with paper B and the lab."""
    out = tmp_path_factory.mktemp("whole")
    rendering.write_table(tables.table3(rates, PROFILE), out, "table3")
    rendering.write_table(regime_map(), out, "regime_map", ["a note"])
    rendering.write_table(paper_b_table2(), out, "paper_b_table2")
    rendering.write_table(verdict_rows(("holds", "not decided")), out, "paper_b_verdicts")
    long = pd.DataFrame({"study": "on_policy", "gain": np.arange(5000) / 7})
    rendering.write_csv(long, out, "lab_seeds")
    (out / "notebooks").mkdir()
    for name in ("08_reward_aware", "09_report"):
        (out / "notebooks" / f"{name}.ipynb").write_text("{}", encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def page(results):
    return report(results, PROFILE).read_text(encoding="utf-8")


def test_paper_b_is_in_title_contents_verdicts_and_footer(page):
    title = re.search("<title>(.*?)</title>", page)[1]
    assert "Reward-aware Preference Optimization" in title and "Reward Partitioning" in title
    contents = re.search("<nav.*?</nav>", page, re.S)[0]
    assert {'"#answer"', '"#a"', '"#b"', '"#when"', '"#tables"', '"#appendix"'} <= set(
        re.findall('"#[a-z]+"', contents)
    )
    verdicts = re.search('<table class="verdicts">.*?</table>', page, re.S)[0]
    assert all(claim in verdicts for claim in (*answers.SEVEN, *claims.BEATS.values()))
    assert "arxiv.org/abs/2502.00203" in re.search("<footer>.*?</footer>", page, re.S)[0]


def test_nothing_is_cut(results, page):
    text = Page(page).text
    for gain in regime_map()["gain"]:
        assert f"{gain:+.2f} [{gain - 0.5:.2f}, {gain + 0.5:.2f}]".replace("+-", "-") in text
    for _, row in paper_b_table2().iterrows():
        digits = 1 if row["metric"] == "win_rate" else 2
        assert f"{row['mean']:.{digits}f} (5.503)" in text
    assert "further rows" not in text
    # too long for a page: counted and linked, not shown in part
    assert "5,000 lines in" in text and "tables/lab_seeds.csv" in Page(page).addresses
    assert "714.1" not in text


def test_tables_are_pivoted(results):
    from rpo_nb.reporting.layout import laid_out

    found = laid_out("regime_map", regime_map(), "tables/regime_map.csv")
    gains = found["parts"][0]
    assert gains["columns"] == ["policy", *(name.replace("_", " ") for name in REGIMES)]
    assert len(gains["rows"]) == 29 and gains["kinds"] == ["text", *["num"] * 6]
    assert found["lines"] == 174


def test_executed_notebooks_are_linked_where_they_are(page):
    addresses = Page(page).addresses
    assert "notebooks/08_reward_aware.ipynb" in addresses
    assert not [a for a in addresses if "09_report" in a or "07_partition" in a]


def test_an_answer_counts_what_the_tables_decide(results, rates):
    found = gather(results, PROFILE)
    every = pd.concat(
        claims.win_cells(claims.pick(found["table3"], baseline=b)) for b in claims.BEATS
    )
    first, *more = answers.beaten(found)
    holds, fails = (int(every["verdict"].eq(one).sum()) for one in ("holds", "does not hold"))
    assert holds > 0 and fails > 0
    assert f"Of {len(every)} comparisons" in first
    assert f"surely wins {holds}, surely loses {fails}," in first
    assert any("could have seen" in line for line in more)
    (only,) = answers.beaten({})
    assert "has not been made" in only
    assert "07_partition_lab" in answers.normalised({})[0] and when.answer({}) == [when.LAB]


def test_normalisation_is_answered_by_its_verdicts():
    table = pd.DataFrame(
        {
            "reduce": ["mean", "sum", "sum"],
            "win_rate": [10.0, 40.0, 60.0],
            "preferred": ["does not hold", "not decided", "holds"],
        }
    ).assign(above_published="does not hold", smallest=[np.nan, 12.0, np.nan])
    # what could be seen is of the win rates, not of the paper's number, which comes last
    sums, means, seen, paper = answers.normalised({"partition_ablation": table})
    assert "wins 40.0 to 60.0 %" in sums and "surely wins 1, surely loses 0, 1 is not" in sums
    assert "wins 10.0 %" in means and "surely wins 0, surely loses 1, 0 are not" in means
    assert "surely above that 0, surely below 3" in paper and "12.0 points" in seen


def test_when_it_works_is_counted_by_regime():
    table = regime_map(3)
    table.loc[table["regime"].eq("other") & table["method"].eq("sft"), "gain"] = 9.0
    first, *more = when.answer({"regime_map": table})
    best = table.loc[table.groupby("regime")["gain"].idxmax()]
    assert f"is an RPO in {best['method'].eq('rpo').sum()} of 6 regimes" in first
    policies = table[table["method"].ne("reference")].drop_duplicates("policy")
    count = f"of the {len(policies)} policies {policies['method'].eq('rpo').sum()} are RPO"
    assert count in first
    assert first.count("on policy") == 1  # where nobody gains
    assert "in other policy 1 +9.00" in more[-1]
    found = when.regimes({"regime_map": table})
    assert found["columns"][1:] == [name.replace("_", " ") for name in REGIMES]


def test_of_policies_tuned_alike_none_is_left_out_for_a_better_one_of_its_method():
    policies = ["RPO eq. 19", "RPO V̂ = 0", "DRO", "best-of-K SFT"]
    methods = ["rpo", "rpo", "dro", "best_of_k"]
    tuned = pd.DataFrame(
        {"method": methods, "policy": policies, "iqm": [0.7, -0.2, -0.6, -0.7]}
    ).assign(iqm_low=np.nan, iqm_high=np.nan, regimes=6)
    said = "\n".join(when.answer({"regime_map": regime_map(3), "lab_tuned": tuned}))
    assert "RPO eq. 19 +0.70, RPO V̂ = 0 -0.20, DRO -0.60, best-of-K SFT -0.70" in said


def test_duels_of_methods_tuned_alike_are_told_with_their_regimes():
    outcomes = {"SFT": ["first", "second", "not decided"], "DRO": ["first", "first", "first"]}
    duels = pd.DataFrame(
        [
            {"reading": "RPO eq. 19", "study": study, "second": rival, "outcome": outcome}
            for rival, found in outcomes.items()
            for study, outcome in zip(("on_policy", "stronger", "narrow"), found, strict=True)
        ]
    )
    tables = {"regime_map": regime_map(3), "lab_tuned_duels": duels}
    said = "\n".join(when.answer(tables))
    assert when.short(tables)[-1] == when.short({"regime_map": regime_map(3)})[0]  # decided first
    assert (
        "RPO eq. 19 against each method, tuned alike, in 3 regimes: SFT: ahead in 1, "
        "behind in 1 (stronger), 1 not decided; DRO: ahead in 3." in said
    )


def test_every_learning_of_paper_b_is_one_of_seven():
    found = answers.learnings_b({"paper_b_verdicts": verdict_rows()})
    assert [one["claim"] for one in found] == list(answers.SEVEN)
    assert all(one["rows"] and one["verdict"] == "holds" for one in found)
    (line, held) = answers.answer_b({"paper_b_verdicts": verdict_rows()})
    assert line == "Of paper B's 7 learnings 7 hold, 0 do not, 0 are not decided."
    assert held.count(";") == 6
    mixed = answers.answer_b({"paper_b_verdicts": verdict_rows(("holds", "does not hold"))})
    assert "do not all say the same" in mixed[0]
    iterations = next(one for one in found if one["claim"] == "Iterations help")
    assert len(iterations["rows"]) == 3  # one that does not help is seen in the counts
    part = answers.learnings_b({"paper_b_verdicts": verdict_rows()[:1]})
    assert [one["verdict"] for one in part].count("not measured") == 6


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("regime_map", 'href="tables/regime_map.csv"'),
        ("paper_b_verdicts", "a minus b: 1"),  # told as sentences
        ("table3", 'href="tables/table3.csv"'),
        ("paper_b_table2", 'href="tables/paper_b_table2.csv"'),
    ],
)
def test_an_early_report_has_what_is_there(results, tmp_path, name, shown):
    empty = report(tmp_path, PROFILE).read_text(encoding="utf-8")
    (tmp_path / "tables").mkdir()
    shutil.copy(results / "tables" / f"{name}.csv", tmp_path / "tables")
    text = report(tmp_path, PROFILE).read_text(encoding="utf-8")
    assert shown in text and shown not in empty
    assert "run notebooks/04_table2_metrics.ipynb" in text


def test_a_users_feedback_has_no_truth_no_lab_and_no_paper_b(tmp_path, rates, monkeypatch):
    monkeypatch.setattr(
        worlds, "RESULTS", tmp_path / "none"
    )  # the pocket's column names its judges
    own = loading.load_profile("smollm")
    mine = rates[rates["preset"].isin(own.presets)].assign(judge="itself", size="135m")
    mine = mine.drop_duplicates(["preset", "judge", "size", "baseline", "tau"])
    rendering.write_table(tables.table3(mine, own), tmp_path, "table3")
    text = Page(report(tmp_path, own).read_text(encoding="utf-8")).text
    assert "notebook 07_partition_lab does, in the pocket world" in text
    assert "Paper B was not reproduced here" in text and "checker" not in text


def test_a_sample_tells_what_it_missed():
    (prompt,) = pocket.make_prompts(1, rng=np.random.default_rng(3))
    wish = pocket.parse(prompt)
    good = pocket.write(pocket.DEMONSTRATOR, prompt, rng=np.random.default_rng(0))
    for text in (good, f"{good} {good}", "red red", good.replace(wish.object, "thing")):
        lost = samples.violations(prompt, text)
        assert bool(lost) == (checker.score(prompt, text) < 10)
    assert samples.violations(prompt, "red red") == ["no sentence of it is one, so no wish counts"]
    assert "says a sentence twice" in samples.violations(prompt, f"{good} {good}")


def test_every_figure_that_a_notebook_saves_is_described():
    found = set()
    for path in (PACKAGE.parent / "notebooks").glob("*.ipynb"):
        found |= set(re.findall(r'style\.save\([^\n]*?out, \\"(\w+)\\"', path.read_text("utf-8")))
    assert len(found) > 20 and found <= set(captions.PICTURES)


def test_every_class_that_a_style_sheet_names_is_given_to_something():
    folder = PACKAGE / "reporting" / "templates"
    pages = [*folder.glob("*.j2"), *folder.glob("*.js"), *PACKAGE.rglob("*.py")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    given = set(re.findall(r"[\w-]+", " ".join(re.findall(r'class(?:=|: )"([^"]*)"', text))))
    for sheet in folder.glob("*.css"):
        rules = re.sub(r"{[^{}]*}", "", sheet.read_text(encoding="utf-8"))
        # what a chip says is its second class, made of its words
        named = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\.chip[\w.-]*", "", rules)))
        assert named and named <= given, f"{sheet.name}: {named - given}"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_on_a_phone_nothing_is_wider_than_the_page(results, page, tmp_path):
    """In a frame of 390 px, as a phone has them; tables scroll in boxes of their own."""
    (tmp_path / "host.html").write_text(
        f"""<iframe id=f src="file://{results}/report.html" width=390 height=800></iframe><script>
        document.getElementById("f").onload = function () {{
            const page = this.contentDocument, root = page.documentElement;
            for (const one of page.querySelectorAll("details")) one.open = true;
            document.title = root.scrollWidth + " of " + root.clientWidth;
        }}</script>""",
        encoding="utf-8",
    )
    told = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
        + [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=8000", "--dump-dom"]
        + [f"file://{tmp_path}/host.html"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    width, seen = map(int, re.search(r"<title>(\d+) of (\d+)</title>", told).groups())
    assert 300 < seen <= 390 and width <= seen
