"""COCO's coded masks against pycocotools, or against faster-coco-eval where that is missing."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from reference_polygons import decode_polygons as decode_polygons_slowly

from banet.panoptic.coco import runs
from banet.panoptic.coco.rle import (
    decode_crop,
    decode_polygons,
    decode_rle,
    decode_segmentation,
    encode_rle,
    why_empty,
)

try:
    import pycocotools.mask as coco
except ImportError:
    coco = pytest.importorskip("faster_coco_eval.core.mask")

masks = arrays.arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))


def uncompressed(mask):
    flat = np.concatenate([[False], mask.T.ravel(), [True]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return [*counts, mask.size - sum(counts)] if sum(counts) < mask.size else counts


@settings(max_examples=300)
@given(masks)
def test_run_lengths(mask):
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(decode_rle(coded["counts"], mask.shape), mask)
    np.testing.assert_array_equal(decode_rle(coded["counts"].decode(), mask.shape), mask)
    assert encode_rle(mask) == {"size": list(mask.shape), "counts": coded["counts"].decode()}
    plain = {"size": list(mask.shape), "counts": uncompressed(mask)}
    np.testing.assert_array_equal(decode_segmentation(plain, mask.shape), mask)


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.5, 1.0])
def test_run_lengths_of_large_masks(share):
    mask = np.random.default_rng(0).random((900, 1300)) < share
    coded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(decode_rle(coded["counts"], mask.shape), mask)
    assert encode_rle(mask)["counts"] == coded["counts"].decode()


corner = st.floats(-8, 40, allow_nan=False) | st.integers(-8, 40)
polygon = st.lists(corner, min_size=3, max_size=9).flatmap(
    lambda half: st.lists(corner, min_size=len(half), max_size=len(half)).map(
        lambda other: [v for pair in zip(half, other, strict=True) for v in pair]
    )
)


@settings(max_examples=400)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(1, 32), st.integers(1, 32))
@example([[2, 2, 2, 2, 8, 2, 8, 8, 2, 8]], 12, 10)
@example([[-5, -5, 50, -5, 50, 50, -5, 50]], 12, 10)
def test_polygons(polygons, height, width):
    wanted = coco.decode(coco.merge(coco.frPyObjects([[float(v) for v in p] for p in polygons], height, width)))
    np.testing.assert_array_equal(decode_polygons(polygons, (height, width)), wanted.astype(bool))


far = (
    st.integers(-300, 400) | st.floats(-300, 400, allow_nan=False) | st.sampled_from([0, 29.5, 30, 49.7, 50, 1e4, -1e4])
)


@settings(max_examples=400)
@given(
    st.lists(st.lists(st.tuples(far, far), min_size=3, max_size=12), min_size=1, max_size=3),
    st.sampled_from([(1, 1), (30, 50), (50, 30), (200, 7)]),
)
def test_polygons_are_what_the_slow_reference_makes_of_them(outlines, size):
    polygons = [[v for corner in outline for v in corner] for outline in outlines]
    wanted = decode_polygons_slowly(polygons, size)
    np.testing.assert_array_equal(decode_polygons(polygons, size), wanted)
    assert_crop(decode_crop(polygons, size), wanted)


def assert_crop(crop, wanted):
    """The crop is the mask, and its box is tight."""
    np.testing.assert_array_equal(crop.paste(wanted.shape), wanted)
    if wanted.any():
        rows, columns = np.flatnonzero(wanted.any(1)), np.flatnonzero(wanted.any(0))
        assert crop.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    else:
        assert crop.box == (0, 0, 0, 0) and crop.pixels.shape == (0, 0)


@settings(max_examples=200)
@given(masks)
def test_run_lengths_are_cut_to_their_box(mask):
    assert_crop(decode_crop(encode_rle(mask), mask.shape), mask)


def test_polygons_of_real_images():
    file = Path(os.environ.get("BANET_TEST_DATA", ""), "coco_instances", "instances.json")
    if not file.is_file():
        pytest.skip("BANET_TEST_DATA/coco_instances is absent")
    content = json.loads(file.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    outlined = [a for a in content["annotations"] if isinstance(a["segmentation"], list)]
    for annotation in outlined[::7]:
        size = sizes[annotation["image_id"]]
        coded = coco.frPyObjects(annotation["segmentation"], *size)
        np.testing.assert_array_equal(decode_polygons(annotation["segmentation"], size), coco.decode(coco.merge(coded)))


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ([], "no outline"),
        ([[]], "no outline"),
        ([[1, 2]], "too few corners"),
        ([[1, 2, 3, 4], []], "too few corners"),
        ([[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "smaller than a pixel"),
        ([[1, 1, 1, 4, 1, 2]], "smaller than a pixel"),
        ([[1, 2], [1.1, 1.1, 1.2, 1.1, 1.2, 1.2]], "smaller than a pixel"),
        ([[-9, 1, -2, 1, -2, 3]], "outside of the image"),
        ([[1, 4, 3, 4, 3, 9]], "outside of the image"),
        ([[5, 0, 9, 0, 9, 2], [0, -1, 3, -1, 3, 0]], "outside of the image"),
        ({"size": [4, 5], "counts": [20]}, "empty mask"),
        ({"size": [4, 5], "counts": [10, 0, 10]}, "empty mask"),
    ],
)
def test_objects_without_a_pixel(segmentation, why):
    assert not decode_segmentation(segmentation, (4, 5)).any()
    assert why_empty(segmentation, (4, 5)) == why


def test_a_piece_without_a_pixel_is_passed_over():
    square = [1, 1, 3, 1, 3, 3, 1, 3]
    np.testing.assert_array_equal(decode_polygons([[], [2, 2], square], (4, 5)), decode_polygons([square], (4, 5)))


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ("text", "must be run lengths or a list of polygons, not 'text'"),
        (3, "must be run lengths or a list of polygons"),
        ({"counts": "a"}, "'size' is missing"),
        ({"size": [4, 5]}, "'counts' is missing"),
        ({"size": [5, 4], "counts": [20]}, r"size must be \[4, 5\], height and width of the image, not \[5, 4\]"),
        ({"size": 4, "counts": [20]}, "size must be"),
        ({"size": [4, 5], "counts": 20}, "counts must be text or a list of integers"),
        ({"size": [4, 5], "counts": [20.0]}, "counts must be text or a list of integers"),
        ({"size": [4, 5], "counts": [True, 19]}, "counts must be text or a list of integers"),
        ({"size": [4, 5], "counts": [10**400]}, "counts must be text or a list of integers"),
        ({"size": [4, 5], "counts": [19]}, "counts add up to 19 pixels, not 4 x 5"),
        ({"size": [4, 5], "counts": []}, "counts add up to 0 pixels"),
        ({"size": [4, 5], "counts": ""}, "counts add up to 0 pixels"),
        ({"size": [4, 5], "counts": [30, -10]}, "negative run"),
        ({"size": [4, 5], "counts": "O"}, "negative run"),
        ({"size": [4, 5], "counts": "4!"}, "a character that compressed run lengths do not have"),
        ({"size": [4, 5], "counts": "ä"}, "a character that compressed run lengths do not have"),
        ({"size": [4, 5], "counts": "oo"}, "ends within a run"),
        ({"size": [4, 5], "counts": "ooooooooooo0"}, "too long"),
        ([[1, 2, 3]], "polygon 0 must be a list of numbers"),
        ([[True, 2, 3, 4, 5, 6]], "polygon 0 must be a list of numbers"),
        ([[10**400, 2, 3, 4, 5, 6]], "polygon 0 has a corner"),
        ([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]], "polygon 1 must be a list of numbers"),
        ([1, 2, 3, 4, 5, 6], "polygon 0 must be a list of numbers"),
        ([[1, 2, 3, 4, 5, "6"]], "polygon 0 must be a list of numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "polygon 0 has a corner"),
        ([[1, 2, 3, 4, 5, 1e9]], "polygon 0 has a corner"),
    ],
)
def test_damage_is_one_line(segmentation, said):
    with pytest.raises(ValueError, match=said) as fault:
        decode_segmentation(segmentation, (4, 5))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("mask", [np.zeros((2, 3), np.uint8), np.zeros((1, 2, 3), bool)])
def test_only_masks_are_encoded(mask):
    with pytest.raises(ValueError, match=r"a mask must be bool of shape \(H, W\)"):
        encode_rle(mask)


@given(st.text(alphabet=[chr(c) for c in range(48, 112)], max_size=40))
def test_no_text_does_harm(text):
    with contextlib.suppress(ValueError):
        assert decode_rle(text, (4, 5)).shape == (4, 5)


def test_polygons_of_one_object_are_bounded_and_taken_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    polygons = [[float(v) for v in rng.uniform(0, 40, 8)] for _ in range(30)]
    whole = decode_crop(polygons, (40, 40))
    monkeypatch.setattr(runs, "_TOGETHER", 100)
    part = decode_crop(polygons, (40, 40))
    assert part.box == whole.box and np.array_equal(part.pixels, whole.pixels)
    assert part.work == whole.work == sum(decode_crop([one], (40, 40)).work for one in polygons) > part.pixels.size
    with pytest.raises(ValueError, match="more than 10,000 polygons"):
        decode_crop([[0, 0, 1, 0, 1, 1]] * 10_001, (40, 40))
    with pytest.raises(ValueError, match=r"outline of more than 1,048,576 pixels, with those before"):
        decode_crop([[0, 0, 60_000, 0, 60_000, 60_000]] * 20, (40, 40))
