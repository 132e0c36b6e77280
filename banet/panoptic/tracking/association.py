"""Which thing of a frame is which object: by place, shape and colors, each object one thing at most.

An object that was visible a moment ago is looked for where its motion leads; what should be visible of its silhouette
there is compared with the thing's mask. One that is hidden may come out anywhere along what hides it, so place says
less of it, and colors more. An object takes things of its own class only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.tracking.appearance import similarity
from banet.panoptic.tracking.objects import Seen, TrackedObject

__all__ = ["Evidence", "gains", "weigh"]

_NEUTRAL = 0.5  # what colors say without an image
_UNLIKE, _ALIKE = 0.5, 1.0  # similarities of colors that count as 0 and as 1
_FEW = 40  # pixels, whose colors say half as much as those of many
_REACH = 0.35  # how far from its place an object may be, in units of the root of its area
_GROWTH, _WIDEST = 0.1, 3.0  # by how much this grows per frame without it, and to what


@dataclass(frozen=True)
class Evidence:
    """What speaks for each pair of N objects and M things.

    Attributes:
        iou: (N, M) IoU of what should be visible of the object with the thing.
        near: (N, M) 1 where the thing's centre lies in the object's box, less with the distance.
        alike: (N, M) how well the colors agree, 0..1.
        possible: (N, M) whether class and size allow it.
    """

    iou: NDArray[np.float64]
    near: NDArray[np.float64]
    alike: NDArray[np.float64]
    possible: NDArray[np.bool_]


def weigh(
    objects: Sequence[TrackedObject],
    things: Sequence[Seen],
    under: NDArray[np.int64],
    boxes: Mapping[int, tuple[float, float, float, float]],
) -> Evidence:
    """Compare N objects, where they are expected, with the M things of a frame.

    Args:
        objects: the objects.
        things: the things.
        under: (N, M + 1) pixels of each object's silhouette on no thing and on each thing; see `count_owners`.
        boxes: of the objects by id, where they are expected, for those that hide others.
    """
    areas = np.array([thing.area for thing in things])
    shared = under[:, 1:]
    # What other things hide is not missed. Void and stuff hide nothing.
    visible = under[:, :1] + shared
    iou = shared / np.maximum(areas + visible - shared, 1)
    whole = np.array([one.silhouette.area for one in objects])[:, None]
    near = _nearness(objects, whole, things, areas, boxes)
    alike = _likeness(objects, things, areas)
    classes = np.array([one.category_id for one in objects])[:, None]
    fits = (areas < 3 * whole + 50) | (iou >= 0.1) | np.array([thing.cut_off for thing in things])
    possible = (classes == np.array([thing.category_id for thing in things])) & fits
    return Evidence(iou, near, alike, possible)


def gains(evidence: Evidence, visible: Sequence[bool], color_weight: float, min_gain: float) -> NDArray[np.float64]:
    """Return what each pair is worth, (N, M), 0 where it may not be; visible objects come before remembered ones.

    Args:
        evidence: what speaks for each pair.
        visible: of each object, whether it was found in the last frame.
        color_weight: how much colors count, 0..1.
        min_gain: from what worth a pair may be.
    """
    place = np.maximum(evidence.iou, 0.5 * evidence.near)
    worth = (1 - color_weight) * place + color_weight * evidence.alike
    recent = np.asarray(visible, dtype=bool)[:, None]
    # Colors that differ are not a reason to lose an object where it should be, but to leave a hidden one hidden.
    allowed = evidence.possible & (place > 0.05) & np.where(recent, worth >= min_gain, evidence.alike >= 0.3)
    allowed &= (evidence.iou >= 0.3) | (worth >= min_gain)
    return np.where(allowed, worth + recent, 0.0)


def _nearness(
    objects: Sequence[TrackedObject],
    whole: NDArray[np.int64],
    things: Sequence[Seen],
    areas: NDArray[np.int64],
    boxes: Mapping[int, tuple[float, float, float, float]],
) -> NDArray[np.float64]:
    """Return how near each thing, of M `areas`, is to each object, of `whole` pixels (N, 1): (N, M)."""
    centres = np.array([thing.centre for thing in things]).reshape(-1, 2)
    away = np.minimum([[1 + _GROWTH * (one.unseen + one.hidden)] for one in objects], _WIDEST)
    reach = _REACH * away * np.sqrt(np.maximum(whole, areas)) + 1
    near: NDArray[np.float64] = np.exp(
        -0.5 * (_distances(centres, [one.silhouette.box for one in objects]) / reach) ** 2
    )
    for row, one in enumerate(objects):
        covers = [boxes[cover] for cover in one.hidden_by if cover in boxes]
        if covers:  # it may come out anywhere along what hides it: the margin is that of its own size
            along = _distances(centres, covers).min(axis=0) <= 0.5 * np.sqrt(whole[row])
            near[row, along] = np.maximum(near[row, along], 0.6)
    return near


def _distances(points: NDArray[np.float64], boxes: Sequence[tuple[float, float, float, float]]) -> NDArray[np.float64]:
    """Return the distances of M points from K boxes, 0 inside: (K, M)."""
    x1, y1, x2, y2 = np.array(boxes, dtype=np.float64).reshape(-1, 4).T[..., None]
    x, y = points.T
    dx = np.maximum(np.maximum(x1 - x, x - x2), 0)
    dy = np.maximum(np.maximum(y1 - y, y - y2), 0)
    distances: NDArray[np.float64] = np.hypot(dx, dy)
    return distances


def _likeness(
    objects: Sequence[TrackedObject], things: Sequence[Seen], areas: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how well the colors of each object and each thing, of M `areas`, agree: (N, M)."""
    likeness = np.full((len(objects), len(things)), _NEUTRAL)
    known = np.array([thing.colors is not None for thing in things], dtype=bool)
    if not known.any():
        return likeness
    colors = np.stack([thing.colors for thing in things if thing.colors is not None])
    for row, one in enumerate(objects):
        if one.colors is not None:
            clear = ((similarity(one.colors, colors) - _UNLIKE) / (_ALIKE - _UNLIKE)).clip(0, 1)
            pixels = np.minimum(one.color_pixels, areas[known])
            likeness[row, known] += pixels / (pixels + _FEW) * (clear - _NEUTRAL)
    return likeness
