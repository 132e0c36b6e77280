"""COCO panoptic files: PNG id maps and the JSON that names their segments.

The format is the one of COCO's panoptic task (https://cocodataset.org/#format-data, "Panoptic Segmentation"): a PNG per
image with id = R + 256 G + 65536 B, 0 = void, and one JSON with `images`, `annotations` (one per image, each with
`segments_info`) and `categories`. Everything read here is checked; what is wrong is an `InputError` of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from banet._moved import renamed
from banet.errors import InputError, abbreviate
from banet.files.fields import is_number, read_flag, read_image_id, read_integer, read_object
from banet.files.names import check_file_name
from banet.files.reading import MAX_PIXELS, stream_lists
from banet.files.remote import as_file
from banet.panoptic.categories import Categories
from banet.panoptic.id_maps import MAX_SEGMENT_ID, MOST_SEGMENTS
from banet.panoptic.segments import Annotation, ImageInfo, Segment
from banet.types import ImageId, StrPath

__all__ = [
    "Annotation",
    "ImageInfo",
    "ImagesById",
    "PanopticJson",
    "add_image",
    "read_annotation",
    "read_categories",
    "read_image_info",
    "read_images",
    "read_tables",
]

__getattr__ = renamed(__name__, {"load": "banet.panoptic.segmentation:PanopticSegmentation.from_annotation"})


@dataclass(frozen=True)
class PanopticJson:
    """A COCO panoptic JSON, checked.

    Attributes:
        path: the file, for error messages.
        images: image id -> `ImageInfo`, in the file's order.
        annotations: image id -> `Annotation`, in the file's order.
        categories: the classes.
    """

    path: StrPath
    images: dict[ImageId, ImageInfo]
    annotations: dict[ImageId, Annotation]
    categories: Categories

    @classmethod
    def read(cls, path: StrPath, *, truth: PanopticJson | None = None) -> PanopticJson:
        """Read and validate a JSON.

        Args:
            path: the file.
            truth: for a file of predictions: the JSON of the ground truth. `images` and `categories` then come from it,
                so that the predictions' file needs `annotations` only, and annotations of other images are left out.

        Raises:
            InputError: a field is missing, of the wrong type or out of range; an id occurs twice; an annotation is of
                an unknown image; a segment has an unknown category; a file name leads out of its folder.
        """
        file = as_file(path)
        images: dict[ImageId, ImageInfo] = {}
        listed: list[Any] = []
        found: list[tuple[str, Annotation]] = []
        fields = ("images", "annotations", "categories") if truth is None else ("annotations",)
        for field, where, entry in stream_lists(file, fields):
            if field == "categories":
                listed.append(entry)
            elif field == "images":
                add_image(images, entry, where)
            elif truth is None or read_image_id(read_object(entry, where), "image_id", where) in truth.images:
                found.append((where, read_annotation(entry, where, None)))
        if truth is not None:
            images, categories = truth.images, truth.categories
        else:
            categories = Categories.from_coco(listed, str(file))
        annotations: dict[ImageId, Annotation] = {}
        for where, annotation in found:
            image_id = annotation.image_id
            if image_id not in images:
                raise InputError(
                    f"no image has the id {abbreviate(image_id)}", where=f"{where}.image_id", hint="add it to 'images'"
                )
            if image_id in annotations:
                raise InputError(
                    f"image {abbreviate(image_id)} has an annotation already",
                    where=f"{where}.image_id",
                    hint="keep one",
                )
            annotations[image_id] = _of_classes(annotation, where, categories)
        return cls(file, images, annotations, categories)


def read_categories(path: StrPath) -> Categories:
    """Return the classes of a JSON: a list of `id`, `name`, `isthing`, or an object that holds one as `categories`.

    Raises:
        InputError: see `stream_lists` and `Categories.from_coco`.
    """
    listed = [entry for _, _, entry in stream_lists(path, ("categories",), bare=True)]
    return Categories.from_coco(listed, str(path))


def read_tables(path: StrPath, *, optional: bool = False) -> tuple[dict[ImageId, ImageInfo], list[Any]]:
    """Return the checked `images` of a COCO JSON by id, in the file's order, and its `categories` as they stand.

    Args:
        path: the file.
        optional: either may be missing, but not be empty.

    Raises:
        InputError: see `stream_lists` and `add_image`.
    """
    images: dict[ImageId, ImageInfo] = {}
    return images, read_images(path, images, optional=optional)


class ImagesById(Protocol):
    """What entries of `images` are added to, by their ids."""

    def __contains__(self, image_id: object, /) -> bool: ...
    def __setitem__(self, image_id: ImageId, info: ImageInfo, /) -> None: ...


def read_images(path: StrPath, images: ImagesById, *, optional: bool = False) -> list[Any]:
    """Add the checked `images` of a COCO JSON to those before, and return its `categories` as they stand.

    Args:
        path: the file.
        images: gets the images.
        optional: either may be missing, but not be empty.

    Raises:
        InputError: see `stream_lists` and `add_image`.
    """
    categories: list[Any] = []
    for field, where, entry in stream_lists(path, ("images", "categories"), optional=optional):
        if field == "images":
            add_image(images, entry, where)
        else:
            categories.append(entry)
    return categories


def add_image(images: ImagesById, entry: Any, where: str) -> None:
    """Add one entry of the `images` of a COCO JSON, checked, by its id.

    Args:
        images: those before it.
        entry: what the JSON holds.
        where: file and place, for errors.

    Raises:
        InputError: see `read_image_info`; or the id occurs twice.
    """
    info = read_image_info(entry, where)
    if info.id in images:
        raise InputError(
            f"{abbreviate(info.id)} is the id of another image too", where=f"{where}.id", hint="make it unique"
        )
    images[info.id] = info


def read_image_info(entry: Any, where: str) -> ImageInfo:
    """Return one checked entry of `images`.

    Args:
        entry: what the JSON holds.
        where: file and place, for errors.

    Raises:
        InputError: it is not an object, a field is missing, of the wrong type or out of range, or the name leads out of
            its folder.
    """
    image_id = read_image_id(read_object(entry, where), "id", where)
    name = _file_name(entry, where)
    width, height = (read_integer(entry, side, where, 1, texts=True) for side in ("width", "height"))
    if width * height > MAX_PIXELS:
        raise InputError(
            f"says {width} x {height}, more than {MAX_PIXELS} pixels", where=where, hint="correct it or cut it up"
        )
    return ImageInfo(image_id, name, width, height)


def read_annotation(entry: Any, where: str, categories: Categories | None) -> Annotation:
    """Return one checked entry of `annotations`.

    Args:
        entry: what the JSON holds.
        where: file and place, for errors.
        categories: the classes; None where they are not known yet: then no segment is a thing.

    Raises:
        InputError: it is not an object, a field is missing, of the wrong type or out of range, a segment's id occurs
            twice or its category is unknown, or the file name leads out of its folder.
    """
    image_id, name = read_image_id(read_object(entry, where), "image_id", where), _file_name(entry, where)
    if "segments_info" not in entry:
        raise InputError("'segments_info' is missing", where=where, hint="add it")
    if not isinstance(entry["segments_info"], list):
        raise InputError(f"'segments_info' must be a list, not {type(entry['segments_info']).__name__}", where=where)
    if len(entry["segments_info"]) > MOST_SEGMENTS:
        raise InputError(f"'segments_info' holds more than {MOST_SEGMENTS:,}", where=where, hint="cut the image up")
    segments: dict[int, Segment] = {}
    for position, info in enumerate(entry["segments_info"]):
        place = f"{where}.segments_info[{position}]"
        segment = _read_segment(read_object(info, place), place)
        if segment.id in segments:
            raise InputError(
                f"{segment.id} is the id of another segment too", where=f"{place}.id", hint="make it unique"
            )
        segments[segment.id] = segment
    annotation = Annotation(image_id, name, tuple(segments.values()))
    return annotation if categories is None else _of_classes(annotation, where, categories)


def _file_name(entry: Mapping[str, Any], where: str) -> str:
    if "file_name" not in entry:
        raise InputError("'file_name' is missing", where=where, hint="add it")
    return check_file_name(entry["file_name"], f"{where}.file_name")


def _read_segment(info: Mapping[str, Any], where: str) -> Segment:
    segment_id = read_integer(info, "id", where, 1, MAX_SEGMENT_ID)
    category_id = read_integer(info, "category_id", where, 0, 2**31 - 1)
    score = info.get("score")
    return Segment(
        segment_id,
        category_id,
        isthing=False,
        score=score if is_number(score) else None,
        iscrowd=read_flag(info, "iscrowd", where),
    )


def _of_classes(annotation: Annotation, where: str, categories: Categories) -> Annotation:
    """Return the annotation with `isthing` of its segments as the classes say; InputError where one is unknown."""
    for position, segment in enumerate(annotation.segments):
        if segment.category_id not in categories:
            raise InputError(
                f"{segment.category_id} is unknown",
                where=f"{where}.segments_info[{position}].category_id",
                hint="add it to 'categories' or correct it",
            )
    segments = (replace(segment, isthing=categories.isthing(segment.category_id)) for segment in annotation.segments)
    return replace(annotation, segments=tuple(segments))
