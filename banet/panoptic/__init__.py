"""Panoptic results without a network: occlusion handling, fusion, file format, quality. Numpy only, no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from banet.panoptic.adapters import Detections, read_detections
    from banet.panoptic.categories import VOID, Categories, Category
    from banet.panoptic.fusion import fuse_panoptic
    from banet.panoptic.inputs import MaskCrops
    from banet.panoptic.occlusion import resolve_occlusions
    from banet.panoptic.quality import PanopticQuality
    from banet.panoptic.rules import RULES, Pairs, Procedure, gt_order_rule, logit_rule, match_boxes
    from banet.panoptic.segmentation import PanopticSegmentation, Segment

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
    "RULES": "rules",
    "VOID": "categories",
    "Categories": "categories",
    "Category": "categories",
    "Detections": "adapters",
    "MaskCrops": "inputs",
    "Pairs": "rules",
    "PanopticQuality": "quality",
    "PanopticSegmentation": "segmentation",
    "Procedure": "rules",
    "Segment": "segmentation",
    "fuse_panoptic": "fusion",
    "gt_order_rule": "rules",
    "logit_rule": "rules",
    "match_boxes": "rules",
    "read_detections": "adapters",
    "resolve_occlusions": "occlusion",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
