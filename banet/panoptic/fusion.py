"""Fusion: instances and a semantic map in, one panoptic result out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.categories import VOID, Categories, Category
from banet.panoptic.inputs import check_image, check_masks, check_scores, to_numpy
from banet.panoptic.occlusion import resolve_occlusions
from banet.panoptic.rules import Procedure, Rule, place_by_score
from banet.panoptic.segmentation import PanopticSegmentation, Segment, measure_ids

__all__ = ["fuse_panoptic"]


def fuse_panoptic(
    masks: Any,
    scores: Any,
    labels: Any,
    semantic: Any,
    image: Any,
    *,
    categories: Categories | Iterable[Category | Mapping[str, Any]],
    rule: str | Rule | Procedure = "appearance",
    stuff_area: int = 4096,
    thing_pixels: Literal["void", "best_stuff"] = "void",
    stuff_semantic: Any = None,
    overlap_threshold: float = 0.2,
    removal_threshold: float = 0.5,
) -> PanopticSegmentation:
    """Lays instances, freed of overlaps by `resolve_occlusions`, over the stuff of a semantic map.

    Instances own their pixels whatever the semantic map says there. Of the other pixels those of a stuff class go to
    that class, and those of a thing become void, or the best stuff class. A stuff class with fewer than `stuff_area`
    pixels left becomes void. An instance that owns no pixel gives no segment.

    Everything is numpy; torch tensors are taken too, and the result is numpy all the same.

    Args:
        masks: (N, H, W) bool, or integers 0 and 1; or `MaskCrops`.
        scores: (N,) finite numbers.
        labels: (N,) category ids, of things.
        semantic: (H, W) category ids, of things and stuff; void is -1, and 0 where no category has the id 0.
        image: as for `resolve_occlusions`; None will do for rules that do not look at it. The result keeps it, for
            `draw`.
        categories: the classes; COCO dicts will do.
        rule: as for `resolve_occlusions`.
        stuff_area: fewest pixels of a stuff segment (4096 in the paper, for COCO's sizes).
        thing_pixels: what becomes of pixels that the semantic map gives to a thing but no instance owns: "void", or
            "best_stuff", which needs `stuff_semantic`.
        stuff_semantic: (H, W) category id of the best stuff class of each pixel, or void.
        overlap_threshold: as for `resolve_occlusions`.
        removal_threshold: as for `resolve_occlusions`.

    Returns:
        The segments: things with the ids 1 .. k in descending order of score (ties: order of the masks), then stuff, in
        ascending order of category id. Areas and boxes are counted from the final map.

    Raises:
        ValueError: arguments that do not fit together, unknown category ids, a label that is no thing, an unknown
            option; and what `resolve_occlusions` raises.
    """
    classes = Categories.of(categories)
    picture = None if image is None else check_image(image)
    stuff = _stuff(semantic, stuff_semantic, thing_pixels, classes)
    if picture is not None and picture.shape[:2] != stuff.shape:
        raise ValueError(f"semantic is of size {stuff.shape} (H, W) but the image is of size {picture.shape[:2]}")
    if stuff_area < 0:
        raise ValueError(f"stuff_area must not be negative, not {stuff_area}")
    objects = check_masks(masks, (stuff.shape[0], stuff.shape[1]))
    count = len(objects)
    numbers = check_scores(scores, count)
    things = _thing_labels(labels, count, classes)
    owners = resolve_occlusions(
        objects,
        numbers,
        picture,
        rule=rule,
        overlap_threshold=overlap_threshold,
        removal_threshold=removal_threshold,
    )

    # Codes for the time being: 0 is void, 1 .. N the objects by score, and above them the stuff classes by category id.
    place = place_by_score(numbers)
    ids = np.append(place + 1, 0).astype(np.int32).take(owners)  # owner -1 takes the last entry
    np.copyto(ids, stuff + count * (stuff > 0), where=owners < 0)
    codes, areas, boxes = measure_ids(ids)
    kept = (codes <= count) | (areas >= stuff_area)
    codes, areas, boxes = codes[kept], areas[kept], boxes[kept]
    final = np.zeros(count + classes.num_stuff + 1, dtype=np.int32)
    final[codes] = np.arange(1, len(codes) + 1)
    by_place = np.argsort(place)
    segments = []
    for new, (code, size, box) in enumerate(zip(codes.tolist(), areas.tolist(), boxes.tolist(), strict=True), start=1):
        isthing = code <= count
        n = int(by_place[code - 1]) if isthing else -1
        index = int(things[n]) if isthing else classes.num_things + code - count - 1
        segments.append(
            Segment(
                id=new,
                category_id=classes[index].id,
                isthing=isthing,
                score=float(numbers[n]) if isthing else None,
                area=size,
                bbox=(box[0], box[1], box[2], box[3]),
            )
        )
    return PanopticSegmentation(final.take(ids), segments, classes, picture)


def _stuff(semantic: Any, stuff_semantic: Any, thing_pixels: str, classes: Categories) -> NDArray[np.int32]:
    """Stuff class of each pixel were there no instances: 0 is void, 1 .. S the classes by category id."""
    if thing_pixels not in ("void", "best_stuff"):
        raise ValueError(f"thing_pixels must be 'void' or 'best_stuff', not {thing_pixels!r}")
    index = _index_map(semantic, "semantic", classes)
    if thing_pixels == "best_stuff":
        if stuff_semantic is None:
            raise ValueError("thing_pixels='best_stuff' needs stuff_semantic, the best stuff class of each pixel")
        best = _index_map(stuff_semantic, "stuff_semantic", classes)
        if best.shape != index.shape:
            raise ValueError(f"stuff_semantic is of size {best.shape} (H, W) but semantic is of size {index.shape}")
        if ((best >= 0) & (best < classes.num_things)).any():
            raise ValueError("stuff_semantic must hold stuff and void only, but there are things in it")
        thing = (index >= 0) & (index < classes.num_things)
        index = np.where(thing, best, index)
    codes = (np.arange(len(classes), dtype=np.int32) - classes.num_things + 1).clip(min=0)
    return np.append(codes, np.int32(0)).take(index)  # void, -1, takes the last entry


def _index_map(ids: Any, name: str, classes: Categories) -> NDArray[np.int64]:
    array = to_numpy(ids)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (H, W), not {array.shape}")
    return classes.indices_of(array, name)


def _thing_labels(labels: Any, count: int, classes: Categories) -> NDArray[np.int64]:
    """Class index of each object."""
    array = to_numpy(labels)
    if array.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one category id a mask, not {array.shape}")
    if not count:
        return np.zeros(0, dtype=np.int64)
    index = classes.indices_of(array, "labels")
    wrong = np.flatnonzero((index == VOID) | (index >= classes.num_things))
    if len(wrong):
        n = int(wrong[0])
        raise ValueError(f"labels must be category ids of things, but label {n} is {int(array[n])}")
    return index
