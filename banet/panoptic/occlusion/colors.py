"""Colors in about CIE Lab, kernels of vectors, and vectors of colors at length 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["linear_lab", "log_kernel", "to_lab", "unit"]

_LINEAR_LAB = ((0.0899, 0.2747, 0.1375), (0.2485, -0.4864, 0.3278), (0.0328, 0.1737, -0.4856))
"""Rows L, a, b over columns R, G, B 0..255: the linear map closest to CIE Lab, of which only differences count."""
_XYZ = np.array(
    [[0.4339530, 0.3762195, 0.1898276], [0.2126729, 0.7151522, 0.0721750], [0.0177578, 0.1094766, 0.8727655]],
    dtype=np.float32,
)
"""From linear sRGB to CIE XYZ, each divided by that of the white D65."""

_Floats = NDArray[np.float32]


def linear_lab(rgb: NDArray[np.uint8]) -> list[_Floats]:
    """Return L, a and b (..) of sRGB (.., 3) by the linear map closest to CIE Lab: fast, and good for differences."""
    red, green, blue = (rgb[..., k].astype(np.float32) for k in range(3))
    return [np.float32(r) * red + np.float32(g) * green + np.float32(b) * blue for r, g, b in _LINEAR_LAB]


def to_lab(rgb: Sequence[_Floats]) -> _Floats:
    """Return CIE Lab (3, ..) of sRGB 0..255."""
    value = np.stack(rgb) / np.float32(255)
    gamma = ((value + np.float32(0.055)) / np.float32(1.055)) ** np.float32(2.4)
    linear = np.where(value > 0.04045, gamma, value / np.float32(12.92))
    f = []
    for row in _XYZ:
        ratio = row[0] * linear[0] + row[1] * linear[1] + row[2] * linear[2]
        f.append(np.where(ratio > 216 / 24389, np.cbrt(ratio), ratio * np.float32(841 / 108) + np.float32(4 / 29)))
    lab: _Floats = np.stack([116 * f[1], 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
    return lab


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
