"""I2S: instance features put back on the map (RoIInlay) join the semantic ones, by SIM alone or by SIM and OCM.

The 1x1 convolutions on F_inlay have no bias, so they keep zeros and commute with RoIInlay: they are applied to F_ins
first, and the wide F_inlay is never made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from banet.modeling.config import STRIDES
from banet.modeling.semantic_head import PyramidConv1x1
from banet.ops.roi_inlay import roi_inlay

__all__ = ["OCM", "SIM", "InstanceToSemantic", "InstanceToSemanticWithContext", "Sizes", "current_name"]

Sizes = Sequence[tuple[int, int]]
"""Height and width of each image's valid area, in input pixels."""


class SIM(nn.Module):
    """The semantic interaction module: F_inlay and F_S, each through a 1x1 convolution, then a 3x3 over both.

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

    def forward(self, semantic: Sequence[Tensor], inlay: Tensor) -> Tensor:
        """Compute SIM's output (B, channels, H/4, W/4).

        Args:
            semantic: F_S, level by level.
            inlay: RoIInlay of `instance(F_ins)`, (B, channels, H/4, W/4).
        """
        return F.relu(self.mix(torch.cat([inlay, self.semantic(semantic)], dim=1)), inplace=True)


class OCM(nn.Module):
    """The object context module: one vector per image, which joins SIM's output at every place.

    E channels of F_inlay are max-pooled over each image's valid area to a pyramid of cells, from which a linear layer
    makes the vector. It joins through a 1x1 convolution, so it is one bias per channel and image. Without a ReLU after
    that, it is one bias per class and image in the logits too, the same at every place.

    Args:
        instance_channels: Channels of F_ins.
        channels: Channels of SIM, of the vector and of the result.
        context_channels: E.
        cells: Cells per side of the pooling pyramid.
        nonlinearity: What follows the linear layer and the 1x1 convolution.
    """

    def __init__(
        self,
        instance_channels: int,
        channels: int,
        *,
        context_channels: int,
        cells: Sequence[int],
        nonlinearity: Literal["relu", "linear"],
    ) -> None:
        super().__init__()
        self.cells = tuple(cells)
        # A bias here would move every pooled value by a constant, which the linear layer's own bias can do.
        self.squeeze = nn.Conv2d(instance_channels, context_channels, 1, bias=False)
        self.context = nn.Linear(context_channels * sum(c * c for c in self.cells), channels)
        self.merge = nn.Conv2d(2 * channels, channels, 1)
        self.activation = nn.ReLU() if nonlinearity == "relu" else nn.Identity()
        nn.init.normal_(self.squeeze.weight, std=instance_channels**-0.5)
        nn.init.kaiming_normal_(self.merge.weight, nonlinearity=nonlinearity)
        nn.init.zeros_(self.merge.bias)  # type: ignore[arg-type]

    def forward(self, interacted: Tensor, inlay: Tensor, sizes: Sizes) -> Tensor:
        """Compute F_I2S (B, channels, H/4, W/4).

        Args:
            interacted: SIM's output, (B, channels, H/4, W/4).
            inlay: RoIInlay of `squeeze(F_ins)`, (B, E, H/4, W/4).
            sizes: Height and width of each image's valid area, in input pixels.
        """
        pooled = torch.stack([self._pool(x, size) for x, size in zip(inlay, sizes, strict=True)])
        vector = self.activation(self.context(pooled))
        sim_weight, context_weight = self.merge.weight.chunk(2, dim=1)
        bias = F.linear(vector, context_weight.flatten(1), self.merge.bias)
        joined: Tensor = self.activation(F.conv2d(interacted, sim_weight) + bias[:, :, None, None])
        return joined

    def _pool(self, inlay: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = ((side + STRIDES[0] - 1) // STRIDES[0] for side in size)
        valid = inlay[:, :height, :width]
        return torch.cat([_max_pool(valid, cells).flatten() for cells in self.cells])


class InstanceToSemantic(nn.Module):
    """I2S by SIM alone."""

    def __init__(self, sim: SIM) -> None:
        super().__init__()
        self.sim = sim
        self.register_load_state_dict_pre_hook(_take_old_names)  # type: ignore[no-untyped-call]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Compute F_I2S (B, channels, H/4, W/4); arguments as in `AggregatedLogits.forward`."""
        interacted: Tensor = self.sim(semantic, _inlay(self.sim.instance(f_ins), boxes, semantic))
        return interacted


class InstanceToSemanticWithContext(nn.Module):
    """I2S by SIM and OCM, whose two convolutions of F_inlay share one RoIInlay."""

    def __init__(self, sim: SIM, ocm: OCM) -> None:
        super().__init__()
        self.sim = sim
        self.ocm = ocm
        self.register_load_state_dict_pre_hook(_take_old_names)  # type: ignore[no-untyped-call]

    def forward(self, semantic: Sequence[Tensor], f_ins: Tensor, boxes: list[Tensor], sizes: Sizes) -> Tensor:
        """Compute F_I2S (B, channels, H/4, W/4); arguments as in `AggregatedLogits.forward`."""
        weights = self.sim.instance.weight, self.ocm.squeeze.weight
        inlay = _inlay(F.conv2d(f_ins, torch.cat(weights)), boxes, semantic)
        sim_inlay, ocm_inlay = torch.split(inlay, [len(weight) for weight in weights], dim=1)
        joined: Tensor = self.ocm(self.sim(semantic, sim_inlay), ocm_inlay, sizes)
        return joined


def _max_pool(x: Tensor, cells: int) -> Tensor:
    """Adaptive max-pooling of (C, h, w) to (C, cells, cells)."""
    if not torch.compiler.is_exporting() and x.device.type != "mps":
        return F.adaptive_max_pool2d(x, cells)
    # In a graph of any size no standard operator does it, and Metal pools other cells (pytorch#190064): one axis after
    # the other, all but a cell's pixels left out.
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


def current_name(name: str) -> str:
    """Return the present name of a network's tensor: before version 0.2, SIM and OCM were one module."""
    name = re.sub(r"\bi2s\.(instance|semantic|mix)\.", r"i2s.sim.\1.", name)
    return re.sub(r"\bi2s\.(squeeze|context|merge)\.", r"i2s.ocm.\1.", name)


def _take_old_names(module: nn.Module, state: dict[str, Tensor], prefix: str, *unused: Any) -> None:
    """Rename what a state dict of an earlier version holds, in place."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[current_name(name)] = state.pop(name)
