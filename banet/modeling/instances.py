"""What fusion needs of one picture, as arrays at the picture's own size; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banet.modeling.config import InferenceConfig
from banet.panoptic import MaskCrops, PanopticSegmentation, fuse_panoptic
from banet.panoptic.categories import Categories

__all__ = ["Instances", "Readout"]


@dataclass(frozen=True)
class Instances:
    """Instances of a picture at its own size.

    Attributes:
        masks: N boolean masks, which may overlap; none is empty.
        scores: (N,) float64.
        labels: (N,) category ids.
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels of the picture, unrounded.
    """

    masks: MaskCrops
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Readout:
    """All that fusion needs of one picture, so that several rules can be tried on one pass of the network.

    Attributes:
        image: (H, W, 3) uint8.
        instances: The panoptic instances.
        semantic: (H, W) category id of the best class of each pixel.
        stuff_semantic: (H, W) category id of the best stuff class, where it is asked for.
    """

    image: NDArray[np.uint8]
    instances: Instances
    semantic: NDArray[np.int64]
    stuff_semantic: NDArray[np.int64] | None = None

    def fuse(self, categories: Categories, options: InferenceConfig, *, rule: Any = None) -> PanopticSegmentation:
        """The panoptic result.

        Args:
            categories: The model's.
            options: Thresholds and the rule.
            rule: Another rule than the one of `options`.
        """
        return fuse_panoptic(
            self.instances.masks,
            self.instances.scores,
            self.instances.labels,
            self.semantic,
            self.image,
            categories=categories,
            rule=options.rule if rule is None else rule,
            stuff_area=options.stuff_area,
            thing_pixels="void" if self.stuff_semantic is None else options.thing_pixels,  # without any stuff
            stuff_semantic=self.stuff_semantic,
            overlap_threshold=options.overlap_threshold,
            removal_threshold=options.removal_threshold,
        )
