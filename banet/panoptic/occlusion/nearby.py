"""Colors of an overlap beside those of what only the one and only the other object claims nearby."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.id_maps import tight_box
from banet.panoptic.occlusion.colors import linear_lab, log_kernel
from banet.panoptic.occlusion.pairs import Pairs
from banet.panoptic.occlusion.points import spread
from banet.panoptic.validation import MaskCrops
from banet.types import Box

__all__ = ["local_color"]

_ROOMS = (64, 128, 128)
"""Pixels of the overlap, and own pixels of each object, that are compared."""
_BANDWIDTH = 4.0
"""Of colors, in CIE Lab: what differs by less is hardly another color."""
_FLOOR = 1e-3
"""Density of colors that an object might have all the same: one odd pixel must not decide."""
_NEAR = 0.1
"""How far "near" is, in roots of the overlap."""
_AROUND = 0.6
"""How far around the overlap own pixels are looked for, in roots of the overlap."""
_SIDE = 64
"""Own pixels are looked for at so many places per side of the surroundings, or all where these are smaller."""
_BLOCK = 16
"""Pairs compared together: bounds the memory."""

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]


def local_color(pairs: Pairs, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return which object's own pixels nearby have the overlap's colors, (P,): above 0 the first's.

    For pixels of the overlap, the density of their color among own pixels of either object, near ones counting more
    (Gaussian in color and in distance); the mean log ratio of the two densities. 0 where either has no own pixel near.

    Args:
        pairs: P pairs.
        image: (H * W, 3).
    """
    pixels, counts = _sample(pairs)
    places = np.stack(np.divmod(pixels, pairs.masks.size[1]), axis=2).astype(np.float32)
    places -= places[:, :1]
    near = np.maximum(1, _NEAR * np.sqrt(pairs.overlap)).astype(np.float32)
    means = np.zeros(len(pairs))
    for at in range(0, len(pairs), _BLOCK):
        block = slice(at, at + _BLOCK)
        lab = np.stack(linear_lab(image.take(pixels[block], axis=0)), axis=2)
        means[block] = _compare(lab, places[block], counts[block], near[block])
    return means


def _compare(lab: _Floats, places: _Floats, counts: _Ints, near: _Floats) -> NDArray[np.float64]:
    """Return `local_color`, (P,), of what `_sample` gave: colors (P, S, 3), (y, x) (P, S, 2), and counts (P, 3)."""
    bounds = np.cumsum((0, *_ROOMS)).tolist()
    here, *owned = (slice(a, b) for a, b in pairwise(bounds))
    density = []
    for own, count in zip(owned, counts.T[1:], strict=True):
        counted = np.arange(own.stop - own.start) < count[:, None]
        weight = log_kernel(places[:, here], places[:, own], near, counted)
        weight -= weight.max(axis=2, keepdims=True)
        exponents = log_kernel(lab[:, here], lab[:, own], _BANDWIDTH)
        exponents += weight
        ones = np.ones(weight.shape[2], dtype=np.float32)
        kernel = np.exp(exponents, out=exponents) @ ones
        density.append(np.log(kernel / (np.exp(weight, out=weight) @ ones) + _FLOOR))
    counted = np.arange(here.stop) < counts[:, :1]
    mean = np.where(counted, density[0] - density[1], 0).sum(axis=1, dtype=np.float64) / counts[:, 0]
    return np.where(counts[:, 1:].min(axis=1) > 0, mean, 0)


def _sample(pairs: Pairs) -> tuple[_Ints, _Ints]:
    """Return pixels of each overlap, and own pixels of either object near it, evenly spread.

    Returns:
        Flat indices (P, S), first of the overlap, then of each object, each filled up by repetition, or zeros where
        there is none; and how many of the three kinds there are, (P, 3).
    """
    height, width = pairs.masks.size
    pads = np.maximum(6, _AROUND * np.sqrt(pairs.overlap)).astype(np.int64)
    pixels = np.zeros((len(pairs), sum(_ROOMS)), dtype=np.int64)
    counts = np.zeros((len(pairs), len(_ROOMS)), dtype=np.int64)
    for pair, pad in enumerate(pads.tolist()):
        (x0, y0, _, _), shared = pairs.overlap_mask(pair)
        left, top, right, bottom = tight_box(shared)
        x1, y1 = max(0, x0 + left - pad), max(0, y0 + top - pad)
        window = (x1, y1, min(width, x0 + right + pad), min(height, y0 + bottom + pad))
        step = max(1, max(window[2] - x1, window[3] - y1) // _SIDE)
        first, second = (_cut(pairs.masks, int(n), window)[::step, ::step] for n in (pairs.i[pair], pairs.j[pair]))
        at = 0
        for kind, (mask, room) in enumerate(zip((shared, first > second, second > first), _ROOMS, strict=True)):
            x, y, apart = (x0, y0, 1) if kind == 0 else (x1, y1, step)
            # Chosen at once: all places of all pairs take gigabytes where large objects lie within each other.
            places = np.flatnonzero(mask)
            if len(places):
                rows, columns = np.divmod(places[spread(len(places), room)], mask.shape[1])
                pixels[pair, at : at + room] = (y + apart * rows) * width + x + apart * columns
            counts[pair, kind] = min(len(places), room)
            at += room
    return pixels, counts


def _cut(masks: MaskCrops, n: int, window: Box) -> NDArray[np.bool_]:
    """Return the part of a mask that lies in a window."""
    x1, y1, x2, y2 = (int(v) for v in masks.boxes[n])
    cut = np.zeros((window[3] - window[1], window[2] - window[0]), dtype=bool)
    left, top, right, bottom = max(x1, window[0]), max(y1, window[1]), min(x2, window[2]), min(y2, window[3])
    if right > left and bottom > top:
        part = masks.crops[n][top - y1 : bottom - y1, left - x1 : right - x1]
        cut[top - window[1] : bottom - window[1], left - window[0] : right - window[0]] = part
    return cut
