"""RoIAlign and the pooler over pyramid levels."""

from __future__ import annotations

import pytest
import torch
import torchvision.ops

from banet.ops import PyramidRoIAlign, box_levels, roi_align


def pyramid(images: int = 2, channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, channels, 128 >> i, 160 >> i, generator=generator) for i in range(4)]


def square(side: float, x: float = 5.0, y: float = 7.0) -> list[float]:
    return [x, y, x + side, y + side]


def test_levels_by_size() -> None:
    sides = [0.0, 1.0, 55.9, 56.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 9999.0]
    levels = box_levels(torch.tensor([square(side) for side in sides], dtype=torch.float64))
    assert levels.dtype == torch.int64
    assert levels.tolist() == [2, 2, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert box_levels(torch.tensor([square(64.0, 0, 0)]), canonical_size=64).tolist() == [4]
    assert box_levels(torch.tensor([square(1.0), square(9999.0)]), lowest=3, highest=4).tolist() == [3, 4]
    assert box_levels(torch.zeros(0, 4)).shape == (0,)
    assert box_levels(torch.tensor([[9.0, 9.0, 3.0, 3.0]])).tolist() == [2]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_box_that_is_none_keeps_its_row(value: float) -> None:
    maps = [torch.ones(1, 2, 64 // stride, 64 // stride) for stride in (4, 8, 16, 32)]
    boxes = torch.tensor([[0.0, 0, 32, 32], [0, 0, value, 8], [8, 8, 40, 40]])
    pooled = PyramidRoIAlign(2)(maps, [boxes])
    assert pooled.shape == (3, 2, 2, 2)
    assert (pooled[[0, 2]] == 1).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torchvision_aligned_with_two_samples_a_side(layout: torch.memory_format, dtype: torch.dtype) -> None:
    """Inside, over each border, off the map, without size, wrong way round."""
    inside = [square(33.0), square(20.0), square(0.0), [40.0, 30.0, 20.0, 10.0], [0.0, 0.0, 640.0, 512.0]]
    across = [[-30.0, 5.0, 9.0, 60.0], [600.0, 400.0, 700.0, 550.0], [-6.0, -6.0, 0.0, 0.0], [637.0, 0.0, 645.0, 9.0]]
    away = [[-90.0, -90.0, -50.0, -50.0], [900.0, 9.0, 950.0, 50.0], [1e9, 1e9, 2e9, 2e9]]
    boxes = [torch.tensor(inside + away, dtype=dtype), torch.tensor(across, dtype=dtype)]
    ours = pyramid()[0].to(dtype, memory_format=layout).requires_grad_()
    theirs = ours.detach().requires_grad_()
    result = roi_align(ours, boxes, (5, 7), 0.25)
    expected = torchvision.ops.roi_align(theirs, boxes, (5, 7), 0.25, sampling_ratio=2, aligned=True)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance)
    toward = torch.randn_like(expected)
    result.backward(toward)
    expected.backward(toward)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)


def test_a_box_that_is_not_finite_gives_no_error() -> None:
    boxes = [torch.tensor([[float("nan"), 0.0, 9.0, 9.0], [0.0, 0.0, float("inf"), 9.0]]), torch.zeros(0, 4)]
    assert roi_align(pyramid()[0], boxes, 7, 0.25).shape == (2, 3, 7, 7)


def test_a_map_at_the_finest_stride_joins_the_crops_of_all_levels() -> None:
    features, finest = pyramid(), torch.randn(2, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    boxes = [torch.tensor([square(30.0), square(300.0)]), torch.tensor([square(130.0)])]
    pooler = PyramidRoIAlign(7)
    joined = pooler([features[0] + finest, *features[1:]], boxes, finest)
    torch.testing.assert_close(joined, pooler(features, boxes) + roi_align(finest, boxes, 7, 0.25))


def test_half_precision_does_not_move_boxes() -> None:
    ramp = torch.arange(160.0).expand(1, 1, 128, 160)
    boxes = [torch.tensor([[401.5, 100.0, 403.5, 140.0]])]
    result = roi_align(ramp.bfloat16(), boxes, 1, 0.25)
    assert result.dtype == torch.bfloat16
    assert abs(float(result) - 100.0) <= 0.25


def test_each_box_on_its_level_in_its_place() -> None:
    features = pyramid()
    sides = [300.0, 20.0, 130.0, 600.0, 25.0, 230.0]
    boxes = [torch.tensor([square(side) for side in sides[:4]]), torch.tensor([square(side) for side in sides[4:]])]
    result = PyramidRoIAlign((5, 7))(features, boxes)
    assert result.shape == (6, 3, 5, 7)
    levels = [4, 2, 3, 5, 2, 4]
    for k, (side, level) in enumerate(zip(sides, levels, strict=True)):
        box = torch.tensor([square(side)])
        image = features[level - 2][[0 if k < 4 else 1]]
        torch.testing.assert_close(result[[k]], roi_align(image, [box], (5, 7), 1 / (1 << level)))


def test_maps_of_another_size_are_scaled_by_stride() -> None:
    pooler = PyramidRoIAlign(7)
    boxes = [torch.tensor([square(40.0)])]
    first = pooler(pyramid(1), boxes)
    other = pooler([f[..., : f.shape[2] // 2, : f.shape[3] // 2] for f in pyramid(1)], boxes)
    torch.testing.assert_close(first, other)


@pytest.mark.parametrize("empty", [[], [0], [0, 1]])
def test_images_without_boxes(empty: list[int]) -> None:
    boxes = [torch.zeros(0, 4) if i in empty else torch.tensor([square(30.0)]) for i in range(2)]
    features = [f.requires_grad_() for f in pyramid()]
    result = PyramidRoIAlign(7)(features, boxes)
    assert result.shape == (2 - len(empty), 3, 7, 7)
    result.sum().backward()
    assert all(f.grad is not None for f in features)


def test_keeps_dtype_under_autocast() -> None:
    boxes = [torch.tensor([square(30.0), square(300.0)]), torch.zeros(0, 4)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert PyramidRoIAlign(7)(pyramid(), boxes).dtype == torch.float32
        assert PyramidRoIAlign(7)([f.bfloat16() for f in pyramid()], boxes).dtype == torch.bfloat16


def test_gradcheck() -> None:
    features = [torch.randn(1, 1, 16 >> i, 16 >> i, dtype=torch.float64, requires_grad=True) for i in range(2)]
    boxes = [torch.tensor([square(20.0), square(60.0, 0.0, 0.0)], dtype=torch.float64)]
    pooler = PyramidRoIAlign(2, (4, 8), canonical_size=80)
    assert torch.autograd.gradcheck(lambda *f: pooler(f, boxes), features)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="powers of two"):
        PyramidRoIAlign(7, (4, 12))
    with pytest.raises(ValueError, match="powers of two"):
        PyramidRoIAlign(7, ())
    with pytest.raises(ValueError, match="twice"):
        PyramidRoIAlign(7, (4, 16))
    with pytest.raises(ValueError, match="4 feature maps"):
        PyramidRoIAlign(7)(pyramid()[:2], [torch.zeros(0, 4)] * 2)
    with pytest.raises(ValueError, match="2 images"):
        PyramidRoIAlign(7)(pyramid(), [torch.zeros(0, 4)])
    with pytest.raises(ValueError, match="2 images"):
        roi_align(pyramid()[0], [torch.zeros(0, 4)], 7)


def test_compile() -> None:
    """One graph for maps and boxes of any number. "aot_eager" needs no compiler on the machine."""
    torch.compiler.reset()
    compiled = torch.compile(roi_align, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width, count in ((12, 17, 3), (20, 9, 6)):
        features = torch.randn(1, 5, height, width, dtype=torch.float64, requires_grad=True)
        corner = 8 * torch.rand(count, 2, dtype=torch.float64)
        boxes = [torch.cat([corner, corner + 1 + 40 * torch.rand(count, 2, dtype=torch.float64)], dim=1)]
        result, expected = compiled(features, boxes, 4, 0.25), roi_align(features, boxes, 4, 0.25)
        torch.testing.assert_close(result, expected)
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(result, features, gradient), torch.autograd.grad(expected, features, gradient)
        )
