"""Which pixels change hands between two results of one picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.panoptic.segmentation import PanopticSegmentation

__all__ = ["changed_hands", "draw_changes"]

_OUTLINE = (220, 30, 60)


def changed_hands(before: PanopticSegmentation, after: PanopticSegmentation) -> NDArray[np.bool_]:
    """Pixels that belong to another object in the second result than in the first, or to none in one of them.

    Segment ids count what is left, so they say nothing across results. A thing is known again by its class and score,
    stuff by its class; things of one class that share a score to the last bit are taken for one.

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

    changed: NDArray[np.bool_] = owners(before) != owners(after)
    return changed


def draw_changes(changed: NDArray[np.bool_], image: NDArray[np.uint8]) -> Image.Image:
    """The picture, faded but for the pixels that changed hands, which are outlined.

    Args:
        changed: (H, W).
        image: (H, W, 3).
    """
    canvas = np.where(changed[..., None], image, image // 4 + 160).astype(np.uint8)
    padded = np.pad(changed, 1)
    near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    canvas[near & ~changed] = _OUTLINE
    return Image.fromarray(canvas)
