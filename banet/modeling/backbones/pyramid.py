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
        frozen_stages: How many stages of the body do not learn: 1 the stem, 2 also the first stage, ...

    Attributes:
        layers: Those of the body.
        divisor: Height and width of the pixels must be multiples of it.
        mean: Of each color channel of 0..255, which the body wants subtracted.
        std: What it wants the difference divided by.
    """

    def __init__(self, body: Body, *, channels: int, norm: bool, frozen_stages: int) -> None:
        super().__init__()
        self.body = body.network
        pyramid = FeaturePyramidNetwork if body.top_down else SimplePyramid
        self.fpn = pyramid(
            list(body.channels), channels, extra_blocks=LastLevelMaxPool(), norm_layer=group_norm if norm else None
        )
        self.layers, self.divisor, self.mean, self.std = body.layers, body.divisor, body.mean, body.std
        self.freeze(frozen_stages)

    def freeze(self, stages: int) -> None:
        """Keep the parameters of the first stages of the body from learning; see `frozen_stages`."""
        count = self.layers.stages[stages - 1] if stages else 0
        for name, parameter in self.body.named_parameters():
            if any(is_under(name, layer) for layer in self.layers.prefixes[:count]):
                parameter.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of the body: the modules behind its stem that are layers or the most of one."""
        modules = dict(self.body.named_modules())
        prefixes = [prefix for layer in self.layers.prefixes[1:] for prefix in layer]
        return [modules[prefix] for prefix in prefixes if prefix in modules]

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


class SimplePyramid(FeaturePyramidNetwork):  # type: ignore[misc]
    """A feature pyramid whose levels do not mix (Li et al. 2022): a 1x1 and a 3x3 convolution for each."""

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the levels, and P6 from P5."""
        levels = [
            layer(inner(level))
            for inner, layer, level in zip(self.inner_blocks, self.layer_blocks, x.values(), strict=True)
        ]
        levels, names = self.extra_blocks(levels, list(x.values()), list(x))
        return OrderedDict(zip(names, levels, strict=True))
