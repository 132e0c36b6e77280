"""CVAT: the XML of "CVAT for images 1.1", with polygons, boxes, ellipses and masks."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import Progress, Truth, same_size, write_panoptic
from banet.data.convert.shapes import FAIL, Shape, categories_of_names, ellipse, layer_shapes
from banet.errors import InputError, shown
from banet.files.names import safe_join
from banet.files.reading import open_file
from banet.panoptic.coco.annotations import read_categories
from banet.panoptic.coco.rle import decode_polygons

__all__ = ["convert_cvat"]

_SHAPES = ("polygon", "box", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
_MOST_SHAPES = 200_000  # of a picture; they are in memory together
_LONGEST_LIST = 1 << 24  # characters of an outline or of run lengths


def convert_cvat(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    stuff: Collection[str] = (),
    categories: str | os.PathLike[str] | None = None,
    ignore: Collection[str] = (),
    overlaps: str = FAIL,
    progress: Progress | None = None,
) -> Path:
    """Converts an annotations.xml. Shapes of one label and one group are parts of one object.

    Args:
        annotations: the XML.
        images: the folder of pictures.
        out: see `write_panoptic`.
        stuff: labels that are stuff.
        categories: JSON of the classes, whose names are the labels; by default they are numbered by name. Give the
            second split of a data set the classes of the first.
        ignore: labels that are left out.
        overlaps: `FAIL` or an occlusion rule, for objects that overlap in one layer. The higher z_order lies in front;
            within a layer things lie in front of stuff.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a label is unknown, or objects overlap and may not.
    """
    file = Path(annotations)
    if not Path(images).is_dir():
        raise InputError(f"--images {images}: is no folder; give the folder of pictures")
    labels: set[str] = set()
    total = 0
    for image in _images(file):
        total += 1
        labels.update(mark.get("label") or "unlabelled" for mark in image if mark.tag in _SHAPES)
    if categories is not None:
        classes = read_categories(categories)
    else:
        classes = categories_of_names(labels - set(ignore), stuff)
    id_of = {category.name: category.id for category in classes}

    def truths() -> Iterator[Truth]:
        for image in _images(file):
            name = image.get("name", "")
            where = f"{file}: image {shown(name)}"
            size = round(_number(image, "height", where)), round(_number(image, "width", where))
            picture = safe_join(images, name, where)
            same_size(file, size, picture)
            groups: dict[tuple[str, ...], list[tuple[ElementTree.Element, str]]] = {}
            for position, mark in enumerate(mark for mark in image if mark.tag in _SHAPES):
                label, group = mark.get("label") or "unlabelled", mark.get("group_id")
                place = f"{mark.tag} {position} ({label})"
                if label in ignore:
                    continue
                if label not in id_of:
                    raise InputError(f"{where}: {place}: the label is not in --categories; add it, or --ignore it")
                key = (label, str(position)) if group in (None, "", "0") else (label, "group", str(group))
                groups.setdefault(key, []).append((mark, place))
            shapes = []
            for (label, *_), parts in groups.items():
                mask = np.zeros(size, bool)
                for mark, place in parts:
                    mask |= _mask(mark, size, f"{where}: {place}")
                z = max(round(_number(mark, "z_order", where, 0)) for mark, _ in parts)
                shapes.append(Shape.of(parts[0][1], id_of[label], mask, z=z))
            yield Truth(name, *layer_shapes(shapes, classes, picture, size, overlaps))

    return write_panoptic(out, truths(), classes, total, progress)


def _images(file: Path) -> Iterator[ElementTree.Element]:
    """The elements `image`, one at a time."""
    count = since = 0
    try:
        with open_file(file) as stream:
            for _, element in ElementTree.iterparse(stream):
                since += 1
                if element.tag == "image":
                    count, since = count + 1, 0
                    yield element
                    element.clear()
                elif element.tag == "track":
                    raise InputError(f"{file}: holds tracks of a video; export it as 'CVAT for images 1.1'")
                elif since > _MOST_SHAPES:
                    raise InputError(f"{file}: holds a picture of more than {_MOST_SHAPES:,} shapes; leave some out")
    except InputError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also for an encoding that there is not
        raise InputError(f"{file}: is not XML ({error}); export it anew as 'CVAT for images 1.1'") from error
    if not count:
        raise InputError(f"{file}: holds no image; export it as 'CVAT for images 1.1'")


def _number(element: ElementTree.Element, key: str, where: str, default: float = math.nan) -> float:
    text = element.get(key)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {element.tag}: {key} must be a number, not {shown(text)}")
    return value


def _list(element: ElementTree.Element, key: str, where: str) -> str:
    text = element.get(key, "")
    if len(text) > _LONGEST_LIST:
        raise InputError(f"{where}: {key}: is longer than {_LONGEST_LIST:,} characters; draw it coarser")
    return text


def _mask(mark: ElementTree.Element, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    def number(key: str) -> float:
        return _number(mark, key, where)

    if mark.tag == "mask":
        return _drawn(mark, size, where)
    if mark.tag == "polygon":
        try:
            outline = [float(v) for point in _list(mark, "points", where).split(";") for v in point.split(",")]
        except ValueError:
            raise InputError(f"{where}: points: must be pairs x,y with ; between") from None
    elif mark.tag == "box":
        if _number(mark, "rotation", where, 0):
            raise InputError(f"{where}: is turned; make it a polygon")
        x1, y1, x2, y2 = map(number, ("xtl", "ytl", "xbr", "ybr"))
        outline = [x1, y1, x2, y1, x2, y2, x1, y2]
    elif mark.tag == "ellipse":
        x, y, rx, ry = map(number, ("cx", "cy", "rx", "ry"))
        outline = ellipse(x, y, rx, ry, _number(mark, "rotation", where, 0))
    else:
        raise InputError(f"{where}: has no area; outline it, or --ignore its label")
    try:
        return decode_polygons([outline], size)
    except ValueError as error:
        raise InputError(f"{where}: points: {error}") from error


def _drawn(mark: ElementTree.Element, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """A mask: run lengths along the rows of a window, beginning with what is not the object's."""
    left, top, width, height = (round(_number(mark, key, where)) for key in ("left", "top", "width", "height"))
    try:
        runs = [int(text) for text in _list(mark, "rle", where).split(",")]
    except ValueError:
        raise InputError(f"{where}: rle: must be whole numbers with , between") from None
    inside_picture = 0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]
    if min(runs) < 0 or sum(runs) != width * height or not inside_picture:
        raise InputError(f"{where}: rle: does not fill {width} x {height} pixels within the picture; draw it anew")
    mask = np.zeros(size, bool)
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : top + height, left : left + width] = filled.reshape(height, width)
    return mask
