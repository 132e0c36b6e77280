"""The headers of JPEG 2000 files, which say into how many parts the image is cut."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["check_jpeg2000"]

_BOXES = 100_000  # and parts of tiles
_TILES = 1 << 14  # each takes some ten kilobytes
_BLOCKS = 1 << 18  # that are coded by themselves, each of which takes a kilobyte or two

_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_KNOWN = frozenset(bytes.fromhex("50 55 57 58 59 5c 5d 5e 5f 60 61 63 64 74 75 77 78"))
"""Second bytes of the other markers of headers."""


def check_jpeg2000(stream: BinaryIO, size: int) -> None:
    """Follow boxes and headers, but not the code between them.

    Raises:
        ValueError: The image is cut into too many parts.
    """
    if not _find_code(stream):
        return
    samples = components = 0
    for marker, data in _segments(stream):
        if marker == _SIZ and len(data) >= 36:
            right, bottom, left, top, width, height, x, y, components = struct.unpack(">8IH", data[2:36])
            samples = max(0, right - left) * max(0, bottom - top) * components
            if (tiles := _steps(right - x, width) * _steps(bottom - y, height)) > _TILES:
                raise ValueError(f"is cut into {tiles:,} tiles")
        elif marker in (_COD, _COC):
            skipped = (0 if marker == _COD else 1) + (marker == _COC and components > 256)
            coding = data[skipped + (5 if marker == _COD else 1) :]
            if len(coding) >= 3 and (blocks := int(samples * _blocks(data[skipped], coding))) > _BLOCKS:
                raise ValueError(f"is coded in {blocks:,} blocks")


def _steps(length: int, step: int) -> int:
    return -(-max(0, length) // max(1, step))


def _blocks(flags: int, coding: bytes) -> float:
    """Return the number of blocks per sample, over all resolutions, of which each has four times the next one's."""
    levels = min(coding[0], 32)
    total = 0.0
    for level in range(levels + 1):
        share = 4.0 ** (level - levels) * (0.75 if level else 1)
        at = 5 + level
        largest = coding[at] if flags & 1 and at < len(coding) else 0xFF  # a block lies within a precinct
        sides = [min((coding[1 + axis] & 15) + 2, (largest >> 4 * axis & 15) - (level > 0)) for axis in (0, 1)]
        total += share / 2 ** (max(sides[0], 0) + max(sides[1], 0))
    return total


def _find_code(stream: BinaryIO) -> bool:
    """Go to the first marker of the code, in the file itself or in one of its boxes; return whether there is one."""
    if stream.read(2) == b"\xff\x4f":
        return True
    stream.seek(0)
    for _ in range(_BOXES):
        head = stream.read(8)
        if len(head) < 8:
            return False
        length, taken = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, taken = int.from_bytes(stream.read(8), "big"), 16
        if head[4:] == b"jp2c":
            return stream.read(2) == b"\xff\x4f"
        if length < taken:  # 0: up to the end of the file
            return False
        stream.seek(length - taken, 1)
    raise ValueError(f"has more than {_BOXES:,} boxes before its pixels")


def _segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the markers of the headers of the image and of the parts of its tiles, with what belongs to them."""
    parts = following = 0
    while len(head := stream.read(4)) == 4:
        marker, length = struct.unpack(">HH", head)
        if marker == _SOD:
            if not following:
                return
            stream.seek(following)
            continue
        start = stream.tell() - 4
        data = stream.read(max(0, length - 2))
        if marker == _SOT and len(data) >= 8:
            parts += 1
            if parts > _BOXES:
                raise ValueError(f"has more than {_BOXES:,} parts of tiles")
            (whole,) = struct.unpack(">I", data[2:6])
            following = start + whole if whole else 0
            if whole and following <= stream.tell():
                return
        elif marker in (_SIZ, _COD, _COC):
            yield marker, data
        elif marker >> 8 != 0xFF:
            return
        elif marker & 0xFF not in _KNOWN:  # decoders do not skip it by its length
            raise ValueError(f"has a marker that is not known ({marker:X})")
