"""The gallery: what is in the file, and what a person sees of it in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from banet.engine.report.gallery import LARGEST, Gallery, write_gallery
from banet.inference.postprocess import Instances
from banet.panoptic import Categories, MaskCrops, PanopticQuality, PanopticSegmentation, fuse_panoptic
from banet.panoptic.drawing.colors import find_objects, segment_colors
from banet.panoptic.drawing.diff import differing_pixels
from banet.panoptic.occlusion.overlap_report import report_overlaps

CATEGORIES = Categories.of(
    [
        {"id": 3, "name": "tie", "isthing": 1, "color": [250, 200, 0]},
        {"id": 7, "name": "cup", "isthing": 1, "color": [200, 30, 30]},
        {"id": 90, "name": "sky", "isthing": 0, "color": [90, 160, 230]},
    ]
)
CUP, TIE, SKY = 7, 3, 90
SIZE = (60, 80)
FACTS = {"weights": "mine.safetensors", "data": "<cups>"}

Box = tuple[int, int, int, int]
Thing = tuple[int, float, Box]  # category id, score, x1 y1 x2 y2


def instances(things: list[Thing]) -> Instances:
    masks = np.zeros((len(things), *SIZE), dtype=bool)
    for mask, (_, _, (x1, y1, x2, y2)) in zip(masks, things, strict=True):
        mask[y1:y2, x1:x2] = True
    return Instances(
        masks=MaskCrops.from_masks(masks),
        scores=np.array([score for _, score, _ in things]),
        labels=CATEGORIES.indices_of([category for category, _, _ in things]),
        boxes=np.array([box for _, _, box in things], dtype=np.float32).reshape(-1, 4),
    )


GREY = np.full((*SIZE, 3), 128, dtype=np.uint8)


def fuse(found: Instances, rule: str = "score", image: NDArray[np.uint8] = GREY) -> PanopticSegmentation:
    sky = np.full(SIZE, SKY)
    return fuse_panoptic(
        found.masks,
        found.scores,
        CATEGORIES.ids[found.labels],
        sky,
        image,
        categories=CATEGORIES,
        rule=rule,
        stuff_area=0,
    )


# Of each image what was found, and what is true.
GOOD: list[Thing] = [(CUP, 0.9, (10, 10, 30, 30))]
DISPUTED: list[Thing] = [(CUP, 0.9, (5, 5, 45, 25)), (CUP, 0.8, (35, 5, 75, 25)), (TIE, 0.7, (5, 5, 15, 15))]
WRONG: list[Thing] = [(TIE, 0.75, (50, 30, 70, 50)), (CUP, 0.65, (0, 0, 8, 8))]
PICTURES = {
    "good.png": (GOOD, GOOD),
    "disputed.png": (DISPUTED, [(CUP, 1.0, (5, 5, 40, 25)), (CUP, 1.0, (40, 5, 75, 25))]),
    "<b>wrong</b>.png": (WRONG, [(CUP, 1.0, (50, 30, 70, 50)), (TIE, 1.0, (20, 40, 30, 50))]),
}


def fill(gallery: Gallery) -> None:
    for name, (found, true) in PICTURES.items():
        some = instances(found)
        result, other = fuse(some), fuse(some, "area")
        gallery.add(
            name,
            np.full((*SIZE, 3), 128, dtype=np.uint8),
            {"score": result, "area": other},
            truth=fuse(instances(true)),
            instances=some,
            changed=differing_pixels(result, other),
        )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "page.html"
    with write_gallery(
        path, "Cups & ties", CATEGORIES, note="a note", changed="where they differ", facts=FACTS
    ) as gallery:
        fill(gallery)
    return path


def blocks(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    return [json.loads(block) for block in re.findall(r'class="image">(.*?)</script>', text)]


def index(page: Path) -> dict[str, Any]:
    (block,) = re.findall(r'id="index">(.*?)</script>', page.read_text(encoding="utf-8"))
    return dict(json.loads(block))


def unpacked(text: str, size: tuple[int, int]) -> NDArray[np.int64]:
    both = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4").astype(np.int64)
    return np.repeat(*np.split(both, 2)).reshape(size)


# ------------------------------------------------------------------------------------------------------------ the file


def test_maps_and_segments_are_those_of_the_results(page: Path) -> None:
    for block, (found, true) in zip(blocks(page), PICTURES.values(), strict=True):
        some = instances(found)
        results = fuse(some), fuse(some, "area"), fuse(instances(true))
        _, shared, objects = find_objects((result.segments for result in results[:2]), CATEGORIES)
        all_colors = [*(shared[numbers] for numbers in objects), segment_colors(results[2].segments, CATEGORIES)]
        for view, result, colors in zip(block["views"], results, all_colors, strict=True):
            place = unpacked(view["map"], SIZE)
            ids = np.array([segment.id for segment in result.segments] + [0])
            assert np.array_equal(ids[place], result.ids)
            for told, segment, color in zip(view["segments"], result.segments, colors, strict=True):
                assert CATEGORIES[told["class"]].id == segment.category_id
                assert (told["area"], told["score"], told["crowd"]) == (segment.area, segment.score, segment.iscrowd)
                assert told["color"] == color.tolist()
        assert [view["truth"] for view in block["views"]] == [False, False, True]
        with Image.open(io.BytesIO(base64.b64decode(block["jpeg"]))) as picture:
            assert picture.size == SIZE[::-1]


def test_who_hides_whom(page: Path) -> None:
    first, second = blocks(page)[1]["views"][:2]
    # By score both cups are in front of the tie, and the first of the second. The tie is all hidden, and removed.
    assert [segment.get("hides") for segment in first["segments"]] == [[[1, 200], [3, 100]], [], None]
    assert first["lost"] == [{"class": 0, "score": 0.7, "area": 100}]
    claims = unpacked(first["claims"], SIZE)
    assert (claims > 0).sum() == 200 and (claims[5:25, 35:45] == 1).all() and first["claimants"] == [[0, 1]]
    # The smaller one in front: the tie, and of the cups, which are of one size, again the first.
    assert [segment.get("hides") for segment in second["segments"]] == [[[1, 200]], [], [[0, 100]], None]
    assert index(page)["images"][1]["disputed"] == 200
    assert index(page)["images"][1]["changed"] == 100


def test_how_sure_a_decision_is(tmp_path: Path) -> None:
    some = instances([(CUP, 0.9, (5, 5, 45, 25)), (CUP, 0.8, (35, 5, 75, 25))])
    image = GREY.copy()
    image[5:25, 35:75] = 250, 20, 20  # the second one is whole, and hides a part of the first
    result = fuse(some, "color-contour", image)
    labels = CATEGORIES.ids[some.labels]
    report = report_overlaps(result, some.masks, some.scores, labels, rule="color-contour", overlap_threshold=0)
    (decision,) = report.decisions
    assert (decision.front, decision.back) == (1, 0) and decision.probability is not None
    given: list[dict[str, Any]] = [{}, {"rules": {"result": ("color-contour", 0.0)}}]
    for options in given:
        with write_gallery(tmp_path / "page.html", "Cups", CATEGORIES) as gallery:
            gallery.add("a", image, {"result": result}, instances=some, **options)
        (view,) = blocks(tmp_path / "page.html")[0]["views"]
        (hides,) = (segment["hides"] for segment in view["segments"] if segment.get("hides"))
        ((back, pixels, *sure),) = hides
        assert view["segments"][back]["score"] == 0.9 and pixels == 200
        assert sure == pytest.approx([decision.probability] if options else [], abs=1e-4)


def test_figures_are_those_of_panoptic_quality(page: Path) -> None:
    whole = PanopticQuality(CATEGORIES)
    for told, (found, true) in zip(index(page)["images"], PICTURES.values(), strict=True):
        alone = PanopticQuality(CATEGORIES)
        for quality in (whole, alone):
            quality.update(fuse(instances(found)), fuse(instances(true)))
        assert told["pq"] == pytest.approx(alone.compute()["All"]["pq"], abs=1e-6)
        other = PanopticQuality(CATEGORIES)
        other.update(fuse(instances(found), "area"), fuse(instances(true)))
        gain = alone.compute()["All"]["pq"] - other.compute()["All"]["pq"]
        assert told["gain"] == pytest.approx(gain, abs=1e-6)
        for row in told["classes"].items():
            expected = alone.compute()["per_class"][CATEGORIES[int(row[0])].id]["pq"]
            assert row[1]["pq"] == pytest.approx(expected, abs=1e-6)
    scores = index(page)["scores"]["score"]
    for group in ("All", "Things", "Stuff"):
        for key in ("pq", "sq", "rq"):
            assert scores[group][key] == pytest.approx(whole.compute()[group][key], abs=1e-6)


def test_verdicts(page: Path) -> None:
    result, _, truth = (view["segments"] for view in blocks(page)[2]["views"])
    assert [segment["verdict"] for segment in result[:2]] == [[1, 1], [1, None]]  # the tie is a cup, the cup is nothing
    assert sorted((s["verdict"] for s in truth[:2]), key=str) == [[1, 0], [1, None]]
    assert result[2]["verdict"][0] == 0 and 0.9 < result[2]["verdict"][1] < 1


def test_nothing_of_a_name_becomes_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<b>wrong" not in text and "<title>Cups &amp; ties</title>" in text
    assert index(page)["images"][2]["name"] == "<b>wrong</b>.png"


def test_the_page_asks_nobody(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "://" not in text and "default-src 'none'" in text
    assert not re.search(r"\b(src|href)=", text)


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_gallery(tmp_path / "page.html", "t", CATEGORIES) as gallery:
        fill(gallery)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    result = PanopticSegmentation(np.zeros((2, 3), np.int32), [], CATEGORIES)
    for size, results in (((3, 2), {"result": result}), ((2, 3), {})):
        with pytest.raises(ValueError, match="size"), write_gallery(tmp_path / "a.html", "t", CATEGORIES) as gallery:
            gallery.add("a", np.zeros(size), results)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    result = PanopticSegmentation(np.zeros((1, 1), np.int32), [], CATEGORIES)
    with write_gallery(tmp_path / "page.html", "t", CATEGORIES) as gallery:
        gallery.add("caf\udce9.png", np.zeros((1, 1, 3), np.uint8), {"result": result})
    assert index(tmp_path / "page.html")["images"][0]["name"] == "caf\udce9.png"


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (2500, 70), (1100, 1500)])
def test_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    ids = np.ones(size, dtype=np.int32)
    ids[:, size[1] // 2 :] = 2
    infos = [{"id": int(v), "category_id": SKY if v == 1 else CUP} for v in np.unique(ids)]
    result = PanopticSegmentation.from_ids(ids, infos, CATEGORIES)
    with write_gallery(tmp_path / "page.html", "t", CATEGORIES) as gallery:
        gallery.add("a", np.zeros((*size, 3), np.uint8), {"result": result}, truth=result)
    (block,) = blocks(tmp_path / "page.html")
    with Image.open(io.BytesIO(base64.b64decode(block["jpeg"]))) as picture:
        shown = (picture.height, picture.width)
    assert max(shown) == min(LARGEST, max(size))
    place = unpacked(block["views"][0]["map"], shown)
    assert abs((place == len(infos) - 1).mean() - (ids == infos[-1]["id"]).mean()) < 0.02
    assert block["size"] == [size[1], size[0]] and "claims" not in block["views"][0]
    assert block["views"][0]["segments"][-1]["area"] == (ids == infos[-1]["id"]).sum()


def test_no_torch_is_loaded() -> None:
    code = "import sys, banet.engine.report.gallery, banet.engine.prediction.predict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


# --------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any, page: Path) -> Iterator[Any]:
    """The page in a tab of its own; every error and every request but for the page itself fails the test."""
    faults: list[str] = []
    tab = chromium.new_page(viewport={"width": 1200, "height": 900})
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: faults.append(request.url) if not request.url.startswith("data:") else None)
    tab.goto(page.as_uri())
    yield tab
    tab.close()
    assert faults == [page.as_uri()]


def names(tab: Any) -> list[str]:
    return [name.removesuffix(".png") for name in tab.locator(".card b").all_inner_texts()]


def click_pixel(tab: Any, canvas: Any, x: int, y: int) -> None:
    """Click the middle of a pixel of the image."""
    canvas.wait_for()
    tab.wait_for_function("canvas => canvas.width == 80 && canvas.onmousemove", arg=canvas.element_handle())
    box = canvas.bounding_box()
    scale = min(box["width"] / 80, box["height"] / 60)
    left, top = (box["width"] - 80 * scale) / 2, (box["height"] - 60 * scale) / 2
    canvas.click(position={"x": left + (x + 0.5) * scale, "y": top + (y + 0.5) * scale})


def color_at(canvas: Any, x: int, y: int) -> list[int]:
    """RGB of a pixel of the canvas."""
    script = "(c, [x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"
    return list(canvas.evaluate(script, [x, y]))


def test_sorting_and_filtering(tab: Any) -> None:
    assert tab.title() == "Cups & ties" and tab.locator("#note").inner_text() == "a note"
    tab.select_option("#sort", "PQ, worst first")
    assert names(tab) == ["<b>wrong</b>", "disputed", "good"]
    tab.select_option("#sort", "PQ, best first")
    assert names(tab) == ["good", "disputed", "<b>wrong</b>"]
    tab.select_option("#sort", "disputed pixels, most first")
    assert names(tab)[0] == "disputed" and "200 px disputed" in tab.locator(".card").first.inner_text()
    tab.select_option("#sort", "name")
    assert names(tab) == ["<b>wrong</b>", "disputed", "good"]
    tab.select_option("#class", label="tie (1)")
    assert names(tab) == ["<b>wrong</b>"]
    assert tab.locator("#count").inner_text() == "1 of 3 images"
    assert "PQ of tie 0.0" in tab.locator(".card").inner_text()
    tab.select_option("#class", label="cup (3)")
    tab.select_option("#sort", "pixels of the class, most first")
    assert names(tab) == ["disputed", "good", "<b>wrong</b>"]


def test_pages_with_truth_and_changes_begin_with_what_matters(tab: Any, chromium: Any, tmp_path: Path) -> None:
    assert tab.locator("#sort").input_value() == "PQ gained, most first"
    for truth, expected in ((True, "PQ, worst first"), (False, "disputed pixels, most first")):
        with write_gallery(tmp_path / "page.html", "t", CATEGORIES) as gallery:
            for name, (found, true) in PICTURES.items():
                some = instances(found)
                result, image = fuse(some), np.zeros((*SIZE, 3), np.uint8)
                of_truth = fuse(instances(true)) if truth else None
                gallery.add(name, image, {"result": result}, truth=of_truth, instances=some)
        other = chromium.new_page()
        other.goto((tmp_path / "page.html").as_uri())
        assert other.locator("#sort").input_value() == expected
        assert names(other)[0] == ("<b>wrong</b>" if truth else "disputed")
        assert other.locator("#errors").is_visible() == truth
        other.close()


def test_a_click_tells_class_score_area_and_whom_it_hides(tab: Any) -> None:
    tab.select_option("#sort", "disputed pixels, most first")
    click_pixel(tab, tab.locator(".card canvas").first, 40, 15)  # claimed by both cups
    details = tab.locator("#details")
    details.wait_for()
    assert tab.locator("#side h2").inner_text() == "cup"
    told = " ".join(details.inner_text().split())
    assert told.startswith("score 90.0 % area 800 px (16.7 % of the image) truth IoU 87.5 % hides")
    assert (
        "cup 80.0 %: 200 px" in told and "tie 70.0 % (removed): 100 px" in told and told.endswith("hidden by nothing")
    )
    tab.locator("#details button").click()  # the cup that it hides
    told = " ".join(details.inner_text().split())
    assert told.startswith("score 80.0 % area 600 px") and "hidden by cup 90.0 %: 200 px" in told
    result = tab.locator("#panes canvas").nth(1)
    striped = {tuple(color_at(result, x, 15)) for x in range(36, 44)}
    assert len(striped) == 2  # where it is hidden, in its own colour
    assert sum(color_at(result, 10, 15)) < sum(color_at(result, 60, 15))  # others are dimmed


def test_the_viewer_goes_on_and_closes(tab: Any) -> None:
    tab.select_option("#sort", "name")
    tab.locator(".card canvas").first.press("Enter")
    tab.locator("#name", has_text="wrong").wait_for()
    captions = tab.locator("#panes figcaption").all_inner_texts()
    assert captions == ["image", "score", "area", "truth", "disputed pixels", "where they differ"]
    click_pixel(tab, tab.locator("#panes canvas").nth(1), 60, 40)
    assert "false alarm, the truth is cup" in tab.locator("#details").inner_text()
    click_pixel(tab, tab.locator("#panes canvas").nth(3), 60, 40)
    assert "missed, taken for tie" in tab.locator("#details").inner_text()
    tab.keyboard.press("ArrowRight")
    tab.locator("#name", has_text="disputed").wait_for()
    assert tab.locator("#segments tbody tr").first.inner_text().split() == ["cup", "100.0", "700"]
    tab.keyboard.press("Escape")
    assert not tab.locator("#dialog").is_visible()


def test_hovering_names_the_segment(tab: Any) -> None:
    tab.select_option("#sort", "name")
    canvas = tab.locator(".card canvas").nth(2)
    tab.wait_for_function("canvas => canvas.width == 80 && canvas.onmousemove", arg=canvas.element_handle())
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 20 / 80, "y": box["height"] * 20 / 60})
    assert tab.locator("#tip").inner_text() == "cup 90.0 % · 400 px"
    tab.mouse.move(2, 2)
    assert not tab.locator("#tip").is_visible()


def test_what_is_painted(tab: Any) -> None:
    tab.select_option("#sort", "name")
    canvas = tab.locator(".card canvas").nth(2)  # the good one

    def painted() -> list[list[int]]:
        handle = tab.locator(".card canvas").nth(2).element_handle()
        tab.wait_for_function("canvas => canvas.width == 80 && canvas.onmousemove", arg=handle)
        return [color_at(canvas, 20, 20), color_at(canvas, 60, 50)]

    cup, sky = painted()
    assert cup == pytest.approx([107, 154, 181], abs=4)  # half of the first instance's colour, half of the image's grey
    assert sky == pytest.approx([128] * 3, abs=2)  # stuff is not painted over
    tab.select_option("#show", "image")
    assert painted() == [pytest.approx([128] * 3, abs=2)] * 2
    tab.select_option("#show", "score")
    tab.select_option("#class", label="cup (3)")
    assert sum(painted()[1]) < sum(sky)  # what is of another class is dimmed
    tab.select_option("#class", "")
    tab.check("#wrong")
    good = painted()[0]
    wrong = tab.locator(".card canvas").first
    tab.wait_for_function("canvas => canvas.width == 80", arg=wrong.element_handle())
    assert color_at(wrong, 60, 40)[0] > 160 > good[0]  # errors are red


def test_the_head_tells_what_and_from_where(tab: Any, page: Path) -> None:
    facts = tab.locator("#about").inner_text().split("\n")
    assert facts[:4] == ["weights", "mine.safetensors", "data", "<cups>"]
    assert facts[4] == "written" and re.fullmatch(r"\d{4}-\d\d-\d\d", facts[5])
    scores = index(page)["scores"]
    rows = [row.inner_text().split() for row in tab.locator("#scores tbody tr").all()]
    assert [row[0] for row in rows] == ["area", "score"]
    assert tab.locator("#scores th").all_inner_texts() == ["", "PQ", "Δ", "PQ of things", "Δ", "PQ of stuff", "Δ"]
    first, last = scores["score"]["All"]["pq"], scores["area"]["All"]["pq"]
    assert rows[1][1:3] == [f"{100 * first:.1f}", f"{100 * (first - last):+.1f}".replace("-", "−")]
    tab.locator("#terms summary").click()
    assert {"PQ", "SQ", "RQ", "missed", "Δ"} <= set(tab.locator("#terms dt").all_inner_texts())


def test_the_page_begins_where_the_first_result_gains_most(tab: Any, page: Path) -> None:
    gains = {told["name"]: told["gain"] for told in index(page)["images"]}
    name = max(gains, key=lambda key: gains[key])
    assert gains[name] > 0
    article = tab.locator("#best article").first
    article.locator("canvas").nth(1).wait_for()
    assert name in article.inner_text() and f"(+{100 * gains[name]:.1f})" in article.inner_text()
    assert article.locator("figcaption").all_inner_texts() == ["area", "score"]
    assert tab.locator("#best article").count() == sum(gain > 0 for gain in gains.values())


def test_the_legend_names_colours_and_picks_classes(tab: Any) -> None:
    buttons = tab.locator("#legend button")
    assert buttons.all_inner_texts() == ["tie", "cup", "sky"]
    tab.select_option("#colors", "class")
    swatch = "(b) => getComputedStyle(b.querySelector('.swatch')).backgroundImage"
    assert "rgb(200, 30, 30)" in buttons.nth(1).evaluate(swatch)
    tab.select_option("#sort", "name")
    canvas = tab.locator(".card canvas").nth(2)
    tab.wait_for_function("canvas => canvas.width == 80 && canvas.onmousemove", arg=canvas.element_handle())
    assert color_at(canvas, 20, 20) == pytest.approx([164, 79, 79], abs=4)  # half of the class's, half of the grey
    buttons.nth(0).click()
    assert tab.locator("#class").input_value() == "0"
    assert names(tab) == ["<b>wrong</b>"]
    assert buttons.nth(0).get_attribute("aria-pressed") == "true"
    buttons.nth(0).click()
    assert len(names(tab)) == 3


def test_what_is_missed_is_seen_where_its_class_is_picked(tab: Any) -> None:
    """The cup of the truth at 50..70, 30..50, where a tie was found."""
    tab.select_option("#sort", "name")
    canvas = tab.locator(".card canvas").first

    def reddest() -> int:
        tab.wait_for_function("canvas => canvas.width == 80 && canvas.onmousemove", arg=canvas.element_handle())
        script = """c => { const p = c.getContext('2d').getImageData(50, 30, 20, 20).data; let most = 0;
            for (let k = 0; k < p.length; k += 4) most = Math.max(most, p[k] - p[k + 1]); return most; }"""
        return int(canvas.evaluate(script))

    tab.select_option("#class", label="tie (1)")
    assert reddest() < 120
    tab.select_option("#class", label="cup (3)")
    assert reddest() > 180
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 60 / 80, "y": box["height"] * 40 / 60})
    assert tab.locator("#tip").inner_text() == "tie 75.0 % · 400 px · missed: cup"
