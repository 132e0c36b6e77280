"""The structure of image files: what programs write passes, and what a decoder should not follow is refused."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from banet.files.structure import check_structure

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check(kind: str, data: bytes) -> None:
    check_structure(kind, io.BytesIO(data))


def exif() -> Image.Exif:
    some = Image.Exif()
    some[0x010E], some[0x8769] = "a photo" * 500, {0x927C: bytes(20_000)}
    return some


HONEST: list[tuple[str, dict[str, Any]]] = [
    *(("JPEG2000", options) for options in (
        {}, {"no_jp2": True}, {"irreversible": True}, {"tile_size": (128, 128)}, {"codeblock_size": (16, 16)},
        {"precinct_size": (64, 64)}, {"num_resolutions": 1}, {"quality_layers": [40, 20, 10]}, {"progression": "RPCL"},
    )),
    *(("TIFF", {"compression": each}) for each in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits")),
    ("TIFF", {"big_tiff": True, "compression": "tiff_lzw"}),
    ("TIFF", {"save_all": True, "append_images": [NOISE] * 3}),
    ("JPEG", {"progressive": True, "exif": exif(), "comment": "x" * 1000, "icc_profile": bytes(200_000)}),
    ("MPO", {"save_all": True, "append_images": [NOISE]}),
    ("GIF", {"save_all": True, "append_images": [NOISE.rotate(9)] * 3, "comment": "a", "loop": 0, "duration": 50}),
    ("PNG", {"exif": exif()}),
    ("PPM", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), HONEST, ids=[f"{kind}-{'-'.join(options)}" for kind, options in HONEST])
def test_what_programs_write_passes(kind, options):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow cannot write it")
    check(kind, saved(NOISE, kind, **options))


def test_exif_data_that_are_damaged_pass():
    whole = saved(NOISE, "JPEG", exif=exif())
    at = whole.find(b"Exif\0\0") + 6
    for value in (0xFFFFFFFF, 1 << 20, 7):
        data = bytearray(whole)
        for entry in range(at + 10, at + 10 + 24, 12):
            struct.pack_into(">I", data, entry + 4, value)
        check("JPEG", bytes(data))


# ------------------------------------------------------------------------------------------ refused


def jpeg2000(**options: Any) -> bytearray:
    return bytearray(saved(Image.new("L", (4096, 4096)), "JPEG2000", **options))


def test_jpeg_2000_in_small_parts():
    code = jpeg2000()
    at = code.find(b"\xff\x52")
    struct.pack_into(">BB", code, at + 10, 0, 0)  # blocks of 4 x 4
    with pytest.raises(ValueError, match="is coded in 1,048,576 blocks"):
        check("JPEG2000", bytes(code))
    code = jpeg2000(precinct_size=(256, 256))
    at = code.find(b"\xff\x52")
    levels = code[at + 9]
    code[at + 14 : at + 15 + levels] = b"\x11" * (levels + 1)  # precincts of 2 x 2
    with pytest.raises(ValueError, match="blocks"):
        check("JPEG2000", bytes(code))
    code = jpeg2000()
    struct.pack_into(">II", code, code.find(b"\xff\x4f\xff\x51") + 24, 16, 16)
    with pytest.raises(ValueError, match="is cut into 65,536 tiles"):
        check("JPEG2000", bytes(code))


def test_jpeg_2000_whose_later_headers_ask_for_more():
    code = jpeg2000()
    at = code.find(b"\xff\x52")
    again = code[at : at + 2 + int.from_bytes(code[at + 2 : at + 4], "big")]
    struct.pack_into(">BB", again, 10, 0, 0)
    part = code.find(b"\xff\x90")
    data = code[:part] + code[part : part + 12] + again + code[part + 12 :]  # in the header of a tile
    with pytest.raises(ValueError, match="blocks"):
        check("JPEG2000", bytes(data))
    with pytest.raises(ValueError, match="a marker that is not known"):
        check("JPEG2000", bytes(code[:at] + b"\xff\x70\0\x04" + again[:2] + code[at:]))


def test_a_gif_that_two_readers_would_follow_differently():
    whole = saved(NOISE, "GIF")
    start = 13 + 3 * (2 << (whole[10] & 7))
    for extension in (b"!\xf9\0", b"!\xff\x0bNETSCAPE2.0\0", b"!\x01\0"):
        with pytest.raises(ValueError, match="an extension without data"):
            check("GIF", whole[:start] + extension + whole[start:])
    check("GIF", whole[:start] + b"!\xfe\0" + b"\0" * 9 + whole[start:])  # an empty comment, and bytes in between


def test_a_tile_that_is_larger_than_its_image():
    tags = [
        (256, 8),
        (257, 8),
        (258, 8),
        (259, 8),
        (262, 1),
        (277, 1),
        (322, 1 << 16),
        (323, 1 << 14),
        (324, 8),
        (325, 9),
    ]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(20)
    with pytest.raises(ValueError, match="a strip or tile of 1,073,741,824 bytes"):
        check("TIFF", data)
    check("TIFF", data.replace(struct.pack("<HHII", 323, 4, 1, 1 << 14), struct.pack("<HHII", 323, 4, 1, 16)))


@pytest.mark.parametrize("length", [1 << 45, (1 << 63) - 1, (1 << 64) - 1])
def test_a_box_that_reaches_beyond_any_file(tmp_path, length):
    head = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4sQ", 1, b"free", length)
    (tmp_path / "a.jp2").write_bytes(head + bytes(9))
    with (tmp_path / "a.jp2").open("rb") as stream, contextlib.suppress(ValueError):  # of memory files, too
        check_structure("JPEG2000", stream)
    with contextlib.suppress(ValueError):
        check_structure("JPEG2000", io.BytesIO(head + bytes(9)))
