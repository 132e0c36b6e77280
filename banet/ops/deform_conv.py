"""Deformable convolution (v1, arXiv 1703.06211) that learns its own offsets."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from banet.ops.bilinear import linear_taps

__all__ = ["DeformableConv2d"]

_FAR = 60_000.0
"""Pixels: farther than the end of any map, and a number of half precision."""
_STRIP = 1 << 22
"""Values of the patches that are gathered at a time on a CPU: 16 MiB, where a whole map can have a gigabyte."""


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
            dtype = torch.promote_types(torch.promote_types(x.dtype, self.weight.dtype), torch.float32)
            weight, bias = self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)
            # torchvision reads at whatever place in memory a NaN becomes; far outside the map it reads zero.
            offset_wide = offset.to(dtype).nan_to_num(nan=_FAR)
            if x.device.type == "cpu" and not torch.compiler.is_exporting():
                result: Tensor = self._by_rows(x.to(dtype), offset_wide, weight, bias)
            else:
                result = torchvision.ops.deform_conv2d(
                    x.to(dtype), offset_wide, weight, bias, self.stride, self.padding, self.dilation
                )
        return result.to(offset.dtype)

    # Its strips would be written out one by one, and anew for each size of image.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _by_rows(self, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What torchvision's operator computes, as weighted sums of rows of channels: several times faster on CPUs.

        Each tap lies between four pixels. Channels-last input is not copied.
        """
        batch, channels, height, width = x.shape
        kernel, kernel_x = self.kernel_size
        out_height, out_width = offset.shape[-2:]
        offset_y, offset_x = offset.view(batch, kernel * kernel_x, 2, out_height, out_width).permute(2, 0, 3, 4, 1)
        tap = torch.arange(kernel * kernel_x, device=x.device)
        at_y = torch.arange(out_height, device=x.device) * self.stride[0] - self.padding[0]
        at_x = torch.arange(out_width, device=x.device) * self.stride[1] - self.padding[1]
        y = offset_y + (at_y[:, None, None] + tap // kernel_x * self.dilation[0])
        x_ = offset_x + (at_x[:, None] + tap % kernel_x * self.dilation[1])
        row, row_weight = linear_taps(y.reshape(-1, len(tap)), height)
        column, column_weight = linear_taps(x_.reshape(-1, len(tap)), width)
        image = torch.arange(batch, device=x.device).repeat_interleave(out_height * out_width)
        row = row + height * image[:, None, None]
        table = x.permute(0, 2, 3, 1).reshape(-1, channels)
        # (O, C / groups, k, k) to (groups, O / groups, k k C / groups), in the order of the gathered patches.
        weight = weight.permute(0, 2, 3, 1).reshape(self.groups, self.out_channels // self.groups, -1)

        def strip(row: Tensor, column: Tensor, row_weight: Tensor, column_weight: Tensor) -> Tensor:
            index = row[..., :, None] * width + column[..., None, :]
            share = row_weight[..., :, None] * column_weight[..., None, :]
            patches = F.embedding_bag(index.view(-1, 4), table, per_sample_weights=share.view(-1, 4), mode="sum")
            if self.groups == 1:
                return F.linear(patches.view(len(row), weight.shape[2]), weight[0], bias)
            parts = patches.view(len(row), len(tap), self.groups, channels // self.groups).transpose(1, 2).flatten(2)
            result = torch.einsum("ngi,goi->ngo", parts, weight).flatten(1)
            return result if bias is None else result + bias

        places = (row, column, row_weight, column_weight)
        length = max(1, _STRIP // (len(tap) * channels))
        strips = list(zip(*(torch.split(part, length) for part in places), strict=True))
        if len(strips) > 1 and torch.is_grad_enabled():
            # The patches are nine times the map: gathered again in the backward pass, not kept.
            results = [checkpoint(strip, *part, use_reentrant=False, preserve_rng_state=False) for part in strips]
        else:
            results = [strip(*part) for part in strips]
        return torch.cat(results).view(batch, out_height, out_width, self.out_channels).permute(0, 3, 1, 2)
