"""How EXIF or XMP data say that an image is to be turned, and turning it."""

from __future__ import annotations

import re

from PIL import Image

from banet.files.structure import directory_tag

__all__ = ["orientation", "turn"]

_ORIENTATION = 0x0112  # EXIF tag
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
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
    """Return how EXIF or XMP data say that an image is to be turned, 1 (not at all) to 8; damaged data say nothing.

    Nothing but this number is read: in Pillow's reader entries that share one value could fill the memory.
    """
    value = _exif_value(image)
    if value is None:
        text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        found = _XMP.search(text.encode("utf-8", "replace") if isinstance(text, str) else bytes(text))
        value = int(found[1]) if found else 1
    return value if value in _TURNS else 1


def _exif_value(image: Image.Image) -> int | None:
    tags = getattr(image, "tag_v2", None)  # of a TIFF
    if tags is not None:
        value = tags.get(_ORIENTATION)
        return value if isinstance(value, int) else None
    data = image.info.get("exif")
    if data is None and isinstance(text := image.info.get("Raw profile type exif"), str):  # as some programs code it
        try:
            data = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return None
    return directory_tag(data.removeprefix(b"Exif\0\0"), _ORIENTATION) if isinstance(data, bytes) else None


def turn(image: Image.Image, how: int) -> Image.Image:
    """Return an image turned upright; see `orientation`."""
    return image.transpose(_TURNS[how]) if how in _TURNS else image
