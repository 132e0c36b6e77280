"""Orders of objects: by score, by pairs in which one is in front, and without those that are nearly hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["lock_in", "rank_by_score", "remove_hidden"]

T = TypeVar("T")


def rank_by_score(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rank of each object in descending order of score, ties by lower index: (N,) int64, 0 .. N-1."""
    rank = np.empty(len(scores), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return rank


def remove_hidden(
    decide: Callable[[NDArray[np.bool_]], tuple[T, NDArray[np.int64]]],
    areas: NDArray[np.int64],
    scores: NDArray[np.float64],
    threshold: float,
) -> T:
    """Remove objects that are nearly hidden, one at a time, until none is left.

    An object is nearly hidden when it loses more than `threshold` of its area (section 3.4). Out first goes the one
    that loses the largest fraction (our choice: the paper does not say in which order), of equals the one with the
    lower score, then that of the higher index. An empty mask loses nothing.

    Args:
        decide: shares out the pixels among the objects that are left, (N,) bool; gives a result and the pixels that
            each object owns, (N,) int64.
        areas: (N,) pixels of each mask.
        scores: (N,).
        threshold: the fraction.

    Returns:
        The last result of `decide`.
    """
    left = np.ones(len(areas), dtype=bool)
    while True:
        result, owned = decide(left)
        lost = np.where(left, areas - owned, 0)
        hidden = np.flatnonzero(lost > threshold * areas)
        if not len(hidden):
            return result
        fraction = lost[hidden] / areas[hidden]
        left[hidden[np.lexsort((-hidden, scores[hidden], -fraction))[0]]] = False


def lock_in(order: list[int], arrows: Iterable[tuple[int, int]], likely: Iterable[list[int]] = ()) -> list[list[int]]:
    """Take arrows one by one, and set aside each that would close a cycle with those taken before (ranked pairs).

    Args:
        order: the nodes 0 .. N-1 in any order; on return every taken arrow points from an earlier node to a later one.
            What was taken does not depend on it, but the closer it is to the outcome, the faster.
        arrows: (from, to), in the order in which they are to be taken.
        likely: paths that may stand against arrows, as returned for a similar case; these are tried first.

    Returns:
        For each arrow a -> b that was set aside, a path b .. a of taken arrows that it would have closed.
    """
    rank = [0] * len(order)
    for at, node in enumerate(order):
        rank[node] = at
    taken: list[list[int]] = [[] for _ in order]
    known = {(path[-1], path[0]): path for path in likely}
    against = []
    for head, tail in arrows:
        if rank[head] > rank[tail]:  # else there is no path from tail to head, as paths lead only to later nodes
            path = known.get((head, tail), [])
            if path and all(after in taken[node] for node, after in pairwise(path)):
                against.append(path)
                continue
            begin, end = rank[tail], rank[head]
            source = {tail: tail}  # of each node reached from tail, the node before it
            stack = [tail]
            while stack and head not in source:
                node = stack.pop()
                for after in taken[node]:
                    if rank[after] <= end and after not in source:
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
                rank[order[at]] = at
        taken[head].append(tail)
    return against
