"""Polygons as they were decoded before: the whole walk along each outline, the whole image accumulated. Slow."""

from __future__ import annotations

import numpy as np

FINE = 5  # outlines are walked on a grid so many times finer


def decode_polygons(polygons, size):
    """Return the union of polygons x1, y1, x2, y2, ... of at least three corners as (H, W) bool."""
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        mask |= fill(np.array(polygon, dtype=np.float64).reshape(-1, 2), size)
    return mask


def fill(corners, size):
    height, width = size
    fine = np.trunc(FINE * corners + 0.5).astype(np.int64)
    path = np.concatenate([walk(a, b) for a, b in zip(fine, np.roll(fine, -1, axis=0), strict=True)], axis=1)
    low = np.minimum(path[:, 1:], path[:, :-1])[:, path[0, 1:] != path[0, :-1]]  # steps from one fine column to another
    column, at = np.divmod(low[0], FINE)
    crossing = (at == FINE // 2) & (column >= 0) & (column < width)
    row = np.ceil(((low[1, crossing] + 0.5) / FINE - 0.5).clip(0, height)).astype(np.int64)
    changes = np.bincount(column[crossing] * height + row, minlength=height * width + 1)
    return (np.cumsum(changes[:-1]) % 2 == 1).reshape(width, height).T


def walk(start, end):
    """Return the points (2, M) of the fine grid along an edge, one for each step of its longer side."""
    dx, dy = (int(v) for v in np.abs(end - start))
    long = 0 if dx >= dy else 1
    steps = max(dx, dy)
    back = (
        start[long] > end[long]
    )  # always computed in ascending order, so that an edge does not depend on its direction
    first, last = (end, start) if back else (start, end)
    t = np.arange(steps + 1)
    slope = (last[1 - long] - first[1 - long]) / max(steps, 1)
    points = np.empty((2, steps + 1), dtype=np.int64)
    points[long] = first[long] + t
    points[1 - long] = np.trunc(first[1 - long] + slope * t + 0.5)
    return points[:, ::-1] if back else points
