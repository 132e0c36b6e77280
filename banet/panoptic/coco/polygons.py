"""Polygons as masks, with the edges where COCO's tools put them.

An outline is walked on a grid five times finer than the pixels. Where it crosses the middle of a column, the pixels
below change sides, from the first one whose centre is not above the crossing. Only these crossings are computed, and
only the polygon's box is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.coco.runs import Crop, fill_runs

__all__ = ["fill_polygon", "read_polygons"]

_FARTHEST = 1 << 16  # pixels that a corner may lie away from the image's
_FINE = 5  # outlines are walked on a grid so many times finer
_MIDDLE = _FINE // 2  # fine column before the middle of a pixel
_LONGEST_OUTLINE = 1 << 20  # pixels, of one object
_MOST_POLYGONS = 10_000  # of one object
_MOST_CORNERS = 1 << 20  # of one object
_WORK = 1 << 14  # what a polygon takes besides, as many times as a pixel of its box; likewise
_WORK_OF_STEP = 16  # a corner, or a column that an edge crosses
_BOTH = np.array([[0.0], [1.0]])
_AROUND = np.array([[-1.0], [0.0], [1.0]])


def read_polygons(polygons: Sequence[Any]) -> list[NDArray[np.float64]]:
    """Return the corners of polygons of a JSON, validated.

    Args:
        polygons: each a list x1, y1, x2, y2, ...

    Returns:
        For each polygon its corners, (N, 2); there may be less than three.

    Raises:
        ValueError: a polygon is not such a list, a corner lies too far away, or there are too many.
    """
    if len(polygons) > _MOST_POLYGONS:
        raise ValueError(f"holds more than {_MOST_POLYGONS:,} polygons")
    outlines = []
    length, count = 0.0, 0
    for n, polygon in enumerate(polygons):
        if (
            not isinstance(polygon, (list, tuple))
            or len(polygon) % 2
            or not {*map(type, polygon)} <= {int, float, np.float64}
        ):
            raise ValueError(f"polygon {n} must be a list of numbers x1, y1, x2, y2, ...")
        count += len(polygon) // 2
        if count > _MOST_CORNERS:
            raise ValueError(f"polygon {n} has more than {_MOST_CORNERS:,} corners, with those before")
        try:
            corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        except OverflowError:  # an integer of hundreds of digits
            corners = np.full((1, 2), np.inf)
        if not (np.abs(corners) <= _FARTHEST).all():
            raise ValueError(f"polygon {n} has a corner more than {_FARTHEST} pixels away, or none at all")
        length += _length(corners)
        if length > _LONGEST_OUTLINE:
            raise ValueError(f"polygon {n}: has an outline of more than {_LONGEST_OUTLINE:,} pixels, with those before")
        outlines.append(corners)
    return outlines


def _length(corners: NDArray[np.float64]) -> float:
    """Return how many steps of a pixel the walk along an outline takes."""
    return float(np.abs(corners - np.concatenate([corners[1:], corners[:1]])).max(axis=1, initial=0).sum())


def fill_polygon(corners: NDArray[np.float64], size: tuple[int, int]) -> Crop:
    """Return the pixels inside of an outline, cut to their box.

    Args:
        corners: (N, 2) x, y; with less than three there is no pixel.
        size: (H, W) of the image.
    """
    if len(corners) < 3:
        return Crop.empty(_WORK)
    stride = size[0] + 1
    column, low = _crossings(corners, size[1])
    work = _WORK + _WORK_OF_STEP * (len(corners) + len(column))
    row = np.ceil(np.minimum(np.maximum((low + 0.5) / _FINE - 0.5, 0), size[0]))
    # A closed outline crosses the middle of a column an even number of times: in order, the crossings are pairs of top
    # and bottom.
    ends = np.sort((column * stride + row).astype(np.int64)).reshape(-1, 2)
    ends = ends[ends[:, 0] < ends[:, 1]]
    if not len(ends):
        return Crop.empty(work)
    column, row = np.divmod(ends, stride)
    x1, x2, y1, y2 = int(column[0, 0]), int(column[-1, 0]) + 1, int(row[:, 0].min()), int(row[:, 1].max())
    height, width = y2 - y1, x2 - x1
    flat = fill_runs(((column - x1) * height + (row - y1)).ravel(), height * width)
    return Crop((x1, y1, x2, y2), flat.reshape(width, height).T, work + height * width)


def _crossings(corners: NDArray[np.float64], width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the walk along an outline crosses the middles of columns.

    The walk along an edge begins at the smaller end of the edge's longer side and takes one step at a time along it;
    the coordinate across is rounded.

    Returns:
        For each crossing its column, and the upper one of the two fine rows between which the step is; (M,) each.
    """
    start = np.trunc(_FINE * corners + 0.5)
    stop = np.concatenate([start[1:], start[:1]])
    dx, dy = (stop - start).T
    flat = np.abs(dx) >= np.abs(dy)
    along, across = np.where(flat, dx, dy), np.where(flat, dy, dx)
    slope = across / (along + (along == 0))
    x1, y1 = np.where((along < 0)[:, None], stop, start).T
    # The columns c of an edge: the fine columns 5 c + 2 and 5 c + 3 are both between its ends.
    left, right = np.minimum(start[:, 0], stop[:, 0]), np.maximum(start[:, 0], stop[:, 0])
    first = np.maximum(np.ceil((left - _MIDDLE) / _FINE), 0)
    last = np.minimum(np.floor((right - _MIDDLE - 1) / _FINE), width - 1)
    count = np.maximum(last - first + 1, 0).astype(np.int64)
    edge = np.repeat(np.arange(len(count)), count)
    column = np.arange(len(edge)) + (first - np.cumsum(count) + count)[edge]
    x, x1, y1, slope = _FINE * column + _MIDDLE, x1[edge], y1[edge], slope[edge]
    # On edges at least as wide as high, the two rows are those of two steps along x.
    low = np.trunc(y1 + slope * (x - x1 + _BOTH) + 0.5).min(axis=0)
    # On the others, steps go along y, and those before the crossing are counted: the quotient alone is not exact.
    steep = np.flatnonzero(~flat[edge])
    if len(steep):
        x, x1, y1, slope = x[steep], x1[steep], y1[steep], slope[steep]
        about = np.floor((x + 0.5 - x1) / slope)
        before = (np.trunc(x1 + slope * (about + _AROUND) + 0.5) <= x) == (slope > 0)
        low[steep] = y1 + about - 2 + before.sum(axis=0)
    return column, low
