"""RoIInlay against a slow reference written pixel by pixel from the paper's equations 2 and 3."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from banet.ops import RoIInlay, roi_inlay, roi_upsample


def reference(
    features: Tensor, boxes: Sequence[Tensor], size: tuple[int, int], scale: float = 1.0, aligned: bool = True
) -> Tensor:
    """Loop over boxes and pixels: find the four samples around the pixel, weigh them, average over the boxes."""
    channels, bins_y, bins_x = features.shape[1:]
    height, width = size
    result = torch.zeros(len(boxes), channels, height, width, dtype=torch.float64)
    k = 0
    for image, image_boxes in enumerate(boxes):
        count = torch.zeros(height, width)
        for box in image_boxes:
            x1, y1, x2, y2 = (box.double() * scale - (0.5 if aligned else 0.0)).tolist()
            for b in range(height):
                for a in range(width):
                    if not (x1 <= a < x2 and y1 <= b < y2):
                        continue
                    bin_w, bin_h = (x2 - x1) / bins_x, (y2 - y1) / bins_y
                    xs = [x1 + (j + 0.5) * bin_w for j in range(bins_x)]
                    ys = [y1 + (i + 0.5) * bin_h for i in range(bins_y)]
                    for i, weight_y in neighbours(b, ys):
                        for j, weight_x in neighbours(a, xs):
                            result[image, :, b, a] += weight_y * weight_x * features[k, :, i, j].double()
                    count[b, a] += 1
            k += 1
        result[image] /= count.clamp(min=1)
    return result


def neighbours(pixel: int, samples: list[float]) -> list[tuple[int, float]]:
    """The two samples around a pixel with their weights, or the outermost one."""
    if pixel <= samples[0]:
        return [(0, 1.0)]
    if pixel >= samples[-1]:
        return [(len(samples) - 1, 1.0)]
    upper = next(index for index, sample in enumerate(samples) if sample > pixel)
    weight = (pixel - samples[upper - 1]) / (samples[upper] - samples[upper - 1])
    return [(upper - 1, 1 - weight), (upper, weight)]


def random_boxes(count: int, size: tuple[int, int], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of many sizes around the map, some of them partly or wholly off it, some smaller than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    extent = torch.tensor([width, height], dtype=torch.float64)
    centre = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3) * extent
    half = torch.exp(torch.rand(count, 2, generator=generator, dtype=torch.float64) * 5 - 4) * extent / 2
    return torch.cat([centre - half, centre + half], 1).to(dtype)


def case(
    sizes: Sequence[int] = (3, 0, 4), bins: tuple[int, int] = (4, 6), size: tuple[int, int] = (13, 17), seed: int = 0
) -> tuple[Tensor, list[Tensor], tuple[int, int]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sum(sizes), 3, *bins, generator=generator, dtype=torch.float64)
    return features, [random_boxes(n, size, seed + i) for i, n in enumerate(sizes)], size


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("bins", [(1, 1), (1, 5), (2, 1), (2, 2), (7, 7), (3, 14)])
@pytest.mark.parametrize("size", [(13, 17), (1, 9), (16, 1), (11, 8)])
def test_equals_reference(aligned: bool, bins: tuple[int, int], size: tuple[int, int]) -> None:
    features, boxes, _ = case(bins=bins, size=size)
    boxes = [b * 4 for b in boxes]
    result = roi_inlay(features, boxes, size, 0.25, aligned)
    torch.testing.assert_close(result, reference(features, boxes, size, 0.25, aligned), atol=1e-10, rtol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    bins=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 10**6),
    whole=st.booleans(),
)
def test_equals_reference_on_any_boxes(
    sizes: list[int], bins: tuple[int, int], size: tuple[int, int], seed: int, whole: bool
) -> None:
    features, boxes, _ = case(sizes, bins, size, seed)
    if whole:  # whole numbers put pixels exactly on the border of boxes and on samples
        boxes = [(b * 2).round() / 2 for b in boxes]
    result = roi_inlay(features, boxes, size)
    torch.testing.assert_close(result, reference(features, boxes, size), atol=1e-9, rtol=1e-9)


def test_equals_grid_sample_in_one_box() -> None:
    features = torch.randn(1, 5, 14, 14, dtype=torch.float64)
    x1, y1, x2, y2 = 3.3, 2.6, 40.2, 28.9
    result = roi_inlay(features, [torch.tensor([[x1, y1, x2, y2]], dtype=torch.float64)], (35, 50))
    a = torch.arange(50, dtype=torch.float64) + 0.5
    b = torch.arange(35, dtype=torch.float64) + 0.5
    grid_x, grid_y = (a - x1) / (x2 - x1) * 2 - 1, (b - y1) / (y2 - y1) * 2 - 1
    grid = torch.stack([grid_x.expand(35, 50), grid_y[:, None].expand(35, 50)], 2)[None]
    sampled = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
    inside = ((a >= x1) & (a < x2)) & ((b >= y1) & (b < y2))[:, None]
    torch.testing.assert_close(result, sampled * inside)


def test_float32() -> None:
    features, boxes, size = case()
    result = roi_inlay(features.float(), [b.float() for b in boxes], size)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result.double(), reference(features.float(), [b.float() for b in boxes], size), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_boxes_exact(dtype: torch.dtype) -> None:
    # 301.5 is no bfloat16 number: a box that went through one would move.
    boxes = [torch.tensor([[301.5, 3.0, 330.25, 9.0]])]
    features = torch.randn(1, 3, 4, 4).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = roi_inlay(features, boxes, (12, 340))
    assert result.dtype == dtype
    expected = reference(features.detach(), boxes, (12, 340))
    torch.testing.assert_close(result.double(), expected, atol=0.02, rtol=0.01)
    assert torch.equal(result[0, 0] != 0, expected[0, 0] != 0)
    result.sum().backward()
    assert features.grad is not None and features.grad.dtype == dtype


def test_autocast_leaves_float32_alone() -> None:
    features, boxes, size = case()
    features = features.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = roi_inlay(features, boxes, size)
    assert torch.equal(result, roi_inlay(features, boxes, size))


def test_strides_do_not_matter() -> None:
    features, boxes, size = case()
    expected = roi_inlay(features, boxes, size)
    last = features.contiguous(memory_format=torch.channels_last)
    strided = torch.stack([features, -features], 4)[..., 0]
    flipped = features.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (last, strided, flipped):
        assert torch.equal(roi_inlay(other, boxes, size), expected)


@pytest.mark.parametrize("layout", ["first", "last", "expanded"])
def test_gradient_layouts(layout: str) -> None:
    features, boxes, size = case()
    features.requires_grad_()
    result = roi_inlay(features, boxes, size)
    gradient = torch.randn(result.shape, dtype=torch.float64)
    if layout == "last":
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    if layout == "expanded":
        gradient = torch.ones((), dtype=torch.float64).expand(result.shape)
    result.backward(gradient)
    other = features.detach().clone().requires_grad_()
    with torch.enable_grad():
        _dense(other, boxes, size).backward(gradient)
    torch.testing.assert_close(features.grad, other.grad, atol=1e-10, rtol=1e-10)


def test_many_features_on_a_small_map_are_taken_in_parts() -> None:
    # 40 boxes of 6 x 6 samples on 5 x 7 pixels: their copy would be 41 times the map, so it is made in parts.
    features = torch.randn(40, 35, 6, 6, dtype=torch.float64)
    boxes = [random_boxes(25, (5, 7), 1), random_boxes(15, (5, 7), 2)]
    result = roi_inlay(features, boxes, (5, 7))
    torch.testing.assert_close(result, reference(features, boxes, (5, 7)), atol=1e-10, rtol=1e-10)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(roi_inlay(last, boxes, (5, 7)), result, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_large_gradients_are_taken_in_parts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = torch.randn(2, 35, 13, 17).to(dtype)
    _, boxes, _ = case((3, 4))

    def back() -> Tensor:
        features = torch.zeros(7, 35, 4, 6, dtype=dtype, requires_grad=True)
        (result,) = torch.autograd.grad(roi_inlay(features, boxes, (13, 17)), features, gradient)
        return result

    whole = back()
    monkeypatch.setattr(sys.modules["banet.ops.roi_inlay"], "_COPY", 1000)
    torch.testing.assert_close(back(), whole)


def _dense(features: Tensor, boxes: list[Tensor], size: tuple[int, int]) -> Tensor:
    from banet.ops.roi_inlay import _inlay_dense

    return _inlay_dense(features, torch.cat(boxes) - 0.5, [len(b) for b in boxes], size)


def test_boxes_that_share_pixels_are_averaged() -> None:
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    features = torch.stack([torch.full((1, 2, 2), value) for value in (1.0, 2.0, 6.0)])
    boxes = torch.cat([box, box, box + torch.tensor([2.0, 0.0, 2.0, 0.0])])
    result = roi_inlay(features, [boxes], (4, 6))[0, 0]
    assert torch.equal(result, torch.tensor([1.5, 1.5, 3.0, 3.0, 6.0, 6.0]).expand(4, 6))


def test_nothing_to_put() -> None:
    features = torch.randn(0, 5, 14, 14, requires_grad=True)
    result = roi_inlay(features, [torch.zeros(0, 4), torch.zeros(0, 4)], (7, 9))
    assert torch.equal(result, torch.zeros(2, 5, 7, 9))
    result.sum().backward()
    assert features.grad is not None and features.grad.shape == features.shape
    assert roi_inlay(features, [], (7, 9)).shape == (0, 5, 7, 9)
    assert roi_upsample(features, [], (7, 9)).shape == (0, 5, 7, 9)
    assert roi_upsample(features, [torch.zeros(0, 4)], (7, 9)).abs().sum() == 0


@pytest.mark.parametrize(
    "box",
    [
        [100.0, 100.0, 120.0, 120.0],  # off the map
        [-20.0, 2.0, -3.0, 9.0],
        [3.6, 3.6, 4.4, 4.4],  # between pixel centres
        [2.0, 2.0, 2.0, 9.0],  # no width
        [6.0, 6.0, 2.0, 2.0],  # corners swapped
        [1e30, 1e30, 2e30, 2e30],
    ],
)
def test_boxes_without_pixels_leave_no_trace(box: list[float]) -> None:
    features = torch.randn(2, 5, 3, 3, requires_grad=True)
    other = [1.0, 1.0, 5.0, 6.0]
    result = roi_inlay(features, [torch.tensor([box, other])], (10, 11))
    torch.testing.assert_close(result, roi_inlay(features[1:], [torch.tensor([other])], (10, 11)))
    result.square().sum().backward()
    assert features.grad is not None
    assert features.grad[0].abs().max() == 0
    assert features.grad[1].abs().max() > 0
    alone = roi_inlay(features[:1], [torch.tensor([box])], (10, 11))
    assert alone.abs().max() == 0
    (gradient,) = torch.autograd.grad(alone.sum(), features)
    assert gradient.abs().max() == 0


def test_a_box_is_not_widened_to_a_pixel() -> None:
    features = torch.ones(1, 1, 2, 2)
    assert roi_inlay(features, [torch.tensor([[3.1, 3.1, 3.4, 3.4]])], (8, 8), aligned=False).sum() == 0
    assert roi_inlay(features, [torch.tensor([[2.9, 2.9, 3.1, 3.1]])], (8, 8), aligned=False).sum() == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
def test_non_finite_boxes_are_refused(op, value: float) -> None:  # type: ignore[no-untyped-def]
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, value, 4.0]])
    with pytest.raises(ValueError, match="box 1"):
        op(torch.ones(2, 1, 2, 2), [boxes], (8, 8))


@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
def test_wrong_arguments(op) -> None:  # type: ignore[no-untyped-def]
    features, box = torch.ones(2, 1, 2, 2), torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    with pytest.raises(ValueError, match="hold 2 boxes"):
        op(features, [box], (8, 8))
    with pytest.raises(ValueError, match="hold 2 boxes"):
        op(features, [box, box, box], (8, 8))
    with pytest.raises(ValueError, match=r"\(L, 4\)"):
        op(features, [torch.zeros(2, 5)], (8, 8))
    with pytest.raises(ValueError, match=r"\(K, C, m, n\)"):
        op(features[0], [box], (8, 8))
    with pytest.raises(ValueError, match="bin"):
        op(features[..., :0], [box, box], (8, 8))
    with pytest.raises(TypeError, match="floating"):
        op(features.long(), [box, box], (8, 8))
    with pytest.raises(TypeError, match="list"):
        op(features, torch.cat([box, box]), (8, 8))


@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
@pytest.mark.parametrize("bins", [(1, 1), (3, 2)])
def test_gradcheck(op, bins: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    features, boxes, size = case((2, 0, 1), bins, (5, 4))
    features = features[:, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda f: op(f, boxes, size), features)
    assert torch.autograd.gradgradcheck(lambda f: op(f, boxes, size), features, fast_mode=True)


def test_no_gradient_to_boxes() -> None:
    features, boxes, size = case()
    boxes = [b.requires_grad_() for b in boxes]
    assert not roi_inlay(features, boxes, size).requires_grad
    roi_inlay(features.requires_grad_(), boxes, size).sum().backward()
    assert all(b.grad is None for b in boxes)


@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
@pytest.mark.parametrize("bins", [(1, 3), (14, 14), (7, 5)])
def test_adjoint(op, bins: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    features, boxes, size = case((5, 0, 7), bins, (33, 41))
    features.requires_grad_()
    result = op(features, boxes, size)
    gradient = torch.randn_like(result)
    (transposed,) = torch.autograd.grad(result, features, gradient)
    left, right = (result * gradient).sum(), (features * transposed).sum()
    assert abs(left - right) <= 1e-10 * max(1.0, abs(left))


@pytest.mark.parametrize("aligned", [True, False])
def test_undoes_roi_align_of_a_ramp(aligned: bool) -> None:
    height, width, bins = 40, 50, 7
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    ramp = torch.stack([x, y, 2 * x - 3 * y + 1])[None]
    boxes = torch.tensor([[10.3, 8.1, 139.7, 100.2], [80.0, 40.0, 180.0, 150.0]], dtype=torch.float64)
    crops = torchvision.ops.roi_align(ramp, [boxes], bins, 0.25, sampling_ratio=2, aligned=aligned)
    for crop, box in zip(crops, boxes, strict=True):
        result = roi_inlay(crop[None], [box[None]], (height, width), 0.25, aligned)
        x1, y1, x2, y2 = (box * 0.25 - (0.5 if aligned else 0)).tolist()
        half_w, half_h = (x2 - x1) / bins / 2, (y2 - y1) / bins / 2
        inner = (x >= x1 + half_w) & (x <= x2 - half_w) & (y >= y1 + half_h) & (y <= y2 - half_h)
        assert inner.sum() > 50
        torch.testing.assert_close(result[0, :, inner], ramp[0, :, inner], atol=1e-9, rtol=1e-9)


def test_module() -> None:
    features, boxes, size = case()
    module = RoIInlay(0.5, aligned=False)
    assert torch.equal(module(features, boxes, size), roi_inlay(features, boxes, size, 0.5, False))
    assert "0.5" in repr(module)


def test_inference_mode() -> None:
    features, boxes, size = case()
    with torch.inference_mode():
        result = roi_inlay(features, boxes, size)
    torch.testing.assert_close(result, reference(features, boxes, size))


def test_opcheck() -> None:
    features, boxes, size = case()
    coordinates, sizes = torch.cat(boxes), [len(b) for b in boxes]
    features.requires_grad_()
    torch.library.opcheck(torch.ops.banet.roi_inlay.default, (features, coordinates, sizes, *size))
    gradient = torch.randn(len(boxes), 3, *size, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.banet.roi_inlay_backward.default, (gradient, coordinates, sizes, 4, 6))


@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(op, dynamic: bool) -> None:  # type: ignore[no-untyped-def]
    # "aot_eager" traces forward and backward in full; a code generator would need a compiler on the machine.
    torch.compiler.reset()
    compiled = torch.compile(
        lambda f, b: op(f * 2, b, (13, 17), 0.5) + 1, fullgraph=True, dynamic=dynamic, backend="aot_eager"
    )
    for sizes in ((3, 1, 4), (2, 5, 1)):
        features, boxes, size = case(sizes)
        features.requires_grad_()
        result = compiled(features, boxes)
        expected = op(features * 2, boxes, size, 0.5) + 1
        torch.testing.assert_close(result, expected)
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(
            torch.autograd.grad(result, features, gradient), torch.autograd.grad(expected, features, gradient)
        )


def test_compiled_non_finite_boxes_cover_nothing() -> None:
    torch.compiler.reset()
    features = torch.randn(4, 3, 5, 5)
    good = torch.tensor([1.0, 2.0, 9.0, 8.0])
    bad = torch.tensor(
        [[0.0, 0.0, math.nan, 9.0], [-math.inf, -math.inf, math.inf, math.inf], [1.0, 1.0, math.inf, 5.0]]
    )
    for op in (roi_inlay, roi_upsample):
        compiled = torch.compile(lambda f, b, op=op: op(f, b, (10, 12)), fullgraph=True, backend="aot_eager")
        result = compiled(features, [torch.cat([bad, good[None]])])
        torch.testing.assert_close(result, op(features[3:], [good[None]], (10, 12)))


@pytest.mark.parametrize("op", [roi_inlay, roi_upsample])
def test_export_holds_standard_operators_only(op) -> None:  # type: ignore[no-untyped-def]
    class Model(torch.nn.Module):
        def forward(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
            return op(features, boxes, (13, 17), 0.5)

    features, boxes, size = case((3, 2), seed=5)
    program = torch.export.export(Model(), (features, boxes))
    names = {str(node.target) for node in program.run_decompositions().graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") or "getitem" in name for name in names), names
    features, boxes, size = case((3, 2), seed=6)
    boxes[0][1, 2] = math.nan
    fine = [boxes[0][[0, 2]], boxes[1]]
    result = program.module()(features, boxes)
    torch.testing.assert_close(result, op(features[[0, 2, 3, 4]], fine, size, 0.5))


def test_export_with_any_number_of_boxes() -> None:
    class Model(torch.nn.Module):
        def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
            return roi_inlay(features, [boxes], (13, 17))

    count = torch.export.Dim("count", min=2, max=1000)
    features, boxes, size = case((5,))
    program = torch.export.export(Model(), (features, boxes[0]), dynamic_shapes=({0: count}, {0: count}))
    for number in (3, 9):
        features, boxes, size = case((number,), seed=number)
        torch.testing.assert_close(program.module()(features, boxes[0]), roi_inlay(features, boxes, size))


def test_upsample_equals_its_formula() -> None:
    features, boxes, size = case((3, 2), bins=(3, 4))
    expected = torch.zeros(2, 3, *size, dtype=torch.float64)
    k = 0
    for image, image_boxes in enumerate(boxes):
        for box in image_boxes:
            x1, y1, x2, y2 = (box - 0.5).tolist()
            for i in range(3):
                for j in range(4):
                    x, y = x1 + (j + 0.5) * (x2 - x1) / 4, y1 + (i + 0.5) * (y2 - y1) / 3
                    lx, ly = x - math.floor(x), y - math.floor(y)
                    norm = ((1 - lx) ** 2 + lx**2) * ((1 - ly) ** 2 + ly**2)
                    for b, wy in ((math.floor(y), 1 - ly), (math.floor(y) + 1, ly)):
                        for a, wx in ((math.floor(x), 1 - lx), (math.floor(x) + 1, lx)):
                            if 0 <= a < size[1] and 0 <= b < size[0]:
                                expected[image, :, b, a] += features[k, :, i, j] * wy * wx / norm
            k += 1
    torch.testing.assert_close(roi_upsample(features, boxes, size), expected, atol=1e-10, rtol=1e-10)


def test_upsample_leaves_holes_and_inlay_does_not() -> None:
    features = torch.ones(1, 1, 14, 14)
    boxes = [torch.tensor([[10.0, 10.0, 90.0, 90.0]])]
    inside = torch.zeros(100, 100, dtype=torch.bool)
    inside[10:90, 10:90] = True
    assert torch.equal(roi_inlay(features, boxes, (100, 100))[0, 0] > 0.999, inside)
    empty = (roi_upsample(features, boxes, (100, 100))[0, 0] == 0) & inside
    assert empty.sum() / inside.sum() > 0.5


def test_large_boxes_cost_no_more_memory_than_the_map() -> None:
    # 40 boxes over the whole map would need 40 maps if each were pasted at full size before averaging.
    features = torch.randn(40, 2, 3, 3)
    result = roi_inlay(features, [torch.tensor([[-1e6, -1e6, 1e6, 1e6]]).expand(40, 4)], (20, 30))
    torch.testing.assert_close(result[0, :, 10, 15], features[:, :, 1, 1].mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("bins", [(1, 1), (7, 7), (3, 14)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu(bins: tuple[int, int], dtype: torch.dtype) -> None:
    features, boxes, size = case(bins=bins)
    features = features.to(dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
    for op in (roi_inlay, roi_upsample):
        here = features.clone().requires_grad_()
        there = features.cuda().requires_grad_()
        expected, result = op(here, boxes, size), op(there, [b.cuda() for b in boxes], size)
        torch.testing.assert_close(result.cpu(), expected, atol=tolerance, rtol=tolerance)
        gradient = torch.randn_like(expected)
        expected.backward(gradient)
        result.backward(gradient.cuda())
        assert here.grad is not None and there.grad is not None
        torch.testing.assert_close(there.grad.cpu(), here.grad, atol=4 * tolerance, rtol=4 * tolerance)


@pytest.mark.gpu
def test_cuda_non_finite_boxes_cover_nothing() -> None:
    boxes = torch.tensor([[0.0, 0.0, math.nan, 4.0], [-math.inf, 0.0, math.inf, 4.0]]).cuda()
    for op in (roi_inlay, roi_upsample):
        assert op(torch.ones(2, 1, 2, 2).cuda(), [boxes], (8, 8)).abs().sum() == 0
