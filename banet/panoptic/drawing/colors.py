"""Colors of segments: a sequence for instances that color-blind people can tell apart, and those of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.categories import Categories
from banet.panoptic.defaults import DrawingStyle
from banet.panoptic.segments import Segment

__all__ = ["SEQUENCE", "LastingColors", "find_objects", "segment_colors"]

SEQUENCE = (
    *((86, 180, 233), (230, 159, 0), (225, 15, 90), (180, 240, 150), (135, 15, 255), (0, 240, 225)),
    *((180, 60, 0), (105, 105, 225), (240, 120, 165), (15, 135, 105), (180, 45, 150), (180, 165, 90)),
)
"""RGB of instances. Chosen one by one, after two of Okabe and Ito's, to lie far apart in CIELAB from those before, for
normal vision and as people without red or green cones see them (Machado et al. 2009): any two differ by 19 at least,
where Okabe and Ito's seven colors differ by 17."""

_KEPT = 4096  # ids of a video whose colors are remembered
_WINDOW = 2000  # things that are compared with each other; of more, each with that many that begin above it


def segment_colors(
    segments: Sequence[Segment], categories: Categories, style: DrawingStyle = "instance"
) -> NDArray[np.uint8]:
    """Return the RGB of each segment, (N, 3).

    Args:
        segments: the segments, measured.
        categories: their classes.
        style: `class` gives a segment the color of its class; otherwise things get the colors of `SEQUENCE`, a thing
            another one than those near it, and only stuff that of its class. Of up to twelve things no two share a
            color, and with ids 1, 2, ... each keeps its own whatever else is there.
    """
    colors = np.array([categories.by_id(segment.category_id).color for segment in segments], dtype=np.uint8)
    colors = colors.reshape(-1, 3)
    things = [k for k, segment in enumerate(segments) if segment.isthing]
    if style != "class" and things:
        colors[things] = np.array(SEQUENCE, dtype=np.uint8)[_places([segments[k] for k in things])]
    return colors


def find_objects(
    results: Iterable[Sequence[Segment]], categories: Categories
) -> tuple[list[Segment], NDArray[np.uint8], list[list[int]]]:
    """Identify what several results of the same instances and the same semantic map have in common.

    Things are the same where category and score are, stuff where the category is, as in `differing_pixels`.

    Args:
        results: the segments of one or more results of one image, measured.
        categories: their classes.

    Returns:
        The objects, each a segment of the first result that has it, things by score before stuff by category; their
        RGB (N, 3), of one result as drawn, of several such that large things get those that are most distinct; and the
        object of each segment, by result.
    """
    some = list(results)
    found: dict[tuple[int, float | None], Segment] = {}
    for result in some:
        for segment in result:
            found.setdefault((segment.category_id, segment.score), segment)
    objects = sorted(found.values(), key=lambda s: (not s.isthing, -(s.score or 0.0), s.category_id))
    numbers = {(s.category_id, s.score): number for number, s in enumerate(objects)}
    ranked = objects
    if len(some) > 1:  # ids differ between results
        by_area = sorted(range(len(objects)), key=lambda k: (not objects[k].isthing, -objects[k].area))
        ranks = {k: rank for rank, k in enumerate(by_area, start=1)}
        ranked = [replace(segment, id=ranks[k]) for k, segment in enumerate(objects)]
    colors = segment_colors(ranked, categories)
    return objects, colors, [[numbers[s.category_id, s.score] for s in result] for result in some]


class LastingColors:
    """Colors for the frames of a video, in which an id is one thing: each keeps the color that it first got.

    A new thing gets another color than those that it comes near. Memory is a number for each of the last ids.

    Args:
        style: see `segment_colors`.
    """

    def __init__(self, style: DrawingStyle = "instance") -> None:
        self.style = style
        self._places: dict[int, int] = {}

    def choose(self, segments: Sequence[Segment], categories: Categories) -> NDArray[np.uint8]:
        """Return the RGB of the segments of the next frame, (N, 3); see `segment_colors`."""
        colors = segment_colors(segments, categories, "class")
        things = [k for k, segment in enumerate(segments) if segment.isthing]
        if self.style == "class" or not things:
            return colors
        places = _places([segments[k] for k in things], self._places).tolist()
        colors[things] = np.array(SEQUENCE, dtype=np.uint8)[places]
        for k, place in zip(things, places, strict=True):
            self._places.pop(segments[k].id, None)  # the latest are last
            self._places[segments[k].id] = place
        for old in list(self._places)[:-_KEPT]:
            del self._places[old]
        return colors


def _places(things: Sequence[Segment], known: Mapping[int, int] | None = None) -> NDArray[np.int64]:
    """Return a place in the sequence for each of K things, (K,): another than those of its neighbours, evenly used.

    Args:
        things: the things.
        known: places by id, of things that keep theirs.
    """
    known = known or {}
    count = len(SEQUENCE)
    boxes = np.array([thing.bbox for thing in things], dtype=np.int64)
    margin = boxes[:, 2:] // 4 + 2
    low, high = boxes[:, :2] - margin, boxes[:, :2] + boxes[:, 2:] + margin
    ids = np.array([thing.id for thing in things])
    order = np.argsort(ids if len(things) <= _WINDOW else low[:, 1], kind="stable")
    order = order[np.argsort([things[k].id not in known for k in order], kind="stable")]
    places, used = np.zeros(len(things), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for done, k in enumerate(order.tolist()):
        before = order[max(0, done - _WINDOW) : done]
        near = before[((low[before] < high[k]) & (low[k] < high[before])).all(axis=1)]
        beside = np.bincount(places[near], minlength=count)
        turned = (np.arange(count) - (ids[k] - 1)) % count
        places[k] = known.get(int(ids[k]), np.lexsort((turned, used, beside))[0])
        used[places[k]] += 1
    return places
