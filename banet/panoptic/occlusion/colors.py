"""Colors in about CIE Lab, kernels of vectors, and vectors of colors at length 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_lab", "log_kernel", "unit"]

_LINEAR_LAB = ((0.0899, 0.2747, 0.1375), (0.2485, -0.4864, 0.3278), (0.0328, 0.1737, -0.4856))
"""Rows L, a, b over columns R, G, B 0..255: the linear map closest to CIE Lab, of which only differences count."""
_Floats = NDArray[np.float32]


def linear_lab(rgb: NDArray[np.uint8]) -> list[_Floats]:
    """Return L, a and b (..) of sRGB (.., 3) by the linear map closest to CIE Lab: fast, and good for differences."""
    red, green, blue = (rgb[..., k].astype(np.float32) for k in range(3))
    return [np.float32(r) * red + np.float32(g) * green + np.float32(b) * blue for r, g, b in _LINEAR_LAB]


def log_kernel(
    these: _Floats, those: _Floats, width: float | _Floats, counts: NDArray[np.bool_] | None = None
) -> _Floats:
    """Return the exponents of a Gaussian kernel, -|a - b|^2 / (2 width^2), of vectors of pairs: (P, A, B).

    Args:
        these: (P, A, C); squares of their lengths in widths should stay below some thousands, or precision is lost.
        those: (P, B, C).
        width: of the kernel, one or (P,).
        counts: (P, B) which of those count; the exponents of the others are nearly minus infinity.
    """
    scale = np.broadcast_to(np.float32(-0.5) / np.asarray(width, dtype=np.float32) ** 2, len(these)).reshape(-1, 1, 1)
    squares = scale * (those * those).sum(axis=2, keepdims=True)
    if counts is not None:
        squares = np.where(counts[..., None], squares, np.float32(-1e9))
    ones = np.ones((*these.shape[:2], 1), dtype=np.float32)
    first = np.concatenate([these, (these * these).sum(axis=2, keepdims=True), ones], axis=2)
    second = np.concatenate([-2 * scale * those, np.broadcast_to(scale, squares.shape), squares], axis=2)
    exponents: _Floats = first @ second.transpose(0, 2, 1)
    return exponents


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale columns (C, M) to length 1; columns of zeros stay zeros."""
    length = np.sqrt(np.einsum("cm,cm->m", vectors, vectors))
    length[length == 0] = 1
    scaled: NDArray[np.float64] = vectors / length
    return scaled
