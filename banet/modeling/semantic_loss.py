"""The loss of semantic logits, at the size of the network's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from banet.modeling.config import STRIDES
from banet.ops.bilinear import upsample_to
from banet.panoptic.categories import VOID

__all__ = ["semantic_loss"]

_STRIPS = {"cpu": 1 << 22}
_STRIP = 1 << 26
"""Logits at input size that the semantic loss has at a time: on CPUs what stays in the cache, on GPUs some 0.3 GB."""


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
    labelled = torch.stack([(labels != VOID).sum() for labels in truth]).sum()
    return total / labelled.clamp(min=1)


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
        step = max(1, _STRIPS.get(logits.device.type, _STRIP) // (classes * width * stride**2))
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
