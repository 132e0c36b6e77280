"""COCO instances, with or without label maps of stuff."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from banet.data.convert.output import ConvertedImage, from_classes, name_in, same_size, write_panoptic
from banet.data.convert.shapes import FAIL, Shape, layer_shapes, outlined
from banet.data.left_out import LeftOut, reported
from banet.errors import InputError, shown
from banet.files.fields import read_flag, read_image_id, read_object
from banet.files.names import safe_join
from banet.files.reading import stream_lists
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import ImageInfo, add_image, read_categories
from banet.panoptic.coco.png import read_labels
from banet.types import ImageId, Progress, StrPath

__all__ = ["convert_coco"]


def convert_coco(
    images: StrPath,
    instances: StrPath,
    out: StrPath,
    *,
    stuff: StrPath | None = None,
    categories: StrPath | None = None,
    overlaps: str = FAIL,
    void: Sequence[int] = (),
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert an instances JSON. Pixels of no instance are stuff by the label maps, or void.

    Args:
        images: the folder of images.
        instances: JSON of polygons or run lengths.
        out: see `write_panoptic`.
        stuff: label maps of category ids, PNGs named as the images. Thing ids in them are void.
        categories: JSON of all classes; by default the instances' own, as things. Needed with `stuff`.
        overlaps: `FAIL` or an occlusion rule.
        void: labels of `stuff` that are void; 0 is, unless it is a category's id.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
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

    def truths() -> Iterator[ConvertedImage]:
        for info in infos.values():
            image_path = safe_join(images, info.file_name, f"{file}: images[].file_name")
            size = (info.height, info.width)
            same_size(file, size, image_path)
            shapes = [_shape(text, file, size, classes) for text in found.get(info.id, ())]
            report.objects += len(shapes)
            ground = None
            if stuff is not None:
                path = safe_join(stuff, str(Path(info.file_name).with_suffix(".png")))
                labels, _ = read_labels(path)
                same_size(path, labels.shape, image_path)
                labels[np.isin(labels, [c.id for c in classes if c.isthing])] = -1
                ground = from_classes(path, labels, None, classes, [*void, -1])
            name = name_in(images, image_path)
            tell = partial(report.add, image=name, source=file)
            layers = layer_shapes(shapes, classes, image_path, size, overlaps, tell, ground)
            yield ConvertedImage(name, *layers, info.id)

    with reported(left_out) as report:
        return write_panoptic(out, truths(), classes, len(infos), progress)


def _read(file: Path, own_classes: bool) -> tuple[dict[ImageId, ImageInfo], dict[ImageId, list[bytes]], list[Any]]:
    """Images by id, annotations by image id as compact JSON (a third of what objects would take), categories."""
    infos: dict[ImageId, ImageInfo] = {}
    found: dict[ImageId, list[bytes]] = {}
    categories: list[Any] = []
    fields = ("images", "annotations", "categories") if own_classes else ("images", "annotations")
    for field, where, entry in stream_lists(file, fields):
        if field == "images":
            add_image(infos, entry, where)
            continue
        read_object(entry, where)
        if field == "categories":
            categories.append(entry)
            continue
        image_id = read_image_id(entry, "image_id", where)
        for key in ("category_id", "segmentation"):
            if key not in entry:
                raise InputError(f"'{key}' is missing", where=where, hint="add it")
        place = f"{where.removeprefix(f'{file}: ')} (id {shown(entry.get('id'))})"
        record = [place, entry["category_id"], read_flag(entry, "iscrowd", where), entry["segmentation"]]
        found.setdefault(image_id, []).append(json.dumps(record, separators=(",", ":")).encode())
    strange = next((image_id for image_id in found if image_id not in infos), None)
    if strange is not None:
        what = f"image_id {shown(strange)} is not in 'images'"
        raise InputError(what, where=f"{file}: annotations", hint="add it or drop them")
    return infos, found, categories


def _as_things(listed: list[Any], file: Path) -> Categories:
    return Categories.from_coco([{"isthing": 1, **entry} for entry in listed], str(file))


def _shape(text: bytes, file: Path, size: tuple[int, int], categories: Categories) -> Shape:
    place, category_id, crowd, segmentation = json.loads(text)
    if type(category_id) is not int or category_id not in categories or not categories.isthing(category_id):
        what = f"category_id {shown(category_id)} is not a thing in the categories"
        raise InputError(what, where=f"{file}: {place}", hint="add it or correct it")
    try:
        crop, why = outlined(segmentation, size)
    except ValueError as error:
        raise InputError(f"segmentation: {error}", where=f"{file}: {place}") from error
    return Shape(place, category_id, crop, crowd, why=why)
