"""Things painted into a scene, and the light and the grain of its image.

numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from banet.data.scenes.stuff import Floats, dim
from banet.data.scenes.things import Patch

__all__ = ["draw_gain", "expose", "owners", "paint"]


def owners(patches: Sequence[Patch], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return (H,W): 1 + the index of the last patch that covers each pixel; 0 where none does."""
    ids = np.zeros(size, np.int32)
    for number, patch in enumerate(patches, start=1):
        ids[patch.box][patch.mask] = number
    return ids


def paint(image: Floats, patch: Patch, shadow: tuple[int, int, float]) -> None:
    """Paint a patch into the image, in place, with a soft shadow beside it."""
    dx, dy, dark = shadow
    rows, columns = patch.box
    if dark > 0:
        pad = 4
        y0, x0 = rows.start - pad + dy, columns.start - pad + dx
        soft = Image.fromarray(np.pad(np.uint8(255 * dark) * patch.mask, pad)).filter(ImageFilter.BoxBlur(2))
        height, width = image.shape[:2]
        top, left = max(0, -y0), max(0, -x0)
        share = np.asarray(soft, np.float32)[top : height - y0, left : width - x0]
        if share.size:
            y0, x0 = y0 + top, x0 + left
            dim(image[y0 : y0 + share.shape[0], x0 : x0 + share.shape[1]], 1 - share / 255)
    under = image[patch.box]
    dim(under, 1 - patch.alpha)
    under += patch.color


def draw_gain(rng: np.random.Generator) -> Floats:
    """Draw the exposure of an image and a slight cast of its colours, (3,)."""
    return np.asarray(rng.uniform(0.78, 1.15) * (1 + 0.04 * rng.normal(size=3))).astype(np.float32)


def expose(image: Floats, gain: Floats, grain: float, rng: np.random.Generator) -> None:
    """Multiply the channels of an image (H,W,3), in place, and add grain: uniform noise of that width."""
    for channel in range(3):
        image[..., channel] *= gain[channel]
    image += rng.random(image.shape, dtype=np.float32) * np.float32(grain)
    image -= np.float32(grain) / 2
