"""Segments of JPEG files, and the EXIF data in them."""

from __future__ import annotations

from typing import BinaryIO

from banet.files.structure.tiff import check_exif

__all__ = ["check_jpeg"]

_SEGMENTS = 10_000  # before the pixels
_FILLERS = 100_000  # bytes that belong to no segment
_PIXELS = 0xFFDA


def check_jpeg(stream: BinaryIO, size: int) -> None:
    """Follow the segments up to the pixels as Pillow does, which passes over bytes between them.

    EXIF data, and the directory of a file of several pictures, are counted too: earlier versions of Pillow (12.0) read
    all their tags.

    Raises:
        ValueError: There are too many, or they claim too much.
    """
    from PIL.JpegImagePlugin import MARKER  # here, as a score reads id maps without Pillow

    stream.seek(2)
    exif = bytearray()
    segments = fillers = 0
    first = stream.read(1)
    while first:
        second = stream.read(1) if first == b"\xff" else b""
        code = 0xFF00 | second[0] if second else 0
        if code == _PIXELS or (code not in MARKER and code not in (0, 0xFF00, 0xFFFF)):
            break
        if code in MARKER:
            segments += 1
            if MARKER[code][2] is not None:  # it has a length
                _look(code, stream.read(max(0, int.from_bytes(stream.read(2), "big") - 2)), exif)
        else:
            fillers += 1
        if segments > _SEGMENTS:
            raise ValueError(f"has more than {_SEGMENTS:,} segments before its pixels")
        if fillers > _FILLERS:
            raise ValueError(f"has more than {_FILLERS:,} bytes between its segments")
        first = b"\xff" if code == 0xFFFF else stream.read(1)
    check_exif(bytes(exif))


def _look(code: int, data: bytes, exif: bytearray) -> None:
    """Look at a segment; add to the EXIF data, which go on over several."""
    if code == 0xFFE1 and data[:6] == b"Exif\0\0":
        exif += data[6:]
    elif code == 0xFFE2 and data[:4] == b"MPF\0":
        check_exif(data[4:])
