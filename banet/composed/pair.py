"""A detector and a segmenter as one predictor: instances of the one over the stuff of the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from banet.composed.classes import ClassTable, is_background, match_classes
from banet.composed.panoptic import composed_options
from banet.composed.parts import Detector, SemanticSegmenter
from banet.errors import InputError
from banet.inference.postprocess import Instances, UnfusedPrediction
from banet.inference.predictor import Predictor
from banet.panoptic import MaskCrops

__all__ = ["Pair"]


class Pair(Predictor):
    """A detector, whose classes are things, and a segmenter, of which the stuff counts.

    Args:
        detector: Finds the things.
        segmenter: Gives each pixel a class.
        table: The categories that the classes of both are matched with, by name.

    Raises:
        InputError: Classes match none of the table, or the two disagree about one.
    """

    def __init__(self, detector: Detector, segmenter: SemanticSegmenter, table: ClassTable) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.inference = composed_options(detector.threshold)
        domains = dict.fromkeys(domain for domain in (detector.domain, segmenter.domain) if domain)
        self.domain = "; ".join(domains)
        self.match(table)

    def match(self, table: ClassTable) -> None:
        """Match the classes of both models with another table; see `match_classes`."""
        background = [name for name in self.detector.classes.names if is_background(name)]
        named = [name for name in self.segmenter.classes.names if is_background(name)]
        if background:
            others = f"{self.segmenter.classes.source} has " + (f"{named[0]!r}" if named else "none")
            raise InputError(
                f"{self.detector.classes.source}: counts {background[0]!r} among the things it finds ({others}); "
                "take a detector whose classes are things, or rename the class"
            )
        self.table = table
        self.categories, indices = match_classes(table, self.detector.classes, self.segmenter.classes)
        self._thing_of, self._class_of = indices

    def predict_unfused(self, images: Sequence[NDArray[np.uint8]]) -> list[UnfusedPrediction]:
        """Run images (H, W, 3) through both networks; see `Predictor`."""
        return [unfused for unfused, _ in self._run(images, self.inference.score_threshold)]

    def predict_for_evaluation(self, images: Sequence[NDArray[np.uint8]]) -> list[tuple[UnfusedPrediction, Instances]]:
        """Run images; the instances for AP are all that score above `ap_score`."""
        return self._run(images, min(self.inference.ap_score, self.inference.score_threshold))

    def _run(self, images: Sequence[NDArray[np.uint8]], least: float) -> list[tuple[UnfusedPrediction, Instances]]:
        limits = self.inference
        most = max(limits.max_instances, limits.ap_instances if least < limits.score_threshold else 0)
        found = self.detector.detect(images, least, most)
        labels = self.segmenter.segment(images)
        results = []
        for image, instances, label_map in zip(images, found, labels, strict=True):
            self._check_sizes(image, instances, label_map)
            every = self._known(instances)
            chosen = _above(every, limits.score_threshold, limits.max_instances)
            semantic = self._class_of[label_map]
            results.append((UnfusedPrediction(image, chosen, semantic), _above(every, least, limits.ap_instances)))
        return results

    def _check_sizes(self, image: NDArray[np.uint8], instances: Instances, labels: NDArray[np.int64]) -> None:
        sizes = (instances.masks.size, labels.shape, image.shape[:2])
        if len(set(sizes)) > 1:
            first, second, third = (f"{width}x{height}" for height, width in sizes)
            raise InputError(
                f"masks of {self.detector.classes.source} are {first} and those of {self.segmenter.classes.source} "
                f"{second}, but the image is {third}; both must return the image's size"
            )

    def _known(self, instances: Instances) -> Instances:
        """Return the instances of classes that are known, with class indices (`Categories`) as labels."""
        index = self._thing_of[instances.labels]
        kept = np.flatnonzero((index >= 0) & (index < self.categories.num_things))
        return replace(_take(instances, kept), labels=index[kept])


def _above(instances: Instances, threshold: float, most: int) -> Instances:
    return _take(instances, np.flatnonzero(instances.scores > threshold)[:most])


def _take(instances: Instances, kept: NDArray[np.int64]) -> Instances:
    crops = [instances.masks.crops[n] for n in kept.tolist()]
    masks = MaskCrops(instances.masks.boxes[kept], crops, instances.masks.size)
    return Instances(masks, instances.scores[kept], instances.labels[kept], instances.boxes[kept])
