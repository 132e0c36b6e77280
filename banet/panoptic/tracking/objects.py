"""What a tracker knows of an object, and what a frame shows of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.coco.rle import decode_rle, encode_rle
from banet.panoptic.tracking.appearance import COLOR_BINS, Colors
from banet.panoptic.tracking.motion import Silhouette
from banet.types import Box

__all__ = ["Seen", "TrackedObject"]

_NUMBERS = ("id", "category_id", "color_pixels", "frames", "unseen", "hidden")


@dataclass(frozen=True)
class Seen:
    """A thing in a frame.

    Attributes:
        category_id: its class.
        area: pixels.
        box: x1, y1, x2, y2 of its visible part.
        centre: x and y of its visible part.
        colors: None without an image.
        cut_off: whether it touches the border of the image, so that more of it may come in.
    """

    category_id: int
    area: int
    box: Box
    centre: tuple[float, float]
    colors: Colors | None
    cut_off: bool


@dataclass
class TrackedObject:
    """An object that has an id.

    Attributes:
        id: stays its own for good.
        category_id: its class.
        silhouette: its whole shape, where it is expected in the next frame or was last.
        speed: dx and dy in pixels per frame.
        colors: those that it had when it was seen best; None without images.
        color_pixels: how many pixels these are of.
        frames: in how many it was found.
        unseen: frames since it was last found or known to be hidden.
        hidden: frames that it has been hidden for.
        hidden_by: ids of what hides it.
    """

    id: int
    category_id: int
    silhouette: Silhouette
    speed: tuple[float, float] = (0.0, 0.0)
    colors: Colors | None = None
    color_pixels: int = 0
    frames: int = 1
    unseen: int = 0
    hidden: int = 0
    hidden_by: tuple[int, ...] = ()

    @property
    def visible(self) -> bool:
        """Return whether it was found in the last frame."""
        return not self.unseen and not self.hidden

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON has it; numbers come back exactly."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            "mask": encode_rle(self.silhouette.mask),
            "place": [self.silhouette.x, self.silhouette.y],
            "speed": list(self.speed),
            "colors": None if self.colors is None else self.colors.tolist(),
            "hidden_by": list(self.hidden_by),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TrackedObject:
        """Return what `to_json` wrote.

        Raises:
            ValueError: it is damaged.
            KeyError: likewise; a field is missing.
            TypeError: likewise; a field has another type.
        """
        height, width = (_natural(side) for side in entry["mask"]["size"])
        mask: NDArray[np.bool_] = decode_rle(entry["mask"]["counts"], (height, width))
        if not mask.any():
            raise ValueError("a mask has no pixel")
        x, y, dx, dy = (_finite(value) for value in (*entry["place"], *entry["speed"]))
        colors = entry["colors"]
        if colors is not None:
            colors = np.array([_finite(value) for value in colors])
            if colors.shape != (COLOR_BINS,) or (colors < 0).any():
                raise ValueError(f"colors must be {COLOR_BINS} numbers, none below 0")
        return cls(
            **{name: _natural(entry[name]) for name in _NUMBERS},
            silhouette=Silhouette(mask, x, y),
            speed=(dx, dy),
            colors=colors,
            hidden_by=tuple(_natural(one) for one in entry["hidden_by"]),
        )


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e9:
        raise ValueError(f"{value!r} is not a number")
    return float(value)
