"""Where RoI features come from: the pyramid alone, or the pyramid joined by semantic features (S2I, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from banet.modeling.config import STRIDES
from banet.modeling.semantic_head import PyramidConv1x1
from banet.ops.roi_align import PyramidRoIAlign

__all__ = ["BOX_SIZE", "MASK_SIZE", "PyramidRoIs", "RoISource", "S2IRoIs"]

BOX_SIZE = 7
MASK_SIZE = 14


@dataclass(frozen=True)
class RoISource:
    """Crops features of the images of one batch.

    Attributes:
        box: boxes, a list of (L_i, 4) in input pixels, to (K, C, 7, 7).
        mask: the same boxes to (K, C, 14, 14).
    """

    box: Callable[[list[Tensor]], Tensor]
    mask: Callable[[list[Tensor]], Tensor]


class PyramidRoIs(nn.Module):
    """RoI features of Mask R-CNN: each box from the pyramid level that its size selects."""

    def __init__(self, *, canonical_size: float = 224) -> None:
        super().__init__()
        self.box_align = PyramidRoIAlign(BOX_SIZE, strides=STRIDES[:4], canonical_size=canonical_size)
        self.mask_align = PyramidRoIAlign(MASK_SIZE, strides=STRIDES[:4], canonical_size=canonical_size)

    def forward(self, pyramid: Sequence[Tensor], semantic: Sequence[Tensor]) -> RoISource:
        """Bind the features of a batch: P2..P5, and F_S level by level, which is not used here."""
        return RoISource(
            box=lambda boxes: self.box_align(pyramid, boxes),
            mask=lambda boxes: self.mask_align(pyramid, boxes),
        )


class S2IRoIs(PyramidRoIs):
    """F_S2I = phi(crop of F_S) + crop of P_i (eq. 1).

    phi is a 1x1 convolution, shared by box and mask branch. It is applied before the crop, which commutes with it.

    Args:
        semantic_channels: Channels of one level of F_S.
        channels: Channels of the pyramid.
        canonical_size: Side of the box whose features come from level 4, in input pixels.
    """

    def __init__(self, semantic_channels: int, channels: int, *, canonical_size: float = 224) -> None:
        super().__init__(canonical_size=canonical_size)
        self.phi = PyramidConv1x1(semantic_channels, channels)

    def forward(self, pyramid: Sequence[Tensor], semantic: Sequence[Tensor]) -> RoISource:
        """Bind the features of a batch: P2..P5, and F_S level by level."""
        phi = self.phi(semantic)
        # Boxes of the finest level need one crop, as both maps have its stride.
        joined = [pyramid[0] + phi, *pyramid[1:]]
        return RoISource(
            box=lambda boxes: self.box_align(joined, boxes, phi),
            mask=lambda boxes: self.mask_align(joined, boxes, phi),
        )
