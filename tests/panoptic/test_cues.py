"""The rule "color-contour": its cues one by one, what it may not depend on, and where it abstains."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference_cues
from hypothesis import given, settings
from hypothesis import strategies as st

from banet.data.scenes.generate import make_scene
from banet.panoptic import MaskCrops, resolve_occlusions
from banet.panoptic.occlusion import points
from banet.panoptic.occlusion.cues import CLOSER_LOOK, FIRST_LOOK, View, measure_cues
from banet.panoptic.occlusion.nearby import local_color
from banet.panoptic.occlusion.rules import Pairs, appearance, color_contour

RED, BLUE, GREEN = (180, 40, 40), (40, 60, 170), (70, 150, 60)


def cues_of(masks, image, closer=True):
    """The cues of two masks, by name."""
    view = View.of(Pairs.of(MaskCrops.from_masks(np.stack(masks)), np.full(2, 0.5), image))
    values = measure_cues(view, np.arange(1), closer=closer)[:, 0]
    return dict(zip(CLOSER_LOOK if closer else FIRST_LOOK, values, strict=True))


def margins(masks, image, scores=None):
    masks = np.stack(masks)
    scores = np.full(len(masks), 0.5) if scores is None else scores
    return color_contour(Pairs.of(MaskCrops.from_masks(masks), scores, image))


def two_discs(size=80, front=0, colours=(RED, BLUE), noise=3.0, seed=0):
    """Two discs that overlap, `front` painted last."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    masks = [np.hypot(y - size / 2, x - size * at) < size * 0.25 for at in (0.38, 0.6)]
    image = np.empty((size, size, 3))
    image[:] = GREEN
    for n in (1 - front, front):
        image[masks[n]] = colours[n]
    return masks, (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


@st.composite
def small_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    masks = rng.random((2, *size)) < draw(st.sampled_from([0.3, 0.6, 0.9]))
    masks[:, rng.integers(size[0]), rng.integers(size[1])] = True
    palette = np.array([RED, BLUE, GREEN, (0, 0, 0), (255, 255, 255)])
    image = palette[rng.integers(draw(st.integers(1, 5)), size=size)]
    return masks, (image + rng.normal(0, draw(st.sampled_from([0.0, 20.0])), image.shape)).clip(0, 255).astype(np.uint8)


@given(small_pairs())
@settings(max_examples=60, deadline=None)
def test_equals_the_slow_reference(pair):
    masks, image = pair
    sets = [{(int(y), int(x)) for y, x in np.argwhere(mask)} for mask in masks]
    np.testing.assert_allclose(margins(masks, image)[0], reference_cues.margin(*sets, image), rtol=2e-3, atol=2e-3)


@given(st.integers(0, 2**32), st.integers(8, 150), st.integers(8, 150))
@settings(max_examples=60, deadline=None)
def test_exchanging_the_two_exchanges_the_sign_exactly(seed, height, width):
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, height, width), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[y : height // 2 + rng.integers(1, height // 2), x : width // 2 + rng.integers(1, width // 2)] = True
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert margins(masks, image)[0] == -margins(masks[::-1], image)[0]


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_a_pair_does_not_depend_on_the_other_objects(seed, random):
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 30, 40), dtype=bool)
    for mask in masks:
        y, x = rng.integers(0, 15), rng.integers(0, 20)
        mask[y : y + rng.integers(12, 16), x : x + rng.integers(12, 22)] = True
    image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    turn = list(range(4))
    random.shuffle(turn)
    pairs = Pairs.of(MaskCrops.from_masks(masks), np.full(4, 0.5), image)
    alone = [margins(masks[[i, j]], image)[0] for i, j in zip(pairs.i, pairs.j, strict=True)]
    np.testing.assert_array_equal(color_contour(pairs), alone)
    scores = rng.random(4)
    owner = resolve_occlusions(masks, scores, image, rule="color-contour")
    turned = resolve_occlusions(masks[turn], scores[turn], image, rule="color-contour")
    np.testing.assert_array_equal(np.append(turn, -1)[turned], owner)


@given(st.integers(0, 255), st.integers(20, 200), st.booleans())
@settings(max_examples=20, deadline=None)
def test_abstains_where_there_is_one_colour_only(grey, size, nested):
    masks = np.zeros((2, size, size), dtype=bool)
    masks[0, : size * 2 // 3] = True
    masks[1, size // 3 :, : size // 2] = True
    if nested:
        masks[1] &= masks[0]
    assert margins(masks, np.full((size, size, 3), grey, dtype=np.uint8))[0] == 0


def test_equal_masks_are_a_tie():
    masks, image = two_discs()
    assert margins([masks[0], masks[0]], image)[0] == 0


@pytest.mark.parametrize("front", [0, 1])
@pytest.mark.parametrize("size", [24, 80, 400])
@pytest.mark.parametrize("grey", [False, True])
def test_every_cue_sees_a_plain_case(front, size, grey):
    masks, image = two_discs(size, front, ((60, 60, 60), (160, 160, 160)) if grey else (RED, BLUE))
    if grey:
        image = np.repeat(image[..., :1], 3, axis=2)
    sign = 1 if front == 0 else -1
    for name, closer in (("contrast", False), ("edge", False), ("local_color", True), ("edge", True)):
        assert sign * cues_of(masks, image, closer)[name] > 0.4, name
    assert sign * margins(masks, image)[0] > 0.5


@pytest.mark.parametrize("front", [0, 1])
def test_one_colour_and_a_shadow_at_the_edge(front):
    """Two things of the same colour: only the dark line at the edge of the one in front tells."""
    masks, image = two_discs(120, front, (RED, RED), noise=4)
    y, x = np.mgrid[:120, :120]
    rim = np.abs(np.hypot(y - 60, x - 120 * (0.38, 0.6)[front]) - 31) < 2
    image[rim & ~masks[front]] = (110, 20, 20)
    assert (1 if front == 0 else -1) * cues_of(masks, image)["edge"] > 0.3
    assert (1 if front == 0 else -1) * margins(masks, image)[0] > 0


@pytest.mark.parametrize("rough", [0, 1])
def test_texture_alone_is_no_edge(rough):
    """One disc is rough, the other smooth, of the same mean: wherever a contour lies, nothing runs along it."""
    masks, image = two_discs(120, 0, ((120, 120, 120), (120, 120, 120)), noise=0)
    grain = np.random.default_rng(0).normal(0, 40, (120, 120, 1))
    image[masks[rough]] = (image + grain).clip(0, 255).astype(np.uint8)[masks[rough]]
    image[~(masks[0] | masks[1])] = 120
    assert abs(cues_of(masks, image)["edge"]) < 0.3


def test_what_lies_wholly_inside_is_in_front():
    """Were it behind, nothing of it could be seen."""
    masks, image = two_discs()
    inside = masks[0] & (np.hypot(*(np.mgrid[:80, :80] - np.array([40, 28])[:, None, None])) < 8)
    assert cues_of([inside, masks[0]], image)["own_share"] > 1
    assert margins([inside, masks[0]], image)[0] > 0


def test_a_thin_overlap_is_not_lost_in_scaling():
    image = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    masks = np.zeros((2, 600, 600), dtype=bool)
    masks[0, :, :301] = masks[1, :, 300:] = True
    assert np.isfinite(margins(masks, image)).all()


def test_large_nested_masks_take_little_memory():
    masks = np.ones((24, 200, 300), dtype=bool)
    for n, mask in enumerate(masks):
        mask[:, :n] = False
    pairs = Pairs.of(MaskCrops.from_masks(masks), np.ones(24), None)
    image = np.zeros((200 * 300, 3), dtype=np.uint8)
    tracemalloc.start()
    local_color(pairs, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < pairs.overlap.sum()  # bytes: less than one for each pixel of the overlaps


def test_very_many_regions_give_the_same_points(monkeypatch):
    rng = np.random.default_rng(4)
    masks = MaskCrops.from_masks(rng.random((5, 20, 30)) < 0.5)
    pairs = Pairs.of(masks, np.ones(5), np.zeros((20, 30, 3), dtype=np.uint8))
    expected = View.of(pairs).points
    monkeypatch.setattr(points, "_BITS", 20)
    for found, wanted in zip(View.of(pairs).points, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_narrow_image():
    image = np.random.default_rng(0).integers(0, 256, (1, 900, 3), dtype=np.uint8)
    masks = np.zeros((2, 1, 900), dtype=bool)
    masks[0, :, :600] = masks[1, :, 300:] = True
    assert np.isfinite(margins(masks, image)).all()


def test_needs_an_image():
    masks, _ = two_discs()
    with pytest.raises(ValueError, match="image is None"):
        resolve_occlusions(np.stack(masks), [0.5, 0.6], None, rule="color-contour")


def test_finds_the_order_of_scenes():
    """Full masks of drawn scenes, the pairs of which the one in front can be seen there; the paper's rule errs."""
    right, paper = [], []
    for index in range(8):
        scene = make_scene(11, index, (192, 192))
        pairs = Pairs.of(MaskCrops.from_masks(scene.masks), np.full(len(scene.masks), 0.5), scene.image)
        pairs = pairs.where(pairs.occluded(0.2))
        place = np.argsort(scene.order)
        front = np.where(place[pairs.i] < place[pairs.j], pairs.i, pairs.j)
        owners = [scene.ids[scene.masks[i] & scene.masks[j]] for i, j in zip(pairs.i, pairs.j, strict=True)]
        shown = np.array([np.mean(owner == n + 1) >= 0.5 for owner, n in zip(owners, front, strict=True)])
        pairs, truth = pairs.where(shown), np.where(front == pairs.i, 1, -1)[shown]
        right.extend(np.sign(color_contour(pairs)) == truth)
        paper.extend(np.sign(appearance(pairs)) == truth)
    assert len(right) > 40
    assert np.mean(right) >= 0.98
    assert np.mean(right) > np.mean(paper)


@pytest.mark.parametrize(
    "turn",
    [np.fliplr, np.flipud, lambda image: np.swapaxes(image, 0, 1)],
    ids=["mirrored", "upside down", "transposed"],
)
def test_an_image_may_be_turned(turn):
    """Other points of the contours are looked at then, so near ties may change, and little else."""
    same, sure = [], []
    for index in range(8):
        scene = make_scene(11, index, (192, 192))
        before = margins(scene.masks, scene.image)
        after = margins([np.ascontiguousarray(turn(mask)) for mask in scene.masks], turn(scene.image).copy())
        same.extend(np.sign(before) == np.sign(after))
        sure.extend(np.abs(before) > 1)
    assert len(same) > 80
    assert np.mean(same) >= 0.95
    assert np.all(np.array(same)[sure])
