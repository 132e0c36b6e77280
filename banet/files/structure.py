"""The structure of image files, counted before a decoder follows it: pages, tags, comments, chunks and segments.

What a file of a few megabytes says of itself can make a decoder work for minutes, or repeat one value thousands of
times in memory. Each check is linear in the file, with a limit far above what programs write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["check_structure", "directory_tag", "most_pages"]

_COMMENTS = 1000  # of GIF and plain PNM: each is copied for the next one
_CHUNKS = 100_000  # of PNG, and blocks of other formats; more where the file is large
_SEGMENTS = 10_000  # of JPEG, before the pixels
_PAGES = 10_000
_HONEST = 1 << 10  # bytes per chunk, and
_PAGE = 1 << 13  # bytes per page of files that have more
_VALUES = 1 << 18  # numbers of one TIFF tag, such as the strips of 8192 x 8192 pixels in three planes
_HEAD = 1 << 16  # bytes in which the header of a PNM file must end

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by type in TIFF."""
_NUMBERS = frozenset(_SIZES) - {1, 2, 6, 7}


def most_pages(size: int) -> int:
    """Return how many pages or frames a file of so many bytes may have."""
    return max(_PAGES, size // _PAGE)


def check_structure(kind: str, stream: BinaryIO) -> None:
    """Check the structure of an image file.

    Args:
        kind: Pillow's name of its format; those without such structure pass.
        stream: The file.

    Raises:
        ValueError: It has more parts than a decoder should follow; the message says of what.
    """
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(0)
    if kind in _CHECKS:
        _CHECKS[kind](stream, size)


# ---------------------------------------------------------------------------------------------------- TIFF and EXIF


def _tiff(stream: BinaryIO, size: int) -> None:
    """Follow the directories of a TIFF as far as possible; the decoder says what is wrong with the rest."""
    layout = _Layout.of(stream.read(16))
    if layout is None:
        return
    seen: set[int] = set()
    at, claimed = layout.first, 0
    while at and at not in seen and at < size:
        seen.add(at)
        if len(seen) > most_pages(size):
            raise ValueError(f"has more than {most_pages(size):,} pages")
        stream.seek(at)
        (count,) = layout.unpack(layout.count, stream.read(layout.count_size))
        if count > 1 << 16:
            raise ValueError(f"has a directory of {count:,} tags")
        entries = stream.read(count * layout.entry_size)
        claimed += _claimed(layout, entries)
        if claimed > 2 * size + (1 << 16):  # honest values do not share bytes, but those of all pages may
            raise ValueError(f"has tags of {claimed:,} bytes in a file of {size:,}")
        at = layout.unpack(layout.offset, stream.read(layout.offset_size))[0]


def _claimed(layout: _Layout, entries: bytes) -> int:
    total = 0
    for tag, kind, count in layout.entries(entries):
        length = count * _SIZES.get(kind, 0)
        if kind in _NUMBERS and count > _VALUES:
            raise ValueError(f"has a tag ({tag}) of {count:,} numbers")
        total += length if length > layout.offset_size else 0
    return total


class _Layout:
    """How numbers are laid out in a TIFF or in EXIF data.

    Attributes:
        first: Where the first directory is.
    """

    def __init__(self, order: str, big: bool, first: int) -> None:
        self.order, self.first = order, first
        self.count, self.offset = ("Q", "Q") if big else ("H", "I")
        self.count_size, self.offset_size = (8, 8) if big else (2, 4)
        self._entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHI4x")
        self.entry_size = self._entry.size

    @classmethod
    def of(cls, head: bytes) -> _Layout | None:
        """Read the first 16 bytes; None where they are not those of a TIFF."""
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            return None
        (version,) = struct.unpack(f"{order}H", head[2:4])
        if version == 43 and len(head) == 16:
            return cls(order, True, struct.unpack(f"{order}Q", head[8:])[0])
        return cls(order, False, struct.unpack(f"{order}I", head[4:8])[0]) if version == 42 else None

    def unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        """Return a number; 0 where the file ends before it."""
        whole = struct.calcsize(f"{self.order}{code}")
        return struct.unpack(f"{self.order}{code}", data.ljust(whole, b"\0")[:whole])

    def entries(self, data: bytes) -> list[tuple[int, int, int]]:
        """Return tag, type and number of values of each entry of a directory."""
        return list(self._entry.iter_unpack(data[: len(data) // self.entry_size * self.entry_size]))


def directory_tag(data: bytes, tag: int) -> int | None:
    """Return a whole number in the first directory of EXIF data, and read nothing else; None where there is none."""
    layout = _Layout.of(data[:16])
    if layout is None:
        return None
    at = layout.first
    (count,) = layout.unpack(layout.count, data[at : at + layout.count_size])
    start = at + layout.count_size
    for number in range(min(count, 1 << 16)):
        entry = data[start + number * layout.entry_size :][: layout.entry_size]
        if len(entry) < layout.entry_size:
            return None
        found, kind = struct.unpack(f"{layout.order}HH", entry[:4])
        if found == tag:
            code = {1: "B", 3: "H", 4: "I"}.get(kind)
            return None if code is None else int(layout.unpack(code, entry[-layout.offset_size :])[0])
    return None


# -------------------------------------------------------------------------------------------------- other formats


def _png(stream: BinaryIO, size: int) -> None:
    stream.seek(8)
    for _ in range(max(_CHUNKS, size // _HONEST)):
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
    raise ValueError(f"has more than {max(_CHUNKS, size // _HONEST):,} chunks")


def _jpeg(stream: BinaryIO, size: int) -> None:
    """Follow the segments up to the pixels."""
    stream.seek(2)
    for _ in range(_SEGMENTS):
        head = stream.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            return
        if head[1] == 0xFF or head[1] == 0 or 0xD0 <= head[1] <= 0xD9:  # filling, or a mark without a length
            stream.seek(-3 if head[1] == 0xFF else -2, 1)
        else:
            stream.seek(int.from_bytes(head[2:], "big") - 2, 1)
    raise ValueError(f"has more than {_SEGMENTS:,} segments before its pixels")


def _gif(stream: BinaryIO, size: int) -> None:
    """Follow frames and extensions."""
    head = stream.read(13)
    blocks = frames = comments = 0
    if len(head) < 13:
        return
    stream.seek(_colors(head[10]), 1)
    most = max(_CHUNKS, size // 64)
    while True:
        kind = stream.read(1)
        if kind == b"!":
            comments += stream.read(1) == b"\xfe"
        elif kind == b",":
            frames += 1
            place = stream.read(9)
            stream.seek(_colors(place[8]) + 1 if len(place) == 9 else 0, 1)
        elif kind != b"\0":  # the end, or something that Pillow passes over byte by byte
            return
        while (length := stream.read(1)) not in (b"", b"\0"):
            stream.seek(length[0], 1)
            blocks += 1
            if blocks > most:
                raise ValueError(f"has more than {most:,} blocks")
        if comments > _COMMENTS:
            raise ValueError(f"has more than {_COMMENTS:,} comments")
        if frames > most_pages(size):
            raise ValueError(f"has more than {most_pages(size):,} frames")


def _colors(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 128 else 0


def _netpbm(stream: BinaryIO, size: int) -> None:
    """Find the end of the header, and count the comments of files that are text, which may be anywhere."""
    head = stream.read(_HEAD)
    if not re.match(rb"P.(?:\s|#[^\r\n]*[\r\n])*[^\s#]+(?:\s|#[^\r\n]*[\r\n])+[^\s#]+\s", head):
        if len(head) == _HEAD:
            raise ValueError(f"has a header of more than {_HEAD:,} bytes")
        return
    if head[1:2] in b"123":
        comments = head.count(b"#")
        while block := stream.read(1 << 20):
            comments += block.count(b"#")
        if comments > _COMMENTS:
            raise ValueError(f"has more than {_COMMENTS:,} comments")


_CHECKS: dict[str, Callable[[BinaryIO, int], None]] = {
    "TIFF": _tiff,
    "PNG": _png,
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "GIF": _gif,
    "PPM": _netpbm,
}
