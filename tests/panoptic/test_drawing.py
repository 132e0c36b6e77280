from __future__ import annotations

import colorsys

import numpy as np
import pytest
from factories import PERSON_SKY_TIE
from PIL import Image

from banet.panoptic.categories import Categories, Category
from banet.panoptic.drawing import overlay as drawing
from banet.panoptic.drawing.overlay import segment_colors
from banet.panoptic.segmentation import PanopticSegmentation, Segment


def scene(height: int, width: int) -> PanopticSegmentation:
    """Two persons below void, the second beneath the first, and sky."""
    ids = np.full((height, width), 3)
    ids[:, : width // 3] = 1
    ids[height // 2 :, : width // 2] = 2
    ids[: height // 4] = 0
    infos = [
        {"id": 1, "category_id": 1, "score": 0.9},
        {"id": 2, "category_id": 1, "score": 0.8},
        {"id": 3, "category_id": 5},
    ]
    present = set(np.unique(ids))
    return PanopticSegmentation.from_ids(ids, [info for info in infos if info["id"] in present], PERSON_SKY_TIE)


def squares(rows: int, side: int, gap: int, category_id: int = 1) -> PanopticSegmentation:
    """rows x rows things of one class on sky."""
    pitch = side + gap
    ids = np.full((rows * pitch, rows * pitch), rows * rows + 1)
    for k in range(rows * rows):
        y, x = pitch * (k // rows) + gap // 2, pitch * (k % rows) + gap // 2
        ids[y : y + side, x : x + side] = k + 1
    things = [{"id": k + 1, "category_id": category_id, "score": 0.5} for k in range(rows * rows)]
    return PanopticSegmentation.from_ids(ids, [*things, {"id": rows * rows + 1, "category_id": 5}], PERSON_SKY_TIE)


@pytest.fixture
def labels(monkeypatch):
    """The boxes and texts of the names that are written."""
    written = []
    write = drawing._write

    def note(draw, font, size, label, color):
        written.append((label.box, label.text))
        write(draw, font, size, label, color)

    monkeypatch.setattr(drawing, "_write", note)
    return written


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (3, 3), (16, 40), (200, 300)])
@pytest.mark.parametrize("kind", ["none", "grey", "rgb", "float", "rgba", "pil", "pil grey", "bool"])
def test_draw_takes_any_picture_of_any_size(size, kind):
    pictures = {
        "none": None,
        "grey": np.full(size, 90, np.uint8),
        "rgb": np.full((*size, 3), 90, np.uint8),
        "float": np.full((*size, 3), 90.4),
        "rgba": np.full((*size, 4), 90, np.uint8),
        "pil": Image.new("RGB", size[::-1], (90, 90, 90)),
        "pil grey": Image.new("L", size[::-1], 90),
        "bool": np.ones(size, dtype=bool),
    }
    picture = scene(*size).draw(pictures[kind])
    assert picture.mode == "RGB"
    assert picture.size == size[::-1]


def test_alpha_zero_is_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert np.array_equal(np.array(scene(60, 80).draw(image, alpha=0)), image)


def test_alpha_one_hides_the_picture():
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    plain = np.zeros((60, 80, 3), dtype=np.uint8)
    inside = np.s_[46:59, 5:24]  # off the outlines
    drawn = [np.array(scene(60, 80).draw(image, alpha=1)) for image in (noise, plain)]
    assert np.array_equal(drawn[0][inside], drawn[1][inside])
    assert np.array_equal(drawn[0][:14], drawn[1][:14])  # void


def test_draw_shows_classes_instances_void_outlines_and_labels(labels):
    picture = np.array(scene(200, 300).draw(np.full((200, 300, 3), 128, np.uint8))).astype(int)
    first, second, sky = picture[90, 5], picture[190, 5], picture[190, 290]
    assert np.abs(first - second).max() > 20  # a shade per instance
    assert np.abs(first - sky).max() > 20
    assert picture[99, 5].sum() > first.sum() + 100  # a light outline
    void = picture[5:40, 5:290]
    assert np.ptp(void.reshape(-1, 3), axis=0).max() > 10  # hatched
    assert np.abs(void - void[..., :1]).max() <= 1  # and grey
    assert [text for _, text in labels] == ["person 80%", "sky", "person 90%"]
    # The same class has the same colour in another result.
    other = PanopticSegmentation.from_ids(np.full((200, 300), 9), [{"id": 9, "category_id": 5}], PERSON_SKY_TIE)
    assert np.array_equal(np.array(other.draw(np.full((200, 300), 128, np.uint8)))[190, 290], sky)


def test_bands_leave_no_trace(monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    result = scene(90, 70)
    whole = np.array(result.draw(image))
    monkeypatch.setattr(drawing, "_BAND", 1)
    assert np.array_equal(np.array(result.draw(image)), whole)


def test_ids_without_a_segment_are_drawn_as_void():
    ids = np.ones((40, 40), np.int32)
    ids[:, 20:] = 77
    one = Segment(1, 5, False, None, 800, (0, 0, 20, 40))
    stray = PanopticSegmentation(ids, [one], PERSON_SKY_TIE)
    void = PanopticSegmentation(np.where(ids == 77, 0, ids), [one], PERSON_SKY_TIE)
    image = np.full((40, 40), 128, np.uint8)
    assert np.array_equal(np.array(stray.draw(image))[:, 22:], np.array(void.draw(image))[:, 22:])


def test_shades_stay_near_the_colour_of_the_class():
    result = squares(4, 10, 4)
    colors = segment_colors(result.segments, result.categories)
    assert tuple(colors[0]) == PERSON_SKY_TIE.by_id(1).color and tuple(colors[-1]) == PERSON_SKY_TIE.by_id(5).color
    hues = np.array([colorsys.rgb_to_hls(*(color / 255))[0] for color in colors[:-1]])
    turned = (hues - hues[0] + 0.5) % 1 - 0.5
    assert np.abs(turned).max() < 0.05
    apart = np.abs(np.diff(colors[:-1].astype(int), axis=0)).max(axis=1)
    assert apart.min() > 15  # neighbours in the list can be told apart
    assert len({tuple(color) for color in colors}) == len(colors)


@pytest.mark.parametrize("height,width", [(200, 300), (40, 500), (480, 640), (64, 64)])
@pytest.mark.parametrize("rows", [2, 3, 6])
def test_labels_are_inside_and_apart(labels, height, width, rows):
    result = squares(rows, 60, 8)
    y, x = np.arange(height) * len(result.ids) // height, np.arange(width) * len(result.ids) // width
    infos = [{"id": s.id, "category_id": s.category_id, "score": s.score} for s in result.segments]
    PanopticSegmentation.from_ids(result.ids[y[:, None], x], infos, PERSON_SKY_TIE).draw(np.zeros((height, width)))
    boxes = np.array([box for box, _ in labels]).reshape(-1, 4)
    assert (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        rest = np.delete(boxes, k, axis=0)
        assert not ((x0 < rest[:, 2]) & (rest[:, 0] < x1) & (y0 < rest[:, 3]) & (rest[:, 1] < y1)).any()


def test_a_small_thing_is_named_beside_it(labels):
    ids = np.full((300, 400), 2)
    ids[140:160, 195:215] = 1
    infos = [{"id": 1, "category_id": 1, "score": 0.5}, {"id": 2, "category_id": 5}]
    PanopticSegmentation.from_ids(ids, infos, PERSON_SKY_TIE).draw(np.zeros((300, 400)))
    ((x0, y0, x1, y1),) = [box for box, text in labels if text == "person 50%"]
    assert y1 <= 140 and y1 > 130 and x0 < 205 < x1 and y0 > 100


def test_hundreds_of_small_things_are_not_buried_under_names(labels):
    squares(17, 18, 6).draw(np.zeros((17 * 24, 17 * 24)))
    assert {text for _, text in labels} <= {"sky"}


def test_tiny_pictures_have_no_names_on_them(labels):
    squares(2, 14, 2).draw(np.zeros((32, 32)))
    assert labels == []


def test_legend_names_what_occurs():
    plain = scene(400, 600).draw(np.full((400, 600), 128, np.uint8))
    picture = scene(400, 600).draw(np.full((400, 600), 128, np.uint8), legend=True)
    assert picture.width == 600 and picture.height > 400
    assert np.array_equal(np.array(picture)[:400], np.array(plain))
    strip = np.array(picture)[400:].reshape(-1, 3)

    def shown(color):
        return (strip == color).all(axis=1).any()

    assert shown(PERSON_SKY_TIE.by_id(1).color) and shown(PERSON_SKY_TIE.by_id(5).color)
    assert not shown(PERSON_SKY_TIE.by_id(300).color)
    assert shown((168, 168, 168))  # void
    full = PanopticSegmentation.from_ids(np.full((400, 600), 9), [{"id": 9, "category_id": 5}], PERSON_SKY_TIE)
    assert not (np.array(full.draw(legend=True))[400:] == (168, 168, 168)).all(axis=2).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (3, 200), (200, 3)])
def test_legend_enlarges_tiny_pictures(size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = scene(*size).draw(image, alpha=0, legend=True)
    factor = -(-320 // max(size))
    left = (picture.width - factor * size[1]) // 2
    assert left >= 0
    shown = np.array(picture)[: factor * size[0], left : left + factor * size[1]]
    assert np.array_equal(shown, image.repeat(factor, axis=0).repeat(factor, axis=1))


def test_names_beyond_ascii_or_a_line_and_very_long_ones_are_drawn():
    classes = Categories([Category(1, "Fuß\ngänger", True), Category(2, "sky " * 40, False)])
    infos = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    result = PanopticSegmentation.from_ids(np.repeat([[1, 2]], 300, axis=0).repeat(200, axis=1), infos, classes)
    assert result.draw(legend=True).width == 400


@pytest.mark.parametrize("legend", [False, True])
def test_a_picture_of_no_pixels(legend):
    assert PanopticSegmentation(np.zeros((0, 5), np.int32), [], PERSON_SKY_TIE).draw(legend=legend).size == (5, 0)


def test_draw_uses_its_own_image_and_leaves_it_alone():
    result = scene(60, 80)
    result.image = np.full((60, 80, 3), 128, np.uint8)
    expected = result.draw(result.image.copy())
    assert np.array_equal(np.array(result.draw()), np.array(expected))
    assert (result.image == 128).all()


def test_draw_refuses():
    with pytest.raises(ValueError, match="80x60"):
        scene(60, 80).draw(np.zeros((60, 81, 3), np.uint8))
    with pytest.raises(ValueError, match="alpha"):
        scene(60, 80).draw(alpha=1.5)
    with pytest.raises(ValueError, match="shape"):
        scene(60, 80).draw(np.zeros((60, 80, 2), np.uint8))
