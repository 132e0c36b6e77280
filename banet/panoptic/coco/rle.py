"""Masks as COCO's JSON files code them: run lengths, as text or as numbers, and polygons.

Run lengths go down the columns, left to right, and begin with the pixels that are not the object's. As text, each run
is written in groups of five bits, lowest first, in the characters from "0" on: bit 5 says that more follow, bit 4 of
the last group is the sign, and from the fourth run on it is the difference to the run two before that is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.errors import shown

__all__ = ["decode_polygons", "decode_rle", "decode_segmentation", "encode_rle"]

_LONGEST = 7  # characters of one run: 35 bits
_FARTHEST = 1 << 16  # pixels that a corner may lie away from the picture's
_FINE = 5  # outlines are walked on a grid so many times finer
_LONGEST_OUTLINE = 1 << 20  # pixels; a walk of that length takes 250 MB


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask that a `segmentation` of a COCO JSON describes.

    Args:
        segmentation: {"size": [H, W], "counts": ...}, with counts as text or numbers; or a list of polygons.
        size: (H, W) of the picture.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: it is none of these, damaged, or of another size.
    """
    if isinstance(segmentation, Mapping):
        missing = [key for key in ("size", "counts") if key not in segmentation]
        if missing:
            raise ValueError(f"'{missing[0]}' is missing; run lengths need 'size' and 'counts'")
        given = segmentation["size"]
        if not isinstance(given, (list, tuple)) or len(given) != 2 or list(given) != list(size):
            raise ValueError(f"size must be {list(size)}, height and width of the picture, not {shown(given)}")
        return decode_rle(segmentation["counts"], size)
    if isinstance(segmentation, (list, tuple)):
        return decode_polygons(segmentation, size)
    raise ValueError(f"must be run lengths or a list of polygons, not {shown(segmentation)}")


def decode_rle(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of COCO run lengths.

    Args:
        counts: text (str or bytes: compressed), or a list of integers.
        size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the text is damaged, a run is negative, or the runs do not fill H x W pixels.
    """
    if isinstance(counts, (str, bytes)):
        lengths = _lengths(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts)
    elif isinstance(counts, (list, tuple)) and all(type(n) is int and abs(n) < 1 << 53 for n in counts):
        lengths = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("counts must be text or a list of integers")
    height, width = size
    if (lengths < 0).any():
        raise ValueError("counts holds a negative run; they are damaged")
    if sum(lengths.tolist()) != height * width:
        raise ValueError(f"counts add up to {sum(lengths.tolist())} pixels, not {height} x {width}")
    inside = np.arange(len(lengths)) % 2 == 1
    mask: NDArray[np.bool_] = np.repeat(inside, lengths).reshape(width, height).T
    return mask


def decode_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of polygons, with the edges where COCO's tools put them.

    An outline is walked on a grid five times finer than the pixels. Where it crosses the middle of a column, the pixels
    below change sides, from the first one whose centre is not above the crossing.

    Args:
        polygons: each a list x1, y1, x2, y2, ... of at least three corners.
        size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a polygon is no such list, or a corner lies too far away.
    """
    if not polygons:
        raise ValueError("there is no polygon in it")
    mask = np.zeros(size, dtype=bool)
    for n, polygon in enumerate(polygons):
        if (
            not isinstance(polygon, (list, tuple))
            or len(polygon) < 6
            or len(polygon) % 2
            or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in polygon)
        ):
            raise ValueError(f"polygon {n} must be a list of numbers x1, y1, x2, y2, ... of three corners or more")
        corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        if not (np.abs(corners) <= _FARTHEST).all():
            raise ValueError(f"polygon {n} has a corner more than {_FARTHEST} pixels away, or none at all")
        if np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum() > _LONGEST_OUTLINE:
            raise ValueError(f"polygon {n} has an outline of more than {_LONGEST_OUTLINE:,} pixels")
        mask |= _fill(corners, size)
    return mask


def encode_rle(mask: Any) -> dict[str, Any]:
    """Compressed run lengths of a mask, as the `segmentation` of a COCO results JSON.

    Args:
        mask: (H, W) bool.

    Returns:
        {"size": [H, W], "counts": text}.

    Raises:
        ValueError: it is no such mask.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"a mask must be bool of shape (H, W), not {array.dtype} of shape {array.shape}")
    flat = array.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], [0] if flat[:1].any() else [], edges, [flat.size]]).astype(np.int64))
    lengths[3:] -= lengths[1:-2].copy()
    text = bytearray()
    for value in lengths.tolist():
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(48 + bits + 32 * more)
    return {"size": list(array.shape), "counts": text.decode("ascii")}


def _lengths(text: bytes) -> NDArray[np.int64]:
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("counts holds a character that compressed run lengths do not have")
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("counts ends within a run; it is cut off")
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > _LONGEST:
        raise ValueError("counts holds a run that is too long; it is damaged")
    place = np.arange(len(codes)) - np.repeat(starts, sizes)
    lengths = np.add.reduceat((codes & 31) << (5 * place), starts)
    lengths -= np.where(codes[ends] & 16, np.int64(1) << (5 * sizes), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def _fill(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    fine = np.trunc(_FINE * corners + 0.5).astype(np.int64)
    path = np.concatenate([_walk(a, b) for a, b in zip(fine, np.roll(fine, -1, axis=0), strict=True)], axis=1)
    low = np.minimum(path[:, 1:], path[:, :-1])[:, path[0, 1:] != path[0, :-1]]  # steps from one fine column to another
    column, at = np.divmod(low[0], _FINE)
    crossing = (at == _FINE // 2) & (column >= 0) & (column < width)
    row = np.ceil(((low[1, crossing] + 0.5) / _FINE - 0.5).clip(0, height)).astype(np.int64)
    changes = np.bincount(column[crossing] * height + row, minlength=height * width + 1)
    mask: NDArray[np.bool_] = (np.cumsum(changes[:-1]) % 2 == 1).reshape(width, height).T
    return mask


def _walk(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """The points (2, M) of the fine grid along an edge, one for each step of its longer side, both ends included."""
    dx, dy = (int(v) for v in np.abs(end - start))
    long = 0 if dx >= dy else 1
    steps = max(dx, dy)
    back = start[long] > end[long]  # always computed in ascending order, lest an edge depend on its direction
    first, last = (end, start) if back else (start, end)
    t = np.arange(steps + 1)
    slope = (last[1 - long] - first[1 - long]) / max(steps, 1)
    points = np.empty((2, steps + 1), dtype=np.int64)
    points[long] = first[long] + t
    points[1 - long] = np.trunc(first[1 - long] + slope * t + 0.5)
    return points[:, ::-1] if back else points
