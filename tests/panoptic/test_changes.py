"""Which pixels differ: owners are compared, not segment ids."""

from __future__ import annotations

import numpy as np

from banet.panoptic import Categories, PanopticSegmentation, fuse_panoptic
from banet.panoptic.drawing.diff import differing_pixels, draw_diff

CATEGORIES = Categories.of(
    [{"id": id, "name": name, "isthing": name != "sky"} for id, name in ((1, "cup"), (2, "tie"), (7, "sky"))]
)


def _result(rows: list[str], **things: tuple[int, float | None]) -> PanopticSegmentation:
    """A result from letters; `.` is void, and ids are given in the order of the keywords."""
    number = {name: index for index, name in enumerate(things, start=1)}
    ids = np.array([[number.get(letter, 0) for letter in row] for row in rows], dtype=np.int32)
    segments = [{"id": number[name], "category_id": c, "score": score} for name, (c, score) in things.items()]
    return PanopticSegmentation.from_ids(ids, segments, CATEGORIES)


def test_owners_count_and_ids_do_not():
    before = _result(["aab", "ss."], a=(1, 0.9), b=(1, 0.8), s=(7, None))
    after = _result(["abb", "ss."], s=(7, None), b=(1, 0.8), a=(1, 0.9))
    assert differing_pixels(before, after).tolist() == [[False, True, False], [False, False, False]]
    assert not differing_pixels(before, before).any()


def test_an_object_that_is_gone_and_void_that_is_filled():
    before = _result(["aa", "s."], a=(2, 0.9), s=(7, None))
    after = _result(["..", "ss"], s=(7, None))
    assert differing_pixels(before, after).tolist() == [[True, True], [False, True]]
    assert differing_pixels(after, before).tolist() == [[True, True], [False, True]]


def test_rules_of_one_image():
    """A small dark object on a large light one: the heuristic lets the higher score have all."""
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :, :], masks[1, 2:5, 2:5] = True, True
    image = np.full((8, 8, 3), 230, np.uint8)
    image[2:5, 2:5] = (20, 120, 20)
    arguments = (masks, [0.9, 0.8], [1, 2], np.full((8, 8), 7), image)
    heuristic, ours = (fuse_panoptic(*arguments, categories=CATEGORIES, rule=rule) for rule in ("heuristic", "area"))
    assert np.array_equal(differing_pixels(heuristic, ours), masks[1])


def test_drawing_keeps_what_changed_outlines_it_and_darkens_the_rest():
    image = np.full((5, 5, 3), (40, 80, 120), np.uint8)
    changed = np.zeros((5, 5), bool)
    changed[2, 2] = True
    drawn = np.asarray(draw_diff(changed, image))
    assert drawn[2, 2].tolist() == [40, 80, 120]
    assert all(drawn[y, x].tolist() == [255, 70, 90] for y, x in ((1, 2), (3, 2), (2, 1), (2, 3)))
    assert drawn[0, 0].tolist() == [16, 32, 48]  # never lighter, which would bleach dark images
