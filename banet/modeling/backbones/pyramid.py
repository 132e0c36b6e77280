"""The feature pyramid on a body, P2..P6."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from banet.modeling.backbones.body import Body, group_norm, is_under

__all__ = ["PyramidBackbone"]


class PyramidBackbone(nn.Module):
    """A body with a feature pyramid (Lin et al. 2017); P6 by max-pooling P5.

    Args:
        body: Gives the features at strides 4 to 32.
        channels: Channels of every pyramid level.
        norm: Whether the pyramid's convolutions have GroupNorm.
        frozen_stages: How many stages do not learn: 1 the stem, 2 also the first stage, ...

    Attributes:
        layers: Prefixes of the names of the body's parameters, layer by layer from the input on.
        divisor: Height and width of the pixels must be multiples of it.
        mean: Of each color channel of 0..255, which the body wants subtracted.
        std: What it wants the difference divided by.
    """

    def __init__(self, body: Body, *, channels: int, norm: bool, frozen_stages: int) -> None:
        super().__init__()
        self.body = body.network
        self.fpn = FeaturePyramidNetwork(
            list(body.channels), channels, extra_blocks=LastLevelMaxPool(), norm_layer=group_norm if norm else None
        )
        self.layers, self.divisor, self.mean, self.std = body.layers, body.divisor, body.mean, body.std
        frozen = [prefix for layer in body.layers[: body.stages[frozen_stages - 1]] for prefix in layer]
        for name, parameter in self.body.named_parameters() if frozen_stages else ():
            if is_under(name, frozen):
                parameter.requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the features of a batch.

        Args:
            pixels: (B, 3, H, W), H and W multiples of `divisor`.

        Returns:
            P2..P6, (B, channels, H / stride, W / stride), rounded up at stride 64.
        """
        features = self.body(pixels)
        levels = features.values() if isinstance(features, dict) else features
        return list(self.fpn(OrderedDict(zip(("P2", "P3", "P4", "P5"), levels, strict=True))).values())
