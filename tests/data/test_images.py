"""Images of every kind, good and bad."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from banet.data.images import decode_image, list_images, read_image, reading, to_rgb_array
from banet.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def test_plain(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), RGB)


def test_grey_two_tone_alpha_and_palette(tmp_path: Path) -> None:
    grey = np.repeat(GREY[..., None], 3, 2)
    alpha = np.dstack([RGB, GREY])
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([GREY, RGB[..., 1]])).save(tmp_path / "grey_alpha.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(GREY > 127).save(tmp_path / "two.png")
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "palette.png")
    palette.save(tmp_path / "clear.png", transparency=3)
    assert np.array_equal(np.asarray(read_image(tmp_path / "grey.png")), grey)
    assert np.array_equal(np.asarray(read_image(tmp_path / "grey_alpha.png")), grey)
    assert np.array_equal(np.asarray(read_image(tmp_path / "alpha.png")), RGB)
    assert np.array_equal(np.asarray(read_image(tmp_path / "two.png")), np.where(grey > 127, 255, 0))
    assert np.array_equal(np.asarray(read_image(tmp_path / "palette.png")), np.asarray(palette.convert("RGB")))
    assert np.array_equal(np.asarray(read_image(tmp_path / "clear.png")), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    assert np.asarray(read_image(tmp_path / f"deep.{suffix}"))[0, :, 1].tolist() == [0, 0, 1, 1, 128, 255]


def test_16_bit_rgb(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (RGB[y].astype(">u2") * 257).astype(">u2").tobytes() for y in range(12))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 17, 12, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert np.array_equal(np.asarray(read_image(tmp_path / "deep.png")), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(tmp_path: Path, orientation: int) -> None:
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    upright = Image.fromarray(RGB)
    stored = upright if undo == 1 else upright.transpose(turns[undo])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "turned.png")), RGB)


def test_cmyk_and_webp_and_animation(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(RGB).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(RGB).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    assert read_image(tmp_path / "cmyk.jpg").size == (17, 12)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.webp")), RGB)
    assert read_image(tmp_path / "a.gif").mode == "RGB"


def _bad(folder: Path, kind: str) -> tuple[Path, str]:
    path = folder / f"{kind}.png"
    if kind == "missing":
        return path, "does not exist"
    if kind == "folder":
        path.mkdir()
        return path, "is a folder"
    if kind == "empty":
        path.write_bytes(b"")
        return path, "is empty"
    if kind == "text":
        path.write_text("this is not an image\n" * 40)
        return path, "is not an image"
    if kind == "float":
        path = path.with_suffix(".tiff")
        Image.fromarray(GREY.astype(np.float32)).save(path)
        return path, "floating-point"
    big = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    suffix = kind.rsplit("_", maxsplit=1)[-1]
    path = folder / f"{kind}.{suffix}"
    Image.fromarray(big).save(path)
    data = bytearray(path.read_bytes())
    if kind.startswith("truncated"):
        path.write_bytes(data[: len(data) // 2])
        return path, "is not an image, or is damaged" if suffix == "webp" else "truncated or corrupt"
    elif kind.startswith("header"):
        path.write_bytes(data[:20])
        return path, "is damaged|truncated or corrupt"
    else:
        middle = len(data) // 2
        data[middle : middle + 64] = bytes(64)
        path.write_bytes(data)
    return path, "truncated or corrupt"


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "folder",
        "empty",
        "text",
        "float",
        "truncated_png",
        "truncated_jpg",
        "truncated_webp",
        "truncated_tiff",
        "header_png",
        "header_jpg",
        "header_webp",
        "corrupt_png",
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, kind: str) -> None:
    path, message = _bad(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    path.chmod(0)
    with pytest.raises(InputError, match="permissions"):
        read_image(path)


def test_an_image_that_claims_to_be_huge(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.png: has too many pixels"):
        read_image(tmp_path / "a.png")


def test_the_limit_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    monkeypatch.setattr(reading, "MAX_PIXELS", 12 * 17)
    assert read_image(tmp_path / "a.png").size == (17, 12)
    monkeypatch.setattr(reading, "MAX_PIXELS", 12 * 17 - 1)
    with pytest.raises(InputError, match="17 x 12"):
        read_image(tmp_path / "a.png")


def test_damaged_exif_is_no_reason_to_fail(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish")
    assert read_image(tmp_path / "a.jpg").size == (17, 12)


def test_postscript_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(InputError, match="is not an image"):
        read_image(tmp_path / "a.eps")


def test_needs_no_torch() -> None:
    code = "import sys, banet.data.images; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_from_memory(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert np.array_equal(np.asarray(decode_image(data, "a.png")), RGB)
    assert decode_image(data, "a.png", max_pixels=RGB.shape[0] * RGB.shape[1]).size == (17, 12)
    for content, limit, message in (
        (b"", None, r"^a.png: is empty"),
        (b"text", None, r"^a.png: is not an image"),
        (data, 203, r"^a.png: has too many pixels \(17 x 12; the limit is 203\)"),
    ):
        with pytest.raises(InputError, match=message):
            decode_image(content, "a.png", max_pixels=limit)


def test_arrays_of_every_form(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    tensor = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    for form in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(RGB),
        RGB,
        RGB.astype(np.float32),
        tensor,
    ):
        assert np.array_equal(to_rgb_array(form), RGB)
    for form in (tensor.float(), tensor.double(), tensor.float().requires_grad_(), RGB[::1].astype(np.float64)):
        assert np.array_equal(to_rgb_array(form), RGB)
    grey = np.repeat(GREY[..., None], 3, 2)
    for form in (GREY, GREY[..., None], torch.from_numpy(GREY.copy()), torch.from_numpy(GREY.copy())[None]):
        assert np.array_equal(to_rgb_array(form), grey)
    assert to_rgb_array(np.zeros((2, 2, 3), np.float32)).max() == 0
    assert to_rgb_array(np.full((2, 2, 3), 254.6)).max() == 255
    assert all(to_rgb_array(form).flags.writeable for form in (tmp_path / "a.png", Image.fromarray(RGB), GREY))


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        (np.zeros((3, 5, 7), np.uint8), ValueError, r"\(H, W, 3\)"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8), ValueError, r"\(3, H, W\)"),
        (np.zeros((0, 7, 3), np.uint8), ValueError, "at least one pixel"),
        (np.full((2, 2, 3), 0.5), ValueError, "multiply them by 255"),
        (np.full((2, 2, 3), 256.0), ValueError, r"0\.\.255"),
        (np.full((2, 2, 3), np.nan), ValueError, r"0\.\.255"),
        (np.zeros((2, 2, 3), np.int32), TypeError, "uint8 or float"),
        (3, TypeError, "not int"),
    ],
)
def test_bad_arrays(form: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        to_rgb_array(form)


def _files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_lists(tmp_path: Path) -> None:
    _files(tmp_path, "b.png", "a.JPG", "notes.txt", ".hidden.png", "deep/c.webp", "odd[1].png", "raw")
    at = tmp_path.joinpath
    assert list_images([str(tmp_path)]) == [at("a.JPG"), at("b.png"), at("odd[1].png")]
    assert list_images([str(at("raw"))]) == [at("raw")]
    assert list_images([str(at("*.png"))]) == [at("b.png"), at("odd[1].png")]
    assert list_images([str(at("odd[1].png"))]) == [at("odd[1].png")]
    assert list_images([str(at("**/*"))]) == [at("a.JPG"), at("b.png"), at("deep/c.webp"), at("odd[1].png")]
    assert list_images([str(at("b.png")), str(tmp_path)]) == [at("b.png"), at("a.JPG"), at("odd[1].png")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "does not exist"),
        ("*.tif", "no file matches"),
        ("*.txt", "matches no image"),
        ("empty", "no image"),
    ],
)
def test_nothing_found(tmp_path: Path, name: str, message: str) -> None:
    _files(tmp_path, "a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        list_images([str(tmp_path / name)])
    assert str(caught.value).startswith(str(tmp_path / name))


def test_no_input_at_all() -> None:
    with pytest.raises(InputError, match="at least one"):
        list_images([])
