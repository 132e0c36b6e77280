from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from banet.panoptic import RULES, Categories, MaskCrops, fuse_panoptic, gt_order_rule, resolve_occlusions
from banet.panoptic.fusion import fuse_validated
from banet.panoptic.occlusion.resolve import OcclusionHandler
from banet.panoptic.validation import check_instances

CATEGORIES = [
    {"id": 7, "name": "person", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 3, "name": "tie", "isthing": 1},
    {"id": 11, "name": "grass", "isthing": 0},
    {"id": 12, "name": "wall", "isthing": 0},
]
THINGS, STUFF = [3, 7], [11, 12, 90]


def draw_scene(seed, count, size):
    rng = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        y1, x1 = rng.integers(height), rng.integers(width)
        mask[y1 : y1 + rng.integers(height + 1), x1 : x1 + rng.integers(width + 1)] = True
    return {
        "masks": masks,
        "scores": rng.choice([0.6, 0.7, 0.8], count),
        "labels": rng.choice(THINGS, count),
        "semantic": rng.choice([*THINGS, *STUFF, 90, 90, 0, -1], size),
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
    }


scenes = st.builds(
    draw_scene, st.integers(0, 2**32), st.integers(0, 8), st.tuples(st.integers(1, 9), st.integers(1, 9))
)


def plain_fusion(owner, scene, stuff_area, best=None):
    """Id map and (id, category, score) a segment, pixel by pixel."""
    ids = np.zeros(owner.shape, dtype=int)
    records = []
    scores = scene["scores"]
    for n in sorted(set(owner[owner >= 0].tolist()), key=lambda n: (-scores[n], n)):
        records.append((len(records) + 1, int(scene["labels"][n]), float(scores[n])))
        ids[owner == n] = len(records)
    for category in sorted(STUFF):
        mine = [
            p
            for p in np.ndindex(owner.shape)
            if owner[p] < 0
            and (
                scene["semantic"][p] == category
                or (best is not None and scene["semantic"][p] in THINGS and best[p] == category)
            )
        ]
        if mine and len(mine) >= stuff_area:
            records.append((len(records) + 1, category, None))
            for p in mine:
                ids[p] = len(records)
    return ids, records


def check_against(result, ids, records):
    np.testing.assert_array_equal(result.ids, ids)
    assert result.ids.dtype == np.int32
    assert [(s.id, s.category_id, s.score) for s in result.segments] == records
    for s in result.segments:
        y, x = np.nonzero(ids == s.id)
        assert s.area == len(y)
        assert s.bbox == (x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1)
        assert s.isthing == (s.category_id in THINGS)
        assert not s.iscrowd
    result.check()


@settings(max_examples=150, deadline=None)
@given(scenes, st.sampled_from(list(RULES)), st.integers(0, 12), st.booleans(), st.integers(0, 9))
def test_equals_the_slow_reference(scene, rule, stuff_area, use_best, seed):
    owner = reference.resolve(scene["masks"], scene["scores"], scene["image"], rule)
    best = np.random.default_rng(seed).choice([*STUFF, 0], owner.shape)
    options = {"thing_pixels": "best_stuff", "stuff_semantic": best} if use_best else {}
    result = fuse_panoptic(**scene, categories=CATEGORIES, rule=rule, stuff_area=stuff_area, **options)
    check_against(result, *plain_fusion(owner, scene, stuff_area, best if use_best else None))
    np.testing.assert_array_equal(result.image, scene["image"])
    assert result.categories == Categories.of(CATEGORIES)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_every_pixel_has_the_owner_that_occlusion_handling_gives_it(scene):
    result = fuse_panoptic(**scene, categories=CATEGORIES, stuff_area=1)
    owner = resolve_occlusions(scene["masks"], scene["scores"], scene["image"])
    things = np.isin(result.ids, [s.id for s in result.segments if s.isthing])
    np.testing.assert_array_equal(things, owner >= 0)
    assert len(set(zip(result.ids[things].tolist(), owner[things].tolist(), strict=True))) == sum(
        s.isthing for s in result.segments
    )
    np.testing.assert_array_equal(result.ids == 0, ~things & ~np.isin(scene["semantic"], STUFF))


@settings(max_examples=60, deadline=None)
@given(scenes, st.booleans(), st.integers(0, 9))
def test_class_indices_in_place_of_category_ids(scene, use_best, seed):
    best = np.random.default_rng(seed).choice([*STUFF, 0], scene["semantic"].shape)
    options = {"categories": CATEGORIES, "stuff_area": 2}
    if use_best:
        options |= {"thing_pixels": "best_stuff", "stuff_semantic": best}
    expected = fuse_panoptic(**scene, **options)
    to_index = Categories.of(CATEGORIES).indices_of
    scene |= {name: to_index(scene[name]) for name in ("labels", "semantic")}
    if use_best:
        options["stuff_semantic"] = to_index(best)
    maps = [scene["semantic"], options["stuff_semantic"]] if use_best else [scene["semantic"]]
    masks, scores, image = check_instances(scene["masks"], scene["scores"], scene["image"])
    handler = OcclusionHandler.of("appearance", True, 0.2, 0.5)
    result = fuse_validated(
        masks, scores, scene["labels"], maps, image, Categories.of(CATEGORIES), handler, stuff_area=2
    )
    assert result.segments == expected.segments
    np.testing.assert_array_equal(result.ids, expected.ids)


def test_stuff_area_is_the_least_that_stays():
    semantic = np.repeat([[11, 11, 90, 90, 90, 7]], 2, axis=0)
    none = {"masks": np.zeros((0, 2, 6), dtype=bool), "scores": [], "labels": [], "image": np.zeros((2, 6, 3))}
    for stuff_area, wanted in ((0, [11, 90]), (4, [11, 90]), (5, [90]), (6, [90]), (7, [])):
        result = fuse_panoptic(**none, semantic=semantic, categories=CATEGORIES, stuff_area=stuff_area)
        assert [s.category_id for s in result.segments] == wanted
    covered = {**none, "masks": np.ones((1, 1, 2, 1), dtype=bool)[0].repeat(6, axis=2), "scores": [0.9], "labels": [7]}
    covered["masks"][0, :, 3:] = False
    result = fuse_panoptic(**covered, semantic=semantic, categories=CATEGORIES, stuff_area=4)
    assert [s.category_id for s in result.segments] == [7, 90]  # all of the grass is covered
    result = fuse_panoptic(**covered, semantic=semantic, categories=CATEGORIES, stuff_area=5)
    assert [s.category_id for s in result.segments] == [7]  # 4 pixels of sky are left


def test_default_stuff_area_is_the_papers():
    semantic = np.full((64, 65), 11)
    semantic[:, 64] = 12
    none = {"masks": np.zeros((0, 64, 65), dtype=bool), "scores": [], "labels": [], "image": None, "rule": "score"}
    result = fuse_panoptic(**none, semantic=semantic, categories=CATEGORIES)
    assert [(s.category_id, s.area) for s in result.segments] == [(11, 4096)]


def test_category_zero_is_a_category_if_there_is_one():
    semantic = np.array([[0, 0, 5, -1]])
    none = {"masks": np.zeros((0, 1, 4), dtype=bool), "scores": [], "labels": [], "image": np.zeros((1, 4, 3))}
    with_zero = [{"id": 0, "name": "a", "isthing": 0}, {"id": 5, "name": "b", "isthing": 0}]
    result = fuse_panoptic(**none, semantic=semantic, categories=with_zero, stuff_area=1)
    assert result.ids.tolist() == [[1, 1, 2, 0]]
    result = fuse_panoptic(**none, semantic=semantic, categories=with_zero[1:], stuff_area=1)
    assert result.ids.tolist() == [[0, 0, 1, 0]]


def test_the_semantic_map_may_be_of_any_integer_type_and_layout():
    scene = draw_scene(5, 6, (8, 9))
    scene["semantic"] = np.maximum(scene["semantic"], 0)  # void is 0, so that unsigned types hold it
    expected = fuse_panoptic(**scene, categories=CATEGORIES, stuff_area=2)
    large = [{**c, "id": c["id"] + 10**6} for c in CATEGORIES]  # looked up in another way
    for dtype in (np.uint8, np.int32, np.uint32, np.int64, np.uint64):
        for semantic in (scene["semantic"].astype(dtype), np.asfortranarray(scene["semantic"], dtype=dtype)):
            result = fuse_panoptic(**{**scene, "semantic": semantic}, categories=CATEGORIES, stuff_area=2)
            np.testing.assert_array_equal(result.ids, expected.ids)
            assert result.segments == expected.segments
        if np.iinfo(dtype).max > 10**6:
            shifted = np.where(scene["semantic"] > 0, scene["semantic"] + 10**6, 0).astype(dtype)
            moved = {**scene, "semantic": shifted, "labels": scene["labels"] + 10**6}
            np.testing.assert_array_equal(fuse_panoptic(**moved, categories=large, stuff_area=2).ids, expected.ids)


def test_only_things_or_only_stuff():
    scene = draw_scene(3, 5, (8, 9))
    things = [c for c in CATEGORIES if c["isthing"]]
    semantic = np.where(np.isin(scene["semantic"], STUFF), 0, scene["semantic"])
    result = fuse_panoptic(**{**scene, "semantic": semantic}, categories=things)
    assert all(s.isthing for s in result.segments)
    none = {"masks": np.zeros((0, 8, 9), dtype=bool), "scores": [], "labels": []}
    semantic = np.where(np.isin(scene["semantic"], THINGS), 0, scene["semantic"])
    stuff = [c for c in CATEGORIES if not c["isthing"]]
    result = fuse_panoptic(**{**scene, **none, "semantic": semantic}, categories=stuff, stuff_area=1)
    assert [s.category_id for s in result.segments] == STUFF


def test_rules_keep_the_numbers_of_the_masks_when_some_are_empty():
    masks = np.zeros((4, 2, 8), dtype=bool)
    masks[1, :, :5] = True  # 0 and 2 are empty
    masks[3, :, 3:] = True
    truth = np.zeros((2, 8), dtype=int)
    truth[:, 3:] = 40
    truth[:, :3] = 30
    result = fuse_panoptic(
        masks,
        [0.9, 0.8, 0.7, 0.6],
        [3, 7, 3, 7],
        np.zeros((2, 8), dtype=int),
        np.zeros((2, 8, 3), dtype=np.uint8),
        categories=CATEGORIES,
        rule=gt_order_rule(truth, [0, 30, 0, 40]),
    )
    assert [(s.score, s.area) for s in result.segments] == [(0.8, 6), (0.6, 10)]


def test_crops_and_tensors():
    torch = pytest.importorskip("torch")
    scene = draw_scene(21, 8, (9, 8))
    result = fuse_panoptic(**scene, categories=CATEGORIES, stuff_area=2)
    crops = {**scene, "masks": MaskCrops.from_masks(scene["masks"])}
    tensors = {key: torch.from_numpy(value) for key, value in scene.items()}
    tensors["image"] = tensors["image"].permute(2, 0, 1)
    for same in (crops, tensors):
        other = fuse_panoptic(**same, categories=CATEGORIES, stuff_area=2)
        assert isinstance(other.ids, np.ndarray)
        np.testing.assert_array_equal(other.ids, result.ids)
        np.testing.assert_array_equal(other.image, result.image)
        assert other.segments == result.segments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [3]}, "labels"),
        ({"labels": [3, 11]}, "things"),
        ({"labels": [3, 0]}, "things"),
        ({"labels": [3, 8]}, "unknown category ids 8"),
        ({"labels": [3.0, 7.0]}, "integers"),
        ({"semantic": np.full((4, 5), 8)}, "semantic: unknown category ids 8"),
        ({"semantic": np.zeros((4, 4), dtype=int)}, "size"),
        ({"semantic": np.zeros((1, 4, 5), dtype=int)}, "semantic must have shape"),
        ({"semantic": np.zeros((4, 5))}, "integers"),
        ({"masks": np.ones((2, 4, 4), dtype=bool)}, "size"),
        ({"scores": [0.5, np.nan]}, "finite"),
        ({"image": np.zeros((5, 4, 3))}, "size"),
        ({"stuff_area": -1}, "stuff_area"),
        ({"thing_pixels": "stuff"}, "thing_pixels"),
        ({"thing_pixels": "best_stuff"}, "stuff_semantic"),
        ({"thing_pixels": "best_stuff", "stuff_semantic": np.full((4, 5), 3)}, "things in it"),
        ({"thing_pixels": "best_stuff", "stuff_semantic": np.full((4, 4), 11)}, "size"),
        ({"rule": "nobody"}, "unknown rule"),
    ],
)
def test_bad_input(change, message):
    good = {
        "masks": np.ones((2, 4, 5), dtype=bool),
        "scores": [0.7, 0.8],
        "labels": [3, 7],
        "semantic": np.full((4, 5), 11),
        "image": np.zeros((4, 5, 3), dtype=np.uint8),
        "categories": CATEGORIES,
    }
    fuse_panoptic(**good)
    with pytest.raises(ValueError, match=message) as caught:
        fuse_panoptic(**{**good, **change})
    assert "\n" not in str(caught.value)
