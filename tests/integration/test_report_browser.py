"""The written page in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from governance.report import build, report_key, write
from governance.report.page.markup import anchor
from tests.support.report_fixture import NOW, SIGNALS, make_empty_shop, make_open_shop, make_shop

pytestmark = pytest.mark.browser

SERIOUS = {"serious", "critical"}

A4_TEXT_WIDTH = 688  # 182 mm at 96 dpi: what the print margins leave

LOW_CONTRAST = """() => {
  const rgb = text => { const n = text.match(/[0-9.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => { for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor); if (colour[3] === 1) return colour; }
    return [255, 255, 255, 1]; };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; text = walker.nextNode();) {
    const owner = text.parentElement;
    if (!text.data.trim() || owner.closest('svg') || !owner.checkVisibility()) continue;
    const [a, b] = [light(rgb(getComputedStyle(owner).color)), light(behind(owner))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([text.data.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return low;
}"""

STRUCTURE = """() => ({
  landmarks: ['header', 'nav', 'main', 'footer'].filter(tag => document.querySelectorAll(`body > ${tag}`).length !== 1),
  titles: document.querySelectorAll('h1').length,
  skipped: [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])
    .filter((level, i, all) => i && level > all[i - 1] + 1),
  headers: [...document.querySelectorAll('th')].filter(th => !th.scope).length,
  uncaptioned: [...document.querySelectorAll('table')].filter(t => !t.caption || !t.caption.textContent.trim()).length,
  unnamed: [...document.querySelectorAll('svg[role=img], [role=region], nav')]
    .filter(e => !e.getAttribute('aria-label')).length,
  language: document.documentElement.lang,
})"""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = make_open_shop(tmp_path_factory.mktemp("shop"))
    built = build(shop.settings, shop.ledger, lambda: NOW)
    return write(built, tmp_path_factory.mktemp("out"), key=report_key(shop.settings), paper=False).html


@pytest.fixture(scope="module")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One week, with a failure: every part of the page once, for checks that take long on a long page."""
    shop = make_shop(tmp_path_factory.mktemp("small"), weeks=1, signals=SIGNALS[:2])
    shop.release_directory("item_weekly/v1/2025-10-27").joinpath("part-00000.parquet").write_bytes(b"changed")
    built = build(shop.settings, shop.ledger, lambda: NOW)
    return write(built, tmp_path_factory.mktemp("small_out"), key=report_key(shop.settings), paper=False).html


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(block => block.open = true)")


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_quiet_self_contained_and_no_wider_than_the_screen(page: Page, report: Path, width: int) -> None:
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    open_all(page)
    assert told == []
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    clipped = page.evaluate("""[...document.querySelectorAll('main *')].filter(
        e => !e.closest('.scroll, .unseen, caption, thead, svg') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.className || e.tagName)""")
    assert clipped == []


@pytest.mark.parametrize(("scheme", "grey"), [("light", "#808080"), ("dark", "#707070")])
def test_text_has_contrast(page: Page, report: Path, scheme: str, grey: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(report.as_uri())
    open_all(page)
    assert page.evaluate(LOW_CONTRAST) == []
    page.evaluate(f"document.querySelector('.lead').style.color = '{grey}'")
    assert len(page.evaluate(LOW_CONTRAST)) == 1, "the check itself must notice grey text"


def serious(page: Page, *rules: str) -> list[tuple[str, str]]:
    """What axe-core finds that keeps somebody from reading: rule and element. `rules` limits it to these."""
    options = {"runOnly": list(rules)} if rules else None
    found = Axe().run(page, options=options).response["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(page: Page, small_report: Path, width: int, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(small_report.as_uri())
    open_all(page)
    assert serious(page) == []
    page.evaluate("document.documentElement.removeAttribute('lang')")
    assert [rule for rule, _ in serious(page, "html-has-lang")] == ["html-has-lang"], "the check must be able to fail"


def test_the_structure_can_be_read_aloud(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    assert page.evaluate(STRUCTURE) == {
        "landmarks": [],
        "titles": 1,
        "skipped": [],
        "headers": 0,
        "uncaptioned": 0,
        "unnamed": 0,
        "language": "en",
    }


def test_a_row_leads_to_its_evidence(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    evidence = page.locator(f'[id="{anchor("release", "item_weekly/v1/2025-11-17")}"]')
    assert not evidence.is_visible()
    page.locator("article", has_text="Listeners and mean seconds").get_by_role("link", name="17 – 23 Nov 2025").click()
    evidence.wait_for(state="visible")


def test_the_chart_draws_what_was_spent(page: Page, report: Path) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(report.as_uri())
    plot = page.locator(".plot svg").first.bounding_box()
    line = page.locator(".plot path.line-rho").first.bounding_box()
    assert plot is not None
    assert line is not None
    assert line["height"] / plot["height"] == pytest.approx(0.5, abs=0.02)  # 0.125 of 0.25
    bar = page.locator("rect.bar-rho").first.bounding_box()
    whole = page.locator("rect.bar-cap").first.bounding_box()
    assert bar is not None
    assert whole is not None
    assert bar["width"] / whole["width"] == pytest.approx(0.5, abs=0.01)


def test_paper_shows_everything(page: Page, report: Path, tmp_path: Path) -> None:
    page.set_viewport_size({"width": A4_TEXT_WIDTH, "height": 980})
    page.goto(report.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    hidden = page.evaluate("[...document.querySelectorAll('.evidence')].filter(e => !e.checkVisibility()).length")
    assert hidden == 0
    cut = page.evaluate("""[...document.querySelectorAll('.scroll')].filter(
        e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1).length""")
    assert cut == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert len(page.pdf(prefer_css_page_size=True)) > 50_000


def test_hostile_text_does_nothing(page: Page, tmp_path: Path) -> None:
    text = "</style><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
    shop = make_empty_shop(tmp_path / "shop", description=text)
    shop.release(
        SIGNALS[2],
        datetime(2025, 11, 24, tzinfo=UTC),
        change=lambda m: replace(m, signal=replace(m.signal, description=text)),
    )
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    url = write(build(shop.settings, shop.ledger, lambda: NOW), tmp_path / "out", paper=False).html.as_uri()
    page.goto(url)
    assert page.title() == "listening_shop: privacy report"
    assert page.get_by_text(text).count() == 3
    assert asked == [url]
