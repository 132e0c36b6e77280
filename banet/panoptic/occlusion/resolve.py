"""Occlusion handling: overlapping instance masks in, one owner per pixel out (section 3.4 of the paper)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from banet._renamed import current_value
from banet.panoptic.adapters import find_adapter, read_detections
from banet.panoptic.defaults import BEST_OVERLAP_THRESHOLD, BEST_RULE, OVERLAP_THRESHOLD, REMOVAL_THRESHOLD, RULE
from banet.panoptic.occlusion.ranking import lock_in, remove_hidden
from banet.panoptic.occlusion.redundant import Removal, redundant_of, without
from banet.panoptic.occlusion.rules import RULES, Pairs, Procedure, Rule, probabilities
from banet.panoptic.validation import MaskCrops, as_input_type, check_instances
from banet.types import RuleLike

__all__ = ["Decision", "MaskCrops", "OcclusionHandler", "make_disjoint", "resolve_occlusions"]


@overload
def resolve_occlusions(
    masks: NDArray[Any],
    scores: Any,
    image: Any,
    *,
    rule: RuleLike = ...,
    overlap_threshold: float = ...,
    removal_threshold: float = ...,
) -> NDArray[np.int32]: ...
@overload
def resolve_occlusions(
    masks: Any,
    scores: Any = ...,
    image: Any = ...,
    *,
    rule: RuleLike = ...,
    overlap_threshold: float = ...,
    removal_threshold: float = ...,
) -> Any: ...
def resolve_occlusions(
    masks: Any,
    scores: Any = None,
    image: Any = None,
    *,
    rule: RuleLike = RULE,
    overlap_threshold: float = OVERLAP_THRESHOLD,
    removal_threshold: float = REMOVAL_THRESHOLD,
) -> Any:
    """Decide which object owns each pixel that overlapping masks claim.

    1. Two objects are *occluded* when their overlap is more than `overlap_threshold` of the one or the other. The rule
       says which of the two is in front; a tie goes by score, then lower index. In any other overlapping pair the
       higher score (then the lower index) is in front.
    2. The pairs are locked in one by one: the occluded ones first (our choice), in descending pair score (the higher of
       the two scores; ties: the higher of the lower scores, then the indices), then the others likewise. A pair that
       would close a cycle is set aside ("ranked pairs").
    3. A pixel goes to the first of its claimants.
    4. Of the objects that lost more than `removal_threshold` of their area the one that lost the largest fraction is
       removed (one at a time: our choice), and everything starts again with the rest.

    Which object gets which pixel does not depend on the order of the objects, except where scores tie. The work is done
    in numpy, in float64 and exact integer counts.

    Args:
        masks: (N, H, W) bool, or integers 0 and 1; or a list of N such (H, W); or `MaskCrops`, with the same result.
            For what another library found in an image see `make_disjoint`; such a result is accepted here until version
            0.3, with a DeprecationWarning.
        scores: (N,) finite numbers.
        image: RGB (H, W, 3), as a torch tensor (3, H, W); or grey (H, W), on which the appearance rules tie everywhere
            and so the score decides. uint8, or float in 0..255. May be None for rules that do not look at it.
        rule: a name in `RULES`; or a function that is given the occluded pairs (`Pairs`) and returns one margin per
            pair, above 0 where the first of the two is in front, 0 for a tie; or a `Procedure`.
        overlap_threshold: 0.2 in the paper.
        removal_threshold: 0.5 in the paper.

    Returns:
        Owners, (H, W) int32, the index of the object that owns the pixel, -1 where none does. Where the masks are torch
        tensors it is a torch tensor on their device, else a numpy array.

    Raises:
        ValueError: masks, scores and image do not fit together or hold invalid values; a threshold outside 0..1; an
            unknown rule, a rule that needs the image where there is none, or one that does not return one number per
            pair.
    """
    if not isinstance(masks, (np.ndarray, MaskCrops)) and find_adapter(masks) is not None:
        warnings.warn(
            "resolve_occlusions takes masks; for results of other libraries use make_disjoint(result, image). "
            "They are accepted here until 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        if getattr(scores, "ndim", 1) > 1:
            raise ValueError("the second argument is scores; give the image by its name: image=...")
        return make_disjoint(
            masks,
            image,
            scores=scores,
            rule=rule,
            overlap_threshold=overlap_threshold,
            removal_threshold=removal_threshold,
            clean=False,
        )
    handler = OcclusionHandler.of(rule, image is not None, overlap_threshold, removal_threshold)
    return as_input_type(handler.owners(*check_instances(masks, scores, image)), masks)


def make_disjoint(
    result: Any,
    image: Any = None,
    *,
    scores: Any = None,
    rule: RuleLike = BEST_RULE,
    overlap_threshold: float = BEST_OVERLAP_THRESHOLD,
    removal_threshold: float = REMOVAL_THRESHOLD,
    clean: bool = True,
) -> Any:
    """Return what another library found in one image with disjoint masks, in the library's own type.

    Every overlap goes by the rule that finds the owner most often on real detections. The paper's are
    `rule="appearance", overlap_threshold=0.2, clean=False`.

    Objects that own no pixel are left out: duplicates and merged blobs, those of which others hide too much, and empty
    masks. All others keep their boxes (which are not refitted), scores, classes and whatever else the result says of
    them.

    Args:
        result: a torchvision or LightlyTrain dict, detectron2 `Instances` or `panoptic_seg`, mmdetection
            `DetDataSample`, Ultralytics `Results`, the dict of a Hugging Face instance or panoptic post-processing,
            SAM's list of dicts, or `supervision.Detections`. It is recognised by its whole shape, and not changed.
        image: as for `resolve_occlusions`; Ultralytics' results come with theirs.
        scores: (N,), in place of the result's own.
        rule: as for `resolve_occlusions`; by default the best one.
        overlap_threshold: as for `resolve_occlusions`; by default every overlap goes by the rule.
        removal_threshold: as for `resolve_occlusions`.
        clean: whether an object that was found twice, under whatever classes, and one mask over several objects go
            first (`find_redundant` says which and why).

    Raises:
        TypeError: `result` is not one of these; the message says what it holds.
        ValueError: `result` resembles one of these, but a part of it has the wrong type or shape; and what
            `resolve_occlusions` raises.
    """
    found = read_detections(result)
    pixels = found.image if image is None else image
    handler = OcclusionHandler.of(rule, pixels is not None, overlap_threshold, removal_threshold, clean)
    if not len(found):  # nothing to decide
        return found.rebuild(np.zeros(0, np.int64), found.masks)
    instances = check_instances(found.masks, found.scores if scores is None else scores, pixels)
    return found.disjoint(handler.owners(*instances))


@dataclass(frozen=True)
class OcclusionHandler:
    """A rule and the two thresholds, validated, which decide the owners of validated instances.

    Attributes:
        rule: what decides.
        overlap_threshold: see `resolve_occlusions`.
        removal_threshold: see `resolve_occlusions`.
        clean: whether duplicates and merged blobs go first, see `find_redundant`.
    """

    rule: Rule | Procedure
    overlap_threshold: float
    removal_threshold: float
    clean: bool = False

    @classmethod
    def of(
        cls,
        rule: RuleLike,
        has_image: bool,
        overlap_threshold: float,
        removal_threshold: float,
        clean: bool = False,
    ) -> OcclusionHandler:
        """Validate the options of occlusion handling; see `resolve_occlusions`.

        Args:
            rule: a name, function or procedure.
            has_image: whether there will be an image.
            overlap_threshold: 0..1.
            removal_threshold: 0..1.
            clean: whether duplicates and merged blobs go first.

        Raises:
            ValueError: a threshold outside 0..1, an unknown rule, or one that needs an image where there is none.
        """
        for name, value in (("overlap_threshold", overlap_threshold), ("removal_threshold", removal_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, not {value}")
        rule = current_value(rule, stacklevel=4)
        if isinstance(rule, str) and rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; there are {', '.join(map(repr, RULES))}")
        found = RULES[rule] if isinstance(rule, str) else rule
        if not isinstance(found, Procedure) and not callable(found):
            raise ValueError(f"rule must be a name or a function of the pairs, not {found!r}")
        if getattr(found, "needs_image", False) and not has_image:
            name = rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
            blind = ", ".join(repr(name) for name, each in RULES.items() if not getattr(each, "needs_image", False))
            raise ValueError(
                f"the rule {name!r} looks at the image, but image is None: give it, or a rule that does without "
                f"({blind})"
            )
        return cls(found, overlap_threshold, removal_threshold, clean)

    @property
    def needs_image(self) -> bool:
        """Whether the rule reads the image, as it says itself."""
        return bool(getattr(self.rule, "needs_image", False))

    def owners(self, masks: MaskCrops, scores: NDArray[np.float64], image: NDArray[Any] | None) -> NDArray[np.int32]:
        """Decide the owner of each pixel, (H, W) int32; the arguments are what `check_instances` returns."""
        pairs = Pairs.of(masks, scores, image)
        if self.clean and (removed := redundant_of(pairs)):
            pairs = Pairs.of(without(masks, removed), scores, image)
        if isinstance(self.rule, Procedure):
            return self.rule.owners(pairs, self.overlap_threshold, self.removal_threshold)
        return _ranked_pairs(pairs, self.rule, self.overlap_threshold, self.removal_threshold)

    def decisions(
        self, masks: MaskCrops, scores: NDArray[np.float64], image: NDArray[Any] | None
    ) -> tuple[list[Removal], list[Decision]]:
        """Return what is removed first, and what the rule says of every two objects that overlap then.

        The arguments are those of `owners`. A procedure compares no two objects: there are no decisions then.
        """
        pairs = Pairs.of(masks, scores, image)
        removed = redundant_of(pairs) if self.clean else []
        if removed:
            pairs = Pairs.of(without(masks, removed), scores, image)
        if isinstance(self.rule, Procedure):
            return removed, []
        margins = _margins(self.rule, pairs, pairs.occluded(self.overlap_threshold))
        sure = probabilities(self.rule, np.abs(margins))
        decided = []
        for k, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)):
            by_rule = margins[k] != 0
            first = margins[k] > 0 if by_rule else scores[i] >= scores[j]
            front, back = (i, j) if first else (j, i)
            probability = float(sure[k]) if by_rule and sure is not None else None
            how: Literal["rule", "score"] = "rule" if by_rule else "score"
            decided.append(Decision(front, back, int(pairs.overlap[k]), how, probability))
        return removed, decided


@dataclass(frozen=True)
class Decision:
    """What was decided of two objects that overlap.

    Attributes:
        front: index of the object in front.
        back: index of the other one.
        overlap: pixels that both claim.
        by: whether the rule decided, or the score: where the overlap is below the threshold, or the rule a tie.
        probability: how likely the rule is right, 0.5..1; None where it is not calibrated or the score decided.
    """

    front: int
    back: int
    overlap: int
    by: Literal["rule", "score"]
    probability: float | None

    def __str__(self) -> str:
        sure = "" if self.probability is None else f", {100 * self.probability:.0f} % sure"
        return f"{self.front} in front of {self.back} ({self.overlap} pixels, by {self.by}{sure})"


def _ranked_pairs(pairs: Pairs, rule: Rule, overlap_threshold: float, removal_threshold: float) -> NDArray[np.int32]:
    """Run the four steps of `resolve_occlusions`. A removal changes neither overlaps nor margins, only who is left."""
    count, regions, scores = len(pairs.areas), pairs.regions, pairs.scores
    occluded = pairs.occluded(overlap_threshold)
    margin = _margins(rule, pairs, occluded)
    forward = np.where(margin == 0, scores[pairs.i] >= scores[pairs.j], margin > 0)
    front, back = np.where(forward, pairs.i, pairs.j), np.where(forward, pairs.j, pairs.i)
    higher = np.maximum(scores[pairs.i], scores[pairs.j])
    lower = np.minimum(scores[pairs.i], scores[pairs.j])
    turn = np.lexsort((pairs.j, pairs.i, -lower, -higher, ~occluded))
    front, back = front[turn], back[turn]
    behind = np.bincount(back, minlength=count) - np.bincount(front, minlength=count)
    order = np.argsort(behind, kind="stable").tolist()  # of all objects, front to back; lock_in sorts it in rank
    rank = np.zeros(count, dtype=np.int64)  # of each object in that order
    against: list[list[int]] | None = None  # what stands against the pairs set aside

    def decide(left: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        nonlocal against
        here = left.tolist()
        if against is not None:  # a removal frees a pair that was set aside only if it breaks the path against it
            against = [path for path in against if here[path[0]] and here[path[-1]]]
        if against is None or not all(here[node] for path in against for node in path):
            both = left[front] & left[back]
            against = lock_in(order, zip(front[both].tolist(), back[both].tolist(), strict=True), against or ())
            rank[order] = np.arange(count)
        owner = regions.first_claimant(np.where(left, rank, count))
        return owner, regions.owned(owner, count)

    return regions.paint(remove_hidden(decide, pairs.areas, scores, removal_threshold))


def _margins(rule: Callable[[Pairs], Any], pairs: Pairs, wanted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the margins of the pairs that are `wanted` (P,), 0 for the others: (P,)."""
    margins = np.zeros(len(pairs))
    some = pairs.where(wanted)
    if not len(some):
        return margins
    margin = np.asarray(rule(some))
    if margin.shape != (len(some),) or margin.dtype.kind not in "fiu":
        raise ValueError(f"the rule must return {len(some)} margins, not {margin.dtype} of shape {margin.shape}")
    if np.isnan(margin).any():
        raise ValueError("the rule returned a margin that is not a number")
    margins[wanted] = margin
    return margins
