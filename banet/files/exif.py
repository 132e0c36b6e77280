"""How EXIF or XMP data say that an image is to be turned, and turning it."""

from __future__ import annotations

from PIL import Image

__all__ = ["orientation", "turn"]

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """Return how EXIF or XMP data say that an image is to be turned, 1 (not at all) to 8; damaged data say nothing."""
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own one would decode the image
    except Exception:  # a parser may raise anything on bad data
        return 1
    return int(value) if isinstance(value, int) and value in _TURNS else 1


def turn(image: Image.Image, how: int) -> Image.Image:
    """Return an image turned upright; see `orientation`."""
    return image.transpose(_TURNS[how]) if how in _TURNS else image
