"""Objects that are out of sight: how long they are remembered, and where they are expected meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.tracking.motion import count_owners
from banet.panoptic.tracking.objects import TrackedObject

__all__ = ["remember"]

_PART = 0.1  # of what is hidden, from which a thing counts as hiding it
_LEAST = 0.2  # of a silhouette that things cover at least, for void beside them to count
_OUTSIDE = 0.25  # of a silhouette inside of the image, below which it has left


def remember(
    one: TrackedObject,
    owners: NDArray[np.integer[Any]],
    void: NDArray[np.bool_],
    ids: Sequence[int],
    hidden_share: float,
    occlusion: bool,
) -> None:
    """Keep account of an object that was not found in a frame.

    Its place is where its motion led. Where other things cover enough of that, it is hidden: it waits there, and goes
    on as long as it stays covered. Else it is missing. Void beside what covers it counts, too: occlusion handling
    removes an object that is mostly hidden, and what can be seen of it becomes void.

    Args:
        one: the object; changed in place.
        owners: (H, W) of the frame, see `banet.panoptic.tracking.motion`.
        void: (H, W) where the frame has no segment.
        ids: ids of the frame's things, in the order of `owners`.
        hidden_share: fraction of a silhouette that is covered when it counts as hidden.
        occlusion: whether hidden objects are told from missing ones at all.
    """
    covered, by = _cover(one, owners, void, ids)
    if occlusion and covered < hidden_share and one.hidden:
        back = one.silhouette.moved(-one.speed[0], -one.speed[1])
        moved, one.silhouette = one.silhouette, back
        covered, by = _cover(one, owners, void, ids)
        if covered < hidden_share:
            one.silhouette = moved
    if occlusion and covered >= hidden_share:
        one.hidden, one.unseen, one.hidden_by = one.hidden + 1, 0, by
    else:
        one.unseen += 1


def _cover(
    one: TrackedObject, owners: NDArray[np.integer[Any]], void: NDArray[np.bool_], ids: Sequence[int]
) -> tuple[float, tuple[int, ...]]:
    """Return what fraction of a silhouette is covered, and the ids of the things that cover a good part of it."""
    under = count_owners(one.silhouette, owners, len(ids))
    inside, covered = int(under.sum()), int(under[1:].sum())
    if inside < _OUTSIDE * one.silhouette.area or covered < _LEAST * inside:
        return 0.0, ()
    covered += int(count_owners(one.silhouette, void.view(np.uint8), 1)[1])
    covers = under[1:] >= _PART * inside
    return covered / inside, tuple(np.asarray(ids)[covers].tolist())
