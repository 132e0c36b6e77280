"""Masks pasted onto the image's pixels, against grid_sample pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from banet.ops import paste_masks

coordinate = st.floats(-10, 40, width=32)


def reference(probability: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolated probability at every pixel of the image, -1 outside the box: one mask at full size."""
    height, width = size
    x1, y1, x2, y2 = box.double().tolist()
    x = torch.arange(width, dtype=torch.float64).expand(height, width) + 0.5
    y = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width) + 0.5
    grid = torch.stack([(x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1], 2)[None]
    sampled = F.grid_sample(probability.double()[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    return torch.where((x >= x1) & (x < x2) & (y >= y1) & (y < y2), sampled, -1.0)


@settings(max_examples=80, deadline=None)
@given(
    corners=st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=4),
    bins=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 1000),
)
def test_equals_grid_sample(
    corners: list[tuple[float, float, float, float]], bins: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    boxes = torch.tensor(corners).reshape(-1, 2, 2).sort(1)[0].reshape(-1, 4)
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(len(boxes), *bins, generator=generator, dtype=torch.float64)
    crop_boxes, crops = paste_masks(probabilities, boxes, size)
    assert len(crop_boxes) == len(crops) == len(boxes)
    for probability, box, (left, top, right, bottom), crop in zip(probabilities, boxes, crop_boxes, crops, strict=True):
        assert 0 <= left <= right <= size[1] and 0 <= top <= bottom <= size[0]
        assert crop.shape == (bottom - top, right - left) and crop.dtype == torch.bool
        full = reference(probability, box, size)
        inside = torch.zeros(size, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        if crop.numel():
            assert torch.equal(inside, full >= 0)
        else:
            assert not (full >= 0).any()
        values = full[top:bottom, left:right]
        sure = (values - 0.5).abs() > 1e-9
        assert torch.equal(crop[sure], (values >= 0.5)[sure])


def test_constant_masks() -> None:
    probabilities = torch.stack([torch.full((28, 28), value) for value in (0.5, 0.49, 1.0)])
    boxes = torch.tensor([[2.5, 3.0, 6.5, 5.0], [0.0, 0.0, 9.0, 9.0], [-5.0, -5.0, 3.6, 2.4]])
    crop_boxes, crops = paste_masks(probabilities, boxes, (8, 10))
    assert crop_boxes == [(2, 3, 6, 5), (0, 0, 9, 8), (0, 0, 4, 2)]
    assert [int(crop.sum()) for crop in crops] == [8, 0, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_and_autocast(dtype: torch.dtype) -> None:
    probabilities = torch.rand(3, 28, 28).to(dtype)
    boxes = torch.tensor([[2.5, 3.0, 60.5, 55.0], [0.0, 0.0, 9.0, 9.0], [70.2, 30.0, 93.6, 52.4]])
    expected = paste_masks(probabilities.double(), boxes, (64, 96))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        crop_boxes, crops = paste_masks(probabilities, boxes, (64, 96))
    assert crop_boxes == expected[0]
    for crop, other in zip(crops, expected[1], strict=True):
        assert (crop != other).float().mean() < 1e-3


def test_nothing_and_no_size() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (8, 9)) == ([], [])
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [50.0, 50.0, 60.0, 60.0], [4.0, 4.0, 2.0, 2.0]])
    assert [crop.numel() for crop in paste_masks(torch.ones(3, 28, 28), boxes, (8, 9))[1]] == [0, 0, 0]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        paste_masks(torch.zeros(2, 28, 28), torch.zeros(1, 4), (8, 9))
    with pytest.raises(ValueError, match="expected probabilities"):
        paste_masks(torch.zeros(1, 1, 28, 28), torch.zeros(1, 4), (8, 9))
    with pytest.raises(ValueError, match="NaN or infinite"):
        paste_masks(torch.zeros(1, 28, 28), torch.tensor([[0.0, 0.0, math.nan, 1.0]]), (8, 9))
