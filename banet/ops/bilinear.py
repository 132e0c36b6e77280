"""Bilinear sampling of tensors: the two pixels next to each position along an axis, their weights, and whole maps.

`banet.panoptic.resampling` is the same for numpy arrays.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["bin_samples", "linear_taps", "linear_weights", "upsample_to"]


def linear_taps(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the two pixels next to each position along an axis, and their weights.

    Args:
        position: ``(...)``, 0 is the centre of the first pixel. Gradients flow from the weights to it.
        length: pixels of the axis.

    Returns:
        Pixels ``(..., 2)`` int64 and weights ``(..., 2)``; a pixel off the axis is replaced by the last one there is,
        with weight zero.
    """
    first = position.detach().floor()
    fraction = position - first
    pixel = torch.stack([first, first + 1], -1)
    weight = torch.stack([1 - fraction, fraction], -1) * ((pixel >= 0) & (pixel <= length - 1))
    return pixel.clamp(0, length - 1).to(torch.int64), weight


def linear_weights(position: Tensor, length: int) -> Tensor:
    """Return the weight of each pixel of an axis at each position ``(...)``: ``(..., length)``."""
    pixel = torch.arange(length, dtype=position.dtype, device=position.device)
    return (1 - (position[..., None] - pixel).abs()).clamp(min=0)


def bin_samples(start: Tensor, stop: Tensor, bins: int) -> Tensor:
    """Return the positions of two samples per bin along one axis of K boxes: ``(K, 2 * bins)``.

    Args:
        start: ``(K,)`` where the boxes begin.
        stop: ``(K,)`` where they end.
        bins: bins of each box.
    """
    fraction = (torch.arange(2 * bins, dtype=start.dtype, device=start.device) + 0.5) / (2 * bins)
    return start[:, None] + (stop - start)[:, None] * fraction


def upsample_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps ``(B, C, h, w)`` at another size, ``(B, C, *size)``, by pixel centres (``align_corners=False``)."""
    return x if x.shape[-2:] == size else interpolate(x, size=size, mode="bilinear", align_corners=False)
