"""Boxes beside torchvision's coder, matcher and suppression, and what the host asks a device."""

from __future__ import annotations

import pytest
import torch
from emulated import DEVICE, DeviceTensor, emulation
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, remove_small_boxes

from banet.ops import boxes as ops
from banet.ops.host import to_host, true_rows


def random_boxes(count: int, generator: torch.Generator, side: float = 60) -> Tensor:
    corner, size = torch.rand(2, count, 2, generator=generator) * side
    return torch.cat([corner, corner + size], 1)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_differences_equal_torchvisions_to_the_bit(weights: tuple[float, float, float, float]) -> None:
    generator, coder = torch.Generator().manual_seed(0), BoxCoder(weights)
    boxes, wanted = random_boxes(200, generator), random_boxes(200, generator)
    deltas = ops.encode_boxes(wanted, boxes, weights)
    assert torch.equal(deltas, coder.encode_single(wanted, boxes))
    torch.testing.assert_close(ops.decode_boxes(deltas, boxes, weights), wanted, rtol=1e-4, atol=1e-4)
    wild = torch.randn(200, 3, 4, generator=generator) * 30  # beyond the largest growth
    expected = coder.decode_single(wild.flatten(1), boxes).unflatten(1, (3, 4))
    assert torch.equal(ops.decode_boxes(wild, boxes[:, None], weights), expected)


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(1, 60), st.booleans(), st.booleans())
def test_matches_equal_torchvisions(seed: int, truths: int, count: int, keep_best: bool, coarse: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth, boxes = random_boxes(truths, generator), random_boxes(count, generator)
    ious = box_iou(truth, boxes)
    if coarse:
        ious = (ious * 5).round() / 5  # so that several boxes have the largest IoU
    part = torch.rand(count, generator=generator) < 0.7
    low, high = (0.3, 0.7) if keep_best else (0.5, 0.5)
    for taking_part in (None, part):
        inside = torch.ones(count, dtype=torch.bool) if taking_part is None else taking_part
        expected = torch.full((count,), ops.BETWEEN)
        if truths and inside.any():
            expected[inside] = Matcher(high, low, allow_low_quality_matches=keep_best)(ious[:, inside])
        elif not truths:
            expected[inside] = ops.BELOW
        found = ops.match_boxes(ious, low, high, keep_best=keep_best, taking_part=taking_part)
        assert torch.equal(found, expected)


@given(st.integers(0, 10**6), st.lists(st.integers(0, 30), max_size=5))
def test_rows_of_several_masks(seed: int, lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(length, generator=generator) < 0.4 for length in lengths]
    for mask, rows in zip(masks, true_rows(masks), strict=True):
        assert torch.equal(rows, mask.nonzero()[:, 0])


def test_large_boxes_and_arrays() -> None:
    boxes = random_boxes(50, torch.Generator().manual_seed(1), side=2e-3)
    assert torch.equal(true_rows([ops.large_enough(boxes)])[0], remove_small_boxes(boxes, 1e-3))
    assert [array.tolist() for array in to_host([boxes[:1].double(), boxes[:0]])] == [boxes[:1].double().tolist(), []]
    assert to_host([]) == []


@given(st.integers(0, 10**6), st.integers(0, 80))
def test_suppression_elsewhere_than_on_cpus_keeps_what_it_keeps_there(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = random_boxes(count, generator), torch.rand(count, generator=generator)
    groups = torch.randint(0, 4, (count,), generator=generator)
    expected = batched_nms(boxes, scores, groups, 0.5)
    assert torch.equal(ops.grouped_nms(boxes, scores, groups, 0.5), expected)
    with emulation():
        found = ops.grouped_nms(boxes.to(DEVICE), scores.to(DEVICE), groups.to(DEVICE), 0.5)
    assert isinstance(found, DeviceTensor) and torch.equal(found.inner, expected)
