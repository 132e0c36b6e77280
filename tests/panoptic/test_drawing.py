from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from factories import PERSON_SKY_TIE
from PIL import Image

from banet.panoptic.categories import Categories, Category
from banet.panoptic.drawing import labels as writing
from banet.panoptic.drawing import overlay as drawing
from banet.panoptic.drawing.colors import SEQUENCE, find_objects, segment_colors
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
    write = writing._write

    def note(draw, font, size, label, color):
        written.append((label.box, label.text))
        write(draw, font, size, label, color)

    monkeypatch.setattr(writing, "_write", note)
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


GREY = np.full((200, 300, 3), 128, np.uint8)
FIRST, SECOND, SKY, VOID = np.s_[90, 5], np.s_[190, 5], np.s_[190, 290], np.s_[5:40, 5:290]


def test_things_are_filled_and_have_contours_of_their_color(labels):
    picture = np.array(scene(200, 300).draw(GREY)).astype(int)
    first, second = np.array(SEQUENCE[:2])
    assert np.abs(picture[FIRST] - (first + 128) / 2).max() <= 1
    assert np.abs(picture[SECOND] - (second + 128) / 2).max() <= 1
    assert np.abs(picture[99, 5] - first).max() < 10 and np.abs(picture[100, 5] - second).max() < 10
    assert [text for _, text in labels] == ["person 80%", "sky", "person 90%"]


def test_void_is_thinly_striped_and_shows_the_picture():
    for level in (0, 128, 255):
        void = np.array(scene(200, 300).draw(np.full((200, 300), level, np.uint8))).astype(int)[VOID]
        striped = (void != level).any(axis=2).mean()
        assert 0.1 < striped < 0.4
        assert np.abs(void - level).max() > 40, "one of the lines can be seen on any ground"
        assert np.abs(void - level).max() < 0.45 * 255


@pytest.mark.parametrize("stuff", ["outline", "fill", "none"])
def test_stuff_is_outlined_filled_lightly_or_left_out(labels, stuff):
    ids = np.full((200, 300), 1)
    ids[:, 100:] = 2
    ids[150:, :] = 3
    classes = Categories([Category(1, "sky", False), Category(2, "sea", False), Category(3, "ship", True)])
    result = PanopticSegmentation.from_ids(ids, [{"id": k, "category_id": k} for k in (1, 2, 3)], classes)
    picture = np.array(result.draw(GREY, stuff=stuff)).astype(int)
    sky, sea = (np.array(classes.by_id(k).color) for k in (1, 2))
    inside, border = picture[20, 20], picture[20, 99]
    if stuff == "fill":
        assert np.abs(inside - (128 + 0.2 * (sky - 128))).max() <= 1
    else:
        assert (inside == 128).all()
    assert (border == 128).all() == (stuff == "none")
    assert (picture[149, 20] == inside).all(), "towards a thing there is the thing's contour"
    if stuff != "none":
        assert np.abs(border - sky).max() < np.abs(border - 128).max()
        assert np.abs(picture[20, 100] - sea).max() < np.abs(picture[20, 100] - 128).max()
    assert {text for _, text in labels} == {"ship", *(() if stuff == "none" else ("sky", "sea"))}
    assert np.array_equal(np.array(result.draw()), np.array(result.draw(stuff="fill"))), "without an image it is filled"


def test_styles():
    result = scene(200, 300)
    image = replace(result, image=GREY)
    contour = np.array(image.draw(style="contour")).astype(int)
    assert (contour[FIRST] == 128).all() and np.abs(contour[99, 5] - SEQUENCE[0]).max() < 10
    classes = np.array(image.draw(style="class")).astype(int)
    person = np.array(PERSON_SKY_TIE.by_id(1).color)
    assert np.array_equal(classes[FIRST], classes[SECOND]) and np.abs(classes[FIRST] - (person + 128) / 2).max() <= 1


def test_bands_leave_no_trace(monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    result = scene(90, 70)
    whole = np.array(result.draw(image))
    monkeypatch.setattr(drawing, "_BAND", 1)
    assert np.array_equal(np.array(result.draw(image)), whole)


@pytest.mark.parametrize("options", [{}, {"style": "contour"}, {"stuff": "fill"}, {"stuff": "none"}, {"alpha": 1.0}])
def test_every_pixel_is_mixed_from_the_image_and_its_paint(monkeypatch, options):
    """Also where there is no paint, and void by its place: as the drawing would do it pixel by pixel."""
    monkeypatch.setattr(drawing, "write_labels", lambda *_: None)
    image = np.random.default_rng(2).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    result = scene(90, 130)
    made = {"alpha": 0.5, "style": "instance", "stuff": "outline", **options}
    colors = segment_colors(result.segments, result.categories, made["style"])
    painter = drawing._Painter(result.segments, colors, (90, 130), made["alpha"], made["style"], made["stuff"])
    index = np.array([[{0: 3, 1: 0, 2: 1, 3: 2}[i] for i in row] for row in result.ids.tolist()])
    stuff = drawing._edges(index, painter.thickness, index == 2)
    edges = np.where(index == 2, stuff, drawing._edges(index, painter.thickness))
    wanted = np.empty_like(image)
    for y, x in itertools.product(range(90), range(130)):
        phase = (y + x) % painter.period // painter.line
        row = 6 + (phase + 1 if phase < 2 else 0) if index[y, x] == 3 else 2 * index[y, x] + edges[y, x]
        below = image[y, x].astype(np.float32)
        wanted[y, x] = np.rint(below + painter.opacity[row] * (painter.paints[row] - below))
    assert np.array_equal(np.array(result.draw(image, **options)), wanted)


def test_ids_without_a_segment_are_drawn_as_void():
    ids = np.ones((40, 40), np.int32)
    ids[:, 20:] = 77
    one = Segment(1, 5, False, None, 800, (0, 0, 20, 40))
    stray = PanopticSegmentation(ids, [one], PERSON_SKY_TIE)
    void = PanopticSegmentation(np.where(ids == 77, 0, ids), [one], PERSON_SKY_TIE)
    image = np.full((40, 40), 128, np.uint8)
    assert np.array_equal(np.array(stray.draw(image))[:, 22:], np.array(void.draw(image))[:, 22:])


def cielab(rgb, vision):
    """CIELAB (N, 3) of colors (N, 3) in 0..255 as seen with a matrix for linear RGB."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ np.array(vision).T
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = linear.clip(0, 1) @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


VISION = {  # Machado, Oliveira and Fernandes 2009, severity 1
    "normal": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("vision", VISION)
def test_colors_of_instances_can_be_told_apart(vision):
    seen = cielab(SEQUENCE, VISION[vision])
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 19


def test_things_near_each_other_have_different_colors():
    result = squares(9, 10, 4)
    colors = [tuple(color) for color in segment_colors(result.segments, result.categories).tolist()]
    assert colors[-1] == PERSON_SKY_TIE.by_id(5).color
    grid = np.array(colors[:-1]).reshape(9, 9, 3)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1]), (grid[1:, 1:], grid[:-1, :-1])):
        assert (a != b).any(axis=2).all()
    used = [colors[:-1].count(color) for color in SEQUENCE]
    assert sum(used) == 81 and min(used) >= 4


@pytest.mark.parametrize("ids", [range(1, 13), [3_000_000 + 7 * 12 * k for k in range(12)], [5, 2, 9]])
def test_up_to_twelve_things_share_no_color(ids):
    segments = [Segment(k, 1, True, area=4, bbox=(9 * n, 0, 2, 2)) for n, k in enumerate(ids)]
    colors = [tuple(color) for color in segment_colors(segments, PERSON_SKY_TIE).tolist()]
    assert len(set(colors)) == len(colors)
    if max(ids) <= 12:  # an object that is tracked keeps its color
        assert colors == [SEQUENCE[k - 1] for k in ids]


def test_colors_of_very_many_things_take_little_time_and_differ_nearby(monkeypatch):
    from banet.panoptic.drawing import colors

    monkeypatch.setattr(colors, "_WINDOW", 30)
    result = squares(9, 10, 4)
    grid = segment_colors(result.segments, result.categories)[:-1].reshape(9, 9, 3)
    assert (grid[1:] != grid[:-1]).any(axis=2).all() and (grid[:, 1:] != grid[:, :-1]).any(axis=2).all()


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
    plain = scene(400, 700).draw(np.full((400, 700), 128, np.uint8))
    picture = scene(400, 700).draw(np.full((400, 700), 128, np.uint8), legend=True)
    assert picture.width == 700 and picture.height > 400
    assert np.array_equal(np.array(picture)[:400], np.array(plain))
    strip = np.array(picture)[400:].reshape(-1, 3)

    def shown(color):
        return (strip == color).all(axis=1).any()

    assert all(map(shown, [*SEQUENCE[:2], PERSON_SKY_TIE.by_id(5).color]))
    assert not shown(PERSON_SKY_TIE.by_id(300).color)
    assert shown((150, 150, 150))  # void
    full = PanopticSegmentation.from_ids(np.full((400, 700), 9), [{"id": 9, "category_id": 5}], PERSON_SKY_TIE)
    assert not (np.array(full.draw(legend=True))[400:] == (150, 150, 150)).all(axis=2).any()
    bare = full.draw(np.full((400, 700), 128, np.uint8), legend=True, stuff="none")
    assert not (np.array(bare) == PERSON_SKY_TIE.by_id(5).color).all(axis=2).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (3, 200), (200, 3), (256, 256), (640, 3)])
def test_legend_enlarges_small_pictures(size):
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture = scene(*size).draw(image, alpha=0, legend=True)
    factor = -(-640 // max(size))
    left = (picture.width - factor * size[1]) // 2
    assert left >= 0
    shown = picture.crop((left, 0, left + factor * size[1], factor * size[0]))
    assert np.array_equal(shown, Image.fromarray(image).resize(shown.size, Image.Resampling.BICUBIC))


def test_names_beyond_ascii_or_a_line_and_very_long_ones_are_drawn():
    classes = Categories([Category(1, "Fuß\ngänger", True), Category(2, "sky " * 40, False)])
    infos = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    result = PanopticSegmentation.from_ids(np.repeat([[1, 2]], 300, axis=0).repeat(200, axis=1), infos, classes)
    assert result.draw(legend=True).width == 2 * 400


def test_a_name_that_no_font_has_becomes_the_number_of_its_class(labels, monkeypatch):
    monkeypatch.setattr(writing, "_FONTS", ())
    writing._system_fonts.cache_clear()
    writing._font.cache_clear()
    classes = Categories([Category(7, "\u4eba", True), Category(8, "foot", True)])
    infos = [{"id": 1, "category_id": 7}, {"id": 2, "category_id": 8}]
    result = PanopticSegmentation.from_ids(np.repeat([[1, 2]], 300, axis=0).repeat(200, axis=1), infos, classes)
    with pytest.warns(UserWarning, match="no font .* has all characters of '\u4eba'; drawn as 'class 7'"):
        result.draw()
    assert {text for _, text in labels} == {"class 7", "foot"}
    writing._system_fonts.cache_clear()
    writing._font.cache_clear()


def test_the_first_font_that_has_the_characters_is_taken(monkeypatch):
    class Font:
        def __init__(self, known):
            self.known = known

        def getmask(self, character):
            return character.encode() if character in self.known else b"box"

    monkeypatch.setattr(writing, "_system_fonts", lambda size: [Font("\u4eba"), Font("\u4eba\u0434\u0430")])
    writing._font.cache_clear()
    assert writing._font("\u4eba", 12).known == "\u4eba"
    assert writing._font("\u0434\u0430 \u4eba", 12).known == "\u4eba\u0434\u0430"
    with pytest.raises(LookupError):
        writing._font("\u0e01", 12)
    writing._font.cache_clear()


def test_a_name_does_not_hide_a_thing_that_it_barely_fits_on(labels):
    def names(side):
        labels.clear()
        result = squares(5, side, 4)  # too many to be named beside
        result.draw(np.zeros(result.ids.shape))
        return [text for _, text in labels if text != "sky"]

    assert names(40) == []
    assert names(200).count("person 50%") == 25


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
    with pytest.raises(ValueError, match="style must be one of instance, class, contour, not 'classes'"):
        scene(60, 80).draw(style="classes")
    with pytest.raises(ValueError, match="stuff must be one of outline, fill, none, not 'off'"):
        scene(60, 80).draw(stuff="off")


def test_objects_of_several_results_keep_their_colors():
    classes = Categories.of([{"id": 1, "name": "cup", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}])
    ids = np.ones((4, 6), np.int32)
    ids[:, 2:4] = 2
    ids[:, 4:] = 3

    def result(*segments: tuple[int, float | None]) -> PanopticSegmentation:
        infos = [{"id": k, "category_id": c, "score": s} for k, (c, s) in enumerate(segments, start=1)]
        return PanopticSegmentation.from_ids(np.minimum(ids, len(infos)), infos, classes)

    results = result((1, 0.9), (1, 0.7), (2, None)), result((1, 0.7), (2, None))  # the best cup is not in the second
    objects, colors, numbers = find_objects([result.segments for result in results], classes)
    assert [(s.category_id, s.score) for s in objects] == [(1, 0.9), (1, 0.7), (2, None)]
    assert numbers == [[0, 1, 2], [1, 2]]
    assert len({tuple(color) for color in colors.tolist()}) == 3
    objects, colors, numbers = find_objects([results[0].segments], classes)
    assert colors[numbers[0]].tolist() == segment_colors(results[0].segments, classes).tolist()  # as drawn
    objects, colors, numbers = find_objects([[], []], classes)
    assert (objects, colors.shape, numbers) == ([], (0, 3), [[], []])
