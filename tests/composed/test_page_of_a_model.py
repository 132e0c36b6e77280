"""The page in a browser with a model of another library that was saved to disk. Skips where there is no Chromium."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("transformers")
pytest.importorskip("uvicorn")
pytest.importorskip("playwright")

import saved

import banet
from banet.data.scenes import make_scene

SIZE = (120, 160)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "street.png"
    Image.fromarray(make_scene(seed=9, index=0, size=SIZE).image).save(path)
    return path


@pytest.fixture(scope="module")
def weights(image: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = saved.save_that_finds(tmp_path_factory.mktemp("model"), make_scene(seed=9, index=0, size=SIZE).image)
    (folder / "README.md").write_text("---\ndatasets:\n- coco\n---\n")
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def url(weights: str) -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", "-m", "banet", "app", "--port", "0", "--weights", weights]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.fullmatch(rf"{re.escape(weights)} on (http://127\.0\.0\.1:\d+) .*\n", said)
        assert found, said
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_the_page_shows_what_predict_finds(url: str, weights: str, image: Path, phone: bool) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    wrong: list[str] = []
    size: Any = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone).new_page()
        tab.set_default_timeout(120_000)
        tab.on("request", lambda r: r.url.startswith((url, "data:", "blob:")) or wrong.append(r.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and wrong.append(message.text))
        tab.goto(url)
        tab.locator("#welcome").wait_for()
        assert "coco" in tab.locator("#weights").inner_text() and weights in tab.locator("#weights").inner_text()
        tab.set_input_files("input[type=file]", image)
        tab.locator("#status", has_text="street.png: ").wait_for()
        result = banet.load(weights).predict(image)
        assert f": {len(result.segments)} segments" in tab.locator("#status").inner_text()
        shown = re.findall(r"[a-z-]+", tab.locator("#objects").inner_text())
        assert sorted(shown) == sorted(segment.label for segment in result.segments)
        titles = [caption.inner_text() for caption in tab.locator("#pair figcaption b").all()]
        assert titles == ["color-contour", "heuristic"]
        tab.locator("#rule").select_option("area")
        tab.locator("#pair figcaption b", has_text="area").wait_for()
        assert tab.evaluate("document.documentElement.scrollWidth") == size["width"]
        browser.close()
    assert wrong == []
