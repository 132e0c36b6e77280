"""Label Studio: the JSON of an export (JSON or JSON_MIN), with brushes, bitmasks, polygons, rectangles and ellipses.

Coordinates are percents of the image's size. A brush is run lengths of the bits of an RGBA image, after
https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack: 32 bits number of values, 5 bits word size - 1, four
times 4 bits size - 1 of a run's length; then runs: 1 bit whether all values are one, 2 bits which size, the length - 1,
and the value or the values.
"""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from banet.data.convert.output import ConvertedImage, find_image_files, write_panoptic
from banet.data.convert.shapes import (
    Shape,
    add_names,
    choose_categories,
    convert_shapes,
    ellipse,
    everywhere,
    outlined,
    with_background,
)
from banet.data.images import SUFFIXES, image_size
from banet.data.left_out import LeftOut, reported
from banet.errors import InputError, InputWarning, abbreviate
from banet.files.fields import as_number, is_number, read_object
from banet.files.reading import MAX_PIXELS, stream_json
from banet.files.worker import isolated
from banet.panoptic.coco.runs import MOST_SHAPES, Crop
from banet.panoptic.defaults import BEST_RULE
from banet.types import Progress, StrPath

__all__ = ["convert_label_studio", "decode_brush"]

_WORK_OF_RUN = 512  # of a brush, as many times what it takes to draw a pixel; likewise
_WORK_OF_BITMASK = 4  # for each of its pixels
_FLAT = ("keypointlabels", "keypoint")  # without an area
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # put before the names of files that were uploaded


def convert_label_studio(
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
    """Convert an export. Each region is one object; tasks that nobody annotated are left out.

    Of several annotations of a task the one marked as ground truth counts, else the one that was changed last.

    Args:
        annotations: the JSON.
        images: the folder of images, by the names that they have in the tasks, with or without the eight digits that
            Label Studio puts before names of uploaded files.
        out: see `write_panoptic`.
        stuff: labels that are stuff.
        categories: JSON of the classes, whose names are the labels; by default they are numbered by name. Give the
            second split of a data set the classes of the first.
        ignore: labels that are left out.
        overlaps: `FAIL` or an occlusion rule. Things lie in front of stuff.
        background: name of the stuff that pixels of no object are; void where it is empty.
        left_out: counts objects and names those without a pixel, or refuses them; by default they are a warning.
        progress: see `write_panoptic`.

    Returns:
        The path of panoptic.json.

    Raises:
        InputError: a file is missing or bad, a label is unknown, or objects overlap and may not.
    """
    file = Path(annotations)
    finder = _Images(Path(images))
    labels: set[str] = set()
    total = skipped = several = 0
    for task in _tasks(file):
        total, skipped, several = total + 1, skipped + (task.count == 0), several + (task.count > 1)
        add_names(labels, (region.label for region in task.regions if region.label), file)
    classes = with_background(choose_categories(categories, labels, ignore, stuff, file), background)
    if skipped or several:
        told = [f"{skipped:,} of {total:,} tasks without an annotation are left out"] if skipped else []
        told += [f"of {several:,} tasks with several annotations one counts"] if several else []
        warnings.warn(InputWarning(f"{file}: {'; '.join(told)}"), stacklevel=2)
    id_of = {category.name: category.id for category in classes}

    def truths() -> Iterator[ConvertedImage]:
        for task in (task for task in _tasks(file) if task.count):
            name = finder.find(_image_of(task.data, f"{task.where}.data"), task.where)
            size = image_size(Path(images) / name)
            shapes = (_shape(region, size, id_of) for region in task.regions if region.label not in ignore)
            ground = everywhere(classes, background, size)
            yield convert_shapes(shapes, classes, images, name, size, overlaps, report, file, ground=ground)

    with reported(left_out) as report:
        return write_panoptic(out, truths(), classes, total - skipped, progress)


@dataclass(frozen=True)
class _Region:
    """One region of an image.

    Attributes:
        where: file and place, for errors.
        place: the place alone.
        label: its class; "" where it has none.
        kind: what it says it is, such as polygonlabels.
        value: its outline.
        size: height and width that its image had, None each where it does not say.
    """

    where: str
    place: str
    label: str
    kind: str
    value: Mapping[str, Any]
    size: tuple[float | None, float | None]


@dataclass(frozen=True)
class _Task:
    """An image.

    Attributes:
        where: file and place, for errors.
        data: the fields that may name it.
        regions: what was outlined.
        count: how many annotations there are that were not cancelled.
    """

    where: str
    data: Mapping[str, Any]
    regions: list[_Region]
    count: int


def _tasks(file: Path) -> Iterator[_Task]:
    """Yield the tasks of an export."""
    count = 0
    for _, position, entry in stream_json(file, [], bare=True):
        if position is None:
            break
        count += 1
        where = f"{file}: [{position}]"
        task = read_object(entry, where)
        place = f"task {abbreviate(task['id'])}" if "id" in task else f"[{position}]"
        if isinstance(task.get("data"), dict):
            annotations = task.get("annotations", task.get("completions"))
            if not isinstance(annotations, list):
                raise InputError("'annotations' is missing", where=where, hint="export as JSON")
            live = [one for one in annotations if not read_object(one, where).get("was_cancelled")]
            regions = _regions(_best(live), place, where) if live else []
            yield _Task(where, task["data"], regions, len(live))
        else:  # JSON_MIN
            lists = [value for key, value in task.items() if isinstance(value, list)]
            values = [value for each in lists for value in each if isinstance(value, dict) and _geometry(value)]
            _bounded(len(values), where)
            yield _Task(where, task, [_region(value, value, place, where, n) for n, value in enumerate(values)], 1)
    if not count:
        raise InputError("holds no task", where=file, hint="export it from Label Studio as JSON")


def _best(annotations: list[Any]) -> Mapping[str, Any]:
    chosen: Mapping[str, Any] = max(
        annotations, key=lambda one: (one.get("ground_truth") is True, str(one.get("updated_at") or ""))
    )
    return chosen


def _regions(annotation: Mapping[str, Any], place: str, where: str) -> list[_Region]:
    """Return the regions of an annotation. Label and outline may be two results of one id."""
    results = annotation.get("result")
    if not isinstance(results, list):
        raise InputError("'result' must be a list", where=f"{where}.annotations")
    _bounded(len(results) // 2, where)  # label and outline may be two
    labels: dict[Any, str] = {}
    drawn: dict[Any, tuple[int, Mapping[str, Any]]] = {}
    for number, result in enumerate(results):
        value = read_object(result, f"{where}: result[{number}]").get("value")
        if not isinstance(value, dict):
            continue  # a relation
        identity = result["id"] if isinstance(result.get("id"), str) else number
        if label := _label(value, str(result.get("type"))):
            labels.setdefault(identity, label)
        if _geometry(value) and (identity not in drawn or drawn[identity][1].get("type") == "labels"):
            drawn[identity] = number, result
    return [
        _region(result, result["value"], place, where, number, labels.get(identity, ""))
        for identity, (number, result) in drawn.items()
    ]


def _bounded(count: int, where: str) -> None:
    """Refuse more regions than an image may have, before there is a record of each."""
    if count > MOST_SHAPES:
        raise InputError(f"has more than {MOST_SHAPES:,} regions", where=where, hint="leave some out")


def _region(
    result: Mapping[str, Any], value: Mapping[str, Any], place: str, where: str, number: int, label: str = ""
) -> _Region:
    here = f"{where}: region {abbreviate(result.get('id', number))}"
    kind = str(result.get("type") or next((key for key in value if key.endswith("labels")), ""))
    rotation = result.get("image_rotation") or 0
    if rotation:
        raise InputError(
            f"image_rotation is {abbreviate(rotation)}", where=here, hint="turn the image back and label it anew"
        )
    size = as_number(result.get("original_height")), as_number(result.get("original_width"))
    name = f"region {abbreviate(result.get('id', number))} of {place}"
    return _Region(here, name, label or _label(value, kind), kind, value, size)


def _label(value: Mapping[str, Any], kind: str) -> str:
    """Return the first label of a region; "" where it has none."""
    for key in (kind, *(key for key in value if key.endswith("labels"))):
        names = value.get(key)
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    return ""


def _geometry(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("points", "rle", "imageDataURL", "x", "vertices"))


def _image_of(data: Mapping[str, Any], where: str) -> str:
    """Return the name of a task's image: the last part of a path or address, decoded."""
    for value in data.values():
        if isinstance(value, str):
            try:
                parts = urlsplit(value)
            except ValueError:  # a text that only begins as an address does
                continue
            local = parse_qs(parts.query).get("d", [""])[0]
            path = local or unquote(parts.path)
            if PurePosixPath(path).suffix.lower() in SUFFIXES:  # other texts have dots, too
                return path
    raise InputError("has no field with the name of an image", where=where, hint="export it anew")


class _Images:
    """The images of a folder, found by the names that tasks give them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[str]] = {}
        for name in find_image_files(root).values():
            self._by_name.setdefault(PurePosixPath(name).name, []).append(name)

    def find(self, path: str, where: str) -> str:
        """Return the name of an image relative to the folder.

        Raises:
            InputError: there is none, or several.
        """
        name = PurePosixPath(path.replace("\\", "/")).name
        for candidate in (name, _UPLOADED.sub("", name, count=1)):
            found = self._by_name.get(candidate, [])
            exact = [each for each in found if path.endswith(each)] or found
            if len(exact) == 1:
                return exact[0]
            if exact:
                what = f"{abbreviate(path)} may be {exact[0]} or {exact[1]}"
                raise InputError(what, where=where, hint="rename one of the images")
        raise InputError(f"image {abbreviate(name)} is not in {self._root}", where=where, hint="put it there")


def _shape(region: _Region, size: tuple[int, int], id_of: Mapping[str, int]) -> Shape:
    if not region.label:
        return Shape(region.place, 0, Crop.empty(), why="without a label")
    if region.label not in id_of:
        raise InputError(
            f"{abbreviate(region.label)} is not in --categories", where=region.where, hint="add it, or --ignore it"
        )
    for side, told, real in zip(("height", "width"), region.size, size, strict=True):
        if told is not None and told != real:
            raise InputError(
                f"original_{side} is {told:g}, but the image is {size[1]}x{size[0]}",
                where=region.where,
                hint="put the image there that was labelled",
            )
    crop, why = _crop(region, size)
    return Shape(region.place, id_of[region.label], crop, why=why)


def _crop(region: _Region, size: tuple[int, int]) -> tuple[Crop, str]:
    """Return the pixels of a region and, if there are none, why."""
    value = region.value
    if "rle" in value or "imageDataURL" in value:
        crop = _brush(region, size) if "rle" in value else _bitmask(region, size)
        return crop, "" if crop.pixels.size else "empty mask"
    if region.kind in _FLAT:
        return Crop.empty(), f"without an area ({region.kind})"
    if "points" in value:
        outline = [number for point in _points(region) for number in point]
    elif "radiusX" in value:
        x, y, rx, ry = (_percent(region, key) for key in ("x", "y", "radiusX", "radiusY"))
        outline = ellipse(x, y, rx, ry)
    elif "width" in value and "height" in value:
        x, y, width, height = (_percent(region, key) for key in ("x", "y", "width", "height"))
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    else:
        raise InputError(
            f"{abbreviate(region.kind)} is not known", where=region.where, hint="outline it, or --ignore its label"
        )
    corners = np.array(outline).reshape(-1, 2) * (np.array(size[::-1]) / 100)
    rotation = value.get("rotation") or 0
    if not is_number(rotation):
        raise InputError(f"rotation must be a number, not {abbreviate(rotation)}", where=region.where)
    if rotation and "points" not in value:  # clockwise: an ellipse about its centre, a rectangle about its corner
        center = np.array([_percent(region, "x") * size[1], _percent(region, "y") * size[0]]) / 100
        sine, cosine = np.sin(np.deg2rad(rotation)), np.cos(np.deg2rad(rotation))
        corners = (corners - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center
    try:
        return outlined([corners.ravel().tolist()], size)
    except ValueError as error:
        raise InputError(str(error), where=region.where, hint="draw it anew") from error


def _points(region: _Region) -> list[tuple[float, float]]:
    points = region.value["points"]
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in points
    ):
        raise InputError("points must be pairs of numbers x, y", where=region.where)
    return [(x, y) for x, y in points]


def _percent(region: _Region, key: str) -> float:
    number = region.value.get(key)
    if not is_number(number):
        raise InputError(f"{key} must be a number, not {abbreviate(number)}", where=region.where)
    return float(number)


def _brush(region: _Region, size: tuple[int, int]) -> Crop:
    """Return the pixels of a brush that are not wholly transparent; only the rows that it touches are painted."""
    rle = region.value["rle"]
    if not isinstance(rle, list) or not all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        raise InputError("rle must be a list of bytes", where=region.where, hint="draw it anew")
    alpha = np.zeros(size[0] * size[1], dtype=bool)  # the system gives memory to what is written only
    low, high, work = len(alpha), 0, 0
    try:
        count, pieces = _brush_runs(bytes(rle))
        if count != 4 * len(alpha):
            raise ValueError(f"holds {count} values, not 4 x {size[1]} x {size[0]}")
        for start, end, values in pieces:
            work += _WORK_OF_RUN
            first, last = start // 4, (end - 4) // 4 + 1  # pixels whose fourth value is among them
            if last > first and values.any():
                drawn = values if len(values) == 1 else values[3 - start % 4 :: 4]
                alpha[first:last] = drawn > 0
                low, high = min(low, first), max(high, last)
    except ValueError as error:
        raise InputError(f"rle {error}", where=region.where, hint="draw it anew") from error
    top, bottom = low // size[1], -(-high // size[1])
    if top >= bottom:
        return Crop.empty(work)
    rows = alpha[top * size[1] : bottom * size[1]].reshape(-1, size[1])
    return Crop.of(rows, top=top, drawn=work + rows.size)


def decode_brush(data: bytes) -> NDArray[np.uint8]:
    """Return the values of run lengths, flat: of a brush red, green, blue and alpha of each pixel.

    Args:
        data: the bytes, see the module.

    Raises:
        ValueError: they are damaged.
    """
    count, pieces = _brush_runs(data)
    values = np.zeros(count, np.uint8)
    for start, end, found in pieces:
        values[start:end] = found
    return values


def _brush_runs(data: bytes) -> tuple[int, Iterator[tuple[int, int, NDArray[np.uint8]]]]:
    """Return the number of values, and the runs: where each begins and ends, and its values, or the one of all.

    Raises:
        ValueError: the bytes are damaged; also while the runs are read.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(bits) < 53:
        raise ValueError("is cut off")
    at = 0

    def read(count: int) -> int:
        nonlocal at
        if at + count > len(bits):
            raise ValueError("is cut off")
        first, last = at >> 3, at + count + 7 >> 3
        number = int.from_bytes(data[first:last], "big") >> (8 * last - at - count)
        at += count
        return number & (1 << count) - 1

    count, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if count > 4 * MAX_PIXELS or word > 8:
        raise ValueError(f"says {count} values of {word} bits")
    weights = (1 << np.arange(word)[::-1]).astype(np.uint8)

    def pieces() -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        nonlocal at
        done = 0
        while done < count:
            one = read(1)
            end = done + 1 + read(sizes[read(2)])
            if end > count:
                raise ValueError("holds more values than it says")
            stop = at + word * (1 if one else end - done)
            if stop > len(bits):
                raise ValueError("is cut off")
            yield done, end, bits[at:stop].reshape(-1, word) @ weights
            at, done = stop, end

    return count, pieces()


def _bitmask(region: _Region, size: tuple[int, int]) -> Crop:
    """Return a mask that is a PNG: what is not transparent or, where there is no transparency, not black."""
    text = region.value["imageDataURL"]
    try:
        if not isinstance(text, str):
            raise ValueError("is not a text")
        data = base64.b64decode(text.partition("base64,")[2], validate=True)
        mask = _png_mask(region.where, data, size)
    except Exception as error:  # a decoder may raise anything on bad data
        raise InputError(f"imageDataURL: {error}", where=region.where, hint="draw it anew") from error
    return Crop.of(mask, drawn=_WORK_OF_BITMASK * mask.size)


@isolated
def _png_mask(where: str, data: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels that a PNG of `size` (H, W) marks."""
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.size != size[::-1]:
            raise ValueError(f"is {image.width}x{image.height}, but the image is {size[1]}x{size[0]}")
        red, green, blue, alpha = image.convert("RGBA").split()
    drawn = np.asarray(alpha) > 0
    if not drawn.all():
        return drawn
    return np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue)) > 0
