"""What the image and the masks say about which object is in front; the rule "color-contour" adds it up.

Everything is signed: above 0 speaks for the first object, below 0 for the second, and exchanging the two exchanges the
sign exactly. "Own" pixels of an object are those that the other one does not claim.

All pairs are measured together, at a few points of each: the image is read nowhere else, so that the time does not grow
with its size. Those that are then left open are looked at more closely, one by one, which takes time that grows with
their overlaps. Arrays of all pairs end in an axis of P. Everything is computed element by element, so that a pair gives
the same numbers whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.contours import Contours, View
from banet.panoptic.occlusion.nearby import local_color
from banet.panoptic.occlusion.pairs import Pairs

__all__ = ["CLOSE", "CLOSER_LOOK", "FIRST_LOOK", "View", "certainty", "log_odds", "measure_cues"]

FIRST_LOOK = {"contrast": 0.7, "edge": 4.6, "own_share": 1.0, "thin_size": 2.4}
"""Log odds per unit of each cue: logistic regression without intercept over pairs of many kinds of images, rounded."""
CLOSER_LOOK = {"local_color": 1.2, "edge": 4.0, "own_share": 1.0, "thin_size": 2.4}
"""The same where the first look leaves it open: it takes more points and more time."""
CLOSE = 1.0
"""Log odds below which the first look leaves it open."""

FEW = 60.0
"""Points on both contours of a pair with which it is half as sure as with very many."""

_ALWAYS = 0.05
"""Fraction of an object that is taken as its own even when nothing is."""
_THIN = 0.15
"""Overlaps are thin, so that the sizes of the objects count, below about this fraction of the smaller mask."""
_BLOCK = 128
"""Pairs measured together: bounds the memory."""


def log_odds(pairs: Pairs) -> NDArray[np.float64]:
    """Return how likely the first object of each pair is in front, (P,): the weighted sum of its cues.

    These are log odds up to a factor, which the rule is `calibrated` with.

    Args:
        pairs: with an image.
    """
    if not len(pairs):
        return np.zeros(0)
    view = View.of(pairs)
    odds = _weighted(FIRST_LOOK, measure_cues(view, np.arange(len(pairs)), closer=False))
    close = np.flatnonzero(np.abs(odds) < CLOSE)
    odds[close] = _weighted(CLOSER_LOOK, measure_cues(view, close, closer=True))
    return odds * certainty(view)


def certainty(view: View) -> NDArray[np.float64]:
    """Return the factor of the log odds of each pair, (P,) in 0..1: longer contours show more."""
    points = view.points[2].sum(axis=0)
    factor: NDArray[np.float64] = points / (points + FEW)
    return factor


def _weighted(weights: Mapping[str, float], cues: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.zeros(cues.shape[1])
    for weight, cue in zip(weights.values(), cues, strict=True):
        odds += weight * cue
    return odds


def measure_cues(view: View, rows: NDArray[np.int64], *, closer: bool) -> NDArray[np.float64]:
    """Return the cues of some pairs, (4, K) float64, in the order of `FIRST_LOOK`, or of `CLOSER_LOOK`.

    * contrast: whose own pixels across the contours have the colors of the overlap, see `Contours.contrast`.
    * local_color: the same of more pixels, of the whole overlap, see `local_color`.
    * edge: along whose contour the edges of the image run, see `Contours.edge`.
    * own_share: which object would be nearly hidden, and then would hardly have been found behind.
    * thin_size: which object is smaller, if the overlap is thin. A mask is known to about 1/28 of its box, so the
      larger one's errors reach further. A thick overlap is not such an error, and then size says nothing.

    All are 0 where the image has one color all around, and between equal masks.

    Args:
        view: the pairs, and their image.
        rows: (K,) pairs.
        closer: whether for `CLOSER_LOOK`, which takes more time.
    """
    pairs = view.pairs.at(rows)
    cues = np.zeros((len(FIRST_LOOK), len(pairs)))
    areas = [pairs.areas[n] for n in (pairs.i, pairs.j)]
    own = [1 - pairs.overlap / area + _ALWAYS for area in areas]
    cues[2] = np.log(own[1]) - np.log(own[0])
    thin = np.exp(-((pairs.overlap / (_THIN * np.minimum(*areas))) ** 2))
    cues[3] = 0.5 * thin * (np.log(areas[1]) - np.log(areas[0]))
    for at in range(0, len(rows), _BLOCK):
        block = rows[at : at + _BLOCK]
        some = block.repeat(2) if len(block) == 1 else block  # numpy adds up the points of a single pair in other order
        there = Contours.of(view, some)
        color = local_color(view.pairs.at(some), view.image) if closer else there.contrast()
        edge, seen = there.edge(wide=closer)
        cues[:2, at : at + len(block)] = np.stack([color, edge])[:, : len(block)]
        cues[2:, at : at + len(block)] *= seen[: len(block)]
    return cues
