"""What goes through the network and what comes out of it. Loads no torch, so arrays can stand in for tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from banet.modeling.s2i import RoISource

__all__ = ["Candidates", "Detections", "ImageBatch", "ImageOutput", "Output"]


@dataclass(frozen=True)
class ImageBatch:
    """Images of one batch, normalised and padded at the right and at the bottom.

    Attributes:
        pixels: (B, 3, H, W), H and W multiples of 32; channels last, and so is every map that follows.
        sizes: Height and width of each image without its padding.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]


@dataclass(frozen=True)
class Candidates:
    """Raw outputs of the box head for the proposals of one image.

    Attributes:
        boxes: (R, T, 4), each proposal refined for each of T thing classes, inside the image.
        scores: (R, T), softmax without the background.
    """

    boxes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Detections:
    """Instances of one image.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in pixels of the network's input.
        scores: (N,), best first.
        labels: (N,) thing index, 0..T-1; there is no background class.
        masks: (N, 28, 28) probabilities inside the box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class ImageOutput:
    """Raw outputs for one image, on the host.

    Attributes:
        boxes: (N, 4) float32 x1, y1, x2, y2 in pixels of the network's input.
        scores: (N,) float32, best first.
        labels: (N,) int64 thing index, 0..T-1.
        masks: (N, 28, 28) float32 probabilities inside the box.
        logits: Semantic logits (C, h, w) at stride 4, a numpy array or a tensor on any device; they may go on over
            padding at the right and at the bottom.
        size: Height and width of the network's input without padding.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.float32]
    logits: NDArray[np.float32] | Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Output:
    """Raw outputs for a batch; `detections, logits = model(images)` takes the two main parts.

    Attributes:
        detections: The panoptic instances of each image, boxes in pixels of the network's input.
        logits: Final semantic logits (B, C, H/4, W/4) of the padded batch; columns are class indices.
        sizes: Height and width of each image without its padding.
        candidates: Raw outputs of the box head for all proposals of each image.
        rois: RoI features, to draw masks of further boxes with.
        semantic: F_S, level by level.
    """

    detections: list[Detections]
    logits: Tensor
    sizes: list[tuple[int, int]]
    candidates: list[Candidates]
    rois: RoISource
    semantic: list[Tensor]

    def __iter__(self) -> Iterator[Any]:
        """Yield detections, then logits."""
        yield self.detections
        yield self.logits

    @property
    def images(self) -> list[ImageOutput]:
        """The outputs for each image of the batch; boxes, scores, labels and masks are copied to the host."""
        from banet.ops.host import to_host

        arrays = to_host([part for d in self.detections for part in (d.boxes, d.scores, d.labels, d.masks)])
        return [
            ImageOutput(boxes, scores, labels, masks, logits, size)
            for boxes, scores, labels, masks, logits, size in zip(
                arrays[::4], arrays[1::4], arrays[2::4], arrays[3::4], self.logits, self.sizes, strict=True
            )
        ]
