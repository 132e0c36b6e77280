"""Box-sized mask probabilities onto the picture's pixels, cut to each box: never a full-size mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["paste_masks"]


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[list[tuple[int, int, int, int]], list[Tensor]]:
    """Sample each mask bilinearly at the pixel centres inside its box and threshold it.

    The convention is that of ``aligned=True`` RoIAlign: probability ``(i, j)`` sits at the centre of bin ``(i, j)`` of
    the unrounded box; pixel ``(row b, column a)`` has its centre at ``(a + 0.5, b + 0.5)`` and is inside when its
    centre is in the half-open box. Beyond the outermost bins' centres the border's value holds.

    Args:
        probabilities: ``(N, m, n)`` in 0..1.
        boxes: ``(N, 4)``, ``x1, y1, x2, y2`` in image pixels, finite.
        size: ``(H, W)`` of the image.
        threshold: a pixel belongs to the mask when its probability is at least this.

    Returns:
        For each mask the whole-pixel box ``(x1, y1, x2, y2)``, half-open, inside the image, and the boolean crop
        ``(y2 - y1, x2 - x1)`` on the device of ``probabilities``. A box that holds no pixel centre gives a crop without
        pixels.

    Raises:
        ValueError: the shapes do not fit each other, or a box is not finite.
    """
    if probabilities.dim() != 3 or boxes.shape != (probabilities.shape[0], 4):
        shapes = f"{tuple(probabilities.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"expected probabilities (N, m, n) and boxes (N, 4), got {shapes}")
    probabilities = probabilities.detach().to(torch.promote_types(probabilities.dtype, torch.float32))
    height, width = size
    bins_y, bins_x = probabilities.shape[1:]
    crop_boxes, crops = [], []
    for probability, box in zip(probabilities, boxes.detach().to("cpu", torch.float64).tolist(), strict=True):
        if not all(math.isfinite(value) for value in box):
            raise ValueError(f"a box has a NaN or infinite coordinate: {box}")
        left, right, columns = _axis(box[0], box[2], bins_x, width, probability)
        top, bottom, rows = _axis(box[1], box[3], bins_y, height, probability)
        crop_boxes.append((left, top, right, bottom))
        with torch.autocast(probability.device.type, enabled=False):
            crops.append(rows @ (probability @ columns.T) >= threshold)
    return crop_boxes, crops


def _axis(start: float, stop: float, bins: int, length: int, like: Tensor) -> tuple[int, int, Tensor]:
    """First and last (exclusive) pixel whose centre is in ``[start, stop)``, and the weights ``(pixels, bins)``."""
    first = min(max(math.ceil(start - 0.5), 0), length)
    last = min(max(math.ceil(stop - 0.5), first), length)
    pixel = torch.arange(first, last, dtype=torch.float64)
    # An empty range leaves nothing to divide; its box may have no size.
    position = ((pixel + 0.5 - start) * (bins / max(stop - start, 1e-12)) - 0.5).clamp(0, bins - 1)
    weights = (1 - (position[:, None] - torch.arange(bins, dtype=torch.float64)).abs()).clamp(min=0)
    return first, last, weights.to(device=like.device, dtype=like.dtype)
