"""What the image and the masks say about which object is in front; the rule "color-contour" adds it up.

Everything is signed: above 0 speaks for the first object, below 0 for the second, and exchanging the two exchanges the
sign exactly. "Own" pixels of an object are those that the other one does not claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet._moved import renamed
from banet.panoptic.id_maps import tight_box
from banet.types import Box

__all__ = ["WEIGHTS", "Overlap", "edge", "local_color", "log_odds", "own_share"]

WEIGHTS = {"local_color": 1.5, "edge": 4.0, "own_share": 0.8}
"""Log odds per unit of each cue: logistic regression without intercept over pairs of many kinds of images, rounded."""

_SIDE = 128
"""The surroundings of an overlap are scaled down to no more than this side."""
_BANDWIDTH = 4.0
"""Of colours, in CIE Lab: what differs by less is hardly another colour."""
_FLOOR = 1e-3
"""Density of colours that an object might have all the same: one odd pixel must not decide."""
_FAINT = 3.0
"""Squared gradients in CIE Lab, summed over 3 x 3 pixels, below which there is no edge but noise."""
_ALWAYS = 0.05
"""Fraction of an object that is taken as its own even when nothing is."""
_OVERLAP_SAMPLES, _LOCAL_SAMPLES = 96, 192

_Mask = NDArray[np.bool_]
_Floats = NDArray[np.float64]

# sRGB to CIE XYZ, each divided by that of the white D65.
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])


@dataclass(frozen=True, eq=False)
class Overlap:
    """Two objects where they overlap, and around it, scaled down to at most 128 pixels per side.

    Attributes:
        color: (h, w, 3) CIE Lab.
        both: (h, w) what both claim.
        first: (h, w) what only the first claims.
        second: (h, w) what only the second claims.
        reach: radius, in these pixels, of what counts as near.
        fractions: the fraction of each object's pixels that are its own.
    """

    color: _Floats
    both: _Mask
    first: _Mask
    second: _Mask
    reach: float
    fractions: tuple[float, float]

    @classmethod
    def of(cls, image: NDArray[Any], boxes: tuple[Box, Box], crops: tuple[_Mask, _Mask]) -> Overlap | None:
        """Cut two overlapping masks, given as crops and their boxes x1, y1, x2, y2, out of the image (H, W, 3).

        None where there is nothing to see: the image has one colour there.
        """
        (a1, b1, a2, b2), (c1, d1, c2, d2) = boxes
        box = max(a1, c1), max(b1, d1), min(a2, c2), min(b2, d2)
        shared = _window(boxes[0], crops[0], box) & _window(boxes[1], crops[1], box)
        left, top, right, bottom = tight_box(shared)
        size = int(np.count_nonzero(shared))
        root = float(np.sqrt(size))
        pad = int(max(6, 0.6 * root))
        x1, y1 = max(0, box[0] + left - pad), max(0, box[1] + top - pad)
        x2, y2 = min(image.shape[1], box[0] + right + pad), min(image.shape[0], box[1] + bottom + pad)
        window = image[y1:y2, x1:x2]
        masks = [_window(b, crop, (x1, y1, x2, y2)) for b, crop in zip(boxes, crops, strict=True)]
        factor = -(-max(window.shape[:2]) // _SIDE)
        color = _shrink(window, factor)
        if (color == color[0, 0]).all():
            return None
        both = _shrink(masks[0] & masks[1], factor)
        there = both >= 0.5
        if not there.any():
            there = both > 0
        first, second = ((_shrink(mask, factor) >= 0.5) & ~there for mask in masks)
        return cls(
            color=_lab(color),
            both=there,
            first=first & ~second,
            second=second & ~first,
            reach=max(1.0, 0.1 * root / factor),
            fractions=(1 - size / int(np.count_nonzero(crops[0])), 1 - size / int(np.count_nonzero(crops[1]))),
        )


def log_odds(overlap: Overlap) -> float:
    """Return how likely the first object is in front: the weighted sum of all cues."""
    return (
        WEIGHTS["local_color"] * local_color(overlap)
        + WEIGHTS["edge"] * edge(overlap)
        + WEIGHTS["own_share"] * own_share(overlap)
    )


def local_color(overlap: Overlap) -> float:
    """Return which object's own pixels nearby have the overlap's colors: above 0 the first's.

    For pixels of the overlap, the density of their colour among own pixels of either object, near ones counting more
    (Gaussian in colour and in distance); the mean log ratio of the two densities.
    """
    pixels = _spread(np.argwhere(overlap.both), _OVERLAP_SAMPLES)
    color = overlap.color[pixels[:, 0], pixels[:, 1]]
    density = []
    for mask in (overlap.first, overlap.second):
        near = _spread(np.argwhere(mask), _LOCAL_SAMPLES)
        if not len(near):
            return 0.0
        similarity = np.exp(_square_distances(color, overlap.color[near[:, 0], near[:, 1]]) / (-2 * _BANDWIDTH**2))
        far = _square_distances(pixels.astype(np.float64), near.astype(np.float64))
        far -= far.min(axis=1, keepdims=True)
        weight = np.exp(far / (-2 * overlap.reach**2))
        density.append((similarity * weight).sum(axis=1) / weight.sum(axis=1))
    return _log_ratio(density[0], density[1])


def edge(overlap: Overlap) -> float:
    """Return along which object's contour the edges of the image run: above 0 the first's.

    If the first object is in front, there is an edge in the image where its contour crosses the second object, and
    the edge runs as the contour does; where the second's contour crosses the first, edges run that way by chance only.
    In 3 x 3 pixels, the energy (squared gradient of the colour) across the contour over that along it; the mean of half
    the log ratio over either contour; the difference of the two. Texture, strong as it may be, runs in all directions.
    """
    xx, yy, xy = _gradient_products(overlap.color)
    total = _sums(xx + yy, 1) + _FAINT
    grown = _grow(overlap.both)
    means = []
    for beyond in (overlap.second, overlap.first):
        contour = (overlap.both & _grow(beyond)) | (beyond & grown)
        if not contour.any():
            return 0.0
        ny, nx = _slope(_sums(_sums(overlap.both.astype(np.float64) - beyond, 2), 2))
        length = np.maximum(nx * nx + ny * ny, 1e-12)
        excess = ((nx * nx - ny * ny) * (xx - yy) + 4 * nx * ny * xy) / length  # energy across less energy along
        means.append(float(np.arctanh(_sums(excess, 1)[contour] / total[contour]).mean()))  # half the log ratio
    return means[0] - means[1]


def own_share(overlap: Overlap) -> float:
    """Return which object would be nearly hidden: above 0 the first, which then would hardly have been found behind."""
    return float(np.log(overlap.fractions[1] + _ALWAYS) - np.log(overlap.fractions[0] + _ALWAYS))


def _window(box: Box, crop: _Mask, window: Box) -> _Mask:
    """Return the part of a mask that lies in a window, False beyond the mask's box."""
    cut = np.zeros((window[3] - window[1], window[2] - window[0]), dtype=bool)
    x1, y1 = max(box[0], window[0]), max(box[1], window[1])
    x2, y2 = min(box[2], window[2]), min(box[3], window[3])
    if x2 > x1 and y2 > y1:
        inside = crop[y1 - box[1] : y2 - box[1], x1 - box[0] : x2 - box[0]]
        cut[y1 - window[1] : y2 - window[1], x1 - window[0] : x2 - window[0]] = inside
    return cut


def _spread(items: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of the items, evenly spread."""
    if len(items) <= most:
        return items
    return items[((np.arange(most) + 0.5) * (len(items) / most)).astype(np.int64)]


def _shrink(values: NDArray[Any], factor: int) -> _Floats:
    """Return means over squares of so many pixels per side; what is left over at the right and at the bottom goes."""
    if factor == 1:
        return values.astype(np.float64)
    height, width = (max(1, extent // factor) for extent in values.shape[:2])
    lacks = [max(0, factor - extent) for extent in values.shape[:2]]
    if any(lacks):  # narrower than one square
        values = np.pad(values, ((0, lacks[0]), (0, lacks[1]), *((0, 0) for _ in values.shape[2:])), mode="edge")
    cut = values[: height * factor, : width * factor]
    exact = cut.dtype in (np.uint8, np.bool_) and factor <= 257  # sums of a column of so many bytes
    rows: NDArray[Any] = cut[::factor].astype(np.uint16 if exact else np.float64)
    for at in range(1, factor):
        rows += cut[at::factor]
    means: _Floats = rows[:, ::factor].astype(np.float64)
    for at in range(1, factor):
        means += rows[:, at::factor]
    means /= factor**2
    return means


def _lab(rgb: NDArray[Any]) -> _Floats:
    """Return CIE Lab of sRGB 0..255, (.., 3)."""
    value = rgb / 255.0
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    xyz = linear @ _XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    lab: _Floats = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    return lab


def _square_distances(these: _Floats, those: _Floats) -> _Floats:
    """Return squared distances (A, B) of the rows of (A, C) and (B, C), never below 0."""
    squares = (these * these).sum(axis=1)[:, None] + (those * those).sum(axis=1) - 2 * (these @ those.T)
    distances: _Floats = np.maximum(squares, 0)
    return distances


def _log_ratio(first: _Floats, second: _Floats) -> float:
    return float((np.log(first + _FLOOR) - np.log(second + _FLOOR)).mean())


def _grow(mask: _Mask) -> _Mask:
    """Return the mask and its 4-neighbours."""
    grown: _Mask = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _sums(values: _Floats, reach: int) -> _Floats:
    """Return sums of (h, w) over the square of pixels within `reach` of each pixel; borders are repeated."""
    height, width = values.shape
    padded = np.pad(values, reach, mode="edge")
    rows, sums = np.zeros((height, width + 2 * reach)), np.zeros((height, width))
    for at in range(2 * reach + 1):
        rows += padded[at : at + height]
    for at in range(2 * reach + 1):
        sums += rows[:, at : at + width]
    return sums


def _slope(values: _Floats) -> tuple[_Floats, _Floats]:
    """Return differences of (h, w) from one neighbour to the other, down and to the right."""
    padded = np.pad(values, 1, mode="edge")
    return padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]


def _gradient_products(color: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """Return squared gradients of (h, w, 3) to the right, down, and their product, summed over the channels (Sobel)."""
    padded = np.pad(color, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 8
    columns = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 8
    right, down = rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]
    return (right * right).sum(axis=-1), (down * down).sum(axis=-1), (right * down).sum(axis=-1)


__getattr__ = renamed(__name__, {"local_colour": "local_color"})
