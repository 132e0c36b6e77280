"""Panoptic results without a network: occlusion handling, fusion, file format, quality. Numpy only, no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from banet._moved import renamed

if TYPE_CHECKING:
    from banet.panoptic.adapters import LibraryResult, read_detections
    from banet.panoptic.categories import VOID, Categories, Category
    from banet.panoptic.fusion import fuse_detections, fuse_panoptic
    from banet.panoptic.metrics.quality import PanopticQuality
    from banet.panoptic.metrics.video import VideoQuality
    from banet.panoptic.occlusion.redundant import find_redundant
    from banet.panoptic.occlusion.resolve import make_disjoint, resolve_occlusions
    from banet.panoptic.occlusion.rules import (
        RULES,
        Pairs,
        Procedure,
        gt_order_rule,
        logit_rule,
        match_boxes,
        needs_image,
    )
    from banet.panoptic.segmentation import PanopticSegmentation
    from banet.panoptic.segments import Segment
    from banet.panoptic.tracking.tracker import Tracker, TrackingConfig, track
    from banet.panoptic.validation import MaskCrops

__all__ = [
    "RULES",
    "VOID",
    "Categories",
    "Category",
    "LibraryResult",
    "MaskCrops",
    "Pairs",
    "PanopticQuality",
    "PanopticSegmentation",
    "Procedure",
    "Segment",
    "Tracker",
    "TrackingConfig",
    "VideoQuality",
    "find_redundant",
    "fuse_detections",
    "fuse_panoptic",
    "gt_order_rule",
    "logit_rule",
    "make_disjoint",
    "match_boxes",
    "needs_image",
    "read_detections",
    "resolve_occlusions",
    "track",
]

_HOME = {
    "RULES": "occlusion.rules",
    "VOID": "categories",
    "Categories": "categories",
    "Category": "categories",
    "LibraryResult": "adapters",
    "MaskCrops": "validation",
    "Pairs": "occlusion.rules",
    "PanopticQuality": "metrics.quality",
    "PanopticSegmentation": "segmentation",
    "Procedure": "occlusion.rules",
    "Segment": "segments",
    "Tracker": "tracking.tracker",
    "TrackingConfig": "tracking.tracker",
    "VideoQuality": "metrics.video",
    "find_redundant": "occlusion.redundant",
    "fuse_detections": "fusion",
    "fuse_panoptic": "fusion",
    "gt_order_rule": "occlusion.rules",
    "logit_rule": "occlusion.rules",
    "make_disjoint": "occlusion.resolve",
    "match_boxes": "occlusion.rules",
    "needs_image": "occlusion.rules",
    "read_detections": "adapters",
    "resolve_occlusions": "occlusion.resolve",
    "track": "tracking.tracker",
}


_renamed = renamed(__name__, {"Detections": "LibraryResult"})


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        return _renamed(name)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
