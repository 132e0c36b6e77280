"""Masks and polygons that may overlap, made into one id map."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banet.data.convert.output import Region
from banet.data.images import to_rgb_array
from banet.errors import InputError
from banet.panoptic.categories import Categories
from banet.panoptic.occlusion.resolve import resolve_occlusions
from banet.panoptic.occlusion.rules import find_rule, looks_at_image
from banet.panoptic.validation import MaskCrops

__all__ = ["FAIL", "Shape", "categories_of_names", "ellipse", "layer_shapes"]

FAIL = "fail"
"""What to do about overlaps, beside the names of occlusion rules: refuse them."""


@dataclass(frozen=True)
class Shape:
    """One outlined object or stretch of stuff.

    Attributes:
        where: its place in its file, for errors.
        category_id: its class.
        box: x1, y1, x2, y2 of `crop` in the picture.
        crop: (y2-y1, x2-x1) bool.
        iscrowd: whether it holds many objects that nobody separated.
        z: shapes of higher z lie in front.
    """

    where: str
    category_id: int
    box: tuple[int, int, int, int]
    crop: NDArray[np.bool_]
    iscrowd: bool = False
    z: int = 0

    @classmethod
    def of(cls, where: str, category_id: int, mask: NDArray[np.bool_], iscrowd: bool = False, z: int = 0) -> Shape:
        """The shape of a mask (H,W); one without a pixel will do."""
        tight = MaskCrops.from_masks(mask[None])
        x1, y1, x2, y2 = tight.boxes[0].tolist()
        return cls(where, category_id, (x1, y1, x2, y2), tight.crops[0].copy(), iscrowd, z)

    @property
    def window(self) -> tuple[slice, slice]:
        """Where its crop lies in the picture."""
        x1, y1, x2, y2 = self.box
        return slice(y1, y2), slice(x1, x2)


def layer_shapes(
    shapes: Sequence[Shape],
    categories: Categories,
    picture: Path,
    size: tuple[int, int],
    overlaps: str,
    ground: tuple[NDArray[np.int32], Mapping[int, Region]] | None = None,
) -> tuple[NDArray[np.int32], dict[int, Region]]:
    """Id map of shapes that may overlap.

    From back to front: the ground; then, for each z in ascending order, stuff, crowds (the first of several in front),
    things. What overlaps within one of these layers goes by `overlaps`. Stuff is one segment a class.

    Args:
        shapes: what was outlined.
        categories: the classes.
        picture: the file, for errors and for rules that look at it.
        size: (H,W) of the picture.
        overlaps: `FAIL`, or the occlusion rule that decides every overlap of two objects, however small; nothing is
            removed for having lost too much.
        ground: id map (H,W) and its regions, behind everything.

    Raises:
        InputError: two objects overlap and `overlaps` is `FAIL`; names both.
    """
    ids = np.zeros(size, np.int32) if ground is None else ground[0].copy()
    regions: dict[int, Region] = {} if ground is None else dict(ground[1])
    stuff_ids: dict[int, int] = {region.category_id: i for i, region in regions.items() if not region.iscrowd}
    for _, level in groupby(sorted(shapes, key=lambda shape: shape.z), key=lambda shape: shape.z):
        layers: dict[int, list[Shape]] = {0: [], 1: [], 2: []}  # stuff, crowds, things
        for shape in level:
            layers[1 if shape.iscrowd else 2 * categories.isthing(shape.category_id)].append(shape)
        for number, layer in layers.items():
            owner = _owners(layer, picture, size, "score" if number == 1 else overlaps, number == 0)
            table = np.zeros(len(layer) + 1, np.int32)
            for row, shape in enumerate(layer):
                identity = len(regions) + 1
                if number == 0:
                    identity = stuff_ids.setdefault(shape.category_id, identity)
                table[row] = identity
                regions[identity] = Region(shape.category_id, shape.iscrowd)
            ids = np.where(owner >= 0, table[owner], ids)
    return ids, regions


def _owners(
    shapes: Sequence[Shape], picture: Path, size: tuple[int, int], overlaps: str, one_class_may: bool
) -> NDArray[np.int32]:
    """(H,W): which shape each pixel is of, -1 where none."""
    if not shapes:
        return np.full(size, -1, np.int32)
    if overlaps == FAIL:
        owner = np.full(size, -1, np.int32)
        for row, shape in enumerate(shapes):
            window = owner[shape.window]
            covered = np.unique(window[shape.crop & (window >= 0)]).tolist()
            others = [shapes[k] for k in covered]
            if one_class_may:
                others = [other for other in others if other.category_id != shape.category_id]
            if others:
                raise InputError(
                    f"{picture}: {others[0].where} and {shape.where} overlap; mend one of them, or choose who is in"
                    " front with --overlaps, such as --overlaps area (the smaller)"
                )
            window[shape.crop] = row
        return owner
    image = to_rgb_array(picture) if looks_at_image(find_rule(overlaps)) else None
    masks = MaskCrops(np.array([shape.box for shape in shapes]), [shape.crop for shape in shapes], size)
    owners: NDArray[np.int32] = resolve_occlusions(
        masks, np.ones(len(shapes)), image, rule=overlaps, overlap_threshold=0.0, removal_threshold=1.0
    )
    return owners


def categories_of_names(names: Iterable[str], stuff: Collection[str]) -> Categories:
    """Classes numbered from 1 in the order of their names; those in `stuff` are stuff, all others things.

    Raises:
        InputError: one of `stuff` does not occur, or there is no name.
    """
    known = sorted(set(names))
    strange = sorted(set(stuff) - set(known))
    if strange:
        raise InputError(f"--stuff {strange[0]}: no shape has this label; there are {', '.join(known)}")
    if not known:
        raise InputError("no shape has a label; check the folders given")
    return Categories.from_coco(
        [{"id": number, "name": name, "isthing": name not in stuff} for number, name in enumerate(known, start=1)],
        "the labels of the shapes",
    )


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """The outline x1, y1, x2, y2, ... of an ellipse, turned about its centre, in 72 corners."""
    turn, angles = np.deg2rad(degrees), np.linspace(0, 2 * np.pi, 72, endpoint=False)
    a, b = rx * np.cos(angles), ry * np.sin(angles)
    corners = np.stack([x + a * np.cos(turn) - b * np.sin(turn), y + a * np.sin(turn) + b * np.cos(turn)], axis=1)
    return [float(value) for value in corners.ravel()]
