"""Operators between boxes and feature maps: tensors in, tensors out; they know nothing of the network."""

from __future__ import annotations

from .deform_conv import DeformableConv2d
from .paste import paste_masks
from .roi_align import PyramidRoIAlign, box_levels, roi_align
from .roi_inlay import RoIInlay, roi_inlay, roi_upsample

__all__ = [
    "DeformableConv2d",
    "PyramidRoIAlign",
    "RoIInlay",
    "box_levels",
    "paste_masks",
    "roi_align",
    "roi_inlay",
    "roi_upsample",
]
