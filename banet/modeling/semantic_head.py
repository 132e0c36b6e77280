"""The semantic head: F_S, kept level by level, and 1x1 convolutions that read it.

Everything that reads F_S begins with a 1x1 convolution, which is linear, as bilinear upsampling is. So a 1x1
convolution of the upsampled and concatenated 4 x 128 channels equals the sum of four upsampled 1x1 convolutions, one a
level, and the 512-channel map at stride 4 is never made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from banet.ops.bilinear import upsample_to
from banet.ops.deform_conv import DeformableConv2d

__all__ = ["PyramidConv1x1", "SemanticHead"]


class SemanticHead(nn.Sequential):
    """One subnet, shared over P2..P5: three 3x3 convolutions with ReLU and no norm.

    Args:
        in_channels: Channels of the pyramid.
        channels: Output channels of the three convolutions.
        deformable: Use deformable convolutions (the paper's DFM).
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, deformable: bool) -> None:
        conv: type[nn.Module] = DeformableConv2d if deformable else nn.Conv2d
        layers: list[nn.Module] = []
        for out_channels in channels:
            layer = conv(in_channels, out_channels, kernel_size=3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layers += [layer, nn.ReLU(inplace=True)]
            in_channels = out_channels
        super().__init__(*layers)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """F_S before upsampling.

        Args:
            pyramid: P2..P5, (B, C, H/4, W/4) to (B, C, H/32, W/32).

        Returns:
            One (B, 128, h, w) a level. F_S itself is their bilinear upsampling to stride 4, concatenated.
        """
        subnet = super().forward
        return [subnet(level) for level in pyramid]  # type: ignore[no-untyped-call]


class PyramidConv1x1(nn.Module):
    """A 1x1 convolution of F_S, computed level by level.

    Args:
        in_channels: Channels of one level of F_S.
        out_channels: Channels of the result.
        levels: Levels of F_S.
        std: Standard deviation of the initial weights; by default results keep the variance of what comes in.
    """

    def __init__(self, in_channels: int, out_channels: int, *, levels: int = 4, std: float | None = None) -> None:
        super().__init__()
        conv = nn.Conv2d(levels * in_channels, out_channels, kernel_size=1)
        nn.init.normal_(conv.weight, std=math.sqrt(1.0 / (levels * in_channels)) if std is None else std)
        self.weight = conv.weight
        self.bias = conv.bias
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the 1x1 convolution of the concatenation of all levels, upsampled to the first one's size.

        Args:
            levels: F_S level by level, (B, in_channels, h_i, w_i), finest first.

        Returns:
            (B, out_channels, h_0, w_0).
        """
        size = (levels[0].shape[-2], levels[0].shape[-1])
        weights = self.weight.chunk(len(levels), dim=1)
        result = F.conv2d(levels[0], weights[0], self.bias)
        for level, weight in zip(levels[1:], weights[1:], strict=True):
            result += upsample_to(F.conv2d(level, weight), size)  # in place: the maps are large
        return result
