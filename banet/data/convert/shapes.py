"""Masks and polygons that may overlap, made into one id map."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import ConvertedImage
from banet.data.images import to_rgb_array
from banet.data.left_out import COVERED, LeftOut
from banet.errors import InputError, abbreviate, abbreviate_list
from banet.files.reading import MOST_CATEGORIES
from banet.panoptic.categories import MAX_CATEGORY_ID, Categories, Category
from banet.panoptic.coco.annotations import read_categories
from banet.panoptic.coco.rle import decode_crop, why_empty
from banet.panoptic.coco.runs import Crop, Drawing, union
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD
from banet.panoptic.id_maps import find_ids
from banet.panoptic.occlusion.regions import Regions
from banet.panoptic.occlusion.resolve import OcclusionHandler
from banet.panoptic.segments import Segment
from banet.panoptic.validation import MaskCrops, check_instances
from banet.types import ImageId, StrPath

__all__ = [
    "FAIL",
    "ReportLeftOut",
    "ReportOverlap",
    "Shape",
    "add_names",
    "categories_of_names",
    "choose_categories",
    "convert_shapes",
    "ellipse",
    "everywhere",
    "joined",
    "layer_shapes",
    "outlined",
    "turned",
    "with_background",
]

FAIL = "fail"
"""What to do about overlaps, beside the names of occlusion rules: refuse them."""

ReportLeftOut = Callable[[str, str], None]
"""Called with why an object has no pixel, and its place in its file."""

ReportOverlap = Callable[[str, str, int], None]
"""Called with the places of two objects that share pixels, the one in front first, and how many they share."""


@dataclass(frozen=True)
class Shape:
    """One outlined object or stretch of stuff.

    Attributes:
        where: its place in its file, for errors.
        category_id: its class.
        crop: its pixels.
        iscrowd: whether it holds many objects that nobody separated.
        z: shapes of higher z lie in front.
        why: why it has no pixel, where it has none.
    """

    where: str
    category_id: int
    crop: Crop
    iscrowd: bool = False
    z: int = 0
    why: str = ""


def outlined(segmentation: Any, size: tuple[int, int]) -> tuple[Crop, str]:
    """Return the pixels of a COCO `segmentation` in an image of `size` (H, W) and, if there are none, why.

    Raises:
        ValueError: see `decode_segmentation`.
    """
    crop = decode_crop(segmentation, size)
    return crop, "" if crop.pixels.size else why_empty(segmentation, size)


def joined(parts: Iterable[tuple[Crop, str]]) -> tuple[Crop, str]:
    """Return the pixels of an object in several parts and, if there are none, why its first part has none."""
    reasons: list[str] = []

    def crops() -> Iterator[Crop]:
        for part, why in parts:
            reasons.append(why)
            yield part

    crop = union(crops())
    return crop, "" if crop.pixels.size else reasons[0]


def convert_shapes(
    shapes: Iterable[Shape],
    categories: Categories,
    images: StrPath,
    name: str,
    size: tuple[int, int],
    overlaps: str,
    report: LeftOut,
    source: StrPath,
    *,
    ground: tuple[NDArray[np.int32], Mapping[int, Segment]] | None = None,
    image_id: ImageId | None = None,
) -> ConvertedImage:
    """Return an image whose ground truth is shapes that may overlap.

    Args:
        shapes: what was outlined.
        categories: the classes.
        images: the folder of images.
        name: of the image, relative to it.
        size: (H, W) of the image.
        overlaps: see `layer_shapes`.
        report: counts the shapes, those without a pixel and those that overlap.
        source: the file of the shapes, for errors.
        ground: see `layer_shapes`.
        image_id: see `ConvertedImage`.

    Raises:
        InputError: see `layer_shapes`; or there are too many shapes, or too large ones.
    """
    shapes = _bounded(shapes, Path(images) / name)
    report.objects += len(shapes)
    tell, tell_overlap = partial(report.add, image=name, source=source), partial(report.add_overlap, image=name)
    layers = layer_shapes(shapes, categories, Path(images) / name, size, overlaps, tell, ground, tell_overlap)
    return ConvertedImage(name, *layers, image_id)


def _bounded(shapes: Iterable[Shape], image_path: Path) -> list[Shape]:
    """Return shapes as long as they fit into the memory together."""
    kept, drawing = [], Drawing()
    for shape in shapes:
        try:
            drawing.add(shape.crop)
        except ValueError as error:
            raise InputError(str(error), where=image_path, hint="leave some out, or cut the image up") from None
        kept.append(shape)
    return kept


def layer_shapes(
    shapes: Sequence[Shape],
    categories: Categories,
    image_path: Path,
    size: tuple[int, int],
    overlaps: str,
    report: ReportLeftOut,
    ground: tuple[NDArray[np.int32], Mapping[int, Segment]] | None = None,
    report_overlap: ReportOverlap | None = None,
) -> tuple[NDArray[np.int32], dict[int, Segment]]:
    """Return the id map of shapes that may overlap, and what its ids are.

    From back to front: the ground; then, for each z in ascending order, stuff, crowds (the first of several in front),
    things. What overlaps within one of these layers goes by `overlaps`. Stuff is one segment per class.

    Args:
        shapes: what was outlined.
        categories: the classes.
        image_path: the file, for errors and for rules that look at it.
        size: (H, W) of the image.
        overlaps: `FAIL`, or the occlusion rule that decides every overlap of two objects, however small; nothing is
            removed for having lost too much.
        report: called with the kind and the place of each shape without a pixel, or that others cover wholly.
        ground: id map (H, W) and its segments by id, behind everything.
        report_overlap: called for each two shapes of one layer that overlap, but for stuff of one class.

    Raises:
        InputError: two objects overlap and `overlaps` is `FAIL`; names both. Or what `report` raises.
    """
    for shape in shapes:
        if shape.why:
            report(shape.why, shape.where)
    shapes = sorted((shape for shape in shapes if not shape.why), key=lambda shape: shape.z)
    front: NDArray[np.int32] | None = None  # place in `order` of the frontmost shape + 1
    order: list[Shape] = []
    for _, level in groupby(shapes, key=lambda shape: shape.z):
        layers: dict[int, list[Shape]] = {0: [], 1: [], 2: []}  # stuff, crowds, things
        for shape in level:
            layers[1 if shape.iscrowd else 2 * categories.isthing(shape.category_id)].append(shape)
        for number, layer in layers.items():
            if layer:
                rule = "score" if number == 1 else overlaps
                owner = _owners(layer, image_path, size, rule, number == 0, report_overlap)
                placed = owner + np.int32(1 + len(order))
                front = placed if front is None else np.where(owner >= 0, placed, front)
                order += layer
    ids, segments = (np.zeros(size, np.int32), {}) if ground is None else (ground[0], dict(ground[1]))
    if front is None:
        return ids, segments
    stuff_ids = {one.category_id: one.id for one in segments.values() if not one.isthing}
    table = np.zeros(len(order) + 1, np.int32)
    seen = {*find_ids(front).tolist()}
    for row, shape in enumerate(order, start=1):
        if row in seen:
            identity, isthing = len(segments) + 1, categories.isthing(shape.category_id)
            if not isthing:
                identity = stuff_ids.setdefault(shape.category_id, identity)
            table[row] = identity
            segments[identity] = Segment(identity, shape.category_id, isthing, iscrowd=shape.iscrowd)
    for row, shape in enumerate(order, start=1):
        if row not in seen and shape.category_id not in stuff_ids:  # hidden stuff is part of what its class shows
            report(COVERED, shape.where)
    return table[front] if ground is None else np.where(front > 0, table[front], ids), segments


def _owners(
    shapes: Sequence[Shape],
    image_path: Path,
    size: tuple[int, int],
    overlaps: str,
    one_class_may: bool,
    report: ReportOverlap | None,
) -> NDArray[np.int32]:
    """Return which shape each pixel belongs to, (H, W); -1 where none."""
    if overlaps == FAIL:
        return _owners_alone(shapes, image_path, size, one_class_may)
    crops = [shape.crop for shape in shapes]
    masks = MaskCrops(np.array([crop.box for crop in crops]), [crop.pixels for crop in crops], size)
    try:
        regions = Regions.of(masks)
        table = regions.pairs(len(masks))
    except InputError as error:
        raise InputError(error.problem, where=image_path, hint=error.hint) from None
    pairs = [
        (i, j, pixels)
        for i, j, pixels in zip(*(column.tolist() for column in table), strict=True)
        if not one_class_may or shapes[i].category_id != shapes[j].category_id
    ]
    if not pairs:
        return regions.paint(regions.first_claimant(np.arange(len(masks))))
    handler = OcclusionHandler.of(overlaps, True, overlap_threshold=BEST_OVERLAP_THRESHOLD, removal_threshold=1.0)
    image = to_rgb_array(image_path) if handler.needs_image else None
    owners = handler.owners(*check_instances(masks, np.ones(len(shapes)), image))
    if report is None:
        return owners
    for i, j, pixels in pairs:
        front, behind = (i, j) if _wins(owners, crops[i], i, crops[j], j) else (j, i)
        report(shapes[front].where, shapes[behind].where, pixels)
    return owners


def _wins(owners: NDArray[np.int32], one: Crop, i: int, other: Crop, j: int) -> bool:
    """Return whether of two masks the first owns at least as much of what they share as the second."""
    x1, y1 = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    x2, y2 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    both = [
        crop.pixels[y1 - crop.box[1] : y2 - crop.box[1], x1 - crop.box[0] : x2 - crop.box[0]] for crop in (one, other)
    ]
    shared = owners[y1:y2, x1:x2][both[0] & both[1]]
    return bool((shared == i).sum() >= (shared == j).sum())


def _owners_alone(
    shapes: Sequence[Shape], image_path: Path, size: tuple[int, int], one_class_may: bool
) -> NDArray[np.int32]:
    """Return which shape each pixel belongs to, (H, W), -1 where none, of shapes that may not overlap."""
    owner = np.full(size, -1, np.int32)
    for row, shape in enumerate(shapes):
        window = owner[shape.crop.window]
        covered = np.unique(window[shape.crop.pixels & (window >= 0)]).tolist()
        others = [shapes[k] for k in covered if not one_class_may or shapes[k].category_id != shape.category_id]
        if others:
            raise InputError(
                f"{others[0].where} and {shape.where} overlap",
                where=image_path,
                hint="correct one of them, or choose who is in front with --overlaps, such as --overlaps area (the"
                " smaller)",
            )
        window[shape.crop.pixels] = row
    return owner


def everywhere(
    categories: Categories, background: str, size: tuple[int, int]
) -> tuple[NDArray[np.int32], Mapping[int, Segment]] | None:
    """Return a ground (see `layer_shapes`) that is the stuff `background` in all of `size` (H, W); none where it is
    empty."""
    if not background:
        return None
    category_id = next(category.id for category in categories if category.name == background)
    return np.ones(size, np.int32), {1: Segment(1, category_id, isthing=False)}


def with_background(categories: Categories, background: str) -> Categories:
    """Return the classes with the stuff `background`, unless it is empty or there already.

    Raises:
        InputError: a thing has this name.
    """
    same = [category for category in categories if category.name == background]
    if any(category.isthing for category in same):
        raise InputError(
            "is a thing", where=f"--background {background}", hint="choose another name, or declare it stuff"
        )
    if same or not background:
        return categories
    following = max(category.id for category in categories) + 1
    free = following if following <= MAX_CATEGORY_ID else next(i for i in count(1) if i not in categories)
    return Categories([*categories, Category(free, background, False)])


def choose_categories(
    categories: StrPath | None,
    names: Iterable[str],
    ignore: Collection[str],
    stuff: Collection[str],
    source: StrPath,
) -> Categories:
    """Return the classes of a file, or where none is given, those of the names that occur in `source`; see
    `categories_of_names`.

    Raises:
        InputError: the file is bad, or see `categories_of_names`.
    """
    if categories is not None:
        return read_categories(categories)
    return categories_of_names((name for name in names if name not in ignore), stuff, source)


def categories_of_names(names: Iterable[str], stuff: Collection[str], source: StrPath) -> Categories:
    """Classes numbered from 1 in the order of their names; those in `stuff` are stuff, all others things.

    Raises:
        InputError: one of `stuff` does not occur, there is no name, or there are too many; the latter names `source`.
    """
    found: set[str] = set()
    add_names(found, names, source)
    known = sorted(found)
    strange = sorted(set(stuff) - set(known))
    if strange:
        raise InputError(
            "no shape has this label", where=f"--stuff {strange[0]}", hint=f"there are {abbreviate_list(known)}"
        )
    if not known:
        raise InputError("no shape has a label", where=source, hint="check what was given")
    return Categories.from_coco(
        [{"id": number, "name": name, "isthing": name not in stuff} for number, name in enumerate(known, start=1)],
        "the labels of the shapes",
    )


def add_names(found: set[str], names: Iterable[str], source: StrPath) -> None:
    """Add names of classes that occur in `source` to those found before.

    Raises:
        InputError: there are more than any network tells apart.
    """
    for name in names:
        found.add(name)
        if len(found) > MOST_CATEGORIES:
            what = f"shapes have more than {MOST_CATEGORIES:,} different labels, such as {abbreviate(name)}"
            raise InputError(what, where=source, hint="are they names of objects? Label them by class")


def ellipse(x: float, y: float, rx: float, ry: float) -> list[float]:
    """Return the outline x1, y1, x2, y2, ... of an ellipse in 72 corners."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    corners = np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)
    return [float(value) for value in corners.ravel()]


def turned(outline: Sequence[float], degrees: float) -> list[float]:
    """Return an outline x1, y1, x2, y2, ... turned about the centre of its box, clockwise as y points down."""
    corners, turn = np.array(outline, dtype=np.float64).reshape(-1, 2), np.deg2rad(degrees)
    center = (corners.min(axis=0) + corners.max(axis=0)) / 2
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return [float(value) for value in ((corners - center) @ rotation + center).ravel()]
