from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from factories import segmentation
from hypothesis import given
from hypothesis import strategies as st

from banet.panoptic import Categories, PanopticSegmentation
from banet.panoptic.tiles import merge_tiles, segment_tiles, tile_boxes

CATEGORIES = Categories.of(
    [
        {"id": 7, "name": "person", "isthing": 1},
        {"id": 90, "name": "sky", "isthing": 0},
        {"id": 3, "name": "tie", "isthing": 1},
        {"id": 11, "name": "grass", "isthing": 0},
    ]
)
THINGS, STUFF = [3, 7], [11, 90]

sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))


def result_of(ids, classes, scores=None):
    """A result with the ids that occur; `classes` and `scores` by id."""
    found = sorted(set(np.unique(ids).tolist()) - {0})
    return segmentation(ids, {i: classes[i] for i in found}, categories=CATEGORIES, scores=scores)


def objects_of(result):
    """The result as a set of (class, score, mask): all that does not depend on ids."""
    return {(s.category_id, s.score, (result.ids == s.id).tobytes()) for s in result.segments}


def draw_truth(seed, size, longest, void=True):
    """Rectangles no larger than `longest` on stuff, each of them one piece of its own: hidden ones may fall apart."""
    rng = np.random.default_rng(seed)
    height, width = size
    classes = {101: 11, 102: 90}
    ids = np.where(np.arange(width) < rng.integers(width + 1), 101, 102) * np.ones((height, 1), int)
    if void:
        ids[rng.integers(height) :, : rng.integers(width)] = 0
    scores = {}
    for k in range(1, rng.integers(1, 12)):
        y, x = rng.integers(height), rng.integers(width)
        ids[y : y + rng.integers(1, longest + 1), x : x + rng.integers(1, longest + 1)] = k
        classes[k], scores[k] = int(rng.choice(THINGS)), float(rng.choice([0.6, 0.7, 0.9]))
    return result_of(ids.astype(np.int32), classes, scores)


def cut(truth, box):
    """What a perfect network says of a tile, with ids of its own."""
    x1, y1, x2, y2 = box
    ids = truth.ids[y1:y2, x1:x2]
    found = np.unique(ids[ids > 0])
    new = np.searchsorted(found, ids) + 1
    by_id = {s.id: s for s in truth.segments}
    return result_of(
        np.where(ids > 0, new, 0).astype(np.int32),
        {k: by_id[i].category_id for k, i in enumerate(found.tolist(), start=1)},
        {k: by_id[i].score for k, i in enumerate(found.tolist(), start=1)},
    )


def noise(seed, size, tile, overlap):
    """Tiles that do not agree with one another."""
    rng = np.random.default_rng(seed)
    tiles = []
    for box in tile_boxes(size, tile, overlap):
        shape = (box[3] - box[1], box[2] - box[0])
        ids = rng.integers(0, 5, shape).astype(np.int32)
        for k in range(1, 4):
            y, x = rng.integers(shape[0]), rng.integers(shape[1])
            ids[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = k
        classes = {k: int(rng.choice(THINGS)) for k in (1, 2, 3)} | {4: int(rng.choice(STUFF))}
        tiles.append((box, result_of(ids, classes, {k: float(rng.choice([0.6, 0.7, 0.9])) for k in (1, 2, 3)})))
    return tiles


# Side and overlap; the difference is how far the tiles step on, which bounds their number.
tilings = st.tuples(st.integers(1, 9), st.integers(3, 10)).map(lambda pair: (pair[0] + pair[1], pair[0]))
noises = st.tuples(st.integers(0, 2**32), sizes, tilings).map(lambda x: (noise(x[0], x[1], *x[2]), x[1]))


# ------------------------------------------------------------------------------------------------------------- tiles


@given(sizes, tilings)
def test_tiles_cover_the_image_and_overlap(size, tiling):
    tile, overlap = tiling
    boxes = tile_boxes(size, tile, overlap)
    cover = np.zeros(size, int)
    for x1, y1, x2, y2 in boxes:
        assert (y2 - y1, x2 - x1) == (min(tile, size[0]), min(tile, size[1]))
        cover[y1:y2, x1:x2] += 1
    assert cover.min() >= 1
    for axis in (0, 1):
        ends = sorted({(box[axis], box[axis + 2]) for box in boxes})
        assert all(after[0] <= before[1] - overlap for before, after in pairwise(ends))
        needed = 1 + max(0, -(-(size[1 - axis] - tile) // (tile - overlap)))
        assert len(ends) == needed


@pytest.mark.parametrize("overlap", [0, 8, 9, -1])
def test_overlap_must_fit(overlap):
    with pytest.raises(ValueError, match="overlap must be at least 1 and less than the tile of 8 pixels"):
        tile_boxes((20, 20), 8, overlap)


# ---------------------------------------------------------------------------------------------------- perfect networks


@given(st.integers(0, 2**32), sizes, tilings)
def test_with_a_perfect_network_objects_no_larger_than_the_overlap_come_back(seed, size, tiling):
    tile, overlap = tiling
    truth = draw_truth(seed, size, overlap)
    boxes = tile_boxes(size, tile, overlap)
    result = merge_tiles([(box, cut(truth, box)) for box in boxes], size)
    assert objects_of(result) == objects_of(truth)


@given(st.integers(0, 2**32), sizes, tilings)
def test_with_a_perfect_network_so_do_larger_ones_in_one_piece(seed, size, tiling):
    ids = np.ones(size, dtype=np.int32)
    ids[size[0] // 2 :] = 2  # two things that touch, across all tiles
    truth = result_of(ids, {1: 3, 2: 3}, {1: 0.9, 2: 0.7})
    result = merge_tiles([(box, cut(truth, box)) for box in tile_boxes(size, *tiling)], size)
    assert objects_of(result) == objects_of(truth)


@given(st.integers(0, 2**32), sizes, st.integers(0, 30))
def test_one_tile_comes_back_as_it_is(seed, size, stuff_area):
    truth = draw_truth(seed, size, 12)
    things = sorted((s for s in truth.segments if s.isthing), key=lambda s: -s.score)
    stuff = sorted((s for s in truth.segments if not s.isthing and s.area >= stuff_area), key=lambda s: s.category_id)
    number = {s.id: k for k, s in enumerate([*things, *stuff], start=1)}
    ids = np.array([number.get(i, 0) for i in range(103)], dtype=np.int32)[truth.ids]
    expected = PanopticSegmentation.from_ids(
        ids,
        [{"id": number[s.id], "category_id": s.category_id, "score": s.score} for s in [*things, *stuff]],
        CATEGORIES,
    )
    result = merge_tiles([((0, 0, size[1], size[0]), truth)], size, stuff_area=stuff_area)
    assert np.array_equal(result.ids, expected.ids) and result.segments == expected.segments


# --------------------------------------------------------------------------------------------------------- any network


@given(noises, st.randoms(use_true_random=False), st.integers(0, 20), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_any_tiles_give_a_result_that_does_not_depend_on_their_order(scene, order, stuff_area, removal_threshold):
    tiles, size = scene
    options = {"stuff_area": stuff_area, "removal_threshold": removal_threshold}
    result = merge_tiles(tiles, size, **options)
    result.check()
    things = [s for s in result.segments if s.isthing]
    stuff = [s for s in result.segments if not s.isthing]
    assert result.ids.shape == size
    assert [s.id for s in result.segments] == list(range(1, len(result.segments) + 1))
    assert [s.score for s in things] == sorted((s.score for s in things), reverse=True)
    assert [s.category_id for s in stuff] == sorted({s.category_id for s in stuff})
    assert all(s.area >= stuff_area for s in stuff)
    # A pixel has the class that one of its tiles gives it, or none.
    possible = [np.zeros(size, bool) for _ in (*THINGS, *STUFF)]
    for (x1, y1, x2, y2), part in tiles:
        for each, category in zip(possible, (*THINGS, *STUFF), strict=True):
            each[y1:y2, x1:x2] |= part.semantic == category
    for each, category in zip(possible, (*THINGS, *STUFF), strict=True):
        assert not ((result.semantic == category) & ~each).any()

    shuffled = list(tiles)
    order.shuffle(shuffled)
    again = merge_tiles(iter(shuffled), size, **options)
    assert np.array_equal(again.ids, result.ids) and again.segments == result.segments


@given(noises)
def test_two_things_of_one_tile_never_become_one(scene):
    tiles, size = scene
    result = merge_tiles(tiles, size)
    for (x1, y1, x2, y2), part in tiles:
        middle = result.ids[y1:y2, x1:x2]
        # Pixels that this tile alone covers come from it, so there its things stand apart.
        alone = np.ones(middle.shape, bool)
        for (a1, b1, a2, b2), _ in tiles:
            if (a1, b1, a2, b2) != (x1, y1, x2, y2):
                alone[max(b1 - y1, 0) : max(b2 - y1, 0), max(a1 - x1, 0) : max(a2 - x1, 0)] = False
        owners = [set(np.unique(middle[alone & (part.ids == s.id)]).tolist()) - {0} for s in part.segments if s.isthing]
        assert all(one.isdisjoint(other) for one, other in combinations(owners, 2))


def merge(size, *tiles, **options):
    return merge_tiles(
        [(box, result_of(np.array(ids, dtype=np.int32), classes, scores)) for box, ids, classes, scores in tiles],
        size,
        **options,
    )


def row(text):
    """One row of ids."""
    return [[int(c) for c in text.replace(".", "0")]]


def test_views_that_agree_by_more_than_half_are_one_object_with_the_better_score():
    left = ((0, 0, 6, 1), row("..1111"), {1: 3}, {1: 0.7})
    result = merge((1, 10), left, ((2, 0, 10, 1), row("2222...."), {2: 3}, {2: 0.8}))
    assert result.ids.tolist() == row("..1111....") and [s.score for s in result.segments] == [0.8]
    # In another class they are two; the one that loses more than half is gone, and its pixels go to the other.
    left = ((0, 0, 6, 1), row("...111"), {1: 3}, {1: 0.7})
    other = merge((1, 10), left, ((1, 0, 10, 1), row("22222...."), {2: 7}, {2: 0.8}))
    assert [s.category_id for s in other.segments] == [7] and other.ids.tolist() == row("...111....")
    # An IoU of exactly one half is not enough.
    half = merge(
        (1, 8), ((0, 0, 6, 1), row("111111"), {1: 3}, {1: 0.7}), ((2, 0, 8, 1), row("..2222"), {2: 3}, {2: 0.8})
    )
    assert len(half.segments) == 2


def test_touching_things_on_a_seam_stay_two():
    left = ((0, 0, 6, 1), row("111222"), {1: 3, 2: 3}, {1: 0.9, 2: 0.8})
    right = ((2, 0, 8, 1), row("122222"), {1: 3, 2: 3}, {1: 0.9, 2: 0.8})
    assert merge((1, 8), left, right).ids.tolist() == row("11122222")


def test_a_tile_that_saw_two_things_is_not_overruled():
    # The first thing agrees with one on the right, that with one below, and that with the second thing.
    two = ((0, 0, 4, 4), [[1] * 4] * 2 + [[2] * 4] * 2, {1: 3, 2: 3}, {1: 0.9, 2: 0.8})
    right = ((2, 0, 7, 4), [[1] * 5] * 2 + [[0, 0, 1, 1, 1]] * 2, {1: 3}, {1: 0.9})
    below = ((0, 2, 7, 6), [[1] * 7] * 2 + [[0] * 7] * 2, {1: 3}, {1: 0.9})
    assert len(merge((6, 7), right, below).segments) == 1
    result = merge((6, 7), two, right, below)
    assert len(result.segments) == 2
    assert result.ids[0, 0] != result.ids[3, 0]


def test_what_a_tile_sees_whole_goes_before_a_part():
    # A thing of five pixels: the left tile sees two of them and takes them for another thing; the right one sees all.
    left = ((0, 0, 6, 1), row("....22"), {2: 7}, {2: 0.9})
    right = ((2, 0, 12, 1), row("..11111..."), {1: 3}, {1: 0.7})
    result = merge((1, 12), left, right)
    assert result.ids.tolist() == row("....11111...")
    assert [s.category_id for s in result.segments] == [3]


def test_elsewhere_the_tile_whose_side_is_farther_decides():
    left = ((0, 0, 6, 1), row("333333"), {3: 11}, {})
    right = ((2, 0, 8, 1), row("444444"), {4: 90}, {})
    assert merge((1, 8), left, right).semantic.tolist() == [[11] * 4 + [90] * 4]


def test_the_rest_of_a_removed_object_goes_to_the_next_claim_or_is_void():
    left = ((0, 0, 6, 1), row("..1111"), {1: 7}, {1: 0.9})  # touches its side, so that it gives way to the whole one
    right = ((3, 0, 10, 1), row(".22...."), {2: 3}, {2: 0.7})
    kept = merge((1, 10), left, right, removal_threshold=0.5)
    assert kept.semantic.tolist() == [[-1, -1, 7, 7, 3, 3, -1, -1, -1, -1]]
    gone = merge((1, 10), left, right, removal_threshold=0.4)
    assert gone.semantic.tolist() == [[-1, -1, -1, -1, 3, 3, -1, -1, -1, -1]]
    under = ((2, 0, 10, 1), row("33333333"), {3: 11}, {})
    next_claim = merge((1, 10), left, right, under, removal_threshold=0.4)
    assert next_claim.semantic.tolist() == [[-1, -1, 11, 11, 3, 3, 11, 11, 11, 11]]


def test_stuff_is_judged_on_the_whole_image():
    ids = np.full((1, 8), 5, dtype=np.int32)
    ids[0, 3:5] = 6
    truth = result_of(ids, {5: 11, 6: 90})
    tiles = [(box, cut(truth, box)) for box in tile_boxes((1, 8), 4, 2)]
    assert [s.area for s in merge_tiles(tiles, (1, 8), stuff_area=6).segments] == [6]
    assert len(merge_tiles(tiles, (1, 8), stuff_area=7).segments) == 0


def test_pixels_that_no_tile_covers_are_void():
    box = (1, 1, 3, 2)
    result = merge((3, 4), (box, [[1, 1]], {1: 3}, {1: 0.5}))
    assert result.ids.tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_other_peoples_ids_and_missing_scores_will_do():
    left = ((0, 0, 6, 1), (np.array(row("..1111")) * 70_000).tolist(), {70_000: 3}, {})
    result = merge((1, 8), left, ((2, 0, 8, 1), row("2222.."), {2: 3}, {}))
    assert result.ids.tolist() == row("..1111..") and result.segments[0].score is None


PIECE = result_of(np.ones((2, 3), dtype=np.int32), {1: 3}, {1: 0.5})


@pytest.mark.parametrize(
    ("tiles", "options", "said"),
    [
        ([], {}, "at least one tile"),
        ([((0, 0, 3, 3), PIECE)], {}, r"result of box \(0, 0, 3, 3\) is of size \(2, 3\)"),
        ([((2, 0, 5, 2), PIECE)], {}, "does not lie in the image of 4 x 4"),
        ([((0, 0, 3, 2), PIECE), ((0, 0, 3, 2), PIECE)], {}, "a box of its own"),
        ([((0, 0, 3, 2), PIECE)], {"stuff_area": -1}, "stuff_area must not be negative"),
        ([((0, 0, 3, 2), PIECE)], {"removal_threshold": 1.1}, "removal_threshold must be in 0..1"),
        (
            [((0, 0, 3, 2), PIECE), ((1, 0, 4, 2), PanopticSegmentation(PIECE.ids * 0, [], Categories.of([])))],
            {},
            "same categories",
        ),
    ],
)
def test_faults_are_named(tiles, options, said):
    with pytest.raises(ValueError, match=said):
        merge_tiles(tiles, (4, 4), **options)


# ------------------------------------------------------------------------------------------------- cut and put together


class Rows:
    """Something on disk: gives rows from top to bottom only."""

    def __init__(self, pixels):
        self.shape, self.pixels, self.top = pixels.shape, pixels, 0

    def __getitem__(self, key):
        rows, columns = key
        assert rows.start >= self.top, "went back"
        self.top = rows.start
        return self.pixels[rows, columns]


def test_any_network_and_any_image_that_can_be_cut():
    truth = draw_truth(3, (37, 41), 5, void=False)
    pixels = truth.ids.astype(np.uint8)[..., None].repeat(3, axis=2)
    classes = {s.id: s.category_id for s in truth.segments}
    scores = {s.id: s.score for s in truth.segments}

    def network(part):
        assert part.shape == (16, 16, 3)
        return result_of(part[..., 0].astype(np.int32), classes, scores)

    seen = []
    result = segment_tiles(
        network, Rows(pixels), tile=16, overlap=5, progress=lambda boxes: seen.extend(boxes) or boxes
    )
    assert objects_of(result) == objects_of(truth) and result.image is None
    assert seen == tile_boxes((37, 41), 16, 5)
    assert segment_tiles(network, pixels, tile=16).image is pixels  # the default overlap is a quarter
