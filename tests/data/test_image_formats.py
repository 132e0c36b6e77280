"""Every format that is read: size and pixels agree however the file says that it is turned; pages; suffixes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from banet.data.images import decode_image, image_size, page_count, read_image, to_rgb_array
from banet.data.images import formats as image_formats
from banet.data.images.large import LargeImage, open_image
from banet.errors import InputError, InputWarning, MissingExtraError

image_formats._opener("HEIF")  # registers HEIC, if it can be read
FORMATS = {
    "jpg": "JPEG",
    "mpo": "MPO",
    "png": "PNG",
    "webp": "WEBP",
    "avif": "AVIF",
    "bmp": "BMP",
    "dib": "DIB",
    "gif": "GIF",
    "tif": "TIFF",
    "ppm": "PPM",
    "jp2": "JPEG2000",
    "heic": "HEIF",
}
TURNABLE = ("jpg", "mpo", "png", "webp", "avif", "tif", "heic")
COMPRESSED = {"tif": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"})}

# How the upright image is stored so that the orientation undoes it.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def corners(height: int = 40, width: int = 64) -> np.ndarray:
    """An image whose four quarters are of four colours, so that even a lossy format tells how it lies."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (220, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 40)
    image[height // 2 :, : width // 2] = (40, 50, 210)
    image[height // 2 :, width // 2 :] = (230, 220, 60)
    return image


def can_write(suffix: str) -> str:
    Image.init()
    name = FORMATS[suffix]
    if name not in Image.SAVE or ("JPEG" if name == "MPO" else name) not in Image.OPEN:  # as Pillow opens MPO
        pytest.skip(f"this Pillow has no {name}")
    return name


def save(image: np.ndarray, path: Path, suffix: str, **options: object) -> None:
    Image.fromarray(np.ascontiguousarray(image)).save(path, format=can_write(suffix), **options)


def agree(path: Path, expected: np.ndarray) -> None:
    """All ways to the size and to the pixels give the expected image, up to what a lossy format changes."""
    pixels = to_rgb_array(path)
    assert pixels.shape == expected.shape
    assert image_size(path) == pixels.shape[:2]
    assert open_image(path).shape == pixels.shape
    assert np.array_equal(np.asarray(decode_image(path.read_bytes(), path.name)), pixels)
    with Image.open(path) as image:
        assert np.array_equal(to_rgb_array(image), pixels)
    quarter = expected.shape[0] // 4, expected.shape[1] // 4
    for y in (quarter[0], -quarter[0]):
        for x in (quarter[1], -quarter[1]):
            assert abs(pixels[y, x].astype(int) - expected[y, x]).max() < 40, (y, x)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_and_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save(corners(), path, suffix)
    agree(path, corners())
    assert path.suffix in image_formats.SUFFIXES


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", TURNABLE)
def test_size_and_pixels_are_those_of_the_upright_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number, options in enumerate(COMPRESSED.get(suffix, ({},))):
        path = tmp_path / f"{number}.{suffix}"
        save(STORED[orientation](corners()), path, suffix, exif=exif.tobytes(), **options)
        agree(path, corners())


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_in_xmp(tmp_path: Path, suffix: str, orientation: int) -> None:
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:D tiff:Orientation="{orientation}"/></x:xmpmeta>'
    path = tmp_path / f"a.{suffix}"
    stored = STORED[orientation](corners())
    if suffix == "png":
        write_png(path, stored, [(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode())])
    elif suffix == "tif":
        save(stored, path, suffix, tiffinfo={700: text.encode()})
    else:
        save(stored, path, suffix, xmp=text.encode())
    agree(path, corners())


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(
    path: Path,
    image: np.ndarray,
    before: list[tuple[bytes, bytes]] = [],  # noqa: B006
    after: list[tuple[bytes, bytes]] = [],  # noqa: B006
) -> None:
    """A PNG of 8 or 16 bits with any chunks before and after its pixels."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[image.shape[2] if image.ndim == 3 else 1]
    bits = 8 * image.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{image.dtype.itemsize}").tobytes() for row in image)
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], bits, kind, 0, 0, 0)
    body = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in body))


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_of_png_before_and_after_its_pixels(tmp_path: Path, orientation: int, where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    write_png(
        tmp_path / "a.png",
        STORED[orientation](corners()),
        **{where: [(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))]},
    )
    agree(tmp_path / "a.png", corners())


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(tmp_path: Path, suffix: str, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    save(corners(), tmp_path / f"a.{suffix}", suffix, exif=exif)
    agree(tmp_path / f"a.{suffix}", corners())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("seed", range(40))
def test_size_and_pixels_agree_whatever_is_damaged_in_exif(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = int(rng.integers(1, 9)), "text" * 5, {0x9003: "2020:01:01 00:00:00"}
    data = bytearray(exif.tobytes())
    for at in rng.integers(6, len(data), 3):
        data[at] = rng.integers(256)
    for suffix in ("jpg", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        save(corners(), path, suffix, exif=bytes(data))
        assert image_size(path) == to_rgb_array(path).shape[:2] == open_image(path).shape[:2]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_rows_of_large_files_are_turned_alike(
    tmp_path: Path, suffix: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyvips")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    save(STORED[orientation](corners()), path, suffix, exif=exif)
    image = LargeImage(path)
    expected = to_rgb_array(path)
    assert image.shape == expected.shape
    assert abs(image[0 : expected.shape[0], 0 : expected.shape[1]].astype(int) - expected).max() < 8
    small = LargeImage(path).reduced(4)
    assert small.shape == (10, 16, 3)
    assert abs(small[2::5, 3::9].astype(int) - corners()[10::20, 14::36]).max() < 40


# -------------------------------------------------------------------------------------------------------------- pages


def pages(path: Path, count: int) -> None:
    first, *others = [Image.new("RGB", (12, 8), (60 * n + 20, 90, 10)) for n in range(count)]
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if path.suffix == ".webp" else {}))


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png", "avif"])
def test_pages_left_out_are_told_and_any_can_be_read(tmp_path: Path, suffix: str) -> None:
    can_write(suffix)
    path = tmp_path / f"a.{suffix}"
    pages(path, 3)
    assert page_count(path) == 3
    with pytest.warns(InputWarning, match=rf"a\.{suffix}: the first of 3 pages or frames is read"):
        first = np.asarray(read_image(path))
    assert abs(first[0, 0].astype(int) - (20, 90, 10)).max() < 12
    for page in range(3):
        assert abs(np.asarray(read_image(path, page=page))[3, 3].astype(int) - (60 * page + 20, 90, 10)).max() < 12
    with pytest.raises(InputError, match=rf"a\.{suffix}: has no page 4; give a page from 1 to 3"):
        read_image(path, page=3)


def test_smaller_copies_of_a_page_are_not_pages(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    first, copy, second = (Image.new("RGB", size, "red") for size in ((40, 30), (20, 15), (40, 30)))
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "a.tif", save_all=True, append_images=[copy, second])
    with Image.open(tmp_path / "a.tif") as image:
        kinds = [image.seek(n) or image.tag_v2.get(254, 0) for n in range(3)]
    if kinds != [0, 1, 0]:
        pytest.skip("this Pillow does not write tags of later pages")
    assert page_count(tmp_path / "a.tif") == 2


def test_raw_files_of_cameras_are_not_read_as_their_preview(tmp_path: Path) -> None:
    """They are TIFFs whose first directory is small and says so, and names others; alone it is all that there is."""
    image = Image.fromarray(corners())
    image.save(tmp_path / "a.nef", "TIFF", tiffinfo={254: 1, 330: 8})
    image.save(tmp_path / "pyramid.tif", tiffinfo={254: 0, 330: 8})
    image.save(tmp_path / "small.tif", tiffinfo={254: 1})
    for read in (read_image, image_size, open_image):
        with pytest.raises(InputError, match=r"a\.nef: begins with a preview.*develop it to PNG"):
            read(tmp_path / "a.nef")
        read(tmp_path / "pyramid.tif")
        read(tmp_path / "small.tif")


def test_previews_in_a_photo_are_not_pages(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    pages(tmp_path / "a.mpo", 2)
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "a.mpo").read_bytes())
    assert (page_count(tmp_path / "a.mpo"), page_count(tmp_path / "photo.jpg")) == (2, 1)
    read_image(tmp_path / "photo.jpg")
    assert not recwarn.list


def test_what_phones_put_behind_a_photo_is_none_of_its_scans(tmp_path: Path) -> None:
    """A video, in which the marker of a scan occurs by chance; decoders stop at the end of the picture."""
    path = tmp_path / "motion.jpg"
    save(corners(), path, "jpg", progressive=True, restart_marker_blocks=1)
    still = to_rgb_array(path)
    video = np.random.default_rng(0).bytes(1 << 23)
    assert video.count(b"\xff\xda") > 100
    path.write_bytes(path.read_bytes() + video)
    assert np.array_equal(to_rgb_array(path), still)


@pytest.mark.parametrize("between", [b"", b"\xff\x01\xff\xff", b"\xff\x05\xff\xff", b"\xff\xfe\x00\x00", b"\x00\xd9"])
def test_scans_hide_behind_no_junk(between: bytes) -> None:
    """Neither by a marker without a length nor by a length of 0."""
    buffer = io.BytesIO()
    Image.fromarray(corners()).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(InputError, match="more than 100 scans"):
        decode_image(data[:-2] + (between + last) * 200 + data[-2:], "a.jpg")


# ----------------------------------------------------------------------------------------------------------- suffixes


def test_suffixes_are_those_of_the_formats() -> None:
    known = Image.registered_extensions()
    for suffix in image_formats.SUFFIXES:
        if suffix in known:
            assert known[suffix] in image_formats._SUFFIXES
    theirs = {suffix for suffix, name in known.items() if name in image_formats._SUFFIXES}
    assert theirs - {".pfm"} <= image_formats.SUFFIXES  # of floats
    assert not image_formats.SUFFIXES & image_formats.OTHER_SUFFIXES
    assert {".jfif", ".jpe", ".mpo", ".heic"} <= image_formats.SUFFIXES


def test_heic_without_what_reads_it_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(200))
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.heic").read_bytes())  # as phones' files are often called
    monkeypatch.setattr(image_formats, "_has_heif", lambda: False)
    opener = image_formats._opener
    monkeypatch.setattr(
        image_formats, "_opener", lambda name: opener(name) if name in ("JPEG", "PNG", "TIFF") else None
    )
    for name in ("a.heic", "a.jpg"):
        for read in (read_image, image_size, open_image):
            with pytest.raises(MissingExtraError, match=r"pillow-heif.*banet-panoptic\[heic\]"):
                read(tmp_path / name)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_images_of_pillow_of_every_mode(mode: str) -> None:
    grey = mode in ("1", "L", "LA")
    image = Image.fromarray(corners()).convert("L" if grey else "RGB").convert(mode)
    found = to_rgb_array(image)
    assert found.shape == (40, 64, 3) and found.dtype == np.uint8
    if mode in ("RGB", "RGBA", "RGBX", "P", "PA"):
        assert abs(found[5, 5].astype(int) - corners()[5, 5]).max() < 40


def test_alpha_is_left_out_alike_in_files_and_arrays(tmp_path: Path) -> None:
    alpha = np.dstack([corners(), np.zeros((40, 64), np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "a.png")
    Image.fromarray(alpha).save(tmp_path / "a.tif")
    Image.fromarray(alpha).save(tmp_path / "a.webp", lossless=True, exact=True)
    for form in (alpha, Image.fromarray(alpha), *(tmp_path / f"a.{suffix}" for suffix in ("png", "tif", "webp"))):
        assert np.array_equal(to_rgb_array(form), corners())


def test_memory_files_are_read_as_files_are(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(corners()).save(buffer, "PNG")
    assert np.array_equal(np.asarray(decode_image(buffer.getvalue(), "a")), corners())
