"""Images from files and from memory, as RGB of 8 bits."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.data.images.source import ImageSource
from banet.data.images.stored import StoredImage
from banet.errors import InputError, MissingExtraError
from banet.files.reading import MAX_PIXELS, open_file
from banet.files.remote import as_file
from banet.files.worker import isolated
from banet.panoptic.pixels import deep_samples, rgb_array
from banet.panoptic.sample_depth import SampleDepth, guess_bit_depth, warn_of_guess
from banet.panoptic.validation import color_samples, is_torch
from banet.types import BitDepth, Size, StrPath

__all__ = [
    "decode_image",
    "find_depth",
    "image_size",
    "page_count",
    "read_image",
    "stored_orientation",
    "to_rgb_array",
]

_8_BITS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".gif", ".bmp", ".dib"})


@isolated
def read_image(path: StrPath, *, bit_depth: BitDepth | SampleDepth = "auto", page: int | None = None) -> Image.Image:
    """Read an image file as 8-bit RGB, turned upright as its EXIF or XMP data say.

    Grey, palette and CMYK images are converted, alpha is left out, and samples of 16 bits are scaled by the range that
    they use (see `SampleDepth`).

    Args:
        path: the file, or where else it lies.
        bit_depth: bits that samples of 16-bit images use.
        page: the page of a TIFF or frame of an animation, from 0. By default the first, with a warning (`InputWarning`)
            that says how many are left out.

    Returns:
        An image of mode "RGB".

    Raises:
        InputError: see `open_file`; not an image, truncated, corrupt, of floats or 32-bit integers, of samples that do
            not fit into `bit_depth`, without that page, or of more than `MAX_PIXELS` pixels.
        MissingExtraError: a HEIC image, and pillow-heif is not installed.
    """
    with _opened(path) as (name, stream):
        source = ImageSource(name, stream, MAX_PIXELS, page or 0)
        if page is None:
            source.warn_of_frames()
        return source.rgb(bit_depth)


@isolated
def decode_image(
    data: bytes, name: str, *, max_pixels: int | None = None, bit_depth: BitDepth | SampleDepth = "auto"
) -> Image.Image:
    """Read an image from memory, as `read_image` does from a file: the first page or frame, with a warning.

    Args:
        data: what its file holds.
        name: what to call it in errors.
        max_pixels: refuse larger ones before they are decoded; `MAX_PIXELS` by default.
        bit_depth: as of `read_image`.

    Raises:
        InputError: as `read_image`.
    """
    if not data:
        raise InputError("is empty (0 bytes)", where=name, hint="give an image")
    source = ImageSource(Path(name), io.BytesIO(data), MAX_PIXELS if max_pixels is None else max_pixels)
    source.warn_of_frames()
    return source.rgb(bit_depth)


@isolated
def image_size(path: StrPath) -> Size:
    """Return (H, W) of an image file as `read_image` reads it, from its header alone.

    Raises:
        InputError: see `open_file`; not an image, or of more than `MAX_PIXELS` pixels.
    """
    with open_file(path) as stream:
        return ImageSource(Path(path), stream, MAX_PIXELS).size


@isolated
def stored_orientation(path: StrPath) -> int:
    """Return how the stored pixels of an image file are to be turned, 1 (not at all) to 8, from its header alone.

    Raises:
        InputError: see `image_size`.
    """
    with open_file(path) as stream:
        return ImageSource(Path(path), stream, MAX_PIXELS).orientation


@isolated
def page_count(path: StrPath) -> int:
    """Return how many pages or frames an image file has.

    Raises:
        InputError: see `image_size`.
    """
    with _opened(path) as (name, stream):
        return len(ImageSource(name, stream, MAX_PIXELS).frames)


def to_rgb_array(image: Any, bit_depth: BitDepth | SampleDepth = "auto") -> NDArray[np.uint8]:
    """Return an image in any usual form as an array.

    Args:
        image: a path; a Pillow image; a numpy array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W); or a torch tensor
            (3, H, W), (4, H, W), (1, H, W) or (H, W). Arrays and tensors: uint8, uint16, or floats in 0..255.
        bit_depth: bits that samples of 16-bit images use.

    Returns:
        (H, W, 3) uint8, RGB, contiguous and writable; a usable array is returned without a copy.

    Raises:
        InputError: see `read_image`.
        TypeError: it is none of these, or of another data type.
        ValueError: another shape, no pixel, values that are not finite or outside 0..255, or floats that are all ≤ 1
            (and not all 0), which must be multiplied by 255.
    """
    if isinstance(image, (str, os.PathLike)):
        return np.array(read_image(image, bit_depth=bit_depth))
    if not isinstance(image, Image.Image):
        _check_array(image)
    return np.require(rgb_array(image, bit_depth), requirements=["C", "W"])


def _check_array(image: Any) -> None:
    if not isinstance(image, np.ndarray) and not is_torch(image):
        raise TypeError(f"an image must be a path, a Pillow image, an array or a tensor, not {type(image).__name__}")
    if 0 in image.shape:
        raise ValueError(f"an image must have at least one pixel; this one is {tuple(image.shape)}")
    name = str(image.dtype).removeprefix("torch.")
    if name not in ("uint8", "uint16") and "float" not in name:
        raise TypeError(f"images must be uint8 or float in 0..255, or uint16, not {name}: convert it to one of these")


def find_depth(images: Iterable[Any], bit_depth: BitDepth | SampleDepth | None = "auto") -> SampleDepth:
    """Return how many bits the samples of 16-bit images use, the same for all images of a call or a data set.

    The images that do not say it themselves are looked through for their largest sample; of files only those that are
    not of an 8-bit format are opened, and only those with 16-bit samples decoded. What is found is told with a warning
    (`InputWarning`).

    Args:
        images: As for `to_rgb_array`. Those that cannot be read are passed over: whoever reads them says why.
        bit_depth: What the user says; `auto` searches.

    Raises:
        InputError: `bit_depth` is not `auto` or 8 to 16.
    """
    depth = SampleDepth.of(bit_depth)
    if depth.bits is not None:
        return depth
    highest = -1
    for image in images:
        highest = max(highest, _unstated_maximum(image))
        if highest >= 1 << 14:  # no further image can change the answer
            break
    if highest < 0:
        return depth
    bits = guess_bit_depth(highest)
    warn_of_guess(bits)
    return SampleDepth(bits)


def _unstated_maximum(image: Any) -> int:
    """The largest sample of a 16-bit image that does not say itself how many bits it uses; -1 of any other image."""
    if isinstance(image, (str, os.PathLike)):
        if Path(image).suffix.lower() in _8_BITS:
            return -1
        try:
            return _file_maximum(image)
        except (InputError, MissingExtraError):
            return -1
    try:
        if isinstance(image, Image.Image):
            samples = deep_samples(image) if image.mode.startswith("I") else None
        else:
            samples = color_samples(image) if str(getattr(image, "dtype", "")).endswith("uint16") else None
        return -1 if samples is None else int(samples.max(initial=0))
    except ValueError:
        return -1


@isolated
def _file_maximum(path: StrPath) -> int:
    with _opened(path) as (name, stream):
        source = ImageSource(name, stream, MAX_PIXELS)
        return _source_maximum(source)


def _source_maximum(source: ImageSource) -> int:
    samples = source.samples()
    if samples is None:
        return -1
    maximum = int(samples.max(initial=0))
    return -1 if source.stated_white is not None and maximum <= source.stated_white else maximum


@contextmanager
def _opened(source: StrPath) -> Iterator[tuple[StrPath, BinaryIO]]:
    """Open an image, and yield what to call it and what it holds."""
    name: StrPath
    if isinstance(source, StoredImage):
        name, stream = source.name, source.open()
    else:
        name, stream = as_file(source), open_file(source)
    with stream:
        yield name, stream
