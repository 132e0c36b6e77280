"""Masks that say nothing new: an object that was found twice, or one mask over several objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.occlusion.pairs import Pairs
from banet.panoptic.occlusion.ranking import rank_by_score
from banet.panoptic.validation import MaskCrops, check_masks, check_scores

__all__ = ["Removal", "find_redundant", "redundant_of", "without"]

DUPLICATE = 0.7
"""Intersection over union of two masks above which they are one object."""
EXPLAINED = 0.8
"""Fraction of a mask that others must cover for it to be a blob of them."""
MEMBER = 0.8
"""Fraction of another mask that must lie within a blob for it to be a part of it."""
SHARE = 0.2
"""Fraction of a blob that at least two of its members must cover each."""


@dataclass(frozen=True)
class Removal:
    """An object that goes before the order is decided.

    Attributes:
        index: of the object.
        reason: "duplicate" of a better one, whatever their classes; or "blob" over several better ones.
        others: indices of these, ascending.
    """

    index: int
    reason: Literal["duplicate", "blob"]
    others: tuple[int, ...]

    def __str__(self) -> str:
        names = " and ".join(map(str, self.others))
        what = "duplicate of" if self.reason == "duplicate" else "one mask over"
        return f"{self.index}: {what} {names}"


def find_redundant(masks: Any, scores: Any) -> list[Removal]:
    """Return which of N masks are duplicates or merged blobs, in descending order of score.

    In descending order of score (ties: lower index), an object is a *duplicate* if its mask and that of a better one
    that stays have an intersection over union above 0.7. It is a *blob* if better ones that stay and lie within it (to
    80 %) cover 80 % of it together, and at least two of them a fifth of it each. A part inside its whole, such as a tie
    or a wheel, is neither.

    Args:
        masks: (N, H, W) bool, or integers 0 and 1; or `MaskCrops`.
        scores: (N,) finite numbers.

    Raises:
        ValueError: see `check_masks` and `check_scores`.
    """
    objects = check_masks(masks)
    return redundant_of(Pairs.of(objects, check_scores(scores, len(objects)), None))


def redundant_of(pairs: Pairs) -> list[Removal]:
    """Do what `find_redundant` does, given the table of all overlapping pairs."""
    shared = pairs.overlap.tolist()
    beside: dict[int, dict[int, int]] = {}
    for i, j, overlap in zip(pairs.i.tolist(), pairs.j.tolist(), shared, strict=True):
        beside.setdefault(i, {})[j] = beside.setdefault(j, {})[i] = overlap
    areas = pairs.areas.tolist()
    stays = np.zeros(len(areas), dtype=bool)
    removed = []
    for n in np.argsort(rank_by_score(pairs.scores)).tolist():
        better = {m: overlap for m, overlap in beside.get(n, {}).items() if stays[m]}
        same = {m: overlap / (areas[n] + areas[m] - overlap) for m, overlap in better.items()}
        twin = max(sorted(same), key=lambda m: same[m], default=-1)
        members = sorted(m for m, overlap in better.items() if overlap >= MEMBER * areas[m])
        if twin >= 0 and same[twin] > DUPLICATE:
            removed.append(Removal(n, "duplicate", (twin,)))
        elif _explained(pairs, n, members, better):
            removed.append(Removal(n, "blob", tuple(members)))
        else:
            stays[n] = True
    return removed


def _explained(pairs: Pairs, blob: int, members: list[int], overlaps: dict[int, int]) -> bool:
    area = int(pairs.areas[blob])
    if sum(overlaps[m] >= SHARE * area for m in members) < 2 or sum(overlaps[m] for m in members) < EXPLAINED * area:
        return False
    regions = pairs.regions
    claimed = np.zeros((2, len(regions.sizes)), dtype=bool)
    claimed[0, regions.claims_region[regions.claims_object == blob]] = True
    claimed[1, regions.claims_region[np.isin(regions.claims_object, members)]] = True
    return bool(regions.sizes[claimed.all(axis=0)].sum() >= EXPLAINED * area)


def without(masks: MaskCrops, removed: list[Removal]) -> MaskCrops:
    """Return masks of which those that were removed are empty: they own nothing, and all keep their indices."""
    gone = {removal.index for removal in removed}
    boxes: NDArray[np.int64] = masks.boxes.copy()
    boxes[sorted(gone)] = 0
    empty = np.zeros((0, 0), dtype=bool)
    return MaskCrops(boxes, [empty if n in gone else crop for n, crop in enumerate(masks.crops)], masks.size)
