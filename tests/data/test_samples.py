"""Targets: against a slow reference, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from banet.data.samples import AnnotatedImage, Target, collate, make_target, sample_of
from banet.data.scenes.generate import Scenes
from banet.errors import InputError
from banet.panoptic.categories import VOID, Categories
from banet.panoptic.segments import Segment

CATEGORIES = Categories.of(
    [
        {"id": 50, "name": "stuff b", "isthing": 0},
        {"id": 9, "name": "thing b", "isthing": 1},
        {"id": 4, "name": "stuff a", "isthing": 0},
        {"id": 7, "name": "thing a", "isthing": 1},
    ]
)


def Seg(identity: int, category_id: int, iscrowd: bool = False) -> Segment:
    known = category_id in CATEGORIES and CATEGORIES.isthing(category_id)
    return Segment(identity, category_id, known, iscrowd=iscrowd)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_target_against_a_slow_reference(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    identities = data.draw(st.lists(st.integers(1, 2**24 - 1), min_size=1, max_size=6, unique=True))
    segments = [Seg(i, data.draw(st.sampled_from([4, 7, 9, 50])), data.draw(st.booleans())) for i in identities]
    cells = data.draw(st.lists(st.sampled_from([0, *identities]), min_size=height * width, max_size=height * width))
    ids = np.array(cells, np.int32).reshape(height, width)
    target = make_target(ids, segments, CATEGORIES, 3, "x.png")
    kept = [s for s in segments if s.category_id in (7, 9) and not s.iscrowd and (ids == s.id).any()]
    assert target.labels.tolist() == [(7, 9).index(s.category_id) for s in kept]
    for row, segment in enumerate(kept):
        y, x = np.nonzero(ids == segment.id)
        assert target.boxes[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert np.array_equal(target.masks[row].numpy(), ids == segment.id)
    assert target.boxes.shape == (len(kept), 4)
    assert target.masks.shape == (len(kept), height, width)
    by_id = {s.id: s for s in segments}
    for y in range(height):
        for x in range(width):
            segment = by_id.get(int(ids[y, x]))
            expected = VOID if segment is None else (7, 9, 4, 50).index(segment.category_id)
            assert target.semantic[y, x] == expected
            assert target.instances[y, x] == (kept.index(segment) if segment in kept else -1)
    assert (target.boxes.dtype, target.labels.dtype, target.instances.dtype, target.semantic.dtype) == (
        torch.float32,
        torch.int64,
        torch.int32,
        torch.int64,
    )
    assert (target.image_id, target.name) == (3, "x.png")


def test_slivers_keep_their_class_and_are_no_boxes() -> None:
    ids = np.array([[-1, 1, 2], [0, -3, -3]], np.int32)
    target = make_target(ids, [Seg(1, 7), Seg(2, 9), Seg(3, 9)], CATEGORIES, 1, "x")
    assert target.semantic.tolist() == [[0, 0, 1], [-1, 1, 1]]
    assert target.instances.tolist() == [[-1, 0, 1], [-1, -1, -1]]
    assert target.labels.tolist() == [0, 1] and target.boxes[0].tolist() == [1, 0, 2, 1]
    with pytest.raises(InputError, match="does not list"):
        make_target(np.array([[-5]], np.int32), [Seg(1, 7)], CATEGORIES, 1, "x")


def test_crowd_keeps_its_class_and_is_no_box() -> None:
    ids = np.array([[1, 1, 2], [0, 3, 3]], np.int32)
    target = make_target(ids, [Seg(1, 7, True), Seg(2, 9), Seg(3, 4)], CATEGORIES, 1, "x")
    assert target.labels.tolist() == [1]
    assert target.boxes.tolist() == [[2, 0, 3, 1]]
    assert target.instances.tolist() == [[-1, -1, 0], [-1, -1, -1]]
    assert target.semantic.tolist() == [[0, 0, 1], [VOID, 2, 2]]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([Seg(1, 7)], r"photo\.jpg: pixels have segment ids .* \[2\]"),
        ([Seg(1, 7), Seg(2, 7), Seg(2, 4)], r"photo\.jpg: segment id 2: it occurs twice"),
        ([Seg(1, 7), Seg(2, 8)], r"photo\.jpg: segment 2: unknown category_id 8"),
        ([Seg(0, 7), Seg(1, 7), Seg(2, 7)], r"photo\.jpg: segment id 0: 0 is void"),
    ],
)
def test_bad_segments(segments: list[Seg], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_target(np.array([[0, 1, 2]]), segments, CATEGORIES, 1, "photo.jpg")
    assert "\n" not in str(caught.value)


def test_bad_shape() -> None:
    with pytest.raises(ValueError, match=r"\(H,W\)"):
        make_target(np.zeros((2, 2, 3), np.int32), [], CATEGORIES, 1, "x")


def test_read_only_arrays_are_copied() -> None:
    image, ids = np.zeros((4, 5, 3), np.uint8), np.ones((4, 5), np.int32)
    image.setflags(write=False)
    ids.setflags(write=False)
    sample = sample_of(AnnotatedImage(image, ids, [Seg(1, 7)]), CATEGORIES, 1, "x")
    sample.image.fill_(9)
    sample.target.instances.fill_(9)
    assert image.max() == 0
    assert ids.max() == 1


def test_samples_travel_through_a_loader_as_lists() -> None:
    scenes = Scenes(1, 5, (48, 64))
    loader = DataLoader(scenes, batch_size=2, num_workers=1, collate_fn=collate)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for index, sample in enumerate(s for batch in batches for s in batch):
        assert isinstance(sample.target, Target)
        assert torch.equal(sample.image, scenes[index].image)
        assert type(sample.image) is torch.Tensor
    moved = batches[0][0].to("cpu")
    assert torch.equal(moved.target.semantic, batches[0][0].target.semantic)
