"""Collages: cut-outs of real things pasted on real images, in an order that is known exactly.

Any instance set in COCO's format gives the cut-outs and any folder of images the backgrounds:

    >>> instances = InstanceSet("instances.json", "images")  # doctest: +SKIP
    >>> collage = make_collage(instances, list_images(["backgrounds"]), seed=0, index=3)  # doctest: +SKIP

A collage is a `Scene`: an image, the full mask of every thing that was pasted, and their order. This module
loads no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from banet.data.images import find_depth, list_images, read_image
from banet.data.scenes.generate import Scene, scene_outputs, write_scenes
from banet.errors import InputError, abbreviate
from banet.files.fields import is_box, is_number, read_flag, read_image_id, read_integer, read_object
from banet.files.names import safe_join
from banet.files.reading import stream_lists
from banet.panoptic.categories import MAX_CATEGORY_ID, Categories, Category
from banet.panoptic.coco.annotations import ImageInfo, add_image
from banet.panoptic.coco.rle import decode_crop
from banet.panoptic.coco.runs import Crop
from banet.panoptic.id_maps import tight_box
from banet.panoptic.sample_depth import SampleDepth
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment
from banet.types import BitDepth, ImageId

__all__ = ["CutOut", "InstanceSet", "collage_categories", "make_collage", "write_collages"]

_SMALLEST = 900
"""Instances with fewer pixels are not cut out."""
_CLEARANCE = 2
"""Nor are those that come so close to the border of their image: they may be cut off."""
_COVERED = 0.02
"""Nor those of which another instance claims a larger share: they may show something else."""
_REMEMBERED = 256
"""Cut-outs that are kept, as reading them takes most of the time."""
_SMALLEST_VISIBLE = 0.06
"""Pasted things of which a smaller share can be seen are left out."""


@dataclass(frozen=True)
class CutOut:
    """One instance, cut from its image.

    Attributes:
        image: (h,w,3) uint8, RGB of its bounding box, a few pixels more on each side.
        mask: (h,w) bool.
        category_id: its class.
        image_id: the image that it is from.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    category_id: int
    image_id: ImageId


class InstanceSet:
    """Instances in COCO's format: JSON with polygons or run lengths, and the folder of the images.

    `bbox` and `area` are measured where they are missing or not numbers.

    Args:
        json: the JSON file.
        images: the folder of its `file_name`s.
        bit_depth: bits that samples of 16-bit images use; `auto` finds one number for all that things are cut from.

    Raises:
        InputError: a file is missing or is not in that format, or there is nothing to cut out.
    """

    def __init__(self, json: str | Path, images: str | Path, bit_depth: BitDepth = "auto") -> None:
        self.source, self.folder, self.bit_depth = str(json), Path(images), bit_depth
        self.images: dict[ImageId, ImageInfo] = {}
        self.by_image: dict[ImageId, list[dict[str, Any]]] = {}
        self._cut: dict[int, CutOut | None] = {}
        listed: list[dict[str, Any]] = []
        unmeasured: list[dict[str, Any]] = []
        for field, where, one in stream_lists(json, ("images", "categories", "annotations")):
            if field == "images":
                add_image(self.images, one, where)
            elif field == "categories":
                if "isthing" not in read_object(one, where) or read_flag(one, "isthing", where):
                    listed.append(one)
            else:
                image_id = read_image_id(read_object(one, where), "image_id", where)
                read_integer(one, "category_id", where, 0)
                one["iscrowd"] = read_flag(one, "iscrowd", where)
                if is_box(one.get("bbox")) and is_number(one.get("area")):
                    self.by_image.setdefault(image_id, []).append(one)
                else:
                    unmeasured.append(one)
        for image_id in (*self.by_image, *(one["image_id"] for one in unmeasured)):
            if image_id not in self.images:
                what = f"image_id {abbreviate(image_id)} is not in images"
                raise InputError(what, where=f"{json}: annotations", hint="add it or drop them")
        for one in unmeasured:
            crop = self._crop(one)
            if crop.pixels.size:
                x1, y1, x2, y2 = crop.box
                one["bbox"], one["area"] = [x1, y1, x2 - x1, y2 - y1], int(np.count_nonzero(crop.pixels))
                self.by_image.setdefault(one["image_id"], []).append(one)
        things = [{"name": str(one.get("id")), **one, "isthing": 1} for one in listed]
        self.things = Categories.from_coco(things, source=str(json))
        if max(self.things.ids) == MAX_CATEGORY_ID:
            raise InputError(
                f"{json}: categories: the id {MAX_CATEGORY_ID} leaves none for the background; renumber it"
            )
        margin = _CLEARANCE
        self.candidates: list[tuple[ImageId, int]] = []  # image id, place in its annotations
        for image_id, those in self.by_image.items():
            info = self.images[image_id]
            for place, one in enumerate(those):
                x, y, w, h = one["bbox"]
                whole = x >= margin and y >= margin and x + w <= info.width - margin and y + h <= info.height - margin
                if whole and one["area"] >= _SMALLEST and not one["iscrowd"] and one["category_id"] in self.things:
                    self.candidates.append((image_id, place))
        if not self.candidates:
            raise InputError(f"{json}: no instance is large enough and whole: nothing to cut out")

    def image(self, image_id: ImageId) -> NDArray[np.uint8]:
        """Return an image, (H, W, 3)."""
        return np.asarray(read_image(self._path(image_id), bit_depth=self.depth))

    @cached_property
    def depth(self) -> SampleDepth:
        """How many bits the samples of 16-bit images use: one number for all that things are cut from."""
        paths = map(self._path, dict.fromkeys(image_id for image_id, _ in self.candidates))
        return find_depth(paths, self.bit_depth)

    def _path(self, image_id: ImageId) -> Path:
        return safe_join(self.folder, self.images[image_id].file_name)

    def mask(self, image_id: ImageId, place: int) -> NDArray[np.bool_]:
        """Return the mask (H, W) of one annotation of an image, by its place in `by_image`."""
        info = self.images[image_id]
        return self._crop(self.by_image[image_id][place]).paste((info.height, info.width))

    def _crop(self, one: Mapping[str, Any]) -> Crop:
        info = self.images[one["image_id"]]
        try:
            return decode_crop(one["segmentation"], (info.height, info.width))
        except (KeyError, ValueError) as error:
            why = "is missing" if isinstance(error, KeyError) else str(error)
            where = f"{self.source}: annotations: {abbreviate(one.get('id'))}: segmentation"
            raise InputError(why, where=where) from None

    def cut_out(self, candidate: int) -> CutOut | None:
        """Cuts out one of the `candidates`, by number; None where it is covered by another one or hardly there."""
        if candidate not in self._cut:
            if len(self._cut) >= _REMEMBERED:
                self._cut.pop(next(iter(self._cut)))
            self._cut[candidate] = self._cut_out(*self.candidates[candidate])
        return self._cut[candidate]

    def _cut_out(self, image_id: ImageId, place: int) -> CutOut | None:
        mask = self.mask(image_id, place)
        size = np.count_nonzero(mask)
        if size < _SMALLEST // 2:
            return None
        left, top, right, bottom = tight_box(mask)
        for other, one in enumerate(self.by_image[image_id]):
            x, y, w, h = one["bbox"]
            apart = x > right or y > bottom or x + w < left or y + h < top
            if other == place or apart:
                continue
            if np.count_nonzero(mask & self.mask(image_id, other)) > _COVERED * size:
                return None
        y1, y2 = max(0, top - 4), bottom + 4
        x1, x2 = max(0, left - 4), right + 4
        image = self.image(image_id)
        if image.shape[:2] != mask.shape:
            name = self.images[image_id].file_name
            raise InputError(f"{name}: is {image.shape[:2]} (H, W) but {self.source} says {mask.shape}")
        category_id = self.by_image[image_id][place]["category_id"]
        return CutOut(image[y1:y2, x1:x2].copy(), mask[y1:y2, x1:x2].copy(), category_id, image_id)


def make_collage(
    instances: InstanceSet,
    backgrounds: Sequence[Path],
    seed: int,
    index: int,
    *,
    things: tuple[int, int] = (3, 8),
    longer: int = 640,
    bit_depth: BitDepth | SampleDepth = "auto",
) -> Scene:
    """Paste cut-outs on a background.

    The cut-outs are drawn at random, mirrored at random, scaled to between a sixth and two thirds of the background's
    shorter side (but never more than to one and a half times their size) and put anywhere, in every second case over
    one that is there already. Their edges are soft over a pixel, as in a photograph. What can hardly be seen
    is left out.

    Args:
        instances: what to cut out.
        backgrounds: image files. They count as stuff "background" as a whole, so they should show no class.
        seed: another seed gives other collages.
        index: number of the collage. The same arguments always give the same collage.
        things: least and most things that are pasted.
        longer: larger backgrounds are scaled down to this longer side.
        bit_depth: bits that samples of 16-bit backgrounds use; for several collages, what `find_depth` found for all.

    Returns:
        The collage; its `categories` are the instance set's and the stuff class "background".
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, not {seed} and {index}")
    if not 1 <= things[0] <= things[1]:
        raise ValueError(f"things must be at least 1 and ascending, not {things}")
    rng = np.random.default_rng([seed, index])
    ground = read_image(backgrounds[int(rng.integers(len(backgrounds)))], bit_depth=bit_depth)
    shrink = min(1.0, longer / max(ground.size))
    if shrink < 1:
        ground = ground.resize((round(ground.width * shrink), round(ground.height * shrink)), Image.Resampling.LANCZOS)
    wanted = int(rng.integers(things[0], things[1] + 1))
    pieces: list[_Pasted] = []
    for _ in range(20 * wanted):
        if len(pieces) == wanted:
            break
        cut = instances.cut_out(int(rng.integers(len(instances.candidates))))
        if cut is not None and (piece := _place(cut, rng, ground.size, pieces)) is not None:
            pieces.append(piece)
    return _assemble(np.array(ground), pieces, collage_categories(instances), rng)


def collage_categories(instances: InstanceSet) -> Categories:
    """Return the classes of collages: those of the cut-outs, and "background" with the next free id."""
    ground = Category(max(int(one.id) for one in instances.things) + 1, "background", False)
    return Categories([*instances.things, ground])


@dataclass(frozen=True)
class _Pasted:
    """A thing at its place: its window (y1, y2, x1, x2) of the image, and there colour, opacity and mask."""

    window: tuple[int, int, int, int]
    color: NDArray[np.float32]
    alpha: NDArray[np.float32]
    mask: NDArray[np.bool_]
    category_id: int

    @property
    def box(self) -> tuple[slice, slice]:
        y1, y2, x1, x2 = self.window
        return slice(y1, y2), slice(x1, x2)


def _place(cut: CutOut, rng: np.random.Generator, size: tuple[int, int], others: list[_Pasted]) -> _Pasted | None:
    """Scale a cut-out and choose its place; None where too little of it would be in the image."""
    width, height = size
    side = min(size) * np.exp(rng.uniform(np.log(1 / 6), np.log(2 / 3)))
    scale = min(1.5, side / max(cut.mask.shape))
    w, h = (max(4, round(extent * scale)) for extent in (cut.mask.shape[1], cut.mask.shape[0]))
    scaled = Image.fromarray(cut.image).resize((w, h), Image.Resampling.BICUBIC)
    shape = Image.fromarray(np.uint8(255) * cut.mask).resize((w, h), Image.Resampling.BILINEAR)
    alpha = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.6)), np.float32) / np.float32(255)
    color = np.asarray(scaled, np.float32)
    if rng.random() < 0.5:
        alpha, color = alpha[:, ::-1], color[:, ::-1]
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    if others and rng.random() < 0.5:
        y1, y2, x1, x2 = others[int(rng.integers(len(others)))].window
        x, y = rng.uniform(x1, x2), rng.uniform(y1, y2)
    left, top = round(x - w / 2), round(y - h / 2)
    x1, y1, x2, y2 = max(0, left), max(0, top), min(width, left + w), min(height, top + h)
    if x2 <= x1 or y2 <= y1:
        return None
    there = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    mask = alpha[there] >= 0.5
    if np.count_nonzero(mask) < max(100, 0.4 * np.count_nonzero(alpha >= 0.5)):
        return None
    return _Pasted((y1, y2, x1, x2), color[there], alpha[there], mask, cut.category_id)


def _assemble(
    ground: NDArray[np.uint8], pieces: list[_Pasted], categories: Categories, rng: np.random.Generator
) -> Scene:
    """Paints pieces from back to front."""
    height, width = ground.shape[:2]
    while True:
        owner = np.zeros((height, width), np.int32)
        for number, piece in enumerate(pieces, start=1):
            owner[piece.box][piece.mask] = number
        visible = np.bincount(owner.ravel(), minlength=len(pieces) + 1)[1:].tolist()
        stay = [
            p
            for p, seen in zip(pieces, visible, strict=True)
            if seen >= max(64, _SMALLEST_VISIBLE * np.count_nonzero(p.mask))
        ]
        if len(stay) == len(pieces):
            break
        pieces = stay
    image = ground.astype(np.float32)
    for piece in pieces:
        under = image[piece.box]
        under += piece.alpha[:, :, None] * (piece.color - under)
    count = len(pieces)
    place: NDArray[np.int64] = rng.permutation(np.arange(count))  # of pieces[k], so that ids say nothing of the order
    ids = np.concatenate([[0], place + 1]).astype(np.int32).take(owner)
    masks = np.zeros((count, height, width), bool)
    classes = np.zeros(count, np.int64)
    for row, piece in zip(place, pieces, strict=True):
        masks[row][piece.box] = piece.mask
        classes[row] = piece.category_id
    segments = [Segment(row + 1, int(classes[row]), isthing=True) for row in range(count)]
    if (ids == 0).any():
        ids[ids == 0] = count + 1
        segments.append(Segment(count + 1, categories[-1].id, isthing=False))
    return Scene(
        image=(image + 0.5).clip(0, 255).astype(np.uint8),
        masks=masks,
        order=place[::-1].astype(np.int64),
        ids=ids,
        segments=PanopticSegmentation.from_ids(ids, segments, categories).segments,
        categories=categories,
    )


def write_collages(
    out_dir: str | Path,
    instances: InstanceSet,
    backgrounds: str | Path,
    seed: int = 0,
    count: int = 20,
    progress: Callable[[int], None] | None = None,
    *,
    bit_depth: BitDepth = "auto",
    overwrite: bool = False,
) -> Path:
    """Write collages 0..count-1 of a seed to a folder in COCO's formats, the files that `write_scenes` makes.

    Args:
        out_dir: the folder; made where it is missing.
        instances: what to cut out.
        backgrounds: an image or a folder of images to paste on.
        seed: another seed gives other collages.
        count: how many.
        progress: called with the number of collages done, after each.
        bit_depth: bits that samples of 16-bit backgrounds use; `auto` finds one number for all of them.
        overwrite: also replace files that this function did not write, but never an input.

    Returns:
        The path of `panoptic.json`.

    Raises:
        InputError: see `Outputs`; or there is no background.
    """
    paths = list_images([str(backgrounds)])
    names = [f"{seed:04d}_{index:06d}.png" for index in range(count)]
    cut_from = (instances.folder / info.file_name for info in instances.images.values())
    read = itertools.chain([instances.source], paths, cut_from)
    outputs = scene_outputs(out_dir, "banet data collage", names, inputs=read, overwrite=overwrite)
    depth = find_depth(paths, bit_depth)
    collages = (make_collage(instances, paths, seed, index, bit_depth=depth) for index in range(count))
    return write_scenes(outputs, names, collages, collage_categories(instances), f"collages of seed {seed}", progress)
