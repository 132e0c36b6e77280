"""One image file, of which only the header is read at first: size, orientation, pages and pixels have one source."""

from __future__ import annotations

import re
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from banet.data.images.formats import heif_error, identify, is_heif
from banet.data.images.scans import check_scans
from banet.errors import InputError, InputWarning
from banet.files.exif import orientation, turn
from banet.files.reading import MAX_PIXELS
from banet.files.structure import most_pages
from banet.panoptic.pixels import deep_samples, rgb_image
from banet.panoptic.sample_depth import SampleDepth, to_8_bits
from banet.types import BitDepth, Size, StrPath

__all__ = ["ImageSource"]

_MOST_PIXELS = {"JPEG2000": 1 << 25, "WEBP": 1 << 25, "AVIF": 1 << 25}
"""Pixels of formats whose decoders take more memory than the rest, some 20 bytes each."""

_MOST_CHUNKS = 100_000  # of a PNG that are looked at
_LARGEST_CHUNK = 1 << 20  # bytes, of those that are read: as Pillow's limit on text
_ROWS = 256  # that are taken from a decoded image at a time
_NATIVE = "L" if sys.byteorder == "little" else "B"

# TIFF tags.
_WIDTH, _HEIGHT, _PHOTOMETRIC, _DESCRIPTION, _SUBFILE, _SUBDIRECTORIES = 256, 257, 262, 270, 254, 330
_BITS, _CHANNELS, _MAXIMA = 258, 277, (281, 341)


class ImageSource:
    """An open image file.

    Args:
        name: What to call it in errors; also its path.
        stream: What it holds; must stay open.
        max_pixels: Larger images are refused before they are decoded.
        page: Which of its pages or frames, from 0.

    Attributes:
        orientation: How the stored pixels are to be turned, 1 (not at all) to 8.
        size: (H, W) of the upright image.
        most_pixels: With which images of its format are decoded in 1 GB.

    Raises:
        InputError: It is not an image, or has too many pixels or no such page.
        MissingExtraError: It is a HEIC image, and what reads it is not installed.
    """

    def __init__(self, name: StrPath, stream: BinaryIO, max_pixels: int, page: int = 0) -> None:
        self.name, self.stream, self.page = name, stream, page
        self._image = self._open()
        width, height = self._image.size
        self.most_pixels = _MOST_PIXELS.get(self._image.format or "", MAX_PIXELS)
        limit = min(max_pixels, self.most_pixels) if max_pixels <= MAX_PIXELS else max_pixels
        if width * height > limit:
            raise InputError(
                f"has too many pixels ({width} x {height}; the limit is {limit})",
                where=name,
                hint="make it smaller" if limit == max_pixels else "make it smaller, or save it as PNG or JPEG",
            )
        self.orientation = orientation(self._image)
        self.size: Size = (width, height) if self.orientation >= 5 else (height, width)

    def _open(self) -> ImageFile.ImageFile:
        """Return the image with nothing decoded, and with the size that is stored."""
        try:
            image = identify(self.stream)
        except ValueError as error:
            raise InputError(str(error), where=self.name, hint="save it anew") from None
        if image is None:
            self.stream.seek(0)
            if is_heif(self.stream.read(16)):
                raise heif_error(self.name)
            raise InputError(
                "is not an image, or is damaged, or of a kind that is not read",
                where=self.name,
                hint="give a JPEG, PNG, WebP, TIFF or BMP",
            )
        if self.page:
            self._seek(image)
        if image.format == "TIFF" and not self.page and _is_preview(image) and self._has_others(image):
            raise InputError(
                "begins with a preview, as raw files of cameras do",
                where=self.name,
                hint="develop it to PNG, JPEG or TIFF first",
            )
        if image.format == "TIFF":  # Pillow turns these itself, but not by the same data as all others
            image._size = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]  # type: ignore[attr-defined]
            vars(image)["load_end"] = lambda: None
        if image.format == "PNG":
            for kind, data in _png_chunks(self.stream):
                if kind == b"eXIf":
                    image.info.setdefault("exif", b"Exif\0\0" + data)
                elif kind == b"iTXt" and (text := _xmp_of(data)):
                    image.info.setdefault("XML:com.adobe.xmp", text)
        return image

    def _has_others(self, image: Image.Image) -> bool:
        """Whether a TIFF holds more than its first directory."""
        return _SUBDIRECTORIES in image.tag_v2 or len(self.frames) > 1  # type: ignore[attr-defined]

    def _seek(self, image: Image.Image) -> None:
        if not 0 <= self.page < len(self.frames):
            raise InputError(
                f"has no page {self.page + 1}", where=self.name, hint=f"give a page from 1 to {len(self.frames)}"
            )
        try:
            image.seek(self.frames[self.page])
        except Exception as error:  # a decoder may raise anything on bad data
            raise self._corrupt(error) from error

    @cached_property
    def frames(self) -> Sequence[int]:
        """Pillow's number of each page or frame; smaller copies of a page in TIFF and previews in JPEG are left out."""
        image = identify(self.stream)
        try:
            if image is None or (image.format == "MPO" and PurePath(self.name).suffix.lower() != ".mpo"):
                return [0]
            count = int(getattr(image, "n_frames", 1))
            if count > most_pages(self._size_in_bytes):
                raise InputError(f"claims {count:,} frames", where=self.name, hint="save it anew")
            if image.format == "TIFF":
                return [0, *(frame for frame in range(1, count) if not _is_smaller_copy(image, frame))]
            return range(count)
        except InputError:
            raise
        except Exception:  # a decoder may raise anything on bad data; what it did read is an image
            return [0]

    @property
    def _size_in_bytes(self) -> int:
        return self.stream.seek(0, 2)

    def warn_of_frames(self) -> None:
        """Tell with a warning (`InputWarning`) how many pages or frames are left out where the first alone is read."""
        if len(self.frames) > 1:
            text = f"{self.name}: the first of {len(self.frames)} pages or frames is read, the others are left out"
            warnings.warn(text, InputWarning, stacklevel=3)

    # ------------------------------------------------------------------------------------------------------- depth

    @cached_property
    def is_deep(self) -> bool:
        """Whether its samples have more than 8 bits, as the header says."""
        image = self._image
        if image.mode == "I" or image.mode.startswith("I;16"):
            return True
        if image.format == "PPM":
            return _tile(image)[0] == "ppm" and int(self._arguments()[-1]) > 255
        if image.format == "TIFF" and max(image.tag_v2.get(_BITS, (8,))) != 16:  # type: ignore[attr-defined]
            return False
        return image.mode in ("RGB", "RGBA") and (image.format == "TIFF" or ";16" in self._rawmode)

    @cached_property
    def stated_white(self) -> int | None:
        """The largest sample that the file says it can have; None where it does not say, or says nothing specific.

        Bits per sample of TIFF, and the significant ones in OME-TIFF; its largest sample where that is 2^n - 1, since
        many programs write what occurs in the image; significant bits of PNG; the maximum of PPM and PGM; precision of
        JPEG 2000.
        """
        image = self._image
        white = 65535
        if image.format == "TIFF":
            white = _tiff_white(image.tag_v2)  # type: ignore[attr-defined]
        elif image.format == "PNG":
            for kind, data in _png_chunks(self.stream):
                bits = max(data[:3] if len(data) > 2 else data[:1], default=0)
                if kind == b"sBIT" and 8 <= bits < 16:
                    white = (1 << bits) - 1
        elif image.format == "PPM":
            maximum = self._arguments()[-1]
            plain = _tile(image)[0] == "ppm_plain"  # which Pillow scales to 16 bits
            return (65535 if plain else int(maximum)) if isinstance(maximum, int) and maximum != 65535 else None
        elif image.format == "JPEG2000":
            self.stream.seek(0)
            head = self.stream.read(1 << 16)
            at = head.find(b"\xff\x4f\xff\x51")
            precision = (head[at + 42] & 127) + 1 if 0 <= at < len(head) - 42 else 16
            return 65535 if precision < 16 else None  # Pillow scales them to 16 bits
        return white if white < 65535 else None

    def samples(self) -> NDArray[np.uint16] | None:
        """Return the samples of colours, (H, W, 1) or (H, W, 3), as they are stored; None of an image of 8 bits.

        Raises:
            InputError: It is truncated or corrupt, or its samples are not unsigned integers of up to 16 bits.
        """
        if not self.is_deep:
            return None
        try:
            samples = self._deep_colors()
        except InputError:
            raise
        except Exception as error:  # a decoder may raise anything on bad data
            raise self._corrupt(error) from error
        if samples is None:
            samples = deep_samples(self._load(), self.name)
        if samples is None:
            return None
        return samples.reshape(*samples.shape[:2], -1)

    def _deep_colors(self) -> NDArray[np.uint16] | None:
        """Samples that Pillow would cut to 8 bits, or scale one by one; None where it keeps them."""
        image = self._image
        codec, _, offset, _ = _tile(image)[:4]
        rawmode = self._rawmode
        if codec == "ppm":
            return self._netpbm(offset, int(self._arguments()[-1]))
        if self.page and image.format == "PNG":  # frames that are put together of several
            return None
        if image.mode not in ("RGB", "RGBA"):
            return None
        if image.format == "TIFF" and image._planar_configuration == 2:  # type: ignore[attr-defined]
            return self._planes()
        if rawmode == "LA;16B":  # as four channels: both bytes of grey, both of alpha
            pairs: NDArray[np.uint16] = np.asarray(self._load("RGBA")).view(">u2").astype(np.uint16)
            return pairs[..., 0]
        if rawmode[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16", "RGBa;16"):
            return None
        # Pillow takes one byte of two; asked for the other order of bytes, it takes the other one.
        order = _NATIVE if rawmode[-1] == "N" else rawmode[-1]
        kind = rawmode[:-1].replace("a", "A")
        channels = 4 if rawmode.startswith("RGBa") else 3
        width, height = self._image.size
        samples: NDArray[np.uint16] = np.empty((height, width, channels), np.uint16)
        halves = samples.view(np.uint8).reshape(height, width, channels, 2)
        high = 1 if _NATIVE == "L" else 0  # where it is in memory
        for half, raw in ((high, order), (1 - high, "B" if order == "L" else "L")):
            image = self._load(kind + raw)
            for top in range(0, height, _ROWS):  # bounds the memory
                band = image.crop((0, top, width, min(top + _ROWS, height)))
                halves[top : top + _ROWS, ..., half] = np.asarray(band)[..., :channels]
            del image
        return _divided(samples) if channels == 4 else samples

    def _netpbm(self, offset: int, maximum: int) -> NDArray[np.uint16]:
        width, height = self._image.size
        channels = 3 if self._image.mode == "RGB" else 1
        self.stream.seek(offset)
        values: NDArray[np.uint16] = np.frombuffer(self.stream.read(2 * width * height * channels), ">u2")
        return np.minimum(values, maximum).astype(np.uint16).reshape(height, width, channels)

    def _planes(self) -> NDArray[np.uint16]:
        """Samples of a TIFF whose channels are stored one after the other, strip by strip."""
        image = self._image
        width, height = image.size
        boxes = [tile[1] or (0, 0, 0, 0) for tile in image.tile if tile[0] == "raw"]
        if len(boxes) < len(image.tile) or any((box[0], box[2]) != (0, width) for box in boxes):
            raise InputError(
                "holds 16-bit channels in separate planes, compressed or in tiles",
                where=self.name,
                hint="save it with interleaved channels",
            )
        channels = image.tag_v2[_CHANNELS]  # type: ignore[attr-defined]
        order = "<u2" if image.tag_v2.prefix == b"II" else ">u2"  # type: ignore[attr-defined]
        planes: NDArray[np.uint16] = np.empty((channels, height, width), np.uint16)
        rows = planes.reshape(-1, width)
        at = 0
        for (_, top, _, bottom), (_, _, offset, _) in zip(boxes, image.tile, strict=True):
            self.stream.seek(offset)
            data = self.stream.read(2 * width * (bottom - top))
            rows[at : at + bottom - top] = np.frombuffer(data, order).reshape(-1, width)
            at += bottom - top
        colors: NDArray[np.uint16] = planes[:3].transpose(1, 2, 0)
        return colors

    # ------------------------------------------------------------------------------------------------------ pixels

    def rgb(self, bit_depth: BitDepth | SampleDepth) -> Image.Image:
        """Return the image upright, of mode "RGB"; see `SampleDepth`.

        Raises:
            InputError: See `samples` and `SampleDepth.white`; or it is a JPEG of very many scans.
        """
        if self._image.format in ("JPEG", "MPO"):
            check_scans(self.name, self.stream, int(_tile(self._image)[2]))
        samples = self.samples()
        image: Image.Image
        if samples is None:
            image = self._load()
            image = image if image.mode == "RGB" else rgb_image(image, bit_depth, self.name)
        else:
            white = SampleDepth.of(bit_depth).white(int(samples.max(initial=0)), self.stated_white, self.name)
            values = to_8_bits(samples, white, inverted=self.is_inverted)
            del samples  # as images may be large
            image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")
        return image if self.orientation == 1 else turn(image, self.orientation)

    @property
    def is_inverted(self) -> bool:
        """Whether 0 is white, of which Pillow takes no account in grey TIFF files of 16 bits."""
        return self._image.format == "TIFF" and self._image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]

    def _load(self, rawmode: str = "") -> ImageFile.ImageFile:
        """Decode the image; given a raw mode, read its bytes as that."""
        image = self._open() if self.is_deep else self._image
        if rawmode:
            image.tile = [
                type(tile)(*tile[:3], (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode)
                for tile in image.tile
            ]
        try:
            image.load()
        except Exception as error:  # a decoder may raise anything on bad data
            raise self._corrupt(error) from error
        return image

    def _arguments(self) -> tuple[Any, ...]:
        """Return what Pillow's decoder is told: the raw mode, and more for some formats."""
        arguments = _tile(self._image)[3]
        return tuple(arguments) if isinstance(arguments, (tuple, list)) else (arguments,)

    @property
    def _rawmode(self) -> str:
        """How the bytes of the file are laid out, as Pillow calls it."""
        return str(next(iter(self._arguments()), ""))

    def _corrupt(self, error: Exception) -> InputError:
        what = " ".join(str(error).split()) or type(error).__name__
        return InputError(f"is truncated or corrupt ({what})", where=self.name, hint="replace the file or leave it out")


def _is_smaller_copy(image: Image.Image, frame: int) -> bool:
    image.seek(frame)
    return _is_preview(image)


def _is_preview(image: Image.Image) -> bool:
    kind = image.tag_v2.get(_SUBFILE, 0)  # type: ignore[attr-defined]
    return isinstance(kind, int) and bool(kind & 1)


def _tile(image: Image.Image) -> tuple[Any, ...]:
    tiles = getattr(image, "tile", None)
    return tuple(tiles[0]) if tiles else ("", (), 0, ())


def _tiff_white(tags: Any) -> int:
    bits = tags.get(_BITS, (16,))
    if 8 < max(bits) < 16:
        return (1 << int(max(bits))) - 1
    for tag in _MAXIMA:
        value = tags.get(tag, 0)
        white = max(value) if isinstance(value, tuple) and value else value
        if white in [(1 << bits) - 1 for bits in range(8, 16)]:
            return int(white)
    found = re.search(r'SignificantBits="(\d+)"', str(tags.get(_DESCRIPTION, "")))
    return (1 << int(found[1])) - 1 if found and 8 <= int(found[1]) < 16 else 65535


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG that say how to show it, those behind the pixels included, which Pillow reads too late."""
    stream.seek(8)
    for _ in range(_MOST_CHUNKS):
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = int.from_bytes(head[:4], "big")
        wanted = head[4:] in (b"eXIf", b"iTXt", b"sBIT") and length <= _LARGEST_CHUNK
        if wanted:
            yield head[4:], stream.read(length)
        stream.seek(4 if wanted else length + 4, 1)


def _xmp_of(data: bytes) -> str:
    """Return the text of an iTXt chunk if it is XMP."""
    keyword, _, rest = data.partition(b"\0")
    if keyword != b"XML:com.adobe.xmp" or len(rest) < 2:
        return ""
    text = rest[2:].split(b"\0", 2)[-1]
    if rest[0]:
        try:
            text = zlib.decompressobj().decompress(text, _LARGEST_CHUNK)
        except zlib.error:
            return ""
    return text.decode("utf-8", "replace")


def _divided(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return colours (H, W, 3) of samples (H, W, 4), changed in place, whose colours are multiplied by alpha."""
    opaque = max(int(samples[..., 3].max(initial=0)), 1)
    for top in range(0, len(samples), _ROWS):
        band = samples[top : top + _ROWS]
        colors = band[..., :3].astype(np.uint32) * opaque // np.maximum(band[..., 3:], 1)
        band[..., :3] = np.minimum(colors, opaque)
    return samples[..., :3]
