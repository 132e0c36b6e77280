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

from banet.errors import abbreviate
from banet.panoptic.coco.polygons import fill_polygon, read_polygons
from banet.panoptic.coco.runs import Crop, fill_runs, union
from banet.panoptic.id_maps import runs

__all__ = [
    "decode_crop",
    "decode_polygons",
    "decode_rle",
    "decode_segmentation",
    "encode_rle",
    "run_lengths",
    "why_empty",
]

_WORK_OF_RUN = 8  # as many times what a pixel takes
_LONGEST = 7  # characters of one run: 35 bits


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask that a `segmentation` of a COCO JSON describes.

    Args:
        segmentation: {"size": [H, W], "counts": ...}, with counts as text or numbers; or a list of polygons; or None.
        size: (H, W) of the image.

    Returns:
        (H, W) bool; without a pixel where there is None, the list is empty or no polygon has three corners.

    Raises:
        ValueError: it is none of these, damaged, or of another size.
    """
    return decode_crop(segmentation, size).paste(size)


def decode_crop(segmentation: Any, size: tuple[int, int]) -> Crop:
    """Return the mask that a `segmentation` of a COCO JSON describes, cut to its box: see `decode_segmentation`."""
    if isinstance(segmentation, Mapping):
        return _run_crop(_run_lengths(segmentation, size), size)
    if segmentation is None:
        return Crop.empty()
    if isinstance(segmentation, (list, tuple)):
        return union(fill_polygon(corners, size) for corners in read_polygons(segmentation))
    raise ValueError(f"must be run lengths or a list of polygons, not {abbreviate(segmentation)}")


def why_empty(segmentation: Any, size: tuple[int, int]) -> str:
    """Return why a valid `segmentation` has no pixel in an image of `size` (H, W)."""
    if isinstance(segmentation, Mapping):
        return "empty mask"
    outlines = [corners for corners in read_polygons(segmentation or ()) if len(corners)]
    if not outlines:
        return "no outline"
    if all(len(corners) < 3 for corners in outlines):
        return "too few corners"
    reach = np.array(size[::-1])
    outside = all((corners <= 0).all(axis=0).any() or (corners >= reach).all(axis=0).any() for corners in outlines)
    return "outside of the image" if outside else "smaller than a pixel"


def decode_rle(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of COCO run lengths.

    Args:
        counts: text (str or bytes: compressed), or a list of integers.
        size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the text is damaged, a run is negative, or the runs do not fill H x W pixels.
    """
    ends = np.cumsum(_counts(counts, size))[:-1]
    mask: NDArray[np.bool_] = fill_runs(ends, size[0] * size[1]).reshape(size[1], size[0]).T
    return mask


def decode_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of polygons, with the edges where COCO's tools put them.

    Args:
        polygons: each a list x1, y1, x2, y2, ...; one of less than three corners has no pixel.
        size: (H, W).

    Returns:
        (H, W) bool.

    Raises:
        ValueError: a polygon is not such a list, or a corner lies too far away.
    """
    return union(fill_polygon(corners, size) for corners in read_polygons(polygons)).paste(size)


def encode_rle(mask: Any) -> dict[str, Any]:
    """Compressed run lengths of a mask, as the `segmentation` of a COCO results JSON.

    Args:
        mask: (H, W) bool.

    Returns:
        A dict with `size` [H, W] and `counts`, a text.

    Raises:
        ValueError: it is not such a mask.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.dtype != np.bool_:
        raise ValueError(f"a mask must be bool of shape (H, W), not {array.dtype} of shape {array.shape}")
    lengths = run_lengths(array)
    lengths[3:] -= lengths[1:-2].copy()
    text = bytearray()
    for value in lengths.tolist():
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(48 + bits + 32 * more)
    return {"size": list(array.shape), "counts": text.decode("ascii")}


def run_lengths(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the runs of a mask (H, W), the first of pixels that are not the object's, which may be none."""
    flat = mask.T.reshape(-1)
    _, lengths = runs(flat)
    return np.insert(lengths, 0, 0) if flat[:1].any() or not flat.size else lengths


def _run_lengths(segmentation: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.int64]:
    missing = [key for key in ("size", "counts") if key not in segmentation]
    if missing:
        raise ValueError(f"'{missing[0]}' is missing; run lengths need 'size' and 'counts'")
    given = segmentation["size"]
    if not isinstance(given, (list, tuple)) or len(given) != 2 or list(given) != list(size):
        raise ValueError(f"size must be {list(size)}, height and width of the image, not {abbreviate(given)}")
    return _counts(segmentation["counts"], size)


def _counts(counts: Any, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return run lengths as numbers, validated: they fill H x W pixels."""
    if isinstance(counts, (str, bytes)):
        lengths = _lengths(counts.encode("utf-8", "replace") if isinstance(counts, str) else counts)
    elif isinstance(counts, (list, tuple)) and all(type(n) is int and abs(n) < 1 << 53 for n in counts):
        lengths = np.array(counts, dtype=np.int64)
    else:
        raise ValueError("counts must be text or a list of integers")
    if (lengths < 0).any():
        raise ValueError("counts holds a negative run; they are damaged")
    total = sum(lengths.tolist())
    if total != size[0] * size[1]:
        raise ValueError(f"counts add up to {total} pixels, not {size[0]} x {size[1]}")
    return lengths


def _run_crop(lengths: NDArray[np.int64], size: tuple[int, int]) -> Crop:
    """Return the mask of runs down the columns; only the columns that it has pixels in are painted."""
    work = _WORK_OF_RUN * len(lengths)
    ends = np.cumsum(lengths)[: len(lengths) // 2 * 2].reshape(-1, 2)
    ends = ends[ends[:, 0] < ends[:, 1]]
    if not len(ends):
        return Crop.empty(work)
    height = size[0]
    left, right = int(ends[0, 0]) // height, -(-int(ends[-1, 1]) // height)
    flat = fill_runs(ends.ravel() - left * height, (right - left) * height)
    return Crop.of(flat.reshape(right - left, height).T, left, drawn=work + flat.size)


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
