"""Diff of two results of one image: the pixels that differ, and a drawing of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.panoptic.segmentation import PanopticSegmentation

__all__ = ["differing_pixels", "draw_diff"]

_OUTLINE = (255, 70, 90)


def differing_pixels(before: PanopticSegmentation, after: PanopticSegmentation) -> NDArray[np.bool_]:
    """Return the pixels that differ: they belong to different objects in the two results, or to none in one of them.

    Segment ids differ between results of the same instances, so things are identified by class and score, and stuff by
    class; things of one class with exactly equal scores count as one.

    Args:
        before: a result, (H, W).
        after: another of the same instances and the same semantic map.

    Returns:
        (H, W) bool.
    """
    numbers: dict[tuple[int, float | None], int] = {}

    def owners(result: PanopticSegmentation) -> NDArray[np.int64]:
        number = np.zeros(max((s.id for s in result.segments), default=0) + 1, dtype=np.int64)
        for segment in result.segments:
            number[segment.id] = numbers.setdefault((segment.category_id, segment.score), len(numbers) + 1)
        owner: NDArray[np.int64] = number[result.ids]
        return owner

    differ: NDArray[np.bool_] = owners(before) != owners(after)
    return differ


def draw_diff(differ: NDArray[np.bool_], image: NDArray[np.uint8]) -> Image.Image:
    """Return the image, darkened except for the pixels that differ, which are outlined.

    Args:
        differ: (H, W), from `differing_pixels`.
        image: (H, W, 3).
    """
    canvas = np.where(differ[..., None], image, image * 0.4).astype(np.uint8)
    padded = np.pad(differ, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    canvas[near & ~differ] = _OUTLINE
    return Image.fromarray(canvas)
