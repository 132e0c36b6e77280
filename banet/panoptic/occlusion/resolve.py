"""Occlusion handling: overlapping instance masks in, one owner a pixel out (section 3.4 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from banet.panoptic.adapters import find_adapter
from banet.panoptic.occlusion.rules import RULES, Pairs, Procedure, Rule, remove_hidden
from banet.panoptic.validation import MaskCrops, check_image, check_masks, check_scores, like

__all__ = ["MaskCrops", "resolve_occlusions"]


@overload
def resolve_occlusions(
    masks: NDArray[Any],
    scores: Any,
    image: Any,
    *,
    rule: str | Rule | Procedure = ...,
    overlap_threshold: float = ...,
    removal_threshold: float = ...,
) -> NDArray[np.int32]: ...
@overload
def resolve_occlusions(
    masks: Any,
    scores: Any = ...,
    image: Any = ...,
    *,
    rule: str | Rule | Procedure = ...,
    overlap_threshold: float = ...,
    removal_threshold: float = ...,
) -> Any: ...
def resolve_occlusions(
    masks: Any,
    scores: Any = None,
    image: Any = None,
    *,
    rule: str | Rule | Procedure = "appearance",
    overlap_threshold: float = 0.2,
    removal_threshold: float = 0.5,
) -> Any:
    """Gives every pixel that overlapping masks claim to one object.

    1. Two objects are *occluded* when their overlap is more than `overlap_threshold` of the one or the other. The rule
       says which of the two is in front; a tie goes by score, then lower index. In any other overlapping pair the
       higher score (then the lower index) is in front.
    2. The pairs are locked in one by one: the occluded ones first (our choice), in descending pair score (the higher of
       the two scores; ties: the higher of the lower scores, then the indices), then the others likewise. A pair that
       would close a cycle is set aside ("ranked pairs").
    3. A pixel goes to the first of its claimants.
    4. Of the objects that lost more than `removal_threshold` of their area the one that lost the largest share is
       removed (one at a time: our choice), and everything starts again with the rest.

    Which object gets which pixel does not depend on the order of the objects, save where scores tie. The work is done
    in numpy, in float64 and exact integer counts.

    Args:
        masks: (N, H, W) bool, or integers 0 and 1; or `MaskCrops` with the same result. Or what another library found
            in one picture: a torchvision detection dict, detectron2 `Instances`, mmdetection `DetDataSample`,
            Ultralytics `Results`, the dict of a Hugging Face instance post-processing, or `supervision.Detections`
            (see `banet.panoptic.adapters`); scores, and the picture of Ultralytics' results, then come with it.
        scores: (N,) finite numbers.
        image: RGB (H, W, 3), as a torch tensor (3, H, W); or grey (H, W), on which the appearance rules tie everywhere
            and so the score decides. uint8, or float in 0..255. None will do for rules that do not look at it.
        rule: a name in `RULES`; or a function that is given the occluded pairs (`Pairs`) and returns one margin a pair,
            above 0 where the first of the two is in front, 0 for a tie; or a `Procedure`.
        overlap_threshold: 0.2 in the paper.
        removal_threshold: 0.5 in the paper.

    Returns:
        Owners, (H, W) int32: index of the object that owns the pixel, -1 where none does. Where the masks are torch
        tensors it is a torch tensor on their device, else a numpy array.

        Given another library's result, a new one of the same type, with disjoint masks: objects that own no pixel are
        left out, all others keep their boxes (which are not refitted), scores and classes.

    Raises:
        ValueError: masks, scores and image do not fit together or hold values that they may not; a threshold outside
            0..1; an unknown rule, or a rule that does not return one number a pair.
    """
    adapter = find_adapter(masks)
    if adapter is not None:
        found = adapter(masks)
        if getattr(scores, "ndim", 1) > 1:
            raise ValueError("the second argument is scores; give the picture by its name: image=...")
        if not len(found):  # nothing to decide
            return found.rebuild(np.zeros(0, np.int64), np.zeros(found.masks.shape, bool))
        owners = resolve_occlusions(
            found.masks,
            found.scores if scores is None else scores,
            found.image if image is None else image,
            rule=rule,
            overlap_threshold=overlap_threshold,
            removal_threshold=removal_threshold,
        )
        return found.disjoint(owners)
    picture = None if image is None else check_image(image)
    if scores is None:
        raise ValueError("scores are missing: give one a mask")
    objects = check_masks(masks, None if picture is None else (picture.shape[0], picture.shape[1]))
    numbers = check_scores(scores, len(objects))
    for name, value in (("overlap_threshold", overlap_threshold), ("removal_threshold", removal_threshold)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in 0..1, not {value}")
    decide = _look_up(rule)
    pairs = Pairs.of(objects, numbers, picture)
    if isinstance(decide, Procedure):
        owners = decide.owners(pairs, overlap_threshold, removal_threshold)
    else:
        owners = _ranked_pairs(pairs, decide, overlap_threshold, removal_threshold)
    return like(owners, masks)


def _look_up(rule: str | Rule | Procedure) -> Rule | Procedure:
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; there are {', '.join(map(repr, RULES))}")
        return RULES[rule]
    if not isinstance(rule, Procedure) and not callable(rule):
        raise ValueError(f"rule must be a name or a function of the pairs, not {rule!r}")
    return rule


def _ranked_pairs(pairs: Pairs, rule: Rule, overlap_threshold: float, removal_threshold: float) -> NDArray[np.int32]:
    """The four steps of `resolve_occlusions`. A removal changes neither overlaps nor margins, only who is left."""
    count, regions, scores = len(pairs.areas), pairs.regions, pairs.scores
    occluded = pairs.occluded(overlap_threshold)
    margin = np.zeros(len(pairs))
    margin[occluded] = _margins(rule, pairs.where(occluded))
    by_score = scores[pairs.i] >= scores[pairs.j]
    forward = np.where(margin == 0, by_score, margin > 0)
    front, back = np.where(forward, pairs.i, pairs.j), np.where(forward, pairs.j, pairs.i)
    higher = np.maximum(scores[pairs.i], scores[pairs.j])
    lower = np.minimum(scores[pairs.i], scores[pairs.j])
    turn = np.lexsort((pairs.j, pairs.i, -lower, -higher, ~occluded))
    front, back = front[turn], back[turn]
    behind = np.bincount(back, minlength=count) - np.bincount(front, minlength=count)
    order = np.argsort(behind, kind="stable").tolist()  # of all objects, front to back; lock_in sorts it in place
    place = np.zeros(count, dtype=np.int64)  # of each object in that order
    against: list[list[int]] | None = None  # what stands against the pairs set aside

    def decide(left: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        nonlocal against
        here = left.tolist()
        if against is not None:  # a removal frees a pair that was set aside only if it breaks the path against it
            against = [path for path in against if here[path[0]] and here[path[-1]]]
        if against is None or not all(here[node] for path in against for node in path):
            both = left[front] & left[back]
            against = lock_in(order, zip(front[both].tolist(), back[both].tolist(), strict=True), against or ())
            place[order] = np.arange(count)
        owner = regions.first_claimant(np.where(left, place, count))
        return owner, regions.owned(owner, count)

    return regions.paint(remove_hidden(decide, pairs.areas, scores, removal_threshold))


def _margins(rule: Callable[[Pairs], Any], pairs: Pairs) -> NDArray[np.float64]:
    if not len(pairs):
        return np.zeros(0)
    margin = np.asarray(rule(pairs))
    if margin.shape != (len(pairs),) or margin.dtype.kind not in "fiu":
        raise ValueError(f"the rule must return {len(pairs)} margins, not {margin.dtype} of shape {margin.shape}")
    if np.isnan(margin).any():
        raise ValueError("the rule returned a margin that is not a number")
    return margin.astype(np.float64)


def lock_in(order: list[int], arrows: Iterable[tuple[int, int]], likely: Iterable[list[int]] = ()) -> list[list[int]]:
    """Ranked pairs: takes arrows one by one, and sets aside each that would close a cycle with those taken before.

    Args:
        order: the nodes 0 .. N-1 in any order; on return every taken arrow points from an earlier node to a later one.
            What was taken does not depend on it, but the closer it is to the outcome, the faster.
        arrows: (from, to), in the order in which they are to be taken.
        likely: paths that may stand against arrows, as returned for a similar case; these are tried first.

    Returns:
        For each arrow a -> b that was set aside, a path b .. a of taken arrows that it would have closed.
    """
    place = [0] * len(order)
    for at, node in enumerate(order):
        place[node] = at
    taken: list[list[int]] = [[] for _ in order]
    known = {(path[-1], path[0]): path for path in likely}
    against = []
    for head, tail in arrows:
        if place[head] > place[tail]:  # else there is no path from tail to head, as paths lead only to later nodes
            path = known.get((head, tail), [])
            if path and all(after in taken[node] for node, after in pairwise(path)):
                against.append(path)
                continue
            begin, end = place[tail], place[head]
            source = {tail: tail}  # of each node reached from tail, the node before it
            stack = [tail]
            while stack and head not in source:
                node = stack.pop()
                for after in taken[node]:
                    if place[after] <= end and after not in source:
                        source[after] = node
                        stack.append(after)
            if head in source:
                path = [head]
                while path[-1] != tail:
                    path.append(source[path[-1]])
                against.append(path[::-1])
                continue
            stretch = order[begin : end + 1]  # move what tail leads to, in the order it has, behind head
            order[begin : end + 1] = [n for n in stretch if n not in source] + [n for n in stretch if n in source]
            for at in range(begin, end + 1):
                place[order[at]] = at
        taken[head].append(tail)
    return against
