"""Deformable convolution (v1, arXiv 1703.06211) that learns its own offsets."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor, nn

__all__ = ["DeformableConv2d"]

_FAR = 60_000.0
"""Pixels: farther than the end of any map, and a number of half precision."""


class DeformableConv2d(torchvision.ops.DeformConv2d):  # type: ignore[misc]
    """A drop-in for ``nn.Conv2d`` whose taps move by offsets that a zero-initialised convolution predicts.

    At the start it equals the plain convolution of the same ``weight`` and ``bias``, and a plain convolution's
    checkpoint fills it (``offset.weight`` and ``offset.bias`` stay zero). There is no modulation mask.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, in pixels.
        stride: pixels between outputs.
        padding: zeros around the input, in pixels.
        dilation: pixels between taps.
        groups: groups of the convolution.
        bias: add a learned bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.offset = nn.Conv2d(in_channels, 2 * kernel_size**2, kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C_in, H, W)`` to ``(N, C_out, H', W')``, sized as ``nn.Conv2d`` does."""
        offset = self.offset(x)
        # Offsets are positions in pixels: half precision would move taps far from the corner by whole pixels.
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, self.weight.dtype)
            # torchvision reads at whatever place in memory a NaN becomes; far outside the map it reads zero.
            result: Tensor = super().forward(x.to(dtype), offset.to(dtype).nan_to_num(nan=_FAR))
        return result.to(offset.dtype)
