"""COCO instances, with or without label maps of stuff."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from banet.data.convert.output import Progress, Truth, from_classes, same_size, write_panoptic
from banet.data.convert.shapes import FAIL, Shape, layer_shapes
from banet.errors import InputError, shown
from banet.files.names import safe_join
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import ImageInfo, add_image, read_categories
from banet.panoptic.coco.png import read_labels
from banet.panoptic.coco.rle import decode_segmentation

__all__ = ["convert_coco"]


def convert_coco(
    images: str | os.PathLike[str],
    instances: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stuff: str | os.PathLike[str] | None = None,
    categories: str | os.PathLike[str] | None = None,
    overlaps: str = FAIL,
    void: Sequence[int] = (),
    progress: Progress | None = None,
) -> Path:
    """Converts an instances JSON. Pixels of no instance are stuff by the label maps, or void.

    Args:
        images: the folder of pictures.
        instances: JSON of polygons or run lengths.
        out: see `write_panoptic`.
        stuff: label maps of category ids, PNGs named as the pictures. Thing ids in them are void.
        categories: JSON of all classes; by default the instances' own, as things. Needed with `stuff`.
        overlaps: `FAIL` or an occlusion rule.
        void: labels of `stuff` that are void; 0 is, unless it is a category's id.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json; image ids stay as they are.

    Raises:
        InputError: a file is missing or bad, a class is unknown, or instances overlap and may not.
    """
    if stuff is not None and categories is None:
        raise InputError("--categories: missing; with --stuff, give a JSON with all classes, things and stuff")
    file = Path(instances)
    infos, found, listed = _read(file, own_classes=categories is None)
    classes = read_categories(categories) if categories is not None else _as_things(listed, file)

    def truths() -> Iterator[Truth]:
        for info in infos.values():
            picture, size = safe_join(images, info.file_name, f"{file}: images[].file_name"), (info.height, info.width)
            same_size(file, size, picture)
            shapes = [_shape(text, file, size, classes) for text in found.get(info.id, ())]
            ground = None
            if stuff is not None:
                path = safe_join(stuff, str(Path(info.file_name).with_suffix(".png")))
                labels, _ = read_labels(path)
                same_size(path, labels.shape, picture)
                labels[np.isin(labels, [c.id for c in classes if c.isthing])] = -1
                ground = from_classes(path, labels, None, classes, [*void, -1])
            ids, regions = layer_shapes(shapes, classes, picture, size, overlaps, ground)
            yield Truth(info.file_name, ids, regions, info.id)

    return write_panoptic(out, truths(), classes, len(infos), progress)


def _read(file: Path, own_classes: bool) -> tuple[dict[int, ImageInfo], dict[int, list[bytes]], list[Any]]:
    """Images by id, annotations by image id as compact JSON (a third of what objects would take), categories."""
    infos: dict[int, ImageInfo] = {}
    found: dict[int, list[bytes]] = {}
    categories: list[Any] = []
    fields = ("images", "annotations", "categories") if own_classes else ("images", "annotations")
    for field, where, entry in stream_lists(file, fields):
        if field == "images":
            add_image(infos, entry, where)
            continue
        if not isinstance(entry, dict):
            raise InputError(f"{where}: must be an object, not {shown(entry)}")
        if field == "categories":
            categories.append(entry)
            continue
        for key in ("image_id", "category_id", "segmentation"):
            if key not in entry:
                raise InputError(f"{where}: '{key}' is missing; add it")
        image_id = entry["image_id"]
        if type(image_id) is not int:
            raise InputError(f"{where}.image_id: must be an integer, not {shown(image_id)}")
        place = f"{where.removeprefix(f'{file}: ')} (id {shown(entry.get('id'))})"
        record = [place, *(entry.get(key) for key in ("category_id", "iscrowd", "segmentation"))]
        found.setdefault(image_id, []).append(json.dumps(record, separators=(",", ":")).encode())
    strange = next((image_id for image_id in found if image_id not in infos), None)
    if strange is not None:
        raise InputError(f"{file}: annotations: image_id {strange} is not in 'images'; add it or drop them")
    return infos, found, categories


def _as_things(listed: list[Any], file: Path) -> Categories:
    return Categories.from_coco([{"isthing": 1, **entry} for entry in listed], str(file))


def _shape(text: bytes, file: Path, size: tuple[int, int], categories: Categories) -> Shape:
    place, category_id, crowd, segmentation = json.loads(text)
    if type(category_id) is not int or category_id not in categories or not categories.isthing(category_id):
        what = f"category_id {shown(category_id)} is no thing in the categories"
        raise InputError(f"{file}: {place}: {what}; add it or correct it")
    try:
        mask = decode_segmentation(segmentation, size)
    except ValueError as error:
        raise InputError(f"{file}: {place}: segmentation: {error}") from error
    return Shape.of(place, category_id, mask, bool(crowd))
