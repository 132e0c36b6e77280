"""BANet: panoptic segmentation by bidirectional aggregation with occlusion handling.

Importing this package loads no torch: its names are looked up when they are first used.

    >>> import banet
    >>> model = banet.BANet.from_pretrained("scenes")
    >>> result = model.predict("street.jpg")
    >>> result.save("street.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from banet import _moved

if TYPE_CHECKING:
    from banet.composed.load import load, models
    from banet.errors import InputError, MissingExtraError
    from banet.inference.banet import BANet
    from banet.ops import RoIInlay, roi_inlay, roi_upsample
    from banet.panoptic import (
        RULES,
        Categories,
        Category,
        MaskCrops,
        Pairs,
        PanopticQuality,
        PanopticSegmentation,
        Segment,
        Tracker,
        TrackingConfig,
        VideoQuality,
        fuse_panoptic,
        make_disjoint,
        resolve_occlusions,
        track,
    )

__version__ = "0.1.0"

__all__ = [
    "RULES",
    "BANet",
    "Categories",
    "Category",
    "InputError",
    "MaskCrops",
    "MissingExtraError",
    "Pairs",
    "PanopticQuality",
    "PanopticSegmentation",
    "RoIInlay",
    "Segment",
    "Tracker",
    "TrackingConfig",
    "VideoQuality",
    "__version__",
    "fuse_panoptic",
    "load",
    "make_disjoint",
    "models",
    "resolve_occlusions",
    "roi_inlay",
    "roi_upsample",
    "track",
]

_PANOPTIC = (
    "RULES Categories Category MaskCrops Pairs PanopticQuality PanopticSegmentation Segment Tracker TrackingConfig "
    "VideoQuality fuse_panoptic make_disjoint resolve_occlusions track"
)
_HOME = {
    "BANet": "banet.inference.banet",
    "InputError": "banet.errors",
    "load": "banet.composed.load",
    "models": "banet.composed.load",
    "MissingExtraError": "banet.errors",
    **dict.fromkeys(("RoIInlay", "roi_inlay", "roi_upsample"), "banet.ops"),
    **dict.fromkeys(_PANOPTIC.split(), "banet.panoptic"),
}
_ROOMS = (
    "checkpoint",
    "composed",
    "data",
    "engine",
    "errors",
    "files",
    "inference",
    "modeling",
    "ops",
    "panoptic",
    "types",
)

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"banet.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'banet' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
