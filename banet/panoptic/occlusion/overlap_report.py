"""Report of overlaps: which pixels several masks claimed, and which object hides which."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.defaults import OVERLAP_THRESHOLD
from banet.panoptic.id_maps import runs
from banet.panoptic.occlusion.redundant import Removal
from banet.panoptic.occlusion.regions import Regions
from banet.panoptic.occlusion.resolve import Decision, OcclusionHandler
from banet.panoptic.segmentation import PanopticSegmentation
from banet.panoptic.validation import check_image, check_masks, check_scores, to_numpy
from banet.types import RuleLike

__all__ = ["OverlapReport", "report_overlaps"]


@dataclass(frozen=True, eq=False)
class OverlapReport:
    """Masks of N instances beside the segments that they became. A mask without pixels of its own yields no segment.

    Attributes:
        segments: (N,) int64, id of the segment that each mask became, 0 for none.
        claims: (H, W) int32, k > 0 where the segments `claimants[k - 1]` claim the pixel, 0 where fewer than two do.
        claimants: ids of segments, two or more in each tuple, ascending.
        hidden: for each segment that is a thing, by id: the masks that it hides, by index, and how many of their pixels
            it owns. Its own mask is left out, masks that became no segment are not.
        removed: the masks that went before the order was decided, and why.
        decisions: of every two other masks that overlap: which is in front, and how sure that is. Empty where the
            report was made without a rule, or with a procedure.
    """

    segments: NDArray[np.int64]
    claims: NDArray[np.int32]
    claimants: list[tuple[int, ...]]
    hidden: dict[int, dict[int, int]]
    removed: tuple[Removal, ...] = ()
    decisions: tuple[Decision, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.removed, *self.decisions)))

    @property
    def pixels(self) -> int:
        """How many pixels several segments claim."""
        return int(np.count_nonzero(self.claims))


def report_overlaps(
    result: PanopticSegmentation,
    masks: Any,
    scores: Any,
    labels: Any,
    *,
    rule: RuleLike | None = None,
    overlap_threshold: float = OVERLAP_THRESHOLD,
    clean: bool = False,
) -> OverlapReport:
    """Compare the pixels that instances claimed with those that they own.

    Which mask became which segment is told by `result.mask_indices`; where a result has lost that, as when it was read
    from a file, by score, class and pixels.

    Args:
        result: what `fuse_panoptic` made of these instances, under whatever rule.
        masks: the N masks that it was given, in any form that it takes.
        scores: (N,) theirs.
        labels: (N,) their category ids.
        rule: the rule, and
        overlap_threshold: the threshold, and
        clean: whether duplicates went first, that it was made with, for `removed` and `decisions`.

    Raises:
        ValueError: arguments that do not fit together, or a thing of the result that is not one of the instances.
    """
    objects = check_masks(masks, (result.height, result.width))
    count = len(objects)
    numbers, classes = check_scores(scores, count), to_numpy(labels)
    regions = Regions.of(objects)
    claims = np.split(regions.claims_object, np.flatnonzero(np.diff(regions.claims_region)) + 1) if count else []
    things = [segment for segment in result.segments if segment.isthing]
    owned = _owned_of_masks(result, regions, claims, [segment.id for segment in things])

    segments = np.zeros(count, dtype=np.int64)
    for segment in things:
        of_masks = owned[segment.id]
        known = result.mask_indices.get(segment.id, -1)  # equal scores do not tell which of several masks it was
        for n in [known] * (known in of_masks) + list(of_masks):
            whole = of_masks[n] == segment.area and not segments[n]
            if whole and numbers[n] == segment.score and classes[n] == segment.category_id:
                segments[n] = segment.id
                break
        else:
            raise ValueError(f"segment {segment.id} of the result is none of the {count} instances")
    hidden = {
        identity: {n: pixels for n, pixels in of_masks.items() if segments[n] != identity}
        for identity, of_masks in owned.items()
    }
    number: dict[tuple[int, ...], int] = {}
    of_region = np.zeros(len(regions.sizes), dtype=np.int64)
    for region, claimants in enumerate(claims, start=1):
        kept = tuple(sorted(int(s) for s in segments[claimants] if s))
        if len(kept) > 1:
            of_region[region] = number.setdefault(kept, len(number) + 1)
    removed: list[Removal] = []
    decisions: list[Decision] = []
    if rule is not None:
        handler = OcclusionHandler.of(rule, result.image is not None, overlap_threshold, 0, clean)
        image = None if result.image is None else check_image(result.image)
        removed, decisions = handler.decisions(objects, numbers, image)
    return OverlapReport(segments, regions.paint(of_region), list(number), hidden, tuple(removed), tuple(decisions))


def _owned_of_masks(
    result: PanopticSegmentation,
    regions: Regions,
    claims: list[NDArray[np.int64]],
    ids: list[int],
) -> dict[int, dict[int, int]]:
    """Return how many pixels of which masks, in ascending order, each of the segments `ids` owns."""
    owned: dict[int, Counter[int]] = {segment: Counter() for segment in ids}
    region_at = regions.paint(np.arange(len(regions.sizes)))
    starts, lengths = runs(region_at, result.ids)
    pairs = np.stack([region_at.reshape(-1)[starts], result.ids.reshape(-1)[starts]])
    pairs, inverse = np.unique(pairs, axis=1, return_inverse=True)
    pixels = np.bincount(inverse.reshape(-1), weights=lengths).astype(np.int64)
    for (region, segment), some in zip(pairs.T.tolist(), pixels.tolist(), strict=True):
        if region and segment in owned:
            for mask in claims[region - 1].tolist():
                owned[segment][mask] += some
    return {segment: dict(sorted(of_masks.items())) for segment, of_masks in owned.items()}
