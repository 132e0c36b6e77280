"""The structure of image files, counted before a decoder follows it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from banet.files.structure.jpeg import check_jpeg
from banet.files.structure.jpeg2000 import check_jpeg2000
from banet.files.structure.tiff import check_exif, check_tiff, most_pages

__all__ = ["check_structure"]

_COMMENTS = 1000  # of GIF and plain PNM: each is copied for the next one
_CHUNKS = 100_000  # of PNG, and blocks of GIF; more where the file is large
_HONEST = 1 << 10  # bytes per chunk
_HEAD = 1 << 16  # bytes in which the header of a PNM file must end


def check_structure(kind: str, stream: BinaryIO) -> None:
    """Check the structure of an image file.

    Args:
        kind: Pillow's name of its format; those without such structure pass.
        stream: The file.

    Raises:
        ValueError: It has more parts than a decoder should follow, or one where no file can have it; the message says
            of what.
    """
    stream.seek(0, 2)
    size = stream.tell()
    stream.seek(0)
    if kind not in _CHECKS:
        return
    try:
        _CHECKS[kind](stream, size)
    except OverflowError as error:
        raise ValueError("has a part beyond its end") from error
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise ValueError("has a part beyond its end") from error


def _png(stream: BinaryIO, size: int) -> None:
    stream.seek(8)
    for _ in range(max(_CHUNKS, size // _HONEST)):
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        stream.seek(int.from_bytes(head[:4], "big") + 4, 1)
    raise ValueError(f"has more than {max(_CHUNKS, size // _HONEST):,} chunks")


def _gif(stream: BinaryIO, size: int) -> None:
    """Follow frames and extensions as Pillow does, which passes over bytes that are neither."""
    head = stream.read(13)
    blocks = frames = comments = 0
    if len(head) < 13:
        return
    stream.seek(_colors(head[10]), 1)
    most = max(_CHUNKS, size // 64)
    while (kind := stream.read(1)) not in (b"", b";"):
        label = b""
        if kind == b"!":
            label = stream.read(1)
            comments += label == b"\xfe"
        elif kind == b",":
            frames += 1
            place = stream.read(9)
            stream.seek(_colors(place[8]) + 1 if len(place) == 9 else 0, 1)
        found = _blocks(stream, most - blocks, label) if kind in b"!," else 1
        blocks += found
        if blocks > most:
            raise ValueError(f"has more than {most:,} blocks")
        if comments > _COMMENTS:
            raise ValueError(f"has more than {_COMMENTS:,} comments")
        if frames > most_pages(size):
            raise ValueError(f"has more than {most_pages(size):,} frames")


def _blocks(stream: BinaryIO, most: int, label: bytes) -> int:
    """Pass over the blocks of an extension, or of an image (no label), up to the empty one; return their number."""
    count = least = 0
    if label not in (b"", b"\xfe"):  # in which Pillow looks for the end behind the first block, or the second
        least = 1
    while (length := stream.read(1)) not in (b"", b"\0"):
        block = stream.read(length[0])
        if count == 0 and label == b"\xff" and block[:11] == b"NETSCAPE2.0":
            least = 2
        count += 1
        if count > most:
            break
    if length == b"\0" and count < least:
        raise ValueError("has an extension without data")
    return count


def _avif(stream: BinaryIO, size: int) -> None:
    """Let Pillow's decoder find the EXIF data, which Pillow 12.0 reads with all their tags."""
    from PIL import AvifImagePlugin  # here, as a score reads id maps without Pillow

    decoder: Any = getattr(AvifImagePlugin, "_avif", None)  # None where Pillow was built without it
    try:
        exif = decoder.AvifDecoder(stream.read(), "auto", 1).get_info()[4]
    except Exception:  # who decodes it says what is wrong
        return
    check_exif(exif or b"")


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
    "TIFF": check_tiff,
    "PNG": _png,
    "JPEG": check_jpeg,
    "MPO": check_jpeg,
    "JPEG2000": check_jpeg2000,
    "GIF": _gif,
    "AVIF": _avif,
    "PPM": _netpbm,
}
