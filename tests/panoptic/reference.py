"""Occlusion handling written down slowly and plainly, pixel by pixel, to hold the fast one against."""

from __future__ import annotations

import itertools
import math

import numpy as np
import reference_cues


def cosine(u, v):
    length = math.sqrt(sum(float(a) ** 2 for a in u)) * math.sqrt(sum(float(b) ** 2 for b in v))
    return sum(float(a) * float(b) for a, b in zip(u, v, strict=True)) / length if length > 0 else 0.0


def pixels(mask):
    return {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}


def mean_colours(sets, image):
    return [[sum(float(image[p][c]) for p in s) / len(s) for c in range(3)] if s else [0.0] * 3 for s in sets]


def first_by_score(scores, claimants):
    return min(claimants, key=lambda n: (-scores[n], n))


def winner_of(pair, shared, sets, scores, image, means, rule):
    """In front among the two of an occluded pair."""
    a, b = pair
    if rule == "appearance":
        difference = sum(cosine(image[p], means[a]) - cosine(image[p], means[b]) for p in shared) / len(shared)
        if abs(difference) > 1e-6:
            return a if difference > 0 else b
    elif rule == "area" and len(sets[a]) != len(sets[b]):
        return min(pair, key=lambda n: len(sets[n]))
    elif rule == "color-contour":
        difference = reference_cues.margin(sets[a], sets[b], image)
        if difference != 0:
            return a if difference > 0 else b
    elif callable(rule):
        difference = rule(a, b, shared)
        if difference != 0:
            return a if difference > 0 else b
    return first_by_score(scores, pair)


def has_path(arrows, start, end):
    seen, todo = set(), [start]
    while todo:
        node = todo.pop()
        if node == end:
            return True
        if node not in seen:
            seen.add(node)
            todo += [b for a, b in arrows if a == node]
    return False


def ranked_pairs(candidates):
    """Arrows taken, in order, without those that would close a cycle."""
    arrows = []
    for a, b in candidates:
        if not has_path(arrows, b, a):
            arrows.append((a, b))
    return arrows


def hidden_most(alive, sets, owned, scores, removal_threshold):
    """Object to remove, or None."""
    lost = {n: len(sets[n]) - owned[n] for n in alive}
    hidden = [n for n in alive if lost[n] > removal_threshold * len(sets[n])]
    return min(hidden, key=lambda n: (-lost[n] / len(sets[n]), scores[n], -n)) if hidden else None


def resolve(masks, scores, image, rule="appearance", overlap_threshold=0.2, removal_threshold=0.5):
    """The five steps. ``rule`` may be a function (a, b, shared pixels) -> margin."""
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=2)
    sets = [pixels(m) for m in masks]
    if rule == "heuristic":
        return heuristic(sets, scores, masks.shape[1:], removal_threshold)
    means = mean_colours(sets, image)
    alive = list(range(len(sets)))
    while True:
        occluded, others = [], []
        for a, b in itertools.combinations(alive, 2):
            shared = sets[a] & sets[b]
            if not shared:
                continue
            if len(shared) > overlap_threshold * len(sets[a]) or len(shared) > overlap_threshold * len(sets[b]):
                occluded.append((a, b))
            else:
                others.append((a, b))

        def turn(pair):
            return -max(scores[n] for n in pair), -min(scores[n] for n in pair), pair

        candidates = []
        for a, b in sorted(occluded, key=turn):
            front = winner_of((a, b), sets[a] & sets[b], sets, scores, image, means, rule)
            candidates.append((front, a + b - front))
        for a, b in sorted(others, key=turn):
            front = first_by_score(scores, (a, b))
            candidates.append((front, a + b - front))
        arrows = ranked_pairs(candidates)

        owner = np.full(masks.shape[1:], -1, dtype=np.int32)
        for y, x in np.ndindex(owner.shape):
            claimants = [n for n in alive if masks[n][y, x]]
            if rule == "appearance-pixel":
                if any(a in claimants and b in claimants for a, b in occluded):
                    likeness = {n: cosine(image[y, x], means[n]) for n in claimants}
                    best = max(likeness.values())
                    claimants = [n for n in claimants if likeness[n] >= best - 1e-6]
                if claimants:
                    owner[y, x] = first_by_score(scores, claimants)
            elif claimants:
                first = [n for n in claimants if all(m == n or has_path(arrows, n, m) for m in claimants)]
                assert len(first) == 1
                owner[y, x] = first[0]
        owned = [int((owner == n).sum()) for n in range(len(sets))]
        out = hidden_most(alive, sets, owned, scores, removal_threshold)
        if out is None:
            return owner
        alive.remove(out)


def heuristic(sets, scores, size, removal_threshold):
    """Kirillov et al.'s combination procedure for overlapping instances, as a plain loop."""
    owner = np.full(size, -1, dtype=np.int32)
    taken = set()
    for n in sorted(range(len(sets)), key=lambda n: (-scores[n], n)):
        if len(sets[n] & taken) > removal_threshold * len(sets[n]):
            continue
        for p in sets[n] - taken:
            owner[p] = n
        taken |= sets[n]
    return owner
