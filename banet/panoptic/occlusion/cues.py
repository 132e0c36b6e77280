"""What the image and the masks say about which object is in front; the rule "color-contour" adds it up.

Everything is signed: above 0 speaks for the first object, below 0 for the second, and exchanging the two exchanges the
sign exactly. "Own" pixels of an object are those that the other one does not claim.

All pairs are measured together, at a few points of each: the image is read nowhere else, so that the time does not grow
with its size. Those that are then left open are looked at more closely. Arrays of all pairs end in an axis of P.
Everything is computed element by element, so that a pair gives the same numbers whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.id_maps import tight_box
from banet.panoptic.occlusion.colors import Halvings, to_lab
from banet.panoptic.occlusion.pairs import Pairs
from banet.panoptic.occlusion.points import DIRECTIONS, contour_points
from banet.panoptic.validation import MaskCrops
from banet.types import Box, Size

__all__ = ["CLOSE", "CLOSER_LOOK", "FIRST_LOOK", "View", "log_odds", "measure_cues"]

FIRST_LOOK = {"contrast": 0.5, "edge": 3.3, "own_share": 0.25, "size": 0.7}
"""Log odds per unit of each cue: logistic regression without intercept over pairs of many kinds of images, rounded."""
CLOSER_LOOK = {"local_color": 1.15, "edge": 3.3, "own_share": 0.3, "size": 0.7}
"""The same where the first look leaves it open: `local_color` says more than `contrast`, and takes more time."""
CLOSE = 1.0
"""Log odds below which the first look leaves it open."""

_CONTOUR_POINTS = 40
"""Points on the contour of either object inside the other one; the first look takes every second one."""
_OVERLAP_PIXELS, _OWN_PIXELS = 48, 96
"""Pixels of the overlap, and own pixels of each object, that a closer look compares."""
_BANDWIDTH, _WIDE_BANDWIDTH = 3.0, 4.0
"""Of colours, in CIE Lab: what differs by less is hardly another colour."""
_FLOOR = 1e-3
"""Density of colours that an object might have all the same: one odd pixel must not decide."""
_FAINT = 6.0
"""Squared gradients in CIE Lab, summed over 3 x 3 pixels, below which there is no edge but noise."""
_ALWAYS = 0.05
"""Fraction of an object that is taken as its own even when nothing is."""
_GRID = 28
"""Cells per side in which mask heads give a mask: its contour is not known better than to about a cell."""
_COARSE = 40.0
"""Gradients are taken over so many more pixels as the root of the overlap exceeds this."""
_BLOCK = 128
"""Pairs measured together: bounds the memory."""

_TURNS = {room: np.arange(room) + 0.5 for room in (_OVERLAP_PIXELS, _OWN_PIXELS)}
_SIDE = 128
"""A closer look is taken at a halving in which the surroundings have about this side."""
_DEPTHS = (0.1, 0.2, 0.4, 0.6)
"""How far from a contour colours are compared, in units of the reach."""
_RING = np.array([(3 * np.sin(a), 3 * np.cos(a)) for a in np.arange(12) * (np.pi / 6)], dtype=np.float32)
"""Around a point of a contour, (y, x): where the masks are looked at to see which way the contour runs."""

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_Mask = NDArray[np.bool_]


def log_odds(pairs: Pairs) -> NDArray[np.float64]:
    """Return how likely the first object of each pair is in front, (P,): the weighted sum of its cues.

    Args:
        pairs: with an image.
    """
    if not len(pairs):
        return np.zeros(0)
    view = View.of(pairs)
    every = np.arange(len(pairs))
    cues = measure_cues(view, every, closer=False)
    odds = _weighted(FIRST_LOOK, cues)
    close = np.flatnonzero(np.abs(odds) < CLOSE)
    odds[close] = _weighted(CLOSER_LOOK, measure_cues(view, close, closer=True))
    return odds


def _weighted(weights: Mapping[str, float], cues: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.zeros(cues.shape[1])
    for weight, cue in zip(weights.values(), cues, strict=True):
        odds += weight * cue
    return odds


def measure_cues(view: View, rows: _Ints, *, closer: bool) -> NDArray[np.float64]:
    """Return the cues of some pairs, (4, K) float64, in the order of `FIRST_LOOK`, or of `CLOSER_LOOK`.

    * contrast: across whose contour the colors stay the same. If the first object is in front, the overlap differs
      from what only the second claims, on the other side of the first's contour, and goes on beyond the second's. At
      points of either contour, the density of the colors on the one side among those on the other; the mean log; the
      difference of the two contours.
    * local_color: whose own pixels nearby have the overlap's colors, see `local_color`.
    * edge: along whose contour the edges of the image run. If the first object is in front, there is an edge in the
      image where its contour crosses the second object, and it runs as the contour does; where the second's contour
      crosses the first, edges run that way by chance only. In 3 x 3 pixels around points of either contour, the energy
      (squared gradient of the color) across the contour over that along it; the mean of half the log ratio; the
      difference of the two contours. Texture, strong as it may be, runs in all directions.
    * own_share: which object would be nearly hidden, and then would hardly have been found behind.
    * size: which object is smaller. A mask is known to about 1/28 of its box, so the larger one's errors reach further.

    All are 0 where the image has one color all around, and between equal masks.

    Args:
        view: the pairs, and their image.
        rows: (K,) pairs.
        closer: whether for `CLOSER_LOOK`, which takes more time.
    """
    pairs = view.pairs.at(rows)
    cues = np.zeros((len(FIRST_LOOK), len(pairs)))
    own = [1 - pairs.overlap / pairs.areas[n] + _ALWAYS for n in (pairs.i, pairs.j)]
    cues[2] = np.log(own[1]) - np.log(own[0])
    cues[3] = 0.5 * (np.log(pairs.areas[pairs.j]) - np.log(pairs.areas[pairs.i]))
    for at in range(0, len(rows), _BLOCK):
        block = rows[at : at + _BLOCK]
        some = block.repeat(2) if len(block) == 1 else block  # numpy adds up the points of a single pair in other order
        there = _Surroundings.of(view, some, 1 if closer else 2)
        color = local_color(view.pairs.at(some), view.image) if closer else there.contrast()
        edge, seen = there.edge()
        cues[:2, at : at + len(block)] = np.stack([color, edge])[:, : len(block)]
        cues[2:, at : at + len(block)] *= seen[: len(block)]
    return cues


@dataclass(frozen=True, eq=False)
class View:
    """Pairs, their image and the points at which they are looked at.

    Attributes:
        pairs: P pairs.
        image: the image and its halvings.
        levels: (P,) how often the image is halved for each pair.
        labels: (H * W,) the region of each pixel.
        contours: see `contour_points`.
    """

    pairs: Pairs
    image: Halvings
    levels: _Ints
    labels: NDArray[np.int32]
    contours: tuple[_Ints, _Ints, _Mask]

    @classmethod
    def of(cls, pairs: Pairs) -> View:
        """Look at one or more pairs with an image."""
        assert pairs.image is not None
        levels = np.log2(np.maximum(1, np.sqrt(pairs.overlap) / _COARSE)).round().astype(np.int64)
        labels = np.repeat(pairs.regions.labels.astype(np.int32), pairs.regions.lengths)
        contours = contour_points(pairs, labels, _CONTOUR_POINTS)
        return cls(pairs, Halvings.of(pairs.image, int(levels.max())), levels, labels, contours)


def _reach(pairs: Pairs) -> _Floats:
    """Return how far colors nearby reach, (P,) pixels: beyond what the contours are uncertain by."""
    boxes = pairs.masks.boxes.astype(np.float64)
    cell = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / _GRID
    reach = np.maximum(np.maximum(2, cell[pairs.i] + cell[pairs.j]), 0.25 * np.sqrt(pairs.overlap))
    return reach.astype(np.float32)


def local_color(pairs: Pairs, image: Halvings) -> NDArray[np.float64]:
    """Return which object's own pixels nearby have the overlap's colors, (P,): above 0 the first's.

    For pixels of the overlap, the density of their color among own pixels of either object, near ones counting more
    (Gaussian in color and in distance); the mean log ratio of the two densities. 0 where either has no own pixel near.
    """
    pixels, counts, level = _sample(pairs, len(image.widths))
    y, x = (each.astype(np.float32) for each in np.divmod(pixels, pairs.masks.size[1]))
    lab = to_lab(image.rgb(*np.divmod(pixels, pairs.masks.size[1]), level))
    here = slice(0, _OVERLAP_PIXELS)
    narrow = np.float32(-0.5) / _reach(pairs) ** 2
    density = []
    for side in (0, 1):
        own = slice(_OVERLAP_PIXELS + side * _OWN_PIXELS, _OVERLAP_PIXELS + (side + 1) * _OWN_PIXELS)
        far = _square_distances((y[here], x[here]), (y[own], x[own]))
        far[:, np.arange(_OWN_PIXELS)[:, None] >= counts[1 + side]] = np.inf
        nearest = far.min(axis=1, keepdims=True)
        weight = np.exp((far - np.where(np.isfinite(nearest), nearest, 0)) * narrow)
        similarity = np.exp(_square_distances(lab[:, here], lab[:, own]) * np.float32(-0.5 / _WIDE_BANDWIDTH**2))
        total = np.maximum(weight.sum(axis=1), np.float32(1e-30))
        density.append(np.log((weight * similarity).sum(axis=1) / total + np.float32(_FLOOR)))
    counted = np.arange(_OVERLAP_PIXELS)[:, None] < counts[0]
    mean = np.where(counted, density[0] - density[1], 0).sum(axis=0, dtype=np.float64) / counts[0]
    return np.where(counts[1:].min(axis=0) > 0, mean, 0)


def _sample(pairs: Pairs, levels: int) -> tuple[_Ints, _Ints, _Ints]:
    """Return pixels of each overlap, and own pixels of either object near it, evenly spread.

    Returns:
        Flat indices (S, P), first of the overlap, then of each object, each filled up by repetition; how many of the
        three kinds there are, (3, P); and which halving the surroundings fit, (P,).
    """
    height, width = pairs.masks.size
    most = (_OVERLAP_PIXELS, _OWN_PIXELS, _OWN_PIXELS)
    chosen = np.zeros((len(pairs), sum(most)), dtype=np.int64)
    counts = np.zeros((3, len(pairs)), dtype=np.int64)
    level = np.zeros(len(pairs), dtype=np.int64)
    pads = np.maximum(np.maximum(6, 0.6 * np.sqrt(pairs.overlap)), 2 * _reach(pairs)).astype(np.int64)
    for pair, pad in enumerate(pads.tolist()):
        (x0, y0, _, _), shared = pairs.overlap_mask(pair)
        left, top, right, bottom = tight_box(shared)
        window = (
            max(0, x0 + left - pad),
            max(0, y0 + top - pad),
            min(width, x0 + right + pad),
            min(height, y0 + bottom + pad),
        )
        first, second = (_cut(pairs.masks, int(n), window) for n in (pairs.i[pair], pairs.j[pair]))
        side = max(first.shape)
        level[pair] = min(levels, ((side - 1) // _SIDE + 1).bit_length()) - 1
        both = first & second
        at = 0
        for kind, (mask, room) in enumerate(zip((both, first ^ both, second ^ both), most, strict=True)):
            pixels = np.flatnonzero(mask)
            if len(pixels):
                places = np.minimum((_TURNS[room] * max(1.0, len(pixels) / room)).astype(np.int64), len(pixels) - 1)
                y, x = np.divmod(pixels[places], mask.shape[1])
                chosen[pair, at : at + room] = (y + window[1]) * width + x + window[0]
            counts[kind, pair] = min(len(pixels), room)
            at += room
    return np.ascontiguousarray(chosen.T), counts, level


def _cut(masks: MaskCrops, n: int, window: Box) -> _Mask:
    """Return the part of a mask that lies in a window."""
    x1, y1, x2, y2 = (int(v) for v in masks.boxes[n])
    cut = np.zeros((window[3] - window[1], window[2] - window[0]), dtype=bool)
    left, top, right, bottom = max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])
    if right > left and bottom > top:
        part = masks.crops[n][top - y1 : bottom - y1, left - x1 : right - x1]
        cut[top - window[1] : bottom - window[1], left - window[0] : right - window[0]] = part
    return cut


def _square_distances(these: Iterable[_Floats], those: Iterable[_Floats]) -> _Floats:
    """Return squared distances (A, B, P) of vectors whose components are (A, P) and (B, P)."""
    total: _Floats | None = None
    for a, b in zip(these, those, strict=True):
        apart = a[:, None] - b
        apart *= apart
        total = apart if total is None else np.add(total, apart, out=total)
    assert total is not None
    return total


@dataclass(frozen=True, eq=False)
class _Surroundings:
    """Points on the contours of pairs, and what can be looked up around them.

    Attributes:
        size: (H, W).
        image: the image and its halvings.
        labels: (H * W,), the region of each pixel.
        claims: (N * R,), which object claims which region; only the objects of these pairs.
        rows: (2, P) where the claims of either object begin.
        y: (2, S, P) where the contour points lie, in whole pixels, and
        x: (2, S, P).
        valid: (2, S, P) whether there is such a point.
        normal: (2 coordinates y, x, 2, S, P) of length 1, from what only the other object claims into the overlap.
        level: (P,) how often the image is halved for each pair.
        reach: (P,) how far the colours nearby reach, in pixels.
    """

    size: Size
    image: Halvings
    labels: NDArray[np.int32]
    claims: _Mask
    rows: _Ints
    y: _Ints
    x: _Ints
    valid: _Mask
    normal: _Floats
    level: _Ints
    reach: _Floats

    @classmethod
    def of(cls, view: View, rows: _Ints, step: int) -> _Surroundings:
        """Look at the pairs in some rows of a view, at every point of their contours, or at every second one."""
        pairs = view.pairs.at(rows)
        regions = pairs.regions
        pixel, direction = (part[:, ::step, rows] for part in view.contours[:2])
        valid = view.contours[2][:, ::step, rows]
        names, objects = np.unique(np.stack([pairs.i, pairs.j]), return_inverse=True)
        row = np.full(len(pairs.areas), -1, dtype=np.int64)
        row[names] = np.arange(len(names))
        claims = np.zeros((len(names), len(regions.sizes)), dtype=bool)
        mine = row[regions.claims_object] >= 0
        claims[row[regions.claims_object[mine]], regions.claims_region[mine]] = True
        outward = np.moveaxis(DIRECTIONS[direction], -1, 0)
        place = np.stack(np.divmod(pixel, regions.size[1]))
        place[:, :, 1::2] += outward[:, :, 1::2]  # every second point lies on the other side of the contour
        there = cls(
            size=regions.size,
            image=view.image,
            labels=view.labels,
            claims=claims.reshape(-1),
            rows=objects.reshape(2, -1) * len(regions.sizes),
            y=place[0],
            x=place[1],
            valid=valid,
            normal=-outward.astype(np.float32),
            level=view.levels[rows],
            reach=_reach(pairs),
        )
        return replace(there, normal=there._normals())

    def edge(self) -> tuple[NDArray[np.float64], _Mask]:
        """Return along whose contour the edges of the image run, (P,), and whether there is any edge at all, (P,)."""
        near = np.arange(-2, 3).reshape(-1, 1, 1, 1) << self.level
        xx, yy, xy = np.zeros((3, *self.y.shape), dtype=np.float32)
        for color in self.image.colors((self.y + near)[:, None], (self.x + near)[None], self.level):  # (5, 5, 2, S, P)
            rows = color[:-2] + 2 * color[1:-1] + color[2:]
            columns = color[:, :-2] + 2 * color[:, 1:-1] + color[:, 2:]
            right, down = (rows[:, 2:] - rows[:, :-2]) / 8, (columns[2:] - columns[:-2]) / 8
            xx += (right * right).sum(axis=(0, 1))
            yy += (down * down).sum(axis=(0, 1))
            xy += (right * down).sum(axis=(0, 1))
        ny, nx = self.normal
        excess = (nx * nx - ny * ny) * (xx - yy) + 4 * nx * ny * xy  # energy across less energy along
        ratio = np.arctanh(excess / (xx + yy + np.float32(_FAINT)))  # half the log ratio
        count = self.valid.sum(axis=1)
        first, second = (ratio * self.valid).sum(axis=1, dtype=np.float64) / np.maximum(count, 1)
        seen: _Mask = ((xx + yy > 0) & self.valid).any(axis=(0, 1))
        return np.where(count.min(axis=0) > 0, first - second, 0), seen

    def contrast(self) -> NDArray[np.float64]:
        """Return across whose contour the colors stay the same, (P,): above 0 across the second's."""
        level = np.minimum(self.level + 1, len(self.image.widths) - 1) * (self.level > 0)
        similarity = []
        for side in (0, 1):
            color, inside = self._profile(side, level, [+depth for depth in _DEPTHS])
            beyond, outside = self._profile(side, level, [-depth for depth in _DEPTHS])
            apart = sum((a[:, None] - b) ** 2 for a, b in zip(color, beyond, strict=True))  # (D, D, S, P)
            counted = inside[:, None] & outside
            count = counted.sum(axis=(0, 1))
            kernel = np.where(counted, np.exp(apart * np.float32(-0.5 / _BANDWIDTH**2)), 0).sum(axis=(0, 1))
            ratio = np.log(kernel / np.maximum(count, 1) + np.float32(_FLOOR))
            points = (count > 0).sum(axis=0)
            mean = np.where(count > 0, ratio, 0).sum(axis=0, dtype=np.float64) / np.maximum(points, 1)
            similarity.append(np.where(points > 0, mean, np.nan))
        difference: NDArray[np.float64] = np.nan_to_num(similarity[1] - similarity[0])
        return difference

    def _profile(self, side: int, level: _Ints, depths: list[float]) -> tuple[list[_Floats], _Mask]:
        """Return L, a and b at depths, in units of the reach, within the overlap (or beyond it, below 0), (D, S, P).

        And whether there is the overlap (or what only the other object claims), (D, S, P).
        """
        far = np.array(depths, dtype=np.float32).reshape(-1, 1, 1) * self.reach
        y, x = (
            np.floor(place[side] + np.float32(0.5) + far * along[side]).astype(np.int64)
            for place, along in zip((self.y, self.x), self.normal, strict=True)
        )
        pixels, within = self._pixels(y, x)
        ends = self._claims(side, pixels) == (depths[0] > 0)
        return self.image.colors(y, x, level), within & ends & self.valid[side] & self._claims(1 - side, pixels)

    def _normals(self) -> _Floats:
        """Return which way the contours run: the direction in which, around a point, most of the overlap lies."""
        ring = _RING.reshape(12, 2, 1, 1, 1) * (1 << self.level).astype(np.float32)
        places = (np.floor(each + 0.5).astype(np.int64) for each in (self.y + ring[:, 0], self.x + ring[:, 1]))
        pixels, within = self._pixels(*places)  # (12, 2, S, P)
        ends = np.stack([self._claims(k, pixels[:, k]) for k in (0, 1)], axis=1)
        stays = np.stack([self._claims(1 - k, pixels[:, k]) for k in (0, 1)], axis=1)
        sign = np.where(ends, np.float32(1), np.float32(-1)) * (stays & within)
        normal = np.stack([(sign * _RING[:, k].reshape(-1, 1, 1, 1)).sum(axis=0) for k in (0, 1)])
        length = np.sqrt(normal[0] ** 2 + normal[1] ** 2)
        return np.where(length > 1e-3, normal / np.maximum(length, np.float32(1e-3)), self.normal)

    def _pixels(self, y: _Ints, x: _Ints) -> tuple[_Ints, _Mask]:
        """Return flat indices of pixels, the nearest for those beyond the image, and which are within."""
        height, width = self.size
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return y.clip(0, height - 1) * width + x.clip(0, width - 1), within

    def _claims(self, side: int, pixels: _Ints) -> _Mask:
        """Return whether the first or the second object of each pair claims each of its pixels (.., P)."""
        claims: _Mask = self.claims.take(self.rows[side] + self.labels.take(pixels))
        return claims
