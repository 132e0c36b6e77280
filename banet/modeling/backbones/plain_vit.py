"""Four strides from the one map of a plain vision transformer (Li et al. 2022)."""

from __future__ import annotations

import re

from torch import Tensor, nn
from torch.nn import functional as F

from banet.modeling.backbones.body import Layers

__all__ = ["PlainViT"]

_STRIDE = 16


class PlainViT(nn.Module):
    """A plain vision transformer whose last map is upsampled by transposed convolutions and downsampled by pooling.

    Patches are taken to be 16 pixels wide: for those of another size, as DINOv2's of 14, the pixels are resized before.
    The map is normalised over its channels first (our choice; the paper does so within the upsampling).

    Args:
        vit: Gives a list of one map (B, channels, H / patch, W / patch).
        channels: Of this map.
        patch: Side of its patches in pixels.
    """

    def __init__(self, vit: nn.Module, channels: int, patch: int) -> None:
        super().__init__()
        self.vit = vit
        self.patch = patch
        self.norm = nn.GroupNorm(1, channels)
        half, quarter = channels // 2, channels // 4
        self.stride4 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, stride=2),
            nn.GroupNorm(1, half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        )
        self.stride8 = nn.ConvTranspose2d(channels, half, 2, stride=2)
        self.channels = (quarter, half, channels, channels)

    def layers(self) -> Layers:
        """Return a layer for the patches and tokens and one for each block, and the blocks in four equal stages."""
        layers: list[list[str]] = [[]]
        for name, _ in self.named_parameters():
            block = re.match(r"vit\.(?:\w+\.)*?blocks\.\d+", name)
            if block and block[0] not in layers[-1]:
                layers.append([block[0]])
            elif not block and name.startswith("vit."):
                layers[-1].append(name)
        depth = len(layers) - 1
        return Layers(tuple(map(tuple, layers)), tuple(1 + round(depth * quarter / 4) for quarter in range(5)))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute maps at strides 4, 8, 16 and 32 of pixels (B, 3, H, W), H and W multiples of 32."""
        if self.patch != _STRIDE:
            size = [side // _STRIDE * self.patch for side in pixels.shape[-2:]]
            pixels = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        (features,) = self.vit(pixels)
        features = self.norm(features)
        return [self.stride4(features), self.stride8(features), features, F.max_pool2d(features, 2)]
