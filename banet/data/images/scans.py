"""The scans of a JPEG file, each of which is as much work as the whole image."""

from __future__ import annotations

import re
from typing import BinaryIO

from banet.errors import InputError
from banet.types import StrPath

__all__ = ["check_scans"]

_MOST_SCANS = 100
"""Progressive images have some ten, but a hundred bytes can ask for one more, however large the image is."""

_MOST_SEGMENTS = 100_000
_PIXELS, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Begins a segment, or ends the picture. All others have no length: restarts, which are within code, and invalid ones,
which decoders pass over there or refuse."""


def check_scans(name: StrPath, stream: BinaryIO, start: int) -> None:
    """Count the scans of one picture, as decoders find them: segments by their lengths, code up to the next marker.

    What follows the picture is none of it: phones put a video there, or further pictures.

    Args:
        name: what to call the file in errors.
        stream: the file.
        start: where the picture begins in it.

    Raises:
        InputError: there are very many.
    """
    stream.seek(start)
    data = stream.read()
    scans, at = 0, 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] == _END:
            return
        scans += data[found.end() - 1] == _PIXELS
        if scans > _MOST_SCANS:
            what = f"has more than {_MOST_SCANS} scans, each as much work as an image"
            raise InputError(what, where=name, hint="save it anew")
        at = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise InputError(f"has more than {_MOST_SEGMENTS:,} segments", where=name, hint="save it anew")
