"""COCO panoptic files: PNG id maps and the JSON that names their segments.

The format is the one of COCO's panoptic task (https://cocodataset.org/#format-data, "Panoptic Segmentation"): a PNG per
image with id = R + 256 G + 65536 B, 0 = void, and one JSON with `images`, `annotations` (one per image, each with
`segments_info`) and `categories`. Everything read here is checked; what is wrong is an `InputError` of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banet.errors import InputError, shown
from banet.files.fields import is_number, read_integer, read_object
from banet.files.names import check_file_name, safe_join
from banet.files.reading import MAX_PIXELS, stream_lists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.png import read_ids
from banet.panoptic.id_maps import MAX_SEGMENT_ID
from banet.panoptic.segmentation import PanopticSegmentation
from banet.types import StrPath

__all__ = [
    "Annotation",
    "ImageInfo",
    "PanopticJson",
    "SegmentInfo",
    "add_image",
    "load",
    "read_annotation",
    "read_categories",
    "read_image_info",
    "read_tables",
]


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
    def read(cls, path: StrPath, *, truth: PanopticJson | None = None) -> PanopticJson:
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
            elif truth is None or read_integer(read_object(entry, where), "image_id", where, 0) in truth.images:
                found.append((where, read_annotation(entry, where, None)))
        if truth is not None:
            images, categories = truth.images, truth.categories
        else:
            categories = Categories.from_coco(listed, str(file))
        annotations: dict[int, Annotation] = {}
        for where, annotation in found:
            image_id = annotation.image_id
            if image_id not in images:
                raise InputError(
                    f"no image has the id {image_id}", where=f"{where}.image_id", hint="add it to 'images'"
                )
            if image_id in annotations:
                raise InputError(
                    f"image {image_id} has an annotation already", where=f"{where}.image_id", hint="keep one"
                )
            for position, segment in enumerate(annotation.segments):
                if segment.category_id not in categories:
                    raise _unknown(segment.category_id, f"{where}.segments_info[{position}]")
            annotations[image_id] = annotation
        return cls(file, images, annotations, categories)


def load(
    annotation: Annotation,
    png_dir: StrPath,
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
    path = safe_join(png_dir, annotation.file_name, f"annotation of image {annotation.image_id}: file_name")
    ids = read_ids(path)
    if image is not None and ids.shape != (image.height, image.width):
        raise InputError(
            f"is {ids.shape[1]}x{ids.shape[0]}, but images[].width and height of image {image.id} say "
            f"{image.width}x{image.height}",
            where=path,
            hint="correct one of them",
        )
    try:
        return PanopticSegmentation.from_ids(ids, [dict(info) for info in annotation.segments], categories)
    except ValueError as error:
        where = f"{path}, segments_info of image {annotation.image_id}"
        raise InputError(_tail(error), where=where, hint="make the PNG and 'segments_info' agree") from error


def _tail(error: ValueError) -> str:
    return str(error).removeprefix("result: ")


def read_categories(path: StrPath) -> Categories:
    """The classes of a JSON: a list of `id`, `name`, `isthing`, or an object that holds one as `categories`.

    Raises:
        InputError: see `stream_lists` and `Categories.from_coco`.
    """
    listed = [entry for _, _, entry in stream_lists(path, ("categories",), bare=True)]
    return Categories.from_coco(listed, str(path))


def read_tables(path: StrPath, *, optional: bool = False) -> tuple[dict[int, ImageInfo], list[Any]]:
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
        raise InputError(f"{info.id} is the id of another image too", where=f"{where}.id", hint="make it unique")
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
    image_id = read_integer(read_object(entry, where), "id", where, 0)
    name = _file_name(entry, where)
    width, height = read_integer(entry, "width", where, 1), read_integer(entry, "height", where, 1)
    if width * height > MAX_PIXELS:
        raise InputError(
            f"says {width} x {height}, more than {MAX_PIXELS} pixels", where=where, hint="correct it or cut it up"
        )
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
    image_id, name = read_integer(read_object(entry, where), "image_id", where, 0), _file_name(entry, where)
    if "segments_info" not in entry:
        raise InputError("'segments_info' is missing", where=where, hint="add it")
    if not isinstance(entry["segments_info"], list):
        raise InputError(f"'segments_info' must be a list, not {type(entry['segments_info']).__name__}", where=where)
    segments: dict[int, SegmentInfo] = {}
    for position, info in enumerate(entry["segments_info"]):
        place = f"{where}.segments_info[{position}]"
        segment = _read_segment(read_object(info, place), place, categories)
        if segment.id in segments:
            raise InputError(
                f"{segment.id} is the id of another segment too", where=f"{place}.id", hint="make it unique"
            )
        segments[segment.id] = segment
    return Annotation(image_id, name, tuple(segments.values()))


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    if "file_name" not in entry:
        raise InputError("'file_name' is missing", where=where, hint="add it")
    return check_file_name(entry["file_name"], f"{where}.file_name")


def _read_segment(info: Mapping[str, Any], where: str, categories: Categories | None) -> SegmentInfo:
    segment_id = read_integer(info, "id", where, 1, MAX_SEGMENT_ID)
    category_id = read_integer(info, "category_id", where, 0, 2**31 - 1)
    if categories is not None and category_id not in categories:
        raise _unknown(category_id, where)
    crowd = info.get("iscrowd", 0)
    if not isinstance(crowd, int) or crowd not in (0, 1):
        raise InputError(f"must be 0 or 1, not {shown(crowd)}", where=f"{where}.iscrowd")
    area = info.get("area")
    if area is not None and (not is_number(area) or area < 0):
        raise InputError(f"must be a number >= 0, not {shown(area)}", where=f"{where}.area")
    bbox = info.get("bbox")
    if bbox is not None and (not isinstance(bbox, list) or len(bbox) != 4 or not all(map(is_number, bbox))):
        raise InputError(f"must be four numbers x, y, width, height, not {shown(bbox)}", where=f"{where}.bbox")
    score = info.get("score")
    if score is not None and not is_number(score):
        raise InputError(f"must be a number, not {shown(score)}", where=f"{where}.score")
    return SegmentInfo(
        segment_id,
        category_id,
        bool(crowd),
        area,
        None if bbox is None else (bbox[0], bbox[1], bbox[2], bbox[3]),
        score,
    )


def _unknown(category_id: int, where: str) -> InputError:
    return InputError(
        f"{category_id} is unknown", where=f"{where}.category_id", hint="add it to 'categories' or correct it"
    )
