"""Silhouettes that move: where an object is expected, what of it others hide, and how far it went.

A silhouette is the whole object, as far as it has been seen: what others hide of it is kept from earlier frames. So its
motion is measured against what should be visible of it, and an object that slides behind another does not seem to slow
down or to shrink. Maps of owners are (H, W) integers: 0 where no thing is, k + 1 on the k-th thing of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.types import Box

__all__ = ["Silhouette", "complete", "count_owners", "displacement"]

_ROUNDS = 4  # of an object of which half is hidden, each leaves at most half of the error
_FEW = 12  # pixels from which a motion can be told


@dataclass(frozen=True)
class Silhouette:
    """The whole shape of an object, and where it is.

    Attributes:
        mask: (h, w) bool, tight.
        x: left edge in pixels, with fractions; it may lie outside of the image, as
        y: the upper edge may.
    """

    mask: NDArray[np.bool_]
    x: float
    y: float

    @classmethod
    def of(cls, mask: NDArray[np.bool_], x: float, y: float) -> Silhouette:
        """Return the silhouette of a mask (h, w) whose upper left corner is at x, y; it is cut to its pixels."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(np.ascontiguousarray(cut), x + int(columns[0]), y + int(rows[0]))

    @property
    def area(self) -> int:
        """Pixels of the whole shape."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels."""
        height, width = self.mask.shape
        return self.x, self.y, self.x + width, self.y + height

    def moved(self, dx: float, dy: float) -> Silhouette:
        """Return it elsewhere."""
        return replace(self, x=self.x + dx, y=self.y + dy)

    def window(self, size: tuple[int, int]) -> tuple[Box, NDArray[np.bool_]]:
        """Return the part of an image of `size` (H, W) that it covers, at whole pixels, and its pixels in it."""
        height, width = self.mask.shape
        left, top = round(self.x), round(self.y)
        x1, x2 = np.clip([left, left + width], 0, size[1]).tolist()
        y1, y2 = np.clip([top, top + height], 0, size[0]).tolist()
        return (x1, y1, x2, y2), self.mask[y1 - top : y2 - top, x1 - left : x2 - left]


def count_owners(silhouette: Silhouette, owners: NDArray[np.integer[Any]], count: int) -> NDArray[np.int64]:
    """Count the pixels of a silhouette that belong to no thing and to each of `count` things, (count + 1,)."""
    (x1, y1, x2, y2), part = silhouette.window(_size(owners))
    return np.bincount(owners[y1:y2, x1:x2][part], minlength=count + 1)


def displacement(
    silhouette: Silhouette, owners: NDArray[np.integer[Any]], number: int, box: Box
) -> tuple[float, float, float]:
    """Measure how far an object is from where it was expected.

    What should be visible of the silhouette, which is what no other thing and no border hides, is moved until its
    centre is that of what is visible.

    Args:
        silhouette: where the object was expected.
        owners: (H, W).
        number: what it is in `owners`.
        box: of its visible part.

    Returns:
        dx and dy in pixels, and the fraction of the silhouette that could be compared, 0..1; with 0 the least that
        takes the silhouette's box over the visible part.
    """
    seen = _centre(owners[box[1] : box[3], box[0] : box[2]] == number, box[0], box[1])
    dx, dy, share = 0.0, 0.0, 0.0
    for _ in range(_ROUNDS):
        moved = silhouette.moved(dx, dy)
        (x1, y1, x2, y2), part = moved.window(_size(owners))
        under = owners[y1:y2, x1:x2]
        visible = part & ((under == 0) | (under == number))
        area = int(np.count_nonzero(visible))
        if area < _FEW:
            break
        x, y = _centre(visible, x1 + moved.x - round(moved.x), y1 + moved.y - round(moved.y))
        step = seen[0] - x, seen[1] - y
        dx, dy, share = dx + step[0], dy + step[1], area / max(silhouette.area, 1)
        if max(map(abs, step)) < 0.05:
            break
    if share:
        return dx, dy, share
    left, top, right, bottom = silhouette.box  # of a few pixels one can tell only that they belong to it
    return _into(box[0], box[2], left, right), _into(box[1], box[3], top, bottom), 0.0


def complete(silhouette: Silhouette, owners: NDArray[np.integer[Any]], number: int, box: Box) -> Silhouette:
    """Return the silhouette with what is visible of the object now, and what is hidden as it was.

    Args:
        silhouette: of the object, where it is now.
        owners: (H, W).
        number: what the object is in `owners`.
        box: of its visible part.
    """
    left, top = round(silhouette.x), round(silhouette.y)
    height, width = silhouette.mask.shape
    x1, y1 = min(left, box[0]), min(top, box[1])
    x2, y2 = max(left + width, box[2]), max(top + height, box[3])
    whole = np.zeros((y2 - y1, x2 - x1), dtype=bool)
    whole[top - y1 : top - y1 + height, left - x1 : left - x1 + width] = silhouette.mask
    size = _size(owners)
    rows, columns = slice(max(y1, 0), min(y2, size[0])), slice(max(x1, 0), min(x2, size[1]))
    inside = whole[rows.start - y1 : rows.stop - y1, columns.start - x1 : columns.stop - x1]
    under = owners[rows, columns]
    inside &= (under != 0) & (under != number)  # outside of the image nothing is seen, so the rest stays
    inside |= under == number
    return Silhouette.of(whole, x1 + silhouette.x - left, y1 + silhouette.y - top)


def _centre(mask: NDArray[np.bool_], x: float, y: float) -> tuple[float, float]:
    """Return the mean position of the pixels of a mask whose corner is at x, y."""
    columns, rows = mask.sum(axis=0), mask.sum(axis=1)
    total = max(int(columns.sum()), 1)
    return x + float(columns @ np.arange(len(columns))) / total, y + float(rows @ np.arange(len(rows))) / total


def _into(low: int, high: int, start: float, end: float) -> float:
    """Return the least shift of start..end after which it holds low..high, or as much of it as it can."""
    return min(low - start, 0.0) if low < start else max(high - end, 0.0)


def _size(image: NDArray[Any]) -> tuple[int, int]:
    return int(image.shape[0]), int(image.shape[1])
