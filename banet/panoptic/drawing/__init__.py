"""Images of results, and of the pixels in which two results differ."""

from __future__ import annotations

import warnings
from typing import Any

__all__ = ["draw_segmentation"]


def draw_segmentation(result: Any, image: Any = None, alpha: float = 0.5, *, legend: bool = False) -> Any:
    """Paint a result over its image. Deprecated: use `PanopticSegmentation.draw`."""
    warnings.warn(
        "draw_segmentation goes in 0.3; use the method PanopticSegmentation.draw", DeprecationWarning, stacklevel=2
    )
    return result.draw(image, alpha, legend=legend)
