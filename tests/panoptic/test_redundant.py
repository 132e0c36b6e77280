"""Duplicates and merged blobs: what goes, what stays, and that it is asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banet.panoptic import find_redundant, fuse_panoptic, make_disjoint
from banet.panoptic.occlusion.redundant import Removal

SIZE = (40, 60)


def rectangles(*boxes):
    masks = np.zeros((len(boxes), *SIZE), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return masks


LEFT, RIGHT = (5, 5, 25, 35), (25, 5, 45, 35)


def test_an_object_found_twice_goes_whatever_its_class():
    masks = rectangles(LEFT, (6, 5, 25, 35), RIGHT)
    assert find_redundant(masks, [0.7, 0.9, 0.8]) == [Removal(0, "duplicate", (1,))]
    assert find_redundant(masks[::-1], [0.8, 0.9, 0.7]) == [Removal(2, "duplicate", (1,))]


def test_one_mask_over_two_better_ones_goes():
    masks = rectangles(LEFT, RIGHT, (4, 4, 46, 36))
    assert find_redundant(masks, [0.9, 0.8, 0.7]) == [Removal(2, "blob", (0, 1))]
    assert str(Removal(2, "blob", (0, 1))) == "2: one mask over 0 and 1"


def test_a_blob_that_scores_better_than_its_parts_stays():
    assert find_redundant(rectangles(LEFT, RIGHT, (4, 4, 46, 36)), [0.9, 0.6, 0.7]) == []


@pytest.mark.parametrize(
    "boxes",
    [
        [(20, 10, 24, 30), (5, 5, 45, 35)],  # a tie on a person
        [(6, 28, 14, 35), (36, 28, 44, 35), (5, 5, 45, 35)],  # two wheels of a car
        [LEFT, (5, 5, 45, 35)],  # half of it is another object's
        [(0, 0, 22, 40), (22, 0, 60, 40), LEFT],  # a small thing over the border of two large ones
    ],
)
def test_parts_and_wholes_stay(boxes):
    masks = rectangles(*boxes)
    assert find_redundant(masks, np.linspace(0.9, 0.6, len(boxes))) == []


@given(st.integers(0, 2**32), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_does_not_depend_on_the_order_and_what_stays_is_not_redundant(seed, count):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 30, (count, 2, 2)), axis=1)
    masks = rectangles(*[(x1, y1, x2 + 2, y2 + 2) for (x1, y1), (x2, y2) in corners.tolist()])
    scores, turn = rng.permutation(count) / count, rng.permutation(count)
    gone = {each.index for each in find_redundant(masks, scores)}
    turned = {int(turn[each.index]) for each in find_redundant(masks[turn], scores[turn])}
    assert gone == turned
    left = [n for n in range(count) if n not in gone]
    assert find_redundant(masks[left], scores[left]) == []


def test_is_on_for_results_of_others_and_off_in_fusion():
    masks = rectangles(LEFT, (5, 5, 20, 35), RIGHT, (4, 4, 46, 36))
    found = {"masks": masks, "scores": np.array([0.9, 0.8, 0.85, 0.7]), "labels": np.array([1, 2, 1, 3])}
    rule = {"rule": "score", "removal_threshold": 1.0}
    assert make_disjoint(found, **rule)["labels"].tolist() == [1, 1]
    assert make_disjoint(found, clean=False, **rule)["labels"].tolist() == [1, 1, 3]
    categories = [{"id": n, "name": f"{n}", "isthing": 1} for n in (1, 2, 3)]
    args = (masks, found["scores"], found["labels"], np.zeros(SIZE, np.int64), None)
    kept = [len(fuse_panoptic(*args, categories=categories, clean=clean, **rule).segments) for clean in (False, True)]
    assert kept == [3, 2]


def test_bad_input():
    with pytest.raises(ValueError, match="scores must have shape"):
        find_redundant(rectangles(LEFT), [0.5, 0.6])
