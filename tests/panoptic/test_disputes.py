from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banet.panoptic import RULES, Categories, MaskCrops, PanopticSegmentation, fuse_panoptic
from banet.panoptic.occlusion.overlap_report import report_overlaps
from banet.panoptic.occlusion.rules import probabilities

CATEGORIES = Categories.of(
    [
        {"id": 3, "name": "tie", "isthing": 1},
        {"id": 7, "name": "person", "isthing": 1},
        {"id": 90, "name": "sky", "isthing": 0},
    ]
)


def instances(seed: int, count: int, size: tuple[int, int]):
    """Overlapping rectangles, some of them equal in score, class or shape, and an image."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for mask in masks:
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
    if count > 1:
        masks[-1] = masks[0]
    scores, labels = rng.choice([0.6, 0.7, 0.8], count), rng.choice([3, 7], count)
    return masks, scores, labels, rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(
    st.integers(0, 2**32),
    st.integers(0, 7),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.sampled_from(["appearance", "score", "area", "heuristic", "appearance-pixel"]),
)
def test_disputes_pixel_by_pixel(seed, count, size, rule):
    masks, scores, labels, image = instances(seed, count, size)
    semantic = np.full(size, 90)
    result = fuse_panoptic(
        masks, scores, labels, semantic, image, categories=CATEGORIES, rule=rule, stuff_area=0, removal_threshold=0.5
    )
    found = report_overlaps(result, masks, scores, labels)
    things = [segment for segment in result.segments if segment.isthing]
    assert sorted(found.segments[found.segments > 0]) == [segment.id for segment in things]
    mask_of = {}
    for n, segment_id in enumerate(found.segments.tolist()):
        if segment_id:
            (segment,) = [s for s in things if s.id == segment_id]
            assert (segment.score, segment.category_id) == (scores[n], labels[n])
            assert masks[n][result.ids == segment_id].all()
            mask_of[segment_id] = masks[n]
    for y, x in np.ndindex(size):
        claim = tuple(sorted(s for s, mask in mask_of.items() if mask[y, x]))
        k = found.claims[y, x]
        assert (found.claimants[k - 1] if k else ()) == (claim if len(claim) > 1 else ())
    assert found.pixels == sum(np.sum(list(mask_of.values()), axis=0).reshape(-1) > 1) if mask_of else not found.pixels
    for segment in things:
        expected = {
            n: int(mask[result.ids == segment.id].sum())
            for n, mask in enumerate(masks)
            if found.segments[n] != segment.id
        }
        assert found.hidden[segment.id] == {n: pixels for n, pixels in expected.items() if pixels}


def test_of_equal_scores_the_mask_that_was_taken_is_named():
    masks = np.zeros((3, 10, 20), dtype=bool)
    masks[0, :, :10] = masks[1, 1:, :10] = masks[2, :, 15:] = True
    result = fuse_panoptic(
        masks,
        np.ones(3),
        [7, 7, 7],
        np.full((10, 20), 90),
        None,
        categories=CATEGORIES,
        rule="area",
        overlap_threshold=0,
        removal_threshold=0.2,
    )
    assert result.mask_indices == {1: 1, 2: 2}
    assert report_overlaps(result, masks, np.ones(3), [7, 7, 7]).segments.tolist() == [0, 1, 2]


def test_crops_say_the_same():
    masks, scores, labels, image = instances(3, 6, (8, 9))
    result = fuse_panoptic(masks, scores, labels, np.full((8, 9), 90), image, categories=CATEGORIES)
    dense = report_overlaps(result, masks, scores, labels)
    crops = report_overlaps(result, MaskCrops.from_masks(masks), scores, labels)
    assert np.array_equal(dense.claims, crops.claims)
    assert (dense.claimants, dense.hidden) == (crops.claimants, crops.hidden)


def test_a_result_of_other_instances_is_refused():
    masks, scores, labels, image = instances(3, 6, (8, 9))
    result = fuse_panoptic(masks, scores, labels, np.full((8, 9), 90), image, categories=CATEGORIES)
    with pytest.raises(ValueError, match="none of the 6 instances"):
        report_overlaps(result, masks, scores / 2, labels)
    with pytest.raises(ValueError, match="none of the 0 instances"):
        report_overlaps(result, masks[:0], scores[:0], labels[:0])


def test_without_instances():
    ids = np.array([[0, 1]])
    result = PanopticSegmentation.from_ids(ids, [{"id": 1, "category_id": 90}], CATEGORIES)
    found = report_overlaps(result, np.zeros((0, 1, 2), bool), [], [])
    assert found.pixels == 0 and found.hidden == {} and found.claimants == []


def test_the_report_says_who_is_in_front_and_how_sure_that_is():
    y, x = np.mgrid[:60, :80]
    masks = np.stack(
        [np.hypot(y - 30, x - at) < 18 for at in (28, 48)] + [(x > 60) & (y > 50), np.hypot(y - 30, x - 28) < 17]
    )
    image = np.full((60, 80, 3), 90, np.uint8)
    image[masks[0]], image[masks[1]] = (180, 40, 40), (40, 60, 170)
    args = masks, np.array([0.9, 0.8, 0.7, 0.6]), np.array([3, 7, 3, 7])
    options = {"rule": "color-contour", "overlap_threshold": 0.0, "clean": True}
    result = fuse_panoptic(*args, np.full((60, 80), 90), image, categories=CATEGORIES, **options)
    report = report_overlaps(result, *args, **options)
    assert [(each.index, each.reason, each.others) for each in report.removed] == [(3, "duplicate", (0,))]
    (decision,) = report.decisions
    assert (decision.front, decision.back, decision.by) == (1, 0, "rule")
    assert decision.overlap == np.count_nonzero(masks[0] & masks[1])
    assert decision.probability > 0.9
    assert str(report).startswith("3: duplicate of 0\n1 in front of 0 (")


@pytest.mark.parametrize(
    ("rule", "by"),
    [("area", "rule"), (lambda pairs: np.ones(len(pairs)), "rule"), (lambda pairs: np.zeros(len(pairs)), "score")],
)
def test_rules_without_calibration_report_no_probability(rule, by):
    masks = np.zeros((2, 8, 8), bool)
    masks[0, :6], masks[1, 4:] = True, True
    args = masks, np.array([0.9, 0.8]), np.array([3, 7])
    result = fuse_panoptic(*args, np.full((8, 8), 90), np.zeros((8, 8, 3)), categories=CATEGORIES, rule=rule)
    found = [(each.by, each.probability) for each in report_overlaps(result, *args, rule=rule).decisions]
    assert found == ([] if by is None else [(by, None)])
    assert report_overlaps(result, *args).decisions == ()


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_probability_is_half_or_more_where_the_margin_is_not_negative(margins):
    values = np.array(margins)
    assert ((probabilities(RULES["color-contour"], values) >= 0.5) == (values >= 0)).all()
    assert probabilities(RULES["area"], values) is None
