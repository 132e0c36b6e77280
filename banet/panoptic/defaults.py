"""Names of occlusion rules and of styles of drawings, and default values of fusion.

Free of numpy, as the command line's help shows them.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BEST_OVERLAP_THRESHOLD",
    "BEST_RULE",
    "MAX_INSTANCES",
    "OVERLAP_THRESHOLD",
    "REMOVAL_THRESHOLD",
    "RULE",
    "SCORE_THRESHOLD",
    "STUFF_AREA",
    "DrawingStyle",
    "RuleName",
    "StuffStyle",
]

RuleName = Literal["appearance", "appearance-pixel", "color-contour", "score", "area", "heuristic"]
"""The rules of `banet.panoptic.RULES`; each is a function or procedure of `occlusion.rules`, with `_` for `-`."""

RULE: RuleName = "appearance"
"""The paper's rule."""
BEST_RULE: RuleName = "color-contour"
"""The rule that finds the owner most often (docs/results/occlusion_rules.md)."""
BEST_OVERLAP_THRESHOLD = 0.0
"""The overlap threshold that goes with it: it decides every overlap."""
OVERLAP_THRESHOLD = 0.2
"""Fraction of either mask above which a pair counts as occluded (the paper's)."""
REMOVAL_THRESHOLD = 0.5
"""Lost fraction above which an instance is removed (the paper's)."""
SCORE_THRESHOLD = 0.6
"""Instances score above this (the paper's)."""
MAX_INSTANCES = 100
"""Most instances per image, the best ones (our choice)."""
STUFF_AREA = 4096
"""A stuff class with fewer pixels left becomes void (the paper's, for COCO)."""

DrawingStyle = Literal["instance", "class", "contour"]
"""What the colors of a drawing tell apart: things from each other, or classes; `contour` is `instance` unfilled."""
StuffStyle = Literal["outline", "fill", "none"]
"""What a drawing shows of stuff: where it ends, a light filling too, or nothing."""
