"""Points of overlapping pairs, on the contours of either object inside the other one.

The points of a pair depend on its two masks only: other objects cut regions into smaller ones, but points are counted
along all of them, in reading order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.pairs import Pairs
from banet.panoptic.occlusion.regions import Regions, ranges

__all__ = ["DIRECTIONS", "contour_points", "spread"]

DIRECTIONS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])
"""(y, x) of the neighbours to the right, to the left, below and above."""

_BITS = 63
"""Of a number, which hold the two regions and the place of a point."""

_Ints = NDArray[np.int64]


def contour_points(pairs: Pairs, labels: NDArray[np.int32], most: int) -> tuple[_Ints, _Ints, _Ints]:
    """Return points on the contour of either object inside the other one, evenly spread.

    A point lies between a pixel that both claim and a neighbour that only the other object claims.

    Args:
        pairs: P pairs.
        labels: (H * W,) the region of each pixel.
        most: S, points per contour.

    Returns:
        The pixel and the direction of its neighbour (index in `DIRECTIONS`), (2, S, P) each, of the first object's
        contour and of the second's, where there are fewer points with repetitions at the end; and how many points there
        are to choose from, (2, P).
    """
    regions, count = pairs.regions, len(pairs.areas)
    area, total = len(labels), len(regions.sizes)
    pixel, direction = _borders(regions, labels)
    label, other = labels[pixel].astype(np.int64), labels[pixel + DIRECTIONS[direction] @ (regions.size[1], 1)]
    bits = max(1, (4 * area - 1).bit_length())
    borders = label * total + other
    known: _Ints | None = None
    if (total * total).bit_length() + bits > _BITS:  # large images of very many regions: only those that touch count
        known, borders = np.unique(borders, return_inverse=True)
    # Sorted by the two regions: sorting numbers is much faster than sorting their places.
    coded = np.sort((borders << bits) + 4 * pixel + direction)
    kinds, points = coded >> bits, coded & ((1 << bits) - 1)
    heads = np.flatnonzero(np.diff(kinds, prepend=-1))
    sizes = np.diff(heads, append=len(kinds))
    touching = kinds[heads] if known is None else known[kinds[heads]]
    kind, leaver, stayer = _leavers(regions, *np.divmod(touching, total), count)
    low, high = np.minimum(leaver, stayer), np.maximum(leaver, stayer)
    wanted = pairs.i * count + pairs.j
    pair = np.minimum(np.searchsorted(wanted, low * count + high), len(wanted) - 1)
    found = wanted[pair] == low * count + high
    kind, group = kind[found], (2 * pair + (leaver > stayer))[found]
    every = np.sort((np.repeat(group, sizes[kind]) << bits) + points[ranges(heads[kind], sizes[kind])])
    bounds = np.searchsorted(every, np.arange(2 * len(pairs) + 1) << bits)
    counts = np.diff(bounds)
    place = spread(counts, most)
    chosen = every[np.minimum(bounds[:-1, None] + place, len(every) - 1)] if len(every) else place
    point = np.ascontiguousarray((chosen & ((1 << bits) - 1)).reshape(-1, 2, most).transpose(1, 2, 0))
    return point // 4, point % 4, counts.reshape(-1, 2).T


def _borders(regions: Regions, labels: NDArray[np.int32]) -> tuple[_Ints, _Ints]:
    """Return pixels that several objects claim beside pixels of another region, and in which direction: twice (M,)."""
    width = regions.size[1]
    left = regions.starts[1:] - 1
    left = left[(left + 1) % width != 0]
    above = np.flatnonzero(labels[:-width] != labels[width:])
    pixel = np.concatenate([left, left + 1, above, above + width])
    direction = np.repeat(np.arange(4), [len(left), len(left), len(above), len(above)])
    several = (regions.depths() > 1)[labels[pixel]]
    return pixel[several], direction[several]


def _leavers(regions: Regions, inner: _Ints, outer: _Ints, count: int) -> tuple[_Ints, _Ints, _Ints]:
    """Return who ends and who goes on where one region borders on another.

    Args:
        regions: the regions.
        inner: (K,) regions, and
        outer: (K,) regions beside them.
        count: number of objects.

    Returns:
        Positions in `inner`, an object that claims only the inner region, and one that claims both; each is (M,).
    """
    depth = regions.depths()
    first = np.cumsum(depth) - depth
    kind = np.repeat(np.arange(len(inner)), depth[inner])
    claimant = regions.claims_object[ranges(first[inner], depth[inner])]
    claims = regions.claims_region * count + regions.claims_object  # ascending
    asked = outer[kind] * count + claimant
    stays = claims[np.minimum(np.searchsorted(claims, asked), len(claims) - 1)] == asked
    staying = np.bincount(kind[stays], minlength=len(inner))
    begin = np.cumsum(staying) - staying
    times = staying[kind[~stays]]
    return (
        np.repeat(kind[~stays], times),
        np.repeat(claimant[~stays], times),
        claimant[stays][ranges(begin[kind[~stays]], times)],
    )


def spread(counts: int | _Ints, most: int) -> _Ints:
    """Return places among 0 .. count - 1, evenly spread; of fewer than `most` the last is repeated.

    Args:
        counts: one count, or (G,).
        most: how many places.

    Returns:
        (most,), or (G, most).
    """
    count = np.asarray(counts)[..., None]
    even = ((np.arange(most) + 0.5) * (np.maximum(count, most) / most)).astype(np.int64)
    places: _Ints = np.minimum(even, np.maximum(count - 1, 0))
    return places
