"""The size that images get in the network, and bilinear resizing to it. Loads torch for tensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from banet.types import Size

if TYPE_CHECKING:
    from torch import Tensor

_ENLARGED = 1 << 22
"""Pixels up to which images are enlarged: twice those of the paper's 1333 x 1333 at most."""

__all__ = ["resize_bilinear", "resize_image", "resized_size"]


def resize_image(image: Tensor, shorter: int, longer: int, scale: float = 0.0) -> Tensor:
    """Return an image (3, H, W), uint8 or float, at `resized_size`: as `eval_transform` resizes it."""
    return resize_bilinear(image, resized_size(int(image.shape[-2]), int(image.shape[-1]), shorter, longer, scale))


def resize_bilinear(image: Tensor, size: Size) -> Tensor:
    """Return an image (3, H, W) at another size, by pixel centres and with antialiasing."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    resized: Tensor = functional.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    return resized


def resized_size(height: int, width: int, shorter: int, longer: int, scale: float = 0.0) -> Size:
    """Return the size (H, W) of an image whose shorter side becomes `shorter`, or less to keep the longer ≤ `longer`.

    No image is enlarged to more than 2^22 pixels, whatever weights of others ask for. With a `scale` above 0 the sides
    are multiplied by that, whatever `shorter`, or by less because of `longer`.
    """
    low, high = min(height, width), max(height, width)
    most = max(1.0, (_ENLARGED / (low * high)) ** 0.5)  # how much larger a side may become
    longer = min(longer, max(high, int(high * most)))
    if scale:
        factor = min(scale, longer / high)
        return max(1, round(height * factor)), max(1, round(width * factor))
    if shorter * high > longer * low:
        other, side = max(1, round(longer * low / high)), longer
    else:
        other, side = shorter, min(longer, round(shorter * high / low))
    return (other, side) if height <= width else (side, other)
