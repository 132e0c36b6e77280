"""Directories of TIFF files and of EXIF data, which have the same form."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

__all__ = ["check_exif", "check_tiff", "directory_tag", "most_pages"]

_PAGES = 10_000
_PAGE = 1 << 13  # bytes per page of files that have more
_VALUES = 1 << 18  # numbers of one tag, such as the strips of 8192 x 8192 pixels in three planes
_PART = 1 << 28  # bytes of one strip or tile, which is decoded as a whole

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by type."""
_NUMBERS = frozenset(_SIZES) - {1, 2, 6, 7}
_TAGS = {
    **{"width": 256, "height": 257, "bits": 258, "coding": 259, "channels": 277, "rows": 278, "planes": 284},
    **{"tile width": 322, "tile height": 323},
}


def most_pages(size: int) -> int:
    """Return how many pages or frames a file of so many bytes may have."""
    return max(_PAGES, size // _PAGE)


def check_tiff(stream: BinaryIO, size: int) -> None:
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
        following = stream.read(layout.offset_size)
        claimed += _claimed(layout, entries)
        if claimed > 2 * size + (1 << 16):  # honest values do not share bytes, but those of all pages may
            raise ValueError(f"has tags of {claimed:,} bytes in a file of {size:,}")
        if (part := _decoded_part(layout, entries, stream)) > _PART:
            raise ValueError(f"has a strip or tile of {part:,} bytes, which is decoded as a whole")
        at = layout.unpack(layout.offset, following)[0]


def _claimed(layout: _Layout, entries: bytes) -> int:
    total = 0
    for tag, kind, count in layout.entries(entries):
        length = count * _SIZES.get(kind, 0)
        if kind in _NUMBERS and count > _VALUES:
            raise ValueError(f"has a tag ({tag}) of {count:,} numbers")
        total += length if length > layout.offset_size else 0
    return total


def _decoded_part(layout: _Layout, entries: bytes, stream: BinaryIO) -> int:
    """Return the bytes of the largest strip or tile of a page once it is decoded; 0 of pages that are not coded."""
    given = {name: layout.number(entries, tag, stream) for name, tag in _TAGS.items()}
    if given["coding"] in (None, 1):
        return 0
    width, height = given["tile width"], given["tile height"]
    if width is None or height is None:
        width, height = given["width"] or 0, given["height"] or 0
        height = min(height, given["rows"] or height)
    channels = 1 if given["planes"] == 2 else given["channels"] or 1
    return width * height * channels * (given["bits"] or 1) // 8


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
        self._place = struct.Struct(f"{order}12xQ" if big else f"{order}8xI")
        self.entry_size = self._entry.size

    @classmethod
    def of(cls, head: bytes) -> _Layout | None:
        """Read the first 16 bytes; None where they are not those of a TIFF."""
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 8:
            return None
        if 43 in head[2:4] and len(head) == 16:  # in either order, as Pillow takes both
            return cls(order, True, struct.unpack(f"{order}Q", head[8:])[0])
        return cls(order, False, struct.unpack(f"{order}I", head[4:8])[0]) if 42 in head[2:4] else None

    def unpack(self, code: str, data: bytes) -> tuple[int, ...]:
        """Return a number; 0 where the file ends before it."""
        whole = struct.calcsize(f"{self.order}{code}")
        return struct.unpack(f"{self.order}{code}", data.ljust(whole, b"\0")[:whole])

    def entries(self, data: bytes) -> list[tuple[int, int, int]]:
        """Return tag, type and number of values of each entry of a directory."""
        return list(self._entry.iter_unpack(data[: len(data) // self.entry_size * self.entry_size]))

    def places(self, data: bytes) -> list[int]:
        """Return where the values of each entry are, of those that are not in the entry itself."""
        return [at for (at,) in self._place.iter_unpack(data[: len(data) // self.entry_size * self.entry_size])]

    def first_directory(self, data: bytes) -> bytes:
        """Return the entries of the first directory, as many as are there."""
        (count,) = self.unpack(self.count, data[self.first : self.first + self.count_size])
        return data[self.first + self.count_size :][: min(count, 1 << 16) * self.entry_size]

    def number(self, entries: bytes, tag: int, stream: BinaryIO) -> int | None:
        """Return the first of the whole numbers that a directory gives for a tag; None where it gives none."""
        for at in range(0, len(entries) // self.entry_size * self.entry_size, self.entry_size):
            found, kind, count = self._entry.unpack_from(entries, at)
            if found == tag:
                break
        else:
            return None
        if (code := {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)) is None:
            return None
        value = entries[at + self.entry_size - self.offset_size : at + self.entry_size]
        if count * _SIZES[kind] > self.offset_size:
            stream.seek(self.unpack(self.offset, value)[0])
            value = stream.read(_SIZES[kind])
        return self.unpack(code, value)[0]


def check_exif(data: bytes) -> None:
    """Add up the values of the first directory of EXIF data, as far as they are there: damaged data are passed over.

    Raises:
        ValueError: They share their bytes many times over.
    """
    while data.startswith(b"Exif\0\0"):  # of which Pillow takes any number
        data = data[6:]
    layout = _Layout.of(data[:16])
    if layout is None:
        return
    entries, size = layout.first_directory(data), len(data)
    lengths = (count * _SIZES.get(kind, 0) for _, kind, count in layout.entries(entries))
    places = layout.places(entries)
    claimed = sum(min(length, max(0, size - at)) for length, at in zip(lengths, places, strict=True) if length > 8)
    if claimed > 2 * size + (1 << 16):
        raise ValueError(f"has EXIF data of {claimed:,} bytes in {size:,}")


def directory_tag(data: bytes, tag: int) -> int | None:
    """Return a whole number in the first directory of EXIF data, and read nothing else; None where there is none."""
    layout = _Layout.of(data[:16])
    if layout is None:
        return None
    return layout.number(layout.first_directory(data), tag, io.BytesIO(data))
