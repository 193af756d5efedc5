"""The site as people see it, in a real browser: every page opens, its pictures load, nothing is
wider than a phone, and it can be read by day and by night."""

import shutil
from collections.abc import Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
# The text and the colour behind it, of what a reader reads; a colour as the browser computes it.
COLOURS = """() => {
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const seen = document.querySelectorAll(
    "article p, article td, article th, article li, article a, .highlight span, .verdict");
  return [...seen].filter((n) => n.textContent.trim() && n.offsetParent)
    .map((n) => [getComputedStyle(n).color, behind(n), n.textContent.trim().slice(0, 40)]);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if not CHROMIUM:
        pytest.skip("there is no chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


def opened(browser, size: dict, scheme: str):
    """A page of this size and scheme, and the list of what went wrong on it."""
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    faults = []
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(request.url))
    return page, faults


def test_every_page_opens_whole_on_a_phone(browser, site):
    page, faults = opened(browser, PHONE, "dark")
    wide = []
    for path in sorted(site.rglob("*.html")):
        if (
            "results" in path.parts[len(site.parts) :]
        ):  # the run's own pages have tests of their own
            continue
        page.goto(path.as_uri())
        assert page.evaluate(BROKEN) == [], path.name
        if page.evaluate(WIDER) > 0:
            wide.append(path.relative_to(site).as_posix())
    assert faults == [] and wide == []


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(…)", 0 to 1 (WCAG 2.1)."""
    parts = [float(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "place", ["index.html", "tables/table3.html", "notebooks/05_table3_judges.html", "start.html"]
)
def test_it_can_be_read_by_day_and_by_night(browser, site, place, scheme):
    page, faults = opened(browser, DESK, scheme)
    page.goto((site / place).as_uri())
    body = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(body) > 0.5) is (scheme == "light")
    seen = page.evaluate(COLOURS)
    assert len(seen) > 20 and faults == []
    faint = [(text, *pair) for *pair, text in seen if contrast(*pair) < 3]
    assert faint == []


def column(page, place: int) -> list[str]:
    return page.eval_on_selector_all(
        f"table.rows tbody tr:not([hidden]) td:nth-child({place})",
        "cells => cells.map(cell => cell.textContent)",
    )


def test_a_table_is_sorted_and_searched(browser, site):
    page, faults = opened(browser, DESK, "light")
    page.goto((site / "tables" / "table3.html").as_uri())
    heads = page.eval_on_selector_all(
        "table.rows th", "heads => heads.map(head => head.textContent)"
    )
    place = heads.index("win_rate") + 1
    given = column(page, place)
    head = page.locator("table.rows th").nth(place - 1)
    head.locator("button").click()
    assert column(page, place) == sorted(given, key=float) != given
    head.locator("button").click()
    assert column(page, place) == sorted(given, key=float, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    page.locator(".search-rows input").fill("released kto")
    left = column(page, heads.index("baseline") + 1)
    assert left and set(left) == {"kto"} and len(left) < len(given)
    assert page.locator("[role=status]").inner_text() == f"{len(left)} of {len(given)} rows"
    assert faults == []


def test_the_first_page_s_doors_open(browser, site):
    page, faults = opened(browser, PHONE, "light")
    page.goto((site / "index.html").as_uri())
    doors = page.eval_on_selector_all(".doors a", "links => links.map(link => link.href)")
    assert len(doors) >= 6
    for door in doors:
        page.goto(door)
        assert page.title()
    assert faults == []
