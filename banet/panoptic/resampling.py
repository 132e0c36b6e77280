"""Bilinear resampling in numpy, one axis at a time: positions among samples, the two samples next to each, weights.

Samples 0 .. N - 1 lie at the centres of N equal bins; beyond the outermost ones the border's value holds.
`banet.ops.bilinear` is the same for tensors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_taps", "linear_weights", "paste_mask", "sample_positions"]


def sample_positions(
    offsets: NDArray[np.floating], scale: float | NDArray[np.floating], count: int
) -> NDArray[np.floating]:
    """Return where points lie among the samples: 0 is the first, `count` - 1 the last.

    Args:
        offsets: (P,) from the edge of the first bin to each point.
        scale: Bins per unit of the offsets; one number, or (P,).
        count: Number of samples.
    """
    positions: NDArray[np.floating] = (offsets * scale - 0.5).clip(0, count - 1)
    return positions


def linear_taps(
    offsets: NDArray[np.floating], scale: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the two samples next to each point, and the weight of the second, (P,) each; see `sample_positions`."""
    positions = sample_positions(offsets, scale, count)
    first = np.floor(positions)
    second = np.minimum(first + 1, count - 1)
    return first.astype(np.int64), second.astype(np.int64), (positions - first).astype(np.float32)


def linear_weights(offsets: NDArray[np.floating], scale: float, count: int) -> NDArray[np.floating]:
    """Return the weight of each sample at each point, (P, count); see `sample_positions`."""
    positions = sample_positions(offsets, scale, count)
    weights: NDArray[np.floating] = (1 - np.abs(positions[:, None] - np.arange(count))).clip(min=0)
    return weights


def paste_mask(
    probabilities: NDArray[np.floating], box: NDArray[np.float64], size: tuple[int, int], threshold: float = 0.5
) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
    """Sample a mask bilinearly at the pixel centres inside its box and threshold it.

    Probability (i, j) sits at the centre of bin (i, j) of the unrounded box; pixel (row b, column a) has its centre at
    (a + 0.5, b + 0.5) and is inside when its centre is in the half-open box. This is RoIAlign's `aligned=True`.

    Args:
        probabilities: (m, n) in 0..1.
        box: (4,) x1, y1, x2, y2 in pixels of the image, finite.
        size: (H, W) of the image.
        threshold: A pixel belongs to the mask when its probability is at least this.

    Returns:
        The whole-pixel box x1, y1, x2, y2, half-open, inside the image, and the crop (y2 - y1, x2 - x1). A box that
        holds no pixel centre gives a crop without pixels.
    """
    rows, columns = probabilities.shape
    left, right, across = _pixels_inside(float(box[0]), float(box[2]), columns, size[1])
    top, bottom, down = _pixels_inside(float(box[1]), float(box[3]), rows, size[0])
    dtype = np.promote_types(probabilities.dtype, np.float32)
    resampled = down.astype(dtype) @ (probabilities.astype(dtype, copy=False) @ across.astype(dtype).T)
    return (left, top, right, bottom), resampled >= threshold


def _pixels_inside(start: float, stop: float, bins: int, length: int) -> tuple[int, int, NDArray[np.floating]]:
    """First and last (exclusive) pixel whose centre is in [start, stop), and the weights (pixels, bins)."""
    first = int(np.clip(np.ceil(start - 0.5), 0, length))
    last = int(np.clip(np.ceil(stop - 0.5), first, length))
    # An empty range leaves nothing to divide; its box may have no size.
    scale = bins / max(stop - start, 1e-12)
    return first, last, linear_weights(np.arange(first, last) + 0.5 - start, scale, bins)
