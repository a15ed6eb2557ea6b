"""The report's pages in a real browser: on a phone, at a desk, in the dark, on paper, without a network."""

from collections.abc import Callable
from pathlib import Path

import pytest
from browser import DESK_WIDTH, PHONE_WIDTH, Browser, Scheme

from bringup.report.page import fleet_page, host_page
from bringup.smoke.model import SmokeReport
from tests.unit import records

PAGES: dict[str, Callable[[], str]] = {
    "healthy": lambda: host_page(records.healthy(), Path("healthy.json")),
    "failed": lambda: host_page(records.failed()),
    "throttled": lambda: host_page(records.throttled()),
    "inconclusive": lambda: host_page(records.inconclusive()),
    "stalling": lambda: host_page(records.stalling()),
    "unreachable": lambda: host_page(records.unreachable()),
    "cpu-only": lambda: host_page(records.cpu_only()),
    "bare": lambda: host_page(records.bare()),
    "long-words": lambda: host_page(long_words()),
    "fleet": lambda: fleet_page(records.fleet(4)),
}

# what sticks out to the right although nothing around it scrolls or cuts it off
STICKS_OUT = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(one => {
  const place = one.getBoundingClientRect();
  if (place.width === 0 || place.right <= wide + 1 || one.closest('svg svg')) return false;
  for (let up = one.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(up).overflowX)) return false;
  return true;
}).slice(0, 5).map(one => one.outerHTML.slice(0, 120));
"""
# WCAG 2: relative luminance, and the contrast of each text with what lies behind it
CONTRASTS = """
const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
const light = colour => {
  const [r, g, b] = parts(colour).slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const clear = colour => parts(colour).length === 4 && parts(colour)[3] === 0;
const behind = one => {
  for (let up = one; up; up = up.parentElement) {
    const colour = getComputedStyle(up).backgroundColor;
    if (!clear(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
return [...document.querySelectorAll('body *')].filter(one =>
  [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()) && one.getClientRects().length
  && !['TITLE', 'DESC'].includes(one.tagName.toUpperCase()) && !one.classList.contains('part-name')
).map(one => {
  const style = getComputedStyle(one), colour = one instanceof SVGElement ? style.fill : style.color;
  const pair = [light(colour), light(behind(one))].sort((a, b) => b - a);
  return [(pair[0] + 0.05) / (pair[1] + 0.05), one.outerHTML.slice(0, 100)];
}).filter(([contrast]) => contrast < 4.5);
"""


def long_words() -> SmokeReport:
    """Names that nobody can break."""
    found = records.failed(f"host-{'x' * 120}")
    request = found.request.model_copy(update={"model": "m" * 150})
    return found.model_copy(update={"request": request, "reason": f"E2E {'y' * 150}", "release": "0" * 100})


@pytest.fixture(params=PAGES, scope="module")
def page(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


@pytest.mark.parametrize(
    ("width", "scheme"), [(PHONE_WIDTH, "light"), (PHONE_WIDTH, "dark"), (DESK_WIDTH, "light"), (DESK_WIDTH, "dark")]
)
def test_it_is_quiet_alone_within_its_width_and_readable(browser: Browser, page: str, width: int, scheme: Scheme) -> None:
    browser.show(page, width, scheme)
    assert browser.complaints() == []
    asked = [address for address in browser.requests() if not address.startswith("data:")]
    assert [Path(address).name for address in asked] == ["page.html"]
    assert browser.run("return document.scrollingElement.scrollWidth") <= width
    assert browser.run(STICKS_OUT) == []
    assert browser.run(CONTRASTS) == []


def test_the_dark_is_dark_and_the_paper_is_white(browser: Browser) -> None:
    page = PAGES["healthy"]()
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.show(page, scheme="dark")
    assert browser.run(ground) == "rgb(13, 17, 23)"
    browser.show(page, scheme="light")
    assert browser.run(ground) == "rgb(255, 255, 255)"
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert browser.run(ground) == "rgb(255, 255, 255)"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("healthy", ["gpu-1", "✓ PASS", "TTFT P50", "38.2 ms", "E2E P90"]),
        ("failed", ["gpu-2", "✗ FAIL", "E2E P90 was", "The card waits for one busy core", "What to do:"]),
        ("inconclusive", ["gpu-4", "? INCONCLUSIVE", "about 29 requests would settle it"]),
        ("fleet", ["4 hosts: 1 fail, 1 cannot tell yet, 2 pass", "gpu-3", "gpu-1"]),
    ],
)
def test_the_first_sheet_of_paper_has_the_verdict(browser: Browser, name: str, says: list[str]) -> None:
    browser.show(PAGES[name]())
    sheets = browser.printed()
    first = " ".join(sheets[0].split())
    assert [words for words in says if words not in first] == []
    assert len(sheets) <= 8


def test_the_parts_of_a_page_are_there_and_seen(browser: Browser) -> None:
    browser.show(PAGES["healthy"](), PHONE_WIDTH)
    headings = browser.run("return [...document.querySelectorAll('h1, h2')].map(one => one.innerText)")
    assert headings == [
        "gpu-1", "Acceptance lines", "Latency", "Over time", "Ladder: what more requests at once bring",
        "Plan against measured", "Answers", "Repeat it", "What the figures mean",
    ]  # fmt: skip
    # each chart is as wide as its place allows, has its height, a name, and words for those who do not see it
    charts = browser.run(
        "return [...document.querySelectorAll('figure svg.chart')].map(one => [one.getBoundingClientRect().width,"
        " one.getBoundingClientRect().height, one.getAttribute('role'), one.querySelector('title').textContent.length])"
    )
    assert len(charts) > 12
    assert all(width > 250 and height >= 20 and role == "img" and title > 5 for width, height, role, title in charts)
    # the pictures over time stand exactly below each other
    edges = browser.run(
        "return [...document.querySelectorAll('.time svg.chart')].map(one => one.getBoundingClientRect())"
        ".map(at => [at.left, at.right])"
    )
    assert len(edges) >= 10
    assert {tuple(edge) for edge in edges} == {tuple(edges[0])}
    assert browser.run("return document.querySelectorAll('script, iframe, object, img').length") == 0


def test_links_of_a_fleet_open_the_host_that_they_name(browser: Browser) -> None:
    browser.show(PAGES["fleet"]())
    seen = "return [...document.querySelectorAll('details[open] > div > header h3')].map(one => one.innerText)"
    assert browser.run(seen) == []
    browser.run("[...document.querySelectorAll('td a')].find(one => one.innerText === 'gpu-3').click()")
    assert browser.run(seen) == ["gpu-3"]
    ids = browser.run("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(ids) == len(set(ids))


def test_text_of_others_is_shown_and_never_run(browser: Browser) -> None:
    attack = '"><script>document.title="taken"</script><img src=x onerror=\'document.title="taken"\'>'
    found = records.composed(attack, error=attack, requests=3)
    request = found.request.model_copy(update={"model": attack})
    cause = records.BUSY_CORE.model_copy(update={"title": attack, "evidence": (attack,), "fix": attack})
    found = found.model_copy(update={"request": request, "reason": attack, "causes": (cause,), "quality": records.quality()})
    for page in (host_page(found, Path(f"{attack}.json")), fleet_page([found, records.healthy()])):
        browser.show(page)
        assert "taken" not in browser.driver.title.replace(attack, "")
        assert browser.run("return document.querySelectorAll('script, img').length") == 0
        assert browser.complaints() == []
        assert attack in browser.run("return document.body.textContent")
