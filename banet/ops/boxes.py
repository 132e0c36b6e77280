"""Boxes beside one another: coded as differences, matched, and suppressed. No step waits for a GPU but suppression.

torchvision's `BoxCoder`, `Matcher` and `batched_nms` give the same, and wait up to ten times for an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

__all__ = ["BELOW", "BETWEEN", "decode_boxes", "encode_boxes", "grouped_nms", "large_enough", "match_boxes"]

BoxWeights = tuple[float, float, float, float]
"""Factors of the differences in x, y, width and height."""

BELOW, BETWEEN = -1, -2
"""What a box is matched with that overlaps too little, or neither little nor enough."""

_MOST = math.log(1000 / 16)
"""Of the logarithm by which a side grows: from 16 to 1000 pixels."""


def encode_boxes(wanted: Tensor, boxes: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Return the differences that turn boxes ``(K, 4)`` into the wanted ones ``(K, 4)``; see `decode_boxes`."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    wanted_width, wanted_height = wanted[:, 2] - wanted[:, 0], wanted[:, 3] - wanted[:, 1]
    x, y = boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height
    wanted_x, wanted_y = wanted[:, 0] + 0.5 * wanted_width, wanted[:, 1] + 0.5 * wanted_height
    deltas = (
        weights[0] * (wanted_x - x) / width,
        weights[1] * (wanted_y - y) / height,
        weights[2] * torch.log(wanted_width / width),
        weights[3] * torch.log(wanted_height / height),
    )
    return torch.stack(deltas, 1)


def decode_boxes(deltas: Tensor, boxes: Tensor, weights: BoxWeights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Return boxes changed by differences (Faster R-CNN, arXiv 1506.01497, section 3.1.2).

    Args:
        deltas: ``(..., 4)`` in x, y, width and height: shifts in units of the box, logarithms of growth.
        boxes: ``(..., 4)``, ``x1, y1, x2, y2``, of a shape that broadcasts.
        weights: factors that the differences have.
    """
    x1, y1, x2, y2 = boxes.to(deltas.dtype).unbind(-1)
    width, height = x2 - x1, y2 - y1
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(-1), weights, strict=True))
    x, y = dx * width + (x1 + 0.5 * width), dy * height + (y1 + 0.5 * height)
    half_width = 0.5 * (torch.exp(dw.clamp(max=_MOST)) * width)
    half_height = 0.5 * (torch.exp(dh.clamp(max=_MOST)) * height)
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1)


def match_boxes(ious: Tensor, low: float, high: float, *, keep_best: bool, taking_part: Tensor | None = None) -> Tensor:
    """Return the row of the true box that each of A boxes is matched with.

    Args:
        ious: ``(N, A)`` of N true boxes.
        low: a box is `BELOW` under this IoU with every true box.
        high: it is matched from this IoU on, and `BETWEEN` under it.
        keep_best: the boxes with a true box's largest IoU are matched whatever it is.
        taking_part: ``(A,)`` bool; the others are `BETWEEN`.

    Returns:
        ``(A,)`` int64.
    """
    if ious.shape[0] == 0:
        matches = torch.full(ious.shape[1:], BELOW, dtype=torch.int64, device=ious.device)
        return matches if taking_part is None else matches.where(taking_part, BETWEEN)
    if taking_part is not None:
        ious = ious.where(taking_part, -1.0)
    best, row = ious.max(dim=0)
    matches = row.where(best >= low, BELOW).where((best < low) | (best >= high), BETWEEN)
    if keep_best:
        largest = ious.max(dim=1, keepdim=True).values
        matches = row.where((ious == largest).any(0), matches)
    return matches if taking_part is None else matches.where(taking_part, BETWEEN)


def large_enough(boxes: Tensor, side: float = 1e-3) -> Tensor:
    """Return which of the boxes ``(..., 4)`` are at least so many pixels wide and high."""
    return (boxes[..., 2] - boxes[..., 0] >= side) & (boxes[..., 3] - boxes[..., 1] >= side)


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Return the rows of the boxes ``(L, 4)`` that non-maximum suppression within each group keeps, best first."""
    if boxes.device.type == "cpu" or len(boxes) == 0:
        keep: Tensor = batched_nms(boxes, scores, groups, iou)
        return keep
    # What it does with few boxes on GPUs too: each group is moved to a place of its own.
    apart = boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]
    keep = nms(apart, scores, iou)
    return keep
