"""COCO instances, with or without label maps of stuff."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from banet.data.convert.output import Progress, Truth, from_classes, read_categories, same_size, write_panoptic
from banet.data.convert.shapes import FAIL, Shape, layer_shapes
from banet.data.json_stream import stream_json
from banet.errors import InputError
from banet.panoptic.categories import Categories
from banet.panoptic.coco_format import ImageInfo, inside, read_image_info, read_labels
from banet.panoptic.rle import decode_segmentation

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
    infos, found, listed = _read(file)
    classes = read_categories(categories) if categories is not None else _as_things(listed, file)

    def truths() -> Iterator[Truth]:
        for info in infos.values():
            picture, size = inside(images, info.file_name, f"{file}: images[].file_name"), (info.height, info.width)
            same_size(file, size, picture)
            shapes = [_shape(text, file, size, classes) for text in found.get(info.id, ())]
            ground = None
            if stuff is not None:
                path = inside(stuff, str(Path(info.file_name).with_suffix(".png")))
                labels, _ = read_labels(path)
                same_size(path, labels.shape, picture)
                labels[np.isin(labels, [c.id for c in classes if c.isthing])] = -1
                ground = from_classes(path, labels, None, classes, [*void, -1])
            ids, regions = layer_shapes(shapes, classes, picture, size, overlaps, ground)
            yield Truth(info.file_name, ids, regions, info.id)

    return write_panoptic(out, truths(), classes, len(infos), progress)


def _read(file: Path) -> tuple[dict[int, ImageInfo], dict[int, list[bytes]], list[Any]]:
    """Images by id, annotations by image id as compact JSON (a third of what objects would take), categories."""
    infos: dict[int, ImageInfo] = {}
    found: dict[int, list[bytes]] = {}
    categories: list[Any] = []
    for field, position, entry in stream_json(file):
        where = f"{file}: {field}[{position}]"
        if position is None or field not in ("images", "annotations", "categories"):
            continue
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}: must be an object, not {entry!r:.60}")
        if field == "categories":
            categories.append(entry)
        elif field == "images":
            info = read_image_info(entry, where)
            if info.id in infos:
                raise InputError(f"{where}.id: {info.id} is the id of another image too; make it unique")
            infos[info.id] = info
        else:
            for key in ("image_id", "category_id", "segmentation"):
                if key not in entry:
                    raise InputError(f"{where}: '{key}' is missing; add it")
            record = [position, *(entry.get(key) for key in ("id", "category_id", "iscrowd", "segmentation"))]
            found.setdefault(entry["image_id"], []).append(json.dumps(record, separators=(",", ":")).encode())
    strange = next((image_id for image_id in found if image_id not in infos), None)
    if strange is not None:
        raise InputError(f"{file}: annotations: image_id {strange!r} is not in 'images'; add it or drop them")
    return infos, found, categories


def _as_things(listed: list[Any], file: Path) -> Categories:
    return Categories.from_coco([{"isthing": 1, **entry} for entry in listed], str(file))


def _shape(text: bytes, file: Path, size: tuple[int, int], categories: Categories) -> Shape:
    position, identity, category_id, crowd, segmentation = json.loads(text)
    where = f"{file}: annotations[{position}] (id {identity})"
    if not isinstance(category_id, int) or category_id not in categories or not categories.isthing(category_id):
        raise InputError(f"{where}: category_id {category_id!r} is no thing in the categories; add it or correct it")
    try:
        mask = decode_segmentation(segmentation, size)
    except ValueError as error:
        raise InputError(f"{where}: segmentation: {error}") from error
    return Shape.of(f"annotation {identity}", category_id, mask, bool(crowd))
