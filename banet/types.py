"""Types that several packages share. Importing this module loads neither torch nor numpy nor Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = [
    "BitDepth",
    "Box",
    "ClassesLike",
    "ImageId",
    "ImageLike",
    "Precision",
    "ProcedureLike",
    "Progress",
    "RuleLike",
    "Size",
    "StrPath",
    "TensorLike",
]

StrPath: TypeAlias = str | os.PathLike[str]
"""Path of a file or folder."""

Box: TypeAlias = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels, half-open: x2 is the last column + 1."""

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

BitDepth: TypeAlias = int | Literal["auto"]
"""Bits that each sample of a 16-bit image uses, 8 to 16; `auto` finds out (see `banet.panoptic.sample_depth`)."""

ClassesLike: TypeAlias = Iterable[str | int] | str | int
"""Classes of a data set by name or id: one, or several."""

Precision: TypeAlias = Literal["32", "bf16"]
"""What a network computes in: float32, or bfloat16 where that is safe (`torch.autocast`)."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many items are done, and how many there are."""


class TensorLike(Protocol):
    """What a torch tensor has that other arrays have not."""

    def detach(self) -> Any: ...  # noqa: D102
    def cpu(self) -> Any: ...  # noqa: D102


class ProcedureLike(Protocol):
    """What `banet.panoptic.Procedure` has: a function of all overlapping pairs that returns the map of owners."""

    @property
    def owners(self) -> Callable[[Any, float, float], NDArray[np.int32]]: ...  # noqa: D102


ImageLike: TypeAlias = "StrPath | Image | NDArray[Any] | TensorLike"
"""An image: a file, a Pillow image, an array (H, W, 3), (H, W, 4) or (H, W), or a tensor (3, H, W) or (4, H, W)."""

RuleLike: TypeAlias = "str | Callable[[Any], NDArray[Any]] | ProcedureLike"
"""An occlusion rule: a name in `RULES`, a function of the occluded pairs (`Pairs`) that returns one margin per pair, or
a procedure."""

ImageId: TypeAlias = int | str
"""What a data set calls an image: a number or a text, which nothing interprets. 5 and "5" are two images."""
