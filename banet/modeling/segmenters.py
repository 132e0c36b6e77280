"""Where the final semantic logits come from: the semantic head alone, or joined by instance features (I2S)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from banet.modeling.aggregation import InstanceToSemantic, InstanceToSemanticWithContext, Sizes
from banet.modeling.config import InferenceConfig
from banet.modeling.semantic_head import PyramidConv1x1
from banet.modeling.semantic_loss import semantic_loss
from banet.ops.host import to_device

__all__ = ["AggregatedLogits", "DirectLogits"]

_CLASSIFIER_STD = 0.01
"""Of the initial weights of classifiers, so that all classes begin nearly alike."""


class DirectLogits(nn.Module):
    """Without I2S: the first logits are the final ones, and instance features are not used.

    Args:
        semantic_channels: Channels of one level of F_S.
        num_classes: Things and stuff.
        seg_weight: lambda_s.
    """

    def __init__(self, semantic_channels: int, num_classes: int, *, seg_weight: float) -> None:
        super().__init__()
        self.first = PyramidConv1x1(semantic_channels, num_classes, std=_CLASSIFIER_STD)
        self.seg_weight = seg_weight

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Compute the final logits (B, C, H/4, W/4) from F_S, level by level."""
        logits: Tensor = self.first(semantic)
        return logits

    def score_limit(self, limits: InferenceConfig) -> float:
        """Return the score above which boxes are selected: only the panoptic instances are needed."""
        return limits.score_threshold

    def inlay_boxes(self, boxes: list[Tensor]) -> list[Tensor]:
        """Return no box for any image: the losses need none."""
        return [image_boxes[:0] for image_boxes in boxes]

    def losses(
        self,
        semantic: Sequence[Tensor],
        f_ins: Tensor,
        boxes: list[Tensor],
        sizes: Sizes,
        truth: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Compute L_seg, weighted."""
        return {"loss_seg": self.seg_weight * semantic_loss(self.first(semantic), truth)}


class AggregatedLogits(nn.Module):
    """With I2S: instance features join the semantic ones before the final logits.

    The first logits are only there to be learnt from; at inference they are not computed.

    Args:
        semantic_channels: Channels of one level of F_S.
        num_classes: Things and stuff.
        i2s: SIM, or SIM and OCM.
        channels: Channels of F_I2S.
        seg_weight: lambda_s.
        i2s_weight: lambda_i.
        inlay_share: Range of the fraction of ground-truth boxes that feed RoIInlay in training; it is drawn per image.
    """

    def __init__(
        self,
        semantic_channels: int,
        num_classes: int,
        *,
        i2s: InstanceToSemantic | InstanceToSemanticWithContext,
        channels: int,
        seg_weight: float,
        i2s_weight: float,
        inlay_share: tuple[float, float],
    ) -> None:
        super().__init__()
        self.first = PyramidConv1x1(semantic_channels, num_classes, std=_CLASSIFIER_STD)
        self.i2s = i2s
        self.final = nn.Conv2d(channels, num_classes, 1)
        self.seg_weight = seg_weight
        self.i2s_weight = i2s_weight
        self.inlay_share = inlay_share
        nn.init.normal_(self.final.weight, std=_CLASSIFIER_STD)
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Compute the final logits (B, C, H/4, W/4).

        Args:
            semantic: F_S, level by level.
            f_ins: (K, C, 14, 14) of the boxes of all images in order.
            boxes: One (L_i, 4) per image, in input pixels.
            sizes: Height and width of each image's valid area, in input pixels.
        """
        logits: Tensor = self.final(self.i2s(semantic, f_ins, boxes, sizes))
        return logits

    def score_limit(self, limits: InferenceConfig) -> float:
        """Return the score above which boxes are selected: RoIInlay's, among which the panoptic instances are."""
        return limits.inlay_threshold

    def inlay_boxes(self, boxes: list[Tensor]) -> list[Tensor]:
        """Draw the boxes that feed RoIInlay in training.

        Args:
            boxes: Ground truth, one (N_i, 4) per image.

        Returns:
            ceil(fraction * N_i) boxes of each image in their order, at least one where there is one. Where the range
            of the fraction begins at 0, the nearest whole number, which may be 0: ceil would never give it.
        """
        return [self._draw(image_boxes) for image_boxes in boxes]

    def _draw(self, boxes: Tensor) -> Tensor:
        low, high = self.inlay_share
        wanted = (low + (high - low) * torch.rand(())) * len(boxes)
        count = max(int(wanted.ceil()), min(len(boxes), 1)) if low else int(wanted.round())
        index = torch.randperm(len(boxes))[:count].sort().values
        return boxes[to_device(index, boxes.device)]

    def losses(
        self,
        semantic: Sequence[Tensor],
        f_ins: Tensor,
        boxes: list[Tensor],
        sizes: Sizes,
        truth: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Compute L_seg and L_I2S, weighted.

        Args:
            semantic: As in `forward`.
            f_ins: As in `forward`, of `boxes`.
            boxes: What `inlay_boxes` drew.
            sizes: As in `forward`.
            truth: The class index of each image's pixels, as in `semantic_loss`.
        """
        final = self(semantic, f_ins, boxes, sizes)
        return {
            "loss_seg": self.seg_weight * semantic_loss(self.first(semantic), truth),
            "loss_i2s": self.i2s_weight * semantic_loss(final, truth),
        }
