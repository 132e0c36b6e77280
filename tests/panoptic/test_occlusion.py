from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from banet.panoptic import RULES, MaskCrops, gt_order_rule, logit_rule, match_boxes, needs_image, resolve_occlusions
from banet.panoptic.occlusion.ranking import lock_in
from banet.panoptic.occlusion.regions import Regions
from banet.panoptic.occlusion.resolve import OcclusionHandler
from banet.panoptic.occlusion.rules import Pairs, Procedure

COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [90, 90, 90], [180, 180, 180], [0, 0, 0], [200, 30, 120]]
)


def draw_scene(seed, count, size, kind):
    """Masks (N, H, W), scores with ties, and an image of few colours, among them greys and black."""
    rng = np.random.default_rng(seed)
    height, width = size
    masks = np.zeros((count, height, width), dtype=bool)
    for n in range(count):
        what = rng.integers(8) if kind == "mixed" else kind
        if what == 0 and n:
            masks[n] = masks[rng.integers(n)]  # equal to another
        elif what == 1:
            continue  # empty
        elif what == 2:
            masks[n] = rng.random(size) < 0.3  # dust
        elif what == 3 and n:
            masks[n] = masks[rng.integers(n)] & (rng.random(size) < 0.7)  # nested in another
        else:
            y1, x1 = rng.integers(height), rng.integers(width)
            masks[n, y1 : y1 + rng.integers(1, height + 1), x1 : x1 + rng.integers(1, width + 1)] = True
    scores = rng.choice([0.5, 0.6, 0.7, 0.8, 0.9], count) if rng.random() < 0.7 else rng.random(count)
    palette = COLOURS if rng.random() < 0.7 else COLOURS[4:7]
    image = palette[rng.integers(len(palette), size=size)].astype(np.uint8)
    if rng.random() < 0.3:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return masks, scores, image


scenes = st.builds(
    draw_scene,
    st.integers(0, 2**32),
    st.integers(0, 12),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["mixed", "mixed", "mixed", 4]),
)
thresholds = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("rule", ["appearance", "score", "area", "heuristic", "appearance-pixel"])
@settings(max_examples=120, deadline=None)
@given(scenes, thresholds, thresholds)
def test_equals_the_slow_reference(rule, scene, overlap_threshold, removal_threshold):
    options = {"rule": rule, "overlap_threshold": overlap_threshold, "removal_threshold": removal_threshold}
    owner = resolve_occlusions(*scene, **options)
    assert owner.dtype == np.int32
    np.testing.assert_array_equal(owner, reference.resolve(*scene, **options))


@pytest.mark.parametrize("rule", list(RULES))
@settings(max_examples=40, deadline=None)
@given(scenes)
def test_defaults_equal_the_slow_reference(rule, scene):
    np.testing.assert_array_equal(resolve_occlusions(*scene, rule=rule), reference.resolve(*scene, rule=rule))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 12))
def test_cycles(seed, count):
    """Big masks that nearly all overlap, in front by a random tournament: cycles everywhere."""
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 5, 6)) < 0.45
    scores = rng.choice([0.6, 0.7, 0.8], count)
    image = np.zeros((5, 6, 3), dtype=np.uint8)
    beats = rng.integers(-1, 2, (count, count))
    beats = np.triu(beats) - np.triu(beats).T
    for removal in (0.5, 1.0):
        owner = resolve_occlusions(masks, scores, image, rule=lambda p: beats[p.i, p.j], removal_threshold=removal)
        plain = reference.resolve(masks, scores, image, lambda a, b, _: beats[a, b], removal_threshold=removal)
        np.testing.assert_array_equal(owner, plain)


def papers_cycle():
    """A over B, C over A, B over C by appearance, to be taken in that order."""
    red, green, blue, rest = (200, 20, 20), (20, 200, 20), (20, 20, 200), (120, 120, 120)
    image = np.full((6, 9, 3), rest, dtype=np.uint8)
    masks = np.zeros((3, 6, 9), dtype=bool)
    masks[0, 0:2, 0:9] = True  # A: red
    masks[1, 0:2, 0:3] = masks[1, 2:6, 0:3] = True  # B: green
    masks[2, 0:2, 6:9] = masks[2, 2:6, 3:9] = masks[2, 4:6, 0:3] = True  # C: blue
    image[0:2, 0:6] = red
    image[2:6, 0:3] = green
    image[2:6, 3:9] = blue
    image[0:2, 6:9] = blue  # A and C share it: C's
    image[4:6, 0:3] = green  # B and C share it: B's
    return masks, np.array([0.9, 0.7, 0.8]), image


def test_the_papers_cycle_sets_the_last_arrow_aside():
    masks, scores, image = papers_cycle()
    # Pair scores: AC and AB 0.9, of which AC has the higher lower score, then BC. B over C closes the cycle.
    owner = resolve_occlusions(masks, scores, image, removal_threshold=1)
    assert set(owner[masks[0] & masks[1]].tolist()) == {0}
    assert set(owner[masks[0] & masks[2]].tolist()) == {2}
    assert set(owner[masks[1] & masks[2]].tolist()) == {2}
    alone = resolve_occlusions(masks[1:], scores[1:], image, removal_threshold=1)
    assert set(alone[masks[1] & masks[2]].tolist()) == {0}


def test_lock_in_papers_example():
    order = [0, 1, 2]
    assert lock_in(order, [(0, 1), (2, 0), (1, 2)]) == [[2, 0, 1]]
    assert order == [2, 0, 1]


@given(st.integers(1, 10).flatmap(lambda n: st.tuples(st.permutations(range(n)), st.sets(st.tuples(
    st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda a: a[0] != a[1])).flatmap(
        lambda s: st.permutations(sorted(s))))))  # fmt: skip
def test_lock_in_equals_reference_and_orders(case):
    order, arrows = list(case[0]), case[1]
    against = lock_in(order, arrows)
    taken = reference.ranked_pairs(arrows)
    assert [(path[-1], path[0]) for path in against] == [a for a in arrows if a not in taken]
    assert all(step in taken for path in against for step in itertools.pairwise(path))
    assert sorted(order) == list(range(len(order)))
    assert all(order.index(a) < order.index(b) for a, b in taken)
    for fewer in (arrows, arrows[::2], arrows[1:]):  # what stood against an arrow then may not do so now
        hinted, plain = list(order), list(order)
        paths = lock_in(hinted, fewer, against)
        assert [(path[-1], path[0]) for path in paths] == [(p[-1], p[0]) for p in lock_in(plain, fewer)]
        taken = reference.ranked_pairs(fewer)
        assert all(step in taken for path in paths for step in itertools.pairwise(path))
        assert all(hinted.index(a) < hinted.index(b) for a, b in taken)


@pytest.mark.parametrize("rule", list(RULES))
@settings(max_examples=40, deadline=None)
@given(scenes, st.randoms(use_true_random=False))
def test_order_of_objects_does_not_matter(rule, scene, random):
    masks, _, image = scene
    count = len(masks)
    scores = np.array(random.sample(range(100), count)) / 100  # no ties
    turn = np.array(random.sample(range(count), count), dtype=int)
    owner = resolve_occlusions(masks, scores, image, rule=rule)
    turned = resolve_occlusions(masks[turn], scores[turn], image, rule=rule)
    np.testing.assert_array_equal(np.append(turn, -1)[turned], owner)


@pytest.mark.parametrize("rule", list(RULES))
@settings(max_examples=40, deadline=None)
@given(scenes)
def test_owners_lie_in_their_masks_and_a_second_pass_changes_nothing(rule, scene):
    masks, scores, image = scene
    owner = resolve_occlusions(masks, scores, image, rule=rule)
    y, x = np.nonzero(owner >= 0)
    assert masks[owner[y, x], y, x].all()
    disjoint = owner == np.arange(len(masks))[:, None, None]
    np.testing.assert_array_equal(resolve_occlusions(disjoint, scores, image, rule=rule), owner)


@pytest.mark.parametrize("rule", list(RULES))
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_no_overlap_no_change(rule, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, 6, (7, 8)).astype(np.int32)
    image = rng.integers(0, 256, (7, 8, 3), dtype=np.uint8)
    masks = label == np.arange(6)[:, None, None]
    np.testing.assert_array_equal(resolve_occlusions(masks, rng.random(6), image, rule=rule), label)


@pytest.mark.parametrize("rule", list(RULES))
@settings(max_examples=40, deadline=None)
@given(scenes, st.integers(0, 3))
def test_crops_equal_dense(rule, scene, slack):
    masks, scores, image = scene
    height, width = masks.shape[1:]
    dense = resolve_occlusions(masks, scores, image, rule=rule)
    crops = MaskCrops.from_masks(masks)
    np.testing.assert_array_equal(crops.to_masks(), masks)
    np.testing.assert_array_equal(resolve_occlusions(crops, scores, image, rule=rule), dense)
    boxes = [  # loose boxes
        [max(0, x1 - slack), max(0, y1 - slack), min(width, x2 + slack), min(height, y2 + slack)]
        for x1, y1, x2, y2 in crops.boxes.tolist()
    ]
    cut = [m[y1:y2, x1:x2].astype(np.uint8) for m, (x1, y1, x2, y2) in zip(masks, boxes, strict=True)]
    loose = MaskCrops(np.array(boxes, dtype=np.int32).reshape(-1, 4), cut, (height, width))
    np.testing.assert_array_equal(resolve_occlusions(loose, scores, image, rule=rule), dense)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_grey_pictures_go_by_score(scene):
    masks, scores, image = scene
    by_score = resolve_occlusions(masks, scores, image, rule="score")
    for grey in (image[..., 0], np.repeat(image[..., :1], 3, axis=2)):
        np.testing.assert_array_equal(resolve_occlusions(masks, scores, grey), by_score)
        np.testing.assert_array_equal(resolve_occlusions(masks, scores, grey, rule="appearance-pixel"), by_score)


def test_float_image_equals_uint8():
    rng = np.random.default_rng(3)
    masks, scores, image = rng.random((6, 9, 9)) < 0.4, rng.random(6), rng.integers(2, 256, (9, 9, 3), dtype=np.uint8)
    for rule in RULES:
        owner = resolve_occlusions(masks, scores, image, rule=rule)
        for same in (
            image.astype(np.float32),
            image.astype(np.float64),
            image.astype(np.int64),
            image[:, ::-1][:, ::-1],
        ):
            np.testing.assert_array_equal(resolve_occlusions(masks.astype(int), scores, same, rule=rule), owner)


def test_thresholds_are_strict():
    image = np.zeros((1, 20, 3), dtype=np.uint8)
    image[0, :10], image[0, 10:] = (255, 0, 0), (0, 0, 255)
    masks = np.zeros((2, 1, 20), dtype=bool)
    masks[0, 0, :10], masks[1, 0, 8:18] = True, True  # share 2 of 10 pixels, red as the first
    assert resolve_occlusions(masks, [0.6, 0.9], image)[0, 8] == 1  # 0.2 is not more than 0.2: score
    assert resolve_occlusions(masks, [0.6, 0.9], image, overlap_threshold=0.19)[0, 8] == 0
    masks[1] = False
    masks[1, 0, 5:15] = True  # half of either
    owner = resolve_occlusions(masks, [0.6, 0.9], image, rule="score")
    assert (owner == 0).sum() == 5  # lost a half, not more: stays
    owner = resolve_occlusions(masks, [0.6, 0.9], image, rule="score", removal_threshold=0.49)
    assert (owner == 0).sum() == 0
    assert (owner == 1).sum() == 10


def test_removed_objects_give_their_pixels_back():
    masks = np.zeros((4, 1, 12), dtype=bool)
    masks[0, 0, 0:9] = True  # hidden by 2, save for its first pixel
    masks[1, 0, [0, 10]] = True  # loses that pixel to 0, until 0 is removed
    masks[2, 0, 1:10] = True
    masks[3, 0, 10:12] = True  # loses a pixel to nobody but 1
    image, scores = np.zeros((1, 12), dtype=np.uint8), [0.8, 0.7, 0.9, 0.6]
    owner = resolve_occlusions(masks, scores, image)
    assert owner.tolist() == [[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 3]]
    np.testing.assert_array_equal(owner, reference.resolve(masks, scores, image))


def test_one_removal_at_a_time_may_save_another():
    masks = np.zeros((3, 1, 30), dtype=bool)
    masks[0, 0, 0:10] = True
    masks[1, 0, 0:18] = True  # loses 10 of 18 to 0, which is enough to be removed,
    masks[2, 0, 8:18] = True  # but this one loses all to 1, so it goes first
    image, scores = np.zeros((1, 30), dtype=np.uint8), [0.9, 0.8, 0.7]
    owner = resolve_occlusions(masks, scores, image)
    assert owner.tolist() == [[0] * 10 + [-1] * 20]
    owner = resolve_occlusions(masks, scores, image, removal_threshold=0.6)
    assert owner.tolist() == [[0] * 10 + [1] * 8 + [-1] * 12]
    np.testing.assert_array_equal(owner, reference.resolve(masks, scores, image, removal_threshold=0.6))


def test_rule_functions_see_the_occluded_pairs_only():
    masks, scores, image = draw_scene(7, 12, (9, 9), "mixed")
    seen = []

    def rule(pairs):
        seen.append(pairs)
        return np.zeros(len(pairs))

    owner = resolve_occlusions(masks, scores, image, rule=rule)
    np.testing.assert_array_equal(owner, resolve_occlusions(masks, scores, image, rule="score"))
    (pairs,) = seen
    areas = masks.sum(axis=(1, 2))
    expected = []
    for i in range(12):
        for j in range(i + 1, 12):
            shared = (masks[i] & masks[j]).sum()
            if shared and (shared > 0.2 * areas[i] or shared > 0.2 * areas[j]):
                expected.append((i, j, shared))
    assert list(zip(pairs.i, pairs.j, pairs.overlap, strict=True)) == expected
    np.testing.assert_array_equal(pairs.areas, areas)
    np.testing.assert_array_equal(pairs.scores, scores)
    np.testing.assert_array_equal(pairs.image, image)


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_sums_over_pairs_and_masks(scene):
    masks, scores, image = scene
    pairs = Pairs.of(MaskCrops.from_masks(masks), scores, image)
    values = np.random.default_rng(0).random((2, *masks.shape[1:]))

    def of(pixels):
        return values.reshape(2, -1)[:, pixels]

    overlap, whole = pairs.overlap_sums(of), pairs.mask_sums(of)
    assert overlap.shape == (2, len(pairs))
    assert whole.shape == (2, len(masks))
    for k, (i, j) in enumerate(zip(pairs.i, pairs.j, strict=True)):
        shared = masks[i] & masks[j]
        np.testing.assert_allclose(overlap[:, k], values[:, shared].sum(axis=1), rtol=1e-12)
        (x1, y1, x2, y2), inside = pairs.overlap_mask(k)
        painted = np.zeros_like(shared)
        painted[y1:y2, x1:x2] = inside
        np.testing.assert_array_equal(painted, shared)
    for n in {*pairs.i.tolist(), *pairs.j.tolist()}:
        np.testing.assert_allclose(whole[:, n], values[:, masks[n]].sum(axis=1), rtol=1e-12)
        np.testing.assert_array_equal(pairs.masks[n], masks[n])


@settings(max_examples=60, deadline=None)
@given(scenes)
def test_regions_are_the_pixels_with_equal_claimants(scene):
    masks, _, _ = scene
    regions = Regions.of(MaskCrops.from_masks(masks))
    label = regions.paint(np.arange(len(regions.sizes)))
    claimants = [set() for _ in regions.sizes]
    for region, n in zip(regions.claims_region, regions.claims_object, strict=True):
        claimants[region].add(int(n))
    assert len({frozenset(c) for c in claimants}) == len(claimants)
    for y, x in np.ndindex(label.shape):
        assert claimants[label[y, x]] == set(np.flatnonzero(masks[:, y, x]).tolist())
    np.testing.assert_array_equal(regions.sizes, np.bincount(label.ravel(), minlength=len(regions.sizes)))
    assert (regions.sizes[1:] > 0).all()


@pytest.mark.parametrize("width", [1, 7, 8, 16, 21])
def test_tight_crops_of_masks_in_any_layout(width):
    rng = np.random.default_rng(width)
    masks = np.zeros((9, 6, width), dtype=bool)
    for mask in masks[1:]:
        mask[rng.integers(6, size=2), rng.integers(width, size=2)] = True
    wide = np.zeros((9, 6, 2 * width + 1), dtype=bool)
    wide[..., 1::2] = masks
    for same in (masks, np.asfortranarray(masks), wide[..., 1::2], masks[::-1].copy()[::-1]):
        crops = MaskCrops.from_masks(same)
        np.testing.assert_array_equal(crops.to_masks(), masks)
        assert crops.boxes[0].tolist() == [0, 0, 0, 0]
        for mask, box in zip(masks[1:], crops.boxes[1:].tolist(), strict=True):
            y, x = np.nonzero(mask)
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_deep_stacks_are_cut_into_blocks(monkeypatch):
    from banet.panoptic.occlusion import regions

    masks, scores, image = np.random.default_rng(5).random((12, 9, 9)) < 0.5, np.linspace(0.6, 0.9, 12), None
    image = np.random.default_rng(6).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    whole = {rule: resolve_occlusions(masks, scores, image, rule=rule, removal_threshold=0.8) for rule in RULES}
    monkeypatch.setattr(regions, "_PIXELS", 7)
    monkeypatch.setattr(regions, "_COMBINATIONS", 7)
    for rule, owner in whole.items():
        blocks = resolve_occlusions(masks, scores, image, rule=rule, removal_threshold=0.8)
        np.testing.assert_array_equal(blocks, owner)


@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(0, 2**32))
def test_ground_truth_order(scene, seed):
    masks, scores, image = scene
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, masks.shape[1:])
    matched = rng.integers(-1, 6, len(masks))
    means = reference.mean_colours([reference.pixels(m) for m in masks], image)

    def plain(a, b, shared):
        if matched[a] > 0 and matched[b] > 0:
            return sum((truth[p] == matched[a]) * 1 - (truth[p] == matched[b]) for p in shared)
        similar = [reference.cosine(image[p], means[a]) - reference.cosine(image[p], means[b]) for p in shared]
        return 0 if abs(sum(similar) / len(similar)) <= 1e-6 else sum(similar)

    owner = resolve_occlusions(masks, scores, image, rule=gt_order_rule(truth, matched))
    np.testing.assert_array_equal(owner, reference.resolve(masks, scores, image, plain))


@pytest.mark.parametrize("combine", ["sum", "gated"])
@settings(max_examples=60, deadline=None)
@given(scenes, st.integers(0, 2**32))
def test_logit_rule(combine, scene, seed):
    masks, scores, image = scene
    rng = np.random.default_rng(seed)
    mask_logits, semantic_logits = rng.normal(0, 4, (2, *masks.shape)).astype(np.float32)

    def mean(n, shared):
        total = 0
        for p in shared:
            a, b = float(mask_logits[n][p]), float(semantic_logits[n][p])
            gate = 1 / (1 + math.exp(-a)) + 1 / (1 + math.exp(-b))
            total += (a + b) * (gate if combine == "gated" else 1)
        return total / len(shared)

    owner = resolve_occlusions(masks, scores, image, rule=logit_rule(mask_logits, semantic_logits, combine))
    expected = reference.resolve(masks, scores, image, lambda a, b, shared: mean(a, shared) - mean(b, shared))
    np.testing.assert_array_equal(owner, expected)

    crops = MaskCrops.from_masks(masks)
    cut = [
        [x[y1:y2, x1:x2] for x, (x1, y1, x2, y2) in zip(logits, crops.boxes.tolist(), strict=True)]
        for logits in (mask_logits, semantic_logits)
    ]
    np.testing.assert_array_equal(resolve_occlusions(crops, scores, None, rule=logit_rule(*cut, combine)), owner)


def test_logit_rules_differ_and_ties_go_by_score():
    a, b = np.zeros((2, 4, 5)), np.zeros((2, 4, 5))
    a[0], b[0] = 6, -5  # sum 1, gated 1.004
    a[1], b[1] = 0.4, 0.4  # sum 0.8, gated 0.96
    a[1, 1, 1:4], b[1, 1, 1:4] = 5, -3.9  # mean sum 0.95, mean gated 1.03
    assert (resolve_occlusions(MASKS, [0.7, 0.8], None, rule=logit_rule(a, b))[1:3, 1:4] == 0).all()
    assert (resolve_occlusions(MASKS, [0.9, 0.8], None, rule=logit_rule(a, b, "gated"))[1:3, 1:4] == 1).all()
    for scores, first in (([0.9, 0.8], 0), ([0.7, 0.8], 1)):
        owner = resolve_occlusions(MASKS, scores, None, rule=logit_rule(a[[0, 0]], b[[0, 0]]))
        assert (owner[1:3, 1:4] == first).all()


def test_logits_may_be_tensors():
    torch = pytest.importorskip("torch")
    masks, scores, image = draw_scene(13, 10, (9, 8), "mixed")
    logits = np.random.default_rng(1).normal(0, 4, (2, *masks.shape))
    owner = resolve_occlusions(masks, scores, image, rule=logit_rule(*torch.from_numpy(logits).requires_grad_()))
    np.testing.assert_array_equal(owner, resolve_occlusions(masks, scores, image, rule=logit_rule(*logits)))


@pytest.mark.parametrize(
    ("mask_logits", "semantic_logits", "message"),
    [
        (np.zeros((3, 4, 5)), np.zeros((2, 4, 5)), "mask_logits has 3 entries for 2"),
        (np.zeros((2, 4, 5)), np.zeros((1, 4, 5)), "semantic_logits has 1 entries for 2"),
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), r"mask_logits\[0\] has shape"),
        (np.zeros((2, 4, 5)), np.zeros((2, 5, 4)), r"semantic_logits\[0\] has shape"),
        (np.zeros((2, 4, 5), dtype=bool), np.zeros((2, 4, 5)), "real numbers"),
        (np.full((2, 4, 5), np.nan), np.zeros((2, 4, 5)), "not finite"),
        (np.zeros((2, 4, 5)), np.full((2, 4, 5), -np.inf), "not finite"),
    ],
)
def test_logit_rule_bad_input(mask_logits, semantic_logits, message):
    with pytest.raises(ValueError, match=message) as caught:
        resolve_occlusions(MASKS, [0.7, 0.8], IMAGE, rule=logit_rule(mask_logits, semantic_logits))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="combine"):
        logit_rule(mask_logits, semantic_logits, "mean")


def test_match_boxes():
    truth = [[0, 0, 10, 10], [20, 0, 30, 10], [20, 0, 30, 10]]
    ours = [[0, 0, 10, 5], [0, 0, 10, 4.9], [21, 0, 30, 10], [50, 50, 60, 60], [5, 5, 5, 5]]
    assert match_boxes(ours, truth).tolist() == [0, -1, 1, -1, -1]
    assert match_boxes(ours, np.zeros((0, 4))).tolist() == [-1] * 5
    assert match_boxes([], truth).tolist() == []


def test_no_objects():
    image = np.zeros((4, 5, 3), dtype=np.uint8)
    none = MaskCrops(np.zeros((0, 4), dtype=int), [], (4, 5))
    for masks in (np.zeros((0, 4, 5), dtype=bool), np.zeros((0, 4, 5)), none, []):
        for rule in RULES:
            owner = resolve_occlusions(masks, [], image, rule=rule)
            assert owner.dtype == np.int32
            np.testing.assert_array_equal(owner, np.full((4, 5), -1))


def test_image_may_be_left_out_where_it_is_not_looked_at():
    masks, scores, image = draw_scene(11, 8, (9, 9), "mixed")
    for rule in ("score", "area", "heuristic"):
        np.testing.assert_array_equal(
            resolve_occlusions(masks, scores, None, rule=rule), resolve_occlusions(masks, scores, image, rule=rule)
        )
    apart = np.eye(3, dtype=bool)[:, :, None]
    for rule in ("appearance", "color-contour", "appearance-pixel", gt_order_rule(np.zeros((9, 9), int), [0] * 8)):
        for some in (masks, masks[:0]):  # before anything is decided: with no pair to decide, too
            with pytest.raises(ValueError, match=r"image is None: .*'score', 'area', 'heuristic'"):
                resolve_occlusions(some, scores[: len(some)], None, rule=rule)
    with pytest.raises(ValueError, match="the rule 'appearance' looks at the image"):
        resolve_occlusions(apart, [0.5, 0.6, 0.7])


def test_a_rule_says_itself_whether_it_needs_the_image():
    blind = {name for name, rule in RULES.items() if not OcclusionHandler.of(rule, True, 0.2, 0.5).needs_image}
    assert blind == {"score", "area", "heuristic"}
    assert OcclusionHandler.of(Procedure(lambda *_: None, needs_image=True), True, 0.2, 0.5).needs_image

    @needs_image
    def red(pairs):
        raise AssertionError("must not be called")

    with pytest.raises(ValueError, match="the rule 'red' looks at the image"):
        resolve_occlusions(np.ones((2, 3, 3), bool), [0.5, 0.6], rule=red)
    on_score = gt_order_rule(np.zeros((3, 3), int), [0, 0], fallback=RULES["score"])
    assert (resolve_occlusions(np.ones((2, 3, 3), bool), [0.5, 0.6], rule=on_score) == 1).all()


MASKS = np.zeros((2, 4, 5), dtype=bool)
MASKS[:, 1:3, 1:4] = True
IMAGE = np.full((4, 5, 3), 7, dtype=np.uint8)
BOXES = np.array([[0, 0, 2, 2], [1, 1, 3, 4]])
CROPS = [np.ones((2, 2), dtype=bool), np.ones((3, 2), dtype=bool)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": MASKS[:, :3]}, "size"),
        ({"masks": MASKS[0]}, "shape"),
        ({"masks": MASKS.astype(float)}, "bool"),
        ({"masks": MASKS * 255}, "0 and 1"),
        ({"masks": MASKS * -1}, "0 and 1"),
        ({"scores": [0.5]}, "scores"),
        ({"scores": [[0.5, 0.6]]}, "scores"),
        ({"scores": [0.5, np.nan]}, "finite"),
        ({"scores": [0.5, np.inf]}, "finite"),
        ({"scores": ["a", "b"]}, "numbers"),
        ({"image": IMAGE[:3]}, "size"),
        ({"image": IMAGE[..., :2]}, "image must have shape"),
        ({"image": IMAGE.transpose(2, 0, 1)}, "image must have shape"),
        ({"image": IMAGE / 255}, "0..255"),
        ({"image": IMAGE * 1.0 - 8}, "0..255"),
        ({"image": IMAGE * 100.0}, "0..255"),
        ({"image": np.where(IMAGE > 0, np.nan, IMAGE)}, "0..255"),
        ({"image": IMAGE > 3}, "uint8"),
        ({"rule": "no-such"}, "unknown rule 'no-such'"),
        ({"rule": 3}, "rule must be"),
        ({"rule": lambda pairs: np.zeros(len(pairs) + 1)}, "margins"),
        ({"rule": lambda pairs: np.full(len(pairs), np.nan)}, "not a number"),
        ({"overlap_threshold": -0.1}, "overlap_threshold"),
        ({"removal_threshold": np.nan}, "removal_threshold"),
        ({"masks": MaskCrops(BOXES + 2, CROPS, (4, 5))}, "leaves the image"),
        ({"masks": MaskCrops(BOXES - 1, CROPS, (4, 5))}, "leaves the image"),
        ({"masks": MaskCrops(BOXES[:, [2, 1, 0, 3]], CROPS, (4, 5))}, "leaves the image"),
        ({"masks": MaskCrops(BOXES, CROPS[::-1], (4, 5))}, "shape"),
        ({"masks": MaskCrops(BOXES[:1], CROPS, (4, 5))}, "boxes"),
        ({"masks": MaskCrops(BOXES * 1.0, CROPS, (4, 5))}, "integers"),
        ({"masks": MaskCrops(BOXES, [c * 1.0 for c in CROPS], (4, 5))}, "bool"),
        ({"masks": MaskCrops(BOXES, CROPS, (5, 5))}, "size"),
    ],
)
def test_bad_input(change, message):
    good = {"masks": MASKS, "scores": [0.7, 0.8], "image": IMAGE}
    resolve_occlusions(**good)
    with pytest.raises(ValueError, match=message) as caught:
        resolve_occlusions(**{**good, **change})
    assert "\n" not in str(caught.value)


def test_ground_truth_order_bad_input():
    truth = np.zeros((4, 5), dtype=int)
    with pytest.raises(ValueError, match="truth_ids"):
        gt_order_rule(truth * 1.0, [1, 2])
    with pytest.raises(ValueError, match="matched"):
        gt_order_rule(truth, [0.5, 1])
    with pytest.raises(ValueError, match="3 entries for 2"):
        resolve_occlusions(MASKS, [0.7, 0.8], IMAGE, rule=gt_order_rule(truth, [1, 2, 3]))
    with pytest.raises(ValueError, match="size"):
        resolve_occlusions(MASKS, [0.7, 0.8], IMAGE, rule=gt_order_rule(truth[:3], [1, 2]))


def test_a_procedure_of_ones_own():
    nobody = Procedure(lambda pairs, overlap, removal: np.full(pairs.masks.size, -1, dtype=np.int32))
    assert (resolve_occlusions(MASKS, [0.7, 0.8], IMAGE, rule=nobody) == -1).all()


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    masks, scores, image = draw_scene(13, 10, (9, 8), "mixed")
    chw = torch.from_numpy(image).permute(2, 0, 1)
    tensor = torch.from_numpy(masks)
    crops = MaskCrops.from_masks(masks)
    for rule in RULES:
        owner = resolve_occlusions(masks, scores, image, rule=rule)
        for given_masks in (
            tensor,
            tensor.int(),
            MaskCrops(crops.boxes, [torch.from_numpy(c) for c in crops.crops], (9, 8)),
        ):
            for picture in (chw, chw.contiguous().float(), image, torch.from_numpy(image[..., 0])):
                grey = picture.ndim == 2
                given_scores = torch.tensor(scores, requires_grad=True)
                result = resolve_occlusions(given_masks, given_scores, picture, rule=rule)
                assert isinstance(result, torch.Tensor)
                assert result.dtype == torch.int32
                assert result.device == tensor.device
                expected = resolve_occlusions(masks, scores, image[..., 0], rule=rule) if grey else owner
                np.testing.assert_array_equal(result.numpy(), expected)
        assert isinstance(resolve_occlusions(masks, torch.tensor(scores), chw, rule=rule), np.ndarray)
    same = resolve_occlusions(tensor, torch.tensor([0.5] * 10, dtype=torch.bfloat16), chw, rule="score")
    np.testing.assert_array_equal(same, resolve_occlusions(masks, [0.5] * 10, image, rule="score"))
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        resolve_occlusions(tensor, scores, torch.from_numpy(image))


@pytest.mark.gpu
def test_torch_on_the_gpu():
    torch = pytest.importorskip("torch")
    masks, scores, image = draw_scene(13, 10, (9, 8), "mixed")
    result = resolve_occlusions(
        torch.from_numpy(masks).cuda(), torch.from_numpy(scores).cuda(), torch.from_numpy(image).permute(2, 0, 1).cuda()
    )
    assert result.is_cuda
    np.testing.assert_array_equal(result.cpu(), resolve_occlusions(masks, scores, image))


def test_loads_no_torch():
    code = (
        "import sys, numpy as np; from banet.panoptic import *; import banet.panoptic as p;"
        "[getattr(p, n) for n in p.__all__];"
        "resolve_occlusions(np.ones((2, 3, 3), bool), [.5, .6], np.ones((3, 3, 3), np.uint8));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 2])
def test_no_pixels_at_all(count):
    owner = resolve_occlusions(np.zeros((count, 0, 4), dtype=bool), np.full(count, 0.5), np.zeros((0, 4, 3)))
    assert owner.shape == (0, 4)
