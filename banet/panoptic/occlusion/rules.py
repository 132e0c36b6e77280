"""Occlusion rules: which of two overlapping objects is in front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from banet._moved import renamed
from banet._renamed import current_value
from banet.panoptic.defaults import RuleName
from banet.panoptic.occlusion.colors import unit
from banet.panoptic.occlusion.cues import log_odds
from banet.panoptic.occlusion.pairs import NO_IMAGE, Pairs
from banet.panoptic.occlusion.ranking import rank_by_score, remove_hidden
from banet.panoptic.validation import MaskCrops, to_numpy
from banet.types import Box

__all__ = [
    "RULES",
    "Pairs",
    "Procedure",
    "Rule",
    "appearance",
    "area",
    "calibrated",
    "color_contour",
    "gt_order_rule",
    "logit_rule",
    "match_boxes",
    "needs_image",
    "probabilities",
    "score",
]

TIE = 1e-6
"""Mean similarities that differ by no more than this are a tie (our choice: the paper names no tolerance)."""

F = TypeVar("F", bound=Callable[..., Any])


Rule = Callable[[Pairs], NDArray[Any]]
"""Returns one margin per pair, (P,): above 0 the first (i) is in front, below 0 the second (j), 0 is a tie.

It is called once, before anything is removed, so the margin of a pair may depend on that pair and the image only. A
rule that reads `Pairs.image` says so with the decorator `needs_image`.
"""


@dataclass(frozen=True)
class Procedure:
    """A way to decide the owners that is not a comparison of two objects.

    Attributes:
        owners: takes the table of all overlapping pairs, the overlap threshold and the removal threshold, and returns
            the (H, W) int32 map of owners, -1 where there is none.
        needs_image: whether it reads `Pairs.image`.
    """

    owners: Callable[[Pairs, float, float], NDArray[np.int32]]
    needs_image: bool = False


def needs_image(rule: F) -> F:
    """Mark a rule as one that reads the image: without one it is refused before anything is decided."""
    vars(rule)["needs_image"] = True
    return rule


def calibrated(scale: float) -> Callable[[F], F]:
    """Mark a rule as one whose margins are log odds, up to this factor: then `probabilities` says how sure it is."""

    def mark(rule: F) -> F:
        vars(rule)["calibration"] = scale
        return rule

    return mark


def probabilities(rule: Rule | Procedure, margins: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return how likely the first object of each pair is in front, (P,), given a rule and its margins (P,).

    At least 0.5 if and only if the margin is at least 0. None where the rule is not `calibrated`.
    """
    scale = getattr(rule, "calibration", None)
    if scale is None:
        return None
    return np.where(margins < 0, np.minimum(_sigmoid(scale * margins), np.nextafter(0.5, 0)), _sigmoid(scale * margins))


@needs_image
def appearance(pairs: Pairs) -> NDArray[np.float64]:
    """Compare colors: the object whose mean color is closer to the overlap's is in front (section 3.4 of the paper).

    f(x, O) is the cosine of the colour of pixel x and the mean colour of O, taken over the whole mask (our choice; the
    paper does not say over what). The margin is the difference of the means of f over the overlap X, within `TIE` 0.
    As the mean of f(x, O) over X is the dot product of the mean unit colour of X and the unit mean colour of O, a pair
    needs three sums. Black has cosine 0 with everything. On a grey image every pair is a tie.
    """
    whole, over = pairs.color_sums()
    toward = unit(whole)
    margin: NDArray[np.float64] = ((toward[:, pairs.i] - toward[:, pairs.j]) * over).sum(axis=0) / pairs.overlap
    margin[np.abs(margin) <= TIE] = 0
    return margin


def score(pairs: Pairs) -> NDArray[np.float64]:
    """Compare scores: the object with the higher score is in front."""
    return pairs.scores[pairs.i] - pairs.scores[pairs.j]


def area(pairs: Pairs) -> NDArray[np.int64]:
    """Compare areas: the smaller object is in front."""
    return pairs.areas[pairs.j] - pairs.areas[pairs.i]


@needs_image
@calibrated(2.2)
def color_contour(pairs: Pairs) -> NDArray[np.float64]:
    """Compare colors and contours around the overlap; not from the paper, and of eight weights only.

    The margin is a sum of log odds (`cues`): whose own pixels nearby have the colours of the overlap; along whose
    contour the edges of the image run; which object would be left with too little to see; and, where the overlap is
    thin, which is smaller. It works on grey images too. It is a tie (within `TIE`), so that the score decides, where
    the image has one colour all around, and between equal masks. Pairs that share an image take about 0.1 milliseconds
    each; those that need a closer look take more, the more pixels their overlap has.
    """
    if pairs.image is None:
        raise ValueError(NO_IMAGE)
    margin = log_odds(pairs)
    margin[np.abs(margin) <= TIE] = 0
    return margin


def gt_order_rule(truth_ids: Any, matched: Any, fallback: Rule = appearance) -> Rule:
    """Return the rule that takes the order of matched objects from the ground truth (Table 4, "GT Occ").

    Where both objects of a pair are matched to a segment of the ground truth, the one in front is that whose segment
    owns more of the overlap in the panoptic map (equally much is a tie). Any other pair goes by `fallback`.

    Args:
        truth_ids: (H, W) integers, segment ids of the panoptic ground truth.
        matched: (N,) integers, the segment id that each object is matched to, 0 or less where it is to none; see
            `match_boxes`.
        fallback: the rule for all other pairs; the paper's by default.

    Returns:
        A rule for these N objects on this image.

    Raises:
        ValueError: an argument is not of that shape or holds no integers; from the rule, when the image or the number
            of objects is another.
    """
    truth, match = to_numpy(truth_ids), to_numpy(matched)
    if truth.ndim != 2 or truth.dtype.kind not in "iu":
        raise ValueError(f"truth_ids must be integers of shape (H, W), not {truth.dtype} of shape {truth.shape}")
    if match.ndim != 1 or (match.size and match.dtype.kind not in "iu"):
        raise ValueError(f"matched must be integers of shape (N,), not {match.dtype} of shape {match.shape}")

    def rule(pairs: Pairs) -> NDArray[np.float64]:
        if truth.shape != pairs.masks.size:
            raise ValueError(f"truth_ids are of size {truth.shape} (H, W) but the masks are of size {pairs.masks.size}")
        if len(match) != len(pairs.areas):
            raise ValueError(f"matched has {len(match)} entries for {len(pairs.areas)} objects")
        first, second = match[pairs.i], match[pairs.j]
        known = (first > 0) & (second > 0)
        margin = np.zeros(len(pairs))
        if not known.all():
            margin[~known] = fallback(pairs.where(~known))
        for k in np.flatnonzero(known).tolist():
            (x1, y1, x2, y2), inside = pairs.overlap_mask(k)
            there = truth[y1:y2, x1:x2][inside]
            margin[k] = np.count_nonzero(there == first[k]) - np.count_nonzero(there == second[k])
        return margin

    return needs_image(rule) if getattr(fallback, "needs_image", False) else rule


def logit_rule(mask_logits: Any, semantic_logits: Any, combine: Literal["sum", "gated"] = "sum") -> Rule:
    """Return the rule that compares the network's logits: the object with the higher mean fused logit is in front.

    With `a` the mask logit of an object at a pixel and `b` the semantic logit of its class there, the fused logit is

    * "sum": a + b, the panoptic logit of an instance in UPSNet (arXiv 1901.03784);
    * "gated": (sigmoid(a) + sigmoid(b)) (a + b), that of EfficientPS (arXiv 2004.02307).

    Those papers take the arg max pixel by pixel, over stuff as well; here an overlap goes to one of the two (ours).

    Args:
        mask_logits: (N, H, W) numbers, arrays or tensors: the mask logits of each object at full size. Or a sequence
            of N, the n-th over the box of the n-th of the `MaskCrops` that the rule will be used with. What lies
            outside of the object's mask is never looked at.
        semantic_logits: the semantic logits of each object's class, (N, H, W) or N crops likewise; for a map (C, H, W)
            and class indices of the objects that is `semantic[classes]`.
        combine: "sum" or "gated".

    Returns:
        A rule for these N objects.

    Raises:
        ValueError: an unknown `combine`; from the rule: other than N objects, logits that have neither the image's
            size nor their box's, or that are not real numbers, or not finite in an overlap.
    """
    if combine not in ("sum", "gated"):
        raise ValueError(f"combine must be 'sum' or 'gated', not {combine!r}")
    parts = {
        "mask_logits": [to_numpy(logits) for logits in mask_logits],
        "semantic_logits": [to_numpy(logits) for logits in semantic_logits],
    }

    def fused(pairs: Pairs, pair: int, n: int) -> NDArray[np.float64]:
        box, inside = pairs.overlap_mask(pair)
        a, b = (_cut(part[n], f"{name}[{n}]", pairs.masks, n, box)[inside] for name, part in parts.items())
        if not np.isfinite(a + b).all():
            raise ValueError(f"the logits of object {n} are not finite where it overlaps another")
        return a + b if combine == "sum" else (_sigmoid(a) + _sigmoid(b)) * (a + b)

    def rule(pairs: Pairs) -> NDArray[np.float64]:
        for name, part in parts.items():
            if len(part) != len(pairs.areas):
                raise ValueError(f"{name} has {len(part)} entries for {len(pairs.areas)} objects")
        margin = np.zeros(len(pairs))
        for k, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)):
            margin[k] = fused(pairs, k, i).mean() - fused(pairs, k, j).mean()
        return margin

    return rule


def _cut(logits: NDArray[Any], name: str, masks: MaskCrops, n: int, box: Box) -> NDArray[np.float64]:
    """Return the part of an object's logits, given for the image or for the object's box, that lies in `box`."""
    left, top, right, bottom = masks.boxes[n].tolist()
    if logits.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, not {logits.dtype}")
    if logits.shape == masks.size:
        left, top = 0, 0
    elif logits.shape != (bottom - top, right - left):
        raise ValueError(
            f"{name} has shape {logits.shape}; it must be that of the image, {masks.size}, or of the mask's box, "
            f"{(bottom - top, right - left)}"
        )
    x1, y1, x2, y2 = box
    return logits[y1 - top : y2 - top, x1 - left : x2 - left].astype(np.float64)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    bounded: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * x))  # never overflows
    return bounded


def match_boxes(boxes: Any, truth_boxes: Any, threshold: float = 0.5) -> NDArray[np.int64]:
    """Match each box to the ground-truth box that it overlaps most; several may match the same one.

    Args:
        boxes: (N, 4) x1, y1, x2, y2.
        truth_boxes: (M, 4) likewise.
        threshold: the least intersection over union (our choice: 0.5; the paper does not say how it matches).

    Returns:
        (N,) int64, row of the ground-truth box, the lower one of equals, or -1.
    """
    ours = to_numpy(boxes).astype(np.float64).reshape(-1, 1, 4)
    theirs = to_numpy(truth_boxes).astype(np.float64).reshape(1, -1, 4)
    if not ours.size or not theirs.size:
        return np.full(len(ours), -1, dtype=np.int64)
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    shared = sides.clip(min=0).prod(axis=2)
    union = (ours[..., 2:] - ours[..., :2]).prod(axis=2) + (theirs[..., 2:] - theirs[..., :2]).prod(axis=2) - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    best = iou.argmax(axis=1)
    return np.where(iou.max(axis=1) >= threshold, best, -1).astype(np.int64)


def _heuristic(pairs: Pairs, overlap_threshold: float, removal_threshold: float) -> NDArray[np.int32]:
    """Kirillov et al., Panoptic Segmentation (CVPR 2019): the best score first, each takes what is left for it.

    An object of which kept ones already hold more than `removal_threshold` is dropped. The overlap threshold is unused.
    """
    regions = pairs.regions
    order = np.argsort(regions.claims_object, kind="stable")
    claims = regions.claims_region[order]
    bounds = np.searchsorted(regions.claims_object[order], np.arange(len(pairs.areas) + 1))
    owner = np.full(len(regions.sizes), -1, dtype=np.int64)
    for n in np.argsort(-pairs.scores, kind="stable").tolist():
        mine = claims[bounds[n] : bounds[n + 1]]
        free = mine[owner[mine] < 0]
        if pairs.areas[n] - regions.sizes[free].sum() <= removal_threshold * pairs.areas[n]:
            owner[free] = n
    return regions.paint(owner)


def _appearance_pixel(pairs: Pairs, overlap_threshold: float, removal_threshold: float) -> NDArray[np.int32]:
    """Eq. 4 as printed: each pixel of an occluded overlap goes to that of its claimants whose mean colour it resembles.

    Similarities within `TIE` of the best go by score, then lower index; every other pixel goes by score; nearly hidden
    objects are removed as under the paper's rule (our choices).
    """
    regions, count = pairs.regions, len(pairs.areas)
    occluded = pairs.where(pairs.occluded(overlap_threshold))
    rank = rank_by_score(pairs.scores)
    overlaps = list(regions.regions_of_pairs(occluded.i, occluded.j, count))
    by_pixel = np.zeros(len(regions.sizes), dtype=bool)
    for region, _ in overlaps:
        by_pixel[region] = True
    stacks = _stacks(pairs, by_pixel) if len(occluded) else []
    before = np.zeros(count, dtype=bool)
    owned_by_pixel = np.zeros(count + 1, dtype=np.int64)  # the last entry counts pixels of nobody

    def decide(left: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        both = left[occluded.i] & left[occluded.j]
        contested = np.zeros(len(regions.sizes), dtype=bool)
        for region, pair in overlaps:
            contested[region[both[pair]]] = True
        changed = np.zeros(len(regions.sizes), dtype=bool)
        changed[regions.claims_region[(left != before)[regions.claims_object]]] = True
        before[:] = left
        for stack in stacks:
            here = np.flatnonzero(changed.take(stack.region))
            owned_by_pixel[:] -= np.bincount(stack.winner[here], minlength=count + 1)
            stack.decide(here, contested, left, rank)
            owned_by_pixel[:] += np.bincount(stack.winner[here], minlength=count + 1)
        owner = np.where(by_pixel, -1, regions.first_claimant(np.where(left, rank, count)))
        return owner, regions.owned(owner, count) + owned_by_pixel[:count]

    owners = regions.paint(remove_hidden(decide, pairs.areas, pairs.scores, removal_threshold)).reshape(-1)
    for stack in stacks:
        owners[stack.pixels] = np.where(stack.winner < count, stack.winner, -1)
    return owners.reshape(regions.size)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Pixels with k claimants: M flat indices, their regions (M,), winners (M,), claimants and similarities (M, k).

    The winner is N, the number of objects, where no claimant is left.
    """

    pixels: NDArray[np.int64]
    region: NDArray[np.int64]
    winner: NDArray[np.int64]
    claimants: NDArray[np.int64]
    similarity: NDArray[np.float64]

    def decide(
        self, here: NDArray[np.int64], contested: NDArray[np.bool_], left: NDArray[np.bool_], rank: NDArray[np.int64]
    ) -> None:
        """Write the winners of pixels `here` (positions): in `contested` regions (R,) the closest claimant left.

        Ties, and all other regions, go by `rank`.
        """
        claimants = self.claimants[here]
        similarity = np.where(contested[self.region[here], None], self.similarity[here], 0)
        similarity[~left[claimants]] = -np.inf
        closest = (similarity >= similarity.max(axis=1, keepdims=True) - TIE) & left[claimants]
        first = np.where(closest, rank[claimants], len(rank)).argmin(axis=1)
        winner = np.take_along_axis(claimants, first[:, None], axis=1)[:, 0]
        self.winner[here] = np.where(closest.any(axis=1), winner, len(rank))


def _stacks(pairs: Pairs, wanted: NDArray[np.bool_]) -> list[_Stack]:
    """Return the pixels of the regions `wanted` (R,), and how much each resembles each of its claimants."""
    regions = pairs.regions
    toward = unit(pairs.mask_sums(pairs.colors))
    stacks = []
    for some, claimants in regions.by_depth():
        row = np.full(len(regions.sizes), -1, dtype=np.int64)
        row[some] = np.arange(len(some))
        pixels, region = regions.pixels(wanted & (row >= 0))
        claimed = claimants[row[region]]
        scaled = unit(pairs.colors(pixels))
        similarity = np.stack([(scaled * toward[:, column]).sum(axis=0) for column in claimed.T], axis=1)
        stacks.append(_Stack(pixels, region, np.full(len(pixels), len(pairs.areas)), claimed, similarity))
    return stacks


heuristic = Procedure(_heuristic)
appearance_pixel = Procedure(_appearance_pixel, needs_image=True)


class _Rules(dict[str, "Rule | Procedure"]):
    """Rules by name. An old name is not an entry, but finds the rule, with a warning."""

    def __missing__(self, name: str) -> Rule | Procedure:
        known = current_value(name, stacklevel=3)
        if known not in self:
            raise KeyError(name)
        return self[known]


RULES: Mapping[str, Rule | Procedure] = MappingProxyType(
    _Rules({name: globals()[name.replace("-", "_")] for name in get_args(RuleName)})
)
"""What `rule` may name. A rule decides the occluded pairs only, and all others go by score; a procedure decides all."""


__getattr__ = renamed(__name__, {"colour_contour": "color_contour"})
