"""Ways to damage image files and exported networks at one place of their structure, with the rest left whole."""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any

from mutate import NUMBERS, damage_bytes

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 12: 8}


def damage_directory(data: bytes, rng: Random) -> bytes:
    """A TIFF, or EXIF data, with one entry of its first directory changed, or many of them, or another chain."""
    order = "<" if data[:2] == b"II" else ">"
    if rng.random() < 0.2 or len(data) < 16:
        return damage_bytes(data, rng)
    (at,) = struct.unpack(f"{order}I", data[4:8])
    if at + 2 > len(data):
        return damage_bytes(data, rng)
    (count,) = struct.unpack(f"{order}H", data[at : at + 2])
    count = min(count, (len(data) - at - 6) // 12)
    entries = [list(struct.unpack(f"{order}HHII", data[at + 2 + 12 * n :][:12])) for n in range(count)]
    following = struct.unpack(f"{order}I", data[at + 2 + 12 * count :][:4])[0]
    kind = rng.randrange(7)
    row = rng.randrange(max(1, count))
    if not entries or kind == 0:
        following = rng.choice((at, 0, 8, len(data), 2**32 - 1, following))  # a loop, or a chain to nowhere
    elif kind == 1:
        entries[row][rng.choice((2, 3))] = rng.choice(NUMBERS)
    elif kind == 2:
        entries[row][1] = rng.choice((*_SIZES, 0, 13, 16, 99))
    elif kind == 3:
        entries[row][0] = rng.choice((256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 322, 330, 338, 34665))
    elif kind == 4:
        del entries[row]
    elif kind == 5:  # many entries of one value
        entries += [[40_000 + n, 7, rng.choice((8, 1000, len(data))), 8] for n in range(rng.choice((10, 3000, 20_000)))]
    else:
        entries[row][2:] = [rng.choice((2, 1000, len(data) // 4, 2**28)), rng.choice((8, at, len(data) - 1))]
    body = struct.pack(f"{order}H", len(entries)) + b"".join(struct.pack(f"{order}HHII", *one) for one in entries)
    start = len(data) + len(data) % 2  # behind all values, as it may be longer
    return data[:4] + struct.pack(f"{order}I", start) + data[8:].ljust(start - 8, b"\0") + body + struct.pack(
        f"{order}I", following
    )  # fmt: skip


def damage_metadata(data: bytes, rng: Random) -> bytes:
    """A PNG, JPEG or WebP with other EXIF or XMP data, or with very much of it."""
    exif = damage_directory(struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 274, 3, 1, 6, 0), rng)
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b'tiff:Orientation="8"' * rng.choice((0, 1, 20_000))
    if data[:4] == b"\x89PNG":
        kind, body = rng.choice(
            ((b"eXIf", exif), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), (b"iTXt", b"a\0\1\0"))
        )
        if rng.random() < 0.3:
            kind, body = b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp + bytes(rng.choice((0, 1 << 24))))
        if rng.random() < 0.2:
            kind, body = b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + exif.hex().encode())
        chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        return data[:33] + chunk * rng.choice((1, 1, 2, 500)) + data[33:]
    if data[:2] == b"\xff\xd8":
        body = rng.choice((b"Exif\0\0" + exif, b"http://ns.adobe.com/xap/1.0/\0" + xmp, b"MPF\0" + exif))[:65_000]
        segment = struct.pack(">BBH", 255, rng.choice((0xE1, 0xE1, 0xE2, 0xED)), len(body) + 2) + body
        return data[:2] + segment * rng.choice((1, 1, 2, 300)) + data[2:]
    return damage_bytes(data, rng)


LARGEST = 20_000_000  # bytes of a file


def damage_gif(data: bytes, rng: Random) -> bytes:
    """A GIF with another screen, table, frame or extension, or with very many of them."""
    kind = rng.randrange(6)
    start = 13 + (3 * (2 << (data[10] & 7)) if data[10] & 128 else 0)
    if kind == 0:
        return damage_bytes(data, rng)
    if kind == 1:
        at = rng.choice((6, 8))
        return data[:at] + struct.pack("<H", rng.choice(NUMBERS) & 65535) + data[at + 2 :]
    if kind == 2:
        return data[:10] + bytes([rng.randrange(256)]) + data[11:]
    if kind == 3:  # extensions: comment, control, application, text, unknown
        label = rng.choice((0xFE, 0xF9, 0xFF, 0x01, 0x77))
        body = rng.choice((b"\x01a", b"\x04\0\0\0\0", b"\x0bNETSCAPE2.0\x03\x01\0\0", b"\xff" + bytes(255)))
        extension = b"!" + bytes([label]) + body * rng.choice((1, 1, 9, 3000)) + b"\0"
        times = min(rng.choice((1, 1, 40, 2000)), LARGEST // len(extension))
        return data[:start] + extension * times + data[start:]
    frame = data.find(b",", start)
    if kind == 4 and frame > 0:
        at = frame + rng.choice((1, 3, 5, 7))
        return data[:at] + struct.pack("<H", rng.choice(NUMBERS) & 65535) + data[at + 2 :]
    small = b"\x2c" + bytes(4) + b"\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return data[:-1] + small * rng.choice((1, 10, 12_000)) + rng.choice((b";", b"", b"!"))


def damage_jp2(data: bytes, rng: Random) -> bytes:
    """A JPEG 2000 image with another box, size, tile, component or number of levels."""
    marker = data.find(b"\xff\x4f\xff\x51")
    kind = rng.randrange(4)
    if kind == 0 or marker < 0:
        return damage_bytes(data, rng)
    if kind == 1:  # a box
        at = rng.choice((0, 12, max(0, marker - 8)))
        return data[:at] + struct.pack(">I", rng.choice(NUMBERS)) + data[at + 4 :]
    if kind == 2:  # sizes and offsets of image and tiles
        at = marker + 8 + 4 * rng.randrange(8)
        return data[:at] + struct.pack(">I", rng.choice((*NUMBERS, 8192, 300))) + data[at + 4 :]
    at = marker + rng.choice((40, 41, 42, 43, 44, 45))  # components, their bits and steps
    return data[:at] + bytes([rng.choice((0, 1, 2, 3, 7, 15, 37, 127, 255))]) + data[at + 1 :]


def damage_onnx(data: bytes, rng: Random) -> bytes:
    """An exported network with another operator, shape, value, name or output."""
    import onnx

    if rng.random() < 0.3:
        return damage_bytes(data, rng)
    model: Any = onnx.load_from_string(data)
    graph = model.graph
    kind = rng.randrange(7)
    if kind == 0:
        rng.choice(graph.node).op_type = rng.choice(("Identity", "Einsum", "Loop", "Tile", "Cast", "Nothing", "Div"))
    elif kind == 1:
        dims = rng.choice(graph.initializer).dims
        dims[rng.randrange(len(dims))] = rng.choice((0, 1, -1, 3, 2**20, 2**31, 2**40)) if dims else 0
    elif kind == 2:
        one = rng.choice(graph.initializer)
        one.raw_data = damage_bytes(one.raw_data, rng)
    elif kind == 3:
        rng.choice(graph.initializer).data_type = rng.choice((0, 1, 6, 7, 8, 10, 11, 99))
    elif kind == 4:
        del graph.output[rng.randrange(len(graph.output))]
    elif kind == 5:
        text = rng.choice(model.metadata_props)
        text.value = rng.choice((text.value[:-5], "{}", "", text.value.replace("1", "2")))
    else:
        first, second = rng.sample(range(len(graph.node)), 2)
        graph.node[first].output[0] = graph.node[second].output[0]
    result: bytes = model.SerializeToString()
    return result
