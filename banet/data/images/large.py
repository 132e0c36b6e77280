"""Images that need not be in memory as a whole: what is asked for is cut out of them. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images.reading import read_image
from banet.data.images.source import ImageSource
from banet.errors import InputError, MissingExtraError
from banet.files.exif import turn
from banet.files.reading import open_file
from banet.files.worker import isolated, reads_untrusted
from banet.panoptic.sample_depth import SampleDepth, to_8_bits
from banet.types import BitDepth, StrPath

__all__ = ["LARGEST", "CroppableImage", "DecodedImage", "LargeImage", "open_image"]

LARGEST = 1 << 31
"""Images of more pixels are refused even here: their id map alone takes 8 GB."""


class CroppableImage(Protocol):
    """An RGB image that can be cut.

    Attributes:
        shape: (H, W, 3).
        dtype: uint8.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.uint8]

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Some rows and columns, (h, w, 3)."""

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """Return the whole image smoothed, each side divided by a whole number and rounded up."""


def open_image(path: StrPath, *, bit_depth: BitDepth | SampleDepth = "auto", page: int | None = None) -> CroppableImage:
    """Return an image file to cut from: decoded if it has at most `MAX_PIXELS` pixels, else row by row as it is needed.

    Args:
        path: The file.
        bit_depth: As of `read_image`.
        page: As of `read_image`; of larger images only the first is read, and the others cannot be asked for.

    Raises:
        InputError: As `read_image`; or it has more than `LARGEST` pixels, or is of a kind that cannot be read so.
        MissingExtraError: It is large, and pyvips is not installed.
    """
    if _is_large(path, page):
        return LargeImage(path, bit_depth=bit_depth)
    return DecodedImage(read_image(path, bit_depth=bit_depth, page=page))


@isolated
def _is_large(path: StrPath, page: int | None) -> bool:
    """Return whether an image must be read row by row; warn of its other pages if so."""
    with open_file(path) as stream:
        source = ImageSource(Path(path), stream, LARGEST)
        height, width = source.size
        large = height * width > source.most_pixels and not page
        if large and page is None:
            source.warn_of_frames()
    return large


class DecodedImage:
    """An image in memory, which takes four bytes per pixel; see `CroppableImage`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.shape = (image.height, image.width, 3)

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = key
        return np.array(self.image.crop((columns.start, rows.start, columns.stop, rows.stop)))

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """See `CroppableImage`."""
        return np.array(self.image.reduce(factor))


class LargeImage:
    """An image of which only the rows that were asked for last are in memory; see `CroppableImage`.

    They must be asked for from top to bottom. JPEG, PNG, TIFF, WebP and what else libvips reads, of 8 or 16 bits;
    turned as EXIF or XMP data say, for which libvips keeps a temporary file. The pixels are those of `read_image`,
    except that CMYK is converted by a colour profile. Where nothing says how many bits the samples of 16-bit images
    use, the image is read once more to find the largest.

    Args:
        path: The file.
        bit_depth: As of `read_image`.

    Raises:
        InputError: libvips cannot read it, its pixels are not colours of 8 or 16 bits, its samples do not fit into
            `bit_depth`, or there are more than `LARGEST` pixels.
        MissingExtraError: pyvips is not installed.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: StrPath, *, bit_depth: BitDepth | SampleDepth = "auto") -> None:
        self.path = Path(path)
        if reads_untrusted():
            raise InputError("has too many pixels", where=self.path, hint="cut it up, or leave out --untrusted")
        vips = _vips()
        self._error: type[Exception] = vips.Error
        with open_file(path) as stream:
            source = ImageSource(self.path, stream, LARGEST)
            self._orientation, stated = source.orientation, source.stated_white
        try:
            image = self._open(sequential=self._orientation == 1)
            if self._orientation > 1:
                image = image.copy()
                image.set_type(vips.GValue.gint_type, "orientation", self._orientation)
                image = image.autorot()
            if image.format not in ("uchar", "ushort"):
                raise InputError(
                    "its pixels are not whole numbers", where=self.path, hint="save it with 8 or 16 bits per channel"
                )
            self._white = 255
            if image.format == "ushort":
                largest = int(self._open(sequential=True).max())
                self._white = SampleDepth.of(bit_depth).white(largest, stated, self.path)
        except vips.Error as error:
            raise self._fault(error) from error
        self.shape = (image.height, image.width, 3)
        self._region = vips.Region.new(image)
        self._image = image
        self._top, self._rows = 0, np.empty((0, image.width, 3), dtype=np.uint8)

    def _open(self, *, sequential: bool) -> Any:
        """Return the image as it is stored, without alpha."""
        image = _vips().Image.new_from_file(
            str(self.path),
            access="sequential" if sequential else "random",
            fail_on="truncated",
            revalidate=True,  # else libvips may give what the file held before
        )
        if image.interpretation in ("cmyk", "lab", "labs"):
            image = image.colourspace("srgb")
        return image.extract_band(0, n=3 if image.bands > 2 else 1)

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = key
        last = self._top + len(self._rows)
        if rows.start < self._top:
            raise ValueError(f"{self.path}: rows are read from top to bottom; {rows.start} comes before {self._top}")
        if rows.stop > last:
            kept = self._rows[rows.start - self._top :]
            self._rows = np.concatenate([kept, self._read(max(rows.start, last), rows.stop)])
            self._top = rows.start
        return np.ascontiguousarray(self._rows[rows.start - self._top : rows.stop - self._top, columns])

    def _read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows (stop - start, W, 3)."""
        image, width = self._image, self.shape[1]
        try:
            data = self._region.fetch(0, start, width, stop - start)
        except self._error as error:
            raise self._fault(error) from error
        values: NDArray[Any] = np.frombuffer(data, np.uint8 if image.format == "uchar" else np.uint16)
        return self._colors(values.reshape(stop - start, width, image.bands))

    def _colors(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        values = values if values.dtype == np.uint8 else to_8_bits(values, self._white)
        return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """See `CroppableImage`."""
        height, width = (-(-side // factor) for side in self.shape[:2])
        stored = (height, width) if self._orientation >= 5 else (width, height)
        try:
            if self._image.format == "ushort":
                small = self._open(sequential=True).shrink(factor, factor, ceil=True)
            else:  # faster: JPEG and WebP are decoded at a smaller size; by name it may give what the file held before
                source = _vips().Source.new_from_file(str(self.path))
                small = _vips().Image.thumbnail_source(
                    source, stored[0], height=stored[1], size="force", no_rotate=True
                )
                small = small.colourspace("srgb").cast("uchar")
            values = small.numpy().reshape(stored[1], stored[0], -1)
        except self._error as error:
            raise self._fault(error) from error
        colors = self._colors(values[..., : 3 if values.shape[2] > 2 else 1])
        return np.array(turn(Image.fromarray(colors), self._orientation))

    def _fault(self, error: Exception) -> InputError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return InputError(f"cannot be read ({(lines[-1] if lines else type(error).__name__)})", where=self.path)


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError):  # without its binary package it looks for the system's libvips
        raise MissingExtraError("pyvips", "large") from None
    return pyvips
