"""Fusion: instances and a semantic map in, one panoptic result out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.adapters import LibraryResult, read_detections
from banet.panoptic.categories import VOID, Categories, Category
from banet.panoptic.defaults import (
    BEST_OVERLAP_THRESHOLD,
    BEST_RULE,
    MAX_INSTANCES,
    OVERLAP_THRESHOLD,
    REMOVAL_THRESHOLD,
    RULE,
    SCORE_THRESHOLD,
    STUFF_AREA,
)
from banet.panoptic.id_maps import measure_runs, runs
from banet.panoptic.occlusion.ranking import rank_by_score
from banet.panoptic.occlusion.resolve import OcclusionHandler
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.segments import Segment
from banet.panoptic.validation import MaskCrops, check_instances, to_numpy
from banet.types import RuleLike

__all__ = ["fuse_detections", "fuse_panoptic", "fuse_validated"]


def fuse_panoptic(
    masks: Any,
    scores: Any,
    labels: Any,
    semantic: Any,
    image: Any,
    *,
    categories: Categories | Iterable[Category | Mapping[str, Any]],
    rule: RuleLike = RULE,
    stuff_area: int = STUFF_AREA,
    thing_pixels: Literal["void", "best_stuff"] = "void",
    stuff_semantic: Any = None,
    overlap_threshold: float = OVERLAP_THRESHOLD,
    removal_threshold: float = REMOVAL_THRESHOLD,
    clean: bool = False,
) -> PanopticSegmentation:
    """Lay instances, freed of overlaps by `resolve_occlusions`, over the stuff of a semantic map.

    Instances own their pixels whatever the semantic map says there. Of the other pixels those of a stuff class go to
    that class, and those of a thing become void, or the best stuff class. A stuff class with fewer than `stuff_area`
    pixels left becomes void. An instance that owns no pixel yields no segment.

    torch tensors are accepted too; the result is numpy in any case.

    Args:
        masks: (N, H, W) bool, or integers 0 and 1; or `MaskCrops`.
        scores: (N,) finite numbers.
        labels: (N,) category ids, of things.
        semantic: (H, W) category ids, of things and stuff; void is -1, and 0 where no category has the id 0.
        image: as for `resolve_occlusions`; may be None for rules that do not look at it. The result keeps it, for
            `draw`.
        categories: the classes, or COCO dicts.
        rule: as for `resolve_occlusions`.
        stuff_area: fewest pixels of a stuff segment (4096 in the paper, for COCO's sizes).
        thing_pixels: what becomes of pixels that the semantic map gives to a thing but no instance owns: "void", or
            "best_stuff", which needs `stuff_semantic`.
        stuff_semantic: (H, W) category id of the best stuff class of each pixel, or void.
        overlap_threshold: as for `resolve_occlusions`.
        removal_threshold: as for `resolve_occlusions`.
        clean: whether duplicates and merged blobs go first, as for `make_disjoint`; the paper does not do it.

    Returns:
        The segments, things with the ids 1 .. k in descending order of score (with ties in the order of the masks),
        then stuff, in ascending order of category id. Areas and boxes are counted from the final map.

    Raises:
        ValueError: arguments that do not fit together, unknown category ids, a label that is not a thing, an unknown
            option; and what `resolve_occlusions` raises.
    """
    classes = Categories.of(categories)
    handler = OcclusionHandler.of(rule, image is not None, overlap_threshold, removal_threshold, clean)
    maps = _class_maps(semantic, stuff_semantic, thing_pixels)
    height, width = maps[0].shape
    if stuff_area < 0:
        raise ValueError(f"stuff_area must not be negative, not {stuff_area}")
    objects, numbers, pixels = check_instances(masks, scores, image, (height, width))
    things = _thing_classes(labels, len(objects), classes)
    return fuse_validated(
        objects, numbers, things, maps, pixels, classes, handler, stuff_area=stuff_area, to_index=classes.indices_of
    )


def fuse_detections(
    result: Any,
    semantic: Any,
    image: Any = None,
    *,
    categories: Categories | Iterable[Category | Mapping[str, Any]],
    class_ids: Mapping[int, int] | Sequence[int] | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    max_instances: int = MAX_INSTANCES,
    rule: RuleLike = BEST_RULE,
    overlap_threshold: float = BEST_OVERLAP_THRESHOLD,
    removal_threshold: float = REMOVAL_THRESHOLD,
    stuff_area: int = STUFF_AREA,
    clean: bool = True,
) -> PanopticSegmentation:
    """Lay what another library found in one image over a semantic map: `banet fuse` in memory, without files.

    The options and their defaults are those of the command.

    Args:
        result: as for `make_disjoint`: of torchvision, detectron2, mmdetection, Ultralytics, transformers, LightlyTrain
            or supervision. It is not changed.
        semantic: (H, W) category ids, as for `fuse_panoptic`; of any segmenter.
        image: as for `resolve_occlusions`; Ultralytics' results come with theirs.
        categories: the classes, or COCO dicts.
        class_ids: category id of each of the library's classes, in their order or by number. By default the library's
            numbers are the category ids.
        score_threshold: instances score above this.
        max_instances: most instances, the best ones.
        rule: as for `resolve_occlusions`; by default the best one.
        overlap_threshold: as for `resolve_occlusions`; by default every overlap goes by the rule.
        removal_threshold: as for `resolve_occlusions`.
        stuff_area: as for `fuse_panoptic`.
        clean: as for `make_disjoint`.

    Raises:
        TypeError: `result` is not one of these; the message says what it holds.
        ValueError: it has no scores or classes, a class has no category id; and what `fuse_panoptic` raises.
    """
    found = read_detections(result)
    if found.scores is None or found.labels is None:
        missing = "scores" if found.scores is None else "classes"
        raise ValueError(f"this result has no {missing}; give masks, scores and labels to fuse_panoptic")
    scores = np.asarray(found.scores)  # of the library's own precision, in which a score may equal the threshold
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    chosen = order[scores[order] > score_threshold][:max_instances]
    numbers = np.asarray(found.labels)[chosen].astype(np.int64)
    return fuse_panoptic(
        _masks_of(found, chosen, to_numpy(semantic).shape),
        scores[chosen],
        numbers if class_ids is None else _category_ids(numbers, class_ids),
        semantic,
        found.image if image is None else image,
        categories=categories,
        rule=rule,
        stuff_area=stuff_area,
        overlap_threshold=overlap_threshold,
        removal_threshold=removal_threshold,
        clean=clean,
    )


def _masks_of(found: LibraryResult, chosen: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[Any] | MaskCrops:
    """Return the masks of some objects; where there are none, of the size (H, W) of the semantic map."""
    if not len(chosen):
        return np.zeros((0, *size), dtype=bool)
    if isinstance(found.masks, MaskCrops):
        crops = [found.masks.crops[n] for n in chosen.tolist()]
        return MaskCrops(found.masks.boxes[chosen], crops, found.masks.size)
    return found.masks[chosen]


def _category_ids(labels: NDArray[np.int64], class_ids: Mapping[int, int] | Sequence[int]) -> NDArray[np.int64]:
    """Return the category id of each of N labels of a library."""
    known = class_ids if isinstance(class_ids, Mapping) else dict(enumerate(class_ids))
    unknown = sorted(set(labels.tolist()) - set(known))
    if unknown:
        raise ValueError(f"class_ids has no category id for the class {unknown[0]}, but for {len(known)} others")
    return np.array([known[label] for label in labels.tolist()], dtype=np.int64)


def fuse_validated(
    masks: MaskCrops,
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    maps: Sequence[NDArray[Any]],
    image: NDArray[Any] | None,
    classes: Categories,
    handler: OcclusionHandler,
    *,
    stuff_area: int,
    to_index: Callable[[Any, str], NDArray[np.int64]] | None = None,
) -> PanopticSegmentation:
    """Do what `fuse_panoptic` does, with arguments that are valid already.

    Args:
        masks: N numpy crops.
        scores: (N,) finite.
        labels: (N,) class indices of things.
        maps: the semantic map, (H, W), and where it is wanted that of the best stuff classes.
        image: (H, W, 3) in 0..255, or None.
        classes: the classes.
        handler: the rule and its thresholds.
        stuff_area: fewest pixels of a stuff segment.
        to_index: turns values of the maps and what to call them in errors into class indices, -1 for void; None where
            the maps hold class indices. It is called with one value per run of pixels.
    """
    height, width = maps[0].shape
    owners = handler.owners(masks, scores, image)
    # Neither map changes often along a row, so all that is left to do is done by runs of pixels.
    starts, lengths = runs(owners, *maps, rows=True)
    stuff = _stuff_of_runs([each.reshape(-1)[starts] for each in maps], classes, to_index)
    # Codes of the segments-to-be: 0 is void, 1 .. N the objects by score, above them the stuff classes by category id.
    rank = rank_by_score(scores)
    owner = owners.reshape(-1)[starts]
    codes = np.where(owner >= 0, np.append(rank + 1, 0)[owner], stuff + len(masks) * (stuff > 0))
    areas, boxes = measure_runs(codes, len(masks) + classes.num_stuff + 1, starts, lengths, width)
    kept = areas > 0
    kept[len(masks) + 1 :] &= areas[len(masks) + 1 :] >= stuff_area
    kept[0] = False
    final = np.zeros(len(kept), dtype=np.int32)
    final[kept] = np.arange(1, np.count_nonzero(kept) + 1)
    ids = np.repeat(final[codes], lengths).reshape(height, width)

    by_rank = np.argsort(rank)
    index = np.concatenate([[VOID], labels[by_rank], np.arange(classes.num_things, len(classes))])  # of each code
    segments = [
        Segment(
            id=int(final[code]),
            category_id=int(classes.ids[index[code]]),
            isthing=code <= len(masks),
            score=float(scores[by_rank[code - 1]]) if code <= len(masks) else None,
            area=int(areas[code]),
            bbox=(x, y, w, h),
        )
        for code, (x, y, w, h) in zip(np.flatnonzero(kept).tolist(), boxes[kept].tolist(), strict=True)
    ]
    things = np.flatnonzero(kept[: len(masks) + 1])
    mask_indices = dict(zip(final[things].tolist(), by_rank[things - 1].tolist(), strict=True))
    return PanopticSegmentation(ids, segments, classes, image, mask_indices=mask_indices)


def _class_maps(semantic: Any, stuff_semantic: Any, thing_pixels: str) -> list[NDArray[Any]]:
    """Return the semantic map and, where it is wanted, that of the best stuff classes, (H, W) each."""
    if thing_pixels not in ("void", "best_stuff"):
        raise ValueError(f"thing_pixels must be 'void' or 'best_stuff', not {thing_pixels!r}")
    named = {"semantic": to_numpy(semantic)}
    if thing_pixels == "best_stuff":
        if stuff_semantic is None:
            raise ValueError("thing_pixels='best_stuff' needs stuff_semantic, the best stuff class of each pixel")
        named["stuff_semantic"] = to_numpy(stuff_semantic)
    for name, array in named.items():
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (H, W), not {array.shape}")
        if array.shape != named["semantic"].shape:
            raise ValueError(
                f"{name} is of size {array.shape} (H, W) but semantic is of size {named['semantic'].shape}"
            )
    return list(named.values())


def _stuff_of_runs(
    maps: list[NDArray[Any]], classes: Categories, to_index: Callable[[Any, str], NDArray[np.int64]] | None
) -> NDArray[np.int64]:
    """Return the stuff of each of K runs if there were no instances: 0 is void, 1 .. S the classes."""
    if to_index is not None:
        maps = [to_index(each, name) for each, name in zip(maps, ("semantic", "stuff_semantic"), strict=False)]
    index = maps[0]
    if len(maps) > 1:
        best = maps[1]
        if ((best >= 0) & (best < classes.num_things)).any():
            raise ValueError("stuff_semantic must hold stuff and void only, but there are things in it")
        index = np.where((index >= 0) & (index < classes.num_things), best, index)
    return (index - classes.num_things + 1).clip(min=0)


def _thing_classes(labels: Any, count: int, classes: Categories) -> NDArray[np.int64]:
    """Return the class index of each object."""
    array = to_numpy(labels)
    if array.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one category id per mask, not {array.shape}")
    if not count:
        return np.zeros(0, dtype=np.int64)
    index = classes.indices_of(array, "labels")
    wrong = np.flatnonzero((index == VOID) | (index >= classes.num_things))
    if len(wrong):
        n = int(wrong[0])
        raise ValueError(f"labels must be category ids of things, but label {n} is {int(array[n])}")
    return index
