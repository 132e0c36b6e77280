"""Occlusion handling: which object owns each pixel where masks overlap."""

from __future__ import annotations

from typing import Any

__all__ = ["resolve_occlusions"]


def __getattr__(name: str) -> Any:
    if name != "resolve_occlusions":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from banet.panoptic.occlusion.resolve import resolve_occlusions

    return resolve_occlusions
