"""ResNet, plain and deformable, from torchvision."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from banet.modeling.backbones.body import Body, Layers, group_norm
from banet.ops.deform_conv import DeformableConv2d

__all__ = ["resnet_body"]


def resnet_body(name: str, norm: str) -> Body:
    """Return ResNet-18/34/50/101, or DCN-101, whose 3x3 convolutions of layer2..layer4 are deformable.

    Args:
        name: `resnet18` to `resnet101`, or `dcn101`.
        norm: `frozen_batch` (statistics and scale fixed, for pretrained weights) or `group`.
    """
    norm_layer: Any = {"frozen_batch": FrozenBatchNorm2d, "group": group_norm}[norm]
    resnet = getattr(torchvision.models, name.replace("dcn", "resnet"))(weights=None, norm_layer=norm_layer)
    if name == "dcn101":
        for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
            for block in stage:
                block.conv2 = _deformable_like(block.conv2)
    _fold_norms(resnet)
    stages = [getattr(resnet, f"layer{i}") for i in (1, 2, 3, 4)]
    last = [stage[-1] for stage in stages]
    channels = tuple((block.conv3 if hasattr(block, "conv3") else block.conv2).out_channels for block in last)
    network = IntermediateLayerGetter(resnet, {f"layer{i}": f"P{i + 1}" for i in (1, 2, 3, 4)})
    blocks = [(f"layer{i}.{k}",) for i, stage in enumerate(stages, 1) for k in range(len(stage))]
    counts = accumulate((len(stage) for stage in stages), initial=1)
    return Body(network, channels, Layers((("conv1", "bn1"), *blocks), tuple(counts)))


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
