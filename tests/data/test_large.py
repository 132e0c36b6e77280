from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from banet.data.images import large, read_image, source
from banet.data.images.large import DecodedImage, LargeImage, open_image
from banet.errors import InputError, InputWarning, MissingExtraError


@pytest.fixture
def image() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return Image.fromarray(blocks).resize((91, 63))


def whole(image, rows=20):
    """All rows, in overlapping pieces from top to bottom."""
    height, width, _ = image.shape
    parts = [image[max(top - 3, 0) : min(top + rows, height), 0:width] for top in range(0, height, rows)]
    return np.concatenate([part if top == 0 else part[3:] for top, part in enumerate(parts)])


def sixteen_bits(image):
    return Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257 + 13)


def turned(image):
    exif = image.getexif()
    exif[0x0112] = 6
    return exif


KINDS = {
    "a.png": lambda image, path: image.save(path),
    "a.jpg": lambda image, path: image.save(path, quality=90),
    "turned.jpg": lambda image, path: image.save(path, exif=turned(image)),
    "a.tif": lambda image, path: image.save(path, compression="tiff_lzw"),
    "a.webp": lambda image, path: image.save(path, lossless=True),
    "grey.jpg": lambda image, path: image.convert("L").save(path),
    "alpha.png": lambda image, path: image.convert("RGBA").save(path),
    "grey_alpha.png": lambda image, path: image.convert("LA").save(path),
    "palette.png": lambda image, path: image.convert("P").save(path),
    "bits.png": lambda image, path: image.convert("1").save(path),
    "deep.png": lambda image, path: sixteen_bits(image).save(path),
    "deep.tif": lambda image, path: sixteen_bits(image).save(path),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_those_of_the_decoded_image(tmp_path, image, name):
    pytest.importorskip("pyvips")
    KINDS[name](image, tmp_path / name)
    expected = np.asarray(read_image(tmp_path / name))
    by_rows = LargeImage(tmp_path / name)
    assert by_rows.shape == expected.shape
    assert np.array_equal(whole(by_rows), expected)
    decoded = DecodedImage(read_image(tmp_path / name))
    assert np.array_equal(whole(decoded), expected)
    small = by_rows.reduced(4).astype(int)
    assert small.shape == decoded.reduced(4).shape == (-(-expected.shape[0] // 4), -(-expected.shape[1] // 4), 3)
    assert abs(small - decoded.reduced(4)).mean() < 20  # another filter; of other images it would be some 70


def test_few_rows_are_kept(tmp_path, image):
    pytest.importorskip("pyvips")
    image.save(tmp_path / "a.png")
    picture = LargeImage(tmp_path / "a.png")
    expected = np.asarray(image)
    for rows, columns in [((0, 10), (0, 20)), ((0, 10), (15, 35)), ((7, 17), (0, 20)), ((30, 40), (5, 91))]:
        assert np.array_equal(picture[slice(*rows), slice(*columns)], expected[slice(*rows), slice(*columns)])
        assert len(picture._rows) == 10
    with pytest.raises(ValueError, match="from top to bottom; 0 comes before 30"):
        picture[0:10, 0:20]


def test_only_large_images_are_read_by_rows(tmp_path, image, monkeypatch):
    pytest.importorskip("pyvips")
    image.save(tmp_path / "a.png")
    assert isinstance(open_image(tmp_path / "a.png"), DecodedImage)
    monkeypatch.setattr(source, "MAX_PIXELS", 63 * 91 - 1)
    assert isinstance(open_image(tmp_path / "a.png"), LargeImage)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses on its own account
    assert isinstance(open_image(tmp_path / "a.png"), LargeImage)
    monkeypatch.setattr(large, "LARGEST", 63 * 91 - 1)
    with pytest.raises(InputError, match="too many pixels"):
        open_image(tmp_path / "a.png")


def test_bad_files_are_named(tmp_path, image, monkeypatch):
    pytest.importorskip("pyvips")
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    picture = LargeImage(tmp_path / "cut.png")
    with pytest.raises(InputError, match=r"cut.png: cannot be read"):
        whole(picture)
    (tmp_path / "no.png").write_text("no picture")
    for read in (open_image, LargeImage):
        with pytest.raises(InputError, match=r"no.png: "):
            read(tmp_path / "no.png")
    Image.fromarray(np.ones((5, 5), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="not whole numbers"):
        LargeImage(tmp_path / "float.tif")


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_file_that_was_replaced_is_read_anew(tmp_path, image, orientation):
    """libvips remembers what it read of a name; old versions do not see that the file is another one."""
    pytest.importorskip("pyvips")
    exif = Image.Exif()
    exif[0x0112] = orientation
    for number, picture in enumerate((image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        same, new = tmp_path / "same.png", tmp_path / f"{number}.png"
        for path in (same, new):
            picture.save(path, exif=exif)
        assert np.array_equal(whole(LargeImage(same)), whole(LargeImage(new)))
        assert np.array_equal(LargeImage(same).reduced(8), LargeImage(new).reduced(8))


def test_pyvips_is_asked_for_where_it_is_needed(tmp_path, image, monkeypatch):
    image.save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert open_image(tmp_path / "a.png").shape == (63, 91, 3)
    monkeypatch.setattr(source, "MAX_PIXELS", 100)
    with pytest.raises(MissingExtraError, match=r"pyvips, .*banet-panoptic\[large\]"):
        open_image(tmp_path / "a.png")


def test_pages_that_are_left_out_of_a_large_image_are_told(tmp_path, image, monkeypatch):
    pytest.importorskip("pyvips")
    image.save(tmp_path / "a.tif", save_all=True, append_images=[image, image])
    monkeypatch.setattr(source, "MAX_PIXELS", image.width * image.height - 1)
    with pytest.warns(InputWarning, match=r"a\.tif: the first of 3 pages or frames is read"):
        picture = open_image(tmp_path / "a.tif")
    assert isinstance(picture, LargeImage)
    assert np.array_equal(whole(picture), np.asarray(image))
