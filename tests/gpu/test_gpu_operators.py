"""Every operator against a slow version of it on the CPU in doubles; gradients; empty inputs; half precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchvision.ops
from torch import Tensor
from torch.nn import functional as F

from banet.modeling.instance_head import mask_targets
from banet.modeling.sampling import BalancedSampler
from banet.modeling.semantic_loss import semantic_loss
from banet.ops.boxes import decode_boxes, encode_boxes, grouped_nms, match_boxes
from banet.ops.deform_conv import DeformableConv2d
from banet.ops.host import to_host, true_rows
from banet.ops.paste import paste_masks
from banet.ops.roi_align import PyramidRoIAlign, roi_align
from banet.ops.roi_inlay import roi_inlay, roi_upsample

pytestmark = pytest.mark.gpu

Check = Callable[[], bool]
HALVES = [torch.float16, torch.bfloat16]
BOXES = [
    torch.tensor([[3.0, 5.0, 60.5, 41.0], [20.0, 10.0, 120.0, 90.0], [-9.0, -9.0, 500.0, 500.0]]),
    torch.zeros(0, 4),
    torch.tensor([[0.0, 0.0, 30.0, 64.0], [7.0, 7.0, 7.0, 30.0], [900.0, 0.0, 950.0, 40.0]]),
]
EMPTY = [torch.zeros(0, 4)] * 3


def on(boxes: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    return [each.to(device) for each in boxes]


def slow_inlay(features: Tensor, boxes: Sequence[Tensor], size: tuple[int, int], scale: float) -> Tensor:
    """RoIInlay box by box with `grid_sample`, then the plain average."""
    maps = []
    split = features.split([len(each) for each in boxes])
    for image_features, image_boxes in zip(split, boxes, strict=True):
        total, count = features.new_zeros(features.shape[1], *size), features.new_zeros(size)
        y, x = (torch.arange(side, dtype=torch.float64) for side in size)
        for one, box in zip(image_features, (image_boxes.double() * scale - 0.5).tolist(), strict=True):
            x1, y1, x2, y2 = box
            inside = ((y >= y1) & (y < y2))[:, None] & ((x >= x1) & (x < x2))
            if not inside.any():
                continue
            grid_y, grid_x = torch.meshgrid(2 * (y - y1) / (y2 - y1) - 1, 2 * (x - x1) / (x2 - x1) - 1, indexing="ij")
            grid = torch.stack([grid_x, grid_y], -1)[None]
            values = F.grid_sample(one[None], grid, padding_mode="border", align_corners=False)[0]
            total, count = total + values * inside, count + inside
        maps.append(total / count.clamp(min=1))
    return torch.stack(maps)


def align(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    return roi_align(features, boxes, (7, 5), 0.25)


def slow_align(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    doubles = [each.double() for each in boxes]
    found: Tensor = torchvision.ops.roi_align(features, doubles, (7, 5), 0.25, sampling_ratio=2, aligned=True)
    return found


def inlay(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    return roi_inlay(features, boxes, (24, 32), 0.25)


def slow_inlay_quarter(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    return slow_inlay(features, boxes, (24, 32), 0.25)


def upsample(features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    return roi_upsample(features, boxes, (24, 32), 0.25)


# RoIUpsample's own version on the CPU is compared with a loop in tests/ops.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[int, ...]]] = {
    "roi_align": (align, slow_align, (3, 5, 24, 32)),
    "roi_inlay": (inlay, slow_inlay_quarter, (6, 5, 7, 6)),
    "roi_upsample": (upsample, upsample, (6, 5, 7, 6)),
}


def compare(name: str, device: torch.device, dtype: torch.dtype, context: Any, tolerance: float) -> None:
    fast, slow, shape = CASES[name]
    here = torch.randn(shape, dtype=torch.float64)
    there = here.to(device, dtype).requires_grad_()
    here = there.detach().cpu().double().requires_grad_()
    with context:
        found = fast(there, on(BOXES, device))
    expected = slow(here, BOXES)
    assert found.device == there.device and found.dtype == dtype
    torch.testing.assert_close(found.detach().cpu().double(), expected.detach(), rtol=tolerance, atol=tolerance)
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    expected.backward(gradient)
    found.backward(gradient.to(device, dtype))
    assert here.grad is not None and there.grad is not None
    scale = float(here.grad.abs().max())
    torch.testing.assert_close(there.grad.cpu().double(), here.grad, rtol=tolerance, atol=tolerance * (1 + scale))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
def test_operators_on_boxes(name: str, dtype: torch.dtype, device: torch.device) -> None:
    tolerance = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}[dtype]
    compare(name, device, dtype, nullcontext(), tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_operators_on_boxes_keep_their_precision_under_autocast(
    name: str, half: torch.dtype, device: torch.device
) -> None:
    compare(name, device, torch.float32, torch.autocast(device.type, dtype=half), 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_right(name: str, device: torch.device) -> None:
    fast, _, shape = CASES[name]
    features = torch.randn(shape[0], 2, *shape[2:], dtype=torch.float64, device=device, requires_grad=True)
    boxes = on(BOXES, device)
    assert torch.autograd.gradcheck(lambda x: fast(x, boxes), features, nondet_tol=1e-9, fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_no_box_at_all(name: str, device: torch.device) -> None:
    fast, _, shape = CASES[name]
    count = 3 if name == "roi_align" else 0
    features = torch.randn(count, *shape[1:], device=device, requires_grad=True)
    result = fast(features, on(EMPTY, device))
    result.sum().backward()
    assert result.shape[0] == (0 if name == "roi_align" else 3) and not result.any()
    assert features.grad is not None and not features.grad.any()


def test_deformable_convolution(device: torch.device) -> None:
    conv = DeformableConv2d(4, 6, 3, padding=1).double()
    torch.nn.init.normal_(conv.offset.weight, std=0.3)
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    offset = conv.offset(x)
    expected = torchvision.ops.deform_conv2d(x, offset, conv.weight, conv.bias, padding=1)
    conv.to(device)
    found = conv(x.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)
    torch.nn.init.normal_(conv.offset.bias, std=0.3)
    inputs = x[:1, :, :5, :5].to(device).requires_grad_()
    assert torch.autograd.gradcheck(conv, inputs, fast_mode=True, nondet_tol=1e-9)
    assert conv.float()(torch.zeros(0, 4, 9, 11, device=device)).shape == (0, 6, 9, 11)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_deformable_convolution_under_autocast(half: torch.dtype, device: torch.device) -> None:
    conv = DeformableConv2d(4, 6, 3, padding=1).to(device)
    torch.nn.init.normal_(conv.offset.weight, std=0.1)
    x = torch.randn(2, 4, 9, 11, device=device)
    expected = conv(x)
    with torch.autocast(device.type, dtype=half):
        found = conv(x)
    assert found.dtype == half
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_pyramid_of_roi_features(device: torch.device) -> None:
    pool = PyramidRoIAlign(7)
    pyramid = [torch.randn(3, 4, -(-96 // s), -(-128 // s)) for s in (4, 8, 16, 32)]
    finest = torch.randn_like(pyramid[0])
    big = [torch.cat([each, torch.tensor([[0.0, 0, 128, 96], [0, 0, 9, 9]])]) for each in BOXES]
    expected = pool(pyramid, big, finest)
    found = pool([level.to(device) for level in pyramid], on(big, device), finest.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_semantic_loss_and_its_gradient(device: torch.device) -> None:
    logits = torch.randn(2, 7, 6, 8, dtype=torch.float64)
    labels = [torch.randint(-1, 7, (24, 32)), torch.randint(-1, 7, (21, 30))]
    here, there = logits.clone().requires_grad_(), logits.to(device).requires_grad_()
    full = F.interpolate(here, scale_factor=4, mode="bilinear", align_corners=False)
    padded = torch.full((2, 24, 32), -1)
    for row, each in zip(padded, labels, strict=True):
        row[: each.shape[0], : each.shape[1]] = each
    expected = F.cross_entropy(full, padded, ignore_index=-1)
    found = semantic_loss(there, on(labels, device))
    expected.backward()
    found.backward()
    assert here.grad is not None and there.grad is not None
    torch.testing.assert_close(found.cpu(), expected)
    torch.testing.assert_close(there.grad.cpu(), here.grad)
    void = semantic_loss(there, [torch.full((24, 32), -1, device=device)] * 2)
    assert float(void.detach()) == 0


def test_boxes_matched_coded_and_suppressed(device: torch.device) -> None:
    corner = torch.rand(200, 2) * 60
    boxes = torch.cat([corner, corner + 1 + torch.rand(200, 2) * 30], 1)
    scores, groups = torch.rand(200), torch.randint(0, 4, (200,))
    ious = torchvision.ops.box_iou(boxes[:9], boxes)
    part = torch.rand(200) < 0.8
    expected = match_boxes(ious, 0.3, 0.7, keep_best=True, taking_part=part)
    found = match_boxes(ious.to(device), 0.3, 0.7, keep_best=True, taking_part=part.to(device))
    assert torch.equal(found.cpu(), expected)
    there = boxes.to(device)
    deltas = encode_boxes(there.roll(1, 0), there)
    torch.testing.assert_close(decode_boxes(deltas, there), there.roll(1, 0), rtol=1e-4, atol=1e-3)
    kept = grouped_nms(there, scores.to(device), groups.to(device), 0.5)
    assert torch.equal(kept.cpu(), torchvision.ops.batched_nms(boxes, scores, groups, 0.5))
    none = grouped_nms(there[:0], scores[:0].to(device), groups[:0].to(device), 0.5)
    assert none.shape == (0,)


def test_samples_are_balanced(device: torch.device) -> None:
    matches = [torch.randint(-2, 3, (500,), device=device), torch.full((40,), -1, device=device)]
    (rows, positive), (others, none) = BalancedSampler(64, 0.25)(matches)
    assert len(rows) == 64 and len(positive) == 16 and len(others) == 40 and len(none) == 0
    assert (matches[0][positive] >= 0).all() and (matches[0][rows] != -2).all() and (rows.diff() > 0).all()


def test_what_the_host_is_told(device: torch.device) -> None:
    masks = [torch.rand(300, device=device) < 0.5, torch.zeros(0, dtype=torch.bool, device=device)]
    for mask, rows in zip(masks, true_rows(masks), strict=True):
        assert torch.equal(rows, mask.nonzero()[:, 0])
    values = torch.randn(70, 3, device=device)
    first, second = to_host([values, values.long()])
    assert (first == values.cpu().numpy()).all() and second.dtype == "int64"


def test_mask_targets_and_pasted_masks(device: torch.device) -> None:
    instances = torch.full((60, 80), -1, dtype=torch.int32)
    instances[10:40, 20:60] = 0
    boxes, rows = torch.tensor([[15.0, 8.0, 62.5, 44.0]]), torch.tensor([0])
    expected = mask_targets(instances, boxes, rows)
    assert torch.equal(mask_targets(*(each.to(device) for each in (instances, boxes, rows))).cpu(), expected)
    (_, (crop,)), (_, (there,)) = (
        paste_masks(expected.to(where), boxes.to(where), (60, 80)) for where in (torch.device("cpu"), device)
    )
    assert there.device.type == device.type and torch.equal(there.cpu(), crop)


def test_boxes_that_are_not_finite_cover_nothing(device: torch.device, only_cuda: Check) -> None:
    boxes = [torch.tensor([[0.0, 0.0, torch.nan, 4.0]], device=device)]
    if only_cuda():
        assert not roi_inlay(torch.ones(1, 1, 2, 2, device=device), boxes, (8, 8)).any()


def test_another_stream_gives_the_same(device: torch.device, only_cuda: Check) -> None:
    features = torch.randn(6, 5, 7, 6, device=device)
    expected = inlay(features, on(BOXES, device))
    if only_cuda():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = inlay(features, on(BOXES, device))
            rows = to_host([found])[0]
        stream.synchronize()
        assert torch.equal(found, expected) and (rows == expected.cpu().numpy()).all()


def test_another_device_than_the_first(device: torch.device, only_cuda: Check) -> None:
    if only_cuda():
        last = torch.device("cuda", torch.cuda.device_count() - 1)
        features = torch.randn(6, 5, 7, 6, device=last)
        assert inlay(features, on(BOXES, last)).device == last
