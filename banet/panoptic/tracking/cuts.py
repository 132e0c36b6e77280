"""Cuts and jumps of the camera: frames after which nothing is where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.colors import to_lab

__all__ = ["CutDetector"]

_GRID = 16  # cells per side of the small image that frames are compared by
_RECENT = 12  # changes between frames that say what is usual
_LEAST, _TIMES = 6.0, 3.0  # a jump changes colors by this much in CIE Lab, and by this much more than is usual
_LARGE = 20.0  # a change that is a cut where there were no things
_OTHER_CLASS = 40.0
_FOUND = 0.25  # fraction of the things' pixels below which they are lost


class CutDetector:
    """Tells a cut from motion: the image changes at once, and the things are not where they should be.

    Either alone is not a cut: a flash changes the image and moves nothing, and an object may be lost in any frame.
    Without an image, the classes of the pixels take its place.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float64] | None = None
        self._changes: list[float] = []

    def is_cut(self, image: NDArray[Any] | None, classes: NDArray[np.int32], found: float | None) -> bool:
        """Return whether a frame follows a cut, and remember it.

        Args:
            image: (H, W, 3) uint8, or None.
            classes: (H, W) category id of each pixel.
            found: what fraction of the pixels of the last frame's things is found where it was expected; None where
                there were none.
        """
        small = _small_image(image) if image is not None else _small_classes(classes)
        last, self._last = self._last, small
        if last is None or last.shape != small.shape:
            return False
        change = _difference(small, last)
        usual = float(np.median(self._changes)) if self._changes else 0.0
        self._changes = [*self._changes, change][-_RECENT:]
        jump = change > max(_LEAST, _TIMES * usual)
        cut = jump and (change > _LARGE if found is None else found < _FOUND)
        if cut:
            self._changes = []
        return cut

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {"last": None if self._last is None else self._last.tolist(), "changes": self._changes}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> CutDetector:
        """Return what `to_json` wrote.

        Raises:
            ValueError: it is damaged, as KeyError and TypeError say, too.
        """
        made = cls()
        if entry["last"] is not None:
            made._last = np.array(entry["last"], dtype=np.float64)
            if made._last.ndim != 3 or not np.isfinite(made._last).all():
                raise ValueError("the last frame of 'cuts' is not a small image")
        made._changes = [float(change) for change in entry["changes"]][-_RECENT:]
        return made


def _small_image(image: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean color of each cell of a grid in CIE Lab, (3, rows, columns)."""
    few = image[:: max(1, image.shape[0] // 256), :: max(1, image.shape[1] // 256)]  # enough for a mean
    rows, columns = _edges(few.shape[0]), _edges(few.shape[1])
    sums = np.add.reduceat(np.add.reduceat(few.astype(np.float32), rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff(rows, append=few.shape[0]), np.diff(columns, append=few.shape[1]))
    means = (sums / counts[..., None]).astype(np.float32)
    return to_lab(list(means.transpose(2, 0, 1))).astype(np.float64)


def _small_classes(classes: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the class in the middle of each cell of a grid, (1, rows, columns)."""
    rows, columns = (((2 * np.arange(_GRID) + 1) * extent) // (2 * _GRID) for extent in classes.shape)
    return np.asarray(classes[np.ix_(rows, columns)][None], dtype=np.float64)


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean difference of the cells: of colors in CIE Lab; a class that differs counts as `_OTHER_CLASS`."""
    if len(one) == 1:
        return _OTHER_CLASS * float((one != other).mean())
    return float(np.sqrt(((one - other) ** 2).sum(axis=0)).mean())


def _edges(extent: int) -> NDArray[np.int64]:
    edges: NDArray[np.int64] = np.unique(np.arange(_GRID) * extent // _GRID)
    return edges
