"""COCO panoptic PNGs: id maps with id = R + 256 G + 65536 B, 0 = void; and label maps."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from banet.errors import InputError
from banet.files.archives import InputFolder, StoredFile
from banet.files.atomic import atomic_path
from banet.files.names import safe_join
from banet.files.reading import MAX_PIXELS, open_file
from banet.files.remote import as_file
from banet.files.structure import check_structure
from banet.files.worker import isolated
from banet.panoptic.id_maps import check_ids, in_range
from banet.panoptic.segments import Annotation, ImageInfo
from banet.types import StrPath

if TYPE_CHECKING:  # imported where it is used: `banet pq` with the extra `fast` needs none of it
    from PIL import Image

__all__ = ["encode_ids", "load_ids", "read_ids", "read_labels", "write_ids", "write_labels"]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_RUNS = 3  # zlib's strategy for runs of equal bytes, of which id maps consist: a quarter faster, files of like size
_COLORS = 1 << 24
_ROWS = 256  # of an id map that are coded at a time: bounds the memory


@isolated
def read_ids(path: StrPath | StoredFile) -> NDArray[np.int32]:
    """Read the id map of a COCO panoptic PNG.

    Args:
        path: an RGB PNG of 8 bits per channel, or its URL; an alpha channel is ignored.

    Returns:
        (H, W) int32, 0 = void.

    Raises:
        InputError: missing, a folder, empty, truncated, not a PNG, or one whose pixels are not ids (grey, palette,
            16-bit).
    """
    return _read_png(path if isinstance(path, StoredFile) else as_file(path), _ids_fault, _decode, _decode_fast)


def load_ids(
    annotation: Annotation, png_dir: StrPath | InputFolder, *, image: ImageInfo | None = None
) -> NDArray[np.int32]:
    """Read the id map of an annotation, (H, W), and measure nothing.

    Args:
        annotation: what the JSON says of it.
        png_dir: folder of the PNGs.
        image: where given, the id map must have its width and height.

    Raises:
        InputError: see `read_ids`; map and JSON do not name the same ids (all of them are listed); the size is another.
    """
    where = f"annotation of image {annotation.image_id}: file_name"
    name = annotation.file_name
    path = png_dir.find(name, where) if isinstance(png_dir, InputFolder) else safe_join(png_dir, name, where)
    ids = read_ids(path)
    if image is not None and ids.shape != (image.height, image.width):
        raise InputError(
            f"is {ids.shape[1]}x{ids.shape[0]}, but images[].width and height of image {image.id} say "
            f"{image.width}x{image.height}",
            where=path,
            hint="correct one of them",
        )
    try:
        check_ids(ids, [segment.id for segment in annotation.segments])
    except ValueError as error:
        where = f"{os.fspath(path)}, segments_info of image {annotation.image_id}"
        raise InputError(str(error), where=where, hint="make the PNG and 'segments_info' agree") from error
    return ids


@isolated
def read_labels(
    path: StrPath | StoredFile, colors: Mapping[tuple[int, int, int], int] | None = None
) -> tuple[NDArray[np.int32], int]:
    """Read a PNG label map: a category id per pixel.

    Args:
        path: a grey PNG of 8 or 16 bits, or a palette PNG, whose indices count and whose colours do not.
        colors: where given, the label of each colour; the PNG may then be RGB, too.

    Returns:
        (H, W) int32, and the largest value that such a file can hold.

    Raises:
        InputError: missing, a folder, empty, truncated, not a PNG, or one of colours that have no label.
    """
    file = path if isinstance(path, StoredFile) else as_file(path)
    if colors is None:
        return _read_png(file, _labels_fault, _decode_labels)
    labels, highest = _read_png(file, _colored_fault, _decode_colored)
    if highest < _COLORS:
        return labels, highest
    known = np.array([r | g << 8 | b << 16 for r, g, b in colors], np.int32)
    values, index = np.unique(labels, return_inverse=True)
    strange = values[~np.isin(values, known)]
    if len(strange):
        shown = ", ".join(str((v & 255, v >> 8 & 255, v >> 16)) for v in strange[:3].tolist())
        raise InputError(f"has the colour {shown}, which no class has", where=file, hint="add it to the colour table")
    table = dict(zip(known.tolist(), colors.values(), strict=True))
    found = np.array([table[value] for value in values.tolist()], np.int32)
    return found[index.reshape(labels.shape)], max(colors.values())


def encode_ids(ids: NDArray[Any]) -> bytes:
    """Return an id map as the bytes of a COCO panoptic PNG.

    Args:
        ids: (H, W) integers, 0 .. 2^24-1.

    Raises:
        TypeError, ValueError: not integers, out of range, not (H, W) or without a pixel.
    """
    stream = io.BytesIO()
    _ids_image(ids).save(stream, format="PNG", compress_type=_RUNS)
    return stream.getvalue()


def write_ids(path: StrPath, ids: NDArray[Any]) -> None:
    """Write an id map as a COCO panoptic PNG, at once or not at all.

    Args:
        path: file to write.
        ids: (H, W) integers, 0 .. 2^24-1.

    Raises:
        InputError: see `atomic_path`.
        TypeError, ValueError: not integers, out of range, not (H, W) or without a pixel.
    """
    image = _ids_image(ids)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_type=_RUNS)


def _ids_image(ids: NDArray[Any]) -> Image.Image:
    from PIL import Image

    array = np.asarray(ids)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"ids must have shape (H, W) and at least one pixel, not {array.shape}")
    height, width = array.shape
    image = Image.new("RGB", (width, height))
    for top in range(0, height, _ROWS):
        band = in_range(array[top : top + _ROWS]).astype("<u4")  # in memory red, green, blue and a fourth byte
        image.paste(Image.frombytes("RGB", (width, len(band)), band.tobytes(), "raw", "RGBX"), (0, top))
    return image


def write_labels(path: StrPath, labels: NDArray[Any], colors: NDArray[np.uint8] | None = None) -> None:
    """Write a PNG label map, at once or not at all: grey, of 16 bits where a label is above 255; or with a palette.

    Args:
        path: file to write.
        labels: (H, W) integers, 0 .. 65535; 0 .. 255 with `colors`.
        colors: (256, 3), the colour of each label.

    Raises:
        InputError: see `atomic_path`.
        ValueError: a label is out of range.
    """
    from PIL import Image

    highest = int(labels.max(initial=0))
    if labels.min(initial=0) < 0 or highest > (65535 if colors is None else 255):
        raise ValueError(f"labels must be in 0..{65535 if colors is None else 255}, not {highest}")
    image = Image.fromarray(np.ascontiguousarray(labels, np.uint8 if highest < 256 else np.uint16))
    if colors is not None:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(colors.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", compress_type=_RUNS)


_T = TypeVar("_T")


def _read_png(
    file: StrPath | StoredFile,
    fault: Callable[[int, int], str | None],
    decode: Callable[[Image.Image], _T],
    decode_fast: Callable[[bytes, int, int, int], _T | None] = lambda data, width, height, color_type: None,
) -> _T:
    """Read a PNG whose pixels stand for numbers.

    Args:
        file: the PNG.
        fault: says of bit depth and colour type what is wrong with them.
        decode: reads the pixels.
        decode_fast: tried first, given the file's bytes, width, height and colour type; None where it cannot tell.
    """
    where = os.fspath(file)
    with file.open() if isinstance(file, StoredFile) else open_file(file) as stream:
        head = stream.read(26)
        if head[:8] != _PNG_SIGNATURE:
            raise InputError(
                "is not a PNG", where=where, hint="id and label maps must be PNG, since other formats change the ids"
            )
        if len(head) < 26:
            raise InputError("is truncated", where=where, hint="write it again")
        wrong = fault(head[24], head[25])
        if wrong:
            kind = _COLOR_TYPES.get(head[25], f"colour type {head[25]}")
            raise InputError(f"is a {head[24]}-bit {kind} PNG", where=where, hint=wrong)
        width, height = struct.unpack(">II", head[16:24])
        if width * height > MAX_PIXELS:
            raise InputError(
                f"has too many pixels ({width} x {height}; the limit is {MAX_PIXELS})", where=where, hint="cut it up"
            )
        stream.seek(0)
        fast = decode_fast(stream.read(), width, height, head[25])
        if fast is not None:
            return fast
        from PIL import Image

        try:
            check_structure("PNG", stream)
            stream.seek(0)
            with Image.open(stream, formats=["PNG"]) as image:
                return decode(image)
        except Exception as error:  # a decoder may raise anything on bad data
            raise InputError(f"is truncated or corrupt ({error})", where=where, hint="write it again") from error


def _ids_fault(depth: int, color_type: int) -> str | None:
    if depth == 8 and color_type in (2, 6):
        return None
    return "ids are coded as 8-bit RGB (id = R + 256 G + 65536 B)"


def _labels_fault(depth: int, color_type: int) -> str | None:
    if color_type == 3 or (color_type == 0 and depth in (8, 16)):
        return None
    return "label maps are grey, of 8 or 16 bits, or have a palette, and hold category ids"


def _colored_fault(depth: int, color_type: int) -> str | None:
    return None if depth == 8 and color_type in (2, 6) else _labels_fault(depth, color_type)


def _decode_colored(image: Image.Image) -> tuple[NDArray[np.int32], int]:
    """Return labels and the largest one that there can be; of an RGB PNG its colours, and `_COLORS`."""
    return (_decode(image), _COLORS) if image.mode in ("RGB", "RGBA") else _decode_labels(image)


def _decode_labels(image: Image.Image) -> tuple[NDArray[np.int32], int]:
    return np.asarray(image).astype(np.int32), 65535 if image.mode.startswith("I") else 255


def _decode(image: Image.Image) -> NDArray[np.int32]:
    # Pillow keeps RGB in four bytes per pixel, the last one padding: handing those out spares the shuffle.
    pixels = image.tobytes("raw", "RGBX" if image.mode == "RGB" else "RGBA")
    packed = np.frombuffer(pixels, dtype="<u4").reshape(image.height, image.width)
    return (packed & 0xFFFFFF).view(np.int32)


def _decode_fast(data: bytes, width: int, height: int, color_type: int) -> NDArray[np.int32] | None:
    """Decode ids by kornia-rs; None without it, and for a damaged file, of which Pillow's errors tell more."""
    decoder = _kornia()
    if decoder is None or color_type != 2 or not _intact(data):
        return None
    try:
        rgb = decoder(data, (height, width), "rgb")
    except Exception:  # the decoder raises plain exceptions
        return None
    flat = np.append(rgb.reshape(-1), np.uint8(0))  # a byte more, as the last pixel is read with the one behind it
    packed: NDArray[np.uint32] = np.ndarray((height, width), "<u4", flat, strides=(3 * width, 3))
    ids: NDArray[np.int32] = (packed & 0xFFFFFF).view(np.int32)
    return ids


def _intact(data: bytes) -> bool:
    """Return whether the checksums of all chunks hold, those that kornia-rs skips too, and the last chunk is IEND."""
    view, start = memoryview(data), len(_PNG_SIGNATURE)
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if zlib.crc32(view[start + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


@cache
def _kornia() -> Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]] | None:
    """Return the PNG decoder of kornia-rs (extra `fast`), which takes a third of Pillow's time; None without it."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    found: Callable[[bytes, tuple[int, int], str], NDArray[np.uint8]] = decode_image_png_u8
    return found
