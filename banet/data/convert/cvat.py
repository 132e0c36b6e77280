"""CVAT: the XML of "CVAT for images 1.1", with polygons, boxes, ellipses and masks, turned or not."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

from banet.data.convert.output import ConvertedImage, name_in, same_size, write_panoptic
from banet.data.convert.shapes import (
    Shape,
    add_names,
    choose_categories,
    convert_shapes,
    ellipse,
    everywhere,
    joined,
    outlined,
    turned,
    with_background,
)
from banet.data.left_out import LeftOut, reported
from banet.errors import InputError, abbreviate
from banet.files.fields import as_number, as_numbers
from banet.files.names import safe_join
from banet.files.reading import open_file
from banet.files.worker import isolated, isolated_items
from banet.panoptic.coco.runs import MOST_SHAPES, Crop, fill_runs
from banet.panoptic.defaults import BEST_RULE
from banet.types import Progress, StrPath

__all__ = ["convert_cvat"]

_FLAT = ("polyline", "points", "skeleton")  # without an area
_SHAPES = ("polygon", "box", "ellipse", "mask", "cuboid", *_FLAT)
_DEEPEST = 100  # elements that are open at the same time
_MOST_ATTRIBUTES = 10_000  # of one tag; CVAT writes some ten
_MOST_CORNERS = 1 << 20  # of an outline
_LONGEST_LIST = 1 << 24  # characters of run lengths
_ENTITY = re.compile(rb"<!(?:DOCTYPE|ENTITY)")


def convert_cvat(
    annotations: StrPath,
    images: StrPath,
    out: StrPath,
    *,
    stuff: Collection[str] = (),
    categories: StrPath | None = None,
    ignore: Collection[str] = (),
    overlaps: str = BEST_RULE,
    background: str = "",
    left_out: LeftOut | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert an annotations.xml. Shapes of one label and one group are parts of one object.

    Args:
        annotations: the XML.
        images: the folder of images.
        out: see `write_panoptic`.
        stuff: labels that are stuff.
        categories: JSON of the classes, whose names are the labels; by default they are numbered by name. Give the
            second split of a data set the classes of the first.
        ignore: labels that are left out.
        overlaps: `FAIL` or an occlusion rule, for objects that overlap in one layer. The higher z_order lies in front;
            within a layer things lie in front of stuff.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a label is unknown, or objects overlap and may not.
    """
    file = Path(annotations)
    if not Path(images).is_dir():
        raise InputError("is not a folder", where=f"--images {images}", hint="give the folder of images")
    total, labels = _labels(file)
    classes = with_background(choose_categories(categories, labels, ignore, stuff, file), background)
    id_of = {category.name: category.id for category in classes}

    def truths() -> Iterator[ConvertedImage]:
        for image in _images(file):
            name = image.get("name", "")
            where = f"{file}: image {abbreviate(name)}"
            size = round(_number(image, "height", where)), round(_number(image, "width", where))
            path = safe_join(images, name, where)
            same_size(file, size, path)
            marks = [mark for mark in image if mark.tag in _SHAPES]
            shapes = _shapes(marks, size, where, id_of, ignore)
            ground, file_name = everywhere(classes, background, size), name_in(images, path)
            yield convert_shapes(shapes, classes, images, file_name, size, overlaps, report, file, ground=ground)

    with reported(left_out) as report:
        return write_panoptic(out, truths(), classes, total, progress)


def _shapes(
    marks: Sequence[ElementTree.Element],
    size: tuple[int, int],
    where: str,
    id_of: Mapping[str, int],
    ignore: Collection[str],
) -> Iterator[Shape]:
    """Yield the objects of an image; marks of one label and group are parts of one."""
    groups: dict[tuple[str, ...], list[tuple[ElementTree.Element, str]]] = {}
    for position, mark in enumerate(marks):
        label, group = mark.get("label") or "unlabelled", mark.get("group_id")
        place = f"{mark.tag} {position} ({label})"
        if label in ignore:
            continue
        if label not in id_of:
            raise InputError(
                "the label is not in --categories", where=f"{where}: {place}", hint="add it, or --ignore it"
            )
        key = (label, str(position)) if group in (None, "", "0") else (label, "group", str(group))
        groups.setdefault(key, []).append((mark, place))
    for (label, *_), parts in groups.items():
        crop, why = joined(_crop(mark, size, f"{where}: {place}") for mark, place in parts)
        z = max(round(_number(mark, "z_order", where, 0)) for mark, _ in parts)
        yield Shape(parts[0][1], id_of[label], crop, z=z, why=why)


@isolated
def _labels(file: Path) -> tuple[int, set[str]]:
    """Return how many images there are, and the labels of their shapes."""
    labels: set[str] = set()
    total = 0
    for image in _elements(file):
        total += 1
        add_names(labels, (mark.get("label") or "unlabelled" for mark in image if mark.tag in _SHAPES), file)
    return total, labels


def _check_tags(file: Path) -> None:
    """Refuse a tag of very many attributes, which the parser would hold at once, and entities, which multiply texts.

    A text may have as many `=`, but no tool writes one between two `<`.
    """
    count, end = 0, b""
    with open_file(file) as stream:
        while block := stream.read(1 << 20):
            if _ENTITY.search((end + block).replace(b"\0", b"")):  # in UTF-16, too
                raise InputError("defines entities", where=file, hint="export it anew as 'CVAT for images 1.1'")
            end = block[-20:]
            first, *others = block.split(b"<")
            count += first.count(b"=")
            most = max((count, *(part.count(b"=") for part in others)))
            if most > _MOST_ATTRIBUTES:
                what = f"holds a tag of more than {_MOST_ATTRIBUTES:,} attributes"
                raise InputError(what, where=file, hint="export it anew as 'CVAT for images 1.1'")
            count = others[-1].count(b"=") if others else count


@isolated_items
def _images(file: Path) -> Iterator[ElementTree.Element]:
    """Return the elements `image`, one at a time."""
    return _elements(file)


def _elements(file: Path) -> Iterator[ElementTree.Element]:
    count = since = depth = 0
    try:
        _check_tags(file)
        with open_file(file) as stream:
            root: ElementTree.Element | None = None
            for event, element in _parsed(stream):
                if event == "start":
                    root = element if root is None else root
                    depth, since = depth + 1, since + 1
                    if depth > _DEEPEST:
                        what = f"nests more than {_DEEPEST} elements"
                        raise InputError(what, where=file, hint="export it anew as 'CVAT for images 1.1'")
                    if since > MOST_SHAPES:
                        what = f"holds more than {MOST_SHAPES:,} elements in or before an image"
                        raise InputError(what, where=file, hint="leave some shapes out")
                    continue
                depth -= 1
                if element.tag == "image" and root is not None:
                    count, since = count + 1, 0
                    if not element.get("name"):
                        raise InputError("'name' is missing", where=f"{file}: image {count}", hint="export it anew")
                    yield element
                    root.clear()  # which would keep what has been read
                elif element.tag == "track":
                    raise InputError("holds tracks of a video", where=file, hint="export it as 'CVAT for images 1.1'")
    except InputError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also for an encoding that there is not
        raise InputError(f"is not XML ({error})", where=file, hint="export it anew as 'CVAT for images 1.1'") from error
    if not count:
        raise InputError("holds no image", where=file, hint="export it as 'CVAT for images 1.1'")


def _parsed(stream: BinaryIO) -> Iterator[tuple[str, ElementTree.Element]]:
    """Yield starts and ends of elements as `iterparse`, but with blocks that are large.

    The parser reads a tag from its start with each block that does not end it.
    """
    parser: Any = ElementTree.XMLPullParser(("start", "end"))
    for block in iter(partial(stream.read, 1 << 20), b""):
        parser.feed(block)
        yield from parser.read_events()
    parser.close()
    yield from parser.read_events()


def _number(element: ElementTree.Element, key: str, where: str, default: float = math.nan) -> float:
    text = element.get(key) or None  # empty where a tool has nothing to say
    value = default if text is None else as_number(text)
    if value is None or not math.isfinite(value):
        raise InputError(f"{element.tag}: {key} must be a number, not {abbreviate(text)}", where=where)
    return value


def _list(element: ElementTree.Element, key: str, where: str) -> str:
    text = element.get(key, "")
    if len(text) > _LONGEST_LIST:
        raise InputError(
            f"{key}: is longer than {_LONGEST_LIST:,} characters", where=where, hint="draw it with fewer corners"
        )
    return text


def _crop(mark: ElementTree.Element, size: tuple[int, int], where: str) -> tuple[Crop, str]:
    """Return the pixels of a mark and, if there are none, why."""
    if mark.tag in _FLAT:
        return Crop.empty(), f"without an area ({mark.tag})"
    if mark.tag == "cuboid":
        raise InputError("a cuboid has no outline", where=where, hint="outline it, or --ignore its label")
    rotation = _number(mark, "rotation", where, 0)
    if mark.tag == "mask":
        if rotation:
            raise InputError("a mask cannot be turned", where=f"{where}: rotation", hint="draw it anew")
        return _drawn(mark, size, where)
    outline = _outline(mark, where)
    try:
        return outlined([turned(outline, rotation) if rotation and outline else outline], size)
    except ValueError as error:
        raise InputError(f"points: {error}", where=where) from error


def _outline(mark: ElementTree.Element, where: str) -> list[float]:
    """Return the outline x1, y1, x2, y2, ... of a polygon, box or ellipse, not turned yet."""
    if mark.tag == "polygon":
        text = mark.get("points", "")
        if text.count(";") > _MOST_CORNERS:
            what = f"points: holds more than {_MOST_CORNERS:,} corners"
            raise InputError(what, where=where, hint="draw it with fewer corners")
        points = [point for point in text.split(";") if point.strip()]
        outline = as_numbers(",".join(points).split(",")) if points else []
        if outline is None or any(point.count(",") != 1 for point in points):
            raise InputError("points: must be pairs x,y with ; between", where=where)
        return outline
    keys = ("xtl", "ytl", "xbr", "ybr") if mark.tag == "box" else ("cx", "cy", "rx", "ry")
    a, b, c, d = (_number(mark, key, where) for key in keys)
    return [a, b, c, b, c, d, a, d] if mark.tag == "box" else ellipse(a, b, c, d)


def _drawn(mark: ElementTree.Element, size: tuple[int, int], where: str) -> tuple[Crop, str]:
    """Return the pixels of a mask: run lengths along the rows of a window, beginning with what is not the object's."""
    left, top, width, height = (round(_number(mark, key, where)) for key in ("left", "top", "width", "height"))
    try:
        runs = np.array([int(text) for text in _list(mark, "rle", where).split(",")], np.int64)
    except (ValueError, OverflowError):
        raise InputError("rle: must be whole numbers with , between", where=where) from None
    inside = 0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]
    if runs.min() < 0 or sum(runs.tolist()) != width * height or not inside:
        what = f"rle: does not fill {width} x {height} pixels within the image"
        raise InputError(what, where=where, hint="draw it anew")
    crop = Crop.of(fill_runs(np.cumsum(runs)[:-1], width * height).reshape(height, width), left, top)
    return crop, "" if crop.pixels.size else "empty mask"
