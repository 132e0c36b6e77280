"""Panoptic results without a network: occlusion handling, fusion, file format, quality. Numpy only, no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from banet.panoptic.adapters import Detections, read_detections
    from banet.panoptic.categories import VOID, Categories, Category
    from banet.panoptic.fusion import fuse_panoptic
    from banet.panoptic.metrics.quality import PanopticQuality
    from banet.panoptic.occlusion.resolve import resolve_occlusions
    from banet.panoptic.occlusion.rules import RULES, Pairs, Procedure, gt_order_rule, logit_rule, match_boxes
    from banet.panoptic.segmentation import PanopticSegmentation, Segment
    from banet.panoptic.validation import MaskCrops

__all__ = [
    "RULES",
    "VOID",
    "Categories",
    "Category",
    "Detections",
    "MaskCrops",
    "Pairs",
    "PanopticQuality",
    "PanopticSegmentation",
    "Procedure",
    "Segment",
    "fuse_panoptic",
    "gt_order_rule",
    "logit_rule",
    "match_boxes",
    "read_detections",
    "resolve_occlusions",
]

_HOME = {
    "RULES": "occlusion.rules",
    "VOID": "categories",
    "Categories": "categories",
    "Category": "categories",
    "Detections": "adapters",
    "MaskCrops": "validation",
    "Pairs": "occlusion.rules",
    "PanopticQuality": "metrics.quality",
    "PanopticSegmentation": "segmentation",
    "Procedure": "occlusion.rules",
    "Segment": "segmentation",
    "fuse_panoptic": "fusion",
    "gt_order_rule": "occlusion.rules",
    "logit_rule": "occlusion.rules",
    "match_boxes": "occlusion.rules",
    "read_detections": "adapters",
    "resolve_occlusions": "occlusion.resolve",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
