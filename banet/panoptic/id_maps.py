"""Id maps: coded as colours, cut into runs and bands, measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import abbreviate_list
from banet.types import Box

__all__ = [
    "MAX_SEGMENT_ID",
    "MOST_SEGMENTS",
    "as_ids",
    "bands",
    "centroids",
    "check_ids",
    "compare_ids",
    "find_ids",
    "ids_to_rgb",
    "in_range",
    "index_map",
    "indices_of_ids",
    "measure_ids",
    "measure_runs",
    "rgb_to_ids",
    "runs",
    "sum_by",
    "tight_box",
]

MAX_SEGMENT_ID = 2**24 - 1
"""Largest segment id that a PNG of three bytes per pixel holds."""

MOST_SEGMENTS = 500_000
"""Segments of an image; files of more are refused."""

_MANY = 1 << 16  # values from which a table of all that there may be is faster than sorting them
_BAND = 1 << 22
"""Pixels of a band. A map may change at every pixel, and then takes some 60 bytes of memory per pixel to measure."""


def ids_to_rgb(ids: Any) -> NDArray[np.uint8]:
    """Encode ids as colours, the way COCO panoptic PNGs do: id = R + 256 G + 65536 B.

    Args:
        ids: integers of any shape (...), 0 .. 2^24-1.

    Returns:
        uint8 of shape (..., 3).

    Raises:
        TypeError: not integers.
        ValueError: an id is out of range.
    """
    array = in_range(np.asarray(ids))
    wide = np.ascontiguousarray(array, dtype="<u4")
    return np.ascontiguousarray(wide.view(np.uint8).reshape(*array.shape, 4)[..., :3])


def rgb_to_ids(rgb: Any) -> NDArray[np.int32]:
    """Read ids from colours: R + 256 G + 65536 B.

    Args:
        rgb: uint8 of shape (..., 3); a fourth channel is ignored.

    Returns:
        int32 of shape (...).

    Raises:
        TypeError: not uint8.
        ValueError: the last axis is neither 3 nor 4.
    """
    array = np.asarray(rgb)
    if array.dtype != np.uint8:
        raise TypeError(f"rgb must be uint8, not {array.dtype}")
    if array.ndim == 0 or array.shape[-1] not in (3, 4):
        raise ValueError(f"rgb must have shape (..., 3), not {array.shape}")
    out = array[..., 0].astype(np.int32)
    out |= array[..., 1].astype(np.int32) << 8
    out |= array[..., 2].astype(np.int32) << 16
    return out


def runs(*maps: NDArray[Any], rows: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut maps of one shape into stretches, in reading order, along which none of them changes.

    Label maps change rarely, so what is counted by run instead of by pixel is counted some ten times faster.

    Args:
        maps: arrays of one shape (H, W).
        rows: also cut where a row begins.

    Returns:
        Start (flat index) and length of each run, int64 each; nothing for an empty map.
    """
    first = maps[0]
    size = first.size
    if size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    change = np.zeros(size, dtype=bool)
    change[0] = True
    for each in maps:
        flat = each.reshape(-1)
        change[1:] |= flat[1:] != flat[:-1]
    if rows:
        change[:: first.shape[-1]] = True
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=size)


def bands(ids: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """Yield bands of a map (H, W), of some million pixels each, from the top; an empty map is one band."""
    rows = max(1, _BAND // max(ids.shape[1], 1))
    return (ids[top : top + rows] for top in range(0, max(len(ids), 1), rows))


def find_ids(ids: NDArray[Any]) -> NDArray[Any]:
    """Return the values that occur in a map (H, W) other than 0, ascending (K,)."""
    parts: list[NDArray[Any]] = []
    for band in bands(ids):
        parts.append(_distinct(band.reshape(-1)[runs(band)[0]]))
        if sum(map(len, parts)) > _BAND:
            parts = [_distinct(np.concatenate(parts))]
    values = parts[0] if len(parts) == 1 else _distinct(np.concatenate(parts))
    found: NDArray[Any] = values[values != 0]
    return found


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return each of some values (N,) once, ascending."""
    if len(values) < _MANY or values.min() < 0 or values.max() > MAX_SEGMENT_ID:
        return np.unique(values)
    seen = np.zeros(int(values.max()) + 1, dtype=bool)
    seen[values] = True
    return np.flatnonzero(seen).astype(values.dtype)


def _coded(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return each of some values (N,) once, ascending, and the place of each of the N among these."""
    found = _distinct(values)
    if len(values) < _MANY or found[0] < 0 or found[-1] > MAX_SEGMENT_ID:
        return found, np.searchsorted(found, values)
    place = np.zeros(int(found[-1]) + 1, np.int64)
    place[found] = np.arange(len(found))
    return found, place[values]


def check_ids(ids: NDArray[Any], listed: Sequence[int], source: str = "") -> None:
    """Validate that a map (H, W) and a list of segments name the same ids.

    Args:
        ids: the map.
        listed: the ids of the segments, in any order.
        source: what to call both in the error.

    Raises:
        ValueError: they do not; the ids that stand on one side only are listed.
    """
    compare_ids(find_ids(ids), listed, source)


def compare_ids(in_map: NDArray[Any], listed: Sequence[int], source: str = "") -> None:
    """Validate as `check_ids`, given the ids in the map, ascending, in place of the map."""
    if len(in_map) == len(listed) and np.array_equal(in_map, np.sort(np.asarray(listed, dtype=np.int64))):
        return
    recorded = np.unique(np.asarray(listed, dtype=np.int64))
    problems = []
    if len(extra := np.setdiff1d(in_map, recorded)):
        problems.append(f"ids in the map without a segment: {_listed(extra)}")
    if len(missing := np.setdiff1d(recorded, in_map)):
        problems.append(f"segments without a pixel in the map: {_listed(missing)}")
    if problems:
        raise ValueError((f"{source}: " if source else "") + "; ".join(problems))


def _listed(values: NDArray[Any]) -> str:
    """Return the first of some ids as an error quotes them; there may be millions, which as a list take gigabytes."""
    shown = abbreviate_list(values[:20].tolist())
    return f"{shown}, ... ({len(values)} in all)" if len(values) > 20 else shown


def indices_of_ids(values: NDArray[Any], known: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the position of each value in the list of N known ids, and N for 0 and for unknown ones.

    Args:
        values: integers of any shape.
        known: N different ids, none of them 0.

    Returns:
        int64 of the same shape.
    """
    table = np.append(np.asarray(known, dtype=np.int64), 0)
    order = np.argsort(table, kind="stable")
    index: NDArray[np.int64] = order[np.searchsorted(table, values, sorter=order).clip(max=len(table) - 1)]
    index[table[index] != values] = len(table) - 1
    return index


def index_map(ids: NDArray[np.int32], known: Sequence[int]) -> NDArray[np.int32]:
    """Return the position of each pixel's id in the list of N known ids, (H, W); N for void and for unknown ids."""
    starts, lengths = runs(ids)
    index = indices_of_ids(ids.reshape(-1)[starts], known)
    return np.repeat(index.astype(np.int32), lengths).reshape(ids.shape)


def measure_ids(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Count area and tight box of each id in a map, void left out.

    Args:
        ids: (H, W).

    Returns:
        The K ids in the map that are not 0, ascending (K,); areas in pixels (K,); boxes x, y, width, height (K, 4).
    """
    parts, top = [], 0
    for band in bands(ids):
        values, areas, boxes = _measure_band(band)
        boxes[:, 1] += top
        top += len(band)
        parts.append((values, areas, boxes))
    if len(parts) == 1:
        return parts[0]
    found, areas_found, corners = (np.concatenate(part) for part in zip(*parts, strict=True))
    values, codes = np.unique(found, return_inverse=True)
    areas = np.zeros(len(values), np.int64)
    np.add.at(areas, codes, areas_found)
    low, high = np.full((len(values), 2), np.iinfo(np.int64).max), np.zeros((len(values), 2), np.int64)
    np.minimum.at(low, codes, corners[:, :2])
    np.maximum.at(high, codes, corners[:, :2] + corners[:, 2:])
    return values, areas, np.concatenate([low, high - low], axis=1)


def _measure_band(ids: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    starts, lengths = runs(ids, rows=True)
    values, codes = _coded(ids.reshape(-1)[starts])
    areas, boxes = measure_runs(codes, len(values), starts, lengths, ids.shape[1])
    keep = values != 0
    return values[keep].astype(np.int32), areas[keep], boxes[keep]


def measure_runs(
    codes: NDArray[np.int64], count: int, starts: NDArray[np.int64], lengths: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count area and tight box of each of the codes 0 .. count - 1 in a map that is given by its runs.

    Args:
        codes: (K,), that of each run.
        count: number of codes.
        starts: (K,) flat index of the first pixel of each run.
        lengths: (K,) pixels of each run; none leaves its row (`runs` with `rows`).
        width: W of the map.

    Returns:
        Areas in pixels (count,) and boxes x, y, width, height (count, 4); zeros for a code that does not occur.
    """
    areas, boxes = np.zeros(count, np.int64), np.zeros((count, 4), np.int64)
    if len(codes):
        order = np.argsort(codes.astype(np.min_scalar_type(count)), kind="stable")  # small integers sort faster
        heads = np.flatnonzero(np.diff(codes[order], prepend=-1))
        found = codes[order[heads]]
        lengths = lengths[order]
        y, x = np.divmod(starts[order], width)
        left, top = np.minimum.reduceat(x, heads), np.minimum.reduceat(y, heads)
        right, bottom = np.maximum.reduceat(x + lengths, heads), np.maximum.reduceat(y, heads) + 1
        areas[found] = np.add.reduceat(lengths, heads)
        boxes[found] = np.stack([left, top, right - left, bottom - top], axis=1)
    return areas, boxes


def centroids(ids: NDArray[np.int32], known: Sequence[int]) -> NDArray[np.float64]:
    """Return the mean position of the pixels of each of N ids of a map (H, W).

    Args:
        ids: the map.
        known: N different ids, none of them 0.

    Returns:
        x and y (N, 2) in pixels; the centre of the pixel in the corner is at (0.5, 0.5). NaN for an id without a pixel.
    """
    starts, lengths = runs(ids, rows=True)
    index = indices_of_ids(ids.reshape(-1)[starts], known)
    y, x = np.divmod(starts, max(ids.shape[1], 1))
    middles = np.stack([x + lengths / 2, y + 0.5, np.ones(len(x))])
    x_sum, y_sum, area = (np.bincount(index, each * lengths, len(known) + 1)[:-1] for each in middles)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.stack([x_sum, y_sum], axis=1) / area[:, None]
    return means


def in_range(array: NDArray[Any]) -> NDArray[Any]:
    """Return ids, integers of any shape, that are in 0 .. `MAX_SEGMENT_ID`.

    Raises:
        TypeError: not integers.
        ValueError: an id is out of range.
    """
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, not {array.dtype}")
    if array.size and (array.min() < 0 or array.max() > MAX_SEGMENT_ID):
        raise ValueError(f"ids must be in 0..{MAX_SEGMENT_ID}, not {int(array.min())}..{int(array.max())}")
    return array


def as_ids(ids: Any) -> NDArray[np.int32]:
    """Return an id map as contiguous (H, W) int32.

    Raises:
        TypeError: not integers.
        ValueError: another shape, or an id is out of range.
    """
    array = in_range(np.asarray(ids))
    if array.ndim != 2:
        raise ValueError(f"ids must have shape (H, W), not {array.shape}")
    return np.ascontiguousarray(array, dtype=np.int32)


def sum_by(index: NDArray[Any], weights: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return the sums (length,) of integer weights by index; exact, as float64 holds every count of pixels."""
    return np.bincount(index, weights=weights, minlength=length).astype(np.int64)


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """Return the tight box of a mask (H, W); zeros where it has no pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
