"""Pictures that need not be in memory as a whole: what is asked for is cut out of them. Needs no torch."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images import MAX_PIXELS, read_image
from banet.errors import InputError, MissingExtraError
from banet.files.reading import open_file

__all__ = ["LARGEST", "DecodedPicture", "LargePicture", "Picture", "open_picture"]

LARGEST = 1 << 31
"""Pictures of more pixels are refused even here: their id map alone takes 8 GB."""


class Picture(Protocol):
    """An RGB picture that can be cut.

    Attributes:
        shape: (H, W, 3).
        dtype: uint8.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.uint8]

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        """Some rows and columns, (h, w, 3)."""

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """The whole picture smoothed, each side divided by a whole number and rounded up."""


def open_picture(path: str | os.PathLike[str]) -> Picture:
    """A picture file to cut from: decoded if it has at most `MAX_PIXELS` pixels, else row by row as it is needed.

    Raises:
        InputError: As `read_image`; or it has more than `LARGEST` pixels, or is of a kind that cannot be read so.
        MissingExtraError: It is large, and pyvips is not installed.
    """
    return LargePicture(path) if _is_large(path) else DecodedPicture(read_image(path))


def _is_large(path: str | os.PathLike[str]) -> bool:
    """Whether the header says so. What is wrong with a file is said by whoever reads it."""
    with open_file(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(stream) as picture:
                return bool(picture.width * picture.height > MAX_PIXELS)
        except Image.DecompressionBombError:
            return True
        except Exception:  # a decoder may raise anything on bad data
            return False


class DecodedPicture:
    """A picture in memory, which takes four bytes a pixel; see `Picture`."""

    dtype = np.dtype(np.uint8)

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.shape = (image.height, image.width, 3)

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.uint8]:
        rows, columns = key
        return np.array(self.image.crop((columns.start, rows.start, columns.stop, rows.stop)))

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """See `Picture`."""
        return np.array(self.image.reduce(factor))


class LargePicture:
    """A picture of which only the rows that were asked for last are in memory; see `Picture`.

    They must be asked for from top to bottom. JPEG, PNG, TIFF, WebP and what else libvips reads, of 8 or 16 bits;
    turned as the EXIF data say, for which libvips keeps a temporary file. The pixels are those of `read_image`, save
    that CMYK is converted by a colour profile.

    Args:
        path: The file.

    Raises:
        InputError: libvips cannot read it, its pixels are no colours of 8 or 16 bits, or there are more than `LARGEST`.
        MissingExtraError: pyvips is not installed.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        vips = _vips()
        self._error: type[Exception] = vips.Error
        try:
            image = vips.Image.new_from_file(str(path), access="sequential", fail_on="truncated")
            if image.get_typeof("orientation") and image.get("orientation") != 1:
                image = vips.Image.new_from_file(str(path), fail_on="truncated").autorot()
            if image.interpretation in ("cmyk", "lab", "labs"):
                image = image.colourspace("srgb")
        except vips.Error as error:
            raise self._fault(error) from error
        if image.format not in ("uchar", "ushort"):
            raise InputError(
                "its pixels are no whole numbers", where=self.path, hint="save it with 8 or 16 bits a channel"
            )
        if image.width * image.height > LARGEST:
            raise InputError(
                f"has too many pixels ({image.width} x {image.height}; the limit is {LARGEST})",
                where=self.path,
                hint="make it smaller",
            )
        self.shape = (image.height, image.width, 3)
        self._region = vips.Region.new(image)
        self._image = image
        self._top, self._rows = 0, np.empty((0, image.width, 3), dtype=np.uint8)

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
        values = values.reshape(stop - start, width, image.bands)
        if image.format == "ushort":
            values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(values[..., :1], 3, axis=2) if image.bands < 3 else values[..., :3]

    def reduced(self, factor: int) -> NDArray[np.uint8]:
        """See `Picture`."""
        height, width = (-(-side // factor) for side in self.shape[:2])
        try:
            small = _vips().Image.thumbnail(str(self.path), width, height=height, size="force")
            values = small.colourspace("srgb").cast("uchar").numpy()
        except self._error as error:
            raise self._fault(error) from error
        return np.ascontiguousarray(values[..., :3])

    def _fault(self, error: Exception) -> InputError:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return InputError(f"cannot be read ({(lines[-1] if lines else type(error).__name__)})", where=self.path)


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError):  # without its binary package it looks for the system's libvips
        raise MissingExtraError("pyvips", "large") from None
    return pyvips
