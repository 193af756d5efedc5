"""The built site: what is on it, that its links hold, that it fetches nothing."""

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pandas as pd
import pytest

from rpo_nb.reporting.rendering import read_table

pytest.importorskip("myst_nb")
from docs.site import notebooks  # noqa: E402

ROOT = Path(__file__).parents[2]

REMOTE = re.compile(r"(?:[a-z]+:)?//")


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given.get("id"), given.get("name")}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        for name in ("src", "href") if tag != "a" else ():
            if given.get(name) and given.get("rel") not in ("search", "next", "prev", "index"):
                self.loads.append(given[name])


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def text_of(path: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8")))


def local(target: str) -> bool:
    return not re.match(r"(?:[a-z]+:|//)", target)


def test_links_hold_and_their_anchors_too(site, pages):
    broken = []
    for path, page in pages.items():
        for link in filter(local, page.links):
            target, anchor = urldefrag(unquote(link))
            to = (path.parent / target).resolve() if target else path
            if not to.exists() or (anchor and to in pages and anchor not in pages[to].ids):
                broken.append((path.relative_to(site).as_posix(), link))
    assert not broken


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for path, page in pages.items():
        loaded = [load for load in page.loads if REMOTE.match(load)]
        assert not loaded, path.relative_to(site)
        near = [unquote(re.split("[?#]", load)[0]) for load in page.loads if local(load)]
        assert all((path.parent / name).exists() for name in near), path.relative_to(site)


def test_every_table_is_there_with_all_its_rows(site, run):
    for path in sorted((run / "tables").glob("*.csv")):
        if path.stat().st_size > 1:
            page = (site / "tables" / f"{path.stem}.html").read_text(encoding="utf-8")
            body = page.split('<table class="rows">')[1].split("</table>")[0]
            assert body.count("<tr>") == len(read_table(path)) + 1, path.stem


def test_a_table_of_the_paper_is_shown_as_it_is_read_too(site, run):
    page = text_of(site / "tables" / "table3.html")
    assert "preset paper, judge checker" in page
    first = pd.read_csv(run / "tables" / "table3.csv").iloc[0]
    assert f"{first['win_rate']:.1f}" in page and str(first["published"]) in page


def test_executed_notebooks_are_shown_with_their_outputs(site):
    page = (site / "notebooks" / "05_table3_judges.html").read_text(encoding="utf-8")
    assert "said by the run" in page and "not been executed" not in page
    assert "google.colab" not in page
    for size in ("small", "large"):
        page = text_of(site / "notebooks" / f"03_train-{size}-seed0.html")
        assert f"({size}, seed 0)" in page


def test_a_notebook_that_was_not_executed_says_so(tmp_path):
    shown = notebooks.found(ROOT, [tmp_path])
    assert all("has not been executed" in notebooks.page(one, str) for one in shown)


def test_formulas_are_drawn_without_a_script(site):
    page = (site / "notebooks" / "02_rpo_derivation.html").read_text(encoding="utf-8")
    assert "<math" in page and "\\frac" not in page and "\\hat" not in page


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("rpo_nb", ["RPOTrainer", "FeedbackConfig", "load_feedback", "max_prompt_tokens"]),
        ("rpo_nb.objectives", ["rpo", "dro", "kto", "qrpo", "dpo", "reward_aware"]),
        ("rpo_nb.partition", ["log_partition", "diagnostics"]),
        ("rpo_nb.intervals", ["seeds_and_prompts", "bootstrap"]),
        ("rpo_nb.evaluation", ["MetricSuite"]),
        ("rpo_nb.pocket", ["score", "make_prompts"]),
    ],
)
def test_the_public_names_are_there_with_their_text(site, page, names):
    text = (site / "api" / f"{page}.html").read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf'id="(?:[\w.]+\.)?{name}"', text) or f">{name}" in text, name
    assert "[n] each -&gt; [n]" in text or page != "rpo_nb.objectives"


def test_the_first_page_leads_to_everything(site, pages):
    links = pages[site / "index.html"].links
    for place in (
        "results/pocket/report.html",
        "results/pocket/generations.html",
        "tables/index.html",
        "notebooks/index.html",
        "judges/index.html",
        "api/index.html",
        "start.html",
    ):
        assert place in links


def test_an_audited_judge_has_its_card(site, pages):
    card = json.loads((ROOT / "results/smollm/judges/itself.json").read_text(encoding="utf-8"))
    shown = site / "judges" / "smollm-itself.html"
    for page in (shown, site / "judges" / "index.html"):
        assert card["headline"] in html.unescape(page.read_text(encoding="utf-8"))
    assert "<table" in shown.read_text(encoding="utf-8")
    assert "../judges/smollm-itself.html" in pages[site / "guide" / "judges.html"].links


def test_no_place_of_this_machine_is_on_it(site, run):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert str(run) not in text and str(Path.home()) + "/" not in text, path.name
