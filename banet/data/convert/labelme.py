"""Labelme: a JSON beside each picture, with polygons, rectangles, circles and masks."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import Progress, Truth, write_panoptic
from banet.data.convert.shapes import FAIL, Shape, categories_of_names, ellipse, layer_shapes
from banet.data.images import decode_image, picture_size
from banet.errors import InputError, shown
from banet.files.reading import read_json
from banet.panoptic.categories import Categories
from banet.panoptic.coco.annotations import read_categories
from banet.panoptic.coco.rle import decode_polygons

__all__ = ["convert_labelme"]


def convert_labelme(
    annotations: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    stuff: Collection[str] = (),
    categories: str | os.PathLike[str] | None = None,
    ignore: Collection[str] = (),
    overlaps: str = FAIL,
    progress: Progress | None = None,
) -> Path:
    """Converts a folder of Labelme files. Shapes of one label and one group_id are parts of one object.

    Args:
        annotations: the folder of JSONs, and its folders.
        out: see `write_panoptic`.
        images: the folder of pictures, where it is another. `imagePath` is looked up from each JSON, then there.
        stuff: labels that are stuff.
        categories: JSON of the classes, whose names are the labels; by default they are numbered by name. Give the
            second split of a data set the classes of the first.
        ignore: labels that are left out.
        overlaps: `FAIL` or an occlusion rule, for objects that overlap. Things lie in front of stuff.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a label is unknown, or objects overlap and may not.
    """
    root = Path(annotations)
    if not root.is_dir():
        raise InputError(f"--annotations {root}: is no folder; give the folder of Labelme's JSONs")
    files = sorted(path for path in root.rglob("*.json") if not path.name.startswith("."))
    if not files:
        raise InputError(f"--annotations {root}: holds no JSON; give the folder of Labelme's JSONs")
    pictures = root if images is None else Path(images)
    if categories is not None:
        classes = read_categories(categories)
    else:
        names = (shape.label for path in files for shape in _read(path)[1])
        classes = categories_of_names((name for name in names if name not in ignore), stuff)
    id_of = {category.name: category.id for category in classes}

    def truths() -> Iterator[Truth]:
        for path in files:
            name, marks, said = _read(path)
            file_name = _picture(path, name, root, pictures)
            size = picture_size(pictures / file_name)
            if None not in said and said != size:
                raise InputError(
                    f"{path}: imageWidth and imageHeight are {said[1]}x{said[0]}, but {pictures / file_name} is"
                    f" {size[1]}x{size[0]}; was it resized after it was labelled? Put the old one back"
                )
            shapes = list(_shapes(path, [mark for mark in marks if mark.label not in ignore], size, id_of, classes))
            yield Truth(file_name, *layer_shapes(shapes, classes, pictures / file_name, size, overlaps))

    return write_panoptic(out, truths(), classes, len(files), progress)


@dataclass(frozen=True)
class _Mark:
    """An entry of `shapes`."""

    where: str
    label: str
    group: int | str | None
    kind: str
    points: list[Any]
    mask: Any


def _read(path: Path) -> tuple[str, list[_Mark], tuple[Any, Any]]:
    """Name of the picture, shapes, and height and width where they are given."""
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise InputError(f"{path}: 'shapes' is missing; is it a file of Labelme? Move it elsewhere if not")
    if not isinstance(content.get("imagePath"), str):
        raise InputError(f"{path}: 'imagePath' is missing; add the picture's name")
    marks = []
    for position, entry in enumerate(content["shapes"]):
        where = f"{path}: shapes[{position}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str) or not entry["label"]:
            raise InputError(f"{where}: 'label' is missing; add it")
        group = entry.get("group_id")
        if not isinstance(group, (int, str, type(None))):
            raise InputError(f"{where}.group_id: must be a number or null, not {shown(group)}")
        kind, points = entry.get("shape_type") or "polygon", entry.get("points")
        if not isinstance(points, list):
            raise InputError(f"{where}: 'points' is missing; add it")
        marks.append(_Mark(where, entry["label"], group, str(kind), points, entry.get("mask")))
    return content["imagePath"], marks, (content.get("imageHeight"), content.get("imageWidth"))


def _picture(path: Path, name: str, root: Path, pictures: Path) -> str:
    """The picture's path relative to the folder of pictures."""
    parts = PureWindowsPath(name)  # whose separators are both / and \\
    for candidate in (path.parent / parts.as_posix(), pictures / path.parent.relative_to(root) / parts.name):
        try:
            relative = Path(os.path.relpath(candidate, pictures))
        except ValueError:  # on another drive
            continue
        if ".." not in relative.parts and os.path.isfile(candidate):
            return relative.as_posix()
    raise InputError(f"{path}: imagePath: {shown(name)} is not in {pictures}; put the picture there or give --images")


def _shapes(
    path: Path, marks: list[_Mark], size: tuple[int, int], id_of: Mapping[str, int], classes: Categories
) -> Iterator[Shape]:
    groups: dict[Any, list[_Mark]] = {}
    for position, mark in enumerate(marks):
        if mark.label not in id_of:
            raise InputError(f"{mark.where}.label: {shown(mark.label)} is not in --categories; add it, or --ignore it")
        groups.setdefault(
            (mark.label, position) if mark.group is None else (mark.label, None, str(mark.group)), []
        ).append(mark)
    for parts in groups.values():
        mask = np.zeros(size, bool)
        for mark in parts:
            mask |= _mask(mark, size)
        yield Shape.of(parts[0].where.removeprefix(f"{path}: "), id_of[parts[0].label], mask)


def _mask(mark: _Mark, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        points = [(float(x), float(y)) for x, y in mark.points]
        finite = bool(np.isfinite(points).all())
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise InputError(f"{mark.where}.points: must be pairs of numbers x, y")
    counts = {"rectangle": 2, "circle": 2, "mask": 2}
    if mark.kind in counts and len(points) != counts[mark.kind]:
        raise InputError(f"{mark.where}.points: a {mark.kind} has {counts[mark.kind]}, not {len(points)}; draw it anew")
    if mark.kind == "mask":
        return _drawn(mark, points, size)
    if mark.kind == "polygon":
        outline = [value for point in points for value in point]
    elif mark.kind == "rectangle":
        (x1, y1), (x2, y2) = points
        outline = [x1, y1, x2, y1, x2, y2, x1, y2]
    elif mark.kind == "circle":
        (x, y), (ex, ey) = points
        radius = float(np.hypot(ex - x, ey - y))
        outline = ellipse(x, y, radius, radius)
    else:
        raise InputError(
            f"{mark.where}.shape_type: a {shown(mark.kind)} has no area; outline it, or --ignore its label"
        )
    try:
        return decode_polygons([outline], size)
    except ValueError as error:
        raise InputError(f"{mark.where}.points: {error}") from error


def _drawn(mark: _Mark, points: list[tuple[float, float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask drawn by hand or by a model: a PNG in base64, and the corners of the pixels it covers, both included."""
    try:
        data = base64.b64decode(mark.mask, validate=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"{mark.where}.mask: is no base64; draw it anew") from error
    drawn = np.asarray(decode_image(data, f"{mark.where}.mask").convert("L")) > 0
    x, y = (round(value) for value in points[0])
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + drawn.shape[1], size[1]), min(y + drawn.shape[0], size[0])
    mask = np.zeros(size, bool)
    if left < right and top < bottom:
        mask[top:bottom, left:right] = drawn[top - y : bottom - y, left - x : right - x]
    return mask
