"""The contours of either object of a pair inside the other one, and what the image shows there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.colors import linear_lab, log_kernel
from banet.panoptic.occlusion.pairs import Pairs
from banet.panoptic.occlusion.points import DIRECTIONS, contour_points
from banet.types import Size

__all__ = ["Contours", "View"]

_POINTS = 40
"""Points on the contour of either object inside the other one."""
_BANDWIDTH = 3.0
"""Of colors, in CIE Lab: what differs by less is hardly another color."""
_FLOOR = 1e-3
"""Density of colors that an object might have all the same: one odd pixel must not decide."""
_FAINT = 6.0
"""Squared gradients in CIE Lab, summed over 3 x 3 pixels, below which there is no edge but noise."""
_GRID = 28
"""Cells per side in which mask heads give a mask: its contour is not known better than to about a cell."""
_COARSE = 40.0
"""Pixels are looked at so many times further apart as the root of the overlap exceeds this."""
_WITHIN, _BEYOND = (0.1, 0.3, 0.55, 0.8), (0.15, 0.35, 0.7, 1.1)
"""How far from a contour colors are looked at, in units of the reach: within the overlap, and across the contour."""
_RING = np.array([(3 * np.sin(a), 3 * np.cos(a)) for a in np.arange(12) * (np.pi / 6)], dtype=np.float32)
"""Around a point of a contour, (y, x): where the masks are looked at to see which way the contour runs."""

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class View:
    """Pairs, their image and the points at which they are looked at.

    Attributes:
        pairs: P pairs.
        image: (H * W, 3) uint8.
        spacing: (P,) how far apart pixels are looked at: 1, 2, 4 ..
        labels: (H * W,) the region of each pixel.
        points: see `contour_points`.
    """

    pairs: Pairs
    image: NDArray[np.uint8]
    spacing: _Ints
    labels: NDArray[np.int32]
    points: tuple[_Ints, _Ints, _Ints]

    @classmethod
    def of(cls, pairs: Pairs) -> View:
        """Look at one or more pairs with an image; colors that are not integers are rounded."""
        image = pairs.image
        assert image is not None
        if image.dtype != np.uint8:
            image = np.rint(image).astype(np.uint8)
        spacing = 1 << np.log2(np.maximum(1, np.sqrt(pairs.overlap) / _COARSE)).round().astype(np.int64)
        labels = np.repeat(pairs.regions.labels.astype(np.int32), pairs.regions.lengths)
        points = contour_points(pairs, labels, _POINTS)
        return cls(pairs, np.ascontiguousarray(image).reshape(-1, 3), spacing, labels, points)


@dataclass(frozen=True, eq=False)
class Contours:
    """Points on the contours of pairs, and what can be looked up around them.

    The first contour is that of the first object inside the second one, the second the other way round.

    Attributes:
        size: (H, W).
        image: (H * W, 3) uint8.
        labels: (H * W,) the region of each pixel.
        claims: (P * R,) uint8, who claims which region: 1 for the first object of the pair plus 2 for the second.
        rows: (P,) where the claims of each pair begin.
        y: (2, S, P) where the contour points lie, in whole pixels, and
        x: (2, S, P).
        valid: (2, S, P) whether there is such a point.
        normal: (2 coordinates y, x, 2, S, P) of length 1, from what only the other object claims into the overlap.
        spacing: (P,) how far apart pixels are looked at.
        reach: (P,) how far the colors nearby reach, in pixels: beyond what the contours are uncertain by.
    """

    size: Size
    image: NDArray[np.uint8]
    labels: NDArray[np.int32]
    claims: NDArray[np.uint8]
    rows: _Ints
    y: _Ints
    x: _Ints
    valid: _Mask
    normal: _Floats
    spacing: _Ints
    reach: _Floats

    @classmethod
    def of(cls, view: View, rows: _Ints) -> Contours:
        """Look at the pairs in some rows (K,) of a view, at every point of their contours."""
        pairs = view.pairs.at(rows)
        pixel, direction, counts = (part[..., rows] for part in view.points)
        outward = np.moveaxis(DIRECTIONS[direction], -1, 0)
        place = np.stack(np.divmod(pixel, view.pairs.regions.size[1]))
        place[:, :, 1::2] += outward[:, :, 1::2]  # every second point lies on the other side of the contour
        claims = _claims(pairs)
        there = cls(
            size=pairs.regions.size,
            image=view.image,
            labels=view.labels,
            claims=claims.reshape(-1),
            rows=np.arange(len(pairs)) * claims.shape[1],
            y=place[0],
            x=place[1],
            valid=np.arange(_POINTS)[:, None] < counts[:, None],
            normal=-outward.astype(np.float32),
            spacing=view.spacing[rows],
            reach=_reach(pairs),
        )
        return replace(there, normal=there._normals())

    def contrast(self) -> NDArray[np.float64]:
        """Return whose own pixels across the contours have the colors of the overlap, (P,): above 0 the first's.

        If the first object is in front, the overlap differs from what only the second claims, on the other side of the
        first's contour, and goes on beyond the second's. For points within the overlap, beside either contour, the
        density of their color among points on the other side of a contour; the mean log ratio of the two densities.
        """
        colors, within = self._walk(_WITHIN, 3)
        others, beyond = self._walk([-depth for depth in _BEYOND], np.array([2, 1], dtype=np.uint8).reshape(2, 1, 1))
        inside = colors.reshape(len(colors), -1, 3)
        density = []
        for contour in (1, 0):  # own pixels of the first object lie beyond the contour of the second
            exponents = log_kernel(inside, others[:, contour], _BANDWIDTH, beyond[:, contour])
            count = np.maximum(beyond[:, contour].sum(axis=1), 1)
            kernel = np.exp(exponents, out=exponents) @ np.ones(exponents.shape[2], dtype=np.float32)
            density.append(np.log(kernel / count[:, None] + _FLOOR))
        ratio = np.where(within, (density[0] - density[1]).reshape(within.shape), 0).sum(axis=2)
        mean: NDArray[np.float64] = (ratio[:, 0] + ratio[:, 1]) / np.maximum(within.sum(axis=(1, 2)), 1)
        return np.where(beyond.sum(axis=2).min(axis=1) > 0, mean, 0)

    def edge(self, *, wide: bool) -> tuple[NDArray[np.float64], _Mask]:
        """Return along whose contour the edges of the image run, (P,), and whether there is any edge at all, (P,).

        If the first object is in front, there is an edge in the image where its contour crosses the second object, and
        it runs as the contour does; where the second's contour crosses the first, edges run that way by chance only. In
        3 x 3 pixels around points of either contour, the energy (squared gradient of the color) across the contour less
        that along it, as a fraction of both; its mean; the difference of the two contours. Texture, strong as it may
        be, runs in all directions.

        Args:
            wide: whether to take Sobel's gradients, of which 3 x 3 pixels need 5 x 5; else differences along diagonals.
        """
        reach = 2 if wide else 1
        near = np.arange(-reach, reach + 1).reshape(-1, 1, 1, 1) * self.spacing
        colors = self._colors((self.y + near)[:, None], (self.x + near)[None])  # 3 of (5, 5, 2, S, P) or (3, 3, ..)
        energy, excess, product = (_sobel_products if wide else _diagonal_products)(colors)
        ny, nx = self.normal
        across = (nx * nx - ny * ny) * excess + 4 * nx * ny * product  # energy across less energy along
        fraction = across / (energy + np.float32(_FAINT))  # from -1, all along, to 1, all across
        count = self.valid.sum(axis=1)
        first, second = (fraction * self.valid).sum(axis=1, dtype=np.float64) / np.maximum(count, 1)
        seen = np.count_nonzero((energy > 0) & self.valid, axis=(0, 1))
        return np.where(count.min(axis=0) > 0, first - second, 0), seen > 0

    def _walk(self, depths: Any, claimed: Any) -> tuple[_Floats, _Mask]:
        """Return colors some way into the overlap, or away from it (depths below 0): one per contour point.

        Args:
            depths: in units of the reach; the points take them in turn.
            claimed: by whom a point there has to be claimed, see `claims`.

        Returns:
            L, a and b, (P, 2, S, 3), and whether the points count, (P, 2, S).
        """
        far = np.resize(np.array(depths, dtype=np.float32), self.y.shape[1])[:, None] * self.reach
        y, x = (
            np.floor(place + np.float32(0.5) + far * along).astype(np.int64)
            for place, along in zip((self.y, self.x), self.normal, strict=True)
        )
        counts = self.valid & np.equal(self._claimants(y, x), claimed)
        colors = np.stack(self._colors(y, x), axis=3)  # (2, S, P, 3)
        return colors.transpose(2, 0, 1, 3), counts.transpose(2, 0, 1)

    def _normals(self) -> _Floats:
        """Return which way the contours run: the direction in which, around a point, most of the overlap lies."""
        ring = _RING.reshape(-1, 2, 1, 1, 1) * self.spacing.astype(np.float32)
        step = np.floor(ring + 0.5).astype(np.int64)
        who = self._claimants(self.y + step[:, 0], self.x + step[:, 1])  # (12, 2, S, P)
        sign = (who == 3).astype(np.float32)
        sign[:, 0] -= who[:, 0] == 2
        sign[:, 1] -= who[:, 1] == 1
        normal = np.stack([(sign * _RING[:, k].reshape(-1, 1, 1, 1)).sum(axis=0) for k in (0, 1)])
        length = np.sqrt(normal[0] ** 2 + normal[1] ** 2)
        return np.where(length > 1e-3, normal / np.maximum(length, np.float32(1e-3)), self.normal)

    def _colors(self, y: _Ints, x: _Ints) -> list[_Floats]:
        """Return L, a and b of pixels (.., P), the nearest for those beyond the image."""
        height, width = self.size
        return linear_lab(self.image.take(y.clip(0, height - 1) * width + x.clip(0, width - 1), axis=0))

    def _claimants(self, y: _Ints, x: _Ints) -> NDArray[np.uint8]:
        """Return who claims pixels (.., P): see `claims`; 0 beyond the image."""
        height, width = self.size
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixels = np.where(within, y * width + x, 0)
        return self.claims.take(self.rows + self.labels.take(pixels)) * within


def _claims(pairs: Pairs) -> NDArray[np.uint8]:
    """Return who claims which region, (P, R): 1 for the first object of the pair plus 2 for the second."""
    regions = pairs.regions
    names, objects = np.unique(np.stack([pairs.i, pairs.j]), return_inverse=True)
    row = np.full(len(pairs.areas), -1, dtype=np.int64)
    row[names] = np.arange(len(names))
    mine = row[regions.claims_object] >= 0
    claims = np.zeros((len(names), len(regions.sizes)), dtype=np.uint8)
    claims[row[regions.claims_object[mine]], regions.claims_region[mine]] = 1
    first, second = objects.reshape(2, -1)
    both: NDArray[np.uint8] = claims[first] + 2 * claims[second]
    return both


def _reach(pairs: Pairs) -> _Floats:
    """Return how far colors nearby reach, (P,) pixels: beyond what the contours are uncertain by."""
    boxes = pairs.masks.boxes.astype(np.float64)
    cell = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / _GRID
    reach = np.maximum(np.maximum(2, cell[pairs.i] + cell[pairs.j]), 0.25 * np.sqrt(pairs.overlap))
    return reach.astype(np.float32)


def _diagonal_products(colors: list[_Floats]) -> tuple[_Floats, _Floats, _Floats]:
    """Return the structure of the gradients of 3 x 3 pixels, by differences along the diagonals of 2 x 2 (Roberts).

    Args:
        colors: L, a and b, (3, 3, ..) each.

    Returns:
        Energy xx + yy, excess xx - yy and product xy, summed over colors and squares of 2 x 2 pixels.
    """
    down_down, down_up, up_up = np.zeros((3, *colors[0].shape[2:]), dtype=np.float32)
    for color in colors:
        falling, rising = color[1:, 1:] - color[:-1, :-1], color[:-1, 1:] - color[1:, :-1]
        down_down += (falling * falling).sum(axis=(0, 1))
        up_up += (rising * rising).sum(axis=(0, 1))
        down_up += (falling * rising).sum(axis=(0, 1))
    return (down_down + up_up) / 2, down_up, (down_down - up_up) / 4


def _sobel_products(colors: list[_Floats]) -> tuple[_Floats, _Floats, _Floats]:
    """Return the structure of Sobel's gradients in the middle 3 x 3 of 5 x 5 pixels, as `_diagonal_products`."""
    xx, yy, xy = np.zeros((3, *colors[0].shape[2:]), dtype=np.float32)
    for color in colors:
        rows = color[:-2] + 2 * color[1:-1] + color[2:]
        columns = color[:, :-2] + 2 * color[:, 1:-1] + color[:, 2:]
        right, down = (rows[:, 2:] - rows[:, :-2]) / 8, (columns[2:] - columns[:-2]) / 8
        xx += (right * right).sum(axis=(0, 1))
        yy += (down * down).sum(axis=(0, 1))
        xy += (right * down).sum(axis=(0, 1))
    return xx + yy, xx - yy, xy
