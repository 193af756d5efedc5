"""The page of generations in a real browser, opened as a file: skipped where there is none."""

from __future__ import annotations

import shutil
from urllib.parse import quote

import pytest

from rpo_nb.studies.browse import page
from tests.studies import said

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PATIENCE = 120_000  # ms: machines are busy
CELL = "#table=table3&preset=paper&judge=checker&size=small&baseline=sft"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    found = said.folder(tmp_path_factory.mktemp("said") / "mine")
    said.paper_b(found, 0, "aaaa", "They said")
    page.write(found)
    return found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, out):
    """Opens an address of the page; what the browser complained of is in its `complaints`."""
    contexts = []

    def open_at(address: str = "", **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.complaints = []
        tab.on("console", lambda said: tab.complaints.append(said.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.goto(f"file://{out / page.PAGE}{address}")
        arrived(tab, address or "#")
        return tab

    yield open_at
    for context in contexts:
        context.close()


def arrived(tab, address: str) -> None:
    """Wait until the page shows an address."""
    tab.wait_for_function(
        "wanted => document.body.dataset.ready === wanted", arg=address, timeout=PATIENCE
    )


def cards(tab) -> list[str]:
    return [card.get_attribute("aria-label") for card in tab.locator(".card").all()]


def listed(tab) -> list[str]:
    return [one.inner_text().split(".")[0] for one in tab.locator("#prompts li").all()]


def test_a_prompt_shows_every_policy_as_text_and_nothing_complains(opened):
    tab = opened()
    assert cards(tab) == [
        "reference, paper",
        "reference, fixed",
        "SFT, fixed, paper",  # one text
        "RPO τ 1, paper",
        "RPO τ 0.3, fixed",
    ]
    hostile = tab.locator(".card", has_text="SFT").first.locator(".said")
    assert hostile.inner_text() == said.HOSTILE
    assert tab.evaluate("window.hurt") is None and tab.locator(".card img").count() == 0
    assert "SFT" in tab.locator(".card").last.locator(".judged").inner_text()
    assert tab.complaints == []


def test_filters_choose_and_stand_in_the_address(opened):
    tab = opened()
    tab.select_option("[name=preset]", "paper")
    tab.wait_for_function("document.querySelectorAll('.card').length === 3")
    tab.select_option("[name=order]", "disagreement")
    tab.wait_for_function("document.querySelector('#prompts .badge').textContent === '1'")
    assert listed(tab) == ["3", "4", "7", "9"]
    tab.get_by_label("only where judges disagree").click()
    tab.wait_for_function("document.querySelectorAll('#prompts li').length === 2")
    again = opened(tab.evaluate("location.hash"))
    assert listed(again) == ["3", "4"] and cards(again) == cards(tab)
    assert again.complaints == []


def test_a_filter_that_another_study_does_not_have_is_forgotten_there(opened):
    """Of paper B there are no verdicts, and no way to take a filter by them back."""
    tab = opened("#preset=paper&order=disagreement&only=1&method=rpo%2Csft")
    assert listed(tab) == ["3", "4"]
    tab.select_option("[name=study]", "paper B")
    tab.wait_for_function("document.body.dataset.ready.includes('paper+B')")
    assert listed(tab) == ["0", "1"] and cards(tab) == ["dpo"]
    gone = "preset=paper&method=rpo&split=valid&order=disagreement&only=1&judge=checker&said=won"
    again = opened(f"#study=paper+B&{gone}")  # as a link may have it
    assert listed(again) == ["0", "1"] and cards(again) == ["dpo"]
    tab.select_option("[name=study]", "paper A")
    tab.wait_for_function("document.body.dataset.ready.includes('paper+A')")
    assert listed(tab) == ["7", "3", "9", "4"] and tab.complaints == again.complaints == []


def test_a_cell_leads_to_its_texts_and_a_count_to_its_pairs(opened):
    tab = opened(CELL)
    told = tab.locator("#cell").inner_text()
    assert "62.5" in told and "the mean of 2 seeds" in told
    assert "generations/paper-small-seed1.jsonl.gz, rows 9 to 12" in told
    assert cards(tab) == ["SFT, paper", "RPO τ 1, paper"]
    assert [one.inner_text() for one in tab.locator("#prompts .badge").all()] == [
        "won",
        "lost",
        "even",
        "won",
    ]
    tab.locator("#cell a", has_text="1 lost").nth(1).click()
    tab.wait_for_function("document.querySelectorAll('#prompts li').length === 1")
    assert listed(tab) == ["3"] and "seed=1" in tab.evaluate("location.hash")
    assert tab.locator("#cell").is_hidden() and tab.complaints == []


def test_a_cell_without_texts_shows_its_seeds_and_no_other_texts(opened):
    tab = opened("#table=regime_map&regime=stronger&policy=SFT&measure=gain")
    told = tab.locator("#cell").inner_text()
    assert "0.5" in told and "seeds/regime_map.csv" in told and "not in this folder" in told
    assert tab.locator("#walk").is_hidden()
    tab.select_option("[name=preset]", "paper")
    tab.wait_for_selector("#walk:not([hidden])")
    assert tab.locator("#cell").is_hidden() and tab.complaints == []


def test_the_numbers_of_a_text_are_found_and_open(opened):
    tab = opened("#seed=1&preset=fixed")
    card = tab.locator(".card", has_text="RPO τ 0.3").first
    card.locator("summary").click()
    card.get_by_role("button", name="its numbers").click()
    tab.wait_for_function("document.querySelectorAll('#numbers tbody tr').length === 2")
    tab.locator("#numbers a").first.click()
    tab.wait_for_selector("#cell:not([hidden])")
    assert "preset fixed" in tab.locator("#cell").inner_text() and tab.complaints == []


def test_what_is_not_there_is_said(opened):
    tab = opened("#table=table3&preset=" + quote("nobody's"))
    assert "no such cell" in tab.locator("#status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_light_and_dark(opened, scheme):
    tab = opened(CELL, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    style = "getComputedStyle(document.body)"
    ink, page_colour = tab.evaluate(f"[{style}.color, {style}.backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, page_colour)]
    assert light[0] - light[1] > 400 if scheme == "dark" else light[1] - light[0] > 400
