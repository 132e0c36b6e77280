"""Box-sized mask probabilities onto the image's pixels, cut to each box: never a full-size mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from banet.panoptic.resampling import paste_mask

__all__ = ["paste_masks"]


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> tuple[list[tuple[int, int, int, int]], list[Tensor]]:
    """Sample each mask bilinearly at the pixel centres inside its box and threshold it, on the CPU.

    The convention is that of ``aligned=True`` RoIAlign, see :func:`banet.panoptic.resampling.paste_mask`.

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
    wide = probabilities.detach().to("cpu", torch.promote_types(probabilities.dtype, torch.float32)).numpy()
    crop_boxes, crops = [], []
    for mask, box in zip(wide, boxes.detach().to("cpu", torch.float64).numpy(), strict=True):
        if not all(math.isfinite(value) for value in box):
            raise ValueError(f"a box has a NaN or infinite coordinate: {box.tolist()}")
        crop_box, crop = paste_mask(mask, box, size, threshold)
        crop_boxes.append(crop_box)
        crops.append(torch.from_numpy(crop).to(probabilities.device))
    return crop_boxes, crops
