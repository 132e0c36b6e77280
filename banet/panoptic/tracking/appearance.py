"""The colors of objects, as histograms in CIE Lab: how alike two are."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.colors import to_lab

__all__ = ["COLOR_BINS", "Colors", "color_histogram", "similarity"]

Colors: TypeAlias = NDArray[np.float64]

_LIGHT, _TINT = 10, 8  # bins of L, and of each of a and b
COLOR_BINS = _LIGHT + _TINT**2
_REACH = 64  # a and b beyond it are counted at it: few surfaces are more colorful
_SAMPLES = 1024  # pixels of an object that are looked at, at most


def color_histogram(pixels: NDArray[np.uint8]) -> Colors:
    """Count colors: lightness, and the two tints together, each pixel shared by the bins that it lies between.

    Args:
        pixels: (N, 3) RGB; of many, evenly spaced ones are taken.

    Returns:
        (COLOR_BINS,), either part of which has the sum 1; zeros where there are no pixels.
    """
    histogram = np.zeros(COLOR_BINS)
    if not len(pixels):
        return histogram
    some = pixels[:: -(-len(pixels) // _SAMPLES)].T.astype(np.float32)
    light, a, b = to_lab(list(some)).astype(np.float64)
    histogram[:_LIGHT] = _spread(light / 100 * (_LIGHT - 1), _LIGHT)
    tints = [(one.clip(-_REACH, _REACH) / _REACH + 1) / 2 * (_TINT - 1) for one in (a, b)]
    histogram[_LIGHT:] = _spread_both(tints[0], tints[1])
    return histogram


def _spread(place: NDArray[np.float64], bins: int) -> Colors:
    low = np.floor(place).clip(0, bins - 2).astype(np.int64)
    high = (place - low).clip(0, 1)
    sums = np.bincount(low, 1 - high, bins) + np.bincount(low + 1, high, bins)
    return np.asarray(sums / len(place))


def _spread_both(a: NDArray[np.float64], b: NDArray[np.float64]) -> Colors:
    low_a, low_b = (np.floor(one).clip(0, _TINT - 2).astype(np.int64) for one in (a, b))
    high_a, high_b = (a - low_a).clip(0, 1), (b - low_b).clip(0, 1)
    sums = np.zeros(_TINT**2)
    for up_a, share_a in ((0, 1 - high_a), (1, high_a)):
        for up_b, share_b in ((0, 1 - high_b), (1, high_b)):
            sums += np.bincount((low_a + up_a) * _TINT + low_b + up_b, share_a * share_b, _TINT**2)
    return sums / len(a)


def similarity(one: Colors, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compare colors with those of N others: 0 where no bin is shared, 1 where they are equal, (N,).

    It is the product of the Bhattacharyya coefficients of lightness and of tints.
    """
    roots = np.sqrt(one * others)
    alike: NDArray[np.float64] = roots[:, :_LIGHT].sum(axis=1) * roots[:, _LIGHT:].sum(axis=1)
    return alike
