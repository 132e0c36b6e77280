"""What two id maps of one image have in common: the pixels that each pair of their segments shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from banet.errors import abbreviate_list
from banet.panoptic.categories import Categories
from banet.panoptic.id_maps import bands, runs, sum_by

if TYPE_CHECKING:
    from banet.panoptic.segmentation import PanopticSegmentation

__all__ = ["LabeledMap", "Listed", "Overlaps", "join_overlaps"]

_DENSE_LIMIT = 1 << 22  # pairs of segments up to which a full table is cheaper than sorting


@dataclass(frozen=True)
class Listed:
    """The segments of one side, in the order of its records.

    Attributes:
        ids: (N,) int64.
        classes: (N,) class indices.
        crowd: (N,) bool.
    """

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class LabeledMap:
    """One id map, its segments, and what errors call it."""

    ids: NDArray[np.int32]
    listed: Listed
    source: str

    @classmethod
    def of(cls, segmentation: PanopticSegmentation, categories: Categories, source: str) -> LabeledMap:
        """Return a result as one side of a comparison.

        Raises:
            ValueError: a category is unknown.
        """
        segments = segmentation.segments
        for segment in segments:
            if segment.category_id not in categories:
                raise ValueError(f"{source}: segment {segment.id} has the unknown category id {segment.category_id}")
        listed = Listed(
            np.array([segment.id for segment in segments], dtype=np.int64),
            np.array([categories.index(segment.category_id) for segment in segments], dtype=np.int64),
            np.array([segment.iscrowd for segment in segments], dtype=bool),
        )
        return cls(segmentation.ids, listed, source)


@dataclass(frozen=True)
class Overlaps:
    """The pixels that segments share. Of rows and columns, 0 is void and k + 1 the k-th segment.

    Attributes:
        truth: the segments of the ground truth.
        prediction: those of the prediction.
        row: (R,) ground truth of each pair that shares pixels.
        column: (R,) its prediction.
        pixels: (R,) how many they share.
    """

    truth: Listed
    prediction: Listed
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @classmethod
    def of(cls, prediction: PanopticSegmentation, truth: PanopticSegmentation, categories: Categories) -> Overlaps:
        """Count the overlaps of a prediction and the ground truth of one image.

        Raises:
            ValueError: the sizes differ, a category is unknown, or map and records do not name the same ids.
        """
        if prediction.ids.shape != truth.ids.shape:
            raise ValueError(
                f"prediction is {prediction.width}x{prediction.height}, truth {truth.width}x{truth.height}; "
                "they must have one size"
            )
        return cls.of_maps(
            LabeledMap.of(prediction, categories, "prediction"), LabeledMap.of(truth, categories, "truth")
        )

    @classmethod
    def of_maps(cls, prediction: LabeledMap, truth: LabeledMap) -> Overlaps:
        """Count the overlaps of two maps of one size.

        Raises:
            ValueError: map and records do not name the same ids.
        """
        rows, columns = len(truth.listed.ids) + 1, len(prediction.listed.ids) + 1
        found = []
        for ids, other in zip(bands(truth.ids), bands(prediction.ids), strict=True):
            starts, lengths = runs(other, ids)
            row = _compact(truth, ids.reshape(-1)[starts])
            column = _compact(prediction, other.reshape(-1)[starts])
            found.append(_pairs(row, column, lengths, rows, columns))
        if len(found) > 1:
            row, column, shared = (np.concatenate(part) for part in zip(*found, strict=True))
            found = [_pairs(row, column, shared, rows, columns)]
        overlaps = cls(truth.listed, prediction.listed, *found[0])
        _all_present(truth, overlaps.truth_areas)
        _all_present(prediction, overlaps.prediction_areas)
        return overlaps

    @property
    def truth_areas(self) -> NDArray[np.int64]:
        """Pixels of void and of each segment of the ground truth, (N + 1,)."""
        return sum_by(self.row, self.pixels, len(self.truth.ids) + 1)

    @property
    def prediction_areas(self) -> NDArray[np.int64]:
        """Pixels of void and of each predicted segment, (N + 1,)."""
        return sum_by(self.column, self.pixels, len(self.prediction.ids) + 1)


def join_overlaps(frames: Sequence[Overlaps]) -> Overlaps:
    """Return the overlaps of tubes: of frames stacked to one image, in which an id stands for one segment.

    Of an id that is in several frames, the first one's record counts.
    """
    if len(frames) == 1:
        return frames[0]
    truth, rows = _join_listed([frame.truth for frame in frames])
    prediction, columns = _join_listed([frame.prediction for frame in frames])
    row = np.concatenate([place[frame.row] for place, frame in zip(rows, frames, strict=True)])
    column = np.concatenate([place[frame.column] for place, frame in zip(columns, frames, strict=True)])
    pixels = np.concatenate([frame.pixels for frame in frames])
    return Overlaps(truth, prediction, *_pairs(row, column, pixels, len(truth.ids) + 1, len(prediction.ids) + 1))


def _join_listed(lists: Sequence[Listed]) -> tuple[Listed, list[NDArray[np.int64]]]:
    """Return the segments of all lists, in order of appearance, and the new rows of each list's, 0 for void."""
    ids = np.concatenate([one.ids for one in lists])
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    kept = first[order]
    classes, crowd = (np.concatenate([getattr(one, name) for one in lists])[kept] for name in ("classes", "crowd"))
    places = np.split(rank[inverse] + 1, np.cumsum([len(one.ids) for one in lists])[:-1])
    return Listed(ids[kept], classes, crowd), [np.concatenate([[0], place]) for place in places]


def _compact(side: LabeledMap, values: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number ids: 0 for void, k + 1 for the k-th segment."""
    known = np.concatenate([np.zeros(1, dtype=np.int64), side.listed.ids])
    order = np.argsort(known)
    ranked = known[order].astype(np.int32)
    place = np.minimum(np.searchsorted(ranked, values), len(ranked) - 1)
    wrong = ranked[place] != values
    if wrong.any():
        strangers = abbreviate_list(np.unique(values[wrong]).tolist())
        raise ValueError(f"{side.source}: ids in the map without a segment: {strangers}")
    compact: NDArray[np.int64] = order[place]
    return compact


def _pairs(
    row: NDArray[np.int64], column: NDArray[np.int64], lengths: NDArray[np.int64], rows: int, columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Sum the lengths of each pair (row, column) that occurs."""
    keys = row * columns + column
    if rows * columns <= _DENSE_LIMIT:
        table = np.bincount(keys, weights=lengths, minlength=rows * columns)
        present = np.flatnonzero(table)
        count = table[present]
    else:
        present, place = np.unique(keys, return_inverse=True)
        count = np.bincount(place, weights=lengths, minlength=len(present))
    return present // columns, present % columns, count.astype(np.int64)


def _all_present(side: LabeledMap, areas: NDArray[np.int64]) -> None:
    absent = side.listed.ids[areas[1:] == 0]
    if len(absent):
        raise ValueError(f"{side.source}: segments without a pixel in the map: {abbreviate_list(absent.tolist())}")
