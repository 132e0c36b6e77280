"""The site of the docs as it is built: `make docs` builds it, names its folder in BANET_TEST_SITE, and runs these."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

BUILT = os.environ.get("BANET_TEST_SITE", "")
pytestmark = pytest.mark.skipif(not BUILT, reason="no built site: `make docs`")
SITE = Path(BUILT).resolve()
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def pages() -> list[str]:
    """Paths of the pages, relative to the site."""
    return sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html") if page.name != "404.html")


class Page(HTMLParser):
    """Text of a page outside of code, and of its tables the texts of the rows, of head and body."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.tables: list[dict[str, list[str]]] = []
        self._open: list[dict[str, list[str]]] = []
        self._part = "tbody"
        self._code = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("code", "pre", "script", "style"):
            self._code += 1
        elif tag == "table":
            self._open.append({"thead": [], "tbody": []})
            if dict(attrs).get("class") != "highlighttable":  # numbered lines of code
                self.tables.append(self._open[-1])
        elif tag in ("thead", "tbody"):
            self._part = tag
        elif tag == "tr":
            self._open[-1][self._part].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("code", "pre", "script", "style"):
            self._code -= 1
        elif tag == "table":
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][self._part]:
            self._open[-1][self._part][-1] += data.strip()
        if not self._code:
            self.text += data


def test_tables_have_heads_and_rows_and_metrics_are_typeset() -> None:
    tables, wrong = 0, []
    for name in pages():
        page = Page(SITE / name)
        tables += len(page.tables)
        wrong += [f"{name}: {table}" for table in page.tables if not all(rows and all(rows) for rows in table.values())]
        wrong += [f"{name}: {plain}" for plain in re.findall(r"(?:PQ|SQ|RQ|AP|mIoU)[\^ ](?:Th|St)\b", page.text)]
    assert tables > 500 and wrong == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    import shutil

    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--allow-file-access-from-files"]
        )
        yield running
        running.close()


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_search_finds_the_right_page_first(browser: Any, device: dict[str, Any]) -> None:
    """From the disk: the site needs no server."""
    page = browser.new_context(**device).new_page()
    page.goto((SITE / "index.html").as_uri())
    (page.tap if "has_touch" in device else page.click)("[for=__search]:visible, .md-search__input:visible")
    first = {}
    for words in RIGHT:
        for text in ("", words):  # all letters at once: between two of them there would be other results
            page.locator(".md-search__input").fill(text)
            page.locator(".md-search__input").press("End")
            page.locator(".md-search-result__item").first.wait_for(state="attached" if text else "detached")
        link = page.locator(".md-search-result__item a").first.get_attribute("href")
        first[words] = link.split("?")[0].split("#")[0].removeprefix(f"{SITE.as_uri()}/")
    assert first == RIGHT
    page.context.close()


RIGHT = {
    "Table 2": "how_to/studies.html",
    "fine-tune": "tutorials/fine_tune.html",
    "fine tune": "tutorials/fine_tune.html",
    "panoptic quality": "explanation/panoptic_quality.html",
    "RoIInlay": "explanation/roi_inlay.html",
    "onnx": "how_to/export.html",
    "install": "index.html",
    "large images": "how_to/large_images.html",
    "MaskCrops": "api/panoptic.html",
}
"""What is typed, and the page that must be found first."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser: Any, scheme: str) -> None:
    """Tables and code scroll by themselves."""
    page = browser.new_context(**PHONE, color_scheme=scheme).new_page()
    wide = []
    for name in pages():
        page.goto((SITE / name).as_uri())
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(name)
    assert wide == []
    page.context.close()
