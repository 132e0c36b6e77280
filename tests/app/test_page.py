"""The page in a browser: what a visitor sees, does and downloads. Tests skip where there is no Chromium."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import empty_png, encoded
from PIL import Image

from banet.panoptic import PanopticSegmentation
from banet.panoptic.coco.annotations import PanopticJson
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE
from banet.panoptic.drawing.diff import differing_pixels
from banet.panoptic.segmentation import COLUMNS


@pytest.fixture(scope="module")
def browser(server) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


@pytest.fixture
def open_page(browser, server) -> Iterator[Any]:
    """Opens the page; nothing may be asked of another host, no script may fail, no policy may be broken."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opening(phone: bool = False, **options: Any) -> Any:
        size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
        context = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone, accept_downloads=True, **options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        tab = context.new_page()
        tab.asked = []
        tab.on("request", lambda r: tab.asked.append(r.url) if "/api/" in r.url else None)
        tab.on("request", lambda r: r.url.startswith((server.url, "data:", "blob:")) or wrong.append(r.url))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("response", lambda r: r.status < 400 or "/api/" in r.url or wrong.append(f"{r.status} {r.url}"))
        tab.on(
            "console", lambda m: wrong.append(m.text) if m.type == "error" and "Failed to load" not in m.text else None
        )
        tab.goto(server.url)
        tab.locator("#status", has_text="drawn scene 1: ").wait_for()
        return tab

    yield opening
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def tab(open_page) -> Any:
    return open_page()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    from banet.data.scenes.generate import make_scene

    return make_scene(3, 20, (480, 640)).image


@pytest.fixture(scope="module")
def results(one_thread, model, scene) -> dict[str, PanopticSegmentation]:
    (unfused,) = model.predict_unfused([scene])
    best = replace(model.inference, overlap_threshold=BEST_OVERLAP_THRESHOLD)
    return {
        BEST_RULE: unfused.fuse(model.categories, best, rule=BEST_RULE),
        "heuristic": unfused.fuse(model.categories, model.inference, rule="heuristic"),
        "score": unfused.fuse(model.categories, model.inference, rule="score"),
    }


def drop(tab: Any, name: str, data: bytes, padding: int = 0) -> None:
    """Drops a file on the page, as a hand would."""
    transfer = tab.evaluate_handle(
        """([name, text, padding]) => {
            const data = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([data, new Uint8Array(padding)], name));
            return transfer;
        }""",
        [name, base64.b64encode(data).decode(), padding],
    )
    tab.dispatch_event("body", "drop", {"dataTransfer": transfer})


def titles(tab: Any) -> list[str]:
    return [str(caption.inner_text()) for caption in tab.locator("figcaption b").all()]


def pixels(tab: Any, panel: int) -> np.ndarray:
    """What a stage shows: (H, W, 3)."""
    url = tab.locator(".stage canvas").nth(panel).evaluate("(canvas) => canvas.toDataURL('image/png')")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))


def place(tab: Any, panel: int, x: float, y: float) -> tuple[float, float]:
    """Where a place of a stage, 0..1 per side, is in the window."""
    stage = tab.locator(".stage canvas").nth(panel)
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def middle(result: PanopticSegmentation, segment: Any) -> tuple[float, float]:
    """A pixel of a segment, 0..1 per side."""
    y, x = (int(v[len(v) // 2]) for v in np.nonzero(result.ids == segment.id))
    return (x + 0.5) / result.width, (y + 0.5) / result.height


def download(tab: Any, kind: str, folder: Path) -> Path:
    tab.locator("#downloads summary").click()
    with tab.expect_download() as wait:
        tab.locator(f"[data-file={kind}]").click()
    target = folder / wait.value.suggested_filename
    wait.value.save_as(target)
    return target


# --------------------------------------------------------------------------------------------------- first impression


def test_it_begins_with_a_result_by_the_best_rule_where_that_wins(tab):
    assert titles(tab) == [BEST_RULE, "heuristic"]
    assert (tab.locator("#rule").input_value(), tab.locator("#other").input_value()) == (BEST_RULE, "heuristic")
    assert float(tab.locator("figcaption em").inner_text()) > 2
    assert "drawn scenes only" in tab.locator("#weights").inner_text()
    assert "PQ 61.7" in tab.locator("#weights").inner_text()
    assert tab.locator("#samples img").count() == 4
    # Results, and where they differ, are on the first screen.
    for selector in ("figure", "#changes h2", ".change .views"):
        box = tab.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 800, selector


def test_what_is_shown_before_there_is_a_result(browser, server):
    """While the first sample is segmented, and with weights that have no samples."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    held: list[Any] = []
    tab.route("**/api/samples/0", lambda route: held.append(route))
    tab.goto(server.url)
    tab.locator("#status", has_text="Segmenting drawn scene 1").wait_for()
    assert tab.locator("#welcome").is_visible()
    assert tab.locator("main").is_hidden()
    held[0].abort()
    tab.locator("#fault", has_text="does not answer").wait_for()
    facts = {**json.loads(server.get("/api/page")[1]), "samples": {"kind": "", "count": 0}, "domain": "", "figures": ""}
    tab.route("**/api/page", lambda route: route.fulfill(json=facts))
    tab.goto(server.url)
    tab.get_by_text("Open, drop or paste an image").wait_for()
    assert tab.locator("#bar").evaluate("(bar) => bar.inert")
    assert tab.locator("#weights").inner_text() == "scenes"
    drop(tab, "a.png", encoded(np.zeros((30, 40, 3), np.uint8)))
    tab.locator("#status", has_text="a.png: ").wait_for()
    assert tab.locator("#welcome").is_hidden()
    assert not tab.locator("#bar").evaluate("(bar) => bar.inert")
    tab.close()


def test_the_bar_stays(tab):
    tab.set_viewport_size({"width": 1280, "height": 400})
    tab.mouse.move(300, 300)
    tab.mouse.wheel(0, 2000)
    tab.wait_for_timeout(200)
    assert tab.locator("#bar").bounding_box()["y"] == 0


# -------------------------------------------------------------------------------------------- an image of the visitor's


def test_a_dropped_image_is_named_compared_and_described(tab, scene, results):
    drop(tab, "street <1>.png", encoded(scene))
    tab.locator("#status", has_text="street <1>.png: ").wait_for()
    first, second = results[BEST_RULE], results["heuristic"]
    differing = int(differing_pixels(first, second).sum())
    assert differing > 0
    assert f"{differing:,} pixels" in tab.locator("#changes h2").inner_text()
    assert f"{len(first.segments)} segments" in tab.locator("#status").inner_text()
    assert tab.locator("#objects button").count() == len(first.segments)
    rows = [row.inner_text().split("\n") for row in tab.locator("#classes label").all()]
    for name, number in first.counts().items():
        assert [name, str(number)] in rows


def test_pointing_names_and_outlines_a_segment(tab, results):
    first, second = results[BEST_RULE], results["heuristic"]
    thing = first.segments[1]
    before = pixels(tab, 0)
    tab.mouse.move(*place(tab, 0, *middle(first, thing)))
    tab.locator("#tip").wait_for()
    assert tab.locator("#tip").inner_text() == f"{thing.label} {100 * thing.score:.0f} %, {thing.area:,} px"
    assert (pixels(tab, 0) != before).any()
    # Where the results disagree both owners are named.
    y, x = (int(v[0]) for v in np.nonzero(differing_pixels(first, second)))
    tab.mouse.move(*place(tab, 0, (x + 0.5) / first.width, (y + 0.5) / first.height))
    lines = tab.locator("#tip").inner_text().split("\n")
    assert lines[1].startswith("heuristic: ")
    tab.mouse.move(5, 5)
    assert tab.locator("#tip").is_hidden()
    assert (pixels(tab, 0) == before).all()


def test_a_click_selects_in_both_results_and_the_veil_bleaches_nothing(tab, results):
    first = results[BEST_RULE]
    thing = first.segments[0]
    tab.locator("#opacity").fill("0")
    image = pixels(tab, 0)
    tab.mouse.click(*place(tab, 0, *middle(first, thing)))
    tab.mouse.move(5, 5)
    box = tab.locator("#selected")
    assert box.locator("h2").inner_text().startswith(f"{thing.label} {100 * thing.score:.0f} %")
    assert f"{thing.area:,} px" in box.inner_text()
    veiled = pixels(tab, 0)
    factor = veiled.shape[1] // first.width
    mask = np.kron(first.ids == thing.id, np.ones((factor, factor), bool))
    outline = (veiled == 255).all(axis=2) & mask
    assert outline.any()
    assert (np.abs(veiled.astype(int) - image)[mask & ~outline] <= 1).all()  # it shows as it is
    assert (veiled[~mask] <= image[~mask]).all()  # all else is darker, never lighter
    assert veiled[~mask].mean() < 0.5 * image[~mask].mean()
    tab.keyboard.press("Escape")
    assert box.inner_text() == "" or not box.is_visible()


def test_the_keyboard_selects(tab):
    buttons = tab.locator("#objects button")
    buttons.nth(0).focus()
    tab.keyboard.press("ArrowDown")
    assert buttons.nth(0).get_attribute("aria-pressed") == "true"
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    assert buttons.nth(2).get_attribute("aria-pressed") == "true"
    assert tab.evaluate("document.activeElement.dataset.object") == buttons.nth(2).get_attribute("data-object")
    tab.keyboard.press("Escape")
    assert tab.locator("#objects [aria-pressed=true]").count() == 0
    tab.locator(".stage canvas").nth(1).focus()
    tab.keyboard.press("ArrowLeft")
    assert buttons.last.get_attribute("aria-pressed") == "true"
    assert tab.locator("#selected h2").is_visible()


def test_rules_sliders_and_legend_ask_nothing_of_the_server(tab):
    asked = len(tab.asked)
    before = pixels(tab, 0)
    tab.locator("#rule").select_option("area")
    assert titles(tab) == ["area", "heuristic"]
    tab.locator("#other").select_option("the image alone")
    alone = pixels(tab, 1)
    assert tab.locator("#changes").is_hidden()
    tab.locator("#opacity").fill("0")
    assert np.abs(pixels(tab, 0).astype(int) - alone).max() <= 1  # nothing is painted
    tab.locator("#opacity").fill("100")
    assert np.abs(pixels(tab, 0).astype(int) - before).max() > 20
    count = tab.locator("#objects button").count()
    tab.locator("#score").fill("90")
    scores = [text for text in tab.locator("#objects small").all_inner_texts() if text]
    assert tab.locator("#objects button").count() < count
    assert all(int(text.split()[0]) >= 90 for text in scores)
    row = tab.locator("#classes label", has_text="sky")
    row.locator("input").uncheck()
    assert "sky" not in tab.locator("#objects").inner_text()
    tab.locator("#every").click()
    assert "sky" in tab.locator("#objects").inner_text()
    assert len(tab.asked) == asked


def test_a_change_leads_to_its_segment(tab):
    assert tab.locator(".mark").count() == 2 * tab.locator(".change").count() > 0
    tab.locator(".change").first.click()
    name = tab.locator("#selected h2").inner_text().split("\n")[0]
    assert name in tab.locator(".change").first.inner_text()


def test_downloads_hold_what_is_shown(tab, scene, results, tmp_path):
    drop(tab, "a street.png", encoded(scene))
    tab.locator("#status", has_text="a street.png: ").wait_for()
    tab.locator("#rule").select_option("score")
    tab.locator("#score").fill("80")
    tab.locator("#classes label", has_text="grass").locator("input").uncheck()
    files = [download(tab, kind, tmp_path) for kind in ("overlay", "ids", "json", "csv")]
    assert [file.name for file in files] == [
        "a_street_score_overlay.png",
        "a_street_score_ids.png",
        "a_street_score_segments.json",
        "a_street_score_table.csv",
    ]
    classes = {segment.label for segment in results["score"].segments} - {"grass"}
    expected = results["score"].filter(classes, min_score=0.8)
    assert 0 < len(expected) < len(results["score"])
    read = PanopticJson.read(files[2])
    ((number, annotation),) = read.annotations.items()
    assert read.images[number].file_name == "a street.png"
    found = PanopticSegmentation.from_annotation(annotation, tmp_path, read.categories, image=read.images[number])
    assert np.array_equal(found.ids, expected.ids)
    assert [(s.id, s.label, s.score, s.area, s.bbox) for s in found.segments] == [
        (s.id, s.label, s.score, s.area, s.bbox) for s in expected.segments
    ]
    rows = list(csv.DictReader(files[3].read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    for row, record in zip(rows, expected.to_records(), strict=True):
        assert (row["label"], row["isthing"] == "true") == (record["label"], record["isthing"])
        for column in ("id", "area", "x", "y", "width", "height", "centroid_x", "centroid_y"):
            assert float(row[column]) == pytest.approx(record[column], abs=0.006)
        assert row["score"] == "" if record["score"] is None else float(row["score"]) == record["score"]
    assert Image.open(files[0]).size == (640, 480)


def test_other_kinds_of_images_are_shown(tab):
    """What no browser decodes, such as TIFF, and what is reduced."""
    drop(tab, "a.tif", encoded(np.full((30, 40, 3), 90, np.uint8), "TIFF"))
    tab.locator("#status", has_text="a.tif: ").wait_for()
    assert abs(int(pixels(tab, 0).mean()) - 90) < 40
    drop(tab, "wide.png", encoded(np.zeros((20, 3000, 3), np.uint8)))
    tab.locator("#status", has_text="reduced from 3000 × 20 to 1280 × 9").wait_for()


def test_bad_files_are_named_and_do_no_harm(tab):
    fault = tab.locator("#fault")
    for name, data, padding, text in (
        ("notes.txt", b"a text", 0, "notes.txt: is not an image"),
        ("<img src=x onerror='document.title=1'>.png", b"", 0, "<img src=x onerror='document.title=1'>.png: is empty"),
        ("bomb.png", empty_png(60000, 60000), 0, "bomb.png: has too many pixels"),
        ("large.png", b"", 16 * 2**20 + 1, "large.png: has 16.0 MB; the limit is 16 MB"),
        ("notes.txt", b"a text", 0, "notes.txt: is not an image"),
    ):
        drop(tab, name, data, padding)
        fault.get_by_text(text).wait_for()
        assert titles(tab) == [BEST_RULE, "heuristic"]  # what was shown stays
    assert tab.title() == "BANet"
    tab.locator("#samples button").nth(1).click()
    tab.locator("#status", has_text="drawn scene 2: ").wait_for()
    assert fault.inner_text() == ""


def test_only_the_last_question_is_answered(tab):
    held: list[Any] = []
    tab.route("**/api/samples/1", lambda route: held.append(route))
    tab.locator("#samples button").nth(1).click()
    tab.wait_for_timeout(100)
    tab.locator("#samples button").nth(2).click()
    tab.locator("#status", has_text="drawn scene 3: ").wait_for()
    assert len(held) == 1
    tab.wait_for_timeout(200)
    assert "drawn scene 3" in tab.locator("#status").inner_text()
    assert tab.locator("#samples button").nth(2).get_attribute("aria-pressed") == "true"
    held[0].abort()


def test_a_busy_or_dead_server_is_told(tab):
    refusal = {"status": 503, "content_type": "application/json", "body": '{"detail": "Too many images are waiting"}'}
    tab.route("**/api/samples/1", lambda route: route.fulfill(**refusal))
    tab.locator("#samples button").nth(1).click()
    tab.locator("#fault", has_text="Too many images are waiting").wait_for()
    tab.route("**/api/samples/2", lambda route: route.abort())
    tab.locator("#samples button").nth(2).click()
    tab.locator("#fault", has_text="does not answer").wait_for()


# ------------------------------------------------------------------------------------------------- phones and the dark


def test_on_a_phone_a_tap_names_and_the_result_comes_into_view(open_page, scene, results):
    tab = open_page(phone=True)
    tab.wait_for_timeout(800)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    drop(tab, "a.png", encoded(scene))
    tab.locator("#status", has_text="a.png: ").wait_for()
    tab.wait_for_timeout(1200)
    figure, bar = tab.locator("figure").first.bounding_box(), tab.locator("#bar").bounding_box()
    assert bar["y"] == 0
    assert bar["height"] - 2 <= figure["y"] < 400  # below the bar, and on the screen
    first = results[BEST_RULE]
    thing = first.segments[1]
    tab.touchscreen.tap(*place(tab, 0, *middle(first, thing)))
    box = tab.locator("#selected")
    box.locator("h2").wait_for()
    assert thing.label in box.inner_text()
    at = box.bounding_box()
    assert at["y"] + at["height"] <= 844
    assert at["x"] >= 0
    assert at["x"] + at["width"] <= 390
    assert tab.locator("#downloads summary").is_visible()


CONTRASTS = """() => {
    const channels = (color) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255);
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((v, k) => a * v + (1 - a) * under[k]);
    const luminance = (color) =>
        color.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
    const ground = (node) => {
        if (!node) return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [1, 1, 1];
        return over(channels(getComputedStyle(node).backgroundColor), ground(node.parentElement));
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const node = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest(".stage, noscript")) continue;
        const under = ground(node);
        const [one, two] = [luminance(over(channels(getComputedStyle(node).color), under)), luminance(under)];
        const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        found.push([walk.currentNode.data.trim().slice(0, 40), Math.round(100 * ratio) / 100]);
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_all_text_has_contrast(open_page, scheme, phone):
    tab = open_page(phone=phone, color_scheme=scheme)
    tab.locator(".change").first.click()
    tab.evaluate("document.querySelector('#downloads').open = true")
    tab.evaluate("document.querySelector('#fault').textContent = 'a.png: is not an image'")
    tab.locator("#classes input").last.uncheck()
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [entry for entry in found if entry[1] < 4.5] == []
    dark = np.array(Image.open(io.BytesIO(tab.screenshot()))).mean() < 110
    assert dark == (scheme == "dark")


# ---------------------------------------------------------------------------------------------------------------- video


def short_video(frames: int) -> bytes:
    """A video of a procedural scene, as MP4."""
    av = pytest.importorskip("av")
    from banet.data.scenes import SceneVideo

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for one in SceneVideo(0, 3, (64, 96)).frames(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one.image, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_a_short_video_is_played_with_its_objects_tracked(tab):
    drop(tab, "walk.mp4", short_video(3))
    tab.locator("#status", has_text="walk.mp4: 3 frames, ").wait_for()
    assert tab.locator("#clip video").get_attribute("src").startswith("blob:")
    assert tab.locator("#clip").is_visible() and not tab.locator("main").is_visible()
    with tab.expect_download() as saved:
        tab.locator("#clip a").click()
    assert saved.value.suggested_filename == "walk_tracked.mp4"
    tab.locator("#samples button").first.click()
    tab.locator("#status", has_text="drawn scene 1: ").wait_for()
    assert tab.locator("main").is_visible() and not tab.locator("#clip").is_visible()
    drop(tab, "bad.mp4", b"no video")
    tab.locator("#fault", has_text="bad.mp4: is not a video").wait_for()
