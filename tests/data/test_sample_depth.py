"""16-bit samples become 8 bits by the range that they use: one answer for files and arrays, whatever holds them."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from banet.data.images import find_depth, read_image, to_rgb_array
from banet.data.images.large import LargeImage, open_image
from banet.errors import InputError, InputWarning
from banet.panoptic import resolve_occlusions
from banet.panoptic.sample_depth import SampleDepth, guess_bit_depth, to_8_bits
from banet.panoptic.validation import check_image

COLORS = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
COLORS[0, 0], COLORS[0, 1] = 0, 255


def deep(bits: int, image: np.ndarray = COLORS) -> np.ndarray:
    """An image of 8 bits, with samples of more bits."""
    return np.rint(image.astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)


def write_png(path: Path, image: np.ndarray, bits: int | None = None) -> None:
    """A PNG of 16 bits; `bits` are those that it says are significant."""
    channels = image.shape[2] if image.ndim == 3 else 1
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, kind, 0, 0, 0))]
    chunks += [(b"sBIT", bytes([bits] * channels))] if bits else []
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_tiff(
    path: Path,
    image: np.ndarray,
    tags: dict[int, tuple[int, int]] | None = None,
    *,
    order: str = "<",
    planar: bool = False,
    photometric: int | None = None,
    description: bytes = b"",
    alpha: int | None = None,
) -> None:
    """An uncompressed TIFF of 16 bits in one strip, or one per channel; tags are (type, value)."""
    image = image[..., None] if image.ndim == 2 else image
    height, width, channels = image.shape
    planes = [image[..., c] for c in range(channels)] if planar else [image]
    data = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    body = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def place(values: bytes) -> int:
        body.extend(values)
        return len(body) - len(values)

    starts = [place(part) for part in data]
    shorts = lambda *values: struct.pack(f"{order}{len(values)}H", *values)  # noqa: E731
    longs = lambda *values: struct.pack(f"{order}{len(values)}I", *values)  # noqa: E731
    entries: dict[int, tuple[int, int, bytes]] = {
        256: (3, 1, shorts(width)),
        257: (3, 1, shorts(height)),
        258: (3, channels, shorts(*[16] * channels)),
        259: (3, 1, shorts(1)),
        262: (3, 1, shorts(photometric if photometric is not None else 1 if channels < 3 else 2)),
        273: (4, len(starts), longs(*starts)),
        277: (3, 1, shorts(channels)),
        278: (3, 1, shorts(height)),
        279: (4, len(data), longs(*map(len, data))),
        284: (3, 1, shorts(2 if planar else 1)),
    }
    if alpha is not None:
        entries[338] = (3, 1, shorts(alpha))
    if description:
        entries[270] = (2, len(description) + 1, description + b"\0")
    for tag, (kind, value) in (tags or {}).items():
        entries[tag] = (kind, 1, shorts(value) if kind == 3 else longs(value))
    rows = b""
    for tag, (kind, count, values) in sorted(entries.items()):
        values = values.ljust(4, b"\0") if len(values) <= 4 else longs(place(values))
        rows += struct.pack(f"{order}HHI", tag, kind, count) + values
    start = place(struct.pack(f"{order}H", len(entries)) + rows + bytes(4))
    body[4:8] = longs(start)
    path.write_bytes(body)


@given(st.integers(8, 16), st.data())
def test_scaling_is_to_the_nearest(bits: int, data: st.DataObject) -> None:
    white = (1 << bits) - 1
    samples = np.array(data.draw(st.lists(st.integers(0, white), min_size=1, max_size=30)), np.uint16)
    expected = np.floor(samples.astype(float) * 255 / white + 0.5).astype(np.uint8)
    assert np.array_equal(to_8_bits(samples, white), expected)
    assert np.array_equal(to_8_bits(samples, white, inverted=True), to_8_bits(white - samples, white))


@pytest.mark.parametrize(
    ("maximum", "bits"),
    [
        (0, 8),
        (255, 8),
        (256, 10),
        (1023, 10),
        (1024, 12),
        (4095, 12),
        (4096, 14),
        (16383, 14),
        (16384, 16),
        (65535, 16),
    ],
)
def test_the_fewest_bits_that_hold_the_maximum(maximum: int, bits: int) -> None:
    assert guess_bit_depth(maximum) == bits


FILES = {
    "grey png": lambda path, image: write_png(path.with_suffix(".png"), image[..., 0]),
    "grey alpha png": lambda path, image: write_png(path.with_suffix(".png"), opaque(image[..., :1])),
    "rgb png": lambda path, image: write_png(path.with_suffix(".png"), image),
    "rgba png": lambda path, image: write_png(path.with_suffix(".png"), opaque(image)),
    "grey tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), image[..., 0]),
    "big-endian grey tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), image[..., 0], order=">"),
    "rgb tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), image),
    "big-endian rgb tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), image, order=">"),
    "rgb tiff in planes": lambda path, image: write_tiff(path.with_suffix(".tif"), image, planar=True),
    "big-endian planes": lambda path, image: write_tiff(path.with_suffix(".tif"), image, planar=True, order=">"),
    "rgba tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), opaque(image), alpha=2),
    "rgbx tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), opaque(image), alpha=0),
    "premultiplied tiff": lambda path, image: write_tiff(path.with_suffix(".tif"), opaque(image), alpha=1),
    "pgm": lambda path, image: write_netpbm(path.with_suffix(".pgm"), image[..., 0], 65535),
    "ppm": lambda path, image: write_netpbm(path.with_suffix(".ppm"), image, 65535),
    "lzw tiff": lambda path, image: write_vips(
        path.with_suffix(".tif"), image, compression="lzw", predictor="horizontal"
    ),
    "tiled tiff": lambda path, image: write_vips(path.with_suffix(".tif"), image, tile=True, compression="deflate"),
    "interlaced png": lambda path, image: write_vips(path.with_suffix(".png"), image, interlace=True),
}


def opaque(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, np.full_like(image[..., :1], 65535)], axis=2)


def write_netpbm(path: Path, image: np.ndarray, white: int) -> None:
    kind = "P5" if image.ndim == 2 else "P6"
    path.write_bytes(f"{kind}\n{image.shape[1]} {image.shape[0]}\n{white}\n".encode() + image.astype(">u2").tobytes())


def write_vips(path: Path, image: np.ndarray, **options: object) -> None:
    vips = pytest.importorskip("pyvips")
    picture = vips.Image.new_from_array(image).copy(interpretation="rgb16")
    picture.write_to_file(str(path), **options)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", FILES)
def test_a_deep_file_is_what_its_8_bit_version_is(tmp_path: Path, kind: str, bits: int) -> None:
    FILES[kind](tmp_path / "a", deep(bits))
    (path,) = tmp_path.iterdir()
    grey = "grey" in kind or kind == "pgm"
    expected = np.repeat(COLORS[..., :1], 3, axis=2) if grey else COLORS
    for how in ("auto", bits, SampleDepth(bits)):
        assert np.array_equal(to_rgb_array(path, how), expected), how
    with pytest.warns(InputWarning, match=f"taken to use {bits} bits"):
        assert find_depth([path]) == SampleDepth(bits)
    if path.suffix in (".png", ".tif"):
        pytest.importorskip("pyvips")
        assert np.array_equal(LargeImage(path)[0:10, 0:14], expected)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_deep_array_is_what_its_8_bit_version_is(bits: int) -> None:
    image = deep(bits)
    alpha = opaque(image)
    grey = np.repeat(COLORS[..., :1], 3, axis=2)
    for form in (image, alpha, torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(alpha).permute(2, 0, 1)):
        assert np.array_equal(to_rgb_array(form), COLORS)
        assert np.array_equal(check_image(form), COLORS)
    for form in (image[..., 0], image[..., :1], torch.from_numpy(image[..., 0].copy()), Image.fromarray(image[..., 0])):
        assert np.array_equal(to_rgb_array(form), grey)


def test_the_occlusion_handler_and_drawing_take_deep_images() -> None:
    masks = np.zeros((2, 10, 14), bool)
    masks[0, :, :9], masks[1, :, 5:] = True, True
    expected = resolve_occlusions(masks, [0.5, 0.5], COLORS)
    assert np.array_equal(resolve_occlusions(masks, [0.5, 0.5], opaque(deep(12))), expected)


@pytest.mark.parametrize("kind", ["sBIT", "MaxSampleValue", "OME", "PGM", "PPM"])
@pytest.mark.parametrize("dark", [1, 40])
def test_what_the_file_says_comes_before_what_its_samples_show(tmp_path: Path, kind: str, dark: int) -> None:
    image = deep(12) // dark
    if kind == "sBIT":
        write_png(path := tmp_path / "a.png", image, bits=12)
    elif kind == "MaxSampleValue":
        write_tiff(path := tmp_path / "a.tif", image, {281: (3, 4095)})
    elif kind == "OME":
        write_tiff(path := tmp_path / "a.tif", image, description=b'<OME><Pixels SignificantBits="12"/></OME>')
    elif kind == "PGM":
        write_netpbm(path := tmp_path / "a.pgm", image[..., 0], 4095)
    else:
        write_netpbm(path := tmp_path / "a.ppm", image, 4095)
    expected = to_8_bits(image[..., :1].repeat(3, 2) if kind == "PGM" else image, 4095)
    for depth in ("auto", SampleDepth(16)):  # also where other images of the call use more
        assert np.array_equal(to_rgb_array(path, depth), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find_depth([path]) == SampleDepth()  # nothing has to be guessed
    if kind in ("PGM", "PPM"):  # here no other number of bits can be right
        return
    white16 = to_8_bits(image, 65535)
    assert np.array_equal(to_rgb_array(path, 16), white16)  # the user knows better


@pytest.mark.parametrize("value", [65535, 3127, 900])
def test_a_maximum_that_says_nothing_of_the_range(tmp_path: Path, value: int) -> None:
    """Many programs write what occurs in the image, or the default."""
    write_tiff(tmp_path / "a.tif", deep(12), {281: (3, value)})
    assert np.array_equal(to_rgb_array(tmp_path / "a.tif"), COLORS)


def test_a_statement_that_the_samples_contradict_does_not_count(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", deep(16), bits=12)  # as the standard of PNG asks: scaled to all 16 bits
    assert np.array_equal(to_rgb_array(tmp_path / "a.png"), COLORS)


def test_white_is_zero_in_some_tiff_files(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", 4095 - deep(12)[..., 0], photometric=0)
    assert np.array_equal(to_rgb_array(tmp_path / "a.tif")[..., 0], COLORS[..., 0])


def test_premultiplied_colors_are_divided(tmp_path: Path) -> None:
    alpha = np.full((10, 14, 1), 32768)
    image = np.concatenate([deep(16) * (alpha / 65535), alpha], axis=2).round().astype(np.uint16)
    image[0, 0, 3] = 65535
    image[0, 0, :3] = 65535
    write_tiff(tmp_path / "a.tif", image, alpha=1)
    assert abs(to_rgb_array(tmp_path / "a.tif")[1:].astype(int) - COLORS[1:]).max() <= 1


def test_one_answer_for_all_images_of_a_call(tmp_path: Path) -> None:
    bright, dark = deep(12), deep(12) // 40
    write_png(tmp_path / "a.png", dark)
    write_tiff(tmp_path / "b.tif", bright)
    Image.fromarray(COLORS).save(tmp_path / "c.png")
    (tmp_path / "d.tif").write_bytes(b"damaged")
    files = sorted(tmp_path.iterdir())
    for images in (files, files[::-1], [dark, bright], [Image.fromarray(dark[..., 0]), bright], [files[0], bright]):
        with pytest.warns(InputWarning, match="12 bits") as told:
            depth = find_depth(images)
        assert depth == SampleDepth(12) and len(told) == 1
        assert to_rgb_array(tmp_path / "a.png", depth).max() == round(255 / 40)
    assert find_depth([COLORS, files[2], "nothing.tif", "a.jpg"]) == SampleDepth()
    assert find_depth(files, 14) == SampleDepth(14, given=True)


def test_an_image_alone_tells_what_all_images_of_a_call_would(tmp_path: Path) -> None:
    """Reading it finds the number of bits that looking for it finds, with the same warning or none."""
    write_png(tmp_path / "stated.png", deep(12), bits=12)
    write_png(tmp_path / "denied.png", deep(16), bits=12)
    write_png(tmp_path / "dark.png", deep(12) // 40)
    write_png(tmp_path / "black.png", deep(12) * 0)
    write_tiff(tmp_path / "inverted.tif", 4095 - deep(12)[..., 0], photometric=0)
    Image.fromarray(COLORS).save(tmp_path / "flat.png")
    grey = Image.fromarray(deep(12)[..., 0])
    for image in (*sorted(tmp_path.iterdir()), grey, deep(12), deep(12)[..., 0] // 40, deep(12) * 0, COLORS):
        with warnings.catch_warnings(record=True) as expected:
            warnings.simplefilter("always")
            rgb = to_rgb_array(image, find_depth([image]))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert np.array_equal(to_rgb_array(image, SampleDepth(warns=True)), rgb)
        assert [str(one.message) for one in told] == [str(one.message) for one in expected]


def test_bits_that_cannot_be(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", deep(14))
    with pytest.raises(InputError, match=r"a\.png: holds samples up to 16383, more than 12 bits; give another"):
        read_image(tmp_path / "a.png", bit_depth=12)
    with pytest.raises(InputError, match="more than 12 bits"):
        open_image(tmp_path / "a.png", bit_depth=12)
    for bits in (7, 17, -1):
        with pytest.raises(InputError, match="bit_depth: must be auto or 8 to 16"):
            read_image(tmp_path / "a.png", bit_depth=bits)


def test_planes_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", deep(12), {259: (3, 1)}, planar=True)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:400] + data[-300:])
    with pytest.raises(InputError, match=r"cut\.tif: "):
        read_image(tmp_path / "cut.tif")
