"""The region proposal network of Faster R-CNN on P2..P6, from torchvision's parts.

torchvision's own `RegionProposalNetwork` decides by `training` whether it returns losses and how many proposals it
keeps, and derives strides from padded sizes; here `forward` proposes and `losses` learns, in either mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from banet.modeling.config import STRIDES
from banet.modeling.sampling import BalancedSampler
from banet.ops.boxes import decode_boxes, encode_boxes, grouped_nms, large_enough, match_boxes
from banet.ops.host import true_rows

__all__ = ["ProposalLimits", "RegionProposals"]

SMOOTH_L1_BETA = 1 / 9

ProposalLimits = tuple[int, int, float]
"""Boxes a level before suppression, boxes an image after it, IoU of the suppression."""


class RegionProposals(nn.Module):
    """Anchors, their scores and regression, and the proposals that follow.

    Args:
        channels: Channels of the pyramid.
        anchor_sizes: One anchor size a level, P2..P6, in input pixels.
        anchor_ratios: Height / width of the anchors of each level.
        samples: Anchors of an image in the losses, at most half of them positive.
        positive_iou: Anchors from this IoU with a box are positive; so is the best anchor of each box.
        negative_iou: Anchors below this IoU with every box are negative.
    """

    def __init__(
        self,
        channels: int,
        *,
        anchor_sizes: Sequence[float],
        anchor_ratios: Sequence[float],
        samples: int,
        positive_iou: float,
        negative_iou: float,
    ) -> None:
        super().__init__()
        self.anchors = AnchorGenerator(
            tuple((size,) for size in anchor_sizes), (tuple(anchor_ratios),) * len(anchor_sizes)
        )
        self.head = RPNHead(channels, len(anchor_ratios))
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.sampler = BalancedSampler(samples, 0.5)

    def forward(
        self, pyramid: Sequence[Tensor], sizes: Sequence[tuple[int, int]], limits: ProposalLimits
    ) -> list[Tensor]:
        """Proposals of each image.

        Args:
            pyramid: P2..P6, (B, C, h, w).
            sizes: Height and width of the valid area of each image, in input pixels.
            limits: How many boxes to keep.

        Returns:
            One (L_i, 4) an image, inside its valid area, best first, without gradient.
        """
        scores, deltas, anchors = self._predict(pyramid)
        return self._select(scores, deltas, anchors, sizes, limits)

    def losses(
        self,
        pyramid: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        limits: ProposalLimits,
        boxes: Sequence[Tensor],
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Proposals, and the losses of scores and boxes.

        Args:
            pyramid: As in `forward`.
            sizes: As in `forward`.
            limits: As in `forward`.
            boxes: Ground truth, one (N_i, 4) an image.

        Returns:
            The proposals, L_rpn_cls and L_rpn_box.
        """
        scores, deltas, anchors = self._predict(pyramid)
        proposals = self._select(scores, deltas, anchors, sizes, limits)
        every_anchor = torch.cat(anchors)
        matches = [self._match(every_anchor, *each) for each in zip(boxes, sizes, strict=True)]
        drawn = self.sampler(matches)
        sampled, positive = (
            torch.cat([n * len(every_anchor) + rows for n, rows in enumerate(part)])
            for part in zip(*drawn, strict=True)
        )
        logits, regressions = torch.cat(scores, dim=1).float().flatten(), torch.cat(deltas, dim=1).float().flatten(0, 1)
        is_object = (torch.cat(matches)[sampled] >= 0).float()
        score_loss = F.binary_cross_entropy_with_logits(logits[sampled], is_object, reduction="sum")
        targets = [
            encode_boxes(truth[match[rows]], every_anchor[rows])
            for truth, match, (_, rows) in zip(boxes, matches, drawn, strict=True)
        ]
        box_loss = F.smooth_l1_loss(regressions[positive], torch.cat(targets), beta=SMOOTH_L1_BETA, reduction="sum")
        count = max(len(sampled), 1)
        return proposals, score_loss / count, box_loss / count

    def _match(self, anchors: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the row of the matched box for each anchor, `BELOW` for negatives, `BETWEEN` for those left out.

        Anchors whose centre lies on the padding of an image of `size` take no part.
        """
        center = (anchors[:, :2] + anchors[:, 2:]) / 2
        inside = (center[:, 0] < size[1]) & (center[:, 1] < size[0])
        ious = box_iou(boxes, anchors)
        return match_boxes(ious, self.negative_iou, self.positive_iou, keep_best=True, taking_part=inside)

    def _predict(self, pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Scores (B, A), deltas (B, A, 4) and anchors (A, 4) of each level."""
        scores, deltas = self.head(list(pyramid))
        self.anchors.set_cell_anchors(torch.float32, pyramid[0].device)
        strides: Any = [[stride, stride] for stride in STRIDES]  # as tensors they would have to be copied to the device
        anchors = self.anchors.grid_anchors([list(level.shape[-2:]) for level in pyramid], strides)
        flat_scores = [level.permute(0, 2, 3, 1).flatten(1) for level in scores]
        flat_deltas = [
            level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(level.shape[0], -1, 4) for level in deltas
        ]
        return flat_scores, flat_deltas, anchors

    @torch.no_grad()
    def _select(
        self,
        scores: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        limits: ProposalLimits,
    ) -> list[Tensor]:
        before, after, iou = limits
        top_scores, top_boxes, levels = [], [], []
        for level, (score, delta, anchor) in enumerate(zip(scores, deltas, anchors, strict=True)):
            best, index = score.float().topk(torch.sym_min(before, score.shape[1]), dim=1)
            chosen = delta.float().gather(1, index[..., None].expand(-1, -1, 4))
            top_scores.append(best)
            top_boxes.append(decode_boxes(chosen, anchor[index]))
            levels.append(torch.full_like(index[0], level))
        level_of = torch.cat(levels)
        clipped = [clip_boxes_to_image(*each) for each in zip(torch.cat(top_boxes, 1), sizes, strict=True)]
        large = true_rows([large_enough(boxes) for boxes in clipped])
        proposals = []
        for score, boxes, rows in zip(torch.cat(top_scores, 1), clipped, large, strict=True):
            boxes = boxes[rows]
            keep = _suppress(boxes, score[rows], level_of[rows], iou)[:after]
            proposals.append(boxes[keep])
        return proposals


def _suppress(boxes: Tensor, scores: Tensor, levels: Tensor, iou: float) -> Tensor:
    """Rows of the boxes (L, 4) that suppression within each level keeps, best first."""
    if not torch.compiler.is_exporting():
        return grouped_nms(boxes, scores, levels, iou)
    # It asks how many boxes there are, which a graph does not know.
    rows = true_rows([levels == level for level in range(len(STRIDES))])
    keep = torch.cat([own[nms(boxes[own], scores[own], iou)] for own in rows])
    return keep[scores[keep].argsort(descending=True)]
