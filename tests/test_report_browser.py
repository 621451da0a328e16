"""The report in a real browser: nothing is fetched, nothing complains, tables sort, every figure shows data.

Needs Playwright (the extra `browser`) and Chromium: Debian's, or Playwright's own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report import reported  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser
REQUIRED = os.environ.get("ILREC_REQUIRE_BROWSER") == "1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("playwright is not installed (pip install 'ilrec[browser]')")
    with sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Error as error:
            if REQUIRED:
                raise
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 390)])
def test_the_page_is_silent_and_asks_for_nothing(browser: Any, reported: Path, scheme: str, width: int) -> None:  # noqa: F811
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((reported / "report.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert said == []
    assert asked == [(reported / "report.html").as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    page.close()


def test_tables_sort_by_numbers_and_by_names(browser: Any, reported: Path) -> None:  # noqa: F811
    page = browser.new_page()
    page.goto((reported / "report.html").as_uri())
    table = page.locator("#results-1 table").first

    def column(place: int) -> list[str]:
        return [text.splitlines()[0] for text in table.locator(f"tbody td:nth-child({place})").all_inner_texts()]

    before = column(8)
    for expected in ("descending", "ascending"):
        head = table.locator("th").nth(7)
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == expected
        assert column(8) == sorted(before, key=float, reverse=expected == "descending")
    table.locator("th").first.locator("button").click()
    assert column(1) == sorted(column(1))
    assert table.locator("th[aria-sort]").count() == 1
    page.close()


def test_every_figure_has_a_text_and_shows_data(browser: Any, reported: Path) -> None:  # noqa: F811
    page = browser.new_page()
    page.goto((reported / "report.html").as_uri())
    figures = page.locator("figure svg")
    assert figures.count() >= 8
    for place in range(figures.count()):
        figure = figures.nth(place)
        assert len(figure.get_attribute("aria-label")) > 20
        box = figure.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
        # Marks of the palette: lines, bars or points, beside axes and texts in the page's own colour.
        drawn = figure.evaluate(
            "svg => [...svg.querySelectorAll('path, use')].filter(mark => {"
            " const style = getComputedStyle(mark), own = [style.fill, style.stroke];"
            " const page = getComputedStyle(svg).color;"
            " return own.some(colour => colour !== 'none' && colour !== page && colour !== 'rgb(0, 0, 0)')"
            " && mark.getBBox().width + mark.getBBox().height > 0 }).length"
        )
        assert drawn > 0, figure.get_attribute("aria-label")
    page.close()
