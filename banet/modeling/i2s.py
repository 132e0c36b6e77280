"""Where the final semantic logits come from: the semantic head alone, or joined by instance features (I2S)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from banet.modeling.backbone import STRIDES
from banet.modeling.semantic_head import PyramidConv1x1, upsample_to
from banet.ops.roi_inlay import roi_inlay
from banet.panoptic.categories import VOID

__all__ = ["AggregatedLogits", "DirectLogits", "InstanceToSemantic", "InstanceToSemanticWithContext", "semantic_loss"]

Sizes = Sequence[tuple[int, int]]

_STRIP = 1 << 22
"""Logits at input size that the semantic loss has at a time."""


def semantic_loss(logits: Tensor, truth: Sequence[Tensor]) -> Tensor:
    """Cross entropy at input size over the pixels of a batch that are not void.

    Args:
        logits: (B, C, H/4, W/4).
        truth: The class index of each image's pixels, (h, w) with h <= H and w <= W, VOID (-1) where there is none.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = wide.new_zeros(())
    for one, labels in zip(wide, truth, strict=True):
        total = total + _SummedCrossEntropy.apply(one, labels)
    return total / max(sum(int((labels != VOID).sum()) for labels in truth), 1)


class _SummedCrossEntropy(torch.autograd.Function):
    """Cross entropy of one image's logits (C, h, w), upsampled to input size, summed over labelled pixels.

    It goes strip by strip and makes the gradient of each at once, so logits of all classes at input size, half a
    gigabyte an image of COCO in each of several copies, are never there as a whole. Can be differentiated once.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        stride, (classes, cells, width) = STRIDES[0], logits.shape
        total = logits.new_zeros(())
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        step = max(1, _STRIP // (classes * width * stride**2))
        for first in range(0, -(-labels.shape[0] // stride), step):
            last = min(first + step, cells)
            around = slice(max(first - 1, 0), min(last + 1, cells))  # rows of logits that bear on this strip
            with torch.set_grad_enabled(gradient is not None):
                near = logits[:, around].detach().requires_grad_(gradient is not None)
                (tall,) = upsample_to(near[None], (near.shape[1] * stride, width))
                tall = tall[:, (first - around.start) * stride : (last - around.start) * stride]
                strip = labels[first * stride : last * stride]
                # Of one axis alone, torch's gradient is several times as fast as of two.
                full = F.interpolate(tall, scale_factor=stride, mode="linear")[:, : len(strip), : strip.shape[1]]
            shares = full.detach().log_softmax(0)
            total += F.nll_loss(shares[None], strip[None], ignore_index=VOID, reduction="sum")
            if gradient is not None:
                # Less one at the true class, shares are the gradient of cross entropy. exp is slow where it underflows.
                shares.clamp_(min=-80).exp_()
                true = strip.clamp(min=0)[None]
                shares.scatter_(0, true, shares.gather(0, true) - 1)
                shares *= strip != VOID
                gradient[:, around] += torch.autograd.grad(full, near, shares)[0]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None


class DirectLogits(nn.Module):
    """Without I2S: the first logits are the final ones.

    Args:
        semantic_channels: Channels of one level of F_S.
        num_classes: Things and stuff.
        seg_weight: lambda_s.
    """

    def __init__(self, semantic_channels: int, num_classes: int, *, seg_weight: float) -> None:
        super().__init__()
        self.first = PyramidConv1x1(semantic_channels, num_classes)
        self.seg_weight = seg_weight

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Final logits (B, C, H/4, W/4) of F_S, level by level."""
        logits: Tensor = self.first(semantic)
        return logits

    def losses(
        self,
        semantic: Sequence[Tensor],
        instance_features: Callable[[list[Tensor]], Tensor],
        boxes: list[Tensor],
        sizes: Sizes,
        truth: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """L_seg, weighted."""
        return {"loss_seg": self.seg_weight * semantic_loss(self.first(semantic), truth)}


class AggregatedLogits(DirectLogits):
    """With I2S: instance features join the semantic ones before the final logits.

    The first logits are only there to be learnt from; at inference they are not computed.

    Args:
        semantic_channels: Channels of one level of F_S.
        num_classes: Things and stuff.
        i2s: SIM, or SIM and OCM.
        channels: Channels of F_I2S.
        seg_weight: lambda_s.
        i2s_weight: lambda_i.
        inlay_share: Range that the share of ground-truth boxes is drawn from that feed RoIInlay in training.
    """

    def __init__(
        self,
        semantic_channels: int,
        num_classes: int,
        *,
        i2s: InstanceToSemantic,
        channels: int,
        seg_weight: float,
        i2s_weight: float,
        inlay_share: tuple[float, float],
    ) -> None:
        super().__init__(semantic_channels, num_classes, seg_weight=seg_weight)
        self.i2s = i2s
        self.final = nn.Conv2d(channels, num_classes, 1)
        self.i2s_weight = i2s_weight
        self.inlay_share = inlay_share
        nn.init.normal_(self.final.weight, std=channels**-0.5)
        nn.init.zeros_(self.final.bias)  # type: ignore[arg-type]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Final logits (B, C, H/4, W/4).

        Args:
            semantic: F_S, level by level.
            f_ins: (K, C, 14, 14) of the boxes of all images in order.
            boxes: One (L_i, 4) an image, in input pixels.
            sizes: Height and width of each image's valid area, in input pixels.
        """
        logits: Tensor = self.final(self.i2s(semantic, f_ins, boxes, sizes))
        return logits

    def losses(
        self,
        semantic: Sequence[Tensor],
        instance_features: Callable[[list[Tensor]], Tensor],
        boxes: list[Tensor],
        sizes: Sizes,
        truth: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """L_seg and L_I2S, weighted; a random share of the truth's boxes feeds RoIInlay, at least one an image."""
        chosen = [self._share(image_boxes) for image_boxes in boxes]
        final = self(semantic, instance_features(chosen), chosen, sizes)
        return {
            **super().losses(semantic, instance_features, boxes, sizes, truth),
            "loss_i2s": self.i2s_weight * semantic_loss(final, truth),
        }

    def _share(self, boxes: Tensor) -> Tensor:
        """ceil(share * n) of n boxes at random, in their order."""
        low, high = self.inlay_share
        share = low + (high - low) * torch.rand(())
        count = max(int(torch.ceil(share * len(boxes))), min(len(boxes), 1))
        index = torch.randperm(len(boxes))[:count].sort().values
        return boxes[index.to(boxes.device)]


class InstanceToSemantic(nn.Module):
    """SIM, the semantic interaction module: F_inlay and F_S, each through a 1x1 convolution, then a 3x3 over both.

    The 1x1 convolution on F_inlay has no bias, so it keeps zeros and commutes with RoIInlay: it is applied to F_ins
    first, and the wide F_inlay is never made.

    Args:
        instance_channels: Channels of F_ins.
        semantic_channels: Channels of one level of F_S.
        channels: Channels of the result.
    """

    def __init__(self, instance_channels: int, semantic_channels: int, channels: int) -> None:
        super().__init__()
        self.instance = nn.Conv2d(instance_channels, channels, 1, bias=False)
        self.semantic = PyramidConv1x1(semantic_channels, channels)
        self.mix = nn.Conv2d(2 * channels, channels, 3, padding=1)
        nn.init.normal_(self.instance.weight, std=instance_channels**-0.5)
        nn.init.kaiming_normal_(self.mix.weight, nonlinearity="relu")
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """F_I2S (B, channels, H/4, W/4); arguments as in `AggregatedLogits.forward`."""
        return self._interact(semantic, _inlay(self.instance(f_ins), boxes, semantic))

    def _interact(self, semantic: Sequence[Tensor], inlay: Tensor) -> Tensor:
        return F.relu(self.mix(torch.cat([inlay, self.semantic(semantic)], dim=1)), inplace=True)


class InstanceToSemanticWithContext(InstanceToSemantic):
    """SIM and OCM, the object context module.

    OCM max-pools E channels of F_inlay over each image's valid area to a pyramid of cells and turns them into one
    vector, which joins SIM's output at every place through a 1x1 convolution; that is one bias an image.

    Args:
        instance_channels: Channels of F_ins.
        semantic_channels: Channels of one level of F_S.
        channels: Channels of SIM, of the vector and of the result.
        context_channels: E.
        cells: Cells a side of the pooling pyramid.
    """

    def __init__(
        self,
        instance_channels: int,
        semantic_channels: int,
        channels: int,
        *,
        context_channels: int,
        cells: Sequence[int],
    ) -> None:
        super().__init__(instance_channels, semantic_channels, channels)
        self.cells = tuple(cells)
        # A bias here would move every pooled value by a constant, which the linear layer's own bias can do.
        self.squeeze = nn.Conv2d(instance_channels, context_channels, 1, bias=False)
        self.context = nn.Linear(context_channels * sum(c * c for c in self.cells), channels)
        self.merge = nn.Conv2d(2 * channels, channels, 1)
        nn.init.normal_(self.squeeze.weight, std=instance_channels**-0.5)
        nn.init.normal_(self.merge.weight, std=(2 * channels) ** -0.5)
        nn.init.zeros_(self.merge.bias)  # type: ignore[arg-type]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """F_I2S (B, channels, H/4, W/4); arguments as in `AggregatedLogits.forward`."""
        both = torch.cat([self.instance.weight, self.squeeze.weight])
        inlay = _inlay(F.conv2d(f_ins, both), boxes, semantic)
        sim_part, context_part = torch.split(inlay, [self.instance.out_channels, self.squeeze.out_channels], dim=1)
        interacted = self._interact(semantic, sim_part)
        vector = self.context(torch.stack([self._pool(x, size) for x, size in zip(context_part, sizes, strict=True)]))
        sim_weight, context_weight = self.merge.weight.chunk(2, dim=1)
        bias = F.linear(vector, context_weight.flatten(1), self.merge.bias)
        return F.conv2d(interacted, sim_weight) + bias[:, :, None, None]

    def _pool(self, inlay: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = ((side + STRIDES[0] - 1) // STRIDES[0] for side in size)
        valid = inlay[:, :height, :width]
        return torch.cat([_max_pool(valid, cells).flatten() for cells in self.cells])


def _max_pool(x: Tensor, cells: int) -> Tensor:
    """Adaptive max-pooling of (C, h, w) to (C, cells, cells)."""
    if not torch.compiler.is_exporting():
        return F.adaptive_max_pool2d(x, cells)
    # In a graph of any size no standard operator does it: one axis after the other, all but a cell's pixels left out.
    for _ in range(2):
        length = x.shape[1]
        pixel = torch.arange(length, device=x.device)
        cell = torch.arange(cells, device=x.device)[:, None]
        inside = ((pixel + 1) * cells > cell * length) & (pixel * cells < (cell + 1) * length)
        x = torch.where(inside[..., None], x[:, None], -torch.inf).amax(2).transpose(1, 2)
    return x


def _inlay(features: Tensor, boxes: list[Tensor], semantic: Sequence[Tensor]) -> Tensor:
    size = (semantic[0].shape[-2], semantic[0].shape[-1])
    return roi_inlay(features, boxes, size, spatial_scale=1 / STRIDES[0])
