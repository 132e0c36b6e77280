"""Masks as outlines: polygons along the edges of pixels, which give the same masks back when they are filled.

A polygon of a COCO JSON or of a YOLO file has one outline, and several polygons of an object are united. A hole is
therefore joined to the outline around it by a line that is walked there and back (a *bridge*), and parts can be joined
likewise. Such a line has no area: `fill_polygon`, pycocotools and every other even-odd filling leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["join_outlines", "trace_outlines"]

_Ring: TypeAlias = list[tuple[int, int]]

_MOST_COMPARED = 500  # corners of each of two outlines among which the shortest bridge is looked for


def trace_outlines(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[NDArray[np.int64]]:
    """Return the outlines of a mask, one per part that is connected by edges of pixels, holes included.

    Filling them with `fill_polygon` and uniting the results gives the mask, exactly.

    Args:
        mask: (H, W) bool.
        left: column of its first pixel in the image.
        top: row of its first pixel in the image.

    Returns:
        For each part its corners (N, 2), x and y, from the top; none for a mask without a pixel.
    """
    rings = _rings(mask)
    starts = [min((y, x) for x, y in ring) for ring in rings]
    order = sorted(range(len(rings)), key=starts.__getitem__)
    is_part = {n: bool(mask[starts[n]]) for n in order}
    sides = _Sides([rings[n] for n in order], mask.shape[1])
    joined: dict[int, list[tuple[int, tuple[int, int], _Ring]]] = {}
    parts: list[NDArray[np.int64]] = []
    # A hole is joined to the outline at its left, which begins above it or further left, and so comes before it.
    for place in range(len(order) - 1, -1, -1):
        n = order[place]
        ring = _spliced(rings[n], joined.pop(place, []))
        if is_part[n]:
            parts.append(np.array(ring, np.int64) + np.array([left, top]))
            continue
        y, x = starts[n]
        ring = _from_corner(ring, (x, y))
        other, edge, at = sides.left_of(x, y)
        joined.setdefault(other, []).append((edge, (at, y), ring))
    return parts[::-1]


def join_outlines(outlines: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return one outline of several parts, joined by bridges between corners that are near one another.

    Args:
        outlines: one or more, (N, 2) each.
    """
    joined = outlines[0]
    for outline in outlines[1:]:
        here = np.linspace(0, len(joined) - 1, min(len(joined), _MOST_COMPARED)).astype(np.int64)
        there = np.linspace(0, len(outline) - 1, min(len(outline), _MOST_COMPARED)).astype(np.int64)
        distances = np.abs(joined[here, None] - outline[None, there]).sum(axis=2)
        row, column = np.unravel_index(distances.argmin(), distances.shape)
        i, j = here[row], there[column]
        joined = np.concatenate([joined[: i + 1], outline[j:], outline[: j + 1], joined[i:]])
    return joined


def _rings(mask: NDArray[np.bool_]) -> list[_Ring]:
    """Return the closed outlines of a mask, its parts' and its holes', each a list of corners x, y.

    The corners of a row are, from the left, ends of its horizontal edges by pairs; those of a column, from the top, of
    its vertical edges. Where two pixels touch by a corner only, it counts twice, and the outline keeps to one pixel.
    """
    padded = np.pad(mask, 1).astype(np.int8)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    count = nw + ne + sw + se
    touch = (count == 2) & (nw == se)
    y, x = np.nonzero((count % 2 == 1) | touch)
    twice = touch[y, x]
    # Of a corner that counts twice the first copy has the edge to the left, the second the one to the right.
    y, x, rising = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice), np.repeat(ne[y, x] == 1, 1 + twice)
    twice = np.repeat(twice, 1 + twice)
    second = np.zeros(len(y), bool)
    second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    across = np.arange(len(y)).reshape(-1, 2)[:, ::-1].ravel()
    # Which copy has the edge upwards: the first, but the second where the pixels are at the upper right, lower left.
    lower = np.where(twice & rising, ~second, second)
    order = np.lexsort((lower, y, x))
    along = np.empty(len(y), np.int64)
    along[order] = order.reshape(-1, 2)[:, ::-1].ravel()
    rings: list[_Ring] = []
    left = np.ones(len(y), bool)
    h_partner, v_partner, xs, ys = across.tolist(), along.tolist(), x.tolist(), y.tolist()
    for first in range(len(ys)):
        if not left[first]:
            continue
        ring, at = [], first
        while True:
            ring.append((xs[at], ys[at]))
            left[at] = False
            at = h_partner[at]
            ring.append((xs[at], ys[at]))
            left[at] = False
            at = v_partner[at]
            if at == first:
                break
        rings.append(ring)
    return rings


class _Sides:
    """The vertical edges of outlines, to find the one at the left of a corner.

    Args:
        rings: the outlines.
        width: of the mask in pixels.
    """

    def __init__(self, rings: Sequence[_Ring], width: int) -> None:
        edges = [
            (n, k, x, min(y, ring[(k + 1) % len(ring)][1]), max(y, ring[(k + 1) % len(ring)][1]))
            for n, ring in enumerate(rings)
            for k, (x, y) in enumerate(ring)
            if k % 2  # outlines begin with a horizontal edge
        ]
        ring, edge, x, top, bottom = np.array(edges, np.int64).reshape(-1, 5).T
        # One entry per row that an edge passes, in reading order: looking one up takes no longer where there are many.
        long = bottom - top
        whole = np.repeat(np.arange(len(edges)), long)
        rows = np.arange(len(whole)) - np.repeat(np.cumsum(long) - long - top, long)
        self._width = width
        keys = self._key(x[whole], rows)
        order = np.argsort(keys)
        self._keys, whole = keys[order], whole[order]
        self._found = np.stack([ring[whole], edge[whole], x[whole]], axis=1)

    def left_of(self, x: int, y: int) -> tuple[int, int, int]:
        """Return outline, edge and column of the nearest vertical edge at the left of pixel row y."""
        ring, edge, column = self._found[np.searchsorted(self._keys, self._key(x, y)) - 1].tolist()
        return ring, edge, column

    def _key(self, x: Any, y: Any) -> Any:
        return y * (self._width + 1) + x


def _spliced(ring: _Ring, joined: list[tuple[int, tuple[int, int], _Ring]]) -> _Ring:
    """Return an outline with others joined to points of its vertical edges; each of those begins at its own corner."""
    by_edge: dict[int, list[tuple[tuple[int, int], _Ring]]] = {}
    for edge, point, other in joined:
        by_edge.setdefault(edge, []).append((point, other))
    result: _Ring = []
    for edge, corner in enumerate(ring):
        result.append(corner)
        down = ring[(edge + 1) % len(ring)][1] > corner[1]
        for point, other in sorted(by_edge.get(edge, ()), key=lambda one: one[0][1], reverse=not down):
            result += [point, *other, other[0], point]
    return result


def _from_corner(ring: _Ring, corner: tuple[int, int]) -> _Ring:
    """Return an outline that begins at one of its corners."""
    at = ring.index(corner)
    return ring[at:] + ring[:at]
