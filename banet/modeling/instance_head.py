"""The box head and the mask head of Mask R-CNN, with F_ins taken out before the deconvolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, clip_boxes_to_image, nms

from banet.modeling.config import LossConfig
from banet.modeling.outputs import Candidates, Detections
from banet.modeling.s2i import BOX_SIZE
from banet.modeling.sampling import BalancedSampler
from banet.ops.bilinear import bin_samples, linear_taps
from banet.ops.boxes import decode_boxes, encode_boxes, grouped_nms, large_enough, match_boxes
from banet.ops.host import true_rows

__all__ = [
    "BoxHead",
    "MaskHead",
    "RoISampler",
    "RoISamples",
    "mask_targets",
    "select_for_ap",
    "select_for_panoptic",
]

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
MASK_OUTPUT = 28


class BoxHead(nn.Module):
    """Two fully connected layers, then classes and boxes.

    Args:
        channels: Channels of the RoI features.
        hidden: Width of the fully connected layers.
        num_things: T. The class logits have T + 1 columns, the last one the background; boxes have none for it.
        beta: Where L_box turns from a square to a line.
    """

    def __init__(self, channels: int, hidden: int, num_things: int, *, beta: float = LossConfig.box_beta) -> None:
        super().__init__()
        self.num_things = num_things
        self.beta = beta
        self.fc1 = nn.Linear(channels * BOX_SIZE**2, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classes = nn.Linear(hidden, num_things + 1)
        # A data set without things has no box to refine; one unused column keeps the layer defined.
        self.boxes = nn.Linear(hidden, 4 * max(num_things, 1))
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.zeros_(self.classes.bias)
        nn.init.normal_(self.boxes.weight, std=0.001)
        nn.init.zeros_(self.boxes.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (K, T + 1), background last, and deltas (K, T, 4) of RoI features (K, C, 7, 7)."""
        x = F.relu(self.fc1(features.flatten(1)), inplace=True)
        x = F.relu(self.fc2(x), inplace=True)
        return self.classes(x).float(), self.boxes(x).unflatten(1, (-1, 4)).float()[:, : self.num_things]

    def candidates(
        self, features: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Candidates]:
        """Scores and refined boxes of each image.

        Args:
            features: (K, C, 7, 7), the RoI features of all proposals in order.
            proposals: One (L_i, 4) an image.
            sizes: Height and width of each image's valid area.
        """
        logits, deltas = self(features)
        scores = logits.softmax(-1)[:, : self.num_things]
        counts = [p.shape[0] for p in proposals]
        result = []
        for score, delta, boxes, size in zip(scores.split(counts), deltas.split(counts), proposals, sizes, strict=True):
            refined = decode_boxes(delta, boxes[:, None], BOX_WEIGHTS)
            result.append(Candidates(clip_boxes_to_image(refined, size), score))
        return result

    def losses(self, features: Tensor, samples: Sequence[RoISamples]) -> tuple[Tensor, Tensor]:
        """L_cls and L_box of sampled RoIs, (K, C, 7, 7) in order."""
        logits, deltas = self(features)
        labels = torch.cat([s.labels for s in samples])
        classes = labels.where(labels >= 0, self.num_things)
        count = max(len(labels), 1)
        starts = accumulate((len(s.labels) for s in samples), initial=0)
        positive = torch.cat([start + s.positive for start, s in zip(starts, samples, strict=False)])
        targets = torch.cat([encode_boxes(s.truth_boxes, s.boxes[s.positive], BOX_WEIGHTS) for s in samples])
        class_loss = F.cross_entropy(logits, classes, reduction="sum") / count
        chosen = deltas[positive, labels[positive]]
        box_loss = F.smooth_l1_loss(chosen, targets, beta=self.beta, reduction="sum") / count
        return class_loss, box_loss


class MaskHead(nn.Module):
    """Three 3x3 convolutions (F_ins), a deconvolution and one mask per class.

    Args:
        in_channels: Channels of the RoI features.
        channels: Channels of F_ins.
        num_things: T, the number of masks.
    """

    def __init__(self, in_channels: int, channels: int, num_things: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.deconv = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        # A data set without things has no mask to draw; one unused plane keeps the convolution defined.
        self.masks = nn.Conv2d(channels, max(num_things, 1), 1)
        for layer in (self.deconv, self.masks):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def features(self, rois: Tensor) -> Tensor:
        """F_ins, (K, channels, 14, 14), of RoI features (K, C, 14, 14)."""
        result: Tensor = self.convs(rois)
        return result

    def forward(self, f_ins: Tensor, labels: Tensor) -> Tensor:
        """Mask logits (K, 28, 28) of F_ins for the class `labels` (K,) of each box."""
        x = F.relu(self.deconv(f_ins), inplace=True)
        # Only the plane of each box's class is read, so only that one is computed.
        weight, bias = self.masks.weight.flatten(1)[labels], self.masks.bias[labels]  # type: ignore[index]
        # Not an einsum: there, ONNX Runtime 1.23 divides by the number of boxes, which may be zero.
        planes = torch.bmm(weight[:, None], x.flatten(2)).reshape(-1, *x.shape[2:])
        return planes + bias[:, None, None]

    def detections(
        self, f_ins: Tensor, boxes: list[Tensor], scores: list[Tensor], labels: list[Tensor]
    ) -> list[Detections]:
        """Return instances with their masks.

        Args:
            f_ins: (K, channels, 14, 14) of the boxes of all images in order.
            boxes: One (N_i, 4) per image.
            scores: One (N_i,) per image.
            labels: Thing indices, one (N_i,) per image.
        """
        every = self(f_ins, torch.cat(labels)).sigmoid().float()
        masks = torch.split(every, [image_boxes.shape[0] for image_boxes in boxes])
        return [Detections(*parts) for parts in zip(boxes, scores, labels, masks, strict=True)]

    def loss(self, f_ins: Tensor, samples: Sequence[RoISamples], truth: Sequence[Tensor]) -> Tensor:
        """L_mask over the positive RoIs of a batch.

        Args:
            f_ins: (K, channels, 14, 14) of the positive boxes in order.
            samples: The sampled RoIs of each image.
            truth: The instance map of each image, (H, W), row of the truth's boxes or -1.
        """
        labels = torch.cat([s.labels[s.positive] for s in samples])
        logits = self(f_ins, labels).float()
        targets = torch.cat(
            [
                mask_targets(instances, s.boxes[s.positive], s.matches)
                for s, instances in zip(samples, truth, strict=True)
            ]
        )
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(targets.numel(), 1)


@dataclass(frozen=True)
class RoISamples:
    """RoIs of one image that the box losses see.

    Attributes:
        boxes: (K, 4).
        labels: (K,) thing index, -1 for background.
        positive: (P,) rows of those that are not background, ascending.
        matches: (P,) row of the matched truth for each of these.
        truth_boxes: (P, 4) the matched truth.
    """

    boxes: Tensor
    labels: Tensor
    positive: Tensor
    matches: Tensor
    truth_boxes: Tensor


class RoISampler:
    """Chooses proposals for the box losses: truth boxes join the proposals; positives from an IoU on, up to a share.

    Args:
        samples: RoIs of an image.
        positive_share: Most of them that are positive.
        iou: Proposals from this IoU with a truth box are positive.
    """

    def __init__(self, samples: int, positive_share: float, iou: float) -> None:
        self.iou = iou
        self.sampler = BalancedSampler(samples, positive_share)

    @torch.no_grad()
    def __call__(
        self, proposals: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[RoISamples]:
        """Sample from the proposals of each image.

        Args:
            proposals: One (L_i, 4) per image.
            boxes: Truth, one (N_i, 4) per image.
            labels: Thing index of each, one (N_i,) per image.
        """
        rois = [torch.cat(pair) for pair in zip(proposals, boxes, strict=True)]
        matches = [
            match_boxes(box_iou(truth, each), self.iou, self.iou, keep_best=False)
            for truth, each in zip(boxes, rois, strict=True)
        ]
        samples = []
        for n, (rows, positive) in enumerate(self.sampler(matches)):
            found, place = matches[n][positive], torch.searchsorted(rows, positive)
            label = torch.full_like(rows, -1).scatter(0, place, labels[n][found])
            samples.append(RoISamples(rois[n][rows], label, place, found, boxes[n][found]))
        return samples


def mask_targets(instances: Tensor, boxes: Tensor, rows: Tensor, size: int = MASK_OUTPUT) -> Tensor:
    """Return what the mask head should say: RoIAlign of each box's own truth mask, at least half set.

    Equals `roi_align(mask, box, size, sampling_ratio=2, aligned=True) >= 0.5` on the full-size masks, which are never
    made: the samples read the instance map and compare.

    Args:
        instances: (H, W) or (L, H, W) row of the truth that owns each pixel, -1 elsewhere: see `Target.instances`.
        boxes: (K, 4) in input pixels.
        rows: (K,) row of the truth for each box.
        size: Side of the target.

    Returns:
        (K, size, size) float, 0 or 1.
    """
    height, width = instances.shape[-2:]
    layers = instances.reshape(-1, height, width)
    # Boxes lie inside the map, whose border's value holds beyond the outermost pixels' centres.
    y = (bin_samples(boxes[:, 1], boxes[:, 3], size) - 0.5).clamp(0, height - 1)
    x = (bin_samples(boxes[:, 0], boxes[:, 2], size) - 0.5).clamp(0, width - 1)
    (ys, y_weights), (xs, x_weights) = linear_taps(y, height), linear_taps(x, width)

    def line(tap: int) -> Tensor:
        """Samples (K, 2 size, 2 size) of the own mask in one of the two rows next to each."""
        left, right = (
            (layers[:, ys[:, :, None, tap], xs[:, None, :, side]] == rows[:, None, None]).any(0)
            * x_weights[:, None, :, side]
            for side in range(2)
        )
        return left + right

    samples = line(0) * y_weights[:, :, None, 0] + line(1) * y_weights[:, :, None, 1]
    return (F.avg_pool2d(samples[:, None], 2)[:, 0] >= 0.5).to(boxes.dtype)


Selection = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Boxes (N_i, 4), scores (N_i,) and labels (N_i,) of each image, best first."""


def select_for_panoptic(candidates: Sequence[Candidates], *, score: float, iou: float, limit: int) -> Selection:
    """Panoptic instances: refined boxes above a score, class-agnostic box suppression, the best.

    Suppression and the limit take boxes by score. So what a lower score selects holds the same boxes first, and further
    ones after them: RoIInlay gets such a set, and fusion its beginning.
    """
    return _select(candidates, score, limit, lambda boxes, scores, labels: nms(boxes, scores, iou))


def select_for_ap(candidates: Sequence[Candidates], *, score: float, iou: float, limit: int) -> Selection:
    """Return the set that AP is measured on: a low score, suppression within each class, the best."""
    return _select(candidates, score, limit, lambda boxes, scores, labels: grouped_nms(boxes, scores, labels, iou))


def _select(
    candidates: Sequence[Candidates], score: float, limit: int, suppress: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Selection:
    """Return the boxes above a score that suppression keeps."""
    above = true_rows([((c.scores > score) & large_enough(c.boxes)).flatten() for c in candidates])
    selection: Selection = [], [], []
    for each, rows in zip(candidates, above, strict=True):
        found = each.boxes.flatten(0, 1)[rows], each.scores.flatten()[rows], rows % each.scores.shape[1]
        keep = suppress(*found)[:limit]
        for parts, part in zip(selection, found, strict=True):
            parts.append(part[keep])
    return selection
