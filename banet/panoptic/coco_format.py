"""COCO panoptic files: PNG id maps and the JSON that names their segments.

The format is the one of COCO's panoptic task (https://cocodataset.org/#format-data, "Panoptic Segmentation"): a PNG per
image with id = R + 256 G + 65536 B, 0 = void, and one JSON with `images`, `annotations` (one per image, each with
`segments_info`) and `categories`. Everything read here is checked; what is wrong is an `InputError` of one line.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from banet.errors import InputError, shown
from banet.panoptic.categories import Categories, Category
from banet.panoptic.files import open_file, read_json, stream_lists
from banet.panoptic.segmentation import (
    MAX_SEGMENT_ID,
    PanopticSegmentation,
    ids_to_rgb,
)

__all__ = [
    "MAX_PIXELS",
    "Annotation",
    "CocoPanopticWriter",
    "ImageInfo",
    "PanopticJson",
    "SegmentInfo",
    "add_image",
    "atomic_path",
    "inside",
    "is_number",
    "load",
    "read_annotation",
    "read_categories",
    "read_ids",
    "read_image_info",
    "read_json",
    "read_labels",
    "read_tables",
    "write_ids",
    "write_json",
]

MAX_PIXELS = 1 << 26
"""Pictures and maps of more pixels are refused: a small file can claim any size. This one is decoded in 1 GB."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_ROWS = 256  # of an id map that are coded at a time: bounds the memory
_StrPath = str | os.PathLike[str]


# --- files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: _StrPath) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success and deletes it on failure.

    The temporary name keeps the suffix, so that writers that go by it work. Readers see the old file or the new one,
    never half of one.

    Args:
        path: the file to write.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; create it first")
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the name of a file")
    # Of the name a part only: with the rest it might become too long for the file system.
    temporary = target.with_name(f".{target.stem[:32]}.{os.getpid()}-{threading.get_ident()}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(target)  # a full disk does not say of which file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def inside(folder: _StrPath, file_name: str, where: str = "file_name") -> Path:
    """Joins a file name from a JSON to a folder, and refuses one that leads out of the folder.

    Args:
        folder: the folder.
        file_name: relative name; sub-folders are allowed.
        where: file and field it comes from, for the error.

    Raises:
        InputError: the name is empty, absolute, or has a part '..'.
    """
    _check_file_name(file_name, where)
    return Path(folder) / file_name


def write_json(path: _StrPath, content: Any) -> None:
    """Writes a JSON file at once or not at all.

    Raises:
        InputError: see `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")


def read_ids(path: _StrPath) -> NDArray[np.int32]:
    """Reads the id map of a COCO panoptic PNG.

    Args:
        path: an RGB PNG of 8 bits a channel; an alpha channel is ignored.

    Returns:
        (H, W) int32, 0 = void.

    Raises:
        InputError: missing, a folder, empty, truncated, no PNG, or one whose pixels are no ids (grey, palette, 16-bit).
    """
    return _read_png(Path(path), _ids_fault, _decode)


def read_labels(path: _StrPath) -> tuple[NDArray[np.int32], int]:
    """Reads a PNG label map: a category id a pixel.

    Args:
        path: a grey PNG of 8 or 16 bits, or a palette PNG, whose indices count and whose colours do not.

    Returns:
        (H, W) int32, and the largest value that such a file can hold.

    Raises:
        InputError: missing, a folder, empty, truncated, no PNG, or one of colours.
    """
    return _read_png(Path(path), _labels_fault, _decode_labels)


def write_ids(path: _StrPath, ids: NDArray[Any]) -> None:
    """Writes an id map as a COCO panoptic PNG, at once or not at all.

    Args:
        path: file to write.
        ids: (H, W) integers, 0 .. 2^24-1.

    Raises:
        InputError: see `atomic_path`.
        TypeError, ValueError: see `ids_to_rgb`; also ValueError when `ids` is not (H, W) or has no pixel.
    """
    array = np.asarray(ids)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"ids must have shape (H, W) and at least one pixel, not {array.shape}")
    picture = Image.new("RGB", (array.shape[1], array.shape[0]))
    for top in range(0, array.shape[0], _ROWS):
        picture.paste(Image.fromarray(ids_to_rgb(array[top : top + _ROWS])), (0, top))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


# --- the JSON --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An entry of `images`: id, file name of the picture, width and height in pixels."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """An entry of `segments_info`. Fields are read as attributes or, as from a dict, by name.

    `area` and `bbox` (x, y, width, height) are what the JSON says, None where it says nothing; nothing relies on them.
    """

    id: int
    category_id: int
    iscrowd: bool = False
    area: float | None = None
    bbox: tuple[float, float, float, float] | None = None
    score: float | None = None

    def __getitem__(self, key: str) -> Any:
        if key not in self.keys():
            raise KeyError(key)
        return getattr(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a field, or `default` where there is no such field."""
        return getattr(self, key) if key in self.keys() else default

    def keys(self) -> tuple[str, ...]:
        """Names of the fields; with this, `dict(info)` works."""
        return ("id", "category_id", "iscrowd", "area", "bbox", "score")


@dataclass(frozen=True, slots=True)
class Annotation:
    """An entry of `annotations`: the image, the PNG of its id map, and the segments in it."""

    image_id: int
    file_name: str
    segments: tuple[SegmentInfo, ...]


@dataclass(frozen=True)
class PanopticJson:
    """A COCO panoptic JSON, checked.

    Attributes:
        path: the file, for error messages.
        images: image id -> `ImageInfo`, in the file's order.
        annotations: image id -> `Annotation`, in the file's order.
        categories: the classes.
    """

    path: Path
    images: dict[int, ImageInfo]
    annotations: dict[int, Annotation]
    categories: Categories

    @classmethod
    def read(cls, path: _StrPath, *, truth: PanopticJson | None = None) -> PanopticJson:
        """Reads and checks a JSON.

        Args:
            path: the file.
            truth: for a file of predictions: the JSON of the ground truth. `images` and `categories` then come from it,
                so that the predictions' file needs `annotations` only, and annotations of other images are left out.

        Raises:
            InputError: a field is missing, of the wrong type or out of range; an id occurs twice; an annotation is of
                an unknown image; a segment has an unknown category; a file name leads out of its folder.
        """
        file = Path(path)
        images: dict[int, ImageInfo] = {}
        listed: list[Any] = []
        found: list[tuple[str, Annotation]] = []
        fields = ("images", "annotations", "categories") if truth is None else ("annotations",)
        for field, where, entry in stream_lists(file, fields):
            if field == "categories":
                listed.append(entry)
            elif field == "images":
                add_image(images, entry, where)
            elif truth is None or _integer(_object(entry, where), "image_id", where, 0) in truth.images:
                found.append((where, read_annotation(entry, where, None)))
        if truth is not None:
            images, categories = truth.images, truth.categories
        else:
            categories = Categories.from_coco(listed, str(file))
        annotations: dict[int, Annotation] = {}
        for where, annotation in found:
            image_id = annotation.image_id
            if image_id not in images:
                raise InputError(f"{where}.image_id: no image has the id {image_id}; add it to 'images'")
            if image_id in annotations:
                raise InputError(f"{where}.image_id: image {image_id} has an annotation already; keep one")
            for position, segment in enumerate(annotation.segments):
                if segment.category_id not in categories:
                    raise _unknown(segment.category_id, f"{where}.segments_info[{position}]")
            annotations[image_id] = annotation
        return cls(file, images, annotations, categories)


def load(
    annotation: Annotation,
    png_dir: _StrPath,
    categories: Categories,
    *,
    image: ImageInfo | None = None,
) -> PanopticSegmentation:
    """Reads the id map of an annotation; areas and boxes are counted from it.

    Args:
        annotation: from `PanopticJson.annotations`.
        png_dir: folder of the PNGs.
        categories: the classes.
        image: where given, the id map must have its width and height.

    Raises:
        InputError: see `read_ids`; map and JSON do not name the same ids (all of them are listed); the size is another.
    """
    path = inside(png_dir, annotation.file_name, f"annotation of image {annotation.image_id}: file_name")
    ids = read_ids(path)
    if image is not None and ids.shape != (image.height, image.width):
        raise InputError(
            f"{path}: is {ids.shape[1]}x{ids.shape[0]}, but images[].width and height of image {image.id} say "
            f"{image.width}x{image.height}; correct one of them"
        )
    try:
        return PanopticSegmentation.from_ids(ids, [dict(info) for info in annotation.segments], categories)
    except ValueError as error:
        where = f"{path}, segments_info of image {annotation.image_id}"
        raise InputError(f"{where}: {_tail(error)}; make the PNG and 'segments_info' agree") from error


class CocoPanopticWriter:
    """Writes results as COCO panoptic: each PNG as it comes, the JSON at the end.

    A context manager. Where the body fails, no JSON is written, and an older one stays as it was.

    Args:
        dir_png: folder for the PNGs, made where missing.
        json_path: the JSON; its folder is made where missing.
        categories: the classes of all results.

    Raises:
        InputError: a folder cannot be made.
    """

    def __init__(
        self,
        dir_png: _StrPath,
        json_path: _StrPath,
        categories: Categories | Iterable[Category | Mapping[str, Any]],
    ) -> None:
        self._dir = Path(dir_png)
        self._json = Path(json_path)
        self._categories = Categories.of(categories)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._ids: set[int] = set()
        self._names: set[str] = set()
        for folder in (self._dir, self._json.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error

    def add(
        self,
        image_id: int,
        file_name: str,
        result: PanopticSegmentation,
        width: int | None = None,
        height: int | None = None,
    ) -> Path:
        """Writes the PNG of one image and remembers its records.

        Args:
            image_id: id of the image.
            file_name: name of the picture; the PNG gets the same one, ending in .png.
            result: what was found in it.
            width: where given, the result must be that wide.
            height: where given, the result must be that high.

        Returns:
            Path of the PNG.

        Raises:
            ValueError: the image or its PNG was written already, size or classes differ, map and records disagree, or
                the file name leads out of the folder.
        """
        if width not in (None, result.width) or height not in (None, result.height):
            raise ValueError(f"{file_name}: the result is {result.width}x{result.height}, not {width}x{height}")
        if result.categories != self._categories:
            raise ValueError(f"{file_name}: the result's categories are not the writer's")
        name = str(PurePosixPath(file_name).with_suffix(".png")) if file_name else file_name
        path = inside(self._dir, name, f"image {image_id}: file_name")
        if image_id in self._ids:
            raise ValueError(f"{file_name}: image id {image_id} was written already; ids must be unique")
        if name in self._names:
            raise ValueError(f"{file_name}: {name} was written already for another image; names must be unique")
        result.check(file_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_ids(path, result.ids)
        self._ids.add(image_id)
        self._names.add(name)
        self._images.append({"id": image_id, "file_name": file_name, "width": result.width, "height": result.height})
        self._annotations.append(result.to_coco(image_id, name))
        return path

    def close(self) -> None:
        """Writes the JSON."""
        write_json(
            self._json,
            {"images": self._images, "annotations": self._annotations, "categories": self._categories.to_coco()},
        )

    def __enter__(self) -> CocoPanopticWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()


# --- checks ----------------------------------------------------------------------------------------------------------


_T = TypeVar("_T")


def _read_png(file: Path, fault: Callable[[int, int], str | None], decode: Callable[[Image.Image], _T]) -> _T:
    """Reads a PNG whose pixels stand for numbers; `fault` says of bit depth and colour type what is wrong with them."""
    with open_file(file) as stream:
        head = stream.read(26)
        if head[:8] != _PNG_SIGNATURE:
            raise InputError(f"{file}: is no PNG; id and label maps must be PNG, since other formats change the ids")
        if len(head) < 26:
            raise InputError(f"{file}: is truncated; write it again")
        wrong = fault(head[24], head[25])
        if wrong:
            kind = _COLOR_TYPES.get(head[25], f"colour type {head[25]}")
            raise InputError(f"{file}: is a {head[24]}-bit {kind} PNG; {wrong}")
        width, height = struct.unpack(">II", head[16:24])
        if width * height > MAX_PIXELS:
            raise InputError(f"{file}: has too many pixels ({width} x {height}; the limit is {MAX_PIXELS}); cut it up")
        stream.seek(0)
        try:
            with Image.open(stream, formats=["PNG"]) as picture:
                return decode(picture)
        except Exception as error:  # a decoder may raise anything on bad data
            raise InputError(f"{file}: is truncated or corrupt ({error}); write it again") from error


def _ids_fault(depth: int, color_type: int) -> str | None:
    if depth == 8 and color_type in (2, 6):
        return None
    return "ids are coded as 8-bit RGB (id = R + 256 G + 65536 B)"


def _labels_fault(depth: int, color_type: int) -> str | None:
    if color_type == 3 or (color_type == 0 and depth in (8, 16)):
        return None
    return "label maps are grey, of 8 or 16 bits, or have a palette, and hold category ids"


def _decode_labels(picture: Image.Image) -> tuple[NDArray[np.int32], int]:
    return np.asarray(picture).astype(np.int32), 65535 if picture.mode.startswith("I") else 255


def _decode(picture: Image.Image) -> NDArray[np.int32]:
    # Pillow keeps RGB in four bytes a pixel, the last one padding: handing those out spares the shuffle.
    pixels = picture.tobytes("raw", "RGBX" if picture.mode == "RGB" else "RGBA")
    packed = np.frombuffer(pixels, dtype="<u4").reshape(picture.height, picture.width)
    return (packed & 0xFFFFFF).view(np.int32)


def _tail(error: ValueError) -> str:
    return str(error).removeprefix("result: ")


def _check_file_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{where}: must be a file name, not {shown(name)}")
    if name != ".." and not any(mark in name for mark in "/\\:"):
        return name  # no parts and no drive, so nothing that could lead out
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise InputError(f"{where}: {shown(name)} leads out of its folder; give a relative name without '..'")
    return name


def _integer(entry: Mapping[str, Any], key: str, where: str, low: int, high: int = 2**63 - 1) -> int:
    if key not in entry:
        raise InputError(f"{where}: '{key}' is missing; add it")
    value = entry[key]
    if type(value) is not int or not low <= value <= high:
        bounds = f"in {low}..{high}" if high < 2**63 - 1 or (type(value) is int and value > high) else f">= {low}"
        raise InputError(f"{where}.{key}: must be an integer {bounds}, not {shown(value)}")
    return value


def _object(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{where}: must be an object, not {shown(entry)}")
    return entry


def read_categories(path: _StrPath) -> Categories:
    """The classes of a JSON: a list of `id`, `name`, `isthing`, or an object that holds one as `categories`.

    Raises:
        InputError: see `stream_lists` and `Categories.from_coco`.
    """
    listed = [entry for _, _, entry in stream_lists(path, ("categories",), bare=True)]
    return Categories.from_coco(listed, str(path))


def read_tables(path: _StrPath, *, optional: bool = False) -> tuple[dict[int, ImageInfo], list[Any]]:
    """The checked `images` of a COCO JSON by id, in the file's order, and its `categories` as they stand.

    Args:
        path: the file.
        optional: either may be missing, but not be empty.

    Raises:
        InputError: see `stream_lists` and `add_image`.
    """
    images: dict[int, ImageInfo] = {}
    categories: list[Any] = []
    for field, where, entry in stream_lists(path, ("images", "categories"), optional=optional):
        if field == "images":
            add_image(images, entry, where)
        else:
            categories.append(entry)
    return images, categories


def add_image(images: dict[int, ImageInfo], entry: Any, where: str) -> None:
    """Adds one entry of the `images` of a COCO JSON, checked, by its id.

    Args:
        images: those before it.
        entry: what the JSON holds.
        where: file and place, for errors.

    Raises:
        InputError: see `read_image_info`; or the id occurs twice.
    """
    info = read_image_info(entry, where)
    if info.id in images:
        raise InputError(f"{where}.id: {info.id} is the id of another image too; make it unique")
    images[info.id] = info


def read_image_info(entry: Any, where: str) -> ImageInfo:
    """One checked entry of `images`.

    Args:
        entry: what the JSON holds.
        where: file and place, for errors.

    Raises:
        InputError: it is no object, a field is missing, of the wrong type or out of range, or the name leads out of its
            folder.
    """
    image_id = _integer(_object(entry, where), "id", where, 0)
    name = _file_name(entry, where)
    width, height = _integer(entry, "width", where, 1), _integer(entry, "height", where, 1)
    if width * height > MAX_PIXELS:
        raise InputError(f"{where}: says {width} x {height}, more than {MAX_PIXELS} pixels; correct it or cut it up")
    return ImageInfo(image_id, name, width, height)


def read_annotation(entry: Any, where: str, categories: Categories | None) -> Annotation:
    """One checked entry of `annotations`.

    Args:
        entry: what the JSON holds.
        where: file and place, for errors.
        categories: the classes; None where they are not known yet and the caller asks for them later.

    Raises:
        InputError: it is no object, a field is missing, of the wrong type or out of range, a segment's id occurs twice
            or its category is unknown, or the file name leads out of its folder.
    """
    image_id, name = _integer(_object(entry, where), "image_id", where, 0), _file_name(entry, where)
    if "segments_info" not in entry:
        raise InputError(f"{where}: 'segments_info' is missing; add it")
    if not isinstance(entry["segments_info"], list):
        raise InputError(f"{where}: 'segments_info' must be a list, not {type(entry['segments_info']).__name__}")
    segments: dict[int, SegmentInfo] = {}
    for position, info in enumerate(entry["segments_info"]):
        place = f"{where}.segments_info[{position}]"
        segment = _read_segment(_object(info, place), place, categories)
        if segment.id in segments:
            raise InputError(f"{place}.id: {segment.id} is the id of another segment too; make it unique")
        segments[segment.id] = segment
    return Annotation(image_id, name, tuple(segments.values()))


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    if "file_name" not in entry:
        raise InputError(f"{where}: 'file_name' is missing; add it")
    return _check_file_name(entry["file_name"], f"{where}.file_name")


def _read_segment(info: Mapping[str, Any], where: str, categories: Categories | None) -> SegmentInfo:
    segment_id = _integer(info, "id", where, 1, MAX_SEGMENT_ID)
    category_id = _integer(info, "category_id", where, 0, 2**31 - 1)
    if categories is not None and category_id not in categories:
        raise _unknown(category_id, where)
    crowd = info.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise InputError(f"{where}.iscrowd: must be 0 or 1, not {shown(crowd)}")
    area = info.get("area")
    if area is not None and (not is_number(area) or area < 0):
        raise InputError(f"{where}.area: must be a number >= 0, not {shown(area)}")
    bbox = info.get("bbox")
    if bbox is not None and (not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox))):
        raise InputError(f"{where}.bbox: must be four numbers x, y, width, height, not {shown(bbox)}")
    score = info.get("score")
    if score is not None and not is_number(score):
        raise InputError(f"{where}.score: must be a number, not {shown(score)}")
    return SegmentInfo(
        segment_id,
        category_id,
        bool(crowd),
        area,
        None if bbox is None else (bbox[0], bbox[1], bbox[2], bbox[3]),
        score,
    )


def _unknown(category_id: int, where: str) -> InputError:
    return InputError(f"{where}.category_id: {category_id} is unknown; add it to 'categories' or correct it")


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value from a JSON is a number that survives as a float: no NaN, infinity, nor one of 2^53 and more."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53  # false for NaN
