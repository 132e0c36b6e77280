"""Small files that ask for much memory or time; `attacks.py` reads them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

# ------------------------------------------------------------------------------------------ images


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SMALL = Image.new("RGB", (8, 8))


def shared_entries(entries: int, blob: int) -> bytes:
    """Return a TIFF header and a directory whose entries all have one and the same value of `blob` bytes."""
    start = 8 + 2 + 12 * entries + 4
    tags = b"".join(struct.pack("<HHII", 40000 + n % 20000, 7, blob, start) for n in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + tags + bytes(4) + bytes(blob)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes) -> bytes:
    whole = saved(SMALL, "PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def jpeg_with(*segments: bytes) -> bytes:
    whole = saved(SMALL, "JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 255, marker, len(data) + 2) + data


def tiff(tags: list[tuple[int, int, int, int]], after: bytes = b"", chain: int = 0) -> bytes:
    """Return a TIFF of tags (tag, type, count, value), with a directory at 8; `after` follows it."""
    body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", chain) + after


def plain_tags(side: int = 8, *, offset: int = 0, count: int = 0) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
            (273, 4, 1, offset), (278, 4, 1, side), (279, 4, 1, count)]  # fmt: skip


def tiff_with_shared_values() -> bytes:
    entries, blob, own = 21000, 300_000, plain_tags()
    start = 8 + 2 + 12 * (entries + len(own)) + 4
    shared = [(40000 + n, 7, blob, start) for n in range(entries)]
    return tiff([*own, *shared], bytes(blob))


def tiff_of_many_pages() -> bytes:
    size, pages = 2 + 12 * 9 + 4, 160_000
    parts = [b"II*\0" + struct.pack("<I", 8)]
    for number in range(pages):
        body = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(plain_tags()))
        following = 8 + size * (number + 1) if number + 1 < pages else 0
        parts.append(body + struct.pack("<I", following))
    return b"".join(parts)


def tiff_of_many_strips() -> bytes:
    count = 2_400_000
    own = [tag for tag in plain_tags() if tag[0] not in (273, 278, 279)]
    start = 8 + 2 + 12 * (len(own) + 3) + 4
    tags = [*own, (273, 4, count, start), (278, 4, 1, 1), (279, 4, count, start + 4 * count)]
    return tiff(tags, bytes(8 * count))


def jpeg_of_exif() -> bytes:
    """EXIF data goes on over several segments."""
    data = shared_entries(20_000, 400_000)
    parts = [data[at : at + 65_000] for at in range(0, len(data), 65_000)]
    return jpeg_with(*(segment(0xE1, b"Exif\0\0" + part) for part in parts))


def gif_of_comments() -> bytes:
    whole = saved(SMALL, "GIF")
    at = 13 + 3 * (2 << (whole[10] & 7)) if whole[10] & 128 else 13
    return whole[:at] + b"\x21\xfe\x01a\0" * 800_000 + whole[at:]


def gif_of_blocks() -> bytes:
    whole = saved(SMALL, "GIF")
    return whole[:-1] + b"\x21\x01" + b"\x01a" * 9_000_000 + b"\0;"


def gif_of_frames() -> bytes:
    whole = saved(SMALL, "GIF")
    frame = b"\x2c" + bytes(4) + b"\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return whole[:-1] + frame * 1_200_000 + b";"


def avif_with_exif() -> bytes:
    """Pillow reads EXIF data that it saves, so that empty ones are saved and replaced."""
    data = shared_entries(21_000, 700_000)
    empty = data[:8].ljust(len(data), b"\0")
    return saved(SMALL, "AVIF", exif=empty).replace(empty, data)


def webp_with_exif() -> bytes:
    return saved(SMALL, "WEBP", exif=shared_entries(21_000, 700_000))


def large(kind: str, mode: str = "RGB", side: int = 8192, **options: Any) -> Callable[[], bytes]:
    return lambda: saved(Image.new(mode, (side, side)), kind, **options)


def deep_tiff() -> bytes:
    """16-bit samples multiplied by alpha, 8192 x 8192, in deflated strips of one row."""
    side = 8192
    row = zlib.compress(bytes(side * 8), 9)
    count = side
    tags = [(256, 4, 1, side), (257, 4, 1, side), (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 4), (278, 4, 1, 1),
            (284, 3, 1, 1), (338, 3, 1, 1)]  # fmt: skip
    at = 8 + 2 + 12 * (len(tags) + 3) + 4
    data = at + 8 + 8 * count
    tags += [(258, 3, 4, at), (273, 4, count, at + 8), (279, 4, count, at + 8 + 4 * count)]
    after = struct.pack("<4H", 16, 16, 16, 16)
    after += struct.pack(f"<{count}I", *(data + n * len(row) for n in range(count)))
    after += struct.pack(f"<{count}I", *[len(row)] * count) + row * count
    return tiff(tags, after)


def png16(color: int, channels: int) -> Callable[[], bytes]:
    def make() -> bytes:
        side = 8192
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(bytes(1 + side * channels * 2)) for _ in range(side)) + packer.flush()
        head = struct.pack(">IIBBBBB", side, side, 16, color, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    return make


def tiff_of_one_tile(side: int, tile: tuple[int, int], channels: int, bits: int) -> Callable[[], bytes]:
    """Return a TIFF whose pixels are in one tile, which may be larger than the image."""

    def make() -> bytes:
        packer, row = zlib.compressobj(9), bytes(tile[0] * channels * bits // 8)
        data = b"".join(packer.compress(row) for _ in range(tile[1])) + packer.flush()
        tags = [(256, 4, 1, side), (257, 4, 1, side), (259, 3, 1, 8), (262, 3, 1, 2 if channels > 1 else 1),
                (277, 3, 1, channels), (284, 3, 1, 1), (322, 4, 1, tile[0]), (323, 4, 1, tile[1])]  # fmt: skip
        tags += [(338, 3, 1, 1)] if channels == 4 else []
        at = 8 + 2 + 12 * (len(tags) + 3) + 4
        widths = (258, 3, channels, bits if channels == 1 else at)
        tags += [widths, (324, 4, 1, at + 8), (325, 4, 1, len(data))]
        return tiff(tags, struct.pack("<4H", *[bits] * 4) + data)

    return make


def jpeg2000_of_tiles() -> bytes:
    data = bytearray(saved(Image.new("RGB", (250, 250)), "JPEG2000"))
    struct.pack_into(">II", data, data.find(b"\xff\x4f\xff\x51") + 24, 1, 1)  # the size of a tile
    return bytes(data)


def behind_junk(attack: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return what a JPEG or GIF holds behind bytes that belong to nothing, over which Pillow passes."""

    def make() -> bytes:
        data = attack()
        at = 2 if data[:2] == b"\xff\xd8" else 13 + 3 * (2 << (data[10] & 7)) if data[10] & 128 else 13
        return data[:at] + (b"\xff\xf0zz" if at == 2 else b"wz") + data[at:]

    return make


# ------------------------------------------------------------------------------------------ weights


def pickled(text: bytes, *, compress: bool = False) -> Callable[[], bytes]:
    def make() -> bytes:
        buffer = io.BytesIO()
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(buffer, "w", kind) as archive:
            archive.writestr("archive/data.pkl", text)
            archive.writestr("archive/version", b"3\n")
            archive.writestr("archive/byteorder", b"little")
        return buffer.getvalue()

    return make


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x04\xff\xff\xff\x7f\x85R."
LISTS = b"\x80\x02]" + b"(" + b"]" * 60_000_000 + b"e."


TUPLES = b"h\x01h\x01\x86q\x01"  # a pair of twice what was there
HASHED = b"\x80\x02}(" + b")q\x01" + TUPLES * 60 + b"h\x01K\x01u."
DEEP = b"\x80\x02}(" + b")" + b"\x85" * 900_000 + b"K\x01u."
TENSOR = b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\0\0\0\0\x02\x85R."


def options_of(**options: Any) -> Callable[[], bytes]:
    """Return the bundled weights with other options for inference, under the names that they are saved with."""

    def make() -> bytes:
        import banet

        whole = Path(banet.__file__).with_name("weights").joinpath("scenes.safetensors").read_bytes()
        length = int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8 : 8 + length])
        header["__metadata__"]["inference"] = json.dumps(json.loads(header["__metadata__"]["inference"]) | options)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    return make
