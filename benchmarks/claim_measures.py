"""What the studies of aggregation count per image, so that scores can be resampled over images and seeds.

A score such as PQ is a function of counts that are summed over images. `Counts` keeps them image by image; `scores`
turns any weighted sum of them into the figures of a table, and `Bootstrap` resamples images and seeds, the same ones
for every arm, so that differences between arms are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.data.scenes.context import PAIRS
from banet.data.scenes.generate import SCENE_CATEGORIES
from banet.data.scenes.stuff import STUFF_NAMES
from banet.files.atomic import atomic_path
from banet.inference.postprocess import UnfusedPrediction
from banet.modeling.config import InferenceConfig, RuleName
from banet.panoptic import PanopticSegmentation
from banet.panoptic.metrics.quality import match

Floats = NDArray[np.float64]
THINGS = SCENE_CATEGORIES.num_things
CLASSES = len(SCENE_CATEGORIES)
LIMITS = (218, 64)
"""Pixels from which a stuff segment counts: 1.33 % of 128 x 128, and what the first study took."""
RULES: tuple[RuleName, ...] = ("heuristic", "appearance")
SCORES = ("PQ", "PQ^Th", "PQ^St", "mIoU^St", "false", "missed", "pairs")
"""PQ of all, things and stuff; mIoU of stuff; false positives of stuff per 100 images; share of the pixels of missed
things that the result calls stuff; share of the pixels of look-alike stuff, called one of the pair, that have the right
class. All but `false` in per cent."""


@dataclass
class Counts:
    """What is counted in each of N images.

    Attributes:
        quality: by rule and limit, such as `heuristic-218`: (N, C, 4) sum of IoU, true positives, false positives,
            false negatives of each class.
        missed: by the same name, (N, 2): pixels of missed things, and how many of these the result calls stuff.
        confusion: (N, C, C) pixels by true class and by the logits' argmax.
    """

    quality: dict[str, NDArray[np.float32]]
    missed: dict[str, NDArray[np.int32]]
    confusion: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write them to a compressed file."""
        arrays: dict[str, Any] = {f"quality-{name}": value for name, value in self.quality.items()}
        arrays |= {f"missed-{name}": value for name, value in self.missed.items()}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, confusion=self.confusion, **arrays)

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            parts = {
                kind: {name.removeprefix(f"{kind}-"): arrays[name] for name in arrays.files if name.startswith(kind)}
                for kind in ("quality", "missed")
            }
            return cls(**parts, confusion=arrays["confusion"])


class Counter:
    """Counts images, one after the other.

    Args:
        rules: that fuse each image.
        limits: of stuff, likewise.
    """

    def __init__(self, rules: Sequence[RuleName] = RULES, limits: Sequence[int] = LIMITS) -> None:
        self.ways = {f"{rule}-{limit}": (rule, limit) for rule in rules for limit in limits}
        self.quality: dict[str, list[Floats]] = {name: [] for name in self.ways}
        self.missed: dict[str, list[list[int]]] = {name: [] for name in self.ways}
        self.confusion: list[NDArray[np.int64]] = []

    def add(self, unfused: UnfusedPrediction, truth: PanopticSegmentation, options: InferenceConfig) -> None:
        """Count one image."""
        for name, (rule, limit) in self.ways.items():
            result = unfused.fuse(SCENE_CATEGORIES, replace(options, rule=rule, stuff_area=limit))
            found = match(result, truth, SCENE_CATEGORIES)
            counts = np.zeros((CLASSES, 4))
            classes = found.ground_truth_classes[found.ground_truth]
            np.add.at(counts[:, 0], classes, found.iou)
            np.add.at(counts[:, 1], classes, 1)
            np.add.at(counts[:, 2], found.prediction_classes[found.false_positives], 1)
            np.add.at(counts[:, 3], found.ground_truth_classes[found.false_negatives], 1)
            self.quality[name].append(counts)
            missed = [truth.segments[row].id for row in found.false_negatives if truth.segments[row].isthing]
            there = np.isin(truth.ids, missed)
            stuff = np.isin(result.ids[there], [s.id for s in result.segments if not s.isthing])
            self.missed[name].append([int(there.sum()), int(stuff.sum())])
        pairs = CLASSES * SCENE_CATEGORIES.indices_of(truth.semantic) + unfused.semantic
        self.confusion.append(np.bincount(pairs.ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES))

    def counts(self) -> Counts:
        """Return what was counted."""
        return Counts(
            {name: np.array(rows, np.float32) for name, rows in self.quality.items()},
            {name: np.array(rows, np.int32) for name, rows in self.missed.items()},
            np.array(self.confusion, np.int32),
        )


def scores(counts: Counts, way: str, weights: Floats | None = None) -> dict[str, Floats]:
    """Return the figures of a table.

    Args:
        counts: of N images.
        way: rule and limit.
        weights: (R, N) how often each image counts in each of R resamples; None for once each.

    Returns:
        Each of `SCORES`, (R,) with weights, else (1,).
    """
    images = len(counts.confusion)
    w = np.ones((1, images)) if weights is None else weights
    quality = (w @ counts.quality[way].reshape(images, -1)).reshape(len(w), CLASSES, 4)
    iou, tp, fp, fn = np.moveaxis(quality, -1, 0)
    size = tp + 0.5 * fp + 0.5 * fn
    pq = np.divide(iou, size, out=np.full_like(iou, np.nan), where=size > 0)
    confusion = (w @ counts.confusion.reshape(images, -1)).reshape(len(w), CLASSES, CLASSES)
    both = np.diagonal(confusion, axis1=1, axis2=2)
    union = confusion.sum(1) + confusion.sum(2) - both
    occurs = confusion.sum(2) > 0
    iou_of = np.divide(both, union, out=np.full_like(both, np.nan), where=occurs & (union > 0))
    missed = w @ counts.missed[way]
    return {
        "PQ": 100 * np.nanmean(pq, 1),
        "PQ^Th": 100 * np.nanmean(pq[:, :THINGS], 1),
        "PQ^St": 100 * np.nanmean(pq[:, THINGS:], 1),
        "mIoU^St": 100 * np.nanmean(iou_of[:, THINGS:], 1),
        "false": 100 * fp[:, THINGS:].sum(1) / w.sum(1),
        "missed": 100 * missed[:, 1] / np.maximum(missed[:, 0], 1),
        "pairs": 100 * _right_in_pairs(confusion),
    }


def _right_in_pairs(confusion: Floats) -> Floats:
    """Return the share of right pixels among those of look-alike classes that are called one of their pair, (R,)."""
    index = {c.name: SCENE_CATEGORIES.index(c.id) for c in SCENE_CATEGORIES}
    pairs = [[index[STUFF_NAMES[a]], index[STUFF_NAMES[b]]] for a, b in PAIRS]
    blocks = [confusion[:, pair][:, :, pair] for pair in pairs]
    right = sum(np.trace(block, axis1=1, axis2=2) for block in blocks)
    return np.asarray(right / np.maximum(sum(block.sum((1, 2)) for block in blocks), 1))


class Bootstrap:
    """Resamples images and seeds; every arm with as many of both gets the same draws.

    Args:
        images: N.
        seeds: S.
        resamples: R.
    """

    def __init__(self, images: int, seeds: int, resamples: int = 2000) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.multinomial(images, np.full(images, 1 / images), resamples).astype(np.float64)
        self.seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds

    def draws(self, arm: Sequence[Counts], way: str) -> dict[str, Floats]:
        """Return each score of an arm in each resample, (R,): the mean over the drawn seeds."""
        per_seed = [scores(counts, way, self.images) for counts in arm]
        return {name: sum(self.seeds[:, k] * s[name] for k, s in enumerate(per_seed)) for name in SCORES}  # type: ignore[misc]


def mean_scores(arm: Sequence[Counts], way: str) -> dict[str, float]:
    """Return each score of an arm, the mean over its seeds."""
    per_seed = [scores(counts, way) for counts in arm]
    return {name: float(np.mean([s[name][0] for s in per_seed])) for name in SCORES}


def interval(draws: Floats) -> tuple[float, float, float]:
    """Return standard error, and the 2.5 and 97.5 per cent points, of resampled figures."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(np.std(draws, ddof=1)), float(low), float(high)


def compare(arms: Mapping[str, Sequence[Counts]], way: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return, for each arm and score, the mean, its standard error and its interval."""
    found = {}
    for name, arm in arms.items():
        draws = Bootstrap(len(arm[0].confusion), len(arm)).draws(arm, way)
        means = mean_scores(arm, way)
        found[name] = {score: _figure(means[score], draws[score]) for score in SCORES}
    return found


def difference(arm: Sequence[Counts], other: Sequence[Counts], way: str, other_way: str) -> dict[str, dict[str, float]]:
    """Return, for each score, the paired difference `arm - other`, its standard error and its interval.

    Args:
        arm: counts of each seed.
        other: of the same seeds.
        way: rule and limit of the first.
        other_way: of the second.
    """
    bootstrap = Bootstrap(len(arm[0].confusion), len(arm))
    mine, theirs = bootstrap.draws(arm, way), bootstrap.draws(other, other_way)
    here, there = mean_scores(arm, way), mean_scores(other, other_way)
    return {score: _figure(here[score] - there[score], mine[score] - theirs[score]) for score in SCORES}


def _figure(value: float, draws: Floats) -> dict[str, float]:
    error, low, high = interval(draws)
    return {"value": value, "error": error, "low": low, "high": high}
