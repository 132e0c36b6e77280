"""Pictures from files and from memory, as RGB. Needs no torch."""

from __future__ import annotations

import functools
import glob
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from banet.errors import InputError
from banet.files.reading import MAX_PIXELS, open_file

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "decode_image",
    "list_images",
    "picture_size",
    "read_image",
    "resized_size",
    "to_rgb_array",
]

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File names that count as pictures where a folder or a pattern is given."""

_MOST_SCANS = 100
"""Of a JPEG. Progressive ones have some ten, but a hundred bytes can ask for one more, however large the picture is."""

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of our formats that this Pillow reads; none of them runs another program or draws vectors."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a picture as 8-bit RGB, turned as its EXIF data say.

    Grey, palette and CMYK pictures are converted, alpha is left out, 16-bit grey is scaled from 0..65535 to 0..255. Of
    an animation the first frame is taken.

    Args:
        path: the file.

    Returns:
        A picture of mode "RGB".

    Raises:
        InputError: see `open_file`; no picture, truncated, corrupt, of floats or 32-bit integers, or of more than
            `MAX_PIXELS` pixels.
    """
    with open_file(path) as stream:
        return _decode(Path(path), stream, MAX_PIXELS)


def decode_image(data: bytes, name: str, *, max_pixels: int | None = None) -> Image.Image:
    """Read a picture from memory, as `read_image` does from a file.

    Args:
        data: what its file holds.
        name: what to call it in errors.
        max_pixels: refuse larger ones before they are decoded; `MAX_PIXELS` by default.

    Raises:
        InputError: as `read_image`.
    """
    if not data:
        raise InputError("is empty (0 bytes)", where=name, hint="give a picture")
    return _decode(Path(name), io.BytesIO(data), MAX_PIXELS if max_pixels is None else max_pixels)


def picture_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H,W) of a picture as it is shown, from its header alone.

    Raises:
        InputError: see `open_file`; no picture, or of more than `MAX_PIXELS` pixels.
    """
    with open_file(path) as stream:
        picture = _open(Path(path), stream, MAX_PIXELS)
        try:
            turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except Exception:  # damaged EXIF data say nothing
            turned = False
    return (picture.width, picture.height) if turned else (picture.height, picture.width)


def _open(file: Path, stream: BinaryIO, max_pixels: int) -> Image.Image:
    """A picture of which only the header is read so far."""
    try:
        picture: Image.Image = Image.open(stream, formats=_formats())
        what = f"{picture.width} x {picture.height}"
    except Image.DecompressionBombError as error:
        what = str(error)
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(
            "is not a picture, or is damaged", where=file, hint="give a JPEG, PNG, WebP, TIFF or BMP"
        ) from error
    else:
        if picture.width * picture.height <= max_pixels:
            return picture
    raise InputError(f"has too many pixels ({what}; the limit is {max_pixels})", where=file, hint="make it smaller")


def _decode(file: Path, stream: BinaryIO, max_pixels: int) -> Image.Image:
    picture = _open(file, stream, max_pixels)
    if picture.format in ("JPEG", "MPO") and (scans := _count(stream, b"\xff\xda")) > _MOST_SCANS:
        raise InputError(f"has {scans:,} scans, each as much work as a picture", where=file, hint="save it anew")
    try:
        picture.load()
    except Exception as error:  # a decoder may raise anything on bad data
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"is truncated or corrupt ({what})", where=file, hint="replace the file or leave it out"
        ) from error
    return _to_rgb(file, _upright(picture))


def _count(stream: BinaryIO, mark: bytes) -> int:
    """How often some bytes occur in a file."""
    place = stream.tell()
    stream.seek(0)
    count = stream.read().count(mark)
    stream.seek(place)
    return count


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF data say nothing, and the pixels are fine
        return picture


def _to_rgb(file: Path, picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 65535:
            kind = "floating-point numbers" if picture.mode == "F" else "32-bit integers"
            raise InputError(f"its pixels are {kind}", where=file, hint="save it with 8 or 16 bits a channel")
        wide = values.astype(np.uint32)  # in place from here on, as large pictures are large
        wide += 128
        wide //= 257
        return Image.fromarray(wide.astype(np.uint8)).convert("RGB")
    if picture.mode in ("P", "PA"):  # by way of RGBA, lest a transparent colour be lost
        return picture.convert("RGBA").convert("RGB")
    return picture.convert("RGB")


def to_rgb_array(image: Any) -> NDArray[np.uint8]:
    """Take a picture in any usual form, and give it as an array.

    Args:
        image: a path; a Pillow image; a numpy array (H,W,3), (H,W,1) or (H,W); or a torch tensor (3,H,W), (1,H,W) or
            (H,W). Arrays and tensors: uint8, or floats in 0..255.

    Returns:
        (H,W,3) uint8, RGB, contiguous and writable; a usable array is handed back without a copy.

    Raises:
        InputError: see `read_image`.
        TypeError: it is nothing of these, or of another data type.
        ValueError: another shape, no pixel, values that are not finite or out of 0..255, or floats that are all ≤ 1
            (and not all 0), which must be multiplied by 255.
    """
    if isinstance(image, (str, os.PathLike)):
        return np.array(read_image(image))
    if isinstance(image, Image.Image):
        return np.array(_to_rgb(Path("image"), _upright(image)))
    if hasattr(image, "detach") and hasattr(image, "cpu"):  # a torch tensor, without importing torch
        array = image.detach().cpu()
        array = np.asarray(array.float() if array.is_floating_point() else array)
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
        layout = "a tensor must be (3,H,W), (1,H,W) or (H,W)"
    elif isinstance(image, np.ndarray):
        array, layout = image, "an array must be (H,W,3), (H,W,1) or (H,W)"
    else:
        raise TypeError(f"an image must be a path, a Pillow image, an array or a tensor, not {type(image).__name__}")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"{layout}, not {tuple(image.shape)}")
    if array.size == 0:
        raise ValueError(f"an image must have at least one pixel; this one is {tuple(image.shape)}")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 255):  # also where they are not numbers
            raise ValueError(f"float images must have values in 0..255; these are in {low:g}..{high:g}")
        if 0 < high <= 1:
            raise ValueError("float images must have values in 0..255; these are in 0..1: multiply them by 255")
        array = np.rint(array).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise TypeError(f"images must be uint8 or float, not {array.dtype}")
    return np.require(np.broadcast_to(array, (*array.shape[:2], 3)), requirements=["C", "W"])


def resized_size(height: int, width: int, shorter: int, longer: int, scale: float = 0.0) -> tuple[int, int]:
    """The size (H,W) of an image whose shorter side becomes `shorter`, or less so that the longer one is ≤ `longer`.

    With a `scale` above 0 the sides are multiplied by that, whatever `shorter`, or by less because of `longer`.
    """
    low, high = min(height, width), max(height, width)
    if scale:
        factor = min(scale, longer / high)
        return max(1, round(height * factor)), max(1, round(width * factor))
    if shorter * high > longer * low:
        other, side = max(1, round(longer * low / high)), longer
    else:
        other, side = shorter, min(longer, round(shorter * high / low))
    return (other, side) if height <= width else (side, other)


def list_images(inputs: Sequence[str]) -> list[Path]:
    """The pictures that files, folders and patterns name.

    A file is taken whatever its name. A folder gives the pictures that lie in it (not in its folders), by name. A
    pattern (`*`, `?`, `[..]`, `**` for any depth) gives the pictures that it matches, by name. No picture comes twice.

    Args:
        inputs: paths and patterns; `~` is the home folder.

    Raises:
        InputError: one of them names no picture, or there is none at all.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [os.fspath(inputs)]
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(os.path.expanduser(text))
        problem = ""
        if os.path.isdir(path):
            try:
                matches = sorted(child for child in path.iterdir() if _is_picture(child))
            except OSError as error:
                raise InputError(
                    f"cannot be read ({error.strerror})", where=text, hint="check its permissions"
                ) from error
            problem = "the folder holds no picture"
        elif os.path.exists(path):
            matches = [path]
        elif glob.has_magic(str(path)):
            hits = _hits(path)
            matches = sorted(hit for hit in hits if _is_picture(hit))
            problem = "no file matches the pattern" if not hits else "the pattern matches no picture"
        else:
            matches, problem = [], "does not exist"
        if not matches:
            raise InputError(
                problem, where=text, hint=f"give pictures ({', '.join(sorted(SUFFIXES))}), a folder or a pattern"
            )
        found.update(dict.fromkeys(matches))
    if not found:
        raise InputError("no pictures given", hint="give at least one picture, folder or pattern")
    return list(found)


def _hits(pattern: Path) -> list[Path]:
    """What a pattern matches; nothing that is hidden."""
    if "**" not in pattern.parts:
        return [Path(hit) for hit in glob.glob(str(pattern))]
    # Here `glob` would follow links to folders, and where these form a loop, for ever. `Path.glob` does not.
    fixed = next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))
    root, parts = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    hits = root.glob("/".join(parts if parts[-1] != "**" else (*parts, "*")))
    return [hit for hit in hits if not any(part.startswith(".") for part in hit.relative_to(root).parts)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and os.path.isfile(path)
