"""ResNet and its feature pyramid, P2..P6."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from banet.modeling.config import BackboneName
from banet.ops.deform_conv import DeformableConv2d

__all__ = ["PyramidBackbone", "group_norm", "imagenet_weights"]

_WEIGHTS = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet34": "ResNet34_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "resnet101": "ResNet101_Weights.IMAGENET1K_V1",
    "dcn101": "ResNet101_Weights.IMAGENET1K_V1",
}


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or the largest smaller power of two that divides `channels`."""
    groups = 32
    while channels % groups:
        groups //= 2
    return _GroupNorm(groups, channels)


class _GroupNorm(nn.GroupNorm):
    """GroupNorm that also takes groups of one value, as narrow networks have of the smallest images."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def imagenet_weights(name: BackboneName) -> dict[str, Tensor]:
    """Return the ImageNet weights that torchvision publishes for a backbone; downloaded on first use.

    Raises:
        OSError: The download failed.
    """
    weights = torchvision.models.get_weight(_WEIGHTS[name])
    return cast("dict[str, Tensor]", weights.get_state_dict(progress=True, check_hash=True))


class PyramidBackbone(nn.Module):
    """ResNet-18/34/50/101 or DCN-101 with a feature pyramid (Lin et al. 2017); P6 by max-pooling P5.

    Args:
        name: Which ResNet.
        norm: `frozen_batch` (statistics and scale fixed, for pretrained weights) or `group`.
        channels: Channels of every pyramid level.
        frozen_stages: How many stages do not learn (1 the stem, 2 also layer1, ...); only sensible when pretrained.
    """

    def __init__(self, name: BackboneName, *, norm: str, channels: int, frozen_stages: int) -> None:
        super().__init__()
        norm_layer: Any = {"frozen_batch": FrozenBatchNorm2d, "group": group_norm}[norm]
        resnet = getattr(torchvision.models, name.replace("dcn", "resnet"))(weights=None, norm_layer=norm_layer)
        if name == "dcn101":
            for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
                for block in stage:
                    block.conv2 = _deformable_like(block.conv2)
        _fold_norms(resnet)
        widths = [getattr(resnet, f"layer{i}")[-1] for i in (1, 2, 3, 4)]
        in_channels = [(block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels for block in widths]
        self.body = IntermediateLayerGetter(resnet, {f"layer{i}": f"P{i + 1}" for i in (1, 2, 3, 4)})
        self.fpn = FeaturePyramidNetwork(
            in_channels,
            channels,
            extra_blocks=LastLevelMaxPool(),
            # A pyramid that learns from random weights wants its scales kept even, like the body's.
            norm_layer=partial(group_norm) if norm == "group" else None,
        )
        stages = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]
        for stage in stages[:frozen_stages]:
            for part in stage:
                self.body[part].requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Features of a batch.

        Args:
            pixels: (B, 3, H, W), H and W multiples of 32.

        Returns:
            P2..P6, (B, channels, H / stride, W / stride), rounded up at stride 64.
        """
        stages: OrderedDict[str, Tensor] = self.body(pixels)
        return list(self.fpn(stages).values())


def _deformable_like(conv: nn.Conv2d) -> DeformableConv2d:
    deformable = DeformableConv2d(
        conv.in_channels,
        conv.out_channels,
        kernel_size=3,
        stride=conv.stride[0],
        padding=conv.padding[0],  # type: ignore[arg-type]
        dilation=conv.dilation[0],
        bias=False,
    )
    with torch.no_grad():
        deformable.weight.copy_(conv.weight)
    return deformable


class _NormedConv2d(nn.Conv2d):
    """A convolution that applies the frozen batch norm behind it as well, as a factor of its weights and a bias.

    One pass over the features in place of three. Statistics and weights stay apart, under torchvision's names.
    """

    def __init__(self, conv: nn.Conv2d, norm: FrozenBatchNorm2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=False,
        )
        self.weight = conv.weight
        self.norm = (norm,)  # in a tuple, as it is the block's module, not this one's

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        result: Tensor = self._conv_forward(x, self.weight * scale[:, None, None, None], bias)
        return result


class _AppliedNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """The statistics of a frozen batch norm that the convolution before it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _fold_norms(resnet: nn.Module) -> None:
    """Let each plain convolution with a frozen batch norm behind it apply that too."""
    for block in list(resnet.modules()):
        for (name, conv), (norm_name, norm) in pairwise(list(block.named_children())):
            if type(conv) is nn.Conv2d and isinstance(norm, FrozenBatchNorm2d):
                applied = _AppliedNorm(conv.out_channels, norm.eps)
                setattr(block, name, _NormedConv2d(conv, applied))
                setattr(block, norm_name, applied)
