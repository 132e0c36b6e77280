"""Labelme, and X-AnyLabeling, which writes the same: a JSON beside each image, with shapes and masks."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from banet.data.convert.output import ConvertedImage, file_names, write_panoptic
from banet.data.convert.shapes import (
    Shape,
    choose_categories,
    convert_shapes,
    ellipse,
    everywhere,
    joined,
    outlined,
    with_background,
)
from banet.data.images import decode_image, image_size
from banet.data.left_out import LeftOut, reported
from banet.errors import InputError, abbreviate
from banet.files.fields import as_number
from banet.files.names import forward
from banet.files.reading import read_json
from banet.panoptic.coco.runs import MOST_SHAPES, Crop
from banet.panoptic.defaults import BEST_RULE
from banet.types import Progress, StrPath

__all__ = ["convert_labelme"]

_WORK_OF_PIXEL = 2  # to decode one of a PNG, as many times what it takes to draw one
_FLAT = ("point", "points", "line", "linestrip")  # without an area
_CORNERS: dict[str, tuple[int, ...]] = {
    "polygon": (),
    "rectangle": (2, 4),
    "rotation": (2, 4),
    "oriented_rectangle": (2, 4),
    "quadrilateral": (2, 4),
    "circle": (2,),
    "mask": (2,),
}
"""How many points a shape may have: two opposite corners, or four in order; any number where none is given."""


def convert_labelme(
    annotations: StrPath,
    out: StrPath,
    *,
    images: StrPath | None = None,
    stuff: Collection[str] = (),
    categories: StrPath | None = None,
    ignore: Collection[str] = (),
    overlaps: str = BEST_RULE,
    background: str = "",
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a folder of Labelme files. Shapes of one label and one group_id are parts of one object.

    Args:
        annotations: the folder of JSONs, and its folders.
        out: see `write_panoptic`.
        images: the folder of images, where it is another. `imagePath` is looked up from each JSON, then there.
        stuff: labels that are stuff.
        categories: JSON of the classes, whose names are the labels; by default they are numbered by name. Give the
            second split of a data set the classes of the first.
        ignore: labels that are left out.
        overlaps: `FAIL` or an occlusion rule, for objects that overlap. Things lie in front of stuff.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a label is unknown, or objects overlap and may not.
    """
    root = Path(annotations)
    if not root.is_dir():
        raise InputError("is not a folder", where=f"--annotations {root}", hint="give the folder of Labelme's JSONs")
    paths = (root / name for name in file_names(root))
    files = sorted(path for path in paths if path.suffix == ".json" and not path.name.startswith("."))
    if not files:
        raise InputError("holds no JSON", where=f"--annotations {root}", hint="give the folder of Labelme's JSONs")
    image_root = root if images is None else Path(images)
    labels = (shape.label for path in files for shape in _read(path)[1])
    classes = with_background(choose_categories(categories, labels, ignore, stuff, root), background)
    id_of = {category.name: category.id for category in classes}

    def truths() -> Iterator[ConvertedImage]:
        for path in files:
            name, marks, said = _read(path)
            file_name = _image_name(path, name, root, image_root)
            size = image_size(image_root / file_name)
            for field, told, real in zip(("imageHeight", "imageWidth"), said, size, strict=True):
                if told not in (None, real):
                    raise InputError(
                        f"{field} is {told:g}, but {image_root / file_name} is {size[1]}x{size[0]}",
                        where=path,
                        hint="was it resized after it was labelled? Put the old one back",
                    )
            shapes = _shapes(path, [mark for mark in marks if mark.label not in ignore], size, id_of)
            ground = everywhere(classes, background, size)
            yield convert_shapes(shapes, classes, image_root, file_name, size, overlaps, report, path, ground=ground)

    with reported(left_out) as report:
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


def _read(path: Path) -> tuple[str, list[_Mark], tuple[float | None, float | None]]:
    """Return the name of the image, its shapes, and its height and width where they are given."""
    content = read_json(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise InputError("'shapes' is missing", where=path, hint="is it a file of Labelme? Move it elsewhere if not")
    if not isinstance(content.get("imagePath"), str):
        raise InputError("'imagePath' is missing", where=path, hint="add the image's name")
    if len(content["shapes"]) > MOST_SHAPES:
        raise InputError(f"holds more than {MOST_SHAPES:,} shapes", where=path, hint="leave some out, or cut it up")
    marks = []
    for position, entry in enumerate(content["shapes"]):
        where = f"{path}: shapes[{position}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str) or not entry["label"]:
            raise InputError("'label' is missing", where=where, hint="add it")
        group = entry.get("group_id")
        if not isinstance(group, (int, str, type(None))):
            raise InputError(f"must be a number or null, not {abbreviate(group)}", where=f"{where}.group_id")
        kind, points = entry.get("shape_type") or "polygon", entry.get("points")
        if not isinstance(points, list):
            raise InputError("'points' is missing", where=where, hint="add it")
        marks.append(_Mark(where, entry["label"], group, str(kind), points, entry.get("mask")))
    return content["imagePath"], marks, (_side(content, "imageHeight", path), _side(content, "imageWidth", path))


def _side(content: Mapping[str, Any], key: str, path: Path) -> float | None:
    """Return the height or width of the image, in pixels; None where it is not given."""
    value = content.get(key)
    if value is None:
        return None
    side = as_number(value)
    if side is None:
        raise InputError(f"must be a number of pixels, not {abbreviate(value)}", where=f"{path}: {key}")
    return side


def _image_name(path: Path, name: str, root: Path, image_root: Path) -> str:
    """Return the image's path relative to the folder of images; `\\` separates where no file has it in its name."""
    below = image_root / path.parent.relative_to(root)
    names = dict.fromkeys((name, forward(name)))
    for candidate in (
        *(path.parent / each for each in names),
        *(below / PurePosixPath(each).name for each in names),
    ):
        try:
            relative = Path(os.path.relpath(candidate, image_root))
        except ValueError:  # on another drive
            continue
        if ".." not in relative.parts and os.path.isfile(candidate):
            return relative.as_posix()
    raise InputError(
        f"{abbreviate(name)} is not in {image_root}",
        where=f"{path}: imagePath",
        hint="put the image there or give --images",
    )


def _shapes(path: Path, marks: list[_Mark], size: tuple[int, int], id_of: Mapping[str, int]) -> Iterator[Shape]:
    groups: dict[Any, list[_Mark]] = {}
    for position, mark in enumerate(marks):
        if mark.label not in id_of:
            raise InputError(
                f"{abbreviate(mark.label)} is not in --categories",
                where=f"{mark.where}.label",
                hint="add it, or --ignore it",
            )
        key = (mark.label, position) if mark.group is None else (mark.label, None, str(mark.group))
        groups.setdefault(key, []).append(mark)
    for parts in groups.values():
        crop, why = joined(_crop(mark, size) for mark in parts)
        yield Shape(parts[0].where.removeprefix(f"{path}: "), id_of[parts[0].label], crop, why=why)


def _crop(mark: _Mark, size: tuple[int, int]) -> tuple[Crop, str]:
    """Return the pixels of a shape and, if there are none, why."""
    points = _points(mark)
    if mark.kind in _FLAT:
        return Crop.empty(), f"without an area ({mark.kind})"
    if mark.kind not in _CORNERS:
        what = f"{abbreviate(mark.kind)} is not known"
        raise InputError(what, where=f"{mark.where}.shape_type", hint="outline it, or --ignore its label")
    allowed = _CORNERS[mark.kind]
    if mark.kind == "mask" and not mark.mask:
        return Crop.empty(), "no outline"
    if 4 in allowed and len(points) == 5 and points[0] == points[-1] and len(set(points)) == 4:  # closed
        points = points[:-1]
    if len(points) < min(allowed, default=3) and mark.kind != "mask":
        return Crop.empty(), "too few corners" if points else "no outline"
    if allowed and len(points) not in allowed:
        what = f"{mark.kind}: has {' or '.join(map(str, allowed))}, not {len(points)}"
        raise InputError(what, where=f"{mark.where}.points", hint="draw it anew")
    if mark.kind == "mask":
        return _drawn(mark, points, size)
    if len(points) == 2:
        (x, y), (ex, ey) = points
        radius = float(np.hypot(ex - x, ey - y))
        outline = ellipse(x, y, radius, radius) if mark.kind == "circle" else [x, y, ex, y, ex, ey, x, ey]
    else:
        outline = [value for point in points for value in point]
    try:
        return outlined([outline], size)
    except ValueError as error:
        raise InputError(str(error), where=f"{mark.where}.points") from error


def _points(mark: _Mark) -> list[tuple[float, float]]:
    points = []
    for point in mark.points:
        pair = [as_number(value) for value in point] if isinstance(point, list) else []
        if len(pair) != 2 or pair[0] is None or pair[1] is None:
            raise InputError("must be pairs of numbers x, y", where=f"{mark.where}.points", hint="draw it anew")
        points.append((pair[0], pair[1]))
    return points


def _drawn(mark: _Mark, points: list[tuple[float, float]], size: tuple[int, int]) -> tuple[Crop, str]:
    """Return a mask drawn by hand or by a model: a PNG in base64, and the first and the last pixel that it covers."""
    try:
        data = base64.b64decode(mark.mask, validate=True)
    except (TypeError, ValueError) as error:
        raise InputError("is not base64", where=f"{mark.where}.mask", hint="draw it anew") from error
    drawn = np.asarray(decode_image(data, f"{mark.where}.mask").convert("L")) > 0
    x, y = (round(value) for value in points[0])
    left, top = max(x, 0), max(y, 0)
    inside = drawn[top - y : max(size[0] - y, 0), left - x : max(size[1] - x, 0)]
    crop = Crop.of(inside, left, top, drawn=_WORK_OF_PIXEL * drawn.size)
    if crop.pixels.size:
        return crop, ""
    return crop, "outside of the image" if drawn.any() else "empty mask"
