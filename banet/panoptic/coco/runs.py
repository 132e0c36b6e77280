"""Masks as runs of pixels, painted into the box that they fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.id_maps import tight_box

__all__ = ["MOST_SHAPES", "Crop", "Drawing", "fill_runs", "union"]

MOST_SHAPES = 25_000  # of an image
_MOST_PIXELS = 1 << 29  # in the boxes of all objects of an image, a byte each
_MOST_WORK = 1 << 30  # some seconds

_TOGETHER = 1 << 26  # pixels of parts that are in memory together


class Crop(NamedTuple):
    """A mask cut to its box.

    Attributes:
        box: x1, y1, x2, y2 in pixels, half-open and tight; four zeros for a mask without a pixel.
        pixels: (y2 - y1, x2 - x1) bool.
        drawn: what it took to draw it and all parts that it is the union of, in units of the time that a pixel takes.
    """

    box: tuple[int, int, int, int]
    pixels: NDArray[np.bool_]
    drawn: int = 0

    @classmethod
    def empty(cls, drawn: int = 0) -> Crop:
        """Return a mask without a pixel."""
        return cls((0, 0, 0, 0), np.zeros((0, 0), dtype=bool), drawn)

    @classmethod
    def of(cls, pixels: NDArray[np.bool_], left: int = 0, top: int = 0, drawn: int = 0) -> Crop:
        """Cut a mask (h, w), whose first pixel is (left, top), to its box: a view of its pixels, or a copy of few."""
        x1, y1, x2, y2 = tight_box(pixels)
        drawn = max(drawn, pixels.size)
        if x1 == x2:
            return cls.empty(drawn)
        cut = pixels[y1:y2, x1:x2]
        cut = cut.copy() if 2 * cut.size < pixels.size else cut  # so that the rest need not stay in memory
        return cls((left + x1, top + y1, left + x2, top + y2), cut, drawn)

    @property
    def window(self) -> tuple[slice, slice]:
        """Where its pixels lie in the image."""
        x1, y1, x2, y2 = self.box
        return slice(y1, y2), slice(x1, x2)

    @property
    def work(self) -> int:
        """What it took to draw it; see `drawn`."""
        return max(self.drawn, self.pixels.size)

    def paste(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask at the size (H, W) of the image, column by column in memory, as COCO's runs are."""
        mask = np.zeros(size, dtype=bool, order="F")
        mask[self.window] = self.pixels
        return mask


class Drawing:
    """The masks of one image, as many as are drawn in some seconds and fit into the memory together.

    Args:
        times: how often as much as objects take; detectors find several per object.
    """

    def __init__(self, times: int = 1) -> None:
        self._times = times
        self._shapes = self._pixels = self._work = 0

    def add(self, crop: Crop) -> None:
        """Count a mask.

        Raises:
            ValueError: it is one too many.
        """
        self._shapes += 1
        self._pixels += crop.pixels.size
        self._work += crop.work
        if self._shapes > MOST_SHAPES:
            raise ValueError(f"has more than {MOST_SHAPES:,} shapes")
        if self._pixels > self._times * _MOST_PIXELS:
            raise ValueError(f"has shapes whose boxes hold {self._pixels:,} pixels or more")
        if self._work > self._times * _MOST_WORK:
            raise ValueError("has shapes whose masks and outlines are too long to draw")


def fill_runs(ends: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Return (size,) bool that is False up to ends[0], True up to ends[1], False up to ends[2], and so on.

    Args:
        ends: (E,) ascending, in 0..size.
        size: number of pixels.
    """
    lengths = np.empty(len(ends) + 1, np.int64)
    lengths[:-1] = ends
    lengths[-1] = size
    lengths[1:] -= ends
    inside = np.zeros(len(lengths), dtype=bool)
    inside[1::2] = True
    return np.repeat(inside, lengths)


def union(crops: Iterable[Crop]) -> Crop:
    """Return the union of masks, which are taken one by one."""
    parts: list[Crop] = []
    drawn = waiting = 0
    for crop in crops:
        drawn += crop.work
        if crop.pixels.size:
            parts.append(crop)
            waiting += crop.pixels.size
        if waiting > _TOGETHER:
            parts = [_union(parts)]
            waiting = 0
    return _union(parts)._replace(drawn=drawn)


def _union(crops: Sequence[Crop]) -> Crop:
    if len(crops) <= 1:
        return crops[0] if crops else Crop.empty()
    corners = np.array([crop.box for crop in crops])
    x1, y1 = corners[:, :2].min(axis=0).tolist()
    x2, y2 = corners[:, 2:].max(axis=0).tolist()
    pixels = np.zeros((y2 - y1, x2 - x1), dtype=bool)
    for (left, top, right, bottom), part, _ in crops:
        pixels[top - y1 : bottom - y1, left - x1 : right - x1] |= part
    return Crop((x1, y1, x2, y2), pixels)
