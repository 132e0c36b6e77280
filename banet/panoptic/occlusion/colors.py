"""Colours of an image at points, in CIE Lab, and of its halvings; vectors of colours at length 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Halvings", "to_lab", "unit"]

_LINEAR_LAB = ((0.0899, 0.2747, 0.1375), (0.2485, -0.4864, 0.3278), (0.0328, 0.1737, -0.4856))
"""Rows L, a, b over columns R, G, B 0..255: the linear map closest to CIE Lab, of which only differences count."""
_XYZ = np.array(
    [[0.4339530, 0.3762195, 0.1898276], [0.2126729, 0.7151522, 0.0721750], [0.0177578, 0.1094766, 0.8727655]],
    dtype=np.float32,
)
"""From linear sRGB to CIE XYZ, each divided by that of the white D65."""

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Halvings:
    """An image, and the means of its squares of 2, 4, 8 .. pixels per side.

    Attributes:
        samples: R, G, B of the pixels of all of them, one after the other.
        begins: (L + 1,) where each begins in `samples`.
        heights: (L,) theirs, and
        widths: (L,).
    """

    samples: NDArray[Any]
    begins: _Ints
    heights: _Ints
    widths: _Ints

    @classmethod
    def of(cls, image: NDArray[Any], times: int) -> Halvings:
        """Halve an image (H, W, 3) so many times; of an odd row or column at the end only itself is taken."""
        parts = [image]
        for _ in range(times):
            last = parts[-1]
            last = np.pad(last, (*((0, extent % 2) for extent in last.shape[:2]), (0, 0)), mode="edge")
            wide: NDArray[Any] = last.astype(np.uint16 if last.dtype == np.uint8 else np.float32)
            rows = wide[::2] + wide[1::2]
            total = rows[:, ::2] + rows[:, 1::2]
            parts.append(((total + 2) // 4).astype(np.uint8) if last.dtype == np.uint8 else total / np.float32(4))
        sizes = [part.size for part in parts]
        return cls(
            samples=np.concatenate([part.reshape(-1) for part in parts]) if times else image.reshape(-1),
            begins=np.concatenate([[0], np.cumsum(sizes)]),
            heights=np.array([part.shape[0] for part in parts]),
            widths=np.array([part.shape[1] for part in parts]),
        )

    def colors(self, y: _Ints, x: _Ints, level: _Ints) -> list[_Floats]:
        """Return L, a and b, as `rgb`.

        In the linear map closest to CIE Lab: much faster, and about the same but for dark colors.
        """
        red, green, blue = self.rgb(y, x, level)
        return [np.float32(r) * red + np.float32(g) * green + np.float32(b) * blue for r, g, b in _LINEAR_LAB]

    def rgb(self, y: _Ints, x: _Ints, level: _Ints) -> list[_Floats]:
        """Return R, G and B, at the level of each pair (P,), of what holds pixels (.., P), the nearest beyond it."""
        height, width = self.heights[level], self.widths[level]
        at = 3 * ((y >> level).clip(0, height - 1) * width + (x >> level).clip(0, width - 1)) + self.begins[level]
        return [self.samples.take(at + k).astype(np.float32) for k in range(3)]


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


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale columns (C, M) to length 1; columns of zeros stay zeros."""
    length = np.sqrt(np.einsum("cm,cm->m", vectors, vectors))
    length[length == 0] = 1
    scaled: NDArray[np.float64] = vectors / length
    return scaled
